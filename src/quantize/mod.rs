//! Quantization: weights become codes that choose among a few values.

pub mod binary;
pub mod fixed_point;
pub mod product;
