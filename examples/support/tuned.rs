//! The output of the programs that compress a framework's network and train it further in compressed form.

use serde::Serialize;

use crate::args::Common;
use crate::json;
use crate::report::Report;
use crate::table::{Table, bytes};

/// The figures of such a program.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// The common seed.
    pub seed: u64,
    /// Epochs of the dense network.
    pub epochs: usize,
    /// Epochs in compressed form.
    pub tuning_epochs: usize,
    /// Whether this was a quick run.
    pub quick: bool,
    /// Accuracy of the dense network on the test images, in percent.
    pub dense_accuracy: f64,
    /// Loss of the dense network on the held-out images.
    pub dense_loss: f64,
    /// One row per method.
    pub rows: Vec<Row>,
    /// The total time.
    pub seconds: f64,
}

/// The figures of one method.
#[derive(Debug, Serialize)]
pub struct Row {
    /// The name of the method.
    pub method: String,
    /// Bytes of the compressed weights.
    pub bytes: u64,
    /// Bytes of the dense weights divided by `bytes`.
    pub ratio: f64,
    /// The mean cross-entropy with decompressed weights in the framework's layers.
    pub held_out_loss_before: f64,
    /// The same after training in compressed form.
    pub held_out_loss_after: f64,
    /// In percent, with decompressed weights in the framework's layers.
    pub accuracy_before: f64,
    /// In percent, after training in compressed form.
    pub accuracy_after: f64,
    /// The number of test images for which taper's products predict another class than the framework with decompressed weights.
    pub predictions_that_differ: usize,
}

impl Figures {
    /// Adds the figures of a network of `framework` to the report, finishes it, and writes the files that `common` names.
    ///
    /// # Errors
    ///
    /// If a file cannot be written.
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
                "Two compressed matrices of a {framework} network. The dense network has a loss of {:.4} on the held-out images and an \
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
            "Loss: mean cross-entropy on the held-out images. Before: {framework}'s layers with decompressed weights. Tuned: after \
             training in compressed form. Classes that differ: test images for which taper's products from the compressed form \
             predict another class than {framework} with decompressed weights."
        ));
    }
}
