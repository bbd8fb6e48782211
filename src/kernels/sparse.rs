//! Products with rows of which few weights are left.
//!
//! One body serves every level, compiled once for each instruction set; no multiplication is fused with an
//! addition, so that every level gives the same bits. Only the expansion of a bitmap has a form of its own.

use super::Level;
use super::vectorize::at_level;

/// The kernels of sparse matrices; [`KernelFloat`](super::KernelFloat) asks for them.
pub trait SparseKernels: Copy {
    /// `out[b]` = Σₖ values\[k\] · x\[columns\[k\]·width + b\], with `width` the length of `out`.
    ///
    /// Columns beyond the end of `x` count as zero.
    fn sparse_row(level: Level, columns: &[u32], values: &[Self], x: &[Self], out: &mut [Self]);

    /// The sum of vᵢ·x\[j\] over the set bits of a row: bit `start + j` of `bits` says that column j has the next of
    /// `values`.
    fn bitmap_dot(level: Level, bits: &[u8], start: usize, values: &[Self], x: &[Self]) -> Self;
}

/// Columns whose products are summed in a lane of their own.
const LANES: usize = 16;

/// The sixteen bits from bit `start` on; those beyond the end are zero.
#[inline(always)]
fn bits_at(bits: &[u8], start: usize) -> u16 {
    let byte = start / 8;
    let word = match bits.get(byte..byte + 4) {
        Some(&[a, b, c, d]) => u32::from_le_bytes([a, b, c, d]),
        _ => {
            let at = |i: usize| bits.get(byte + i).map_or(0, |&bits| u32::from(bits));
            at(0) | at(1) << 8 | at(2) << 16
        }
    };
    (word >> (start % 8)) as u16
}

macro_rules! sparse_kernels {
    ($float:ident, $module:ident) => {
        mod $module {
            use super::{LANES, bits_at};

            #[inline(always)]
            pub(super) fn sparse_row(
                columns: &[u32],
                values: &[$float],
                x: &[$float],
                out: &mut [$float],
            ) {
                let width = out.len();
                let mut start = 0;
                start = tiles::<32>(columns, values, x, out, width, start);
                start = tiles::<8>(columns, values, x, out, width, start);
                tiles::<1>(columns, values, x, out, width, start);
            }

            /// As many tiles of N sums, each kept in registers, as fit from `start` on.
            #[inline(always)]
            fn tiles<const N: usize>(
                columns: &[u32],
                values: &[$float],
                x: &[$float],
                out: &mut [$float],
                width: usize,
                mut start: usize,
            ) -> usize {
                while let Some(tile) = out.get_mut(start..start + N) {
                    let mut sums = [0.0; N];
                    for (&column, &value) in columns.iter().zip(values) {
                        let from = column as usize * width + start;
                        if let Some(x) = x.get(from..from + N) {
                            for i in 0..N {
                                sums[i] += value * x[i];
                            }
                        }
                    }
                    tile.copy_from_slice(&sums);
                    start += N;
                }
                start
            }

            #[inline(always)]
            pub(super) fn bitmap_dot(
                bits: &[u8],
                start: usize,
                values: &[$float],
                x: &[$float],
            ) -> $float {
                let mut values = values.iter();
                let mut sums = [0.0; LANES];
                for (i, chunk) in x.chunks(LANES).enumerate() {
                    let mut mask = bits_at(bits, start + i * LANES);
                    while mask != 0 {
                        let lane = mask.trailing_zeros() as usize;
                        mask &= mask - 1;
                        if let (Some(&x), Some(&value)) = (chunk.get(lane), values.next()) {
                            sums[lane] += value * x;
                        }
                    }
                }
                sums.iter().sum()
            }
        }
    };
}

sparse_kernels!(f32, single);
sparse_kernels!(f64, double);

impl SparseKernels for f32 {
    fn sparse_row(level: Level, columns: &[u32], values: &[f32], x: &[f32], out: &mut [f32]) {
        use single::sparse_row as body;
        at_level!(level, body(columns: &[u32], values: &[f32], x: &[f32], out: &mut [f32]) -> ())
    }

    fn bitmap_dot(level: Level, bits: &[u8], start: usize, values: &[f32], x: &[f32]) -> f32 {
        #[cfg(target_arch = "x86_64")]
        if level == Level::Avx512 {
            // SAFETY: the level comes from `Level::current` or `Level::available`, which return it only where the
            // processor has its instructions.
            return unsafe { bitmap_dot_avx512(bits, start, values, x) };
        }
        let _ = level;
        single::bitmap_dot(bits, start, values, x)
    }
}

