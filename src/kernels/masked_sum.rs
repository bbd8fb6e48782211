//! Sums of the values whose bit is set: the product of a matrix of signs with a matrix of numbers.
//!
//! Σ ±x = 2 Σ₊ x − Σ x, where Σ₊ is over the values whose bit is set: one masked addition for each weight, and no
//! multiplication.
//!
//! Sums of real numbers are kept in lanes, value i in lane i mod 16 (mod 8 in double precision), and the lanes are added by
//! halving. All levels use this order, so that their results are bit-identical.

use super::Level;

/// The number types that can be summed under a mask.
pub trait MaskedSum: Copy {
    /// The type of a sum.
    type Sum: Copy + Default + Send;
    /// `out[i * rows(signs) + j]` = the sum of the values of row i of `x` at the set bits of row j of `signs`.
    ///
    /// Rows of signs are `words` words long, rows of `x` 64·`words` values.
    fn masked_sums(level: Level, x: &[Self], signs: &[u64], words: usize, out: &mut [Self::Sum])
    where
        Self: Sized;
}

fn check(x: usize, signs: usize, words: usize, out: usize) {
    assert!(words > 0);
    assert_eq!(x % (64 * words), 0);
    assert_eq!(signs % words, 0);
    assert_eq!(out, (x / (64 * words)) * (signs / words));
}

