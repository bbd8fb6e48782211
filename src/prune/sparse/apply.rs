//! Products with a sparse matrix.

use ndarray::{ArrayView2, ArrayViewMut2, Axis};

use super::SparseMatrix;
use super::positions::Positions;
use crate::artifact::check_apply;
use crate::kernels::Level;
use crate::{Float, LinearOp, Result, parallel};

/// The number of inputs that are multiplied with the rows together.
const WIDTH: usize = 64;
/// Inputs are rounded up to a multiple of this.
const VECTOR: usize = 16;
/// From this number of inputs on, the columns of a row are written out once rather than found for each input.
const FEW: usize = 4;
/// Rows whose columns are written out together and then used for all inputs.
const ROWS: usize = 64;
/// The least number of multiplications that is worth a thread.
const WORK: usize = 1 << 17;
/// The number of input values that all rows are multiplied with before the next ones: they stay in the nearest cache.
const NEAR: usize = 1 << 12;
/// A row with fewer weights than this in so many columns is multiplied as a whole.
const LEAST: usize = 16;

impl<F: Float> SparseMatrix<F> {
    /// The number of rows in a task.
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
        let mut rest: Vec<(usize, usize)> =
            starts.windows(2).map(|pair| (pair[0], pair[1])).collect();
        let near = NEAR / width;
        let dense = self.density() * near as f64 >= LEAST as f64;
        let together = if dense { near } else { self.shape[1].max(1) };
        for (block, x) in x.values().chunks(together * width).enumerate() {
            for (sums, (next, end)) in sums.chunks_exact_mut(width).zip(&mut rest) {
                let range = *next..*end;
                let (columns, values) = (&columns[range.clone()], &values[range]);
                *next += F::sparse_row(level, (columns, block * together), values, x, sums);
            }
        }
        for (b, mut y) in y.rows_mut().into_iter().enumerate() {
            let sums = sums[b..].iter().step_by(width);
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
        values[j * width + b] = x;
    }
}

/// Some inputs as columns, of shape (columns, width). Columns after the last input are zeros.
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
        // Any start gives the same result; this one is fast.
        let start = values.as_ptr().align_offset(LINE).min(LINE);
        let rows: Vec<&[F]> = x
            .rows()
            .into_iter()
            .map(|row| row.to_slice().expect("the layout is standard"))
            .collect();
        let aligned = &mut values[start..][..x.ncols() * width];
        parallel::for_each_chunk_mut(aligned, TASK * width, |task, values| {
            for (i, values) in values.chunks_mut(VECTOR * width).enumerate() {
                let first = task * TASK + i * VECTOR;
                for (b, row) in rows.iter().enumerate() {
                    // A piece of a row at a time: rows whose length is a power of two compete for few lines of the cache.
                    let row = &row[first..];
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
        &self.values[self.start..]
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
                let x = x.to_slice().expect("the layout is standard");
                self.apply_one(x, &mut sums);
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
        // Weights that are not stored are zeros, and zero times infinity is NaN.
        for (x, mut y) in x.rows().into_iter().zip(y.rows_mut()) {
            if !x.iter().fold(true, |finite, x| finite & x.is_finite()) {
                y.fill(F::nan());
            }
        }
        Ok(())
    }
}
