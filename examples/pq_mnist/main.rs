//! Product quantization of a network for MNIST.
//!
//! Trains 784-512-512-512-10, quantizes its three weight matrices with 512 outputs (784×512, 512×512 and 512×512; the last layer's
//! 512×10 stays dense), and shows accuracy over size:
//!
//! - for the published grid of centroids k and groups m, with the old and with re-estimated statistics of BatchNorm;
//! - with one codebook for all groups at the same number of bytes;
//! - for the best parameters at 25 times smaller;
//! - for the least error of the layers' outputs, with the moments of their inputs on training images.
//!
//! It also shows the least error of any code with as many bits. No weight is trained after quantization. The test images are used once,
//! after everything is chosen.

mod apply;
mod aware;
mod bits;
mod grid;
mod limit;
mod scheme;
mod search;

use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use serde::Serialize;
use support::args::Common;
use support::data::{Splits, mnist};
use support::json;
use support::network::checkpoint::Checkpoint;
use support::network::inference::Network;
use support::network::mlp::{CrossEntropy, Mlp};
use support::network::train::Training;
use support::plot::{Axis, Mark, Plot, Scale, Series};
use support::report::Report;

use apply::Apply;
use grid::{CENTROIDS, Cell, FittedCell};
use search::{Best, Choice, SMALLER, TARGETS};

support::fast_allocator!();

/// The widths of the network, from the image to the classes.
const WIDTHS: [usize; 5] = [mnist::PIXELS, 512, 512, 512, mnist::CLASSES];

#[derive(Debug, Parser)]
#[command(about = "Product quantization of a network for MNIST")]
struct Args {
    #[command(flatten)]
    common: Common,

    /// Number of training images for re-estimating the statistics of BatchNorm.
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    statistics_images: usize,

