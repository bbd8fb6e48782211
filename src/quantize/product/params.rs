//! The quantizer and its parameters.

use ndarray::{Array3, ArrayView2, CowArray, Ix2, s};

use super::aware;
use super::{Codebook, PqMatrix, ProductCodebooks, SplitAxis};
use crate::cluster::{Clusterer, Clustering, KMeans};
use crate::{
    Error, FitContext, FitReport, Float, Observer, ParamError, Precision, Quantizer, Result, Seed,
    check, linalg,
};

/// How an axis is split into groups of neighbouring values.
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(rename_all = "snake_case"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// This number of groups, which must divide the axis.
    Groups(usize),
    /// Groups of this many values, which must divide the axis.
    Width(usize),
}

/// Product quantization with checked parameters.
///
/// ```
/// use taper::ndarray::Array2;
/// use taper::quantize::product::ProductQuantizer;
/// use taper::{Compressed, LinearOp, Quantizer};
///
/// let w = Array2::from_shape_fn((64, 32), |(o, i)| ((3 * o + 5 * i) % 7) as f32 - 3.0);
/// let compressed = ProductQuantizer::new(16).centroids(8).seed(7).quantize(w.view())?;
/// // 16 groups of 2 inputs: 64 · 16 codes of 3 bits, and one codebook of 8 · 2 values of 32 bits.
/// assert_eq!(compressed.storage().bytes(), 384 + 64);
/// // This W has seven different sub-vectors, so that eight centroids hold all of it.
/// let x = Array2::ones((1, 32));
/// assert_eq!(compressed.apply(x.view())?, x.dot(&w.t()));
/// # Ok::<(), taper::Error>(())
/// ```
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(deny_unknown_fields))]
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ProductQuantizer<C = KMeans> {
    /// How the axis is split into groups.
    pub split: Split,
    /// The number k of centroids of a codebook, at least 1. A code takes ⌈log₂ k⌉ bits.
    #[cfg_attr(feature = "model", serde(default = "crate::defaults::centroids"))]
    pub centroids: usize,
    /// The axis of W that is split.
    #[cfg_attr(feature = "model", serde(default))]
    pub axis: SplitAxis,
    /// Whether groups share one codebook.
    #[cfg_attr(feature = "model", serde(default))]
    pub codebook: Codebook,
    /// The precision in which centroids are stored.
    #[cfg_attr(feature = "model", serde(default))]
    pub precision: Precision,
    /// The seed from which k-means draws its starts.
    #[cfg_attr(feature = "model", serde(default))]
    pub seed: Seed,
    /// How strongly moments are damped; see [`InputMoments::damped`](crate::InputMoments::damped).
    #[cfg_attr(feature = "model", serde(default = "crate::defaults::damping"))]
    pub damping: f64,
    /// The largest number of sweeps over codes and centroids when moments are given.
    #[cfg_attr(feature = "model", serde(default = "crate::defaults::sweeps"))]
    pub sweeps: usize,
    /// The algorithm that finds the centroids.
    #[cfg_attr(feature = "model", serde(default))]
    pub clusterer: C,
}

impl ProductQuantizer {
    /// Splits into `groups` groups, a number that must divide the split axis.
    #[must_use]
    pub fn new(groups: usize) -> Self {
        Self::split(Split::Groups(groups))
    }

    /// Splits into groups of `width` values each, which must divide the split axis.
    #[must_use]
    pub fn with_width(width: usize) -> Self {
        Self::split(Split::Width(width))
    }

    fn split(split: Split) -> ProductQuantizer {
        Self {
            split,
            centroids: crate::defaults::centroids(),
            axis: SplitAxis::default(),
            codebook: Codebook::default(),
            precision: Precision::default(),
            seed: Seed::default(),
            damping: crate::defaults::damping(),
            sweeps: crate::defaults::sweeps(),
            clusterer: KMeans::new(),
        }
    }

    /// The most iterations of k-means.
    #[must_use]
    pub fn max_iterations(self, iterations: usize) -> Self {
        self.map_clusterer(|kmeans| kmeans.max_iterations(iterations))
    }

    /// How often k-means starts anew; the best of these results is kept.
    #[must_use]
    pub fn restarts(self, restarts: usize) -> Self {
        self.map_clusterer(|kmeans| kmeans.restarts(restarts))
    }
}

impl<C> ProductQuantizer<C> {
    /// The number k of centroids in a codebook, at least 1. Codes take ⌈log₂ k⌉ bits.
    #[must_use]
    pub fn centroids(mut self, centroids: usize) -> Self {
        self.centroids = centroids;
        self
    }

