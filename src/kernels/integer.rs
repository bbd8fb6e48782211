//! The product of rows of unsigned with rows of signed bytes, summed as integers.

use super::Level;

/// The longest row whose sum surely fits 32 bits: 2³¹ / (255·128), and a multiple of the vectors' length.
pub(crate) const LONGEST: usize = 65_536;

/// `out[i * rows(b) + j]` = Σ b[j]·a[i] over the `columns` of row i of `a` and row j of `b`.
pub(crate) fn dot_bytes(level: Level, a: &[i8], b: &[u8], columns: usize, out: &mut [i32]) {
    assert!(columns > 0 && columns <= LONGEST);
    assert_eq!(a.len() % columns + b.len() % columns, 0);
    assert_eq!(out.len(), (a.len() / columns) * (b.len() / columns));
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 if is_x86_feature_detected!("avx512vnni") => {
            // SAFETY: the processor has what the function is compiled for, and the lengths were checked above.
            unsafe { avx512::dot(a, b, columns, out) }
        }
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Avx2 => {
            // SAFETY: as above.
            unsafe { avx2::dot(a, b, columns, out) }
        }
        _ => scalar(a, b, columns, out),
    }
}

fn scalar(a: &[i8], b: &[u8], columns: usize, out: &mut [i32]) {
    let width = b.len() / columns;
    for (a, out) in a
        .chunks_exact(columns)
        .zip(out.chunks_exact_mut(width.max(1)))
    {
        for (b, out) in b.chunks_exact(columns).zip(out) {
            *out = dot_one(a, b);
        }
    }
}

