//! taper makes trained neural networks small: quantization, low-rank factorization, pruning and distillation
//! over [`ndarray`] tensors, without a neural-network framework.
//!
//! # A model in five lines
//!
//! A model in safetensors, compressed to an eighth, saved, loaded, used, and written back as dense tensors:
//!
//! ```rust,standalone_crate
//! # fn main() -> taper::Result<()> {
//! # let folder = std::env::temp_dir().join(format!("taper-front-page-{}", std::process::id()));
//! # std::fs::create_dir_all(&folder).unwrap();
//! # std::env::set_current_dir(&folder).unwrap();
//! # // Numbers near a normal distribution: sums of twelve uniform ones from a generator of 64 bits.
//! # let mut state = 7_u64;
//! # let mut uniform = || {
//! #     state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
//! #     (state >> 40) as f32 / (1 << 24) as f32
//! # };
//! # let mut matrix = |rows: usize, columns: usize| {
//! #     taper::ndarray::Array2::from_shape_simple_fn((rows, columns), || {
//! #         ((0..12).map(|_| uniform()).sum::<f32>() - 6.0) * 0.05
//! #     }).into_dyn()
//! # };
//! # let layers = [("fc1.weight", matrix(300, 784)), ("fc2.weight", matrix(100, 300)), ("fc3.weight", matrix(10, 100))];
//! # NamedTensors::save("model.safetensors", layers.iter().map(|(name, layer)| (*name, layer.view())))?;
//! # let x = taper::ndarray::Array2::ones((1, 784));
//! use taper::model::{Budget, CompressedModel, NamedTensors};
//!
//! let (small, report) = Budget::ratio(8.0).compress(&NamedTensors::open("model.safetensors")?)?;
//! small.save("small.safetensors")?;
//! let small = CompressedModel::load("small.safetensors")?;
//! let y = small.apply("fc1.weight", x.view())?; // y = x Wᵀ, from the codes
//! small.save_dense("dense.safetensors")?; // types and metadata as in model.safetensors
//!
//! println!("{report}");
//! # assert_eq!(y.dim(), (1, 300));
//! # assert_eq!(report.bytes_after, 133_084); // as printed below
//! # std::fs::remove_dir_all(&folder).unwrap();
//! # Ok(())
//! # }
//! ```
//!
//! ```text
//! tensor      method             shape  before   after  ratio   bits    error
//! fc1.weight  trellis 7.77e-3  300x784  940800  110067   8.55  3.744  5.94e-3
//! fc2.weight  trellis 1.93e-3  100x300  120000   21609   5.55  5.762  3.79e-4
//! fc3.weight  trellis 2.61e-4   10x100    4000    1173   3.41  9.384  7.96e-6
//! 1065040 bytes became 133084 (235 of them header): 8.00 times smaller
//! ```
//!
//! # A layer
//!
//! A *compressor* ([`Quantizer`], [`Factorizer`], [`Pruner`]) is plain data: parameters with defaults and setters. It takes a view
//! of a weight array and returns an *artifact*, which owns the small representation, has an exact size, decompresses to
//! the dense tensor ([`Compressed`]) and multiplies without building it ([`LinearOp`]).
//!
//! ```
//! use taper::ndarray::Array2; // ndarray 0.17, re-exported
//! use taper::prelude::*;
//! use taper::quantize::product::ProductQuantizer;
//!
//! let weights = Array2::from_shape_fn((256, 128), |(o, i)| ((o * 37 + i * 11) as f32).sin());
//! let compressed = ProductQuantizer::with_width(4).centroids(64).seed(7).quantize(weights.view())?;
//! let y = compressed.apply(Array2::from_elem((4, 128), 0.5).view())?;
//! println!("{:?}: {}, {:.1} times smaller", y.shape(), compressed.storage(), compressed.ratio());
//! # assert_eq!(y.shape(), [4, 256]);
//! # Ok::<(), taper::Error>(())
//! ```
//!
//! With the moments of the layer's inputs ([`FitContext`]) a compressor minimizes the error of the output instead of that of
//! the weights. The [guide] continues from here: [first steps](guide::first_steps), [choosing a method](guide::choosing),
//! [calibration](guide::calibration), [running compressed layers](guide::running).
//!
//! # Methods, and what each saves and costs
//!
//! LeNet-300-100 for MNIST, 1.07 MB dense: bytes of the whole file, and accuracy on the test images, where the dense network
//! has 98.28 % (`cargo run --example pipeline_mnist` in the repository, which fine-tunes each method as its family allows).
//!
//! | method | in | file | smaller | test | costs |
//! |---|---|--:|--:|--:|---|
//! | fixed point, 1 to 16 bits | [`quantize::fixed_point`] | 116.6 kB at 4 bits | 9.1× | 98.26 % | no training; 2 bits and fewer lose much |
//! | product quantization, residual, rotated | [`quantize::product`] | 52.5 kB | 20.3× | 98.12 % | k-means; look-ups instead of multiplications |
//! | one bit a weight, XNOR products | [`quantize::binary`] | 35.2 kB | 30.3× | 96.93 % | best when trained that way from the start |
//! | truncated SVD | [`factorize::svd`] | 86.6 kB at rank 32 | 12.3× | 98.19 % | some training; faster wherever the rank is small |
//! | pruning of single weights | [`prune`] | 32.1 kB at 4.7 % | 33.2× | 98.44 % | training in rounds; sparse products |
//! | pruned, shared, entropy-coded | [`model`] | 15.5 kB | 69.0× | 98.35 % | all of these; the smallest file |
//!
//! Not in the table: [trellis codes](quantize::trellis), [CP](factorize::cp) and [Tucker-2](factorize::convolution) for
//! convolutions, [channel and layer pruning](prune), which makes every later step smaller too, and [distillation](distill), which
//! trains any of them without labels.
//!
//! # How to choose
//!
//! - A number of bytes for a whole model: [`Budget`](model::Budget).
//! - Neither data nor time: fixed point with a scale for each row.
//! - Some inputs: the same with [`InputMoments`] or, for a model, [`Calibration`](model::Calibration).
//! - Training data: compress, then [fine-tune](guide::fine_tuning) the stored numbers, with the original network as teacher ([`distill`]).
//! - How much further it could go: [`limit`].
//!
//! # Four traits
//!
//! | trait | what it does | artifact |
//! |---|---|---|
//! | [`Quantizer`] | few values, and codes that choose among them | [`PqMatrix`](quantize::product::PqMatrix), [`FixedPointMatrix`](quantize::fixed_point::FixedPointMatrix), [`TrellisMatrix`](quantize::trellis::TrellisMatrix), [`BinaryMatrix`](quantize::binary::BinaryMatrix) |
//! | [`Factorizer`] | the factors of a product | [`LowRankMatrix`](factorize::svd::LowRankMatrix), [`CpTensor`](factorize::cp::CpTensor), [`TuckerConv2d`](factorize::convolution::TuckerConv2d) |
//! | [`Pruner`] | the channels or weights that are kept | [`PrunePlan`](prune::PrunePlan), [`SparseMatrix`](prune::SparseMatrix) |
//! | [`Distiller`] | a loss of a student against a teacher, and its gradient | |
//!
//! What works on artifacts is written once, against [`Compressed`] (size, bytes, dense tensor), [`LinearOp`] (y = x Wᵀ) and
//! [`Trainable`] (gradients of codebooks, factors, scales). [`prelude`] brings these traits into scope.
//!
//! # What holds everywhere
//!
//! - Weights have the layout of the frameworks: (out_features, in_features), and OIHW for convolutions.
//! - A size is the length of the bytes that [`Compressed::parts`] returns; [`Compressed::storage`] counts the same.
//! - [`LinearOp::apply`] is the product with the decompressed matrix, up to the rounding of sums.
//! - The same seed gives the same result, in every run and for any number of threads.
//! - Wrong inputs are typed [errors](Error) with the values that are wrong; nothing panics.
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
#[cfg(feature = "onnx")]
#[cfg_attr(docsrs, doc(cfg(feature = "onnx")))]
pub mod onnx;
mod packing;
mod parallel;
mod power;
pub mod prelude;
pub mod prune;
pub mod quantize;
mod seed;
mod trainable;
mod traits;

pub use artifact::{Compressed, FitReport, LinearOp, Part, Precision, Role, StorageBits};
pub use context::FitContext;
pub use distill::distiller::Distiller;
pub use dtype::DType;
pub use error::{Error, ParamError, Result};
pub use float::Float;
pub use moments::{Geometry, InputMoments};
pub use observer::{Observer, Progress, Stage};
pub use prune::pruner::Pruner;
pub use seed::Seed;
pub use trainable::Trainable;
pub use traits::{Factorizer, Quantizer};

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
