//! The quantizer and its parameters.

use std::sync::Arc;

use ndarray::{Array3, ArrayView2, CowArray, Ix2, s};

use super::aware;
use super::{Codebook, PqMatrix, ProductCodebooks, SplitAxis};
use crate::cluster::{Clusterer, Clustering, KMeans, KMeansParams};
use crate::observer::{Observed, Observer};
use crate::{
    Error, FitReport, Float, InputMoments, ParamError, ParamGuard, Precision, Quantizer, Result,
    Seed, check, linalg,
};

/// How the split axis is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Split {
    Groups(usize),
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
/// let compressed = ProductQuantizer::params(16).centroids(8).seed(7).quantize(w.view())?;
/// // 16 groups of 4 outputs: 32 · 16 codes of 3 bits, and 16 · 8 · 4 values of 32 bits.
/// assert_eq!(compressed.storage().bytes(), 192 + 2048);
/// // No column of this W has more than seven sub-vectors that differ, so that eight centroids hold all of it.
/// let x = Array2::ones((1, 32));
/// assert_eq!(compressed.apply(x.view())?, x.dot(&w.t()));
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ProductQuantizer<C = KMeansParams> {
    split: Split,
    pub(super) centroids: usize,
    pub(super) axis: SplitAxis,
    pub(super) codebook: Codebook,
    pub(super) precision: Precision,
    pub(super) seed: Seed,
    pub(super) damping: f64,
    pub(super) sweeps: usize,
    pub(super) observed: Observed,
    pub(super) clusterer: C,
}

/// Parameters of product quantization, to be checked.
///
/// | parameter | default |
/// |---|---|
/// | [`centroids`](Self::centroids) | 256 |
/// | [`axis`](Self::axis) | [`SplitAxis::Out`] |
/// | [`codebook`](Self::codebook) | [`Codebook::PerGroup`] |
/// | [`precision`](Self::precision) | [`Precision::F32`] |
/// | [`seed`](Self::seed) | 0 |
/// | [`damping`](Self::damping) | 0.01 |
/// | [`sweeps`](Self::sweeps) | 8 |
/// | [`clusterer`](Self::clusterer) | [`KMeans`] with its own defaults |
///
/// ```
/// use taper::ndarray::Array2;
/// use taper::quantize::product::{Codebook, ProductMethod, ProductQuantizer, SplitAxis};
/// use taper::{Compressed, Quantizer};
///
/// let weights = Array2::from_shape_fn((64, 32), |(o, i)| ((o * 3 + i * 5) as f32).sin());
/// let matrix = ProductQuantizer::params_with_width(4)
///     .centroids(8)
///     .axis(SplitAxis::In)
///     .codebook(Codebook::Shared)
///     .seed(7)
///     .quantize(weights.view())?;
/// // Each of 64 rows has 8 codes of 3 bits; the one codebook has 8 centroids of 4 values.
/// assert_eq!(matrix.codes().dim(), (8, 64));
/// assert_eq!(matrix.storage().bytes(), 8 * 64 * 3 / 8 + 8 * 4 * 4);
/// let mut y = Array2::zeros((1, 64));
/// matrix.apply_by(ProductMethod::LookUp, Array2::ones((1, 32)).view(), y.view_mut())?;
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ProductQuantizerParams<C = KMeansParams>(ProductQuantizer<C>);

impl ProductQuantizer {
    /// Splits into `groups` groups, a number that must divide the split axis.
    #[must_use]
    pub fn params(groups: usize) -> ProductQuantizerParams {
        Self::split(Split::Groups(groups))
    }

    /// Splits into groups of `width` values each, which must divide the split axis.
    #[must_use]
    pub fn params_with_width(width: usize) -> ProductQuantizerParams {
        Self::split(Split::Width(width))
    }

    fn split(split: Split) -> ProductQuantizerParams {
        ProductQuantizerParams(Self {
            split,
            centroids: 256,
            axis: SplitAxis::default(),
            codebook: Codebook::default(),
            precision: Precision::default(),
            seed: Seed::default(),
            damping: 0.01,
            sweeps: 8,
            observed: Observed::default(),
            clusterer: KMeans::params(),
        })
    }
}

impl ProductQuantizerParams {
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

    /// Who watches the fit and may stop it: the iterations of k-means in each group, and the
    /// [sweeps](Self::sweeps).
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.0.observed = Observed::by(Arc::clone(&observer));
        self.map_clusterer(|kmeans| kmeans.observer(observer))
    }
}

