//! `Quantizer` and `Factorizer`: from weights to an artifact.

use ndarray::{ArrayView, ArrayView2, Dimension};

use crate::{Compressed, FitContext, Float, Result};

/// Replaces the weights of a matrix by codes of a few bits, and the values that the codes stand for.
///
/// An implementation promises:
/// - the artifact has the shape of `weights`, which may have any strides;
/// - the same weights and parameters give the same artifact, for any number of threads;
/// - an empty axis, a NaN, an infinity or a parameter that the shape does not allow is an error; nothing panics;
/// - quantizing the decompressed artifact again does not raise the error.
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

    /// Quantizes `weights`, of shape (out_features, in_features).
    ///
    /// With moments in the `context`, the error of the layer's output is minimized; without them, the error of the weights.
    ///
    /// # Errors
    ///
    /// - [`NonFinite`](crate::Error::NonFinite) and [`EmptyAxis`](crate::Error::EmptyAxis) for the weights;
    /// - [`Parameter`](crate::Error::Parameter) for the parameters of the quantizer;
    /// - [`ShapeMismatch`](crate::Error::ShapeMismatch) for moments of another number of inputs,
    ///   [`NoInputs`](crate::Error::NoInputs) for empty ones, and [`ContextUnused`](crate::Error::ContextUnused) from a
    ///   quantizer that cannot use moments or weights of rows;
    /// - those that the implementation documents.
    fn quantize_with(
        &self,
        weights: ArrayView2<'_, F>,
        context: FitContext<'_>,
    ) -> Result<Self::Output>;

    /// Calls [`quantize_with`](Self::quantize_with) with an empty context.
    ///
    /// # Errors
    ///
    /// Those of `quantize_with`.
    fn quantize(&self, weights: ArrayView2<'_, F>) -> Result<Self::Output> {
        self.quantize_with(weights, FitContext::new())
    }
}

/// Replaces a matrix or a tensor by the factors of a product.
///
/// An implementation promises:
/// - the artifact has the shape of `weights`, which may have any strides;
/// - the same weights and parameters give the same artifact, for any number of threads;
/// - weights that are all zero come back as zeros;
/// - an empty axis, a NaN, an infinity or a rank that the shape does not allow is an error; nothing panics;
/// - if the optimum is computed exactly, a larger rank does not raise the error, beyond rounding.
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

    /// Factorizes `weights`. The first axis belongs to the outputs, all others to the inputs.
    ///
    /// With moments in the `context`, the error of the layer's output is minimized; without them, the error of the weights.
    ///
    /// # Errors
    ///
    /// Those of [`Quantizer::quantize_with`], and [`ExceedsInput`](crate::Error::ExceedsInput) or
    /// [`RatioOutOfReach`](crate::Error::RatioOutOfReach) for a rank that the shape does not allow.
    fn factorize_with(
        &self,
        weights: ArrayView<'_, F, D>,
        context: FitContext<'_>,
    ) -> Result<Self::Output>;

    /// Calls [`factorize_with`](Self::factorize_with) with an empty context.
    ///
    /// # Errors
    ///
    /// Those of `factorize_with`.
    fn factorize(&self, weights: ArrayView<'_, F, D>) -> Result<Self::Output> {
        self.factorize_with(weights, FitContext::new())
    }
}
