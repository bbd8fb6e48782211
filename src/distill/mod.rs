//! Distillation: a small network learns from the outputs of a large one.
//!
//! `loss` holds what every [`Distiller`](crate::Distiller) returns.

mod loss;

pub use loss::DistillationLoss;
