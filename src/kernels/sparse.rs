//! Products with sparse rows.
//!
//! No multiplication is fused with an addition, and every sum has one order, so that all levels give the same bits.
//! The sums over many inputs are one body compiled for each instruction set. The functions that turn bits into columns and
//! move values to lanes have one form for each instruction set.

use super::Level;
use super::vectorize::at_level;

/// The kernels of sparse matrices, part of [`KernelFloat`](super::KernelFloat).
pub trait SparseKernels: Copy {
    /// For `columns` and the `first` of them that `x` holds, adds values\[k\] · x\[(columns\[k\] − first)·width + b\] to `out[b]`, with `width` the length of `out`, in the order
    /// of k, up to the first column that `x` does not hold; returns how many values were used.
    ///
    /// Fast where `width` is 16, 32, 48 or 64. Columns below `first` count as not held.
    fn sparse_row(
        level: Level,
        columns: (&[u32], usize),
        values: &[Self],
        x: &[Self],
        out: &mut [Self],
    ) -> usize;

    /// The sum of values\[k\]·x\[columns\[k\]\]; every column is below the length of `x`.
    fn sparse_dot(columns: &[u32], values: &[Self], x: &[Self]) -> Self;

    /// The sum of vᵢ·x\[j\] over the set bits of a row: bit `start + j` of `bits` says that column j has the next of
    /// `values`, of which there is one for each set bit.
    fn bitmap_dot(level: Level, bits: &[u8], start: usize, values: &[Self], x: &[Self]) -> Self;
}

/// The number of lanes: products of every 64th column are summed in the same lane.
const LANES: usize = 64;

/// The 64 bits from bit `start` on; those beyond the end are zero.
#[inline(always)]
fn bits_at(bits: &[u8], start: usize) -> u64 {
    let (byte, offset) = (start / 8, start % 8);
    let rest = bits.get(byte..).unwrap_or_default();
    if let Some((word, rest)) = rest.split_first_chunk::<8>() {
        let word = u64::from_le_bytes(*word);
        return match (offset, rest.first()) {
            (0, _) => word,
            (_, next) => word >> offset | u64::from(next.copied().unwrap_or(0)) << (LANES - offset),
        };
    }
    let word = rest.iter().rev();
    word.fold(0, |word, &byte| word << 8 | u64::from(byte)) >> offset
}

/// `length` bits set, from the lowest on.
#[inline(always)]
fn ones(length: usize) -> u64 {
    match length {
        0 => 0,
        1..LANES => u64::MAX >> (LANES - length),
        _ => u64::MAX,
    }
}

/// Appends the place, counted from `start`, of each set bit among the `length` bits from `start` on.
pub(crate) fn bitmap_columns(
    level: Level,
    bits: &[u8],
    start: usize,
    length: usize,
    columns: &mut Vec<u32>,
) {
    #[cfg(target_arch = "x86_64")]
    if level == Level::Avx512 {
        // SAFETY: the level comes from `Level::current` or `Level::available`, which return it only where the
        // processor has its instructions.
        unsafe { bitmap_columns_avx512(bits, start, length, columns) };
        return;
    }
    let _ = level;
    for place in (0..length).step_by(LANES) {
        let mut word = bits_at(bits, start + place) & ones(length - place);
        while word != 0 {
            columns.push(place as u32 + word.trailing_zeros());
            word &= word - 1;
        }
    }
}

/// One instruction compresses the numbers of the set lanes.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn bitmap_columns_avx512(bits: &[u8], start: usize, length: usize, columns: &mut Vec<u32>) {
    use std::arch::x86_64::{
        _mm512_add_epi32, _mm512_maskz_compress_epi32, _mm512_set1_epi32, _mm512_setr_epi32,
        _mm512_storeu_si512,
    };
    const COUNT: usize = 16;
    let steps = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for place in (0..length).step_by(LANES) {
        let word = bits_at(bits, start + place) & ones(length - place);
        columns.reserve(LANES + COUNT);
        for part in (0..LANES).step_by(COUNT) {
            let mask = (word >> part) as u16;
            let first = _mm512_set1_epi32((place + part) as i32);
            let numbers = _mm512_maskz_compress_epi32(mask, _mm512_add_epi32(first, steps));
            let used = columns.len();
            // SAFETY: at most 64 numbers are added to the vector in this word, and it has room for sixteen more,
            // so that all sixteen that are stored fit; as many as `mask` has bits are kept, and those are set.
            unsafe {
                _mm512_storeu_si512(columns.as_mut_ptr().add(used).cast(), numbers);
                columns.set_len(used + mask.count_ones() as usize);
            }
        }
    }
}

