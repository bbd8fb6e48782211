//! Products with a matrix of codes and codebooks: sums of looked-up table entries.
//!
//! Codes are stored group by group. If the split axis is the one that is summed over (in_features), each group of an input
//! has a table of its products with the centroids, and an output is a sum of table entries: [`RowEntries`], [`Entries`].
//! If it is the other axis (out_features), the inputs that share a code are summed first, and each sum is multiplied by its
//! centroid once: [`SumInputs`]. For short sub-vectors and a single input row, the centroids themselves are summed:
//! [`SumCentroids`].
//!
//! Every table of 8-bit codes has [room](Code::room) for 256 entries, so that look-ups need no bounds check.

use super::Level;
use super::vectorize::{Kernel, add, add_scaled, multiply_add, run};
use crate::Float;

/// An unpacked code: `u8` up to 256 centroids, `u32` above.
pub(crate) trait Code: Copy + Default + Send + Sync + 'static {
    /// A table that this code looks up in.
    type Table<'a, T: 'a>: Copy;
    /// A table whose entries are written to.
    type TableMut<'a, T: 'a>;

    /// The length of a buffer for `tables` tables of `centroids` entries each, one after the other.
    ///
    /// Entries behind the last table may be read, but no code selects them.
    fn room(tables: usize, centroids: usize) -> usize;

    /// The table with the number `index` in `buffer`, which has [room](Self::room) for more than `index` tables.
    fn table<T>(buffer: &[T], centroids: usize, index: usize) -> Self::Table<'_, T>;

    /// The first table of `buffer`, to be written to.
    fn table_mut<T>(buffer: &mut [T]) -> Self::TableMut<'_, T>;

    /// The entry of this code.
    fn entry<'a, T: 'a>(self, table: Self::Table<'a, T>) -> &'a T;

    /// The entry of this code, to be written to.
    fn entry_mut<'a, T: 'a>(self, table: &'a mut Self::TableMut<'_, T>) -> &'a mut T;

    /// These codes as bytes, if they are bytes.
    fn bytes(codes: &[Self]) -> Option<&[u8]>;
}

const ROOM: &str = "buffers have room for 256 entries from the start of each table on";

impl Code for u8 {
    type Table<'a, T: 'a> = &'a [T; 256];
    type TableMut<'a, T: 'a> = &'a mut [T; 256];

    /// Each table of 256 entries overlaps the tables that follow it.
    fn room(tables: usize, centroids: usize) -> usize {
        tables.saturating_sub(1) * centroids + 256
    }

    #[inline(always)]
    fn table<T>(buffer: &[T], centroids: usize, index: usize) -> &[T; 256] {
        buffer[index * centroids..].first_chunk().expect(ROOM)
    }

    #[inline(always)]
    fn table_mut<T>(buffer: &mut [T]) -> &mut [T; 256] {
        buffer.first_chunk_mut().expect(ROOM)
    }

    #[inline(always)]
    fn entry<'a, T: 'a>(self, table: &'a [T; 256]) -> &'a T {
        &table[usize::from(self)]
    }

    #[inline(always)]
    fn entry_mut<'a, T: 'a>(self, table: &'a mut &mut [T; 256]) -> &'a mut T {
        &mut table[usize::from(self)]
    }

    fn bytes(codes: &[u8]) -> Option<&[u8]> {
        Some(codes)
    }
}

impl Code for u32 {
    type Table<'a, T: 'a> = &'a [T];
    type TableMut<'a, T: 'a> = &'a mut [T];

    fn room(tables: usize, centroids: usize) -> usize {
        tables * centroids
    }

    #[inline(always)]
    fn table<T>(buffer: &[T], centroids: usize, index: usize) -> &[T] {
        &buffer[index * centroids..(index + 1) * centroids]
    }

    #[inline(always)]
    fn table_mut<T>(buffer: &mut [T]) -> &mut [T] {
        buffer
    }

    #[inline(always)]
    fn entry<'a, T: 'a>(self, table: &'a [T]) -> &'a T {
        &table[self as usize]
    }

    #[inline(always)]
    fn entry_mut<'a, T: 'a>(self, table: &'a mut &mut [T]) -> &'a mut T {
        &mut table[self as usize]
    }

    fn bytes(_codes: &[u32]) -> Option<&[u8]> {
        None
    }
}

/// The `N` values of `row` from `start` on.
#[inline(always)]
fn part<F, const N: usize>(row: &[F], start: usize) -> &[F; N] {
    row[start..]
        .first_chunk()
        .expect("a block ends within its row")
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
        let (blocks, rest) = self.table[..centroids].as_chunks_mut::<BLOCK>();
        let mut start = 0;
        for block in blocks {
            let mut sum = [F::zero(); BLOCK];
            for (row, &x) in self.codebook.chunks_exact(centroids).zip(self.x) {
                add_scaled::<F, BLOCK, FUSED>(&mut sum, x, part(row, start));
            }
            *block = sum;
            start += BLOCK;
        }
        rest.fill(F::zero());
        for (row, &x) in self.codebook.chunks_exact(centroids.max(1)).zip(self.x) {
            for (sum, &c) in rest.iter_mut().zip(&row[start..]) {
                *sum = multiply_add::<F, FUSED>(x, c, *sum);
            }
        }
    }
}

/// Adds the table entry of its code to each output of one input row, or replaces the output by it.
///
/// `y[o] += table[codes[o]]`, or `y[o] = table[codes[o]]`.
pub(crate) struct RowEntries<'a, F, C> {
    /// With [room](Code::room) for a table.
    pub table: &'a [F],
    /// The number of centroids.
    pub centroids: usize,
    /// A code for each output.
    pub codes: &'a [C],
    /// The outputs.
    pub y: &'a mut [F],
    /// Whether entries are added to what `y` holds.
    pub add: bool,
}

impl<F: Float, C: Code> RowEntries<'_, F, C> {
    /// Runs at `level`, with [permutations](super::permute) of registers if the level has them.
    pub(crate) fn run_at(self, level: Level) {
        let table = &self.table[..self.centroids];
        match C::bytes(self.codes) {
            Some(codes) if F::permutes(level) => F::permute(table, codes, self.y, self.add),
            // The scalar form: in wider ones the compiler uses gathers, which are slower than single loads.
            _ => run(Level::Scalar, self),
        }
    }
}

impl<F: Float, C: Code> Kernel for RowEntries<'_, F, C> {
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let table = C::table(self.table, self.centroids, 0);
        let outputs = self.y.iter_mut().zip(self.codes);
        if self.add {
            outputs.for_each(|(y, code)| *y += *code.entry(table));
        } else {
            outputs.for_each(|(y, code)| *y = *code.entry(table));
        }
    }
}

