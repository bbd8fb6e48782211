//! Counting the bits in which rows of packed signs differ: the product of ±1 matrices.
//!
//! The inner product of two rows of n signs is n − 2·(differing bits), so that exclusive or and population count replace
//! multiplication and addition. Bits beyond the n-th are zero in both rows.

use super::Level;

/// `out[i * rows(b) + j]` = the number of bits in which row i of `a` and row j of `b` differ.
///
/// Rows are `words` words long and follow each other without gaps.
pub(crate) fn differing_bits(level: Level, a: &[u64], b: &[u64], words: usize, out: &mut [u32]) {
    if words == 0 {
        out.fill(0);
        return;
    }
    assert_eq!(out.len(), (a.len() / words) * (b.len() / words));
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 if is_x86_feature_detected!("avx512vpopcntdq") => {
            // SAFETY: the processor has what the function is compiled for, and the lengths were checked above.
            unsafe { avx512::rows_vpopcntdq(a, b, words, out) }
        }
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => {
            // SAFETY: as above.
            unsafe { avx512::rows_shuffle(a, b, words, out) }
        }
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => {
            // SAFETY: as above.
            unsafe { avx2::rows(a, b, words, out) }
        }
        #[cfg(target_arch = "aarch64")]
        Level::Neon => {
            // SAFETY: every aarch64 processor has NEON, and the lengths were checked above.
            unsafe { neon::rows(a, b, words, out) }
        }
        _ => scalar(a, b, words, out),
    }
}