macro_rules! sparse_kernels {
    ($float:ident, $module:ident) => {
        mod $module {
            use super::{LANES, bits_at, ones};

            #[inline(always)]
            pub(super) fn sparse_row(
                columns: (&[u32], usize),
                values: &[$float],
                x: &[$float],
                out: &mut [$float],
            ) -> usize {
                match out.len() {
                    64 => tile::<64>(columns, values, x, out),
                    48 => tile::<48>(columns, values, x, out),
                    32 => tile::<32>(columns, values, x, out),
                    16 => tile::<16>(columns, values, x, out),
                    width => {
                        let (columns, first) = columns;
                        let pairs = columns.iter().zip(values);
                        let mut used = 0;
                        for (&column, &value) in pairs {
                            let from = (column as usize).wrapping_sub(first).saturating_mul(width);
                            let Some(x) = x.get(from..from.saturating_add(width)) else {
                                break;
                            };
                            for (out, &x) in out.iter_mut().zip(x) {
                                *out += value * x;
                            }
                            used += 1;
                        }
                        used
                    }
                }
            }

            /// N sums that stay in registers.
            #[inline(always)]
            fn tile<const N: usize>(
                (columns, first): (&[u32], usize),
                values: &[$float],
                x: &[$float],
                out: &mut [$float],
            ) -> usize {
                let (x, _) = x.as_chunks::<N>();
                let out = out
                    .first_chunk_mut::<N>()
                    .expect("N is the length of `out`");
                let mut sums = *out;
                let mut used = 0;
                for (&column, &value) in columns.iter().zip(values) {
                    let Some(x) = x.get((column as usize).wrapping_sub(first)) else {
                        break;
                    };
                    for i in 0..N {
                        sums[i] += value * x[i];
                    }
                    used += 1;
                }
                *out = sums;
                used
            }

            pub(super) fn sparse_dot(columns: &[u32], values: &[$float], x: &[$float]) -> $float {
                const CHAINS: usize = 8;
                let at = |column: u32| x[column as usize];
                let mut sums = [0.0; CHAINS];
                let (eights, rest) = columns.as_chunks::<CHAINS>();
                let (value_eights, rest_values) = values.as_chunks::<CHAINS>();
                for (columns, values) in eights.iter().zip(value_eights) {
                    for i in 0..CHAINS {
                        sums[i] += values[i] * at(columns[i]);
                    }
                }
                for (sum, (&column, &value)) in sums.iter_mut().zip(rest.iter().zip(rest_values)) {
                    *sum += value * at(column);
                }
                let [a, b, c, d, e, f, g, h] = sums;
                ((a + b) + (c + d)) + ((e + f) + (g + h))
            }

            pub(super) fn bitmap_dot(
                bits: &[u8],
                start: usize,
                values: &[$float],
                x: &[$float],
            ) -> $float {
                let mut values = values.iter();
                let mut sums = [0.0; LANES];
                for (i, chunk) in x.chunks(LANES).enumerate() {
                    let mut mask = bits_at(bits, start + i * LANES) & ones(chunk.len());
                    while mask != 0 {
                        let lane = mask.trailing_zeros() as usize;
                        mask &= mask - 1;
                        let value = values.next().expect("each set bit has a value");
                        sums[lane] += value * chunk[lane];
                    }
                }
                total(&mut sums)
            }

            /// The upper half of the lanes is added to the lower one, until one is left.
            #[inline(always)]
            pub(super) fn total(lanes: &mut [$float]) -> $float {
                let mut length = lanes.len();
                while length > 1 {
                    length /= 2;
                    let (low, high) = lanes.split_at_mut(length);
                    for (low, high) in low.iter_mut().zip(high) {
                        *low += *high;
                    }
                }
                lanes[0]
            }
        }
    };
}

sparse_kernels!(f32, single);
sparse_kernels!(f64, double);

