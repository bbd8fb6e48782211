//! The evenly spaced values that codes stand for.

use crate::kernels::Level;
use crate::kernels::evenly::{self, Spacing};
use crate::{Float, parallel};

/// Values of which a thread takes the sums at a time.
const CHUNK: usize = 1 << 13;

/// Where the grid of values lies.
///
/// ```
/// use taper::quantize::fixed_point::{FixedPointQuantizer, Symmetry};
/// use taper::{LinearOp, Quantizer, ndarray::array};
///
/// let w = array![[5.0, 6.0, 8.0]];
/// let affine = FixedPointQuantizer::new(2).symmetry(Symmetry::Affine).quantize(w.view())?;
/// assert_eq!(affine.decompress_matrix()?, w); // 5 plus 0, 1 and 3
/// # Ok::<(), taper::Error>(())
/// ```
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(rename_all = "snake_case"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Symmetry {
    /// Around zero, which is one of the values: −(2^(b−1) − 1), …, 2^(b−1) − 1 times the scale.
    ///
    /// At one bit, where nothing but zero would be left, the values are −1 and +1 times the scale: the
    /// binary weights of [`Binarizer`](crate::quantize::binary::Binarizer).
    #[default]
    Symmetric,
    /// Anywhere: an offset plus 0, …, 2^b − 1 times the scale.
    Affine,
}

/// Which weights share a grid.
///
/// ```
/// use taper::quantize::fixed_point::{FixedPointQuantizer, Granularity};
/// use taper::{LinearOp, Quantizer, ndarray::array};
///
/// let w = array![[1.0, -1.0], [100.0, -100.0]];
/// let one_grid = FixedPointQuantizer::new(2);
/// let grid_per_row = one_grid.clone().granularity(Granularity::PerRow);
/// assert_eq!(one_grid.quantize(w.view())?.decompress_matrix()?, array![[0.0, 0.0], [100.0, -100.0]]);
/// assert_eq!(grid_per_row.quantize(w.view())?.decompress_matrix()?, w);
/// # Ok::<(), taper::Error>(())
/// ```
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(rename_all = "snake_case"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Granularity {
    /// All of them.
    #[default]
    PerTensor,
    /// Those of one output, that is, of one row.
    PerRow,
}

/// Which range the grid covers; values beyond it become its ends.
///
/// The [module](super) has an example.
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(rename_all = "snake_case"))]
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Range {
    /// From the least to the largest value (symmetric: up to the largest magnitude).
    #[default]
    MinMax,
    /// So that this percentage of the values lies inside, in (0, 100]; an affine grid leaves out as many
    /// values below as above.
    Percentile(f64),
    /// The range of least squared error: the best of 64 shrunken ranges, then scale and offset fitted to the
    /// codes and codes to them in turn until nothing changes. Never worse than [`MinMax`](Self::MinMax).
    SquaredError,
    /// −limit to limit, whatever the values: for training with weights clipped to it.
    Fixed(f64),
}