fn dot_one(a: &[i8], b: &[u8]) -> i32 {
    a.iter()
        .zip(b)
        .map(|(&a, &b)| i32::from(a) * i32::from(b))
        .sum()
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    /// # Safety
    ///
    /// A rows of `a` and B rows of `b` of `columns` bytes must be readable.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    // Loops over constant ranges, which unroll into registers.
    #[allow(clippy::needless_range_loop)]
    unsafe fn tile<const A: usize, const B: usize>(
        a: *const i8,
        b: *const u8,
        columns: usize,
    ) -> [[__m512i; B]; A] {
        let mut sums = [[_mm512_setzero_si512(); B]; A];
        let whole = columns / 64 * 64;
        let mut column = 0;
        while column < whole {
            // The codes stay in registers while the rows pass by.
            let mut codes = [_mm512_setzero_si512(); B];
            for j in 0..B {
                // SAFETY: 64 bytes are left in the row.
                codes[j] = unsafe { _mm512_loadu_si512(b.add(j * columns + column).cast()) };
            }
            for i in 0..A {
                // SAFETY: as above.
                let row = unsafe { _mm512_loadu_si512(a.add(i * columns + column).cast()) };
                for j in 0..B {
                    sums[i][j] = _mm512_dpbusd_epi32(sums[i][j], codes[j], row);
                }
            }
            column += 64;
        }
        if whole < columns {
            let mask = (1 << (columns - whole)) - 1;
            for i in 0..A {
                // SAFETY: the mask ends at the row's last byte.
                let row = unsafe { _mm512_maskz_loadu_epi8(mask, a.add(i * columns + whole)) };
                for j in 0..B {
                    // SAFETY: as above.
                    let codes =
                        unsafe { _mm512_maskz_loadu_epi8(mask, b.add(j * columns + whole).cast()) };
                    sums[i][j] = _mm512_dpbusd_epi32(sums[i][j], codes, row);
                }
            }
        }
        sums
    }

    /// # Safety
    ///
    /// As for `tile`; `out` must have room for each pair of rows.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn write<const A: usize, const B: usize>(
        a: &[i8],
        b: &[u8],
        columns: usize,
        (i, j): (usize, usize),
        out: &mut [i32],
    ) {
        let width = b.len() / columns;
        // SAFETY: the caller's promise.
        let sums = unsafe {
            tile::<A, B>(
                a[i * columns..].as_ptr(),
                b[j * columns..].as_ptr(),
                columns,
            )
        };
        for (k, sums) in sums.into_iter().enumerate() {
            let first = (i + k) * width + j;
            let out = &mut out[first..first + B];
            if let ([a, b, c, d], Some(out)) = (&sums[..], out.first_chunk_mut::<4>()) {
                let sums = four_sums([*a, *b, *c, *d]);
                // SAFETY: four numbers.
                unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), sums) };
                continue;
            }
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = _mm512_reduce_add_epi32(sum);
            }
        }
    }

    /// The sums of the lanes of four vectors, together in a third of the instructions of one after the other.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn four_sums(vectors: [__m512i; 4]) -> __m128i {
        let [a, b, c, d] = vectors.map(|v| {
            _mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64::<1>(v))
        });
        let sums = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
        _mm_add_epi32(
            _mm256_castsi256_si128(sums),
            _mm256_extracti128_si256::<1>(sums),
        )
    }

    /// # Safety
    ///
    /// The processor must have the features, and `out` room for each pair of rows.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub(super) unsafe fn dot(a: &[i8], b: &[u8], columns: usize, out: &mut [i32]) {
        let (height, width) = (a.len() / columns, b.len() / columns);
        let mut j = 0;
        while j < width {
            let four = j + 4 <= width;
            let mut i = 0;
            while i < height {
                let tall = if height - i >= 4 { 4 } else { 1 };
                // SAFETY: as many rows are left as the sizes say.
                unsafe {
                    match (tall, four) {
                        (4, true) => write::<4, 4>(a, b, columns, (i, j), out),
                        (_, true) => write::<1, 4>(a, b, columns, (i, j), out),
                        (4, false) => write::<4, 1>(a, b, columns, (i, j), out),
                        (_, false) => write::<1, 1>(a, b, columns, (i, j), out),
                    }
                }
                i += tall;
            }
            j += if four { 4 } else { 1 };
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    /// # Safety
    ///
    /// The processor must have AVX2, and `out` room for each pair of rows.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn dot(a: &[i8], b: &[u8], columns: usize, out: &mut [i32]) {
        let width = b.len() / columns;
        for (j, b) in b.chunks_exact(columns).enumerate() {
            let (codes, codes_rest) = b.as_chunks::<16>();
            for (i, a) in a.chunks_exact(columns).enumerate() {
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
                    // As 16-bit numbers: the product of bytes by maddubs would saturate.
                    let product =
                        _mm256_madd_epi16(_mm256_cvtepi8_epi16(a), _mm256_cvtepu8_epi16(b));
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Seed;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_level_sums_as_the_naive_loop(columns in 1_usize..300, height in 1_usize..14, width in 1_usize..10, seed in any::<u64>()) {
            let byte = |stream: u64, i: usize| Seed::from(seed).derive(stream).derive(i as u64).value() as u8;
            let a: Vec<i8> = (0..height * columns).map(|i| byte(0, i) as i8).collect();
            let b: Vec<u8> = (0..width * columns).map(|i| byte(1, i)).collect();
            let expected: Vec<i32> = (0..height * width)
                .map(|k| (0..columns).map(|c| i32::from(a[k / width * columns + c]) * i32::from(b[k % width * columns + c])).sum())
                .collect();
            for level in Level::available() {
                let mut out = vec![7; height * width];
                dot_bytes(level, &a, &b, columns, &mut out);
                prop_assert_eq!(&out, &expected, "{:?}", level);
            }
        }
    }

    #[test]
    fn the_extremes_do_not_overflow() {
        let (a, b) = (vec![-128_i8; LONGEST], vec![255_u8; LONGEST]);
        for level in Level::available() {
            let mut out = [0];
            dot_bytes(level, &a, &b, LONGEST, &mut out);
            assert_eq!(out, [-128 * 255 * LONGEST as i32], "{level:?}");
        }
    }
}
