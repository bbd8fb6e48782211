//! Real numbers as elements of the types that safetensors has.

use crate::{DType, Error, Result};

fn unsupported(dtype: DType, reason: &str) -> Error {
    Error::Unsupported {
        what: format!("a tensor of {dtype:?}"),
        reason: reason.to_owned(),
    }
}

/// The values of real elements as `f32`, which holds those of F32, F16, BF16 and 8 bits exactly. F64 elements are rounded.
///
/// # Errors
///
/// [`Error::Unsupported`] for other types, and for F64 elements that are all smaller than F32 holds in full precision;
/// [`Error::Overflow`] for F64 elements beyond the range of F32.
pub(super) fn decode(dtype: DType, bytes: &[u8]) -> Result<Vec<f32>> {
    fn values<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f32) -> Vec<f32> {
        bytes.as_chunks().0.iter().map(|&x| value(x)).collect()
    }
    Ok(match dtype {
        DType::F32 => values(bytes, f32::from_le_bytes),
        DType::F16 => values(bytes, |x| half::f16::from_le_bytes(x).to_f32()),
        DType::BF16 => values(bytes, |x| half::bf16::from_le_bytes(x).to_f32()),
        DType::F64 => doubles(bytes)?,
        DType::F8_E4M3 => bytes.iter().map(|&x| Eight::E4M3.value(x)).collect(),
        DType::F8_E5M2 => bytes.iter().map(|&x| Eight::E5M2.value(x)).collect(),
        DType::F8_E8M0 => bytes.iter().map(|&x| power_of_two(x)).collect(),
        other => {
            return Err(unsupported(
                other,
                "F64, F32, F16, BF16, F8_E4M3 and F8_E5M2 are read as weights",
            ));
        }
    })
}

/// F64 elements, rounded.
fn doubles(bytes: &[u8]) -> Result<Vec<f32>> {
    let doubles = bytes.as_chunks().0.iter().map(|&x| f64::from_le_bytes(x));
    let mut values = Vec::with_capacity(bytes.len() / 8);
    let mut largest = 0.0_f64;
    for double in doubles {
        let value = double as f32;
        if value.is_infinite() && double.is_finite() {
            return Err(Error::Overflow {
                what: "a weight of F64 as F32",
            });
        }
        largest = largest.max(double.abs());
        values.push(value);
    }
    if largest > 0.0 && largest < f64::from(f32::MIN_POSITIVE) {
        let reason =
            format!("the largest value, {largest:e}, is smaller than F32 holds in full precision");
        return Err(unsupported(DType::F64, &reason));
    }
    Ok(values)
}

/// The number of an F8_E8M0 element, which is an exponent without a sign.
fn power_of_two(code: u8) -> f32 {
    match code {
        u8::MAX => f32::NAN,
        code => 2_f64.powi(i32::from(code) - 127) as f32,
    }
}

/// `values` as elements of `dtype`, little-endian, each rounded to the nearest, ties to even.
///
/// # Errors
///
/// [`Error::Overflow`] for a value beyond the range of `dtype`, [`Error::Unsupported`] for a `dtype` that does not hold
/// single real numbers.
pub(super) fn encode(values: impl ExactSizeIterator<Item = f32>, dtype: DType) -> Result<Vec<u8>> {
    /// Numbers of 16 bits.
    macro_rules! halves {
        ($name:literal, $type:ty) => {{
            let mut bytes = Vec::with_capacity(2 * values.len());
            for value in values {
                let rounded = <$type>::from_f32(value);
                if rounded.is_infinite() && value.is_finite() {
                    return Err(Error::Overflow {
                        what: concat!("a weight as ", $name),
                    });
                }
                bytes.extend(rounded.to_le_bytes());
            }
            Ok(bytes)
        }};
    }
    macro_rules! integers {
        ($name:literal, $type:ty) => {{
            // The largest integer of 64 bits is no double, the power of two above it is: MAX + 1 gives it in both cases.
            let range = <$type>::MIN as f64..<$type>::MAX as f64 + 1.0;
            let mut bytes = Vec::with_capacity(size_of::<$type>() * values.len());
            for value in values {
                let rounded = value.round_ties_even();
                // A NaN is in no range.
                if !range.contains(&f64::from(rounded)) {
                    return Err(Error::Overflow {
                        what: concat!("a weight as ", $name),
                    });
                }
                bytes.extend((rounded as $type).to_le_bytes());
            }
            Ok(bytes)
        }};
    }
    match dtype {
        DType::F64 => Ok(values.flat_map(|x| f64::from(x).to_le_bytes()).collect()),
        DType::F32 => Ok(values.flat_map(f32::to_le_bytes).collect()),
        DType::F16 => halves!("F16", half::f16),
        DType::BF16 => halves!("BF16", half::bf16),
        DType::F8_E4M3 => eight_bits(values, "a weight as F8_E4M3", Eight::E4M3),
        DType::F8_E5M2 => eight_bits(values, "a weight as F8_E5M2", Eight::E5M2),
        DType::I8 => integers!("I8", i8),
        DType::I16 => integers!("I16", i16),
        DType::I32 => integers!("I32", i32),
        DType::I64 => integers!("I64", i64),
        DType::U8 => integers!("U8", u8),
        DType::U16 => integers!("U16", u16),
        DType::U32 => integers!("U32", u32),
        DType::U64 => integers!("U64", u64),
        other => Err(unsupported(
            other,
            "weights are written as F64, F32, F16, BF16, F8_E4M3, F8_E5M2 or integers of 8 to 64 bits",
        )),
    }
}

