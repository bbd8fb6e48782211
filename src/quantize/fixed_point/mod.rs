//! Fixed point: integers of 1 to 16 bits with a scale.
//!
//! - `grid`: the evenly spaced values, and the range that they cover;
//! - `quantizer`: rounds real weights to codes on a grid; fake quantization for training;
//! - `matrix`: the packed codes; `product`: products with them;
//! - `trainable`: the gradient of scales.
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

mod grid;
mod matrix;
mod product;
mod quantizer;
mod trainable;

pub use grid::{Granularity, Range, Symmetry};
pub use matrix::FixedPointMatrix;
pub use quantizer::FixedPointQuantizer;
