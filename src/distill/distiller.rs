//! `Distiller`: from the outputs of two networks to a loss and its gradient.

use ndarray::{Array, ArrayView, ArrayViewMut, Dimension, Ix2};

use super::loss::{DistillationLoss, LossValue};
use crate::{Float, Result};

/// What a student network learns from a teacher: the value of a loss and its gradient.
///
/// Works from any framework: hand over what both networks put out, take the gradient, and let the framework
/// carry it on through the student. `D` is the number of axes of that output: two (batch, classes) for logits
/// and (batch, features) for hints, four (batch, channels, height, width) for feature maps. With `F` and `D`
/// fixed the trait is object-safe: `&dyn Distiller<f32>` is any loss over logits.
///
/// What an implementation promises:
/// - the gradient is that of the value, exactly, with respect to the student's output;
/// - both are means over the batch, so that they do not depend on its size;
/// - the views may have any strides; the result is the same for any number of threads;
/// - finite inputs give finite outputs or [`Error::Overflow`]; inputs that are not finite are an error; nothing
///   panics.
///
/// ```
/// use taper::Distiller;
/// use taper::distill::{HintLoss, KnowledgeDistillation};
/// use taper::ndarray::array;
///
/// let losses: [&dyn Distiller<f64>; 2] = [&KnowledgeDistillation::new(4.0).alpha(1.0), &HintLoss::new()];
/// let logits = array![[2.0, -1.0, 0.5]];
/// for loss in losses {
///     // A student that says what its teacher says has nothing to learn.
///     let loss = loss.loss(logits.view(), logits.view(), &[])?;
///     assert!(loss.value.total.abs() < 1e-12 && loss.gradient.iter().all(|g| g.abs() < 1e-12));
/// }
/// # Ok::<(), taper::Error>(())
/// ```
pub trait Distiller<F: Float, D: Dimension = Ix2> {
    /// The loss of `student` against `teacher`, whose first axis is the batch, and against the true `labels`,
    /// one for each of the batch; `gradient`, of the student's shape, is overwritten with ∂value/∂student.
    ///
    /// `labels` may be empty where the loss does not weigh them: a transfer set needs none then.
    ///
    /// # Errors
    ///
    /// [`Error::EmptyAxis`], [`Error::ShapeMismatch`], [`Error::NonFinite`], [`Error::ExceedsInput`] for a label
    /// that is no class, [`Error::Overflow`], and [`Error::Parameter`] from parameters that were not checked.
    /// What `gradient` holds after an error is unspecified.
    fn loss_into(
        &self,
        student: ArrayView<'_, F, D>,
        teacher: ArrayView<'_, F, D>,
        labels: &[usize],
        gradient: ArrayViewMut<'_, F, D>,
    ) -> Result<LossValue<F>>;

    /// The loss and its gradient, in an array of its own.
    ///
    /// # Errors
    ///
    /// As [`loss_into`](Self::loss_into).
    fn loss(
        &self,
        student: ArrayView<'_, F, D>,
        teacher: ArrayView<'_, F, D>,
        labels: &[usize],
    ) -> Result<DistillationLoss<F, D>> {
        let mut gradient = Array::zeros(student.raw_dim());
        let value = self.loss_into(student, teacher, labels, gradient.view_mut())?;
        Ok(DistillationLoss { value, gradient })
    }
}
