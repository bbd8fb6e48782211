//! Clustering in the units of the caller, for fits in units of their own.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2};

use crate::cluster::{Clusterer, Clustering};
use crate::{Float, Observer, Result, Seed, check, power};

/// Clusters points that were divided by 2^`exponent`.
///
/// `clusterer` gets the original points, because its parameters (given centroids, a distance) refer to them.
#[derive(Debug)]
pub(super) struct ScaledClusterer<'a, C> {
    pub(super) clusterer: &'a C,
    pub(super) exponent: i32,
}

impl<C> ScaledClusterer<'_, C> {
    fn original<F: Float>(&self, points: &ArrayView2<'_, F>) -> Result<Array2<F>> {
        let points = power::scaled(points, self.exponent);
        check::no_overflow("a point to cluster", &points)?;
        Ok(points)
    }

    fn scaled<F: Float>(&self, mut clustering: Clustering<F>) -> Clustering<F> {
        clustering.centroids = power::scaled(&clustering.centroids.view(), -self.exponent);
        let losses = Array1::from(clustering.report.losses);
        let losses = power::scaled(&losses.view(), -2 * self.exponent);
        clustering.report.losses = losses.to_vec();
        clustering
    }
}

impl<F: Float, C: Clusterer<F>> Clusterer<F> for ScaledClusterer<'_, C> {
    fn cluster(
        &self,
        points: ArrayView2<'_, F>,
        weights: Option<ArrayView1<'_, F>>,
        clusters: usize,
        seed: Seed,
        observer: Option<&dyn Observer>,
    ) -> Result<Clustering<F>> {
        let points = self.original(&points)?;
        let clustering =
            self.clusterer
                .cluster(points.view(), weights, clusters, seed, observer)?;
        Ok(self.scaled(clustering))
    }

    fn cluster_groups(
        &self,
        groups: &[ArrayView2<'_, F>],
        weights: Option<&[ArrayView1<'_, F>]>,
        clusters: usize,
        seed: Seed,
        observer: Option<&dyn Observer>,
    ) -> Result<Vec<Clustering<F>>> {
        let groups = groups.iter().map(|points| self.original(points));
        let groups = groups.collect::<Result<Vec<_>>>()?;
        let views: Vec<_> = groups.iter().map(|points| points.view()).collect();
        let clusterings = self
            .clusterer
            .cluster_groups(&views, weights, clusters, seed, observer)?;
        Ok(clusterings.into_iter().map(|c| self.scaled(c)).collect())
    }
}
