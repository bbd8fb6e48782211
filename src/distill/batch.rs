//! Parallel work on the rows of a batch, of any strides.

use ndarray::{ArrayView2, ArrayViewMut2, Axis};

use crate::{Float, parallel};

/// The number of values in a task. It is fixed, so that the order of the sums depends on the shape alone.
const CHUNK: usize = 1 << 14;

/// The rows of a view, each as a slice.
#[derive(Debug)]
pub(super) struct Rows<'a, F> {
    view: ArrayView2<'a, F>,
}

impl<'a, F: Float> Rows<'a, F> {
    pub(super) fn new(view: &ArrayView2<'a, F>) -> Self {
        Self { view: *view }
    }

    /// Returns row `index`, copied into `buffer` if it is not contiguous.
    pub(super) fn get<'b>(&self, index: usize, buffer: &'b mut Vec<F>) -> &'b [F]
    where
        'a: 'b,
    {
        let row = self.view.index_axis_move(Axis(0), index);
        match row.to_slice() {
            Some(slice) => slice,
            None => {
                buffer.clear();
                buffer.extend(row.iter().copied());
                buffer
            }
        }
    }
}

/// Calls `f` with each run of rows of `out`: with the index of its first row and its values, which `f` overwrites. Returns
/// the results in order.
pub(super) fn map_rows<F: Float, R: Send>(
    mut out: ArrayViewMut2<'_, F>,
    f: impl Fn(usize, &mut [F]) -> R + Sync + Send,
) -> Vec<R> {
    let classes = out.ncols();
    let rows = (CHUNK / classes).max(1);
    let run = |values: &mut [F]| {
        parallel::map_chunks_mut(values, rows * classes, |i, chunk| f(i * rows, chunk))
    };
    if let Some(values) = out.as_slice_mut() {
        return run(values);
    }
    let mut values = vec![F::zero(); out.len()];
    let results = run(&mut values);
    for (out, value) in out.iter_mut().zip(values) {
        *out = value;
    }
    results
}
