//! One row of the loss: the softened probabilities of student and teacher, their gap, and the gradient.
//!
//! A row is computed in one of three ways, which its values and the temperature decide. The quick way uses kernels in the
//! number type of the logits. The flat way uses kernels in `f64`, for logits that are so flat at the temperature that the
//! difference of the two probabilities would be rounding noise. The careful way is for logits whose spread, or temperatures
//! whose inverse, leave the range of the number types.

use crate::Float;
use crate::kernels::{Extent, Level, flat};

/// A spread of the softened logits below which differences of probabilities lose digits.
const FLAT: f64 = 0.25;

/// What a row adds to the loss, without weights.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct RowValue {
    /// $\sum p \ln(p/q)$ at the temperature.
    pub(super) divergence: f64,
    /// $-\sum p \ln p$ at the temperature.
    pub(super) entropy: f64,
    /// $-\ln q_{label}$ at temperature 1; zero without a label.
    pub(super) hard: f64,
}

/// The weights of the parts of a row in its gradient.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowWeights {
    pub(super) temperature: f64,
    /// The weight of $q - p$: αT over the size of the batch.
    pub(super) soft: f64,
    /// The weight of $\mathrm{softmax}(z) - \mathrm{onehot}$.
    pub(super) hard: f64,
}

/// Buffers of a row's length, used for all rows.
#[derive(Debug)]
pub(super) struct Scratch<F> {
    teacher: Vec<F>,
    plain: Vec<F>,
    /// The exponents of student and teacher, and exp − 1 of them. Empty until a row is flat.
    flat: [Vec<f64>; 4],
}

impl<F: Float> Scratch<F> {
    pub(super) fn new(classes: usize) -> Self {
        Self {
            teacher: vec![F::zero(); classes],
            plain: vec![F::zero(); classes],
            flat: Default::default(),
        }
    }
}

/// Returns the scale 1/T if the quick way can be used.
pub(super) fn quick_scale<F: Float>(temperature: f64, extents: &[Extent<F>]) -> Option<F> {
    let scale = F::from_f64_lossy(temperature.recip());
    let spread = extents
        .iter()
        .fold(F::zero(), |spread, e| spread.max(e.max - e.min));
    (scale.is_normal() && spread.is_finite() && (spread * scale).as_f64() >= FLAT).then_some(scale)
}

/// Returns the scale 1/T if the flat way can be used.
fn flat_scale<F: Float>(temperature: f64, extents: &[Extent<F>]) -> Option<f64> {
    let scale = temperature.recip();
    let spread = extents.iter().fold(0.0_f64, |spread, e| {
        spread.max(e.max.as_f64() - e.min.as_f64())
    });
    (scale.is_normal() && spread * scale < FLAT).then_some(scale)
}

/// Returns the value of one row and overwrites `gradient`. The rows are finite and of one length.
pub(super) fn loss<F: Float>(
    level: Level,
    student: (&[F], Extent<F>),
    teacher: (&[F], Extent<F>),
    label: Option<usize>,
    weights: &RowWeights,
    gradient: &mut [F],
    scratch: &mut Scratch<F>,
) -> RowValue {
    let quick = quick_scale(weights.temperature, &[student.1, teacher.1]);
    let factors = [weights.soft, weights.hard].map(F::from_f64_lossy);
    match quick {
        Some(scale) if factors.iter().all(|factor| factor.is_finite()) => quick_loss(
            level, student, teacher, label, scale, factors, gradient, scratch,
        ),
        _ => match flat_scale(weights.temperature, &[student.1, teacher.1]) {
            Some(scale) => flat_loss(
                level, student, teacher, label, scale, weights, gradient, scratch,
            ),
            None => careful_loss(student.0, teacher.0, label, weights, gradient),
        },
    }
}

/// Uses a = exp(z) − 1 and b = exp(v) − 1, which are small and keep their digits:
/// q − p = a/Σexp(z) − b/Σexp(v) + (Σb − Σa)/(Σexp(z) · Σexp(v)).
#[allow(clippy::too_many_arguments)]
fn flat_loss<F: Float>(
    level: Level,
    (student, student_extent): (&[F], Extent<F>),
    (teacher, teacher_extent): (&[F], Extent<F>),
    label: Option<usize>,
    scale: f64,
    weights: &RowWeights,
    gradient: &mut [F],
    scratch: &mut Scratch<F>,
) -> RowValue {
    let classes = student.len();
    let [z, a, v, b] = &mut scratch.flat;
    for buffer in [&mut *z, &mut *a, &mut *v, &mut *b] {
        buffer.resize(classes, 0.0);
    }
    let sum_a = flat::exp_m1_shifted(level, student, (student_extent.max, scale), z, a);
    let sum_b = flat::exp_m1_shifted(level, teacher, (teacher_extent.max, scale), v, b);
    let (sum_q, sum_p) = (classes as f64 + sum_a, classes as f64 + sum_b);
    let (depth, gap) = flat::weighted_gaps(level, b, v, z);
    let mut value = RowValue {
        // Rounding may leave a value just below zero.
        divergence: (gap / sum_p + ((sum_a - sum_b) / sum_p).ln_1p()).max(0.0),
        entropy: (sum_p.ln() - depth / sum_p).max(0.0),
        hard: 0.0,
    };
    let soft = weights.soft / sum_q;
    let difference = (sum_b - sum_a) / sum_p;
    let mut factors = [soft, -(weights.soft / sum_p), soft * difference, 0.0];
    if let Some(label) = label {
        let top = student_extent.max;
        let sum = F::exp_shifted(level, student, top, F::one(), &mut scratch.plain).as_f64();
        value.hard = sum.ln() + (top.as_f64() - student[label].as_f64());
        factors[3] = weights.hard / sum;
    }
    flat::combine(level, a, b, &scratch.plain, factors, gradient);
    if let Some(label) = label {
        gradient[label] -= F::from_f64_lossy(weights.hard);
    }
    value
}

