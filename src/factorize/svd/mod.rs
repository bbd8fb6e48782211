//! Truncated singular value decomposition: a matrix becomes a product of two thin ones.
//!
//! Of all matrices of rank r, the one with the r largest singular values of W is the closest to W (Eckart and Young 1936,
//! doi:10.1007/BF02288367). Its distance is $\sqrt{\sum\_{i>r} \sigma\_i^2}$. [`TruncatedSvd`] computes it exactly, or
//! approximately and much faster by random projection. The result is a [`LowRankMatrix`], which stores r (m + n) values instead
//! of m n and multiplies as two thin products. A convolution kernel becomes a [`SpatialConv2d`]: a column convolution and a
//! row convolution.
//!
//! ```
//! use taper::Factorizer;
//! use taper::factorize::{Rank, svd::TruncatedSvd};
//! use taper::ndarray::Array2;
//!
//! let weights = Array2::from_shape_fn((40, 30), |(o, i)| ((o + i) as f64).sin());
//! assert_eq!(TruncatedSvd::new(Rank::Energy(0.9999)).factorize(weights.view())?.rank(), 2);
//! # Ok::<(), taper::Error>(())
//! ```

mod exact;
mod factorizer;
mod low_rank;
mod params;
mod randomized;
mod report;
mod spatial;
#[cfg(test)]
mod tests;
mod trainable;
mod triplets;

pub use low_rank::LowRankMatrix;
pub use params::{SingularValues, SvdMethod, TruncatedSvd};
pub use report::SvdReport;
pub use spatial::SpatialConv2d;
