//! Look-ups in a table in registers: sixteen look-ups an instruction.
//!
//! AVX-512 picks sixteen numbers of 32 bits out of two registers at once. A table of k entries fills ⌈k/16⌉ registers and
//! takes as many halves of such instructions for sixteen codes: at k = 16 one, at k = 256 eight and seven
//! selections, which is still faster than sixteen loads.

use super::Level;

/// Numbers that may be looked up by permutations of registers.
///
/// Public in name only: the module is private.
pub trait PermuteKernels: Copy + std::ops::AddAssign {
    /// Whether `level` has permutations for this type.
    #[doc(hidden)]
    fn permutes(_level: Level) -> bool {
        false
    }

    /// `y[o] = table[codes[o]]`, or `y[o] += table[codes[o]]` where `add` is set; a table has at most 256 entries.
    ///
    /// Codes are below the length of the table.
    #[doc(hidden)]
    fn permute(table: &[Self], codes: &[u8], y: &mut [Self], add: bool) {
        one_by_one(table, codes, y, add);
    }
}

impl PermuteKernels for f64 {}

impl PermuteKernels for f32 {
    fn permutes(level: Level) -> bool {
        level.min(Level::highest()) == Level::Avx512
    }

    fn permute(table: &[f32], codes: &[u8], y: &mut [f32], add: bool) {
        #[cfg(target_arch = "x86_64")]
        if Level::highest() == Level::Avx512 {
            // SAFETY: the processor has been found to have these instructions.
            return unsafe { x86_64::permute(table, codes, y, add) };
        }
        one_by_one(table, codes, y, add);
    }
}

/// The scalar form.
fn one_by_one<F: PermuteKernels>(table: &[F], codes: &[u8], y: &mut [F], add: bool) {
    for (y, &code) in y.iter_mut().zip(codes) {
        let entry = table[usize::from(code)];
        if add {
            *y += entry;
        } else {
            *y = entry;
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use std::arch::x86_64::*;

    /// Codes in a register.
    const LANES: usize = 16;

    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) fn permute(table: &[f32], codes: &[u8], y: &mut [f32], add: bool) {
        match table.len().div_ceil(LANES) {
            0 => {}
            1 => permute_from::<1>(table, codes, y, add),
            2 => permute_from::<2>(table, codes, y, add),
            3..=4 => permute_from::<4>(table, codes, y, add),
            5..=8 => permute_from::<8>(table, codes, y, add),
            _ => permute_from::<16>(table, codes, y, add),
        }
    }

    /// The first values, as many as a register holds, padded with zeros.
    #[inline]
    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
    fn load(values: &[f32]) -> __m512 {
        let mask = mask(values.len());
        // SAFETY: the mask lets through what the slice holds; nothing else is read.
        unsafe { _mm512_maskz_loadu_ps(mask, values.as_ptr()) }
    }

    /// The lowest `count` lanes.
    #[inline(always)]
    fn mask(count: usize) -> __mmask16 {
        if count >= LANES { !0 } else { (1 << count) - 1 }
    }

    /// With a table of up to 16·`R` entries, `R` a power of two up to 16.
    #[inline]
    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
    // Loops over constant ranges, which unroll into registers.
    #[allow(clippy::needless_range_loop)]
    fn permute_from<const R: usize>(table: &[f32], codes: &[u8], y: &mut [f32], add: bool) {
        let mut registers = [_mm512_setzero_ps(); R];
        for (register, values) in registers.iter_mut().zip(table.chunks(LANES)) {
            *register = load(values);
        }
        let bits: [__m512i; 4] = std::array::from_fn(|i| _mm512_set1_epi32(16 << i));
        for (y, codes) in y.chunks_mut(LANES).zip(codes.chunks(LANES)) {
            let mask = mask(y.len().min(codes.len()));
            // SAFETY: the mask lets through as many as both slices hold; nothing else is read or written.
            unsafe {
                let codes = _mm_maskz_loadu_epi8(mask, codes.as_ptr().cast());
                let at = _mm512_cvtepu8_epi32(codes);
                let mut found = [_mm512_setzero_ps(); R];
                let mut count = R;
                if R == 1 {
                    found[0] = _mm512_permutexvar_ps(at, registers[0]);
                } else {
                    count /= 2;
                    for r in 0..count {
                        found[r] =
                            _mm512_permutex2var_ps(registers[2 * r], at, registers[2 * r + 1]);
                    }
                }
                for bit in 1..4 {
                    if count > 1 {
                        let upper = _mm512_test_epi32_mask(at, bits[bit]);
                        count /= 2;
                        for r in 0..count {
                            found[r] = _mm512_mask_blend_ps(upper, found[2 * r], found[2 * r + 1]);
                        }
                    }
                }
                let before = _mm512_maskz_loadu_ps(if add { mask } else { 0 }, y.as_ptr());
                let value = if add {
                    _mm512_add_ps(before, found[0])
                } else {
                    found[0]
                };
                _mm512_mask_storeu_ps(y.as_mut_ptr(), mask, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Seed;
    use crate::kernels::sizes;

    #[test]
    fn permutations_add_what_look_ups_add() {
        for level in Level::available() {
            for centroids in sizes((1..=40).chain([50, 64, 65, 100, 128, 129, 200, 255, 256])) {
                for outputs in sizes([1, 7, 15, 16, 17, 33, 64, 100]) {
                    let seed = Seed::from((centroids * 1000 + outputs) as u64);
                    let value = |i: usize| (seed.derive(i as u64).value() >> 40) as f32 - 8e6;
                    let table: Vec<f32> = (0..centroids).map(value).collect();
                    let codes: Vec<u8> = (0..outputs)
                        .map(|i| (seed.derive(i as u64 + 500).value() % centroids as u64) as u8)
                        .collect();
                    let start: Vec<f32> = (0..outputs).map(|i| value(i + 900)).collect();
                    for add in [false, true] {
                        let expected: Vec<f32> = start
                            .iter()
                            .zip(&codes)
                            .map(|(y, &code)| table[usize::from(code)] + if add { *y } else { 0.0 })
                            .collect();
                        let mut twin = start.clone();
                        one_by_one(&table, &codes, &mut twin, add);
                        assert_eq!(twin, expected);
                        if f32::permutes(level) {
                            let mut y = start.clone();
                            f32::permute(&table, &codes, &mut y, add);
                            assert_eq!(y, expected, "{level:?} k={centroids} n={outputs}");
                        }
                    }
                }
            }
        }
    }
}
