//! Deep compression of LeNet-300-100 on MNIST: prune, quantize, entropy-code, and fine-tune by distillation.
//!
//! S. Han, H. Mao and W. Dally, "Deep Compression", 2015, arXiv:1510.00149: from 1070 KB to 27 KB without loss. This experiment prunes the
//! network by magnitude in rounds, quantizes the kept weights with a small codebook per layer, and trains the codebooks through
//! [`taper::Trainable`]. The container entropy-codes positions and codes. All training uses taper's `Distiller` with the dense network
//! as a teacher. For comparison, the other methods compress the same network.
//!
//! Everything is chosen on the last 10,000 training images; the test images are used once, at the end. Sizes are the lengths of files:
//! of the container, which is read back before it is measured, and of plain safetensors for the dense network.

mod network;
mod operator;
mod recipes;

use anyhow::Context;
use clap::Parser;
use ndarray::Array2;
use serde::Serialize;
use support::args::Common;
use support::data::{Splits, mnist};
use support::json;
use support::network::schedule::Schedule;
use support::plot::{Axis, Mark, Plot, Scale, Series};
use support::progress::bar;
use support::report::Report;
use support::table::{Table, bytes};
use taper::LinearOp;
use taper::distill::KnowledgeDistillation;
use taper::prune::{Keep, MagnitudePruner, Sparsity};

use network::{Lesson, Plain, Training};
use operator::{Operator, SPARSE};
use recipes::{Candidate, Teaching};

support::fast_allocator!();

/// The widths of the network, from the image to the classes.
const WIDTHS: [usize; 4] = [mnist::PIXELS, 300, 100, mnist::CLASSES];
/// Published: error before and after in percent, times smaller.
const PUBLISHED: (f64, f64, f64) = (1.64, 1.58, 40.0);
/// Scale of the pixels, from 0 for the background to about 1.1.
const CONTRAST: f32 = 0.4;

#[derive(Debug, Parser)]
#[command(about = "Deep compression of LeNet-300-100 on MNIST, and other ways to make it small")]
struct Args {
    #[command(flatten)]
    common: Common,

    /// Shares of kept weights, in falling order; the network is fine-tuned at each and then pruned further.
    #[arg(long, value_delimiter = ',', value_name = "SHARE,…")]
    keep: Option<Vec<f64>>,

    /// Sizes of the codebooks.
    #[arg(long, value_delimiter = ',', value_name = "K,…")]
    centroids: Option<Vec<usize>>,

    /// Passes over the training images after each pruning.
    #[arg(long, value_name = "N")]
    tuning_epochs: Option<usize>,

    /// Dropout of hidden values in the training of the dense network.
    #[arg(long, default_value_t = 0.3, value_name = "CHANCE")]
    dropout: f64,

    /// Number of dense networks in the ensemble that teaches; the first one is compressed.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    teachers: u64,

    /// Temperature of the distillation.
    #[arg(long, default_value_t = 3.0, value_name = "T")]
    temperature: f64,

    /// Weight of the distillation in the loss, in [0, 1].
    #[arg(long, default_value_t = 0.9, value_name = "α")]
    alpha: f64,
}

#[derive(Debug, Serialize)]
struct Figures {
    seed: u64,
    epochs: usize,
    teachers: u64,
    tuning_epochs: usize,
    quick: bool,
    baseline_error: f64,
    baseline_held_out_error: f64,
    /// Error of the dense network, fine-tuned in the same way as the compressed ones.
    baseline_taught_error: f64,
    error: f64,
    held_out_error: f64,
    recipe: String,
    dense_bytes: u64,
    file_bytes: u64,
    ratio: f64,
    pareto: Vec<Point>,
    limit: Vec<Point>,
    seconds: f64,
}

