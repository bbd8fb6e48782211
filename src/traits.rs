//! `Quantizer` and `Factorizer`: from weights to an artifact.

use ndarray::{ArrayView, ArrayView2, Dimension};

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
