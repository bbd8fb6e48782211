//! A correction for terms that grow while they cancel each other.
//!
//! If the best approximation of rank R does not exist, or is far away, the terms of an alternating fit keep growing while
//! their sum stays small. The error-preserving correction searches the model with the smallest Σ ‖term‖² among those with no
//! larger error (Phan, Tichavský and Cichocki, "Error preserving correction: a
//! method for CP decomposition at a target error bound", IEEE TSP 2019, arXiv:1709.08349; for networks, Phan et
//! al., "Stable low-rank tensor decomposition for compression of convolutional neural network", ECCV 2020,
//! arXiv:2008.05441).
//!
//! With unit columns in all factors but A, Σ ‖term‖² is ‖A‖², and the problem for A has a closed form: with M
//! the MTTKRP and G the product of the other Gram matrices, A = M (G + μ I)⁻¹, where μ ≥ 0 is the largest
//! number whose squared error ‖W‖² − Σ_j c_j² (λ_j + 2μ) / (λ_j + μ)² (λ the eigenvalues of G, c_j² the squared
//! column norms of M in its eigenvectors) is within the bound.

use super::model::{Model, gram, normalize_columns};
use super::mttkrp::{Walk, view};
use super::problem::Problem;
use crate::{Float, Result, linalg};

/// When and how far an ALS fit reduces terms that cancel each other.
///
/// If the norm of the terms exceeds the bound after a sweep of ALS, a sweep of the correction follows. It lowers the norm, and may
/// raise the loss up to that before the sweep of ALS.
///
/// ```
/// use taper::factorize::{Rank, cp::{CpAls, NormBound}};
///
/// let bound = NormBound { ratio: 2.0, ..NormBound::default() };
/// assert!(CpAls::new(Rank::Fixed(3)).norm_bound(bound).validate().is_ok());
/// ```
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(default, deny_unknown_fields))]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormBound {
    /// The bound: the correction runs while √(Σ ‖term‖²) is larger than this multiple of ‖W‖. At least 1.
    pub ratio: f64,
    /// The largest number of sweeps of the correction; 0 turns it off.
    pub sweeps: usize,
    /// The fraction by which the relative error ‖W − Ŵ‖ / ‖W‖ may exceed the lowest so far. With zero, losses never rise; with
    /// more, the norm falls further.
    pub slack: f64,
}

impl NormBound {
    /// No correction.
    pub const OFF: Self = Self {
        ratio: 4.0,
        sweeps: 0,
        slack: 0.0,
    };
}

impl Default for NormBound {
    /// A bound of four times ‖W‖, 50 sweeps, no slack.
    fn default() -> Self {
        Self {
            ratio: 4.0,
            sweeps: 50,
            slack: 0.0,
        }
    }
}

/// √(Σ ‖term‖²) divided by the norm of the tensor.
pub(super) fn norm_ratio<F: Float>(problem: &Problem<F>, model: &Model<F>) -> f64 {
    let squares: f64 = model.term_norms().iter().map(|norm| norm * norm).sum();
    (squares / problem.squared_norm).sqrt()
}

/// Makes one sweep over the factors that lowers Σ ‖term‖² as far as the squared error stays at most `bound`.
pub(super) fn sweep<F: Float>(
    problem: &Problem<F>,
    walk: &Walk,
    model: &mut Model<F>,
    bound: f64,
) -> Result<()> {
    let mut factors = std::mem::take(&mut model.factors);
    let result = walk.sweep(
        &problem.values,
        &mut factors,
        &mut |mode, product, factors| {
            let terms = model.terms;
            let product: Vec<f64> = product.iter().map(|x| x.as_f64()).collect();
            let product = view(&product, product.len() / terms, terms);
            let others = model.gram_without(mode);
            let (eigenvalues, vectors) = linalg::symmetric_eigen(view(&others, terms, terms))?;
            let mut rotated = linalg::product(product, vectors.view());
            let squares: Vec<f64> = rotated
                .columns()
                .into_iter()
                .map(|column| column.iter().map(|x| x * x).sum())
                .collect();
            // Eigenvalues of the size of rounding errors are noise: a floor keeps their columns small.
            let floor = F::epsilon().as_f64() * eigenvalues.iter().fold(0.0, |max, &x| x.max(max));
            let eigenvalues: Vec<f64> = eigenvalues.iter().map(|&x| x.max(floor)).collect();
            let Some(shift) = largest_shift(problem.squared_norm, &eigenvalues, &squares, bound)
            else {
                return Ok(());
            };
            for mut row in rotated.rows_mut() {
                for (value, eigenvalue) in row.iter_mut().zip(&eigenvalues) {
                    *value /= eigenvalue + shift;
                }
            }
            let solved = linalg::product(rotated.view(), vectors.t());
            let mut factor: Vec<F> = solved.iter().map(|&x| F::from_f64_lossy(x)).collect();
            model.weights = normalize_columns(&mut factor, terms);
            model.grams[mode] = gram(&factor, terms);
            factors[mode] = factor;
            Ok(())
        },
    );
    model.factors = factors;
    result
}

/// The largest μ whose squared error is at most `bound`; `None` if the error of μ = 0 is larger.
fn largest_shift(
    squared_norm: f64,
    eigenvalues: &[f64],
    squares: &[f64],
    bound: f64,
) -> Option<f64> {
    let error = |shift: f64| {
        let explained = eigenvalues
            .iter()
            .zip(squares)
            .map(|(&eigenvalue, &square)| {
                let sum = eigenvalue + shift;
                if sum > 0.0 {
                    square * (eigenvalue + 2.0 * shift) / (sum * sum)
                } else {
                    0.0
                }
            });
        squared_norm - explained.sum::<f64>()
    };
    if error(0.0) > bound {
        return None;
    }
    let largest = eigenvalues
        .iter()
        .fold(f64::MIN_POSITIVE, |max, &x| x.max(max));
    let (mut low, mut high) = (0.0, largest);
    let mut doublings = 0;
    while error(high) <= bound && doublings < 64 {
        low = high;
        high *= 2.0;
        doublings += 1;
    }
    for _ in 0..80 {
        let middle = 0.5 * (low + high);
        if error(middle) <= bound {
            low = middle;
        } else {
            high = middle;
        }
    }
    Some(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shift_reaches_the_bound() {
        let (eigenvalues, squares) = ([0.5, 1.0, 2.5], [0.1, 0.4, 1.5]);
        let best: f64 = 2.0
            - squares
                .iter()
                .zip(eigenvalues)
                .map(|(c, l)| c / l)
                .sum::<f64>();
        let shift = largest_shift(2.0, &eigenvalues, &squares, best + 0.1).unwrap();
        let explained = eigenvalues
            .iter()
            .zip(squares)
            .map(|(&l, c)| c * (l + 2.0 * shift) / (l + shift).powi(2));
        let error = 2.0 - explained.sum::<f64>();
        // Sums of three terms of at most 2, each with four roundings.
        let rounding = 2.0 * 3.0 * 4.0 * 2.0 * f64::EPSILON;
        assert!((error - best - 0.1).abs() <= rounding, "{error} of {best}");
        assert_eq!(largest_shift(2.0, &eigenvalues, &squares, best - 0.1), None);
    }
}