/// Floating-point numbers of eight bits (Micikevicius et al., arXiv:2209.05433).
#[derive(Debug, Clone, Copy)]
struct Eight {
    /// Bits of the fraction.
    fraction: u32,
    /// What is subtracted from the exponent.
    bias: i32,
    /// The largest positive code of a finite number. One more is infinite in E5M2; E4M3 has no infinity.
    last: u8,
}

impl Eight {
    const E4M3: Self = Self {
        fraction: 3,
        bias: 7,
        last: 0x7e,
    };
    const E5M2: Self = Self {
        fraction: 2,
        bias: 15,
        last: 0x7b,
    };
    const NAN: u8 = 0x7f;

    /// The number of a positive code, as if the code beyond the last one went on in the same way.
    fn magnitude(self, code: u8) -> f32 {
        let exponent = i32::from(code >> self.fraction);
        let fraction = f32::from(code & ((1 << self.fraction) - 1)) / (1 << self.fraction) as f32;
        match exponent {
            0 => fraction * 2_f32.powi(1 - self.bias),
            _ => (1.0 + fraction) * 2_f32.powi(exponent - self.bias),
        }
    }

    /// The number of a code.
    fn value(self, code: u8) -> f32 {
        let positive = code & 0x7f;
        let magnitude = if positive <= self.last {
            self.magnitude(positive)
        } else if self.last + 1 != Self::NAN && positive == self.last + 1 {
            f32::INFINITY
        } else {
            f32::NAN
        };
        magnitude.copysign(if code & 0x80 == 0 { 1.0 } else { -1.0 })
    }

    /// The nearest code, or none beyond the last one.
    fn code(self, value: f32) -> Option<u8> {
        let sign = u8::from(value.is_sign_negative()) << 7;
        let magnitude = value.abs();
        if value.is_nan() {
            return Some(sign | Self::NAN);
        }
        if magnitude.is_infinite() {
            return (self.last + 1 != Self::NAN).then_some(sign | (self.last + 1));
        }
        // Positive codes rise with their numbers; 0 is not above any magnitude.
        let (mut below, mut above) = (0, self.last + 1);
        while above - below > 1 {
            let middle = below + (above - below) / 2;
            if self.magnitude(middle) <= magnitude {
                below = middle;
            } else {
                above = middle;
            }
        }
        let half = f32::midpoint(self.magnitude(below), self.magnitude(above));
        let up = magnitude > half || (magnitude == half && below % 2 == 1);
        let code = if up { above } else { below };
        (code <= self.last).then_some(sign | code)
    }
}

