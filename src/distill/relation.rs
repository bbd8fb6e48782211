//! Correlations of softened probabilities over a whole batch.

use ndarray::{Array2, ArrayView1, ArrayView2, ArrayViewMut1, Axis};

use super::batch::{self, Rows};
use super::softened::exponents;
use crate::Float;

/// A spread of the exponents below which probabilities are stored as their distance from 1/K, to keep its digits.
const FLAT: f64 = 0.25;

/// Returns the distance of [`Dist`](super::Comparison::Dist) and its gradient with respect to the exponents $z/T$. The logits are
/// finite and of one shape.
pub(super) fn distance<F: Float>(
    student: &ArrayView2<'_, F>,
    teacher: &ArrayView2<'_, F>,
    temperature: f64,
    [inter, intra]: [f64; 2],
) -> (f64, Array2<f64>) {
    let s = Softened::new(student, temperature);
    let t = Softened::new(teacher, temperature);
    let mut slopes = Array2::zeros(student.dim());
    let mut distance = 0.0;
    for (axis, weight) in [(Axis(0), inter), (Axis(1), intra)] {
        if weight == 0.0 {
            continue;
        }
        let share = weight / student.len_of(axis) as f64;
        let [of_student, of_teacher] = [&s, &t].map(|softened| softened.along(axis));
        let lanes = of_student.axis_iter(axis).zip(of_teacher.axis_iter(axis));
        for (mut slopes, (s, t)) in slopes.axis_iter_mut(axis).zip(lanes) {
            distance += share * uncorrelated(s, t, share, slopes.view_mut());
        }
    }
    // Through the softmax.
    for (mut slopes, q) in slopes.outer_iter_mut().zip(s.probabilities.outer_iter()) {
        let mean = slopes.dot(&q);
        slopes.zip_mut_with(&q, |slope, q| *slope = q * (*slope - mean));
    }
    (distance, slopes)
}

/// The softened probabilities of a batch, (samples, classes).
struct Softened {
    probabilities: Array2<f64>,
    /// The probabilities less 1/K, accurate for flat rows too.
    offsets: Array2<f64>,
    /// All rows are flat.
    flat: bool,
}

impl Softened {
    fn new<F: Float>(logits: &ArrayView2<'_, F>, temperature: f64) -> Self {
        let (samples, classes) = logits.dim();
        let rows = Rows::new(logits);
        // Probabilities and offsets of a sample side by side.
        let mut both = Array2::zeros((samples, 2 * classes));
        let flat = batch::map_rows(both.view_mut(), |first, out| {
            let mut buffer = Vec::new();
            let mut flat = true;
            for (i, out) in out.chunks_exact_mut(2 * classes).enumerate() {
                let x = exponents(rows.get(first + i, &mut buffer), temperature);
                let sum: f64 = x.iter().map(|x| x.exp()).sum();
                let less_one: f64 = x.iter().map(|x| x.exp_m1()).sum();
                let mean = less_one / classes as f64;
                let (probabilities, offsets) = out.split_at_mut(classes);
                for ((p, offset), x) in probabilities.iter_mut().zip(offsets).zip(&x) {
                    *p = x.exp() / sum;
                    *offset = (x.exp_m1() - mean) / sum;
                }
                flat &= x.iter().all(|&x| x > -FLAT);
            }
            flat
        });
        let (probabilities, offsets) = both.view().split_at(Axis(1), classes);
        Self {
            probabilities: probabilities.to_owned(),
            offsets: offsets.to_owned(),
            flat: flat.into_iter().all(|flat| flat),
        }
    }

    /// Returns the values whose lanes of `axis` are correlated: samples for axis 0, classes for axis 1.
    fn along(&self, axis: Axis) -> &Array2<f64> {
        // A small probability keeps its digits as it is, a difference from 1/K as an offset.
        if axis == Axis(0) || self.flat {
            &self.offsets
        } else {
            &self.probabilities
        }
    }
}

/// Returns 1 − ρ of two lanes, and adds `share` times its gradient with respect to `student` to `slopes`.
fn uncorrelated(
    student: ArrayView1<'_, f64>,
    teacher: ArrayView1<'_, f64>,
    share: f64,
    slopes: ArrayViewMut1<'_, f64>,
) -> f64 {
    let Some((t, _)) = unit(teacher) else {
        return 0.0; // Nothing to compare.
    };
    let Some((s, length)) = unit(student) else {
        return 1.0;
    };
    // For vectors of length 1, 1 − ρ is half the square of their distance, and the derivative ρs − t is s − t − (1 − ρ)s.
    let value = s
        .iter()
        .zip(&t)
        .map(|(s, t)| (s - t) * (s - t))
        .sum::<f64>()
        / 2.0;
    for ((slope, s), t) in slopes.into_iter().zip(&s).zip(&t) {
        *slope += share * (s - t - value * s) / length;
    }
    value
}

/// Returns the values less their mean, scaled to length 1, and their length; `None` if they are equal.
fn unit(values: ArrayView1<'_, f64>) -> Option<(Vec<f64>, f64)> {
    // Equal values become zeros, without rounding.
    let first = values[0];
    let mut values: Vec<f64> = values.iter().map(|x| x - first).collect();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    for x in &mut values {
        *x -= mean;
    }
    let largest = values
        .iter()
        .fold(0.0_f64, |largest, x| largest.max(x.abs()));
    if largest < f64::MIN_POSITIVE {
        return None;
    }
    // The squares of fractions of the largest stay in range.
    let length = values
        .iter()
        .map(|x| (x / largest).powi(2))
        .sum::<f64>()
        .sqrt()
        * largest;
    for x in &mut values {
        *x /= length;
    }
    Some((values, length))
}
