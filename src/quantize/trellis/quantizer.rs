//! The nearest sequence of codes, row by row.

use ndarray::ArrayView2;

use super::matrix::{MAX_BITS, ROWS, TrellisMatrix};
use super::states::{STATES, State, nearest, value};
use crate::{
    Error, Float, InputMoments, ParamError, ParamGuard, Precision, Quantizer, Result, check,
    moments, parallel,
};

const NAME: &str = "TrellisQuantizer";

/// Rounds weights to multiples of a step Δ, of which each code leaves every other one for the next weight.
///
/// Rows are rounded on their own. In each, the numbers k are those for which Σ (w − Δ v)² is least, over all sequences that
/// the [states](crate::quantize::trellis) allow; the value v is 2k where the state asks for the even grid, 2k − sgn k where it
/// asks for the odd one. The algorithm of Viterbi finds them in time that is linear in the row, and exactly.
///
/// The codes are as wide as the largest number needs, 2 to 16 bits: they are meant for a container, which codes them by their
/// entropy. The same step for all tensors of a model makes the sum of their squared errors least at a length of the file, as
/// long as the step is small beside the weights.
///
/// Nothing is asked of the inputs of the layer: with moments it is [`Error::MomentsUnused`].
///
/// ```
/// use taper::ndarray::array;
/// use taper::quantize::trellis::TrellisQuantizer;
/// use taper::{Compressed, Quantizer};
///
/// let weights = array![[0.31_f32, -0.2, 0.05, 0.4], [0.0, 0.1, -0.3, 0.2]];
/// let rounded = TrellisQuantizer::params(0.05).quantize(weights.view())?;
/// for (w, rebuilt) in weights.iter().zip(&rounded.decompress()?) {
///     // Values of a class are four steps apart.
///     assert!((w - rebuilt).abs() <= 2.0 * 0.05 + 1e-6);
/// }
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct TrellisQuantizer {
    step: f64,
    precision: Precision,
}

impl TrellisQuantizer {
    /// Parameters for values that are multiples of `step`; the error is near that of a plain grid whose step is 1.76
    /// times as large.
    #[must_use]
    pub fn params(step: f64) -> TrellisQuantizerParams {
        TrellisQuantizerParams(Self {
            step,
            precision: Precision::F32,
        })
    }
}

/// Parameters of a [`TrellisQuantizer`].
///
/// ```
/// use taper::Precision;
/// use taper::quantize::trellis::TrellisQuantizer;
/// use taper::ParamGuard;
///
/// assert!(TrellisQuantizer::params(0.01).precision(Precision::F16).check().is_ok());
/// assert!(TrellisQuantizer::params(0.0).check().is_err());
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct TrellisQuantizerParams(TrellisQuantizer);

impl TrellisQuantizerParams {
    /// The precision in which the step is stored.
    #[must_use]
    pub fn precision(mut self, precision: Precision) -> Self {
        self.0.precision = precision;
        self
    }
}

impl ParamGuard for TrellisQuantizerParams {
    type Checked = TrellisQuantizer;

    fn check_ref(&self) -> Result<&TrellisQuantizer, ParamError> {
        let step = self.0.step;
        let inside = step > 0.0 && step.is_finite();
        check::in_range("step", step, "above 0 and finite", inside)?;
        Ok(&self.0)
    }

    fn check(self) -> Result<TrellisQuantizer, ParamError> {
        self.check_ref()?;
        Ok(self.0)
    }
}

impl<F: Float> Quantizer<F> for TrellisQuantizer {
    type Output = TrellisMatrix<F>;

    fn quantize_with(
        &self,
        weights: ArrayView2<'_, F>,
        inputs: Option<&InputMoments>,
    ) -> Result<TrellisMatrix<F>> {
        check::finite("weights", &weights)?;
        moments::unused(NAME, inputs)?;
        let step = self
            .precision
            .round("a step", F::from_f64_lossy(self.step))?;
        let scale = step.as_f64();
        let largest = check::largest(weights).as_f64();
        // The largest number may be one beyond the nearest, whose value is twice as many steps.
        let most = f64::from((1 << MAX_BITS) - 4);
        if !(scale > 0.0 && largest / scale < most) {
            return Err(Error::Parameter(ParamError::OutOfRange {
                name: "step",
                range: "at least a 65532nd of the largest weight, in the precision of the step",
                value: self.step,
            }));
        }
        let weights = weights.as_standard_layout();
        let (rows, columns) = weights.dim();
        let values = weights.as_slice().unwrap_or_default();
        let mut numbers = vec![0_i32; values.len()];
        parallel::for_each_chunk_mut(&mut numbers, ROWS * columns, |chunk, numbers| {
            let values = values.get(chunk * ROWS * columns..).unwrap_or_default();
            let mut row = Row::default();
            for (values, numbers) in values.chunks(columns).zip(numbers.chunks_mut(columns)) {
                row.round(values, scale, numbers);
            }
        });
        TrellisMatrix::new([rows, columns], self.precision, step, &numbers)
    }
}

