//! The rate–distortion function of independent Gaussian components.

use ndarray::{ArrayView1, ArrayView2};

use super::gaussian::{check_distortion, check_rate};
use super::spectrum::moment_spectrum;
use crate::{Float, Result, check};

/// Reverse water-filling: only components whose variance is above a common level θ get bits.
///
/// $$R = \frac{1}{n} \sum\_i \max\Big(0, \tfrac{1}{2} \log\_2 \frac{v\_i}{\theta}\Big), \qquad
/// D = \frac{1}{n} \sum\_i \min(v\_i, \theta)$$
///
/// (Kolmogorov 1956; Cover and Thomas, "Elements of Information Theory", theorem 10.3.3.) For a linear layer it bounds
/// the error of the *outputs* (W. Gao et al., "Rate distortion for model compression", 2019, arXiv:1810.06401), by
/// [`linear_layer`](Self::linear_layer). It is exact for independent Gaussian components and squared error; weights of
/// another distribution may need fewer bits.
///
/// ```
/// use taper::limit::WaterFilling;
/// use taper::ndarray::array;
///
/// let filling = WaterFilling::of(array![4.0, 1.0].view())?;
/// // At a level of one, the second component gets nothing.
/// assert_eq!(filling.rate(1.0)?, 0.5);
/// assert_eq!(filling.distortion(0.5)?, 1.0);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct WaterFilling {
    /// Falling, not negative.
    variances: Vec<f64>,
}

impl WaterFilling {
    /// Independent Gaussian components of these variances.
    ///
    /// # Errors
    ///
    /// [`Error::EmptyAxis`](crate::Error::EmptyAxis), [`Error::NonFinite`](crate::Error::NonFinite),
    /// [`ParamError::OutOfRange`](crate::ParamError::OutOfRange) for a negative variance.
    pub fn of(variances: ArrayView1<'_, f64>) -> Result<Self> {
        check::finite("variances", &variances)?;
        let mut variances = variances.to_vec();
        for &variance in &variances {
            check::in_range("a variance", variance, "not negative", variance >= 0.0)?;
        }
        variances.sort_by(|a, b| b.total_cmp(a));
        Ok(Self { variances })
    }

    /// The components of the output error of a linear layer with `weights` (out_features, in_features), whose inputs have the
    /// second moment M = XᵀX/n (in_features, in_features).
    ///
    /// The components are the directions of M's eigenvectors, with the variances σ² λᵢ, σ² the mean square of the weights:
    /// all weights are assumed independent and Gaussian, of mean zero and this variance. D is then
    /// tr((W − Ŵ) M (W − Ŵ)ᵀ) / (out·in), the mean squared error of an output divided by the number of inputs, and R is in
    /// bits a weight.
    ///
    /// # Errors
    ///
    /// Those of [`LowRankLimit::whitened`](super::LowRankLimit::whitened).
    pub fn linear_layer<F: Float>(
        weights: ArrayView2<'_, F>,
        second_moment: ArrayView2<'_, f64>,
    ) -> Result<Self> {
        check::finite("weights", &weights)?;
        let (values, _) = moment_spectrum(weights.ncols(), second_moment)?;
        let squares = weights.iter().map(|w| w.as_f64() * w.as_f64());
        let square = squares.sum::<f64>() / weights.len() as f64;
        let mut variances: Vec<f64> = values.iter().map(|value| value * square).collect();
        check::no_overflow("the variance of an output", &variances)?;
        variances.reverse();
        Ok(Self { variances })
    }

    /// R(D), in bits a component, at a mean squared error of `distortion` a component.
    ///
    /// # Errors
    ///
    /// [`ParamError::OutOfRange`](crate::ParamError::OutOfRange) for a distortion that is not positive and finite.
    pub fn rate(&self, distortion: f64) -> Result<f64> {
        check_distortion(distortion)?;
        let count = self.variances.len() as f64;
        let level = self.level(distortion * count);
        let bits = self
            .variances
            .iter()
            .take_while(|&&variance| variance > level)
            .map(|&variance| 0.5 * (variance.log2() - level.log2()));
        Ok(bits.sum::<f64>() / count)
    }

    /// D(R), the mean squared error a component at `rate` bits a component.
    ///
    /// # Errors
    ///
    /// [`ParamError::OutOfRange`](crate::ParamError::OutOfRange) for a rate that is negative or not finite.
    pub fn distortion(&self, rate: f64) -> Result<f64> {
        check_rate(rate)?;
        let count = self.variances.len() as f64;
        let bits = rate * count;
        // With k components above the level, their logarithms less k times the level's are the bits. The right k is the
        // first whose level is not below the next variance.
        let mut logarithms = 0.0;
        let mut level = self.variances[0];
        for (i, &variance) in self.variances.iter().enumerate() {
            if variance == 0.0 {
                break;
            }
            logarithms += variance.log2();
            level = ((logarithms - 2.0 * bits) / (i + 1) as f64).exp2();
            let next = self.variances.get(i + 1).copied().unwrap_or(0.0);
            if level >= next {
                break;
            }
        }
        Ok(self.below(level) / count)
    }

    /// Σ min(v, θ).
    fn below(&self, level: f64) -> f64 {
        self.variances.iter().map(|v| v.min(level)).sum()
    }

    /// θ at which Σ min(v, θ) is `total`, or the largest variance where `total` is all there is.
    fn level(&self, total: f64) -> f64 {
        let mut rest: f64 = self.variances.iter().sum();
        for (i, &variance) in self.variances.iter().enumerate() {
            rest -= variance;
            let level = (total - rest.max(0.0)) / (i + 1) as f64;
            let next = self.variances.get(i + 1).copied().unwrap_or(0.0);
            if level >= next {
                return level.min(self.variances[0]);
            }
        }
        0.0
    }
}
