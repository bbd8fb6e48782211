//! One row of the loss: the softened probabilities of student and teacher, their gap, and the gradient.
//!
//! A row is computed in one of three ways, which its values and the temperature decide. The quick way uses kernels in the
//! number type of the logits. The flat way uses kernels in `f64`, for logits that are so flat at the temperature that the
//! difference of the two probabilities would be rounding noise. The way of [`softened`] is for logits whose spread, or
//! temperatures whose inverse, leave the range of the number types.

use super::loss::{RowValue, RowWeights};
use super::{Comparison, softened};
use crate::Float;
use crate::kernels::{Extent, Level, flat};

/// A spread of the softened logits below which differences of probabilities lose digits.
const FLAT: f64 = 0.25;

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
            None => {
                let comparison = Comparison::Hinton;
                softened::loss(comparison, student.0, teacher.0, label, weights, gradient)
            }
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