#[allow(clippy::too_many_arguments)]
fn quick_loss<F: Float>(
    level: Level,
    (student, z): (&[F], Extent<F>),
    (teacher, v): (&[F], Extent<F>),
    label: Option<usize>,
    scale: F,
    [soft, hard]: [F; 2],
    gradient: &mut [F],
    scratch: &mut Scratch<F>,
) -> RowValue {
    let sum_q = F::exp_shifted(level, student, z.max, scale, gradient);
    let sum_p = F::exp_shifted(level, teacher, v.max, scale, &mut scratch.teacher);
    let (depth, gap) =
        F::weighted_gaps(level, &scratch.teacher, (teacher, v.max), (student, z.max));
    let (depth, gap) = (
        (depth / sum_p * scale).as_f64(),
        (gap / sum_p * scale).as_f64(),
    );
    let (ln_q, ln_p) = (sum_q.as_f64().ln(), sum_p.as_f64().ln());
    let mut value = RowValue {
        // Rounding may leave a value just below zero.
        divergence: (gap + (ln_q - ln_p)).max(0.0),
        entropy: (ln_p - depth).max(0.0),
        hard: 0.0,
    };
    let (mut soft_q, mut plain) = (soft / sum_q, F::zero());
    if let Some(label) = label {
        let sum = if scale == F::one() {
            soft_q += hard / sum_q;
            sum_q
        } else {
            let sum = F::exp_shifted(level, student, z.max, F::one(), &mut scratch.plain);
            plain = hard / sum;
            sum
        };
        value.hard = sum.as_f64().ln() + (z.max - student[label]).as_f64();
    }
    let factors = [soft_q, -(soft / sum_p), plain];
    F::combine(level, gradient, &scratch.teacher, &scratch.plain, factors);
    if let Some(label) = label {
        gradient[label] -= hard;
    }
    value
}

/// Returns $(x_i - \max x)/T$ without an intermediate value out of range.
pub(super) fn careful_exponents<F: Float>(values: &[F], temperature: f64) -> Vec<f64> {
    // Halves, so that the difference of the largest and the smallest number is finite.
    let half = |x: &F| x.as_f64() / 2.0;
    let top = values.iter().map(half).fold(f64::MIN, f64::max);
    values
        .iter()
        .map(|x| (half(x) - top) / temperature * 2.0)
        .collect()
}

/// The quick way in `f64`. The result is not finite where it leaves the range of the type.
fn careful_loss<F: Float>(
    student: &[F],
    teacher: &[F],
    label: Option<usize>,
    weights: &RowWeights,
    gradient: &mut [F],
) -> RowValue {
    let z = careful_exponents(student, weights.temperature);
    let v = careful_exponents(teacher, weights.temperature);
    let classes = student.len() as f64;
    let flat = z.iter().chain(&v).all(|&x| x > -FLAT);
    // In the flat case, a = exp(z) − 1 and b = exp(v) − 1 are small and keep their digits: q − p = (n (a − b) + (Σb − Σa) + a Σb − b Σa) / (Σexp(z) · Σexp(v)).
    let less_one = |x: &f64| if flat { x.exp_m1() } else { x.exp() };
    let a: Vec<f64> = z.iter().map(less_one).collect();
    let b: Vec<f64> = v.iter().map(less_one).collect();
    let (sum_a, sum_b): (f64, f64) = (a.iter().sum(), b.iter().sum());
    let ones = if flat { classes } else { 0.0 };
    let (sum_q, sum_p) = (ones + sum_a, ones + sum_b);
    let one = if flat { 1.0 } else { 0.0 };
    let (mut depth, mut gap) = (0.0, 0.0);
    for ((v, z), b) in v.iter().zip(&z).zip(&b) {
        let p = (one + b) / sum_p;
        // p ln p is 0 for p = 0, even where v is infinite.
        if p > 0.0 {
            depth += p * v;
            gap += p * (v - z);
        }
    }
    let ln_ratio = if flat {
        ((sum_a - sum_b) / sum_p).ln_1p()
    } else {
        sum_q.ln() - sum_p.ln()
    };
    let mut value = RowValue {
        divergence: (gap + ln_ratio).max(0.0),
        entropy: (sum_p.ln() - depth).max(0.0),
        hard: 0.0,
    };
    let mut slope: Vec<f64> = a
        .iter()
        .zip(&b)
        .map(|(a, b)| {
            let difference = if flat {
                (classes * (a - b) + (sum_b - sum_a) + a * sum_b - b * sum_a) / (sum_q * sum_p)
            } else {
                a / sum_q - b / sum_p
            };
            weights.soft * difference
        })
        .collect();
    if let Some(label) = label {
        let plain = careful_exponents(student, 1.0);
        let sum: f64 = plain.iter().map(|x| x.exp()).sum();
        value.hard = sum.ln() - plain[label];
        for (slope, x) in slope.iter_mut().zip(&plain) {
            *slope += weights.hard * (x.exp() / sum);
        }
        slope[label] -= weights.hard;
    }
    for (out, slope) in gradient.iter_mut().zip(slope) {
        *out = F::from_f64_lossy(slope);
    }
    if gradient.iter().any(|x| !x.is_finite()) {
        value.divergence = f64::INFINITY;
    }
    value
}
