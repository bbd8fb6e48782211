//! Products with a matrix of fixed-point codes: integers against integers, or weights decompressed block by block.

use std::ops::Range;

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, s};

use super::matrix::{FixedPointMatrix, ROWS};
use crate::artifact::check_apply;
use crate::kernels::evenly::OfSums;
use crate::kernels::integer::{Panel, Rows};
use crate::kernels::placed::{Placed, place_of};
use crate::kernels::{Level, evenly, integer};
use crate::{Float, LinearOp, Result, check, linalg, parallel};

/// Rows of codes that are multiplied at once with bytes.
pub(super) const TOGETHER: usize = 64;
/// Products of bytes below which one thread does all the work.
const SHARED: usize = 1 << 21;
/// Weights that are decompressed at once for a product: 4 MB in single precision.
const PANEL: usize = 1 << 20;
/// The number of inputs from which a product of matrices with decompressed weights is faster.
const BATCH: usize = 8;
/// The same where codes of few bits are unpacked in registers for each of a few inputs.
const FEW_BITS: usize = 24;

impl<F: Float> LinearOp<F> for FixedPointMatrix<F> {
    fn apply_into(&self, x: ArrayView2<'_, F>, y: ArrayViewMut2<'_, F>) -> Result<()> {
        check_apply(self.shape, &x, &y)?;
        let mut y = y;
        let few = x.nrows() < FEW_BITS && self.multiplies_in_registers();
        if few && self.apply_few_exact(x, &mut y) {
            return Ok(());
        }
        // A sum of codes may be infinite where the sum of weights is not: it is done again.
        if x.nrows() < BATCH {
            self.apply_rows(x, y);
        } else {
            self.apply_panels(x, y);
        }
        Ok(())
    }
}

