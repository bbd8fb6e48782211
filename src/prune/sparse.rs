//! A matrix of which few weights are left.

use std::borrow::Cow;

use ndarray::{Array2, ArrayView2, ArrayViewMut2, ArrayViewMutD, s};

use crate::artifact::check_apply;
use crate::kernels::Level;
use crate::packing::PackedCodes;
use crate::{
    Compressed, DType, Error, Float, LinearOp, Part, Precision, Result, Role, StorageBits, check,
    parallel,
};

/// Rows whose positions are unpacked together, and then used for all inputs.
const ROWS: usize = 16;
/// Inputs that go through the rows together.
const WIDTH: usize = 64;
/// From this number of inputs on, positions are unpacked rather than read as they are for each input.
const FEW: usize = 4;

/// Where the stored weights of a [`SparseMatrix`] stand, in row-major order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SparsePositions {
    /// A bit for every weight of the matrix, from the lowest bit of the first byte on: set where one is stored.
    Bitmap(Vec<u8>),
    /// For every stored weight the number of weights left out since the one before, each in `bits` bits.
    Gaps {
        /// The width of each number, from 0 to 32.
        bits: u32,
        /// The numbers, packed from the lowest bit of the first byte on.
        bytes: Vec<u8>,
    },
}

/// A matrix of shape (out_features, in_features) that stores only the weights that are not zero.
///
/// Their positions are kept as a bitmap (one bit a weight of the matrix) or as gaps (a few bits a stored weight),
/// whichever is smaller; gaps are as wide as the largest needs. The size is exact: a tenth of the weights is not a
/// tenth of the bytes.
///
/// It multiplies as it is: a single input runs over the bitmap, many inputs share the unpacking of each row. A
/// stored weight is never multiplied in another order for another number of threads.
///
/// ```
/// use ndarray::arr2;
/// use taper::prune::SparseMatrix;
/// use taper::{Compressed, LinearOp, Precision};
///
/// let weights = arr2(&[[0.0_f32, 2.0, 0.0, 0.0], [1.0, 0.0, 0.0, -3.0]]);
/// let sparse = SparseMatrix::from_dense(weights.view(), Precision::F32)?;
/// assert_eq!(sparse.nonzeros(), 3);
/// // One byte says where the three values of four bytes stand.
/// assert_eq!(sparse.storage().bytes(), 1 + 3 * 4);
/// assert_eq!(sparse.decompress()?, weights.clone().into_dyn());
/// let x = arr2(&[[1.0, 2.0, 3.0, 4.0]]);
/// assert_eq!(sparse.apply(x.view())?, x.dot(&weights.t()));
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct SparseMatrix<F: Float> {
    shape: [usize; 2],
    precision: Precision,
    positions: Positions,
    values: Vec<F>,
    /// For each row, and the end: the stored values before it, and where the first gap of the row is counted from.
    rows: Vec<(usize, usize)>,
}

#[derive(Debug, Clone, PartialEq)]
enum Positions {
    Bitmap(PackedCodes),
    Gaps(PackedCodes),
}

fn malformed(problem: String) -> Error {
    Error::Malformed {
        artifact: "SparseMatrix",
        problem,
    }
}

/// Bytes that are read as they are; the width of the gaps is one.
const GAP_BITS: &str = "gap_bits";

impl<F: Float> SparseMatrix<F> {
    /// The weights that are not zero, in the given precision.
    ///
    /// # Errors
    ///
    /// [`Error::EmptyAxis`], [`Error::NonFinite`], [`Error::ExceedsInput`] for more than 2³² columns, and
    /// [`Error::Overflow`] for a weight that the precision does not reach.
    pub fn from_dense(weights: ArrayView2<'_, F>, precision: Precision) -> Result<Self> {
        check::finite("weights", &weights)?;
        let shape = [weights.nrows(), weights.ncols()];
        let mut positions = Vec::new();
        let mut values = Vec::new();
        for (position, &weight) in weights.iter().enumerate() {
            if weight != F::zero() {
                positions.push(position);
                values.push(precision.round("a weight", weight)?);
            }
        }
        let packed = pack(&positions, weights.len());
        Self::build(shape, precision, packed, positions, values)
    }

