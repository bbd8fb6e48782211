//! Where the weights of a sparse matrix stand: a bitmap, or the gaps between them.

use crate::kernels::Level;
use crate::kernels::sparse::bitmap_columns;
use crate::packing::PackedCodes;

/// Where the stored weights of a [`SparseMatrix`](super::SparseMatrix) stand, in row-major order.
///
/// ```
/// use taper::prune::{SparseMatrix, SparsePositions};
/// use taper::{Compressed, Precision};
///
/// // Weights 1 and 4 of a matrix of 2 × 3: as bits, and as the weights left out before each.
/// let bitmap = SparsePositions::Bitmap(vec![0b01_0010]);
/// let gaps = SparsePositions::Gaps { bits: 2, bytes: vec![0b10_01] };
/// for positions in [bitmap, gaps] {
///     let values = vec![7.0_f32, 8.0];
///     let sparse = SparseMatrix::from_parts([2, 3], Precision::F32, positions, values)?;
///     let dense: Vec<f32> = sparse.decompress()?.into_iter().collect();
///     assert_eq!(dense, [0.0, 7.0, 0.0, 0.0, 8.0, 0.0]);
/// }
/// # Ok::<(), taper::Error>(())
/// ```
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

/// The positions as they are kept.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Positions {
    Bitmap(PackedCodes),
    Gaps(PackedCodes),
}

impl Positions {
    /// The smaller form of `positions`, which rise, among `total`.
    pub(super) fn pack(positions: &[usize], total: usize) -> Self {
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
            let bytes = (positions.len() as u128 * u128::from(bits)).div_ceil(8) + 1;
            if bytes < total.div_ceil(8) as u128 {
                return Self::Gaps(PackedCodes::pack(&gaps, bits));
            }
        }
        let mut bits = vec![0; total];
        for &position in positions {
            if let Some(bit) = bits.get_mut(position) {
                *bit = 1;
            }
        }
        Self::Bitmap(PackedCodes::pack(&bits, 1))
    }

    /// All positions in rising order; those of forged gaps may lie beyond the matrix.
    pub(super) fn unpack(&self) -> Vec<usize> {
        match self {
            Self::Bitmap(bits) => {
                /// Bits that are read at a time: a column is a number of 32 bits.
                const RUN: usize = 1 << 20;
                let mut positions = Vec::new();
                let mut found = Vec::new();
                for start in (0..bits.len()).step_by(RUN) {
                    let length = RUN.min(bits.len() - start);
                    found.clear();
                    bitmap_columns(Level::current(), bits.bytes(), start, length, &mut found);
                    positions.extend(found.iter().map(|&place| start + place as usize));
                }
                positions
            }
            Self::Gaps(gaps) => {
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
}

/// Appends the columns to which the `count` gaps after the first `before` lead, of the row that begins at position
/// `first`; the first gap is counted from position `next`.
pub(super) fn gap_columns(
    gaps: &PackedCodes,
    before: usize,
    count: usize,
    next: usize,
    first: usize,
    columns: &mut Vec<u32>,
) {
    let used = columns.len();
    columns.resize(used + count, 0);
    let columns = columns.get_mut(used..).unwrap_or_default();
    gaps.unpack_into(before, columns);
    // From the row's own start on a column has 32 bits; the first gap may begin in a row before.
    let mut next = (next as u32).wrapping_sub(first as u32);
    for column in columns {
        *column = column.wrapping_add(next);
        next = column.wrapping_add(1);
    }
}
