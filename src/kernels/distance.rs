//! Squared distances between many short vectors and a few: the nearest centroid, and the distance to one.
//!
//! Points come in blocks of [`BLOCK`], axis by axis (the values of all points on axis 0, then those on axis 1, …). A vector
//! register holds the same axis of several points, and each number of a centroid is broadcast. All lanes are used for any
//! number of centroids.

use super::lanes::{Lanes, One};
use super::{KernelFloat, Level};

/// Points in a block: a multiple of every [`Lanes::COUNT`] times the vectors that a tile takes.
pub(crate) const BLOCK: usize = 64;

/// The squared norms of centroids (rows of length `axes`), halved.
pub(crate) fn half_squared_norms<F: KernelFloat>(centroids: &[F], axes: usize, out: &mut Vec<F>) {
    let half = F::one() / (F::one() + F::one());
    out.clear();
    out.extend(centroids.chunks_exact(axes.max(1)).map(|centroid| {
        half * centroid
            .iter()
            .fold(F::zero(), |sum, &value| sum + value * value)
    }));
}

/// Lowers `scores`, one for each point of a block, to the least of its scores where that is less, and puts the index of
/// the centroid that has it into `indices`, ties to the lowest.
///
/// The score is ‖c‖²/2 − x·c, which is least for the nearest centroid, summed from the half norm on, axis by axis, by
/// fused multiply-adds.
pub(crate) fn nearest<F: KernelFloat>(
    level: Level,
    block: &[F],
    axes: usize,
    centroids: &[F],
    half_norms: &[F],
    scores: &mut [F; BLOCK],
    indices: &mut [u32; BLOCK],
) {
    // The kernels below rely on these lengths.
    assert_eq!(block.len(), axes * BLOCK);
    assert_eq!(centroids.len(), axes * half_norms.len());
    let mut at = indices.map(|index| F::from_index(index as usize));
    F::nearest(level, block, axes, centroids, half_norms, scores, &mut at);
    *indices = at.map(F::to_index);
}

/// Lowers `distances`, one for each point of a block, to the squared distance from `centroid` where that is less,
/// and returns Σ w d² over the block, summed in an order that is the same at every level.
pub(crate) fn lower_to<F: KernelFloat>(
    level: Level,
    block: &[F],
    centroid: &[F],
    weights: &[f64; BLOCK],
    distances: &mut [F; BLOCK],
) -> f64 {
    assert_eq!(block.len(), centroid.len() * BLOCK);
    F::lower_to(level, block, centroid, weights, distances)
}

/// Σ w d², over eight sums that vector registers can keep.
#[inline(always)]
fn mass<F: DistanceKernels>(weights: &[f64; BLOCK], distances: &[F; BLOCK]) -> f64 {
    let mut sums = [0.0; 8];
    for (distances, weights) in distances.chunks_exact(8).zip(weights.chunks_exact(8)) {
        for ((sum, &distance), weight) in sums.iter_mut().zip(distances).zip(weights) {
            *sum += weight * distance.widen();
        }
    }
    sums.iter().sum()
}

/// The operations of a number type that the kernels of this file use.
pub trait DistanceKernels: num_traits::Float {
    /// A bit pattern from which [`to_index`](Self::to_index) restores the index; never used as a number.
    fn from_index(index: usize) -> Self;
    /// The index that a bit pattern stands for.
    fn to_index(self) -> u32;
    /// The number in double precision.
    fn widen(self) -> f64;
    /// The least number that is greater.
    fn next_above(self) -> Self;
    #[doc(hidden)]
    fn nearest(
        level: Level,
        block: &[Self],
        axes: usize,
        centroids: &[Self],
        half_norms: &[Self],
        scores: &mut [Self; BLOCK],
        at: &mut [Self; BLOCK],
    );
    #[doc(hidden)]
    fn lower_to(
        level: Level,
        block: &[Self],
        centroid: &[Self],
        weights: &[f64; BLOCK],
        distances: &mut [Self; BLOCK],
    ) -> f64;
}