    /// A matrix from what [`parts`](Compressed::parts) hold.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] where the bytes have not the length of `shape` and `values`, mark other numbers of
    /// weights than there are values, or lead beyond the matrix; [`Error::NonFinite`] and [`Error::EmptyAxis`].
    pub fn from_parts(
        shape: [usize; 2],
        precision: Precision,
        positions: SparsePositions,
        values: Vec<F>,
    ) -> Result<Self> {
        check::not_empty("SparseMatrix", &shape)?;
        let [rows, columns] = shape;
        let total = rows
            .checked_mul(columns)
            .ok_or_else(|| malformed(format!("{rows} × {columns} weights")))?;
        for (index, &value) in values.iter().enumerate() {
            if !value.is_finite() {
                return Err(Error::NonFinite {
                    what: "values",
                    index: vec![index],
                    value: value.as_f64(),
                });
            }
            if precision.round("a weight", value)? != value {
                return Err(malformed(format!(
                    "value {index} is {value}, which {precision:?} does not hold"
                )));
            }
        }
        let packed = match positions {
            SparsePositions::Bitmap(bytes) => {
                Positions::Bitmap(PackedCodes::from_bytes("SparseMatrix", bytes, total, 1)?)
            }
            SparsePositions::Gaps { bits, bytes } => Positions::Gaps(PackedCodes::from_bytes(
                "SparseMatrix",
                bytes,
                values.len(),
                bits,
            )?),
        };
        let found = unpack(&packed);
        if found.len() != values.len() {
            return Err(malformed(format!(
                "{} positions for {} values",
                found.len(),
                values.len()
            )));
        }
        if let Some(&position) = found.last().filter(|&&position| position >= total) {
            return Err(malformed(format!(
                "position {position} in a matrix of {total} weights"
            )));
        }
        Self::build(shape, precision, packed, found, values)
    }

    fn build(
        shape: [usize; 2],
        precision: Precision,
        packed: Positions,
        positions: Vec<usize>,
        values: Vec<F>,
    ) -> Result<Self> {
        let [count, columns] = shape;
        if columns > u32::MAX as usize {
            return Err(Error::ExceedsInput {
                what: "the number of columns",
                value: columns,
                limit: u32::MAX as usize,
            });
        }
        let rows = (0..=count)
            .map(|row| {
                let before = positions.partition_point(|&position| position < row * columns);
                let last = before.checked_sub(1).and_then(|i| positions.get(i));
                (before, last.map_or(0, |last| last + 1))
            })
            .collect();
        Ok(Self {
            shape,
            precision,
            positions: packed,
            values,
            rows,
        })
    }

    /// How many weights are stored.
    #[must_use]
    pub fn nonzeros(&self) -> usize {
        self.values.len()
    }

    /// The part of all weights that is stored.
    #[must_use]
    pub fn density(&self) -> f64 {
        let [rows, columns] = self.shape;
        self.values.len() as f64 / (rows as f64 * columns as f64)
    }

    /// The precision in which weights are stored.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Whether positions are kept as a bitmap (else as gaps).
    #[must_use]
    pub fn is_bitmap(&self) -> bool {
        matches!(self.positions, Positions::Bitmap(_))
    }

    /// The stored weights, row by row.
    #[must_use]
    pub fn values(&self) -> &[F] {
        &self.values
    }

    /// `values` are as many, and rounded to the precision.
    pub(super) fn replace_values(&mut self, values: Vec<F>) {
        debug_assert_eq!(values.len(), self.values.len());
        self.values = values;
    }

    /// The stored weights of a row; their columns go into `columns`.
    pub(super) fn row(&self, row: usize, columns: &mut Vec<u32>) -> &[F] {
        columns.clear();
        let at = |row: usize| self.rows.get(row).copied().unwrap_or_default();
        let ((start, mut next), (end, _)) = (at(row), at(row + 1));
        let first = row * self.shape[1];
        match &self.positions {
            Positions::Bitmap(bits) => {
                for_each_bit(bits.bytes(), first, self.shape[1], |column| {
                    columns.push(column as u32);
                });
            }
            Positions::Gaps(gaps) => {
                columns.resize(end - start, 0);
                gaps.unpack_into(start, columns);
                for column in columns {
                    let position = next + *column as usize;
                    *column = (position - first) as u32;
                    next = position + 1;
                }
            }
        }
        self.values.get(start..end).unwrap_or_default()
    }

    /// Sums over the rows for `x`, of shape (in, inputs) in blocks of at most [`WIDTH`] inputs, into `y`, of shape
    /// (rows, inputs).
    fn apply_many(&self, x: &[Vec<F>], inputs: usize, y: &mut [F]) {
        let level = Level::current();
        parallel::for_each_chunk_mut(y, ROWS * inputs, |chunk, out| {
            let mut columns = Vec::new();
            for (i, out) in out.chunks_mut(inputs).enumerate() {
                let values = self.row(chunk * ROWS + i, &mut columns);
                for (x, out) in x.iter().zip(out.chunks_mut(WIDTH)) {
                    F::sparse_row(level, &columns, values, x, out);
                }
            }
        });
    }

