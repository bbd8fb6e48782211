//! Lloyd's iterations: assign every point to the nearest centroid, move every centroid to its points' mean.

use ndarray::{ArrayView2, Axis};

use super::blocks::Frame;
use super::search::{Known, Search};
use super::seeding::{Potential, padded_weights};
use crate::kernels::Level;
use crate::kernels::accumulate::{Sums, accumulate};
use crate::kernels::distance::BLOCK;
use crate::observer::ObservedFit;
use crate::{FitReport, Float, parallel};

/// The input that all restarts share. Points have been checked, and their rows are contiguous.
#[derive(Debug)]
pub(super) struct Problem<'a, F> {
    pub(super) points: ArrayView2<'a, F>,
    /// Scaled so that the largest is near one.
    pub(super) weights: Option<&'a [F]>,
    /// The largest magnitude of points and given centroids.
    pub(super) magnitude: F,
}

/// When the iterations end.
#[derive(Clone, Copy)]
pub(super) struct Limits<'a> {
    pub(super) iterations: usize,
    pub(super) tolerance: f64,
    pub(super) observed: ObservedFit<'a>,
}

/// The result of one start.
#[derive(Debug)]
pub(super) struct Fit<F> {
    /// (clusters, axes), row by row.
    pub(super) centroids: Vec<F>,
    pub(super) assignments: Vec<u32>,
    pub(super) report: FitReport,
}

impl<F> Fit<F> {
    pub(super) fn loss(&self) -> f64 {
        self.report
            .loss()
            .expect("a fit reports the loss of its start")
    }
}

/// Centroids, the assignments of points to them, and the sums from which the next centroids are computed.
struct State<F> {
    centroids: Vec<F>,
    assignments: Vec<u32>,
    /// The scores of the assignments, in `frame`.
    scores: Vec<F>,
    frame: Frame<F>,
    sums: Sums,
    /// Whether any assignment differs from that of the state before.
    changed: bool,
}

impl<F: Float> State<F> {
    /// Clusters without a point that has weight.
    fn empty(&self) -> Vec<usize> {
        let masses = self.sums.mass.iter().enumerate();
        masses
            .filter(|&(_, &mass)| mass <= 0.0)
            .map(|(c, _)| c)
            .collect()
    }
}

/// The points in blocks, and the frame that they were packed in.
struct Packed<F> {
    frame: Frame<F>,
    blocks: Vec<F>,
}

