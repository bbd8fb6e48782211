//! The nearest sequence of codes, row by row.

use ndarray::ArrayView2;

use super::matrix::{MAX_BITS, ROWS, TrellisMatrix};
use super::states::{State, nearest, squared_distance};
use crate::kernels::Level;
use crate::kernels::viterbi::{self, CLASSES, STATES, Trellis};
use crate::{
    Error, FitContext, Float, ParamError, Precision, Quantizer, Result, check, moments, parallel,
};

const NAME: &str = "TrellisQuantizer";

/// Rounds weights to multiples of a step Δ, with a code for each weight that also selects the grid of the next weight.
///
/// Each row is rounded independently. The numbers k of a row minimize Σ (w − Δ v)² over all sequences that
/// the [states](crate::quantize::trellis) allow. The value v is 2k in a state of the even grid, and 2k − sgn k in a state of
/// the odd grid. The Viterbi algorithm finds the exact minimum in time that is linear in the length of the row.
///
/// All codes have the width that the largest number needs, 2 to 16 bits. They are meant for a container, which entropy-codes
/// them. For a given length of the file, the sum of the squared errors of all tensors of a model is smallest with the same step for
/// all, as long as the step is small beside the weights.
///
/// With a [`rate_weight`](TrellisQuantizer::rate_weight) λ, the sum of error and rate Σ ((w / Δ − v)² + λ b) is minimized:
/// a value that costs more bits b is chosen only if it lowers the error enough (G. Sullivan and T. Wiegand, "Rate-distortion
/// optimization for video compression", 1998, doi:10.1109/79.733497). The bits are those of a geometric distribution, whose mean is
/// estimated from the row and the column of the weight. The cost of a number is limited to 3.6 squared steps.
///
/// The step is stored with the relative rounding error of its precision, or is [`Error::Underflow`]. Moments of the inputs are
/// not used ([`Error::MomentsUnused`]).
///
/// ```
/// use taper::ndarray::array;
/// use taper::quantize::trellis::TrellisQuantizer;
/// use taper::{Compressed, Quantizer};
///
/// let weights = array![[0.31_f32, -0.2, 0.05, 0.4], [0.0, 0.1, -0.3, 0.2]];
/// let rounded = TrellisQuantizer::new(0.05).quantize(weights.view())?;
/// for (w, rebuilt) in weights.iter().zip(&rounded.decompress()?) {
///     // Values of a class are four steps apart.
///     assert!((w - rebuilt).abs() <= 2.0 * 0.05 + 1e-6);
/// }
/// # Ok::<(), taper::Error>(())
/// ```
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(deny_unknown_fields))]
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TrellisQuantizer {
    /// The step Δ: all values are multiples of it. Above 0.
    pub step: f64,
    /// The price of a bit in squared steps, 0 to 16.
    #[cfg_attr(feature = "model", serde(default))]
    pub rate_weight: f64,
    /// The precision in which the step is stored.
    #[cfg_attr(feature = "model", serde(default))]
    pub precision: Precision,
}

impl TrellisQuantizer {
    /// Creates a quantizer to multiples of `step`. The error is close to that of fixed point with a step 1.76 times as large.
    #[must_use]
    pub fn new(step: f64) -> Self {
        Self {
            step,
            rate_weight: 0.0,
            precision: Precision::F32,
        }
    }

    /// Sets the price of a bit, in squared steps, from 0 to 16; 0 by default.
    ///
    /// About 0.3 makes the smallest file at a given error: at high rates, one more bit divides the squared error, 0.26 squared
    /// steps for a weight, by four, and the slope of this curve is 2 ln 2 times the error, 0.36.
    ///
    /// ```
    /// use taper::model::{CompressedModel, CompressedTensor};
    /// use taper::ndarray::Array2;
    /// use taper::quantize::trellis::TrellisQuantizer;
    /// use taper::{Compressed, Quantizer};
    ///
    /// let random = |i: usize| taper::Seed::from(7).derive(i as u64).value() as f32 / u64::MAX as f32 - 0.5;
    /// let weights = Array2::from_shape_fn((64, 128), |(o, i)| random(128 * o + i));
    /// let file = |quantizer: taper::quantize::trellis::TrellisQuantizer| -> taper::Result<_> {
    ///     let rounded = quantizer.quantize(weights.view())?;
    ///     let off = rounded.decompress()? - &weights;
    ///     let mut model = CompressedModel::new();
    ///     model.insert("weights", CompressedTensor::new(rounded))?;
    ///     Ok((off.iter().map(|x| x * x).sum::<f32>(), model.file_bytes()?))
    /// };
    /// let (error, bytes) = file(TrellisQuantizer::new(0.2))?;
    /// let (other_error, fewer) = file(TrellisQuantizer::new(0.2).rate_weight(0.3))?;
    /// assert!(fewer < bytes && other_error >= error);
    /// # Ok::<(), taper::Error>(())
    /// ```
    #[must_use]
    pub fn rate_weight(mut self, weight: f64) -> Self {
        self.rate_weight = weight;
        self
    }

