//! A law over sixteen symbols that adapts to the symbols coded, and bits of equal probability.
//!
//! Cumulative probabilities of sixteen bits move towards each coded symbol all at once, as in the multi-symbol adaptive
//! coding of AV1 (J. Han et al., "A Technical Overview of AV1", 2021, arXiv:2008.06091); by how much is the reciprocal of the
//! number of symbols seen. Integers alone: every machine does the same.

use std::borrow::Borrow;
use std::num::NonZeroU32;

use constriction::stream::model::{DecoderModel, EncoderModel, EntropyModel};

/// Probabilities sum to 2 to this power.
pub(super) const PRECISION: usize = 16;
/// Symbols of a law.
const SYMBOLS: usize = 16;
/// Residuals from minus this to this have a symbol each; the last symbol stands for all others.
pub(super) const REACH: i32 = 7;
/// The symbol of all residuals beyond.
pub(super) const ESCAPE: usize = SYMBOLS - 1;
/// The least probability.
const LEAST: u32 = 4;
/// For how many symbols the first law counts.
const PRIOR: u16 = 20;
/// At how many symbols the first ones begin to fade.
const MEMORY: u16 = 255;

/// The probabilities of the residuals −7, …, 7 and of all others.
#[derive(Debug, Clone)]
pub(super) struct Law {
    /// The probability of all symbols before this one, in 2⁻¹⁶.
    below: [u16; SYMBOLS],
    seen: u16,
}

impl Law {
    /// Two geometric series, one for each sign, for residuals of a mean magnitude of `mean` / 16, at least 1 / 16.
    pub(super) fn geometric(mean: u32) -> Self {
        let mean = u64::from(mean.max(1));
        // A ratio r gives the mean 2r / (1 − r²).
        let ratio = (((mean * mean + 256) << 32).isqrt() - (16 << 16)) / mean;
        let mut weights = [0_u64; SYMBOLS];
        let (left, right) = weights.split_at_mut(REACH as usize);
        let mut weight = 1 << 24;
        right[0] = weight;
        for (left, right) in left.iter_mut().rev().zip(right.iter_mut().skip(1)) {
            weight = (weight * ratio) >> 16;
            (*left, *right) = (weight, weight);
        }
        // The rest of both series.
        weights[ESCAPE] = 2 * weight * ratio / ((1 << 16) - ratio) + 1;
        let total: u64 = weights.iter().sum();
        let mut before = 0;
        let below = weights.map(|weight| {
            let below = before * u64::from(u16::MAX) / total;
            before += weight;
            below as u16
        });
        Self { below, seen: PRIOR }
    }

    /// The probability of all symbols before this one, in 2⁻¹⁶.
    fn cumulative(&self, symbol: usize) -> u32 {
        let below = self.below.get(symbol);
        let below = below.map_or(1 << PRECISION, |&below| u32::from(below));
        let shared = (1 << PRECISION) - LEAST * SYMBOLS as u32;
        // Both factors are multiples of four at their largest, which keeps the product in 32 bits.
        ((below * (shared / 4)) >> (PRECISION - 2)) + LEAST * symbol as u32
    }

    fn interval(&self, symbol: usize) -> (u32, NonZeroU32) {
        let low = self.cumulative(symbol);
        let width = NonZeroU32::new(self.cumulative(symbol + 1) - low);
        (low, width.expect("no probability is below the least"))
    }

    /// Makes `symbol` more likely.
    #[inline]
    pub(super) fn learn(&mut self, symbol: usize) {
        // All in sixteen bits, of which processors take eight or more at once.
        let part = |x: u16, rate: u16| ((u32::from(x) * u32::from(rate)) >> 16) as u16;
        let (rate, symbol) = (u16::MAX / self.seen, symbol as u16);
        self.seen = (self.seen + 1).min(MEMORY);
        for (i, below) in (0_u16..).zip(&mut self.below) {
            let up = *below + part(u16::MAX - *below, rate);
            let down = *below - part(*below, rate);
            *below = if i > symbol { up } else { down };
        }
    }
}

impl EntropyModel<PRECISION> for Law {
    type Symbol = usize;
    type Probability = u32;
}

