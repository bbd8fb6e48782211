//! The weights as a memoryless source: what follows from their histogram.

use std::f64::consts::{E, LN_2, PI};

use ndarray::{Array1, ArrayView, Dimension};

use super::blahut::Problem;
use super::gaussian::{check_distortion, check_rate};
use super::histogram::{BINS, Bin, Binned, Histogram};
use super::{Bounds, gaussian_distortion};
use crate::cluster::cluster_scalars;
use crate::{Error, Float, ParamError, Result, check, parallel};

/// Bins for [`EmpiricalSource::levels_error`]: few enough for the dynamic programme.
const LEVEL_BINS: usize = 1 << 14;
/// Values that one task counts, into a histogram of its own.
const CHUNK: usize = 1 << 20;

/// The weights of a tensor as a memoryless source: each weight is an independent draw from the histogram of all.
///
/// The limits assume that weights are independent and that the decoder knows their distribution at no cost. Real weights
/// depend on each other, which makes the limit too high; a real file has to hold its codebooks, which makes it too low.
///
/// The histogram counts all weights in 65,536 equal bins from the least to the largest, with the mean and the variance
/// inside each bin. Results are bounds that take the width of the bins into account.
///
/// ```
/// use taper::limit::EmpiricalSource;
/// use taper::ndarray::Array2;
/// use taper::Seed;
///
/// // The least error of uniform weights at two bits, by codes of long blocks.
/// let w = Array2::from_shape_fn((300, 300), |(i, j)| {
///     Seed::from(1).derive((300 * i + j) as u64).value() as f32 / u64::MAX as f32
/// });
/// let source = EmpiricalSource::of(w.view())?;
/// let limit = source.distortion(2.0)?;
/// let four_levels = source.variance() / 16.0; // of a uniform scalar quantizer
/// assert!(limit.upper < four_levels && limit.lower > 0.6 * four_levels);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct EmpiricalSource {
    count: usize,
    lowest: f64,
    width: f64,
    bins: Vec<Bin>,
    mean: f64,
    variance: f64,
}

impl EmpiricalSource {
    /// The source of `weights`, of any shape.
    ///
    /// Takes two passes over the weights: about 0.1 s for 4096 × 4096.
    ///
    /// # Errors
    ///
    /// [`Error::EmptyAxis`], [`Error::NonFinite`], and [`Error::Overflow`] for a variance out of the range of `f64`.
    pub fn of<F: Float, D: Dimension>(weights: ArrayView<'_, F, D>) -> Result<Self> {
        check::finite("weights", &weights)?;
        let copy: Vec<F>;
        let values = match weights.as_slice_memory_order() {
            Some(values) => values,
            None => {
                copy = weights.iter().copied().collect();
                &copy
            }
        };
        let chunks = values.len().div_ceil(CHUNK);
        let chunk = |i: usize| &values[i * CHUNK..values.len().min((i + 1) * CHUNK)];
        let ends = parallel::map(chunks, |i| {
            let start = (F::infinity(), F::neg_infinity());
            let least = |(low, high): (F, F), &x: &F| (low.min(x), high.max(x));
            chunk(i).iter().fold(start, least)
        });
        let (low, high) = ends.iter().fold(
            (f64::INFINITY, f64::NEG_INFINITY),
            |(low, high), &(l, h)| (low.min(l.as_f64()), high.max(h.as_f64())),
        );
        let width = (high - low) / BINS as f64;
        if !(width * width * (BINS * BINS) as f64).is_finite() {
            return Err(Error::Overflow {
                what: "the variance of the weights",
            });
        }
        // All equal, or so near that their distances vanish.
        if width == 0.0 {
            let bins = vec![Bin::of_equal(low)];
            return Ok(Self::new(values.len(), low, 0.0, bins));
        }
        let counted = parallel::map(chunks, |i| Histogram::of(chunk(i), low, width));
        let mut all = Histogram::empty();
        for histogram in &counted {
            all.add(histogram);
        }
        let bins = all.bins(values.len(), low, width);
        Ok(Self::new(values.len(), low, width, bins))
    }

