//! Distillation: a small network learns from the outputs of a large one.
//!
//! A [`Distiller`](crate::Distiller) gives the value of a loss and its gradient with respect to what the
//! student puts out, as arrays; the framework that trains the student carries the gradient on.
//!
//! - [`KnowledgeDistillation`] compares softened probabilities; [`softened_softmax`] makes them.
mod batch;
mod knowledge;
mod loss;
mod row;
mod softmax;

pub use knowledge::{KnowledgeDistillation, KnowledgeDistillationParams, SoftLoss};
pub use loss::{DistillationLoss, LossValue};
pub use softmax::{log_softened_softmax, softened_softmax};

use crate::{ParamError, check};

fn check_temperature(temperature: f64) -> Result<(), ParamError> {
    let inside = temperature > 0.0 && temperature.is_finite();
    check::in_range("temperature", temperature, "positive and finite", inside)
}
