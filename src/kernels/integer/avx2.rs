//! Products of bytes with AVX2, which has no exact instruction for them: bytes are widened to 16 bits.

use std::arch::x86_64::*;

use super::{Panel, Rows, STEP};

/// The number of rows of `a` from which it pays to widen the rows of `b` first.
pub(super) const PACKED: usize = 4;
/// Rows of `b` in a panel.
const PANEL: usize = 4;
/// The bytes of a vector.
const VECTOR: usize = 32;

/// # Safety
///
/// The processor must have AVX2, and `out` room for each pair of rows.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn dot(a: Rows<'_, i8>, b: Rows<'_, u8>, columns: usize, out: &mut [i32]) {
    let width = b.count(columns);
    for (j, b) in b.iter(columns).enumerate() {
        let (codes, codes_rest) = b.as_chunks::<16>();
        for (i, a) in a.iter(columns).enumerate() {
            let (values, values_rest) = a.as_chunks::<16>();
            let mut sum = _mm256_setzero_si256();
            for (a, b) in values.iter().zip(codes) {
                // SAFETY: sixteen bytes each.
                let (a, b) = unsafe {
                    (
                        _mm_loadu_si128(a.as_ptr().cast()),
                        _mm_loadu_si128(b.as_ptr().cast()),
                    )
                };
                // 16-bit numbers, because the products of bytes by maddubs saturate.
                let product = _mm256_madd_epi16(_mm256_cvtepi8_epi16(a), _mm256_cvtepu8_epi16(b));
                sum = _mm256_add_epi32(sum, product);
            }
            let mut lanes = [0_i32; 8];
            // SAFETY: eight lanes fit.
            unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), sum) };
            out[i * width + j] =
                lanes.iter().sum::<i32>() + super::dot_one(values_rest, codes_rest);
        }
    }
}

/// Widens up to four rows of `b` into a panel: one vector of sixteen 16-bit numbers for each row and each sixteen columns.
/// Missing rows and columns are filled with zeros.
///
/// # Safety
///
/// `rows` rows of `columns` columns must be readable, and `panel` must have room for four rows of whole steps.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn widen(b: *const u8, stride: usize, rows: usize, columns: usize, panel: *mut u8) {
    for row in 0..PANEL {
        for step in 0..columns.div_ceil(STEP) {
            let count = if row < rows {
                (columns - step * STEP).min(STEP)
            } else {
                0
            };
            let from = b.wrapping_add(row * stride + step * STEP);
            let mut some = [0_u8; STEP];
            // SAFETY: `count` columns of the row are left; the panel has a vector for each row and step.
            unsafe {
                let bytes = if count == STEP {
                    _mm_loadu_si128(from.cast())
                } else {
                    std::ptr::copy_nonoverlapping(from, some.as_mut_ptr(), count);
                    _mm_loadu_si128(some.as_ptr().cast())
                };
                let to = panel.add((step * PANEL + row) * VECTOR);
                _mm256_storeu_si256(to.cast(), _mm256_cvtepu8_epi16(bytes));
            }
        }
    }
}

/// The products of `A` rows of `a` with the four rows of a panel.
///
/// # Safety
///
/// `A` rows of `a` must be readable for whole steps, and the panel must have as many steps.
#[inline]
#[target_feature(enable = "avx2")]
// Loops over constant ranges, which unroll into registers.
#[allow(clippy::needless_range_loop)]
unsafe fn panel_tile<const A: usize>(
    a: *const i8,
    stride: usize,
    panel: *const u8,
    steps: usize,
) -> [__m128i; A] {
    let mut sums = [[_mm256_setzero_si256(); PANEL]; A];
    for step in 0..steps {
        let mut rows = [_mm256_setzero_si256(); A];
        for i in 0..A {
            // SAFETY: the caller's promise.
            let bytes = unsafe { _mm_loadu_si128(a.add(i * stride + step * STEP).cast()) };
            rows[i] = _mm256_cvtepi8_epi16(bytes);
        }
        for j in 0..PANEL {
            // SAFETY: as above.
            let codes =
                unsafe { _mm256_loadu_si256(panel.add((step * PANEL + j) * VECTOR).cast()) };
            for i in 0..A {
                // The product of bytes by maddubs would saturate.
                let product = _mm256_madd_epi16(rows[i], codes);
                sums[i][j] = _mm256_add_epi32(sums[i][j], product);
            }
        }
    }
    sums.map(|[a, b, c, d]| {
        let sums = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
        let upper = _mm256_extracti128_si256::<1>(sums);
        _mm_add_epi32(_mm256_castsi256_si128(sums), upper)
    })
}

/// # Safety
///
/// The processor must have AVX2, `out` room for each pair of rows, and rows of `a` be readable for whole steps.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn dot_packed(
    a: Rows<'_, i8>,
    b: Rows<'_, u8>,
    columns: usize,
    panel: &mut Panel,
    out: &mut [i32],
) {
    let (height, width) = (a.count(columns), b.count(columns));
    let steps = columns.div_ceil(STEP);
    let panel = panel.room(PANEL * VECTOR * steps).as_mut_ptr();
    for j in (0..width).step_by(PANEL) {
        let rows = (width - j).min(PANEL);
        let from = b.values[j * b.stride..].as_ptr();
        // SAFETY: `rows` rows are left, and the panel has room for four.
        unsafe { widen(from, b.stride, rows, columns, panel) };
        let mut write = |i: usize, sums: __m128i| {
            let mut lanes = [0_i32; PANEL];
            // SAFETY: four lanes fit.
            unsafe { _mm_storeu_si128(lanes.as_mut_ptr().cast(), sums) };
            let first = i * width + j;
            out[first..first + rows].copy_from_slice(&lanes[..rows]);
        };
        let mut i = 0;
        while i < height {
            let from = a.values[i * a.stride..].as_ptr();
            // SAFETY: two rows of `a`, or one, are left, and readable for whole steps.
            unsafe {
                if i + 2 <= height {
                    let [first, second] = panel_tile::<2>(from, a.stride, panel, steps);
                    write(i, first);
                    write(i + 1, second);
                } else {
                    let [only] = panel_tile::<1>(from, a.stride, panel, steps);
                    write(i, only);
                }
            }
            i += 2;
        }
    }
}
