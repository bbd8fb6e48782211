//! CP and Tucker decompositions of the convolutions of a network for MNIST.
//!
//! A network of three 3×3 convolutions is trained; the second and the third are replaced by the chains that CP
//! (by ALS and by ADMM) and Tucker-2 make of their kernels, at several ranks. Accuracy is taken right after, and after
//! the whole network was trained on with the chains in place.

use std::time::Instant;

use burn::module::Module;
use burn::tensor::Device;
use clap::Parser;
use ndarray::{Array1, Array4, ArrayView4};
use serde::Serialize;
use support::args::Common;
use support::data::{Splits, mnist};
use support::json;
use support::network::conv::ConvNet;
use support::network::mlp::CrossEntropy;
use support::network::train::Training;
use support::random;
use support::table::Table;
use taper::factorize::Rank;
use taper::factorize::convolution::{CpConv2d, Geometry, Tucker2, TuckerConv2d, conv2d};
use taper::factorize::cp::{Constraint, CpAdmm, CpAls};
use taper::{Compressed, Factorizer, Precision, Seed};

support::fast_allocator!();

/// Decomposes the convolutions of a network for MNIST: accuracy, size and time of the chains.
#[derive(Debug, Parser)]
#[command(about)]
struct Args {
    #[command(flatten)]
    common: Common,

    /// Channels after each of the three convolutions.
    #[arg(long, num_args = 3, default_values_t = [16, 32, 64], value_name = "N")]
    widths: Vec<usize>,

    /// Size of the dense kernels over that of the chains.
    #[arg(long, num_args = 1.., default_values_t = [4.5, 9.0], value_name = "RATIO")]
    ratios: Vec<f64>,

    /// Epochs of fine-tuning with the chains in place.
    #[arg(long, default_value_t = 1, value_name = "N")]
    tune_epochs: usize,

    /// Training images of each epoch; all 50,000 unless set with the default widths.
    #[arg(long, value_name = "N")]
    images: Option<usize>,
}

/// The two stages that are decomposed.
const STAGES: [usize; 2] = [1, 2];
const GEOMETRY: Geometry = Geometry {
    stride: [1, 1],
    padding: [1, 1],
};

#[derive(Debug, Serialize)]
struct Figures {
    seed: u64,
    widths: Vec<usize>,
    baseline: f64,
    /// Milliseconds of each decomposed layer, dense, on a batch of 64 images.
    dense_ms: Vec<f64>,
    rows: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    method: &'static str,
    /// Of each layer; for Tucker-2 that of the output side.
    rank: Vec<usize>,
    /// Relative error of each kernel.
    error: Vec<f64>,
    /// In percent, on the test images.
    accuracy: f64,
    accuracy_tuned: f64,
    /// Dense bytes over those of the chains, both layers together.
    ratio_bytes: f64,
    /// Values that the chains store.
    parameters: usize,
    /// Multiply-adds of the chains on one image.
    multiply_adds: usize,
    /// Milliseconds of each layer on a batch of 64 images.
    layer_ms: Vec<f64>,
    /// Time of the dense layers over that of the chains.
    time_ratio: f64,
}

/// What a kernel became.
enum Chain {
    Cp(CpConv2d<f32>),
    Tucker(TuckerConv2d<f32>),
}

impl Chain {
    fn links(&self) -> Vec<Array4<f32>> {
        match self {
            Self::Cp(chain) => chain.links(),
            Self::Tucker(chain) => chain.links(),
        }
    }

    fn compressed(&self) -> &dyn Compressed<f32> {
        match self {
            Self::Cp(chain) => chain,
            Self::Tucker(chain) => chain,
        }
    }

    fn rank(&self) -> usize {
        match self {
            Self::Cp(chain) => chain.rank(),
            Self::Tucker(chain) => chain.ranks()[0],
        }
    }

    fn apply(&self, x: ArrayView4<'_, f32>) -> taper::Result<Array4<f32>> {
        match self {
            Self::Cp(chain) => chain.apply(x),
            Self::Tucker(chain) => chain.apply(x),
        }
    }

    /// The chain with tuned links.
    fn with_links(&self, links: &[Array4<f32>]) -> taper::Result<Self> {
        Ok(match self {
            Self::Cp(_) => Self::Cp(CpConv2d::from_parts(links, None, GEOMETRY, Precision::F32)?),
            Self::Tucker(_) => Self::Tucker(TuckerConv2d::from_parts(
                links,
                None,
                GEOMETRY,
                Precision::F32,
            )?),
        })
    }
}

