//! Codebooks and codes for given weights.

use ndarray::{Array3, ArrayView2, s};

use super::codebooks::{Fit, by_group, sub_vectors};
use super::{Codebook, PqMatrix, ProductCodebooks, ProductQuantizer, aware};
use crate::cluster::{Clusterer, Clustering};
use crate::{FitContext, FitReport, Float, Observer, Quantizer, Result, check};

impl<C> ProductQuantizer<C> {
    /// Trains codebooks on `weights` (out_features, in_features).
    ///
    /// # Errors
    ///
    /// [`Error::NonFinite`](crate::Error::NonFinite), [`Error::EmptyAxis`](crate::Error::EmptyAxis),
    /// [`Error::Indivisible`](crate::Error::Indivisible) where the groups do not divide the axis,
    /// [`Error::Overflow`](crate::Error::Overflow) where a centroid leaves the range of the stored precision, and the errors
    /// of the clusterer.
    pub fn train<F: Float>(&self, weights: ArrayView2<'_, F>) -> Result<ProductCodebooks<F>>
    where
        C: Clusterer<F>,
    {
        self.check()?;
        check::finite("weights", &weights)?;
        self.check_precision(weights)?;
        Ok(self.fit_codes(weights, None)?.codebooks)
    }

    /// Errs where the precision of the codebooks is too coarse for weights this small.
    pub(super) fn check_precision<F: Float>(&self, weights: ArrayView2<'_, F>) -> Result<()> {
        let largest = check::largest(&weights);
        self.precision.fits_tensor("a codebook value", largest)
    }

    /// Clusters the sub-vectors of `weights`, which are finite.
    pub(super) fn fit_codes<F: Float>(
        &self,
        weights: ArrayView2<'_, F>,
        observer: Option<&dyn Observer>,
    ) -> Result<Fit<F>>
    where
        C: Clusterer<F>,
    {
        let vectors = self.axis.vectors(weights);
        let (points, length) = vectors.dim();
        let width = self.width(length)?;
        let groups = length / width;
        self.check_size::<F>(groups, width)?;
        let (clusterings, codes) = match self.codebook {
            Codebook::PerGroup => {
                let parts: Vec<_> = (0..groups)
                    .map(|g| vectors.slice_move(s![.., g * width..(g + 1) * width]))
                    .collect();
                let clusterings = self.clusterer.cluster_groups(
                    &parts,
                    None,
                    self.centroids,
                    self.seed,
                    observer,
                )?;
                let codes = clusterings
                    .iter()
                    .flat_map(|c| c.assignments.iter().copied());
                let codes = codes.collect();
                (clusterings, codes)
            }
            Codebook::Shared => {
                let clustering = self.clusterer.cluster(
                    sub_vectors(vectors, groups, width).view(),
                    None,
                    self.centroids,
                    self.seed.derive(0),
                    observer,
                )?;
                let codes = by_group(&clustering.assignments, groups).concat();
                (vec![clustering], codes)
            }
        };
        let books = clusterings.len();
        let mut values = Array3::zeros((books, self.centroids, width));
        for (clustering, mut book) in clusterings.iter().zip(values.outer_iter_mut()) {
            check::same_shape("centroids", book.shape(), clustering.centroids.shape())?;
            book.assign(&clustering.centroids);
        }
        let codebooks =
            ProductCodebooks::from_parts(groups, self.axis, self.precision, values.view())?;
        Ok(Fit {
            codebooks,
            codes,
            report: sum_of_reports(&clusterings, points * length),
        })
    }
}

impl<C> ProductQuantizer<C> {
    /// Quantizes weights that may be smaller than the precision holds: the rest that one stage of several is given.
    pub(super) fn quantize_stage<F: Float>(
        &self,
        weights: ArrayView2<'_, F>,
        context: FitContext<'_>,
    ) -> Result<PqMatrix<F>>
    where
        C: Clusterer<F>,
    {
        self.check()?;
        check::finite("weights", &weights)?;
        context.rows_unused("ProductQuantizer")?;
        let inputs = context.inputs;
        let fit = match inputs {
            None => self.fit_codes(weights, context.observer)?,
            Some(inputs) => aware::fit(self, weights, inputs, context.observer)?,
        };
        let rounded = inputs.is_none() && u64::from(F::BITS) > self.precision.bits();
        let matrix = if rounded {
            fit.codebooks.encode_finite(weights)?
        } else {
            let shape = [weights.nrows(), weights.ncols()];
            PqMatrix::from_codes(fit.codebooks, shape, &fit.codes)?
        };
        Ok(matrix.with_report(fit.report))
    }
}

impl<F: Float, C: Clusterer<F>> Quantizer<F> for ProductQuantizer<C> {
    type Output = PqMatrix<F>;

    /// The report's losses are mean squared errors of a weight, before centroids are rounded to their stored
    /// precision.
    ///
    /// With moments of the inputs, the losses are mean squared errors of an output, under the damped moments. The fit has
    /// three steps:
    ///
    /// 1. k-means, with points weighted by the mean squares of their inputs (P. Stock et al., "And the Bit Goes Down:
    ///    Revisiting the Quantization of Neural Networks", 2019, arXiv:1907.05686);
    /// 2. error feedback: each sub-vector compensates for the errors of those before it (M. van Baalen et al., "GPTVQ", 2024,
    ///    arXiv:2402.15319);
    /// 3. sweeps, which choose codes and centroids in turn, each given all others, so that no sweep raises the error. With
    ///    the inputs split and a shared codebook, the sweeps change the codes alone.
    fn quantize_with(
        &self,
        weights: ArrayView2<'_, F>,
        context: FitContext<'_>,
    ) -> Result<PqMatrix<F>> {
        let matrix = self.quantize_stage(weights, context)?;
        self.check_precision(weights)?;
        Ok(matrix)
    }
}

/// The report of a fit that consists of `clusterings`, with losses as the mean squared error of a weight.
///
/// A clustering that ended early counts with its last loss.
fn sum_of_reports<F>(clusterings: &[Clustering<F>], weights: usize) -> FitReport {
    let reports = || clusterings.iter().map(|clustering| &clustering.report);
    let lengths = reports().map(|report| report.losses.len());
    let length = lengths.max().expect("there is at least one codebook");
    let scale = clusterings[0].assignments.len() as f64 / weights as f64;
    let loss_at = |i: usize| {
        let losses = reports().filter_map(|r| r.losses.get(i).or(r.losses.last()));
        losses.sum::<f64>() * scale
    };
    let iterations = reports().map(|report| report.iterations);
    FitReport {
        iterations: iterations.max().expect("there is at least one codebook"),
        converged: reports().all(|report| report.converged),
        stopped: reports().any(|report| report.stopped),
        losses: (0..length).map(loss_at).collect(),
    }
}
