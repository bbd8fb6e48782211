//! taper in a burn program: compresses the weights of a burn network, puts them back, trains them further in compressed form through a
//! custom operation of burn, and runs them without burn.
//!
//! The operation is in `operation.rs`. Forward, it decompresses; backward, it passes the gradient of the dense weight to
//! [`taper::Trainable::gradient`]. Optimizer, loss and training loop are burn's own. Only what the artifacts store is trained; biases and
//! the last layer stay.

mod network;
mod operation;

use anyhow::Context;
use burn::module::Module;
use burn::tensor::Device;
use clap::Parser;
use support::args::Common;
use support::data::mnist;
use support::network::train::{Training, training_device};
use support::report::Report;
use support::tuned::{Figures, Row};
use taper::factorize::Rank;
use taper::factorize::svd::TruncatedSvd;
use taper::quantize::product::{Codebook, ProductQuantizer, SplitAxis};
use taper::{Factorizer, Quantizer};

use network::{CrossEntropy, Dense, measure};
use operation::Stored;

support::fast_allocator!();

const WIDTHS: [usize; 4] = [mnist::PIXELS, 300, 100, mnist::CLASSES];

#[derive(Debug, Parser)]
#[command(about = "A burn network compressed, put back, and trained further in compressed form")]
struct Args {
    #[command(flatten)]
    common: Common,

    /// Passes over the training images in compressed form.
    #[arg(long, value_name = "N")]
    tuning_epochs: Option<usize>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let common = &args.common;
    let mut report = Report::new("burn_mnist");
    let mut data = mnist::load()?;
    if common.quick {
        data = data.first(2000, 500, 500);
    }
    let epochs = common.epochs_or(6, 1);
    let tuning_epochs = args
        .tuning_epochs
        .unwrap_or(if common.quick { 1 } else { 3 });
    let device = training_device();
    let seed = common.seed("network");
    let training = Training {
        epochs,
        seed: common.seed("order"),
        ..Training::default()
    };
    let dense = Dense::new(&WIDTHS, seed, &device);
    let (dense, _) = training.run(dense, &CrossEntropy, &data.train, |_| Ok(None))?;
    let dense_held_out = measure(&dense.valid(), &data.held_out)?;
    report.say(&format!(
        "784-300-100-10 (ReLU) on {} images of MNIST, {epochs} epochs of burn's Adam, seed {}. The two large matrices are \
         compressed; {tuning_epochs} epochs of Adam then train only what the artifacts store. {} training images \
         are held out, {} images are for the test.",
        data.train.len(),
        common.seed,
        data.held_out.len(),
        data.test.len(),
    ));

    let weights = dense.weights()?;
    let product = ProductQuantizer::with_width(4)
        .axis(SplitAxis::Out)
        .codebook(Codebook::PerGroup)
        .centroids(16)
        .seed(common.seed("codes"));
    let low_rank = TruncatedSvd::new(Rank::Ratio(16.0)).seed(common.seed("projection"));
    let store = |factors: bool| -> taper::Result<Vec<Stored>> {
        let stored = weights.iter().map(|weight| {
            Ok(if factors {
                Stored::new(low_rank.factorize(weight.view())?)
            } else {
                Stored::new(product.quantize(weight.view())?)
            })
        });
        stored.collect()
    };
    let mut rows = Vec::new();
    let values: usize = weights.iter().map(|weight| weight.len()).sum();
    for (method, factors) in [
        ("product quantization, 16 centroids of 4 weights", false),
        ("truncated SVD, 16 times fewer values", true),
    ] {
        let artifacts = store(factors)?;
        let size: u64 = artifacts.iter().map(|a| a.lock().storage().bytes()).sum();
        // burn's own layers with the decompressed weights.
        let decompressed = artifacts.iter().map(|a| a.lock().decompress_matrix());
        let decompressed = decompressed.collect::<taper::Result<Vec<_>>>()?;
        let plain = Device::flex();
        let put_back = dense.valid().with_weights(&decompressed, &plain);
        let held_out_before = measure(&put_back, &data.held_out)?;

        let compressed = dense
            .with_artifacts(&artifacts, &device)
            .context("layers with biases")?;
        let tuning = Training {
            epochs: tuning_epochs,
            rate: 1e-3,
            seed: common.seed("tuning"),
            ..Training::default()
        };
        let (compressed, _) = tuning.run(compressed, &CrossEntropy, &data.train, |_| Ok(None))?;
        let compressed = compressed.valid();
        let held_out_after = measure(&compressed, &data.held_out)?;

        let before = measure(&put_back, &data.test)?;
        let after = measure(&compressed, &data.test)?;
        let alone = compressed.predict_compressed(data.test.images.view())?;
        let differ = alone
            .iter()
            .zip(&after.classes)
            .filter(|(a, b)| a != b)
            .count();
        rows.push(Row {
            method: method.to_owned(),
            bytes: size,
            ratio: 4.0 * values as f64 / size as f64,
            held_out_loss_before: held_out_before.loss,
            held_out_loss_after: held_out_after.loss,
            accuracy_before: before.accuracy,
            accuracy_after: after.accuracy,
            predictions_that_differ: differ,
        });
    }
    let dense_accuracy = measure(&dense.valid(), &data.test)?.accuracy;

    let figures = Figures {
        seed: common.seed,
        epochs,
        tuning_epochs,
        quick: common.quick,
        dense_accuracy,
        dense_loss: dense_held_out.loss,
        rows,
        seconds: 0.0,
    };
    figures.finish(report, "burn", common)
}
