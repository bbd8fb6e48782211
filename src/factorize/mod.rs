//! Factorization: a matrix or a tensor becomes a product of smaller ones. [`Rank`] sets the size.
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

pub mod convolution;
pub mod cp;
mod rank;
pub mod svd;

pub use rank::Rank;
