//! The evenly spaced values that codes stand for.

use crate::kernels::Level;
use crate::kernels::evenly::{self, Spacing};
use crate::{Float, parallel, power};

/// Values whose sums a thread takes at a time.
const CHUNK: usize = 1 << 13;

/// Where the values of a grid lie. Zero is always one of them (but for one symmetric bit), so that weights that are zero,
/// such as pruned ones, stay zero.
///
/// ```
/// use taper::ndarray::array;
/// use taper::quantize::fixed_point::{FixedPointQuantizer, Symmetry};
/// use taper::{LinearOp, Quantizer};
///
/// let w = array![[-1.0, 0.0, 0.0, 2.5]];
/// let affine = FixedPointQuantizer::new(2).symmetry(Symmetry::Affine).quantize(w.view())?;
/// // −1, 0, 1 and 2 times the scale.
/// assert_eq!(affine.decompress_matrix()?, array![[-1.25, 0.0, 0.0, 2.5]]);
/// # Ok::<(), taper::Error>(())
/// ```
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(rename_all = "snake_case"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Symmetry {
    /// Around zero: −(2^(b−1) − 1), …, 2^(b−1) − 1 times the scale.
    ///
    /// At one bit, the values are −1 and +1 times the scale, the binary weights of
    /// [`Binarizer`](crate::quantize::binary::Binarizer): without zero, since zero alone would be left.
    #[default]
    Symmetric,
    /// As many values on each side of zero as the range needs: q − z times the scale, for q = 0, …, 2^b − 1 and one integer
    /// z of the same range for each grid, the zero point.
    ///
    /// A range that does not include zero is extended to it. At one bit, the values are zero and the scale, or zero and minus
    /// the scale.
    Affine,
    /// All codes from −2^(b−1) to 2^(b−1) − 1 times a scale that may be negative: the side of the largest magnitude has the one
    /// code more.
    ///
    /// With few bits and short blocks this is worth a good part of a bit, since a block has one largest weight. It is the grid
    /// of GGUF's Q4_0.
    SignedScale,
}

/// Which range the grid covers. Values beyond the range become its ends.
///
/// An affine grid covers the range extended to zero. Since its zero point is an integer, its step is up to (2^b − 1) / (2^b − 2)
/// times the range over 2^b − 1, and an end that is nearer to zero than half a step is rounded to zero.
///
/// ```
/// use taper::ndarray::array;
/// use taper::quantize::fixed_point::{FixedPointQuantizer, Range};
/// use taper::{LinearOp, Quantizer};
///
/// let w = array![[0.0, 1.0, 3.0], [10.0, 20.0, 40.0]];
/// let error = |range| -> taper::Result<f64> {
///     let rounded = FixedPointQuantizer::new(3).range(range).quantize(w.view())?;
///     Ok((&w - &rounded.decompress_matrix()?).iter().map(|x| x * x).sum())
/// };
/// assert!(error(Range::SquaredError)? <= error(Range::MinMax)?);
/// # Ok::<(), taper::Error>(())
/// ```
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(rename_all = "snake_case"))]
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Range {
    /// From the least to the largest value (symmetric: up to the largest magnitude).
    #[default]
    MinMax,
    /// The range inside which this percentage of the values lies, in (0, 100]; a grid that is not symmetric leaves out as
    /// many values below as above.
    Percentile(f64),
    /// The range of least squared error: the best of 64 shrunken ranges, then the scale fitted to the
    /// codes and the codes to it in turn until nothing changes. Never worse than [`MinMax`](Self::MinMax).
    SquaredError,
    /// −limit to limit, whatever the values: for training with weights clipped to it.
    Fixed(f64),
}

/// Codes q that stand for scale·(q − zero).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Grid {
    pub(super) scale: f64,
    /// The code of the value zero: 0 on a symmetric grid.
    pub(super) zero: i32,
}

/// The codes of a width and a symmetry.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Codes {
    pub(super) bits: u32,
    pub(super) symmetry: Symmetry,
}

impl Codes {
    /// Whether the codes are −1 and +1 alone.
    fn signs(self) -> bool {
        self.symmetry == Symmetry::Symmetric && self.bits == 1
    }

    /// From one code to the next.
    pub(super) fn step(self) -> i64 {
        if self.signs() { 2 } else { 1 }
    }

