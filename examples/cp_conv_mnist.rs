//! CP and Tucker decompositions of the convolutions of a network for MNIST.
//!
//! Trains a network of three 3×3 convolutions. CP (by ALS and by ADMM) and Tucker-2 then replace the second and the third by chains of
//! small convolutions, at several ranks. Accuracy is measured directly afterwards, and again after further training of the whole network
//! with the chains. The test images are used once, at the end; parameters are chosen with `--held-out`.

use std::path::PathBuf;

use burn::module::Module;
use burn::tensor::Device;
use clap::Parser;
use ndarray::{Array4, ArrayView4};
use serde::Serialize;
use support::args::Common;
use support::data::{Dataset, Splits, mnist};
use support::json;
use support::network::checkpoint::Checkpoint;
use support::network::conv::{ConvNet, convolution, tensor};
use support::network::mlp::CrossEntropy;
use support::network::train::Training;
use support::plot::{Axis, Mark, Plot, Scale, Series};
use support::random;
use support::report::Report;
use support::table::{Table, bytes};
use support::timing::least_seconds;
use taper::Geometry;
use taper::factorize::Rank;
use taper::factorize::convolution::{CpConv2d, Tucker2, TuckerConv2d, conv2d};
use taper::factorize::cp::{Constraint, CpAdmm, CpAls};
use taper::limit::UnfoldingLimit;
use taper::{Compressed, Factorizer, Precision, Seed};

support::fast_allocator!();

/// Decomposes the convolutions of a network for MNIST: accuracy, size and time of the chains.
#[derive(Debug, Parser)]
#[command(about)]
struct Args {
    #[command(flatten)]
    common: Common,

    /// Channels after each of the three convolutions.
    #[arg(long, num_args = 3, default_values_t = [32, 64, 64], value_name = "N")]
    widths: Vec<usize>,

    /// Bytes of the dense kernels divided by those of the chains; default 4.2, with `--full` 4.2, 9 and 18.
    #[arg(long, num_args = 1.., value_name = "RATIO")]
    ratios: Vec<f64>,

    /// Passes over the training images with the chains; default 3.
    #[arg(long, value_name = "N")]
    tuning_epochs: Option<usize>,

    /// The highest learning rate with the chains.
    #[arg(long, default_value_t = 1e-3, value_name = "X")]
    tuning_rate: f64,

    /// Number of training images; default 12,000, with `--full` 50,000.
    #[arg(long, value_name = "N")]
    images: Option<usize>,

    /// Uses all training images, more epochs and more ratios.
    #[arg(long)]
    full: bool,

    /// Measures on the held-out training images instead of the test images, to choose parameters.
    #[arg(long)]
    held_out: bool,

    /// A folder for the trained networks; the next run loads them from there.
    #[arg(long, value_name = "FOLDER")]
    checkpoint: Option<PathBuf>,
}

impl Args {
    fn epochs(&self) -> usize {
        self.common.epochs_or(if self.full { 8 } else { 5 }, 1)
    }

    fn tuning_epochs(&self) -> usize {
        let usual = if self.common.quick { 1 } else { 3 };
        self.tuning_epochs.unwrap_or(usual)
    }

    fn ratios(&self) -> &[f64] {
        match (self.ratios.as_slice(), self.full) {
            ([], true) => &[4.2, 9.0, 18.0],
            ([], false) => &[4.2],
            (ratios, _) => ratios,
        }
    }

    /// The folder of the training `name`, named after the settings that a [`Training`] does not hold.
    fn checkpoint(&self, name: &str) -> Option<Checkpoint> {
        let widths: Vec<String> = self.widths.iter().map(usize::to_string).collect();
        let (widths, seed, epochs) = (widths.join("-"), self.common.seed, self.epochs());
        self.checkpoint.as_ref().map(|folder| Checkpoint {
            folder: folder.join(format!("{name}-{widths}-after-{epochs}-seed-{seed}")),
            every: 1,
        })
    }
}

/// The two stages that are decomposed.
const STAGES: [usize; 2] = [1, 2];
const GEOMETRY: Geometry = Geometry {
    stride: [1, 1],
    padding: [1, 1],
    dilation: [1, 1],
};
const METHODS: [&str; 3] = ["cp-als", "cp-admm", "tucker2"];
/// Images per measured batch.
const BATCH: usize = 64;

#[derive(Debug, Serialize)]
struct Figures {
    seed: u64,
    widths: Vec<usize>,
    images: usize,
    epochs: usize,
    tuning_epochs: usize,
    tuning_rate: f64,
    /// Whether accuracies are measured on the held-out images.
    held_out: bool,
    baseline: f64,
    dense: Dense,
    rows: Vec<Row>,
    seconds: f64,
}

