//! The parameters of product quantization.

use super::{Codebook, Split, SplitAxis};
use crate::cluster::KMeans;
use crate::{ParamError, Precision, Result, Seed, check};

/// Product quantization: sub-vectors of the weights become codes into codebooks.
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
/// // This W has seven different sub-vectors, so that eight centroids represent it exactly.
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
    /// The precision in which centroids are stored. Codes are chosen for the rounded centroids.
    #[cfg_attr(feature = "model", serde(default))]
    pub precision: Precision,
    /// The seed of the random starts of the clusterer.
    #[cfg_attr(feature = "model", serde(default))]
    pub seed: Seed,
    /// The damping of the moments, at least 0; see [`InputMoments::damped`](crate::InputMoments::damped). Not used without
    /// moments.
    #[cfg_attr(feature = "model", serde(default = "crate::defaults::damping"))]
    pub damping: f64,
    /// The largest number of sweeps over codes and centroids when moments are given. The sweeps end earlier when one gains
    /// nothing. Not used without moments.
    #[cfg_attr(feature = "model", serde(default = "crate::defaults::sweeps"))]
    pub sweeps: usize,
    /// The algorithm that finds the centroids.
    #[cfg_attr(feature = "model", serde(default))]
    pub clusterer: C,
}

impl ProductQuantizer {
    /// Checks the parameters, as every call that uses them does.
    ///
    /// # Errors
    ///
    /// The first parameter that no input could make right.
    pub fn validate(&self) -> Result<(), ParamError> {
        self.check()?;
        self.clusterer.validate()
    }

    /// Splits the axis into `groups` groups, a number that must divide its length.
    #[must_use]
    pub fn new(groups: usize) -> Self {
        Self::split(Split::Groups(groups))
    }

    /// Splits the axis into groups of `width` values, a number that must divide its length.
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

    /// Sets the largest number of iterations of k-means; 25 unless set.
    #[must_use]
    pub fn max_iterations(mut self, iterations: usize) -> Self {
        self.clusterer.max_iterations = iterations;
        self
    }

    /// Sets the number of starts of k-means, of which the best is kept; 1 unless set.
    #[must_use]
    pub fn restarts(mut self, restarts: usize) -> Self {
        self.clusterer.restarts = restarts;
        self
    }
}

impl<C> ProductQuantizer<C> {
    /// Sets the number of centroids of a codebook; 256 unless set.
    #[must_use]
    pub fn centroids(mut self, centroids: usize) -> Self {
        self.centroids = centroids;
        self
    }

    /// Sets the axis that is split; the inputs unless set.
    #[must_use]
    pub fn axis(mut self, axis: SplitAxis) -> Self {
        self.axis = axis;
        self
    }

    /// Sets whether groups share one codebook; they do unless set.
    #[must_use]
    pub fn codebook(mut self, codebook: Codebook) -> Self {
        self.codebook = codebook;
        self
    }

    /// Sets the precision of the stored centroids; [`Precision::F32`] unless set.
    #[must_use]
    pub fn precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// Sets the seed of the random starts; 0 unless set.
    #[must_use]
    pub fn seed(mut self, seed: impl Into<Seed>) -> Self {
        self.seed = seed.into();
        self
    }

    /// Sets the damping of the moments; 0.01 unless set.
    #[must_use]
    pub fn damping(mut self, damping: f64) -> Self {
        self.damping = damping;
        self
    }

    /// Sets the largest number of sweeps when moments are given; 8 unless set.
    #[must_use]
    pub fn sweeps(mut self, sweeps: usize) -> Self {
        self.sweeps = sweeps;
        self
    }

    /// Sets the algorithm that finds the centroids; [`KMeans::new`] unless set.
    ///
    /// ```
    /// use taper::cluster::{KMeans, Seeding};
    /// use taper::ndarray::Array2;
    /// use taper::quantize::product::ProductQuantizer;
    /// use taper::{Compressed, Quantizer};
    ///
    /// let weights = Array2::from_shape_fn((64, 32), |(o, i)| ((o * 3 + i * 5) as f32).sin());
    /// let careful = KMeans::new().seeding(Seeding::Greedy).restarts(3);
    /// let matrix = ProductQuantizer::new(8).centroids(16).clusterer(careful).quantize(weights.view())?;
    /// assert!(matrix.report().is_some_and(|report| report.loss() < Some(0.1)));
    /// # Ok::<(), taper::Error>(())
    /// ```
    #[must_use]
    pub fn clusterer<D>(self, clusterer: D) -> ProductQuantizer<D> {
        self.with_clusterer(clusterer)
    }

    /// These parameters with another clusterer.
    pub(super) fn with_clusterer<D>(&self, clusterer: D) -> ProductQuantizer<D> {
        ProductQuantizer {
            split: self.split,
            centroids: self.centroids,
            axis: self.axis,
            codebook: self.codebook,
            precision: self.precision,
            seed: self.seed,
            damping: self.damping,
            sweeps: self.sweeps,
            clusterer,
        }
    }

    /// Checks the parameters except those of the clusterer, which its own calls check.
    pub(super) fn check(&self) -> Result<(), ParamError> {
        let (name, parts) = match self.split {
            Split::Groups(groups) => ("groups", groups),
            Split::Width(width) => ("group_width", width),
        };
        check::at_least_one(name, parts)?;
        check::at_least_one("centroids", self.centroids)?;
        check::damping(self.damping)?;
        Ok(())
    }

    /// The width of the groups that an axis of this length is split into.
    pub(super) fn width(&self, length: usize) -> Result<usize> {
        match self.split {
            Split::Groups(groups) => check::divide("groups", length, groups),
            Split::Width(width) => check::divide("values of a group", length, width).map(|_| width),
        }
    }

    /// Fails if the codebooks do not fit into the address space.
    pub(super) fn check_size<F>(&self, groups: usize, width: usize) -> Result<()> {
        let books = match self.codebook {
            Codebook::PerGroup => groups,
            Codebook::Shared => 1,
        };
        let shape = [books, self.centroids, width];
        check::has_address("the size of the codebooks", &shape, size_of::<F>())
    }
}
