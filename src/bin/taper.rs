//! The command-line tool: compresses, decompresses and inspects models in safetensors.

use std::error::Error;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgGroup, Args, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use taper::model::{
    Budget, Calibration, CompressOptions, Container, NamedTensors, Recipe, Report, Shard,
    few_bit_candidates,
};
use taper::{Progress, Stage};

/// Makes trained models in safetensors smaller.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compress a model within a budget or by a recipe.
    Compress(Compress),
    /// Write the dense safetensors file of a compressed model, with its original types and metadata.
    Decompress {
        /// The compressed model.
        input: PathBuf,
        /// The dense file to write.
        output: PathBuf,
    },
    /// Print the tensors of a compressed model: method, size and, with the original, errors and limits.
    Inspect {
        /// The compressed model.
        file: PathBuf,
        /// The model before compression: errors are measured against it.
        #[arg(long, value_name = "FILE")]
        original: Option<PathBuf>,
        /// Also compute the rate-distortion limit of each tensor; needs --original.
        #[arg(long, requires = "original")]
        limits: bool,
        /// Write the report to this file.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// Join the parts that --shard wrote.
    Merge {
        /// The compressed model to write.
        output: PathBuf,
        /// The parts.
        #[arg(required = true)]
        parts: Vec<PathBuf>,
    },
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("plan").required(true).args(["budget", "recipe"])))]
struct Compress {
    /// The model: a safetensors file, the index of a sharded one, or its folder.
    input: PathBuf,
    /// The compressed model to write.
    output: PathBuf,
    /// The goal: `8x` smaller, a file of `100000` bytes, or `e0.01` for a sum of relative errors.
    #[arg(long, value_name = "BUDGET", conflicts_with = "shard")]
    budget: Option<Goal>,
    /// Which tensors are compressed how, in TOML or JSON.
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    /// Inputs of layers in safetensors, under the names of their weights, or saved moments of them.
    #[arg(long, value_name = "FILE")]
    calibration: Option<PathBuf>,
    /// How often each row of a tensor was used, such as the counts of an embedding's tokens: safetensors with a number for each row,
    /// under the names of the tensors.
    #[arg(long, value_name = "FILE")]
    rows: Option<PathBuf>,
    /// Multiply the error of matching tensors by a factor, as in `--sensitivity 'pooler.*=4'`. May be repeated.
    #[arg(long, value_name = "PATTERN=FACTOR", value_parser = sensitivity, requires = "budget")]
    sensitivity: Vec<(String, f64)>,
    /// Choose among formats that multiply without being decompressed: fixed point, product quantization, pruned weights. Files are larger.
    #[arg(long, requires = "budget")]
    few_bit: bool,
    /// Write the recipe that the budget led to.
    #[arg(long, value_name = "FILE.toml", requires = "budget")]
    save_recipe: Option<PathBuf>,
    /// Compress only this part of the model, as i/n; `merge` joins the parts.
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
    /// Seed of all compressors; that of the recipe unless given.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Fail when a tensor cannot be compressed, instead of keeping it.
    #[arg(long)]
    strict: bool,
    /// Also compute the rate-distortion limit of each tensor.
    #[arg(long)]
    limits: bool,
    /// Write the report to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The goal of a budget.
#[derive(Debug, Clone, Copy)]
enum Goal {
    Ratio(f64),
    Bytes(u64),
    Error(f64),
}

impl std::str::FromStr for Goal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |_| format!("{text:?} is no budget: give 8x, a number of bytes, or e0.01");
        if let Some(ratio) = text.strip_suffix('x') {
            return ratio.parse().map(Self::Ratio).map_err(|_| wrong(()));
        }
        match text.strip_prefix('e') {
            Some(error) => error.parse().map(Self::Error).map_err(|_| wrong(())),
            None => text.parse().map(Self::Bytes).map_err(|_| wrong(())),
        }
    }
}

