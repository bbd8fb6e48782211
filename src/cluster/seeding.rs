//! The choice of the first centroids of k-means.

use ndarray::{Array2, ArrayView2, Axis};
use rand::Rng;
use rand::seq::index;

use super::blocks::Frame;
use crate::kernels::Level;
use crate::kernels::distance::{BLOCK, lower_to};
use crate::{Float, Seed, parallel};

/// How the first centroids are chosen.
///
/// ```
/// use taper::Seed;
/// use taper::cluster::{Clusterer, KMeans, Seeding};
/// use taper::ndarray::array;
///
/// let points = array![[0.0_f64], [1.0], [8.0], [9.0]];
/// let given = KMeans::new().seeding(Seeding::Given(array![[0.0], [9.0]]));
/// let result = given.cluster(points.view(), None, 2, Seed::default(), None)?;
/// assert_eq!(result.centroids, array![[0.5], [8.5]]);
/// # Ok::<(), taper::Error>(())
/// ```
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(rename_all = "snake_case"))]
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub enum Seeding {
    /// k-means++: each further centroid is a point drawn with a probability proportional to its squared distance
    /// to the nearest centroid so far (Arthur and Vassilvitskii, "k-means++: the advantages of careful
    /// seeding", SODA 2007, doi:10.5555/1283383.1283494).
    #[default]
    PlusPlus,
    /// Greedy k-means++: the best of 2 + ⌊ln k⌋ such draws for each further centroid. The start is better and takes several
    /// times as long.
    Greedy,
    /// Distinct points drawn uniformly.
    Random,
    /// These centroids, of shape (clusters, axes).
    #[cfg_attr(feature = "model", serde(skip))]
    Given(Array2<f64>),
}

/// The number of points for each cluster in the sample from which `PlusPlus` and `Greedy` draw.
///
/// Each draw reads all points of the sample, while an iteration of k-means reads all points once. A sample of a few hundred
/// points for each cluster gives as good a start as all points.
const POINTS_A_CLUSTER: usize = 256;

/// The indices of `clusters` points, chosen as `seeding` says; `None` for given centroids.
///
/// There must be more distinct points with weight than `clusters`.
pub(super) fn choose<F: Float>(
    seeding: &Seeding,
    points: &ArrayView2<'_, F>,
    weights: Option<&[F]>,
    clusters: usize,
    magnitude: F,
    seed: Seed,
) -> Option<Vec<usize>> {
    let candidates = match seeding {
        Seeding::Given(_) => return None,
        Seeding::Random => return Some(random(points.nrows(), weights, clusters, seed)),
        Seeding::PlusPlus => 1,
        Seeding::Greedy => 2 + (clusters as f64).ln() as usize,
    };
    let count = points.nrows();
    let limit = clusters.saturating_mul(POINTS_A_CLUSTER);
    if count <= limit {
        return Some(plus_plus(
            points, weights, clusters, magnitude, candidates, seed,
        ));
    }
    // One point from each of `limit` runs of nearly equal length.
    let mut rng = seed.derive(1).rng();
    let start = |run: usize| (run as u128 * count as u128 / limit as u128) as usize;
    let sample: Vec<usize> = (0..limit)
        .map(|run| rng.gen_range(start(run)..start(run + 1)))
        .collect();
    let sampled_points = points.select(Axis(0), &sample);
    let sampled_weights: Option<Vec<F>> =
        weights.map(|weights| sample.iter().map(|&i| weights[i]).collect());
    let chosen = plus_plus(
        &sampled_points.view(),
        sampled_weights.as_deref(),
        clusters,
        magnitude,
        candidates,
        seed,
    );
    Some(chosen.into_iter().map(|i| sample[i]).collect())
}

fn random<F: Float>(
    count: usize,
    weights: Option<&[F]>,
    clusters: usize,
    seed: Seed,
) -> Vec<usize> {
    let mut rng = seed.rng();
    match weights {
        None => index::sample(&mut rng, count, clusters.min(count)).into_vec(),
        Some(weights) => {
            let weighty: Vec<usize> = (0..count).filter(|&i| weights[i] > F::zero()).collect();
            index::sample(&mut rng, weighty.len(), clusters.min(weighty.len()))
                .into_iter()
                .map(|i| weighty[i])
                .collect()
        }
    }
}

/// Squared distances to the nearest centroid so far, in blocks; and Σ w d² of each block.
#[derive(Clone)]
pub(super) struct Potential<'a, F> {
    axes: usize,
    blocks: &'a [F],
    /// One for each point, and zeros for the padding of the last block.
    weights: &'a [f64],
    pub(super) distances: Vec<F>,
    masses: Vec<f64>,
    level: Level,
}

/// Points that one task lowers the distances of.
const CHUNK: usize = 256 * BLOCK;

impl<'a, F: Float> Potential<'a, F> {
    /// Starts with infinite distances.
    pub(super) fn new(blocks: &'a [F], axes: usize, weights: &'a [f64]) -> Self {
        Self {
            axes,
            blocks,
            weights,
            distances: vec![F::infinity(); weights.len()],
            masses: vec![0.0; weights.len() / BLOCK],
            level: Level::current(),
        }
    }

