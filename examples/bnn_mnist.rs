//! Binary networks on MNIST: training, the packed network, and fixed point at 1 to 16 bits.
//!
//! The experiment of Courbariaux et al., "Binarized Neural Networks" (2016, arXiv:1602.02830): three hidden
//! layers with BatchNorm, hard tanh or sign, Adam and the squared hinge loss. Two of its claims are looked
//! at: that the binary network converges more slowly than the float one, and that halving the last hidden
//! layer costs accuracy. Nothing is chosen by the curves on the test images: epochs and learning rates are
//! fixed beforehand (they were chosen with `--held-out`), and the network after the last epoch counts.

use std::fmt;
use std::hint::black_box;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use clap::Parser;
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use ndarray::{Array2, ArrayView2, s};
use serde::Serialize;
use support::args::Common;
use support::data::{Dataset, mnist};
use support::json;
use support::low_bit::{Activation, LowBitMlp, LowBitTraining, Weights};
use support::network::inference::percent_equal;
use support::plot::{Axis, Mark, Plot, Scale, Series};
use support::table::{Table, bytes};
use taper::{Compressed, Quantizer, Seed};

support::fast_allocator!();

#[derive(Debug, Parser)]
#[command(about)]
struct Args {
    #[command(flatten)]
    common: Common,

    /// Width of the hidden layers; 4096 is the published one.
    #[arg(long, default_value_t = 1024, value_name = "N")]
    hidden: usize,

    /// Runs with so many seeds, from --seed on, and reports means.
    #[arg(long, default_value_t = 1, value_name = "N")]
    seeds: u64,

    /// Learning rate of the first step.
    #[arg(long, default_value_t = 0.01)]
    rate: f32,

    /// Learning rate of the last step; it falls exponentially.
    #[arg(long, default_value_t = 3e-5)]
    last_rate: f32,

    /// Width of the hidden layers in the comparison of bits.
    #[arg(long, default_value_t = 256, value_name = "N")]
    bits_hidden: usize,

    /// Epochs of each training in the comparison of bits; 0 leaves it out.
    #[arg(long, default_value_t = 2, value_name = "N")]
    bits_epochs: usize,

    /// Trains the binary network alone: no float one, none with half of the last layer.
    #[arg(long)]
    binary_only: bool,

    /// Keeps the state of the binary training here after each epoch, and goes on from there.
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,

    /// Measures on the 10,000 held-out training images instead of the test images: for choosing settings.
    #[arg(long)]
    held_out: bool,

    /// Writes the parts of the packed network into this file.
    #[arg(long, value_name = "FILE")]
    packed: Option<PathBuf>,
}

/// Grey levels and labels.
struct Images {
    levels: Array2<u8>,
    labels: Vec<usize>,
}

impl From<&Dataset> for Images {
    fn from(data: &Dataset) -> Self {
        Self {
            levels: mnist::grey_levels(data.images.view()),
            labels: data.labels.clone(),
        }
    }
}

/// An accuracy in percent.
#[derive(Debug, Clone, Copy)]
struct Percent(f64);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} %", self.0)
    }
}

#[derive(Debug, Default, Serialize)]
struct Accuracy {
    /// Mean over the seeds after the last epoch, in percent.
    accuracy: f64,
    /// The same for each seed.
    by_seed: Vec<f64>,
    /// After each epoch, mean over the seeds.
    curve: Vec<f64>,
}

