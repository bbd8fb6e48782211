//! The products with AVX2 and fused multiply-adds.

use std::arch::x86_64::*;

use super::{Bytes, GROUP, LANES, Layout, Row, SUB, Sums, sub_blocks};

/// Bytes of a vector.
const VECTOR: usize = 32;
const VECTORS: usize = GROUP / VECTOR;

/// Where the two bytes are that hold a pair of codes, for each of the eight pairs of a sub-block, and the factor that moves the
/// pair to the highest bits of sixteen.
const fn pairs(bits: usize) -> ([u8; 16], [u16; 8]) {
    let (mut places, mut factors) = ([0; 16], [0; 8]);
    let mut pair = 0;
    while pair < 8 {
        let first = 2 * bits * pair;
        places[2 * pair] = (first / 8) as u8;
        places[2 * pair + 1] = (first / 8 + 1) as u8;
        factors[pair] = 1 << (16 - 2 * bits - first % 8);
        pair += 1;
    }
    (places, factors)
}

/// The unpacked codes of a group, in the order of [`super::order`].
///
/// # Safety
///
/// The bytes of a group and [`super::SLACK`] more must be readable.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn unpack<const BITS: usize>(codes: *const u8) -> [__m256i; VECTORS] {
    match BITS {
        2 => {
            let mask = _mm256_set1_epi8(3);
            // SAFETY: the caller's promise.
            let v = unsafe { _mm256_loadu_si256(codes.cast()) };
            [
                _mm256_and_si256(v, mask),
                _mm256_and_si256(_mm256_srli_epi16::<2>(v), mask),
                _mm256_and_si256(_mm256_srli_epi16::<4>(v), mask),
                _mm256_and_si256(_mm256_srli_epi16::<6>(v), mask),
            ]
        }
        4 => {
            let mask = _mm256_set1_epi8(15);
            // SAFETY: the caller's promise.
            let (a, b) = unsafe {
                (
                    _mm256_loadu_ps(codes.cast()),
                    _mm256_loadu_ps(codes.add(VECTOR).cast()),
                )
            };
            // The first and the second four bytes of each sub-block.
            let first = _mm256_castps_si256(_mm256_shuffle_ps::<0b10_00_10_00>(a, b));
            let second = _mm256_castps_si256(_mm256_shuffle_ps::<0b11_01_11_01>(a, b));
            [
                _mm256_and_si256(first, mask),
                _mm256_and_si256(_mm256_srli_epi16::<4>(first), mask),
                _mm256_and_si256(second, mask),
                _mm256_and_si256(_mm256_srli_epi16::<4>(second), mask),
            ]
        }
        _ => {
            let (places, factors) = const { pairs(BITS) };
            // SAFETY: sixteen bytes each.
            let (places, factors) = unsafe {
                (
                    _mm256_broadcastsi128_si256(_mm_loadu_si128(places.as_ptr().cast())),
                    _mm256_broadcastsi128_si256(_mm_loadu_si128(factors.as_ptr().cast())),
                )
            };
            let low = _mm256_set1_epi16((1 << BITS) - 1);
            let high = _mm256_slli_epi16::<8>(low);
            let (to_low, to_high) = (
                _mm_cvtsi32_si128(16 - 2 * BITS as i32),
                _mm_cvtsi32_si128(8 - BITS as i32),
            );
            // Two sub-blocks in each vector.
            let two = |i: usize| {
                // SAFETY: each load begins in the group and ends at most `SLACK` bytes behind it.
                let bytes = unsafe {
                    let from = codes.add(4 * BITS * i);
                    _mm256_loadu2_m128i(from.add(2 * BITS).cast(), from.cast())
                };
                let pair = _mm256_mullo_epi16(_mm256_shuffle_epi8(bytes, places), factors);
                let first = _mm256_and_si256(_mm256_srl_epi16(pair, to_low), low);
                let second = _mm256_and_si256(_mm256_srl_epi16(pair, to_high), high);
                _mm256_or_si256(first, second)
            };
            let (a, b, c, d) = (two(0), two(1), two(2), two(3));
            // Transposed, so that the lanes hold different sub-blocks.
            let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
            let (ab_high, cd_high) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
            [
                _mm256_unpacklo_epi64(ab, cd),
                _mm256_unpackhi_epi64(ab, cd),
                _mm256_unpacklo_epi64(ab_high, cd_high),
                _mm256_unpackhi_epi64(ab_high, cd_high),
            ]
        }
    }
}

