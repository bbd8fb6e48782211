//! Compressed ONNX models, run by rten: the outputs are those of the model with the decompressed weights.

use std::path::Path;

use taper::Seed;
use taper::model::{CompressOptions, CompressedModel, Recipe};
use taper::onnx::{Form, OnnxModel, restore};
use taper_neighbours::onnx::{Runtime, difference};

/// The most values that a layer of the models sums up, and their layers.
const SUM: f32 = 300.0;
const LAYERS: f32 = 12.0;

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models")
}

fn open(name: &str) -> OnnxModel {
    OnnxModel::open(folder().join(format!("{name}.onnx"))).unwrap()
}

/// The model with all tensors of two axes and more compressed by a chain, in TOML.
fn compress(model: &OnnxModel, chain: &str) -> CompressedModel {
    let recipe = format!("[[rule]]\ntensors = \"*\"\nmin_values = 25\nchain = [{chain}]");
    let recipe = Recipe::from_toml(&recipe).unwrap();
    let options = CompressOptions::default();
    recipe.compress(model.tensors(), &options).unwrap().0
}

/// Runs the model in a form, and with decompressed weights.
fn compare(name: &str, chain: &str, form: Form) -> (Vec<u8>, Vec<String>) {
    let model = open(name);
    let small = compress(&model, chain);
    let (smallest, _) = model.to_bytes(&small, Form::Smallest).unwrap();
    let dense = restore(&smallest).unwrap();
    let (bytes, notes) = model.to_bytes(&small, form).unwrap();
    let expected = Runtime::load(dense).unwrap();
    let found =
        Runtime::load(bytes.clone()).unwrap_or_else(|error| panic!("{name}, {chain}: {error:?}"));
    // Initializers that are inputs too, in an old model, are inputs no longer where they are compressed.
    let inputs = found.random_inputs(Seed::from(3), 4, 40).unwrap();
    let expected = expected.run(&inputs).unwrap();
    let found = found
        .run(&inputs)
        .unwrap_or_else(|error| panic!("{name}, {chain}: {error:?}"));
    let (largest, size) = difference(&expected, &found).unwrap();
    let tolerance = SUM * LAYERS * f32::EPSILON * size;
    assert!(
        largest <= tolerance,
        "{name}, {chain}: {largest} > {tolerance}"
    );
    (bytes, notes)
}

const CHAINS: [&str; 13] = [
    "{ fixed_point = { bits = 8, granularity = \"per_row\" } }",
    "{ fixed_point = { bits = 8, symmetry = \"affine\", granularity = \"per_row\" } }",
    "{ fixed_point = { bits = 4, granularity = \"per_row\" } }",
    "{ fixed_point = { bits = 3, symmetry = \"affine\", granularity = \"per_tensor\" } }",
    "{ fixed_point = { bits = 1, granularity = \"per_row\" } }",
    "{ binary = {} }",
    "{ product = { split = { width = 2 }, centroids = 16 } }",
    "{ product = { split = { width = 2 }, centroids = 8, axis = \"out\", codebook = \"per_group\" } }",
    "{ residual = { quantizer = { split = { width = 2 }, centroids = 8 }, stages = 2 } }",
    "{ svd = { rank = { fixed = 3 } } }",
    "{ svd = { rank = { fixed = 3 } } }, { fixed_point = { bits = 8, granularity = \"per_row\" } }",
    "{ trellis = { step = 0.1 } }",
    "{ prune = { sparsity = { unstructured = { fraction = 0.5 } } } }",
];

const KERNELS: [&str; 5] = [
    "{ spatial_svd = { rank = { fixed = 3 } } }",
    "{ tucker = { size = { ranks = [3, 4] } } }",
    "{ cp = { rank = { fixed = 4 } } }",
    "{ cp_admm = { rank = { fixed = 4 } } }",
    "{ cp = { rank = { fixed = 4 } } }, { fixed_point = { bits = 8, granularity = \"per_row\" } }",
];

#[test]
fn models_of_each_opset_give_the_outputs_of_the_decompressed_weights() {
    for name in [
        "linear_9",
        "linear_17",
        "recurrent",
        "constants",
        "convolutions",
    ] {
        for chain in CHAINS {
            compare(name, chain, Form::Portable);
        }
    }
}

#[test]
fn factorized_kernels_are_chains_of_convolutions() {
    for chain in KERNELS {
        let (bytes, _) = compare("convolutions", chain, Form::Portable);
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains("strided.between"), "{chain}");
    }
}

/// rten takes no zero points in `MatMulNBits`: affine codes are not among these.
#[test]
fn matrices_of_four_bits_run_from_their_codes() {
    for name in ["linear_17", "constants"] {
        let (bytes, _) = compare(name, CHAINS[2], Form::NBits);
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains("MatMulNBits"));
    }
}
