//! The positions of the weights of a sparse matrix: a bitmap, or the gaps between them.

use crate::kernels::Level;
use crate::kernels::sparse::bitmap_columns;
use crate::packing::PackedCodes;

/// The positions of the stored weights of a [`SparseMatrix`](super::SparseMatrix), in row-major order, as a file holds them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SparsePositions {
    /// A bit for every weight of the matrix, from the lowest bit of the first byte on: set if the weight is stored.
    Bitmap(Vec<u8>),
    /// For every stored weight the number of weights that are not stored between the one before and it, each in `bits` bits.
    Gaps {
        /// The width of each number, from 0 to 32.
        bits: u32,
        /// The numbers, packed from the lowest bit of the first byte on.
        bytes: Vec<u8>,
    },
}

/// The positions as they are stored.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Positions {
    Bitmap(PackedCodes),
    Gaps(PackedCodes),
}

impl Positions {
    /// Returns the smaller form of `positions`, which rise, among `total`.
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
            bits[position] = 1;
        }
        Self::Bitmap(PackedCodes::pack(&bits, 1))
    }

    /// Returns all positions in rising order. Those of forged gaps may lie beyond the matrix.
    pub(super) fn unpack(&self) -> Vec<usize> {
        match self {
            Self::Bitmap(bits) => {
                /// Bits that are read at a time, fewer than a column's 32 bits can count.
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
    let columns = &mut columns[used..];
    gaps.unpack_into(before, columns);
    // Columns are counted from the start of the row, in 32 bits; the first gap may begin in an earlier row.
    let mut next = (next as u32).wrapping_sub(first as u32);
    for column in columns {
        *column = column.wrapping_add(next);
        next = column.wrapping_add(1);
    }
}
