//! A weight matrix of fixed-point codes.

use ndarray::{Array2, ArrayView2, ArrayViewMut2, ArrayViewMutD, Axis, s};

use super::grid::{Codes, Granularity, Grid, Symmetry};
use crate::artifact::check_apply;
use crate::kernels::{Level, evenly, integer};
use crate::packing::PackedCodes;
use crate::{
    Compressed, DType, Error, Float, LinearOp, Part, Precision, Result, Role, StorageBits, check,
    linalg, parallel,
};

const NAME: &str = "FixedPointMatrix";
/// Rows whose codes are worked on at once.
const ROWS: usize = 32;
/// Bytes of a line of the cache.
const LINE: usize = 64;
/// Weights that are decompressed at once for a product: 4 MB in single precision.
const PANEL: usize = 1 << 20;
/// Inputs from which on decompressed weights are worth to be kept for a product of matrices.
const BATCH: usize = 8;

/// A weight matrix of shape (out_features, in_features) whose values are offset + scale·q, q an integer of
/// 1 to 16 bits.
///
/// Codes are packed without gaps: the part `codes` is exactly ⌈out·in·bits / 8⌉ bytes. One
/// `scale` and, on an affine grid, one `offset` go with them, or one for each row.
///
/// [`apply`](LinearOp::apply) with codes of 8 bits is [`apply_rounded`](Self::apply_rounded): it rounds each
/// vector of inputs to 8 bits too, with the scale max|x| / 127 of its own, and sums integers. An input then
/// moves by at most half of that scale, so that
///
/// $$ |y\_o - (x W^T)\_o| \le \frac{\max |x|}{254} \sum\_i |W\_{oi}| $$
///
/// beside rounding. With codes of any other width, blocks of rows are decompressed and multiplied; up to 8
/// bits `apply_rounded` can be called instead.
///
/// ```
/// use ndarray::array;
/// use taper::quantize::fixed_point::FixedPointQuantizer;
/// use taper::{Compressed, LinearOp, Quantizer};
///
/// let w = FixedPointQuantizer::params(4).quantize(array![[7.0, -3.0], [1.0, 2.0]].view())?;
/// assert_eq!(w.storage().bytes(), 2 + 4);
/// assert_eq!(w.apply(array![[1.0, 2.0]].view())?, array![[1.0, 5.0]]);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct FixedPointMatrix<F: Float> {
    pub(super) shape: [usize; 2],
    pub(super) codes: Codes,
    pub(super) granularity: Granularity,
    pub(super) precision: Precision,
    pub(super) grids: Vec<Grid>,
    pub(super) packed: PackedCodes,
    number: std::marker::PhantomData<F>,
}

impl<F: Float> FixedPointMatrix<F> {
    pub(super) fn new(
        shape: [usize; 2],
        codes: Codes,
        granularity: Granularity,
        precision: Precision,
        grids: Vec<Grid>,
        stored: &[u32],
    ) -> Self {
        Self {
            shape,
            codes,
            granularity,
            precision,
            grids,
            packed: PackedCodes::pack(stored, codes.bits),
            number: std::marker::PhantomData,
        }
    }

