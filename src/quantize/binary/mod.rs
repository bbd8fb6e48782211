//! Binary networks: one bit for each weight, in memory, on disk and in the product.
//!
//! - [`Binarizer`] makes a [`BinaryMatrix`] of real weights, with or without scales;
//! - [`StraightThrough`] passes a gradient through a sign during training;
//! - [`BinaryMlp`] runs a trained network whose hidden layers need no floating point.
//!
//! ```
//! use taper::ndarray::array;
//! use taper::quantize::binary::{Binarizer, Granularity};
//! use taper::{LinearOp, Quantizer};
//!
//! let w = array![[0.5, -1.5], [2.0, 2.0]];
//! let of = |scaling: Option<Granularity>| Binarizer::new().scaling(scaling).quantize(w.view());
//! assert_eq!(of(None)?.decompress_matrix()?, array![[1.0, -1.0], [1.0, 1.0]]);
//! assert_eq!(of(Some(Granularity::PerTensor))?.decompress_matrix()?, array![[1.5, -1.5], [1.5, 1.5]]);
//! assert_eq!(of(Some(Granularity::PerRow))?.decompress_matrix()?, array![[1.0, -1.0], [2.0, 2.0]]);
//! # Ok::<(), taper::Error>(())
//! ```

mod activations;
mod aware;
mod batch_norm;
mod binarizer;
mod matrix;
mod mlp;
mod product;
mod scaling;
mod signs;
mod straight_through;
mod trainable;

pub use super::granularity::Granularity;
pub use activations::BinaryActivations;
pub use batch_norm::BatchNorm;
pub use binarizer::Binarizer;
pub use matrix::BinaryMatrix;
pub use mlp::BinaryMlp;
pub use straight_through::StraightThrough;
