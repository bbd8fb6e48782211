//! linfa on both sides of the seam: its k-means as a [`Clusterer`], and its traits on ours.

use linfa::DatasetBase;
use linfa::traits::{Fit, PredictInplace, Transformer};
use linfa_clustering::{KMeans as Engine, KMeansInit};
use ndarray::{Array1, Array2, ArrayBase, ArrayView1, ArrayView2, Axis, Data, Ix2};

use super::assignment::{assign_checked, check_clusters};
use super::blocks::magnitude;
use super::distinct::cluster_distinct;
use super::kmeans::checked_weights;
use super::{Clusterer, Clustering, assign};
use crate::{Error, FitReport, Float, ParamError, Result, Seed, check};

/// The k-means of `linfa-clustering` as a [`Clusterer`].
///
/// It starts from k-means++ and treats all points alike: weights other than equal ones are an error.
/// [`FitReport::iterations`] is zero and [`FitReport::losses`] holds the final loss alone, for the engine tells no more.
///
/// ```
/// use ndarray::array;
/// use taper::cluster::{Clusterer, LinfaKMeans};
/// use taper::Seed;
///
/// let points = array![[0.0_f32, 0.0], [0.1, 0.0], [5.0, 5.0], [5.1, 5.0]];
/// let result = LinfaKMeans::new().cluster(points.view(), None, 2, Seed::from(1), None)?;
/// assert_eq!(result.assignments[0], result.assignments[1]);
/// assert_ne!(result.assignments[0], result.assignments[2]);
/// # Ok::<(), taper::Error>(())
/// ```
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(deny_unknown_fields, default))]
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LinfaKMeans {
    /// The largest number of iterations, at least 1.
    pub max_iterations: usize,
    /// The number of starts, at least 1.
    pub restarts: usize,
    /// The iterations end when the centroids move by less than this distance.
    pub tolerance: f64,
}

impl Default for LinfaKMeans {
    fn default() -> Self {
        Self::new()
    }
}

impl LinfaKMeans {
    /// At most 300 iterations, one start, a tolerance of 10⁻⁴: the engine's own defaults but for its ten starts.
    #[must_use]
    pub fn new() -> Self {
        LinfaSelf {
            max_iterations: 300,
            restarts: 1,
            tolerance: 1e-4,
        }
    }

    /// The most iterations of one start.
    #[must_use]
    pub fn max_iterations(mut self, max_iterations: usize) -> Self {
        self.max_iterations = max_iterations;
        self
    }

    /// How many starts are made; the best result is kept.
    #[must_use]
    pub fn restarts(mut self, restarts: usize) -> Self {
        self.restarts = restarts;
        self
    }

    /// The engine ends where the centroids together move by less than this, a distance.
    #[must_use]
    pub fn tolerance(mut self, tolerance: f64) -> Self {
        self.tolerance = tolerance;
        self
    }

    /// Checks the parameters, as every call that uses them does.
    ///
    /// # Errors
    ///
    /// The first parameter that no input could make right.
    pub fn validate(&self) -> Result<(), ParamError> {
        check::at_least_one("max_iterations", self.max_iterations)?;
        check::at_least_one("restarts", self.restarts)?;
        let tolerance = self.tolerance;
        let inside = tolerance > 0.0 && tolerance.is_finite();
        check::in_range("tolerance", tolerance, "positive and finite", inside)?;
        Ok(())
    }
}

impl<F: Float + linfa::Float> Clusterer<F> for LinfaKMeans {
    /// As the trait says; moreover [`ParamError::Conflict`] for weights that are not all equal, and
    /// [`Error::Foreign`] with what the engine says.
    fn cluster(
        &self,
        points: ArrayView2<'_, F>,
        weights: Option<ArrayView1<'_, F>>,
        clusters: usize,
        seed: Seed,
    ) -> Result<Clustering<F>> {
        check::finite("points", &points)?;
        check_clusters(clusters)?;
        let magnitude = magnitude("a squared distance of points", &points)?;
        if let Some(weights) = weights {
            let weights = checked_weights(points.nrows(), weights)?.unwrap_or_default();
            if weights.windows(2).any(|pair| pair[0] != pair[1]) {
                return Err(ParamError::Conflict {
                    first: "weights",
                    second: "the engine of linfa-clustering",
                    reason: "it treats all points alike",
                }
                .into());
            }
        }
        let points = points.as_standard_layout();
        if let Some((centroids, assignments)) =
            cluster_distinct(&points.view(), None, clusters, magnitude)
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
        let dataset = DatasetBase::from(points.view());
        let foreign = |message: String| Error::Foreign {
            engine: "linfa-clustering",
            message,
        };
        let model = Engine::params_with_rng(clusters, seed.rng())
            .max_n_iterations(self.max_iterations as u64)
            .n_runs(self.restarts)
            .tolerance(F::from_f64_lossy(self.tolerance))
            .init_method(KMeansInit::KMeansPlusPlus)
            .fit(&dataset)
            .map_err(|error| foreign(error.to_string()))?;
        let centroids = model.centroids().as_standard_layout().into_owned();
        check::finite("the centroids of linfa-clustering", &centroids.view())?;
        let rows: Vec<F> = centroids.iter().copied().collect();
        let assignments = assign_checked(&points.view(), &rows, magnitude);
        let loss = mean_loss(&points.view(), &centroids, &assignments);
        Ok(Clustering {
            centroids,
            assignments,
            report: FitReport {
                iterations: 0,
                converged: true,
                losses: vec![loss],
                ..FitReport::default()
            },
        })
    }
}