    fn new(count: usize, lowest: f64, width: f64, bins: Vec<Bin>) -> Self {
        let mean: f64 = bins.iter().map(|bin| bin.mass * bin.mean).sum();
        let variance = bins
            .iter()
            .map(|bin| bin.mass * (bin.variance + (bin.mean - mean).powi(2)))
            .sum();
        Self {
            count,
            lowest,
            width,
            bins,
            mean,
            variance,
        }
    }

    /// The number of weights.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// The mean of the weights.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// The variance of the weights: the error at zero bits.
    #[must_use]
    pub fn variance(&self) -> f64 {
        self.variance
    }

    /// R(D): the least bits a weight at which any code, of blocks of any length, reaches a mean squared error of
    /// `distortion`.
    ///
    /// By the algorithm of Blahut (1972, doi:10.1109/TIT.1972.1054855) and Arimoto (1972, doi:10.1109/TIT.1972.1054753)
    /// on the histogram, with bins of at most √D/12 if the histogram is that fine. The bounds are those of
    /// Blahut's theorem, widened by the errors of the grid and of the bins. They hold even if the iteration did not
    /// converge. They usually differ by less than a hundredth of a bit.
    ///
    /// # Errors
    ///
    /// [`ParamError::OutOfRange`](crate::ParamError::OutOfRange) for a distortion that is not positive and finite, or so small
    /// that the histogram does not resolve it (at about nine bits a weight);
    /// [`shannon_rate`](Self::shannon_rate) is nearly exact there.
    pub fn rate(&self, distortion: f64) -> Result<Bounds> {
        check_distortion(distortion)?;
        if distortion >= self.variance {
            return Ok(Bounds::exactly(0.0));
        }
        let problem = self.problem(distortion)?;
        let bits = |nats: f64| (nats / LN_2).max(0.0);
        let bounds = problem.rate(distortion);
        Ok(Bounds {
            lower: bits(bounds.lower),
            upper: bits(bounds.upper),
        })
    }

    /// D(R): the least mean squared error that any code, of blocks of any length, reaches at `rate` bits a weight.
    ///
    /// The inverse of [`rate`](Self::rate), from the same iteration.
    ///
    /// # Errors
    ///
    /// As [`rate`](Self::rate), for a rate that is negative or not finite, or too high.
    pub fn distortion(&self, rate: f64) -> Result<Bounds> {
        check_rate(rate)?;
        if rate == 0.0 || self.variance == 0.0 {
            return Ok(Bounds::exactly(self.variance));
        }
        // No distribution of this variance has a larger error than the Gaussian. Where the error is far smaller, these bins
        // are too wide, and finer ones give better bounds.
        let guess = gaussian_distortion(self.variance, rate)?;
        let bounds = self.problem(guess)?.distortion(rate * LN_2);
        if bounds.lower < guess / 4.0
            && bounds.lower > 0.0
            && let Ok(finer) = self.problem(bounds.lower)
        {
            return Ok(finer.distortion(rate * LN_2));
        }
        Ok(bounds)
    }

    /// The histogram at the resolution that `distortion` needs.
    fn problem(&self, distortion: f64) -> Result<Problem> {
        let binned = self.binned(distortion.sqrt() / 12.0);
        Problem::new(binned, self.variance, distortion).ok_or_else(|| {
            let unresolved = ParamError::OutOfRange {
                name: "the distortion",
                range: "large enough for the histogram",
                value: distortion,
            };
            unresolved.into()
        })
    }

    /// The histogram with the widest bins that are no wider than `width`, or the finest there is.
    fn binned(&self, width: f64) -> Binned {
        let mut step = 1;
        while step < BINS && self.width * (2 * step) as f64 <= width {
            step *= 2;
        }
        self.merged(step)
    }

    /// The histogram with `step` bins in one.
    fn merged(&self, step: usize) -> Binned {
        Binned::merged(&self.bins, self.width, step)
    }

