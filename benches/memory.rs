//! The peak of memory while one layer is compressed; docs/memory.md has the figures.
//!
//! ```sh
//! cargo test -p taper --bench memory --no-run         # names the program
//! /usr/bin/time -v PROGRAM product 16384 4096         # or any other of METHODS
//! ```
//!
//! Without a method, each is run once on a small layer.

use taper::factorize::Rank;
use taper::factorize::svd::{SvdMethod, TruncatedSvd};
use taper::model::{CompressOptions, NamedTensors, Recipe};
use taper::ndarray::Array2;
use taper::quantize::binary::Binarizer;
use taper::quantize::fixed_point::FixedPointQuantizer;
use taper::quantize::product::{Codebook, ProductQuantizer, SplitAxis};
use taper::{Compressed, Error, Factorizer, Quantizer, Result, Seed};

const METHODS: [&str; 7] = [
    "none",
    "product",
    "product_shared",
    "fixed_point",
    "binary",
    "svd",
    "file",
];

/// The most memory that was resident so far, in bytes, where the system tells.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(1024 * kibibytes)
}

fn layer(rows: usize, columns: usize) -> Array2<f32> {
    let mut seed = Seed::from(1);
    Array2::from_shape_simple_fn((rows, columns), || {
        seed = seed.derive(0);
        (seed.value() >> 40) as f32 / (1 << 23) as f32 - 1.0
    })
}

fn product(codebook: Codebook) -> ProductQuantizer {
    let product = ProductQuantizer::with_width(8)
        .codebook(Codebook::PerGroup)
        .axis(SplitAxis::In);
    product.codebook(codebook).centroids(256).max_iterations(3)
}

/// Four layers in a file, each to four bits, tensor by tensor from file to file.
fn file(rows: usize, columns: usize) -> Result<()> {
    let folder = std::env::temp_dir().join(format!("taper-memory-{}", std::process::id()));
    let failed = |error| Error::file(&folder, error);
    std::fs::create_dir_all(&folder).map_err(failed)?;
    let (from, to) = (folder.join("model.safetensors"), folder.join("model.taper"));
    write(&from, rows, columns).map_err(failed)?;
    println!("{:?} bytes at most while the file was made", peak());
    let recipe = Recipe::from_toml(
        "[[rule]]\ntensors = \"*\"\nchain = [{ fixed_point = { bits = 4, granularity = \"per_row\" } }]",
    )?;
    let model = NamedTensors::open(&from)?;
    let report = recipe.compress_file(&model, &to, &CompressOptions::default())?;
    println!(
        "{} bytes became {}",
        report.bytes_before, report.bytes_after
    );
    std::fs::remove_dir_all(&folder).map_err(failed)
}

/// A safetensors file of four layers, written without holding it.
fn write(path: &std::path::Path, rows: usize, columns: usize) -> std::io::Result<()> {
    use std::io::Write;
    let bytes = 4 * rows * columns;
    let tensor = |i: usize| {
        let (from, to) = (i * bytes, (i + 1) * bytes);
        format!(
            r#""layer{i}":{{"dtype":"F32","shape":[{rows},{columns}],"data_offsets":[{from},{to}]}}"#
        )
    };
    let mut header = format!("{{{}}}", (0..4).map(tensor).collect::<Vec<_>>().join(","));
    while header.len() % 8 != 0 {
        header.push(' ');
    }
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    let mut seed = Seed::from(1);
    for _ in 0..4 * rows * columns {
        seed = seed.derive(0);
        let value = (seed.value() >> 40) as f32 / (1 << 23) as f32 - 1.0;
        file.write_all(&value.to_le_bytes())?;
    }
    file.flush()
}

fn run(method: &str, rows: usize, columns: usize) -> Result<()> {
    if method == "file" {
        return file(rows, columns);
    }
    let weights = layer(rows, columns);
    let w = weights.view();
    let before = peak();
    let artifact: Box<dyn Compressed<f32>> = match method {
        "none" => return Ok(()),
        "product" => Box::new(product(Codebook::PerGroup).quantize(w)?),
        "product_shared" => Box::new(product(Codebook::Shared).quantize(w)?),
        "fixed_point" => Box::new(FixedPointQuantizer::new(8).quantize(w)?),
        "binary" => Box::new(Binarizer::new().quantize(w)?),
        _ => {
            let svd = TruncatedSvd::new(Rank::Fixed(32.min(rows.min(columns))));
            Box::new(svd.method(SvdMethod::Randomized).factorize(w)?)
        }
    };
    let dense = 4 * weights.len() as u64;
    println!("weights {dense} bytes, artifact {}", artifact.storage());
    if let (Some(before), Some(after)) = (before, peak()) {
        println!(
            "at most {after} bytes resident, {} more than with the weights alone",
            after - before
        );
    }
    Ok(())
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, otherwise| {
        let text = arguments.get(i).and_then(|text| text.parse().ok());
        text.unwrap_or(otherwise)
    };
    match arguments.first() {
        Some(method) if METHODS.contains(&method.as_str()) => {
            run(method, number(1, 16384), number(2, 4096))
        }
        _ => METHODS.iter().try_for_each(|method| run(method, 64, 128)),
    }
}
