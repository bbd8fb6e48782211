//! How close do compressed weights come to the rate-distortion function?
//!
//! A square matrix of independent normal or Laplace numbers is compressed in several ways. For each of them, the bits of the file
//! are set beside the rate-distortion function R(D) at the mean squared error D of the method. No code can have
//! fewer bits than R(D).

use anyhow::Context;
use clap::Parser;
use ndarray::Array2;
use serde::Serialize;
use support::args::Common;
use support::plot::{Axis, Mark, Plot, Scale, Series};
use support::progress;
use support::report::Report;
use support::table::Table;
use support::{fast_allocator, json};
use taper::limit::EmpiricalSource;
use taper::model::{CompressedModel, CompressedTensor, Step, extend::Artifact};
use taper::quantize::fixed_point::{FixedPointQuantizer, Range};
use taper::quantize::product::ProductQuantizer;
use taper::quantize::trellis::TrellisQuantizer;
use taper::{Quantizer, Seed};

fast_allocator!();

/// Compares compressed weights with the rate-distortion function.
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    common: Common,

    /// Rows and columns of the matrix.
    #[arg(long, default_value_t = 1024, value_name = "N")]
    size: usize,
}

/// Excess rates in bits at 1, 2, 3 and 4 bits of a Gaussian source that A. Tseng et al., "QTIP", 2024, arXiv:2406.11235, publish.
const QTIP_4096: [(f64, f64); 4] = [(1.0, 0.08), (2.0, 0.115), (3.0, 0.17), (4.0, 0.25)];
/// The same at 2 bits with 65,536 states.
const QTIP_65536: (f64, f64) = (2.0, 0.071);
/// What the best scalar quantizer with entropy coding loses at high rates: ½ log₂(2πe / 12).
const SCALAR: f64 = 0.254_614;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
enum Source {
    Normal,
    Laplace,
}

#[derive(Debug, Serialize)]
struct Point {
    source: Source,
    method: String,
    parameter: String,
    bits: f64,
    error: f64,
    limit: f64,
}

impl Point {
    fn above(&self) -> f64 {
        self.bits - self.limit
    }
}

impl Source {
    /// Independent numbers of variance 1.
    fn numbers(self, size: usize, seed: Seed) -> Array2<f32> {
        Array2::from_shape_fn((size, size), |(i, j)| {
            let at = 2 * (i * size + j) as u64;
            let [a, b] = [at, at + 1].map(|at| 0.5 * (1.0 + seed.uniform(at)));
            let x = match self {
                Self::Normal => (-2.0 * (1.0 - a).ln()).sqrt() * (std::f64::consts::TAU * b).cos(),
                Self::Laplace => {
                    let magnitude = -(1.0 - a).ln() * std::f64::consts::FRAC_1_SQRT_2;
                    if b < 0.5 { -magnitude } else { magnitude }
                }
            };
            x as f32
        })
    }
}

/// Methods with their parameters.
fn methods(quick: bool) -> Vec<(String, String, Step)> {
    let mut methods = Vec::new();
    let steps: &[f64] = if quick {
        &[0.25, 1.2]
    } else {
        &[0.125, 0.177, 0.25, 0.354, 0.5, 0.707, 1.0, 1.41, 1.7]
    };
    for states in [8, 128, 256] {
        for &step in steps {
            let quantizer = TrellisQuantizer::new(step).states(states);
            methods.push((
                format!("trellis, {states} states"),
                format!("Δ = {step}"),
                quantizer.into(),
            ));
        }
    }
    for bits in [2, 3, 4, 5] {
        let quantizer = FixedPointQuantizer::new(bits).range(Range::SquaredError);
        methods.push((
            "fixed point".to_owned(),
            format!("{bits} bits"),
            quantizer.into(),
        ));
    }
    for (width, centroids) in [(4, 16), (4, 64), (4, 256), (2, 64), (2, 256)] {
        let quantizer = ProductQuantizer::with_width(width).centroids(centroids);
        let parameter = format!("{width} × {centroids}");
        methods.push(("product".to_owned(), parameter, quantizer.into()));
    }
    methods
}

