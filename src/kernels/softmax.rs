//! The loops of a softmax over one row: its extent, its exponentials, sums weighted by them.
//!
//! One body over fixed numbers of lanes is compiled once for each instruction set; without any it is the scalar form. No
//! multiplication is fused with an addition, so that every level gives the same bits.

use super::Level;
use super::vectorize::at_level;

/// The smallest and the largest value of a row, and whether all are finite.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Extent<F> {
    pub min: F,
    pub max: F,
    pub finite: bool,
}

/// The kernels of a softmax, part of [`KernelFloat`](super::KernelFloat).
pub trait SoftmaxKernels: Copy {
    /// The extent of `values`. `min` and `max` are unspecified unless all are finite; no values are not finite.
    fn extent(level: Level, values: &[Self]) -> Extent<Self>;

    /// `out = exp((values − shift) · scale)`, for exponents of at most zero; returns the sum.
    ///
    /// Results below about the smallest normal number (exp(−87), in double precision exp(−708)) are zero. Beside the error of
    /// the exponent itself, the relative error of the others is below four units in the last place.
    fn exp_shifted(
        level: Level,
        values: &[Self],
        shift: Self,
        scale: Self,
        out: &mut [Self],
    ) -> Self;

    /// $\sum_i w_i a_i$ and $\sum_i w_i (a_i - b_i)$, after the shifts are subtracted from `a` and `b`.
    fn weighted_gaps(
        level: Level,
        weights: &[Self],
        a: (&[Self], Self),
        b: (&[Self], Self),
    ) -> (Self, Self);

    /// `out = out · x₀ + a · x₁ + b · x₂` for the factors `[x₀, x₁, x₂]`.
    fn combine(level: Level, out: &mut [Self], a: &[Self], b: &[Self], factors: [Self; 3]);
}

