//! The case of no more distinct points than clusters, where every point is its own centroid.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use ndarray::{Array2, ArrayView2};

use super::assignment::assign_checked;
use crate::Float;

/// The clustering of loss zero, where `clusters` is at least the number of distinct points that have weight.
///
/// Centroids are the distinct points in the order of their first appearance: first points with weight, then others as long as
/// there are clusters left. Surplus centroids repeat the first ones. `None` if there are more distinct points with weight than
/// clusters, which is found after little more than `clusters` of them. `clusters` by axes values fit into the address space.
pub(super) fn cluster_distinct<F: Float>(
    points: &ArrayView2<'_, F>,
    weights: Option<&[F]>,
    clusters: usize,
    magnitude: F,
) -> Option<(Array2<F>, Vec<u32>)> {
    // The map is never iterated over, so that no result depends on its order.
    let mut seen: HashMap<Vec<u64>, u32> = HashMap::new();
    let mut centroids: Vec<F> = Vec::new();
    let mut assignments = vec![0; points.nrows()];
    let mut complete = true;
    let has_weight = |i: usize| weights.is_none_or(|weights| weights[i] > F::zero());
    for weighty in [true, false] {
        for (i, row) in points.outer_iter().enumerate() {
            if has_weight(i) != weighty {
                continue;
            }
            // Adding zero turns −0 into +0.
            let key = row.iter().map(|&x| (x + F::zero()).as_f64().to_bits());
            let count = seen.len();
            match seen.entry(key.collect()) {
                Entry::Occupied(entry) => assignments[i] = *entry.get(),
                Entry::Vacant(entry) if count < clusters => {
                    assignments[i] = *entry.insert(count as u32);
                    centroids.extend(row);
                }
                Entry::Vacant(_) if weighty => return None,
                Entry::Vacant(_) => complete = false,
            }
        }
    }
    let axes = points.ncols();
    let distinct = seen.len();
    centroids.reserve((clusters - distinct) * axes);
    for c in 0..clusters - distinct {
        let start = c % distinct * axes;
        centroids.extend_from_within(start..start + axes);
    }
    if !complete {
        assignments = assign_checked(points, &centroids, magnitude);
    }
    let centroids = Array2::from_shape_vec((clusters, axes), centroids);
    Some((
        centroids.expect("the surplus fills the clusters"),
        assignments,
    ))
}
