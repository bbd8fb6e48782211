//! y = x Wᵀ with a product-quantized W: by look-ups, or block after block decompressed and multiplied.

use std::ops::Range;

use ndarray::{ArrayView1, ArrayView2, ArrayViewMut2, Axis, s};

use super::{PqMatrix, SplitAxis};
use crate::artifact::check_apply;
use crate::kernels::Level;
use crate::kernels::lookup::{Code, RowEntries, RowTable, SumCentroids, SumEntries, SumInputs};
use crate::kernels::vectorize::run;
use crate::packing::PackedCodes;
use crate::{Float, LinearOp, Result, linalg, parallel};

/// Rows of x that are worked on together: what bounds the room that a product needs besides its result.
const ROWS: usize = 256;
/// Rows of x side by side in a vector; half of that where there are no more.
const WIDE: usize = 16;
const NARROW: usize = 8;
/// Operations below which work is not worth sharing out: some ten microseconds.
const SEQUENTIAL: usize = 1 << 15;
/// Bytes of tables that stay in the first-level cache while codes stream by.
const TABLES: usize = 16 << 10;
/// Outputs of one row that a set of tables serves in turn.
const OUTPUTS: usize = 512;
/// The widest sub-vectors whose centroids are summed one by one, for a single row of x.
const WIDEST_SUMMED: usize = 16;

impl<F: Float> LinearOp<F> for PqMatrix<F> {
    /// By look-ups or by decompressing blocks of W, whichever is expected to be faster: see
    /// [the module](super).
    fn apply_into(&self, x: ArrayView2<'_, F>, y: ArrayViewMut2<'_, F>) -> Result<()> {
        check_apply(self.shape, &x, &y)?;
        self.product(x, y, Level::current(), self.method(x.nrows()));
        Ok(())
    }
}

/// How a product is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    LookUp,
    Decompress,
}

impl<F: Float> PqMatrix<F> {
    /// The method that is expected to be faster for `batch` rows of x.
    fn method(&self, _batch: usize) -> Method {
        Method::LookUp
    }

    pub(super) fn product(
        &self,
        x: ArrayView2<'_, F>,
        mut y: ArrayViewMut2<'_, F>,
        level: Level,
        method: Method,
    ) {
        if method == Method::Decompress {
            return self.decompress_and_multiply(x, y);
        }
        for (x, y) in x
            .axis_chunks_iter(Axis(0), ROWS)
            .zip(y.axis_chunks_iter_mut(Axis(0), ROWS))
        {
            // Codes of up to eight bits cannot leave a table of 256 entries.
            if self.codes.bits() <= 8 {
                self.look_up::<u8>(x, y, level);
            } else {
                self.look_up::<u32>(x, y, level);
            }
        }
    }

    fn decompress_and_multiply(&self, x: ArrayView2<'_, F>, mut y: ArrayViewMut2<'_, F>) {
        let inputs = self.shape[1];
        let rows = ((1 << 18) / inputs)
            .max(1)
            .next_multiple_of(self.row_step());
        let mut block = vec![F::zero(); rows.min(self.shape[0]) * inputs];
        for (i, y) in y.axis_chunks_iter_mut(Axis(1), rows).enumerate() {
            let block = block.get_mut(..y.ncols() * inputs).unwrap_or_default();
            self.decompress_rows(i * rows..i * rows + y.ncols(), block);
            if let Ok(block) = ArrayView2::from_shape((y.ncols(), inputs), block) {
                linalg::product_into(x, block.t(), y);
            }
        }
    }

    fn look_up<C: Unpack>(&self, x: ArrayView2<'_, F>, mut y: ArrayViewMut2<'_, F>, level: Level) {
        match x.nrows() {
            0 => {}
            1 => {
                let mut outputs = vec![F::zero(); self.shape[0]];
                self.look_up_row::<C>(x.row(0), &mut outputs, level);
                y.iter_mut().zip(outputs).for_each(|(y, value)| *y = value);
            }
            2..=NARROW => self.look_up_rows::<C, NARROW>(x, y, level),
            _ => self.look_up_rows::<C, WIDE>(x, y, level),
        }
    }

    /// y = x Wᵀ for one row.
    fn look_up_row<C: Unpack>(&self, x: ArrayView1<'_, F>, y: &mut [F], level: Level) {
        let x = x.to_vec();
        match (self.codebooks.axis(), self.codebooks.group_width()) {
            (SplitAxis::In, _) => self.sum_entries_of_row::<C>(&x, y, level),
            (SplitAxis::Out, ..=4) => self.sum_centroids::<C, 4>(&x, y, level),
            (SplitAxis::Out, 5..=8) => self.sum_centroids::<C, 8>(&x, y, level),
            (SplitAxis::Out, 9..=WIDEST_SUMMED) => {
                self.sum_centroids::<C, WIDEST_SUMMED>(&x, y, level);
            }
            (SplitAxis::Out, width) => {
                let groups = self.groups_a_piece(self.codes.len());
                let x = x.as_chunks::<1>().0;
                let y = y.as_chunks_mut::<1>().0;
                parallel::for_each_chunk_mut(y, groups * width, |piece, y| {
                    self.sum_inputs::<C, 1>(piece * groups, x, y, level);
                });
            }
        }
    }

