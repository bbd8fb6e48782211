//! Laws of whole models: recipes as text, calibration, tensors that a chain cannot compress, observers and budgets.
#![cfg(feature = "model")]

mod bound;
mod budgets;
mod calibration;
mod kept;
mod observers;
mod text;

use taper::Seed;
use taper::model::{NamedTensors, Recipe, Report, ReportRow, Rule, Step};
use taper::ndarray::{ArrayD, IxDyn};

/// Numbers in [−1, 1).
fn numbers(shape: &[usize], seed: u64) -> ArrayD<f32> {
    let mut stream = 0;
    ArrayD::from_shape_simple_fn(IxDyn(shape), || {
        stream += 1;
        (Seed::from(seed).derive(stream).value() >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    })
}

fn model(tensors: &[(&str, ArrayD<f32>)]) -> NamedTensors {
    let views = tensors.iter().map(|(name, tensor)| (*name, tensor.view()));
    NamedTensors::from_bytes(NamedTensors::to_bytes(views).unwrap()).unwrap()
}

fn rule(tensors: &str, chain: Vec<Step>) -> Rule {
    Rule {
        tensors: tensors.to_owned(),
        except: Vec::new(),
        min_values: 0,
        chain,
    }
}

/// A recipe of one rule for all tensors.
fn recipe(chain: Vec<Step>) -> Recipe {
    Recipe {
        seed: 3,
        rules: vec![rule("*", chain)],
    }
}

fn row<'a>(report: &'a Report, name: &str) -> &'a ReportRow {
    let row = report.rows.iter().find(|row| row.name == name);
    row.expect("the report has a row for each tensor")
}
