//! Plain loops, compiled once for each [`Level`].
//!
//! The compiler vectorizes loops over arrays of fixed length without intrinsics, for the features that the enclosing function
//! enables. The scalar form is the same code, compiled without these features.
//!
//! `at_level!` calls a function as compiled for a level; [`run`] does so for a [`Kernel`], a loop that uses fused
//! multiply-adds where they are one instruction.

use crate::{Float, kernels::Level};

/// The result of `$body`, a function that is always inlined, as compiled for `$level`.
///
/// All functions that `$body` calls must be always inlined too; others are compiled for the lowest level.
macro_rules! at_level {
    ($level:expr, $body:ident $(<$($generic:ident: $bound:path),+>)? ($($argument:ident: $type:ty),* $(,)?) -> $result:ty) => {{
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2 $(<$($generic: $bound),+>)? ($($argument: $type),*) -> $result {
                $body $(::<$($generic),+>)? ($($argument),*)
            }
            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
            fn avx512 $(<$($generic: $bound),+>)? ($($argument: $type),*) -> $result {
                $body $(::<$($generic),+>)? ($($argument),*)
            }
            match Ord::min($level, $crate::kernels::Level::highest()) {
                // SAFETY: `Level::highest` has found these features on this processor.
                $crate::kernels::Level::Avx512 => return unsafe { avx512 $(::<$($generic),+>)? ($($argument),*) },
                // SAFETY: as above.
                $crate::kernels::Level::Avx2 => return unsafe { avx2 $(::<$($generic),+>)? ($($argument),*) },
                // NEON is part of every aarch64 processor: the plain function is compiled for it already.
                $crate::kernels::Level::Scalar | $crate::kernels::Level::Neon => {}
            }
        }
        let _ = $level;
        $body $(::<$($generic),+>)? ($($argument),*)
    }};
}
pub(crate) use at_level;

/// A loop to be compiled for each level, with its arguments.
pub(crate) trait Kernel {
    /// Runs the loop; `FUSED` is true where [`multiply_add`] is one instruction.
    ///
    /// Must be `#[inline(always)]`, and so must all functions that it calls; others are compiled for the lowest level.
    fn run<const FUSED: bool>(self);
}

/// Runs `kernel` as compiled for `level`.
///
/// `level` must be one that [`Level::available`] names: a higher one runs as the highest of these.
pub(crate) fn run<K: Kernel>(level: Level, kernel: K) {
    #[inline(always)]
    fn fused<K: Kernel>(kernel: K) {
        kernel.run::<true>();
    }
    match level.min(Level::highest()) {
        Level::Scalar => kernel.run::<false>(),
        level => at_level!(level, fused<K: Kernel>(kernel: K) -> ()),
    }
}

/// a·b + c, rounded once if `FUSED` and twice otherwise.
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
    // In a local copy, which cannot alias `values`, so that the loop vectorizes.
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
