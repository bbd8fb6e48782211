//! An ONNX model in, a smaller one out: compresses the weights, writes the model in one of three forms, and runs both in rten.
//!
//! The folder of `.npy` files holds inputs of the model: `NAME.npy` is the input `NAME` of one run, or `NAME.1.npy`, `NAME.2.npy`, …
//! those of several runs. All but the last quarter of the runs calibrate; all compare. Without files, inputs are random. Without a
//! model, a small network of the tests is compressed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use clap::Parser;
use ndarray::ArrayD;
use ndarray_npy::read_npy;
use serde::Serialize;
use taper::model::{
    Budget, Calibration, CompressOptions, CompressedModel, Recipe, Report as Sizes, Rule,
};
use taper::onnx::{Form, OnnxModel, restore};
use taper::quantize::fixed_point::{FixedPointQuantizer, Granularity, Range};
use taper_neighbours::args::Common;
use taper_neighbours::onnx::{Input, Runtime, difference};
use taper_neighbours::table::{Table, bytes};
use taper_neighbours::{json, report};

#[derive(Debug, Parser)]
#[command(about = "Compresses an ONNX model, and compares it with the original in rten")]
struct Args {
    #[command(flatten)]
    common: Common,

    /// The model; a small network of the tests if missing.
    input: Option<PathBuf>,

    /// The file to write; a temporary file if missing.
    output: Option<PathBuf>,

    /// How many times smaller, such as 4x. The form smallest shares the bytes out over the weights; the others use fixed point of
    /// as many bits as that leaves.
    #[arg(long, value_parser = ratio, default_value = "4x")]
    budget: f64,

    /// A recipe in TOML or JSON, in place of the budget.
    #[arg(long)]
    recipe: Option<PathBuf>,

    /// A folder of .npy files: inputs of the model.
    #[arg(long, value_name = "FOLDER_OF_NPY")]
    calibration: Option<PathBuf>,

    /// How the model is written: portable, nbits or smallest.
    #[arg(long, value_parser = |text: &str| text.parse::<Form>(), default_value = "smallest")]
    form: Form,
}

fn ratio(text: &str) -> Result<f64, String> {
    let number = text.trim_end_matches(['x', '×']).parse::<f64>();
    let number = number.map_err(|error| format!("{text}: {error}; write 4x for a fourth"))?;
    match number.is_finite() && number > 0.0 {
        true => Ok(number),
        false => Err(format!("{text} must be above 0")),
    }
}

#[derive(Debug, Serialize)]
struct Figures {
    form: String,
    bytes_before: u64,
    bytes_after: u64,
    ratio: f64,
    runs: usize,
    calibrated: usize,
    /// The share of the rows of the first output whose largest value is at the same place.
    agreement: f64,
    /// The smallest correlation of an output with that of the original.
    correlation: f64,
    largest_difference: f32,
    milliseconds_before: f64,
    milliseconds_after: f64,
    notes: Vec<String>,
    seconds: f64,
}

type Inputs = BTreeMap<String, Input>;
type Outputs = BTreeMap<String, ArrayD<f32>>;

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let common = &args.common;
    let mut report = report("compress_onnx");
    let mut figures = run(&args, &mut report)?;
    figures.seconds = report.finish(common.markdown.as_deref())?;
    if let Some(path) = &common.json {
        json::write(path, &figures)?;
    }
    Ok(())
}

