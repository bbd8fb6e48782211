//! The state of a fit: factors, weights, and the products of the factors with themselves.

use ndarray::Array2;
use rand::Rng;
use rand_distr::StandardNormal;

use super::mttkrp::{view, view_mut};
use super::problem::Problem;
use crate::linalg::{self, Cholesky};
use crate::{Error, Float, Result, Seed};

/// A sum of rank-one terms while it is fitted. Factors are row-major, (length of the axis, terms).
#[derive(Debug, Clone)]
pub(super) struct Model<F> {
    pub(super) terms: usize,
    pub(super) factors: Vec<Vec<F>>,
    /// The weight of each term.
    pub(super) weights: Vec<f64>,
    /// AᵀA of each factor, in double precision. Their products are the matrices of the normal equations.
    pub(super) grams: Vec<Vec<f64>>,
}

impl<F: Float> Model<F> {
    pub(super) fn new(terms: usize, factors: Vec<Vec<F>>, weights: Vec<f64>) -> Self {
        let grams = factors.iter().map(|factor| gram(factor, terms)).collect();
        Self {
            terms,
            factors,
            weights,
            grams,
        }
    }

    /// The element-wise product of all Gram matrices but that of `mode`.
    pub(super) fn gram_without(&self, mode: usize) -> Vec<f64> {
        gram_without(&self.grams, mode, self.terms)
    }

    /// ‖Ŵ‖², the weights included.
    pub(super) fn squared_norm(&self) -> f64 {
        let all = self.gram_without(usize::MAX);
        let mut sum = 0.0;
        for (row, weight) in all.chunks_exact(self.terms).zip(&self.weights) {
            let inner: f64 = row.iter().zip(&self.weights).map(|(g, w)| g * w).sum();
            sum += weight * inner;
        }
        sum.max(0.0)
    }

    /// The norm of each term, with the weights.
    pub(super) fn term_norms(&self) -> Vec<f64> {
        let all = self.gram_without(usize::MAX);
        (0..self.terms)
            .map(|r| self.weights[r].abs() * all[r * self.terms + r].max(0.0).sqrt())
            .collect()
    }
}

pub(super) fn gram_without(grams: &[Vec<f64>], mode: usize, terms: usize) -> Vec<f64> {
    let mut product = vec![1.0; terms * terms];
    for (_, gram) in grams.iter().enumerate().filter(|&(m, _)| m != mode) {
        for (product, value) in product.iter_mut().zip(gram) {
            *product *= value;
        }
    }
    product
}

/// AᵀA.
pub(super) fn gram<F: Float>(factor: &[F], terms: usize) -> Vec<f64> {
    let values: Vec<f64> = factor.iter().map(|x| x.as_f64()).collect();
    let rows = values.len() / terms;
    let mut out = vec![0.0; terms * terms];
    let values = view(&values, rows, terms);
    linalg::product_into(values.t(), values, view_mut(&mut out, terms, terms));
    out
}

/// Scales each column to length one and returns the lengths. A column of zeros does not change.
pub(super) fn normalize_columns<F: Float>(factor: &mut [F], terms: usize) -> Vec<f64> {
    let lengths = column_norms(factor, terms);
    let inverse: Vec<f64> = lengths
        .iter()
        .map(|&length| if length > 0.0 { 1.0 / length } else { 1.0 })
        .collect();
    for row in factor.chunks_exact_mut(terms) {
        for (value, inverse) in row.iter_mut().zip(&inverse) {
            *value = F::from_f64_lossy(value.as_f64() * inverse);
        }
    }
    lengths
}

pub(super) fn column_norms<F: Float>(factor: &[F], terms: usize) -> Vec<f64> {
    let mut squares = vec![0.0; terms];
    for row in factor.chunks_exact(terms) {
        for (sum, value) in squares.iter_mut().zip(row) {
            let value = value.as_f64();
            *sum += value * value;
        }
    }
    squares.iter().map(|square| square.sqrt()).collect()
}

/// Σ a b, in double precision.
pub(super) fn inner_product<F: Float>(a: &[F], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a.as_f64() * b).sum()
}

/// Factors with independent standard normal entries.
pub(in crate::factorize) fn random_factors<F: Float>(
    shape: &[usize],
    terms: usize,
    seed: Seed,
) -> Vec<Vec<F>> {
    let mut factors = Vec::with_capacity(shape.len());
    for (mode, &length) in (0_u64..).zip(shape) {
        let mut rng = seed.derive(mode).rng();
        let normal = || F::from_f64_lossy(rng.sample::<f64, _>(StandardNormal));
        factors.push(
            std::iter::repeat_with(normal)
                .take(length * terms)
                .collect(),
        );
    }
    factors
}

/// The Cholesky factorization of `matrix` + `ridge` I, and the ridge that was used: it grows until the sum is positive definite.
///
/// # Errors
///
/// [`Error::Overflow`] if the matrix is not finite.
pub(super) fn factor_with_ridge(
    matrix: &[f64],
    terms: usize,
    ridge: f64,
) -> Result<(Cholesky<f64>, f64)> {
    let trace: f64 = matrix.iter().step_by(terms + 1).sum();
    let mut ridge = ridge;
    let mut matrix: Array2<f64> = view(matrix, terms, terms).to_owned();
    let diagonal = matrix.diag().to_owned();
    for _ in 0..12 {
        matrix.diag_mut().assign(&(&diagonal + ridge));
        if let Some(factored) = Cholesky::new(matrix.view()) {
            return Ok((factored, ridge));
        }
        ridge = (ridge * 100.0).max(f64::EPSILON * trace);
    }
    Err(Error::Overflow {
        what: "the product of the factors' Gram matrices",
    })
}

/// The loss of a fit to `problem`: the squared error divided by the squared norm.
pub(super) fn relative_loss<F: Float>(problem: &Problem<F>, squared_error: f64) -> f64 {
    squared_error.max(0.0) / problem.squared_norm
}