impl SparseKernels for f64 {
    fn sparse_row(level: Level, columns: &[u32], values: &[f64], x: &[f64], out: &mut [f64]) {
        use double::sparse_row as body;
        at_level!(level, body(columns: &[u32], values: &[f64], x: &[f64], out: &mut [f64]) -> ())
    }

    fn bitmap_dot(_level: Level, bits: &[u8], start: usize, values: &[f64], x: &[f64]) -> f64 {
        double::bitmap_dot(bits, start, values, x)
    }
}

/// The values of sixteen columns are spread to their lanes by one instruction.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn bitmap_dot_avx512(bits: &[u8], start: usize, values: &[f32], x: &[f32]) -> f32 {
    use std::arch::x86_64::{
        _mm512_mask_add_ps, _mm512_maskz_expandloadu_ps, _mm512_maskz_loadu_ps, _mm512_mul_ps,
        _mm512_setzero_ps, _mm512_storeu_ps,
    };
    let mut sums = _mm512_setzero_ps();
    let mut used = 0;
    for (i, chunk) in x.chunks(LANES).enumerate() {
        let inside = u16::MAX >> (LANES - chunk.len());
        let mask = bits_at(bits, start + i * LANES) & inside;
        let count = mask.count_ones() as usize;
        let Some(run) = values.get(used..used + count) else {
            break;
        };
        // SAFETY: the expansion reads as many values as `mask` has bits, which is the length of `run`.
        let weights = unsafe { _mm512_maskz_expandloadu_ps(mask, run.as_ptr()) };
        // SAFETY: `inside` has a bit for each value of `chunk`, and the load touches no others.
        let inputs = unsafe { _mm512_maskz_loadu_ps(inside, chunk.as_ptr()) };
        sums = _mm512_mask_add_ps(sums, mask, sums, _mm512_mul_ps(weights, inputs));
        used += count;
    }
    let mut lanes = [0.0; LANES];
    // SAFETY: `lanes` holds the sixteen values that are stored.
    unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), sums) };
    lanes.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_level_gives_the_same_bits_as_the_naive_loop(
            mask in prop::collection::vec(any::<bool>(), 1..150),
            skip in 0_usize..20,
            width in 1_usize..75,
            seed in any::<u32>(),
        ) {
            let length = mask.len();
            let value = |i: usize| ((i as f32 + 1.0) * (seed % 1000 + 1) as f32).sin();
            let columns: Vec<u32> = (0..length).filter(|&j| mask[j]).map(|j| j as u32).collect();
            let values: Vec<f32> = (0..columns.len()).map(value).collect();
            let x: Vec<f32> = (0..length * width).map(|i| value(i + 1000)).collect();
            let mut bits = vec![0_u8; (skip + length).div_ceil(8)];
            // Bits of other rows stand before and after.
            for i in (0..bits.len() * 8).filter(|&i| i < skip || i >= skip + length || mask[i - skip]) {
                bits[i / 8] |= 1 << (i % 8);
            }
            let mut expected = vec![0.0; width];
            for (b, sum) in expected.iter_mut().enumerate() {
                for (&column, &value) in columns.iter().zip(&values) {
                    *sum += value * x[column as usize * width + b];
                }
            }
            let mut lanes = [0.0; LANES];
            for (&column, &value) in columns.iter().zip(&values) {
                lanes[column as usize % LANES] += value * x[column as usize];
            }
            let dot: f32 = lanes.iter().sum();
            for level in Level::available() {
                let mut out = vec![f32::NAN; width];
                f32::sparse_row(level, &columns, &values, &x, &mut out);
                prop_assert_eq!(&out, &expected);
                prop_assert_eq!(f32::bitmap_dot(level, &bits, skip, &values, &x[..length]), dot);

                let wide = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
                let mut out = vec![f64::NAN; width];
                f64::sparse_row(level, &columns, &wide(&values), &wide(&x), &mut out);
                for (b, &sum) in out.iter().enumerate() {
                    let terms = columns.iter().zip(&values);
                    let naive = terms.fold(0.0, |sum, (&column, &value)| {
                        sum + f64::from(value) * f64::from(x[column as usize * width + b])
                    });
                    prop_assert_eq!(sum, naive);
                }
            }
        }
    }
}