fn run(args: &Args, report: &mut taper_neighbours::report::Report) -> anyhow::Result<Figures> {
    let input = args.input.clone().unwrap_or_else(|| {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/linear_17.onnx")
    });
    let model = OnnxModel::open(&input)?;
    let original = Runtime::load(std::fs::read(&input)?)?;
    let runs = match &args.calibration {
        Some(folder) => read_inputs(folder)?,
        None => {
            let seed = args.common.seed("inputs");
            vec![original.random_inputs(seed, 8, 16)?]
        }
    };
    let calibrated = match args.calibration {
        Some(_) => runs.len() - runs.len() / 4,
        None => 0,
    };
    let calibration = calibrate(&model, &runs[..calibrated])?;
    let (small, sizes) = compress(args, &model, &calibration)?;
    let (file, notes) = model.to_bytes(&small, args.form)?;
    if let Some(path) = &args.output {
        std::fs::write(path, &file)?;
    }
    let plain = match args.form {
        Form::Smallest => restore(&file)?,
        _ => file.clone(),
    };
    let compressed = Runtime::load(plain)?;
    let (before, milliseconds_before) = outputs(&original, &runs)?;
    let (after, milliseconds_after) = outputs(&compressed, &runs)?;
    let mut largest_difference = 0.0_f32;
    for (a, b) in before.iter().zip(&after) {
        largest_difference = largest_difference.max(difference(a, b)?.0);
    }
    let bytes_before = model.tensors().file_bytes();
    let figures = Figures {
        form: format!("{:?}", args.form).to_lowercase(),
        bytes_before,
        bytes_after: file.len() as u64,
        ratio: bytes_before as f64 / file.len() as f64,
        runs: runs.len(),
        calibrated,
        agreement: agreement(&before, &after),
        correlation: correlation(&before, &after),
        largest_difference,
        milliseconds_before,
        milliseconds_after,
        notes: [model.notes(), &notes].concat(),
        seconds: 0.0,
    };
    let mut table = Table::new(
        "An ONNX model, and the compressed one, run by rten",
        [
            "form",
            "before",
            "after",
            "smaller",
            "same top",
            "correlation",
            "largest difference",
            "ms before",
            "ms after",
        ],
    );
    table.row([
        figures.form.clone(),
        bytes(figures.bytes_before),
        bytes(figures.bytes_after),
        format!("{:.2}×", figures.ratio),
        format!("{:.4}", figures.agreement),
        format!("{:.5}", figures.correlation),
        format!("{:.2e}", figures.largest_difference),
        format!("{milliseconds_before:.2}"),
        format!("{milliseconds_after:.2}"),
    ]);
    report.table(&table);
    println!("{sizes}");
    for note in &figures.notes {
        println!("{note}");
    }
    Ok(figures)
}

/// The compressed weights, and the report of their sizes.
fn compress(
    args: &Args,
    model: &OnnxModel,
    calibration: &Calibration,
) -> anyhow::Result<(CompressedModel, Sizes)> {
    let options = CompressOptions::default().calibration(calibration);
    if let Some(path) = &args.recipe {
        return Ok(Recipe::load(path)?.compress(model.tensors(), &options)?);
    }
    if args.form == Form::Smallest {
        let all = (model.tensors().file_bytes() as f64 / args.budget) as u64;
        // What the file holds besides the weights.
        let (graph, _) = model.to_bytes(&empty(model)?, Form::Smallest)?;
        let left = all.saturating_sub(graph.len() as u64);
        let budget = Budget::bytes(left).calibration(calibration);
        return Ok(budget.compress(model.tensors())?);
    }
    let bits = (32.0 / args.budget).floor().clamp(1.0, 8.0) as u32;
    let quantizer = FixedPointQuantizer::new(bits)
        .granularity(Granularity::PerRow)
        .range(Range::SquaredError);
    let recipe = Recipe {
        seed: args.common.seed,
        rules: vec![Rule {
            tensors: "*".to_owned(),
            except: Vec::new(),
            min_values: 256,
            chain: vec![quantizer.into()],
        }],
    };
    Ok(recipe.compress(model.tensors(), &options)?)
}

/// A model whose weights are all one number, whose smallest file is its graph.
fn empty(model: &OnnxModel) -> anyhow::Result<CompressedModel> {
    let mut empty = CompressedModel::new();
    for name in model.tensors().names() {
        let mut data = model.tensors().data(name)?.into_owned();
        data.bytes.to_mut().fill(0);
        empty.insert_plain(name, data)?;
    }
    Ok(empty)
}

/// The moments of the inputs of all layers, from runs of a model that gives them out.
fn calibrate(model: &OnnxModel, runs: &[Inputs]) -> anyhow::Result<Calibration> {
    let mut calibration = Calibration::new();
    let names: Vec<&str> = model.tensors().names().collect();
    // Weights that no layer multiplies its input with have none.
    let layers = names
        .iter()
        .filter(|name| model.with_inputs_of([**name]).is_ok());
    let layers: Vec<&str> = layers.copied().collect();
    if runs.is_empty() || layers.is_empty() {
        return Ok(calibration);
    }
    let (bytes, outputs) = model.with_inputs_of(layers.iter().copied())?;
    let runtime = Runtime::load(bytes)?;
    for inputs in runs {
        let results = runtime.run(inputs)?;
        for (name, output) in layers.iter().zip(&outputs) {
            // Convolutions of groups and transposed ones are compressed without moments.
            match model.add_inputs(&mut calibration, name, results[output].view()) {
                Err(taper::Error::Unsupported { .. }) => {}
                added => added?,
            }
        }
    }
    Ok(calibration)
}

