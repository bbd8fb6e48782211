//! Laws of the coding of elements.

use proptest::prelude::*;

use super::*;
use crate::Seed;

const DTYPES: [DType; 16] = [
    DType::BOOL,
    DType::U8,
    DType::F8_E5M2,
    DType::F8_E4M3,
    DType::F8_E8M0,
    DType::F8_E4M3FNUZ,
    DType::F8_E5M2FNUZ,
    DType::I16,
    DType::F16,
    DType::BF16,
    DType::I32,
    DType::F32,
    DType::C64,
    DType::F64,
    DType::I64,
    DType::U64,
];

/// Numbers of a normal distribution.
fn normal(count: usize, seed: u64) -> Vec<f32> {
    let uniform = |i: usize| Seed::from(seed).derive(i as u64).value() as f64 / u64::MAX as f64;
    let number = |i: usize| {
        let radius = (-2.0 * (uniform(2 * i) + 1e-12).ln()).sqrt();
        (radius * (std::f64::consts::TAU * uniform(2 * i + 1)).cos() * 0.05) as f32
    };
    (0..count).map(number).collect()
}

fn elements(values: &[f32], dtype: DType) -> Vec<u8> {
    let values = values.iter();
    match dtype {
        DType::F16 => values
            .flat_map(|&x| half::f16::from_f32(x).to_le_bytes())
            .collect(),
        DType::BF16 => values
            .flat_map(|&x| half::bf16::from_f32(x).to_le_bytes())
            .collect(),
        DType::F64 => values.flat_map(|&x| f64::from(x).to_le_bytes()).collect(),
        _ => values.flat_map(|&x| x.to_le_bytes()).collect(),
    }
}

fn coded(raw: &[u8], dtype: DType) -> Option<Vec<u8>> {
    let planes = Planes {
        dtype,
        length: raw.len(),
    };
    let coded = planes.encode(raw)?;
    assert!(coded.len() < raw.len());
    assert_eq!(planes.decode(&coded).unwrap(), raw);
    Some(coded)
}

proptest! {
    /// Every bit pattern comes back: NaN with their payloads, infinities, both zeros, subnormal numbers.
    #[test]
    fn what_is_coded_is_decoded(
        dtype in prop::sample::select(DTYPES.to_vec()),
        patterns in prop::collection::vec(any::<u64>(), 1..6),
        special in any::<bool>(),
        count in 1_usize..3000,
        seed in any::<u64>(),
    ) {
        let width = dtype.bits() / 8;
        let special_bits: [u64; 6] = [0, 1, 1 << 63, 0x7ff0 << 48, 0xfff8_0000_0000_0001, 0x7f80_0001_ff80_0000];
        let mut raw = Vec::new();
        for i in 0..count as u64 {
            let random = Seed::from(seed).derive(i).value() as usize;
            let pattern = if special && random.is_multiple_of(7) {
                special_bits[random / 7 % 6]
            } else {
                patterns[random / 7 % patterns.len()] ^ (random as u64 >> 50)
            };
            raw.extend(&pattern.to_le_bytes()[8 - width..]);
        }
        coded(&raw, dtype);
    }

    #[test]
    fn damaged_bytes_are_errors_or_elements(
        dtype in prop::sample::select(vec![DType::F32, DType::F16, DType::I64, DType::F64]),
        count in 30_usize..600,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
        claimed in prop::option::of(0_usize..1 << 40),
    ) {
        let raw = elements(&normal(count, 1), dtype);
        let raw = &raw[..raw.len() / 8 * 8];
        let planes = Planes { dtype, length: raw.len() };
        let Some(mut damaged) = planes.encode(raw) else { return Ok(()) };
        for (place, value) in changes {
            *place.get_mut(&mut damaged) = value;
        }
        if let Some(cut) = cut {
            damaged.truncate(cut.index(damaged.len()));
        }
        let length = claimed.unwrap_or(planes.length);
        if let Ok(decoded) = (Planes { length, ..planes }).decode(&damaged) {
            prop_assert_eq!(decoded.len(), length);
            prop_assert!(length <= MAX_RATIO * damaged.len());
        }
    }
}