impl Accuracy {
    fn of(curves: &[Vec<f64>]) -> Self {
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
struct Packed {
    predictions_equal: bool,
    images: usize,
    hidden_bytes: u64,
    hidden_dense_bytes: u64,
    memory_bytes: usize,
    file_bytes: u64,
    dense_bytes: u64,
    packed_seconds: f64,
    faer_seconds: f64,
    ndarray_seconds: f64,
    /// Time of the float network with faer's product over that of the packed one, batches of 100.
    time_ratio: f64,
}

#[derive(Debug, Serialize)]
struct Bits {
    bits: u32,
    accuracy: f64,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct Figures {
    float: Option<Accuracy>,
    bnn: Accuracy,
    halved: Option<Accuracy>,
    packed: Packed,
    bits: Vec<Bits>,
    hidden: usize,
    epochs: usize,
    seed: u64,
    seeds: u64,
    images: &'static str,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut data = mnist::load()?;
    if args.common.quick {
        data = data.first(2_000, 1_000, 1_000);
    }
    let hidden = if args.common.quick {
        args.hidden.min(128)
    } else {
        args.hidden
    };
    let train = Images::from(&data.train);
    let (measured, images) = if args.held_out {
        (Images::from(&data.held_out), "held-out")
    } else {
        (Images::from(&data.test), "test")
    };
    drop(data);
    let full = vec![784, hidden, hidden, hidden, 10];
    let halved = vec![784, hidden, hidden, hidden / 2, 10];
    let epochs = args.common.epochs_or(6, 2);

    let (mut float, mut bnn, mut half) = (Vec::new(), Vec::new(), Vec::new());
    let mut network = None;
    for seed in args.common.seed..args.common.seed + args.seeds.max(1) {
        let binary = (Weights::Binary, Activation::Sign);
        let training = |name: &str, widths: &[usize], (weights, activation)| LowBitTraining {
            name: format!("{name}, seed {seed}"),
            widths: widths.to_vec(),
            weights,
            activation,
            epochs,
            batch: 100,
            rates: [args.rate, args.last_rate],
            seed: Seed::from(seed),
            checkpoint: None,
        };
        let mut bnn_training = training("BNN", &full, binary);
        if seed == args.common.seed {
            bnn_training.checkpoint = args.checkpoint.clone();
        }
        let (trained, curve) = run(&bnn_training, &train, &measured)?;
        bnn.push(curve);
        network.get_or_insert(trained);
        if !args.binary_only {
            let real = (Weights::Real, Activation::HardTanh);
            float.push(run(&training("float", &full, real), &train, &measured)?.1);
            half.push(run(&training("halved", &halved, binary), &train, &measured)?.1);
        }
    }
    let network = network.context("no network was trained")?;
    let packed = pack(&network, &measured, args.packed.as_deref())?;

    let mut bits = Vec::new();
    if args.bits_epochs > 0 {
        let width = if args.common.quick {
            64
        } else {
            args.bits_hidden
        };
        let epochs = if args.common.quick {
            1
        } else {
            args.bits_epochs
        };
        for width_in_bits in [1, 2, 4, 8, 16] {
            let training = LowBitTraining {
                name: format!("{width_in_bits} bits"),
                widths: vec![784, width, width, width, 10],
                weights: Weights::FixedPoint(width_in_bits),
                activation: Activation::HardTanh,
                epochs,
                batch: 100,
                rates: [args.rate, args.last_rate],
                seed: Seed::from(args.common.seed),
                checkpoint: None,
            };
            bits.push(train_at(width_in_bits, &training, &train, &measured)?);
        }
    }

    let all = |curves: &[Vec<f64>]| (!curves.is_empty()).then(|| Accuracy::of(curves));
    let figures = Figures {
        float: all(&float),
        bnn: Accuracy::of(&bnn),
        halved: all(&half),
        packed,
        bits,
        hidden,
        epochs,
        seed: args.common.seed,
        seeds: args.seeds.max(1),
        images,
    };
    print(&figures);
    if let Some(path) = &args.common.json {
        json::write(path, &figures)?;
    }
    if let Some(path) = &args.common.plot {
        plot(&figures, path)?;
    }
    Ok(())
}

/// The network and its accuracy after each epoch.
fn run(
    training: &LowBitTraining,
    train: &Images,
    measured: &Images,
) -> anyhow::Result<(LowBitMlp, Vec<f64>)> {
    let accuracy = |network: &LowBitMlp| {
        let predictions = network.predict(measured.levels.view())?;
        anyhow::Ok(Percent(percent_equal(&predictions, &measured.labels)))
    };
    let (network, mut curve) = training.run(&train.levels, &train.labels, accuracy)?;
    if curve.is_empty() {
        // A checkpoint at which nothing was left to do.
        curve.push(accuracy(&network)?);
    }
    Ok((
        network,
        curve.into_iter().map(|percent| percent.0).collect(),
    ))
}

fn train_at(
    bits: u32,
    training: &LowBitTraining,
    train: &Images,
    measured: &Images,
) -> anyhow::Result<Bits> {
    let (network, curve) = run(training, train, measured)?;
    let mut size = 0;
    let (output, hidden) = network.layers().split_last().context("no layers")?;
    for layer in hidden {
        let quantized = Weights::fixed_point(bits).quantize(layer.matrix()?.view())?;
        size += quantized.storage().bytes();
    }
    size += 4 * output.matrix()?.len() as u64;
    Ok(Bits {
        bits,
        accuracy: curve.last().copied().context("no epochs")?,
        bytes: size,
    })
}

/// The packed network beside the simulated and the dense one.
fn pack(
    network: &LowBitMlp,
    measured: &Images,
    file: Option<&std::path::Path>,
) -> anyhow::Result<Packed> {
    let packed = network.pack()?;
    let logits = packed.forward_bytes(measured.levels.view(), LowBitMlp::UNIT)?;
    let predictions: Vec<usize> = logits
        .rows()
        .into_iter()
        .map(|row| largest(row.to_slice()))
        .collect();
    let simulated = network.predict(measured.levels.view())?;

    // The matrices between hidden layers: both sides are binary there.
    let hidden: Vec<_> = packed.matrices().skip(1).collect();
    let hidden_bytes = hidden.iter().map(|w| w.storage().bytes()).sum();
    let hidden_dense_bytes = hidden
        .iter()
        .map(|w| w.shape().iter().product::<usize>() as u64 * 4)
        .sum();
    let parts: Vec<u8> = packed
        .parts()
        .iter()
        .flatten()
        .flat_map(|part| part.bytes.to_vec())
        .collect();
    if let Some(path) = file {
        std::fs::write(path, &parts)?;
    }
    let dense: Vec<Array2<f32>> = network
        .layers()
        .iter()
        .map(|layer| layer.matrix())
        .collect::<Result<_, _>>()?;

    let batch = measured
        .levels
        .slice(s![..100.min(measured.labels.len()), ..]);
    let real = batch.mapv(|level| f32::from(level) * LowBitMlp::UNIT);
    let packed_seconds = seconds(|| {
        let y = packed.forward_bytes(black_box(batch), LowBitMlp::UNIT);
        black_box(y).map(|_| ()).map_err(Into::into)
    })?;
    let faer_seconds = seconds(|| {
        black_box(dense_forward(&dense, real.view(), faer_product));
        Ok(())
    })?;
    let ndarray_seconds = seconds(|| {
        black_box(dense_forward(&dense, real.view(), |x, w| x.dot(&w.t())));
        Ok(())
    })?;
    Ok(Packed {
        predictions_equal: predictions == simulated,
        images: predictions.len(),
        hidden_bytes,
        hidden_dense_bytes,
        memory_bytes: packed.memory_bytes(),
        file_bytes: parts.len() as u64,
        dense_bytes: dense.iter().map(|w| 4 * w.len() as u64).sum(),
        packed_seconds,
        faer_seconds,
        ndarray_seconds,
        time_ratio: faer_seconds / packed_seconds,
    })
}

fn largest(values: Option<&[f32]>) -> usize {
    let values = values.unwrap_or_default().iter().enumerate();
    values
        .fold((0, f32::NEG_INFINITY), |best, (i, &x)| {
            if x > best.1 { (i, x) } else { best }
        })
        .0
}

/// The median time of a call, over nine.
fn seconds(mut call: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    call()?;
    let mut times = Vec::new();
    for _ in 0..9 {
        let start = Instant::now();
        call()?;
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// The products and hard tanhs of a float network of the same shape: BatchNorm is folded into its weights.
fn dense_forward(
    weights: &[Array2<f32>],
    x: ArrayView2<'_, f32>,
    product: impl Fn(ArrayView2<'_, f32>, ArrayView2<'_, f32>) -> Array2<f32>,
) -> Array2<f32> {
    weights.iter().fold(x.to_owned(), |x, w| {
        let mut y = product(x.view(), w.view());
        y.mapv_inplace(|y| y.clamp(-1.0, 1.0));
        y
    })
}

/// x Wᵀ by faer, on all threads.
fn faer_product(x: ArrayView2<'_, f32>, w: ArrayView2<'_, f32>) -> Array2<f32> {
    let mut y = Array2::zeros((x.nrows(), w.nrows()));
    let shape = (x.nrows(), w.nrows(), x.ncols());
    if let (Some(x), Some(w), Some(y)) = (x.as_slice(), w.as_slice(), y.as_slice_mut()) {
        matmul(
            MatMut::from_row_major_slice_mut(y, shape.0, shape.1),
            Accum::Replace,
            MatRef::from_row_major_slice(x, shape.0, shape.2),
            MatRef::from_row_major_slice(w, shape.1, shape.2).transpose(),
            1.0_f32,
            Par::rayon(0),
        );
    }
    y
}

fn print(figures: &Figures) {
    let mut table = Table::new(
        format!(
            "MNIST, hidden layers of {}, {} epochs, {} seed(s): accuracy on the {} images in percent",
            figures.hidden, figures.epochs, figures.seeds, figures.images
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
        table.row([
            name.to_owned(),
            format!("{:.2}", accuracy.accuracy),
            format!("{:.2}", of(f64::min, f64::INFINITY)),
            format!("{:.2}", of(f64::max, 0.0)),
            accuracy
                .curve
                .first()
                .map_or_else(String::new, |first| format!("{first:.2}")),
            published.to_owned(),
        ]);
    }
    println!("{table}");
    println!("  published: 4096 wide, 1000 epochs, with dropout (arXiv:1602.02830, table 1)");

    let packed = &figures.packed;
    let mut table = Table::new(
        "The BNN on packed bits",
        ["", "packed", "dense, 32 bits", "ratio"],
    );
    let ratio = |dense: f64, packed: f64| format!("{:.1}", dense / packed);
    let mut size = |name: &str, small: u64, large: u64| {
        table.row([
            name.to_owned(),
            bytes(small),
            bytes(large),
            ratio(large as f64, small as f64),
        ]);
    };
    size(
        "hidden layers",
        packed.hidden_bytes,
        packed.hidden_dense_bytes,
    );
    size("whole network, file", packed.file_bytes, packed.dense_bytes);
    size(
        "whole network, memory",
        packed.memory_bytes as u64,
        packed.dense_bytes,
    );
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
    println!("{table}");
    println!(
        "  predictions equal to the simulated network on all {} images: {}",
        packed.images,
        if packed.predictions_equal {
            "yes"
        } else {
            "NO"
        }
    );

    if !figures.bits.is_empty() {
        let mut table = Table::new(
            "Trained with weights of b bits",
            ["bits", "accuracy", "size"],
        );
        for row in &figures.bits {
            table.row([
                row.bits.to_string(),
                format!("{:.2}", row.accuracy),
                bytes(row.bytes),
            ]);
        }
        println!("{table}");
    }
}

fn plot(figures: &Figures, path: &std::path::Path) -> anyhow::Result<()> {
    let curves = [
        ("float", figures.float.as_ref()),
        ("BNN", Some(&figures.bnn)),
        ("BNN, halved", figures.halved.as_ref()),
    ];
    let series = curves.into_iter().filter_map(|(name, accuracy)| {
        let points = accuracy?.curve.iter().enumerate();
        Some(Series::new(
            name,
            Mark::Line,
            points.map(|(i, &y)| ((i + 1) as f64, y)),
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
