//! Rows of softened probabilities in `f64`: their divergence, the standardized and the decoupled one, with gradients.
//!
//! Gradients here are with respect to the exponents $z/T$, for a weight of 1.

use super::Comparison;
use super::loss::{RowValue, RowWeights};
use crate::Float;

/// The largest difference of two exponents for which the divergence is computed from that difference.
const NEAR: f64 = 0.5;

/// Returns the value of one row and overwrites `gradient`. The rows are finite and of one length, and there is a label if the
/// comparison needs one. The divergence is infinite where a result leaves the range of its type.
pub(super) fn loss<F: Float>(
    comparison: Comparison,
    student: &[F],
    teacher: &[F],
    label: Option<usize>,
    weights: &RowWeights,
    gradient: &mut [F],
) -> RowValue {
    let temperature = weights.temperature;
    let mut slope = vec![0.0; student.len()];
    let mut value = match comparison {
        Comparison::Standardized => standardized(student, teacher, temperature, &mut slope),
        Comparison::Dkd { target, others } => {
            let label = label.expect("the caller has checked that there are labels");
            let rows = [student, teacher];
            decoupled(rows, label, temperature, [target, others], &mut slope)
        }
        Comparison::Hinton => {
            let z = exponents(student, temperature);
            let v = exponents(teacher, temperature);
            let gap = Gap::new(&z, &v, &differences(&z, &v), &mut slope);
            RowValue {
                divergence: gap.divergence,
                entropy: gap.entropy,
                hard: 0.0,
            }
        }
        Comparison::Dist { .. } => unreachable!("correlations need the whole batch"),
    };
    value.hard = finish(student, label, weights, &mut slope, gradient);
    if gradient.iter().any(|x| !x.is_finite()) {
        value.divergence = f64::INFINITY;
    }
    value
}

/// Weights `slope`, adds the gradient of the cross-entropy with the label, and writes the sum to `gradient`. Returns the
/// cross-entropy, or 0 without a label.
pub(super) fn finish<F: Float>(
    student: &[F],
    label: Option<usize>,
    weights: &RowWeights,
    slope: &mut [f64],
    gradient: &mut [F],
) -> f64 {
    for slope in slope.iter_mut() {
        // Without a weight, a derivative that is out of range does not count.
        *slope = if weights.soft == 0.0 {
            0.0
        } else {
            *slope * weights.soft
        };
    }
    let mut hard = 0.0;
    if let Some(label) = label {
        let plain = exponents(student, 1.0);
        let sum: f64 = plain.iter().map(|x| x.exp()).sum();
        hard = sum.ln() - plain[label];
        for (slope, x) in slope.iter_mut().zip(&plain) {
            *slope += weights.hard * (x.exp() / sum);
        }
        slope[label] -= weights.hard;
    }
    for (out, slope) in gradient.iter_mut().zip(slope) {
        *out = F::from_f64_lossy(*slope);
    }
    hard
}

/// Returns $(x_i - \max x)/T$ without an intermediate value out of range.
pub(super) fn exponents<F: Float>(values: &[F], temperature: f64) -> Vec<f64> {
    // Halves, so that the difference of the largest and the smallest number is finite.
    let half = |x: &F| x.as_f64() / 2.0;
    let top = values.iter().map(half).fold(f64::MIN, f64::max);
    values
        .iter()
        .map(|x| (half(x) - top) / temperature * 2.0)
        .collect()
}

fn differences(z: &[f64], v: &[f64]) -> Vec<f64> {
    z.iter().zip(v).map(|(z, v)| z - v).collect()
}

/// What separates two distributions, q ∝ exp(z) and p ∝ exp(v).
struct Gap {
    /// Σ p ln(p/q).
    divergence: f64,
    /// −Σ p ln p.
    entropy: f64,
    /// ln(Σ exp(z) / Σ exp(v)).
    log_ratio: f64,
}

impl Gap {
    /// Writes q − p, the gradient of the divergence, to `slope`.
    ///
    /// `delta` is z − v, which the caller may know more accurately than it can be computed here. Where all of it is small, a divergence from two softmaxes
    /// would be rounding noise: it is ln(1 + s) then, with m = Σ p δ and s = Σ p (exp(δ − m) − 1 − (δ − m)), a sum of positive
    /// numbers.
    fn new(z: &[f64], v: &[f64], delta: &[f64], slope: &mut [f64]) -> Self {
        let mut p: Vec<f64> = v.iter().map(|v| v.exp()).collect();
        let sum_p: f64 = p.iter().sum();
        for p in &mut p {
            *p /= sum_p;
        }
        // p ln p is 0 for p = 0, even where v is infinite.
        let terms = |f: &dyn Fn(usize) -> f64| -> f64 {
            let indices = (0..p.len()).filter(|&i| p[i] > 0.0);
            indices.map(|i| p[i] * f(i)).sum()
        };
        let entropy = (sum_p.ln() - terms(&|i| v[i])).max(0.0);
        // A difference of two infinite exponents is a NaN, and not near.
        if delta.iter().all(|delta| delta.abs() <= NEAR / 2.0) {
            let mean = terms(&|i| delta[i]);
            let excess = terms(&|i| exp_less_line(delta[i] - mean));
            for ((slope, p), delta) in slope.iter_mut().zip(&p).zip(delta) {
                *slope = p * ((delta - mean).exp_m1() - excess) / (1.0 + excess);
            }
            let divergence = excess.ln_1p();
            return Self {
                divergence,
                entropy,
                log_ratio: mean + divergence,
            };
        }
        let sum_q: f64 = z.iter().map(|z| z.exp()).sum();
        let log_ratio = sum_q.ln() - sum_p.ln();
        for ((slope, p), z) in slope.iter_mut().zip(&p).zip(z) {
            *slope = z.exp() / sum_q - p;
        }
        Self {
            // Rounding may leave a value just below zero.
            divergence: (terms(&|i| v[i] - z[i]) + log_ratio).max(0.0),
            entropy,
            log_ratio,
        }
    }
}

