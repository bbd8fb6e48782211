//! `Distiller`: from the outputs of two networks to a loss and its gradient.

use ndarray::{Array, ArrayView, ArrayViewMut, Dimension, Ix2};

use super::LossValue;
use crate::{Float, Result};

/// A loss of a student's output against a teacher's output, with its gradient.
///
/// It works with any framework: pass the outputs of both networks, and let the framework propagate the gradient through the
/// student. `D` is the number of axes of the outputs: two for logits (batch, classes) and for hints (batch, features), four for
/// feature maps (batch, channels, height, width). The trait is object-safe: `&dyn Distiller<f32>` is any loss of logits.
///
/// An implementation promises:
/// - the gradient is the exact one of the value with respect to the student's output;
/// - both are means over the batch;
/// - the views may have any strides; the result is the same for any number of threads;
/// - finite inputs give finite results or [`Overflow`](crate::Error::Overflow); a NaN or an infinity is an error; nothing
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
///     // Equal outputs give no loss.
///     let (value, gradient) = loss.loss(logits.view(), logits.view(), &[])?;
///     assert!(value.total.abs() < 1e-12 && gradient.iter().all(|g| g.abs() < 1e-12));
/// }
/// # Ok::<(), taper::Error>(())
/// ```
pub trait Distiller<F: Float, D: Dimension = Ix2> {
    /// Computes the loss of `student` against `teacher` and the true `labels`, and writes ∂value/∂student into `gradient`.
    ///
    /// The first axis of both outputs is the batch. `labels` holds one class per sample; it may be empty if the loss gives the
    /// labels no weight. `gradient` has the shape of `student`; after an error its contents are unspecified.
    ///
    /// # Errors
    ///
    /// - [`EmptyAxis`](crate::Error::EmptyAxis), [`ShapeMismatch`](crate::Error::ShapeMismatch) and
    ///   [`NonFinite`](crate::Error::NonFinite) for the outputs;
    /// - [`ExceedsInput`](crate::Error::ExceedsInput) for a label above the last class;
    /// - [`Parameter`](crate::Error::Parameter) for the parameters of the loss;
    /// - [`Overflow`](crate::Error::Overflow) for a result out of the range of `F`.
    fn loss_into(
        &self,
        student: ArrayView<'_, F, D>,
        teacher: ArrayView<'_, F, D>,
        labels: &[usize],
        gradient: ArrayViewMut<'_, F, D>,
    ) -> Result<LossValue<F>>;

    /// Computes the loss, as [`loss_into`](Self::loss_into) does, and returns its value and its gradient ∂value/∂student.
    ///
    /// # Errors
    ///
    /// Those of `loss_into`.
    fn loss(
        &self,
        student: ArrayView<'_, F, D>,
        teacher: ArrayView<'_, F, D>,
        labels: &[usize],
    ) -> Result<(LossValue<F>, Array<F, D>)> {
        let mut gradient = Array::zeros(student.raw_dim());
        let value = self.loss_into(student, teacher, labels, gradient.view_mut())?;
        Ok((value, gradient))
    }
}
