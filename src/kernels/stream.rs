//! Writes that bypass the caches, for arrays that are not read again soon.
//!
//! An ordinary write first reads the cache line from memory. Without that read, an array that is larger than the caches is
//! written in half the time; a smaller one would be slower to read afterwards. Under Miri, which lacks these instructions, it
//! is a plain copy.

use super::KernelFloat;

/// The size in bytes from which on writes bypass the caches.
pub(crate) const LARGE: usize = 1 << 24;

/// Copies one entry of each table, one after the other; the writes bypass the caches if entries are multiples of sixteen
/// bytes. Call [`finish`] afterwards.
///
/// Table g is the `entries` from g·`step` on; its code says which of them to copy.
#[inline]
pub(crate) fn copy_entries<F: KernelFloat, const W: usize>(
    entries: &[[F; W]],
    step: usize,
    codes: &[u8],
    to: &mut [F],
) {
    // Consecutive writes fill whole lines, so that a line may be written in pieces.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    let pieces = to.as_ptr().addr().is_multiple_of(16) && size_of::<[F; W]>().is_multiple_of(16);
    for (g, (to, &code)) in to.as_chunks_mut::<W>().0.iter_mut().zip(codes).enumerate() {
        let entry = &entries[g * step + usize::from(code)];
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        if pieces {
            use std::arch::x86_64::{_mm_loadu_ps, _mm_stream_ps};
            let (from, to) = (entry.as_ptr().cast::<f32>(), to.as_mut_ptr().cast::<f32>());
            for i in (0..size_of::<[F; W]>() / 4).step_by(4) {
                // SAFETY: both have that many bytes, a multiple of sixteen, and `to` begins at one; SSE is part of x86_64.
                unsafe { _mm_stream_ps(to.add(i), _mm_loadu_ps(from.add(i))) }
            }
            continue;
        }
        *to = *entry;
    }
}

/// Makes the [copies](copy_entries) of this thread visible to other threads before anything that it does later.
pub(crate) fn finish() {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // Safe from some version of Rust on.
    #[allow(unused_unsafe)]
    // SAFETY: SSE is part of x86_64.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares with a plain loop.
    fn copies_entries<F: KernelFloat + std::fmt::Debug, const W: usize>(
        number: impl Fn(usize) -> F,
    ) {
        let entries: Vec<[F; W]> = (0..5 * 3)
            .map(|i| std::array::from_fn(|j| number(i * W + j)))
            .collect();
        for (step, codes) in [
            (3, [0, 2, 1, 0, 2]),
            (0, [0, 14, 7, 3, 13]),
            (3, [2, 2, 0, 0, 2]),
        ] {
            let expected: Vec<F> = (0..5)
                .flat_map(|g| entries[g * step + usize::from(codes[g])])
                .collect();
            for offset in 0..9 {
                let mut to = vec![number(99); 5 * W + 9];
                copy_entries(&entries, step, &codes, &mut to[offset..offset + 5 * W]);
                finish();
                assert_eq!(to[offset..offset + 5 * W], expected[..]);
                assert!(to[..offset].iter().all(|&x| x == number(99)));
                assert!(to[offset + 5 * W..].iter().all(|&x| x == number(99)));
            }
        }
    }

    #[test]
    fn entries_are_copied_wherever_they_go() {
        copies_entries::<f32, 3>(|i| i as f32);
        copies_entries::<f32, 4>(|i| i as f32);
        copies_entries::<f32, 8>(|i| i as f32);
        copies_entries::<f64, 3>(|i| i as f64);
        copies_entries::<f64, 16>(|i| i as f64);
    }
}
