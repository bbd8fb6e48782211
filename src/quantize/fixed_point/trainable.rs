//! The gradient of scales.

use ndarray::{Array1, ArrayView1, ArrayViewD};

use super::Granularity;
use super::grid::Symmetry;
use super::matrix::FixedPointMatrix;
use crate::trainable::{check_dense, check_parameters, gradient_of};
use crate::{Compressed, Float, Result, Trainable};

impl<F: Float> Trainable<F> for FixedPointMatrix<F> {
    /// The scales: one, one for each row, or one for each block. Negative scales become zero when they are set, unless the grid
    /// has signed scales. Zero points stay.
    ///
    /// This is the learned step size of a finished model (S. Esser et al., "Learned step size quantization", 2019,
    /// arXiv:1902.08153) with fixed codes.
    fn parameters(&self) -> Array1<F> {
        self.scales.clone().into()
    }

    fn set_parameters(&mut self, parameters: ArrayView1<'_, F>) -> Result<()> {
        check_parameters(self.scales.len(), &parameters)?;
        let scales = parameters.iter().map(|scale| {
            let scale = match self.codes.symmetry {
                Symmetry::SignedScale => scale.as_f64(),
                Symmetry::Symmetric | Symmetry::Affine => scale.as_f64().max(0.0),
            };
            self.precision.round_factor("a scale", scale)
        });
        self.scales = scales.collect::<Result<_>>()?;
        Ok(())
    }

    /// ∂Ŵ/∂scale is q − z.
    fn gradient(&self, dense: ArrayViewD<'_, F>) -> Result<Array1<F>> {
        check_dense(self.shape(), &dense)?;
        let mut stored = vec![0; self.shape[1]];
        let mut scales = Vec::new();
        for (i, row) in dense.rows().into_iter().enumerate() {
            self.packed.unpack_into(i * self.shape[1], &mut stored);
            let row = row.to_vec();
            let blocks = row.chunks(self.width()).zip(stored.chunks(self.width()));
            for ((row, stored), grid) in blocks.zip(self.grids(i)) {
                let terms = row.iter().zip(stored);
                let terms = terms.map(|(x, &q)| x.as_f64() * f64::from(self.code(q) - grid.zero));
                scales.push(terms.sum::<f64>());
            }
        }
        gradient_of(match self.granularity {
            Granularity::PerTensor => vec![scales.iter().sum()],
            Granularity::PerRow | Granularity::Block(_) => scales,
        })
    }
}
