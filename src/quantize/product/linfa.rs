//! linfa's traits for product quantization. A record is a vector that is split into groups.
//!
//! linfa 0.8 has the arrays of ndarray 0.16; they are converted without a copy where their memory has no gaps.

use linfa::DatasetBase;
use linfa::dataset::Records;
use linfa::traits::{Fit, PredictInplace, Transformer};
use ndarray::{Array2, ArrayView2};
use ndarray_016::{Array2 as LinfaArray2, ArrayBase, Data, Ix2};

use super::{ProductCodebooks, ProductQuantizer};
use crate::cluster::Clusterer;
use crate::linfa_arrays::{from_linfa, into_linfa};
use crate::{Error, Float, ParamError, Result};

/// Trains codebooks on the records of a data set. The features are split into groups, whichever axis of a weight the
/// quantizer splits.
///
/// The resulting [`ProductCodebooks`] predict the codes of records, one for each group, and transform a record into the
/// vector that its codes stand for. Weights of records that differ are a [`ParamError::Conflict`].
///
/// ```
/// use linfa::DatasetBase;
/// use linfa::traits::{Fit, Predict, Transformer};
/// use ndarray_016::Array2; // linfa's version of ndarray
/// use taper::quantize::product::{Codebook, ProductQuantizer};
///
/// let records = Array2::from_shape_fn((60, 4), |(i, j)| ((i * (j + 1)) % 3) as f64);
/// let dataset = DatasetBase::from(records.clone());
/// let codebooks = ProductQuantizer::new(2).codebook(Codebook::PerGroup).centroids(9).fit(&dataset)?;
/// let codes: Array2<usize> = codebooks.predict(&records);
/// assert_eq!(codes.dim(), (60, 2));
/// assert_eq!(codebooks.transform(&records)?, records);
/// # Ok::<(), taper::Error>(())
/// ```
impl<F: Float, D: Data<Elem = F>, T, C: Clusterer<F>> Fit<ArrayBase<D, Ix2>, T, Error>
    for ProductQuantizer<C>
where
    ArrayBase<D, Ix2>: Records<Elem = F>,
{
    type Object = ProductCodebooks<F>;

    fn fit(&self, dataset: &DatasetBase<ArrayBase<D, Ix2>, T>) -> Result<ProductCodebooks<F>> {
        let weights = dataset.weights().unwrap_or_default();
        if weights.windows(2).any(|pair| pair[0] != pair[1]) {
            return Err(ParamError::Conflict {
                first: "weights of records",
                second: "product quantization",
                reason: "it treats all records alike",
            }
            .into());
        }
        let records = from_linfa(dataset.records());
        self.train(self.axis.vectors(records.view()))
    }
}

impl<F: Float> ProductCodebooks<F> {
    /// The codes (records, groups) of records.
    fn codes_of(&self, records: ArrayView2<'_, F>) -> Result<Array2<u32>> {
        let codes = self.encode(self.axis().vectors(records))?.codes();
        Ok(codes.reversed_axes())
    }
}

/// The codes of each record, (records, groups). linfa's trait cannot return an error. For records with a value that is not
/// finite or with another number of features, all codes are `usize::MAX`; [`encode`](ProductCodebooks::encode) returns the
/// error.
impl<F: Float, D: Data<Elem = F>> PredictInplace<ArrayBase<D, Ix2>, LinfaArray2<usize>>
    for ProductCodebooks<F>
{
    fn predict_inplace<'a>(
        &'a self,
        records: &'a ArrayBase<D, Ix2>,
        codes: &mut LinfaArray2<usize>,
    ) {
        match self.codes_of(from_linfa(records).view()) {
            Ok(found) if found.dim() == codes.dim() => {
                for (to, &from) in codes.iter_mut().zip(&found) {
                    *to = from as usize;
                }
            }
            _ => codes.fill(usize::MAX),
        }
    }

    fn default_target(&self, records: &ArrayBase<D, Ix2>) -> LinfaArray2<usize> {
        LinfaArray2::zeros((records.nrows(), self.groups()))
    }
}

/// Replaces each record by the vector of its codes.
impl<F: Float, D: Data<Elem = F>> Transformer<&ArrayBase<D, Ix2>, Result<LinfaArray2<F>>>
    for ProductCodebooks<F>
where
    for<'a> &'a ArrayBase<D, Ix2>: Records,
{
    fn transform(&self, records: &ArrayBase<D, Ix2>) -> Result<LinfaArray2<F>> {
        let codes = self.codes_of(from_linfa(records).view())?;
        let decoded = self.decode(codes.t())?;
        Ok(into_linfa(self.axis().vectors(decoded.view()).to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::numbers;
    use super::*;
    use crate::quantize::product::{Codebook, SplitAxis};
    use crate::{Compressed, Quantizer};
    use linfa::traits::Predict;
    use ndarray::Ix2;
    use ndarray_016::Array1;

    #[test]
    fn records_are_the_vectors_of_either_axis() {
        let records = numbers(50, 12, 101);
        let theirs = into_linfa(records.clone());
        let dataset = DatasetBase::from(theirs.view());
        for axis in [SplitAxis::In, SplitAxis::Out] {
            let quantizer = ProductQuantizer::new(4)
                .codebook(Codebook::PerGroup)
                .centroids(5)
                .axis(axis)
                .seed(3);
            let codebooks: ProductCodebooks<f64> = quantizer.fit(&dataset).unwrap();
            let matrix = quantizer.quantize(axis.vectors(records.view())).unwrap();
            assert_eq!(&codebooks, matrix.codebooks());
            let codes: LinfaArray2<usize> = codebooks.predict(&theirs);
            let codes = codes.t().mapv(|code| code as u32);
            assert_eq!(from_linfa(&codes), matrix.codes());
            let dense = matrix.decompress().unwrap();
            let dense = dense.into_dimensionality::<Ix2>().unwrap();
            assert_eq!(
                from_linfa(&codebooks.transform(&theirs).unwrap()),
                axis.vectors(dense.view())
            );
        }
    }

    #[test]
    fn records_that_cannot_be_encoded_get_no_code() {
        let records = numbers(20, 6, 103);
        let dataset = DatasetBase::from(into_linfa(records));
        let checked = ProductQuantizer::new(2)
            .axis(SplitAxis::Out)
            .codebook(Codebook::PerGroup)
            .centroids(3);
        let codebooks: ProductCodebooks<f64> = checked.fit(&dataset).unwrap();
        let other = into_linfa(numbers(4, 5, 107));
        let codes: LinfaArray2<usize> = codebooks.predict(&other);
        assert_eq!(codes, LinfaArray2::from_elem((4, 2), usize::MAX));
        assert!(codebooks.transform(&other).is_err());
        let weighted = dataset.with_weights(Array1::from_iter((0..20).map(|i| i as f32)));
        let refused: Result<ProductCodebooks<f64>> = checked.fit(&weighted);
        assert!(matches!(
            refused,
            Err(Error::Parameter(ParamError::Conflict { .. }))
        ));
    }
}
