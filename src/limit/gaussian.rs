//! The rate–distortion function of a Gaussian source.

use crate::check::in_range;
use crate::{ParamError, Result};

/// σ² 2^(−2R), the mean squared error of independent Gaussian weights at R bits each (Cover and Thomas, "Elements of
/// Information Theory", theorem 10.3.2). Weights of any other distribution of this variance allow a smaller error
/// (exercise 10.8): a reference, not a bound.
pub(super) fn gaussian_distortion(variance: f64, rate: f64) -> Result<f64> {
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
