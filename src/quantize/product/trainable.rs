//! The gradient of codebooks.

use ndarray::{Array1, ArrayView1, ArrayView3, ArrayViewD, s};

use super::{PqMatrix, ProductCodebooks};
use crate::trainable::{check_matrix, check_parameters, gradient_of};
use crate::{Compressed, Float, Result, Trainable, parallel};

impl<F: Float> Trainable<F> for PqMatrix<F> {
    /// The values of all centroids in row-major order of (books, k, d).
    fn parameters(&self) -> Array1<F> {
        self.codebooks.values().iter().copied().collect()
    }

    fn set_parameters(&mut self, parameters: ArrayView1<'_, F>) -> Result<()> {
        let books = &self.codebooks;
        check_parameters(books.values().len(), &parameters)?;
        let values: Vec<F> = parameters.iter().copied().collect();
        let view = ArrayView3::from_shape(books.values().dim(), &values);
        self.codebooks = ProductCodebooks::from_parts(
            books.groups(),
            books.axis(),
            books.precision(),
            view.expect("there is one parameter for each value"),
        )?;
        self.drop_report();
        Ok(())
    }

    /// The gradient of a centroid is the sum of the gradients of the sub-vectors that it replaces.
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
                for (sum, x) in sums[start..start + width].iter_mut().zip(vector) {
                    *sum += x.as_f64();
                }
            }
            sums
        });
        let mut sums = vec![0.0; books.values().len()];
        for (group, part) in groups.iter().enumerate() {
            // A shared codebook gets the sums of all groups, in their order.
            let start = group * length % sums.len();
            for (sum, x) in sums[start..start + length].iter_mut().zip(part) {
                *sum += x;
            }
        }
        gradient_of(sums)
    }
}