/// The figures of one method.
#[derive(Debug, Clone, Serialize)]
struct Point {
    recipe: String,
    bytes: u64,
    accuracy: f64,
    held_out_accuracy: f64,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let common = &args.common;
    let mut report = Report::new("pipeline_mnist");
    let data = load(common.quick)?;
    let epochs = common.epochs_or(20, 2);
    let tuning_epochs = args
        .tuning_epochs
        .unwrap_or(if common.quick { 1 } else { 36 });
    report.say(&format!(
        "LeNet-300-100 (784-300-100-10, ReLU) on {} images of MNIST, {epochs} epochs of Adam with dropout {}, seed {}; {} \
         training images are held out, {} images are for the test. All later training uses the labels and {} such networks, \
         including this one, as teachers.",
        data.train.len(),
        args.dropout,
        common.seed,
        data.held_out.len(),
        data.test.len(),
        args.teachers,
    ));

    let ensemble = train(&args, epochs, &data)?;
    let dense = ensemble.first().context("no network was trained")?.clone();
    let said = network::teach(&ensemble, data.train.images.view(), args.temperature)?;
    let distiller = KnowledgeDistillation::new(args.temperature).alpha(args.alpha);
    let teaching = Teaching {
        data: &data.train,
        lesson: Lesson {
            distiller: &distiller,
            teacher: Some(&said),
        },
        seed: common.seed("tuning"),
    };
    let taught = recipes::taught(&dense, &teaching, if common.quick { 1 } else { 4 })?;
    let mut candidates = recipes::others(&dense, &teaching, common.quick)?;
    candidates.extend(prune(&args, &dense, &teaching, tuning_epochs)?);

    // The choice uses the held-out images: the smallest file with no more errors than the dense network.
    let held_out_error = |network: &Plain| network.error(&data.held_out);
    let baseline_held_out_error = held_out_error(&dense);
    let held_out: Vec<f64> = candidates
        .iter()
        .map(|c| held_out_error(&c.network))
        .collect();
    let fitting = candidates
        .iter()
        .zip(&held_out)
        .filter(|(_, error)| **error <= baseline_held_out_error)
        .min_by_key(|(candidate, _)| candidate.bytes);
    let (chosen, chosen_held_out) = match fitting {
        Some(fitting) => fitting,
        // If there is none, the file with the fewest errors.
        None => candidates
            .iter()
            .zip(&held_out)
            .min_by(|a, b| a.1.total_cmp(b.1))
            .context("no candidate")?,
    };

    let limit = recipes::limit(&dense, common.seed("limit"))?;
    let baseline_error = dense.error(&data.test);
    let baseline_taught_error = taught.error(&data.test);
    let point = |candidate: &Candidate, held_out_error: f64| Point {
        recipe: candidate.recipe.clone(),
        bytes: candidate.bytes,
        accuracy: 100.0 - candidate.network.error(&data.test),
        held_out_accuracy: 100.0 - held_out_error,
    };
    let dense_bytes = recipes::dense_bytes(&dense)?;
    let mut pareto: Vec<Point> = candidates
        .iter()
        .zip(&held_out)
        .map(|(candidate, &held_out_error)| point(candidate, held_out_error))
        .collect();
    pareto.sort_by_key(|point| std::cmp::Reverse(point.bytes));
    let limit: Vec<Point> = limit
        .iter()
        .map(|candidate| point(candidate, held_out_error(&candidate.network)))
        .collect();
    let error = chosen.network.error(&data.test);
    let ratio = dense_bytes as f64 / chosen.bytes as f64;
    tell(&mut report, &pareto, &limit, &chosen.recipe, dense_bytes);
    report.say(&format!(
        "Chosen on the held-out images, as the smallest file with no more errors than the dense network: {}. Error {error:.2} % \
         at {} ({ratio:.1} times smaller than {}); the dense network has {baseline_error:.2} % ({baseline_taught_error:.2} % when \
         fine-tuned in the same way). Published: {:.2} % before, {:.2} % after, {:.0} times smaller.",
        chosen.recipe,
        bytes(chosen.bytes),
        bytes(dense_bytes),
        PUBLISHED.0,
        PUBLISHED.1,
        PUBLISHED.2,
    ));
    let figures = Figures {
        seed: common.seed,
        epochs,
        teachers: args.teachers,
        tuning_epochs,
        quick: common.quick,
        baseline_error,
        baseline_held_out_error,
        baseline_taught_error,
        error,
        held_out_error: *chosen_held_out,
        recipe: chosen.recipe.clone(),
        dense_bytes,
        file_bytes: chosen.bytes,
        ratio,
        pareto,
        limit,
        seconds: report.finish(common.markdown.as_deref())?,
    };
    if let Some(path) = &common.json {
        json::write(path, &figures)?;
    }
    if let Some(path) = &common.plot {
        plot(&figures).save(path)?;
    }
    Ok(())
}

