//! taper makes trained neural networks small: quantization, low-rank factorization, pruning and distillation
//! over [`ndarray`] tensors, without a neural-network framework.
//!
//! A *compressor* takes a view of a weight array and returns an *artifact*: a value that owns the small
//! representation, tells its exact size, rebuilds the dense tensor, and multiplies without rebuilding it.
//!
//! ```
//! use taper::ndarray::Array2; // ndarray 0.17, re-exported
//! use taper::quantize::product::ProductQuantizer;
//! use taper::{Compressed, LinearOp, Quantizer};
//!
//! let weights = Array2::from_shape_fn((256, 128), |(i, j)| ((i * 37 + j * 11) as f32).sin());
//! let compressed = ProductQuantizer::new(16).centroids(50).seed(7).quantize(weights.view())?;
//! let x = Array2::from_elem((4, 128), 0.5);
//! let y = compressed.apply(x.view())?; // x Wᵀ, from the codes
//! println!("{:?}: {}, {:.1} times smaller", y.shape(), compressed.storage(), compressed.ratio());
//! # assert_eq!(y.shape(), [4, 256]);
//! # Ok::<(), taper::Error>(())
//! ```
//!
//! The [guide] goes on from here: [first steps](guide::first_steps), [choosing a method](guide::choosing),
//! [what a layer's inputs change](guide::calibration), [running compressed layers](guide::running).
//!
//! # Methods, and what each saves and costs
//!
//! LeNet-300-100 for MNIST, 1.07 MB dense: bytes of the whole file and accuracy on the test images, where the dense network
//! has 98.28 % (`cargo run --example pipeline_mnist` in taper's repository, which fine-tunes each as its family allows).
//!
//! | method | in | file | smaller | test | costs |
//! |---|---|--:|--:|--:|---|
//! | fixed point, 1 to 16 bits | [`quantize::fixed_point`] | 116.6 kB at 4 bits | 9.1× | 98.26 % | nothing to train; 2 bits and fewer lose much |
//! | product quantization, residual, rotated | [`quantize::product`] | 52.5 kB | 20.3× | 98.12 % | k-means; look-ups in place of multiplications |
//! | one bit a weight, XNOR products | [`quantize::binary`] | 35.2 kB | 30.3× | 96.93 % | best trained that way from the start |
//! | truncated SVD | [`factorize::svd`] | 86.6 kB at rank 32 | 12.3× | 98.19 % | some training; faster wherever the rank is small |
//! | single weights pruned | [`prune`] | 32.1 kB at 4.7 % | 33.2× | 98.44 % | training in rounds; sparse products |
//! | pruned, shared, entropy-coded | [`model`] | 15.5 kB | 69.0× | 98.35 % | all of these, the smallest file |
//!
//! Without a row of its own there: [CP](factorize::cp) and [Tucker-2](factorize::convolution) for convolutions, whole
//! [channels and layers](prune), which make every later step smaller too, and [distillation](distill), which trains any of them
//! without labels.
//!
//! # How to choose
//!
//! - Neither data nor time: fixed point with a scale a row.
//! - Some inputs: the same with [`InputMoments`]; errors of outputs count then, not those of weights.
//! - Training data: compress, then train what is stored ([`fine_tuning`](guide::fine_tuning)); the network of before as teacher ([`distill`]).
//! - A number of bytes for a whole model: [`Recipe::for_budget`](model::Recipe::for_budget).
//! - How much further it could go: [`limit`].
//!
//! # Four traits
//!
//! | trait | what it does | artifact |
//! |---|---|---|
//! | [`Quantizer`] | few values and codes that choose among them | [`PqMatrix`](quantize::product::PqMatrix), [`FixedPointMatrix`](quantize::fixed_point::FixedPointMatrix), [`TrellisMatrix`](quantize::trellis::TrellisMatrix), [`BinaryMatrix`](quantize::binary::BinaryMatrix) |
//! | [`Factorizer`] | the factors of a product | [`LowRankMatrix`](factorize::svd::LowRankMatrix), [`CpTensor`](factorize::cp::CpTensor), [`TuckerConv2d`](factorize::convolution::TuckerConv2d) |
//! | [`Pruner`] | what is kept | [`PrunePlan`](prune::PrunePlan), [`SparseMatrix`](prune::SparseMatrix) |
//! | [`Distiller`] | what a student learns from a teacher: a loss and its gradient | |
//!
//! What works on artifacts is written once, against [`Compressed`] (size, bytes, dense tensor), [`LinearOp`] (y = x Wᵀ) and
//! [`Trainable`] (gradients of codebooks, factors, scales). [`cluster`] is the k-means under the codebooks.
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
mod context;
mod defaults;
pub mod distill;
mod dtype;
mod error;
pub mod factorize;
mod feedback;
mod float;
#[cfg(feature = "model")]
pub mod guide;
#[allow(unsafe_code)]
mod kernels;
pub mod limit;
mod linalg;
#[cfg(feature = "linfa")]
mod linfa_arrays;
#[cfg(feature = "model")]
#[cfg_attr(docsrs, doc(cfg(feature = "model")))]
pub mod model;
mod moments;
mod observer;
mod packing;
mod parallel;
pub mod prelude;
pub mod prune;
pub mod quantize;
mod seed;
mod trainable;
mod traits;

pub use artifact::{Compressed, FitReport, LinearOp, Part, Precision, Role, StorageBits};
pub use context::FitContext;
pub use dtype::DType;
pub use error::{Error, ParamError, Result};
pub use float::Float;
pub use moments::{InputMoments, Patches};
pub use observer::{Observer, Progress, Stage};
pub use seed::Seed;
pub use trainable::Trainable;
pub use traits::{Distiller, Factorizer, Pruner, Quantizer};

/// The crate of the arrays, in the version that taper's functions take.
///
/// ```
/// let weights = taper::ndarray::Array2::<f32>::zeros((16, 8));
/// assert_eq!(weights.dim(), (16, 8));
/// ```
pub use ndarray;

// The code of the first page is a test too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
