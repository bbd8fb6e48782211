//! The value of a distillation loss, by part.

use crate::{Float, Result, check};

/// The value of a distillation loss, by part. Every part is a mean over the batch.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct LossValue<F: Float> {
    /// The value that is minimized: the weighted sum of the parts.
    pub total: F,
    /// The distance of the student from the teacher, without its weight: that of a [`Comparison`](super::Comparison), or half
    /// the squared distance of their features. It is 0 where they agree.
    pub soft: F,
    /// The entropy of the teacher's softened probabilities, where the distance is their divergence.
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

/// What a row adds to the loss, without weights.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct RowValue {
    /// $\sum p \ln(p/q)$ at the temperature.
    pub(super) divergence: f64,
    /// $-\sum p \ln p$ at the temperature.
    pub(super) entropy: f64,
    /// $-\ln q_{label}$ at temperature 1; zero without a label.
    pub(super) hard: f64,
}

/// The weights of the parts of a row in its gradient.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowWeights {
    pub(super) temperature: f64,
    /// The weight of $q - p$: αT over the size of the batch.
    pub(super) soft: f64,
    /// The weight of $\mathrm{softmax}(z) - \mathrm{onehot}$.
    pub(super) hard: f64,
}
