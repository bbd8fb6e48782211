//! Products with a sparse matrix.

use ndarray::{ArrayView2, ArrayViewMut2, Axis};

use super::SparseMatrix;
use super::positions::Positions;
use crate::artifact::check_apply;
use crate::kernels::Level;
use crate::{Float, LinearOp, Result, parallel};

/// Inputs that go through the rows together.
const WIDTH: usize = 64;
/// Inputs are rounded up to a multiple of this.
const VECTOR: usize = 16;
/// From this number of inputs on, columns are written out rather than found for each input.
const FEW: usize = 4;
/// Rows whose columns are written out together, then to be used for all inputs.
const ROWS: usize = 64;
/// Multiplications for which a thread is worth waking.
const WORK: usize = 1 << 17;
/// Values of the inputs that a row is multiplied with before the next one: they stay in the nearest cache.
const NEAR: usize = 1 << 12;
/// Where a row has fewer weights in so many columns, it is multiplied at once.
const LEAST: usize = 16;

impl<F: Float> SparseMatrix<F> {
    /// Rows that make a task.
    fn rows_together(&self, inputs: usize) -> usize {
        let of_row = (self.values.len() / self.shape[0].max(1)).max(1);
        ROWS.max(WORK / of_row.saturating_mul(inputs.max(1)))
    }

    /// The sums over the rows for one input.
    fn apply_one(&self, x: &[F], y: &mut [F]) {
        let level = Level::current();
        let rows = self.rows_together(1);
        parallel::for_each_chunk_mut(y, rows, |chunk, out| {
            let mut columns = Vec::new();
            for (i, out) in out.iter_mut().enumerate() {
                let row = chunk * rows + i;
                let values = self.values_of(row, row + 1);
                *out = match &self.positions {
                    Positions::Bitmap(bits) => {
                        F::bitmap_dot(level, bits.bytes(), row * self.shape[1], values, x)
                    }
                    Positions::Gaps(_) => {
                        columns.clear();
                        self.append_columns(level, row, &mut columns);
                        F::sparse_dot(&columns, values, x)
                    }
                };
            }
        });
    }

    /// The sums over the rows for all inputs, into `y`, of shape (inputs, rows).
    fn apply_many(&self, x: &[Turned<F>], inputs: usize, mut y: ArrayViewMut2<'_, F>) {
        let level = Level::current();
        let rows = self.rows_together(inputs);
        let parts: Vec<_> = y.axis_chunks_iter_mut(Axis(1), rows).enumerate().collect();
        parallel::for_each(parts, |(chunk, mut y)| {
            let first = chunk * rows;
            let mut starts = vec![0];
            let mut columns = Vec::new();
            for row in first..first + y.ncols() {
                self.append_columns(level, row, &mut columns);
                starts.push(columns.len());
            }
            let values = self.values_of(first, first + y.ncols());
            for (x, y) in x.iter().zip(y.axis_chunks_iter_mut(Axis(0), WIDTH)) {
                self.sums(level, x, (&starts, &columns), values, y);
            }
        });
    }

    /// The sums over some rows for one block of inputs, into `y`, of shape (inputs, rows).
    fn sums(
        &self,
        level: Level,
        x: &Turned<F>,
        (starts, columns): (&[usize], &[u32]),
        values: &[F],
        mut y: ArrayViewMut2<'_, F>,
    ) {
        let width = x.width;
        let mut sums = vec![F::zero(); y.ncols() * width];
        let mut ends = starts.iter().skip(1);
        let mut rest: Vec<(usize, usize)> = starts
            .iter()
            .zip(&mut ends)
            .map(|(&start, &end)| (start, end))
            .collect();
        let near = NEAR / width;
        let dense = self.density() * near as f64 >= LEAST as f64;
        let together = if dense { near } else { self.shape[1].max(1) };
        for (block, x) in x.values().chunks(together * width).enumerate() {
            for (sums, (next, end)) in sums.chunks_exact_mut(width).zip(&mut rest) {
                let range = *next..*end;
                let (Some(columns), Some(values)) = (columns.get(range.clone()), values.get(range))
                else {
                    continue;
                };
                *next += F::sparse_row(level, (columns, block * together), values, x, sums);
            }
        }
        for (b, mut y) in y.rows_mut().into_iter().enumerate() {
            let sums = sums.get(b..).unwrap_or_default().iter().step_by(width);
            match y.as_slice_mut() {
                Some(y) => y.iter_mut().zip(sums).for_each(|(y, &sum)| *y = sum),
                None => y.iter_mut().zip(sums).for_each(|(y, &sum)| *y = sum),
            }
        }
    }
}

