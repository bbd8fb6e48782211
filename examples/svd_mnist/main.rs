//! Truncated SVD of a network for MNIST: accuracy over the share of kept singular values.
//!
//! Trains a network of 784-512-512-512-10; its three layers with 512 outputs then keep a share of their singular values. Accuracy is
//! measured directly; with re-estimated statistics of BatchNorm (training images, no labels); with factors that are optimal for the
//! outputs of the layers on these images; and after one epoch of training the factors. The test images are used once, at the end;
//! parameters are chosen with `--held-out`.

mod factored;
mod limit;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::Tensor;
use clap::Parser;
use ndarray::ArrayView2;
use serde::Serialize;
use std::path::PathBuf;
use support::args::Common;
use support::data::{Dataset, Splits, mnist};
use support::json;
use support::network::checkpoint::Checkpoint;
use support::network::distill::{Taught, Teacher};
use support::network::inference::{Network, Weight};
use support::network::mlp::{CrossEntropy, Mlp};
use support::network::statistics::{input_moments, reestimate};
use support::network::train::{Batch, Objective, Training};
use support::plot::{Axis, Mark, Plot, Scale, Series};
use support::report::Report;
use support::table::Table;
use support::timing::least_seconds;
use taper::distill::KnowledgeDistillation;
use taper::factorize::Rank;
use taper::factorize::svd::{LowRankMatrix, TruncatedSvd};
use taper::{Compressed, Factorizer, FitContext};

use factored::Factored;
use limit::{Limit, Limits};

support::fast_allocator!();

/// Published: share of the singular values, mean absolute error of the weights, accuracy in percent.
const PUBLISHED: [(f64, f64, f64); 4] = [
    (0.50, 0.013, 98.1),
    (0.10, 0.039, 97.4),
    (0.05, 0.048, 95.6),
    (0.03, 0.054, 90.8),
];
const PUBLISHED_BASELINE: f64 = 98.1;
/// Passes over the training images.
const EPOCHS: usize = 10;
/// The layers with this many outputs are factorized.
const WIDTH: usize = 512;
/// Number of training images for re-estimating the statistics of BatchNorm.
const STATISTICS: usize = 10_000;

#[derive(Debug, Parser)]
#[command(about)]
struct Args {
    #[command(flatten)]
    common: Common,

    /// Weight decay of the baseline: each step shrinks its weight matrices by this fraction.
    #[arg(long, default_value_t = 1e-3, value_name = "X")]
    weight_decay: f64,

    /// Epochs of training the factors.
    #[arg(long, default_value_t = 1, value_name = "N")]
    tuning_epochs: usize,

    /// The highest learning rate of training the factors.
    #[arg(long, default_value_t = 1e-3, value_name = "X")]
    tuning_rate: f64,

    /// Temperature at which the factors learn from the dense network.
    #[arg(long, default_value_t = 2.0, value_name = "T")]
    temperature: f64,

    /// Weight of the distillation in the loss, in [0, 1]; the labels have the rest.
    #[arg(long, default_value_t = 0.9, value_name = "α")]
    alpha: f64,

    /// Measures on the held-out training images instead of the test images, to choose parameters.
    #[arg(long)]
    held_out: bool,

    /// A folder for the trained networks; the next run loads them from there.
    #[arg(long, value_name = "FOLDER")]
    checkpoint: Option<PathBuf>,
}

impl Args {
    /// The folder of the training `name`, named after the settings that a [`Training`] does not hold.
    fn checkpoint(&self, name: &str) -> Option<Checkpoint> {
        let name = format!(
            "{name}-decay-{}-seed-{}",
            self.weight_decay, self.common.seed
        );
        self.checkpoint.as_ref().map(|folder| Checkpoint {
            folder: folder.join(name),
            every: 1,
        })
    }
}

#[derive(Debug, Serialize)]
struct Figures {
    seed: u64,
    epochs: usize,
    weight_decay: f64,
    tuning_epochs: usize,
    tuning_rate: f64,
    temperature: f64,
    alpha: f64,
    /// Whether accuracies are measured on the held-out images.
    held_out: bool,
    seconds: f64,
    baseline: f64,
    rows: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    /// Share of the singular values.
    kept: f64,
    rank: usize,
    /// Mean absolute error of the weights of the factorized layers.
    error: f64,
    /// Distance from the weights divided by their norm, root mean square over the layers.
    relative_error: f64,
    accuracy: f64,
    accuracy_bn: f64,
    /// With the factors that change the outputs least, and the old statistics.
    accuracy_data: f64,
    accuracy_tuned: f64,
    /// Bytes of the dense network divided by those of the factorized one.
    ratio_bytes: f64,
    /// Time of the dense forward pass divided by that of the factorized one.
    time_ratio: f64,
    limit: Limit,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut report = Report::new("svd_mnist");
    let mut data = mnist::load()?;
    if args.common.quick {
        data = data.first(5_000, 2_000, 2_000);
    }
    let Splits {
        train,
        held_out,
        test,
    } = &data;
    let (measured, images) = if args.held_out {
        (held_out, "held-out")
    } else {
        (test, "test")
    };

