//! The fuzz target `onnx`: bytes of a file. It must not panic, and what it accepts can be written and read again.

use taper::model::{CompressOptions, Recipe};
use taper::onnx::{Form, OnnxModel, restore};

/// A chain with a form of its own in each operator, chosen by the first byte.
const CHAINS: [&str; 4] = [
    "{ fixed_point = { bits = 4, granularity = \"per_row\" } }",
    "{ svd = { rank = { fixed = 1 } } }",
    "{ product = { split = { width = 1 }, centroids = 2 } }",
    "{ dense = \"f16\" }",
];

/// Larger models are read and not compressed: a few bytes can describe much work.
const LARGEST: u64 = 1 << 16;

/// Bytes of an ONNX file, in any form.
pub fn onnx(data: &[u8]) {
    if let Ok(plain) = restore(data) {
        let _ = OnnxModel::from_bytes(plain);
    }
    let Ok(model) = OnnxModel::from_bytes(data.to_vec()) else {
        return;
    };
    let names: Vec<&str> = model.tensors().names().collect();
    let _ = model.with_inputs_of(names.iter().copied());
    if data.len() as u64 > LARGEST {
        return;
    }
    let chain = CHAINS[data.len() % CHAINS.len()];
    let recipe = format!("[[rule]]\ntensors = \"*\"\nchain = [{chain}]");
    let recipe = Recipe::from_toml(&recipe).expect("the recipe is sensible");
    let Ok((small, _)) = recipe.compress(model.tensors(), &CompressOptions::default()) else {
        return;
    };
    for form in [Form::Portable, Form::NBits, Form::Smallest] {
        let written = model.to_bytes(&small, form);
        let (bytes, _) = written.expect("what was read can be written");
        let plain = match form {
            Form::Smallest => restore(&bytes).expect("what was written can be restored"),
            _ => bytes,
        };
        OnnxModel::from_bytes(plain).expect("what was written can be read");
    }
}