impl<F: Float> FixedPointMatrix<F> {
    /// y = x Wᵀ, of shape (batch, out_features), with each vector of inputs rounded to 8 bits, from sums of
    /// integers. The bound on the error of this rounding is at [`FixedPointMatrix`].
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) where `x` has another number of features, and [`Error::Parameter`](crate::Error::Parameter) for codes
    /// of more than 8 bits.
    ///
    /// ```
    /// use ndarray::array;
    /// use taper::Quantizer;
    /// use taper::quantize::fixed_point::FixedPointQuantizer;
    ///
    /// let w = FixedPointQuantizer::new(4).quantize(array![[7.0, -3.0], [1.0, 2.0]].view())?;
    /// let y = w.apply_rounded(array![[127.0, 2.0]].view())?;
    /// assert_eq!(y, array![[127.0 * 7.0 - 6.0, 127.0 + 4.0]]);
    /// # Ok::<(), taper::Error>(())
    /// ```
    pub fn apply_rounded(&self, x: ArrayView2<'_, F>) -> Result<Array2<F>> {
        let mut y = Array2::zeros((x.nrows(), self.shape[0]));
        check_apply(self.shape, &x, &y.view_mut())?;
        let bits = self.codes.bits;
        check::in_range("bits", f64::from(bits), "in 1..=8", bits <= 8)?;
        if self.rounds_in_registers() {
            self.apply_few_rounded(x, y.view_mut());
            // A sum of codes may be infinite where the sum of weights is not: that row of inputs is done again, exactly.
            for (x, mut y) in x
                .axis_chunks_iter(Axis(0), 1)
                .zip(y.axis_chunks_iter_mut(Axis(0), 1))
            {
                if !y.iter().all(|y| y.is_finite()) {
                    self.apply_rows(x, y.view_mut());
                }
            }
        } else {
            self.apply_integers(x, y.view_mut());
        }
        Ok(y)
    }

    fn apply_integers(&self, x: ArrayView2<'_, F>, mut y: ArrayViewMut2<'_, F>) {
        let [outputs, inputs] = self.shape;
        // Codes of 8 bits are read in place, all others are unpacked first.
        let place = match self.codes.bits {
            8 => place_of(self.packed.bytes()),
            _ => 0,
        };
        let x = RoundedInputs::of(x, place);
        let blocks: Vec<_> = y
            .axis_chunks_iter_mut(Axis(1), TOGETHER)
            .enumerate()
            .collect();
        let share = shared(outputs, inputs, x.scales.len());
        parallel::for_each_with(blocks, share, Scratch::default, |scratch, (block, y)| {
            let rows = block * TOGETHER..outputs.min((block + 1) * TOGETHER);
            self.integer_block(&x, rows, scratch, y);
        });
    }

    /// The outputs of some rows.
    fn integer_block(
        &self,
        x: &RoundedInputs,
        rows: Range<usize>,
        scratch: &mut Scratch,
        mut y: ArrayViewMut2<'_, F>,
    ) {
        let (inputs, level) = (self.shape[1], Level::current());
        let stride = inputs.next_multiple_of(integer::UNIT);
        let codes = if self.codes.bits == 8 {
            let range = rows.start * inputs..rows.end * inputs;
            Rows {
                values: &self.packed.bytes()[range],
                stride: inputs,
            }
        } else {
            if scratch.codes.values().len() != rows.len() * stride {
                scratch.codes = Placed::zeros(rows.len() * stride, 0);
            }
            let unpacked = scratch.codes.values_mut().chunks_exact_mut(stride);
            for (row, codes) in rows.clone().zip(unpacked) {
                self.packed
                    .unpack_bytes_into(row * inputs, &mut codes[..inputs]);
            }
            Rows {
                values: scratch.codes.values(),
                stride,
            }
        };
        let values = Rows {
            values: x.values.values(),
            stride: x.stride,
        };
        scratch.sums.resize(x.scales.len() * rows.len(), 0);
        // Long rows are summed piece by piece.
        scratch.long.clear();
        for from in (0..inputs).step_by(integer::LONGEST) {
            let columns = integer::LONGEST.min(inputs - from);
            let (values, codes) = (values.starting_at(from), codes.starting_at(from));
            let Scratch { panel, sums, .. } = scratch;
            integer::dot_bytes(level, values, codes, columns, panel, sums);
            if inputs > integer::LONGEST {
                scratch.long.resize(scratch.sums.len(), 0);
                for (long, &sum) in scratch.long.iter_mut().zip(&scratch.sums) {
                    *long += i64::from(sum);
                }
            }
        }
        let width = rows.len();
        scratch.scales.clear();
        scratch.offsets.clear();
        for grid in rows.flat_map(|row| self.grids(row)) {
            scratch.scales.push(grid.scale);
            scratch.offsets.push(-grid.scale * f64::from(grid.zero));
        }
        let mut products = Vec::new();
        for (i, mut y) in y.rows_mut().into_iter().enumerate() {
            let (scale, total) = (x.scales[i], x.totals[i]);
            let of = OfSums {
                low: i64::from(self.codes.low()),
                step: self.codes.step(),
                scale,
                total,
            };
            let (scales, offsets) = (&scratch.scales, &scratch.offsets);
            let write = |out: &mut [F]| {
                let these = i * width..(i + 1) * width;
                if scratch.long.is_empty() {
                    evenly::from_sums(level, of, &scratch.sums[these], scales, offsets, out);
                } else {
                    evenly::from_sums(level, of, &scratch.long[these], scales, offsets, out);
                }
            };
            if let Some(y) = y.as_slice_mut() {
                write(y);
            } else {
                products.resize(width, F::zero());
                write(&mut products);
                for (y, &product) in y.iter_mut().zip(&products) {
                    *y = product;
                }
            }
        }
    }

    /// A product with few inputs: each row of weights is decompressed into the first-level cache.
    fn apply_rows(&self, x: ArrayView2<'_, F>, mut y: ArrayViewMut2<'_, F>) {
        let ([outputs, inputs], level) = (self.shape, Level::current());
        let x = x.as_standard_layout();
        let rows = x.as_slice().expect("the layout is standard");
        let batch = x.nrows();
        let blocks = parallel::map(outputs.div_ceil(ROWS), |block| {
            let outputs = block * ROWS..outputs.min((block + 1) * ROWS);
            let mut weights = vec![F::zero(); inputs];
            let mut values = Vec::with_capacity(outputs.len() * batch);
            for o in outputs {
                self.rows_into(o, &mut weights);
                let product = |x| evenly::dot(level, x, &weights);
                values.extend(rows.chunks(inputs).map(product));
            }
            values
        });
        for (mut y, values) in y
            .columns_mut()
            .into_iter()
            .zip(blocks.iter().flat_map(|values| values.chunks(batch.max(1))))
        {
            for (y, &value) in y.iter_mut().zip(values) {
                *y = value;
            }
        }
    }

    /// A product with many inputs: panels of weights are decompressed for a product of matrices.
    fn apply_panels(&self, x: ArrayView2<'_, F>, mut y: ArrayViewMut2<'_, F>) {
        let [outputs, inputs] = self.shape;
        let rows = (PANEL / inputs).clamp(1, outputs);
        let mut weights = Array2::zeros((rows, inputs));
        for from in (0..outputs).step_by(rows) {
            let width = rows.min(outputs - from);
            let mut panel = weights.slice_mut(s![..width, ..]);
            let values = panel.as_slice_mut().expect("whole rows have no gaps");
            parallel::for_each_chunk_mut(values, ROWS * inputs, |i, out| {
                self.rows_into(from + i * ROWS, out);
            });
            linalg::product_into(x, panel.t(), y.slice_mut(s![.., from..from + width]));
        }
    }
}

