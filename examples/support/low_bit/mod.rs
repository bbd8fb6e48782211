//! Training with weights and activations of few bits.
//!
//! - `sign`: the sign as an operation of burn, with the gradient of taper's straight-through estimator;
//! - `parameter`: Adam on real latent weights, and the weights that the network computes with;
//! - `mlp`: the network, its checkpoints, and its export to packed bits;
//! - [`mod@file`]: the file of a packed network;
//! - `train`: the epochs.

pub mod file;
mod mlp;
mod parameter;
mod sign;
mod train;

pub use mlp::{Activation, EPSILON, Layer, LowBitMlp};
pub use parameter::{Parameter, Weights};
pub use sign::{SignBackend, sign};
pub use train::{LowBitTraining, Trained};