    /// The highest code as it is stored: counted from the lowest.
    pub(super) fn last(self) -> u32 {
        if self.signs() {
            1
        } else {
            (self.high() - self.low()) as u32
        }
    }

    pub(super) fn low(self) -> i32 {
        match self.symmetry {
            Symmetry::Symmetric => -self.high(),
            Symmetry::Affine => 0,
            Symmetry::SignedScale => -self.high() - 1,
        }
    }

    pub(super) fn high(self) -> i32 {
        match self.symmetry {
            Symmetry::Symmetric if self.bits == 1 => 1,
            Symmetry::Symmetric | Symmetry::SignedScale => (1 << (self.bits - 1)) - 1,
            Symmetry::Affine => (1 << self.bits) - 1,
        }
    }

    /// The values that the codes stand for on a grid, of type `F`.
    pub(super) fn spacing<F: Float>(self, grid: Grid) -> Spacing {
        Spacing {
            scale: grid.scale,
            offset: 0.0,
            low: f64::from(self.low() - grid.zero),
            high: f64::from(self.high() - grid.zero),
            step: self.step() as f64,
            largest: F::max_value().as_f64(),
        }
    }

    /// The code that is stored as this number; `None` for a number that stands for no code.
    pub(super) fn code(self, stored: u32) -> Option<i32> {
        if self.signs() {
            return Some(if stored == 1 { 1 } else { -1 });
        }
        let code = i32::try_from(stored).ok()?.checked_add(self.low())?;
        (code <= self.high()).then_some(code)
    }

    /// The grid for `values`, which are finite.
    pub(super) fn fit<F: Float>(self, range: Range, values: &[F]) -> Grid {
        let (low, high) = extremes(values);
        let exponent = power::exponent(low.abs().max(high.abs()));
        if range == Range::SquaredError && exponent.abs() > FAR {
            // The squares of such values leave the range of a double.
            let power = 2_f64.powi(-exponent.clamp(-1000, 1000));
            let near: Vec<f64> = values.iter().map(|w| w.as_f64() * power).collect();
            let grid = self.minimize(&near, low * power, high * power);
            return Grid {
                scale: grid.scale / power,
                ..grid
            };
        }
        match range {
            Range::MinMax => self.over(low, high),
            Range::SquaredError => self.minimize(values, low, high),
            Range::Percentile(percentage) => {
                let (low, high) = self.percentile(values, percentage);
                self.over(low, high)
            }
            Range::Fixed(limit) => self.over(-limit, limit),
        }
    }

    /// The grid that covers a range with the smallest step.
    fn over(self, low: f64, high: f64) -> Grid {
        match self.symmetry {
            Symmetry::Symmetric => Grid {
                scale: low.abs().max(high.abs()) / f64::from(self.high()),
                zero: 0,
            },
            Symmetry::Affine => {
                let (below, above) = ((-low).max(0.0), high.max(0.0));
                let last = f64::from(self.high());
                let zero = zero_point(below, above, last);
                // A side that has no code is rounded to zero.
                let side = |length: f64, codes: f64| if codes > 0.0 { length / codes } else { 0.0 };
                Grid {
                    scale: side(below, zero).max(side(above, last - zero)),
                    zero: zero as i32,
                }
            }
            Symmetry::SignedScale => {
                let (below, above) = ((-low).max(0.0), high.max(0.0));
                let (longer, shorter) = (below.max(above), below.min(above));
                // Without a code for the shorter side, it is rounded to zero.
                let short = match self.high() {
                    0 => 0.0,
                    codes => shorter / f64::from(codes),
                };
                let scale = (longer / -f64::from(self.low())).max(short);
                Grid {
                    scale: if below >= above { scale } else { -scale },
                    zero: 0,
                }
            }
        }
    }

    fn percentile<F: Float>(self, values: &[F], percentage: f64) -> (f64, f64) {
        let quantile = |mut values: Vec<f64>, fraction: f64| {
            let last = values.len() - 1;
            let place = ((fraction * last as f64).ceil() as usize).min(last);
            *values.select_nth_unstable_by(place, f64::total_cmp).1
        };
        match self.symmetry {
            Symmetry::Symmetric => {
                let magnitudes = values.iter().map(|w| w.as_f64().abs()).collect();
                let limit = quantile(magnitudes, percentage / 100.0);
                (-limit, limit)
            }
            Symmetry::Affine | Symmetry::SignedScale => {
                let outside = (1.0 - percentage / 100.0) / 2.0;
                let high = quantile(values.iter().map(|w| w.as_f64()).collect(), 1.0 - outside);
                let low = -quantile(values.iter().map(|w| -w.as_f64()).collect(), 1.0 - outside);
                (low, high)
            }
        }
    }

