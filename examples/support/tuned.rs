//! What the programs say that take a framework's network, compress it, and train it further in compressed form.

use serde::Serialize;

use crate::args::Common;
use crate::json;
use crate::report::Report;
use crate::table::{Table, bytes};

/// All figures of such a program.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// The seed of everything.
    pub seed: u64,
    /// Of the dense network.
    pub epochs: usize,
    /// In compressed form.
    pub tuning_epochs: usize,
    /// Whether the run was one of a few seconds.
    pub quick: bool,
    /// Of the dense network on the test images, in percent.
    pub dense_accuracy: f64,
    /// Of the dense network on the held-out images.
    pub dense_loss: f64,
    /// A way to compress it each.
    pub rows: Vec<Row>,
    /// In all.
    pub seconds: f64,
}

/// A way to compress the network, and what it came to.
#[derive(Debug, Serialize)]
pub struct Row {
    /// In words.
    pub method: String,
    /// Of the compressed weights.
    pub bytes: u64,
    /// Their bytes before over those.
    pub ratio: f64,
    /// The mean cross-entropy with decompressed weights put back.
    pub held_out_loss_before: f64,
    /// The same after training in compressed form.
    pub held_out_loss_after: f64,
    /// In percent, with decompressed weights put back.
    pub accuracy_before: f64,
    /// In percent, after training in compressed form.
    pub accuracy_after: f64,
    /// Images of the test that taper's products alone give another class than the framework with decompressed weights.
    pub predictions_that_differ: usize,
}

impl Figures {
    /// Says them, of a network of `framework`, ends the report, and writes the files that `common` names.
    ///
    /// # Errors
    ///
    /// Where a file cannot be written.
    pub fn finish(
        mut self,
        mut report: Report,
        framework: &str,
        common: &Common,
    ) -> anyhow::Result<()> {
        self.tell(&mut report, framework);
        self.seconds = report.finish(common.markdown.as_deref())?;
        if let Some(path) = &common.json {
            json::write(path, &self)?;
        }
        Ok(())
    }

    fn tell(&self, report: &mut Report, framework: &str) {
        let mut table = Table::new(
            format!(
                "Two matrices of a {framework} network, where the dense network has a loss of {:.4} on held-out images and an \
                 accuracy of {:.2} % on the test images",
                self.dense_loss, self.dense_accuracy
            ),
            [
                "method",
                "bytes",
                "smaller",
                "loss before",
                "tuned",
                "test before, %",
                "tuned, %",
                "classes that differ",
            ],
        );
        for row in &self.rows {
            table.row([
                row.method.clone(),
                bytes(row.bytes),
                format!("{:.1}×", row.ratio),
                format!("{:.4}", row.held_out_loss_before),
                format!("{:.4}", row.held_out_loss_after),
                format!("{:.2}", row.accuracy_before),
                format!("{:.2}", row.accuracy_after),
                row.predictions_that_differ.to_string(),
            ]);
        }
        report.table(&table);
        report.say(&format!(
            "Loss: the mean cross-entropy on held-out images. Before: {framework}'s layers with decompressed weights. Tuned: after \
             the further epochs. Classes that differ: test images that taper's own products, from the compressed form, put into \
             another class than {framework} with decompressed weights does."
        ));
    }
}
