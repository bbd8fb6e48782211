//! Writing what is not read again soon: past the caches, where the processor can.
//!
//! A line that is written the usual way is first read from memory. An array that no cache holds is written in half the
//! time without that; one that a cache would have held is slower to read afterwards. Miri, which knows no such stores, sees a
//! plain copy.

use super::KernelFloat;

/// Bytes from which on an array is written past the caches.
pub(crate) const LARGE: usize = 1 << 24;
/// Bytes of a line of the cache.
#[cfg(all(target_arch = "x86_64", not(miri)))]
const LINE: usize = 64;

/// Copies values of the same number, whole lines of the cache past it. [`finish`] has to follow.
#[inline]
pub(crate) fn copy<F: KernelFloat>(from: &[F], to: &mut [F]) {
    assert_eq!(from.len(), to.len());
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{_mm_loadu_ps, _mm_stream_ps};
        let line = LINE / size_of::<F>();
        let head = to.as_ptr().align_offset(LINE).min(to.len());
        let rest = head + (to.len() - head) / line * line;
        to[..head].copy_from_slice(&from[..head]);
        to[rest..].copy_from_slice(&from[rest..]);
        let source = from[head..rest].as_ptr().cast::<f32>();
        let target = to[head..rest].as_mut_ptr().cast::<f32>();
        for i in (0..size_of_val(&from[head..rest]) / 4).step_by(4) {
            // SAFETY: both slices have that many bytes, a multiple of a line, and `target` begins at one; SSE is part of x86_64.
            unsafe { _mm_stream_ps(target.add(i), _mm_loadu_ps(source.add(i))) }
        }
    }
    #[cfg(any(not(target_arch = "x86_64"), miri))]
    to.copy_from_slice(from);
}

/// Makes what this thread [copied](copy) visible to others before whatever it does next.
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
    use crate::kernels::sizes;

    /// Of every length and from every place in a line on: neighbours stay as they are.
    fn copies<F: KernelFloat + std::fmt::Debug>() {
        let number = |i: usize| <F as num_traits::NumCast>::from(i + 1).unwrap_or(F::zero());
        let from: Vec<F> = (0..100).map(number).collect();
        for length in sizes((0..40).chain([63, 64, 65, 100])) {
            for offset in sizes(0..17) {
                let mut to = vec![F::zero(); 120];
                copy(&from[..length], &mut to[offset..offset + length]);
                finish();
                let expected = |i: usize| {
                    let inside = (offset..offset + length).contains(&i);
                    if inside { from[i - offset] } else { F::zero() }
                };
                assert_eq!(to, (0..120).map(expected).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_copy_is_equal_wherever_it_goes() {
        copies::<f32>();
        copies::<f64>();
    }
}
