//! Factorization: a matrix or a tensor becomes a product of smaller ones. [`Rank`] sets the size.
//!
//! [`svd`] has an example.

pub mod convolution;
pub mod cp;
mod rank;
pub mod svd;

pub use rank::Rank;
