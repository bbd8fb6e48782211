//! The nearest centroid of every point, with the help of the results of the iteration before.
//!
//! Towards the end of k-means few centroids still move. A point's score against a centroid that did not move is the
//! same number as before. Therefore
//!
//! - a point whose own centroid stayed is compared only with the centroids that moved;
//! - so is a point whose own centroid moved, if one of those that moved now scores better than its own did before;
//! - only the other points are compared with the centroids that stayed, too.
//!
//! Scores are compared as the kernels round them and ties fall to the lowest number, so that the result is bit for bit that of
//! a comparison with all centroids.

use crate::Float;
use crate::kernels::Level;
use crate::kernels::distance::{BLOCK, half_squared_norms, nearest};

/// Multiply-adds that have to be saved for each point to make the search with known results faster.
const WORTH: usize = 512;
/// Points that are searched together: few, so that they are still in the cache for the sums that follow; more if points wait
/// until they fill a block.
const FEW: usize = 4 * BLOCK;
const MORE: usize = 32 * BLOCK;

/// The centroids that points are assigned to, in the frame of the kernels.
#[derive(Debug)]
pub(super) struct Search<F> {
    level: Level,
    axes: usize,
    all: Part<F>,
    split: Option<Split<F>>,
}

/// Some of the centroids.
#[derive(Debug)]
struct Part<F> {
    rows: Vec<F>,
    half_norms: Vec<F>,
    /// Their numbers among all centroids, rising.
    numbers: Vec<u32>,
}

#[derive(Debug)]
struct Split<F> {
    has_moved: Vec<bool>,
    moved: Part<F>,
    still: Part<F>,
}

/// The numbers and scores of the nearest centroids of some points.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known<'a, F> {
    pub(super) numbers: &'a [u32],
    pub(super) scores: &'a [F],
}

impl<F: Float> Part<F> {
    fn new(rows: Vec<F>, axes: usize, numbers: Vec<u32>) -> Self {
        let mut half_norms = Vec::new();
        half_squared_norms(&rows, axes, &mut half_norms);
        Self {
            rows,
            half_norms,
            numbers,
        }
    }

    /// The centroids of `all` for which `keep` is true.
    fn of(all: &[F], axes: usize, keep: impl Fn(usize) -> bool) -> Self {
        let (mut rows, mut numbers) = (Vec::new(), Vec::new());
        for (c, row) in all.chunks_exact(axes).enumerate() {
            if keep(c) {
                rows.extend_from_slice(row);
                numbers.push(c as u32);
            }
        }
        Self::new(rows, axes, numbers)
    }

    /// The number of the centroid at `index`. A part without centroids finds none, and its 0 is not used.
    fn number(&self, index: u32) -> u32 {
        match &self.numbers[..] {
            [] => 0,
            numbers => numbers[index as usize],
        }
    }
}

impl<F: Float> Search<F> {
    /// For centroids with these `rows`; `before` are those that the points' known scores belong to, in the same frame.
    pub(super) fn new(rows: Vec<F>, axes: usize, before: Option<&[F]>) -> Self {
        let count = rows.len() / axes.max(1);
        let split = before
            .filter(|before| before.len() == rows.len())
            .and_then(|before| {
                let pairs = rows.chunks_exact(axes).zip(before.chunks_exact(axes));
                let has_moved: Vec<bool> = pairs.map(|(new, old)| new != old).collect();
                let moved = has_moved.iter().filter(|&&moved| moved).count();
                // Otherwise the bookkeeping for each point costs more than it saves.
                let spared = (count - moved) * axes;
                (spared >= WORTH).then(|| Split {
                    moved: Part::of(&rows, axes, |c| has_moved[c]),
                    still: Part::of(&rows, axes, |c| !has_moved[c]),
                    has_moved,
                })
            });
        Self {
            level: Level::current(),
            axes,
            all: Part::new(rows, axes, (0..count as u32).collect()),
            split,
        }
    }

