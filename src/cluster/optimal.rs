//! Optimal k-means in one dimension, by dynamic programming.

use ndarray::{Array2, ArrayView1, ArrayView2};

use super::assignment::{assign_checked, check_clusters};
use super::blocks::magnitude;
use super::kmeans::checked_weights;
use super::{Clusterer, Clustering};
use crate::{FitReport, Float, Observer, Result, Seed, check};

/// [`cluster_scalars`] as a [`Clusterer`], for tests of codebooks that have to be optimal. It ignores the seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OptimalScalar;

impl<F: Float> Clusterer<F> for OptimalScalar {
    fn cluster(
        &self,
        points: ArrayView2<'_, F>,
        weights: Option<ArrayView1<'_, F>>,
        clusters: usize,
        _: Seed,
        _: Option<&dyn Observer>,
    ) -> Result<Clustering<F>> {
        check::same_shape("points", &[points.nrows(), 1], points.shape())?;
        cluster_scalars(points.column(0), weights, clusters)
    }
}

/// The clustering of `values` with the least loss of all clusterings into `clusters` clusters.
///
/// In one dimension an optimal cluster is a run of sorted values, and the best division of the first i values follows
/// from the best divisions of fewer values (Wang and Song, "Ckmeans.1d.dp: optimal k-means clustering in one dimension by
/// dynamic programming", 2011, doi:10.32614/RJ-2011-015). The start of the last run never falls as i grows, so that
/// each row of the table takes O(n log n). The table is not stored, but computed again for each half of the clusters. This takes
/// O(k n log n) time and O(n) memory for n distinct values.
///
/// Centroids are sorted, of shape (clusters, 1). If there are fewer distinct values than clusters, each value is its own
/// centroid, and the surplus centroids repeat them from the first on. Sums are in `f64`; the centroids are rounded to `F`.
///
/// ```
/// use taper::cluster::cluster_scalars;
/// use taper::ndarray::arr1;
///
/// let values = arr1(&[0.0_f64, 10.0, 1.0, 11.0, 30.0]);
/// assert_eq!(cluster_scalars(values.view(), None, 3)?.centroids.column(0).to_vec(), [0.5, 10.5, 30.0]);
/// # Ok::<(), taper::Error>(())
/// ```
///
/// # Errors
///
/// Those of [`Clusterer::cluster`].
pub fn cluster_scalars<F: Float>(
    values: ArrayView1<'_, F>,
    weights: Option<ArrayView1<'_, F>>,
    clusters: usize,
) -> Result<Clustering<F>> {
    check::finite("values", &values)?;
    check_clusters(clusters)?;
    let points = values.insert_axis(ndarray::Axis(1));
    let magnitude = magnitude("a squared distance of values", &points)?;
    let weights = weights
        .map(|weights| checked_weights(points.nrows(), weights))
        .transpose()?
        .flatten();
    let weight = |i: usize| weights.as_ref().map_or(1.0, |weights| weights[i].as_f64());
    let mut sorted: Vec<(F, f64)> = points
        .iter()
        .enumerate()
        .map(|(i, &x)| (x, weight(i)))
        .filter(|&(_, w)| w > 0.0)
        .collect();
    sorted.sort_unstable_by(|a, b| {
        a.0.as_f64()
            .total_cmp(&b.0.as_f64())
            .then(a.1.total_cmp(&b.1))
    });
    sorted.dedup_by(|later, kept| {
        let equal = later.0 == kept.0;
        if equal {
            kept.1 += later.1;
        }
        equal
    });
    let total: f64 = sorted.iter().map(|&(_, w)| w).sum();
    let runs = clusters.min(sorted.len());
    let line = Line::new(&sorted, total);
    let mut ends = Vec::with_capacity(runs);
    line.divide(0, sorted.len(), runs, &mut ends);
    let mut centroids = Vec::with_capacity(clusters);
    let mut start = 0;
    for end in ends {
        centroids.push(line.mean(start, end));
        start = end;
    }
    for c in 0..clusters - runs {
        centroids.push(centroids[c % runs]);
    }
    let assignments = assign_checked(&points, &centroids, magnitude);
    let squares = points
        .iter()
        .zip(&assignments)
        .enumerate()
        .map(|(i, (x, &c))| weight(i) * (x.as_f64() - centroids[c as usize].as_f64()).powi(2));
    let report = FitReport {
        iterations: 0,
        converged: true,
        losses: vec![squares.sum::<f64>() / total],
        ..FitReport::default()
    };
    let centroids = Array2::from_shape_vec((clusters, 1), centroids);
    let centroids = centroids.expect("each cluster has one centroid");
    Ok(Clustering {
        centroids,
        assignments,
        report,
    })
}