fn mean_loss<F: Float>(
    points: &ArrayView2<'_, F>,
    centroids: &Array2<F>,
    assignments: &[u32],
) -> f64 {
    let squares = points.outer_iter().zip(assignments).map(|(point, &c)| {
        let centroid = centroids.row(c as usize);
        let differences = point.iter().zip(centroid).map(|(&x, &c)| (x - c).as_f64());
        differences.map(|d| d * d).sum::<f64>()
    });
    squares.sum::<f64>() / points.nrows() as f64
}

/// [`KMeans`](super::KMeans) with what linfa expects an estimator to know: the number of clusters and the seed.
///
/// Its [`Fit`] gives a [`Clustering`], which predicts the cluster of new points and transforms points into the
/// centroids that stand for them. Weights of the data set are used.
///
/// ```
/// use linfa::DatasetBase;
/// use linfa::traits::{Fit, Predict};
/// use ndarray::array;
/// use taper::Seed;
/// use taper::cluster::{KMeans, KMeansEstimator};
///
/// let points = array![[0.0_f64, 0.0], [0.2, 0.0], [5.0, 5.0], [5.2, 5.0]];
/// let dataset = DatasetBase::from(points.clone());
/// let model = KMeansEstimator::new(KMeans::new(), 2, Seed::from(1)).fit(&dataset)?;
/// let clusters = model.predict(&points);
/// assert_eq!(clusters[0], clusters[1]);
/// assert_ne!(clusters[0], clusters[2]);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct KMeansEstimator<C = super::KMeans> {
    clusterer: C,
    clusters: usize,
    seed: Seed,
}

impl<C> KMeansEstimator<C> {
    /// Divides points among `clusters` clusters by `clusterer`: [`KMeans`](super::KMeans), its parameters, or another engine.
    #[must_use]
    pub fn new(clusterer: C, clusters: usize, seed: Seed) -> Self {
        Self {
            clusterer,
            clusters,
            seed,
        }
    }
}

impl<F: Float, D: Data<Elem = F>, T, C: Clusterer<F>> Fit<ArrayBase<D, Ix2>, T, Error>
    for KMeansEstimator<C>
where
    ArrayBase<D, Ix2>: linfa::dataset::Records<Elem = F>,
{
    type Object = Clustering<F>;

    fn fit(&self, dataset: &DatasetBase<ArrayBase<D, Ix2>, T>) -> Result<Clustering<F>> {
        let weights = dataset
            .weights()
            .map(|weights| Array1::from_iter(weights.iter().map(|&w| F::from_f64_lossy(w.into()))));
        self.clusterer.cluster(
            dataset.records().view(),
            weights.as_ref().map(|weights| weights.view()),
            self.clusters,
            self.seed,
            None,
        )
    }
}

/// The cluster of each point. linfa's trait has no room for an error: where points cannot be assigned, because of
/// a value that is not finite or another number of axes, all get `usize::MAX`, which is no cluster;
/// [`assign`] says why.
impl<F: Float, D: Data<Elem = F>> PredictInplace<ArrayBase<D, Ix2>, Array1<usize>>
    for Clustering<F>
{
    fn predict_inplace<'a>(&'a self, points: &'a ArrayBase<D, Ix2>, clusters: &mut Array1<usize>) {
        match assign(points.view(), self.centroids.view()) {
            Ok(assignments) => {
                for (to, from) in clusters.iter_mut().zip(assignments) {
                    *to = from as usize;
                }
            }
            Err(_) => clusters.fill(usize::MAX),
        }
    }

    fn default_target(&self, points: &ArrayBase<D, Ix2>) -> Array1<usize> {
        Array1::zeros(points.nrows())
    }
}