    fn sum_entries_of_row<C: Unpack>(&self, x: &[F], y: &mut [F], level: Level) {
        let books = &self.codebooks;
        let (m, k, width) = (books.groups(), books.centroids(), books.group_width());
        let points = self.points();
        let length = C::table_length(k);
        let mut tables = vec![F::zero(); m * length];
        let groups = self.groups_a_piece(m * k * width);
        parallel::for_each_chunk_mut(&mut tables, groups * length, |piece, tables| {
            let first = piece * groups;
            for (i, table) in tables.chunks_exact_mut(length).enumerate() {
                let x = x.get((first + i) * width..).unwrap_or_default();
                let x = x.get(..width).unwrap_or_default();
                let codebook = books.slice(first + i);
                run(level, RowTable { codebook, x, table });
            }
        });

        let groups = (TABLES / (k * size_of::<F>())).clamp(1, m);
        let outputs = if self.codes.len() < SEQUENTIAL {
            points
        } else {
            OUTPUTS
        };
        parallel::for_each_chunk_mut(y, outputs, |piece, y| {
            let first = piece * outputs;
            let mut scratch = Vec::new();
            for (i, tables) in tables.chunks(groups * length).enumerate() {
                let these = i * groups..i * groups + tables.len() / length;
                let (codes, stride) = C::unpack_groups(
                    &self.codes,
                    these,
                    points,
                    first..first + y.len(),
                    &mut scratch,
                );
                run(
                    level,
                    RowEntries {
                        tables,
                        centroids: k,
                        codes,
                        stride,
                        y,
                    },
                );
            }
        });
    }

    /// Sums centroids of width `D`, to which narrower ones are padded.
    fn sum_centroids<C: Unpack, const D: usize>(&self, x: &[F], y: &mut [F], level: Level) {
        let books = &self.codebooks;
        let (k, width, points) = (books.centroids(), books.group_width(), self.points());
        let groups = self.groups_a_piece(self.codes.len());
        parallel::for_each_chunk_mut(y, groups * width, |piece, y| {
            let mut scratch = Vec::new();
            let mut codebook = vec![[F::zero(); D]; C::table_length(k)];
            for (i, y) in y.chunks_exact_mut(width).enumerate() {
                let group = piece * groups + i;
                let centroids = books.slice(group).chunks_exact(width);
                for (padded, centroid) in codebook.iter_mut().zip(centroids) {
                    padded.iter_mut().zip(centroid).for_each(|(p, &c)| *p = c);
                }
                let (codes, _) = C::unpack_groups(
                    &self.codes,
                    group..group + 1,
                    points,
                    0..points,
                    &mut scratch,
                );
                let mut sum = [F::zero(); D];
                run(
                    level,
                    SumCentroids {
                        codebook: &codebook,
                        centroids: k,
                        codes,
                        x,
                        y: &mut sum,
                    },
                );
                y.iter_mut().zip(sum).for_each(|(y, value)| *y = value);
            }
        });
    }

    /// y = x Wᵀ, `N` rows side by side.
    fn look_up_rows<C: Unpack, const N: usize>(
        &self,
        x: ArrayView2<'_, F>,
        mut y: ArrayViewMut2<'_, F>,
        level: Level,
    ) {
        // A block of rows for each thread; where there are few blocks, threads share one's outputs.
        let blocks = x.nrows().div_ceil(N);
        let alone = blocks * self.codes.len() < SEQUENTIAL || blocks >= 4 * parallel::threads();
        let share = if alone { 1 } else { parallel::threads() };
        let outputs = self.shape[0]
            .div_ceil(share)
            .next_multiple_of(self.row_step());
        let mut rows: Vec<_> = y.axis_chunks_iter_mut(Axis(0), N).collect();
        let pieces = rows.iter_mut().enumerate().flat_map(|(block, rows)| {
            let columns = rows.axis_chunks_iter_mut(Axis(1), outputs).enumerate();
            columns.map(move |(part, y)| (block * N, part * outputs, y))
        });
        parallel::for_each(pieces.collect(), |(row, output, mut y)| {
            let mut columns = vec![[F::zero(); N]; self.shape[1]];
            for (n, x) in x.slice(s![row.., ..]).outer_iter().take(N).enumerate() {
                for (entry, &value) in columns.iter_mut().filter_map(|c| c.get_mut(n)).zip(x) {
                    *entry = value;
                }
            }
            let mut sums = vec![[F::zero(); N]; y.ncols()];
            match self.codebooks.axis() {
                SplitAxis::In => self.sum_entries::<C, N>(output, &columns, &mut sums, level),
                SplitAxis::Out => {
                    let group = output / self.codebooks.group_width();
                    self.sum_inputs::<C, N>(group, &columns, &mut sums, level);
                }
            }
            for (n, mut y) in y.outer_iter_mut().enumerate() {
                for (y, &value) in y.iter_mut().zip(sums.iter().filter_map(|s| s.get(n))) {
                    *y = value;
                }
            }
        });
    }

