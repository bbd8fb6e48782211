//! Products with 8-bit weights.

use taper::ndarray::Ix2;
use taper::quantize::fixed_point::{FixedPointQuantizer, Granularity};
use taper::{LinearOp, Quantizer};

use super::Arguments;
use super::layer::Apply;

/// Real inputs in, real outputs out; a scale for each output, as the peer has it.
pub fn apply(arguments: &Arguments) -> anyhow::Result<Apply<impl LinearOp<f32> + use<>>> {
    let weights = arguments.array::<Ix2>("input")?;
    let quantizer = FixedPointQuantizer::new(8).granularity(Granularity::PerRow);
    Apply::new(quantizer.quantize(weights.view())?, arguments)
}