fn decompose(method: &str, kernel: &Array4<f32>, ratio: f64, seed: Seed) -> anyhow::Result<Chain> {
    let rank = Rank::Ratio(ratio);
    Ok(match method {
        "cp-als" => {
            let fit = CpAls::params(rank).seed(seed).factorize(kernel.view())?;
            Chain::Cp(CpConv2d::new(&fit, None, GEOMETRY)?)
        }
        "cp-admm" => {
            // Small entries: a chain of bounded norm that training can go on from.
            let admm = CpAdmm::params(rank).all(Constraint::Ridge(1e-2)).seed(seed);
            Chain::Cp(CpConv2d::new(
                &admm.factorize(kernel.view())?,
                None,
                GEOMETRY,
            )?)
        }
        _ => {
            let chain = Tucker2::ratio(ratio).factorize(kernel.view())?;
            Chain::Tucker(chain.with_geometry(GEOMETRY, None)?)
        }
    })
}

/// The side of the images that stage `stage` works on.
fn side(stage: usize) -> usize {
    28 >> stage
}

/// Multiply-adds of links on an image of `pixels` pixels: each value once a pixel, as no link has a stride.
fn multiply_adds(links: &[Array4<f32>], pixels: usize) -> usize {
    links.iter().map(Array4::len).sum::<usize>() * pixels
}

