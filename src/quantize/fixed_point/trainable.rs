//! The gradient of scales.

use ndarray::{Array1, ArrayView1, ArrayViewD};

use super::Granularity;
use super::grid::Grid;
use super::matrix::FixedPointMatrix;
use crate::trainable::{check_dense, check_parameters, gradient_of};
use crate::{Compressed, Float, Result, Trainable};

impl<F: Float> Trainable<F> for FixedPointMatrix<F> {
    /// The scales, one or one for each row. Negative scales become zero when they are set. Zero points stay.
    ///
    /// This is the learned step size of a finished model (S. Esser et al., "Learned step size quantization", 2019,
    /// arXiv:1902.08153) with fixed codes.
    fn parameters(&self) -> Array1<F> {
        self.scales().into()
    }

    fn set_parameters(&mut self, parameters: ArrayView1<'_, F>) -> Result<()> {
        check_parameters(self.grids.len(), &parameters)?;
        let grids = self.grids.iter().zip(parameters).map(|(grid, scale)| {
            let scale = scale.as_f64().max(0.0);
            let scale: F = self.precision.round_factor("a scale", scale)?;
            Ok(Grid {
                scale: scale.as_f64(),
                ..*grid
            })
        });
        self.grids = grids.collect::<Result<_>>()?;
        Ok(())
    }

    /// ∂Ŵ/∂scale is q − z.
    fn gradient(&self, dense: ArrayViewD<'_, F>) -> Result<Array1<F>> {
        check_dense(self.shape(), &dense)?;
        let mut stored = vec![0; self.shape[1]];
        let mut scales = Vec::new();
        for (i, row) in dense.rows().into_iter().enumerate() {
            self.packed.unpack_into(i * self.shape[1], &mut stored);
            let zero = self.grid(i).zero;
            let terms = row.iter().zip(&stored);
            let terms = terms.map(|(x, &q)| x.as_f64() * f64::from(self.code(q) - zero));
            scales.push(terms.sum::<f64>());
        }
        gradient_of(match self.granularity {
            Granularity::PerTensor => vec![scales.iter().sum()],
            Granularity::PerRow => scales,
        })
    }
}
