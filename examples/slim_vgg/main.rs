//! Network slimming of VGG-11: removes the channels whose scales a penalty has made small, and fine-tunes the network.
//!
//! Z. Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", 2017, arXiv:1708.06519.
//! Each pruned network is compared with the same architecture, trained from scratch for the same total number of epochs (Z. Liu et al.,
//! "Rethinking the Value of Network Pruning", 2019, arXiv:1810.05270).

mod figures;

use std::path::PathBuf;

use burn::module::Module;
use clap::{Parser, ValueEnum};
use figures::{Curve, Figures, Row, accuracy_over_epochs, lost_by_depth, show};
use support::args::Common;
use support::data::{Dataset, Splits, cifar10, mnist};
use support::network::augment::{Layout, Shift};
use support::network::checkpoint::Checkpoint;
use support::network::distill::{Asked, Taught};
use support::network::inference::percent_equal;
use support::network::train::{EpochReport, Objective, Training};
use support::network::vgg::{self, Slimming, Vgg};
use support::report::Report;
use support::timing::least_seconds;
use taper::distill::KnowledgeDistillation;
use taper::prune::{
    ChannelScore, ChannelSlimming, CoupledPlan, Coupling, Keep, PruneReport, Tensors,
};

support::fast_allocator!();

const CLASSES: usize = 10;
/// Temperature, and weight of the teacher in the loss.
const TEACHING: (f64, f64) = (4.0, 0.9);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Data {
    /// The digits in the repository.
    Mnist,
    /// CIFAR-10 in its binary form, from the folder in CIFAR10_DIR.
    Cifar10,
}

/// Removes channels of a VGG-11 and fine-tunes the network.
#[derive(Debug, Parser)]
#[command(about)]
struct Args {
    #[command(flatten)]
    common: Common,

    /// The data set.
    #[arg(long, value_enum, default_value = "mnist")]
    data: Data,

    /// Width of every layer relative to the published network [default: 0.125, on CIFAR-10 1]
    #[arg(long, value_name = "PART")]
    width: Option<f64>,

    /// Training images [default: 12000 on MNIST, else all]
    #[arg(long, value_name = "N")]
    images: Option<usize>,

    /// Weight λ of the penalty on the scales of the batch normalizations.
    #[arg(long, value_name = "WEIGHT", default_value_t = 1e-3)]
    penalty: f64,

    /// Epochs of fine-tuning [default: 2, on CIFAR-10 10]
    #[arg(long, value_name = "N")]
    tune_epochs: Option<usize>,

    /// Shares of all channels to keep.
    #[arg(long, value_delimiter = ',', default_value = "0.9,0.7,0.5,0.35")]
    keep: Vec<f64>,

    /// The least number of channels of a layer: a network with an almost empty layer cannot be tuned.
    #[arg(long, value_name = "N", default_value_t = 1)]
    minimum: usize,

    /// Epochs of the same architectures from scratch [default: all epochs of the pruned network]
    #[arg(long, value_name = "N")]
    scratch_epochs: Option<usize>,

    /// Shares for which the architecture is trained from scratch, 0 for none [default: all]
    #[arg(long, value_delimiter = ',', value_name = "PART,…")]
    scratch_for: Option<Vec<f64>>,

    /// Shares for which the unpruned network also teaches the pruned one [default: none]
    #[arg(long, value_delimiter = ',', value_name = "PART,…")]
    teach_for: Vec<f64>,

    /// Plots the accuracy on the held-out images after each epoch into this SVG file.
    #[arg(long, value_name = "FILE.svg")]
    curves: Option<PathBuf>,

    /// A folder for the state of every training after each epoch; the next run continues from it.
    #[arg(long, value_name = "FOLDER")]
    checkpoints: Option<PathBuf>,
}

/// A trained network, and the course of its training.
type Learned = (Vgg, Vec<EpochReport>);

/// The common settings of all trainings.
struct Experiment {
    args: Args,
    data: Splits,
    colours: usize,
    side: usize,
    width: f64,
    epochs: usize,
    tune_epochs: usize,
    scratch_epochs: usize,
}

