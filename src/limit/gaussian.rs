//! The rate–distortion function of a Gaussian source.

use crate::check::in_range;
use crate::{ParamError, Result};

/// ½ log₂(σ²/D), in bits a weight: a reference, not a bound.
///
/// It is the rate that independent *Gaussian* weights of this variance need at the mean squared error D; zero
/// if D is at least the variance. Weights of any other distribution of the same variance need less (Shannon 1959;
/// Cover and Thomas, "Elements of Information Theory", theorem 10.3.2 and exercise 10.8), so that a compressor
/// can need fewer bits. The limit for given weights is [`EmpiricalSource::rate`](super::EmpiricalSource::rate).
///
/// ```
/// # use taper::limit::gaussian_rate;
/// assert_eq!(gaussian_rate(4.0, 0.25)?, 2.0);
/// # Ok::<(), taper::Error>(())
/// ```
///
/// # Errors
///
/// [`ParamError::OutOfRange`] for a variance that is negative or not finite, and for a D that is not positive and finite.
pub fn gaussian_rate(variance: f64, distortion: f64) -> Result<f64> {
    check_variance(variance)?;
    check_distortion(distortion)?;
    Ok((0.5 * (variance.log2() - distortion.log2())).max(0.0))
}

/// σ² 2^(−2R), the mean squared error of independent Gaussian weights at R bits each: a reference, not a bound.
///
/// The inverse of [`gaussian_rate`]; weights of any other distribution of this variance allow a smaller error.
///
/// ```
/// # use taper::limit::gaussian_distortion;
/// assert_eq!(gaussian_distortion(4.0, 2.0)?, 0.25);
/// # Ok::<(), taper::Error>(())
/// ```
///
/// # Errors
///
/// [`ParamError::OutOfRange`] for a variance or a rate that is negative or not finite.
pub fn gaussian_distortion(variance: f64, rate: f64) -> Result<f64> {
    check_variance(variance)?;
    check_rate(rate)?;
    Ok(variance * (-2.0 * rate).exp2())
}

fn check_variance(variance: f64) -> Result<(), ParamError> {
    let inside = variance >= 0.0 && variance.is_finite();
    in_range("the variance", variance, "finite and not negative", inside)
}

pub(super) fn check_distortion(distortion: f64) -> Result<(), ParamError> {
    let inside = distortion > 0.0 && distortion.is_finite();
    in_range("the distortion", distortion, "positive and finite", inside)
}

pub(super) fn check_rate(rate: f64) -> Result<(), ParamError> {
    let inside = rate >= 0.0 && rate.is_finite();
    in_range("the rate", rate, "finite and not negative", inside)
}