/// Writes `row` to `values` from place `b` on, at every `width`-th place.
#[inline(always)]
fn scatter<F: Float>(row: &[F], values: &mut [F], b: usize, width: usize) {
    for (j, &x) in row.iter().enumerate() {
        if let Some(value) = values.get_mut(j * width + b) {
            *value = x;
        }
    }
}

/// Some inputs, of shape (columns, width): those beyond the last are zeros.
struct Turned<F> {
    width: usize,
    start: usize,
    values: Vec<F>,
}

impl<F: Float> Turned<F> {
    /// `x` is of shape (inputs, columns), in standard layout.
    fn new(x: ArrayView2<'_, F>) -> Self {
        /// Columns of a task.
        const TASK: usize = 512;
        /// The length of a cache line in bytes: vectors that span two are read at half the speed.
        const LINE: usize = 64;
        let width = x.nrows().next_multiple_of(VECTOR);
        let mut values = vec![F::zero(); x.ncols() * width + LINE];
        // No more than a matter of speed: any start will do.
        let start = values.as_ptr().align_offset(LINE).min(LINE);
        let rows: Vec<&[F]> = x
            .rows()
            .into_iter()
            .map(|row| row.to_slice().unwrap_or_default())
            .collect();
        let aligned = values.get_mut(start..).unwrap_or_default();
        let aligned = aligned.get_mut(..x.ncols() * width).unwrap_or_default();
        parallel::for_each_chunk_mut(aligned, TASK * width, |task, values| {
            for (i, values) in values.chunks_mut(VECTOR * width).enumerate() {
                let first = task * TASK + i * VECTOR;
                for (b, row) in rows.iter().enumerate() {
                    // A piece of a row at a time: rows whose length is a power of two share few places in a cache.
                    let row = row.get(first..).unwrap_or_default();
                    if let Some(row) = row.first_chunk::<VECTOR>() {
                        scatter(row, values, b, width);
                    } else {
                        scatter(row, values, b, width);
                    }
                }
            }
        });
        Self {
            width,
            start,
            values,
        }
    }

    /// The values, each column `width` after the one before.
    fn values(&self) -> &[F] {
        self.values.get(self.start..).unwrap_or_default()
    }
}

impl<F: Float> LinearOp<F> for SparseMatrix<F> {
    fn apply_into(&self, x: ArrayView2<'_, F>, mut y: ArrayViewMut2<'_, F>) -> Result<()> {
        check_apply(self.shape, &x, &y)?;
        let inputs = x.nrows();
        let x = x.as_standard_layout();
        if inputs < FEW {
            let mut sums = vec![F::zero(); self.shape[0]];
            for (x, mut y) in x.rows().into_iter().zip(y.rows_mut()) {
                self.apply_one(x.as_slice().unwrap_or_default(), &mut sums);
                for (y, &sum) in y.iter_mut().zip(&sums) {
                    *y = sum;
                }
            }
        } else {
            let blocks: Vec<Turned<F>> = x
                .axis_chunks_iter(Axis(0), WIDTH)
                .map(Turned::new)
                .collect();
            self.apply_many(&blocks, inputs, y.view_mut());
        }
        // A weight that is not stored is a zero, and zero times infinity is not a number.
        for (x, mut y) in x.rows().into_iter().zip(y.rows_mut()) {
            if !x.iter().fold(true, |finite, x| finite & x.is_finite()) {
                y.fill(F::nan());
            }
        }
        Ok(())
    }
}
