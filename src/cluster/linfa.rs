//! The k-means of `linfa-clustering` as a [`Clusterer`].

use linfa::DatasetBase;
use linfa::traits::Fit;
use linfa_clustering::{KMeans as Engine, KMeansInit};
use ndarray::{Array2, ArrayView1, ArrayView2};

use super::assignment::{assign_checked, check_clusters};
use super::blocks::magnitude;
use super::distinct::cluster_distinct;
use super::kmeans::checked_weights;
use super::{Clusterer, Clustering};
use crate::linfa_arrays::{from_linfa, to_linfa};
use crate::{Error, FitReport, Float, Observer, ParamError, Result, Seed, check};

/// The k-means of `linfa-clustering` as a [`Clusterer`].
///
/// It starts from k-means++ and treats all points alike: weights that differ are an error. It reports no progress:
/// an observer is not called, [`FitReport::iterations`] is zero, and [`FitReport::losses`] holds the final loss alone.
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
    /// At most 300 iterations, one start, a tolerance of 10⁻⁴: the engine's defaults, except that it makes ten starts.
    #[must_use]
    pub fn new() -> Self {
        Self {
            max_iterations: 300,
            restarts: 1,
            tolerance: 1e-4,
        }
    }

    /// Sets the largest number of iterations.
    #[must_use]
    pub fn max_iterations(mut self, max_iterations: usize) -> Self {
        self.max_iterations = max_iterations;
        self
    }

    /// Sets the number of starts; the best result is kept.
    #[must_use]
    pub fn restarts(mut self, restarts: usize) -> Self {
        self.restarts = restarts;
        self
    }

    /// Sets the movement of the centroids at which the iterations end.
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
        _: Option<&dyn Observer>,
    ) -> Result<Clustering<F>> {
        self.validate()?;
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
        let view = points.view();
        let records = to_linfa(&view);
        let dataset = DatasetBase::from(records.view());
        let model = Engine::params_with_rng(clusters, seed.rng())
            .max_n_iterations(self.max_iterations as u64)
            .n_runs(self.restarts)
            .tolerance(F::from_f64_lossy(self.tolerance))
            .init_method(KMeansInit::KMeansPlusPlus)
            .fit(&dataset)
            .map_err(|error| Error::foreign("linfa-clustering", error))?;
        let centroids = from_linfa(model.centroids()).into_owned();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{KMeans, Seeding, assign};
    use ndarray::{Array1, Axis};
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
            .init_method(KMeansInit::Precomputed(crate::linfa_arrays::into_linfa(
                start,
            )))
            .n_runs(1)
            .max_n_iterations(200)
            .tolerance(1e-14)
            .fit(&DatasetBase::from(to_linfa(&points.view()).view()))
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
}
