//! Products with a matrix that codes and codebooks stand for: sums of looked-up table entries.
//!
//! Codes come group by group. Where the split axis is the one that is summed over (in_features), each group
//! of an input has a table of its products with the centroids, and an output is a sum of table entries:
//! [`SumEntries`]. Where it is the other one (out_features), the inputs that share a code are summed first,
//! and each sum meets its centroid once: [`SumInputs`]; or, for short sub-vectors and a single input row,
//! the centroids themselves are summed: [`SumCentroids`].
//!
//! A code of 8 bits cannot leave a table of 256 entries, so that no look-up has to be checked: tables are
//! [padded](Code::table_length) to that length.

use super::vectorize::{Kernel, add, add_scaled, multiply_add};
use crate::Float;

/// An unpacked code: `u8` up to 256 centroids, `u32` above.
pub(crate) trait Code: Copy + Default + Send + Sync + 'static {
    /// A table that this code looks up in.
    type Table<'a, T: 'a>: Copy;
    /// A table that is written to by code.
    type TableMut<'a, T: 'a>;

    /// The length that a table for `centroids` entries must have.
    fn table_length(centroids: usize) -> usize;

    /// The tables that lie one after the other in `buffer`.
    fn tables<'a, T>(
        buffer: &'a [T],
        centroids: usize,
    ) -> impl Iterator<Item = Self::Table<'a, T>> + Clone;

    /// The first table of `buffer`, to be written to.
    fn table_mut<T>(buffer: &mut [T]) -> Option<Self::TableMut<'_, T>>;

    /// The entry of this code.
    fn entry<'a, T: 'a>(self, table: Self::Table<'a, T>) -> &'a T;

    /// The entry of this code, to be written to.
    fn entry_mut<'a, T: 'a>(self, table: &'a mut Self::TableMut<'_, T>) -> &'a mut T;
}

impl Code for u8 {
    type Table<'a, T: 'a> = &'a [T; 256];
    type TableMut<'a, T: 'a> = &'a mut [T; 256];

    fn table_length(_centroids: usize) -> usize {
        256
    }

    #[inline(always)]
    fn tables<T>(buffer: &[T], _centroids: usize) -> impl Iterator<Item = &[T; 256]> + Clone {
        buffer.as_chunks().0.iter()
    }

    #[inline(always)]
    fn table_mut<T>(buffer: &mut [T]) -> Option<&mut [T; 256]> {
        buffer.first_chunk_mut()
    }

