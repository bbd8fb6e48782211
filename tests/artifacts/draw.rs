//! Choices: of parameters, shapes and weights.

use taper::Seed;

/// Where choices come from: a seed, from which each one is a sensible choice, or bytes that a fuzzer made,
/// from which a choice may also be one that no input allows.
#[derive(Debug, Clone)]
pub enum Draw<'a> {
    Seed { seed: Seed, next: u64 },
    Bytes(&'a [u8]),
}

impl From<u64> for Draw<'_> {
    fn from(seed: u64) -> Self {
        let seed = Seed::from(seed);
        Self::Seed { seed, next: 0 }
    }
}

impl<'a> Draw<'a> {
    /// Up to eight bytes as a number; zero after the last.
    fn bytes(&mut self, count: usize) -> u64 {
        match self {
            Self::Seed { seed, next } => {
                *next += 1;
                seed.derive(*next).value() >> (64 - 8 * count)
            }
            Self::Bytes(bytes) => {
                let (taken, rest) = bytes.split_at(count.min(bytes.len()));
                *bytes = rest;
                taken
                    .iter()
                    .fold(0, |number, &byte| number << 8 | u64::from(byte))
            }
        }
    }

    pub fn seed(&mut self) -> u64 {
        self.bytes(8)
    }

    /// From `low` to `high`, both among them.
    pub fn within(&mut self, low: usize, high: usize) -> usize {
        low + self.bytes(2) as usize % (high - low + 1)
    }

    /// A parameter from `low` to `high`; out of bytes, one of 16 lies elsewhere.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        if matches!(self, Self::Bytes(_)) && self.bytes(1) >= 0xf0 {
            return self.choose(&[0, 1, high + 1, 2 * high, 1 << 33, usize::MAX]);
        }
        self.within(low, high)
    }

    pub fn choose<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.bytes(1) as usize % choices.len()]
    }

    pub fn flag(&mut self) -> bool {
        self.choose(&[false, true])
    }

    /// A number of equal parts of an axis of `length`.
    pub fn divisor(&mut self, length: usize) -> usize {
        let divisors: Vec<usize> = (1..=length.min(256))
            .filter(|&d| length.is_multiple_of(d))
            .collect();
        let at = self.between(0, divisors.len().saturating_sub(1));
        divisors.get(at).copied().unwrap_or(at)
    }

    /// In [−1, 1), a multiple of 2⁻²³: the same in single and in double precision.
    pub fn number(&mut self) -> f32 {
        self.bytes(3) as f32 / (1_u64 << 23) as f32 - 1.0
    }

    /// A number of a fuzzer's: often one with which something may go wrong.
    pub fn wild_number(&mut self) -> f32 {
        match self.bytes(1) {
            kind @ 0..0x20 => {
                const ODD: [f32; 16] = [
                    f32::NAN,
                    f32::INFINITY,
                    f32::NEG_INFINITY,
                    0.0,
                    -0.0,
                    f32::MAX,
                    f32::MIN,
                    f32::MIN_POSITIVE,
                    1e-45,
                    -1e-40,
                    f32::EPSILON,
                    1.0 + f32::EPSILON,
                    65_505.0,
                    1e19,
                    1e-23,
                    -1.0,
                ];
                ODD[kind as usize % ODD.len()]
            }
            0x20..0x30 => f32::from_bits(self.bytes(4) as u32),
            // Few values, so that many are equal.
            small => f32::from(small as i8) / 32.0,
        }
    }

    /// The same in double precision, with numbers that single precision does not reach.
    pub fn wild_double(&mut self) -> f64 {
        match self.bytes(1) {
            kind @ 0..0x20 => {
                const ODD: [f64; 16] = [
                    f64::NAN,
                    f64::INFINITY,
                    f64::NEG_INFINITY,
                    0.0,
                    -0.0,
                    f64::MAX,
                    f64::MIN,
                    f64::MIN_POSITIVE,
                    5e-324,
                    -1e-310,
                    f64::EPSILON,
                    1.0 + f64::EPSILON,
                    3.5e38,
                    1e154,
                    1e-162,
                    1e-46,
                ];
                ODD[kind as usize % ODD.len()]
            }
            0x20..0x30 => f64::from_bits(self.bytes(8)),
            small => f64::from(small as i8) / 32.0,
        }
    }

    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Bytes([]))
    }
}
