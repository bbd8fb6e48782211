//! The products with AVX2 and fused multiply-adds.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{Bytes, GROUP, LANES, Layout, Row, Sums, sub_blocks};

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

/// The codes of a group, a byte each, in vectors of 32.
///
/// Of 4 bits, the even codes of the first half of the group, its odd codes, and the same of the second half; of 2 bits, every
/// fourth code; otherwise in their order.
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
            // SAFETY: the caller's promise.
            let (a, b) = unsafe {
                (
                    _mm256_loadu_si256(codes.cast()),
                    _mm256_loadu_si256(codes.add(VECTOR).cast()),
                )
            };
            halves(a, b)
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
            [two(0), two(1), two(2), two(3)]
        }
    }
}

/// The low and the high halves of the bytes of two vectors.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn halves(a: __m256i, b: __m256i) -> [__m256i; VECTORS] {
    let mask = _mm256_set1_epi8(15);
    let high = |v| _mm256_and_si256(_mm256_srli_epi16::<4>(v), mask);
    [
        _mm256_and_si256(a, mask),
        high(a),
        _mm256_and_si256(b, mask),
        high(b),
    ]
}

/// The unpacked codes of a group in the order of [`super::order`]: each lane holds one sub-block.
///
/// # Safety
///
/// As for [`unpack`].
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn lanes_of<const BITS: usize>(codes: *const u8) -> [__m256i; VECTORS] {
    if BITS == 4 {
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
        return halves(first, second);
    }
    // SAFETY: the caller's promise.
    let [a, b, c, d] = unsafe { unpack::<BITS>(codes) };
    if BITS == 2 {
        return [a, b, c, d];
    }
    let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
    let (ab_high, cd_high) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
    [
        _mm256_unpacklo_epi64(ab, cd),
        _mm256_unpackhi_epi64(ab, cd),
        _mm256_unpacklo_epi64(ab_high, cd_high),
        _mm256_unpackhi_epi64(ab_high, cd_high),
    ]
}

/// The unpacked codes of a group, of which eight consecutive bytes belong to one sub-block; [`eight`] finds them.
///
/// # Safety
///
/// As for [`unpack`].
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn eights_of<const BITS: usize>(codes: *const u8) -> [__m256i; VECTORS] {
    // SAFETY: the caller's promise.
    let [a, b, c, d] = unsafe { unpack::<BITS>(codes) };
    if BITS != 2 {
        return [a, b, c, d];
    }
    let (ab, cd) = (_mm256_unpacklo_epi8(a, b), _mm256_unpacklo_epi8(c, d));
    let (ab_high, cd_high) = (_mm256_unpackhi_epi8(a, b), _mm256_unpackhi_epi8(c, d));
    [
        _mm256_unpacklo_epi16(ab, cd),
        _mm256_unpackhi_epi16(ab, cd),
        _mm256_unpacklo_epi16(ab_high, cd_high),
        _mm256_unpackhi_epi16(ab_high, cd_high),
    ]
}

/// The byte of [`eights_of`] at which half `half` of sub-block `sub` begins.
#[inline(always)]
const fn eight(bits: usize, sub: usize, half: usize) -> usize {
    match bits {
        2 => VECTOR * (sub % 4) + 16 * (sub / 4) + 8 * half,
        4 => VECTOR * (2 * (sub / 4) + half) + 8 * (sub % 4),
        _ => 16 * sub + 8 * half,
    }
}

/// Unpacked codes in memory.
#[repr(align(32))]
struct Unpacked([u8; GROUP]);

/// Which scale of a group belongs to each lane.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn lanes(layout: Layout) -> __m256i {
    let blocks = sub_blocks(layout.bits).map(|sub| layout.block(sub) as i32);
    // SAFETY: eight lanes.
    unsafe { _mm256_loadu_si256(blocks.as_ptr().cast()) }
}

/// Calls the form of a function for the bits and the zeros of a layout and a number of inputs.
macro_rules! form {
    ($layout:ident, $batch:ident, $f:ident $arguments:tt) => {
        match $layout.bits {
            2 => form!(@zeros 2, $layout, $batch, $f $arguments),
            3 => form!(@zeros 3, $layout, $batch, $f $arguments),
            4 => form!(@zeros 4, $layout, $batch, $f $arguments),
            5 => form!(@zeros 5, $layout, $batch, $f $arguments),
            _ => form!(@zeros 6, $layout, $batch, $f $arguments),
        }
    };
    (@zeros $bits:literal, $layout:ident, $batch:ident, $f:ident $arguments:tt) => {
        match $layout.affine {
            true => form!(@batch $bits, true, $batch, $f $arguments),
            false => form!(@batch $bits, false, $batch, $f $arguments),
        }
    };
    (@batch $bits:literal, $affine:literal, $batch:ident, $f:ident $arguments:tt) => {
        match $batch {
            1 => $f::<$bits, $affine, 1> $arguments,
            2 => $f::<$bits, $affine, 2> $arguments,
            3 => $f::<$bits, $affine, 3> $arguments,
            _ => $f::<$bits, $affine, 4> $arguments,
        }
    };
}

/// # Safety
///
/// The processor must have AVX2 and FMA; rows and inputs must have these groups; codes have 2 to 6 bits; `batch` is 1 to 4,
/// and there are so many sums for each row.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn rounded(
    layout: Layout,
    rows: &[Row<'_, f32>],
    x: Bytes<'_>,
    groups: Range<usize>,
    batch: usize,
    sums: &mut [Sums<f32>],
) {
    // SAFETY: the caller's promise.
    unsafe { form!(layout, batch, rounded_form(layout, rows, x, groups, sums)) }
}

