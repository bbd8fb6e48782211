//! Shared code of the programs: files of the workspace's examples that do not depend on burn.

#[path = "../../support/args.rs"]
pub mod args;
#[path = "../../support/data/mod.rs"]
pub mod data;
pub mod encoder;
pub mod onnx;

#[path = "../../support/json.rs"]
pub mod json;
#[path = "../../support/report.rs"]
pub mod report;
#[path = "../../support/table.rs"]
pub mod table;
#[path = "../../support/tuned.rs"]
pub mod tuned;

use std::path::{Path, PathBuf};

use data::{DataError, Splits, mnist};
use report::Report;

/// Loads MNIST from the folder in the environment variable `MNIST_DIR` or, if it is not set, from the repository.
///
/// # Errors
///
/// Those of [`mnist::load_from`].
pub fn mnist(quick: bool) -> Result<Splits, DataError> {
    let folder = std::env::var_os("MNIST_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/mnist"),
        PathBuf::from,
    );
    let splits = mnist::load_from(&folder)?;
    Ok(if quick {
        splits.first(2000, 500, 500)
    } else {
        splits
    })
}

/// Starts the report of the program `name`.
pub fn report(name: &str) -> Report {
    let package = "--manifest-path examples/neighbours/Cargo.toml";
    Report::of(name, &format!("{package} --bin {name}"))
}
