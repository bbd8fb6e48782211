//! Products with a matrix of fixed-point codes: integers against integers, or weights decompressed block by block.

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, s};

use super::grid::Grid;
use super::matrix::{FixedPointMatrix, ROWS};
use crate::artifact::check_apply;
use crate::kernels::{Level, evenly, integer};
use crate::{Float, LinearOp, Result, check, linalg, parallel};

/// Bytes of a line of the cache.
const LINE: usize = 64;
/// Weights that are decompressed at once for a product: 4 MB in single precision.
const PANEL: usize = 1 << 20;
/// Inputs from which on decompressed weights are worth to be kept for a product of matrices.
const BATCH: usize = 8;

impl<F: Float> LinearOp<F> for FixedPointMatrix<F> {
    fn apply_into(&self, x: ArrayView2<'_, F>, y: ArrayViewMut2<'_, F>) -> Result<()> {
        check_apply(self.shape, &x, &y)?;
        if self.codes.bits == 8 {
            self.apply_integers(x, y);
            return Ok(());
        }
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
    /// integers: the bound on what the rounding does is above.
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
    /// let w = FixedPointQuantizer::params(4).quantize(array![[7.0, -3.0], [1.0, 2.0]].view())?;
    /// let y = w.apply_rounded(array![[127.0, 2.0]].view())?;
    /// assert_eq!(y, array![[127.0 * 7.0 - 6.0, 127.0 + 4.0]]);
    /// # Ok::<(), taper::Error>(())
    /// ```
    pub fn apply_rounded(&self, x: ArrayView2<'_, F>) -> Result<Array2<F>> {
        let mut y = Array2::zeros((x.nrows(), self.shape[0]));
        check_apply(self.shape, &x, &y.view_mut())?;
        let bits = self.codes.bits;
        check::in_range("bits", f64::from(bits), "in 1..=8", bits <= 8)?;
        self.apply_integers(x, y.view_mut());
        Ok(y)
    }

    fn apply_integers(&self, x: ArrayView2<'_, F>, mut y: ArrayViewMut2<'_, F>) {
        let [outputs, inputs] = self.shape;
        let x = RoundedInputs::of(x);
        let x_values = x.values(inputs);
        let blocks = parallel::map(outputs.div_ceil(ROWS), |block| {
            let rows = block * ROWS..outputs.min((block + 1) * ROWS);
            let mut sums = vec![0_i64; x.scales.len() * rows.len()];
            let mut out = vec![0_i32; sums.len()];
            let mut unpacked = Vec::new();
            let codes = if self.codes.bits == 8 {
                let range = rows.start * inputs..rows.end * inputs;
                self.packed.bytes().get(range).unwrap_or_default()
            } else {
                unpacked.resize(rows.len() * inputs, 0);
                let start = rows.start * inputs;
                self.packed.unpack_bytes_into(start, &mut unpacked);
                &unpacked
            };
            // Long rows are summed piece by piece.
            for from in (0..inputs).step_by(integer::LONGEST) {
                let to = inputs.min(from + integer::LONGEST);
                if inputs <= integer::LONGEST {
                    integer::dot_bytes(Level::current(), x_values, codes, inputs, &mut out);
                } else {
                    let codes: Vec<u8> = codes
                        .chunks(inputs)
                        .flat_map(|row| row.get(from..to))
                        .flatten()
                        .copied()
                        .collect();
                    let values: Vec<i8> = x_values
                        .chunks(inputs)
                        .flat_map(|row| row.get(from..to))
                        .flatten()
                        .copied()
                        .collect();
                    integer::dot_bytes(Level::current(), &values, &codes, to - from, &mut out);
                }
                for (sum, &out) in sums.iter_mut().zip(&out) {
                    *sum += i64::from(out);
                }
            }
            let width = rows.len();
            let grids: Vec<Grid> = rows.map(|row| self.grid(row)).collect();
            let of_vectors = sums.chunks(width).zip(x.scales.iter().zip(&x.totals));
            let products = of_vectors.flat_map(|(sums, (&scale, &total))| {
                sums.iter().zip(&grids).map(move |(&sum, grid)| {
                    // Stored codes begin at zero: the lowest code comes back here, once for each input.
                    let sum = self.codes.step() * sum + i64::from(self.codes.low()) * total;
                    let offset = grid.offset * scale * total as f64;
                    F::from_f64_lossy(grid.scale * scale * sum as f64 + offset)
                })
            });
            products.collect::<Vec<F>>()
        });
        for (mut y, products) in y.axis_chunks_iter_mut(Axis(1), ROWS).zip(blocks) {
            let width = y.ncols();
            for (mut y, products) in y.rows_mut().into_iter().zip(products.chunks(width)) {
                y.iter_mut()
                    .zip(products)
                    .for_each(|(y, &product)| *y = product);
            }
        }
    }

    /// A product with few inputs: each row of weights is decompressed into the first-level cache.
    fn apply_rows(&self, x: ArrayView2<'_, F>, mut y: ArrayViewMut2<'_, F>) {
        let ([outputs, inputs], level) = (self.shape, Level::current());
        let x = x.as_standard_layout();
        let rows = x.as_slice().unwrap_or_default();
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
            if let Some(panel) = panel.as_slice_mut() {
                parallel::for_each_chunk_mut(panel, ROWS * inputs, |i, out| {
                    self.rows_into(from + i * ROWS, out);
                });
            }
            linalg::product_into(x, panel.t(), y.slice_mut(s![.., from..from + width]));
        }
    }
}

