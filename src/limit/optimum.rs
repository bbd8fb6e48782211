//! The least error of signs with one scale.

use ndarray::{ArrayView, Dimension};

use crate::{Float, Result, check};

/// The least mean squared error of weights α·(±1) with one α for all: mean(w²) − mean(|w|)².
///
/// It is reached by the signs of the weights and α = mean(|w|) (Rastegari et al., "XNOR-Net", 2016,
/// arXiv:1603.05279). For a scale a row, take the mean over the rows.
///
/// ```
/// use taper::limit::sign_error;
/// use taper::ndarray::array;
///
/// assert_eq!(sign_error(array![[1.0, -3.0]].view())?, 1.0);
/// # Ok::<(), taper::Error>(())
/// ```
///
/// # Errors
///
/// [`Error::EmptyAxis`](crate::Error::EmptyAxis), [`Error::NonFinite`](crate::Error::NonFinite),
/// [`Error::Overflow`](crate::Error::Overflow).
pub fn sign_error<F: Float, D: Dimension>(weights: ArrayView<'_, F, D>) -> Result<f64> {
    check::finite("weights", &weights)?;
    let count = weights.len() as f64;
    let scale = weights.iter().map(|w| w.as_f64().abs()).sum::<f64>() / count;
    // From distances to α: mean(w²) − α² would lose digits.
    let squares = weights.iter().map(|w| (w.as_f64().abs() - scale).powi(2));
    let error = squares.sum::<f64>() / count;
    check::no_overflow("the square of a weight", [&error])?;
    Ok(error)
}
