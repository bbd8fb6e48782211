//! Making a real matrix binary.

use ndarray::ArrayView2;
use rand::RngCore;

use super::aware;
use super::matrix::BinaryMatrix;
use super::signs::{Signs, pack};
use crate::quantize::granularity::Granularity;
use crate::{FitContext, Float, ParamError, Precision, Quantizer, Result, Seed, check, parallel};

/// Replaces each weight by its sign, times a scale.
///
/// The sign is +1 where w ≥ 0 (also for −0.0), else −1 (Courbariaux et al., 2016, arXiv:1602.02830). Of all scales
/// $\alpha$ the mean of |w| has the least squared error (Rastegari et al., "XNOR-Net", 2016,
/// arXiv:1603.05279, section 3.1), and with it
///
/// $$ \frac1n \sum\_i (w\_i - \alpha \operatorname{sign} w\_i)^2 = \overline{w^2} - \overline{|w|}^2. $$
///
/// With the moments of a layer's inputs ([`quantize_with`](Quantizer::quantize_with)) the signs are chosen column by column
/// with error feedback, as GPTQ rounds (E. Frantar et al., 2022, arXiv:2210.17323), and scales are fitted to the
/// signs and signs to the scales in turn. Each row (or the whole matrix, if it has a single scale) keeps the round with the least
/// output error. The result without moments is one of the rounds, so that moments never raise the output error.
///
/// [Stochastic](Binarizer::stochastic) binarization does not use moments and draws the sign: +1 with the probability
/// $\sigma(w) = \max(0, \min(1, (w + 1) / 2))$, so that its expectation is w wherever |w| ≤ 1.
///
/// ```
/// use ndarray::array;
/// use taper::quantize::binary::{Binarizer, Granularity};
/// use taper::{Compressed, LinearOp, Quantizer};
///
/// let weights = array![[0.5, -1.5, 1.0], [-0.25, 0.25, 0.25]];
/// let binary = Binarizer::new().scaling(Granularity::PerRow).quantize(weights.view())?;
/// assert_eq!(binary.decompress()?, array![[1.0, -1.0, 1.0], [-0.25, 0.25, 0.25]].into_dyn());
/// assert_eq!(binary.apply(array![[1.0, 2.0, 3.0]].view())?, array![[2.0, 1.0]]);
/// # Ok::<(), taper::Error>(())
/// ```
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(deny_unknown_fields, default))]
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Binarizer {
    /// Which weights share the scale by which signs are multiplied. `None` gives weights of ±1, for a network whose batch
    /// normalization sets the scale.
    pub scaling: Option<Granularity>,
    /// The precision in which scales are stored.
    pub precision: Precision,
    /// The seed from which signs are drawn at random; `None` takes the sign of each weight.
    pub stochastic: Option<Seed>,
    /// How strongly moments are damped; see [`InputMoments::damped`](crate::InputMoments::damped).
    pub damping: f64,
}

impl Default for Binarizer {
    fn default() -> Self {
        Self::new()
    }
}

impl Binarizer {
    /// Creates a binarizer with the defaults: no scale, the sign of each weight, single precision.
    #[must_use]
    pub fn new() -> Self {
        Self {
            scaling: None,
            precision: Precision::F32,
            stochastic: None,
            damping: 0.01,
        }
    }

    /// Sets which weights share the scale by which signs are multiplied; without scales by default.
    #[must_use]
    pub fn scaling(mut self, scaling: impl Into<Option<Granularity>>) -> Self {
        self.scaling = scaling.into();
        self
    }

    /// Sets the precision of the scales; single by default.
    #[must_use]
    pub fn precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// Sets how strongly the moments of inputs are damped (see [`InputMoments::damped`](crate::InputMoments::damped)); 0.01 by
    /// default. Without moments it has no effect.
    #[must_use]
    pub fn damping(mut self, damping: f64) -> Self {
        self.damping = damping;
        self
    }

    /// Draws the signs at random: +1 with the probability max(0, min(1, (w + 1) / 2)).
    #[must_use]
    pub fn stochastic(mut self, seed: impl Into<Seed>) -> Self {
        self.stochastic = Some(seed.into());
        self
    }

