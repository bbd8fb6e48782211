//! The inner loops, one file an operation, each in a scalar form and in forms for the instruction sets of processors.
//!
//! `unsafe` is allowed in this folder only. Tests compare every vector form with its scalar form. The [`Level`] is chosen
//! once, as the highest that the processor has; the environment variable `TAPER_CPU` (`scalar`, `avx2`, `avx512`, `neon`)
//! lowers it.
//!
//! A kernel is written in one of three ways, the first that is fast enough. Most are plain loops that
//! [`vectorize`] compiles once for each level, without `unsafe`. Where the compiler does not keep a tile in registers, the
//! loop is generic over the few vector operations of [`lanes`]. Where the gain is in an instruction that neither of them has
//! (permutations, masked loads, products of bytes), the file has a function with intrinsics for each level.

pub(crate) mod accumulate;
pub(crate) mod distance;
pub(crate) mod evenly;
pub(crate) mod few_bit;
pub(crate) mod flat;
pub(crate) mod hadamard;
pub(crate) mod integer;
pub(crate) mod lanes;
pub(crate) mod lookup;
#[cfg(feature = "model")]
pub(crate) mod mapped_file;
pub(crate) mod masked_sum;
mod permute;
pub(crate) mod placed;
mod softmax;
pub(crate) mod sparse;
pub(crate) mod stream;
pub(crate) mod turn;
pub(crate) mod unpack;
pub(crate) mod vectorize;
pub(crate) mod viterbi;
pub(crate) mod xnor;

use std::sync::OnceLock;

pub(crate) use softmax::{Extent, SoftmaxKernels};
pub(crate) use sparse::SparseKernels;

/// The instruction sets that kernels are written for, from the least to the most.
///
/// Public in name only: the module is private.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Plain Rust, on every processor.
    Scalar,
    /// 128-bit vectors of aarch64.
    #[cfg_attr(not(target_arch = "aarch64"), allow(dead_code))]
    Neon,
    /// 256-bit vectors with fused multiply-add: AVX2, FMA, F16C.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    Avx2,
    /// 512-bit vectors: AVX-512 F, BW, DQ and VL.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    Avx512,
}

impl Level {
    /// The best level that this processor and `TAPER_CPU` allow.
    pub(crate) fn current() -> Self {
        static LEVEL: OnceLock<Level> = OnceLock::new();
        *LEVEL.get_or_init(|| {
            let limit = match std::env::var("TAPER_CPU").as_deref() {
                Ok("scalar") => Self::Scalar,
                Ok("neon") => Self::Neon,
                Ok("avx2") => Self::Avx2,
                _ => Self::Avx512,
            };
            Self::available()
                .into_iter()
                .filter(|&level| level <= limit)
                .max()
                .expect("every limit admits the scalar level")
        })
    }

    /// The best level that this processor has.
    pub(crate) fn highest() -> Self {
        static HIGHEST: OnceLock<Level> = OnceLock::new();
        *HIGHEST.get_or_init(|| {
            let levels = Self::available().into_iter();
            levels.max().expect("every processor has the scalar level")
        })
    }

    /// All levels that this processor has; tests run a kernel at each of them.
    pub(crate) fn available() -> Vec<Self> {
        #[allow(unused_mut)]
        let mut levels = vec![Self::Scalar];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c")
            {
                levels.push(Self::Avx2);
                if is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                {
                    levels.push(Self::Avx512);
                }
            }
        }
        #[cfg(target_arch = "aarch64")]
        levels.push(Self::Neon);
        levels
    }
}

/// The kernels for both number types, a supertrait of [`Float`](crate::Float).
///
/// Public in name only: the module is private.
pub trait KernelFloat:
    Copy
    + SoftmaxKernels
    + Send
    + Sync
    + distance::DistanceKernels
    + few_bit::FewBitKernels
    + SparseKernels
    + permute::PermuteKernels
    + masked_sum::MaskedSum<Sum = Self>
{
}

impl KernelFloat for f32 {}
impl KernelFloat for f64 {}

/// The sizes that a test goes through: two of them under an interpreter (Miri), which takes a thousand times as long.
#[cfg(test)]
fn sizes(all: impl IntoIterator<Item = usize>) -> Vec<usize> {
    let all: Vec<usize> = all.into_iter().collect();
    let step = if cfg!(miri) { all.len().div_ceil(2) } else { 1 };
    all.into_iter().step_by(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chosen_level_is_available() {
        assert!(Level::available().contains(&Level::current()));
    }
}