/// MNIST with a background of zero.
fn load(quick: bool) -> anyhow::Result<Splits> {
    let mut data = mnist::load()?;
    if quick {
        data = data.first(4_000, 1_000, 1_000);
    }
    for part in [&mut data.train, &mut data.held_out, &mut data.test] {
        part.images
            .mapv_inplace(|x| CONTRAST * (x - mnist::BACKGROUND));
    }
    Ok(data)
}

/// Trains the networks of the ensemble, which differ only in their seeds.
fn train(args: &Args, epochs: usize, data: &Splits) -> anyhow::Result<Vec<Plain>> {
    let labels_alone = KnowledgeDistillation::new(1.0).alpha(0.0);
    let lesson = Lesson {
        distiller: &labels_alone,
        teacher: None,
    };
    let bar = bar("training", epochs * args.teachers as usize);
    let networks = (0..args.teachers).map(|member| {
        // The first has the seeds of a single network.
        let seed = |name| match member {
            0 => args.common.seed(name),
            _ => args.common.seed(name).derive(member),
        };
        let training = Training {
            epochs,
            batch: 128,
            rate: 1.5e-3,
            schedule: Schedule::Cosine { warmup: 0.1 },
            dropout: args.dropout,
            seed: seed("training"),
        };
        let mut network = Plain::new(&WIDTHS, seed("weights"));
        training.run(&mut network, &data.train, &lesson, || bar.inc(1))?;
        Ok(network)
    });
    let networks = networks.collect();
    bar.finish();
    networks
}

/// The pipeline: a codebook of each size for each share of kept weights.
fn prune(
    args: &Args,
    dense: &Plain,
    teaching: &Teaching<'_>,
    epochs: usize,
) -> anyhow::Result<Vec<Candidate>> {
    let quick = args.common.quick;
    let keeps = args.keep.clone().unwrap_or(if quick {
        vec![0.2, 0.05]
    } else {
        vec![0.3, 0.12, 0.07, 0.055, 0.047, 0.042]
    });
    let centroids = args
        .centroids
        .clone()
        .unwrap_or(if quick { vec![8] } else { vec![8, 12] });
    let mut network = dense.clone();
    let mut candidates = Vec::new();
    let bar = bar("pruning", keeps.len());
    for (round, &keep) in keeps.iter().enumerate() {
        let weights: Vec<Array2<f32>> = network
            .layers
            .iter()
            .map(|layer| layer.weight.matrix())
            .collect();
        let views: Vec<_> = weights.iter().map(|array| array.view()).collect();
        // Magnitudes are compared over all layers: the largest weights of the network are kept.
        let pruner = MagnitudePruner::new(Sparsity::Unstructured(Keep::Fraction(keep)));
        for (layer, left) in network.layers.iter_mut().zip(pruner.prune(&views)?) {
            let left = left.decompress_matrix()?;
            layer.weight = Operator::of(left, keep);
        }
        // The cost of a step is proportional to the number of kept weights, so that long training is cheap for few.
        let epochs = if keep > SPARSE {
            epochs.div_ceil(9)
        } else {
            epochs
        };
        let training = Training {
            epochs,
            batch: 128,
            rate: 2e-3,
            schedule: Schedule::Cosine { warmup: 0.05 },
            dropout: 0.0,
            seed: teaching.seed.derive(round as u64),
        };
        training.run(&mut network, teaching.data, &teaching.lesson, || {})?;
        candidates.push(recipes::pruned(&network, keep)?);
        if keep <= 0.1 {
            for &k in &centroids {
                candidates.push(recipes::pruned_and_shared(
                    &network, keep, k, teaching, quick,
                )?);
            }
        }
        bar.inc(1);
    }
    bar.finish();
    Ok(candidates)
}