    /// The axis of W that is split.
    #[must_use]
    pub fn axis(mut self, axis: SplitAxis) -> Self {
        self.axis = axis;
        self
    }

    /// Whether each group has a codebook of its own.
    #[must_use]
    pub fn codebook(mut self, codebook: Codebook) -> Self {
        self.codebook = codebook;
        self
    }

    /// The precision in which centroids are stored. They are rounded after training, and the codes are those
    /// of the nearest rounded centroids.
    #[must_use]
    pub fn precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// The seed from which k-means draws its starts.
    #[must_use]
    pub fn seed(mut self, seed: impl Into<Seed>) -> Self {
        self.seed = seed.into();
        self
    }

    /// How much the moments of inputs are damped, as [`InputMoments::damped`] says. Without moments it has no effect.
    #[must_use]
    pub fn damping(mut self, damping: f64) -> Self {
        self.damping = damping;
        self
    }

    /// How often, with moments of inputs, codes and centroids are chosen anew after the first choice; fewer where a sweep
    /// gains nothing. Without moments it has no effect.
    #[must_use]
    pub fn sweeps(mut self, sweeps: usize) -> Self {
        self.sweeps = sweeps;
        self
    }

    /// The engine that finds the centroids.
    ///
    /// ```
    /// use taper::cluster::KMeans;
    /// use taper::quantize::product::ProductQuantizer;
    ///
    /// let kmeans = KMeans::new().max_iterations(50).restarts(3);
    /// let quantizer = ProductQuantizer::new(64).clusterer(kmeans);
    /// # let _ = quantizer;
    /// ```
    #[must_use]
    pub fn clusterer<D>(self, clusterer: D) -> ProductQuantizer<D> {
        self.map_clusterer(|_| clusterer)
    }

    fn map_clusterer<D>(self, f: impl FnOnce(C) -> D) -> ProductQuantizer<D> {
        ProductQuantizer {
            split: self.split,
            centroids: self.centroids,
            axis: self.axis,
            codebook: self.codebook,
            precision: self.precision,
            seed: self.seed,
            damping: self.damping,
            sweeps: self.sweeps,
            clusterer: f(self.clusterer),
        }
    }

    /// Checks the parameters, as every call that uses them does.
    ///
    /// # Errors
    ///
    /// The first parameter that no input could make right.
    pub fn validate(&self) -> Result<(), ParamError> {
        let (name, parts) = match self.split {
            Split::Groups(groups) => ("groups", groups),
            Split::Width(width) => ("group_width", width),
        };
        check::at_least_one(name, parts)?;
        check::at_least_one("centroids", self.centroids)?;
        check::damping(self.damping)?;
        Ok(())
    }
}

/// Codebooks, the codes of what they were trained on (group after group), and how the training went.
pub(super) struct Fit<F> {
    pub(super) codebooks: ProductCodebooks<F>,
    pub(super) codes: Vec<u32>,
    pub(super) report: FitReport,
}

