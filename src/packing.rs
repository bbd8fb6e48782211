//! Codes of b bits each, packed without gaps.

use crate::kernels::Level;
use crate::kernels::unpack::{unpack_bytes, word_at};
use crate::{Error, Result};

/// A sequence of unsigned numbers of `bits` bits each (0 to 32), packed into bytes from the lowest bit on.
///
/// Codes of zero bits are all zero and take no space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PackedCodes {
    bits: u32,
    length: usize,
    bytes: Vec<u8>,
}

impl PackedCodes {
    /// The number of bits that codes below `count` need: ⌈log₂ count⌉.
    pub(crate) fn bits_for(count: usize) -> u32 {
        usize::BITS - count.saturating_sub(1).leading_zeros()
    }

    /// Packs `codes`, each of at most `bits` bits.
    pub(crate) fn pack(codes: &[u32], bits: u32) -> Self {
        debug_assert!(bits <= 32);
        debug_assert!(codes.iter().all(|&code| u64::from(code) < 1 << bits));
        if bits == 8 {
            return Self {
                bits,
                length: codes.len(),
                bytes: codes.iter().map(|&code| code as u8).collect(),
            };
        }
        let mask = (1_u64 << bits) - 1;
        let mut bytes = Vec::with_capacity(
            Self::bytes_for(codes.len(), bits).expect("packed codes are shorter than the codes"),
        );
        let (mut buffer, mut filled) = (0_u64, 0);
        for &code in codes {
            buffer |= (u64::from(code) & mask) << filled;
            filled += bits;
            while filled >= 8 {
                bytes.push(buffer as u8);
                buffer >>= 8;
                filled -= 8;
            }
        }
        if filled > 0 {
            bytes.push(buffer as u8);
        }
        Self {
            bits,
            length: codes.len(),
            bytes,
        }
    }

    /// Reads `length` codes from the bytes of a file.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`], which names `artifact`, for a number of bytes that is not that of `length` codes,
    /// and for bits set beyond the last code.
    pub(crate) fn from_bytes(
        artifact: &'static str,
        bytes: Vec<u8>,
        length: usize,
        bits: u32,
    ) -> Result<Self> {
        let malformed = |problem| Error::Malformed { artifact, problem };
        if bits > 32 {
            return Err(malformed(format!(
                "codes of {bits} bits, at most 32 are possible"
            )));
        }
        let needed = Self::bytes_for(length, bits)
            .ok_or_else(|| malformed(format!("{length} codes of {bits} bits are too many")))?;
        if bytes.len() != needed {
            return Err(malformed(format!(
                "{length} codes of {bits} bits take {needed} bytes, found {}",
                bytes.len()
            )));
        }
        let used = (length as u128 * u128::from(bits) % 8) as u32;
        if used > 0 && bytes.last().is_some_and(|&last| last >> used != 0) {
            return Err(malformed("bits are set beyond the last code".to_owned()));
        }
        Ok(Self {
            bits,
            length,
            bytes,
        })
    }

    fn bytes_for(length: usize, bits: u32) -> Option<usize> {
        usize::try_from((length as u128 * u128::from(bits)).div_ceil(8)).ok()
    }

    pub(crate) fn len(&self) -> usize {
        self.length
    }

