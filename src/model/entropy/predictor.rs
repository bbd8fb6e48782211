//! Linear prediction of a value from those before it in its row.
//!
//! The weights of a layer that sees images are alike where its inputs are neighbours, and neighbours in the image are
//! neighbours in a row, or as far apart as a line is long. The coefficients are those of least squared error, by the recursion
//! of Levinson and Durbin from the rows' autocorrelation, and are coded with the values, as lossless audio coders do
//! (T. Liebchen and Y. Reznik, "MPEG-4 ALS: an emerging standard for lossless audio coding", 2004,
//! doi:10.1109/DCC.2004.1281489). The decoder sums integers.

/// The most values that one is predicted from.
pub(super) const ORDER: usize = 32;
/// Coefficients are multiples of 2 to minus this.
pub(super) const FRACTION: u32 = 8;
/// What the magnitudes of all coefficients may sum to; products with values of 16 bits then fit into 32 bits.
const LARGEST: i32 = 1 << 14;
/// About how many values the autocorrelation is taken of.
const SAMPLE: usize = 1 << 16;

/// What a coefficient costs in the file, in bits.
const COST: f64 = 16.0;

/// Coefficients c, of the value that lies farthest back first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Predictor {
    /// After zeros, so that all sums are of the same length.
    padded: [i16; ORDER],
    order: usize,
}

impl Predictor {
    /// The best one for rows of `columns` values; it predicts zero where coefficients would cost more bytes than they save.
    pub(super) fn fit(values: &[i16], columns: usize) -> Self {
        let order = ORDER.min(columns.saturating_sub(1));
        let (sums, sampled) = autocorrelation(values, columns.max(1));
        let half = values.len() as f64 / 2.0;
        // What is coded was rounded, which no coefficient predicts: the twelfth of a squared step a value.
        let rounding = (sampled.max(1)) as f64 / 12.0;
        let mut power = sums[0];
        let mut coefficients: Vec<f64> = Vec::new();
        let (mut least, mut best) = (half * (power + rounding).log2(), Self::default());
        for m in 1..=order {
            let known: f64 = coefficients
                .iter()
                .enumerate()
                .map(|(i, c)| c * sums[m - 1 - i])
                .sum();
            let reflection = (sums[m] - known) / power;
            let left = power * (1.0 - reflection * reflection);
            // Not for values that are all zero either.
            if !(left > 0.0 && reflection.is_finite()) {
                break;
            }
            power = left;
            let backwards: Vec<f64> = coefficients.iter().rev().copied().collect();
            for (c, other) in coefficients.iter_mut().zip(backwards) {
                *c -= reflection * other;
            }
            coefficients.push(reflection);
            let bits = half * (power + rounding).log2() + COST * m as f64;
            if bits < least
                && let Some(rounded) = Self::round(&coefficients)
            {
                (least, best) = (bits, rounded);
            }
        }
        best
    }

    fn round(coefficients: &[f64]) -> Option<Self> {
        let one = f64::from(1_u32 << FRACTION);
        let rounded = coefficients.iter().rev().map(|c| (c * one).round() as i16);
        Self::new(rounded.collect())
    }

    /// Coefficients as they were read; none where there are too many, or too large ones.
    pub(super) fn new(coefficients: Vec<i16>) -> Option<Self> {
        let sum: i32 = coefficients.iter().map(|&c| i32::from(c).abs()).sum();
        let order = coefficients.len();
        let mut padded = [0; ORDER];
        let zeros = ORDER.checked_sub(order)?;
        padded[zeros..].copy_from_slice(&coefficients);
        (sum <= LARGEST).then_some(Self { padded, order })
    }

    pub(super) fn coefficients(&self) -> &[i16] {
        &self.padded[ORDER - self.order..]
    }

    /// The next value after `before`, in multiples of 2⁻⁸.
    #[inline]
    pub(super) fn predict(&self, before: &[i16; ORDER]) -> i32 {
        if self.order == 0 {
            return 0;
        }
        // Neighbours first: processors have an instruction for eight products of sixteen bits that adds them by two.
        let mut sums = [0_i32; 4];
        let runs = self.padded.as_chunks::<8>().0.iter();
        for (c, value) in runs.zip(before.as_chunks::<8>().0) {
            let pairs = c.as_chunks::<2>().0.iter().zip(value.as_chunks::<2>().0);
            for (sum, ([a, b], [x, y])) in sums.iter_mut().zip(pairs) {
                *sum += i32::from(*a) * i32::from(*x) + i32::from(*b) * i32::from(*y);
            }
        }
        sums.iter().sum()
    }
}