/// The entropy of the exponents of a normal distribution with this standard deviation, in bits.
fn exponent_entropy(deviation: f64) -> f64 {
    // The distribution function by Simpson's rule on the density.
    let density =
        |x: f64| (-x * x / 2.0).exp() * (2.0 / std::f64::consts::TAU).sqrt() * 2.0_f64.sqrt();
    let between = |a: f64, b: f64| {
        let steps = 200;
        let h = (b - a) / f64::from(steps);
        let inner =
            (1..steps).map(|i| density(a + h * f64::from(i)) * if i % 2 == 1 { 4.0 } else { 2.0 });
        (density(a) + inner.sum::<f64>() + density(b)) * h / 3.0
    };
    let octaves =
        (-40..8).map(|e| between(2_f64.powi(e) / deviation, 2_f64.powi(e + 1) / deviation));
    octaves.filter(|&p| p > 0.0).map(|p| -p * p.log2()).sum()
}

#[test]
fn weights_take_the_entropy_of_their_exponents_and_all_other_bits() {
    let count = 1 << 17;
    let values = normal(count, 3);
    let entropy = exponent_entropy(0.05);
    for (dtype, others) in [(DType::F32, 24.0), (DType::BF16, 8.0), (DType::F16, 11.0)] {
        let raw = elements(&values, dtype);
        let bits = coded(&raw, dtype).unwrap().len() as f64 * 8.0 / count as f64;
        // Numbers below 2^-14 share an exponent in half precision, and mantissas are not quite uniform: fewer bits. More are what
        // learning takes: half the binary logarithm of the count for each of some 40 exponents and 8 · 16 others.
        let learning = 168.0 * 0.5 * (count as f64).log2() / count as f64;
        assert!(
            bits < entropy + others + 2.0 * learning,
            "{dtype:?}: {bits} bits, {entropy} of exponents"
        );
        assert!(
            bits > entropy + others - 0.2,
            "{dtype:?}: {bits} bits, {entropy} of exponents"
        );
    }
}

#[test]
fn short_vectors_gain_too() {
    let values = normal(384, 5);
    let bits = |values: &[f32]| {
        coded(&elements(values, DType::F32), DType::F32)
            .unwrap()
            .len() as f64
            * 8.0
    };
    let entropy = exponent_entropy(0.05);
    // Half the binary logarithm of the count for each of 12 exponents, and ten bytes of modes, ranges and the state.
    let allowed = 384.0 * (entropy + 24.0) + 12.0 * 0.5 * 384_f64.log2() + 80.0;
    assert!(
        bits(&values) < 1.01 * allowed,
        "{} bits, {allowed}",
        bits(&values)
    );
    // Scales have one sign, which is not stored for each.
    let positive: Vec<f32> = values.iter().map(|x| 1.0 + x.abs()).collect();
    assert!(bits(&positive) < 384.0 * 23.0);
}

#[test]
fn bits_that_are_zero_take_nothing() {
    let values = normal(5000, 7);
    let halves: Vec<f32> = values
        .iter()
        .map(|&x| half::f16::from_f32(x).to_f32())
        .collect();
    let brains: Vec<f32> = values
        .iter()
        .map(|&x| half::bf16::from_f32(x).to_f32())
        .collect();
    for (values, dtype) in [(halves, DType::F16), (brains, DType::BF16)] {
        let narrow = coded(&elements(&values, dtype), dtype).unwrap().len();
        let wide = coded(&elements(&values, DType::F32), DType::F32)
            .unwrap()
            .len();
        // A symbol of the plane in the middle, where three or no bits are set, has one of 224 probabilities of at least 2^-14.
        assert!(
            wide as f64 <= 1.05 * narrow as f64,
            "{dtype:?}: {wide} bytes for {narrow}"
        );
    }
}

#[test]
fn equal_elements_take_the_least_that_a_reader_accepts() {
    for dtype in [DType::F32, DType::I64, DType::BOOL] {
        let raw = vec![0; 1 << 16];
        assert_eq!(coded(&raw, dtype).unwrap().len(), raw.len() / MAX_RATIO);
    }
    assert_eq!(coded(&[], DType::F32), None);
}

#[test]
fn random_bits_are_left_alone() {
    let raw: Vec<u8> = (0..4096)
        .map(|i| Seed::from(1).derive(i).value() as u8)
        .collect();
    for dtype in [DType::U8, DType::I64, DType::BF16, DType::F64] {
        assert_eq!(coded(&raw, dtype), None, "{dtype:?}");
    }
}
