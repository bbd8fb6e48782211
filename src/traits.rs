//! The four families of compressors.

use ndarray::{Array, ArrayView, ArrayView1, ArrayView2, ArrayViewMut, Dimension, Ix2};

use crate::distill::{DistillationLoss, LossValue};
use crate::prune::PrunePlan;
use crate::{Compressed, FitContext, Float, Result};

/// Replaces the weights of a matrix by a few values and codes that choose among them.
///
/// What an implementation promises:
/// - the artifact has the shape of `weights`, which may have any strides;
/// - the same weights and parameters give the same artifact, for any number of threads;
/// - an input with an empty axis, a NaN or an infinity is an error, and so is a parameter that the shape
///   does not allow; nothing panics;
/// - quantizing what the artifact decompresses to does not raise the error.
///
/// ```
/// use taper::ndarray::{Array2, ArrayView2};
/// use taper::quantize::{fixed_point::FixedPointQuantizer, product::ProductQuantizer};
/// use taper::{Compressed, Quantizer};
///
/// fn bytes(quantizer: impl Quantizer<f32>, weights: ArrayView2<'_, f32>) -> taper::Result<u64> {
///     Ok(quantizer.quantize(weights)?.storage().bytes())
/// }
/// let weights = Array2::from_shape_fn((64, 64), |(o, i)| ((o * 7 + i * 11) as f32).sin());
/// assert_eq!(bytes(FixedPointQuantizer::new(4), weights.view())?, 64 * 64 / 2 + 4);
/// assert_eq!(bytes(ProductQuantizer::new(8).centroids(16), weights.view())?, 64 * 8 / 2 + 16 * 8 * 4);
/// # Ok::<(), taper::Error>(())
/// ```
pub trait Quantizer<F: Float> {
    /// The artifact.
    type Output: Compressed<F>;

    /// Quantizes `weights`, of shape (out_features, in_features), so that with the moments of the layer's `inputs`
    /// its output changes least, and without them the weights do.
    ///
    /// # Errors
    ///
    /// [`Error::NonFinite`], [`Error::EmptyAxis`], [`Error::Parameter`], [`Error::ShapeMismatch`] and
    /// [`Error::NoInputs`] for moments that are not of this layer or of nothing, [`Error::MomentsUnused`] where the
    /// implementation minimizes the error of the weights only, and what it names.
    fn quantize_with(
        &self,
        weights: ArrayView2<'_, F>,
        context: FitContext<'_>,
    ) -> Result<Self::Output>;

    /// Quantizes `weights`, of shape (out_features, in_features), so that they change least.
    ///
    /// # Errors
    ///
    /// As [`quantize_with`](Self::quantize_with) without moments.
    fn quantize(&self, weights: ArrayView2<'_, F>) -> Result<Self::Output> {
        self.quantize_with(weights, FitContext::new())
    }
}

/// Replaces a matrix or a tensor by the factors of a product.
///
/// What an implementation promises:
/// - the artifact has the shape of `weights`, which may have any strides;
/// - the same weights and parameters give the same artifact, for any number of threads;
/// - an all-zero input is rebuilt exactly; an input with an empty axis, a NaN or an infinity is an error, and
///   so is a rank that the shape does not allow; nothing panics;
/// - a larger rank does not give a larger error, beyond rounding, where the optimum is computed exactly.
///
/// ```
/// use taper::factorize::{Rank, cp::CpAls, svd::TruncatedSvd};
/// use taper::ndarray::{Array2, Array4};
/// use taper::{Compressed, Factorizer};
///
/// let matrix = Array2::from_shape_fn((8, 6), |(o, i)| ((o + 1) * (i + 2)) as f64);
/// let kernel = Array4::from_shape_fn((4, 3, 2, 2), |(o, i, y, x)| ((o + 1) * (i + 1) * (y + x + 1)) as f64);
/// assert_eq!(TruncatedSvd::new(Rank::Fixed(1)).factorize(matrix.view())?.shape(), [8, 6]);
/// assert_eq!(CpAls::new(Rank::Fixed(2)).factorize(kernel.view())?.shape(), [4, 3, 2, 2]);
/// # Ok::<(), taper::Error>(())
/// ```
pub trait Factorizer<F: Float, D: Dimension> {
    /// The artifact.
    type Output: Compressed<F>;

    /// Factorizes `weights` so that with the moments of the layer's `inputs` its output changes least, and
    /// without them the weights do. The first axis is that of the outputs, all others are those of the inputs.
    ///
    /// # Errors
    ///
    /// [`Error::NonFinite`], [`Error::EmptyAxis`], [`Error::Parameter`], [`Error::ExceedsInput`] for a rank
    /// above what the shape allows, [`Error::ShapeMismatch`] and [`Error::NoInputs`] for moments that are not of this
    /// layer or of nothing, [`Error::MomentsUnused`] where the implementation minimizes the error of the weights
    /// only, and what it names.
    fn factorize_with(
        &self,
        weights: ArrayView<'_, F, D>,
        context: FitContext<'_>,
    ) -> Result<Self::Output>;

    /// Factorizes `weights` so that they change least.
    ///
    /// # Errors
    ///
    /// As [`factorize_with`](Self::factorize_with) without moments.
    fn factorize(&self, weights: ArrayView<'_, F, D>) -> Result<Self::Output> {
        self.factorize_with(weights, FitContext::new())
    }
}

/// Chooses what may go: which channels (or weights) of which layers are kept.
///
/// What an implementation promises:
/// - the plan has one entry for each array of `scores`, in their order, with kept indices in rising order;
/// - a kept index never has a lower score than a dropped one of the same layer, ties falling to the lower
///   index;
/// - scores that hold a NaN or an infinity, or none at all, are an error; nothing panics.
///
/// ```
/// use taper::Pruner;
/// use taper::ndarray::arr1;
/// use taper::prune::{ChannelSlimming, Keep};
///
/// let scales = arr1(&[0.9_f32, 0.01, 0.4]);
/// let plan = ChannelSlimming::new(Keep::Count(2)).plan(&[scales.view()])?;
/// assert_eq!(plan.kept(0), Some(&[0, 2][..]));
/// # Ok::<(), taper::Error>(())
/// ```
pub trait Pruner<F: Float> {
    /// Chooses by importance: one score a channel, one array a layer.
    ///
    /// # Errors
    ///
    /// [`Error::NonFinite`], [`Error::EmptyAxis`], [`Error::Parameter`].
    fn plan(&self, scores: &[ArrayView1<'_, F>]) -> Result<PrunePlan>;
}

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
