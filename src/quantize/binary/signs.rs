//! A matrix of signs, one bit each: binary weights and binary activations consist of it.

use ndarray::ArrayView2;

use super::straight_through::sign;
use crate::{Error, Float, Result, parallel};

/// A matrix of ±1, a set bit for +1.
///
/// In memory a row begins at a word of 64 bits, so that rows are compared word by word; in a file the rows
/// follow each other bit by bit. Bits beyond the end of a row are zero and have no meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Signs {
    rows: usize,
    columns: usize,
    words: Vec<u64>,
}

impl Signs {
    /// The signs of `values`.
    pub(super) fn of<F: Float>(values: ArrayView2<'_, F>) -> Self {
        Self::from_fn(values.dim(), |i, row| {
            let values = values.row(i);
            match values.as_slice() {
                Some(values) => pack(values.iter().map(|&x| sign(x) > F::zero()), row),
                None => pack(values.iter().map(|&x| sign(x) > F::zero()), row),
            }
        })
    }

    /// Signs whose row i is written by `fill(i, words)` into words that are zero.
    pub(super) fn from_fn(
        (rows, columns): (usize, usize),
        fill: impl Fn(usize, &mut [u64]) + Sync + Send,
    ) -> Self {
        let width = columns.div_ceil(64);
        let mut words = vec![0; rows * width];
        // A task of fewer than some thousand values takes less time than its start.
        let together = (1_usize << 14).div_ceil(columns.max(1));
        parallel::for_each_chunk_mut(&mut words, together * width, |chunk, words| {
            for (i, row) in words.chunks_mut(width.max(1)).enumerate() {
                fill(chunk * together + i, row);
            }
        });
        Self {
            rows,
            columns,
            words,
        }
    }

    /// Signs in the layout of a file.
    pub(super) fn from_bytes(
        artifact: &'static str,
        rows: usize,
        columns: usize,
        bytes: &[u8],
    ) -> Result<Self> {
        let malformed = |problem| Error::Malformed { artifact, problem };
        let count = rows
            .checked_mul(columns)
            .filter(|&count| count > 0)
            .ok_or_else(|| malformed(format!("there is no matrix of {rows} by {columns} signs")))?;
        if bytes.len() != count.div_ceil(8) {
            return Err(malformed(format!(
                "{rows} by {columns} signs take {} bytes, found {}",
                count.div_ceil(8),
                bytes.len()
            )));
        }
        if count % 8 > 0 && bytes.last().is_some_and(|&last| last >> (count % 8) != 0) {
            return Err(malformed("bits are set beyond the last sign".to_owned()));
        }
        Ok(Self::from_fn((rows, columns), |i, row| {
            let bit = |j: usize| {
                let position = i * columns + j;
                bytes
                    .get(position / 8)
                    .is_some_and(|byte| byte >> (position % 8) & 1 == 1)
            };
            pack((0..columns).map(bit), row);
        }))
    }

    /// The bits of all rows without gaps, from the lowest bit of a byte on.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity((self.rows * self.columns).div_ceil(8));
        let (mut buffer, mut filled) = (0_u128, 0);
        for i in 0..self.rows {
            let mut left = self.columns;
            for &word in self.row(i) {
                let bits = left.min(64);
                buffer |= u128::from(word) << filled;
                filled += bits;
                left -= bits;
                while filled >= 8 {
                    bytes.push(buffer as u8);
                    buffer >>= 8;
                    filled -= 8;
                }
            }
        }
        if filled > 0 {
            bytes.push(buffer as u8);
        }
        bytes
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    /// The number of words of a row.
    pub(super) fn width(&self) -> usize {
        self.columns.div_ceil(64)
    }

    pub(super) fn words(&self) -> &[u64] {
        &self.words
    }

    pub(super) fn row(&self, i: usize) -> &[u64] {
        let width = self.width();
        &self.words[i * width..(i + 1) * width]
    }

    /// The signs of row `i` as numbers.
    pub(super) fn row_values<F: Float>(&self, i: usize) -> impl Iterator<Item = F> + '_ {
        self.row(i)
            .iter()
            .flat_map(|&word| (0..64).map(move |bit| word >> bit & 1 == 1))
            .take(self.columns)
            .map(|set| if set { F::one() } else { -F::one() })
    }
}

/// Sets the bits of `row` that are true.
pub(super) fn pack(bits: impl Iterator<Item = bool>, row: &mut [u64]) {
    let mut bits = bits.fuse();
    for word in row {
        *word = bits
            .by_ref()
            .take(64)
            .enumerate()
            .fold(0, |word, (k, set)| word | u64::from(set) << k);
    }
}