    fn minimize<F: Float>(self, values: &[F], low: f64, high: f64) -> Grid {
        const RANGES: u32 = 64;
        let level = Level::current();
        // The whole range first: of equal errors the first one counts.
        let mut candidates = vec![self.over(low, high)];
        candidates.extend((1..RANGES).map(|part| {
            let shrunken = |end: f64| end * f64::from(part) / f64::from(RANGES);
            self.over(shrunken(low), shrunken(high))
        }));
        // All ranges on one run of values, which stays in the first-level cache, then on the next run.
        let errors = in_chunks(values, |values| {
            let error = |&grid| evenly::squared_error(level, self.spacing::<F>(grid), values);
            candidates.iter().map(error).collect::<Vec<f64>>()
        });
        let total = |i: usize| errors.iter().map(|errors| errors[i]).sum::<f64>();
        let mut best = candidates[0];
        let mut least = total(0);
        for (i, &grid) in candidates.iter().enumerate().skip(1) {
            let error = total(i);
            if error < least {
                (best, least) = (grid, error);
            }
        }
        // Neither step raises the error; the loop ends when it stays the same.
        let sums = |grid| {
            let spacing = self.spacing::<F>(grid);
            let sums = in_chunks(values, |values| evenly::sums(level, spacing, values));
            sums.into_iter()
                .fold(evenly::Sums::default(), evenly::Sums::add)
        };
        let mut of_best = sums(best);
        for _ in 0..20 {
            let grid = self.regression(best, &of_best, values.len());
            let of_grid = sums(grid);
            if of_grid.error >= of_best.error {
                break;
            }
            (best, of_best) = (grid, of_grid);
        }
        best
    }

    /// The scale of least squared error for the codes that `grid` gives, Σ w q / Σ q², from the sums over them.
    fn regression(self, grid: Grid, sums: &evenly::Sums, count: usize) -> Grid {
        let n = count as f64;
        let (w, q) = self.spacing::<f64>(grid).middle();
        // The sums are relative to the middle.
        let products = sums.wq + w * sums.q + q * sums.w + n * w * q;
        let squares = sums.qq + 2.0 * q * sums.q + n * q * q;
        if !(squares > 0.0 && products.is_finite()) {
            return grid;
        }
        let scale = products / squares;
        Grid {
            scale: match self.symmetry {
                Symmetry::SignedScale => scale,
                _ => scale.max(0.0),
            },
            ..grid
        }
    }
}

/// Values whose binary exponent is beyond this are scaled before their errors are squared and summed.
const FAR: i32 = 400;

/// The zero point for values from `-below` to `above` on codes from 0 to `last`: the one with the smallest step.
///
/// An end that would be less than half a step from zero gets no code. The same end would be rounded to zero otherwise, so that a
/// second fit to the rounded values would find another grid.
fn zero_point(below: f64, above: f64, last: f64) -> f64 {
    if last < 2.0 {
        return if below > above { last } else { 0.0 };
    }
    let negligible = |end: f64, other: f64| end <= other / (2.0 * (last - 1.0));
    if negligible(below, above) {
        return 0.0;
    }
    if negligible(above, below) {
        return last;
    }
    // Halves first: the sum of two finite numbers may be infinite.
    let exact = last * (below / 2.0 / (below / 2.0 + above / 2.0));
    let lower = exact.floor().clamp(1.0, last - 1.0);
    let upper = (lower + 1.0).min(last - 1.0);
    let step = |zero: f64| (below / zero).max(above / (last - zero));
    if step(lower) < step(upper) {
        lower
    } else {
        upper
    }
}

/// The results of `f` for runs of the values, in their order.
fn in_chunks<F: Float, R: Send>(values: &[F], f: impl Fn(&[F]) -> R + Sync + Send) -> Vec<R> {
    parallel::map(values.len().div_ceil(CHUNK), |i| {
        let end = values.len().min((i + 1) * CHUNK);
        f(&values[i * CHUNK..end])
    })
}

fn extremes<F: Float>(values: &[F]) -> (f64, f64) {
    let extent = F::extent(Level::current(), values);
    (extent.min.as_f64(), extent.max.as_f64())
}
