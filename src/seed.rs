//! Seeds: the source of all randomness.

use rand::SeedableRng;
use rand_xoshiro::Xoshiro256PlusPlus;

/// The seed of the random choices of a fit.
///
/// The same seed gives the same result on every machine, in every run and for any number of threads:
/// each parallel task draws from a [derived](Seed::derive) seed of its own, never from a shared
/// stream. The generator is xoshiro256++ (Blackman and Vigna, "Scrambled linear pseudorandom number
/// generators", 2021, doi:10.1145/3460772).
///
/// ```
/// use taper::Seed;
///
/// assert_eq!(Seed::from(7).derive(1), Seed::from(7).derive(1));
/// assert_ne!(Seed::from(7).derive(1), Seed::from(7).derive(2));
/// assert_ne!(Seed::from(7).derive_name("fc1.weight"), Seed::from(7).derive_name("fc2.weight"));
/// ```
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(transparent))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Seed(u64);

impl Seed {
    /// The seed as a number.
    #[must_use]
    pub fn value(self) -> u64 {
        self.0
    }

    /// The seed of task number `stream`.
    #[must_use]
    pub fn derive(self, stream: u64) -> Self {
        // The finalizer of splitmix64 over both numbers, so that neighbouring streams share no bits.
        let mut z = self
            .0
            .wrapping_add(stream.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self(z ^ (z >> 31))
    }

    /// The seed of the tensor called `name`, which does not depend on the order of the tensors.
    #[must_use]
    pub fn derive_name(self, name: &str) -> Self {
        // FNV-1a; its constants are those of the 64-bit variant.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        self.derive(hash)
    }

    /// Number `index` of a sequence of numbers in [−1, 1), for tests: a multiple of 2⁻⁵².
    #[doc(hidden)]
    #[must_use]
    pub fn uniform(self, index: u64) -> f64 {
        (self.derive(index).value() >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    }

    /// A generator that starts from this seed.
    #[must_use]
    pub(crate) fn rng(self) -> Xoshiro256PlusPlus {
        Xoshiro256PlusPlus::seed_from_u64(self.0)
    }
}

impl From<u64> for Seed {
    fn from(value: u64) -> Self {
        Self(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn derived_seeds_are_distinct() {
        let count = if cfg!(miri) { 8 } else { 64 };
        let seeds: HashSet<u64> = (0..count)
            .flat_map(|seed| (0..count).map(move |stream| Seed::from(seed).derive(stream).value()))
            .collect();
        assert_eq!(seeds.len() as u64, count * count);
    }
}
