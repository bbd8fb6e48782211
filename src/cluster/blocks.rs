//! The layout in which the kernels read points: in blocks, shifted to the origin and scaled to the order of one.

use ndarray::{ArrayView2, s};

use crate::kernels::distance::BLOCK;
use crate::{Error, Float, Result, check, power};

/// The largest magnitude of `points`; fails if squared distances between them may leave the range of `f64`.
pub(super) fn magnitude<F: Float>(what: &'static str, points: &ArrayView2<'_, F>) -> Result<F> {
    let magnitude = check::largest(points);
    // (2 · 2^480)² · 2^60 values is less than 2^1024.
    if magnitude.as_f64() > 2_f64.powi(480) {
        return Err(Error::Overflow { what });
    }
    Ok(magnitude)
}

/// The coordinates in which the kernels compare points and centroids: (x − shift) · scale with (c − shift) · scale.
///
/// The kernels find the least ‖c‖²/2 − x·c. This loses digits where the points are much farther from the origin
/// than from each other, which the shift corrects. It leaves the range of the type where points are very large or small, which
/// the scale corrects. The shift depends on the centroids alone, so that the cluster of a point does not depend on the other
/// points. It is zero unless it is needed, so that weights keep all their digits. The scale is a power of two: it changes no
/// digit, and points that are scaled by a power of two have the same coordinates.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Frame<F> {
    /// One value an axis; empty if all are zero.
    shift: Vec<F>,
    scale: F,
}

impl<F: Float> Frame<F> {
    /// The frame for `centroids` (rows of length `axes`) and values up to `magnitude`.
    pub(super) fn new<'a>(
        rows: impl ExactSizeIterator<Item = &'a [F]>,
        axes: usize,
        magnitude: F,
    ) -> Self {
        Self {
            shift: Self::shift(rows, axes),
            scale: Self::scale(magnitude),
        }
    }

    /// The power of two that brings `magnitude` into [1, 2), as far as that power is a normal number.
    fn scale(magnitude: F) -> F {
        let limit = if F::BITS == 32 { 126 } else { 1022 };
        let exponent = power::exponent(magnitude.as_f64());
        power::times(F::one(), (-exponent).clamp(-limit, limit))
    }

    fn shift<'a>(rows: impl ExactSizeIterator<Item = &'a [F]>, axes: usize) -> Vec<F> {
        let count = rows.len().max(1) as f64;
        let mut sums = vec![0.0; axes];
        let mut squares = vec![0.0; axes];
        for row in rows {
            for ((sum, square), x) in sums.iter_mut().zip(&mut squares).zip(row) {
                let x = x.as_f64();
                *sum += x;
                *square += x * x;
            }
        }
        let (mut offset, mut spread) = (0.0, 0.0);
        for (sum, square) in sums.iter_mut().zip(&squares) {
            *sum /= count;
            offset += *sum * *sum;
            spread += (square / count - *sum * *sum).max(0.0);
        }
        if offset <= 16.0 * spread {
            return Vec::new();
        }
        // Rounded to a multiple of about the spread, so that it stays the same while centroids move little.
        let spread: f64 = spread.sqrt();
        let floor = power::exponent(spread);
        let above = i32::from(spread > power::times(1.0, floor));
        let step = if spread > 0.0 {
            power::times(1.0, floor + above + 1)
        } else {
            0.0
        };
        sums.iter()
            .map(|&mean| {
                let rounded = (mean / step).round() * step;
                F::from_f64_lossy(if rounded.is_finite() { rounded } else { mean })
            })
            .collect()
    }

    #[inline(always)]
    fn see(&self, value: F, axis: usize) -> F {
        match self.shift.get(axis) {
            Some(&shift) => (value - shift) * self.scale,
            None => value * self.scale,
        }
    }

    /// The rows of `centroids` in this frame, into `out`.
    pub(super) fn rows_into(&self, centroids: &[F], axes: usize, out: &mut Vec<F>) {
        out.clear();
        if self.shift.is_empty() && self.scale == F::one() {
            out.extend_from_slice(centroids);
            return;
        }
        for row in centroids.chunks_exact(axes) {
            out.extend(row.iter().enumerate().map(|(j, &x)| self.see(x, j)));
        }
    }

    /// The points from `first` on, as many as a block holds, into `out`; the rest of the block is zero.
    pub(super) fn pack_block(&self, points: &ArrayView2<'_, F>, first: usize, out: &mut [F]) {
        let last = points.nrows().min(first + BLOCK);
        for (j, out) in out.chunks_exact_mut(BLOCK).enumerate() {
            let column = points.slice(s![first..last, j]);
            for (out, &x) in out.iter_mut().zip(column) {
                *out = self.see(x, j);
            }
            out[last - first..].fill(F::zero());
        }
    }

    /// All points in blocks.
    pub(super) fn pack(&self, points: &ArrayView2<'_, F>) -> Vec<F> {
        let block = points.ncols() * BLOCK;
        let mut out = vec![F::zero(); points.nrows().div_ceil(BLOCK) * block];
        crate::parallel::for_each_chunk_mut(&mut out, 256 * block, |chunk, out| {
            for (b, out) in out.chunks_exact_mut(block).enumerate() {
                self.pack_block(points, (chunk * 256 + b) * BLOCK, out);
            }
        });
        out
    }
}
