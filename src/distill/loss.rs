//! The value of a distillation loss, by part, and its gradient.

use ndarray::{Array, Dimension, Ix2};

use crate::{Float, Result, check};

/// The value of a distillation loss and its gradient with respect to the student's output.
///
/// ```
/// use taper::Distiller;
/// use taper::distill::{DistillationLoss, KnowledgeDistillation, LossValue};
/// use taper::ndarray::array;
///
/// let (student, teacher) = (array![[1.0, 0.0]], array![[0.0, 2.0]]);
/// let loss: DistillationLoss<f64> =
///     KnowledgeDistillation::new(1.0).alpha(0.5).loss(student.view(), teacher.view(), &[1])?;
/// let LossValue { total, soft, hard, .. } = loss.value;
/// assert!((total - 0.5 * (soft + hard.unwrap())).abs() < 1e-12);
/// assert_eq!(loss.gradient.dim(), (1, 2));
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct DistillationLoss<F: Float, D: Dimension = Ix2> {
    /// The value, by part.
    pub value: LossValue<F>,
    /// ∂value.total/∂student, of the student's shape.
    pub gradient: Array<F, D>,
}

/// The value of a distillation loss, by part; every part is a mean over the batch.
///
/// ```
/// use taper::Distiller;
/// use taper::distill::{DistillationLoss, KnowledgeDistillation, LossValue};
/// use taper::ndarray::array;
///
/// let (student, teacher) = (array![[1.0, 0.0]], array![[0.0, 2.0]]);
/// let loss: DistillationLoss<f64> =
///     KnowledgeDistillation::new(1.0).alpha(0.5).loss(student.view(), teacher.view(), &[1])?;
/// let LossValue { total, soft, hard, .. } = loss.value;
/// assert!((total - 0.5 * (soft + hard.unwrap())).abs() < 1e-12);
/// assert_eq!(loss.gradient.dim(), (1, 2));
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct LossValue<F: Float> {
    /// What is minimized: the weighted sum of the parts.
    pub total: F,
    /// What the student lacks of the teacher, before any weight, zero where it matches: the divergence of
    /// their softened probabilities, or the distance of their features.
    pub soft: F,
    /// The entropy of the teacher's softened probabilities, for losses that compare probabilities.
    pub teacher_entropy: Option<F>,
    /// The cross-entropy with the true labels at temperature 1, before its weight, where labels were given.
    pub hard: Option<F>,
}

impl<F: Float> LossValue<F> {
    /// A loss that has a teacher's part alone.
    #[must_use]
    pub fn new(total: F, soft: F) -> Self {
        Self {
            total,
            soft,
            teacher_entropy: None,
            hard: None,
        }
    }

    /// The cross-entropy of the student's softened probabilities with the teacher's, before any weight: their
    /// divergence and the teacher's entropy, which the student has no say in.
    #[must_use]
    pub fn soft_cross_entropy(&self) -> Option<F> {
        self.teacher_entropy.map(|entropy| self.soft + entropy)
    }
}

/// `value` as `F`, where it is in its range.
pub(super) fn in_range<F: Float>(what: &'static str, value: f64) -> Result<F> {
    let value = F::from_f64_lossy(value);
    check::no_overflow(what, [&value])?;
    Ok(value)
}
