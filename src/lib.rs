//! taper makes trained neural networks small: quantization, low-rank factorization, pruning and distillation
//! over [`ndarray`] tensors, without a neural-network framework.
//!
//! A *compressor* takes a view of a weight array and returns an *artifact*: a value that owns the small
//! representation, tells its exact size, rebuilds the dense tensor, and multiplies without rebuilding it.
//!
//! ```
//! use ndarray::Array2;
//! use taper::quantize::product::ProductQuantizer;
//! use taper::{Compressed, LinearOp, Quantizer};
//!
//! let weights = Array2::from_shape_fn((256, 128), |(i, j)| ((i * 37 + j * 11) as f32).sin());
//! let compressed = ProductQuantizer::params(16).centroids(50).seed(7).quantize(weights.view())?;
//! let x = Array2::from_elem((4, 128), 0.5);
//! let y = compressed.apply(x.view())?; // x Wᵀ, from the codes
//! println!("{:?}: {}, {:.1} times smaller", y.shape(), compressed.storage(), compressed.ratio());
//! # assert_eq!(y.shape(), [4, 256]);
//! # Ok::<(), taper::Error>(())
//! ```
//!
//! # What there is
//!
//! | family | trait | in |
//! |---|---|---|
//! | product quantization, residual stages | [`Quantizer`] | [`quantize::product`] |
//! | one bit a weight, XNOR products, straight-through estimator | [`Quantizer`] | [`quantize::binary`] |
//! | fixed point of 1 to 16 bits | [`Quantizer`] | [`quantize::fixed_point`] |
//! | truncated SVD, exact and randomized | [`Factorizer`] | [`factorize::svd`] |
//! | CP by ALS and ADMM | [`Factorizer`] | [`factorize::cp`] |
//! | convolutions as chains of small ones, Tucker-2 | | [`factorize::convolution`] |
//! | channels, whole layers, single weights | [`Pruner`] | [`prune`] |
//! | softened softmax, hints, attention | [`Distiller`] | [`distill`] |
//! | whole models: safetensors, recipes, budgets, a container | | [`model`] |
//! | gradients of codebooks, factors, scales, for fine-tuning | [`Trainable`] | [`fine_tune`] |
//! | k-means, the engine of the codebooks | [`cluster::Clusterer`] | [`cluster`] |
//! | rate–distortion and low-rank limits, and the distance to them | | [`limit`] |
//!
//! # What holds everywhere
//!
//! - Weights have the frameworks' own layout: (out_features, in_features), and OIHW for convolutions.
//! - A size is the length of the bytes that [`Compressed::parts`] gives; [`Compressed::storage`] counts the same.
//! - The same seed gives the same result, in every run and for any number of threads.
//! - Inputs that cannot be worked with are typed [errors](Error) with the values that were wrong; nothing panics.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![deny(unsafe_code)]

mod artifact;
mod check;
pub mod cluster;
pub mod distill;
mod error;
pub mod factorize;
mod feedback;
pub mod fine_tune;
mod float;
#[allow(unsafe_code)]
mod kernels;
pub mod limit;
mod linalg;
#[cfg(feature = "model")]
#[cfg_attr(docsrs, doc(cfg(feature = "model")))]
pub mod model;
mod moments;
mod observer;
mod packing;
mod parallel;
pub mod prune;
pub mod quantize;
mod seed;
mod trainable;
mod traits;

pub use artifact::{Compressed, DType, FitReport, LinearOp, Part, Precision, Role, StorageBits};
pub use error::{Error, ParamError, Result};
pub use float::Float;
pub use moments::{InputMoments, Patches};
pub use observer::{Observer, Progress, Stage};
pub use seed::Seed;
pub use trainable::Trainable;
pub use traits::{Distiller, Factorizer, ParamGuard, Pruner, Quantizer};

pub use ndarray;
