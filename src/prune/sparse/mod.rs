//! A matrix that stores few of its weights.

mod apply;
mod positions;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use ndarray::{ArrayView2, ArrayViewMutD};

use self::positions::Positions;
use crate::kernels::Level;
use crate::kernels::sparse::bitmap_columns;
use crate::packing::PackedCodes;
use crate::{Compressed, DType, Error, Float, Part, Precision, Result, Role, StorageBits, check};

pub(crate) use self::positions::SparsePositions;

/// A matrix of shape (out_features, in_features) that stores only the weights that are not zero.
///
/// Positions are stored as a bitmap (one bit for each weight of the matrix) or as gaps (a few bits for each stored weight,
/// enough for the largest gap), whichever is smaller. They count in the size, so a tenth of the weights takes more than a
/// tenth of the bytes.
///
/// [`LinearOp`](crate::LinearOp) multiplies without decompressing.
///
/// ```
/// use ndarray::arr2;
/// use taper::prune::SparseMatrix;
/// use taper::{Compressed, LinearOp, Precision};
///
/// let weights = arr2(&[[0.0_f32, 2.0, 0.0, 0.0], [1.0, 0.0, 0.0, -3.0]]);
/// let sparse = SparseMatrix::from_dense(weights.view(), Precision::F32)?;
/// assert_eq!(sparse.nonzeros(), 3);
/// // One byte for the positions, three values of four bytes.
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
    /// For each row and for the end: the number of stored values before it, and the position from which the first gap of the
    /// row is counted.
    rows: Vec<(usize, usize)>,
}

fn malformed(problem: String) -> Error {
    Error::Malformed {
        artifact: "SparseMatrix",
        problem,
    }
}

/// The part that holds the number of bits of a gap.
const GAP_BITS: &str = "gap_bits";

impl<F: Float> SparseMatrix<F> {
    /// Creates a matrix of the weights that are not zero after they are rounded to the given precision.
    ///
    /// The absolute error of a weight is at most the relative rounding error of the precision times the largest magnitude.
    ///
    /// # Errors
    ///
    /// [`Error::EmptyAxis`], [`Error::NonFinite`], [`Error::ExceedsInput`] for more than 2³² − 1 columns,
    /// [`Error::Overflow`] for a weight beyond the range of the precision, and [`Error::Underflow`] where the largest
    /// magnitude is too small for it.
    pub fn from_dense(weights: ArrayView2<'_, F>, precision: Precision) -> Result<Self> {
        check::finite("weights", &weights)?;
        Self::from_finite(weights, precision)
    }

    /// [`from_dense`](Self::from_dense) of weights that are finite.
    pub(super) fn from_finite(weights: ArrayView2<'_, F>, precision: Precision) -> Result<Self> {
        let shape = [weights.nrows(), weights.ncols()];
        let mut positions = Vec::new();
        let mut values = Vec::new();
        let mut rounded = weights.to_owned();
        precision.round_tensor("a weight", &mut rounded)?;
        for (position, &weight) in rounded.iter().enumerate() {
            if weight != F::zero() {
                positions.push(position);
                values.push(weight);
            }
        }
        let packed = Positions::pack(&positions, weights.len());
        Self::build(shape, precision, packed, positions, values)
    }

    /// Creates a matrix from the contents of its [`parts`](Compressed::parts).
    ///
    /// `positions` is the `bitmap` if `gap_bits` is `None`: a bit for every weight of the matrix in row-major order, from the
    /// lowest bit of the first byte on, set if the weight is stored. Otherwise it holds the `gaps`: for every stored weight the
    /// number of weights left out since the one before it, packed in `gap_bits` bits each (0 to 32).
    ///
    /// ```
    /// use taper::prune::SparseMatrix;
    /// use taper::{Compressed, Precision};
    ///
    /// // Weights 1 and 4 of a matrix of 2 × 3.
    /// for (gap_bits, positions) in [(None, vec![0b01_0010]), (Some(2), vec![0b10_01])] {
    ///     let values = vec![7.0_f32, 8.0];
    ///     let sparse = SparseMatrix::from_parts([2, 3], Precision::F32, gap_bits, positions, values)?;
    ///     let dense: Vec<f32> = sparse.decompress()?.into_iter().collect();
    ///     assert_eq!(dense, [0.0, 7.0, 0.0, 0.0, 8.0, 0.0]);
    /// }
    /// # Ok::<(), taper::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] for positions of another length or number than `shape` and `values` need, for positions beyond
    /// the matrix, and for values that the precision cannot hold; [`Error::NonFinite`] and [`Error::EmptyAxis`].
    pub fn from_parts(
        shape: [usize; 2],
        precision: Precision,
        gap_bits: Option<u32>,
        positions: Vec<u8>,
        values: Vec<F>,
    ) -> Result<Self> {
        let positions = match gap_bits {
            None => SparsePositions::Bitmap(positions),
            Some(bits) => SparsePositions::Gaps {
                bits,
                bytes: positions,
            },
        };
        Self::from_positions(shape, precision, positions, values)
    }

    /// [`from_parts`](Self::from_parts), with the form of the positions as a type.
    pub(crate) fn from_positions(
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
        let found = packed.unpack();
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
                let last = before.checked_sub(1).map(|i| positions[i]);
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

    /// Returns how many weights are stored.
    #[must_use]
    pub fn nonzeros(&self) -> usize {
        self.values.len()
    }

    /// Returns the fraction of all weights that is stored.
    fn density(&self) -> f64 {
        let [rows, columns] = self.shape;
        self.values.len() as f64 / (rows as f64 * columns as f64)
    }

    /// Returns the precision in which weights are stored.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Returns the stored weights, row by row.
    #[must_use]
    pub fn values(&self) -> &[F] {
        &self.values
    }

    /// Replaces the stored weights by as many others, which are rounded to the precision.
    pub(super) fn replace_values(&mut self, values: Vec<F>) {
        debug_assert_eq!(values.len(), self.values.len());
        self.values = values;
    }

    /// Returns the stored weights of a row and writes their columns to `columns`.
    pub(super) fn row(&self, row: usize, columns: &mut Vec<u32>) -> &[F] {
        columns.clear();
        self.append_columns(Level::current(), row, columns);
        self.values_of(row, row + 1)
    }

    /// Returns the stored weights of the rows `start..end`.
    fn values_of(&self, start: usize, end: usize) -> &[F] {
        &self.values[self.rows[start].0..self.rows[end].0]
    }

    /// Appends the columns of the stored weights of `row`.
    fn append_columns(&self, level: Level, row: usize, columns: &mut Vec<u32>) {
        let width = self.shape[1];
        let (before, next) = self.rows[row];
        let count = self.values_of(row, row + 1).len();
        let first = row * width;
        match &self.positions {
            Positions::Bitmap(bits) => {
                bitmap_columns(level, bits.bytes(), first, width, columns);
            }
            Positions::Gaps(gaps) => {
                positions::gap_columns(gaps, before, count, next, first, columns)
            }
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
                out[column as usize] = value;
            }
        }
        Ok(())
    }
}