/// Inputs of 8 bits, each vector with a scale of its own.
struct RoundedInputs {
    /// From `start` on, where a line of the cache begins: a vector that reaches over two takes twice the time to load.
    padded: Vec<i8>,
    start: usize,
    scales: Vec<f64>,
    /// The sum of the integers of each vector.
    totals: Vec<i64>,
}

impl RoundedInputs {
    fn of<F: Float>(x: ArrayView2<'_, F>) -> Self {
        let x = x.as_standard_layout();
        let inputs = x.ncols();
        let mut padded = vec![0; x.len() + LINE];
        let start = padded.as_ptr().align_offset(LINE).min(LINE);
        let values = padded.get_mut(start..start + x.len()).unwrap_or_default();
        let rows = x.as_slice().unwrap_or_default();
        // A task of less than some thousand values is not worth its start.
        let together = (1_usize << 13).div_ceil(inputs.max(1));
        let numbers = parallel::map_chunks_mut(values, together * inputs, |chunk, values| {
            let from = chunk * together * inputs;
            let rows = rows.get(from..from + values.len()).unwrap_or_default();
            let rows = rows.chunks(inputs).zip(values.chunks_mut(inputs));
            rows.map(|(row, values)| Self::round(row, values))
                .collect::<Vec<_>>()
        });
        let (scales, totals) = numbers.into_iter().flatten().unzip();
        Self {
            padded,
            start,
            scales,
            totals,
        }
    }

    /// The integers, vector after vector.
    fn values(&self, inputs: usize) -> &[i8] {
        let end = self.start + self.scales.len() * inputs;
        self.padded.get(self.start..end).unwrap_or_default()
    }

    /// The scale of a vector and the sum of its integers, which are written to `values`.
    fn round<F: Float>(row: &[F], values: &mut [i8]) -> (f64, i64) {
        let level = Level::current();
        let extent = F::extent(level, row);
        let largest = extent.max.as_f64().abs().max(extent.min.as_f64().abs());
        let scale = largest / 127.0;
        if !extent.finite {
            // What is multiplied with this is no number either.
            return (f64::NAN, 0);
        }
        let divisor = if scale > 0.0 { scale } else { 1.0 };
        (scale, evenly::round_inputs(level, row, divisor, values))
    }
}