/// Sorted distinct values with weights, and their cumulative sums.
struct Line<'a, F> {
    values: &'a [(F, f64)],
    center: f64,
    /// Σ w, Σ w x and Σ w x² of the first i values, with x relative to the center.
    sums: Vec<[f64; 3]>,
}

impl<'a, F: Float> Line<'a, F> {
    fn new(values: &'a [(F, f64)], total: f64) -> Self {
        let center = values.iter().map(|&(x, w)| x.as_f64() * w).sum::<f64>() / total;
        let mut sum = [0.0; 3];
        let mut sums = vec![sum];
        sums.extend(values.iter().map(|&(x, w)| {
            let x = x.as_f64() - center;
            sum[0] += w;
            sum[1] += w * x;
            sum[2] += w * x * x;
            sum
        }));
        Self {
            values,
            center,
            sums,
        }
    }

    /// Σ w (x − mean)² over the values from `start` to before `end`.
    fn cost(&self, start: usize, end: usize) -> f64 {
        if end - start <= 1 {
            return 0.0;
        }
        let (a, b) = (self.sums[start], self.sums[end]);
        let (mass, sum) = (b[0] - a[0], b[1] - a[1]);
        (b[2] - a[2] - sum * sum / mass).max(0.0)
    }

    fn mean(&self, start: usize, end: usize) -> F {
        // Of a single value, the value itself; of several, the mean lies between the first and the last.
        let run = &self.values[start..end];
        match run {
            [single] => single.0,
            _ => {
                let mass: f64 = run.iter().map(|&(_, w)| w).sum();
                let from_center = |&(x, w): &(F, f64)| w * (x.as_f64() - self.center);
                let sum: f64 = run.iter().map(from_center).sum();
                F::from_f64_lossy(self.center + sum / mass)
            }
        }
    }

    /// Appends the ends of the runs of the best division of `start..end` into `runs` runs.
    ///
    /// There is at least one run, and at least one value for each.
    fn divide(&self, start: usize, end: usize, runs: usize, ends: &mut Vec<usize>) {
        if runs <= 1 || end - start <= runs {
            // One run, or a run for each value.
            let first = if runs <= 1 { end } else { start + 1 };
            ends.extend(first..=end);
            return;
        }
        let half = runs / 2;
        let count = end - start;
        let mut row = Row {
            costs: (0..=count).map(|j| self.cost(start, start + j)).collect(),
            middles: vec![0; count + 1],
        };
        let mut next = row.clone();
        for run in 2..=runs {
            let carry = |i: usize, row: &Row| if run - 1 == half { i } else { row.middles[i] };
            self.fill(
                start,
                (run, count),
                (run - 1, count - 1),
                &row,
                &mut next,
                &carry,
            );
            std::mem::swap(&mut row, &mut next);
        }
        let middle = start + row.middles[count];
        self.divide(start, middle, half, ends);
        self.divide(middle, end, runs - half, ends);
    }

    /// Fills `next` for the lengths `lengths`, whose last run begins within `begins`; both ranges include their ends.
    fn fill(
        &self,
        start: usize,
        lengths: (usize, usize),
        begins: (usize, usize),
        row: &Row,
        next: &mut Row,
        carry: &impl Fn(usize, &Row) -> usize,
    ) {
        if lengths.0 > lengths.1 {
            return;
        }
        let length = lengths.0 + (lengths.1 - lengths.0) / 2;
        let mut best = (f64::INFINITY, begins.0);
        for begin in begins.0..=begins.1.min(length - 1) {
            let cost = row.costs[begin] + self.cost(start + begin, start + length);
            if cost < best.0 {
                best = (cost, begin);
            }
        }
        next.costs[length] = best.0;
        next.middles[length] = carry(best.1, row);
        self.fill(
            start,
            (lengths.0, length - 1),
            (begins.0, best.1),
            row,
            next,
            carry,
        );
        self.fill(
            start,
            (length + 1, lengths.1),
            (best.1, begins.1),
            row,
            next,
            carry,
        );
    }
}

