//! k-means: its parameters, its checks and its restarts.

use ndarray::{Array2, ArrayView1, ArrayView2};

use super::assignment::check_clusters;
use super::blocks::magnitude;
use super::distinct::cluster_distinct;
use super::lloyd::{Fit, Limits, Problem};
use super::seeding::{Seeding, choose};
use super::{Clusterer, Clustering};
use crate::observer::ObservedFit;
use crate::{Error, FitReport, Float, Observer, ParamError, Result, Seed, Stage, check, power};

/// k-means by Lloyd's algorithm (Lloyd, "Least squares quantization in PCM", 1982, doi:10.1109/TIT.1982.1056489).
///
/// Empty clusters move to the points that are farthest from their centroids, so that no cluster stays empty if there are enough
/// distinct points. The iterations end when no assignment changes, when the loss falls by less than the tolerance, or at their
/// limit. Of several starts, the result with the least loss is kept. [`assign`](super::assign) with the points and the centroids
/// gives the same assignments.
///
/// The sums are kept in `f64`. For `f32` points in p dimensions an assignment costs about p + 3 operations
/// of a vector register for each 16 (AVX-512) or 8 (AVX2) points and centroid.
///
/// ```
/// use ndarray::array;
/// use taper::Seed;
/// use taper::cluster::{Clusterer, KMeans};
///
/// let points = array![[0.0_f32, 0.0], [0.0, 1.0], [9.0, 9.0], [9.0, 8.0]];
/// let result = KMeans::new().restarts(3).cluster(points.view(), None, 2, Seed::from(7), None)?;
/// assert_eq!(result.assignments[0], result.assignments[1]);
/// assert_ne!(result.assignments[0], result.assignments[2]);
/// assert_eq!(result.report.loss(), Some(0.25));
/// # Ok::<(), taper::Error>(())
/// ```
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(deny_unknown_fields, default))]
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct KMeans {
    /// The largest number of iterations, at least 1.
    pub max_iterations: usize,
    /// The iterations end when one lowers the loss by no more than this fraction of it, in [0, 1). At 0 they end when no
    /// assignment changes.
    pub tolerance: f64,
    /// The number of starts, at least 1. The result with the least loss is kept, of equal ones the first. With
    /// [given](Seeding::Given) centroids there is only one start.
    pub restarts: usize,
    /// How the first centroids are chosen.
    pub seeding: Seeding,
}

impl Default for KMeans {
    fn default() -> Self {
        Self::new()
    }
}

impl KMeans {
    /// k-means++, one start, at most 25 iterations, until no assignment changes.
    #[must_use]
    pub fn new() -> Self {
        Self {
            max_iterations: 25,
            tolerance: 0.0,
            restarts: 1,
            seeding: Seeding::PlusPlus,
        }
    }

    /// Sets the largest number of iterations; 25 unless set.
    #[must_use]
    pub fn max_iterations(mut self, max_iterations: usize) -> Self {
        self.max_iterations = max_iterations;
        self
    }

    /// Sets the gain of an iteration, as a fraction of the loss, at which the iterations end; 0 unless set.
    #[must_use]
    pub fn tolerance(mut self, tolerance: f64) -> Self {
        self.tolerance = tolerance;
        self
    }

    /// Sets how the first centroids are chosen; [`Seeding::PlusPlus`] unless set.
    #[must_use]
    pub fn seeding(mut self, seeding: Seeding) -> Self {
        self.seeding = seeding;
        self
    }

    /// Sets the number of starts; 1 unless set.
    #[must_use]
    pub fn restarts(mut self, restarts: usize) -> Self {
        self.restarts = restarts;
        self
    }

    /// Checks the parameters, as every call that uses them does.
    ///
    /// # Errors
    ///
    /// The first parameter that is out of its range for every input.
    pub fn validate(&self) -> Result<(), ParamError> {
        check::at_least_one("max_iterations", self.max_iterations)?;
        check::at_least_one("restarts", self.restarts)?;
        check::tolerance(self.tolerance)?;
        Ok(())
    }
}

impl<F: Float> Clusterer<F> for KMeans {
    /// # Errors
    ///
    /// Those of the trait; [`Error::ShapeMismatch`], [`Error::NonFinite`] and [`Error::Overflow`] for
    /// [given](Seeding::Given) centroids that do not fit.
    fn cluster(
        &self,
        points: ArrayView2<'_, F>,
        weights: Option<ArrayView1<'_, F>>,
        clusters: usize,
        seed: Seed,
        observer: Option<&dyn Observer>,
    ) -> Result<Clustering<F>> {
        self.validate()?;
        self.cluster_part(0, points, weights, clusters, seed, observer)
    }

