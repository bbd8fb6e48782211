//! The figures, and their tables and plots.

use serde::Serialize;
use support::bars::Bars;
use support::network::train::EpochReport;
use support::plot::{Axis, Mark, Plot, Scale, Series};
use support::report::Report;
use support::table::{Table, bytes};

/// Published on CIFAR-10 at full width: the share of kept channels, the accuracy after pruning and after fine-tuning.
const PUBLISHED: [(f64, f64, f64); 4] = [
    (0.9, 89.00, 88.56),
    (0.7, 74.32, 88.31),
    (0.5, 22.18, 87.71),
    (0.35, 10.02, 86.57),
];
const PUBLISHED_BASELINE: f64 = 89.12;

/// The course of a training.
#[derive(Debug, Serialize)]
pub(crate) struct Curve {
    pub(crate) name: String,
    /// Epochs of the network before this training.
    pub(crate) before: usize,
    pub(crate) epochs: Vec<EpochReport>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    pub(crate) data: &'static str,
    pub(crate) width: f64,
    pub(crate) seed: u64,
    pub(crate) penalty: f64,
    pub(crate) minimum: usize,
    pub(crate) epochs: usize,
    pub(crate) tune_epochs: usize,
    pub(crate) scratch_epochs: usize,
    pub(crate) training_images: usize,
    pub(crate) baseline: f64,
    pub(crate) rows: Vec<Row>,
    pub(crate) curves: Vec<Curve>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) kept: f64,
    /// Accuracy with dropped channels set to zero, as published.
    pub(crate) pruned: f64,
    /// Accuracy with the constant outputs of dropped channels folded into the next layer.
    pub(crate) folded: f64,
    pub(crate) tuned: f64,
    /// Like tuned, with the unpruned network as a teacher besides the labels.
    pub(crate) taught: Option<f64>,
    pub(crate) scratch: Option<f64>,
    pub(crate) ratio_parameters: f64,
    pub(crate) ratio_multiply_adds: f64,
    pub(crate) ratio_bytes: f64,
    pub(crate) bytes: u64,
    pub(crate) time_ratio: f64,
    pub(crate) equal_to_masked: bool,
    /// The share of kept channels of each convolution.
    pub(crate) layers: Vec<f64>,
}

pub(crate) fn show(figures: &Figures, page: &mut Report) {
    let measured = |accuracy: Option<f64>| {
        accuracy.map_or_else(String::new, |accuracy| format!("{accuracy:.2}"))
    };
    let mut table = Table::new(
        format!(
            "VGG-11 of width {} on {}: accuracy on the test images, baseline {:.2} % (published on CIFAR-10 at width 1: \
             {PUBLISHED_BASELINE} %)",
            figures.width, figures.data, figures.baseline
        ),
        [
            "channels kept",
            "pruned",
            "folded",
            "tuned",
            "taught",
            "scratch",
            "published",
            "parameters",
            "multiply-adds",
            "bytes",
            "time",
            "= masked",
        ],
    );
    for row in &figures.rows {
        let near = |&&(kept, ..): &&(f64, f64, f64)| (kept - row.kept).abs() < 0.02;
        let published = PUBLISHED.iter().find(near);
        table.row([
            format!("{:.0} %", 100.0 * row.kept),
            format!("{:.2}", row.pruned),
            format!("{:.2}", row.folded),
            format!("{:.2}", row.tuned),
            measured(row.taught),
            measured(row.scratch),
            published.map_or_else(String::new, |(_, pruned, tuned)| {
                format!("{pruned:.2}/{tuned:.2}")
            }),
            format!("÷{:.1}", row.ratio_parameters),
            format!("÷{:.1}", row.ratio_multiply_adds),
            format!("{} ÷{:.1}", bytes(row.bytes), row.ratio_bytes),
            format!("÷{:.1}", row.time_ratio),
            if row.equal_to_masked { "yes" } else { "no" }.to_owned(),
        ]);
    }
    page.table(&table);
    page.say(&format!(
        "pruned: dropped channels are set to zero; folded: the constant outputs of dropped channels are added to the next layer; \
         tuned: folded, then {} epochs; taught: like tuned, with the unpruned network as a teacher besides the labels; \
         scratch: the same architecture, {} epochs from random weights; published: pruned/tuned",
        figures.tune_epochs,
        figures.scratch_epochs
    ));
    let mut lost = Table::new("Channels lost by depth, %", {
        let kept = figures
            .rows
            .iter()
            .map(|row| format!("keep {:.0} %", 100.0 * row.kept));
        std::iter::once("layer".to_owned())
            .chain(kept)
            .chain([String::new()])
    });
    let layers = figures.rows.first().map_or(0, |row| row.layers.len());
    for layer in 0..layers {
        let of = |row: &Row| 100.0 * (1.0 - row.layers.get(layer).copied().unwrap_or(1.0));
        let cells = figures.rows.iter().map(|row| format!("{:.0}", of(row)));
        let last = figures.rows.last().map_or(0.0, of);
        let bar = format!("{:<20}", "█".repeat((last / 5.0).round() as usize));
        lost.row(
            std::iter::once(format!("conv{}", layer + 1))
                .chain(cells)
                .chain([bar]),
        );
    }
    page.table(&lost);
}

/// Plots the held-out accuracy over the epochs of a network.
pub(crate) fn accuracy_over_epochs(figures: &Figures) -> Plot {
    let series = figures.curves.iter().map(|curve| {
        let points = curve.epochs.iter().filter_map(|report| {
            let accuracy = report.accuracy?;
            Some(((curve.before + report.epoch) as f64, accuracy))
        });
        Series::new(&curve.name, Mark::Line, points)
    });
    Plot {
        title: format!("VGG-11 of width {} on {}", figures.width, figures.data),
        x: Axis::new("epochs", Scale::Linear),
        y: Axis::new("held-out accuracy in percent", Scale::Linear),
        series: series.collect(),
    }
}

/// Plots the share of lost channels by depth.
pub(crate) fn lost_by_depth(figures: &Figures) -> Bars {
    let layers = figures.rows.first().map_or(0, |row| row.layers.len());
    let series = figures.rows.iter().map(|row| {
        let lost = row.layers.iter().map(|left| 100.0 * (1.0 - left));
        (format!("keep {:.0} %", 100.0 * row.kept), lost.collect())
    });
    Bars {
        title: format!("VGG-11 of width {} on {}", figures.width, figures.data),
        label: "channels lost, %".to_owned(),
        groups: (1..=layers).map(|i| format!("conv{i}")).collect(),
        series: series.collect(),
    }
}