/// # Safety
///
/// As for [`rounded`], with `B` inputs.
#[target_feature(enable = "avx2,fma")]
// Loops over constant ranges, which unroll into registers.
#[allow(clippy::needless_range_loop)]
unsafe fn rounded_form<const BITS: usize, const AFFINE: bool, const B: usize>(
    layout: Layout,
    rows: &[Row<'_, f32>],
    x: Bytes<'_>,
    groups: Range<usize>,
    sums: &mut [Sums<f32>],
) {
    let lanes = lanes(layout);
    let ones = _mm256_set1_epi16(1);
    let (scales, bytes) = (layout.scales(), layout.bytes());
    for (row, sums) in rows.iter().zip(sums.as_chunks_mut::<B>().0) {
        let mut total = [_mm256_setzero_ps(); B];
        for b in 0..B {
            // SAFETY: eight lanes.
            total[b] = unsafe { _mm256_loadu_ps(sums[b].as_ptr()) };
        }
        for g in groups.clone() {
            // SAFETY: the row has this group, and scales and zeros have eight numbers more.
            let (codes, scale, zero) = unsafe {
                (
                    lanes_of::<BITS>(row.codes.as_ptr().add(g * bytes)),
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
                // Eight products of codes of up to 5 bits with bytes of up to 127 fit into 16 bits, of 6 bits only four.
                let sum = if BITS < 6 {
                    _mm256_madd_epi16(_mm256_add_epi16(first, second), ones)
                } else {
                    _mm256_add_epi32(
                        _mm256_madd_epi16(first, ones),
                        _mm256_madd_epi16(second, ones),
                    )
                };
                let inputs = if AFFINE {
                    // Both are below 2¹⁵, and the upper half of `zero` is 0.
                    _mm256_madd_epi16(zero, inputs)
                } else {
                    inputs
                };
                let sum = _mm256_cvtepi32_ps(_mm256_sub_epi32(sum, inputs));
                total[b] = _mm256_fmadd_ps(sum, scale, total[b]);
            }
        }
        for b in 0..B {
            // SAFETY: eight lanes.
            unsafe { _mm256_storeu_ps(sums[b].as_mut_ptr(), total[b]) };
        }
    }
}

/// # Safety
///
/// As for [`rounded`].
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn exact(
    layout: Layout,
    rows: &[Row<'_, f32>],
    x: (&[f32], usize),
    groups: Range<usize>,
    batch: usize,
    sums: &mut [Sums<f32>],
) {
    // SAFETY: the caller's promise.
    unsafe { form!(layout, batch, exact_form(layout, rows, x, groups, sums)) }
}

/// # Safety
///
/// As for [`rounded`], with `B` inputs.
#[target_feature(enable = "avx2,fma")]
// Loops over constant ranges, which unroll into registers.
#[allow(clippy::needless_range_loop)]
unsafe fn exact_form<const BITS: usize, const AFFINE: bool, const B: usize>(
    layout: Layout,
    rows: &[Row<'_, f32>],
    (x, stride): (&[f32], usize),
    groups: Range<usize>,
    sums: &mut [Sums<f32>],
) {
    let (scales, bytes) = (layout.scales(), layout.bytes());
    let subs = LANES / scales;
    let mut unpacked = Unpacked([0; GROUP]);
    let unpacked = unpacked.0.as_mut_ptr();
    for (row, sums) in rows.iter().zip(sums.as_chunks_mut::<B>().0) {
        let zero = _mm256_set1_epi8(row.zeros[0] as i8);
        let mut total = [_mm256_setzero_ps(); B];
        for b in 0..B {
            // SAFETY: eight lanes.
            total[b] = unsafe { _mm256_loadu_ps(sums[b].as_ptr()) };
        }
        for g in groups.clone() {
            // SAFETY: the row has this group.
            let codes = unsafe { eights_of::<BITS>(row.codes.as_ptr().add(g * bytes)) };
            for k in 0..VECTORS {
                let codes = match AFFINE {
                    true => codes[k],
                    false => _mm256_sub_epi8(codes[k], zero),
                };
                // SAFETY: four vectors fit.
                unsafe { _mm256_store_si256(unpacked.add(k * VECTOR).cast(), codes) };
            }
            for block in 0..scales {
                // SAFETY: the row has this block.
                let (scale, zero) = unsafe {
                    let at = g * scales + block;
                    (
                        _mm256_broadcast_ss(&*row.scales.as_ptr().add(at)),
                        _mm256_set1_epi32(*row.zeros.as_ptr().add(at)),
                    )
                };
                let mut part = [_mm256_setzero_ps(); B];
                for sub in block * subs..(block + 1) * subs {
                    for half in 0..2 {
                        // SAFETY: the place is one of the group.
                        let code =
                            unsafe { _mm_loadl_epi64(unpacked.add(eight(BITS, sub, half)).cast()) };
                        let mut code = _mm256_cvtepi8_epi32(code);
                        if AFFINE {
                            code = _mm256_sub_epi32(code, zero);
                        }
                        let weight = _mm256_cvtepi32_ps(code);
                        for b in 0..B {
                            let at = (b * stride + g) * GROUP + (2 * sub + half) * LANES;
                            // SAFETY: the inputs have this group.
                            let x = unsafe { _mm256_loadu_ps(x.as_ptr().add(at)) };
                            part[b] = _mm256_fmadd_ps(weight, x, part[b]);
                        }
                    }
                }
                for b in 0..B {
                    total[b] = _mm256_fmadd_ps(part[b], scale, total[b]);
                }
            }
        }
        for b in 0..B {
            // SAFETY: eight lanes.
            unsafe { _mm256_storeu_ps(sums[b].as_mut_ptr(), total[b]) };
        }
    }
}
