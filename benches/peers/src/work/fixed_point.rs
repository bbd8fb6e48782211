//! Products with 8-bit weights.

use std::path::Path;

use anyhow::Context;
use taper::Quantizer;
use taper::ndarray::{Array2, Ix2};
use taper::quantize::fixed_point::{FixedPointMatrix, FixedPointQuantizer, Granularity};

use super::{Arguments, Work};
use crate::Numbers;
use crate::arrays::write_f32;

/// y = x Wᵀ with one scale per output and inputs rounded to 8 bits, as the peer computes it.
pub struct Rounded {
    layer: FixedPointMatrix<f32>,
    x: Array2<f32>,
    y: Option<Array2<f32>>,
}

impl Rounded {
    pub fn load(arguments: &Arguments) -> anyhow::Result<Self> {
        let weights = arguments.array::<Ix2>("input")?;
        let quantizer = FixedPointQuantizer::new(8).granularity(Granularity::PerRow);
        Ok(Self {
            layer: quantizer.quantize(weights.view())?,
            x: arguments.array("x")?,
            y: None,
        })
    }
}

impl Work for Rounded {
    fn run(&mut self) -> anyhow::Result<()> {
        self.y = Some(self.layer.apply_rounded(self.x.view())?);
        Ok(())
    }

    fn save(&self, folder: &Path) -> anyhow::Result<Numbers> {
        let y = self.y.as_ref().context("run was not called")?;
        write_f32(folder.join("y.npy"), y)?;
        Ok(Vec::new())
    }
}