/// Which scale of a group belongs to each lane.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn lanes(layout: Layout) -> __m256i {
    let blocks = sub_blocks(layout.bits).map(|sub| (sub * SUB / layout.width) as i32);
    // SAFETY: eight lanes.
    unsafe { _mm256_loadu_si256(blocks.as_ptr().cast()) }
}

/// Calls a function for the number of bits of the layout and the number of sums.
macro_rules! for_each_form {
    ($layout:ident, $sums:ident, $f:ident($($argument:expr),*)) => {
        match $layout.bits {
            2 => for_each_form!(2, $sums, $f($($argument),*)),
            3 => for_each_form!(3, $sums, $f($($argument),*)),
            4 => for_each_form!(4, $sums, $f($($argument),*)),
            5 => for_each_form!(5, $sums, $f($($argument),*)),
            _ => for_each_form!(6, $sums, $f($($argument),*)),
        }
    };
    ($bits:literal, $sums:ident, $f:ident($($argument:expr),*)) => {
        match $sums.len() {
            1 => $f::<$bits, 1>($($argument),*),
            2 => $f::<$bits, 2>($($argument),*),
            3 => $f::<$bits, 3>($($argument),*),
            4 => $f::<$bits, 4>($($argument),*),
            _ => {}
        }
    };
}

/// # Safety
///
/// The processor must have AVX2 and FMA; the row and the inputs must have so many groups; codes have 2 to 6 bits.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn rounded(
    layout: Layout,
    row: Row<'_, f32>,
    x: Bytes<'_>,
    groups: usize,
    sums: &mut [Sums<f32>],
) {
    // SAFETY: the caller's promise.
    unsafe { for_each_form!(layout, sums, rounded_form(layout, row, x, groups, sums)) }
}

/// # Safety
///
/// As for [`rounded`], with `B` sums.
#[target_feature(enable = "avx2,fma")]
// Loops over constant ranges, which unroll into registers.
#[allow(clippy::needless_range_loop)]
unsafe fn rounded_form<const BITS: usize, const B: usize>(
    layout: Layout,
    row: Row<'_, f32>,
    x: Bytes<'_>,
    groups: usize,
    sums: &mut [Sums<f32>],
) {
    let lanes = lanes(layout);
    let ones = _mm256_set1_epi16(1);
    let (scales, bytes) = (layout.scales(), layout.bytes());
    let mut total = [_mm256_setzero_ps(); B];
    for b in 0..B {
        // SAFETY: eight lanes.
        total[b] = unsafe { _mm256_loadu_ps(sums[b].as_ptr()) };
    }
    for g in 0..groups {
        // SAFETY: the row has this group, and scales and zeros have eight lanes more.
        let (codes, scale, zero) = unsafe {
            (
                unpack::<BITS>(row.codes.as_ptr().add(g * bytes)),
                _mm256_loadu_ps(row.scales.as_ptr().add(g * scales)),
                _mm256_loadu_si256(row.zeros.as_ptr().add(g * scales).cast()),
            )
        };
        let scale = _mm256_permutevar8x32_ps(scale, lanes);
        let zero = _mm256_permutevar8x32_epi32(zero, lanes);
        for b in 0..B {
            let at = b * x.stride + g;
            // SAFETY: the inputs have this group.
            let (values, inputs) = unsafe {
                (
                    x.values.as_ptr().add(at * GROUP),
                    _mm256_loadu_si256(x.totals.as_ptr().add(at * LANES).cast()),
                )
            };
            let product = |k: usize| {
                // SAFETY: as above.
                let values = unsafe { _mm256_loadu_si256(values.add(k * VECTOR).cast()) };
                _mm256_maddubs_epi16(codes[k], values)
            };
            let first = _mm256_add_epi16(product(0), product(1));
            let second = _mm256_add_epi16(product(2), product(3));
            // Products of codes of up to 5 bits with bytes of up to 127: eight of them fit into 16 bits, of 6 bits only four.
            let sum = if BITS < 6 {
                _mm256_madd_epi16(_mm256_add_epi16(first, second), ones)
            } else {
                _mm256_add_epi32(
                    _mm256_madd_epi16(first, ones),
                    _mm256_madd_epi16(second, ones),
                )
            };
            // Both are below 2¹⁵, and the upper half of `zero` is 0.
            let sum = _mm256_sub_epi32(sum, _mm256_madd_epi16(zero, inputs));
            total[b] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale, total[b]);
        }
    }
    for b in 0..B {
        // SAFETY: eight lanes.
        unsafe { _mm256_storeu_ps(sums[b].as_mut_ptr(), total[b]) };
    }
}

