//! Compresses a model in safetensors: by a recipe, or within a budget that is shared out over its layers.
//!
//! `compress_safetensors model.safetensors small.safetensors --budget 8x` tries every candidate on every tensor of two axes
//! and more, chooses, compresses from file to file one tensor at a time, reads the result back and compares every
//! tensor with the model. With `--shard i/n` n processes do a part each, `--merge OUT PART...` joins them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::Parser;
use ndarray::{ArrayD, IxDyn};
use serde::Serialize;
use support::json;
use support::progress::bar;
use support::report::Report as Page;
use support::table::{self, Table};
use taper::Seed;
use taper::model::{
    Budget, CompressOptions, Container, Entry, NamedTensors, Recipe, Report, Shard,
    default_candidates, merge,
};

support::fast_allocator!();

#[derive(Debug, Parser)]
#[command(about)]
struct Args {
    /// The model; with --merge the file to be written, and then the parts.
    files: Vec<PathBuf>,

    /// What is to be reached: `8x` smaller, `100000` bytes, or `e0.01` for a sum of relative errors.
    #[arg(long, value_name = "BUDGET", conflicts_with = "recipe")]
    budget: Option<String>,

    /// Which tensors are compressed how, in TOML or JSON.
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,

    /// Writes the recipe that a budget led to.
    #[arg(long, value_name = "FILE.toml")]
    save_recipe: Option<PathBuf>,

    /// Inputs of layers (batch, in_features) under the names of their weights, in safetensors.
    #[arg(long, value_name = "FILE")]
    calibration: Option<PathBuf>,

    /// How much the error of a tensor counts in a budget, in JSON by name: `{"pooler.weight": 4}`; 1 for all others.
    #[arg(long, value_name = "FILE.json")]
    sensitivity: Option<PathBuf>,

    /// The part of the model that this process compresses, as i/n.
    #[arg(long, default_value = "1/1", value_name = "I/N")]
    shard: Shard,

    /// Joins parts: the first file is written, all others are the parts.
    #[arg(long)]
    merge: bool,

    /// Seed of every compressor.
    #[arg(long, default_value_t = 7, value_name = "N")]
    seed: u64,

    /// Compresses a small model of its own, in parts too, into the temporary folder.
    #[arg(long)]
    quick: bool,

    /// Does without the limits, which take a second or so for each tensor.
    #[arg(long)]
    no_limits: bool,

    /// Writes the report to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Writes what is shown on the terminal to this file, as a page of the documentation.
    #[arg(long, value_name = "FILE.md")]
    markdown: Option<PathBuf>,
}

/// What is written with `--json`.
#[derive(Debug, Serialize)]
struct Figures<'a> {
    dense_bytes: u64,
    file_bytes: u64,
    ratio: f64,
    /// Of all compressed tensors together, ‖W − Ŵ‖² / ‖W‖².
    weight_error: f64,
    recipe: &'a Recipe,
    report: &'a Report,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if args.quick {
        return quick(&args);
    }
    if args.merge {
        let [output, parts @ ..] = args.files.as_slice() else {
            bail!("--merge needs the file to be written and the parts");
        };
        let length = merge(parts, output)?;
        println!("{}: {}", output.display(), table::bytes(length));
        return Ok(());
    }
    let [input, output] = args.files.as_slice() else {
        bail!("two files are needed: the model, and the one to be written (or --quick)");
    };
    compress(&args, input, output, args.shard)
}

/// `8x`, a number of bytes, or `e` and an error.
fn budget(text: &str, dense: u64) -> anyhow::Result<Budget> {
    let wrong = || format!("{text} is no budget");
    if let Some(ratio) = text.strip_suffix('x') {
        let ratio: f64 = ratio.parse().with_context(wrong)?;
        ensure!(ratio > 0.0, "a ratio of {ratio}");
        return Ok(Budget::Bytes((dense as f64 / ratio) as u64));
    }
    Ok(match text.strip_prefix('e') {
        Some(error) => Budget::Error(error.parse().with_context(wrong)?),
        None => Budget::Bytes(text.parse().with_context(wrong)?),
    })
}

