//! Sharing out a product of rows with rows over the threads.

use crate::parallel;

/// Below this many words of work a product stays on its thread: some thirty microseconds, in which another one hardly woke up.
const ALONE: usize = 1 << 18;
/// Pieces of a single row for each thread: one that comes late takes fewer.
const PIECES: usize = 4;
/// Rows of the batch from which on each thread takes rows of it, rather than of the matrix.
const BATCH: usize = 8;

/// All values of a (batch, outputs) product, computed block by block.
///
/// `block(rows, columns, out)` writes the values of these rows and columns into `out`, row by row. Which
/// blocks there are depends on the sizes and the number of threads; a value never does, since each is
/// computed by itself.
pub(super) fn in_blocks<T: Copy + Default + Send>(
    batch: usize,
    outputs: usize,
    words: usize,
    block: impl Fn(std::ops::Range<usize>, std::ops::Range<usize>, &mut [T]) + Sync + Send,
) -> Vec<T> {
    let mut values = vec![T::default(); batch * outputs];
    if values.is_empty() {
        return values;
    }
    let threads = parallel::threads();
    if threads == 1 || values.len().saturating_mul(words) < ALONE {
        block(0..batch, 0..outputs, &mut values);
    } else if batch == 1 || batch >= BATCH {
        let across = batch == 1;
        let (rows, pieces) = match across {
            true => (outputs, PIECES * threads),
            false => (batch, threads),
        };
        // The kernels work on four rows at once.
        let share = rows.div_ceil(pieces).next_multiple_of(4);
        let length = if across { share } else { share * outputs };
        let pieces: Vec<_> = values.chunks_mut(length).enumerate().collect();
        parallel::for_each_with(
            pieces,
            true,
            || (),
            |(), (i, values)| {
                let from = i * share;
                if across {
                    block(0..1, from..from + values.len(), values);
                } else {
                    block(from..from + values.len() / outputs, 0..outputs, values);
                }
            },
        );
    } else {
        let share = outputs.div_ceil(threads).next_multiple_of(4);
        let blocks = parallel::map(outputs.div_ceil(share), |i| {
            let columns = i * share..outputs.min((i + 1) * share);
            let mut values = vec![T::default(); batch * columns.len()];
            block(0..batch, columns, &mut values);
            values
        });
        for (i, row) in values.chunks_mut(outputs).enumerate() {
            for (out, values) in row.chunks_mut(share).zip(&blocks) {
                let from = i * out.len();
                out.copy_from_slice(&values[from..from + out.len()]);
            }
        }
    }
    values
}