/// # Safety
///
/// The instruction set of `V` must be enabled, and the lengths be as [`nearest`] asserts.
#[inline(always)]
// Loops over constant ranges, which unroll into registers.
#[allow(clippy::needless_range_loop)]
unsafe fn nearest_for<F: DistanceKernels, V: Lanes<F>, const P: usize, const A: usize>(
    block: &[F],
    axes: usize,
    centroids: &[F],
    half_norms: &[F],
    scores: &mut [F; BLOCK],
    at: &mut [F; BLOCK],
) {
    const { assert!(BLOCK.is_multiple_of(V::COUNT * P)) };
    let axes = if A == 0 { axes } else { A };
    let count = half_norms.len();
    for first in (0..BLOCK).step_by(V::COUNT * P) {
        // SAFETY: `first` and the V::COUNT · P values after it lie in a row of BLOCK values; a tile at `c` reads the
        // rows c..c + C of `centroids`, which the loops keep below `count`.
        unsafe {
            let points = block.as_ptr().add(first);
            let mut best = [V::splat(F::zero()); P];
            let mut index = best;
            for p in 0..P {
                best[p] = V::load(scores.as_ptr().add(first + p * V::COUNT));
                index[p] = V::load(at.as_ptr().add(first + p * V::COUNT));
            }
            let mut c = 0;
            while c + 4 <= count {
                tile::<F, V, P, 4>(
                    points, axes, centroids, half_norms, c, &mut best, &mut index,
                );
                c += 4;
            }
            while c < count {
                tile::<F, V, P, 1>(
                    points, axes, centroids, half_norms, c, &mut best, &mut index,
                );
                c += 1;
            }
            for (p, (best, index)) in best.into_iter().zip(index).enumerate() {
                best.store(scores.as_mut_ptr().add(first + p * V::COUNT));
                index.store(at.as_mut_ptr().add(first + p * V::COUNT));
            }
        }
    }
}

/// [`nearest_for`], with usual numbers of axes as constants, so that its loops unroll.
///
/// # Safety
///
/// As [`nearest_for`].
#[inline(always)]
unsafe fn nearest_in<F: DistanceKernels, V: Lanes<F>, const P: usize>(
    block: &[F],
    axes: usize,
    centroids: &[F],
    half_norms: &[F],
    scores: &mut [F; BLOCK],
    at: &mut [F; BLOCK],
) {
    // SAFETY: the caller vouches for the instruction set and the lengths.
    unsafe {
        match axes {
            4 => nearest_for::<F, V, P, 4>(block, axes, centroids, half_norms, scores, at),
            8 => nearest_for::<F, V, P, 8>(block, axes, centroids, half_norms, scores, at),
            _ => nearest_for::<F, V, P, 0>(block, axes, centroids, half_norms, scores, at),
        }
    }
}

/// Compares P vectors of points with the C centroids from `c` on.
///
/// # Safety
///
/// As [`nearest_in`]; `points` is valid for V::COUNT · P values at each multiple of BLOCK below axes · BLOCK, and
/// c + C is at most the number of centroids.
#[inline(always)]
// Loops over constant ranges, which unroll into registers.
#[allow(clippy::needless_range_loop)]
unsafe fn tile<F: DistanceKernels, V: Lanes<F>, const P: usize, const C: usize>(
    points: *const F,
    axes: usize,
    centroids: &[F],
    half_norms: &[F],
    c: usize,
    best: &mut [V; P],
    index: &mut [V; P],
) {
    // SAFETY: the caller vouches for the instruction set and the ranges.
    unsafe {
        let rows = centroids.as_ptr().add(c * axes);
        let mut scores = [[best[0]; P]; C];
        for i in 0..C {
            scores[i] = [V::splat(*half_norms.as_ptr().add(c + i)); P];
        }
        for j in 0..axes {
            let mut x = [best[0]; P];
            for p in 0..P {
                x[p] = V::load(points.add(j * BLOCK + p * V::COUNT));
            }
            for i in 0..C {
                let value = V::splat(*rows.add(i * axes + j));
                for p in 0..P {
                    scores[i][p] = x[p].negative_mul_add(value, scores[i][p]);
                }
            }
        }
        for i in 0..C {
            let this = V::splat(F::from_index(c + i));
            for p in 0..P {
                let less = scores[i][p].less(best[p]);
                best[p] = V::select(less, scores[i][p], best[p]);
                index[p] = V::select(less, this, index[p]);
            }
        }
    }
}