impl<C> ProductQuantizerParams<C> {
    /// The number k of centroids in a codebook, at least 1. Codes take ⌈log₂ k⌉ bits.
    #[must_use]
    pub fn centroids(mut self, centroids: usize) -> Self {
        self.0.centroids = centroids;
        self
    }

    /// The axis of W that is split.
    #[must_use]
    pub fn axis(mut self, axis: SplitAxis) -> Self {
        self.0.axis = axis;
        self
    }

    /// Whether each group has a codebook of its own.
    #[must_use]
    pub fn codebook(mut self, codebook: Codebook) -> Self {
        self.0.codebook = codebook;
        self
    }

    /// The precision in which centroids are stored. They are rounded after training, and the codes are those
    /// of the nearest rounded centroids.
    #[must_use]
    pub fn precision(mut self, precision: Precision) -> Self {
        self.0.precision = precision;
        self
    }

    /// The seed from which k-means draws its starts.
    #[must_use]
    pub fn seed(mut self, seed: impl Into<Seed>) -> Self {
        self.0.seed = seed.into();
        self
    }

    /// How much the moments of inputs are damped, as [`InputMoments::damped`] says. Without moments it has no effect.
    #[must_use]
    pub fn damping(mut self, damping: f64) -> Self {
        self.0.damping = damping;
        self
    }

    /// How often, with moments of inputs, codes and centroids are chosen anew after the first choice; fewer where a sweep
    /// gains nothing. Without moments it has no effect.
    #[must_use]
    pub fn sweeps(mut self, sweeps: usize) -> Self {
        self.0.sweeps = sweeps;
        self
    }

    /// The engine that finds the centroids.
    ///
    /// ```
    /// use taper::cluster::KMeans;
    /// use taper::quantize::product::ProductQuantizer;
    ///
    /// let kmeans = KMeans::params().max_iterations(50).restarts(3);
    /// let quantizer = ProductQuantizer::params(64).clusterer(kmeans);
    /// # let _ = quantizer;
    /// ```
    #[must_use]
    pub fn clusterer<D>(self, clusterer: D) -> ProductQuantizerParams<D> {
        self.map_clusterer(|_| clusterer)
    }

    fn map_clusterer<D>(self, f: impl FnOnce(C) -> D) -> ProductQuantizerParams<D> {
        let ProductQuantizer {
            split,
            centroids,
            axis,
            codebook,
            precision,
            seed,
            damping,
            sweeps,
            observed,
            clusterer,
        } = self.0;
        ProductQuantizerParams(ProductQuantizer {
            split,
            centroids,
            axis,
            codebook,
            precision,
            seed,
            damping,
            sweeps,
            observed,
            clusterer: f(clusterer),
        })
    }

    /// Trains codebooks: see [`ProductQuantizer::train`].
    ///
    /// # Errors
    ///
    /// As there, and [`Error::Parameter`].
    pub fn train<F: Float>(&self, weights: ArrayView2<'_, F>) -> Result<ProductCodebooks<F>>
    where
        C: Clusterer<F>,
    {
        self.check_ref()?.train(weights)
    }
}

impl<C> ParamGuard for ProductQuantizerParams<C> {
    type Checked = ProductQuantizer<C>;

    fn check_ref(&self) -> Result<&ProductQuantizer<C>, ParamError> {
        let (name, parts) = match self.0.split {
            Split::Groups(groups) => ("groups", groups),
            Split::Width(width) => ("group_width", width),
        };
        check::at_least_one(name, parts)?;
        check::at_least_one("centroids", self.0.centroids)?;
        check::damping(self.0.damping)?;
        Ok(&self.0)
    }

    fn check(self) -> Result<ProductQuantizer<C>, ParamError> {
        self.check_ref()?;
        Ok(self.0)
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
        Ok(self.fit_codes(weights)?.codebooks)
    }

    pub(super) fn axis(&self) -> SplitAxis {
        self.axis
    }

    pub(super) fn precision(&self) -> Precision {
        self.precision
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

    pub(super) fn fit_codes<F: Float>(&self, weights: ArrayView2<'_, F>) -> Result<Fit<F>>
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
                let clusterings =
                    self.clusterer
                        .cluster_groups(&parts, None, self.centroids, self.seed)?;
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
        inputs: Option<&InputMoments>,
    ) -> Result<PqMatrix<F>> {
        let fit = match inputs {
            None => self.fit_codes(weights)?,
            Some(inputs) => {
                check::finite("weights", &weights)?;
                aware::fit(self, weights, inputs)?
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
