//! Decompresses W, piece by piece.

use std::ops::Range;

use super::look_up::Unpack;
use super::{PqMatrix, SplitAxis};
use crate::kernels::Level;
use crate::kernels::lookup::RowEntries;
use crate::kernels::stream;
use crate::kernels::turn::turn_bytes;
use crate::{Float, parallel};

/// Weights of one task: about ten microseconds.
const PIECE: usize = 1 << 15;
/// Rows of a tile, with the inputs split: enough to be worth loading a table.
const TILE_ROWS: usize = 256;
/// Inputs of a tile: one cache line to write. A tile stays in the first level of the cache.
const TILE_INPUTS: usize = 16;

/// Rows and inputs of a tile that whole centroids are copied into. The rows are enough to be worth loading the tables, which
/// the second level of the cache holds; the inputs are enough to write whole cache lines.
const COPIED_ROWS: usize = 512;
const COPIED_INPUTS: usize = 512;

impl<F: Float> PqMatrix<F> {
    /// The number of rows of W that are decompressed together.
    pub(super) fn row_step(&self) -> usize {
        match self.codebooks.axis() {
            SplitAxis::In => 1,
            SplitAxis::Out => self.codebooks.group_width(),
        }
    }

    /// Writes rows of W, in row-major order, to `out`; `rows` begins and ends at multiples of
    /// [`row_step`](Self::row_step).
    pub(super) fn decompress_rows(&self, rows: Range<usize>, out: &mut [F]) {
        let inputs = self.shape[1];
        if self.codebooks.axis() == SplitAxis::In && self.codes.bits() <= 8 {
            // With fewer rows, transposing the codebooks takes longer than it saves.
            let worth = rows.len() >= 4 * self.codebooks.centroids();
            match self.codebooks.group_width() {
                4 if worth => return self.copy_centroids::<4>(rows.start, out),
                8 if worth => return self.copy_centroids::<8>(rows.start, out),
                16 if worth => return self.copy_centroids::<16>(rows.start, out),
                _ => {}
            }
        }
        let least = match self.codebooks.axis() {
            SplitAxis::In => TILE_ROWS,
            SplitAxis::Out => 1,
        };
        let step = (PIECE / inputs)
            .max(least)
            .next_multiple_of(self.row_step());
        parallel::for_each_chunk_mut(out, step * inputs, |i, out| {
            let first = rows.start + i * step;
            match (self.codebooks.axis(), self.codes.bits()) {
                (SplitAxis::In, ..=8) => self.decompress_inputs::<u8>(first, out),
                (SplitAxis::In, _) => self.decompress_inputs::<u32>(first, out),
                (SplitAxis::Out, ..=8) => self.decompress_outputs::<u8>(first, out),
                (SplitAxis::Out, _) => self.decompress_outputs::<u32>(first, out),
            }
        });
    }

    /// Rows from `first` on, with the inputs split.
    ///
    /// A look-up yields one input of many rows. Tiles of such inputs are transposed into the rows.
    fn decompress_inputs<C: Unpack>(&self, first: usize, out: &mut [F]) {
        let books = &self.codebooks;
        let (k, width, points) = (books.centroids(), books.group_width(), self.points());
        let inputs = self.shape[1];
        let together = (TILE_INPUTS / width).max(1);
        let mut tile = vec![F::zero(); together * width * TILE_ROWS];
        let mut codes = [C::default(); TILE_ROWS];
        let mut padded = vec![F::zero(); C::room(1, k)];
        for (t, out) in out.chunks_mut(TILE_ROWS * inputs).enumerate() {
            let first = first + t * TILE_ROWS;
            let rows = out.len() / inputs;
            let codes = &mut codes[..rows];
            for start in (0..books.groups()).step_by(together) {
                let groups = start..books.groups().min(start + together);
                let parts = tile.chunks_exact_mut(width * TILE_ROWS);
                for (group, part) in groups.clone().zip(parts) {
                    C::unpack(&self.codes, group * points + first, codes);
                    for (j, part) in part.chunks_exact_mut(TILE_ROWS).enumerate() {
                        // Without a copy, if enough values follow in memory.
                        let here = &books.slice_from(group)[j * k..];
                        let table = if here.len() >= C::room(1, k) {
                            here
                        } else {
                            padded
                                .iter_mut()
                                .zip(here)
                                .for_each(|(to, &value)| *to = value);
                            &padded
                        };
                        let entries = RowEntries {
                            table,
                            centroids: k,
                            codes,
                            y: &mut part[..rows],
                            add: false,
                        };
                        entries.run_at(Level::current());
                    }
                }
                let inputs_of_tile = start * width..groups.end * width;
                for (r, row) in out.chunks_exact_mut(inputs).enumerate() {
                    let row = &mut row[inputs_of_tile.clone()];
                    for (w, part) in row.iter_mut().zip(tile.chunks_exact(TILE_ROWS)) {
                        *w = part[r];
                    }
                }
            }
        }
    }

