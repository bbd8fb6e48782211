//! Codes for weights on given codebooks.

use ndarray::{Array2, ArrayView2, Axis, s};

use super::{PqMatrix, ProductCodebooks, SplitAxis};
use crate::{Float, Result, check, cluster, parallel};

impl<F: Float> ProductCodebooks<F> {
    /// Replaces each sub-vector of `weights` (out_features, in_features) by its nearest centroid.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) where the split axis has another length than that of the training
    /// weights, [`Error::NonFinite`](crate::Error::NonFinite), [`Error::EmptyAxis`](crate::Error::EmptyAxis).
    pub fn encode(&self, weights: ArrayView2<'_, F>) -> Result<PqMatrix<F>> {
        check::finite("weights", &weights)?;
        let [mut rows, mut columns] = [weights.nrows(), weights.ncols()];
        match self.axis() {
            SplitAxis::In => columns = self.split_length(),
            SplitAxis::Out => rows = self.split_length(),
        }
        check::same_shape("weights", &[rows, columns], weights.shape())?;
        self.encode_finite(weights)
    }

    /// [`encode`](Self::encode) for weights that are finite and fit.
    pub(super) fn encode_finite(&self, weights: ArrayView2<'_, F>) -> Result<PqMatrix<F>> {
        let vectors = self.axis().vectors(weights);
        let width = self.group_width();
        let few = self.groups().div_ceil(4 * parallel::threads());
        let together = (GATHERED / (width * size_of::<F>())).clamp(1, few);
        let codes = parallel::map(self.groups().div_ceil(together), |batch| {
            let first = batch * together;
            let last = self.groups().min(first + together);
            let vectors = vectors.slice(s![.., first * width..last * width]);
            let codes = (first..last)
                .zip(parts(vectors, width))
                .map(|(group, points)| cluster::assign_finite(points.view(), self.codebook(group)));
            Ok(codes.collect::<Result<Vec<_>>>()?.concat())
        });
        let codes = codes.into_iter().collect::<Result<Vec<_>>>()?.concat();
        PqMatrix::from_codes(self.clone(), [weights.nrows(), weights.ncols()], &codes)
    }
}

impl<F: Float> PqMatrix<F> {
    /// New weights of this shape on the codebooks of this matrix.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`](crate::Error::ShapeMismatch), [`Error::NonFinite`](crate::Error::NonFinite).
    pub fn encode(&self, weights: ArrayView2<'_, F>) -> Result<Self> {
        check::same_shape("weights", &self.shape, weights.shape())?;
        self.codebooks.encode(weights)
    }
}

/// Bytes of a row that are gathered together, so that waiting for the first cache line is a small part of the time.
const GATHERED: usize = 1024;

/// Each `width` columns of `vectors` as an array of their own. Rows of a wide matrix often lie a power of two apart, where they
/// evict each other from the cache; the copies have no such gaps.
fn parts<F: Float>(vectors: ArrayView2<'_, F>, width: usize) -> Vec<Array2<F>> {
    let count = vectors.ncols() / width;
    let mut parts = vec![Array2::zeros((vectors.nrows(), width)); count];
    if vectors.strides()[1] == 1 {
        let slices = parts.iter_mut().map(Array2::as_slice_mut);
        let mut slices: Vec<_> = slices
            .map(|slice| slice.expect("a new array has no gaps"))
            .collect();
        for (i, row) in vectors.outer_iter().enumerate() {
            let row = row.to_slice().expect("the values of a row are contiguous");
            for (part, values) in slices.iter_mut().zip(row.chunks_exact(width)) {
                part[i * width..(i + 1) * width].copy_from_slice(values);
            }
        }
    } else {
        for (part, values) in parts
            .iter_mut()
            .zip(vectors.axis_chunks_iter(Axis(1), width))
        {
            part.assign(&values);
        }
    }
    parts
}