impl EncoderModel<PRECISION> for Law {
    #[inline]
    fn left_cumulative_and_probability(
        &self,
        symbol: impl Borrow<usize>,
    ) -> Option<(u32, NonZeroU32)> {
        Some(self.interval(*symbol.borrow()))
    }
}

impl DecoderModel<PRECISION> for Law {
    #[inline]
    fn quantile_function(&self, quantile: u32) -> (usize, u32, NonZeroU32) {
        // Cumulative probabilities rise: as many lie at or below the quantile as there are symbols before it.
        let symbol = (1..SYMBOLS)
            .filter(|&symbol| self.cumulative(symbol) <= quantile)
            .count();
        let (low, width) = self.interval(symbol);
        (symbol, low, width)
    }
}

/// Numbers of so many bits, at most [`PRECISION`], all equally likely.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bits(pub(super) u32);

impl Bits {
    fn width(self) -> NonZeroU32 {
        NonZeroU32::new((1 << PRECISION) >> self.0).expect("at most as many bits as the precision")
    }
}

impl EntropyModel<PRECISION> for Bits {
    type Symbol = u32;
    type Probability = u32;
}

impl EncoderModel<PRECISION> for Bits {
    fn left_cumulative_and_probability(
        &self,
        symbol: impl Borrow<u32>,
    ) -> Option<(u32, NonZeroU32)> {
        let (symbol, width) = (*symbol.borrow(), self.width());
        (symbol < 1 << self.0).then(|| (symbol * width.get(), width))
    }
}

impl DecoderModel<PRECISION> for Bits {
    fn quantile_function(&self, quantile: u32) -> (u32, u32, NonZeroU32) {
        let width = self.width();
        let symbol = quantile / width.get();
        (symbol, symbol * width.get(), width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// However a law was taught, its intervals fill 2¹⁶ without gaps, none is empty, and the decoder finds each.
        #[test]
        fn intervals_fill_the_line(
            mean in 1_u32..=40,
            symbols in prop::collection::vec(0..SYMBOLS, 0..2000),
        ) {
            let mut law = Law::geometric(mean);
            for symbol in symbols {
                law.learn(symbol);
            }
            let mut end = 0;
            for symbol in 0..SYMBOLS {
                let (low, width) = law.interval(symbol);
                prop_assert_eq!(low, end);
                prop_assert!(width.get() >= LEAST);
                end += width.get();
                for quantile in [low, end - 1] {
                    prop_assert_eq!(law.quantile_function(quantile), (symbol, low, width));
                }
            }
            prop_assert_eq!(end, 1 << PRECISION);
        }

        /// What is seen again and again becomes likely, whatever came before.
        #[test]
        fn laws_learn(mean in 1_u32..=40, symbol in 0..SYMBOLS) {
            let mut law = Law::geometric(mean);
            for _ in 0..1 << 12 {
                law.learn(symbol);
            }
            // What a step of 1 / 255 can no longer move, on either side, and the least of the others.
            let missed = 2 * 255 + LEAST * SYMBOLS as u32;
            prop_assert!(law.interval(symbol).1.get() >= (1 << PRECISION) - missed);
        }
    }

    #[test]
    fn the_first_law_has_the_mean_it_was_asked_for() {
        for mean in 1..=40_u32 {
            let law = Law::geometric(mean);
            let width = |symbol: usize| f64::from(law.interval(symbol).1.get());
            let sum: f64 = (0..ESCAPE)
                .map(|s| (s as f64 - f64::from(REACH)).abs() * width(s))
                .sum();
            let total: f64 = (0..ESCAPE).map(width).sum();
            let asked = f64::from(mean) / 16.0;
            // A series goes on beyond the reach for 1 / (1 − r) on average.
            let ratio = ((1.0 + asked * asked).sqrt() - 1.0) / asked;
            let beyond = width(ESCAPE) * (f64::from(REACH) + 1.0 / (1.0 - ratio));
            let found = (sum + beyond) / (total + width(ESCAPE));
            // Cumulative probabilities are rounded to 2⁻¹⁶, and none is below four of them.
            let rounding = 5.0 * 2.0 * 28.0 / f64::from(1_u32 << PRECISION) + 1e-3 * asked;
            assert!((found - asked).abs() <= rounding, "{found} for {asked}");
        }
    }
}
