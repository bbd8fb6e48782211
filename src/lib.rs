//! taper makes trained neural networks small.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![deny(unsafe_code)]
// Until every room has moved in.
#![allow(dead_code)]

mod artifact;
mod check;
pub mod cluster;
pub mod distill;
mod error;
pub mod factorize;
mod float;
#[allow(unsafe_code)]
mod kernels;
mod linalg;
mod packing;
mod parallel;
pub mod prune;
pub mod quantize;
mod seed;
mod traits;

pub use artifact::{Compressed, DType, FitReport, LinearOp, Part, Precision, Role, StorageBits};
pub use error::{Error, ParamError, Result};
pub use float::Float;
pub use seed::Seed;
pub use traits::{Distiller, Factorizer, ParamGuard, Pruner, Quantizer};

pub use ndarray;