    /// A folder for the trained network; the next run loads it from there.
    #[arg(long, value_name = "FOLDER")]
    checkpoint: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Figures {
    seed: u64,
    epochs: usize,
    quick: bool,
    baseline: f64,
    baseline_held_out: f64,
    cells: Vec<Cell>,
    best_at_25x: Best,
    curve: Vec<Best>,
    limits: Vec<limit::Limit>,
    aware: aware::Measured,
    bits: Vec<bits::Bits>,
    apply: Apply,
    apply_best_at_25x: Apply,
    seconds: f64,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut report = Report::new("pq_mnist");
    let mut data = mnist::load()?;
    if args.common.quick {
        data = data.first(5_000, 1_000, 1_000);
    }
    let epochs = args.common.epochs_or(9, 2);
    report.say(&format!(
        "784-512-512-512-10 (Linear, BatchNorm, ReLU) on {} images of MNIST, {epochs} epochs of Adam, seed {}; {} \
         training images are held out, {} images are for the test. The matrices of 784×512, 512×512 and \
         512×512 are quantized; the last layer's 512×10 stays dense.",
        data.train.len(),
        args.common.seed,
        data.held_out.len(),
        data.test.len()
    ));
    let network = train(&args, epochs, &data)?;
    let statistics = data.train.first(args.statistics_images);
    let baseline_held_out = network.accuracy(&data.held_out)?;

    // Everything is chosen before the test images are used.
    let fitted = grid::fit(&network, args.common.seed("grid"), &statistics)?;
    let targets = if args.common.quick {
        &[SMALLER][..]
    } else {
        &TARGETS
    };
    let chosen = search::search(
        &network,
        targets,
        args.common.seed("search"),
        &statistics,
        &data.held_out,
    )?;

    let aware = aware::fit(
        &network,
        args.common.seed("grid"),
        &statistics,
        &data.held_out,
        args.common.quick,
    )?;

    let bits = bits::fit(&network, &statistics)?;

    let baseline = network.accuracy(&data.test)?;
    let cells = fitted
        .iter()
        .map(|cell| cell.measure(&data.test))
        .collect::<anyhow::Result<Vec<_>>>()?;
    report.say(&format!(
        "The published scheme splits the outputs of a matrix into m groups, each with a codebook of k centroids. BN: \
         mean and variance of BatchNorm re-estimated on {} training images; nothing else is trained again. Shared: \
         one codebook for all groups of a matrix, with as many centroids as fit the same number of bytes. The ratios of the \
         quantized matrices are those of the published formula and those of the bytes of all stored parts.",
        statistics.len()
    ));
    report.table(&grid::table(&cells, baseline));
    let curve = chosen
        .iter()
        .map(|choice| choice.measure(&network, &data.test))
        .collect::<anyhow::Result<Vec<_>>>()?;
    report.say(
        "The best parameters for each size, chosen by accuracy on the held-out images. Ratio: bytes of the quantized matrices; \
         network: bytes of the whole network.",
    );
    report.table(&search::table(&curve, baseline));
    let limits = limits(&network, &fitted, &chosen)?;
    report.say(limit::EXPLANATION);
    report.table(&limit::table(&limits));
    let aware = aware.measure(&network, &cells, &data.test)?;
    report.say(aware::EXPLANATION);
    for table in aware.tables(baseline) {
        report.table(&table);
    }
    let bits = bits::measure(&bits, &data.test)?;
    report.say(bits::EXPLANATION);
    report.table(&bits::table(&bits, baseline));
    let (best_trial, best) = chosen
        .iter()
        .zip(&curve)
        .find(|(_, best)| best.target == SMALLER)
        .context("the search has no result for its target")?;

    let published = fitted.last().context("the grid is empty")?;
    let apply = apply::measure(&published.trial, &data.test)?;
    let apply_best_at_25x = apply::measure(&best_trial.trial, &data.test)?;
    report.table(&apply::table(&[
        ("k=50, m=64, a codebook per group", &apply),
        ("best at 25 times smaller", &apply_best_at_25x),
    ]));
    let figures = Figures {
        seed: args.common.seed,
        epochs,
        quick: args.common.quick,
        baseline,
        baseline_held_out,
        best_at_25x: best.clone(),
        apply,
        apply_best_at_25x,
        cells,
        curve,
        limits,
        aware,
        bits,
        seconds: report.finish(args.common.markdown.as_deref())?,
    };
    if let Some(path) = &args.common.json {
        json::write(path, &figures)?;
    }
    if let Some(path) = &args.common.plot {
        plot(&figures).save(path)?;
    }
    Ok(())
}

/// Compares the grid and the best of each size with the limit.
fn limits(
    network: &Network,
    grid: &[FittedCell],
    best: &[Choice],
) -> anyhow::Result<Vec<limit::Limit>> {
    let sources = limit::Sources::of(network)?;
    let grid = grid
        .iter()
        .map(|cell| (format!("k={}, m={}", cell.k, cell.m), &cell.trial));
    let best = best
        .iter()
        .map(|best| (format!("best at {}×", best.target), &best.trial));
    grid.chain(best)
        .map(|(scheme, trial)| sources.limit(scheme, network, trial))
        .collect()
}

fn train(args: &Args, epochs: usize, data: &Splits) -> anyhow::Result<Network> {
    let common = &args.common;
    let training = Training {
        epochs,
        seed: common.seed("training"),
        checkpoint: args
            .checkpoint
            .clone()
            .map(|folder| Checkpoint { folder, every: 1 }),
        ..Training::default()
    };
    let model = Mlp::new(&WIDTHS, common.seed("weights"))?;
    let (model, _) = training.run(model, &CrossEntropy::default(), &data.train, |model| {
        Ok(Some(model.export()?.accuracy(&data.held_out)?))
    })?;
    model.export()
}

fn plot(figures: &Figures) -> Plot {
    let of_k = |k: usize| figures.cells.iter().filter(move |cell| cell.k == k);
    let mut series = vec![
        Series::new(
            "not compressed",
            Mark::Dashed,
            [(3.0, figures.baseline), (80.0, figures.baseline)],
        )
        .color(0),
    ];
    for (i, k) in CENTROIDS.into_iter().enumerate() {
        let measured = of_k(k).map(|cell| (cell.ratio_bytes, cell.accuracy_bn));
        series.push(Series::new(format!("k = {k}, measured"), Mark::Line, measured).color(i + 1));
    }
    for (i, k) in CENTROIDS.into_iter().enumerate() {
        let published = of_k(k).map(|cell| (cell.ratio_formula, cell.published));
        series
            .push(Series::new(format!("k = {k}, published"), Mark::Dashed, published).color(i + 1));
    }
    let shared = figures.cells.iter().map(|cell| &cell.shared);
    series.push(
        Series::new(
            "shared codebook, same bytes",
            Mark::Points,
            shared.map(|cell| (cell.ratio_bytes, cell.accuracy_bn)),
        )
        .color(4),
    );
    series.push(
        Series::new(
            "best of the search",
            Mark::Line,
            figures
                .curve
                .iter()
                .map(|best| (best.ratio_bytes, best.accuracy)),
        )
        .color(5),
    );
    Plot {
        title: "Product quantization of 784-512-512-512-10 on MNIST, without further training"
            .into(),
        x: Axis {
            range: Some(3.0..80.0),
            ..Axis::new("times smaller (quantized matrices)", Scale::Log)
        },
        y: Axis::new("accuracy on the test images, %", Scale::Linear),
        series,
    }
}
