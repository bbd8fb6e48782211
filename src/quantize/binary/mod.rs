//! Binary networks: one bit a weight, in memory, on disk and in the product.
//!
//! - `straight_through`: how a gradient passes a sign, for training;
//! - `binarizer`: real weights become a `matrix` of signs, with or without scales;
//! - `activations`: a batch of binary vectors;
//! - `batch_norm` and `mlp`: a trained network at inference, its hidden layers free of floats;
//! - `signs` and `product`: the packed bits under both, and how a product is shared out;
//! - `trainable`: the gradient of scales.

mod activations;
mod aware;
mod batch_norm;
mod binarizer;
mod matrix;
mod mlp;
mod product;
mod signs;
mod straight_through;
mod trainable;

pub use activations::BinaryActivations;
pub use batch_norm::BatchNorm;
pub use binarizer::{Binarizer, BinarizerParams, Scaling};
pub use matrix::BinaryMatrix;
pub use mlp::{BinaryMlp, BinaryMlpBuilder};
pub use straight_through::StraightThrough;