/// # Safety
///
/// The instruction set of `V` must be enabled, and the lengths be as [`lower_to`] asserts.
#[inline(always)]
unsafe fn lower_to_in<F: DistanceKernels, V: Lanes<F>, const P: usize>(
    block: &[F],
    centroid: &[F],
    distances: &mut [F; BLOCK],
) {
    const { assert!(BLOCK.is_multiple_of(V::COUNT * P)) };
    for first in (0..BLOCK).step_by(V::COUNT * P) {
        // SAFETY: `first` and the V::COUNT · P values after it lie in a row of BLOCK values, and the block has as many
        // rows as the centroid values.
        unsafe {
            let points = block.as_ptr().add(first);
            let mut sums = [V::splat(F::zero()); P];
            for (j, &value) in centroid.iter().enumerate() {
                let value = V::splat(value);
                for (p, sum) in sums.iter_mut().enumerate() {
                    let difference = V::load(points.add(j * BLOCK + p * V::COUNT)).sub(value);
                    *sum = difference.mul_add(difference, *sum);
                }
            }
            for (p, sum) in sums.into_iter().enumerate() {
                let place = distances.as_mut_ptr().add(first + p * V::COUNT);
                let old = V::load(place);
                V::select(sum.less(old), sum, old).store(place);
            }
        }
    }
}

/// Wrappers that enable an instruction set, and the dispatch to them.
macro_rules! kernels {
    ($number:ty, $bits:ty, $($level:ident, $arch:literal, $feature:literal, $vector:ty, $points:literal;)*) => {
        impl DistanceKernels for $number {
            #[inline(always)]
            fn from_index(index: usize) -> Self {
                Self::from_bits(index as $bits)
            }

            #[inline(always)]
            fn to_index(self) -> u32 {
                self.to_bits() as u32
            }

            #[inline(always)]
            fn widen(self) -> f64 {
                f64::from(self)
            }

            #[inline(always)]
            fn next_above(self) -> Self {
                self.next_up()
            }

            fn nearest(level: Level, block: &[Self], axes: usize, centroids: &[Self], half_norms: &[Self], scores: &mut [Self; BLOCK], at: &mut [Self; BLOCK]) {
                match level {
                    $(#[cfg(target_arch = $arch)]
                    Level::$level => {
                        #[target_feature(enable = $feature)]
                        fn wrapper(block: &[$number], axes: usize, centroids: &[$number], half_norms: &[$number], scores: &mut [$number; BLOCK], at: &mut [$number; BLOCK]) {
                            // SAFETY: the attribute enables the instruction set; `super::nearest` has checked the lengths.
                            unsafe { nearest_in::<$number, $vector, $points>(block, axes, centroids, half_norms, scores, at) }
                        }
                        // SAFETY: a level is only chosen where the processor has it.
                        unsafe { wrapper(block, axes, centroids, half_norms, scores, at) }
                    })*
                    // SAFETY: no instruction set is needed; `super::nearest` has checked the lengths.
                    _ => unsafe { nearest_in::<$number, One<$number>, 4>(block, axes, centroids, half_norms, scores, at) },
                }
            }

            fn lower_to(level: Level, block: &[Self], centroid: &[Self], weights: &[f64; BLOCK], distances: &mut [Self; BLOCK]) -> f64 {
                match level {
                    $(#[cfg(target_arch = $arch)]
                    Level::$level => {
                        #[target_feature(enable = $feature)]
                        fn wrapper(block: &[$number], centroid: &[$number], weights: &[f64; BLOCK], distances: &mut [$number; BLOCK]) -> f64 {
                            // SAFETY: the attribute enables the instruction set; `super::lower_to` has checked the lengths.
                            unsafe { lower_to_in::<$number, $vector, 4>(block, centroid, distances) }
                            mass(weights, distances)
                        }
                        // SAFETY: a level is only chosen where the processor has it.
                        unsafe { wrapper(block, centroid, weights, distances) }
                    })*
                    _ => {
                        // SAFETY: no instruction set is needed; `super::lower_to` has checked the lengths.
                        unsafe { lower_to_in::<$number, One<$number>, 4>(block, centroid, distances) }
                        mass(weights, distances)
                    }
                }
            }
        }
    };
}