/// A dot product in which one instruction moves values to the lanes of their columns, from a register: some processors are
/// slow to do so from memory.
///
/// `$vectors` vectors of `$count` lanes make up the [`LANES`].
#[cfg(target_arch = "x86_64")]
macro_rules! bitmap_dot_avx512 {
    ($name:ident, $float:ident, $module:ident, $mask:ident, $count:literal, $vectors:literal,
     $zero:ident, $expand:ident, $load:ident, $load_some:ident, $mul:ident, $add:ident, $store:ident) => {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,popcnt")]
        fn $name(bits: &[u8], start: usize, values: &[$float], x: &[$float]) -> $float {
            use std::arch::x86_64::{$add, $expand, $load, $load_some, $mul, $store, $zero};
            let mut sums = [$zero(); $vectors];
            let mut values = values;
            for (i, chunk) in x.chunks(LANES).enumerate() {
                let inside = ones(chunk.len());
                let mask = bits_at(bits, start + i * LANES) & inside;
                // The number of values that may be read.
                let near = values.len().min(LANES);
                let (run, rest) = values.split_at(mask.count_ones() as usize);
                let whole = chunk.len() == LANES && near == LANES;
                let mut used = 0;
                for (v, sum) in sums.iter_mut().enumerate() {
                    let part = (mask >> (v * $count)) as $mask;
                    let count = part.count_ones() as usize;
                    let (weights, inputs) = if whole {
                        // SAFETY: `values` and `chunk` have 64 values each; no part before this one has more than
                        // `$count`, so that at most v times as many are `used`.
                        unsafe {
                            (
                                $load(values.as_ptr().add(used)),
                                $load(chunk.as_ptr().add(v * $count)),
                            )
                        }
                    } else {
                        let present = (inside >> (v * $count)) as $mask;
                        // SAFETY: as many values are read as `part` has bits; all parts together have as many as
                        // `run` has values. The second load reads the lanes of `present`, which has a bit for each
                        // value of `chunk` that is left; where none is, the pointer may lie beyond and is not read.
                        unsafe {
                            (
                                $load_some(ones(count) as $mask, run.as_ptr().add(used)),
                                $load_some(present, chunk.as_ptr().wrapping_add(v * $count)),
                            )
                        }
                    };
                    // In lanes without a weight a zero is added.
                    *sum = $add(*sum, $mul($expand(part, weights), inputs));
                    used += count;
                }
                values = rest;
            }
            let mut lanes = [0.0; LANES];
            for (v, &sum) in sums.iter().enumerate() {
                // SAFETY: there are as many lanes as the vectors hold together.
                unsafe { $store(lanes.as_mut_ptr().add(v * $count), sum) };
            }
            $module::total(&mut lanes)
        }
    };
}

#[cfg(target_arch = "x86_64")]
bitmap_dot_avx512!(
    bitmap_dot_f32_avx512,
    f32,
    single,
    u16,
    16,
    4,
    _mm512_setzero_ps,
    _mm512_maskz_expand_ps,
    _mm512_loadu_ps,
    _mm512_maskz_loadu_ps,
    _mm512_mul_ps,
    _mm512_add_ps,
    _mm512_storeu_ps
);
#[cfg(target_arch = "x86_64")]
bitmap_dot_avx512!(
    bitmap_dot_f64_avx512,
    f64,
    double,
    u8,
    8,
    8,
    _mm512_setzero_pd,
    _mm512_maskz_expand_pd,
    _mm512_loadu_pd,
    _mm512_maskz_loadu_pd,
    _mm512_mul_pd,
    _mm512_add_pd,
    _mm512_storeu_pd
);

/// For each mask of eight lanes, which of the next values each lane gets.
#[cfg(target_arch = "x86_64")]
static SPREAD: [[u8; 8]; 256] = {
    let mut table = [[0; 8]; 256];
    let mut mask = 0;
    while mask < 256 {
        let (mut lane, mut next) = (0, 0);
        while lane < 8 {
            table[mask][lane] = next;
            next += (mask >> lane & 1) as u8;
            lane += 1;
        }
        mask += 1;
    }
    table
};

