//! The gradient of codebooks.

use ndarray::{Array1, ArrayView1, ArrayView3, ArrayViewD, s};

use super::{PqMatrix, ProductCodebooks};
use crate::trainable::{check_matrix, check_parameters, gradient_of};
use crate::{Compressed, Error, Float, Result, Trainable, parallel};

impl<F: Float> Trainable<F> for PqMatrix<F> {
    /// The values of all centroids in row-major order of (books, k, d).
    fn parameters(&self) -> Array1<F> {
        self.codebooks.values().iter().copied().collect()
    }

    fn set_parameters(&mut self, parameters: ArrayView1<'_, F>) -> Result<()> {
        let books = &self.codebooks;
        check_parameters(books.values().len(), &parameters)?;
        let values: Vec<F> = parameters.iter().copied().collect();
        let view = ArrayView3::from_shape(books.values().dim(), &values).map_err(|_| {
            Error::ShapeMismatch {
                what: "the parameters",
                expected: books.values().shape().to_vec(),
                found: vec![values.len()],
            }
        })?;
        self.codebooks =
            ProductCodebooks::from_parts(books.groups(), books.axis(), books.precision(), view)?;
        self.drop_report();
        Ok(())
    }

    /// Each value of a centroid gets the sum over the sub-vectors that are replaced by it.
    fn gradient(&self, dense: ArrayViewD<'_, F>) -> Result<Array1<F>> {
        let dense = check_matrix(self.shape(), dense)?;
        let books = &self.codebooks;
        let vectors = books.axis().vectors(dense);
        let (width, points) = (books.group_width(), vectors.nrows());
        let length = books.centroids() * width;
        let groups = parallel::map(books.groups(), |group| {
            let mut codes = vec![0; points];
            self.codes.unpack_into(group * points, &mut codes);
            let mut sums = vec![0.0; length];
            let part = vectors.slice(s![.., group * width..(group + 1) * width]);
            for (vector, &code) in part.outer_iter().zip(&codes) {
                let start = code as usize * width;
                let sums = sums.get_mut(start..start + width).unwrap_or_default();
                for (sum, x) in sums.iter_mut().zip(vector) {
                    *sum += x.as_f64();
                }
            }
            sums
        });
        let mut sums = vec![0.0; books.values().len()];
        for (group, part) in groups.iter().enumerate() {
            // A shared codebook takes the sums of all groups, in their order.
            let start = group * length % sums.len();
            let sums = sums.get_mut(start..start + length).unwrap_or_default();
            for (sum, x) in sums.iter_mut().zip(part) {
                *sum += x;
            }
        }
        gradient_of(sums)
    }
}
