//! The gradient of the scales of signs.

use ndarray::{Array1, ArrayView1, ArrayViewD};

use super::{BinaryMatrix, Granularity};
use crate::trainable::{check_dense, check_parameters, gradient_of};
use crate::{Compressed, Float, Result, Trainable};

impl<F: Float> Trainable<F> for BinaryMatrix<F> {
    /// The scales: none, one, or one a row. Negative ones become zero when they are set.
    fn parameters(&self) -> Array1<F> {
        self.scales.iter().copied().collect()
    }

    fn set_parameters(&mut self, parameters: ArrayView1<'_, F>) -> Result<()> {
        check_parameters(self.scales.len(), &parameters)?;
        let scales = parameters.iter().map(|scale| {
            self.precision
                .round_factor("a scale", scale.as_f64().max(0.0))
        });
        self.scales = scales.collect::<Result<_>>()?;
        Ok(())
    }

    fn gradient(&self, dense: ArrayViewD<'_, F>) -> Result<Array1<F>> {
        check_dense(self.shape(), &dense)?;
        let rows = dense.rows().into_iter().enumerate().map(|(i, row)| {
            let terms = row.iter().zip(self.signs.row_values::<F>(i));
            terms.map(|(x, sign)| (*x * sign).as_f64()).sum::<f64>()
        });
        gradient_of(match self.scaling {
            None => Vec::new(),
            Some(Granularity::PerTensor) => vec![rows.sum()],
            Some(_) => rows.collect(),
        })
    }
}
