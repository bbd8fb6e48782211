//! The value of a distillation loss, by part, and its gradient.

use ndarray::{Array, Dimension, Ix2};

use crate::{Float, Result, check};

/// The value of a distillation loss and its gradient with respect to the student's output; see
/// [`Distiller::loss`](crate::Distiller::loss).
#[derive(Debug, Clone, PartialEq)]
pub struct DistillationLoss<F: Float, D: Dimension = Ix2> {
    /// The value, by part.
    pub value: LossValue<F>,
    /// The gradient ∂total/∂student, of the student's shape.
    pub gradient: Array<F, D>,
}

/// The value of a distillation loss, by part. Every part is a mean over the batch.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct LossValue<F: Float> {
    /// The value that is minimized: the weighted sum of the parts.
    pub total: F,
    /// The distance of the student from the teacher, without its weight: the divergence of their softened probabilities, or
    /// half the squared distance of their features. It is 0 where they agree.
    pub soft: F,
    /// The entropy of the teacher's softened probabilities, from losses that compare probabilities.
    pub teacher_entropy: Option<F>,
    /// The cross-entropy with the true labels at temperature 1, without its weight, if labels were given.
    pub hard: Option<F>,
}

impl<F: Float> LossValue<F> {
    /// Creates the value of a loss without labels and entropy.
    #[must_use]
    pub fn new(total: F, soft: F) -> Self {
        Self {
            total,
            soft,
            teacher_entropy: None,
            hard: None,
        }
    }

    /// Returns the cross-entropy of the student's softened probabilities with the teacher's, without its weight: their
    /// divergence plus the teacher's entropy, which does not depend on the student.
    #[must_use]
    pub fn soft_cross_entropy(&self) -> Option<F> {
        self.teacher_entropy.map(|entropy| self.soft + entropy)
    }
}

/// Converts `value` to `F`; fails if it is out of range.
pub(super) fn in_range<F: Float>(what: &'static str, value: f64) -> Result<F> {
    let value = F::from_f64_lossy(value);
    check::no_overflow(what, [&value])?;
    Ok(value)
}