/// [`RowTable`] for `N` input rows side by side.
///
/// `table[c][n] = Σ_j codebook[j][c] · x[j][n]`.
pub(crate) struct Table<'a, F, const N: usize> {
    /// One codebook, (width, centroids).
    pub codebook: &'a [F],
    /// One sub-vector of each input row, (width).
    pub x: &'a [[F; N]],
    /// At least as many entries as there are centroids.
    pub table: &'a mut [[F; N]],
}

impl<F: Float, const N: usize> Kernel for Table<'_, F, N> {
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        // Several sums side by side, because each addition waits for the one before it.
        const BLOCK: usize = 4;
        let centroids = self.codebook.len() / self.x.len().max(1);
        let (blocks, rest) = self.table[..centroids].as_chunks_mut::<BLOCK>();
        let done = blocks.len() * BLOCK;
        for (b, block) in blocks.iter_mut().enumerate() {
            let mut sums = [[F::zero(); N]; BLOCK];
            for (row, x) in self.codebook.chunks_exact(centroids).zip(self.x) {
                let values: &[F; BLOCK] = part(row, b * BLOCK);
                for (sum, &value) in sums.iter_mut().zip(values) {
                    add_scaled::<F, N, FUSED>(sum, value, x);
                }
            }
            *block = sums;
        }
        for (c, entry) in rest.iter_mut().enumerate() {
            let mut sum = [F::zero(); N];
            let column = self.codebook.iter().skip(done + c).step_by(centroids);
            for (x, &value) in self.x.iter().zip(column) {
                add_scaled::<F, N, FUSED>(&mut sum, value, x);
            }
            *entry = sum;
        }
    }
}

/// [`RowEntries`] for `N` input rows side by side and several groups.
///
/// `y[o][n] += Σ_g tables[g][codes[g][o]][n]`.
pub(crate) struct Entries<'a, F, C, const N: usize> {
    /// Tables one after the other, with [room](Code::room) for `groups` of them.
    pub tables: &'a [[F; N]],
    /// The number of centroids of each table.
    pub centroids: usize,
    /// The number of groups.
    pub groups: usize,
    /// The codes of all groups, one group after the other, each with one code for each output.
    pub codes: &'a [C],
    /// The outputs.
    pub y: &'a mut [[F; N]],
}

impl<F: Float, C: Code, const N: usize> Kernel for Entries<'_, F, C, N> {
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        // Four groups at a time, so that sums are written once for the four.
        let table = |group| C::table(self.tables, self.centroids, group);
        let outputs = self.y.len();
        let codes = |group| &self.codes[group * outputs..(group + 1) * outputs];
        let mut group = 0;
        while group + 4 <= self.groups {
            let (t0, t1) = (table(group), table(group + 1));
            let (t2, t3) = (table(group + 2), table(group + 3));
            let codes = codes(group)
                .iter()
                .zip(codes(group + 1))
                .zip(codes(group + 2))
                .zip(codes(group + 3));
            for (y, (((c0, c1), c2), c3)) in self.y.iter_mut().zip(codes) {
                let mut sum = *y;
                add(&mut sum, c0.entry(t0));
                add(&mut sum, c1.entry(t1));
                add(&mut sum, c2.entry(t2));
                add(&mut sum, c3.entry(t3));
                *y = sum;
            }
            group += 4;
        }
        while group < self.groups {
            let table = table(group);
            for (y, code) in self.y.iter_mut().zip(codes(group)) {
                add(y, code.entry(table));
            }
            group += 1;
        }
    }
}

/// Adds to each group of outputs of one input row the centroids of its codes, times the inputs.
///
/// `y[j] += Σ_i x[i] · codebook[codes[i]][j]`.
pub(crate) struct SumCentroids<'a, F, C, const D: usize> {
    /// One codebook, with [room](Code::room) for a table.
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
        // Several sums side by side, because each addition waits for the one before it.
        const SUMS: usize = 8;
        let table = C::table(self.codebook, self.centroids, 0);
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
        {
            let mut table = C::table_mut(&mut *sums);
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
                let values: &[F; BLOCK] = part(row, b * BLOCK);
                for (t, &value) in total.iter_mut().zip(values) {
                    add_scaled::<F, N, FUSED>(t, value, sum);
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