    /// The number of points that are best searched together.
    pub(super) fn together(&self) -> usize {
        if self.split.is_some() { MORE } else { FEW }
    }

    /// The nearest centroids of the points in `blocks`, as many as `numbers` and `scores` have room for.
    pub(super) fn run(
        &self,
        blocks: &[F],
        known: Option<Known<'_, F>>,
        numbers: &mut [u32],
        scores: &mut [F],
    ) {
        match (&self.split, known) {
            (Some(split), Some(known)) => self.look_again(split, blocks, known, numbers, scores),
            _ => {
                let outs = numbers.chunks_mut(BLOCK).zip(scores.chunks_mut(BLOCK));
                for (block, (numbers, scores)) in self.blocks(blocks).zip(outs) {
                    let (best, index) = self.least(block, &self.all, [F::infinity(); BLOCK]);
                    numbers.copy_from_slice(&index[..numbers.len()]);
                    scores.copy_from_slice(&best[..scores.len()]);
                }
            }
        }
    }

    fn blocks<'a>(&self, blocks: &'a [F]) -> impl Iterator<Item = &'a [F]> {
        blocks.chunks_exact(self.axes * BLOCK)
    }

    /// The least scores of the points of a block below those in `start`, and the indices in `part` that have them.
    fn least(&self, block: &[F], part: &Part<F>, start: [F; BLOCK]) -> ([F; BLOCK], [u32; BLOCK]) {
        let (mut best, mut index) = (start, [0; BLOCK]);
        let (rows, half_norms) = (&part.rows, &part.half_norms);
        nearest(
            self.level, block, self.axes, rows, half_norms, &mut best, &mut index,
        );
        (best, index)
    }

    fn look_again(
        &self,
        split: &Split<F>,
        blocks: &[F],
        known: Known<'_, F>,
        numbers: &mut [u32],
        scores: &mut [F],
    ) {
        let mut waiting = Waiting::new(self.axes);
        let count = numbers.len().min(scores.len());
        for (first, block) in (0..count).step_by(BLOCK).zip(self.blocks(blocks)) {
            let points = first..count.min(first + BLOCK);
            // The next larger number, so that equal scores are found too.
            let mut start = [F::infinity(); BLOCK];
            for (start, i) in start.iter_mut().zip(points.clone()) {
                if !split.has_moved[known.numbers[i] as usize] {
                    *start = known.scores[i].next_above();
                }
            }
            let (best, index) = self.least(block, &split.moved, start);
            for (lane, i) in points.enumerate() {
                let (own, score) = (known.numbers[i], known.scores[i]);
                let found = (best[lane], split.moved.number(index[lane]));
                let (score, number) = if !split.has_moved[own as usize] {
                    lower((score, own), found, best[lane] < start[lane])
                } else {
                    // The scores of centroids that stayed are at least `score`.
                    if found.0 >= score {
                        waiting.push(block, lane, i);
                        if waiting.count == BLOCK {
                            scores[i] = found.0;
                            numbers[i] = found.1;
                            self.compare_with_still(split, &mut waiting, numbers, scores);
                            continue;
                        }
                    }
                    found
                };
                scores[i] = score;
                numbers[i] = number;
            }
        }
        self.compare_with_still(split, &mut waiting, numbers, scores);
    }

    /// Compares the waiting points, which have their best score of the moved centroids, with those that did not move.
    fn compare_with_still(
        &self,
        split: &Split<F>,
        waiting: &mut Waiting<F>,
        numbers: &mut [u32],
        scores: &mut [F],
    ) {
        let mut start = [F::infinity(); BLOCK];
        let points = &waiting.points[..waiting.count];
        for (start, &i) in start.iter_mut().zip(points) {
            *start = scores[i].next_above();
        }
        let (best, index) = self.least(&waiting.block, &split.still, start);
        for (lane, &i) in points.iter().enumerate() {
            let found = (best[lane], split.still.number(index[lane]));
            let is_new = best[lane] < start[lane];
            (scores[i], numbers[i]) = lower((scores[i], numbers[i]), found, is_new);
        }
        waiting.count = 0;
    }
}