    /// The differential entropy of the weights, in bits: an estimate.
    ///
    /// It is the plug-in estimate from a histogram whose bins have the width of Scott's rule,
    /// 3.49 σ n^(−1/3) (1979, doi:10.1093/biomet/66.3.605), or up to twice less, with the bias term of Miller and Madow:
    ///
    /// $$\hat h = -\sum\_b p\_b \log\_2 \frac{p\_b}{\Delta} + \frac{K - 1}{2 n \ln 2}$$
    ///
    /// for K bins that are not empty. It assumes that the weights have a density, which weights of few distinct values
    /// (quantized ones) have not. Minus infinity for weights that are all equal.
    #[must_use]
    pub fn differential_entropy(&self) -> f64 {
        if self.variance == 0.0 {
            return f64::NEG_INFINITY;
        }
        let count = self.count as f64;
        let binned = self.binned(3.49 * self.variance.sqrt() / count.cbrt());
        let width = if binned.width > 0.0 {
            binned.width
        } else {
            self.width
        };
        let plug_in: f64 = binned
            .bins
            .iter()
            .map(|bin| -bin.mass * (bin.mass / width).log2())
            .sum();
        plug_in + (binned.bins.len() as f64 - 1.0) / (2.0 * count * LN_2)
    }

    /// The Shannon lower bound on R(D), in bits a weight (Shannon 1959; Berger, "Rate Distortion Theory", 1971).
    ///
    /// $$R(D) \ge h(W) - \tfrac{1}{2} \log\_2 (2 \pi e D)$$
    ///
    /// with the [estimated](Self::differential_entropy) entropy h; zero where that is negative. It is exact for a Gaussian,
    /// and in the limit of small D for any density.
    ///
    /// # Errors
    ///
    /// [`ParamError::OutOfRange`](crate::ParamError::OutOfRange) for a distortion that is not positive and finite.
    pub fn shannon_rate(&self, distortion: f64) -> Result<f64> {
        check_distortion(distortion)?;
        let rate = self.differential_entropy() - 0.5 * (2.0 * PI * E * distortion).log2();
        Ok(rate.max(0.0))
    }

    /// The Shannon lower bound on D(R), the inverse of [`shannon_rate`](Self::shannon_rate): a mean squared error, at
    /// most the variance.
    ///
    /// # Errors
    ///
    /// [`ParamError::OutOfRange`](crate::ParamError::OutOfRange) for a rate that is negative or not finite.
    pub fn shannon_distortion(&self, rate: f64) -> Result<f64> {
        check_rate(rate)?;
        let power = (2.0 * (self.differential_entropy() - rate)).exp2() / (2.0 * PI * E);
        Ok(power.min(self.variance))
    }

    /// The least mean squared error of weights that take at most `levels` values, of any choice of values.
    ///
    /// It is the optimal k-means of a histogram of at most 16,384 bins; the bounds account for the width of the bins.
    /// [`cluster_scalars`](crate::cluster::cluster_scalars) computes the exact error, in more time.
    ///
    /// # Errors
    ///
    /// [`ParamError::Zero`](crate::ParamError::Zero) for no levels, and the errors of [`cluster_scalars`].
    pub fn levels_error(&self, levels: usize) -> Result<Bounds> {
        let binned = self.merged(BINS / LEVEL_BINS);
        let values: Array1<f64> = binned.bins.iter().map(|bin| bin.mean).collect();
        let masses: Array1<f64> = binned.bins.iter().map(|bin| bin.mass).collect();
        let fit = cluster_scalars(values.view(), Some(masses.view()), levels)?;
        let best = fit.report.loss().expect("an optimal fit reports its loss");
        // `best` is the error of the bins' means, `within` that of weights about them. Below: the triangle inequality.
        // Above: these levels, chosen for the means, are possible levels for the weights.
        Ok(Bounds {
            lower: (best.sqrt() - binned.within.sqrt()).max(0.0).powi(2),
            upper: best + binned.within,
        })
    }

    pub(super) fn is_resolved(&self, distortion: f64) -> bool {
        self.problem(distortion).is_ok()
    }
}