    /// Checks the parameters, as every call that uses them does.
    ///
    /// # Errors
    ///
    /// [`ParamError`] for the first parameter that is out of its range.
    pub fn validate(&self) -> Result<(), ParamError> {
        if let Some(Granularity::Block(_)) = self.scaling {
            return Err(ParamError::Conflict {
                first: "signs",
                second: "a scale for each block",
                reason: "their scale is one for the tensor or one for each row",
            });
        }
        check::damping(self.damping)
    }
}

impl<F: Float> Quantizer<F> for Binarizer {
    type Output = BinaryMatrix<F>;

    fn quantize_with(
        &self,
        weights: ArrayView2<'_, F>,
        context: FitContext<'_>,
    ) -> Result<BinaryMatrix<F>> {
        self.validate()?;
        context.rows_unused("Binarizer")?;
        let inputs = context.inputs;
        check::finite("weights", &weights)?;
        if let Some(inputs) = inputs {
            inputs.fits(weights.ncols())?;
            if self.stochastic.is_some() {
                context.unused("stochastic binarization")?;
            }
        }
        let signs = match self.stochastic {
            None => Signs::of(weights),
            Some(seed) => Signs::from_fn(weights.dim(), |i, row| {
                let mut rng = seed.derive(i as u64).rng();
                let drawn = weights.row(i).into_iter().map(|&w| {
                    // The upper 53 bits, in [0, 1): never below 0, always below 1.
                    let uniform = (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
                    uniform < (w.as_f64() + 1.0) / 2.0
                });
                pack(drawn, row);
            }),
        };
        let means = match self.scaling {
            None => Vec::new(),
            Some(Granularity::PerTensor) => vec![mean_magnitude(weights.iter(), weights.len())],
            Some(_) => parallel::map(weights.nrows(), |i| {
                mean_magnitude(weights.row(i).into_iter(), weights.ncols())
            }),
        };
        let scales = means
            .into_iter()
            .map(|mean| self.precision.round_factor("a scale", mean))
            .collect::<Result<_>>()?;
        let (signs, scales) = match inputs {
            None => (signs, scales),
            Some(inputs) => {
                let parameters = aware::Parameters {
                    scaling: self.scaling,
                    precision: self.precision,
                    damping: self.damping,
                };
                let fit = aware::fit(parameters, weights, inputs, scales)?;
                (Signs::of(fit.signs.view()), fit.scales)
            }
        };
        Ok(BinaryMatrix::new(
            signs,
            self.scaling,
            self.precision,
            scales,
        ))
    }
}

/// The mean of |w|, summed so that no intermediate value overflows.
fn mean_magnitude<'a, F: Float>(values: impl Iterator<Item = &'a F>, count: usize) -> f64 {
    let (mut sum, mut largest) = (0.0, 0.0_f64);
    for w in values {
        let magnitude = w.as_f64().abs();
        sum += magnitude / count as f64;
        largest = largest.max(magnitude);
    }
    // Rounding may raise the mean of the largest numbers above them, to infinity.
    sum.min(largest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Compressed;
    use crate::Error;
    use ndarray::{Array2, array, s};
    use proptest::prelude::*;

    #[test]
    fn the_mean_of_the_largest_numbers_is_finite() {
        let weights = Array2::from_elem((3, 6), -f64::MAX);
        for scaling in [Granularity::PerTensor, Granularity::PerRow] {
            let binarizer = Binarizer::new().scaling(scaling).precision(Precision::F64);
            let matrix = binarizer.quantize(weights.view()).unwrap();
            assert_eq!(matrix.decompress().unwrap(), weights.clone().into_dyn());
        }
    }

    fn weights() -> impl Strategy<Value = Array2<f64>> {
        (1_usize..8, 1_usize..70).prop_flat_map(|(rows, columns)| {
            prop::collection::vec(-3.0..3.0, rows * columns)
                .prop_map(move |values| Array2::from_shape_vec((rows, columns), values).unwrap())
        })
    }

    fn mean(values: impl Iterator<Item = f64>) -> f64 {
        let values: Vec<f64> = values.collect();
        values.iter().sum::<f64>() / values.len() as f64
    }

    proptest! {
        // The least mean squared error of a scale is mean(w²) − mean(|w|)², and no other scale reaches it.
        #[test]
        fn the_scale_minimizes_the_squared_error(w in weights(), other in 0.0_f64..3.0) {
            let binarizer = Binarizer::new().scaling(Granularity::PerTensor).precision(Precision::F64);
            let binary = binarizer.quantize(w.view()).unwrap();
            let dense = binary.decompress().unwrap();
            let error = mean(w.iter().zip(&dense).map(|(w, q)| (w - q).powi(2)));
            let square = mean(w.iter().map(|w| w * w));
            let magnitude = mean(w.iter().map(|w| w.abs()));
            // A few sums of n numbers of at most 9, each off by at most n·ε times its value.
            let tolerance = 4.0 * 9.0 * w.len() as f64 * f64::EPSILON;
            prop_assert!((error - (square - magnitude * magnitude)).abs() <= tolerance);
            let worse = mean(w.iter().map(|w| (w.abs() - other).powi(2)));
            prop_assert!(worse >= error - tolerance);
            // A scale for each row can only be better.
            let rows = binarizer.scaling(Granularity::PerRow).quantize(w.view()).unwrap().decompress().unwrap();
            prop_assert!(mean(w.iter().zip(&rows).map(|(w, q)| (w - q).powi(2))) <= error + tolerance);
        }

        #[test]
        fn binarizing_twice_changes_nothing(w in weights()) {
            for scaling in [None, Some(Granularity::PerTensor), Some(Granularity::PerRow)] {
                let binarizer = Binarizer::new().scaling(scaling);
                let once = binarizer.quantize(w.view()).unwrap().decompress().unwrap();
                let again = binarizer.quantize(once.view().into_dimensionality().unwrap()).unwrap();
                for (a, b) in again.decompress().unwrap().iter().zip(&once) {
                    prop_assert!((a - b).abs() <= b.abs() * (w.len() as f64 * f64::EPSILON + f64::from(f32::EPSILON)));
                }
            }
        }

        #[test]
        fn strides_make_no_difference(w in weights()) {
            let binarizer = Binarizer::new().scaling(Granularity::PerRow);
            let view = w.slice(s![..;-1, ..;2]);
            prop_assert_eq!(binarizer.quantize(view).unwrap(), binarizer.quantize(view.to_owned().view()).unwrap());
            let stochastic = binarizer.stochastic(3);
            prop_assert_eq!(stochastic.quantize(w.t()).unwrap(), stochastic.quantize(w.t().to_owned().view()).unwrap());
        }
    }

    #[test]
    fn the_sign_of_negative_zero_is_positive() {
        let binary = Binarizer::new().quantize(array![[-0.0_f32, 0.0, -1e-45]].view());
        assert_eq!(
            binary.unwrap().decompress().unwrap(),
            array![[1.0, 1.0, -1.0]].into_dyn()
        );
    }

    #[test]
    fn drawn_signs_have_the_weight_as_their_mean() {
        let n = 20_000;
        for w in [-1.5_f64, -1.0, -0.4, 0.0, 0.7, 1.0, 2.0] {
            let binary = Binarizer::new()
                .stochastic(11)
                .quantize(Array2::from_elem((20, n / 20), w).view());
            let found = mean(binary.unwrap().decompress().unwrap().iter().copied());
            let expected = w.clamp(-1.0, 1.0);
            // Five standard errors of a mean of n signs; none where the sign is certain.
            let deviation = ((1.0 - expected * expected) / n as f64).sqrt();
            assert!((found - expected).abs() <= 5.0 * deviation, "{w}: {found}");
        }
    }

    #[test]
    fn bad_weights_are_refused() {
        let quantize = |w: Array2<f32>| Binarizer::new().quantize(w.view());
        assert!(matches!(
            quantize(array![[1.0, f32::NAN]]),
            Err(Error::NonFinite { .. })
        ));
        assert!(matches!(
            quantize(Array2::zeros((0, 3))),
            Err(Error::EmptyAxis { .. })
        ));
        let large = Binarizer::new()
            .scaling(Granularity::PerTensor)
            .precision(Precision::F16);
        assert!(matches!(
            large.quantize(array![[1e6_f32]].view()),
            Err(Error::Overflow { .. })
        ));
        let largest = Binarizer::new()
            .scaling(Granularity::PerTensor)
            .quantize(array![[f32::MAX, f32::MAX]].view());
        assert_eq!(largest.unwrap().scales(), [f32::MAX]);
    }
}
