//! Element-by-element products along the last axis, which holds the rank-one terms of a CP model (or the
//! channels of a depthwise convolution) side by side.
//!
//! Nothing is summed across that axis and no product is fused with a sum, so that every level gives the same bits: the vector
//! forms are the plain loops, compiled for wider registers.

use std::ops::{AddAssign, Mul};

use super::Level;
use super::vectorize::at_level;

/// A number that the loops work on.
pub(crate) trait Number: Copy + Default + Mul<Output = Self> + AddAssign {}
impl<T: Copy + Default + Mul<Output = T> + AddAssign> Number for T {}

/// Terms that are summed in registers at a time.
const LANES: usize = 16;

/// `out[r] += Σ_k a[k, r] b[k, r]`: a tensor against a Khatri–Rao product whose axes are its last ones.
///
/// `a` and `b` hold the same number of rows of `out.len()` values.
pub(crate) fn sum_of_products<T: Number>(level: Level, out: &mut [T], a: &[T], b: &[T]) {
    at_level!(level, sum_of_products_body<T: Number>(out: &mut [T], a: &[T], b: &[T]) -> ())
}

/// `out[k, r] += a[k, r] row[r]`: one slice of a tensor, weighted term by term, onto a sum of slices.
pub(crate) fn add_scaled_rows<T: Number>(level: Level, out: &mut [T], a: &[T], row: &[T]) {
    at_level!(level, add_scaled_rows_body<T: Number>(out: &mut [T], a: &[T], row: &[T]) -> ())
}

/// `out[k, r] = a[k, r] row[r]`: one slice of a Khatri–Rao product.
pub(crate) fn scale_rows<T: Number>(level: Level, out: &mut [T], a: &[T], row: &[T]) {
    at_level!(level, scale_rows_body<T: Number>(out: &mut [T], a: &[T], row: &[T]) -> ())
}

#[inline(always)]
fn sum_of_products_body<T: Number>(out: &mut [T], a: &[T], b: &[T]) {
    let terms = out.len().max(1);
    let mut start = 0;
    let mut blocks = out.chunks_exact_mut(LANES);
    for block in &mut blocks {
        let mut sum = [T::default(); LANES];
        for (a, b) in a.chunks_exact(terms).zip(b.chunks_exact(terms)) {
            let (a, b) = (&a[start..start + LANES], &b[start..start + LANES]);
            for ((sum, &a), &b) in sum.iter_mut().zip(a).zip(b) {
                *sum += a * b;
            }
        }
        for (out, sum) in block.iter_mut().zip(sum) {
            *out += sum;
        }
        start += LANES;
    }
    let rest = blocks.into_remainder();
    let mut sum = [T::default(); LANES];
    for (a, b) in a.chunks_exact(terms).zip(b.chunks_exact(terms)) {
        for ((sum, &a), &b) in sum.iter_mut().zip(&a[start..]).zip(&b[start..]) {
            *sum += a * b;
        }
    }
    for (out, sum) in rest.iter_mut().zip(sum) {
        *out += sum;
    }
}

#[inline(always)]
fn add_scaled_rows_body<T: Number>(out: &mut [T], a: &[T], row: &[T]) {
    let terms = row.len().max(1);
    for (out, a) in out.chunks_exact_mut(terms).zip(a.chunks_exact(terms)) {
        for ((out, &a), &scale) in out.iter_mut().zip(a).zip(row) {
            *out += a * scale;
        }
    }
}

#[inline(always)]
fn scale_rows_body<T: Number>(out: &mut [T], a: &[T], row: &[T]) {
    let terms = row.len().max(1);
    for (out, a) in out.chunks_exact_mut(terms).zip(a.chunks_exact(terms)) {
        for ((out, &a), &scale) in out.iter_mut().zip(a).zip(row) {
            *out = a * scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: usize, step: u64) -> Vec<f32> {
        (0..count as u64)
            .map(|i| ((i * step) % 101) as f32 / 16.0 - 3.0)
            .collect()
    }

    #[test]
    fn every_level_gives_the_bits_of_the_naive_loop() {
        for terms in [1, 3, 15, 16, 17, 40] {
            for rows in [0, 1, 5] {
                let a = values(rows * terms, 37);
                let b = values(rows * terms, 53);
                let row = values(terms, 29);
                let mut sums = values(terms, 3);
                for r in 0..terms {
                    let mut sum = 0.0;
                    for k in 0..rows {
                        sum += a[k * terms + r] * b[k * terms + r];
                    }
                    sums[r] += sum;
                }
                let scaled: Vec<f32> = (0..rows * terms).map(|i| a[i] * row[i % terms]).collect();
                let added: Vec<f32> = b.iter().zip(&scaled).map(|(b, s)| b + s).collect();
                for level in Level::available() {
                    let mut out = values(terms, 3);
                    sum_of_products(level, &mut out, &a, &b);
                    assert_eq!(out, sums, "{level:?}, {rows} rows of {terms}");
                    let mut out = b.clone();
                    scale_rows(level, &mut out, &a, &row);
                    assert_eq!(out, scaled, "{level:?}, {rows} rows of {terms}");
                    let mut out = b.clone();
                    add_scaled_rows(level, &mut out, &a, &row);
                    assert_eq!(out, added, "{level:?}, {rows} rows of {terms}");
                }
            }
        }
    }
}