/// The inputs of each run.
fn read_inputs(folder: &Path) -> anyhow::Result<Vec<Inputs>> {
    let mut runs: BTreeMap<usize, Inputs> = BTreeMap::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "npy") {
            continue;
        }
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let stem = stem.with_context(|| format!("{}: the name is not UTF-8", path.display()))?;
        let numbered = stem.rsplit_once('.');
        let numbered = numbered.and_then(|(name, number)| Some((name, number.parse().ok()?)));
        let (name, run) = numbered.unwrap_or((stem, 0));
        let input =
            match read_npy::<_, ArrayD<f32>>(&path) {
                Ok(array) => Input::Real(array),
                Err(_) => match read_npy::<_, ArrayD<i64>>(&path) {
                    Ok(array) => Input::Whole(array.mapv(|x| x as i32)),
                    Err(_) => Input::Whole(read_npy(&path).with_context(|| {
                        format!("{}: f32, i32 and i64 are read", path.display())
                    })?),
                },
            };
        runs.entry(run).or_default().insert(name.to_owned(), input);
    }
    anyhow::ensure!(!runs.is_empty(), "{} holds no .npy file", folder.display());
    Ok(runs.into_values().collect())
}

/// The outputs of all runs, and the milliseconds of one.
fn outputs(runtime: &Runtime, runs: &[Inputs]) -> anyhow::Result<(Vec<Outputs>, f64)> {
    // The first run packs the weights.
    runtime.run(&runs[0])?;
    let start = Instant::now();
    let results = runs.iter().map(|inputs| runtime.run(inputs));
    let results = results.collect::<anyhow::Result<Vec<Outputs>>>()?;
    Ok((
        results,
        start.elapsed().as_secs_f64() * 1e3 / runs.len() as f64,
    ))
}

fn agreement(before: &[Outputs], after: &[Outputs]) -> f64 {
    let (mut same, mut all) = (0, 0);
    for (a, b) in before.iter().zip(after) {
        let (Some(a), Some(b)) = (a.values().next(), b.values().next()) else {
            continue;
        };
        let top = |array: &ArrayD<f32>| -> Vec<usize> {
            let length = *array.shape().last().unwrap_or(&1);
            let values: Vec<f32> = array.iter().copied().collect();
            let rows = values.chunks(length.max(1));
            let place = |row: &[f32]| {
                let places = row.iter().enumerate();
                places
                    .max_by(|a, b| a.1.total_cmp(b.1))
                    .map_or(0, |(i, _)| i)
            };
            rows.map(place).collect()
        };
        let (a, b) = (top(a), top(b));
        all += a.len();
        same += a.iter().zip(&b).filter(|(a, b)| a == b).count();
    }
    same as f64 / f64::from(all.max(1) as u32)
}

fn correlation(before: &[Outputs], after: &[Outputs]) -> f64 {
    let names: Vec<&String> = before.iter().flat_map(Outputs::keys).collect();
    let of = |name: &str| {
        let values = |runs: &[Outputs]| -> Vec<f64> {
            let arrays = runs.iter().filter_map(|run| run.get(name));
            arrays
                .flat_map(|array| array.iter().map(|&x| f64::from(x)))
                .collect()
        };
        let (a, b) = (values(before), values(after));
        let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
        let (p, q) = (mean(&a), mean(&b));
        let sum = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
            a.iter().zip(&b).map(|(a, b)| f(a - p, b - q)).sum()
        };
        let norms = sum(&|a, _| a * a) * sum(&|_, b| b * b);
        if norms == 0.0 {
            1.0
        } else {
            sum(&|a, b| a * b) / norms.sqrt()
        }
    };
    names.iter().map(|name| of(name)).fold(1.0, f64::min)
}