    #[inline(always)]
    fn entry<'a, T: 'a>(self, table: &'a [T; 256]) -> &'a T {
        &table[usize::from(self)]
    }

    #[inline(always)]
    fn entry_mut<'a, T: 'a>(self, table: &'a mut &mut [T; 256]) -> &'a mut T {
        &mut table[usize::from(self)]
    }
}

impl Code for u32 {
    type Table<'a, T: 'a> = &'a [T];
    type TableMut<'a, T: 'a> = &'a mut [T];

    fn table_length(centroids: usize) -> usize {
        centroids
    }

    #[inline(always)]
    fn tables<T>(buffer: &[T], centroids: usize) -> impl Iterator<Item = &[T]> + Clone {
        buffer.chunks_exact(centroids)
    }

    #[inline(always)]
    fn table_mut<T>(buffer: &mut [T]) -> Option<&mut [T]> {
        Some(buffer)
    }

    #[inline(always)]
    fn entry<'a, T: 'a>(self, table: &'a [T]) -> &'a T {
        &table[self as usize]
    }

    #[inline(always)]
    fn entry_mut<'a, T: 'a>(self, table: &'a mut &mut [T]) -> &'a mut T {
        &mut table[self as usize]
    }
}

/// The products of the centroids of one group with the sub-vectors of one input row.
///
/// `table[c] = Σ_j codebook[j][c] · x[j]`.
pub(crate) struct RowTable<'a, F> {
    /// One codebook, (width, centroids).
    pub codebook: &'a [F],
    /// One sub-vector of the input, (width).
    pub x: &'a [F],
    /// At least as many entries as there are centroids.
    pub table: &'a mut [F],
}

impl<F: Float> Kernel for RowTable<'_, F> {
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        const BLOCK: usize = 32;
        let centroids = self.codebook.len() / self.x.len().max(1);
        let table = self.table.get_mut(..centroids).unwrap_or_default();
        let (blocks, rest) = table.as_chunks_mut::<BLOCK>();
        let mut start = 0;
        for block in blocks {
            let mut sum = [F::zero(); BLOCK];
            for (row, &x) in self.codebook.chunks_exact(centroids).zip(self.x) {
                if let Some(values) = row.get(start..).and_then(|row| row.first_chunk::<BLOCK>()) {
                    add_scaled::<F, BLOCK, FUSED>(&mut sum, x, values);
                }
            }
            *block = sum;
            start += BLOCK;
        }
        rest.fill(F::zero());
        for (row, &x) in self.codebook.chunks_exact(centroids.max(1)).zip(self.x) {
            for (sum, &c) in rest.iter_mut().zip(row.get(start..).unwrap_or_default()) {
                *sum = multiply_add::<F, FUSED>(x, c, *sum);
            }
        }
    }
}

/// Adds one table entry a group to each output of one input row.
///
/// `y[o] += Σ_g tables[g][codes[g][o]]`.
pub(crate) struct RowEntries<'a, F, C> {
    /// A table for each group.
    pub tables: &'a [F],
    /// How many centroids a table is made of.
    pub centroids: usize,
    /// The codes of the first group for these outputs; those of the next group lie `stride` further on.
    pub codes: &'a [C],
    /// From the codes of one group to those of the next.
    pub stride: usize,
    /// The outputs.
    pub y: &'a mut [F],
}

impl<F: Float, C: Code> Kernel for RowEntries<'_, F, C> {
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        // As many sums at a time as keep the adders busy without leaving the registers.
        const BLOCK: usize = 8;
        let tables = C::tables(self.tables, self.centroids);
        let (blocks, rest) = self.y.as_chunks_mut::<BLOCK>();
        let done = blocks.len() * BLOCK;
        for (b, block) in blocks.iter_mut().enumerate() {
            let mut sum = *block;
            let codes = self.codes.get(b * BLOCK..).unwrap_or_default();
            for (table, codes) in tables.clone().zip(codes.chunks(self.stride)) {
                if let Some(codes) = codes.first_chunk::<BLOCK>() {
                    for (s, code) in sum.iter_mut().zip(codes) {
                        *s += *code.entry(table);
                    }
                }
            }
            *block = sum;
        }
        for (o, sum) in rest.iter_mut().enumerate() {
            let codes = self.codes.iter().skip(done + o).step_by(self.stride);
            for (table, code) in tables.clone().zip(codes) {
                *sum += *code.entry(table);
            }
        }
    }
}

/// [`RowTable`] and [`RowEntries`] for `N` input rows side by side, one group.
///
/// `table[c][n] = Σ_j codebook[j][c] · x[j][n]`, then `y[o][n] += table[codes[o]][n]`.
pub(crate) struct SumEntries<'a, F, C, const N: usize> {
    /// One codebook, (width, centroids).
    pub codebook: &'a [F],
    /// One sub-vector of each input row, (width).
    pub x: &'a [[F; N]],
    /// Room for a table.
    pub table: &'a mut [[F; N]],
    /// A code for each output.
    pub codes: &'a [C],
    /// The outputs.
    pub y: &'a mut [[F; N]],
}

impl<F: Float, C: Code, const N: usize> Kernel for SumEntries<'_, F, C, N> {
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let centroids = self.codebook.len() / self.x.len().max(1);
        for (c, entry) in self.table.iter_mut().take(centroids).enumerate() {
            let mut sum = [F::zero(); N];
            let column = self.codebook.iter().skip(c).step_by(centroids);
            for (x, &value) in self.x.iter().zip(column) {
                add_scaled::<F, N, FUSED>(&mut sum, value, x);
            }
            *entry = sum;
        }
        let Some(table) = C::tables(self.table, centroids).next() else {
            return;
        };
        for (y, code) in self.y.iter_mut().zip(self.codes) {
            add(y, code.entry(table));
        }
    }
}

