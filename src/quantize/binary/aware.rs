//! Signs and scales for the least error of the outputs.

use ndarray::{Array2, ArrayView2};

use super::scaling::of_row;
use super::straight_through::sign;
use crate::feedback::Feedback;
use crate::quantize::granularity::Granularity;
use crate::{Error, Float, InputMoments, Precision, Result, linalg, power};

/// Rounds of signs and scales, each fitted to the other.
const ROUNDS: usize = 4;

/// The parameters of a fit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parameters {
    pub(super) scaling: Option<Granularity>,
    pub(super) precision: Precision,
    pub(super) damping: f64,
}

/// Signs and scales.
#[derive(Debug, Clone)]
pub(super) struct Fit<F> {
    /// ±1, (out_features, in_features).
    pub(super) signs: Array2<F>,
    pub(super) scales: Vec<F>,
}

/// The signs and scales of least output error: of the signs of `weights` with the scales `plain`, and of the rounds after them.
pub(super) fn fit<F: Float>(
    parameters: Parameters,
    weights: ArrayView2<'_, F>,
    inputs: &InputMoments,
    plain: Vec<F>,
) -> Result<Fit<F>> {
    let moments = inputs.normalized()?.0.matrix()?;
    // The rounding of a product depends on the order in memory: here it is always the same.
    let weights = weights.as_standard_layout();
    // In units in which no square overflows or vanishes. Without scales, all values are ±1 in the units of the weights.
    let exponent = match parameters.scaling {
        None => 0,
        Some(_) => power::largest_exponent(&weights.view()),
    };
    let weights = power::scaled(&weights.view(), -exponent);
    let weights = weights.view();
    let in_units = |scales: Vec<F>, exponent| -> Vec<F> {
        let scales = scales.into_iter();
        scales.map(|scale| power::times(scale, exponent)).collect()
    };
    let exact = weights.mapv(Float::as_f64);
    let images = linalg::product(exact.view(), moments.view());
    let squares = row_products(&exact, &images);
    let feedback = Feedback::new(inputs, parameters.damping)?;
    let mut best = Fit {
        signs: weights.mapv(sign),
        scales: in_units(plain, -exponent),
    };
    let rows = Rows {
        scaling: parameters.scaling,
        images,
        squares,
        moments,
    };
    let mut least = rows.errors(&best).0;
    let round = |scale: f64| {
        let scale = power::times(scale.max(0.0), exponent);
        let rounded: F = parameters.precision.round_factor("a scale", scale)?;
        Ok(power::times(rounded, -exponent))
    };
    let mut scales = best.scales.clone();
    for _ in 0..ROUNDS {
        let rounded = feedback.run(weights, |i, _, target| {
            // Where a scale is zero the signs do not matter.
            sign(target) * of_row(parameters.scaling, &scales, i)
        });
        let mut next = Fit {
            signs: rounded.mapv(sign),
            scales: scales.clone(),
        };
        let fitted = rows.errors(&next).1;
        let fitted = fitted.into_iter().zip(&scales);
        let fitted = fitted.map(|(scale, &before)| match round(scale) {
            // Too small for the precision: the row keeps its previous scale.
            Err(Error::Underflow { .. }) => Ok(before),
            rounded => rounded,
        });
        next.scales = fitted.collect::<Result<_>>()?;
        let errors = rows.errors(&next).0;
        rows.keep_better(&mut best, &mut least, &next, &errors);
        if next.scales == scales {
            break;
        }
        scales = next.scales;
    }
    best.scales = in_units(best.scales, exponent);
    Ok(best)
}

/// The values from which the errors of rows are computed.
struct Rows {
    scaling: Option<Granularity>,
    /// W M.
    images: Array2<f64>,
    /// The diagonal of W M Wᵀ.
    squares: Vec<f64>,
    moments: Array2<f64>,
}

impl Rows {
    /// The output error of each row, and the scales of least error for these signs.
    fn errors<F: Float>(&self, fit: &Fit<F>) -> (Vec<f64>, Vec<f64>) {
        let signs = fit.signs.mapv(Float::as_f64);
        let products = linalg::product(signs.view(), self.moments.view());
        let own = row_products(&signs, &products);
        let with_weights = row_products(&signs, &self.images);
        let errors = (0..own.len())
            .map(|i| {
                let scale = of_row(self.scaling, &fit.scales, i).as_f64();
                (self.squares[i] - 2.0 * scale * with_weights[i]) + scale * scale * own[i]
            })
            .collect();
        let ratio = |a: f64, b: f64| if b > 0.0 { a / b } else { 0.0 };
        let scales = match self.scaling {
            None => Vec::new(),
            Some(Granularity::PerTensor) => {
                vec![ratio(with_weights.iter().sum(), own.iter().sum())]
            }
            Some(_) => with_weights
                .iter()
                .zip(&own)
                .map(|(&a, &b)| ratio(a, b))
                .collect(),
        };
        (errors, scales)
    }

    /// Copies the rows of `next` whose error is smaller to `best`: row by row, or all if they share a scale.
    fn keep_better<F: Float>(
        &self,
        best: &mut Fit<F>,
        least: &mut Vec<f64>,
        next: &Fit<F>,
        errors: &[f64],
    ) {
        if self.scaling == Some(Granularity::PerTensor) {
            if errors.iter().sum::<f64>() < least.iter().sum() {
                *best = next.clone();
                *least = errors.to_vec();
            }
            return;
        }
        for i in 0..errors.len() {
            if errors[i] < least[i] {
                least[i] = errors[i];
                best.signs.row_mut(i).assign(&next.signs.row(i));
                if self.scaling == Some(Granularity::PerRow) {
                    best.scales[i] = next.scales[i];
                }
            }
        }
    }
}

/// The diagonal of A Bᵀ.
fn row_products(a: &Array2<f64>, b: &Array2<f64>) -> Vec<f64> {
    let rows = a.rows().into_iter().zip(b.rows());
    rows.map(|(a, b)| a.dot(&b)).collect()
}
