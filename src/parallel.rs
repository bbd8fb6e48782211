//! The only place that knows whether work is shared out over threads.
//!
//! Every function here gives the same result with rayon, without it, and for any number of threads:
//! results come back in the order of the inputs, and nothing is summed in an order that depends on
//! who finished first.

/// `f(0), f(1), …, f(count − 1)`, in this order.
pub(crate) fn map<T: Send>(count: usize, f: impl Fn(usize) -> T + Sync + Send) -> Vec<T> {
    #[cfg(feature = "rayon")]
    {
        use rayon::prelude::*;
        if count > 1 {
            return (0..count).into_par_iter().map(f).collect();
        }
    }
    (0..count).map(f).collect()
}

/// Calls `f(i, chunk)` on the i-th run of `length` values (the last may be shorter).
pub(crate) fn for_each_chunk_mut<T: Send>(
    values: &mut [T],
    length: usize,
    f: impl Fn(usize, &mut [T]) + Sync + Send,
) {
    let length = length.max(1);
    #[cfg(feature = "rayon")]
    {
        use rayon::prelude::*;
        if values.len() > length {
            values
                .par_chunks_mut(length)
                .enumerate()
                .for_each(|(i, chunk)| f(i, chunk));
            return;
        }
    }
    for (i, chunk) in values.chunks_mut(length).enumerate() {
        f(i, chunk);
    }
}

/// What `f(i, chunk)` returns on the i-th run of `length` values (the last may be shorter), in this order.
pub(crate) fn map_chunks_mut<T: Send, R: Send>(
    values: &mut [T],
    length: usize,
    f: impl Fn(usize, &mut [T]) -> R + Sync + Send,
) -> Vec<R> {
    let length = length.max(1);
    #[cfg(feature = "rayon")]
    {
        use rayon::prelude::*;
        if values.len() > length {
            return values
                .par_chunks_mut(length)
                .enumerate()
                .map(|(i, chunk)| f(i, chunk))
                .collect();
        }
    }
    values
        .chunks_mut(length)
        .enumerate()
        .map(|(i, chunk)| f(i, chunk))
        .collect()
}

/// Calls `f` on each of `items`.
pub(crate) fn for_each<T: Send>(items: Vec<T>, f: impl Fn(T) + Sync + Send) {
    #[cfg(feature = "rayon")]
    {
        use rayon::prelude::*;
        if items.len() > 1 {
            items.into_par_iter().for_each(f);
            return;
        }
    }
    items.into_iter().for_each(f);
}

/// How many threads the work of this thread is shared out over.
pub(crate) fn threads() -> usize {
    #[cfg(feature = "rayon")]
    {
        rayon::current_num_threads()
    }
    #[cfg(not(feature = "rayon"))]
    {
        1
    }
}
