//! Quantization: each weight, or group of weights, becomes a code for one of a few values.
//!
//! ```
//! use taper::ndarray::Array2;
//! use taper::quantize::{binary::Binarizer, fixed_point::FixedPointQuantizer, product::ProductQuantizer};
//! use taper::{Compressed, Quantizer};
//!
//! let weights = Array2::from_shape_fn((256, 256), |(o, i)| ((o * 3 + i * 5) as f32).sin());
//! assert!(FixedPointQuantizer::new(4).quantize(weights.view())?.ratio() > 7.9);
//! assert!(ProductQuantizer::new(32).centroids(16).quantize(weights.view())?.ratio() > 12.0);
//! assert_eq!(Binarizer::new().quantize(weights.view())?.ratio(), 32.0);
//! # Ok::<(), taper::Error>(())
//! ```

pub mod binary;
pub mod fixed_point;
mod granularity;
pub mod product;
pub mod trellis;
