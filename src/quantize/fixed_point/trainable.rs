//! The gradient of scales and offsets.

use ndarray::{Array1, ArrayView1, ArrayViewD};

use super::grid::{Granularity, Grid, Symmetry};
use super::matrix::FixedPointMatrix;
use crate::trainable::{check_dense, check_parameters, gradient_of};
use crate::{Compressed, Float, Result, Trainable};

impl<F: Float> Trainable<F> for FixedPointMatrix<F> {
    /// The scales, one or one a row, then on an affine grid as many offsets. Negative scales become zero when they are set.
    ///
    /// This is the learned step size of a finished model (S. Esser et al., "Learned step size quantization", 2019,
    /// arXiv:1902.08153, with codes that stay).
    fn parameters(&self) -> Array1<F> {
        self.scales().into_iter().chain(self.offsets()).collect()
    }

    fn set_parameters(&mut self, parameters: ArrayView1<'_, F>) -> Result<()> {
        let grids = self.grids.len();
        let count = match self.codes.symmetry {
            Symmetry::Symmetric => grids,
            Symmetry::Affine => 2 * grids,
        };
        check_parameters(count, &parameters)?;
        let rounded = |i: usize| match parameters.get(i) {
            Some(&x) => {
                let x = if i < grids { x.max(F::zero()) } else { x };
                self.precision.round("a scale", x).map(Float::as_f64)
            }
            None => Ok(0.0),
        };
        let new = (0..grids).map(|i| {
            Ok(Grid {
                scale: rounded(i)?,
                offset: rounded(grids + i)?,
            })
        });
        self.grids = new.collect::<Result<_>>()?;
        Ok(())
    }

    /// ∂Ŵ/∂scale is the code, ∂Ŵ/∂offset is one.
    fn gradient(&self, dense: ArrayViewD<'_, F>) -> Result<Array1<F>> {
        check_dense(self.shape(), &dense)?;
        let mut stored = vec![0; self.shape[1]];
        let (mut scales, mut offsets) = (Vec::new(), Vec::new());
        for (i, row) in dense.rows().into_iter().enumerate() {
            self.packed.unpack_into(i * self.shape[1], &mut stored);
            let (mut scale, mut offset) = (0.0, 0.0);
            for (x, &stored) in row.iter().zip(&stored) {
                scale += x.as_f64() * f64::from(self.codes.code(stored).unwrap_or(0));
                offset += x.as_f64();
            }
            scales.push(scale);
            offsets.push(offset);
        }
        if self.granularity == Granularity::PerTensor {
            scales = vec![scales.iter().sum()];
            offsets = vec![offsets.iter().sum()];
        }
        if self.codes.symmetry == Symmetry::Affine {
            scales.extend(offsets);
        }
        gradient_of(scales)
    }
}