    /// Outputs from `first` on, for a split of the inputs.
    fn sum_entries<C: Unpack, const N: usize>(
        &self,
        first: usize,
        x: &[[F; N]],
        y: &mut [[F; N]],
        level: Level,
    ) {
        let books = &self.codebooks;
        let mut table = vec![[F::zero(); N]; C::table_length(books.centroids())];
        let mut scratch = Vec::new();
        for (group, x) in x.chunks_exact(books.group_width()).enumerate() {
            let these = first..first + y.len();
            let (codes, _) = C::unpack_groups(
                &self.codes,
                group..group + 1,
                self.points(),
                these,
                &mut scratch,
            );
            run(
                level,
                SumEntries {
                    codebook: books.slice(group),
                    x,
                    table: &mut table,
                    codes,
                    y,
                },
            );
        }
    }

    /// Outputs of the groups from `first` on, for a split of the outputs.
    fn sum_inputs<C: Unpack, const N: usize>(
        &self,
        first: usize,
        x: &[[F; N]],
        y: &mut [[F; N]],
        level: Level,
    ) {
        let books = &self.codebooks;
        let points = self.points();
        let mut sums = vec![[F::zero(); N]; C::table_length(books.centroids())];
        let mut scratch = Vec::new();
        for (i, y) in y.chunks_exact_mut(books.group_width()).enumerate() {
            let group = first + i;
            let (codes, _) = C::unpack_groups(
                &self.codes,
                group..group + 1,
                points,
                0..points,
                &mut scratch,
            );
            run(
                level,
                SumInputs {
                    codebook: books.slice(group),
                    centroids: books.centroids(),
                    codes,
                    x,
                    sums: &mut sums,
                    y,
                },
            );
        }
    }

    /// How many groups one thread works on, where all of them take so many `operations`.
    fn groups_a_piece(&self, operations: usize) -> usize {
        let groups = self.codebooks.groups();
        if operations < SEQUENTIAL {
            return groups;
        }
        // Several pieces a thread, so that none waits long for the last.
        groups.div_ceil(4 * parallel::threads())
    }
}

/// Codes as the kernels read them: bytes are borrowed where they are whole, all else is unpacked.
trait Unpack: Code {
    /// The codes of some `points` of some `groups`, and how far apart those of neighbouring groups lie.
    fn unpack_groups<'a>(
        codes: &'a PackedCodes,
        groups: Range<usize>,
        length: usize,
        points: Range<usize>,
        scratch: &'a mut Vec<Self>,
    ) -> (&'a [Self], usize) {
        let last = groups.end.saturating_sub(1);
        let all = groups.start * length + points.start..last * length + points.end;
        if let Some(codes) = Self::borrow(codes, all) {
            return (codes, length);
        }
        scratch.resize(groups.len() * points.len(), Self::default());
        for (group, out) in groups.zip(scratch.chunks_exact_mut(points.len().max(1))) {
            Self::unpack(codes, group * length + points.start, out);
        }
        (scratch, points.len().max(1))
    }

    /// The codes of a range, where they are stored as they are read.
    fn borrow(_codes: &PackedCodes, _range: Range<usize>) -> Option<&[Self]> {
        None
    }

    /// The codes from `start` on.
    fn unpack(codes: &PackedCodes, start: usize, out: &mut [Self]);
}

impl Unpack for u8 {
    fn borrow(codes: &PackedCodes, range: Range<usize>) -> Option<&[Self]> {
        codes.bytes().get(range).filter(|_| codes.bits() == 8)
    }

    fn unpack(codes: &PackedCodes, start: usize, out: &mut [Self]) {
        codes.unpack_bytes_into(start, out);
    }
}

impl Unpack for u32 {
    fn unpack(codes: &PackedCodes, start: usize, out: &mut [Self]) {
        codes.unpack_into(start, out);
    }
}
