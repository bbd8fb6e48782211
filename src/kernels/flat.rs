//! The loops of a distillation loss whose softened logits are nearly equal, in double precision.
//!
//! The probabilities of student and teacher then differ by little, and their difference is computed from exp(x) − 1, which
//! keeps its digits. Sums are kept in lanes and nothing is fused, so that every level gives the same bits.

use super::Level;
use super::vectorize::at_level;
use crate::Float;

const LANES: usize = 8;

/// exp(x) − 1 for −1/4 < x ≤ 0, by the first thirteen terms of its series: the rest is below 2⁻⁶² of it.
#[inline(always)]
fn exp_m1(x: f64) -> f64 {
    let mut sum = 1.0;
    for k in [
        13.0, 12.0, 11.0, 10.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0_f64,
    ] {
        sum = 1.0 + sum * x * (1.0 / k);
    }
    sum * x
}

/// `exponents = (values − shift) · scale` and `out = exp(exponents) − 1`, with the sum of it.
pub(crate) fn exp_m1_shifted<F: Float>(
    level: Level,
    values: &[F],
    (shift, scale): (F, f64),
    exponents: &mut [f64],
    out: &mut [f64],
) -> f64 {
    #[inline(always)]
    fn body<F: Float>(
        values: &[F],
        shift: f64,
        scale: f64,
        exponents: &mut [f64],
        out: &mut [f64],
    ) -> f64 {
        for ((x, value), out) in exponents.iter_mut().zip(values).zip(out.iter_mut()) {
            *x = (value.as_f64() - shift) * scale;
            *out = exp_m1(*x);
        }
        let mut sums = [0.0; LANES];
        let chunks = out.chunks_exact(LANES);
        for (sum, e) in sums.iter_mut().zip(chunks.remainder()) {
            *sum += e;
        }
        for chunk in chunks {
            for (sum, e) in sums.iter_mut().zip(chunk) {
                *sum += e;
            }
        }
        sums.iter().sum()
    }
    let shift = shift.as_f64();
    at_level!(level, body<F: Float>(
        values: &[F], shift: f64, scale: f64, exponents: &mut [f64], out: &mut [f64]
    ) -> f64)
}

/// $\sum (1 + b) v$ and $\sum (1 + b) (v - z)$.
pub(crate) fn weighted_gaps(level: Level, b: &[f64], v: &[f64], z: &[f64]) -> (f64, f64) {
    #[inline(always)]
    fn body(b: &[f64], v: &[f64], z: &[f64]) -> (f64, f64) {
        let (mut depth, mut gap) = ([0.0; LANES], [0.0; LANES]);
        let (b, v, z) = (
            b.chunks_exact(LANES),
            v.chunks_exact(LANES),
            z.chunks_exact(LANES),
        );
        let rest = b.remainder().iter().zip(v.remainder()).zip(z.remainder());
        for (i, ((b, v), z)) in rest.enumerate() {
            depth[i] += (1.0 + b) * v;
            gap[i] += (1.0 + b) * (v - z);
        }
        for ((b, v), z) in b.zip(v).zip(z) {
            for i in 0..LANES {
                depth[i] += (1.0 + b[i]) * v[i];
                gap[i] += (1.0 + b[i]) * (v[i] - z[i]);
            }
        }
        (depth.iter().sum(), gap.iter().sum())
    }
    at_level!(level, body(b: &[f64], v: &[f64], z: &[f64]) -> (f64, f64))
}

/// `out = x₀ a + x₁ b + x₂ + x₃ plain` for the factors `[x₀, x₁, x₂, x₃]`.
pub(crate) fn combine<F: Float>(
    level: Level,
    a: &[f64],
    b: &[f64],
    plain: &[F],
    factors: [f64; 4],
    out: &mut [F],
) {
    #[inline(always)]
    fn body<F: Float>(a: &[f64], b: &[f64], plain: &[F], factors: [f64; 4], out: &mut [F]) {
        for (((out, a), b), plain) in out.iter_mut().zip(a).zip(b).zip(plain) {
            let soft = a * factors[0] + b * factors[1] + factors[2];
            *out = F::from_f64_lossy(soft + plain.as_f64() * factors[3]);
        }
    }
    at_level!(level, body<F: Float>(
        a: &[f64], b: &[f64], plain: &[F], factors: [f64; 4], out: &mut [F]
    ) -> ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_level_follows_the_formulas(x in prop::collection::vec(-0.2499_f64..=0.0, 1..60), scale in 0.1_f64..1.0) {
            let n = x.len();
            let y: Vec<f64> = x.iter().rev().map(|y| y * 0.5).collect();
            let level_results: Vec<_> = Level::available().into_iter().map(|level| {
                let (mut z, mut a, mut out) = (vec![9.0; n], vec![9.0; n], vec![9.0; n]);
                let sum = exp_m1_shifted(level, &x, (0.0, scale), &mut z, &mut a);
                let gaps = weighted_gaps(level, &a, &x, &y);
                combine(level, &a, &x, &y, [0.3, -0.7, 0.1, 2.0], &mut out);
                (sum, gaps, z, a, out)
            }).collect();
            for result in &level_results {
                prop_assert_eq!(result, &level_results[0]);
            }
            let (sum, gaps, z, a, out) = &level_results[0];
            for (i, (a, z)) in a.iter().zip(z).enumerate() {
                prop_assert_eq!(*z, x[i] * scale);
                // Twelve steps, the last of which is the result: 1 + small, so that their errors hardly add up.
                prop_assert!((a - z.exp_m1()).abs() <= 4.0 * f64::EPSILON * z.abs());
            }
            let tolerance = 4.0 * n as f64 * f64::EPSILON;
            prop_assert!((sum - a.iter().sum::<f64>()).abs() <= tolerance * n as f64);
            let depth: f64 = (0..n).map(|i| (1.0 + a[i]) * x[i]).sum();
            let gap: f64 = (0..n).map(|i| (1.0 + a[i]) * (x[i] - y[i])).sum();
            prop_assert!((gaps.0 - depth).abs() <= tolerance * n as f64);
            prop_assert!((gaps.1 - gap).abs() <= tolerance * n as f64);
            for i in 0..n {
                let expected = 0.3 * a[i] - 0.7 * x[i] + 0.1 + 2.0 * y[i];
                prop_assert!((out[i] - expected).abs() <= 8.0 * f64::EPSILON);
            }
        }
    }
}