/// # Safety
///
/// As for [`rounded`].
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn exact(
    layout: Layout,
    row: Row<'_, f32>,
    x: &[f32],
    stride: usize,
    groups: usize,
    sums: &mut [Sums<f32>],
) {
    // SAFETY: the caller's promise.
    unsafe {
        for_each_form!(
            layout,
            sums,
            exact_form(layout, row, x, stride, groups, sums)
        )
    }
}

/// # Safety
///
/// As for [`rounded`], with `B` sums.
#[target_feature(enable = "avx2,fma")]
// Loops over constant ranges, which unroll into registers.
#[allow(clippy::needless_range_loop)]
unsafe fn exact_form<const BITS: usize, const B: usize>(
    layout: Layout,
    row: Row<'_, f32>,
    x: &[f32],
    stride: usize,
    groups: usize,
    sums: &mut [Sums<f32>],
) {
    let lanes = lanes(layout);
    let bytes_of_zero = _mm256_set1_epi32(0x0101_0101);
    let (scales, bytes) = (layout.scales(), layout.bytes());
    let mut total = [_mm256_setzero_ps(); B];
    for b in 0..B {
        // SAFETY: eight lanes.
        total[b] = unsafe { _mm256_loadu_ps(sums[b].as_ptr()) };
    }
    for g in 0..groups {
        // SAFETY: the row has this group, and scales and zeros have eight lanes more.
        let (codes, scale, zero) = unsafe {
            (
                unpack::<BITS>(row.codes.as_ptr().add(g * bytes)),
                _mm256_loadu_ps(row.scales.as_ptr().add(g * scales)),
                _mm256_loadu_si256(row.zeros.as_ptr().add(g * scales).cast()),
            )
        };
        let scale = _mm256_permutevar8x32_ps(scale, lanes);
        let zero = _mm256_permutevar8x32_epi32(zero, lanes);
        let zero = _mm256_mullo_epi32(zero, bytes_of_zero);
        let mut parts = [[_mm256_setzero_ps(); 2]; B];
        for k in 0..VECTORS {
            let codes = _mm256_sub_epi8(codes[k], zero);
            let signed = [
                _mm256_srai_epi32::<24>(_mm256_slli_epi32::<24>(codes)),
                _mm256_srai_epi32::<24>(_mm256_slli_epi32::<16>(codes)),
                _mm256_srai_epi32::<24>(_mm256_slli_epi32::<8>(codes)),
                _mm256_srai_epi32::<24>(codes),
            ];
            for j in 0..4 {
                let weights = _mm256_cvtepi32_ps(signed[j]);
                for b in 0..B {
                    let at = (b * stride + g) * GROUP + (4 * k + j) * LANES;
                    // SAFETY: the inputs have this group.
                    let x = unsafe { _mm256_loadu_ps(x.as_ptr().add(at)) };
                    parts[b][k % 2] = _mm256_fmadd_ps(weights, x, parts[b][k % 2]);
                }
            }
        }
        for b in 0..B {
            let sum = _mm256_add_ps(parts[b][0], parts[b][1]);
            total[b] = _mm256_fmadd_ps(sum, scale, total[b]);
        }
    }
    for b in 0..B {
        // SAFETY: eight lanes.
        unsafe { _mm256_storeu_ps(sums[b].as_mut_ptr(), total[b]) };
    }
}
