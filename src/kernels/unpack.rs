//! Packed codes of up to 8 bits, one a byte.

use super::Level;
use super::vectorize::at_level;

/// Words that are unpacked side by side.
const WORDS: usize = 8;

/// The codes of `bits` bits (1 to 8) in `bytes`, from bit `start` on; those beyond the end are zero.
pub(crate) fn unpack_bytes(level: Level, bytes: &[u8], bits: u32, start: usize, out: &mut [u8]) {
    debug_assert!((1..=8).contains(&bits));
    let bits = bits as usize;
    let (first, shift) = (start / 8, start % 8);
    if bits == 8 {
        let bytes = bytes.get(first..).unwrap_or_default();
        let (now, beyond) = out.split_at_mut(out.len().min(bytes.len()));
        now.copy_from_slice(&bytes[..now.len()]);
        beyond.fill(0);
        return;
    }
    at_level!(level, body(bytes: &[u8], bits: usize, first: usize, shift: usize, out: &mut [u8]) -> ())
}

/// Eight codes take `bits` bytes, so that every eighth code begins at the same bit of its byte.
#[inline(always)]
fn body(bytes: &[u8], bits: usize, first: usize, shift: usize, out: &mut [u8]) {
    let spread = Spread::new(bits);
    let mut at = first;
    let mut groups = out.chunks_exact_mut(8 * WORDS);
    for group in &mut groups {
        let mut words = [0; WORDS];
        if let Some(window) = bytes.get(at..at + (WORDS - 1) * bits + 8) {
            for (k, word) in words.iter_mut().enumerate() {
                let mut eight = [0; 8];
                eight.copy_from_slice(&window[k * bits..k * bits + 8]);
                *word = u64::from_le_bytes(eight);
            }
        } else {
            for (k, word) in words.iter_mut().enumerate() {
                *word = word_at(bytes, at + k * bits);
            }
        }
        for word in &mut words {
            *word = spread.apply(*word >> shift);
        }
        for (out, word) in group.chunks_exact_mut(8).zip(words) {
            out.copy_from_slice(&word.to_le_bytes());
        }
        at += WORDS * bits;
    }
    for out in groups.into_remainder().chunks_mut(8) {
        let codes = spread.apply(word_at(bytes, at) >> shift).to_le_bytes();
        for (out, code) in out.iter_mut().zip(codes) {
            *out = code;
        }
        at += bits;
    }
}

/// The eight bytes from `byte` on, with zeros beyond the end: enough for an offset of 7 bits and a code of 32.
#[inline(always)]
pub(crate) fn word_at(bytes: &[u8], byte: usize) -> u64 {
    if let Some(word) = bytes.get(byte..byte + 8) {
        let mut array = [0; 8];
        array.copy_from_slice(word);
        return u64::from_le_bytes(array);
    }
    let rest = bytes.get(byte..).unwrap_or_default();
    rest.iter()
        .rev()
        .fold(0, |word, &byte| word << 8 | u64::from(byte))
}

/// Spreads eight consecutive codes of `bits` bits (1 to 7) to one a byte.
#[derive(Clone, Copy)]
struct Spread {
    bits: usize,
    /// The lower half of each field, when fields hold eight, four and two codes.
    masks: [u64; 3],
}

impl Spread {
    #[inline(always)]
    fn new(bits: usize) -> Self {
        let low = |codes: usize| (1_u64 << (codes * bits)) - 1;
        Self {
            bits,
            masks: [
                low(4),
                low(2) * 0x0000_0001_0000_0001,
                low(1) * 0x0001_0001_0001_0001,
            ],
        }
    }

    /// Three times, the upper half of each field moves to the middle of a field twice as wide.
    #[inline(always)]
    fn apply(self, word: u64) -> u64 {
        let [eight, four, two] = self.masks;
        let word = (word & eight) | ((word >> (4 * self.bits)) & eight) << 32;
        let word = (word & four) | ((word >> (2 * self.bits)) & four) << 16;
        (word & two) | ((word >> self.bits) & two) << 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_level_unpacks_bit_by_bit(bits in 1_u32..=8, bytes in prop::collection::vec(any::<u8>(), 0..200), start in 0_usize..900, count in 0_usize..300) {
            let bit = |place: usize| bytes.get(place / 8).map_or(0, |byte| byte >> (place % 8) & 1);
            let start = start * if bits == 8 { 8 } else { 1 };
            let code = |i: usize| (0..bits as usize).map(|k| bit(start + i * bits as usize + k) << k).sum::<u8>();
            let expected: Vec<u8> = (0..count).map(code).collect();
            for level in Level::available() {
                let mut out = vec![7; count];
                unpack_bytes(level, &bytes, bits, start, &mut out);
                prop_assert_eq!(&out, &expected, "{:?}", level);
            }
        }
    }
}
