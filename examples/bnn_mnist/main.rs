//! Binary networks on MNIST: training, the packed network, and fixed point at 1 to 16 bits.
//!
//! The experiment of Courbariaux et al., "Binarized Neural Networks" (2016, arXiv:1602.02830): three hidden
//! layers with BatchNorm, hard tanh or sign, Adam and the squared hinge loss. It checks two claims of the paper:
//! that the binary network converges more slowly than the float one, and that halving the last hidden layer
//! costs accuracy. Nothing is chosen on the test images: epochs and learning rates were chosen with
//! `--held-out`, and the figures are those after the last epoch.

mod figures;
mod packed;

use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use figures::{Accuracy, Bits, Figures};
use ndarray::Array2;
use support::args::Common;
use support::data::{Dataset, mnist};
use support::json;
use support::low_bit::{Activation, LowBitMlp, LowBitTraining, Trained, Weights};
use support::network::inference::percent_equal;
use support::report::Report;
use taper::{Compressed, Quantizer, Seed};

support::fast_allocator!();

/// Chosen together with the width, by accuracy on the held-out images.
const EPOCHS: usize = 6;

#[derive(Debug, Parser)]
#[command(about)]
struct Args {
    #[command(flatten)]
    common: Common,

    /// Width of the hidden layers; 4096 is the published one.
    #[arg(long, default_value_t = 960, value_name = "N")]
    hidden: usize,

    /// Number of seeds, starting from --seed; the figures are means.
    #[arg(long, default_value_t = 1, value_name = "N")]
    seeds: u64,

    /// Learning rate of the first step.
    #[arg(long, default_value_t = 0.01)]
    rate: f32,

    /// Learning rate of the last step; the rate falls exponentially.
    #[arg(long, default_value_t = 3e-5)]
    last_rate: f32,

    /// Width of the hidden layers in the comparison of bits.
    #[arg(long, default_value_t = 256, value_name = "N")]
    bits_hidden: usize,

    /// Epochs of each training in the comparison of bits; 0 skips the comparison.
    #[arg(long, default_value_t = 2, value_name = "N")]
    bits_epochs: usize,

    /// Trains only the binary network, without the float one and the one with half of the last layer.
    #[arg(long)]
    binary_only: bool,

    /// A folder for the state of each training after each epoch; the next run continues from it.
    #[arg(long, value_name = "FOLDER")]
    checkpoints: Option<PathBuf>,

    /// Measures on the 10,000 held-out training images instead of the test images, to choose parameters.
    #[arg(long)]
    held_out: bool,

    /// Writes the packed network to this file, and reads it back.
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

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut report = Report::new("bnn_mnist");
    let mut data = mnist::load()?;
    if args.common.quick {
        data = data.first(2_000, 1_000, 1_000);
    }
    let quick = |normal: usize, small: usize| {
        if args.common.quick {
            normal.min(small)
        } else {
            normal
        }
    };
    let hidden = quick(args.hidden, 128);
    let train = Images::from(&data.train);
    let (measured, images) = if args.held_out {
        (Images::from(&data.held_out), "held-out")
    } else {
        (Images::from(&data.test), "test")
    };
    drop(data);
    let full = vec![784, hidden, hidden, hidden, 10];
    let halved = vec![784, hidden, hidden, hidden / 2, 10];
    let epochs = args.common.epochs_or(EPOCHS, 2);
    let training = |name: &str, seed: u64, widths: &[usize], epochs: usize, kind| {
        let (weights, activation) = kind;
        // Everything that the state depends on, except the learning rates.
        let file = format!(
            "{}-{}-wide-{epochs}-epochs-{}-images-{images}-seed-{seed}.checkpoint",
            name.replace(' ', "-"),
            widths.get(1).unwrap_or(&0),
            train.labels.len(),
        );
        LowBitTraining {
            name: format!("{name}, seed {seed}"),
            widths: widths.to_vec(),
            weights,
            activation,
            epochs,
            batch: 100,
            rates: [args.rate, args.last_rate],
            seed: Seed::from(seed),
            checkpoint: args.checkpoints.as_ref().map(|folder| folder.join(file)),
        }
    };
    let mut resumed = 0;
    let mut run = |training: &LowBitTraining| -> anyhow::Result<Trained> {
        let trained = training.run(&train.levels, &train.labels, |network| {
            let predictions = network.predict(measured.levels.view())?;
            Ok(percent_equal(&predictions, &measured.labels))
        })?;
        resumed += trained.resumed;
        Ok(trained)
    };

    let binary = (Weights::Binary, Activation::Sign);
    let real = (Weights::Real, Activation::HardTanh);
    let (mut float, mut bnn, mut half) = (Vec::new(), Vec::new(), Vec::new());
    let mut network = None;
    for seed in args.common.seed..args.common.seed + args.seeds.max(1) {
        let trained = run(&training("BNN", seed, &full, epochs, binary))?;
        bnn.push(trained.curve);
        network.get_or_insert(trained.network);
        if !args.binary_only {
            float.push(run(&training("float", seed, &full, epochs, real))?.curve);
            half.push(run(&training("halved", seed, &halved, epochs, binary))?.curve);
        }
    }
    let network = network.context("no network was trained")?;

    let bits_hidden = quick(args.bits_hidden, 64);
    let bits_epochs = quick(args.bits_epochs, 1);
    let widths = [784, bits_hidden, bits_hidden, bits_hidden, 10];
    let mut bits = Vec::new();
    if bits_epochs > 0 {
        for width in [1, 2, 4, 8, 16] {
            let kind = (Weights::FixedPoint(width), Activation::HardTanh);
            let name = format!("{width} bits");
            let seed = args.common.seed;
            let trained = run(&training(&name, seed, &widths, bits_epochs, kind))?;
            bits.push(Bits {
                bits: width,
                accuracy: trained.curve.last().copied().context("no epochs")?,
                bytes: fixed_point_bytes(width, &trained.network)?,
            });
        }
    }

    let all = |curves: &[Vec<f64>]| (!curves.is_empty()).then(|| Accuracy::of(curves));
    let figures = Figures {
        float: all(&float),
        bnn: Accuracy::of(&bnn),
        halved: all(&half),
        packed: packed::pack(&network, &measured, args.packed.as_deref())?,
        bits,
        bits_hidden,
        bits_epochs,
        hidden,
        epochs,
        seed: args.common.seed,
        seeds: args.seeds.max(1),
        images,
    };
    figures::tell(&mut report, &figures);
    if resumed > 0 {
        report.say(&format!(
            "{resumed} epochs came from checkpoints; the time below does not include them."
        ));
    }
    if let Some(path) = &args.common.json {
        json::write(path, &figures)?;
    }
    if let Some(path) = &args.common.plot {
        figures::plot(&figures, path)?;
    }
    report.finish(args.common.markdown.as_deref())?;
    Ok(())
}

/// The size of a network with fixed-point weights and a real output layer.
fn fixed_point_bytes(bits: u32, network: &LowBitMlp) -> anyhow::Result<u64> {
    let mut size = 0;
    let (output, hidden) = network.layers().split_last().context("no layers")?;
    for layer in hidden {
        let quantized = Weights::fixed_point(bits).quantize(layer.matrix()?.view())?;
        size += quantized.storage().bytes();
    }
    Ok(size + 4 * output.matrix()?.len() as u64)
}