/// Adds to each group of outputs of one input row the centroids of its codes, times the inputs.
///
/// `y[j] += Σ_i x[i] · codebook[codes[i]][j]`.
pub(crate) struct SumCentroids<'a, F, C, const D: usize> {
    /// One codebook, padded to the length of a table.
    pub codebook: &'a [[F; D]],
    /// How many centroids the codebook has.
    pub centroids: usize,
    /// A code for each input.
    pub codes: &'a [C],
    /// The inputs.
    pub x: &'a [F],
    /// The outputs.
    pub y: &'a mut [F; D],
}

impl<F: Float, C: Code, const D: usize> Kernel for SumCentroids<'_, F, C, D> {
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        // An addition waits for the one before it: several sums run side by side.
        const SUMS: usize = 8;
        let Some(table) = C::tables(self.codebook, self.centroids).next() else {
            return;
        };
        let mut sums = [[F::zero(); D]; SUMS];
        let (code_blocks, rest_codes) = self.codes.as_chunks::<SUMS>();
        let (x_blocks, rest_x) = self.x.as_chunks::<SUMS>();
        for (codes, x) in code_blocks.iter().zip(x_blocks) {
            for ((sum, code), &x) in sums.iter_mut().zip(codes).zip(x) {
                add_scaled::<F, D, FUSED>(sum, x, code.entry(table));
            }
        }
        for ((sum, code), &x) in sums.iter_mut().zip(rest_codes).zip(rest_x) {
            add_scaled::<F, D, FUSED>(sum, x, code.entry(table));
        }
        for sum in &sums {
            add(self.y, sum);
        }
    }
}

/// Sums the inputs that share a code, `N` input rows side by side, then multiplies with the centroids.
///
/// `sums[codes[i]][n] += x[i][n]`, then `y[j][n] = Σ_c codebook[c][j] · sums[c][n]`.
pub(crate) struct SumInputs<'a, F, C, const N: usize> {
    /// One codebook, (centroids, width).
    pub codebook: &'a [F],
    /// How many centroids the codebook has.
    pub centroids: usize,
    /// A code for each input.
    pub codes: &'a [C],
    /// The inputs.
    pub x: &'a [[F; N]],
    /// Room for the sums: a table.
    pub sums: &'a mut [[F; N]],
    /// The outputs of one group, (width).
    pub y: &'a mut [[F; N]],
}

impl<F: Float, C: Code, const N: usize> Kernel for SumInputs<'_, F, C, N> {
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        const BLOCK: usize = 4;
        let Self {
            codebook, sums, y, ..
        } = self;
        for sum in sums.iter_mut().take(self.centroids) {
            *sum = [F::zero(); N];
        }
        if let Some(mut table) = C::table_mut(sums) {
            for (code, x) in self.codes.iter().zip(self.x) {
                add(code.entry_mut(&mut table), x);
            }
        }
        let width = y.len();
        let (blocks, rest) = y.as_chunks_mut::<BLOCK>();
        let done = blocks.len() * BLOCK;
        for (b, block) in blocks.iter_mut().enumerate() {
            let mut total = [[F::zero(); N]; BLOCK];
            for (row, sum) in codebook.chunks_exact(width).zip(sums.iter()) {
                if let Some(values) = row.get(b * BLOCK..).and_then(|r| r.first_chunk::<BLOCK>()) {
                    for (t, &value) in total.iter_mut().zip(values) {
                        add_scaled::<F, N, FUSED>(t, value, sum);
                    }
                }
            }
            *block = total;
        }
        for (j, y) in rest.iter_mut().enumerate() {
            let mut total = [F::zero(); N];
            let column = codebook.iter().skip(done + j).step_by(width.max(1));
            for (&value, sum) in column.zip(sums.iter()) {
                add_scaled::<F, N, FUSED>(&mut total, value, sum);
            }
            *y = total;
        }
    }
}