/// The dense layers before the decomposition.
#[derive(Debug, Serialize)]
struct Dense {
    parameters: usize,
    bytes: u64,
    multiply_adds: usize,
    /// Milliseconds per batch of each layer, with taper's convolution and with burn's.
    taper_ms: Vec<f64>,
    burn_ms: Vec<f64>,
}

impl Dense {
    /// Milliseconds per batch of each layer with the faster of the two.
    fn layer_ms(&self) -> Vec<f64> {
        let pairs = self.taper_ms.iter().zip(&self.burn_ms);
        pairs.map(|(a, b)| a.min(*b)).collect()
    }
}

#[derive(Debug, Serialize)]
struct Row {
    method: &'static str,
    /// The rank of each layer; for Tucker-2 that of the output side.
    rank: Vec<usize>,
    /// Relative error of each kernel.
    error: Vec<f64>,
    /// The lower bound of the error, from the unfoldings of the kernel.
    least_error: Vec<f64>,
    /// The accuracy in percent.
    accuracy: f64,
    accuracy_tuned: f64,
    bytes: u64,
    /// Dense bytes divided by those of the chains, both layers together.
    ratio_bytes: f64,
    /// The number of values of the chains.
    parameters: usize,
    /// Multiply-adds of the chains per image.
    multiply_adds: usize,
    /// Milliseconds per batch of each layer.
    layer_ms: Vec<f64>,
    /// Time of the dense layers divided by that of the chains.
    time_ratio: f64,
}

