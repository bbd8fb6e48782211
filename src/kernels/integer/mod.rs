//! Products of rows of unsigned bytes with rows of signed bytes, summed as integers.
//!
//! A few rows are multiplied directly from memory, one vector after the other along the rows. With many rows, this would take
//! more loads than multiplications. Panels of rows of the unsigned bytes are therefore first rearranged into the order in which
//! they are read.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

use super::Level;
use super::placed::Placed;

/// The longest row whose sum always fits into 32 bits: 2³¹ / (255·128), rounded down to a multiple of the vectors' length.
pub(crate) const LONGEST: usize = 65_536;
/// The distance between rows of `a` is a multiple of this many bytes.
pub(crate) const UNIT: usize = 64;

/// The columns of a panel that are multiplied at once.
const STEP: usize = 16;

/// Rows of bytes, each of which begins `stride` bytes after the one before.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows<'a, T> {
    pub(crate) values: &'a [T],
    pub(crate) stride: usize,
}

impl<'a, T> Rows<'a, T> {
    /// The number of rows of `columns` columns.
    fn count(self, columns: usize) -> usize {
        match self.values.len().checked_sub(columns) {
            Some(rest) => rest / self.stride.max(columns).max(1) + 1,
            None => 0,
        }
    }

    fn iter(self, columns: usize) -> impl Iterator<Item = &'a [T]> {
        let rows = self.values.chunks(self.stride.max(1));
        rows.filter_map(move |row| row.get(..columns))
    }

    /// The columns from `from` on.
    pub(crate) fn starting_at(self, from: usize) -> Self {
        // `from` may lie past the end if there are no rows.
        let values = &self.values[from.min(self.values.len())..];
        Self { values, ..self }
    }
}

/// Scratch memory for a panel of rows, which later calls reuse.
pub(crate) type Panel = Placed<u8>;

/// `out[i * rows(b) + j]` = Σ b[j]·a[i] over the first `columns` of row i of `a` and row j of `b`.
///
/// Rows of `a` are padded: its stride is a multiple of [`UNIT`], and the last row too can be read up to a multiple of [`STEP`]
/// columns. If the stride of `b` is a multiple of [`UNIT`] as well, and the first rows of both begin at the same offset in a cache
/// line, no load of a vector crosses a cache line.
pub(crate) fn dot_bytes(
    level: Level,
    a: Rows<'_, i8>,
    b: Rows<'_, u8>,
    columns: usize,
    panel: &mut Panel,
    out: &mut [i32],
) {
    assert!(columns > 0 && columns <= LONGEST);
    assert!(columns <= a.stride && columns <= b.stride && a.stride.is_multiple_of(UNIT));
    let (height, width) = (a.count(columns), b.count(columns));
    assert_eq!(out.len(), height * width);
    if out.is_empty() {
        return;
    }
    let read = (height - 1) * a.stride + columns.next_multiple_of(STEP);
    assert!(read <= a.values.len());
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 if is_x86_feature_detected!("avx512vnni") => {
            if height < avx512::PACKED {
                // SAFETY: the processor has the features of the level and VNNI, and `out` has a number for each pair of rows.
                unsafe { avx512::dot(a, b, columns, out) }
            } else {
                // SAFETY: as above.
                unsafe { avx512::dot_packed(a, b, columns, panel, out) }
            }
        }
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Avx2 => {
            if height < avx2::PACKED {
                // SAFETY: both levels have AVX2, and `out` has a number for each pair of rows.
                unsafe { avx2::dot(a, b, columns, out) }
            } else {
                // SAFETY: as above.
                unsafe { avx2::dot_packed(a, b, columns, panel, out) }
            }
        }
        _ => scalar(a, b, columns, out),
    }
    let _ = panel;
}

fn scalar(a: Rows<'_, i8>, b: Rows<'_, u8>, columns: usize, out: &mut [i32]) {
    let width = b.count(columns);
    for (a, out) in a.iter(columns).zip(out.chunks_exact_mut(width.max(1))) {
        for (b, out) in b.iter(columns).zip(out) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Seed;
    use proptest::prelude::*;

    proptest! {
        // Rows of any sizes, with gaps between them, at any offset within a cache line.
        #[test]
        fn every_level_sums_as_the_naive_loop(columns in 1_usize..600, height in 0_usize..28, width in 0_usize..40, gap in prop_oneof![Just(0), Just(1), 0_usize..70], places in (0_usize..64, 0_usize..64), alike in any::<bool>(), seed in any::<u64>()) {
            let byte = |stream: u64, i: usize| Seed::from(seed).derive(stream).derive(i as u64).value() as u8;
            let a_stride = columns.next_multiple_of(UNIT) + UNIT * (gap % 2);
            let b_stride = if alike { columns.next_multiple_of(UNIT) } else { columns + gap };
            let mut a = Placed::<i8>::zeros(height * a_stride, places.0);
            a.values_mut().iter_mut().enumerate().for_each(|(i, a)| *a = byte(0, i) as i8);
            let mut b = Placed::<u8>::zeros(width * b_stride, if alike { places.0 } else { places.1 });
            b.values_mut().iter_mut().enumerate().for_each(|(i, b)| *b = byte(1, i));
            let a = Rows { values: a.values(), stride: a_stride };
            let b = Rows { values: b.values(), stride: b_stride };
            let from = if columns > UNIT && gap % 3 == 1 { UNIT } else { 0 };
            let columns = columns - from;
            let mut expected = Vec::new();
            for i in 0..height {
                for j in 0..width {
                    let product = |c: usize| i32::from(a.values[i * a_stride + from + c]) * i32::from(b.values[j * b_stride + from + c]);
                    expected.push((0..columns).map(product).sum::<i32>());
                }
            }
            let mut panel = Panel::default();
            for level in Level::available() {
                let mut out = vec![7; height * width];
                dot_bytes(level, a.starting_at(from), b.starting_at(from), columns, &mut panel, &mut out);
                prop_assert_eq!(&out, &expected, "{:?}", level);
            }
        }
    }

    #[test]
    fn the_extremes_do_not_overflow() {
        for rows in [1, 9] {
            let (a, b) = (vec![-128_i8; rows * LONGEST], vec![255_u8; LONGEST]);
            let a = Rows {
                values: &a,
                stride: LONGEST,
            };
            let b = Rows {
                values: &b,
                stride: LONGEST,
            };
            for level in Level::available() {
                let mut out = vec![0; rows];
                dot_bytes(level, a, b, LONGEST, &mut Panel::default(), &mut out);
                assert_eq!(out, vec![-128 * 255 * LONGEST as i32; rows], "{level:?}");
            }
        }
    }
}