    /// The matrix of shape (out_features, in_features) with codes of `bits` bits from its parts `codes`,
    /// `scales` and, on an affine grid, `offsets`.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] for a width that is not in 1..=16, where the lengths do not fit the shape, for a
    /// code that stands for nothing (symmetric grids leave the lowest out), for bits beyond the last code, and
    /// for scales that are negative, and scales or offsets that are not finite or not of that precision.
    #[allow(clippy::too_many_arguments)]
    pub fn from_parts(
        shape: [usize; 2],
        bits: u32,
        symmetry: Symmetry,
        granularity: Granularity,
        precision: Precision,
        codes: &[u8],
        scales: &[F],
        offsets: &[F],
    ) -> Result<Self> {
        let malformed = |problem| Error::Malformed {
            artifact: NAME,
            problem,
        };
        if !(1..=16).contains(&bits) {
            return Err(malformed(format!("codes of {bits} bits")));
        }
        let [rows, columns] = shape;
        let count = rows
            .checked_mul(columns)
            .filter(|&count| count > 0)
            .ok_or_else(|| malformed(format!("there is no matrix of {rows} by {columns} codes")))?;
        let packed = PackedCodes::from_bytes(NAME, codes.to_vec(), count, bits)?;
        let codes = Codes { bits, symmetry };
        if let Some(stored) = packed
            .unpack()
            .into_iter()
            .find(|&q| codes.code(q).is_none())
        {
            return Err(malformed(format!(
                "{stored} is no symmetric code of {bits} bits"
            )));
        }
        let grids = match granularity {
            Granularity::PerTensor => 1,
            Granularity::PerRow => rows,
        };
        let needed = if symmetry == Symmetry::Affine {
            grids
        } else {
            0
        };
        if scales.len() != grids || offsets.len() != needed {
            return Err(malformed(format!(
                "{grids} scales and {needed} offsets are needed, found {} and {}",
                scales.len(),
                offsets.len()
            )));
        }
        for &x in scales.iter().chain(offsets) {
            if !x.is_finite() || precision.round("a scale", x) != Ok(x) {
                return Err(malformed(format!("{x} is no value of {precision:?}")));
            }
        }
        if let Some(scale) = scales.iter().find(|&&scale| scale < F::zero()) {
            return Err(malformed(format!("{scale} is no scale")));
        }
        let grids = scales.iter().enumerate().map(|(i, scale)| Grid {
            scale: scale.as_f64(),
            offset: offsets.get(i).map_or(0.0, |offset| offset.as_f64()),
        });
        Ok(Self {
            shape,
            codes,
            granularity,
            precision,
            grids: grids.collect(),
            packed,
            number: std::marker::PhantomData,
        })
    }

    /// Bits a code.
    #[must_use]
    pub fn bits(&self) -> u32 {
        self.codes.bits
    }

    /// Whether the grid has an offset.
    #[must_use]
    pub fn symmetry(&self) -> Symmetry {
        self.codes.symmetry
    }

    /// Whether each row has a scale of its own.
    #[must_use]
    pub fn granularity(&self) -> Granularity {
        self.granularity
    }

    /// The integers q, of shape (out_features, in_features).
    #[must_use]
    pub fn integers(&self) -> Array2<i32> {
        let mut codes = self
            .packed
            .unpack()
            .into_iter()
            .map(|q| self.codes.code(q).unwrap_or(0));
        Array2::from_shape_simple_fn((self.shape[0], self.shape[1]), || codes.next().unwrap_or(0))
    }

    /// The scales: one, or one for each output.
    #[must_use]
    pub fn scales(&self) -> Vec<F> {
        self.grids
            .iter()
            .map(|grid| F::from_f64_lossy(grid.scale))
            .collect()
    }

    /// The offsets: none on a symmetric grid, else one, or one for each output.
    #[must_use]
    pub fn offsets(&self) -> Vec<F> {
        match self.codes.symmetry {
            Symmetry::Symmetric => Vec::new(),
            Symmetry::Affine => self
                .grids
                .iter()
                .map(|grid| F::from_f64_lossy(grid.offset))
                .collect(),
        }
    }

    fn grid(&self, row: usize) -> Grid {
        let grid = match self.granularity {
            Granularity::PerTensor => self.grids.first(),
            Granularity::PerRow => self.grids.get(row),
        };
        grid.copied().unwrap_or(Grid {
            scale: 0.0,
            offset: 0.0,
        })
    }

    /// Writes the weights of rows from `first` on into `out`, row by row.
    fn rows_into(&self, first: usize, out: &mut [F]) {
        let (level, inputs) = (Level::current(), self.shape[1]);
        let mut bytes = vec![0_u8; if self.codes.bits <= 8 { inputs } else { 0 }];
        let mut words = vec![0_u32; inputs - bytes.len()];
        for (i, out) in out.chunks_mut(inputs).enumerate() {
            let spacing = self.codes.spacing::<F>(self.grid(first + i));
            let start = (first + i) * inputs;
            if self.codes.bits <= 8 {
                self.packed.unpack_bytes_into(start, &mut bytes);
                evenly::values(level, spacing, &bytes, out);
            } else {
                self.packed.unpack_into(start, &mut words);
                evenly::values(level, spacing, &words, out);
            }
        }
    }

    /// y = x Wᵀ, of shape (batch, out_features), with each vector of inputs rounded to 8 bits, from sums of
    /// integers: the bound on what the rounding does is above.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`] where `x` has another number of features, and [`Error::Parameter`] for codes
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

impl<F: Float> Compressed<F> for FixedPointMatrix<F> {
    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn parts(&self) -> Vec<Part<'_>> {
        let mut parts = vec![Part {
            name: "codes",
            dtype: DType::U8,
            shape: vec![self.packed.bytes().len()],
            role: Role::Payload,
            bytes: self.packed.bytes().into(),
        }];
        for (name, values) in [("scales", self.scales()), ("offsets", self.offsets())] {
            if !values.is_empty() {
                parts.push(Part {
                    name,
                    dtype: self.precision.dtype(),
                    shape: vec![values.len()],
                    role: Role::SideInformation,
                    bytes: self.precision.encode(values).into(),
                });
            }
        }
        parts
    }