impl Experiment {
    fn new(args: Args) -> anyhow::Result<Self> {
        let quick = args.common.quick;
        let (mut data, colours, side, width, epochs, tune) = match args.data {
            Data::Mnist => (mnist::load()?, 1, mnist::SIDE, 0.125, 4, 2),
            Data::Cifar10 => (cifar10::load()?, 3, cifar10::SIDE, 1.0, 40, 10),
        };
        let images = match (args.images, args.data) {
            (Some(images), _) => images,
            (None, _) if quick => 1_000,
            (None, Data::Mnist) => 12_000,
            (None, Data::Cifar10) => usize::MAX,
        };
        let most = if quick { 500 } else { usize::MAX };
        data = data.first(images, most, most);
        let epochs = args.common.epochs_or(epochs, 2);
        let tune_epochs = args.tune_epochs.unwrap_or(if quick { 1 } else { tune });
        Ok(Self {
            width: args.width.unwrap_or(if quick { 1.0 / 16.0 } else { width }),
            epochs,
            tune_epochs,
            scratch_epochs: args.scratch_epochs.unwrap_or(epochs + tune_epochs),
            args,
            data,
            colours,
            side,
        })
    }

    /// Trains the network of `tensors`, and measures the accuracy on the held-out images after each epoch.
    fn train(
        &self,
        name: &str,
        tensors: &Tensors<f32>,
        epochs: usize,
        objective: &dyn Objective<Vgg>,
    ) -> anyhow::Result<Learned> {
        let cifar = self.args.data == Data::Cifar10;
        let checkpoint = self.args.checkpoints.as_ref().map(|folder| Checkpoint {
            folder: folder.join(format!(
                "{}-width-{}-penalty-{}-{name}",
                self.data_name(),
                self.width,
                self.args.penalty
            )),
            every: 1,
        });
        let training = Training {
            epochs,
            batch: 100,
            rate: 2e-3,
            seed: self.args.common.seed(name),
            shift: cifar.then_some(Shift {
                pixels: 4,
                layout: Layout {
                    channels: self.colours,
                    side: self.side,
                },
                background: 0.0,
                mirror: true,
            }),
            checkpoint,
            ..Training::default()
        };
        let model = Vgg::from_tensors(tensors)?;
        let (model, epochs) = training.run(model, objective, &self.data.train, |model| {
            Ok(Some(model.accuracy(&self.data.held_out)?))
        })?;
        Ok((model.valid(), epochs))
    }

    fn data_name(&self) -> &'static str {
        match self.args.data {
            Data::Mnist => "mnist",
            Data::Cifar10 => "cifar10",
        }
    }

    fn row(
        &self,
        keep: f64,
        net: &Coupling,
        baseline: &Vgg,
        trained: &Tensors<f32>,
        curves: &mut Vec<Curve>,
        report: &mut Option<PruneReport>,
    ) -> anyhow::Result<Row> {
        let scores = net.scores(trained, ChannelScore::NormScale)?;
        let pruner = ChannelSlimming::new(Keep::Fraction(keep)).minimum(self.args.minimum);
        let plan = net.plan(&pruner, &scores)?;
        let coupled = CoupledPlan::new(net, &plan)?;
        let places = vgg::positions(self.side);
        let counted = coupled.report(trained, |name| {
            let number = name
                .strip_prefix("conv")
                .and_then(|i| i.parse::<usize>().ok());
            number
                .and_then(|i| places.get(i.checked_sub(1)?))
                .map_or(1, |&places| places)
        })?;

        let zero = coupled.clone().fold_constants(false);
        let pruned = valid(&zero.prune_all(trained)?)?;
        let masked = valid(&zero.mask_all(trained)?)?;
        let test = &self.data.test;
        let of_pruned = pruned.predict(test)?;

        let folded = coupled.prune_all(trained)?;
        let name = format!("keep-{keep}");
        let mut keep_curve = |kind: &str, before: usize, (network, epochs): Learned| {
            curves.push(Curve {
                name: format!("{name}-{kind}"),
                before,
                epochs,
            });
            network.accuracy(test)
        };
        let labels = Slimming { penalty: None };
        let tune = |kind: &str, objective: &dyn Objective<Vgg>| {
            self.train(
                &format!("{name}-{kind}"),
                &folded,
                self.tune_epochs,
                objective,
            )
        };
        let tuned = keep_curve("tuned", self.epochs, tune("tuned", &labels)?)?;
        let taught = if self.args.teach_for.contains(&keep) {
            let (temperature, alpha) = TEACHING;
            let objective = Taught {
                distiller: KnowledgeDistillation::new(temperature).alpha(alpha),
                teacher: &Asked(baseline),
                labels: &self.data.train.labels,
            };
            Some(keep_curve(
                "taught",
                self.epochs,
                tune("taught", &objective)?,
            )?)
        } else {
            None
        };
        let wanted = |parts: &Vec<f64>| parts.contains(&keep);
        let scratch = if self.args.scratch_for.as_ref().is_none_or(wanted) {
            let widths: Vec<usize> = (0..plan.layers())
                .filter_map(|layer| plan.kept(layer).map(<[usize]>::len))
                .collect();
            let seed = self.args.common.seed(&format!("{name}-weights"));
            let fresh = vgg::untrained(self.colours, &widths, CLASSES, seed);
            let name = format!("{name}-scratch");
            let learned = self.train(&name, &fresh, self.scratch_epochs, &labels)?;
            Some(keep_curve("scratch", 0, learned)?)
        } else {
            None
        };

        let total = counted.total();
        let row = Row {
            kept: plan.kept_fraction(),
            pruned: percent_equal(&of_pruned, &test.labels),
            folded: valid(&folded)?.accuracy(test)?,
            tuned,
            taught,
            scratch,
            ratio_parameters: total.parameters.ratio(),
            ratio_multiply_adds: total.multiply_adds.ratio(),
            ratio_bytes: total.bytes.ratio(),
            bytes: total.bytes.after,
            time_ratio: forward_time(&masked, test)? / forward_time(&pruned, test)?,
            equal_to_masked: of_pruned == masked.predict(test)?,
            layers: counted
                .layers
                .iter()
                .filter(|layer| layer.name.starts_with("conv"))
                .map(|layer| layer.channels.after as f64 / layer.channels.before as f64)
                .collect(),
        };
        *report = Some(counted);
        Ok(row)
    }
}