/// A permutation from a table moves eight values at a time to their lanes.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,popcnt")]
fn bitmap_dot_f32_avx2(bits: &[u8], start: usize, values: &[f32], x: &[f32]) -> f32 {
    use std::arch::x86_64::{
        _mm_loadl_epi64, _mm256_add_ps, _mm256_and_ps, _mm256_castsi256_ps, _mm256_cmpeq_epi32,
        _mm256_cvtepu8_epi32, _mm256_loadu_ps, _mm256_mul_ps, _mm256_permutevar8x32_ps,
        _mm256_set1_epi32, _mm256_setr_epi32, _mm256_setzero_ps, _mm256_storeu_ps,
    };
    const COUNT: usize = 8;
    let lane_bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    let mut sums = [_mm256_setzero_ps(); LANES / COUNT];
    let mut used = 0;
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut last = [0.0; LANES];
    for (last, &x) in last.iter_mut().zip(rest) {
        *last = x;
    }
    for (i, chunk) in chunks.iter().chain([&last]).enumerate() {
        let inside = ones(x.len().saturating_sub(i * LANES));
        let word = bits_at(bits, start + i * LANES) & inside;
        for (v, sum) in sums.iter_mut().enumerate() {
            let mask = (word >> (v * COUNT)) as u8;
            let mut end = [0.0; COUNT];
            let run = match values.get(used..used + COUNT) {
                Some(run) => run,
                None => {
                    let rest = &values[used..];
                    for (end, &value) in end.iter_mut().zip(rest) {
                        *end = value;
                    }
                    &end
                }
            };
            let lanes = &SPREAD[mask as usize];
            // SAFETY: eight values are read of `run`, which has eight, eight bytes of the eight in `lanes`, and eight
            // values of `chunk` from the v-th eight of its 64 on.
            let (run, lanes, inputs) = unsafe {
                (
                    _mm256_loadu_ps(run.as_ptr()),
                    _mm_loadl_epi64(lanes.as_ptr().cast()),
                    _mm256_loadu_ps(chunk.as_ptr().add(v * COUNT)),
                )
            };
            let spread = _mm256_permutevar8x32_ps(run, _mm256_cvtepu8_epi32(lanes));
            let chosen = lanes_of(mask, lane_bits);
            let weights = _mm256_and_ps(spread, chosen);
            *sum = _mm256_add_ps(*sum, _mm256_mul_ps(weights, inputs));
            used += mask.count_ones() as usize;
        }
    }
    let mut lanes = [0.0; LANES];
    for (v, &sum) in sums.iter().enumerate() {
        // SAFETY: there are as many lanes as the vectors hold together.
        unsafe { _mm256_storeu_ps(lanes.as_mut_ptr().add(v * COUNT), sum) };
    }
    return single::total(&mut lanes);

    /// All bits of each lane that `mask` has.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn lanes_of(mask: u8, lane_bits: std::arch::x86_64::__m256i) -> std::arch::x86_64::__m256 {
        let mask = std::arch::x86_64::_mm256_and_si256(_mm256_set1_epi32(mask.into()), lane_bits);
        _mm256_castsi256_ps(_mm256_cmpeq_epi32(mask, lane_bits))
    }
}

impl SparseKernels for f32 {
    fn sparse_row(
        level: Level,
        columns: (&[u32], usize),
        values: &[f32],
        x: &[f32],
        out: &mut [f32],
    ) -> usize {
        use single::sparse_row as body;
        at_level!(level, body(columns: (&[u32], usize), values: &[f32], x: &[f32], out: &mut [f32]) -> usize)
    }

    fn sparse_dot(columns: &[u32], values: &[f32], x: &[f32]) -> f32 {
        single::sparse_dot(columns, values, x)
    }

    fn bitmap_dot(level: Level, bits: &[u8], start: usize, values: &[f32], x: &[f32]) -> f32 {
        match level {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the level comes from `Level::current` or `Level::available`, which return it only where the
            // processor has its instructions; a processor with AVX2 counts bits.
            Level::Avx512 => unsafe { bitmap_dot_f32_avx512(bits, start, values, x) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Level::Avx2 => unsafe { bitmap_dot_f32_avx2(bits, start, values, x) },
            _ => single::bitmap_dot(bits, start, values, x),
        }
    }
}

impl SparseKernels for f64 {
    fn sparse_row(
        level: Level,
        columns: (&[u32], usize),
        values: &[f64],
        x: &[f64],
        out: &mut [f64],
    ) -> usize {
        use double::sparse_row as body;
        at_level!(level, body(columns: (&[u32], usize), values: &[f64], x: &[f64], out: &mut [f64]) -> usize)
    }

    fn sparse_dot(columns: &[u32], values: &[f64], x: &[f64]) -> f64 {
        double::sparse_dot(columns, values, x)
    }