fn sensitivity(text: &str) -> Result<(String, f64), String> {
    let (pattern, factor) = text
        .rsplit_once('=')
        .ok_or_else(|| format!("{text:?} has no `=` between pattern and factor"))?;
    let factor = factor
        .parse()
        .map_err(|_| format!("{factor:?} is no number"))?;
    Ok((pattern.to_owned(), factor))
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), Box<dyn Error>> {
    match command {
        Command::Compress(args) => compress(&args),
        Command::Decompress { input, output } => {
            let bytes = Container::open(&input)?.save_dense(&output)?;
            println!("{}: {bytes} bytes", output.display());
            Ok(())
        }
        Command::Inspect {
            file,
            original,
            limits,
            json,
        } => {
            let original = original.map(NamedTensors::open).transpose()?;
            let report = Container::open(&file)?.report(original.as_ref(), limits)?;
            println!("{report}");
            write_json(json, &report)
        }
        Command::Merge { output, parts } => {
            let bytes = Shard::merge(&parts, &output)?;
            println!("{}: {bytes} bytes", output.display());
            Ok(())
        }
    }
}

/// The inputs of layers and the counts of rows, if there are any.
fn calibration(args: &Compress) -> Result<Option<Calibration>, Box<dyn Error>> {
    let inputs = args
        .calibration
        .as_ref()
        .map(Calibration::open)
        .transpose()?;
    let Some(path) = &args.rows else {
        return Ok(inputs);
    };
    let mut calibration = inputs.unwrap_or_default();
    let counts = NamedTensors::open(path)?;
    for name in counts.names() {
        let counts: Vec<f64> = counts
            .get(name)?
            .iter()
            .map(|&count| count.into())
            .collect();
        calibration.add_rows(name, &counts)?;
    }
    Ok(Some(calibration))
}

fn compress(args: &Compress) -> Result<(), Box<dyn Error>> {
    let model = NamedTensors::open(&args.input)?;
    let calibration = calibration(args)?;
    let bar = ProgressBar::new(model.len() as u64);
    bar.set_style(ProgressStyle::with_template(
        "{wide_bar} {pos}/{len} {elapsed} {msg}",
    )?);
    let observer = |progress: &Progress<'_>| {
        if progress.stage == Stage::Model {
            bar.set_length(progress.max_iterations as u64);
            bar.set_position(progress.iteration as u64);
            bar.set_message(progress.tensor.unwrap_or_default().to_owned());
        }
        ControlFlow::Continue(())
    };
    let report = match (args.budget, &args.recipe) {
        (Some(goal), _) => {
            let mut budget = match goal {
                Goal::Ratio(ratio) => Budget::ratio(ratio),
                Goal::Bytes(bytes) => Budget::bytes(bytes),
                Goal::Error(error) => Budget::error(error),
            };
            budget = budget
                .seed(args.seed.unwrap_or_default())
                .strict(args.strict)
                .limits(args.limits)
                .observer(&observer);
            if let Some(calibration) = &calibration {
                budget = budget.calibration(calibration);
            }
            if args.few_bit {
                budget = budget.candidates(few_bit_candidates());
            }
            for (pattern, factor) in &args.sensitivity {
                budget = budget.sensitivity(pattern, *factor);
            }
            budget.compress_file(&model, &args.output)?
        }
        (None, Some(path)) => {
            let mut recipe = Recipe::load(path)?;
            recipe.seed = args.seed.unwrap_or(recipe.seed);
            let mut options = CompressOptions::default()
                .strict(args.strict)
                .limits(args.limits)
                .observer(&observer);
            if let Some(shard) = args.shard {
                options = options.shard(shard);
            }
            if let Some(calibration) = &calibration {
                options = options.calibration(calibration);
            }
            recipe.compress_file(&model, &args.output, &options)?
        }
        (None, None) => unreachable!("the parser asks for a budget or a recipe"),
    };
    bar.finish_and_clear();
    println!("{report}");
    if let Some(path) = &args.save_recipe {
        std::fs::write(path, report.recipe.to_toml()?)?;
    }
    write_json(args.json.clone(), &report)
}

fn write_json(path: Option<PathBuf>, report: &Report) -> Result<(), Box<dyn Error>> {
    /// The report with its totals.
    #[derive(Serialize)]
    struct Figures<'a> {
        ratio: f64,
        #[serde(flatten)]
        report: &'a Report,
    }
    let Some(path) = path else { return Ok(()) };
    let figures = Figures {
        ratio: report.ratio(),
        report,
    };
    let text = serde_json::to_string_pretty(&figures)?;
    Ok(std::fs::write(path, text + "\n")?)
}