macro_rules! softmax_kernels {
    ($module:ident, $float:ident, lanes $lanes:literal, mantissa $mantissa:literal,
     lowest $lowest:literal, ln2 ($ln2_high:expr, $ln2_low:expr), coefficients [$($factorial:literal),*]) => {
        mod $module {
            use super::{Extent, Level, SoftmaxKernels, at_level};

            const LANES: usize = $lanes;
            /// Adding it rounds to a whole number, which is in the low bits of the sum.
            const ROUND: $float = 1.5 * (1_u64 << $mantissa) as $float;
            /// ln 2 in two parts; the product of the first with any exponent is exact.
            const LN2: [$float; 2] = [$ln2_high, $ln2_low];
            /// 1/k! for falling k: the series of exp, cut where its rest is below half a unit in the last place
            /// for arguments of at most ln(2)/2.
            const SERIES: &[$float] = &[$(1.0 / $factorial),*];

            /// exp(x) for x ≤ 0: 2ⁿ · exp(x − n · ln 2) with the nearest whole number n.
            #[inline(always)]
            fn exp(x: $float) -> $float {
                let inside = if x < $lowest { $lowest } else { x };
                let shifted = inside * std::$float::consts::LOG2_E + ROUND;
                let n = shifted - ROUND;
                let rest = (inside - n * LN2[0]) - n * LN2[1];
                let mut sum = 0.0;
                for &coefficient in SERIES {
                    sum = sum * rest + coefficient;
                }
                let exponent = (shifted.to_bits() << $mantissa).wrapping_add((1.0 as $float).to_bits());
                let value = sum * $float::from_bits(exponent);
                if x < $lowest { 0.0 } else { value }
            }

            #[inline(always)]
            fn extent(values: &[$float]) -> Extent<$float> {
                let first = values.first().copied().unwrap_or($float::NAN);
                let (mut min, mut max, mut poison) = ([first; LANES], [first; LANES], [0.0; LANES]);
                let chunks = values.chunks_exact(LANES);
                // Zero times a number is zero, except for NaN and the infinities.
                for (i, &x) in chunks.remainder().iter().enumerate() {
                    (min[i], max[i]) = (lower(min[i], x), higher(max[i], x));
                    poison[i] += x * 0.0;
                }
                for chunk in chunks {
                    for i in 0..LANES {
                        let x = chunk[i];
                        (min[i], max[i]) = (lower(min[i], x), higher(max[i], x));
                        poison[i] += x * 0.0;
                    }
                }
                Extent {
                    min: min.into_iter().fold(first, lower),
                    max: max.into_iter().fold(first, higher),
                    finite: !values.is_empty() && poison.iter().sum::<$float>() == 0.0,
                }
            }

            #[inline(always)]
            fn lower(a: $float, b: $float) -> $float {
                if b < a { b } else { a }
            }

            #[inline(always)]
            fn higher(a: $float, b: $float) -> $float {
                if b > a { b } else { a }
            }

            #[inline(always)]
            fn exp_shifted(
                values: &[$float],
                shift: $float,
                scale: $float,
                out: &mut [$float],
            ) -> $float {
                let mut sums = [0.0; LANES];
                let mut values = values.chunks_exact(LANES);
                let mut out = out.chunks_exact_mut(LANES);
                for (values, out) in (&mut values).zip(&mut out) {
                    for i in 0..LANES {
                        let e = exp((values[i] - shift) * scale);
                        out[i] = e;
                        sums[i] += e;
                    }
                }
                for (i, (value, out)) in values.remainder().iter().zip(out.into_remainder()).enumerate() {
                    let e = exp((value - shift) * scale);
                    *out = e;
                    sums[i] += e;
                }
                sums.iter().sum()
            }

            #[inline(always)]
            fn weighted_gaps(
                weights: &[$float],
                a: (&[$float], $float),
                b: (&[$float], $float),
            ) -> ($float, $float) {
                let (mut depth, mut gap) = ([0.0; LANES], [0.0; LANES]);
                let mut weights = weights.chunks_exact(LANES);
                let mut lanes_a = a.0.chunks_exact(LANES);
                let mut lanes_b = b.0.chunks_exact(LANES);
                for ((w, x), y) in (&mut weights).zip(&mut lanes_a).zip(&mut lanes_b) {
                    for i in 0..LANES {
                        let from_top = x[i] - a.1;
                        depth[i] += w[i] * from_top;
                        gap[i] += w[i] * (from_top - (y[i] - b.1));
                    }
                }
                let rest = weights.remainder().iter().zip(lanes_a.remainder()).zip(lanes_b.remainder());
                for (i, ((w, x), y)) in rest.enumerate() {
                    let from_top = x - a.1;
                    depth[i] += w * from_top;
                    gap[i] += w * (from_top - (y - b.1));
                }
                (depth.iter().sum(), gap.iter().sum())
            }

            #[inline(always)]
            fn combine(out: &mut [$float], a: &[$float], b: &[$float], factors: [$float; 3]) {
                for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
                    *out = *out * factors[0] + a * factors[1] + b * factors[2];
                }
            }

            impl SoftmaxKernels for $float {
                fn extent(level: Level, values: &[Self]) -> Extent<Self> {
                    at_level!(level, extent(values: &[$float]) -> Extent<$float>)
                }

                fn exp_shifted(
                    level: Level,
                    values: &[Self],
                    shift: Self,
                    scale: Self,
                    out: &mut [Self],
                ) -> Self {
                    at_level!(level, exp_shifted(
                        values: &[$float], shift: $float, scale: $float, out: &mut [$float]
                    ) -> $float)
                }

                fn weighted_gaps(
                    level: Level,
                    weights: &[Self],
                    a: (&[Self], Self),
                    b: (&[Self], Self),
                ) -> (Self, Self) {
                    at_level!(level, weighted_gaps(
                        weights: &[$float], a: (&[$float], $float), b: (&[$float], $float)
                    ) -> ($float, $float))
                }

                fn combine(level: Level, out: &mut [Self], a: &[Self], b: &[Self], factors: [Self; 3]) {
                    at_level!(level, combine(
                        out: &mut [$float], a: &[$float], b: &[$float], factors: [$float; 3]
                    ) -> ())
                }
            }
        }
    };
}