    /// The sums over the rows for one input.
    fn apply_one(&self, bits: &PackedCodes, x: &[F], y: &mut [F]) {
        let level = Level::current();
        parallel::for_each_chunk_mut(y, 4 * ROWS, |chunk, out| {
            for (i, out) in out.iter_mut().enumerate() {
                let row = chunk * 4 * ROWS + i;
                let start = self.rows.get(row).map_or(0, |row| row.0);
                let end = self.rows.get(row + 1).map_or(0, |row| row.0);
                let values = self.values.get(start..end).unwrap_or_default();
                *out = F::bitmap_dot(level, bits.bytes(), row * self.shape[1], values, x);
            }
        });
    }
}

/// Calls `f` with the place, counted from `start`, of each set bit among the `length` bits from `start` on.
fn for_each_bit(bytes: &[u8], start: usize, length: usize, mut f: impl FnMut(usize)) {
    let mut place = 0;
    while place < length {
        let offset = (start + place) % 8;
        let taken = (8 - offset).min(length - place);
        let byte = bytes.get((start + place) / 8).copied().unwrap_or(0);
        let mut bits = (byte >> offset) & (0xff >> (8 - taken));
        while bits != 0 {
            f(place + bits.trailing_zeros() as usize);
            bits &= bits - 1;
        }
        place += taken;
    }
}

/// The smaller form of `positions` among `total`.
fn pack(positions: &[usize], total: usize) -> Positions {
    let mut next = 0;
    let gaps: Option<Vec<u32>> = positions
        .iter()
        .map(|&position| {
            let gap = position - next;
            next = position + 1;
            u32::try_from(gap).ok()
        })
        .collect();
    if let Some(gaps) = gaps {
        let largest = gaps.iter().max().copied().unwrap_or(0);
        let bits = u32::BITS - largest.leading_zeros();
        // The width of the gaps is stored too, in a byte.
        if (positions.len() as u128 * u128::from(bits)).div_ceil(8) + 1 < total.div_ceil(8) as u128
        {
            return Positions::Gaps(PackedCodes::pack(&gaps, bits));
        }
    }
    let mut bits = vec![0; total];
    for &position in positions {
        if let Some(bit) = bits.get_mut(position) {
            *bit = 1;
        }
    }
    Positions::Bitmap(PackedCodes::pack(&bits, 1))
}

/// All positions in rising order; those of forged gaps may lie beyond the matrix.
fn unpack(packed: &Positions) -> Vec<usize> {
    match packed {
        Positions::Bitmap(bits) => {
            let mut positions = Vec::new();
            for_each_bit(bits.bytes(), 0, bits.len(), |position| {
                positions.push(position)
            });
            positions
        }
        Positions::Gaps(gaps) => {
            let mut next = 0_usize;
            let places = gaps.unpack().into_iter().map(|gap| {
                let position = next.saturating_add(gap as usize);
                next = position.saturating_add(1);
                position
            });
            places.collect()
        }
    }
}

impl<F: Float> Compressed<F> for SparseMatrix<F> {
    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn parts(&self) -> Vec<Part<'_>> {
        let part = |name, dtype, shape, role, bytes| Part {
            name,
            dtype,
            shape,
            role,
            bytes,
        };
        let mut parts = Vec::new();
        let (name, packed) = match &self.positions {
            Positions::Bitmap(bits) => ("bitmap", bits),
            Positions::Gaps(gaps) => {
                let bits = Cow::Owned(vec![gaps.bits() as u8]);
                parts.push(part(
                    GAP_BITS,
                    DType::U8,
                    vec![1],
                    Role::SideInformation,
                    bits,
                ));
                ("gaps", gaps)
            }
        };
        let bytes = packed.bytes();
        parts.push(part(
            name,
            DType::U8,
            vec![bytes.len()],
            Role::Payload,
            Cow::Borrowed(bytes),
        ));
        let values = self.precision.encode(self.values.iter().copied());
        parts.push(part(
            "values",
            self.precision.dtype(),
            vec![self.values.len()],
            Role::Payload,
            Cow::Owned(values),
        ));
        parts
    }

    fn storage(&self) -> StorageBits {
        let size = match &self.positions {
            Positions::Bitmap(bits) => {
                StorageBits::new().with("bitmap", Role::Payload, bits.total_bits())
            }
            Positions::Gaps(gaps) => StorageBits::new()
                .with(GAP_BITS, Role::SideInformation, 8)
                .with("gaps", Role::Payload, gaps.total_bits()),
        };
        let values = self.values.len() as u64 * self.precision.bits();
        size.with("values", Role::Payload, values)
    }

    fn decompress_into(&self, mut out: ArrayViewMutD<'_, F>) -> Result<()> {
        check::same_shape("out", &self.shape, out.shape())?;
        out.fill(F::zero());
        let mut columns = Vec::new();
        for (row, mut out) in out.outer_iter_mut().enumerate() {
            let values = self.row(row, &mut columns);
            for (&column, &value) in columns.iter().zip(values) {
                if let Some(weight) = out.get_mut([column as usize].as_slice()) {
                    *weight = value;
                }
            }
        }
        Ok(())
    }
}

