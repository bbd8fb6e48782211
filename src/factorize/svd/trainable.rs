//! The gradient of the factors of a low-rank matrix.

use ndarray::{Array1, Array2, ArrayView1, ArrayViewD, Axis};

use super::LowRankMatrix;
use crate::trainable::{check_matrix, check_parameters, finite_gradient};
use crate::{Compressed, Error, Float, Result, Trainable, linalg};

impl<F: Float> Trainable<F> for LowRankMatrix<F> {
    /// L in row-major order, the singular values if they are stored apart, then R. Setting a negative singular value sets
    /// zero.
    fn parameters(&self) -> Array1<F> {
        let apart = self.singular_values().into_iter().flatten();
        let (left, right) = (self.left(), self.right());
        left.iter()
            .chain(apart)
            .chain(right.iter())
            .copied()
            .collect()
    }

    fn set_parameters(&mut self, parameters: ArrayView1<'_, F>) -> Result<()> {
        let (m, rank) = self.left().dim();
        let n = self.right().ncols();
        let apart = self.singular_values().map_or(0, |s| s.len());
        check_parameters(m * rank + apart + rank * n, &parameters)?;
        let precision = self.precision();
        let mut values = parameters.iter().copied();
        let mut next = || values.next().expect("the number of parameters was checked");
        let mut rounded = |what, shape, least: F| {
            let mut factor = Array2::from_shape_simple_fn(shape, &mut next);
            for value in &mut factor {
                *value = precision.round(what, value.max(least))?;
            }
            Ok::<_, Error>(factor)
        };
        let lowest = F::neg_infinity();
        let left = rounded("the left factor", (m, rank), lowest)?;
        let singular_values = rounded("a singular value", (1, apart), F::zero())?;
        let right = rounded("the right factor", (rank, n), lowest)?;
        let singular_values = (apart > 0).then(|| singular_values.row(0).to_owned());
        *self = Self::from_parts(left, singular_values, right, precision)?;
        Ok(())
    }

    /// G Rᵀ diag(s), diag(Lᵀ G Rᵀ) and diag(s) Lᵀ G.
    fn gradient(&self, dense: ArrayViewD<'_, F>) -> Result<Array1<F>> {
        let dense = check_matrix(self.shape(), dense)?;
        let mut left = linalg::product(dense, self.right().t());
        let mut right = linalg::product(self.left().t(), dense);
        let mut apart = Array1::zeros(0);
        if let Some(s) = self.singular_values() {
            apart = (&left * &self.left()).sum_axis(Axis(0));
            left *= &s;
            right *= &s.insert_axis(Axis(1));
        }
        let all = left.iter().chain(&apart).chain(&right);
        finite_gradient(all.copied().collect())
    }
}
