//! Factorization: a matrix or a tensor becomes a product of smaller ones.

pub mod cp;
pub mod svd;