fn measured(step: &Step, weights: &Array2<f32>) -> anyhow::Result<(f64, f64)> {
    fn of<A: Artifact>(matrix: A, weights: &Array2<f32>) -> anyhow::Result<(f64, f64)> {
        let rebuilt = matrix.decompress()?;
        let squares = weights
            .iter()
            .zip(&rebuilt)
            .map(|(w, r)| f64::from(w - r).powi(2));
        let error = squares.sum::<f64>() / weights.len() as f64;
        let mut model = CompressedModel::new();
        model.insert("w", CompressedTensor::new(matrix))?;
        let bits = 8.0 * model.file_bytes()? as f64 / weights.len() as f64;
        Ok((bits, error))
    }
    match step {
        Step::Trellis(quantizer) => of(quantizer.quantize(weights.view())?, weights),
        Step::FixedPoint(quantizer) => of(quantizer.quantize(weights.view())?, weights),
        Step::Product(quantizer) => of(quantizer.quantize(weights.view())?, weights),
        other => anyhow::bail!("{other} is not part of the comparison"),
    }
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut report = Report::new("rate_distortion");
    let size = if args.common.quick { 256 } else { args.size };
    report.say(&format!(
        "{size}² independent numbers of variance 1, seed {}, compressed in several ways. Bits are those of the file, header included, for each \
         number. R(D) is the rate-distortion function at the mean squared error D of the method: ½ log₂(1 / D) for normal numbers, and by \
         the algorithm of Blahut and Arimoto from the numbers themselves for Laplace's. No code has fewer bits than R(D).",
        args.common.seed,
    ));
    let mut points = Vec::new();
    for source in [Source::Normal, Source::Laplace] {
        let weights = source.numbers(size, args.common.seed(&format!("{source:?}")));
        let empirical = EmpiricalSource::of(weights.view())?;
        let methods = methods(args.common.quick);
        let bar = progress::bar("compressing", methods.len());
        for (method, parameter, step) in methods {
            let (bits, error) = measured(&step, &weights)?;
            let limit = match source {
                Source::Normal => (0.5 * (1.0 / error).log2()).max(0.0),
                Source::Laplace => empirical.rate(error)?.lower,
            };
            points.push(Point {
                source,
                method,
                parameter,
                bits,
                error,
                limit,
            });
            bar.inc(1);
        }
        bar.finish_and_clear();
        let mut table = Table::new(
            format!("{source:?} numbers"),
            [
                "method",
                "parameter",
                "bits of the file",
                "D",
                "R(D)",
                "above R(D)",
            ],
        );
        for point in points.iter().filter(|point| point.source == source) {
            table.row([
                point.method.clone(),
                point.parameter.clone(),
                format!("{:.3}", point.bits),
                format!("{:.5}", point.error),
                format!("{:.3}", point.limit),
                format!("{:.3}", point.above()),
            ]);
        }
        report.table(&table);
    }
    let published: Vec<String> = QTIP_4096
        .iter()
        .map(|(bits, above)| format!("{above} at {bits}"))
        .collect();
    report.say(&format!(
        "Published for normal numbers: QTIP (arXiv:2406.11235, fixed rate, without entropy coding) is above R(D) by {} bits with 4096 states, and by {} at {} \
         bits with 65,536 states. The best scalar quantizer with entropy coding is {SCALAR:.3} bits above at high rates.",
        published.join(", "),
        QTIP_65536.1,
        QTIP_65536.0,
    ));
    if let Some(path) = &args.common.plot {
        plot(&points).save(path)?;
    }
    if let Some(path) = &args.common.json {
        json::write(path, &points)?;
    }
    report
        .finish(args.common.markdown.as_deref())
        .context("cannot write the page")?;
    Ok(())
}

fn plot(points: &[Point]) -> Plot {
    let mut names: Vec<&str> = Vec::new();
    for point in points {
        if !names.contains(&point.method.as_str()) {
            names.push(&point.method);
        }
    }
    let normal = |name: &str| {
        let own = points
            .iter()
            .filter(move |point| point.source == Source::Normal && point.method == name);
        own.map(|point| (point.bits, point.above()))
            .collect::<Vec<_>>()
    };
    let mut series: Vec<Series> = names
        .iter()
        .map(|name| {
            Series::new(
                *name,
                if name.starts_with("trellis") {
                    Mark::Line
                } else {
                    Mark::Points
                },
                normal(name),
            )
        })
        .collect();
    series.push(Series::new(
        "QTIP, 4096 states (published)",
        Mark::Points,
        QTIP_4096,
    ));
    series.push(
        Series::new(
            "QTIP, 65,536 states (published)",
            Mark::Points,
            [QTIP_65536],
        )
        .color(5),
    );
    let scalar = [(0.0, SCALAR), (5.0, SCALAR)];
    series.push(Series::new("best scalar code at high rates", Mark::Dashed, scalar).color(0));
    Plot {
        title: "Bits of the file above the rate-distortion function of normal numbers".to_owned(),
        x: Axis {
            range: Some(0.0..5.0),
            ..Axis::new("bits of the file for each number", Scale::Linear)
        },
        y: Axis {
            range: Some(0.0..0.5),
            ..Axis::new("bits above R(D)", Scale::Linear)
        },
        series,
    }
}
