//! Products of signs.

use std::path::Path;

use anyhow::Context;
use taper::Quantizer;
use taper::ndarray::{Array2, Ix2};
use taper::quantize::binary::{Binarizer, BinaryActivations, BinaryMatrix};

use super::{Arguments, Work};
use crate::Numbers;
use crate::arrays::write_f32;

/// sign(x) sign(W)ᵀ with both packed.
pub struct Product {
    weights: BinaryMatrix<f32>,
    x: BinaryActivations,
    y: Option<Array2<i32>>,
}

impl Product {
    pub fn load(arguments: &Arguments) -> anyhow::Result<Self> {
        let weights = arguments.array::<Ix2>("input")?;
        let x = arguments.array::<Ix2>("x")?;
        Ok(Self {
            weights: Binarizer::new().quantize(weights.view())?,
            x: BinaryActivations::from_signs(x.view())?,
            y: None,
        })
    }
}

impl Work for Product {
    fn run(&mut self) -> anyhow::Result<()> {
        self.y = Some(self.weights.multiply(&self.x)?);
        Ok(())
    }

    fn save(&self, folder: &Path) -> anyhow::Result<Numbers> {
        let y = self.y.as_ref().context("run was not called")?;
        // Sums of this number of signs are exact in single precision.
        write_f32(folder.join("y.npy"), &y.mapv(|value| value as f32))?;
        Ok(Vec::new())
    }
}