/// The decomposition of a kernel.
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

    /// The lower bound of the squared error for these ranks, divided by the squared norm of the kernel.
    fn least_error(&self, limit: &UnfoldingLimit) -> taper::Result<f64> {
        let squared = match self {
            Self::Cp(chain) => limit.cp_squared_error(chain.rank())?,
            Self::Tucker(chain) => {
                let shape = chain.shape();
                let [outputs, inputs] = chain.ranks();
                limit.tucker_squared_error(&[outputs, inputs, shape[2], shape[3]])?
            }
        };
        Ok((squared / limit.squared_norm()).sqrt())
    }

    fn apply(&self, x: ArrayView4<'_, f32>) -> taper::Result<Array4<f32>> {
        match self {
            Self::Cp(chain) => chain.apply(x),
            Self::Tucker(chain) => chain.apply(x),
        }
    }

    /// The chain with trained links.
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
            let fit = CpAls::new(rank).seed(seed).factorize(kernel.view())?;
            Chain::Cp(CpConv2d::new(&fit, None, GEOMETRY)?)
        }
        "cp-admm" => {
            // Bounded entries: the chain has a bounded norm, so that training can continue from it.
            let admm = CpAdmm::new(rank).all(Constraint::Ridge(1e-2)).seed(seed);
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

/// The side of the input images of stage `stage`.
fn side(stage: usize) -> usize {
    28 >> stage
}

/// Multiply-adds of links on an image of `pixels` pixels: one per value and pixel, since no link has a stride.
fn multiply_adds(links: &[Array4<f32>], pixels: usize) -> usize {
    links.iter().map(|kernel| kernel.len()).sum::<usize>() * pixels
}

/// The least time of several runs, in milliseconds.
fn milliseconds<T>(f: impl FnMut() -> taper::Result<T>) -> anyhow::Result<f64> {
    Ok(1e3 * least_seconds(15, f)?)
}

fn input(kernel: &Array4<f32>, stage: usize, seed: Seed) -> Array4<f32> {
    let mut i = 0;
    Array4::from_shape_simple_fn((BATCH, kernel.shape()[1], side(stage), side(stage)), || {
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
    let mut report = Report::new("cp_conv_mnist");
    let mut data = mnist::load()?;
    let images = match args.images {
        Some(images) => images,
        None if args.full => data.train.len(),
        None => 12_000,
    };
    data.train = data.train.first(images);
    if args.common.quick {
        data = data.first(2_000, 500, 500);
    }
    let (measured, name) = if args.held_out {
        (&data.held_out, "held-out")
    } else {
        (&data.test, "test")
    };
    let &[a, b, c] = args.widths.as_slice() else {
        anyhow::bail!("--widths needs three values");
    };
    report.say(&format!(
        "3×3 convolutions of {a}, {b} and {c} channels (BatchNorm and ReLU after each, pooling after the first two), the \
         mean over the image and a linear layer, on {} images of MNIST: {} epochs of Adam, seed {}. The second and the \
         third convolution are replaced by chains; the whole network is then trained for {} more epochs. Accuracies are measured \
         on {} {name} images; parameters were chosen with `--held-out`.",
        data.train.len(),
        args.epochs(),
        args.common.seed,
        args.tuning_epochs(),
        measured.len(),
    ));
    let device = Device::flex();
    let training = Training {
        epochs: args.epochs(),
        seed: args.common.seed("training"),
        checkpoint: args.checkpoint("baseline"),
        ..Training::default()
    };
    let model = ConvNet::new([a, b, c], args.common.seed("weights"));
    let (model, _) = training.run(model, &CrossEntropy::default(), &data.train, |model| {
        Ok(Some(model.accuracy(&data.held_out.first(2_000), &device)?))
    })?;
    let baseline = model.valid().accuracy(measured, &device)?;

    let kernels = STAGES.map(|stage| model.kernel(stage));
    let kernels = kernels.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let dense = dense(&kernels, args.common.seed("images"))?;
    let experiment = Experiment {
        args: &args,
        data: &data,
        measured,
        model: &model,
        kernels: &kernels,
        dense_ms: dense.layer_ms(),
    };
    let mut rows = Vec::new();
    for &ratio in args.ratios() {
        for method in METHODS {
            rows.push(experiment.row(method, ratio)?);
        }
    }
    let mut figures = Figures {
        seed: args.common.seed,
        widths: args.widths.clone(),
        images: data.train.len(),
        epochs: training.epochs,
        tuning_epochs: args.tuning_epochs(),
        tuning_rate: args.tuning_rate,
        held_out: args.held_out,
        baseline,
        dense,
        rows,
        seconds: 0.0,
    };
    report.table(&table(&figures));
    report.say(&format!(
        "Error: distance from each kernel divided by its norm. Least: lower bound of the error at this rank, from the ranks of the \
         kernel's unfoldings (CP rarely reaches it). Before: with the chains instead of the kernels, and no other \
         change. Tuned: after the further epochs. Times are those of the two layers for a batch of {BATCH} images: taper's \
         `apply` for the chains, and for the dense layers the faster of taper's `conv2d` ({} ms) and burn's ({} ms).",
        list(&figures.dense.taper_ms),
        list(&figures.dense.burn_ms),
    ));
    if args.checkpoint.is_some() {
        report.say(
            "Some networks came from checkpoints; the time below does not include their training.",
        );
    }
    figures.seconds = report.finish(args.common.markdown.as_deref())?;
    if let Some(path) = &args.common.json {
        json::write(path, &figures)?;
    }
    if let Some(path) = &args.common.plot {
        plot(&figures).save(path)?;
    }
    Ok(())
}

fn dense(kernels: &[Array4<f32>], seed: Seed) -> anyhow::Result<Dense> {
    let device = Device::flex();
    let (mut taper_ms, mut burn_ms, mut work) = (Vec::new(), Vec::new(), 0);
    for (&stage, kernel) in STAGES.iter().zip(kernels) {
        let x = input(kernel, stage, seed);
        taper_ms.push(milliseconds(|| {
            conv2d(x.view(), kernel.view(), None, GEOMETRY)
        })?);
        let layer = convolution(kernel, 1, &device);
        let x = tensor(x.view(), &device);
        burn_ms.push(milliseconds(|| Ok(layer.forward(x.clone())))?);
        work += kernel.len() * side(stage) * side(stage);
    }
    let parameters: usize = kernels.iter().map(|kernel| kernel.len()).sum();
    Ok(Dense {
        parameters,
        bytes: 4 * parameters as u64,
        multiply_adds: work,
        taper_ms,
        burn_ms,
    })
}

/// The common parts of the experiments.
struct Experiment<'a> {
    args: &'a Args,
    data: &'a Splits,
    measured: &'a Dataset,
    model: &'a ConvNet,
    kernels: &'a [Array4<f32>],
    dense_ms: Vec<f64>,
}

impl Experiment<'_> {
    /// Decomposes, then trains further; measures after each step.
    fn row(&self, method: &'static str, ratio: f64) -> anyhow::Result<Row> {
        let device = Device::flex();
        let common = &self.args.common;
        let mut chained = self.model.clone();
        let mut chains = Vec::new();
        let (mut error, mut least_error) = (Vec::new(), Vec::new());
        for (&stage, kernel) in STAGES.iter().zip(self.kernels) {
            let chain = decompose(method, kernel, ratio, common.seed(method))?;
            error.push(relative_error(kernel, &chain)?);
            least_error.push(chain.least_error(&UnfoldingLimit::of(kernel.view())?)?);
            chained = chained.with_links(stage, &chain.links());
            chains.push(chain);
        }
        let accuracy = chained.valid().accuracy(self.measured, &device)?;
        let tuning = Training {
            epochs: self.args.tuning_epochs(),
            rate: self.args.tuning_rate,
            seed: common.seed("tuning"),
            checkpoint: self.args.checkpoint(&format!("{method}-{ratio}")),
            ..Training::default()
        };
        let images = &self.data.train;
        let (tuned, _) = tuning.run(chained, &CrossEntropy::default(), images, |_| Ok(None))?;
        let accuracy_tuned = tuned.valid().accuracy(self.measured, &device)?;

        let mut layer_ms = Vec::new();
        let (mut bytes, mut parameters, mut work) = (0, 0, 0);
        for ((&stage, kernel), chain) in STAGES.iter().zip(self.kernels).zip(&chains) {
            // Time and size are those of the tuned weights.
            let chain = chain.with_links(&tuned.links(stage)?)?;
            let x = input(kernel, stage, common.seed("images"));
            layer_ms.push(milliseconds(|| chain.apply(x.view()))?);
            bytes += chain.compressed().storage().bytes();
            parameters += chain
                .links()
                .iter()
                .map(|kernel| kernel.len())
                .sum::<usize>();
            work += multiply_adds(&chain.links(), side(stage) * side(stage));
        }
        let dense: usize = self.kernels.iter().map(|kernel| kernel.len()).sum();
        let total = |times: &[f64]| times.iter().sum::<f64>();
        Ok(Row {
            method,
            rank: chains.iter().map(Chain::rank).collect(),
            error,
            least_error,
            accuracy,
            accuracy_tuned,
            bytes,
            ratio_bytes: 4.0 * dense as f64 / bytes as f64,
            parameters,
            multiply_adds: work,
            time_ratio: total(&self.dense_ms) / total(&layer_ms),
            layer_ms,
        })
    }
}

fn list(milliseconds: &[f64]) -> String {
    let values: Vec<String> = milliseconds.iter().map(|x| format!("{x:.2}")).collect();
    values.join(" + ")
}

fn table(figures: &Figures) -> Table {
    let mut table = Table::new(
        "Two 3×3 convolutions of a network for MNIST, replaced by chains (accuracies in %)",
        [
            "method",
            "rank",
            "error",
            "least",
            "before",
            "tuned",
            "parameters",
            "bytes",
            "smaller",
            "M mult-adds",
            "layers, ms",
            "faster",
        ],
    );
    let dense = &figures.dense;
    table.row([
        "dense".to_owned(),
        String::new(),
        String::new(),
        String::new(),
        format!("{:.2}", figures.baseline),
        String::new(),
        dense.parameters.to_string(),
        bytes(dense.bytes),
        "1.0 ×".to_owned(),
        format!("{:.2}", dense.multiply_adds as f64 / 1e6),
        list(&dense.layer_ms()),
        "1.0 ×".to_owned(),
    ]);
    for row in &figures.rows {
        let ranks: Vec<String> = row.rank.iter().map(usize::to_string).collect();
        let list = |errors: &[f64]| -> String {
            let errors: Vec<String> = errors.iter().map(|e| format!("{e:.2}")).collect();
            errors.join(", ")
        };
        table.row([
            row.method.to_owned(),
            ranks.join(", "),
            list(&row.error),
            list(&row.least_error),
            format!("{:.2}", row.accuracy),
            format!("{:.2}", row.accuracy_tuned),
            row.parameters.to_string(),
            bytes(row.bytes),
            format!("{:.1} ×", row.ratio_bytes),
            format!("{:.2}", row.multiply_adds as f64 / 1e6),
            list(&row.layer_ms),
            format!("{:.1} ×", row.time_ratio),
        ]);
    }
    table
}

/// Plots accuracy over the bytes of the two layers.
fn plot(figures: &Figures) -> Plot {
    let kilobytes = |bytes: u64| bytes as f64 / 1e3;
    let mut ends = [f64::INFINITY, f64::NEG_INFINITY];
    let sizes = figures.rows.iter().map(|row| row.bytes);
    for size in sizes.chain([figures.dense.bytes]).map(kilobytes) {
        ends = [ends[0].min(size), ends[1].max(size)];
    }
    let mut series = vec![
        Series::new(
            "not decomposed",
            Mark::Dashed,
            ends.map(|size| (size, figures.baseline)),
        )
        .color(0),
    ];
    for (i, method) in METHODS.into_iter().enumerate() {
        let rows = || figures.rows.iter().filter(|row| row.method == method);
        let tuned = rows().map(|row| (kilobytes(row.bytes), row.accuracy_tuned));
        series.push(Series::new(format!("{method}, tuned"), Mark::Line, tuned).color(i + 1));
        let before = rows().map(|row| (kilobytes(row.bytes), row.accuracy));
        series.push(Series::new(format!("{method}, before"), Mark::Dashed, before).color(i + 1));
    }
    Plot {
        title: "Two convolutions of a network for MNIST, replaced by chains".into(),
        x: Axis::new("size of the two layers, kB", Scale::Log),
        y: Axis::new("accuracy, %", Scale::Linear),
        series,
    }
}