    /// Lowers the distances to those from `centroid` where these are less.
    pub(super) fn lower_to(&mut self, centroid: &[F]) {
        let block = self.axes * BLOCK;
        let masses = parallel::map_chunks_mut(&mut self.distances, CHUNK, |chunk, distances| {
            let first = chunk * (CHUNK / BLOCK);
            // Distances and weights are padded to whole blocks.
            let distances = distances.as_chunks_mut::<BLOCK>().0.iter_mut();
            let weights = &self.weights.as_chunks::<BLOCK>().0[first..];
            let blocks = self.blocks[first * block..].chunks_exact(block);
            let masses = distances
                .zip(weights)
                .zip(blocks)
                .map(|((distances, weights), block)| {
                    lower_to(self.level, block, centroid, weights, distances)
                });
            masses.collect::<Vec<f64>>()
        });
        for (to, from) in self.masses.iter_mut().zip(masses.into_iter().flatten()) {
            *to = from;
        }
    }

    fn total(&self) -> f64 {
        self.masses.iter().sum()
    }

    /// The point at which the cumulative mass reaches the fraction `position` of the total; `None` if there is no mass.
    fn draw(&self, position: f64) -> Option<usize> {
        let mut rest = position * self.total();
        let mut last = None;
        for (b, &mass) in self.masses.iter().enumerate() {
            // No point is drawn from a block without mass; a position beyond the end falls into the last block that has some.
            if mass <= 0.0 {
                continue;
            }
            last = Some(b);
            if rest < mass {
                break;
            }
            rest -= mass;
        }
        let start = last? * BLOCK;
        let mut point = None;
        for i in start..start + BLOCK {
            let mass = self.weights[i] * self.distances[i].as_f64();
            if mass <= 0.0 {
                continue;
            }
            point = Some(i);
            if rest < mass {
                break;
            }
            rest -= mass;
        }
        point
    }

    /// The point with the largest w d², the first of equal ones; `None` if all are zero.
    pub(super) fn farthest(&self) -> Option<usize> {
        let mut best = (0.0, None);
        for (i, (weight, distance)) in self.weights.iter().zip(&self.distances).enumerate() {
            let mass = weight * distance.as_f64();
            if mass > best.0 {
                best = (mass, Some(i));
            }
        }
        best.1
    }
}

/// The weights as `f64`, and zero for the padding of the last block.
pub(super) fn padded_weights<F: Float>(count: usize, weights: Option<&[F]>) -> Vec<f64> {
    let mut padded = match weights {
        Some(weights) => weights.iter().map(|w| w.as_f64()).collect(),
        None => vec![1.0; count],
    };
    padded.resize(count.div_ceil(BLOCK) * BLOCK, 0.0);
    padded
}

fn plus_plus<F: Float>(
    points: &ArrayView2<'_, F>,
    weights: Option<&[F]>,
    clusters: usize,
    magnitude: F,
    candidates: usize,
    seed: Seed,
) -> Vec<usize> {
    let axes = points.ncols();
    let owned;
    let contiguous = match points.as_slice() {
        Some(values) => values,
        None => {
            owned = points.iter().copied().collect::<Vec<F>>();
            &owned
        }
    };
    let frame = Frame::new(contiguous.chunks_exact(axes), axes, magnitude);
    let blocks = frame.pack(points);
    let weights = padded_weights(points.nrows(), weights);
    let row = |i: usize| -> Vec<F> {
        let start = i / BLOCK * axes * BLOCK + i % BLOCK;
        blocks[start..]
            .iter()
            .step_by(BLOCK)
            .take(axes)
            .copied()
            .collect()
    };
    let mut rng = seed.rng();
    // The first is drawn by weight alone: all distances are one.
    let mut potential = Potential::new(&blocks, axes, &weights);
    potential.distances.fill(F::one());
    for (mass, weights) in potential.masses.iter_mut().zip(weights.chunks_exact(BLOCK)) {
        *mass = weights.iter().sum();
    }
    let mut chosen = Vec::with_capacity(clusters);
    // If no point of the sample has weight, any point will do.
    let first = potential.draw(rng.gen_range(0.0..1.0)).unwrap_or(0);
    chosen.push(first);
    potential.distances.fill(F::infinity());
    potential.lower_to(&row(first));
    let mut draw = |potential: &Potential<'_, F>| {
        // If no mass is left, all distances have been rounded to zero, and any point will do.
        potential
            .draw(rng.gen_range(0.0..1.0))
            .unwrap_or_else(|| rng.gen_range(0..points.nrows()))
    };
    while chosen.len() < clusters {
        if candidates == 1 {
            let point = draw(&potential);
            chosen.push(point);
            potential.lower_to(&row(point));
            continue;
        }
        let mut best: Option<(f64, usize, Potential<'_, F>)> = None;
        for _ in 0..candidates {
            let point = draw(&potential);
            let mut lowered = potential.clone();
            lowered.lower_to(&row(point));
            let total = lowered.total();
            if best.as_ref().is_none_or(|best| total < best.0) {
                best = Some((total, point, lowered));
            }
        }
        let (_, point, lowered) = best.expect("greedy seeding draws two candidates or more");
        chosen.push(point);
        potential = lowered;
    }
    chosen
}
