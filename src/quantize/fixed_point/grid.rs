//! The evenly spaced values that codes stand for.

use crate::Float;

/// Where the grid of values lies.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Granularity {
    /// All of them.
    #[default]
    PerTensor,
    /// Those of one output, that is, of one row.
    PerRow,
}

/// Which range the grid covers; values beyond it become its ends.
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

    /// The nearest code; ties go to the even one, of signs to +1.
    pub(super) fn nearest(self, grid: Grid, w: f64) -> i32 {
        if self.signs() {
            return if w >= 0.0 { 1 } else { -1 };
        }
        if grid.scale == 0.0 {
            return 0;
        }
        let place = ((w - grid.offset) / grid.scale).round_ties_even();
        place.clamp(f64::from(self.low()), f64::from(self.high())) as i32
    }

    /// The code as it is stored: an unsigned number of `bits` bits.
    pub(super) fn stored(self, code: i32) -> u32 {
        if self.signs() {
            u32::from(code > 0)
        } else {
            (code - self.low()) as u32
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
        let (center, half) = match self.symmetry {
            Symmetry::Symmetric => (0.0, low.abs().max(high.abs())),
            Symmetry::Affine => (low / 2.0 + high / 2.0, high / 2.0 - low / 2.0),
        };
        let mut best = self.over(low, high);
        let mut least = self.squared_error(best, values);
        for part in 1..RANGES {
            let half = half * f64::from(part) / f64::from(RANGES);
            let grid = self.over(center - half, center + half);
            let error = self.squared_error(grid, values);
            if error < least {
                (best, least) = (grid, error);
            }
        }
        // Either step lowers the error or leaves it; it ends where neither lowers it.
        for _ in 0..20 {
            let grid = self.regression(best, values);
            let error = self.squared_error(grid, values);
            if error >= least {
                break;
            }
            (best, least) = (grid, error);
        }
        best
    }

    /// Σ (w − value of the nearest code)².
    pub(super) fn squared_error<F: Float>(self, grid: Grid, values: &[F]) -> f64 {
        values
            .iter()
            .map(|w| {
                let w = w.as_f64();
                let code = f64::from(self.nearest(grid, w));
                (w - (grid.offset + grid.scale * code)).powi(2)
            })
            .sum()
    }

    /// The scale and offset of least squared error for the codes that `grid` gives.
    fn regression<F: Float>(self, grid: Grid, values: &[F]) -> Grid {
        let n = values.len() as f64;
        let codes = || {
            values
                .iter()
                .map(|w| (w.as_f64(), f64::from(self.nearest(grid, w.as_f64()))))
        };
        let (mean_w, mean_q) = match self.symmetry {
            Symmetry::Symmetric => (0.0, 0.0),
            Symmetry::Affine => codes().fold((0.0, 0.0), |(a, b), (w, q)| (a + w / n, b + q / n)),
        };
        let (covariance, variance) = codes().fold((0.0, 0.0), |(c, v), (w, q)| {
            (c + (w - mean_w) * (q - mean_q), v + (q - mean_q).powi(2))
        });
        if variance == 0.0 {
            return grid;
        }
        let scale = (covariance / variance).max(0.0);
        Grid {
            scale,
            offset: mean_w - scale * mean_q,
        }
    }
}

fn extremes<F: Float>(values: &[F]) -> (f64, f64) {
    values
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), w| {
            (low.min(w.as_f64()), high.max(w.as_f64()))
        })
}
