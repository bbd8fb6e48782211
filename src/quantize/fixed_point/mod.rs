//! Fixed point: integers of 1 to 16 bits with a scale.
//!
//! - `grid`: the evenly spaced values, and the range they cover;
//! - `quantizer`: real weights become codes on a grid; fake quantization for training;
//! - `matrix`: the packed codes, and products with them;
//! - `trainable`: the gradient of scales and offsets.

mod grid;
mod matrix;
mod quantizer;
mod trainable;

pub use grid::{Granularity, Range, Symmetry};
pub use matrix::FixedPointMatrix;
pub use quantizer::{FixedPointQuantizer, FixedPointQuantizerParams};
