//! NumPy's files in and out: compresses a matrix from a `.npy` file into a container, loads the container, and writes the decompressed matrix
//! as `.npy`.
//!
//! In Python: `numpy.save("w.npy", layer.weight.numpy())` before, `numpy.load("small.npy")` after. Without a file, the first test images of
//! MNIST, one per row, serve as the matrix.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Parser, ValueEnum};
use ndarray::{Array2, s};
use ndarray_npy::{read_npy, write_npy};
use serde::Serialize;
use taper::factorize::Rank;
use taper::factorize::svd::TruncatedSvd;
use taper::model::{CompressedModel, CompressedTensor};
use taper::quantize::fixed_point::{FixedPointQuantizer, Granularity, Range};
use taper::quantize::product::{Codebook, ProductQuantizer};
use taper::{Factorizer, Quantizer};
use taper_neighbours::args::Common;
use taper_neighbours::table::{Table, bytes};
use taper_neighbours::{json, mnist, report};

#[derive(Debug, Parser)]
#[command(
    about = "Compresses a matrix from a .npy file, and writes the decompressed matrix as .npy"
)]
struct Args {
    #[command(flatten)]
    common: Common,

    /// A matrix of 32-bit floats, (out_features, in_features).
    input: Option<PathBuf>,

    /// The file of the decompressed matrix; a temporary file if missing.
    output: Option<PathBuf>,

    /// The compressor.
    #[arg(long, value_enum, default_value_t = Method::FixedPoint)]
    method: Method,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
enum Method {
    /// Four bits per weight, one scale per row.
    FixedPoint,
    /// 256 centroids of four weights.
    Product,
    /// An eighth of the values.
    LowRank,
}

#[derive(Debug, Serialize)]
struct Figures {
    seed: u64,
    method: Method,
    shape: [usize; 2],
    bytes_before: u64,
    bytes_after: u64,
    ratio: f64,
    /// ‖W − Ŵ‖² / ‖W‖².
    error: f64,
    seconds: f64,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let common = &args.common;
    let mut report = report("compress_npy");
    let folder = std::env::temp_dir().join(format!("compress-npy-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let outcome = run(&args, &folder, &mut report);
    std::fs::remove_dir_all(&folder)?;
    let mut figures = outcome?;
    figures.seconds = report.finish(common.markdown.as_deref())?;
    if let Some(path) = &common.json {
        json::write(path, &figures)?;
    }
    Ok(())
}

fn run(
    args: &Args,
    folder: &Path,
    report: &mut taper_neighbours::report::Report,
) -> anyhow::Result<Figures> {
    let input = match &args.input {
        Some(path) => path.clone(),
        None => {
            let images = mnist(false)?.test.images;
            let count = if args.common.quick { 200 } else { 2000 };
            let path = folder.join("images.npy");
            write_npy(&path, &images.slice(s![..count, ..]).to_owned())?;
            path
        }
    };
    let weights: Array2<f32> =
        read_npy(&input).with_context(|| format!("cannot read {}", input.display()))?;
    let seed = args.common.seed("codes");
    let tensor = match args.method {
        Method::FixedPoint => {
            let quantizer = FixedPointQuantizer::new(4)
                .granularity(Granularity::PerRow)
                .range(Range::SquaredError);
            CompressedTensor::new(quantizer.quantize(weights.view())?)
        }
        Method::Product => {
            let quantizer = ProductQuantizer::with_width(4)
                .codebook(Codebook::PerGroup)
                .seed(seed);
            CompressedTensor::new(quantizer.quantize(weights.view())?)
        }
        Method::LowRank => {
            let factorizer = TruncatedSvd::new(Rank::Ratio(8.0)).seed(seed);
            CompressedTensor::new(factorizer.factorize(weights.view())?)
        }
    };
    let mut model = CompressedModel::new();
    model.insert("weight", tensor)?;
    let container = folder.join("small.safetensors");
    let bytes_after = model.save(&container)?;

    let rebuilt = CompressedModel::load(&container)?.decompress("weight")?;
    let output = args
        .output
        .clone()
        .unwrap_or_else(|| folder.join("small.npy"));
    write_npy(&output, &rebuilt)?;
    let again: Array2<f32> = read_npy(&output)?;
    anyhow::ensure!(
        again.view().into_dyn() == rebuilt,
        "the written file has another matrix"
    );

    let squares = |values: &Array2<f32>| values.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>();
    let figures = Figures {
        seed: args.common.seed,
        method: args.method,
        shape: weights.dim().into(),
        bytes_before: std::fs::metadata(&input)?.len(),
        bytes_after,
        ratio: std::fs::metadata(&input)?.len() as f64 / bytes_after as f64,
        error: squares(&(&weights - &again)) / squares(&weights),
        seconds: 0.0,
    };
    let mut table = Table::new(
        "A matrix compressed from .npy to .npy",
        ["method", "shape", ".npy", "container", "smaller", "error"],
    );
    table.row([
        format!("{:?}", figures.method),
        format!("{}×{}", figures.shape[0], figures.shape[1]),
        bytes(figures.bytes_before),
        bytes(figures.bytes_after),
        format!("{:.1}×", figures.ratio),
        format!("{:.2e}", figures.error),
    ]);
    report.table(&table);
    Ok(figures)
}
