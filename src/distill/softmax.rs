//! The softened softmax and its logarithm.

use ndarray::{Array2, ArrayView2};

use super::batch::{self, Rows};
use super::check_temperature;
use super::row::{careful_exponents, quick_scale};
use crate::kernels::Level;
use crate::{Float, Result, check};

/// $\mathrm{softmax}(z/T)$ of every row of `logits`, (batch, classes).
///
/// Every row is a distribution, for any finite logits and temperature: the largest logit is taken off first.
/// $T \to 0$ puts all on the largest logit, $T \to \infty$ spreads evenly.
///
/// # Errors
///
/// [`Error::Parameter`](crate::Error::Parameter) where T is not positive and finite, [`Error::EmptyAxis`](crate::Error::EmptyAxis), [`Error::NonFinite`](crate::Error::NonFinite).
///
/// ```
/// use ndarray::array;
/// use taper::distill::softened_softmax;
///
/// let logits = array![[2.0_f64.ln() * 3.0, 0.0]];
/// let p = softened_softmax(logits.view(), 3.0)?;
/// assert!((p[[0, 0]] - 2.0 / 3.0).abs() < 1e-12);
/// assert!(softened_softmax(logits.view(), 0.0).is_err());
/// # Ok::<(), taper::Error>(())
/// ```
pub fn softened_softmax<F: Float>(
    logits: ArrayView2<'_, F>,
    temperature: f64,
) -> Result<Array2<F>> {
    let level = Level::current();
    by_row(logits, temperature, |values, max, scale, out| match scale {
        Some(scale) => {
            let sum = F::exp_shifted(level, values, max, scale, out);
            for x in out {
                *x /= sum;
            }
        }
        None => {
            let exponents = careful_exponents(values, temperature);
            let sum: f64 = exponents.iter().map(|x| x.exp()).sum();
            for (out, x) in out.iter_mut().zip(exponents) {
                *out = F::from_f64_lossy(x.exp() / sum);
            }
        }
    })
}

/// $\ln \mathrm{softmax}(z/T)$ of every row of `logits`, (batch, classes).
///
/// Taken from the logits and not from the probabilities: it stays exact where those round to zero.
///
/// # Errors
///
/// As [`softened_softmax`], and [`Error::Overflow`](crate::Error::Overflow) where a logarithm leaves the range of the type: for
/// logits near its ends.
///
/// ```
/// use ndarray::array;
/// use taper::distill::log_softened_softmax;
///
/// let log_p = log_softened_softmax(array![[0.0_f32, -1000.0]].view(), 1.0)?;
/// assert_eq!(log_p, array![[0.0, -1000.0]]);
/// # Ok::<(), taper::Error>(())
/// ```
pub fn log_softened_softmax<F: Float>(
    logits: ArrayView2<'_, F>,
    temperature: f64,
) -> Result<Array2<F>> {
    let level = Level::current();
    let out = by_row(logits, temperature, |values, max, scale, out| match scale {
        Some(scale) => {
            let sum = F::exp_shifted(level, values, max, scale, out);
            let ln_sum = F::from_f64_lossy(sum.as_f64().ln());
            for (out, &x) in out.iter_mut().zip(values) {
                *out = (x - max) * scale - ln_sum;
            }
        }
        None => {
            let exponents = careful_exponents(values, temperature);
            let sum: f64 = exponents.iter().map(|x| x.exp()).sum();
            for (out, x) in out.iter_mut().zip(exponents) {
                *out = F::from_f64_lossy(x - sum.ln());
            }
        }
    })?;
    check::no_overflow("the logarithm of the softened softmax", &out)?;
    Ok(out)
}

/// Fills an array of the shape of `logits` row by row: from the row, its maximum, and the scale 1/T where the
/// quick way may be taken.
fn by_row<F: Float>(
    logits: ArrayView2<'_, F>,
    temperature: f64,
    f: impl Fn(&[F], F, Option<F>, &mut [F]) + Sync + Send,
) -> Result<Array2<F>> {
    check_temperature(temperature)?;
    check::finite("logits", &logits)?;
    let level = Level::current();
    let rows = Rows::new(&logits);
    let mut out = Array2::zeros(logits.dim());
    batch::map_rows(out.view_mut(), |first, out| {
        let mut buffer = Vec::new();
        for (i, out) in out.chunks_exact_mut(logits.ncols()).enumerate() {
            let values = rows.get(first + i, &mut buffer);
            let extent = F::extent(level, values);
            f(values, extent.max, quick_scale(temperature, &[extent]), out);
        }
    });
    Ok(out)
}
