//! Random numbers that depend only on a seed and an index.
//!
//! The i-th number is a function of the seed and i. Results do not depend on the order of the work, and no generator is passed around.

use taper::Seed;

/// The number `index` of `seed`, uniform in [0, 1).
pub fn uniform(seed: Seed, index: u64) -> f64 {
    // The upper 53 bits fill the significand of a double.
    (seed.derive(index).value() >> 11) as f64 / (1_u64 << 53) as f64
}

/// The number `index` of `seed`, uniform in 0..`bound`; 0 for a bound of 0.
pub fn below(seed: Seed, index: u64, bound: usize) -> usize {
    ((u128::from(seed.derive(index).value()) * bound as u128) >> 64) as usize
}

/// The numbers 0..`count` in random order (Fisher and Yates).
pub fn permutation(seed: Seed, count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        order.swap(last, below(seed, last as u64, last + 1));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permutation_holds_every_number_once_and_depends_on_the_seed() {
        let first = permutation(Seed::from(1), 1000);
        let mut sorted = first.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1000).collect::<Vec<_>>());
        assert_ne!(first, permutation(Seed::from(2), 1000));
        assert_eq!(first, permutation(Seed::from(1), 1000));
        assert!(permutation(Seed::from(1), 0).is_empty());
    }

    #[test]
    fn uniform_numbers_have_the_mean_and_variance_of_their_law() {
        let n = 100_000_u64;
        let values: Vec<f64> = (0..n).map(|i| uniform(Seed::from(3), i)).collect();
        assert!(values.iter().all(|x| (0.0..1.0).contains(x)));
        let mean = values.iter().sum::<f64>() / n as f64;
        let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64;
        // Five standard errors: of the mean √(1/12n), of the variance √(1/180n).
        assert!((mean - 0.5).abs() < 5.0 * (1.0 / (12.0 * n as f64)).sqrt());
        assert!((variance - 1.0 / 12.0).abs() < 5.0 * (1.0 / (180.0 * n as f64)).sqrt());
    }
}