/// Each point replaced by its nearest centroid.
impl<F: Float, D: Data<Elem = F>> Transformer<&ArrayBase<D, Ix2>, Result<Array2<F>>>
    for Clustering<F>
where
    for<'a> &'a ArrayBase<D, Ix2>: linfa::dataset::Records,
{
    fn transform(&self, points: &ArrayBase<D, Ix2>) -> Result<Array2<F>> {
        let assignments = assign(points.view(), self.centroids.view())?;
        let rows: Vec<usize> = assignments.into_iter().map(|c| c as usize).collect();
        Ok(self.centroids.select(Axis(0), &rows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{KMeans, Seeding};
    use linfa::traits::Predict;
    use rand::Rng;

    /// Three well separated clouds of 40 points.
    fn clouds() -> Array2<f64> {
        let mut rng = Seed::from(3).rng();
        Array2::from_shape_fn((120, 4), |(i, j)| {
            f64::from(u8::from(i % 3 == j)) * 10.0 + rng.gen_range(-1.0..1.0)
        })
    }

    #[test]
    fn both_engines_reach_the_same_centroids_from_the_same_start() {
        let points = clouds();
        let start = points.select(Axis(0), &[0, 1, 2]);
        let ours = KMeans::new()
            .seeding(Seeding::Given(start.clone()))
            .max_iterations(100)
            .cluster(points.view(), None, 3, Seed::from(0), None)
            .unwrap();
        let theirs = Engine::params(3)
            .init_method(KMeansInit::Precomputed(start))
            .n_runs(1)
            .max_n_iterations(200)
            .tolerance(1e-14)
            .fit(&DatasetBase::from(points.view()))
            .unwrap();
        // Forty points of at most 11: the mean is rounded by a few ulps, and the engine's movement ends below 1e-14.
        let tolerance = 40.0 * 11.0 * f64::EPSILON + 1e-13;
        for (a, b) in ours.centroids.iter().zip(theirs.centroids()) {
            assert!((a - b).abs() <= tolerance, "{a} and {b}");
        }
    }

    #[test]
    fn the_engine_keeps_the_promises_of_a_clusterer() {
        let points = clouds();
        let linfa = LinfaKMeans::new();
        let result = linfa
            .cluster(points.view(), None, 3, Seed::from(5), None)
            .unwrap();
        let again = linfa.cluster(points.view(), None, 3, Seed::from(5), None);
        assert_eq!(again.as_ref(), Ok(&result));
        assert_eq!(
            assign(points.view(), result.centroids.view()),
            Ok(result.assignments)
        );
        let exact = linfa
            .cluster(points.view(), None, 200, Seed::from(5), None)
            .unwrap();
        assert_eq!(exact.report.loss(), Some(0.0));
        assert_eq!(exact.centroids.nrows(), 200);
        let unequal = Array1::from_iter((0..120).map(f64::from));
        let refused = linfa.cluster(points.view(), Some(unequal.view()), 3, Seed::from(5), None);
        assert!(matches!(
            refused,
            Err(Error::Parameter(ParamError::Conflict { .. }))
        ));
        let none = linfa.cluster(points.view(), None, 0, Seed::from(5), None);
        assert!(none.is_err());
    }

    #[test]
    fn the_estimator_is_the_clusterer() {
        let points = clouds();
        let dataset = DatasetBase::from(points.clone());
        let kmeans = KMeans::new();
        let direct = kmeans.cluster(points.view(), None, 3, Seed::from(9), None);
        let fitted: Result<Clustering<f64>> =
            KMeansEstimator::new(kmeans, 3, Seed::from(9)).fit(&dataset);
        assert_eq!(fitted, direct);
        let fitted = fitted.unwrap();
        let predicted: Array1<usize> = fitted.predict(&points);
        assert!(
            predicted
                .iter()
                .zip(&fitted.assignments)
                .all(|(&a, &b)| a == b as usize)
        );
        let replaced = fitted.transform(&points).unwrap();
        for (row, &c) in replaced.outer_iter().zip(&fitted.assignments) {
            assert_eq!(row, fitted.centroids.row(c as usize));
        }
        let other: Array1<usize> = fitted.predict(&Array2::zeros((2, 3)));
        assert!(other.iter().all(|&c| c == usize::MAX));
    }
}