/// The least time of several runs, in milliseconds.
fn milliseconds(mut f: impl FnMut() -> taper::Result<Array4<f32>>) -> anyhow::Result<f64> {
    let mut least = f64::INFINITY;
    for _ in 0..15 {
        let start = Instant::now();
        std::hint::black_box(f()?);
        least = least.min(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(least)
}

fn input(kernel: &Array4<f32>, stage: usize, seed: Seed) -> Array4<f32> {
    let mut i = 0;
    Array4::from_shape_simple_fn((64, kernel.shape()[1], side(stage), side(stage)), || {
        i += 1;
        random::uniform(seed, i) as f32
    })
}

fn relative_error(kernel: &Array4<f32>, chain: &Chain) -> anyhow::Result<f64> {
    let rebuilt = chain.compressed().decompress()?;
    let differences = kernel
        .iter()
        .zip(&rebuilt)
        .map(|(a, b)| f64::from(a - b).powi(2));
    let squares = kernel.iter().map(|&a| f64::from(a).powi(2));
    Ok((differences.sum::<f64>() / squares.sum::<f64>()).sqrt())
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut data = mnist::load()?;
    if args.common.quick {
        data = data.first(2_000, 500, 1_000);
    } else if let Some(images) = args.images {
        data = data.first(images, 10_000, 10_000);
    }
    let &[a, b, c] = args.widths.as_slice() else {
        anyhow::bail!("three widths are needed");
    };
    let device = Device::flex();
    let training = Training {
        epochs: args.common.epochs_or(2, 1),
        seed: args.common.seed("training"),
        ..Training::default()
    };
    let model = ConvNet::new([a, b, c], args.common.seed("weights"));
    let (model, _) = training.run(model, &CrossEntropy::default(), &data.train, |model| {
        Ok(Some(model.accuracy(&data.held_out.first(2_000), &device)?))
    })?;
    let baseline = model.valid().accuracy(&data.test, &device)?;

    let seed = args.common.seed("images");
    let kernels = STAGES.map(|stage| model.kernel(stage));
    let kernels = kernels.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let dense_ms = STAGES
        .iter()
        .zip(&kernels)
        .map(|(&stage, kernel)| {
            let x = input(kernel, stage, seed);
            milliseconds(|| conv2d(x.view(), kernel.view(), None, GEOMETRY))
        })
        .collect::<anyhow::Result<Vec<f64>>>()?;

    let mut rows = Vec::new();
    for &ratio in &args.ratios {
        for method in ["cp-als", "cp-admm", "tucker2"] {
            let row = experiment(method, ratio, &args, &data, &model, &kernels, &dense_ms)?;
            rows.push(row);
        }
    }
    let figures = Figures {
        seed: args.common.seed,
        widths: args.widths.clone(),
        baseline,
        dense_ms,
        rows,
    };
    report(&figures, &kernels);
    if let Some(path) = &args.common.json {
        json::write(path, &figures)?;
    }
    Ok(())
}

fn experiment(
    method: &'static str,
    ratio: f64,
    args: &Args,
    data: &Splits,
    model: &ConvNet,
    kernels: &[Array4<f32>],
    dense_ms: &[f64],
) -> anyhow::Result<Row> {
    let device = Device::flex();
    let seed = args.common.seed(method);
    let mut chained = model.clone();
    let mut chains = Vec::new();
    let mut error = Vec::new();
    for (&stage, kernel) in STAGES.iter().zip(kernels) {
        let chain = decompose(method, kernel, ratio, seed)?;
        error.push(relative_error(kernel, &chain)?);
        chained = chained.with_links(stage, &chain.links());
        chains.push(chain);
    }
    let accuracy = chained.valid().accuracy(&data.test, &device)?;
    let tuning = Training {
        epochs: args.tune_epochs,
        rate: 1e-3,
        seed: args.common.seed("tuning"),
        ..Training::default()
    };
    let (tuned, _) = tuning.run(chained, &CrossEntropy::default(), &data.train, |_| Ok(None))?;
    let accuracy_tuned = tuned.valid().accuracy(&data.test, &device)?;

    let mut layer_ms = Vec::new();
    let (mut bytes, mut dense_bytes, mut parameters, mut work) = (0, 0, 0, 0);
    for ((&stage, kernel), chain) in STAGES.iter().zip(kernels).zip(&chains) {
        // What is measured and counted are the tuned weights.
        let chain = chain.with_links(&tuned.links(stage)?)?;
        let x = input(kernel, stage, seed);
        layer_ms.push(milliseconds(|| chain.apply(x.view()))?);
        bytes += chain.compressed().storage().bytes();
        dense_bytes += 4 * kernel.len();
        parameters += chain.links().iter().map(Array4::len).sum::<usize>();
        work += multiply_adds(&chain.links(), side(stage) * side(stage));
    }
    let total = |times: &[f64]| Array1::from(times.to_vec()).sum();
    Ok(Row {
        method,
        rank: chains.iter().map(Chain::rank).collect(),
        error,
        accuracy,
        accuracy_tuned,
        ratio_bytes: dense_bytes as f64 / bytes as f64,
        parameters,
        multiply_adds: work,
        time_ratio: total(dense_ms) / total(&layer_ms),
        layer_ms,
    })
}

fn report(figures: &Figures, kernels: &[Array4<f32>]) {
    let dense: usize = kernels.iter().map(Array4::len).sum();
    let work: usize = STAGES
        .iter()
        .zip(kernels)
        .map(|(&stage, kernel)| kernel.len() * side(stage) * side(stage))
        .sum();
    let list = |values: &[f64], digits: usize| {
        let values: Vec<String> = values.iter().map(|x| format!("{x:.digits$}")).collect();
        values.join(" + ")
    };
    let mut table = Table::new(
        "Two 3×3 convolutions of a network for MNIST, as chains",
        [
            "method",
            "rank",
            "error",
            "before %",
            "tuned %",
            "parameters",
            "÷ bytes",
            "M mult-adds",
            "layers ms",
            "÷ time",
        ],
    );
    table.row([
        "dense".to_owned(),
        String::new(),
        String::new(),
        format!("{:.2}", figures.baseline),
        String::new(),
        dense.to_string(),
        "1.0".to_owned(),
        format!("{:.2}", work as f64 / 1e6),
        list(&figures.dense_ms, 2),
        "1.0".to_owned(),
    ]);
    for row in &figures.rows {
        let ranks: Vec<String> = row.rank.iter().map(usize::to_string).collect();
        table.row([
            row.method.to_owned(),
            ranks.join(", "),
            row.error
                .iter()
                .map(|e| format!("{e:.2}"))
                .collect::<Vec<_>>()
                .join(", "),
            format!("{:.2}", row.accuracy),
            format!("{:.2}", row.accuracy_tuned),
            row.parameters.to_string(),
            format!("{:.1}", row.ratio_bytes),
            format!("{:.2}", row.multiply_adds as f64 / 1e6),
            list(&row.layer_ms, 2),
            format!("{:.1}", row.time_ratio),
        ]);
    }
    println!("{table}");
}