    /// Sets the precision in which the step is stored; single by default.
    #[must_use]
    pub fn precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// Checks the parameters, as every call that uses them does.
    ///
    /// # Errors
    ///
    /// The first parameter that no input could make right.
    pub fn validate(&self) -> Result<(), ParamError> {
        let step = self.step;
        let inside = step > 0.0 && step.is_finite();
        check::in_range("step", step, "above 0 and finite", inside)?;
        let weight = self.rate_weight;
        check::in_range(
            "rate_weight",
            weight,
            "0 to 16",
            (0.0..=16.0).contains(&weight),
        )?;
        Ok(())
    }
}

impl<F: Float> Quantizer<F> for TrellisQuantizer {
    type Output = TrellisMatrix<F>;

    fn quantize_with(
        &self,
        weights: ArrayView2<'_, F>,
        context: FitContext<'_>,
    ) -> Result<TrellisMatrix<F>> {
        self.validate()?;
        let inputs = context.inputs;
        check::finite("weights", &weights)?;
        moments::unused(NAME, inputs)?;
        let step: F = self.precision.round_factor("a step", self.step)?;
        let scale = step.as_f64();
        let largest = check::largest(&weights).as_f64();
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
        let values = weights.as_slice().expect("the layout is standard");
        let mut numbers = vec![0_i32; values.len()];
        let rates = Rates::new(values, columns, scale, self.rate_weight);
        let level = Level::current();
        parallel::for_each_chunk_mut(&mut numbers, ROWS * columns, |chunk, numbers| {
            let values = &values[chunk * ROWS * columns..];
            let mut paths = Paths::new(level, columns);
            let some = viterbi::ROWS * columns;
            let parts = values.chunks(some).zip(numbers.chunks_mut(some));
            for (part, (values, numbers)) in parts.enumerate() {
                let row = chunk * ROWS + part * viterbi::ROWS;
                paths.round(values, scale, &rates, row, numbers);
            }
        });
        TrellisMatrix::new([rows, columns], self.precision, step, &numbers)
    }
}

impl Trellis for State {
    const WAYS: [[usize; 2]; STATES] = State::ways();

    #[inline(always)]
    fn distances(values: &[f64; viterbi::ROWS]) -> [[f64; viterbi::ROWS]; CLASSES] {
        let mut distances = [[0.0; viterbi::ROWS]; CLASSES];
        for (class, distances) in distances.iter_mut().enumerate() {
            for (distance, &value) in distances.iter_mut().zip(values) {
                *distance = squared_distance(value, class);
            }
        }
        distances
    }
}

/// The cost of a step away from zero, for each weight.
///
/// (m − v)² + c v is (m − c / 2 − v)² plus a term that does not depend on v. The cost is therefore applied by subtracting
/// c / 2 from the magnitude m, with c the price of half a number, since values are two apart.
struct Rates {
    /// The mean magnitudes of rows and columns, the latter in multiples of that of all.
    rows: Vec<f64>,
    columns: Vec<f64>,
    /// The reduction of magnitudes for each mean of the numbers from 2 to the power [`LEAST`](Self::LEAST) on, four for each octave.
    less: [f64; Self::LEVELS],
}

impl Rates {
    /// The largest reduction, in steps: below 1, so that no number changes its sign.
    const MOST: f64 = 0.9;
    const LEVELS: usize = 96;
    /// Reductions are multiples of a step divided by this.
    const PARTS: f64 = (1 << 20) as f64;
    /// The binary exponent of the least mean that is distinguished from zero.
    const LEAST: i32 = -12;