    let training = Training {
        epochs: args.common.epochs_or(EPOCHS, 2),
        seed: args.common.seed("training"),
        checkpoint: args.checkpoint("baseline"),
        ..Training::default()
    };
    report.say(&format!(
        "784-512-512-512-10 (Linear, BatchNorm, ReLU) on {} images of MNIST: {} epochs of Adam with a decoupled weight \
         decay of {} a step, seed {}. The three matrices with 512 outputs keep a share of their singular values. \
         Accuracies are measured on {} {images} images; weight decay and epochs were chosen with `--held-out`.",
        train.len(),
        training.epochs,
        args.weight_decay,
        args.common.seed,
        measured.len(),
    ));
    let model = Mlp::new(&[784, WIDTH, WIDTH, WIDTH, 10], args.common.seed("weights"))?;
    let objective = Decayed(args.weight_decay);
    let (model, _) = training.run(model, &objective, train, |model| {
        Ok(Some(model.export()?.accuracy(held_out)?))
    })?;
    let network = model.export()?;
    let baseline = network.accuracy(measured)?;

    let moments = input_moments(&network, train.first(STATISTICS).images.view())?;
    let limits = Limits::of(&network, &moments)?;
    let teacher = Teacher::new(&network, train, None, || {})?;
    let lesson = Taught {
        distiller: KnowledgeDistillation::new(args.temperature).alpha(args.alpha),
        teacher: &teacher,
        labels: &train.labels,
    };
    let mut rows = Vec::new();
    for (kept, ..) in PUBLISHED {
        rows.push(experiment(
            &args, &network, &limits, &lesson, kept, train, measured,
        )?);
    }
    let mut figures = Figures {
        seed: args.common.seed,
        epochs: training.epochs,
        weight_decay: args.weight_decay,
        tuning_epochs: args.tuning_epochs,
        tuning_rate: args.tuning_rate,
        temperature: args.temperature,
        alpha: args.alpha,
        held_out: args.held_out,
        seconds: 0.0,
        baseline,
        rows,
    };
    report.table(&table(&figures));
    report.say(&format!(
        "Error: mean absolute error of the weights; it is small because of weight decay, which BatchNorm compensates. \
         Relative: distance from the weights divided by their norm, which does not depend on weight decay. Accuracy: with the \
         factors instead of the weights, and no other change. New statistics: mean and variance of BatchNorm \
         re-estimated on {} training images without labels. By outputs: like accuracy, with the factors that change the \
         outputs of each layer least on these images. Trained: these factors and all other parameters, for {} more epochs, \
         from the labels and by distillation from the dense network. Bytes: of the whole network. Time: dense divided by \
         factorized, for the forward pass of {} images through the whole network.",
        train.len().min(STATISTICS),
        args.tuning_epochs,
        measured.len(),
    ));
    report.say(limit::EXPLANATION);
    let limits = figures.rows.iter().map(|row| (row.kept, &row.limit));
    report.table(&limit::table(limits));
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

/// Factorizes, re-estimates the statistics, trains the factors; measures after each step.
fn experiment(
    args: &Args,
    network: &Network,
    limits: &Limits<'_>,
    lesson: &Taught<'_, KnowledgeDistillation>,
    kept: f64,
    train: &Dataset,
    measured: &Dataset,
) -> anyhow::Result<Row> {
    let svd = TruncatedSvd::new(Rank::Fraction(kept)).seed(args.common.seed("svd"));
    let images = train.first(STATISTICS).images;
    let (mut small, plain) = truncated(network, |weight, _| svd.factorize(weight))?;
    let accuracy = small.accuracy(measured)?;
    reestimate(&mut small, images.view())?;
    let accuracy_bn = small.accuracy(measured)?;
    let (mut absolute, mut weights) = (0.0, 0);
    for (layer, factors) in network.layers.iter().zip(&plain) {
        if let (Weight::Dense(weight), Some(factors)) = (&layer.weight, factors) {
            let difference = factors.decompress()? - weight;
            absolute += difference.iter().map(|d| f64::from(d.abs())).sum::<f64>();
            weights += weight.len();
        }
    }

    let (mut small, factors) = truncated(network, |weight, layer| {
        svd.factorize_with(weight, FitContext::new().inputs(&limits.moments[layer]))
    })?;
    let accuracy_data = small.accuracy(measured)?;
    reestimate(&mut small, images.view())?;

    let training = Training {
        epochs: args.tuning_epochs,
        rate: args.tuning_rate,
        seed: args.common.seed("tuning"),
        checkpoint: args.checkpoint(&format!(
            "taught-{}-{}-{kept}-after-{}",
            args.temperature,
            args.alpha,
            args.common.epochs_or(EPOCHS, 2)
        )),
        ..Training::default()
    };
    let model = Factored::new(&small, &factors)?;
    let (model, _) = training.run(model, lesson, train, |_| Ok(None))?;
    let mut tuned = model.valid().export(&small)?;
    reestimate(&mut tuned, images.view())?;

    let limit = limits.limit(network, &plain, &factors)?;
    Ok(Row {
        kept,
        rank: factors
            .iter()
            .flatten()
            .map(LowRankMatrix::rank)
            .max()
            .unwrap_or(0),
        error: absolute / weights.max(1) as f64,
        relative_error: limit.weight_error,
        accuracy,
        accuracy_bn,
        accuracy_data,
        accuracy_tuned: tuned.accuracy(measured)?,
        ratio_bytes: network.bytes() as f64 / small.bytes() as f64,
        time_ratio: seconds(network, measured)? / seconds(&small, measured)?,
        limit,
    })
}

/// The network with each wide matrix replaced by the result of `factorize`, and these factors. `factorize` takes the matrix and the
/// number of its layer.
fn truncated(
    network: &Network,
    factorize: impl Fn(ArrayView2<'_, f32>, usize) -> taper::Result<LowRankMatrix<f32>>,
) -> anyhow::Result<(Network, Vec<Option<LowRankMatrix<f32>>>)> {
    let mut factors = Vec::new();
    let small = network.with_weights(|i, layer| -> taper::Result<_> {
        let low_rank = match &layer.weight {
            Weight::Dense(weight) if weight.nrows() == WIDTH => Some(factorize(weight.view(), i)?),
            _ => None,
        };
        factors.push(low_rank.clone());
        Ok(low_rank.map(Weight::compressed))
    })?;
    Ok((small, factors))
}

/// The shortest time of some forward passes over all images.
fn seconds(network: &Network, data: &Dataset) -> anyhow::Result<f64> {
    Ok(least_seconds(7, || network.logits(data.images.view()))?)
}

fn table(figures: &Figures) -> Table {
    let mut table = Table::new(
        format!(
            "Truncated SVD of the three layers with 512 outputs: accuracies in %; the dense network has {:.2} \
             (published: {PUBLISHED_BASELINE})",
            figures.baseline
        ),
        [
            "kept",
            "rank",
            "error",
            "published",
            "relative",
            "accuracy",
            "published",
            "new statistics",
            "by outputs",
            "trained",
            "bytes",
            "time",
        ],
    );
    for (row, (_, error, accuracy)) in figures.rows.iter().zip(PUBLISHED) {
        table.row([
            format!("{:.0} %", 100.0 * row.kept),
            row.rank.to_string(),
            format!("{:.4}", row.error),
            format!("{error:.3}"),
            format!("{:.3}", row.relative_error),
            format!("{:.2}", row.accuracy),
            format!("{accuracy:.1}"),
            format!("{:.2}", row.accuracy_bn),
            format!("{:.2}", row.accuracy_data),
            format!("{:.2}", row.accuracy_tuned),
            format!("{:.1} ×", row.ratio_bytes),
            format!("{:.1} ×", row.time_ratio),
        ]);
    }
    table
}

fn plot(figures: &Figures) -> Plot {
    let series = |name: &str, value: &dyn Fn(&Row) -> f64| {
        let points = figures
            .rows
            .iter()
            .map(|row| (100.0 * row.kept, value(row)));
        Series::new(name, Mark::Line, points)
    };
    let published = PUBLISHED.map(|(kept, _, accuracy)| (100.0 * kept, accuracy));
    Plot {
        title: "Truncated SVD of a network for MNIST".into(),
        x: Axis::new("singular values kept (%)", Scale::Log),
        y: Axis::new("test accuracy (%)", Scale::Linear),
        series: vec![
            series("truncated", &|row| row.accuracy),
            series("statistics re-estimated", &|row| row.accuracy_bn),
            series("truncated by outputs", &|row| row.accuracy_data),
            series("factors trained for an epoch", &|row| row.accuracy_tuned),
            Series::new("published", Mark::Dashed, published),
        ],
    }
}

/// Cross-entropy with decoupled weight decay (I. Loshchilov and F. Hutter, 2017, arXiv:1711.05101) on matrices.
///
/// With BatchNorm the scale of these matrices has no effect on the output. Decay shrinks what the data does not keep large, so that the
/// spectra fall faster.
struct Decayed(f64);

impl Objective<Mlp> for Decayed {
    fn loss(&self, model: &Mlp, batch: &Batch) -> Tensor<1> {
        CrossEntropy::default().loss(model, batch)
    }

    fn after_step(&self, model: Mlp) -> Mlp {
        if self.0 == 0.0 {
            model
        } else {
            model.map(&mut Shrink(1.0 - self.0))
        }
    }
}

struct Shrink(f64);

impl ModuleMapper for Shrink {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if D < 2 {
            return param;
        }
        let factor = self.0;
        param.map(|tensor| {
            let tracked = tensor.is_require_grad();
            Tensor::from_inner(tensor.inner() * factor).set_require_grad(tracked)
        })
    }
}
