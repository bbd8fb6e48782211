//! A whole model to the bytes of a file.

use std::path::Path;

use anyhow::Context;
use taper::DType;
use taper::model::{CompressedModel, CompressedTensor, Dense, TensorData};
use taper::ndarray::{ArrayD, array};
use taper::quantize::trellis::TrellisQuantizer;
use taper::{Compressed, Precision, Quantizer};

use super::{Arguments, Work};
use crate::Numbers;
use crate::arrays::{read_f32, write_f32};

/// Matrices quantized with one common step and entropy-coded; vectors in half precision.
pub struct Code {
    tensors: Vec<(String, ArrayD<f32>)>,
    step: f64,
    bytes: Option<Vec<u8>>,
}

impl Code {
    pub fn load(arguments: &Arguments) -> anyhow::Result<Self> {
        let mut tensors = Vec::new();
        for entry in std::fs::read_dir(arguments.word("tensors")?)? {
            let path = entry?.path();
            let name = path.file_stem().and_then(|name| name.to_str());
            if path.extension().is_some_and(|extension| extension == "npy") {
                tensors.push((
                    name.context("the name of a file is not text")?.into(),
                    read_f32(&path)?,
                ));
            }
        }
        Ok(Self {
            tensors,
            step: arguments.word("step")?.parse()?,
            bytes: None,
        })
    }
}

impl Work for Code {
    fn run(&mut self) -> anyhow::Result<()> {
        let matrices = TrellisQuantizer::new(self.step);
        let mut model = CompressedModel::new();
        for (name, tensor) in &self.tensors {
            let shape = tensor.shape();
            let [rows, _, ..] = *shape else {
                let halves = Dense::new(tensor.view(), Precision::F16)?;
                let values = halves
                    .parts()
                    .into_iter()
                    .next()
                    .context("the tensor has no values")?;
                let plain = TensorData {
                    dtype: DType::F16,
                    shape: shape.to_vec(),
                    bytes: values.bytes.into_owned().into(),
                };
                model.insert_plain(name, plain)?;
                continue;
            };
            // As a matrix (first axis, all others).
            let columns = tensor.len() / rows;
            let matrix = tensor.view().into_shape_with_order((rows, columns))?;
            let matrix = CompressedTensor::new(matrices.quantize(matrix)?);
            model.insert(name, matrix.with_shape(shape)?)?;
        }
        self.bytes = Some(model.to_bytes()?);
        Ok(())
    }

    fn save(&self, folder: &Path) -> anyhow::Result<Numbers> {
        let bytes = self.bytes.as_ref().context("run was not called")?;
        let model = CompressedModel::from_bytes(bytes)?;
        for (name, _) in &self.tensors {
            write_f32(folder.join(format!("{name}.npy")), &model.decompress(name)?)?;
        }
        write_f32(folder.join("file_bytes.npy"), &array![bytes.len() as f32])?;
        Ok(vec![("file_bytes", bytes.len() as f64)])
    }
}
