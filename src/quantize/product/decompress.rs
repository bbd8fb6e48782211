//! W out of its codes, piece by piece.

use std::ops::Range;

use super::look_up::Unpack;
use super::{PqMatrix, SplitAxis};
use crate::kernels::Level;
use crate::kernels::lookup::RowEntries;
use crate::{Float, parallel};

/// Weights that are worth a thread's while: some ten microseconds.
const PIECE: usize = 1 << 15;
/// Rows of the tiles that a split of the inputs is written by: enough to load a table for.
const TILE_ROWS: usize = 256;
/// Inputs of these tiles: a line of the cache to write. A tile stays in the first level.
const TILE_INPUTS: usize = 16;

impl<F: Float> PqMatrix<F> {
    /// How many rows of W decompress together.
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

    /// Rows from `first` on, for a split of the inputs.
    ///
    /// A look-up gives one input of many rows; tiles of them are transposed into the rows.
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
            let codes = codes.get_mut(..rows).unwrap_or_default();
            for start in (0..books.groups()).step_by(together) {
                let groups = start..books.groups().min(start + together);
                let parts = tile.chunks_exact_mut(width * TILE_ROWS);
                for (group, part) in groups.clone().zip(parts) {
                    C::unpack(&self.codes, group * points + first, codes);
                    for (j, part) in part.chunks_exact_mut(TILE_ROWS).enumerate() {
                        // Read where it is, if what follows gives room.
                        let here = books.slice_from(group).get(j * k..).unwrap_or_default();
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
                            y: part.get_mut(..rows).unwrap_or_default(),
                            add: false,
                        };
                        entries.run_at(Level::current());
                    }
                }
                let inputs_of_tile = start * width..groups.end * width;
                for (r, row) in out.chunks_exact_mut(inputs).enumerate() {
                    let row = row.get_mut(inputs_of_tile.clone()).unwrap_or_default();
                    for (w, part) in row.iter_mut().zip(tile.chunks_exact(TILE_ROWS)) {
                        *w = part.get(r).copied().unwrap_or_default();
                    }
                }
            }
        }
    }

    /// Rows from `first` on, whole groups of them, for a split of the outputs.
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
