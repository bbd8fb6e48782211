//! Divides a product of rows with rows among threads.

use crate::parallel;

/// A product with fewer words of work runs on one thread: it takes some thirty microseconds, about the time to wake another.
const ALONE: usize = 1 << 18;
/// The pieces for each thread of a product with a single row: a thread that starts late takes fewer.
const PIECES: usize = 4;
/// The batch from which threads divide the rows of the batch, and not those of the matrix.
const BATCH: usize = 8;

/// All values of a (batch, outputs) product, computed block by block.
///
/// `block(rows, columns, out)` writes the values of these rows and columns into `out`, row by row. The blocks depend on the sizes
/// and on the number of threads. The values do not, because each is computed independently.
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
