//! The distance of an artifact from the rate–distortion limit of its weights.

use ndarray::ArrayViewD;

use super::{Bounds, EmpiricalSource, gaussian_distortion};
use crate::{Compressed, Float, Result, check};

/// For errors below this part of the variance (five bits a weight), Shannon's lower bound is used for R(D): the two differ
/// by less than the histogram resolves.
const HIGH_RATE: f64 = 1.0 / 1024.0;

/// The size and error of an artifact, compared with the limit of its weights as an independent source.
///
/// The limit is that of [`EmpiricalSource`]. It assumes that weights are independent draws from their own histogram, which
/// the decoder knows at no cost. Real files meet neither assumption, so that the gap can be negative: an artifact that
/// exploits dependence between weights (a low-rank matrix, for example) can pass the limit.
///
/// ```
/// use taper::limit::RateDistortionGap;
/// use taper::ndarray::Array2;
/// use taper::quantize::fixed_point::FixedPointQuantizer;
/// use taper::{Quantizer, Seed};
///
/// let w = Array2::from_shape_fn((200, 100), |(i, j)| {
///     Seed::from(3).derive((100 * i + j) as u64).value() as f32 / u64::MAX as f32 - 0.5
/// });
/// let four_bits = FixedPointQuantizer::new(4).quantize(w.view())?;
/// let gap = RateDistortionGap::of(&four_bits, w.view().into_dyn())?;
/// // Long blocks would save the scalar quantizer about a quarter of a bit.
/// assert!(gap.bits().unwrap() > 0.2 && gap.bits().unwrap() < 0.5);
/// println!("{:.2} bits, {:.2} dB from the limit", gap.bits().unwrap(), gap.decibels().unwrap());
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct RateDistortionGap {
    /// The size of the artifact in bits, side information included, divided by the number of weights.
    pub bits_per_weight: f64,
    /// The mean squared error of the artifact.
    pub mean_squared_error: f64,
    /// The variance of the weights: the error at zero bits.
    pub variance: f64,
    /// The least error at the artifact's bits.
    pub limit_error: Bounds,
    /// The least bits a weight at the artifact's error; none if the error is zero.
    pub limit_bits: Option<Bounds>,
    /// The error of Gaussian weights of this variance at the artifact's bits: a reference, not a bound.
    pub gaussian_error: f64,
    /// Whether `limit_error` is a proven bound, by the iteration of Blahut and Arimoto on the histogram. At five bits a weight
    /// and more it is Shannon's lower bound, with an estimate of the entropy.
    pub proven: bool,
}

impl RateDistortionGap {
    /// The gap of an `artifact` that was made from `weights`.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`](crate::Error::ShapeMismatch), and those of [`EmpiricalSource::of`] and of
    /// [`decompress`](Compressed::decompress).
    pub fn of<F: Float, A: Compressed<F> + ?Sized>(
        artifact: &A,
        weights: ArrayViewD<'_, F>,
    ) -> Result<Self> {
        let source = EmpiricalSource::of(weights.view())?;
        Self::with_source(artifact, weights, &source)
    }

    /// [`of`](Self::of) with the source of these weights, which can be shared by many artifacts of them.
    ///
    /// # Errors
    ///
    /// As [`of`](Self::of).
    pub fn with_source<F: Float, A: Compressed<F> + ?Sized>(
        artifact: &A,
        weights: ArrayViewD<'_, F>,
        source: &EmpiricalSource,
    ) -> Result<Self> {
        check::same_shape("weights", artifact.shape(), weights.shape())?;
        check::not_empty("weights", weights.shape())?;
        let rebuilt = artifact.decompress()?;
        let squares = weights
            .iter()
            .zip(&rebuilt)
            .map(|(w, r)| (w.as_f64() - r.as_f64()).powi(2));
        let error = squares.sum::<f64>() / weights.len() as f64;
        let bits = artifact.storage().total() as f64 / weights.len() as f64;
        Self::at(bits, error, source)
    }

    /// The gap of a code with `bits_per_weight` and a mean squared error, for instance of a file with entropy-coded parts.
    ///
    /// # Errors
    ///
    /// [`ParamError::OutOfRange`](crate::ParamError::OutOfRange) for numbers that are negative or not finite.
    pub fn at(
        bits_per_weight: f64,
        mean_squared_error: f64,
        source: &EmpiricalSource,
    ) -> Result<Self> {
        let inside = mean_squared_error >= 0.0 && mean_squared_error.is_finite();
        let range = "finite and not negative";
        check::in_range("the mean squared error", mean_squared_error, range, inside)?;
        let variance = source.variance();
        let gaussian_error = gaussian_distortion(variance, bits_per_weight)?;
        let high = HIGH_RATE * variance;
        let (limit_error, proven) = if gaussian_error >= high && source.is_resolved(gaussian_error)
        {
            let error = source.distortion(bits_per_weight)?;
            (error, true)
        } else {
            let error = source.shannon_distortion(bits_per_weight)?;
            (Bounds::exactly(error), false)
        };
        let limit_bits = if mean_squared_error == 0.0 {
            None
        } else if mean_squared_error >= high && source.is_resolved(mean_squared_error) {
            Some(source.rate(mean_squared_error)?)
        } else {
            Some(Bounds::exactly(source.shannon_rate(mean_squared_error)?))
        };
        Ok(Self {
            bits_per_weight,
            mean_squared_error,
            variance,
            limit_error,
            limit_bits,
            gaussian_error,
            proven,
        })
    }

    /// Bits a weight above the limit at the same error: the most that a better code for independent weights could save.
    /// None if the error is zero.
    #[must_use]
    pub fn bits(&self) -> Option<f64> {
        let limit = self.limit_bits?;
        Some(self.bits_per_weight - limit.lower)
    }

    /// The error divided by the limit's error at the same bits, in decibels (10 log₁₀). None if either is zero.
    #[must_use]
    pub fn decibels(&self) -> Option<f64> {
        let limit = self.limit_error.lower;
        let both = self.mean_squared_error > 0.0 && limit > 0.0;
        both.then(|| 10.0 * (self.mean_squared_error / limit).log10())
    }
}
