//! The starts of a fit.

use ndarray::{Array2, ArrayView2, Axis, s};

use super::model::{Model, normalize_columns, random_factors};
use super::mttkrp::view;
use super::problem::{Problem, squared_norm};
use crate::{Float, Result, Seed, linalg};

/// The model to start with.
pub(super) struct Beginning<F: Float> {
    pub(super) model: Model<F>,
    /// The number of its start.
    pub(super) start: usize,
    /// Whether the observer stopped the fit.
    pub(super) stopped: bool,
}

/// The start of an alternating fit. The [module](crate::factorize::cp) has an example.
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(rename_all = "snake_case"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Start {
    /// The leading left singular vectors of each unfolding of the tensor (its higher-order singular value
    /// decomposition), followed by random columns if there are more terms than vectors.
    #[default]
    Hosvd,
    /// Standard normal entries.
    Random,
}

/// A basis of the leading left singular vectors of each unfolding, and the tensor in these coordinates.
///
/// A fit of the small tensor is a fit of the part of the large one in the span of the bases, at a much lower cost (Bro and
/// Andersson, "Improving the speed of multiway algorithms, part II: compression", 1998, doi:10.1016/S0169-7439(98)00011-2).
#[derive(Debug)]
pub(super) struct Compression<F: Float> {
    bases: Vec<Array2<F>>,
    pub(super) core: Problem<F>,
}

impl<F: Float> Compression<F> {
    pub(super) fn new(problem: &Problem<F>, terms: usize) -> Result<Self> {
        let bases: Vec<Array2<F>> = (0..problem.shape.len())
            .map(|mode| leading_vectors(&problem.values, &problem.shape, mode, terms))
            .collect::<Result<_>>()?;
        let mut shape = problem.shape.clone();
        let mut values = problem.values.clone();
        for (mode, basis) in bases.iter().enumerate() {
            values = multiply_mode(&values, &shape, mode, basis.t());
            shape[mode] = basis.ncols();
        }
        let squared_norm = squared_norm(&values);
        let core = Problem {
            shape,
            values,
            exponent: problem.exponent,
            squared_norm,
        };
        Ok(Self { bases, core })
    }

    /// Converts a model of the small tensor to one of the large tensor.
    pub(super) fn expand(&self, model: &Model<F>) -> Model<F> {
        let factors = self
            .bases
            .iter()
            .zip(&model.factors)
            .map(|(basis, factor)| {
                let factor = view(factor, basis.ncols(), model.terms);
                let product = linalg::product(basis.view(), factor);
                product.into_raw_vec_and_offset().0
            });
        Model::new(model.terms, factors.collect(), model.weights.clone())
    }

    /// The start with the number `restart`, in the coordinates of the small tensor.
    pub(super) fn start(&self, start: Start, restart: usize, terms: usize, seed: Seed) -> Model<F> {
        let shape = &self.core.shape;
        let mut factors = random_factors::<F>(shape, terms, seed.derive(restart as u64));
        if start == Start::Hosvd && restart == 0 {
            for (factor, &length) in factors.iter_mut().zip(shape) {
                for (i, row) in factor.chunks_exact_mut(terms).enumerate() {
                    for (r, value) in row.iter_mut().enumerate().take(length) {
                        *value = if i == r { F::one() } else { F::zero() };
                    }
                }
            }
        }
        for factor in &mut factors {
            normalize_columns(factor, terms);
        }
        Model::new(terms, factors, vec![1.0; terms])
    }
}

/// The leading left singular vectors of the unfolding along `mode`, at most `count`, as columns.
pub(in crate::factorize) fn leading_vectors<F: Float>(
    values: &[F],
    shape: &[usize],
    mode: usize,
    count: usize,
) -> Result<Array2<F>> {
    let (_, vectors) = unfolding_spectrum(values, shape, mode)?;
    let length = shape[mode];
    let kept = count.min(length);
    // Rising eigenvalues: the leading vectors are the last ones.
    let mut leading = vectors.slice(s![.., length - kept..]).to_owned();
    leading.invert_axis(Axis(1));
    Ok(leading.as_standard_layout().into_owned())
}

/// Eigenvalues (rising) and eigenvectors of the unfolding along `mode` times its transpose.
pub(in crate::factorize) fn unfolding_spectrum<F: Float>(
    values: &[F],
    shape: &[usize],
    mode: usize,
) -> Result<(ndarray::Array1<f64>, Array2<F>)> {
    let unfolding = unfold(values, shape, mode);
    let unfolding = view(&unfolding, shape[mode], values.len() / shape[mode]);
    let gram = linalg::gram(unfolding.t()).mapv(Float::as_f64);
    let (eigenvalues, vectors) = linalg::symmetric_eigen(gram.view())?;
    Ok((eigenvalues, vectors.mapv(F::from_f64_lossy)))
}

/// The unfolding along `mode`, (length of the mode, all others), row-major.
fn unfold<F: Float>(values: &[F], shape: &[usize], mode: usize) -> Vec<F> {
    let after: usize = shape[mode + 1..].iter().product();
    let length = shape[mode];
    let mut out = Vec::with_capacity(values.len());
    for i in 0..length {
        for slab in values.chunks_exact(length * after) {
            out.extend_from_slice(&slab[i * after..(i + 1) * after]);
        }
    }
    out
}

/// The product of a tensor with `matrix` (new length, old length) along `mode`.
pub(in crate::factorize) fn multiply_mode<F: Float>(
    values: &[F],
    shape: &[usize],
    mode: usize,
    matrix: ArrayView2<'_, F>,
) -> Vec<F> {
    let length = shape[mode];
    let after: usize = shape[mode + 1..].iter().product();
    if after == 1 {
        let rows = view(values, values.len() / length, length);
        let product = linalg::product(rows, matrix.t());
        return product.into_raw_vec_and_offset().0;
    }
    let unfolding = unfold(values, shape, mode);
    let columns = values.len() / length;
    let product = linalg::product(matrix, view(&unfolding, length, columns));
    // Back from (new length, before, after) to (before, new length, after).
    let product = product.into_raw_vec_and_offset().0;
    let mut out = Vec::with_capacity(product.len());
    for before in 0..columns / after {
        for row in product.chunks_exact(columns) {
            out.extend_from_slice(&row[before * after..(before + 1) * after]);
        }
    }
    out
}