softmax_kernels!(
    single, f32, lanes 16, mantissa 23, lowest -87.0,
    ln2 (0.693_145_75, 1.428_606_8e-6),
    coefficients [5040.0, 720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0]
);
softmax_kernels!(
    double, f64, lanes 8, mantissa 52, lowest -708.0,
    ln2 (f64::from_bits(0x3fe6_2e42_fee0_0000), 1.908_214_929_270_587_7e-10),
    coefficients [
        6_227_020_800.0, 479_001_600.0, 39_916_800.0, 3_628_800.0, 362_880.0, 40_320.0, 5040.0, 720.0,
        120.0, 24.0, 6.0, 2.0, 1.0, 1.0
    ]
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::sizes;

    /// Values from 0 down to −`depth`, in no order.
    fn values(count: usize, depth: f64) -> Vec<f64> {
        (0..count)
            .map(|i| -depth * (i * 7919 % count) as f64 / count as f64)
            .collect()
    }

    #[test]
    fn exponentials_are_those_of_the_standard_library() {
        let count = if cfg!(miri) { 211 } else { 20_011 };
        for level in Level::available() {
            let x = values(count, 87.0);
            let single: Vec<f32> = x.iter().map(|&x| x as f32).collect();
            let mut out = vec![0.0; x.len()];
            f32::exp_shifted(level, &single, 0.0, 1.0, &mut out);
            for (x, e) in single.iter().zip(&out) {
                let exact = f64::from(*x).exp();
                let error = (f64::from(*e) - exact).abs() / exact;
                assert!(error < 4.0 * f64::from(f32::EPSILON) / 2.0, "{x}: {error}");
            }
            let x = values(count, 708.0);
            let mut out = vec![0.0; x.len()];
            f64::exp_shifted(level, &x, 0.0, 1.0, &mut out);
            for (x, e) in x.iter().zip(&out) {
                let error = (e - x.exp()).abs() / x.exp();
                assert!(error < 4.0 * f64::EPSILON / 2.0, "{x}: {error}");
            }
        }
    }

    #[test]
    fn what_is_too_small_is_zero() {
        for level in Level::available() {
            let x = [-87.5, -1e30, f32::NEG_INFINITY, f32::MIN];
            let mut out = [1.0; 4];
            assert_eq!(f32::exp_shifted(level, &x, 0.0, 1.0, &mut out), 0.0);
            assert_eq!(out, [0.0; 4]);
            let mut out = [1.0; 2];
            assert_eq!(
                f64::exp_shifted(level, &[-709.0, f64::NEG_INFINITY], 0.0, 1.0, &mut out),
                0.0
            );
        }
    }

    /// All four kernels on rows of every length up to `n`; the results of each level as bits.
    macro_rules! every_level_agrees {
        ($float:ident) => {
            for n in sizes(1..70) {
                let x: Vec<$float> = values(n, 9.0)
                    .iter()
                    .map(|&x| (x + 3.0) as $float)
                    .collect();
                let y: Vec<$float> = values(n, 5.0).iter().map(|&x| (x * x) as $float).collect();
                let results: Vec<_> = Level::available()
                    .into_iter()
                    .map(|level| {
                        let mut out = vec![0.0; n];
                        let extent = $float::extent(level, &x);
                        let sum = $float::exp_shifted(level, &x, extent.max, 0.7, &mut out);
                        let gaps = $float::weighted_gaps(level, &out, (&y, 1.5), (&x, extent.max));
                        let exponentials = out.clone();
                        $float::combine(level, &mut out, &x, &y, [0.3, -0.7, 0.1]);
                        (extent, sum, gaps, exponentials, out)
                    })
                    .collect();
                for result in &results {
                    assert_eq!(result, &results[0]);
                }
                // The scalar form against the plain formulas.
                let (extent, sum, gaps, exponentials, combined) = &results[0];
                assert_eq!(extent.max, x.iter().copied().fold($float::MIN, $float::max));
                assert_eq!(extent.min, x.iter().copied().fold($float::MAX, $float::min));
                assert!(extent.finite);
                let tolerance = n as $float * 16.0 * $float::EPSILON;
                let plain: $float = exponentials.iter().sum();
                assert!((sum - plain).abs() <= tolerance * plain);
                let depth: $float = exponentials
                    .iter()
                    .zip(&y)
                    .map(|(w, y)| w * (y - 1.5))
                    .sum();
                let gap: $float = (0..n)
                    .map(|i| exponentials[i] * ((y[i] - 1.5) - (x[i] - extent.max)))
                    .sum();
                assert!((gaps.0 - depth).abs() <= tolerance * 34.0 * plain);
                assert!((gaps.1 - gap).abs() <= tolerance * 34.0 * plain);
                for i in 0..n {
                    let expected = exponentials[i] * 0.3 - x[i] * 0.7 + y[i] * 0.1;
                    assert!((combined[i] - expected).abs() <= 16.0 * 9.0 * $float::EPSILON);
                }
            }
        };
    }

    #[test]
    fn every_level_gives_the_same_bits() {
        every_level_agrees!(f32);
        every_level_agrees!(f64);
    }

    #[test]
    fn a_value_that_is_not_finite_is_seen_wherever_it_stands() {
        for level in Level::available() {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for place in sizes(0..37) {
                    let mut x = [f32::MAX; 37];
                    x[place] = bad;
                    assert!(!f32::extent(level, &x).finite);
                }
            }
            assert!(f32::extent(level, &[f32::MAX; 37]).finite);
        }
    }
}
