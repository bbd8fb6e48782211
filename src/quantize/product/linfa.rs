//! linfa's traits on product quantization: records are the vectors that are cut into groups.

use linfa::DatasetBase;
use linfa::dataset::Records;
use linfa::traits::{Fit, PredictInplace, Transformer};
use ndarray::{Array2, ArrayBase, ArrayView2, Data, Ix2};

use super::{ProductCodebooks, ProductQuantizer};
use crate::cluster::Clusterer;
use crate::{Error, Float, ParamError, Result};

/// Codebooks of the records of a data set: the features are split into groups, whichever axis of a weight the
/// quantizer splits. Each group of neighbouring features has its centroids.
///
/// The [`ProductCodebooks`] that result predict the codes of records, one a group, and transform records into those
/// that their codes stand for.
///
/// Moreover [`ParamError::Conflict`] for weights of the records that are not all equal.
///
/// ```
/// use linfa::DatasetBase;
/// use linfa::traits::{Fit, Predict, Transformer};
/// use taper::ndarray::Array2;
/// use taper::quantize::product::ProductQuantizer;
///
/// let records = Array2::from_shape_fn((60, 4), |(i, j)| ((i * (j + 1)) % 3) as f64);
/// let dataset = DatasetBase::from(records.clone());
/// let codebooks = ProductQuantizer::new(2).centroids(9).fit(&dataset)?;
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
        self.train(self.axis.vectors(dataset.records().view()))
    }
}

impl<F: Float> ProductCodebooks<F> {
    /// The codes (records, groups) of records.
    fn codes_of(&self, records: ArrayView2<'_, F>) -> Result<Array2<u32>> {
        let codes = self.encode(self.axis().vectors(records))?.codes();
        Ok(codes.reversed_axes())
    }
}

/// The codes of each record, (records, groups). linfa's trait has no room for an error: where records cannot be
/// encoded, because of a value that is not finite or another number of features, all codes are `usize::MAX`, which
/// stands for nothing; [`encode`](ProductCodebooks::encode) says why.
impl<F: Float, D: Data<Elem = F>> PredictInplace<ArrayBase<D, Ix2>, Array2<usize>>
    for ProductCodebooks<F>
{
    fn predict_inplace<'a>(&'a self, records: &'a ArrayBase<D, Ix2>, codes: &mut Array2<usize>) {
        match self.codes_of(records.view()) {
            Ok(found) if found.dim() == codes.dim() => {
                codes.zip_mut_with(&found, |to, &from| *to = from as usize);
            }
            _ => codes.fill(usize::MAX),
        }
    }

    fn default_target(&self, records: &ArrayBase<D, Ix2>) -> Array2<usize> {
        Array2::zeros((records.nrows(), self.groups()))
    }
}

/// Each record replaced by the one that its codes stand for.
impl<F: Float, D: Data<Elem = F>> Transformer<&ArrayBase<D, Ix2>, Result<Array2<F>>>
    for ProductCodebooks<F>
where
    for<'a> &'a ArrayBase<D, Ix2>: Records,
{
    fn transform(&self, records: &ArrayBase<D, Ix2>) -> Result<Array2<F>> {
        let codes = self.codes_of(records.view())?;
        let decoded = self.decode(codes.t())?;
        Ok(self.axis().vectors(decoded.view()).to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::numbers;
    use super::*;
    use crate::quantize::product::SplitAxis;
    use crate::{Compressed, Quantizer};
    use linfa::traits::Predict;
    use ndarray::{Array1, Ix2};

    #[test]
    fn records_are_the_vectors_of_either_axis() {
        let records = numbers(50, 12, 101);
        let dataset = DatasetBase::from(records.view());
        for axis in [SplitAxis::In, SplitAxis::Out] {
            let quantizer = ProductQuantizer::new(4)
                .codebook(Codebook::PerGroup)
                .centroids(5)
                .axis(axis)
                .seed(3);
            let codebooks: ProductCodebooks<f64> = quantizer.fit(&dataset).unwrap();
            let matrix = quantizer.quantize(axis.vectors(records.view())).unwrap();
            assert_eq!(&codebooks, matrix.codebooks());
            let codes: Array2<usize> = codebooks.predict(&records);
            assert_eq!(codes.t().mapv(|code| code as u32), matrix.codes());
            let dense = matrix.decompress().unwrap();
            let dense = dense.into_dimensionality::<Ix2>().unwrap();
            assert_eq!(
                codebooks.transform(&records).unwrap(),
                axis.vectors(dense.view())
            );
        }
    }

    #[test]
    fn what_cannot_be_encoded_gets_no_code() {
        let records = numbers(20, 6, 103);
        let dataset = DatasetBase::from(records.clone());
        let checked = ProductQuantizer::new(2)
            .axis(SplitAxis::Out)
            .codebook(Codebook::PerGroup)
            .centroids(3);
        let codebooks: ProductCodebooks<f64> = checked.fit(&dataset).unwrap();
        let codes: Array2<usize> = codebooks.predict(&numbers(4, 5, 107));
        assert_eq!(codes, Array2::from_elem((4, 2), usize::MAX));
        assert!(codebooks.transform(&numbers(4, 5, 107)).is_err());
        let weighted = dataset.with_weights(Array1::from_iter((0..20).map(|i| i as f32)));
        let refused: Result<ProductCodebooks<f64>> = checked.fit(&weighted);
        assert!(matches!(
            refused,
            Err(Error::Parameter(ParamError::Conflict { .. }))
        ));
    }
}