    /// Rows from `first` on, with the inputs split into groups of a usual width and codes of up to eight bits: copies whole
    /// centroids from codebooks that were transposed once.
    fn copy_centroids<const W: usize>(&self, first: usize, out: &mut [F]) {
        let books = &self.codebooks;
        let (k, points, inputs) = (books.centroids(), self.points(), self.shape[1]);
        let level = Level::current();
        // All groups may share one codebook.
        let count = books.values().len() / (k * W);
        let mut turned = vec![[F::zero(); W]; count * k];
        let whole: Vec<_> = turned.chunks_mut(k).enumerate().collect();
        let share = count * k * W >= 2 * PIECE;
        parallel::for_each_with(
            whole,
            share,
            || (),
            |(), (book, turned)| {
                let mut columns = books.slice(book).chunks_exact(k);
                let columns: [&[F]; W] =
                    std::array::from_fn(|_| columns.next().expect("a codebook has W columns"));
                for (c, centroid) in turned.iter_mut().enumerate() {
                    *centroid = columns.map(|column| column[c]);
                }
            },
        );
        let past_the_caches = size_of_val(out) >= stream::LARGE;
        let together = (COPIED_INPUTS / W).max(1);
        let share = out.len() >= 2 * PIECE;
        let blocks: Vec<_> = out.chunks_mut(COPIED_ROWS * inputs).enumerate().collect();
        let scratch = || (Vec::new(), Vec::new());
        parallel::for_each_with(
            blocks,
            share,
            scratch,
            |(unpacked, by_rows), (block, out)| {
                let first = first + block * COPIED_ROWS;
                let rows = out.len() / inputs;
                for start in (0..books.groups()).step_by(together) {
                    let groups = start..books.groups().min(start + together);
                    let width = groups.len();
                    by_rows.resize(rows * width, 0);
                    // Codes are stored group by group; this needs them row by row.
                    let whole = u8::borrow(
                        &self.codes,
                        groups.start * points + first..groups.end * points,
                    );
                    if let Some(codes) = whole {
                        turn_bytes(level, codes, points, rows, width, by_rows);
                    } else {
                        unpacked.resize(rows * width, 0);
                        for (group, codes) in groups.clone().zip(unpacked.chunks_exact_mut(rows)) {
                            u8::unpack(&self.codes, group * points + first, codes);
                        }
                        turn_bytes(level, unpacked, rows, rows, width, by_rows);
                    }
                    let (turned, step) = match count {
                        1 => (&turned[..], 0),
                        _ => (&turned[start * k..groups.end * k], k),
                    };
                    let inputs_of_tile = start * W..groups.end * W;
                    for (row, codes) in out
                        .chunks_exact_mut(inputs)
                        .zip(by_rows.chunks_exact(width))
                    {
                        let row = &mut row[inputs_of_tile.clone()];
                        if past_the_caches {
                            stream::copy_entries(turned, step, codes, row);
                        } else {
                            for (g, (to, &code)) in
                                row.as_chunks_mut::<W>().0.iter_mut().zip(codes).enumerate()
                            {
                                *to = turned[g * step + usize::from(code)];
                            }
                        }
                    }
                }
                stream::finish();
            },
        );
    }

    /// Rows from `first` on, whole groups, with the outputs split.
    fn decompress_outputs<C: Unpack>(&self, first: usize, out: &mut [F]) {
        let books = &self.codebooks;
        let (k, width, points) = (books.centroids(), books.group_width(), self.points());
        let mut scratch = Vec::new();
        let mut table = vec![F::zero(); C::room(1, k)];
        for (i, part) in out.chunks_exact_mut(width * points).enumerate() {
            let group = first / width + i;
            let codes = C::unpack_groups(&self.codes, group..group + 1, points, &mut scratch);
            for (j, row) in part.chunks_exact_mut(points).enumerate() {
                let column = books.slice(group).iter().skip(j).step_by(width);
                table
                    .iter_mut()
                    .zip(column)
                    .for_each(|(to, &value)| *to = value);
                let entries = RowEntries {
                    table: &table,
                    centroids: k,
                    codes,
                    y: row,
                    add: false,
                };
                entries.run_at(Level::current());
            }
        }
    }
}
