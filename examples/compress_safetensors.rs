//! Compresses a model in safetensors, within a budget or by a recipe, and compares the result with the model.
//!
//! `compress_safetensors model.safetensors small.safetensors --budget 8x` writes a compressed file of an eighth of the size. Without
//! files it makes a small model of its own.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::Parser;
use ndarray::{ArrayD, IxDyn};
use support::json;
use support::progress::bar;
use support::random::uniform;
use support::report::Report as Page;
use taper::model::{
    Budget, Calibration, CompressOptions, CompressedModel, Entry, NamedTensors, Recipe, Report,
};
use taper::{Observer, Progress, Seed, Stage};

support::fast_allocator!();

#[derive(Debug, Parser)]
#[command(about = "Compresses a model in safetensors, within a budget or by a recipe")]
struct Args {
    /// The model; a small one made by the example if missing.
    input: Option<PathBuf>,

    /// The compressed file; a temporary one if missing.
    output: Option<PathBuf>,

    /// `8x` smaller, a number of bytes, or `e0.01` for a sum of relative errors.
    #[arg(long, default_value = "8x", value_name = "BUDGET")]
    budget: String,

    /// A recipe in TOML or JSON instead of a budget.
    #[arg(long, value_name = "FILE", conflicts_with = "budget")]
    recipe: Option<PathBuf>,

    /// Inputs of layers (batch, in_features) under the names of their weights, in safetensors.
    #[arg(long, value_name = "FILE")]
    calibration: Option<PathBuf>,

    /// Seed of the compressors for a budget; a recipe has its own.
    #[arg(long, default_value_t = 7, value_name = "N")]
    seed: u64,

    /// Compresses the small model, whichever files are given.
    #[arg(long)]
    quick: bool,

    /// Writes the report to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Writes the output of the program to this file, as a page of the documentation.
    #[arg(long, value_name = "FILE.md")]
    markdown: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let folder = std::env::temp_dir().join(format!("compress_safetensors-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let result = run(&args, &folder);
    std::fs::remove_dir_all(&folder)?;
    result
}

fn run(args: &Args, folder: &Path) -> anyhow::Result<()> {
    let mut page = Page::new("compress_safetensors");
    let (input, output) = match (&args.input, &args.output) {
        (Some(input), output) if !args.quick => (input.clone(), output.clone()),
        _ => (small_model(folder, args.seed)?, None),
    };
    let output = output.unwrap_or_else(|| folder.join("compressed.safetensors"));

    let model = NamedTensors::open(&input)?;
    let progress = bar("tensors", model.len());
    let observer = |state: &Progress<'_>| {
        if state.stage == Stage::Model {
            progress.set_position(state.iteration as u64);
            progress.set_message(state.tensor.unwrap_or("").to_owned());
        }
        ControlFlow::Continue(())
    };
    let report = compress(args, &model, &output, &observer)?;
    progress.finish_and_clear();
    let error = compare(&model, &CompressedModel::load(&output)?, &report)?;

    page.text(&report.to_string());
    page.say(&format!(
        "after: bytes of the arrays in the file, entropy-coded. bits: per weight. error: ‖W − Ŵ‖² / ‖W‖²; output: the same of the \
         layer's output, where calibration was given. limit: the least bits per weight at that error for any code, if the weights \
         were independent draws from their histogram. All compressed tensors together, read back from the file, have an error of \
         {error:.3e}.",
    ));
    page.finish(args.markdown.as_deref())?;
    match &args.json {
        Some(path) => json::write(path, &report),
        None => Ok(()),
    }
}

/// Compresses by the recipe if there is one, otherwise within the budget.
fn compress(
    args: &Args,
    model: &NamedTensors,
    output: &Path,
    observer: &dyn Observer,
) -> anyhow::Result<Report> {
    let calibration = args
        .calibration
        .as_ref()
        .map(Calibration::open)
        .transpose()?;
    if let Some(path) = &args.recipe {
        let mut options = CompressOptions::default().limits(true).observer(observer);
        if let Some(inputs) = &calibration {
            options = options.calibration(inputs);
        }
        return Ok(Recipe::load(path)?.compress_file(model, output, &options)?);
    }
    let mut budget = budget(&args.budget)?
        .seed(args.seed)
        .limits(true)
        .observer(observer);
    if let Some(inputs) = &calibration {
        budget = budget.calibration(inputs);
    }
    Ok(budget.compress_file(model, output)?)
}

/// Parses `8x`, a number of bytes, or `e` and an error.
fn budget<'a>(text: &str) -> anyhow::Result<Budget<'a>> {
    let wrong =
        || format!("the budget {text} is neither like 8x, nor a number of bytes, nor like e0.01");
    Ok(if let Some(ratio) = text.strip_suffix('x') {
        Budget::ratio(ratio.parse().with_context(wrong)?)
    } else if let Some(error) = text.strip_prefix('e') {
        Budget::error(error.parse().with_context(wrong)?)
    } else {
        Budget::bytes(text.parse().with_context(wrong)?)
    })
}

/// Checks that kept tensors are unchanged; returns ‖W − Ŵ‖² / ‖W‖² over all compressed tensors.
fn compare(model: &NamedTensors, small: &CompressedModel, report: &Report) -> anyhow::Result<f64> {
    let (mut error, mut norm) = (0.0, 0.0);
    for row in &report.rows {
        match small.get(&row.name)? {
            Entry::Plain(tensor) => {
                let same = *tensor == model.data(&row.name)?.into_owned();
                ensure!(same, "{} was kept, but its bytes changed", row.name);
            }
            Entry::Compressed(tensor) => {
                for (w, r) in model.get(&row.name)?.iter().zip(&tensor.decompress()?) {
                    let (w, r) = (f64::from(*w), f64::from(*r));
                    error += (w - r).powi(2);
                    norm += w.powi(2);
                }
            }
        }
    }
    Ok(if error == 0.0 { 0.0 } else { error / norm })
}

/// Writes a small model with bell-shaped weights into the folder.
fn small_model(folder: &Path, seed: u64) -> anyhow::Result<PathBuf> {
    let shapes: [(&str, &[usize]); 5] = [
        ("conv.weight", &[16, 8, 3, 3]),
        ("fc1.weight", &[128, 256]),
        ("fc1.bias", &[128]),
        ("fc2.weight", &[64, 128]),
        ("fc2.bias", &[64]),
    ];
    let tensors = shapes.map(|(name, shape)| {
        let seed = Seed::from(seed).derive_name(name);
        let mut index = 0..;
        // A sum of four uniform numbers is nearly normal.
        let mut weight = || -> f32 {
            let sum: f64 = index.by_ref().take(4).map(|i| uniform(seed, i) - 0.5).sum();
            (0.1 * sum) as f32
        };
        (
            name,
            ArrayD::from_shape_simple_fn(IxDyn(shape), &mut weight),
        )
    });
    let path = folder.join("model.safetensors");
    NamedTensors::save(
        &path,
        tensors.iter().map(|(name, tensor)| (*name, tensor.view())),
    )?;
    Ok(path)
}