impl<C> ProductQuantizer<C> {
    /// Trains codebooks on `weights` (out_features, in_features).
    ///
    /// # Errors
    ///
    /// [`Error::NonFinite`], [`Error::EmptyAxis`], [`Error::Indivisible`] where the groups do not divide the
    /// axis, [`Error::Overflow`] where a centroid leaves the range of the stored precision, and the errors of the
    /// clusterer.
    pub fn train<F: Float>(&self, weights: ArrayView2<'_, F>) -> Result<ProductCodebooks<F>>
    where
        C: Clusterer<F>,
    {
        self.validate()?;
        let codebooks = self.fit_codes(weights, None)?.codebooks;
        self.check_precision(weights)?;
        Ok(codebooks)
    }

    /// Errs where the precision of the codebooks is too coarse for weights this small.
    pub(super) fn check_precision<F: Float>(&self, weights: ArrayView2<'_, F>) -> Result<()> {
        let largest = check::largest(&weights);
        self.precision.fits_tensor("a codebook value", largest)
    }

    /// The width of the groups that an axis of this length is split into.
    pub(super) fn width(&self, length: usize) -> Result<usize> {
        match self.split {
            Split::Groups(groups) => check::divide("groups", length, groups),
            Split::Width(width) => check::divide("values of a group", length, width).map(|_| width),
        }
    }

    /// Errs where the codebooks would have no address.
    pub(super) fn check_size<F: Float>(&self, groups: usize, width: usize) -> Result<()> {
        let books = match self.codebook {
            Codebook::PerGroup => groups,
            Codebook::Shared => 1,
        };
        let shape = [books, self.centroids, width];
        check::has_address("the size of the codebooks", &shape, size_of::<F>())
    }

    pub(super) fn fit_codes<F: Float>(
        &self,
        weights: ArrayView2<'_, F>,
        observer: Option<&dyn Observer>,
    ) -> Result<Fit<F>>
    where
        C: Clusterer<F>,
    {
        check::finite("weights", &weights)?;
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
                let points_of_all = sub_vectors(vectors, groups, width)?;
                let clustering = self.clusterer.cluster(
                    points_of_all.view(),
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

impl<F: Float, C: Clusterer<F>> Quantizer<F> for ProductQuantizer<C> {
    type Output = PqMatrix<F>;

    /// The report's losses are mean squared errors of a weight, before centroids are rounded to their stored
    /// precision.
    ///
    /// With moments of the inputs they are mean squared errors of an output, under the damped moments. k-means is
    /// weighted by the inputs then (P. Stock et al., "And the Bit Goes Down: Revisiting the Quantization of Neural
    /// Networks", 2019, arXiv:1907.05686), what one sub-vector loses is made good by those that follow (M. van Baalen et al.,
    /// "GPTVQ", 2024, arXiv:2402.15319), and then codes and centroids are chosen anew in turn, each given all
    /// others, so that no sweep raises the error. One codebook that all groups of *inputs* share is not
    /// moved by the sweeps, only the codes are.
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

impl<C> ProductQuantizer<C> {
    /// [`quantize_with`](Quantizer::quantize_with) for what earlier stages leave: it may be too small for the precision, since
    /// the sum of the stages is then accurate without it.
    pub(super) fn quantize_stage<F: Float>(
        &self,
        weights: ArrayView2<'_, F>,
        context: FitContext<'_>,
    ) -> Result<PqMatrix<F>>
    where
        C: Clusterer<F>,
    {
        self.validate()?;
        let inputs = context.inputs;
        let fit = match inputs {
            None => self.fit_codes(weights, context.observer)?,
            Some(inputs) => {
                check::finite("weights", &weights)?;
                aware::fit(self, weights, inputs, context.observer)?
            }
        };
        let rounded = inputs.is_none() && u64::from(F::BITS) > self.precision.bits();
        let matrix = if rounded {
            fit.codebooks.encode(weights)?
        } else {
            let shape = [weights.nrows(), weights.ncols()];
            PqMatrix::from_codes(fit.codebooks, shape, &fit.codes)?
        };
        Ok(matrix.with_report(fit.report))
    }
}

/// The sub-vectors of all groups, those of a vector side by side.
///
/// A view where the order in memory allows it.
pub(super) fn sub_vectors<F: Float>(
    vectors: ArrayView2<'_, F>,
    groups: usize,
    width: usize,
) -> Result<CowArray<'_, F, Ix2>> {
    let shape = (vectors.nrows() * groups, width);
    linalg::as_matrix(vectors, shape).ok_or(Error::Overflow {
        what: "the number of sub-vectors",
    })
}

/// The assignments of [`sub_vectors`], group by group.
pub(super) fn by_group(assignments: &[u32], groups: usize) -> Vec<Vec<u32>> {
    let of_group = |g: usize| {
        assignments
            .iter()
            .skip(g)
            .step_by(groups)
            .copied()
            .collect()
    };
    (0..groups).map(of_group).collect()
}

/// The report of a fit of which each clustering is a part, its losses told as the mean squared error of a weight.
///
/// A clustering that ended early keeps its last loss.
fn sum_of_reports<F>(clusterings: &[Clustering<F>], weights: usize) -> FitReport {
    let reports = || clusterings.iter().map(|clustering| &clustering.report);
    let length = reports()
        .map(|report| report.losses.len())
        .max()
        .unwrap_or(0);
    let points = clusterings.first().map_or(0, |c| c.assignments.len());
    let scale = points as f64 / weights as f64;
    let loss_at = |i: usize| {
        let losses = reports().filter_map(|r| r.losses.get(i).or(r.losses.last()));
        losses.sum::<f64>() * scale
    };
    FitReport {
        iterations: reports().map(|report| report.iterations).max().unwrap_or(0),
        converged: reports().all(|report| report.converged),
        stopped: reports().any(|report| report.stopped),
        losses: (0..length).map(loss_at).collect(),
    }
}
