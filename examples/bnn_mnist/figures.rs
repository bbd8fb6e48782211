//! The figures of the experiment, as tables and as curves.

use std::path::Path;

use serde::Serialize;
use support::plot::{Axis, Mark, Plot, Scale, Series};
use support::report::Report;
use support::table::{Table, bytes};

#[derive(Debug, Serialize)]
pub struct Accuracy {
    /// Mean accuracy over the seeds after the last epoch, in percent.
    pub accuracy: f64,
    /// The same for each seed.
    pub by_seed: Vec<f64>,
    /// Mean accuracy over the seeds after each epoch.
    pub curve: Vec<f64>,
}

impl Accuracy {
    pub fn of(curves: &[Vec<f64>]) -> Self {
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let by_seed: Vec<f64> = curves
            .iter()
            .filter_map(|curve| curve.last().copied())
            .collect();
        let epochs = curves.iter().map(Vec::len).min().unwrap_or(0);
        let at = |epoch: usize| curves.iter().map(|curve| curve[epoch]).collect::<Vec<_>>();
        Self {
            accuracy: mean(&by_seed),
            curve: (0..epochs).map(|epoch| mean(&at(epoch))).collect(),
            by_seed,
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Packed {
    /// Whether the network that was read from its bytes and the simulated one predict the same classes for all images.
    pub predictions_equal: bool,
    pub images: usize,
    pub hidden_bytes: u64,
    pub hidden_dense_bytes: u64,
    pub memory_bytes: usize,
    /// Bytes of all arrays of the network, without the header of the file.
    pub file_bytes: u64,
    pub dense_bytes: u64,
    pub packed_seconds: f64,
    pub faer_seconds: f64,
    pub ndarray_seconds: f64,
    /// Time of the float network with faer's product divided by that of the packed one, for batches of 100.
    pub time_ratio: f64,
}

#[derive(Debug, Serialize)]
pub struct Bits {
    pub bits: u32,
    pub accuracy: f64,
    pub bytes: u64,
}

#[derive(Debug, Serialize)]
pub struct Figures {
    pub float: Option<Accuracy>,
    pub bnn: Accuracy,
    pub halved: Option<Accuracy>,
    pub packed: Packed,
    pub bits: Vec<Bits>,
    pub bits_hidden: usize,
    pub bits_epochs: usize,
    pub hidden: usize,
    pub epochs: usize,
    pub seed: u64,
    pub seeds: u64,
    pub images: &'static str,
}

/// Reports all tables and findings.
pub fn tell(report: &mut Report, figures: &Figures) {
    accuracies(report, figures);
    claims(report, figures);
    on_bits(report, &figures.packed);
    if figures.bits.is_empty() {
        return;
    }
    let mut table = Table::new(
        format!(
            "Trained with weights of b bits, hidden layers of {}, {} epochs",
            figures.bits_hidden, figures.bits_epochs
        ),
        ["bits", "accuracy", "size"],
    );
    for row in &figures.bits {
        table.row([
            row.bits.to_string(),
            format!("{:.2}", row.accuracy),
            bytes(row.bytes),
        ]);
    }
    report.table(&table);
}

fn accuracies(report: &mut Report, figures: &Figures) {
    let mut table = Table::new(
        format!(
            "MNIST, hidden layers of {}, {} epochs, {} seed(s) from {} on: accuracy on the {} images, %",
            figures.hidden, figures.epochs, figures.seeds, figures.seed, figures.images
        ),
        [
            "network",
            "mean",
            "lowest",
            "highest",
            "after one epoch",
            "published",
        ],
    );
    let rows = [
        ("float", figures.float.as_ref(), ""),
        ("BNN", Some(&figures.bnn), "99.04"),
        ("BNN, last hidden layer halved", figures.halved.as_ref(), ""),
    ];
    for (name, accuracy, published) in rows {
        let Some(accuracy) = accuracy else { continue };
        let of = |f: fn(f64, f64) -> f64, start| accuracy.by_seed.iter().copied().fold(start, f);
        let first = accuracy.curve.first().filter(|first| first.is_finite());
        table.row([
            name.to_owned(),
            format!("{:.2}", accuracy.accuracy),
            format!("{:.2}", of(f64::min, f64::INFINITY)),
            format!("{:.2}", of(f64::max, 0.0)),
            first.map_or_else(String::new, |first| format!("{first:.2}")),
            published.to_owned(),
        ]);
    }
    report.table(&table);
    report
        .say("Published: hidden layers of 4096, 1000 epochs, dropout (arXiv:1602.02830, table 1).");
}

/// Reports the measurements for the two published claims.
fn claims(report: &mut Report, figures: &Figures) {
    if let Some(float) = &figures.float {
        let after = |name: &str, accuracy: &Accuracy| {
            let target = 0.99 * accuracy.accuracy;
            let reached = accuracy.curve.iter().position(|&x| x >= target);
            let gap = accuracy
                .curve
                .first()
                .map(|first| accuracy.accuracy - first);
            format!(
                "{name}: {:.2} points from the first epoch to the last, within 1 % of the last accuracy after epoch {}",
                gap.unwrap_or(f64::NAN),
                reached.map_or_else(|| "?".to_owned(), |epoch| (epoch + 1).to_string()),
            )
        };
        report.say(&format!(
            "Does the binary network converge more slowly? {}; {}.",
            after("Float", float),
            after("binary", &figures.bnn)
        ));
    }
    if let Some(halved) = &figures.halved {
        let pairs = figures.bnn.by_seed.iter().zip(&halved.by_seed);
        let losses: Vec<String> = pairs
            .map(|(full, half)| format!("{:+.2}", half - full))
            .collect();
        report.say(&format!(
            "Does halving the last hidden layer cost accuracy? Per seed {} points, {:+.2} on average.",
            losses.join(", "),
            halved.accuracy - figures.bnn.accuracy
        ));
    }
}

fn on_bits(report: &mut Report, packed: &Packed) {
    let mut table = Table::new(
        "The BNN on packed bits",
        ["", "packed", "dense, 32 bits", "ratio"],
    );
    let ratio = |dense: f64, packed: f64| format!("{:.1}", dense / packed);
    let sizes = [
        (
            "hidden layers",
            packed.hidden_bytes,
            packed.hidden_dense_bytes,
        ),
        ("whole network, file", packed.file_bytes, packed.dense_bytes),
        (
            "whole network, memory",
            packed.memory_bytes as u64,
            packed.dense_bytes,
        ),
    ];
    for (name, small, large) in sizes {
        table.row([
            name.to_owned(),
            bytes(small),
            bytes(large),
            ratio(large as f64, small as f64),
        ]);
    }
    for (name, dense) in [
        ("100 images, faer", packed.faer_seconds),
        ("100 images, ndarray", packed.ndarray_seconds),
    ] {
        table.row([
            name.to_owned(),
            format!("{:.3} ms", packed.packed_seconds * 1e3),
            format!("{:.3} ms", dense * 1e3),
            ratio(dense, packed.packed_seconds),
        ]);
    }
    report.table(&table);
    let equal = if packed.predictions_equal {
        "yes"
    } else {
        "NO"
    };
    report.say(&format!(
        "The network, read from its file and run on packed bits, predicts the class of the simulated network for all {} images: {equal}.",
        packed.images
    ));
}

/// Plots accuracy over the epochs.
///
/// # Errors
///
/// If the file cannot be written.
pub fn plot(figures: &Figures, path: &Path) -> anyhow::Result<()> {
    let curves = [
        ("float", figures.float.as_ref()),
        ("BNN", Some(&figures.bnn)),
        ("BNN, halved", figures.halved.as_ref()),
    ];
    let series = curves.into_iter().filter_map(|(name, accuracy)| {
        let points = accuracy?.curve.iter().enumerate();
        let known = points.filter(|(_, y)| y.is_finite());
        Some(Series::new(
            name,
            Mark::Line,
            known.map(|(i, &y)| ((i + 1) as f64, y)),
        ))
    });
    let plot = Plot {
        title: format!(
            "Accuracy on the {} images, hidden layers of {}",
            figures.images, figures.hidden
        ),
        x: Axis::new("epoch", Scale::Linear),
        y: Axis::new("accuracy in percent", Scale::Linear),
        series: series.collect(),
    };
    plot.save(path)
}
