//! The units of a fit: weights and moments are divided by powers of two, so that their largest values are near one.

use ndarray::{Array1, Array2, Array3};

use crate::quantize::product::{ProductCodebooks, ProductQuantizer};
use crate::{Float, Precision, Result, check, power};

/// What a value of one in the fit is for the caller.
#[derive(Debug, Clone, Copy)]
pub(super) struct Units {
    /// A weight of one is 2^`weights`.
    pub(super) weights: i32,
    /// A squared output of one is 2^`outputs`.
    pub(super) outputs: i32,
}

impl Units {
    /// The centroids as they will be stored, in the units of the fit.
    pub(super) fn rounded<F: Float>(
        self,
        precision: Precision,
        centroids: &Array2<F>,
    ) -> Result<Array2<F>> {
        let mut centroids = self.weights_of(centroids)?;
        for value in &mut centroids {
            *value = precision.round("a codebook", *value)?;
        }
        Ok(power::scaled(&centroids.view(), -self.weights))
    }

    /// The codebooks for `groups` groups, in the units of the caller.
    pub(super) fn codebooks<F: Float, C>(
        self,
        quantizer: &ProductQuantizer<C>,
        groups: usize,
        books: &[Array2<F>],
    ) -> Result<ProductCodebooks<F>> {
        let (centroids, width) = books[0].dim();
        let mut values = Array3::zeros((books.len(), centroids, width));
        for (mut to, book) in values.outer_iter_mut().zip(books) {
            to.assign(&self.weights_of(book)?);
        }
        ProductCodebooks::from_parts(groups, quantizer.axis, quantizer.precision, values.view())
    }

    /// Centroids in the units of the caller.
    fn weights_of<F: Float>(self, centroids: &Array2<F>) -> Result<Array2<F>> {
        let centroids = power::scaled(&centroids.view(), self.weights);
        check::no_overflow("a centroid", &centroids)?;
        Ok(centroids)
    }
}

/// Weights of points, divided by the largest. Equal weights become ones, which is the same as no weights.
pub(super) fn relative<F: Float>(weights: Array1<F>) -> Array1<F> {
    let largest = weights.iter().fold(F::zero(), |max, &x| max.max(x));
    if largest > F::zero() {
        weights / largest
    } else {
        weights
    }
}