impl<F: Float> Problem<'_, F> {
    /// Iterates from the centroids `start`.
    pub(super) fn fit(&self, start: Vec<F>, limits: Limits<'_>) -> Fit<F> {
        let total = self.weights.map_or(self.points.nrows() as f64, |weights| {
            weights.iter().map(|w| w.as_f64()).sum()
        });
        let frame = self.frame(&start);
        let blocks = frame.pack(&self.points);
        let mut packed = Packed { frame, blocks };
        let mut state = self.assign(&mut packed, start, None);
        let mut report = FitReport {
            losses: vec![state.sums.loss() / total],
            ..FitReport::default()
        };
        while report.iterations < limits.iterations {
            if limits
                .observed
                .stops(report.iterations, state.sums.loss() / total)
            {
                report.stopped = true;
                break;
            }
            let empty = state.empty();
            if empty.is_empty() && report.iterations > 0 && !state.changed {
                report.converged = true;
                break;
            }
            let mut centroids = self.means(&state);
            if !empty.is_empty() {
                self.relocate(&packed, &mut centroids, &state.assignments, &empty);
            }
            let next = self.assign(&mut packed, centroids, Some(&state));
            report.iterations += 1;
            let (old, new) = (state.sums.loss(), next.sums.loss());
            // Only rounding of means and distances can raise the loss: the fit has converged.
            if new > old {
                report.converged = true;
                break;
            }
            state = next;
            report.losses.push(new / total);
            if old - new <= limits.tolerance * old && limits.tolerance > 0.0 {
                report.converged = true;
                break;
            }
        }
        self.fill_empty(&mut packed, &mut state);
        let last = report.losses.last_mut().expect("the start has a loss");
        *last = state.sums.loss() / total;
        Fit {
            centroids: state.centroids,
            assignments: state.assignments,
            report,
        }
    }

    fn frame(&self, centroids: &[F]) -> Frame<F> {
        let axes = self.points.ncols();
        Frame::new(centroids.chunks_exact(axes), axes, self.magnitude)
    }

    /// The number of points of one task; it does not depend on the number of threads.
    ///
    /// Each task has sums of the size of the centroids, which should be small compared with its points.
    fn chunk(&self, clusters: usize) -> usize {
        let count = self.points.nrows();
        (count / 256)
            .max(2048)
            .max(4 * clusters)
            .next_multiple_of(BLOCK)
    }

    /// Assigns points to their nearest centroids. The state `before` saves work and does not change the result.
    fn assign(
        &self,
        packed: &mut Packed<F>,
        centroids: Vec<F>,
        before: Option<&State<F>>,
    ) -> State<F> {
        let frame = self.frame(&centroids);
        if frame != packed.frame {
            packed.blocks = frame.pack(&self.points);
            packed.frame = frame.clone();
        }
        let axes = self.points.ncols();
        let mut rows = Vec::new();
        frame.rows_into(&centroids, axes, &mut rows);
        let mut rows_before = Vec::new();
        let before_here = before.filter(|before| before.frame == frame);
        if let Some(before) = before_here {
            frame.rows_into(&before.centroids, axes, &mut rows_before);
        }
        let search = Search::new(rows, axes, before_here.map(|_| rows_before.as_slice()));
        let clusters = centroids.len() / axes;
        let level = Level::current();
        let chunk = self.chunk(clusters);
        let mut assignments = vec![0; self.points.nrows()];
        let parts = parallel::map_chunks_mut(&mut assignments, chunk, |i, assignments| {
            let mut scores = vec![F::zero(); assignments.len()];
            let mut sums = Sums::new(clusters, axes);
            let together = search.together();
            let parts = assignments
                .chunks_mut(together)
                .zip(scores.chunks_mut(together));
            for (p, (assignments, scores)) in parts.enumerate() {
                let first = i * chunk + p * together;
                let known = before_here.map(|before| Known {
                    numbers: &before.assignments[first..first + assignments.len()],
                    scores: &before.scores[first..first + assignments.len()],
                });
                let blocks = &packed.blocks[first * axes..];
                search.run(blocks, known, assignments, scores);
                accumulate(
                    level,
                    self.points,
                    first,
                    assignments,
                    self.weights,
                    &centroids,
                    &mut sums,
                );
            }
            (sums, scores)
        });
        let mut parts = parts.into_iter();
        let (mut sums, mut scores) = parts.next().expect("there is at least one point");
        scores.reserve_exact(assignments.len() - scores.len());
        for (part, part_scores) in parts {
            scores.extend(part_scores);
            sums.add(&part);
        }
        State {
            changed: before.is_none_or(|before| before.assignments != assignments),
            centroids,
            assignments,
            scores,
            frame,
            sums,
        }
    }

    /// The means of the clusters; those without mass stay where they are.
    fn means(&self, state: &State<F>) -> Vec<F> {
        let axes = self.points.ncols();
        let mut means = state.centroids.clone();
        let sums = state.sums.sums.chunks_exact(axes);
        for ((mean, sum), &mass) in means.chunks_exact_mut(axes).zip(sums).zip(&state.sums.mass) {
            if mass > 0.0 {
                for (mean, sum) in mean.iter_mut().zip(sum) {
                    *mean = F::from_f64_lossy(sum / mass);
                }
            }
        }
        means
    }

    /// Moves each of the centroids `empty` to the point farthest from all centroids.
    ///
    /// The usual alternative, to split a large cluster, fails for clusters of equal points such as the zeros of pruned
    /// weights. Moving a centroid to the farthest point always lowers the loss.
    fn relocate(
        &self,
        packed: &Packed<F>,
        centroids: &mut [F],
        assignments: &[u32],
        empty: &[usize],
    ) {
        let axes = self.points.ncols();
        let mut rows = Vec::new();
        packed.frame.rows_into(centroids, axes, &mut rows);
        let weights = padded_weights(self.points.nrows(), self.weights);
        let mut potential = Potential::new(&packed.blocks, axes, &weights);
        // Distances to the points' own centroids are enough: no other centroid is much nearer.
        parallel::for_each_chunk_mut(&mut potential.distances, BLOCK * 32, |chunk, distances| {
            for (i, distance) in distances.iter_mut().enumerate() {
                let i = chunk * BLOCK * 32 + i;
                // The padding of the last block.
                let Some(&cluster) = assignments.get(i) else {
                    *distance = F::zero();
                    continue;
                };
                let start = i / BLOCK * axes * BLOCK + i % BLOCK;
                let point = packed.blocks[start..].iter().step_by(BLOCK);
                let centroid = &rows[cluster as usize * axes..][..axes];
                *distance = point.zip(centroid).fold(F::zero(), |sum, (&x, &c)| {
                    let difference = x - c;
                    difference.mul_add(difference, sum)
                });
            }
        });
        for &cluster in empty {
            let Some(point) = potential.farthest() else {
                return;
            };
            let start = cluster * axes;
            for (to, &from) in centroids[start..start + axes]
                .iter_mut()
                .zip(self.points.row(point))
            {
                *to = from;
            }
            let mut row = Vec::new();
            packed
                .frame
                .rows_into(&centroids[start..start + axes], axes, &mut row);
            potential.lower_to(&row);
        }
    }

    /// Fills clusters that the last assignment has left empty.
    fn fill_empty(&self, packed: &mut Packed<F>, state: &mut State<F>) {
        // Each round lowers the loss; more than one round is rarely needed.
        for _ in 0..16 {
            let empty = state.empty();
            if empty.is_empty() {
                return;
            }
            let mut centroids = state.centroids.clone();
            self.relocate(packed, &mut centroids, &state.assignments, &empty);
            let next = self.assign(packed, centroids, Some(state));
            if next.sums.loss() > state.sums.loss() {
                break;
            }
            *state = next;
        }
        self.move_points_to_empty(state);
    }

    /// Moves single points to empty clusters: for distinct points that are closer than the rounding of distances.
    fn move_points_to_empty(&self, state: &mut State<F>) {
        let axes = self.points.ncols();
        let weight = |i: usize| self.weights.map_or(1.0, |weights| weights[i].as_f64());
        let mut members = vec![0_usize; state.sums.mass.len()];
        for (i, &cluster) in state.assignments.iter().enumerate() {
            members[cluster as usize] += usize::from(weight(i) > 0.0);
        }
        for cluster in state.empty() {
            let mut best = (0.0, None);
            for (i, row) in self.points.axis_iter(Axis(0)).enumerate() {
                let own = state.assignments[i] as usize;
                let centroid = &state.centroids[own * axes..][..axes];
                let squares = row
                    .iter()
                    .zip(centroid)
                    .map(|(x, c)| (x.as_f64() - c.as_f64()).powi(2));
                let loss = weight(i) * squares.sum::<f64>();
                if loss > best.0 && members[own] > 1 {
                    best = (loss, Some(i));
                }
            }
            let Some(point) = best.1 else { return };
            members[state.assignments[point] as usize] -= 1;
            members[cluster] += 1;
            state.assignments[point] = cluster as u32;
            for (to, &from) in state.centroids[cluster * axes..]
                .iter_mut()
                .zip(self.points.row(point))
            {
                *to = from;
            }
            state.sums = Sums::new(members.len(), axes);
            accumulate(
                Level::current(),
                self.points,
                0,
                &state.assignments,
                self.weights,
                &state.centroids,
                &mut state.sums,
            );
        }
    }
}