fn compress(args: &Args, input: &Path, output: &Path, shard: Shard) -> anyhow::Result<()> {
    let model = NamedTensors::open(input)?;
    let calibration = args
        .calibration
        .as_ref()
        .map(NamedTensors::open)
        .transpose()?;
    let mut page = Page::new("compress_safetensors");
    let options = CompressOptions::default()
        .shard(shard)
        .limits(!args.no_limits);
    let options = match &calibration {
        Some(calibration) => options.calibration(calibration),
        None => options,
    };
    let recipe = match (&args.recipe, &args.budget) {
        (Some(recipe), _) => Recipe::load(recipe)?,
        (None, Some(text)) => {
            let budget = budget(text, model.file_bytes())?;
            let progress = bar("measure", model.len());
            let candidates = default_candidates();
            let sensitivity: BTreeMap<String, f64> = match &args.sensitivity {
                Some(path) => serde_json::from_str(&std::fs::read_to_string(path)?)
                    .with_context(|| format!("{} does not parse", path.display()))?,
                None => BTreeMap::new(),
            };
            let weight = |name: &str| sensitivity.get(name).copied().unwrap_or(1.0);
            let recipe = Recipe::for_budget(
                &model,
                &candidates,
                budget,
                args.seed,
                &options,
                weight,
                |name| {
                    progress.set_message(name.to_owned());
                    progress.inc(1);
                },
            )?;
            progress.finish_and_clear();
            recipe
        }
        (None, None) => bail!("--budget or --recipe says how far the model is compressed"),
    };
    if let Some(path) = &args.save_recipe {
        std::fs::write(path, recipe.to_toml()?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let progress = bar("compress", model.len());
    let report = recipe.compress_file(&model, output, &options, |row| {
        progress.set_message(row.name.clone());
        progress.inc(1);
    })?;
    progress.finish_and_clear();
    let weight_error = verify(&model, output, &report)?;
    tell(&mut page, &report, weight_error);
    page.finish(args.markdown.as_deref())?;
    if let Some(path) = &args.json {
        let figures = Figures {
            dense_bytes: report.bytes_before,
            file_bytes: report.bytes_after,
            ratio: report.ratio(),
            weight_error,
            recipe: &recipe,
            report: &report,
        };
        json::write(path, &figures)?;
    }
    Ok(())
}

/// The table of all compressed tensors, and what became of the whole.
fn tell(page: &mut Page, report: &Report, weight_error: f64) {
    page.say(
        "Bytes are those of a tensor's arrays in the file, codes entropy-coded; bits are those for a weight. The error is that \
         of the weights, ‖W − Ŵ‖² / ‖W‖², or where inputs were given that of the output. The limit is the least \
         number of bits a weight at that error of the weights, for any code, were they independent draws from their \
         own histogram, known for free: a scale and no promise.",
    );
    let mut table = Table::new(
        "Compressed tensors",
        [
            "tensor", "method", "shape", "before", "after", "ratio", "error", "bits", "limit",
            "distance",
        ],
    );
    let compressed = report.rows.iter().filter(|row| row.method != "keep");
    for row in compressed.clone() {
        let shape: Vec<String> = row.shape.iter().map(usize::to_string).collect();
        let bits = |bits: Option<f64>| bits.map_or("-".to_owned(), |bits| format!("{bits:.2}"));
        table.row([
            row.name.clone(),
            row.method.clone(),
            shape.join("×"),
            table::bytes(row.bytes_before),
            table::bytes(row.bytes_after),
            format!("{:.1}×", row.ratio()),
            match row.output_error {
                Some(error) => format!("{error:.2e} (output)"),
                None => format!("{:.2e}", row.weight_error),
            },
            bits(Some(row.bits_per_weight())),
            bits(row.limit_bits),
            bits(row.distance()),
        ]);
    }
    page.table(&table);
    let kept = report.rows.iter().filter(|row| row.method == "keep");
    let kept_bytes: u64 = kept.clone().map(|row| row.bytes_after).sum();
    page.say(&format!(
        "{} tensors ({}) are kept as they were. {} bytes became {}, {} of them header: {:.2} times smaller. Read back and \
         compared with the model, all compressed tensors together have a relative squared error of {weight_error:.3e}.",
        kept.count(),
        table::bytes(kept_bytes),
        report.bytes_before,
        report.bytes_after,
        table::bytes(report.header_bytes()),
        report.ratio(),
    ));
}

/// Reads the container and compares each of its tensors with the model's; the error of all that are compressed.
fn verify(model: &NamedTensors, output: &Path, report: &Report) -> anyhow::Result<f64> {
    let length = std::fs::metadata(output)?.len();
    ensure!(
        length == report.bytes_after,
        "the file has {length} bytes, the report says {}",
        report.bytes_after
    );
    let container = Container::open(output)?;
    let (mut error, mut norm) = (0.0, 0.0);
    for row in &report.rows {
        match container.get(&row.name)? {
            Entry::Plain(tensor) => {
                ensure!(
                    tensor == model.data(&row.name)?.into_owned(),
                    "{} changed",
                    row.name
                );
            }
            Entry::Compressed(tensor) => {
                let (weights, rebuilt) = (model.get(&row.name)?, tensor.decompress()?);
                ensure!(
                    weights.shape() == rebuilt.shape(),
                    "{} changed its shape",
                    row.name
                );
                let (mut tensor_error, mut tensor_norm) = (0.0, 0.0);
                for (&w, &r) in weights.iter().zip(&rebuilt) {
                    let (w, r) = (f64::from(w), f64::from(r));
                    tensor_error += (w - r) * (w - r);
                    tensor_norm += w * w;
                }
                let found = if tensor_error == 0.0 {
                    0.0
                } else {
                    tensor_error / tensor_norm
                };
                ensure!(
                    (found - row.weight_error).abs() <= 1e-9 * found,
                    "{}: an error of {found}, reported as {}",
                    row.name,
                    row.weight_error
                );
                error += tensor_error;
                norm += tensor_norm;
            }
        }
    }
    Ok(if error == 0.0 { 0.0 } else { error / norm })
}

/// A small model of its own, whole and in parts.
fn quick(args: &Args) -> anyhow::Result<()> {
    let folder = std::env::temp_dir().join(format!("compress_safetensors-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let result = quick_in(args, &folder);
    std::fs::remove_dir_all(&folder)?;
    result
}

fn quick_in(args: &Args, folder: &Path) -> anyhow::Result<()> {
    let numbers = |name: &str, shape: &[usize]| {
        let mut seed = Seed::from(args.seed).derive_name(name);
        ArrayD::from_shape_simple_fn(IxDyn(shape), || {
            // A sum of uniform numbers: bell-shaped, as weights are.
            let uniform = (0..4).map(|_| {
                seed = seed.derive(1);
                seed.value() as f32 / u64::MAX as f32 - 0.5
            });
            uniform.sum::<f32>() * 0.1
        })
    };
    let names: [(&str, &[usize]); 5] = [
        ("conv.weight", &[16, 8, 3, 3]),
        ("fc1.weight", &[128, 256]),
        ("fc1.bias", &[128]),
        ("fc2.weight", &[64, 128]),
        ("fc2.bias", &[64]),
    ];
    let tensors: Vec<(&str, ArrayD<f32>)> = names
        .iter()
        .map(|&(name, shape)| (name, numbers(name, shape)))
        .collect();
    let path = |name: &str| folder.join(name);
    let views = tensors.iter().map(|(name, tensor)| (*name, tensor.view()));
    NamedTensors::save(path("model"), views)?;
    let args = Args {
        files: Vec::new(),
        budget: Some("8x".to_owned()),
        recipe: None,
        save_recipe: Some(path("recipe.toml")),
        calibration: None,
        sensitivity: None,
        shard: Shard::default(),
        merge: false,
        seed: args.seed,
        quick: true,
        no_limits: false,
        json: args.json.clone(),
        markdown: None,
    };
    compress(&args, &path("model"), &path("whole"), args.shard)?;
    let args = Args {
        budget: None,
        recipe: args.save_recipe.clone(),
        save_recipe: None,
        json: None,
        ..args
    };
    let parts = [path("part 1"), path("part 2")];
    for (i, part) in parts.iter().enumerate() {
        compress(&args, &path("model"), part, Shard::new(i + 1, parts.len())?)?;
    }
    merge(&parts, path("merged"))?;
    let same = std::fs::read(path("merged"))? == std::fs::read(path("whole"))?;
    ensure!(same, "the parts are not the whole");
    println!("two parts, merged, are the whole byte for byte");
    Ok(())
}