/// Returns exp(x) − 1 − x for |x| ≤ 0.5, to the last digits.
fn exp_less_line(x: f64) -> f64 {
    // 0.5¹⁵/15! is below ε times the first term.
    let series = (3..=14)
        .rev()
        .fold(1.0, |sum, n| 1.0 + sum * x / f64::from(n));
    series * x * x / 2.0
}

/// The divergence of standardized logits.
fn standardized<F: Float>(
    student: &[F],
    teacher: &[F],
    temperature: f64,
    slope: &mut [f64],
) -> RowValue {
    let (s, deviation) = standard_scores(student);
    let (t, _) = standard_scores(teacher);
    let (z, v) = (exponents(&s, temperature), exponents(&t, temperature));
    // The maxima are subtracted from both, which changes the differences by a constant only.
    let gap = Gap::new(&z, &v, &differences(&z, &v), slope);
    // The mean and the length of the scores are fixed: only what is orthogonal to both reaches the logits.
    let classes = s.len() as f64;
    let along = slope.iter().zip(&s).map(|(g, s)| g * s).sum::<f64>() / classes;
    for (slope, s) in slope.iter_mut().zip(&s) {
        *slope = match deviation {
            Some(deviation) => (*slope - s * along) / deviation,
            None => 0.0,
        };
    }
    RowValue {
        divergence: gap.divergence,
        entropy: gap.entropy,
        hard: 0.0,
    }
}

/// Returns the values with mean 0 and mean square 1, and their standard deviation; zeros and `None` if all are equal.
fn standard_scores<F: Float>(values: &[F]) -> (Vec<f64>, Option<f64>) {
    // Half the distances from the largest value, so that they are finite, and as fractions of the greatest, so that their squares are.
    let mut scores = exponents(values, 2.0);
    let lowest = scores.iter().copied().fold(0.0, f64::min);
    if lowest == 0.0 {
        return (scores, None);
    }
    let classes = scores.len() as f64;
    for x in &mut scores {
        *x /= lowest;
    }
    let mean = scores.iter().sum::<f64>() / classes;
    for x in &mut scores {
        *x = mean - *x;
    }
    let deviation = (scores.iter().map(|x| x * x).sum::<f64>() / classes).sqrt();
    for x in &mut scores {
        *x /= deviation;
    }
    (scores, Some(deviation * -lowest * 2.0))
}

/// The weighted divergences of the label against the rest, and within the rest.
fn decoupled<F: Float>(
    [student, teacher]: [&[F]; 2],
    label: usize,
    temperature: f64,
    [target, others]: [f64; 2],
    slope: &mut [f64],
) -> RowValue {
    // The exponents of the label and of the largest other class, and those of the other classes relative to the latter.
    let split = |values: &[F]| {
        let mut rest = values.to_vec();
        rest.remove(label);
        let top = |values: &[F]| values.iter().copied().fold(F::neg_infinity(), F::max);
        let pair = exponents(&[values[label], top(&rest)], temperature);
        ([pair[0], pair[1]], exponents(&rest, temperature))
    };
    let ([z_label, z_top], z) = split(student);
    let ([v_label, v_top], v) = split(teacher);
    let mut within = vec![0.0; z.len()];
    let rest = Gap::new(&z, &v, &differences(&z, &v), &mut within);
    let ln_sum = |exponents: &[f64]| exponents.iter().map(|x| x.exp()).sum::<f64>().ln();
    let (ln_z, ln_v) = (ln_sum(&z), ln_sum(&v));
    let mut between = [0.0; 2];
    let binary = Gap::new(
        &[z_label, z_top + ln_z],
        &[v_label, v_top + ln_v],
        &[z_label - v_label, (z_top - v_top) + rest.log_ratio],
        &mut between,
    );
    slope[label] = target * between[0];
    let rest_of_slope = slope.iter_mut().enumerate().filter(|(i, _)| *i != label);
    for (((_, slope), within), z) in rest_of_slope.zip(&within).zip(&z) {
        let share = (z - ln_z).exp();
        *slope = others * within + target * between[1] * share;
    }
    RowValue {
        divergence: weighted(target, binary.divergence) + weighted(others, rest.divergence),
        entropy: 0.0,
        hard: 0.0,
    }
}

/// Returns `weight * value`, and 0 for no weight even where the value is out of range.
fn weighted(weight: f64, value: f64) -> f64 {
    if weight == 0.0 { 0.0 } else { weight * value }
}
