//! Products by look-ups: how the work is divided among threads, and which kernel does it.

use std::ops::Range;

use ndarray::{ArrayView1, ArrayView2, ArrayViewMut2, Axis, s};

use super::{PqMatrix, SplitAxis};
use crate::kernels::Level;
use crate::kernels::lookup::{Code, Entries, RowEntries, RowTable, SumCentroids, SumInputs, Table};
use crate::kernels::vectorize::{add, run};
use crate::packing::PackedCodes;
use crate::{Float, parallel};

/// Rows of x that one vector register holds side by side: `NARROW` for few rows, or where wide blocks would leave threads
/// idle.
const WIDE: usize = 16;
const NARROW: usize = 8;
/// Fewer look-ups than this (about ten microseconds) run on one thread.
const SEQUENTIAL: usize = 1 << 16;
/// The most partial sums that the groups of a split of the inputs are divided among.
const PARTIAL_SUMS: usize = 16;
/// Tables that are computed before the look-ups in them, for several rows of x.
const TABLES: usize = 4;
/// The widest sub-vectors whose centroids are summed one by one, for a single row of x.
const WIDEST_SUMMED: usize = 16;

impl<F: Float> PqMatrix<F> {
    /// y = x Wᵀ by look-ups, with codes unpacked to the type `C`.
    pub(super) fn look_up<C: Unpack>(
        &self,
        x: ArrayView2<'_, F>,
        mut y: ArrayViewMut2<'_, F>,
        level: Level,
    ) {
        let rows = x.nrows();
        if rows == 1 {
            let mut outputs = vec![F::zero(); self.shape[0]];
            self.look_up_row::<C>(x.row(0), &mut outputs, level);
            y.iter_mut().zip(outputs).for_each(|(y, value)| *y = value);
        } else if rows <= NARROW || rows.div_ceil(WIDE) < parallel::threads() {
            self.look_up_rows::<C, NARROW>(x, y, level);
        } else {
            self.look_up_rows::<C, WIDE>(x, y, level);
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
                let groups = self.groups_a_piece(2 * self.codes.len());
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
        let (k, width, points) = (books.centroids(), books.group_width(), self.points());
        let work = self.codes.len() + self.table_products() / 8;
        self.sum_of_groups(work, y.as_chunks_mut::<1>().0, |groups, y| {
            let y = y.as_flattened_mut();
            let mut table = vec![F::zero(); C::room(1, k)];
            let mut scratch = Vec::new();
            for group in groups {
                let x = &x[group * width..(group + 1) * width];
                let codebook = books.slice(group);
                let table = table.as_mut_slice();
                run(level, RowTable { codebook, x, table });
                let codes = C::unpack_groups(&self.codes, group..group + 1, points, &mut scratch);
                let entries = RowEntries {
                    table,
                    centroids: k,
                    codes,
                    y: &mut *y,
                    add: true,
                };
                entries.run_at(level);
            }
        });
    }

    /// Calls `add_groups` for runs of groups, and adds up the partial sums in `y`.
    ///
    /// If threads divided the outputs among them, each would need all tables. They divide the groups instead, into a few
    /// partial sums of equally many groups. Their number depends on the `work` alone, not on the number of threads.
    fn sum_of_groups<const N: usize>(
        &self,
        work: usize,
        y: &mut [[F; N]],
        add_groups: impl Fn(Range<usize>, &mut [[F; N]]) + Sync + Send,
    ) {
        let m = self.codebooks.groups();
        let groups = m.div_ceil((work / SEQUENTIAL).clamp(1, PARTIAL_SUMS));
        let groups = groups.next_multiple_of(TABLES);
        if groups >= m {
            return add_groups(0..m, y);
        }
        let parts = parallel::map(m.div_ceil(groups), |part| {
            let mut sums = vec![[F::zero(); N]; y.len()];
            add_groups(part * groups..m.min((part + 1) * groups), &mut sums);
            sums
        });
        for part in &parts {
            y.iter_mut().zip(part).for_each(|(y, part)| add(y, part));
        }
    }

    /// Sums centroids that are padded to width `D`.
    fn sum_centroids<C: Unpack, const D: usize>(&self, x: &[F], y: &mut [F], level: Level) {
        let books = &self.codebooks;
        let (k, width, points) = (books.centroids(), books.group_width(), self.points());
        let groups = self.groups_a_piece(self.codes.len());
        parallel::for_each_chunk_mut(y, groups * width, |piece, y| {
            let mut scratch = Vec::new();
            let mut padded = Vec::new();
            for (i, y) in y.chunks_exact_mut(width).enumerate() {
                let group = piece * groups + i;
                let codes = C::unpack_groups(&self.codes, group..group + 1, points, &mut scratch);
                // Without a copy, if they have this width and enough values follow in memory.
                let here = books.slice_from(group).as_chunks::<D>().0;
                let codebook = if width == D && here.len() >= C::room(1, k) {
                    here
                } else {
                    padded.resize(C::room(1, k), [F::zero(); D]);
                    let centroids = books.slice(group).chunks_exact(width);
                    for (padded, centroid) in padded.iter_mut().zip(centroids) {
                        padded.iter_mut().zip(centroid).for_each(|(p, &c)| *p = c);
                    }
                    &padded
                };
                let mut sum = [F::zero(); D];
                run(
                    level,
                    SumCentroids {
                        codebook,
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
        let blocks: Vec<_> = y.axis_chunks_iter_mut(Axis(0), N).enumerate().collect();
        // One block for each thread. If there are too few blocks, threads divide the groups of a block.
        let alone = blocks.len() == 1;
        let groups = if blocks.len() < parallel::threads() {
            self.groups_a_piece(2 * self.codes.len() + self.table_products() / 4)
        } else {
            self.codebooks.groups()
        };
        parallel::for_each(blocks, |(block, mut y)| {
            let mut columns = vec![[F::zero(); N]; self.shape[1]];
            let rows = x.slice(s![block * N.., ..]);
            for (n, x) in rows.outer_iter().take(N).enumerate() {
                for (entry, &value) in columns.iter_mut().zip(x) {
                    entry[n] = value;
                }
            }
            let mut sums = vec![[F::zero(); N]; self.shape[0]];
            match self.codebooks.axis() {
                SplitAxis::In => self.sum_entries::<C, N>(&columns, &mut sums, alone, level),
                SplitAxis::Out => {
                    let width = self.codebooks.group_width();
                    parallel::for_each_chunk_mut(&mut sums, groups * width, |piece, sums| {
                        self.sum_inputs::<C, N>(piece * groups, &columns, sums, level);
                    });
                }
            }
            for (n, mut y) in y.outer_iter_mut().enumerate() {
                for (y, sums) in y.iter_mut().zip(&sums) {
                    *y = sums[n];
                }
            }
        });
    }

    /// All outputs, with the inputs split; in partial sums if the block of rows is `alone`.
    fn sum_entries<C: Unpack, const N: usize>(
        &self,
        x: &[[F; N]],
        y: &mut [[F; N]],
        alone: bool,
        level: Level,
    ) {
        let books = &self.codebooks;
        let (k, width, points) = (books.centroids(), books.group_width(), self.points());
        let work = 2 * self.codes.len() + self.table_products() / 2;
        self.sum_of_groups(if alone { work } else { 0 }, y, |groups, y| {
            let mut tables = vec![[F::zero(); N]; C::room(TABLES, k)];
            let mut scratch = Vec::new();
            for first in groups.clone().step_by(TABLES) {
                let these = first..groups.end.min(first + TABLES);
                for (group, table) in these.clone().zip(tables.chunks_exact_mut(k)) {
                    let x = &x[group * width..(group + 1) * width];
                    let codebook = books.slice(group);
                    run(level, Table { codebook, x, table });
                }
                run(
                    level,
                    Entries {
                        tables: &tables,
                        centroids: k,
                        groups: these.len(),
                        codes: C::unpack_groups(&self.codes, these, points, &mut scratch),
                        y: &mut *y,
                    },
                );
            }
        });
    }

    /// Outputs of the groups from `first` on, with the outputs split.
    fn sum_inputs<C: Unpack, const N: usize>(
        &self,
        first: usize,
        x: &[[F; N]],
        y: &mut [[F; N]],
        level: Level,
    ) {
        let books = &self.codebooks;
        let points = self.points();
        let mut sums = vec![[F::zero(); N]; C::room(1, books.centroids())];
        let mut scratch = Vec::new();
        for (i, y) in y.chunks_exact_mut(books.group_width()).enumerate() {
            let group = first + i;
            let codes = C::unpack_groups(&self.codes, group..group + 1, points, &mut scratch);
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

    /// Multiply-adds for all tables of one row of x, or for the products of all sums with their centroids.
    fn table_products(&self) -> usize {
        let books = &self.codebooks;
        books.split_length().saturating_mul(books.centroids())
    }

    /// The number of groups in one task, if all groups together take the time of `work` look-ups.
    fn groups_a_piece(&self, work: usize) -> usize {
        let groups = self.codebooks.groups();
        if work < SEQUENTIAL {
            return groups;
        }
        // Several tasks for each thread, so that no thread waits long for the last one.
        groups.div_ceil(4 * parallel::threads())
    }
}

/// Codes as the kernels read them: codes of eight bits are borrowed, all others are unpacked.
pub(super) trait Unpack: Code {
    /// The codes of some `groups` of `length` codes each.
    fn unpack_groups<'a>(
        codes: &'a PackedCodes,
        groups: Range<usize>,
        length: usize,
        scratch: &'a mut Vec<Self>,
    ) -> &'a [Self] {
        let all = groups.start * length..groups.end * length;
        if let Some(codes) = Self::borrow(codes, all.clone()) {
            return codes;
        }
        scratch.resize(all.len(), Self::default());
        Self::unpack(codes, all.start, scratch);
        scratch
    }

    /// The codes of a range without a copy, if they are stored in this type.
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
