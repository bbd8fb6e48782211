//! Parallel loops, with rayon or without: the only place in the crate that starts parallel work.
//!
//! Every function here gives the same result with rayon, without it, and for any number of threads:
//! results come back in the order of the inputs, and nothing is summed in an order that depends on
//! who finished first.

#[cfg(feature = "rayon")]
use std::sync::atomic::{AtomicUsize, Ordering};

/// `f(0), f(1), …, f(count − 1)`, in this order.
pub(crate) fn map<T: Send>(count: usize, f: impl Fn(usize) -> T + Sync + Send) -> Vec<T> {
    #[cfg(feature = "rayon")]
    {
        use rayon::prelude::*;
        if count > 1 && threads() > 1 {
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
        if values.len() > length && threads() > 1 {
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
        if values.len() > length && threads() > 1 {
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
        if items.len() > 1 && threads() > 1 {
            items.into_par_iter().for_each(f);
            return;
        }
    }
    items.into_iter().for_each(f);
}

/// How often the calling thread polls whether the others are done before it sleeps: some ten microseconds.
#[cfg(feature = "rayon")]
const SPINS: usize = 1 << 10;

/// Calls `f` on each of `items`, with scratch memory that each thread makes once; on the calling thread alone unless `share`.
///
/// For products that take tens of microseconds, where rayon's own parallel iterators spend as long on waking threads. The
/// calling thread starts at once instead of waiting for a thread of the pool. Each thread first works on its own run of
/// consecutive items, whose memory may still be in its cache from the last call, and then takes items from the runs of others.
/// `cargo bench --bench fixed_point -- pool` compares it with rayon's parallel iterator and with one thread on such a product:
/// that comparison is the reason for this code.
pub(crate) fn for_each_with<T: Send, W>(
    items: Vec<T>,
    share: bool,
    make: impl Fn() -> W + Sync + Send,
    f: impl Fn(&mut W, T) + Sync + Send,
) {
    #[cfg(feature = "rayon")]
    if share && items.len() > 1 && threads() > 1 {
        let runs = queues::Runs::new(items, threads());
        let work = |thread| {
            let mut with = make();
            while let Some(item) = runs.next(thread) {
                f(&mut with, item);
            }
        };
        let at_work = AtomicUsize::new(runs.count() - 1);
        rayon::in_place_scope(|scope| {
            let (work, at_work) = (&work, &at_work);
            for thread in 1..runs.count() {
                scope.spawn(move |_| {
                    work(thread);
                    at_work.fetch_sub(1, Ordering::Release);
                });
            }
            work(0);
            // The others are nearly done: to sleep and be woken would take longer.
            for _ in 0..SPINS {
                if at_work.load(Ordering::Acquire) == 0 {
                    break;
                }
                std::hint::spin_loop();
            }
        });
        return;
    }
    let _ = share;
    let mut with = make();
    items.into_iter().for_each(|item| f(&mut with, item));
}

#[cfg(feature = "rayon")]
mod queues {
    use std::sync::Mutex;

    const UNPOISONED: &str = "taking an item cannot panic";

    /// Runs of items, one for each thread.
    pub(super) struct Runs<T>(Vec<Mutex<std::vec::IntoIter<T>>>);

    impl<T> Runs<T> {
        /// One run for each thread (but none that is empty), of lengths that differ by one at most.
        pub(super) fn new(mut items: Vec<T>, threads: usize) -> Self {
            let threads = threads.clamp(1, items.len().max(1));
            let ends = (1..threads).map(|thread| thread * items.len() / threads);
            let mut runs = Vec::with_capacity(threads);
            for end in ends.rev().collect::<Vec<_>>() {
                runs.push(items.split_off(end));
            }
            runs.push(items);
            let runs = runs.into_iter().rev();
            Self(runs.map(|run| Mutex::new(run.into_iter())).collect())
        }

        pub(super) fn count(&self) -> usize {
            self.0.len()
        }

        /// The next item of this thread's run, or else the last one of another run.
        pub(super) fn next(&self, thread: usize) -> Option<T> {
            let own = self.0[thread].lock().expect(UNPOISONED).next();
            let others = || self.0.iter().map(|run| run.lock().expect(UNPOISONED));
            own.or_else(|| others().find_map(|mut run| run.next_back()))
        }
    }
}

/// The number of threads that work started from this thread runs on.
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn every_item_is_worked_on_once() {
        for count in [0, 1, 2, 3, 7, 100] {
            for share in [false, true] {
                let seen: Vec<_> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                let makes = AtomicUsize::new(0);
                for_each_with(
                    (0..count).collect(),
                    share,
                    || makes.fetch_add(1, Ordering::Relaxed),
                    |_, item: usize| {
                        seen[item].fetch_add(1, Ordering::Relaxed);
                    },
                );
                assert!(seen.iter().all(|times| times.load(Ordering::Relaxed) == 1));
                assert!((1..=threads()).contains(&makes.load(Ordering::Relaxed)));
            }
        }
    }

    #[cfg(feature = "rayon")]
    #[test]
    fn runs_have_equal_lengths_and_keep_the_order() {
        for (count, threads) in [(0, 3), (1, 4), (7, 3), (8, 4), (9, 1), (10, 0)] {
            let runs = queues::Runs::new((0..count).collect::<Vec<_>>(), threads);
            assert_eq!(runs.count(), threads.min(count).max(1));
            let mut left: Vec<usize> = (0..count).collect();
            // The thread's own items come first, in order, and then those of others.
            while let Some(item) = runs.next(runs.count() - 1) {
                let place = left.iter().position(|&i| i == item).expect("not twice");
                left.remove(place);
            }
            assert!(left.is_empty());
            let runs = queues::Runs::new((0..count).collect::<Vec<_>>(), threads);
            let firsts: Vec<_> = (0..runs.count()).filter_map(|t| runs.next(t)).collect();
            assert!(firsts.is_sorted() && firsts.first().copied() == (count > 0).then_some(0));
        }
    }
}
