//! The sums for the means of clusters, and the loss, in one pass over the points.

use ndarray::ArrayView2;

use super::Level;
use crate::Float;

/// The sums of the points of each cluster, their mass, and the loss; all in double precision.
#[derive(Debug, Clone)]
pub(crate) struct Sums {
    /// (clusters, axes): the weighted sum of the points.
    pub(crate) sums: Vec<f64>,
    /// The sum of the weights.
    pub(crate) mass: Vec<f64>,
    /// Σ w ‖x − c‖², split over eight sums by axis; see [`loss`](Self::loss).
    squares: [f64; 8],
}

impl Sums {
    pub(crate) fn new(clusters: usize, axes: usize) -> Self {
        Self {
            sums: vec![0.0; clusters * axes],
            mass: vec![0.0; clusters],
            squares: [0.0; 8],
        }
    }

    /// Adds the sums of other points.
    pub(crate) fn add(&mut self, other: &Self) {
        let add = |to: &mut [f64], from: &[f64]| {
            for (to, from) in to.iter_mut().zip(from) {
                *to += from;
            }
        };
        add(&mut self.sums, &other.sums);
        add(&mut self.mass, &other.mass);
        add(&mut self.squares, &other.squares);
    }

    /// Σ w ‖x − c‖².
    pub(crate) fn loss(&self) -> f64 {
        self.squares.iter().sum()
    }
}

/// Adds the points `first..first + clusters.len()` of `points`, whose rows are contiguous, to their clusters.
///
/// `weights` holds a weight for each of all points.
pub(crate) fn accumulate<F: Float>(
    level: Level,
    points: ArrayView2<'_, F>,
    first: usize,
    clusters: &[u32],
    weights: Option<&[F]>,
    centroids: &[F],
    out: &mut Sums,
) {
    let axes = points.ncols();
    assert!(axes <= 1 || points.strides()[1] == 1);
    assert!(first + clusters.len() <= points.nrows());
    assert!(weights.is_none_or(|weights| weights.len() == points.nrows()));
    assert_eq!(centroids.len(), out.sums.len());
    assert_eq!(out.sums.len(), out.mass.len() * axes);
    let limit = out.mass.len();
    assert!(clusters.iter().all(|&c| (c as usize) < limit));
    let work = Work {
        points: points.reborrow(),
        first,
        clusters,
        weights,
        centroids,
    };
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => {
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            fn wrapper<F: Float>(work: Work<'_, F>, out: &mut Sums) {
                // SAFETY: the lengths are checked above.
                unsafe { work.run(out) }
            }
            // SAFETY: a level is only chosen where the processor has it.
            unsafe { wrapper(work, out) }
        }
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => {
            #[target_feature(enable = "avx2,fma")]
            fn wrapper<F: Float>(work: Work<'_, F>, out: &mut Sums) {
                // SAFETY: the lengths are checked above.
                unsafe { work.run(out) }
            }
            // SAFETY: a level is only chosen where the processor has it.
            unsafe { wrapper(work, out) }
        }
        // SAFETY: the lengths are checked above.
        _ => unsafe { work.run(out) },
    }
}

struct Work<'a, F> {
    points: ArrayView2<'a, F>,
    first: usize,
    clusters: &'a [u32],
    weights: Option<&'a [F]>,
    centroids: &'a [F],
}