    fn bitmap_dot(level: Level, bits: &[u8], start: usize, values: &[f64], x: &[f64]) -> f64 {
        #[cfg(target_arch = "x86_64")]
        if level == Level::Avx512 {
            // SAFETY: the level comes from `Level::current` or `Level::available`, which return it only where the
            // processor has its instructions.
            return unsafe { bitmap_dot_f64_avx512(bits, start, values, x) };
        }
        let _ = level;
        double::bitmap_dot(bits, start, values, x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A row with weights where `mask` is true, as bits and as columns; set bits surround it.
    fn row(mask: &[bool], skip: usize) -> (Vec<u8>, Vec<u32>) {
        let length = mask.len();
        let columns = (0..length).filter(|&j| mask[j]).map(|j| j as u32);
        let mut bits = vec![0_u8; (skip + length).div_ceil(8)];
        // Bits of other rows stand before and after.
        let set = |&i: &usize| i < skip || i >= skip + length || mask[i - skip];
        for i in (0..bits.len() * 8).filter(set) {
            bits[i / 8] |= 1 << (i % 8);
        }
        (bits, columns.collect())
    }

    proptest! {
        #[test]
        fn every_level_gives_the_same_bits_as_the_naive_loop(
            mask in prop::collection::vec(any::<bool>(), 1..300),
            skip in 0_usize..20,
            width in prop::sample::select(vec![1_usize, 7, 16, 32, 48, 64, 75]),
            split in 0_usize..300,
            seed in any::<u32>(),
        ) {
            let length = mask.len();
            let value = |i: usize| ((i as f64 + 1.0) * f64::from(seed % 1000 + 1)).sin();
            let (bits, columns) = row(&mask, skip);
            let values: Vec<f64> = (0..columns.len()).map(value).collect();
            let x: Vec<f64> = (0..length * width).map(|i| value(i + 1000)).collect();
            let single = |values: &[f64]| values.iter().map(|&x| x as f32).collect::<Vec<_>>();
            let (values32, x32) = (single(&values), single(&x));

            let mut sums = vec![0.0_f64; width];
            let mut sums32 = vec![0.0_f32; width];
            let mut lanes = [0.0_f64; LANES];
            let mut lanes32 = [0.0_f32; LANES];
            for (k, &column) in columns.iter().enumerate() {
                for b in 0..width {
                    sums[b] += values[k] * x[column as usize * width + b];
                    sums32[b] += values32[k] * x32[column as usize * width + b];
                }
                lanes[column as usize % LANES] += values[k] * x[column as usize];
                lanes32[column as usize % LANES] += values32[k] * x32[column as usize];
            }
            for half in [32, 16, 8, 4, 2, 1] {
                for i in 0..half {
                    lanes[i] += lanes[i + half];
                    lanes32[i] += lanes32[i + half];
                }
            }
            let split = split.min(length);
            for level in Level::available() {
                let mut found = vec![7];
                bitmap_columns(level, &bits, skip, length, &mut found);
                prop_assert_eq!(&found[1..], &columns[..]);

                // In two blocks of columns, the second of which does not begin at the first.
                let (mut out, mut out32) = (vec![0.0; width], vec![0.0; width]);
                let mut used = 0;
                for block in [0..split, split..length] {
                    let part = block.start * width..block.end * width;
                    let rest = (&columns[used..], block.start);
                    let n = f64::sparse_row(level, rest, &values[used..], &x[part.clone()], &mut out);
                    let m = f32::sparse_row(level, rest, &values32[used..], &x32[part], &mut out32);
                    prop_assert_eq!(n, m);
                    used += n;
                }
                prop_assert_eq!(used, columns.len());
                prop_assert_eq!(&out, &sums);
                prop_assert_eq!(&out32, &sums32);

                let dot = f64::bitmap_dot(level, &bits, skip, &values, &x[..length]);
                prop_assert_eq!(dot, lanes[0]);
                let dot = f32::bitmap_dot(level, &bits, skip, &values32, &x32[..length]);
                prop_assert_eq!(dot, lanes32[0]);
            }

            let products = columns.iter().zip(&values).map(|(&j, v)| v * x[j as usize]);
            let (exact, magnitude) = products.fold((0.0, 0.0), |(s, m), p: f64| (s + p, m + p.abs()));
            let bound = length as f64 * f64::EPSILON * magnitude;
            prop_assert!((f64::sparse_dot(&columns, &values, &x) - exact).abs() <= bound);
        }
    }
}