/// The network of `tensors`, for inference.
fn valid(tensors: &Tensors<f32>) -> anyhow::Result<Vgg> {
    Ok(Vgg::from_tensors(tensors)?.valid())
}

/// The least time of five forward passes over 500 images, in seconds.
fn forward_time(network: &Vgg, data: &Dataset) -> anyhow::Result<f64> {
    let images = data.first(500);
    least_seconds(5, || network.predict(&images))
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut page = Report::new("slim_vgg");
    let experiment = Experiment::new(args)?;
    let (args, data) = (&experiment.args, &experiment.data);
    let widths = vgg::channels(experiment.width);
    let net = vgg::coupling(experiment.colours, &widths, CLASSES)?;
    let untrained = vgg::untrained(
        experiment.colours,
        &widths,
        CLASSES,
        args.common.seed("weights"),
    );
    let (baseline, epochs) = experiment.train(
        "baseline",
        &untrained,
        experiment.epochs,
        &Slimming {
            penalty: Some(args.penalty),
        },
    )?;
    let trained = baseline.tensors()?;
    let mut curves = vec![Curve {
        name: "baseline".to_owned(),
        before: 0,
        epochs,
    }];

    let mut rows = Vec::new();
    let mut report = None;
    for &keep in &args.keep {
        rows.push(experiment.row(keep, &net, &baseline, &trained, &mut curves, &mut report)?);
    }
    let figures = Figures {
        data: experiment.data_name(),
        width: experiment.width,
        seed: args.common.seed,
        penalty: args.penalty,
        minimum: args.minimum,
        epochs: experiment.epochs,
        tune_epochs: experiment.tune_epochs,
        scratch_epochs: experiment.scratch_epochs,
        training_images: data.train.len(),
        baseline: baseline.accuracy(&data.test)?,
        rows,
        curves,
    };
    show(&figures, &mut page);
    if let Some(report) = report {
        println!("\nThe last network by layer, before and after:\n\n{report}");
    }
    if let Some(path) = &args.common.json {
        support::json::write(path, &figures)?;
    }
    if let Some(path) = &args.common.plot {
        lost_by_depth(&figures).save(path)?;
    }
    if let Some(path) = &args.curves {
        accuracy_over_epochs(&figures).save(path)?;
    }
    if args.checkpoints.is_some() {
        page.say(
            "Some networks came from checkpoints; the time below does not include their training.",
        );
    }
    page.finish(args.common.markdown.as_deref())?;
    Ok(())
}
