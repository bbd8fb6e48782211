//! k-means, which finds the centroids of codebooks.
//!
//! [`KMeans`] is Lloyd's algorithm with several ways to choose the start ([`Seeding`]), optimized for very many short vectors.
//! [`assign`] finds the nearest centroid of each point, and [`cluster_scalars`] the optimal clusters of numbers.
//! [`Clusterer`] is the trait for other algorithms.
//!
//! ```
//! use taper::Seed;
//! use taper::cluster::{Clusterer, KMeans, assign};
//! use taper::ndarray::array;
//!
//! let points = array![[0.0_f32, 0.0], [0.0, 1.0], [9.0, 9.0]];
//! let clusters = KMeans::new().cluster(points.view(), None, 2, Seed::from(7), None)?;
//! let nearest = assign(points.view(), clusters.centroids.view())?;
//! assert_eq!(nearest[0], nearest[1]);
//! # Ok::<(), taper::Error>(())
//! ```

// `kmeans` has the parameters and the restarts, `seeding` the starts, `lloyd` the iterations, `search` the nearest centroids,
// `distinct` the case of no more distinct points than clusters, `optimal` the exact solution in one dimension, and `blocks` the
// layout that the kernels read.
mod assignment;
mod blocks;
mod distinct;
mod kmeans;
#[cfg(feature = "linfa")]
mod linfa;
mod lloyd;
mod optimal;
mod search;
mod seeding;
#[cfg(test)]
mod tests;

use std::fmt::Debug;

use ndarray::{Array2, ArrayView1, ArrayView2};

use crate::{FitReport, Float, Observer, Result, Seed, parallel};

#[cfg(feature = "linfa")]
pub use self::linfa::LinfaKMeans;
pub use assignment::assign;
pub(crate) use assignment::assign_finite;
pub use kmeans::KMeans;
#[doc(hidden)]
pub use optimal::OptimalScalar;
pub use optimal::cluster_scalars;
pub use seeding::Seeding;

/// Points divided among clusters.
///
/// ```
/// use taper::cluster::cluster_scalars;
/// use taper::ndarray::arr1;
///
/// let clustering = cluster_scalars(arr1(&[0.0_f32, 4.0, 1.0, 5.0]).view(), None, 2)?;
/// assert_eq!(clustering.assignments.to_vec(), [0, 1, 0, 1]);
/// assert_eq!(clustering.centroids.column(0).to_vec(), [0.5, 4.5]);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Clustering<F> {
    /// The centroids, of shape (clusters, axes).
    pub centroids: Array2<F>,
    /// The cluster of each point, an index into the rows of `centroids`.
    pub assignments: Vec<u32>,
    /// How the fit went. A loss is the mean over the points of the squared distance to the point's centroid,
    /// Σ w ‖x − c‖² / Σ w where points have weights.
    pub report: FitReport,
}

/// Divides points among clusters, each of which has a centroid.
///
/// Every implementation guarantees:
/// - there are exactly `clusters` centroids, all finite, and each point has an assignment below `clusters`;
/// - as many clusters as there are distinct points, or more, give a loss of zero and no error;
/// - a point of weight w counts like w points; a point of weight zero is assigned, and has no influence;
/// - the same points, weights, parameters and seed give the same result for any number of threads;
/// - empty axes, values that are not finite, and negative weights are errors, and nothing panics.
///
/// ```
/// use taper::Seed;
/// use taper::cluster::{Clusterer, KMeans};
/// use taper::ndarray::array;
///
/// let points = array![[0.0_f32], [1.0], [8.0], [9.0]];
/// // Code that takes any algorithm.
/// let engine: &dyn Clusterer<f32> = &KMeans::new().restarts(4);
/// assert_eq!(engine.cluster(points.view(), None, 2, Seed::from(7), None)?.report.loss(), Some(0.25));
/// # Ok::<(), taper::Error>(())
/// ```
pub trait Clusterer<F: Float>: Debug + Send + Sync {
    /// Divides `points`, of shape (points, axes), among `clusters` clusters.
    ///
    /// If all `weights` are zero, they are ignored.
    ///
    /// # Errors
    ///
    /// [`Error::EmptyAxis`](crate::Error::EmptyAxis), [`Error::NonFinite`](crate::Error::NonFinite), [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) for weights of another length than the
    /// points, [`Error::Parameter`](crate::Error::Parameter) for zero clusters or a negative weight, [`Error::Overflow`](crate::Error::Overflow) for values whose
    /// squares leave the range of `f64`, and the errors of the implementation.
    fn cluster(
        &self,
        points: ArrayView2<'_, F>,
        weights: Option<ArrayView1<'_, F>>,
        clusters: usize,
        seed: Seed,
        observer: Option<&dyn Observer>,
    ) -> Result<Clustering<F>>;

    /// Divides the points of each group among `clusters` clusters of its own, all groups at the same time.
    ///
    /// The result of group g is that of [`cluster`](Self::cluster) with the seed `seed.derive(g)`. `weights` holds the weights
    /// of each group.
    ///
    /// # Errors
    ///
    /// Those of [`cluster`](Self::cluster), of the first group that has one; [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) for another
    /// number of weights than of groups.
    fn cluster_groups(
        &self,
        groups: &[ArrayView2<'_, F>],
        weights: Option<&[ArrayView1<'_, F>]>,
        clusters: usize,
        seed: Seed,
        observer: Option<&dyn Observer>,
    ) -> Result<Vec<Clustering<F>>> {
        by_group(groups, weights, seed, |_, points, weights, seed| {
            self.cluster(points, weights, clusters, seed, observer)
        })
    }
}

/// Calls `cluster` with the number, points, weights and seed of each group.
pub(crate) fn by_group<F: Float>(
    groups: &[ArrayView2<'_, F>],
    weights: Option<&[ArrayView1<'_, F>]>,
    seed: Seed,
    cluster: impl Fn(usize, ArrayView2<'_, F>, Option<ArrayView1<'_, F>>, Seed) -> Result<Clustering<F>>
    + Sync
    + Send,
) -> Result<Vec<Clustering<F>>> {
    if let Some(weights) = weights {
        crate::check::same_shape("the weights of groups", &[groups.len()], &[weights.len()])?;
    }
    parallel::map(groups.len(), |g| {
        let weights = weights.map(|weights| weights[g].view());
        cluster(g, groups[g].view(), weights, seed.derive(g as u64))
    })
    .into_iter()
    .collect()
}
