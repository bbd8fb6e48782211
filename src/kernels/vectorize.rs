//! One loop in plain Rust, compiled once for each [`Level`].
//!
//! Loops over arrays of fixed length need no intrinsics: the compiler turns them into vectors of the width
//! that the enclosing function may use. The scalar twin of such a kernel is the very same code, compiled
//! without these features.

use crate::{Float, kernels::Level};

/// A loop to be compiled for each level, with all that it works on.
pub(crate) trait Kernel {
    /// Does the work; `FUSED` says that [`multiply_add`] is one instruction here.
    ///
    /// Must be `#[inline(always)]`, and so must all that it calls: what is not inlined is compiled for the
    /// least level.
    fn run<const FUSED: bool>(self);
}

/// Runs `kernel` as compiled for `level`.
///
/// `level` must be one that [`Level::available`] names: a higher one runs as the highest of these.
pub(crate) fn run<K: Kernel>(level: Level, kernel: K) {
    match level.min(Level::highest()) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Level::highest` has found these features on this processor.
        Level::Avx512 => unsafe { avx512(kernel) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx2 => unsafe { avx2(kernel) },
        #[cfg(target_arch = "aarch64")]
        Level::Neon => kernel.run::<true>(),
        _ => kernel.run::<false>(),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
fn avx512<K: Kernel>(kernel: K) {
    kernel.run::<true>();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn avx2<K: Kernel>(kernel: K) {
    kernel.run::<true>();
}

/// a·b + c, with one rounding where `FUSED` and two elsewhere.
#[inline(always)]
pub(crate) fn multiply_add<F: Float, const FUSED: bool>(a: F, b: F, c: F) -> F {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// `sum[i] += factor · values[i]`.
#[inline(always)]
pub(crate) fn add_scaled<F: Float, const N: usize, const FUSED: bool>(
    sum: &mut [F; N],
    factor: F,
    values: &[F; N],
) {
    // Through a copy of its own, which nothing else can point to, so that it becomes vectors.
    let mut total = *sum;
    for (s, &v) in total.iter_mut().zip(values) {
        *s = multiply_add::<F, FUSED>(factor, v, *s);
    }
    *sum = total;
}

/// `sum[i] += values[i]`.
#[inline(always)]
pub(crate) fn add<F: Float, const N: usize>(sum: &mut [F; N], values: &[F; N]) {
    let mut total = *sum;
    for (s, &v) in total.iter_mut().zip(values) {
        *s += v;
    }
    *sum = total;
}
