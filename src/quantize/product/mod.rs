//! Product quantization: sub-vectors of the weights become codes into codebooks.
//!
//! One axis of a weight matrix is split into m groups of d neighbouring values. The sub-vectors of each group are
//! clustered by [k-means](crate::cluster), and each is replaced by the number of its nearest centroid: ⌈log₂ k⌉ bits
//! instead of 32·d (Jégou, Douze and Schmid, "Product quantization for nearest neighbor search", 2011,
//! doi:10.1109/TPAMI.2010.57; for weights Gong, Liu, Yang and Bourdev, "Compressing deep convolutional
//! networks using vector quantization", 2014, arXiv:1412.6115).
//!
//! [`ProductQuantizer`] trains codebooks and chooses codes, [`ProductCodebooks`] are trained codebooks, and [`PqMatrix`] is the
//! artifact. [`ResidualQuantizer`] adds up several stages, and [`OptimizedProductQuantizer`] rotates the vectors before, by a
//! matrix that it learns.
//!
//! # The two axes
//!
//! A weight matrix W has shape (out_features, in_features) here. The published scheme for weights writes it as
//! C_in × C_out and splits its rows along C_out, which is [`SplitAxis::Out`]. [`SplitAxis::In`], the default,
//! splits the inputs of each output, as vector search splits its vectors.
//!
//! # How a product is computed
//!
//! y = x Wᵀ is computed from the codes. With the inputs split, the products of a group's centroids with the group's inputs
//! make a table of k entries, and an output is the sum of m entries:
//!
//! $$y\_o = \\sum\_{g=1}^{m} T\_g\[\\mathrm{code}\_{g,o}\], \\qquad T\_g\[c\] = \\langle x\_g, c\_{g,c} \\rangle$$
//!
//! With the outputs split, the inputs that share a code are summed first, and each of these k sums is multiplied by its
//! centroid once:
//!
//! $$y\_g = \\sum\_{c=1}^{k} c\_{g,c} \\sum\_{i\\,:\\,\\mathrm{code}\_{g,i} = c} x\_i$$
//!
//! Both take one addition where a dense product takes d multiply-adds, and read codes instead of weights.
//!
//! ```
//! use taper::ndarray::Array2;
//! use taper::quantize::product::ProductQuantizer;
//! use taper::{Compressed, LinearOp, Quantizer};
//!
//! let weights = Array2::from_shape_fn((64, 32), |(o, i)| ((o * 3 + i * 5) as f32).sin());
//! let matrix = ProductQuantizer::with_width(4)
//!     .centroids(8)
//!     .seed(7)
//!     .quantize(weights.view())?;
//! // Each of 64 rows has 8 codes of 3 bits; the one codebook has 8 centroids of 4 values.
//! assert_eq!(matrix.codes().dim(), (8, 64));
//! assert_eq!(matrix.storage().bytes(), 8 * 64 * 3 / 8 + 8 * 4 * 4);
//! let y = matrix.apply(Array2::ones((1, 32)).view())?;
//! assert_eq!(y.dim(), (1, 64));
//! # Ok::<(), taper::Error>(())
//! ```

mod apply;
mod aware;
mod codebooks;
mod decompress;
mod encode;
mod fit;
#[cfg(feature = "linfa")]
mod linfa;
mod look_up;
mod matrix;
mod optimized;
mod params;
mod residual;
mod rotation;
mod scaled;
mod split;
#[cfg(test)]
mod tests;
mod trainable;

// Only the benchmark of both methods needs it.
#[doc(hidden)]
pub use apply::ProductMethod;
pub use codebooks::ProductCodebooks;
pub use matrix::PqMatrix;
pub use optimized::{OptimizedPqMatrix, OptimizedProductQuantizer};
pub use params::ProductQuantizer;
pub use residual::{ResidualPqMatrix, ResidualQuantizer};
pub use split::{Codebook, Split, SplitAxis};
