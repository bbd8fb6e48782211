//! Products of a compressed layer with a batch, written into an existing array.

use std::path::Path;

use anyhow::Context;
use taper::Geometry;
use taper::factorize::Rank;
use taper::factorize::convolution::CpConv2d;
use taper::factorize::cp::CpTensor;
use taper::factorize::svd::TruncatedSvd;
use taper::ndarray::{Array1, Array2, Array4, Ix2};
use taper::{Factorizer, LinearOp, Precision};

use super::{Arguments, Work};
use crate::Numbers;
use crate::arrays::write_f32;

/// y = x Wᵀ.
pub struct Apply<L> {
    layer: L,
    x: Array2<f32>,
    y: Array2<f32>,
}

impl<L: LinearOp<f32>> Apply<L> {
    pub fn new(layer: L, arguments: &Arguments) -> anyhow::Result<Self> {
        let x = arguments.array::<Ix2>("x")?;
        // The first call gives the shape of the result.
        let y = layer.apply(x.view())?;
        Ok(Self { layer, x, y })
    }
}

impl<L: LinearOp<f32>> Work for Apply<L> {
    fn run(&mut self) -> anyhow::Result<()> {
        Ok(self.layer.apply_into(self.x.view(), self.y.view_mut())?)
    }

    fn save(&self, folder: &Path) -> anyhow::Result<Numbers> {
        write_f32(folder.join("y.npy"), &self.y)?;
        Ok(Vec::new())
    }
}

/// A matrix of low rank as two thin products.
pub fn low_rank(arguments: &Arguments) -> anyhow::Result<Apply<impl LinearOp<f32> + use<>>> {
    let weights = arguments.array::<Ix2>("input")?;
    let rank = Rank::Fixed(arguments.number("rank")?);
    Apply::new(
        TruncatedSvd::new(rank).factorize(weights.view())?,
        arguments,
    )
}

/// A convolution as the chain of its CP decomposition, with a padding of one.
pub struct CpConvolution {
    layer: CpConv2d<f32>,
    x: Array4<f32>,
    y: Option<Array4<f32>>,
}

impl CpConvolution {
    pub fn load(arguments: &Arguments) -> anyhow::Result<Self> {
        let factors = ["out", "in", "height", "width"];
        let factors = factors.map(|name| arguments.array::<Ix2>(name));
        let factors = factors.into_iter().collect::<Result<Vec<_>, _>>()?;
        let weights = Array1::ones(factors[0].ncols());
        let kernel = CpTensor::from_parts(weights, factors, Precision::F32)?;
        let geometry = Geometry {
            padding: [1, 1],
            ..Geometry::default()
        };
        Ok(Self {
            layer: CpConv2d::new(&kernel, None, geometry)?,
            x: arguments.array("x")?,
            y: None,
        })
    }
}

impl Work for CpConvolution {
    fn run(&mut self) -> anyhow::Result<()> {
        self.y = Some(self.layer.apply(self.x.view())?);
        Ok(())
    }

    fn save(&self, folder: &Path) -> anyhow::Result<Numbers> {
        write_f32(
            folder.join("y.npy"),
            self.y.as_ref().context("run was not called")?,
        )?;
        Ok(Vec::new())
    }
}