fn scalar(a: &[u64], b: &[u64], words: usize, out: &mut [u32]) {
    let columns = b.len() / words;
    for (a, out) in a
        .chunks_exact(words)
        .zip(out.chunks_exact_mut(columns.max(1)))
    {
        for (b, out) in b.chunks_exact(words).zip(out) {
            *out = a.iter().zip(b).map(|(a, b)| (a ^ b).count_ones()).sum();
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    /// The population count of each 64-bit lane, by a table of half bytes: for processors without VPOPCNTDQ.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn count_by_shuffle(x: __m512i) -> __m512i {
        let table = _mm512_broadcast_i32x4(_mm_setr_epi8(
            0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,
        ));
        let low = _mm512_set1_epi8(0x0f);
        let lower = _mm512_shuffle_epi8(table, _mm512_and_si512(x, low));
        let upper = _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(x, 4), low));
        _mm512_sad_epu8(_mm512_add_epi8(lower, upper), _mm512_setzero_si512())
    }

    /// Lane k of the result is the sum of the lanes of `v[k]`.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn sum_each(v: [__m512i; 8]) -> __m512i {
        let pair =
            |a, b| _mm512_add_epi64(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
        let halve = |a, b| {
            _mm512_add_epi64(
                _mm512_shuffle_i64x2::<0x88>(a, b),
                _mm512_shuffle_i64x2::<0xdd>(a, b),
            )
        };
        halve(
            halve(pair(v[0], v[1]), pair(v[2], v[3])),
            halve(pair(v[4], v[5]), pair(v[6], v[7])),
        )
    }

    macro_rules! rows {
        ($rows:ident, $features:literal, $count:path) => {
            /// # Safety
            ///
            /// The processor must have the features, and `out` room for each pair of rows.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $rows(a: &[u64], b: &[u64], words: usize, out: &mut [u32]) {
                /// Row `i` of A rows from `a` on against row `j` of B rows from `b` on.
                ///
                /// # Safety
                ///
                /// So many rows of `words` words must be readable.
                #[inline]
                #[target_feature(enable = $features)]
                unsafe fn tile<const A: usize, const B: usize>(
                    a: *const u64,
                    b: *const u64,
                    words: usize,
                ) -> [[__m512i; B]; A] {
                    let mut sums = [[_mm512_setzero_si512(); B]; A];
                    let mut word = 0;
                    while word < words {
                        let left = words - word;
                        let mask: __mmask8 = if left >= 8 { 0xff } else { (1 << left) - 1 };
                        let mut rows = [_mm512_setzero_si512(); A];
                        for (i, row) in rows.iter_mut().enumerate() {
                            // SAFETY: the mask ends at the row's last word.
                            *row = unsafe {
                                _mm512_maskz_loadu_epi64(mask, a.add(i * words + word).cast())
                            };
                        }
                        for j in 0..B {
                            // SAFETY: the mask ends at the row's last word.
                            let column = unsafe {
                                _mm512_maskz_loadu_epi64(mask, b.add(j * words + word).cast())
                            };
                            for i in 0..A {
                                let differing = $count(_mm512_xor_si512(rows[i], column));
                                sums[i][j] = _mm512_add_epi64(sums[i][j], differing);
                            }
                        }
                        word += 8;
                    }
                    sums
                }

                let (height, width) = (a.len() / words, b.len() / words);
                let mut lanes = [0_u64; 8];
                let mut j = 0;
                // Rows of `b` outside: those of `a` are few and stay in the cache.
                while j + 4 <= width {
                    let mut i = 0;
                    let columns = b[j * words..].as_ptr();
                    while i + 4 <= height {
                        // SAFETY: four rows begin at i and four at j.
                        let t = unsafe { tile::<4, 4>(a[i * words..].as_ptr(), columns, words) };
                        // Counts are below 2³²: two of them share a lane.
                        let both = |i: usize, j: usize| {
                            _mm512_or_si512(t[i][j], _mm512_slli_epi64::<32>(t[i + 2][j]))
                        };
                        let sums = sum_each([
                            both(0, 0),
                            both(0, 1),
                            both(0, 2),
                            both(0, 3),
                            both(1, 0),
                            both(1, 1),
                            both(1, 2),
                            both(1, 3),
                        ]);
                        // SAFETY: eight lanes fit.
                        unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), sums) };
                        for (k, &lane) in lanes.iter().enumerate() {
                            let place = (i + k / 4) * width + j + k % 4;
                            out[place] = lane as u32;
                            out[place + 2 * width] = (lane >> 32) as u32;
                        }
                        i += 4;
                    }
                    while i < height {
                        // SAFETY: one row begins at i and four at j.
                        let [t] = unsafe { tile::<1, 4>(a[i * words..].as_ptr(), columns, words) };
                        let zero = _mm512_setzero_si512();
                        let sums = sum_each([t[0], t[1], t[2], t[3], zero, zero, zero, zero]);
                        let sums = _mm256_castsi256_si128(_mm512_cvtepi64_epi32(sums));
                        let out = &mut out[i * width + j..][..4];
                        // SAFETY: four counts fit.
                        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), sums) };
                        i += 1;
                    }
                    j += 4;
                }
                while j < width {
                    for i in 0..height {
                        // SAFETY: one row begins at i and one at j.
                        let [[sum]] = unsafe {
                            tile::<1, 1>(a[i * words..].as_ptr(), b[j * words..].as_ptr(), words)
                        };
                        out[i * width + j] = _mm512_reduce_add_epi64(sum) as u32;
                    }
                    j += 1;
                }
            }
        };
    }

    rows!(
        rows_vpopcntdq,
        "avx512f,avx512bw,avx512dq,avx512vl,avx512vpopcntdq",
        _mm512_popcnt_epi64
    );
    rows!(
        rows_shuffle,
        "avx512f,avx512bw,avx512dq,avx512vl",
        count_by_shuffle
    );
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    /// The population count of each 64-bit lane, by a table of half bytes (Muła, Kurz and Lemire, "Faster
    /// Population Counts Using AVX2 Instructions", 2018, arXiv:1611.07612).
    #[inline]
    #[target_feature(enable = "avx2")]
    fn count(x: __m256i) -> __m256i {
        let table = _mm256_broadcastsi128_si256(_mm_setr_epi8(
            0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,
        ));
        let low = _mm256_set1_epi8(0x0f);
        let lower = _mm256_shuffle_epi8(table, _mm256_and_si256(x, low));
        let upper = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(x, 4), low));
        _mm256_sad_epu8(_mm256_add_epi8(lower, upper), _mm256_setzero_si256())
    }

    /// # Safety
    ///
    /// The processor must have AVX2, and `out` room for each pair of rows.
    #[target_feature(enable = "avx2,popcnt")]
    pub(super) unsafe fn rows(a: &[u64], b: &[u64], words: usize, out: &mut [u32]) {
        let width = b.len() / words;
        for (j, column) in b.chunks_exact(words).enumerate() {
            for (i, row) in a.chunks_exact(words).enumerate() {
                let mut sum = _mm256_setzero_si256();
                let (fours, rest) = row.as_chunks::<4>();
                let (column_fours, column_rest) = column.as_chunks::<4>();
                for (x, y) in fours.iter().zip(column_fours) {
                    // SAFETY: both are four words long.
                    let (x, y) = unsafe {
                        (
                            _mm256_loadu_si256(x.as_ptr().cast()),
                            _mm256_loadu_si256(y.as_ptr().cast()),
                        )
                    };
                    sum = _mm256_add_epi64(sum, count(_mm256_xor_si256(x, y)));
                }
                let mut lanes = [0_u64; 4];
                // SAFETY: four lanes fit.
                unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), sum) };
                let rest: u32 = rest
                    .iter()
                    .zip(column_rest)
                    .map(|(x, y)| (x ^ y).count_ones())
                    .sum();
                out[i * width + j] = lanes.iter().sum::<u64>() as u32 + rest;
            }
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use std::arch::aarch64::*;

    /// # Safety
    ///
    /// `out` must have room for each pair of rows.
    #[target_feature(enable = "neon")]
    pub(super) unsafe fn rows(a: &[u64], b: &[u64], words: usize, out: &mut [u32]) {
        let width = b.len() / words;
        for (j, column) in b.chunks_exact(words).enumerate() {
            for (i, row) in a.chunks_exact(words).enumerate() {
                let mut sum = vdupq_n_u32(0);
                let (twos, rest) = row.as_chunks::<2>();
                let (column_twos, column_rest) = column.as_chunks::<2>();
                for (x, y) in twos.iter().zip(column_twos) {
                    // SAFETY: both are two words long.
                    let (x, y) = unsafe { (vld1q_u64(x.as_ptr()), vld1q_u64(y.as_ptr())) };
                    let bits = vcntq_u8(vreinterpretq_u8_u64(veorq_u64(x, y)));
                    sum = vpadalq_u16(sum, vpaddlq_u8(bits));
                }
                let rest: u32 = rest
                    .iter()
                    .zip(column_rest)
                    .map(|(x, y)| (x ^ y).count_ones())
                    .sum();
                out[i * width + j] = vaddvq_u32(sum) + rest;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_level_counts_as_the_naive_loop(words in 1_usize..20, height in 1_usize..10, width in 1_usize..14, seed in any::<u64>()) {
            let random = |stream: u64, count: usize| -> Vec<u64> {
                (0..count as u64).map(|i| crate::Seed::from(seed).derive(stream).derive(i).value()).collect()
            };
            let (a, b) = (random(0, height * words), random(1, width * words));
            let expected: Vec<u32> = (0..height * width)
                .map(|k| {
                    let (i, j) = (k / width, k % width);
                    (0..words * 64)
                        .filter(|bit| {
                            let at = |rows: &[u64], row: usize| rows[row * words + bit / 64] >> (bit % 64) & 1;
                            at(&a, i) != at(&b, j)
                        })
                        .count() as u32
                })
                .collect();
            for level in Level::available() {
                let mut out = vec![7; height * width];
                differing_bits(level, &a, &b, words, &mut out);
                prop_assert_eq!(&out, &expected, "{:?}", level);
            }
            // The form for AVX-512 without VPOPCNTDQ, which no level chooses where that is present.
            #[cfg(target_arch = "x86_64")]
            if Level::available().contains(&Level::Avx512) {
                let mut out = vec![7; height * width];
                // SAFETY: the level was found, and `out` has room for each pair of rows.
                unsafe { avx512::rows_shuffle(&a, &b, words, &mut out) };
                prop_assert_eq!(&out, &expected);
            }
        }
    }
}
