//! The gradient of the kept weights.

use ndarray::{Array1, ArrayView1, ArrayViewD};

use super::SparseMatrix;
use crate::trainable::{check_dense, check_parameters};
use crate::{Compressed, Float, Result, Trainable};

impl<F: Float> Trainable<F> for SparseMatrix<F> {
    /// Returns the stored weights, row by row. A weight that is set to zero stays stored.
    fn parameters(&self) -> Array1<F> {
        self.values().iter().copied().collect()
    }

    fn set_parameters(&mut self, parameters: ArrayView1<'_, F>) -> Result<()> {
        check_parameters(self.nonzeros(), &parameters)?;
        let precision = self.precision();
        let values = parameters
            .iter()
            .map(|&value| precision.round("a weight", value));
        let values = values.collect::<Result<_>>()?;
        self.replace_values(values);
        Ok(())
    }

    /// Returns the entries of the dense gradient at the stored positions.
    fn gradient(&self, dense: ArrayViewD<'_, F>) -> Result<Array1<F>> {
        check_dense(self.shape(), &dense)?;
        let mut gradient = Vec::with_capacity(self.nonzeros());
        let mut columns = Vec::new();
        for (i, row) in dense.rows().into_iter().enumerate() {
            self.row(i, &mut columns);
            gradient.extend(columns.iter().map(|&column| row[column as usize]));
        }
        Ok(gradient.into())
    }
}