fn tell(report: &mut Report, pareto: &[Point], limit: &[Point], chosen: &str, dense_bytes: u64) {
    let mut table = Table::new(
        "Accuracy over size (bytes of the container, with biases and header)",
        ["recipe", "bytes", "smaller", "held out, %", "test, %"],
    );
    for point in pareto {
        let mark = if point.recipe == chosen {
            " (chosen)"
        } else {
            ""
        };
        table.row([
            format!("{}{mark}", point.recipe),
            point.bytes.to_string(),
            format!("{:.1}×", dense_bytes as f64 / point.bytes as f64),
            format!("{:.2}", point.held_out_accuracy),
            format!("{:.2}", point.accuracy),
        ]);
    }
    report.table(&table);
    report.say(
        "The limit below is computed, without a file: the trained weights without fine-tuning, plus noise with the least squared \
         error of any code with as many bits, if the weights are independent draws from the histogram of their layer (the forward \
         test channel of a Gaussian at that error). Fine-tuned models can pass it, since fine-tuning moves the weights.",
    );
    let mut table = Table::new(
        "The limit without fine-tuning",
        ["bits per weight", "bytes", "test, %"],
    );
    for point in limit {
        table.row([
            point.recipe.clone(),
            point.bytes.to_string(),
            format!("{:.2}", point.accuracy),
        ]);
    }
    report.table(&table);
}

fn plot(figures: &Figures) -> Plot {
    let families = [
        ("fixed point", "fixed"),
        ("binary", "binary"),
        ("product quantization", "PQ"),
        ("low rank", "SVD"),
        ("pruned", "pruned"),
    ];
    let mut series: Vec<Series> = families
        .iter()
        .enumerate()
        .map(|(i, (name, start))| {
            let points = figures.pareto.iter().filter(|point| {
                let shared = point.recipe.contains("codebook");
                point.recipe.starts_with(start) && !shared
            });
            let points = points.map(|point| (point.bytes as f64 / 1e3, point.accuracy));
            Series::new(*name, Mark::Points, points).color(i + 1)
        })
        .filter(|series| !series.points.is_empty())
        .collect();
    let shared = figures
        .pareto
        .iter()
        .filter(|point| point.recipe.contains("codebook"));
    let shared = shared.map(|point| (point.bytes as f64 / 1e3, point.accuracy));
    series.push(Series::new("pruned, codebook, coded", Mark::Points, shared).color(6));
    let limit = figures
        .limit
        .iter()
        .map(|point| (point.bytes as f64 / 1e3, point.accuracy));
    series.push(Series::new("limit without fine-tuning", Mark::Dashed, limit).color(0));
    let least = figures.pareto.iter().map(|p| p.bytes).min().unwrap_or(1) as f64 / 1e3;
    let baseline = 100.0 - figures.baseline_error;
    let ends = [
        (least, baseline),
        (figures.dense_bytes as f64 / 1e3, baseline),
    ];
    series.push(Series::new("dense", Mark::Dashed, ends).color(3));
    Plot {
        title: "LeNet-300-100 on MNIST".to_owned(),
        x: Axis::new("file, kB", Scale::Log),
        y: Axis {
            range: Some(90.0..99.0),
            ..Axis::new("accuracy on the test images, %", Scale::Linear)
        },
        series,
    }
}