/// Whether a product is worth more than one thread.
pub(super) fn shared(outputs: usize, inputs: usize, batch: usize) -> bool {
    outputs.saturating_mul(inputs).saturating_mul(batch) >= SHARED
}

/// Memory that a thread uses again for each block.
#[derive(Default)]
struct Scratch {
    /// Codes of fewer than eight bits, a byte each.
    codes: Placed<u8>,
    panel: Panel,
    sums: Vec<i32>,
    /// Sums of rows that are too long for 32 bits; empty for shorter rows.
    long: Vec<i64>,
    scales: Vec<f64>,
    offsets: Vec<f64>,
}

/// Inputs of 8 bits, each vector with a scale of its own.
pub(super) struct RoundedInputs {
    pub(super) values: Placed<i8>,
    /// The distance between vectors: an odd number of cache lines, so that the vectors are spread over all places of the cache.
    pub(super) stride: usize,
    pub(super) scales: Vec<f64>,
    /// The sum of the integers of each vector.
    totals: Vec<i64>,
}

impl RoundedInputs {
    /// The first vector begins `place` bytes behind the beginning of a line of the cache.
    pub(super) fn of<F: Float>(x: ArrayView2<'_, F>, place: usize) -> Self {
        let x = x.as_standard_layout();
        let inputs = x.ncols();
        let stride = (inputs.div_ceil(integer::UNIT) | 1) * integer::UNIT;
        let mut values = Placed::zeros(x.nrows() * stride, place);
        let rows = x.as_slice().expect("the layout is standard");
        // Some thousand values for each task: a smaller one takes less time than its start.
        let together = (1_usize << 13).div_ceil(inputs.max(1));
        let mut numbers = vec![(0.0, 0); x.nrows()];
        let tasks = rows
            .chunks(together * inputs.max(1))
            .zip(values.values_mut().chunks_mut(together * stride))
            .zip(numbers.chunks_mut(together));
        let share = x.len() >= 1 << 16;
        parallel::for_each_with(
            tasks.collect(),
            share,
            || (),
            |(), ((x, values), numbers)| {
                let rows = x.chunks(inputs.max(1)).zip(values.chunks_mut(stride));
                for ((row, values), numbers) in rows.zip(numbers) {
                    *numbers = Self::round(row, &mut values[..inputs]);
                }
            },
        );
        let (scales, totals) = numbers.into_iter().unzip();
        Self {
            values,
            stride,
            scales,
            totals,
        }
    }

    /// The scale of a vector and the sum of its integers, which are written to `values`.
    fn round<F: Float>(row: &[F], values: &mut [i8]) -> (f64, i64) {
        let level = Level::current();
        let extent = F::extent(level, row);
        let largest = extent.max.as_f64().abs().max(extent.min.as_f64().abs());
        let scale = largest / 127.0;
        if !extent.finite {
            // The products are NaN, too.
            return (f64::NAN, 0);
        }
        let divisor = if scale > 0.0 { scale } else { 1.0 };
        (scale, evenly::round_inputs(level, row, divisor, values))
    }
}
