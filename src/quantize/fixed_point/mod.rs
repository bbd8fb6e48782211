//! Fixed point: integers of 1 to 16 bits with a scale.
//!
//! [`FixedPointQuantizer`] rounds weights to evenly spaced values and returns a [`FixedPointMatrix`], which multiplies from its
//! packed codes.
//!
//! ```
//! use taper::quantize::fixed_point::{FixedPointQuantizer, Granularity, Range, Symmetry};
//! use taper::{LinearOp, Quantizer, ndarray::array};
//!
//! let w = array![[0.0, 1.0, 3.0], [10.0, 20.0, 40.0]];
//! let error = |quantizer: FixedPointQuantizer| -> taper::Result<f64> {
//!     let rebuilt = quantizer.quantize(w.view())?.decompress_matrix()?;
//!     Ok((&w - &rebuilt).iter().map(|x| x * x).sum())
//! };
//! let plain = FixedPointQuantizer::new(3);
//! assert!(error(plain.clone().granularity(Granularity::PerRow))? < error(plain.clone())?);
//! assert!(error(plain.clone().symmetry(Symmetry::Affine))? < error(plain.clone())?);
//! assert!(error(plain.clone().range(Range::SquaredError))? <= error(plain)?);
//! # Ok::<(), taper::Error>(())
//! ```

mod few_bit;
mod grid;
mod matrix;
mod product;
mod quantizer;
mod trainable;

pub use super::granularity::Granularity;
pub use grid::{Range, Symmetry};
pub use matrix::FixedPointMatrix;
pub use quantizer::FixedPointQuantizer;