    fn storage(&self) -> StorageBits {
        let numbers = self.grids.len() as u64 * self.precision.bits();
        let size = StorageBits::new()
            .with("codes", Role::Payload, self.packed.total_bits())
            .with("scales", Role::SideInformation, numbers);
        match self.codes.symmetry {
            Symmetry::Symmetric => size,
            Symmetry::Affine => size.with("offsets", Role::SideInformation, numbers),
        }
    }

    fn decompress_into(&self, mut out: ArrayViewMutD<'_, F>) -> Result<()> {
        check::same_shape("out", &self.shape, out.shape())?;
        let inputs = self.shape[1];
        if let Some(out) = out.as_slice_mut() {
            parallel::for_each_chunk_mut(out, ROWS * inputs, |i, out| {
                self.rows_into(i * ROWS, out)
            });
            return Ok(());
        }
        let mut values = vec![F::zero(); inputs];
        for (i, mut row) in out.rows_mut().into_iter().enumerate() {
            self.rows_into(i, &mut values);
            for (out, &value) in row.iter_mut().zip(&values) {
                *out = value;
            }
        }
        Ok(())
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::fixed_point::FixedPointQuantizer;
    use crate::{Quantizer, Seed};
    use ndarray::array;
    use proptest::prelude::*;

    fn random(seed: u64, shape: (usize, usize)) -> Array2<f64> {
        let mut stream = 0;
        Array2::from_shape_simple_fn(shape, || {
            stream += 1;
            Seed::from(seed).derive(stream).value() as f64 / u64::MAX as f64 * 2.0 - 1.0
        })
    }

    fn kinds() -> impl Strategy<Value = (Symmetry, Granularity)> {
        (any::<bool>(), any::<bool>()).prop_map(|(affine, rows)| {
            (
                if affine {
                    Symmetry::Affine
                } else {
                    Symmetry::Symmetric
                },
                if rows {
                    Granularity::PerRow
                } else {
                    Granularity::PerTensor
                },
            )
        })
    }

    proptest! {
        #[test]
        fn sizes_are_bytes_and_parts_are_enough(bits in 1_u32..=16, (symmetry, granularity) in kinds(), rows in 1_usize..8, columns in 1_usize..40, seed in any::<u64>()) {
            let q = FixedPointQuantizer::params(bits).symmetry(symmetry).granularity(granularity).precision(Precision::F16)
                .quantize(random(seed, (rows, columns)).view()).unwrap();
            let parts = q.parts();
            prop_assert_eq!(parts[0].bytes.len(), (rows * columns * bits as usize).div_ceil(8));
            prop_assert_eq!(q.storage().payload(), (rows * columns) as u64 * u64::from(bits));
            let again = FixedPointMatrix::from_parts([rows, columns], bits, symmetry, granularity, Precision::F16, &parts[0].bytes, &q.scales(), &q.offsets());
            prop_assert_eq!(again.unwrap(), q);
        }

        #[test]
        fn applying_is_decompressing_and_multiplying(bits in 1_u32..=16, (symmetry, granularity) in kinds(), batch in 0_usize..20, rows in 1_usize..80, columns in 1_usize..90, seed in any::<u64>()) {
            let x = random(!seed, (batch, columns));
            let q = FixedPointQuantizer::params(bits).symmetry(symmetry).granularity(granularity).quantize(random(seed, (rows, columns)).view()).unwrap();
            let dense: Array2<f64> = q.decompress().unwrap().into_dimensionality().unwrap();
            let expected = x.dot(&dense.t());
            let mut y = Array2::zeros((rows, batch));
            q.apply_into(x.view(), y.view_mut().reversed_axes()).unwrap();
            for ((i, o), expected) in expected.indexed_iter() {
                let rounding = 4.0 * columns as f64 * f64::EPSILON * columns as f64;
                let largest = x.row(i).fold(0.0, |a: f64, b| a.max(b.abs()));
                let moved = largest / 254.0 * dense.row(o).mapv(f64::abs).sum();
                let inputs = if bits == 8 { moved } else { 0.0 };
                prop_assert!((y[[o, i]] - expected).abs() <= inputs * (1.0 + 1e-12) + rounding);
                if bits <= 8 {
                    let y = q.apply_rounded(x.view()).unwrap()[[i, o]];
                    prop_assert!((y - expected).abs() <= moved * (1.0 + 1e-12) + rounding);
                } else {
                    prop_assert!(q.apply_rounded(x.view()).is_err());
                }
            }
        }

        // Inputs that are 8-bit integers already are not moved: the product is exact.
        #[test]
        fn integers_are_multiplied_exactly((symmetry, granularity) in kinds(), rows in 1_usize..40, columns in 1_usize..200, seed in any::<u64>()) {
            let mut x = random(!seed, (3, columns)).mapv(|x| (x * 127.0).round());
            x.column_mut(0).fill(127.0);
            let q = FixedPointQuantizer::params(8).symmetry(symmetry).granularity(granularity).quantize(random(seed, (rows, columns)).view()).unwrap();
            let dense: Array2<f64> = q.decompress().unwrap().into_dimensionality().unwrap();
            let expected = x.dot(&dense.t());
            for (y, expected) in q.apply(x.view()).unwrap().iter().zip(&expected) {
                prop_assert!((y - expected).abs() <= 4.0 * columns as f64 * 127.0 * f64::EPSILON * columns as f64);
            }
        }
    }

    #[test]
    fn rows_longer_than_a_sum_of_32_bits_are_summed_in_pieces() {
        let columns = integer::LONGEST + 100;
        let q = FixedPointQuantizer::params(8)
            .quantize(Array2::from_elem((2, columns), 1.0_f64).view())
            .unwrap();
        let y = q
            .apply(Array2::from_elem((1, columns), 1.0).view())
            .unwrap();
        // The scale of single precision: 127 · fl(1/127) is 1 but for ε.
        let relative = (y[[0, 0]] / columns as f64 - 1.0).abs();
        assert!(relative <= 2.0 * f64::from(f32::EPSILON), "{y}");
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        for bits in [4, 8] {
            let q = FixedPointQuantizer::params(bits)
                .quantize(array![[1.0, -1.0], [0.5, 0.5]].view())
                .unwrap();
            let y = q
                .apply(array![[f64::NAN, 1.0], [f64::INFINITY, 1.0]].view())
                .unwrap();
            assert!(y.iter().all(|y| !y.is_finite()), "{y}");
        }
    }

    #[test]
    fn forged_parts_are_refused() {
        let build = |shape, bits, codes: &[u8], scales: &[f32], offsets: &[f32]| {
            let symmetry = if offsets.is_empty() {
                Symmetry::Symmetric
            } else {
                Symmetry::Affine
            };
            FixedPointMatrix::from_parts(
                shape,
                bits,
                symmetry,
                Granularity::PerTensor,
                Precision::F16,
                codes,
                scales,
                offsets,
            )
        };
        // Two symmetric codes of 4 bits: 0..=14 stand for −7..=7.
        assert_eq!(
            build([1, 2], 4, &[0xe0], &[0.5], &[]).unwrap().integers(),
            array![[-7, 7]]
        );
        assert_eq!(
            build([1, 2], 4, &[0xf0], &[0.5], &[1.0])
                .unwrap()
                .integers(),
            array![[0, 15]]
        );
        for wrong in [
            build([1, 2], 4, &[0xf0], &[0.5], &[]),
            build([1, 2], 0, &[], &[0.5], &[]),
            build([1, 2], 17, &[0; 5], &[0.5], &[]),
            build([1, 2], 4, &[0xe0, 0], &[0.5], &[]),
            build([1, 1], 4, &[0x1e], &[0.5], &[]),
            build([1, 2], 4, &[0xe0], &[], &[]),
            build([1, 2], 4, &[0xe0], &[-0.5], &[]),
            build([1, 2], 4, &[0xe0], &[0.1], &[]),
            build([1, 2], 4, &[0xe0], &[f32::NAN], &[]),
            build([1, 2], 4, &[0xe0], &[0.5], &[f32::INFINITY]),
            build([1, 2], 4, &[0xe0], &[0.5], &[1.0, 2.0]),
            build([0, 2], 4, &[], &[0.5], &[]),
            build([usize::MAX, 2], 4, &[], &[0.5], &[]),
        ] {
            assert!(matches!(wrong, Err(Error::Malformed { .. })), "{wrong:?}");
        }
    }
}