    fn new<F: Float>(values: &[F], columns: usize, scale: f64, weight: f64) -> Self {
        let mut rates = Self {
            rows: Vec::new(),
            columns: Vec::new(),
            less: [0.0; Self::LEVELS],
        };
        if weight == 0.0 {
            return rates;
        }
        let rows = values.len() / columns;
        let mut sums = vec![0.0; columns];
        for row in values.chunks(columns) {
            let mut of_row = 0.0;
            for (sum, value) in sums.iter_mut().zip(row) {
                let magnitude = value.as_f64().abs() / scale;
                *sum += magnitude;
                of_row += magnitude;
            }
            // A number is two steps.
            rates.rows.push(of_row / (columns as f64 * 2.0));
        }
        let all = rates.rows.iter().sum::<f64>() / rows as f64;
        let of_column = |sum: f64| sum / (rows as f64 * 2.0) / all;
        rates.columns = sums.into_iter().map(of_column).collect();
        for (level, less) in rates.less.iter_mut().enumerate() {
            let octave = f64::exp2((level / 4) as f64 + f64::from(Self::LEAST));
            let mean = octave * (1.0 + ((level % 4) as f64 + 0.5) / 4.0);
            // The distribution with this mean has the ratio m / (1 + m). The price is rounded, so that it does not depend on the
            // system's logarithm.
            let price = weight * (1.0 + 1.0 / mean).log2() / 4.0;
            *less = ((price * Self::PARTS).round() / Self::PARTS).min(Self::MOST);
        }
        rates
    }

    /// What is to be taken off the magnitude of a weight.
    #[inline]
    fn less(&self, row: usize, column: usize) -> f64 {
        let (Some(row), Some(column)) = (self.rows.get(row), self.columns.get(column)) else {
            return 0.0;
        };
        // The exponent and two more bits say in which quarter of its octave the mean lies.
        let quarter = ((row * column).to_bits() >> 50) as i64;
        let level = quarter - 4 * i64::from(1023 + Self::LEAST);
        self.less[level.clamp(0, Self::LEVELS as i64 - 1) as usize]
    }
}

/// Some rows of weights, with room for their paths.
struct Paths {
    level: Level,
    columns: usize,
    /// The magnitude of a weight of each row, in steps, less what its bits cost, column by column.
    values: Vec<[f64; viterbi::ROWS]>,
    classes: Vec<[u8; viterbi::ROWS]>,
    room: Vec<[u8; viterbi::ROWS]>,
}

impl Paths {
    fn new(level: Level, columns: usize) -> Self {
        Self {
            level,
            columns,
            values: vec![[0.0; viterbi::ROWS]; columns],
            classes: Vec::new(),
            room: Vec::new(),
        }
    }

