//! The gradient of the factors of a CP decomposition.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, ArrayViewD, Axis};

use super::{CpTensor, mttkrp};
use crate::trainable::{check_dense, check_parameters, finite_gradient};
use crate::{Compressed, Float, Result, Trainable};

impl<F: Float> Trainable<F> for CpTensor<F> {
    /// The weights of the terms, then each factor in row-major order.
    fn parameters(&self) -> Array1<F> {
        let factors = self.factors().iter().flatten();
        self.weights().iter().chain(factors).copied().collect()
    }

    fn set_parameters(&mut self, parameters: ArrayView1<'_, F>) -> Result<()> {
        let factors: usize = self.factors().iter().map(Array2::len).sum();
        check_parameters(self.rank() + factors, &parameters)?;
        let mut values = parameters.iter().copied();
        let mut next = || values.next().expect("the number of parameters was checked");
        let weights = Array1::from_shape_simple_fn(self.rank(), &mut next);
        let factors = self
            .factors()
            .iter()
            .map(|factor| Array2::from_shape_simple_fn(factor.raw_dim(), &mut next))
            .collect();
        *self = Self::from_parts(weights, factors, self.precision())?;
        Ok(())
    }

    /// The gradient of a factor is the matricized gradient times the Khatri–Rao product of the others (MTTKRP), times the
    /// weights.
    fn gradient(&self, dense: ArrayViewD<'_, F>) -> Result<Array1<F>> {
        check_dense(self.shape(), &dense)?;
        let factors: Vec<ArrayView2<'_, F>> =
            self.factors().iter().map(|array| array.view()).collect();
        let mut gradient = Vec::new();
        for (mode, factor) in factors.iter().enumerate() {
            let product = mttkrp(dense.view(), &factors, mode)?;
            if mode == 0 {
                gradient.extend((&product * factor).sum_axis(Axis(0)));
            }
            gradient.extend(product * self.weights());
        }
        finite_gradient(gradient.into())
    }
}