fn halve<T: Copy + std::ops::Add<Output = T>, const L: usize>(mut lanes: [T; L]) -> T {
    let mut width = L / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = lanes[i] + lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

fn scalar<T, const L: usize>(x: &[T], signs: &[u64], words: usize, out: &mut [T])
where
    T: Copy + Default + std::ops::Add<Output = T>,
{
    let width = signs.len() / words;
    for (i, x) in x.chunks_exact(64 * words).enumerate() {
        for (j, signs) in signs.chunks_exact(words).enumerate() {
            let mut lanes = [T::default(); L];
            for (x, &word) in x.chunks_exact(64).zip(signs) {
                for (k, &x) in x.iter().enumerate() {
                    let masked = if word >> k & 1 == 1 { x } else { T::default() };
                    lanes[k % L] = lanes[k % L] + masked;
                }
            }
            out[i * width + j] = halve(lanes);
        }
    }
}

impl MaskedSum for f32 {
    type Sum = f32;

    fn masked_sums(level: Level, x: &[f32], signs: &[u64], words: usize, out: &mut [f32]) {
        check(x.len(), signs.len(), words, out.len());
        match level {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => {
                // SAFETY: the processor has the level, and the lengths were checked above.
                unsafe { avx512::sums_f32(x, signs, words, out) }
            }
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => {
                // SAFETY: as above.
                unsafe { avx2::sums_f32(x, signs, words, out) }
            }
            _ => scalar::<f32, 16>(x, signs, words, out),
        }
    }
}

impl MaskedSum for f64 {
    type Sum = f64;

    fn masked_sums(level: Level, x: &[f64], signs: &[u64], words: usize, out: &mut [f64]) {
        check(x.len(), signs.len(), words, out.len());
        match level {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => {
                // SAFETY: the processor has the level, and the lengths were checked above.
                unsafe { avx512::sums_f64(x, signs, words, out) }
            }
            _ => scalar::<f64, 8>(x, signs, words, out),
        }
    }
}

impl MaskedSum for u8 {
    type Sum = u32;

    fn masked_sums(level: Level, x: &[u8], signs: &[u64], words: usize, out: &mut [u32]) {
        check(x.len(), signs.len(), words, out.len());
        match level {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 if is_x86_feature_detected!("avx512vnni") => {
                // SAFETY: the processor has what the function is compiled for, and the lengths were checked above.
                unsafe { avx512::sums_u8_vnni(x, signs, words, out) }
            }
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => {
                // SAFETY: the processor has the level, and the lengths were checked above.
                unsafe { avx512::sums_u8(x, signs, words, out) }
            }
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => {
                // SAFETY: as above.
                unsafe { avx2::sums_u8(x, signs, words, out) }
            }
            _ => {
                let width = signs.len() / words;
                for (i, x) in x.chunks_exact(64 * words).enumerate() {
                    for (j, signs) in signs.chunks_exact(words).enumerate() {
                        let set = |k: usize| (signs[k / 64] >> (k % 64) & 1) as u32;
                        out[i * width + j] = x
                            .iter()
                            .enumerate()
                            .map(|(k, &x)| u32::from(x) * set(k))
                            .sum();
                    }
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::halve;
    use std::arch::x86_64::*;

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn total_f32(sums: __m512) -> f32 {
        let mut lanes = [0.0; 16];
        // SAFETY: sixteen lanes fit.
        unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), sums) };
        halve(lanes)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn total_f64(sums: __m512d) -> f64 {
        let mut lanes = [0.0; 8];
        // SAFETY: eight lanes fit.
        unsafe { _mm512_storeu_pd(lanes.as_mut_ptr(), sums) };
        halve(lanes)
    }

    /// The bits become bytes of 0 and 1, whose products with the values are summed by fours.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn add_u8_vnni(sum: __m512i, mask: __mmask64, _: __m512i, values: __m512i) -> __m512i {
        _mm512_dpbusd_epi32(sum, values, _mm512_maskz_set1_epi8(mask, 1))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn total_u8_vnni(sums: __m512i) -> u32 {
        _mm512_reduce_add_epi32(sums) as u32
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn add_u8(sum: __m512i, mask: __mmask64, _: __m512i, values: __m512i) -> __m512i {
        let masked = _mm512_maskz_mov_epi8(mask, values);
        _mm512_add_epi64(sum, _mm512_sad_epu8(masked, _mm512_setzero_si512()))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn total_u8(sums: __m512i) -> u32 {
        _mm512_reduce_add_epi64(sums) as u32
    }

    macro_rules! sums {
        ($name:ident, $features:literal, $real:ty => $sum:ty, $vector:ty, $lanes:literal, $mask:ty,
         $zero:path, $load:path, $add:path, $total:path) => {
            /// # Safety
            ///
            /// The processor must have the features, and the lengths must fit each other.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $name(x: &[$real], signs: &[u64], words: usize, out: &mut [$sum]) {
                /// # Safety
                ///
                /// A rows of values and B rows of signs must be readable.
                #[inline]
                #[target_feature(enable = $features)]
                unsafe fn tile<const A: usize, const B: usize>(
                    x: *const $real,
                    signs: *const u64,
                    words: usize,
                ) -> [[$vector; B]; A] {
                    let mut sums = [[$zero(); B]; A];
                    for word in 0..words {
                        let mut bits = [0_u64; B];
                        for (j, bits) in bits.iter_mut().enumerate() {
                            // SAFETY: row j has `words` words.
                            *bits = unsafe { *signs.add(j * words + word) };
                        }
                        for part in 0..64 / $lanes {
                            let mut values = [$zero(); A];
                            for (i, values) in values.iter_mut().enumerate() {
                                // SAFETY: row i has 64 values a word.
                                *values = unsafe {
                                    $load(x.add((i * words + word) * 64 + part * $lanes).cast())
                                };
                            }
                            for j in 0..B {
                                let mask = (bits[j] >> (part * $lanes)) as $mask;
                                for i in 0..A {
                                    sums[i][j] = $add(sums[i][j], mask, sums[i][j], values[i]);
                                }
                            }
                        }
                    }
                    sums
                }

                /// # Safety
                ///
                /// As for `tile`; the rows and columns from (i, j) on must be inside.
                #[inline]
                #[target_feature(enable = $features)]
                unsafe fn write<const A: usize, const B: usize>(
                    x: &[$real],
                    signs: &[u64],
                    words: usize,
                    (i, j): (usize, usize),
                    out: &mut [$sum],
                ) {
                    let width = signs.len() / words;
                    // SAFETY: the caller's promise.
                    let sums = unsafe {
                        tile::<A, B>(
                            x[i * words * 64..].as_ptr(),
                            signs[j * words..].as_ptr(),
                            words,
                        )
                    };
                    for (k, sums) in sums.into_iter().enumerate() {
                        for (l, sum) in sums.into_iter().enumerate() {
                            out[(i + k) * width + j + l] = $total(sum);
                        }
                    }
                }

                let (height, width) = (x.len() / (64 * words), signs.len() / words);
                let mut j = 0;
                while j < width {
                    let mut i = 0;
                    let four = j + 4 <= width;
                    while i < height {
                        let at = (i, j);
                        // SAFETY: as many rows are left as the sizes say.
                        unsafe {
                            match (i + 4 <= height, four) {
                                (true, true) => write::<4, 4>(x, signs, words, at, out),
                                (false, true) => write::<1, 4>(x, signs, words, at, out),
                                (true, false) => write::<4, 1>(x, signs, words, at, out),
                                (false, false) => write::<1, 1>(x, signs, words, at, out),
                            }
                        }
                        i += if i + 4 <= height { 4 } else { 1 };
                    }
                    j += if four { 4 } else { 1 };
                }
            }
        };
    }

    sums!(
        sums_f32,
        "avx512f,avx512bw,avx512dq,avx512vl",
        f32 => f32,
        __m512,
        16,
        __mmask16,
        _mm512_setzero_ps,
        _mm512_loadu_ps,
        _mm512_mask_add_ps,
        total_f32
    );
    sums!(
        sums_f64,
        "avx512f,avx512bw,avx512dq,avx512vl",
        f64 => f64,
        __m512d,
        8,
        __mmask8,
        _mm512_setzero_pd,
        _mm512_loadu_pd,
        _mm512_mask_add_pd,
        total_f64
    );
    sums!(
        sums_u8,
        "avx512f,avx512bw",
        u8 => u32,
        __m512i,
        64,
        __mmask64,
        _mm512_setzero_si512,
        _mm512_loadu_si512,
        add_u8,
        total_u8
    );
    sums!(
        sums_u8_vnni,
        "avx512f,avx512bw,avx512vnni",
        u8 => u32,
        __m512i,
        64,
        __mmask64,
        _mm512_setzero_si512,
        _mm512_loadu_si512,
        add_u8_vnni,
        total_u8_vnni
    );
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::halve;
    use std::arch::x86_64::*;

    /// # Safety
    ///
    /// The processor must have AVX2, and the lengths must fit each other.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn sums_f32(x: &[f32], signs: &[u64], words: usize, out: &mut [f32]) {
        let width = signs.len() / words;
        let bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
        for (j, signs) in signs.chunks_exact(words).enumerate() {
            for (i, x) in x.chunks_exact(64 * words).enumerate() {
                let mut sums = [_mm256_setzero_ps(); 2];
                for (x, &word) in x.chunks_exact(64).zip(signs) {
                    for (part, x) in x.chunks_exact(8).enumerate() {
                        let bits = _mm256_set1_epi32((word >> (8 * part)) as i32);
                        let mask = _mm256_cmpeq_epi32(_mm256_and_si256(bits, bit), bit);
                        // SAFETY: eight values.
                        let x = unsafe { _mm256_loadu_ps(x.as_ptr()) };
                        let masked = _mm256_and_ps(x, _mm256_castsi256_ps(mask));
                        sums[part % 2] = _mm256_add_ps(sums[part % 2], masked);
                    }
                }
                let mut lanes = [0.0; 16];
                // SAFETY: eight lanes each fit.
                unsafe {
                    _mm256_storeu_ps(lanes.as_mut_ptr(), sums[0]);
                    _mm256_storeu_ps(lanes[8..].as_mut_ptr(), sums[1]);
                }
                out[i * width + j] = halve(lanes);
            }
        }
    }

    /// # Safety
    ///
    /// The processor must have AVX2, and the lengths must fit each other.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn sums_u8(x: &[u8], signs: &[u64], words: usize, out: &mut [u32]) {
        let width = signs.len() / words;
        // Byte k of a half of 32 values looks at bit k mod 8 of byte k / 8 of its word.
        let spread = _mm256_setr_epi8(
            0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3,
            3, 3, 3,
        );
        let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
        let height = x.len() / (64 * words);
        for (j, signs) in signs.chunks_exact(words).enumerate() {
            // Four rows at a time: the mask of a half word is made once for all of them.
            for (block, x) in x.chunks(4 * 64 * words).enumerate() {
                let rows = (height - 4 * block).min(4);
                let mut sums = [_mm256_setzero_si256(); 4];
                for (k, &word) in signs.iter().enumerate() {
                    for half in 0..2 {
                        let bits = _mm256_set1_epi32((word >> (32 * half)) as i32);
                        let bits = _mm256_and_si256(_mm256_shuffle_epi8(bits, spread), bit);
                        let mask = _mm256_cmpeq_epi8(bits, bit);
                        for (i, sum) in sums.iter_mut().enumerate().take(rows) {
                            let at = (i * words + k) * 64 + 32 * half;
                            let x = &x[at..at + 32];
                            // SAFETY: 32 values.
                            let x = unsafe { _mm256_loadu_si256(x.as_ptr().cast()) };
                            let masked = _mm256_and_si256(x, mask);
                            let by_eight = _mm256_sad_epu8(masked, _mm256_setzero_si256());
                            *sum = _mm256_add_epi64(*sum, by_eight);
                        }
                    }
                }
                for (i, sum) in sums.into_iter().enumerate().take(rows) {
                    let mut lanes = [0_u64; 4];
                    // SAFETY: four lanes fit.
                    unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), sum) };
                    out[(4 * block + i) * width + j] = lanes.iter().sum::<u64>() as u32;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Seed;
    use proptest::prelude::*;

    fn random(seed: u64, count: usize) -> Vec<u64> {
        (0..count as u64)
            .map(|i| Seed::from(seed).derive(i).value())
            .collect()
    }

    proptest! {
        #[test]
        fn every_level_gives_the_bits_of_the_scalar_loop(words in 1_usize..6, height in 1_usize..10, width in 1_usize..10, seed in any::<u64>()) {
            let signs = random(seed, width * words);
            let noise = random(seed ^ 1, height * words * 64);
            let bytes: Vec<u8> = noise.iter().map(|&x| x as u8).collect();
            let reals = (0..noise.len() as u64).map(|i| Seed::from(seed ^ 1).uniform(i) / 2.0);
            let reals: Vec<f64> = reals.collect();
            let singles: Vec<f32> = reals.iter().map(|&x| x as f32).collect();
            let set = |j: usize, k: usize| signs[j * words + k / 64] >> (k % 64) & 1 == 1;
            let mut by_byte = vec![0_u32; height * width];
            let mut by_real = vec![0.0; height * width];
            for (place, (byte, real)) in by_byte.iter_mut().zip(&mut by_real).enumerate() {
                for k in (0..words * 64).filter(|&k| set(place % width, k)) {
                    *byte += u32::from(bytes[place / width * words * 64 + k]);
                    *real += reals[place / width * words * 64 + k];
                }
            }
            let mut scalar_32 = vec![0.0; height * width];
            scalar::<f32, 16>(&singles, &signs, words, &mut scalar_32);
            let mut scalar_64 = vec![0.0; height * width];
            scalar::<f64, 8>(&reals, &signs, words, &mut scalar_64);
            for (&single, (&double, &naive)) in scalar_32.iter().zip(scalar_64.iter().zip(&by_real)) {
                // n values of at most 1/2, each rounded, summed in any order: n·ε·n/2.
                let n = words as f64 * 64.0;
                prop_assert!((double - naive).abs() <= n * f64::EPSILON * n / 2.0);
                prop_assert!((f64::from(single) - naive).abs() <= n * f64::from(f32::EPSILON) * n / 2.0);
            }
            #[cfg(target_arch = "x86_64")]
            if Level::available().contains(&Level::Avx512) {
                let mut out = vec![7; height * width];
                // SAFETY: the processor has the level; the lengths are those that are checked elsewhere.
                unsafe { avx512::sums_u8(&bytes, &signs, words, &mut out) };
                prop_assert_eq!(&out, &by_byte);
            }
            for level in Level::available() {
                let mut out = vec![7; height * width];
                u8::masked_sums(level, &bytes, &signs, words, &mut out);
                prop_assert_eq!(&out, &by_byte, "{:?}", level);
                let mut out = vec![7.0; height * width];
                f32::masked_sums(level, &singles, &signs, words, &mut out);
                prop_assert_eq!(&out, &scalar_32, "{:?}", level);
                let mut out = vec![7.0; height * width];
                f64::masked_sums(level, &reals, &signs, words, &mut out);
                prop_assert_eq!(&out, &scalar_64, "{:?}", level);
            }
        }
    }
}