impl<F: Float> Work<'_, F> {
    /// # Safety
    ///
    /// The lengths must be as [`accumulate`] asserts.
    #[inline(always)]
    unsafe fn run(self, out: &mut Sums) {
        // SAFETY: the caller vouches for the lengths.
        unsafe {
            match self.points.ncols() {
                1 => self.run_for::<1>(out),
                2 => self.run_for::<2>(out),
                4 => self.run_for::<4>(out),
                8 => self.run_for::<8>(out),
                16 => self.run_for::<16>(out),
                _ => self.run_for::<0>(out),
            }
        }
    }

    /// `D` is the number of axes where it is known when compiling, or else 0.
    ///
    /// # Safety
    ///
    /// The lengths must be as [`accumulate`] asserts.
    #[inline(always)]
    // A lane is one of three places at once: in the row, in the sums and in the squares.
    #[allow(clippy::needless_range_loop)]
    unsafe fn run_for<const D: usize>(self, out: &mut Sums) {
        let axes = if D == 0 { self.points.ncols() } else { D };
        let stride = self.points.strides()[0];
        let rows = self.points.as_ptr();
        let centroids = self.centroids.as_ptr();
        let sums = out.sums.as_mut_ptr();
        let mass = out.mass.as_mut_ptr();
        let mut squares = out.squares;
        for (i, &cluster) in self.clusters.iter().enumerate() {
            let i = self.first + i;
            let cluster = cluster as usize;
            // SAFETY: i is below the number of rows, which lie `stride` apart with contiguous values; the cluster is
            // below the number of centroids.
            unsafe {
                let row = rows.offset(i as isize * stride);
                let centroid = centroids.add(cluster * axes);
                let sum = sums.add(cluster * axes);
                let weight = match self.weights {
                    Some(weights) => weights.get_unchecked(i).as_f64(),
                    None => 1.0,
                };
                *mass.add(cluster) += weight;
                for start in (0..axes).step_by(8) {
                    for lane in 0..8.min(axes - start) {
                        let j = start + lane;
                        let x = (*row.add(j)).as_f64();
                        let c = (*centroid.add(j)).as_f64();
                        let difference = x - c;
                        if self.weights.is_some() {
                            *sum.add(j) += weight * x;
                            squares[lane] += weight * (difference * difference);
                        } else {
                            *sum.add(j) += x;
                            squares[lane] += difference * difference;
                        }
                    }
                }
            }
        }
        out.squares = squares;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Seed;
    use crate::kernels::sizes;
    use ndarray::{Array2, s};

    /// Compares the kernel at every level with a plain loop, bit for bit.
    fn every_level_equals_the_loop<F: Float>() {
        const CLUSTERS: usize = 3;
        for axes in sizes((1..=18).chain([31, 32, 40])) {
            let number = |i: usize| F::from_f64_lossy(Seed::from(axes as u64).uniform(i as u64));
            // Rows with gaps between them, and a range that leaves out the first and the last rows.
            let all = Array2::from_shape_fn((30, axes + 2), |(i, j)| number(i * 50 + j));
            let points = all.slice(s![.., 1..=axes]);
            let (first, count) = (4, 21);
            let clusters: Vec<u32> = (0..count).map(|i| (i * 7 % CLUSTERS) as u32).collect();
            let weights: Vec<F> = (0..30).map(|i| number(5000 + i).abs()).collect();
            let centroids: Vec<F> = (0..CLUSTERS * axes).map(|i| number(9000 + i)).collect();
            for weights in [None, Some(weights.as_slice())] {
                // Sums start from values that are not zero.
                let start = || {
                    let mut sums = Sums::new(CLUSTERS, axes);
                    sums.sums.fill(0.25);
                    sums.mass.fill(2.0);
                    sums
                };
                let mut expected = start();
                for (i, &cluster) in clusters.iter().enumerate() {
                    let (point, cluster) = (first + i, cluster as usize);
                    let weight = weights.map(|weights| weights[point].as_f64());
                    expected.mass[cluster] += weight.unwrap_or(1.0);
                    for j in 0..axes {
                        let x = points[[point, j]].as_f64();
                        let d = x - centroids[cluster * axes + j].as_f64();
                        expected.sums[cluster * axes + j] += weight.map_or(x, |w| w * x);
                        expected.squares[j % 8] += weight.map_or(d * d, |w| w * (d * d));
                    }
                }
                for level in Level::available() {
                    let mut sums = start();
                    accumulate(
                        level, points, first, &clusters, weights, &centroids, &mut sums,
                    );
                    let context = format!("{level:?}, {axes} axes");
                    assert_eq!(sums.sums, expected.sums, "{context}");
                    assert_eq!(sums.mass, expected.mass, "{context}");
                    assert_eq!(sums.squares, expected.squares, "{context}");
                }
            }
        }
    }

    #[test]
    fn every_level_equals_the_loop_in_both_precisions() {
        every_level_equals_the_loop::<f32>();
        every_level_equals_the_loop::<f64>();
    }
}