kernels!(
    f32, u32,
    Avx512, "x86_64", "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma", std::arch::x86_64::__m512, 4;
    Avx2, "x86_64", "avx2,fma", std::arch::x86_64::__m256, 2;
    Neon, "aarch64", "neon", std::arch::aarch64::float32x4_t, 4;
);
kernels!(
    f64, u64,
    Avx512, "x86_64", "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma", std::arch::x86_64::__m512d, 4;
    Avx2, "x86_64", "avx2,fma", std::arch::x86_64::__m256d, 2;
    Neon, "aarch64", "neon", std::arch::aarch64::float64x2_t, 4;
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Seed;
    use crate::kernels::sizes;
    use rand::Rng;

    fn random<F: KernelFloat>(count: usize, seed: u64) -> Vec<F> {
        let mut rng = Seed::from(seed).rng();
        (0..count)
            .map(|_| F::from(rng.gen_range(-1.0..1.0)).unwrap())
            .collect()
    }

    /// Compares the kernels at every level with plain loops, bit for bit.
    fn every_level_equals_the_loop<F: KernelFloat + std::fmt::Debug>() {
        for axes in sizes((1..=33).chain([64, 100])) {
            for count in sizes([1, 2, 3, 4, 5, 7, 16, 50, 129]) {
                let seed = (axes * 1000 + count) as u64;
                let block = random::<F>(axes * BLOCK, seed);
                let mut centroids = random::<F>(axes * count, seed + 500);
                // The last centroid twice: the first of the two has to win the tie.
                centroids.extend_from_within(axes * (count - 1)..);
                let mut half_norms = Vec::new();
                half_squared_norms(&centroids, axes, &mut half_norms);
                // Half of the points start with a score that few centroids fall below.
                let known: [F; BLOCK] = std::array::from_fn(|i| {
                    if i % 2 == 0 {
                        F::infinity()
                    } else {
                        half_norms[0]
                    }
                });
                let expected: Vec<(F, u32)> = (0..BLOCK)
                    .map(|i| {
                        let mut best = (known[i], u32::MAX);
                        for (c, centroid) in centroids.chunks(axes).enumerate() {
                            let mut score = half_norms[c];
                            for (j, &value) in centroid.iter().enumerate() {
                                score = (-block[j * BLOCK + i]).mul_add(value, score);
                            }
                            if score < best.0 {
                                best = (score, c as u32);
                            }
                        }
                        best
                    })
                    .collect();
                let from_first: Vec<F> = (0..BLOCK)
                    .map(|i| {
                        centroids[..axes]
                            .iter()
                            .enumerate()
                            .fold(F::zero(), |sum, (j, &value)| {
                                let difference = block[j * BLOCK + i] - value;
                                difference.mul_add(difference, sum)
                            })
                    })
                    .collect();
                let weights: [f64; BLOCK] = std::array::from_fn(|i| (i % 5) as f64 / 4.0);
                // Eight sums, each of every eighth product.
                let expected_mass: f64 = (0..8)
                    .map(|lane| {
                        (lane..BLOCK)
                            .step_by(8)
                            .fold(0.0, |sum, i| sum + weights[i] * from_first[i].widen())
                    })
                    .sum();
                for level in Level::available() {
                    let (mut scores, mut out) = (known, [u32::MAX; BLOCK]);
                    nearest(
                        level,
                        &block,
                        axes,
                        &centroids,
                        &half_norms,
                        &mut scores,
                        &mut out,
                    );
                    assert_eq!(
                        scores.into_iter().zip(out).collect::<Vec<_>>(),
                        expected,
                        "{level:?}, {axes} axes, {count} centroids"
                    );
                    let mut distances = [F::infinity(); BLOCK];
                    let mass =
                        lower_to(level, &block, &centroids[..axes], &weights, &mut distances);
                    assert_eq!(mass, expected_mass, "{level:?}, {axes} axes");
                    assert_eq!(distances.to_vec(), from_first, "{level:?}, {axes} axes");
                    let mut zero = [F::zero(); BLOCK];
                    let none = lower_to(level, &block, &centroids[..axes], &weights, &mut zero);
                    assert_eq!(none, 0.0);
                    assert!(zero.iter().all(|x| x.is_zero()));
                }
            }
        }
    }

    #[test]
    fn every_level_equals_the_loop_in_single_precision() {
        every_level_equals_the_loop::<f32>();
    }

    #[test]
    fn every_level_equals_the_loop_in_double_precision() {
        every_level_equals_the_loop::<f64>();
    }
}