/// For the first values, by their number: the least cost, and where the first half of the runs ends.
#[derive(Clone)]
struct Row {
    costs: Vec<f64>,
    middles: Vec<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::cluster::KMeans;
    use ndarray::{Array1, array};
    use rand::Rng;

    /// The least loss over all divisions of sorted values into runs.
    fn brute_force(values: &[(f64, f64)], runs: usize) -> f64 {
        let cost = |run: &[(f64, f64)]| {
            let mass: f64 = run.iter().map(|v| v.1).sum();
            let mean = run.iter().map(|v| v.0 * v.1).sum::<f64>() / mass;
            run.iter().map(|v| v.1 * (v.0 - mean).powi(2)).sum::<f64>()
        };
        if runs == 1 || values.len() <= 1 {
            return if values.is_empty() { 0.0 } else { cost(values) };
        }
        (1..=values.len())
            .map(|end| cost(&values[..end]) + brute_force(&values[end..], runs - 1))
            .fold(f64::INFINITY, f64::min)
    }

    #[test]
    fn equals_brute_force() {
        let mut rng = Seed::from(1).rng();
        for case in 0..200 {
            let count = rng.gen_range(1..10);
            let range: f64 = if case % 2 == 0 { 3.0 } else { 100.0 };
            let values =
                Array1::from_shape_simple_fn(count, || rng.gen_range(-range..range).round());
            let weights = Array1::from_shape_simple_fn(count, || rng.gen_range(1..5) as f64);
            let mut sorted: Vec<(f64, f64)> = values
                .iter()
                .copied()
                .zip(weights.iter().copied())
                .collect();
            sorted.sort_by(|a, b| a.partial_cmp(b).unwrap());
            for clusters in 1..6 {
                let expected = brute_force(&sorted, clusters) / weights.sum();
                let found = cluster_scalars(values.view(), Some(weights.view()), clusters).unwrap();
                let loss = found.report.loss().unwrap();
                // Sums of up to ten squares, each of at most (2·range)².
                let tolerance = 40.0 * f64::EPSILON * range * range;
                assert!(
                    (loss - expected).abs() <= tolerance,
                    "{values} {weights} {clusters}: {loss} {expected}"
                );
            }
        }
    }

    #[test]
    fn is_never_worse_than_iterations() {
        let mut rng = Seed::from(2).rng();
        let points =
            Array2::from_shape_simple_fn((3000, 1), || rng.gen_range(-1.0_f32..1.0).powi(3));
        for clusters in [2, 7, 16, 64] {
            let seed = Seed::from(3);
            let best = OptimalScalar
                .cluster(points.view(), None, clusters, seed, None)
                .unwrap();
            let found = KMeans::new()
                .restarts(4)
                .cluster(points.view(), None, clusters, seed, None)
                .unwrap();
            let (best, found) = (best.report.loss().unwrap(), found.report.loss().unwrap());
            // Centroids below one, rounded to half an ulp, cost no more than that squared.
            assert!(
                best <= found + f64::from(f32::EPSILON).powi(2),
                "{clusters}: {best} {found}"
            );
        }
    }

    #[test]
    fn surplus_clusters_and_weightless_values() {
        let values = array![2.0_f32, 1.0, 2.0, 5.0];
        let result = cluster_scalars(values.view(), None, 5).unwrap();
        assert_eq!(result.centroids, array![[1.0], [2.0], [5.0], [1.0], [2.0]]);
        assert_eq!(result.assignments, [1, 0, 1, 2]);
        assert_eq!(result.report.losses, [0.0]);
        let weights = array![1.0, 1.0, 0.0, 0.0];
        let result = cluster_scalars(values.view(), Some(weights.view()), 2).unwrap();
        assert_eq!(result.assignments, [1, 0, 1, 1]);
        assert_eq!(result.report.losses, [0.0]);
        let points = Array2::<f32>::zeros((3, 2));
        let result = OptimalScalar.cluster(points.view(), None, 2, Seed::default(), None);
        assert!(matches!(result, Err(Error::ShapeMismatch { .. })));
    }
}