/// Σ v_i v_{i−l} within rows, for l from 0 to [`ORDER`], over some of the rows where there are many, and of how many values.
fn autocorrelation(values: &[i16], columns: usize) -> ([f64; ORDER + 1], usize) {
    let every = (values.len() / SAMPLE).max(1);
    let (mut sums, mut sampled) = ([0.0_f64; ORDER + 1], 0);
    let mut window = vec![0.0_f32; ORDER + columns];
    for row in values.chunks(columns).step_by(every) {
        sampled += row.len();
        for (x, &value) in window.iter_mut().skip(ORDER).zip(row) {
            *x = value.into();
        }
        // All lags of a value at a time, the largest first, as they lie in memory.
        let mut runs = window.windows(ORDER + 1).take(row.len());
        while runs.len() > 0 {
            let mut partial = [0.0_f32; ORDER + 1];
            for run in runs.by_ref().take(1 << 10) {
                // Of known length, so that the loop over lags is unrolled.
                let run: &[f32; ORDER + 1] = run.try_into().expect("windows have this length");
                let value = run[ORDER];
                for (sum, x) in partial.iter_mut().zip(run) {
                    *sum += value * x;
                }
            }
            for (sum, part) in sums.iter_mut().zip(partial.iter().rev()) {
                *sum += f64::from(*part);
            }
        }
    }
    (sums, sampled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Seed;

    fn noise(count: usize, scale: f64) -> Vec<f64> {
        let seed = Seed::from(5);
        let uniform = |i: usize| seed.derive(i as u64).value() as f64 / u64::MAX as f64 - 0.5;
        (0..count).map(|i| scale * uniform(i)).collect()
    }

    #[test]
    fn finds_the_recursion_that_made_the_values() {
        // v_t = 0.6 v_{t−1} + 0.3 v_{t−5} + noise.
        let mut values = vec![0.0_f64; 5];
        for x in noise(40_000, 400.0) {
            let t = values.len();
            values.push(0.6 * values[t - 1] + 0.3 * values[t - 5] + x);
        }
        let values: Vec<i16> = values.iter().map(|&x| x.round() as i16).collect();
        let found = Predictor::fit(&values, values.len());
        let coefficients: Vec<f64> = found
            .coefficients()
            .iter()
            .rev()
            .map(|&c| f64::from(c) / 256.0)
            .collect();
        assert_eq!(coefficients.len(), 5);
        // The standard error of a coefficient is 1 / √n = 0.005 at most; four of them, and the rounding.
        for (c, exact) in coefficients.iter().zip([0.6, 0.0, 0.0, 0.0, 0.3]) {
            assert!((c - exact).abs() <= 0.02 + 1.0 / 512.0, "{coefficients:?}");
        }
    }

    #[test]
    fn independent_values_are_not_predicted() {
        let values: Vec<i16> = noise(10_000, 40.0)
            .iter()
            .map(|&x| x.round() as i16)
            .collect();
        assert_eq!(Predictor::fit(&values, 100), Predictor::default());
        assert_eq!(Predictor::fit(&[0; 64], 8), Predictor::default());
        assert_eq!(Predictor::fit(&[], 0), Predictor::default());
        assert_eq!(Predictor::fit(&[3; 5], 1), Predictor::default());
    }

    #[test]
    fn coefficients_that_could_overflow_are_refused() {
        assert!(Predictor::new(vec![i16::MIN]).is_none());
        assert!(Predictor::new(vec![0; ORDER + 1]).is_none());
        let largest = Predictor::new(vec![512; ORDER]).unwrap();
        assert_eq!(largest.predict(&[i16::MIN; ORDER]), -(1 << 29));
    }

    #[test]
    fn the_last_values_count() {
        let mut before = [7; ORDER];
        let [.., a, b, c] = &mut before;
        (*a, *b, *c) = (100, -20, 3);
        let predictor = Predictor::new(vec![1, -4, 256]).unwrap();
        assert_eq!(predictor.coefficients(), [1, -4, 256]);
        assert_eq!(predictor.predict(&before), 100 + 80 + 3 * 256);
        assert_eq!(Predictor::default().predict(&before), 0);
    }
}