impl<F: Float> LinearOp<F> for SparseMatrix<F> {
    fn apply_into(&self, x: ArrayView2<'_, F>, mut y: ArrayViewMut2<'_, F>) -> Result<()> {
        check_apply(self.shape, &x, &y)?;
        let inputs = x.nrows();
        if inputs == 0 {
            return Ok(());
        }
        match &self.positions {
            Positions::Bitmap(bits) if inputs < FEW => {
                let x = x.as_standard_layout();
                let mut sums = vec![F::zero(); self.shape[0]];
                for (x, mut y) in x.rows().into_iter().zip(y.rows_mut()) {
                    self.apply_one(bits, x.as_slice().unwrap_or_default(), &mut sums);
                    for (y, &sum) in y.iter_mut().zip(&sums) {
                        *y = sum;
                    }
                }
            }
            _ => {
                let blocks = parallel::map(inputs.div_ceil(WIDTH), |block| {
                    let start = block * WIDTH;
                    let rows = x.slice(s![start..inputs.min(start + WIDTH), ..]);
                    rows.t().iter().copied().collect::<Vec<F>>()
                });
                let mut sums = Array2::zeros((self.shape[0], inputs));
                if let Some(sums) = sums.as_slice_mut() {
                    self.apply_many(&blocks, inputs, sums);
                }
                y.assign(&sums.t());
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array2, Axis};
    use proptest::prelude::*;

    fn matrix(rows: usize, columns: usize, keep: usize, seed: usize) -> Array2<f32> {
        Array2::from_shape_fn((rows, columns), |(i, j)| {
            let mixed = (i * columns + j)
                .wrapping_mul(2_654_435_761)
                .wrapping_add(seed)
                % 1009;
            if mixed % 100 < keep {
                mixed as f32 / 504.0 - 1.0
            } else {
                0.0
            }
        })
    }

    fn forms(sparse: &SparseMatrix<f32>) -> SparsePositions {
        let parts = sparse.parts();
        let bytes = |name: &str| {
            let part = parts.iter().find(|part| part.name == name);
            part.map(|part| part.bytes.to_vec())
        };
        match bytes("bitmap") {
            Some(bytes) => SparsePositions::Bitmap(bytes),
            None => SparsePositions::Gaps {
                bits: bytes(GAP_BITS).unwrap()[0].into(),
                bytes: bytes("gaps").unwrap(),
            },
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_stored_is_the_matrix(
            rows in 1_usize..40,
            columns in 1_usize..70,
            keep in prop::sample::select(vec![0, 1, 3, 10, 50, 100]),
            inputs in 0_usize..140,
            seed in 0_usize..1000,
        ) {
            let weights = matrix(rows, columns, keep, seed);
            let sparse = SparseMatrix::from_dense(weights.view(), Precision::F32).unwrap();
            prop_assert_eq!(sparse.decompress().unwrap(), weights.clone().into_dyn());

            let bytes: usize = sparse.parts().iter().map(|part| part.bytes.len()).sum();
            prop_assert_eq!(sparse.storage().bytes(), bytes as u64);
            for part in sparse.parts() {
                let elements: usize = part.shape.iter().product();
                prop_assert_eq!(part.bytes.len(), elements * part.dtype.bytes());
            }
            // Never larger than a bitmap.
            prop_assert!(bytes <= (rows * columns).div_ceil(8) + 4 * sparse.nonzeros());

            let again = SparseMatrix::from_parts(
                [rows, columns], Precision::F32, forms(&sparse), sparse.values.clone(),
            );
            prop_assert_eq!(again.as_ref(), Ok(&sparse));

            // Inputs and outputs with strides of their own.
            let wide = matrix(columns, 2 * inputs, 100, seed + 1);
            let x = wide.slice(s![.., ..;2]).reversed_axes();
            let mut turned = Array2::from_elem((rows, inputs), f32::NAN);
            sparse.apply_into(x, turned.view_mut().reversed_axes()).unwrap();
            for ((o, b), &sum) in turned.indexed_iter() {
                let row = weights.row(o);
                let products = row.iter().zip(x.row(b)).map(|(&w, &x)| f64::from(w) * f64::from(x));
                let (exact, magnitude) = products.fold((0.0, 0.0), |(s, m), p| (s + p, m + p.abs()));
                // Of n products and n additions each loses half a unit in the last place.
                let bound = columns as f64 * f64::from(f32::EPSILON) * magnitude;
                prop_assert!((f64::from(sum) - exact).abs() <= bound);
            }
        }
    }

    #[test]
    fn the_smaller_form_is_taken() {
        let form = |keep| SparseMatrix::from_dense(matrix(64, 64, keep, 0).view(), Precision::F32);
        assert!(form(50).unwrap().is_bitmap());
        assert!(!form(1).unwrap().is_bitmap());
        let nothing = form(0).unwrap();
        assert_eq!(nothing.storage().bytes(), 1);
        assert_eq!(nothing.density(), 0.0);
    }

    #[test]
    fn half_precision_rounds_and_overflows() {
        let mut weights = matrix(5, 9, 50, 3);
        let sparse = SparseMatrix::from_dense(weights.view(), Precision::F16).unwrap();
        let size = sparse.storage();
        assert_eq!(size.payload(), 45 + 16 * sparse.nonzeros() as u64);
        for (&w, &rebuilt) in weights.iter().zip(&sparse.decompress().unwrap()) {
            assert!((w - rebuilt).abs() <= w.abs() / 2048.0);
        }
        let again = SparseMatrix::from_parts(
            [5, 9],
            Precision::F16,
            forms(&sparse),
            sparse.values.clone(),
        );
        assert_eq!(again, Ok(sparse));
        weights[[0, 0]] = 1e6;
        assert!(matches!(
            SparseMatrix::from_dense(weights.view(), Precision::F16),
            Err(Error::Overflow { .. })
        ));
    }

    #[test]
    fn forged_parts_are_refused() {
        let bitmap = |byte: u8| SparsePositions::Bitmap(vec![byte]);
        let from = |shape, positions, values: &[f32]| {
            SparseMatrix::from_parts(shape, Precision::F16, positions, values.to_vec())
        };
        assert!(from([2, 3], bitmap(0b11), &[1.0, 2.0]).is_ok());
        for (shape, positions, values) in [
            ([2, 3], bitmap(0b11), &[1.0][..]),
            ([2, 3], bitmap(0b100_0001), &[1.0, 2.0]),
            ([4, 3], bitmap(0b11), &[1.0, 2.0]),
            ([usize::MAX, 3], bitmap(0b11), &[1.0, 2.0]),
            // Not a number that half precision holds.
            ([2, 3], bitmap(0b11), &[1.0, 0.1]),
            (
                [2, 3],
                SparsePositions::Gaps {
                    bits: 4,
                    bytes: vec![0x51],
                },
                &[1.0, 2.0],
            ),
            (
                [2, 3],
                SparsePositions::Gaps {
                    bits: 4,
                    bytes: vec![0x51, 0],
                },
                &[1.0, 2.0],
            ),
            (
                [2, 3],
                SparsePositions::Gaps {
                    bits: 33,
                    bytes: vec![],
                },
                &[],
            ),
        ] {
            let result = from(shape, positions, values);
            assert!(matches!(result, Err(Error::Malformed { .. })), "{result:?}");
        }
        let gaps = SparsePositions::Gaps {
            bits: 4,
            bytes: vec![0x31],
        };
        assert!(from([2, 3], gaps, &[1.0, 2.0]).is_ok());
        assert!(matches!(
            from([2, 3], bitmap(1), &[f32::NAN]),
            Err(Error::NonFinite { .. })
        ));
        assert!(matches!(
            from([0, 3], bitmap(0), &[]),
            Err(Error::EmptyAxis { .. })
        ));
    }

    #[test]
    fn inputs_that_are_not_finite_show() {
        let weights = matrix(3, 40, 10, 1);
        let sparse = SparseMatrix::from_dense(weights.view(), Precision::F32).unwrap();
        for inputs in [1, 2, 70] {
            let mut x = Array2::ones((inputs, 40));
            x[[inputs - 1, 7]] = f32::INFINITY;
            let y = sparse.apply(x.view()).unwrap();
            let (finite, last) = y.view().split_at(Axis(0), inputs - 1);
            assert!(finite.iter().all(|y| y.is_finite()));
            assert!(last.iter().all(|y| !y.is_finite()));
        }
        assert!(matches!(
            sparse.apply(Array2::zeros((2, 39)).view()),
            Err(Error::ShapeMismatch { .. })
        ));
    }
}
