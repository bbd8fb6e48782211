//! Batch normalization at inference. Before a sign, it is a threshold for each neuron.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis};

use crate::{Error, Float, Result, check};

/// Batch normalization with the statistics of training, one set for each neuron.
///
/// $$ \operatorname{BN}(z) = \gamma \cdot \frac{z - \mu}{\sqrt{v + \epsilon}} + \beta $$
///
/// (S. Ioffe and C. Szegedy, 2015, arXiv:1502.03167.) [`BinaryMlp`](super::BinaryMlp) replaces batch normalization and sign by a
/// threshold on z, an integer where z is a sum of ±1 or of 8-bit inputs. The
/// threshold is found by bisection of this expression as it is computed, rounding included, so that comparing z with it gives
/// the same sign for every z.
///
/// ```
/// use ndarray::array;
/// use taper::quantize::binary::BatchNorm;
///
/// let norm = BatchNorm::new(array![2.0], array![-1.0], array![3.0], array![3.0], 1.0)?;
/// assert_eq!(norm.apply(0, 5.0), Some(1.0)); // 2 · (5 − 3) / √(3 + 1) − 1
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct BatchNorm<F: Float> {
    gamma: Array1<F>,
    beta: Array1<F>,
    mean: Array1<F>,
    /// √(variance + ε).
    deviation: Array1<F>,
}

impl<F: Float> BatchNorm<F> {
    /// Creates it from the scale γ, the shift β, the running mean and the running variance, one value for each neuron, and ε.
    ///
    /// # Errors
    ///
    /// [`Error::EmptyAxis`], [`Error::NonFinite`], [`Error::ShapeMismatch`], and [`Error::Malformed`] where a
    /// variance plus `epsilon` is not above zero.
    pub fn new(
        gamma: Array1<F>,
        beta: Array1<F>,
        mean: Array1<F>,
        variance: Array1<F>,
        epsilon: F,
    ) -> Result<Self> {
        let vectors: [(&'static str, ArrayView1<'_, F>); 4] = [
            ("gamma", gamma.view()),
            ("beta", beta.view()),
            ("mean", mean.view()),
            ("variance", variance.view()),
        ];
        for (name, vector) in &vectors {
            check::finite(name, vector)?;
            check::same_shape(name, gamma.shape(), vector.shape())?;
        }
        let deviation = variance.mapv(|v| (v + epsilon).sqrt());
        if let Some(i) = deviation
            .iter()
            .position(|d| !(d.is_finite() && *d > F::zero()))
        {
            let variance = variance[i];
            return Err(Error::Malformed {
                artifact: "BatchNorm",
                problem: format!("the variance of neuron {i} is {variance} and ε is {epsilon}"),
            });
        }
        Ok(Self {
            gamma,
            beta,
            mean,
            deviation,
        })
    }

    /// The number of neurons.
    #[must_use]
    pub fn neurons(&self) -> usize {
        self.gamma.len()
    }

    /// γ (z − μ) / √(v + ε) + β of one neuron, evaluated in this order; `None` for a neuron that does not exist.
    #[must_use]
    pub fn apply(&self, neuron: usize, z: F) -> Option<F> {
        let gamma = *self.gamma.get(neuron)?;
        let beta = *self.beta.get(neuron)?;
        let mean = *self.mean.get(neuron)?;
        let deviation = *self.deviation.get(neuron)?;
        Some((z - mean) / deviation * gamma + beta)
    }

    /// Folds the normalization into the linear layer before it. Returns `weights`, of shape (neurons, in_features), with scaled
    /// rows, and the bias.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`] where `weights` has another number of rows.
    pub fn fold(&self, weights: ArrayView2<'_, F>) -> Result<(Array2<F>, Array1<F>)> {
        check::same_shape(
            "weights",
            &[self.neurons(), weights.ncols()],
            weights.shape(),
        )?;
        let factors = &self.gamma / &self.deviation;
        let bias = &self.beta - &(&self.mean * &factors);
        Ok((&weights * &factors.insert_axis(Axis(1)), bias))
    }

    /// Whether the sign after BatchNorm rises with z, and the least place at which it has changed.
    ///
    /// `value(k)` is z at the place k, rising in k over `low..=high`. The sign is that of γ ≥ 0 (or γ < 0) at
    /// every place from the returned one on, and the other before it; `high + 1` where it never changes.
    pub(super) fn threshold(
        &self,
        neuron: usize,
        (low, high): (i64, i64),
        value: impl Fn(i64) -> F,
    ) -> Option<(i64, bool)> {
        let gamma = *self.gamma.get(neuron)?;
        let rises = gamma >= F::zero();
        if gamma == F::zero() {
            let positive = *self.beta.get(neuron)? >= F::zero();
            return Some((if positive { low } else { high + 1 }, true));
        }
        // Every step of the expression is monotone in z, and rounding keeps it so: bisection finds the change.
        let changed = |k| {
            self.apply(neuron, value(k))
                .map(|h| (h >= F::zero()) == rises)
        };
        let (mut low, mut high) = (low, high + 1);
        while low < high {
            // Half of the sum, rounded down, without leaving the type.
            let middle = ((i128::from(low) + i128::from(high)) >> 1) as i64;
            if changed(middle)? {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        Some((low, rises))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_threshold_is_the_sign_for_every_sum(
            gamma in prop_oneof![-2.0_f32..2.0, Just(0.0)],
            beta in prop_oneof![-2.0_f32..2.0, Just(0.0), Just(-0.0)],
            mean in -30.0_f32..30.0,
            variance in 0.0_f32..40.0,
        ) {
            let norm = BatchNorm::new(array![gamma], array![beta], array![mean], array![variance], 1e-4).unwrap();
            let (threshold, rises) = norm.threshold(0, (-50, 50), |k| k as f32).unwrap();
            for z in -50_i64..=50 {
                let positive = norm.apply(0, z as f32).unwrap() >= 0.0;
                prop_assert_eq!((z >= threshold) == rises, positive, "z = {}", z);
            }
        }

        #[test]
        fn folding_is_applying(gamma in -2.0_f64..2.0, beta in -2.0_f64..2.0, mean in -3.0_f64..3.0, variance in 0.1_f64..4.0, w in -2.0_f64..2.0, x in -3.0_f64..3.0) {
            let norm = BatchNorm::new(array![gamma], array![beta], array![mean], array![variance], 0.0).unwrap();
            let (weights, bias) = norm.fold(array![[w]].view()).unwrap();
            let expected = norm.apply(0, w * x).unwrap();
            // Values of at most 2·(6 + 3)/√0.1 + 2 < 60, a handful of roundings.
            prop_assert!((weights[[0, 0]] * x + bias[0] - expected).abs() <= 8.0 * 60.0 * f64::EPSILON);
        }
    }

    #[test]
    fn bad_statistics_are_refused() {
        let one = || array![1.0_f64];
        assert!(BatchNorm::new(one(), one(), one(), array![-1.0], 0.5).is_err());
        assert!(BatchNorm::new(one(), one(), one(), array![0.0], 0.0).is_err());
        assert!(BatchNorm::new(one(), one(), one(), one(), f64::NAN).is_err());
        assert!(BatchNorm::new(one(), array![f64::NAN], one(), one(), 0.0).is_err());
        assert!(BatchNorm::new(one(), array![1.0, 2.0], one(), one(), 0.0).is_err());
        assert!(BatchNorm::new(array![], array![], array![], array![], 1.0_f64).is_err());
    }
}