    /// Writes the numbers of least squared error for rows of `weights` in multiples of `scale`, at most
    /// [`viterbi::ROWS`] of them.
    fn round<F: Float>(
        &mut self,
        weights: &[F],
        scale: f64,
        rates: &Rates,
        first_row: usize,
        numbers: &mut [i32],
    ) {
        for (row, weights) in weights.chunks(self.columns).enumerate() {
            for (values, weight) in self.values.iter_mut().zip(weights) {
                values[row] = weight.as_f64().abs() / scale;
            }
            if !rates.columns.is_empty() {
                for (column, values) in self.values.iter_mut().enumerate() {
                    values[row] -= rates.less(first_row + row, column);
                }
            }
        }
        let (classes, room) = (&mut self.classes, &mut self.room);
        viterbi::nearest_paths::<State>(self.level, &self.values, classes, room);
        let rows = numbers
            .chunks_mut(self.columns)
            .zip(weights.chunks(self.columns));
        for (row, (numbers, weights)) in rows.enumerate() {
            let steps = self.values.iter().zip(&self.classes).zip(weights);
            for (number, ((values, classes), weight)) in numbers.iter_mut().zip(steps) {
                let magnitude = nearest(values[row], classes[row].into());
                *number = if *weight < F::zero() {
                    -magnitude
                } else {
                    magnitude
                };
            }
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
        let rounded = TrellisQuantizer::new(step).quantize(weights.view());
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
    fn no_sequence_has_less_error_and_rate() {
        for seed in 0..30 {
            let values: Vec<f64> = uniform(5, seed).iter().map(|x| 8.0 * x).collect();
            let lambda = 0.1 * seed as f64;
            let rates = Rates::new(&values, 5, 1.0, lambda);
            // Bits for each value one away from zero: half of those for a number.
            let price = |column: usize| 2.0 * rates.less(0, column);
            let cost = |column: usize, v: f64| {
                let off = values[column] - v;
                off * off + price(column) * v.abs()
            };
            let mut least = vec![(State::default(), 0.0)];
            for column in 0..5 {
                let next = least.iter().flat_map(|&(state, before)| {
                    (-3..=3).map(move |k| (state.next(k), before, f64::from(state.value(k))))
                });
                least = next
                    .map(|(state, before, v)| (state, before + cost(column, v)))
                    .collect();
            }
            let least = least
                .iter()
                .map(|&(_, cost)| cost)
                .fold(f64::INFINITY, f64::min);
            let weights = Array2::from_shape_vec((1, 5), values.clone()).unwrap();
            let rounded = TrellisQuantizer::new(1.0)
                .rate_weight(lambda)
                .quantize(weights.view());
            let rebuilt = rounded.unwrap().decompress_matrix().unwrap();
            let found: f64 = rebuilt
                .iter()
                .enumerate()
                .map(|(column, &v)| cost(column, v))
                .sum();
            assert!((found - least).abs() <= 1e-12, "{found} for {least}");
        }
    }

    #[test]
    fn bits_cost_their_number_under_the_law_of_row_and_column() {
        // Rows of magnitudes 6 and 2, columns of 1 and 3 times that, in steps: numbers of 3 and 1, times 1 and 3.
        let values = [3.0_f64, -9.0, 1.0, 3.0];
        let rates = Rates::new(&values, 2, 1.0, 0.5);
        for (i, value) in values.iter().enumerate() {
            let mean: f64 = value.abs() / 2.0;
            let exact = 0.5 * (1.0 + 1.0 / mean).log2() / 4.0;
            // An octave has four means: they are off by an eighth of the least of it at most, and bits by no more.
            let found = rates.less(i / 2, i % 2);
            assert!((found / exact - 1.0).abs() <= 0.125, "{found} for {exact}");
        }
        // Without a price nothing is subtracted; without numbers the limit holds.
        assert_eq!(Rates::new(&values, 2, 1.0, 0.0).less(0, 0), 0.0);
        assert!(Rates::new(&[0.0; 4], 2, 1.0, 0.5).less(1, 1) <= Rates::MOST);
    }

    #[test]
    fn rows_are_rounded_independently() {
        // Whole groups of rows, and one that is not full, in two tasks.
        let weights = Array2::from_shape_vec((37, 11), uniform(37 * 11, 8)).unwrap();
        let quantizer = TrellisQuantizer::new(0.05);
        let all = quantizer
            .quantize(weights.view())
            .unwrap()
            .decompress_matrix()
            .unwrap();
        for (row, rounded) in weights.rows().into_iter().zip(all.rows()) {
            let alone = quantizer.quantize(row.insert_axis(ndarray::Axis(0)));
            assert_eq!(alone.unwrap().decompress_matrix().unwrap().row(0), rounded);
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
    fn wrong_weights_and_steps_are_errors() {
        let w = array![[1.0, f64::NAN]];
        assert!(matches!(
            TrellisQuantizer::new(0.1).quantize(w.view()),
            Err(Error::NonFinite { .. })
        ));
        let w = array![[1.0, -1.0]];
        for step in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-5] {
            let result = TrellisQuantizer::new(step).quantize(w.view());
            assert!(
                matches!(result, Err(Error::Parameter(_))),
                "{step}: {result:?}"
            );
        }
        // Subnormal numbers hold a step less accurately than normal ones.
        for (step, precision) in [
            (1e-320, Precision::F64),
            (1e-40, Precision::F32),
            (4e-8, Precision::F16),
        ] {
            let result = TrellisQuantizer::new(step)
                .precision(precision)
                .quantize((&w * step).view());
            assert!(
                matches!(result, Err(Error::Underflow { .. })),
                "{step}: {result:?}"
            );
        }
        let smallest = TrellisQuantizer::new(1.0 / 65_500.0)
            .quantize(w.view())
            .unwrap();
        assert_eq!(smallest.bits(), 16);
        let zeros = TrellisQuantizer::new(1.0).quantize(Array2::<f32>::zeros((3, 2)).view());
        assert_eq!(
            zeros.unwrap().decompress_matrix().unwrap(),
            Array2::<f32>::zeros((3, 2))
        );
    }
}