fn eight_bits(
    values: impl Iterator<Item = f32>,
    what: &'static str,
    format: Eight,
) -> Result<Vec<u8>> {
    values
        .map(|value| format.code(value).ok_or(Error::Overflow { what }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(value: f32, dtype: DType) -> Result<Vec<u8>> {
        encode([value].into_iter(), dtype)
    }

    #[test]
    fn eight_bits_have_the_published_values() {
        // Table 1 of arXiv:2209.05433: the largest, the least normal and the least subnormal numbers.
        for (format, [largest, normal, subnormal]) in [
            (Eight::E4M3, [448.0, 2_f32.powi(-6), 2_f32.powi(-9)]),
            (Eight::E5M2, [57344.0, 2_f32.powi(-14), 2_f32.powi(-16)]),
        ] {
            assert_eq!(format.magnitude(format.last), largest);
            assert_eq!(format.magnitude(1 << format.fraction), normal);
            assert_eq!(format.magnitude(1), subnormal);
        }
        assert_eq!(one(448.0, DType::F8_E4M3).unwrap(), [0x7e]);
        assert_eq!(one(-448.0, DType::F8_E4M3).unwrap(), [0xfe]);
        // Half a step above the largest number rounds to the even code beyond it or, at E4M3, back.
        assert_eq!(one(463.9, DType::F8_E4M3).unwrap(), [0x7e]);
        assert_eq!(one(464.0, DType::F8_E4M3).unwrap(), [0x7e]);
        assert!(matches!(
            one(464.1, DType::F8_E4M3),
            Err(Error::Overflow { .. })
        ));
        assert!(matches!(
            one(61440.0, DType::F8_E5M2),
            Err(Error::Overflow { .. })
        ));
        assert_eq!(one(f32::INFINITY, DType::F8_E5M2).unwrap(), [0x7c]);
        assert!(one(f32::INFINITY, DType::F8_E4M3).is_err());
        assert_eq!(one(f32::NAN, DType::F8_E4M3).unwrap()[0] & 0x7f, 0x7f);
    }

    #[test]
    fn each_number_of_eight_bits_is_its_own_nearest() {
        for format in [Eight::E4M3, Eight::E5M2] {
            for code in 0..=format.last {
                assert_eq!(format.code(format.magnitude(code)), Some(code));
                assert_eq!(format.code(-format.magnitude(code)), Some(code | 0x80));
            }
        }
    }

    #[test]
    fn eight_bits_read_back_as_they_were() {
        for dtype in [DType::F8_E4M3, DType::F8_E5M2] {
            for code in 0..=u8::MAX {
                let value = decode(dtype, &[code]).unwrap()[0];
                match one(value, dtype).unwrap()[..] {
                    [again] if value.is_nan() => assert_eq!(again, code | Eight::NAN),
                    [again] => assert_eq!(again, code),
                    _ => unreachable!("one element is one byte"),
                }
            }
        }
        assert_eq!(decode(DType::F8_E8M0, &[127, 130]).unwrap(), [1.0, 8.0]);
    }

    #[test]
    fn doubles_are_rounded_or_refused() {
        let read = |values: &[f64]| {
            let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            decode(DType::F64, &bytes)
        };
        assert_eq!(read(&[0.1, -2.0, 1e-60]).unwrap(), [0.1, -2.0, 0.0]);
        assert!(matches!(read(&[1.0, 1e39]), Err(Error::Overflow { .. })));
        assert!(matches!(
            read(&[0.0, 1e-60]),
            Err(Error::Unsupported { .. })
        ));
        assert!(read(&[f64::INFINITY, 1.0]).unwrap()[0].is_infinite());
        assert_eq!(read(&[0.0, -0.0]).unwrap(), [0.0, 0.0]);
    }

    proptest! {
        #[test]
        fn the_nearest_of_eight_bits_is_taken(value in -500_f32..500.0, small in any::<bool>()) {
            let value = if small { value / 4096.0 } else { value };
            for format in [Eight::E4M3, Eight::E5M2] {
                let Some(code) = format.code(value) else {
                    prop_assert!(value.abs() > format.magnitude(format.last));
                    continue;
                };
                let error = (format.magnitude(code & 0x7f) - value.abs()).abs();
                for other in 0..=format.last {
                    prop_assert!(error <= (format.magnitude(other) - value.abs()).abs());
                }
            }
        }

        /// What a type holds exactly is written exactly.
        #[test]
        fn exact_values_are_exact(bits in any::<u16>(), integer in -128_i8..=127) {
            let half = half::f16::from_bits(bits);
            let brain = half::bf16::from_bits(bits);
            if half.is_finite() {
                prop_assert_eq!(one(half.to_f32(), DType::F16).unwrap(), half.to_le_bytes());
                prop_assert_eq!(one(half.to_f32(), DType::F64).unwrap(), half.to_f64().to_le_bytes());
            }
            if brain.is_finite() {
                prop_assert_eq!(one(brain.to_f32(), DType::BF16).unwrap(), brain.to_le_bytes());
            }
            prop_assert_eq!(one(integer.into(), DType::I8).unwrap(), integer.to_le_bytes());
            prop_assert_eq!(one(integer.into(), DType::I64).unwrap(), i64::from(integer).to_le_bytes());
        }
    }

    #[test]
    fn values_beyond_a_type_are_errors() {
        for (value, dtype) in [
            (65520.0, DType::F16),
            (f32::MAX, DType::BF16),
            (127.6, DType::I8),
            (-129.0, DType::I8),
            (-1.0, DType::U8),
            (2_f32.powi(31), DType::I32),
            (2_f32.powi(64), DType::U64),
            (f32::NAN, DType::I16),
        ] {
            let error = one(value, dtype).unwrap_err();
            assert!(
                matches!(error, Error::Overflow { .. }),
                "{value} as {dtype:?}: {error}"
            );
        }
        for dtype in [DType::BOOL, DType::F4, DType::C64, DType::F8_E8M0] {
            assert!(matches!(one(0.0, dtype), Err(Error::Unsupported { .. })));
        }
    }
}
