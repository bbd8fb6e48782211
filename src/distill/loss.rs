//! The value of a distillation loss, by part, and its gradient.

use ndarray::Array2;

use crate::Float;

/// The value of a distillation loss and its gradient with respect to the student's output.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct DistillationLoss<F: Float> {
    /// What is minimized: the weighted sum of the parts, a mean over the batch.
    pub value: F,
    /// The part that the teacher gives, before its weight.
    pub soft: F,
    /// The part that the labels give, before its weight.
    pub hard: F,
    /// ∂value/∂student, of the student's shape.
    pub gradient: Array2<F>,
}

impl<F: Float> DistillationLoss<F> {
    /// A loss from its parts and its gradient.
    #[must_use]
    pub fn new(value: F, soft: F, hard: F, gradient: Array2<F>) -> Self {
        Self {
            value,
            soft,
            hard,
            gradient,
        }
    }
}
