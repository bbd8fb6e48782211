//! The softened softmax and its logarithm.

use ndarray::{Array2, ArrayView2};

use super::batch::{self, Rows};
use super::check_temperature;
use super::row::quick_scale;
use super::softened::exponents;
use crate::kernels::Level;
use crate::{Error, Float, Result, check};

/// Returns $\mathrm{softmax}(z/T)$ of every row of `logits`, (batch, classes).
///
/// Every row is a probability distribution for any finite logits. $T \to 0$ gives all probability to the largest logit,
/// $T \to \infty$ the same to each class.
///
/// # Errors
///
/// [`Error::Parameter`] for a temperature that is not positive and finite, [`Error::EmptyAxis`], [`Error::NonFinite`].
///
/// ```
/// use taper::distill::softened_softmax;
/// use taper::ndarray::array;
///
/// let logits = array![[2.0_f64.ln() * 3.0, 0.0]];
/// let p = softened_softmax(logits.view(), 3.0)?;
/// assert!((p[[0, 0]] - 2.0 / 3.0).abs() < 1e-12);
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
            let exponents = exponents(values, temperature);
            let sum: f64 = exponents.iter().map(|x| x.exp()).sum();
            for (out, x) in out.iter_mut().zip(exponents) {
                *out = F::from_f64_lossy(x.exp() / sum);
            }
        }
    })
}

/// Returns $\ln \mathrm{softmax}(z/T)$ of every row of `logits`, (batch, classes), accurate even where probabilities round
/// to zero.
///
/// # Errors
///
/// As [`softened_softmax`], and [`Error::Overflow`] for a logarithm that leaves the range of the type.
pub(super) fn log_softened_softmax<F: Float>(
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
            let exponents = exponents(values, temperature);
            let sum: f64 = exponents.iter().map(|x| x.exp()).sum();
            for (out, x) in out.iter_mut().zip(exponents) {
                *out = F::from_f64_lossy(x - sum.ln());
            }
        }
    })?;
    if out.iter().any(|x| !x.is_finite()) {
        return Err(Error::Overflow {
            what: "the logarithm of the softened softmax",
        });
    }
    Ok(out)
}

/// Fills an array of the shape of `logits` row by row. `f` gets the row, its maximum, the scale 1/T if the quick way can be
/// used, and the row to fill.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Seed;
    use ndarray::array;
    use proptest::prelude::*;

    #[test]
    fn logarithms_out_of_range_are_errors() {
        let accurate = log_softened_softmax(array![[0.0_f32, -1000.0]].view(), 1.0);
        assert_eq!(accurate, Ok(array![[0.0, -1000.0]]));
        let extreme = array![[f32::MAX, -f32::MAX, 0.0]];
        assert!(matches!(
            log_softened_softmax(extreme.view(), 1.0),
            Err(Error::Overflow { .. })
        ));
        assert!(log_softened_softmax(array![[1.0]].view(), 0.0).is_err());
    }

    proptest! {
        #[test]
        fn logarithms_are_those_of_the_probabilities(
            seed: u64,
            classes in 1_usize..70,
            spread in 0.0_f64..200.0,
            log_temperature in -3.0_f64..6.0,
        ) {
            let seed = Seed::from(seed);
            let z = Array2::from_shape_fn((3, classes), |(i, j)| {
                (spread * seed.uniform((classes * i + j) as u64)) as f32
            });
            let temperature = log_temperature.exp();
            let p = softened_softmax(z.view(), temperature).unwrap();
            let log_p = log_softened_softmax(z.view(), temperature).unwrap();
            for (&p, &log_p) in p.iter().zip(&log_p) {
                // Rounding of the exponent, whose size is |ln p|.
                let relative = (8.0 + 4.0 * log_p.abs()) * f32::EPSILON;
                // Numbers near the smallest normal one may be flushed to zero.
                let tolerance = relative * p + 2.0 * f32::MIN_POSITIVE;
                prop_assert!((p - log_p.exp()).abs() <= tolerance);
            }
        }
    }
}