/// The distances of one weight from the nearest values of the four classes, even and odd numbers on either grid.
fn distances(x: f64) -> [f64; 4] {
    [(false, false), (false, true), (true, false), (true, true)].map(|(odd_grid, odd)| {
        let off = x - f64::from(value(odd_grid, nearest(x, odd_grid, odd)));
        off * off
    })
}

/// Room for the paths of a row.
#[derive(Default)]
struct Row {
    /// For each weight and each state after it a bit: whether the best path came from the upper of both states.
    upper: Vec<u8>,
}

impl Row {
    /// Writes the numbers of least squared error for `values` in multiples of `scale`.
    fn round<F: Float>(&mut self, values: &[F], scale: f64, numbers: &mut [i32]) {
        let before = State::all().map(State::before);
        // Where the distance of each of both steps that lead to a state stands.
        let class = before.map(|both| {
            both.map(|(state, odd)| 2 * usize::from(state.odd_grid()) + usize::from(odd))
        });
        let mut costs = [f64::INFINITY; STATES];
        costs[State::default().index()] = 0.0;
        self.upper.clear();
        for value in values {
            let distances = distances(value.as_f64() / scale);
            let mut next = [0.0; STATES];
            let mut upper = 0;
            for state in 0..STATES {
                let [lower_class, upper_class] = class[state];
                // The states before are s / 2 and s / 2 + 4.
                let from_lower = costs[state / 2] + distances[lower_class];
                let from_upper = costs[state / 2 + STATES / 2] + distances[upper_class];
                let is_upper = from_upper < from_lower;
                next[state] = if is_upper { from_upper } else { from_lower };
                upper |= u8::from(is_upper) << state;
            }
            costs = next;
            self.upper.push(upper);
        }
        let mut state = State::default();
        for other in State::all() {
            if costs[other.index()] < costs[state.index()] {
                state = other;
            }
        }
        let steps = values.iter().zip(numbers).zip(&self.upper);
        for ((value, number), upper) in steps.rev() {
            let [from_lower, from_upper] = before[state.index()];
            let is_upper = upper >> state.index() & 1 == 1;
            let (from, odd) = if is_upper { from_upper } else { from_lower };
            *number = nearest(value.as_f64() / scale, from.odd_grid(), odd);
            state = from;
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, array};

    use super::*;
    use crate::{LinearOp, Seed};

    fn uniform(count: usize, seed: u64) -> Vec<f64> {
        let seed = Seed::from(seed);
        let value = |i: u64| seed.derive(i).value() as f64 / u64::MAX as f64 - 0.5;
        (0..count as u64).map(value).collect()
    }

    fn squared_error(weights: &Array2<f64>, step: f64) -> f64 {
        let rounded = TrellisQuantizer::params(step).quantize(weights.view());
        let rebuilt = rounded.unwrap().decompress_matrix().unwrap();
        (weights - &rebuilt).iter().map(|x| x * x).sum()
    }

    /// The least error over all sequences of numbers from −3 to 3.
    fn exhaustive(values: &[f64], state: State) -> f64 {
        let Some((&x, rest)) = values.split_first() else {
            return 0.0;
        };
        let each = (-3..=3).map(|k| {
            let off = x - f64::from(state.value(k));
            off * off + exhaustive(rest, state.next(k))
        });
        each.fold(f64::INFINITY, f64::min)
    }

    #[test]
    fn no_sequence_is_nearer() {
        for seed in 0..30 {
            let values: Vec<f64> = uniform(5, seed).iter().map(|x| 8.0 * x).collect();
            let weights = Array2::from_shape_vec((1, 5), values.clone()).unwrap();
            let least = exhaustive(&values, State::default());
            let found = squared_error(&weights, 1.0);
            assert!((found - least).abs() <= 1e-12, "{found} for {least}");
        }
    }

    #[test]
    fn the_trellis_gains_a_decibel() {
        let weights = Array2::from_shape_vec((40, 1000), uniform(40_000, 3)).unwrap();
        let weights = weights * 100.0;
        let plain = 4.0 / 12.0 * weights.len() as f64;
        let gain = 10.0 * (plain / squared_error(&weights, 1.0)).log10();
        // 1.1 dB in the limit; the mean of 40,000 squares is off by half a percent, 0.02 dB, at most.
        assert!(gain > 1.05 && gain < 1.53, "{gain} dB");
    }

    #[test]
    fn what_cannot_be_rounded_is_an_error() {
        let w = array![[1.0, f64::NAN]];
        assert!(matches!(
            TrellisQuantizer::params(0.1).quantize(w.view()),
            Err(Error::NonFinite { .. })
        ));
        let w = array![[1.0, -1.0]];
        for step in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-5, 1e-320] {
            let result = TrellisQuantizer::params(step).quantize(w.view());
            assert!(
                matches!(result, Err(Error::Parameter(_))),
                "{step}: {result:?}"
            );
        }
        let smallest = TrellisQuantizer::params(1.0 / 65_500.0)
            .quantize(w.view())
            .unwrap();
        assert_eq!(smallest.bits(), 16);
        let zeros = TrellisQuantizer::params(1.0).quantize(Array2::<f32>::zeros((3, 2)).view());
        assert_eq!(
            zeros.unwrap().decompress_matrix().unwrap(),
            Array2::<f32>::zeros((3, 2))
        );
    }
}
