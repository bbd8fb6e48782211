//! Product quantization of a network for MNIST.

use clap::Parser;
use support::args::Common;
use support::data::mnist;
use support::network::mlp::{CrossEntropy, Mlp};
use support::network::train::Training;

support::fast_allocator!();

#[derive(Debug, Parser)]
#[command(about)]
struct Args {
    #[command(flatten)]
    common: Common,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut data = mnist::load()?;
    if args.common.quick {
        data = data.first(5_000, 2_000, 2_000);
    }
    let training = Training {
        epochs: args.common.epochs_or(10, 2),
        seed: args.common.seed("training"),
        ..Training::default()
    };
    let model = Mlp::new(&[784, 512, 512, 512, 10], args.common.seed("weights"))?;
    let (model, reports) = training.run(model, &CrossEntropy::default(), &data.train, |model| {
        Ok(Some(model.export()?.accuracy(&data.held_out)?))
    })?;
    for report in &reports {
        println!("{report:?}");
    }
    let network = model.export()?;
    println!("baseline {:.2} %", network.accuracy(&data.test)?);
    Ok(())
}