/// Codes q in `low..=high` that stand for offset + scale·q.
///
/// At one symmetric bit the codes are −1 and +1; there is none between.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Grid {
    pub(super) scale: f64,
    pub(super) offset: f64,
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
        }
    }

    pub(super) fn high(self) -> i32 {
        match self.symmetry {
            Symmetry::Symmetric if self.bits == 1 => 1,
            Symmetry::Symmetric => (1 << (self.bits - 1)) - 1,
            Symmetry::Affine => (1 << self.bits) - 1,
        }
    }

    /// The values that the codes stand for on a grid, of type `F`.
    pub(super) fn spacing<F: Float>(self, grid: Grid) -> Spacing {
        Spacing {
            scale: grid.scale,
            offset: grid.offset,
            low: f64::from(self.low()),
            high: f64::from(self.high()),
            step: self.step() as f64,
            largest: F::max_value().as_f64(),
        }
    }

    /// The code that was stored; `None` where no code is stored so.
    pub(super) fn code(self, stored: u32) -> Option<i32> {
        if self.signs() {
            return Some(if stored == 1 { 1 } else { -1 });
        }
        let code = i32::try_from(stored).ok()?.checked_add(self.low())?;
        (code <= self.high()).then_some(code)
    }

    /// The grid for `values`, which are finite.
    pub(super) fn fit<F: Float>(self, range: Range, values: &[F]) -> Grid {
        let (low, high) = match range {
            Range::MinMax | Range::SquaredError => extremes(values),
            Range::Percentile(percentage) => self.percentile(values, percentage),
            Range::Fixed(limit) => (-limit, limit),
        };
        let grid = self.over(low, high);
        if range == Range::SquaredError {
            self.minimize(values, low, high)
        } else {
            grid
        }
    }

    /// The grid whose ends are the ends of a range.
    fn over(self, low: f64, high: f64) -> Grid {
        match self.symmetry {
            Symmetry::Symmetric => Grid {
                scale: low.abs().max(high.abs()) / f64::from(self.high()),
                offset: 0.0,
            },
            // Halves first: the difference of two finite numbers may be infinite.
            Symmetry::Affine => Grid {
                scale: (high / f64::from(self.high())) - (low / f64::from(self.high())),
                offset: low,
            },
        }
    }

    fn percentile<F: Float>(self, values: &[F], percentage: f64) -> (f64, f64) {
        let quantile = |mut values: Vec<f64>, fraction: f64| {
            let last = values.len().saturating_sub(1);
            let place = ((fraction * last as f64).ceil() as usize).min(last);
            if values.is_empty() {
                return 0.0;
            }
            *values.select_nth_unstable_by(place, f64::total_cmp).1
        };
        match self.symmetry {
            Symmetry::Symmetric => {
                let magnitudes = values.iter().map(|w| w.as_f64().abs()).collect();
                let limit = quantile(magnitudes, percentage / 100.0);
                (-limit, limit)
            }
            Symmetry::Affine => {
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
        let (center, half) = match self.symmetry {
            Symmetry::Symmetric => (0.0, low.abs().max(high.abs())),
            Symmetry::Affine => (low / 2.0 + high / 2.0, high / 2.0 - low / 2.0),
        };
        // The whole range first: of equal errors the first one counts.
        let mut candidates = vec![self.over(low, high)];
        candidates.extend((1..RANGES).map(|part| {
            let half = half * f64::from(part) / f64::from(RANGES);
            self.over(center - half, center + half)
        }));
        // All ranges on one run of values after the other, which stays in the first-level cache meanwhile.
        let errors = in_chunks(values, |values| {
            let error = |&grid| evenly::squared_error(level, self.spacing::<F>(grid), values);
            candidates.iter().map(error).collect::<Vec<f64>>()
        });
        let total = |i: usize| {
            errors
                .iter()
                .filter_map(|errors| errors.get(i))
                .sum::<f64>()
        };
        let mut best = candidates.first().copied().unwrap_or(self.over(low, high));
        let mut least = total(0);
        for (i, &grid) in candidates.iter().enumerate().skip(1) {
            let error = total(i);
            if error < least {
                (best, least) = (grid, error);
            }
        }
        // Either step lowers the error or leaves it; it ends where neither lowers it.
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

    /// The scale and offset of least squared error for the codes that `grid` gives, from the sums over them.
    fn regression(self, grid: Grid, sums: &evenly::Sums, count: usize) -> Grid {
        let n = count as f64;
        let (middle_w, middle_q) = self.spacing::<f64>(grid).middle();
        let (covariance, variance) = match self.symmetry {
            Symmetry::Symmetric => (sums.wq, sums.qq),
            Symmetry::Affine => (sums.wq - sums.w * sums.q / n, sums.qq - sums.q * sums.q / n),
        };
        if !(variance > 0.0 && covariance.is_finite()) {
            return grid;
        }
        let scale = (covariance / variance).max(0.0);
        let offset = match self.symmetry {
            Symmetry::Symmetric => 0.0,
            Symmetry::Affine => (middle_w + sums.w / n) - scale * (middle_q + sums.q / n),
        };
        Grid { scale, offset }
    }
}

/// What `f` makes of runs of the values, in their order.
fn in_chunks<F: Float, R: Send>(values: &[F], f: impl Fn(&[F]) -> R + Sync + Send) -> Vec<R> {
    parallel::map(values.len().div_ceil(CHUNK), |i| {
        let end = values.len().min((i + 1) * CHUNK);
        f(values.get(i * CHUNK..end).unwrap_or_default())
    })
}

fn extremes<F: Float>(values: &[F]) -> (f64, f64) {
    let extent = F::extent(Level::current(), values);
    (extent.min.as_f64(), extent.max.as_f64())
}