/// The lower of two scores with its number, ties to the lower number; `found` counts where it `is_new`.
#[inline(always)]
fn lower<F: Float>(own: (F, u32), found: (F, u32), is_new: bool) -> (F, u32) {
    if is_new && (found.0 < own.0 || found.1 < own.1) {
        found
    } else {
        own
    }
}

/// Points that wait until they fill a block.
struct Waiting<F> {
    block: Vec<F>,
    points: [usize; BLOCK],
    count: usize,
}

impl<F: Float> Waiting<F> {
    fn new(axes: usize) -> Self {
        Self {
            block: vec![F::zero(); axes * BLOCK],
            points: [0; BLOCK],
            count: 0,
        }
    }

    /// Adds the point in `lane` of a block, number `place` of all; there is room for it.
    fn push(&mut self, block: &[F], lane: usize, place: usize) {
        let rows = self
            .block
            .chunks_exact_mut(BLOCK)
            .zip(block.chunks_exact(BLOCK));
        for (to, from) in rows {
            to[self.count] = from[lane];
        }
        self.points[self.count] = place;
        self.count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    /// Integer coordinates, so that many scores are equal.
    fn integers(count: usize, rng: &mut impl Rng) -> Vec<f32> {
        (0..count)
            .map(|_| f32::from(rng.gen_range(-2_i8..=2)))
            .collect()
    }

    /// For any share of moved centroids, over several iterations, results equal those of a search without known results.
    #[test]
    fn known_results_do_not_change_the_result() {
        for (axes, count, points) in [(1, 700, 65), (2, 400, 200), (3, 300, 1000), (8, 90, 640)] {
            for (seed, ties) in [(1, false), (2, true), (3, true)] {
                let mut rng = crate::Seed::from(seed).rng();
                let draw = |count, rng: &mut rand_xoshiro::Xoshiro256PlusPlus| {
                    if ties {
                        return integers(count, rng);
                    }
                    (0..count)
                        .map(|_| rng.gen_range(-1.0..1.0_f32))
                        .collect::<Vec<_>>()
                };
                let blocks = points_in_blocks(&draw(points * axes, &mut rng), axes);
                let mut rows = draw(count * axes, &mut rng);
                let (mut numbers, mut scores) = (vec![0; points], vec![0.0; points]);
                Search::new(rows.clone(), axes, None).run(&blocks, None, &mut numbers, &mut scores);
                for share in [0.8, 0.5, 0.5, 0.2, 0.05, 0.0] {
                    let before = rows.clone();
                    for row in rows.chunks_exact_mut(axes) {
                        if rng.gen_bool(share) {
                            row.copy_from_slice(&draw(axes, &mut rng));
                        }
                    }
                    let (mut fresh, mut fresh_scores) = (vec![0; points], vec![0.0; points]);
                    let search = Search::new(rows.clone(), axes, None);
                    search.run(&blocks, None, &mut fresh, &mut fresh_scores);
                    let (mut again, mut again_scores) = (vec![0; points], vec![0.0; points]);
                    let known = Known {
                        numbers: &numbers,
                        scores: &scores,
                    };
                    let search = Search::new(rows.clone(), axes, Some(&before));
                    search.run(&blocks, Some(known), &mut again, &mut again_scores);
                    assert_eq!(again, fresh, "{axes} axes, {share} moved");
                    assert_eq!(again_scores, fresh_scores);
                    (numbers, scores) = (again, again_scores);
                }
            }
        }
    }

    fn points_in_blocks(points: &[f32], axes: usize) -> Vec<f32> {
        let count = points.len() / axes;
        let mut blocks = vec![0.0; count.div_ceil(BLOCK) * BLOCK * axes];
        for (i, point) in points.chunks_exact(axes).enumerate() {
            for (j, &x) in point.iter().enumerate() {
                blocks[i / BLOCK * BLOCK * axes + j * BLOCK + i % BLOCK] = x;
            }
        }
        blocks
    }
}