    fn cluster_groups(
        &self,
        groups: &[ArrayView2<'_, F>],
        weights: Option<&[ArrayView1<'_, F>]>,
        clusters: usize,
        seed: Seed,
        observer: Option<&dyn Observer>,
    ) -> Result<Vec<Clustering<F>>> {
        self.validate()?;
        super::by_group(groups, weights, seed, |group, points, weights, seed| {
            self.cluster_part(group, points, weights, clusters, seed, observer)
        })
    }
}

impl KMeans {
    /// Divides the points of group `part` of several.
    fn cluster_part<F: Float>(
        &self,
        part: usize,
        points: ArrayView2<'_, F>,
        weights: Option<ArrayView1<'_, F>>,
        clusters: usize,
        seed: Seed,
        observer: Option<&dyn Observer>,
    ) -> Result<Clustering<F>> {
        // Rows of a wide matrix often lie a power of two apart, where they evict each other from the cache. A copy without
        // gaps saves much more time than it takes.
        check::not_empty("points", points.shape())?;
        let points = points.as_standard_layout();
        let points = points.view();
        check::finite("points", &points)?;
        check_clusters(clusters)?;
        let size = [clusters, points.ncols()];
        check::has_address("the size of the centroids", &size, size_of::<f64>())?;
        let mut magnitude = magnitude("a squared distance of points", &points)?;
        let weights = weights
            .map(|weights| checked_weights(points.nrows(), weights))
            .transpose()?
            .flatten();
        let weights = weights.as_deref();
        let given = match &self.seeding {
            Seeding::Given(given) => {
                let given: Vec<F> = given_centroids(given, clusters, points.ncols())?;
                magnitude = given.iter().fold(magnitude, |a, x| a.max(x.abs()));
                Some(given)
            }
            _ => None,
        };
        if let Some((centroids, assignments)) =
            cluster_distinct(&points, weights, clusters, magnitude)
        {
            let report = FitReport {
                iterations: 0,
                converged: true,
                losses: vec![0.0],
                ..FitReport::default()
            };
            return Ok(Clustering {
                centroids,
                assignments,
                report,
            });
        }
        let problem = Problem {
            points: points.reborrow(),
            weights,
            magnitude,
        };
        let limits = Limits {
            iterations: self.max_iterations,
            tolerance: self.tolerance,
            observed: ObservedFit::new(observer, Stage::KMeans, part, self.max_iterations),
        };
        let mut best: Option<Fit<F>> = None;
        for restart in 0..self.restarts {
            let start = match (&given, restart) {
                (Some(given), 0) => given.clone(),
                (Some(_), _) => break,
                (None, _) => {
                    let seed = seed.derive(restart as u64);
                    choose(&self.seeding, &points, weights, clusters, magnitude, seed)
                        .into_iter()
                        .flatten()
                        .flat_map(|point| points.row(point).to_vec())
                        .collect()
                }
            };
            let fit = problem.fit(start, limits);
            let stopped = fit.report.stopped;
            if best.as_ref().is_none_or(|best| fit.loss() < best.loss()) {
                best = Some(fit);
            }
            if stopped {
                best.iter_mut().for_each(|best| best.report.stopped = true);
                break;
            }
        }
        let fit = best.expect("there is at least one start");
        let centroids = Array2::from_shape_vec((clusters, points.ncols()), fit.centroids);
        Ok(Clustering {
            centroids: centroids.expect("each cluster has one centroid"),
            assignments: fit.assignments,
            report: fit.report,
        })
    }
}

/// Weights scaled so that the largest is in [1, 2); `None` if all are zero.
pub(super) fn checked_weights<F: Float>(
    points: usize,
    weights: ArrayView1<'_, F>,
) -> Result<Option<Vec<F>>> {
    check::same_shape("weights", &[points], weights.shape())?;
    check::not_negative("weights", &weights)?;
    let largest = weights.iter().fold(F::zero(), |a, &w| a.max(w));
    if largest.is_zero() {
        return Ok(None);
    }
    // Only weights that are negligible beside the largest are rounded.
    let scaled = power::scaled(&weights, -power::exponent(largest.as_f64()));
    Ok(Some(scaled.to_vec()))
}

fn given_centroids<F: Float>(given: &Array2<f64>, clusters: usize, axes: usize) -> Result<Vec<F>> {
    check::same_shape("the given centroids", &[clusters, axes], given.shape())?;
    check::finite("the given centroids", &given.view())?;
    magnitude("a squared distance of the given centroids", &given.view())?;
    let converted = given.iter().map(|&x| F::from_f64_lossy(x));
    let converted: Vec<F> = converted.collect();
    if converted.iter().all(|x| x.is_finite()) {
        Ok(converted)
    } else {
        Err(Error::Overflow {
            what: "a given centroid",
        })
    }
}
