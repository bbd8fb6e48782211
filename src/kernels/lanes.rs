//! Vectors of numbers, one type for each instruction set, so that a kernel is written once.
//!
//! A kernel is a function generic over [`Lanes`] that is always inlined into one wrapper for each
//! [`Level`](super::Level); the wrapper has the `target_feature`. The scalar form is the same function over
//! [`One`]. Every operation is rounded once in all instruction sets, so that all levels give the same bits.

/// A vector of numbers on which one instruction works.
///
/// # Safety
///
/// The functions of an implementation may only be called where its instruction set is enabled; `load` and
/// `store` read and write [`COUNT`](Self::COUNT) values from the pointer on, which must be valid for that.
pub(crate) trait Lanes<F>: Copy {
    /// The number of numbers.
    const COUNT: usize;
    /// A truth value for each number.
    type Mask: Copy;

    unsafe fn load(from: *const F) -> Self;
    unsafe fn store(self, to: *mut F);
    unsafe fn splat(value: F) -> Self;
    /// self − other
    unsafe fn sub(self, other: Self) -> Self;
    /// self · factor + addend, rounded once.
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// addend − self · factor, rounded once.
    unsafe fn negative_mul_add(self, factor: Self, addend: Self) -> Self;
    unsafe fn less(self, other: Self) -> Self::Mask;
    /// `yes` where the mask is true, `no` elsewhere, bit for bit.
    unsafe fn select(mask: Self::Mask, yes: Self, no: Self) -> Self;
}

/// A single number: the scalar form.
#[derive(Debug, Clone, Copy)]
pub(crate) struct One<F>(F);

impl<F: num_traits::Float> Lanes<F> for One<F> {
    const COUNT: usize = 1;
    type Mask = bool;

    #[inline(always)]
    unsafe fn load(from: *const F) -> Self {
        // SAFETY: the caller vouches for the pointer.
        Self(unsafe { *from })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut F) {
        // SAFETY: the caller vouches for the pointer.
        unsafe { *to = self.0 }
    }
    #[inline(always)]
    unsafe fn splat(value: F) -> Self {
        Self(value)
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        Self(self.0.mul_add(factor.0, addend.0))
    }
    #[inline(always)]
    unsafe fn negative_mul_add(self, factor: Self, addend: Self) -> Self {
        Self((-self.0).mul_add(factor.0, addend.0))
    }
    #[inline(always)]
    unsafe fn less(self, other: Self) -> bool {
        self.0 < other.0
    }
    #[inline(always)]
    unsafe fn select(mask: bool, yes: Self, no: Self) -> Self {
        if mask { yes } else { no }
    }
}

/// Implements [`Lanes`] by the intrinsics named.
macro_rules! lanes {
    ($vector:ty, $number:ty, $mask:ty, $count:literal, $load:ident, $store:ident, $splat:ident, $sub:ident,
     $mul_add:expr, $negative_mul_add:expr, $less:expr, $select:expr) => {
        impl Lanes<$number> for $vector {
            const COUNT: usize = $count;
            type Mask = $mask;

            #[inline(always)]
            unsafe fn load(from: *const $number) -> Self {
                // SAFETY: the caller vouches for the instruction set and the pointer.
                unsafe { $load(from) }
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut $number) {
                // SAFETY: the caller vouches for the instruction set and the pointer.
                unsafe { $store(to, self) }
            }
            #[inline(always)]
            unsafe fn splat(value: $number) -> Self {
                // SAFETY: the caller vouches for the instruction set.
                unsafe { $splat(value) }
            }
            #[inline(always)]
            unsafe fn sub(self, other: Self) -> Self {
                // SAFETY: the caller vouches for the instruction set.
                unsafe { $sub(self, other) }
            }
            #[inline(always)]
            unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
                // SAFETY: the caller vouches for the instruction set.
                unsafe { $mul_add(self, factor, addend) }
            }
            #[inline(always)]
            unsafe fn negative_mul_add(self, factor: Self, addend: Self) -> Self {
                // SAFETY: the caller vouches for the instruction set.
                unsafe { $negative_mul_add(self, factor, addend) }
            }
            #[inline(always)]
            unsafe fn less(self, other: Self) -> $mask {
                // SAFETY: the caller vouches for the instruction set.
                unsafe { $less(self, other) }
            }
            #[inline(always)]
            unsafe fn select(mask: $mask, yes: Self, no: Self) -> Self {
                // SAFETY: the caller vouches for the instruction set.
                unsafe { $select(mask, yes, no) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use super::Lanes;
    use std::arch::x86_64::*;

    lanes!(
        __m256,
        f32,
        __m256,
        8,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_set1_ps,
        _mm256_sub_ps,
        _mm256_fmadd_ps,
        _mm256_fnmadd_ps,
        _mm256_cmp_ps::<_CMP_LT_OQ>,
        |mask, yes, no| _mm256_blendv_ps(no, yes, mask)
    );
    lanes!(
        __m256d,
        f64,
        __m256d,
        4,
        _mm256_loadu_pd,
        _mm256_storeu_pd,
        _mm256_set1_pd,
        _mm256_sub_pd,
        _mm256_fmadd_pd,
        _mm256_fnmadd_pd,
        _mm256_cmp_pd::<_CMP_LT_OQ>,
        |mask, yes, no| _mm256_blendv_pd(no, yes, mask)
    );
    lanes!(
        __m512,
        f32,
        __mmask16,
        16,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_set1_ps,
        _mm512_sub_ps,
        _mm512_fmadd_ps,
        _mm512_fnmadd_ps,
        _mm512_cmp_ps_mask::<_CMP_LT_OQ>,
        |mask, yes, no| _mm512_mask_blend_ps(mask, no, yes)
    );
    lanes!(
        __m512d,
        f64,
        __mmask8,
        8,
        _mm512_loadu_pd,
        _mm512_storeu_pd,
        _mm512_set1_pd,
        _mm512_sub_pd,
        _mm512_fmadd_pd,
        _mm512_fnmadd_pd,
        _mm512_cmp_pd_mask::<_CMP_LT_OQ>,
        |mask, yes, no| _mm512_mask_blend_pd(mask, no, yes)
    );
}

#[cfg(target_arch = "aarch64")]
mod aarch64 {
    use super::Lanes;
    use std::arch::aarch64::*;

    lanes!(
        float32x4_t,
        f32,
        uint32x4_t,
        4,
        vld1q_f32,
        vst1q_f32,
        vdupq_n_f32,
        vsubq_f32,
        |a, b, c| vfmaq_f32(c, a, b),
        |a, b, c| vfmsq_f32(c, a, b),
        vcltq_f32,
        vbslq_f32
    );
    lanes!(
        float64x2_t,
        f64,
        uint64x2_t,
        2,
        vld1q_f64,
        vst1q_f64,
        vdupq_n_f64,
        vsubq_f64,
        |a, b, c| vfmaq_f64(c, a, b),
        |a, b, c| vfmsq_f64(c, a, b),
        vcltq_f64,
        vbslq_f64
    );
}
