//! ONNX models in rten, a runtime in Rust.

use std::collections::BTreeMap;

use anyhow::Context;
use ndarray::{ArrayD, IxDyn};
use rten::{DataType, Dimension, Model, Value, ValueType};
use rten_tensor::Tensor;
use rten_tensor::prelude::*;
use taper::Seed;

/// An input of a model: real numbers, or whole ones.
#[derive(Debug, Clone)]
pub enum Input {
    /// Real numbers.
    Real(ArrayD<f32>),
    /// Whole numbers.
    Whole(ArrayD<i32>),
}

impl Input {
    fn value(&self) -> Value {
        fn tensor<T: Clone>(array: &ArrayD<T>) -> Tensor<T> {
            Tensor::from_data(array.shape(), array.iter().cloned().collect::<Vec<T>>())
        }
        match self {
            Self::Real(array) => tensor(array).into(),
            Self::Whole(array) => tensor(array).into(),
        }
    }
}

/// A model in memory.
pub struct Runtime {
    model: Model,
}

impl Runtime {
    /// Loads the bytes of a model.
    ///
    /// # Errors
    ///
    /// Those of rten.
    pub fn load(bytes: Vec<u8>) -> anyhow::Result<Self> {
        let model = Model::load(bytes).context("rten does not load the model")?;
        Ok(Self { model })
    }

    /// Random values for every input; an axis without a length gets `free` entries, and whole numbers are below `below`.
    ///
    /// # Errors
    ///
    /// An error for an input that is no tensor of real or whole numbers.
    pub fn random_inputs(
        &self,
        seed: Seed,
        free: usize,
        below: usize,
    ) -> anyhow::Result<BTreeMap<String, Input>> {
        let mut inputs = BTreeMap::new();
        for &id in self.model.input_ids() {
            let info = self
                .model
                .node_info(id)
                .context("an input without a node")?;
            let name = info.name().context("an input without a name")?;
            let shape = info.shape().unwrap_or_default();
            let shape: Vec<usize> = shape
                .iter()
                .map(|axis| match axis {
                    Dimension::Fixed(length) => *length,
                    Dimension::Symbolic(_) => free,
                })
                .collect();
            let seed = seed.derive_name(name);
            let count: usize = shape.iter().product();
            // From −1 to 1.
            let uniform = (0..count as u64).map(|i| seed.uniform(i));
            let input = match info.dtype() {
                Some(ValueType::Tensor(DataType::Float)) => {
                    let values = uniform.map(|x| x as f32).collect();
                    Input::Real(ArrayD::from_shape_vec(IxDyn(&shape), values)?)
                }
                Some(ValueType::Tensor(DataType::Int32)) => {
                    let values = uniform.map(|x| ((x + 1.0) / 2.0 * below as f64) as i32);
                    Input::Whole(ArrayD::from_shape_vec(IxDyn(&shape), values.collect())?)
                }
                other => anyhow::bail!("input {name} is {other:?}: give it a .npy file"),
            };
            inputs.insert(name.to_owned(), input);
        }
        Ok(inputs)
    }

    /// The outputs of real numbers, by name.
    ///
    /// # Errors
    ///
    /// Those of rten.
    pub fn run(
        &self,
        inputs: &BTreeMap<String, Input>,
    ) -> anyhow::Result<BTreeMap<String, ArrayD<f32>>> {
        let mut values = Vec::new();
        for (name, input) in inputs {
            values.push((self.model.node_id(name)?, input.value().into()));
        }
        let ids = self.model.output_ids();
        let results = self.model.run(values, ids, None)?;
        let mut outputs = BTreeMap::new();
        for (&id, result) in ids.iter().zip(results) {
            let info = self
                .model
                .node_info(id)
                .context("an output without a node")?;
            let name = info.name().context("an output without a name")?.to_owned();
            if let Value::FloatTensor(tensor) = result {
                let shape = tensor.shape().to_vec();
                let array = ArrayD::from_shape_vec(IxDyn(&shape), tensor.to_vec())?;
                outputs.insert(name, array);
            }
        }
        Ok(outputs)
    }
}

/// The largest difference of two results, and the largest value of the first one.
///
/// # Errors
///
/// An error where they do not have the same names and shapes, or hold values that are not finite.
pub fn difference(
    expected: &BTreeMap<String, ArrayD<f32>>,
    found: &BTreeMap<String, ArrayD<f32>>,
) -> anyhow::Result<(f32, f32)> {
    anyhow::ensure!(
        expected.keys().eq(found.keys()),
        "the outputs have other names"
    );
    let (mut largest, mut size) = (0.0_f32, 0.0_f32);
    for (name, a) in expected {
        let b = &found[name];
        anyhow::ensure!(a.shape() == b.shape(), "output {name} has another shape");
        for (a, b) in a.iter().zip(b) {
            anyhow::ensure!(
                a.is_finite() && b.is_finite(),
                "output {name} is not finite"
            );
            largest = largest.max((a - b).abs());
            size = size.max(a.abs());
        }
    }
    Ok((largest, size))
}