    pub(crate) fn bits(&self) -> u32 {
        self.bits
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The number of bits of all codes together.
    pub(crate) fn total_bits(&self) -> u64 {
        self.length as u64 * u64::from(self.bits)
    }

    /// The codes from `start` on, as many as `out` is long.
    ///
    /// Codes beyond the last are zero.
    pub(crate) fn unpack_into(&self, start: usize, out: &mut [u32]) {
        let bits = self.bits as usize;
        match bits {
            0..=8 => {
                let mut bytes = [0; 256];
                for (i, out) in out.chunks_mut(bytes.len()).enumerate() {
                    self.unpack_bytes_into(start + i * bytes.len(), &mut bytes[..out.len()]);
                    for (code, &byte) in out.iter_mut().zip(&bytes) {
                        *code = byte.into();
                    }
                }
            }
            16 => {
                let bytes = self.bytes.get(2 * start..).unwrap_or_default();
                let (pairs, _) = bytes.as_chunks::<2>();
                let (now, beyond) = out.split_at_mut(out.len().min(pairs.len()));
                for (code, &pair) in now.iter_mut().zip(pairs) {
                    *code = u16::from_le_bytes(pair).into();
                }
                beyond.fill(0);
            }
            _ => {
                let mask = (1_u64 << bits) - 1;
                let mut position = start * bits;
                for code in out {
                    *code = (word_at(&self.bytes, position / 8) >> (position % 8) & mask) as u32;
                    position += bits;
                }
            }
        }
    }

    /// The codes from `start` on, as many as `out` is long, where they have at most 8 bits.
    ///
    /// Codes beyond the last are zero.
    pub(crate) fn unpack_bytes_into(&self, start: usize, out: &mut [u8]) {
        debug_assert!(self.bits <= 8);
        if self.bits == 0 {
            out.fill(0);
            return;
        }
        let start = start * self.bits as usize;
        unpack_bytes(Level::current(), &self.bytes, self.bits, start, out);
    }

    /// Copies the bits of `count` codes from `start` on to the beginning of `out`; the rest of the last byte is filled with zeros.
    pub(crate) fn copy_bits(&self, start: usize, count: usize, out: &mut [u8]) {
        let bits = self.bits as usize;
        let (first, shift) = (start * bits / 8, start * bits % 8);
        let length = count * bits;
        let out = &mut out[..length.div_ceil(8)];
        if shift == 0 {
            out.copy_from_slice(&self.bytes[first..first + out.len()]);
        } else {
            for (i, out) in out.iter_mut().enumerate() {
                *out = (word_at(&self.bytes, first + i) >> shift) as u8;
            }
        }
        if let Some(last) = out.last_mut().filter(|_| !length.is_multiple_of(8)) {
            *last &= (1 << (length % 8)) - 1;
        }
    }

    /// All codes.
    pub(crate) fn unpack(&self) -> Vec<u32> {
        let mut codes = vec![0; self.length];
        self.unpack_into(0, &mut codes);
        codes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn packing_round_trips(bits in 0_u32..=32, codes in prop::collection::vec(any::<u32>(), 0..200), start in 0_usize..210) {
            let codes: Vec<u32> = codes
                .into_iter()
                .map(|code| (u64::from(code) & ((1_u64 << bits) - 1)) as u32)
                .collect();
            let packed = PackedCodes::pack(&codes, bits);
            prop_assert_eq!(packed.bytes().len() as u64, packed.total_bits().div_ceil(8));
            prop_assert_eq!(packed.unpack(), codes.clone());
            let mut part = vec![7; 20];
            packed.unpack_into(start, &mut part);
            let expected: Vec<u32> = (start..start + 20)
                .map(|i| codes.get(i).copied().unwrap_or(0))
                .collect();
            prop_assert_eq!(&part, &expected);
            if bits <= 8 {
                let mut part = vec![7; 20];
                packed.unpack_bytes_into(start, &mut part);
                prop_assert_eq!(part.iter().map(|&code| u32::from(code)).collect::<Vec<_>>(), expected);
            }
            if start < codes.len() {
                let rest = &codes[start..];
                let mut copied = vec![0xff; (rest.len() * bits as usize).div_ceil(8)];
                packed.copy_bits(start, rest.len(), &mut copied);
                let expected = PackedCodes::pack(rest, bits);
                prop_assert_eq!(&copied[..], expected.bytes());
            }
            let again = PackedCodes::from_bytes("codes", packed.bytes().to_vec(), codes.len(), bits);
            prop_assert_eq!(again, Ok(packed));
        }
    }

    #[test]
    fn bits_for_is_the_ceiling_of_the_binary_logarithm() {
        for (count, bits) in [
            (1, 0),
            (2, 1),
            (3, 2),
            (4, 2),
            (5, 3),
            (50, 6),
            (256, 8),
            (257, 9),
        ] {
            assert_eq!(PackedCodes::bits_for(count), bits);
        }
    }

    #[test]
    fn wrong_bytes_are_refused() {
        let packed = PackedCodes::pack(&[1, 2, 3], 3);
        let bytes = packed.bytes().to_vec();
        assert!(PackedCodes::from_bytes("codes", bytes[..1].to_vec(), 3, 3).is_err());
        assert!(PackedCodes::from_bytes("codes", vec![255, 255], 3, 3).is_err());
        assert!(PackedCodes::from_bytes("codes", bytes, usize::MAX, 32).is_err());
    }
}
