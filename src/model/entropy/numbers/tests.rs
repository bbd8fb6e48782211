use super::*;
use crate::Seed;
use proptest::prelude::*;

/// Codes and decodes; how many bytes that takes.
fn round_trip(symbols: &[u32], bits: u32, columns: usize) -> usize {
    let numbers = Numbers::of(symbols, bits, CodeMeaning::Numbers { columns }).unwrap();
    let coded = numbers.coded(symbols);
    if coded.len() < symbols.len() / MAX_RATIO {
        // So few bytes are not written, and not read.
        assert!(numbers.encode(symbols).is_none() && numbers.decode(&coded).is_err());
    } else {
        assert_eq!(numbers.encode(symbols).as_ref(), Some(&coded));
        let raw = PackedCodes::pack(symbols, bits);
        assert_eq!(numbers.decode(&coded).unwrap(), raw.bytes());
    }
    coded.len()
}

/// Normal numbers, as sums of uniform ones.
fn normal(seed: u64, count: usize) -> Vec<f64> {
    let seed = Seed::from(seed);
    let uniform = |i: u64| seed.derive(i).value() as f64 / u64::MAX as f64 - 0.5;
    (0..count as u64)
        .map(|i| (0..12).map(|j| uniform(12 * i + j)).sum())
        .collect()
}

fn codes(values: impl Iterator<Item = f64>, bits: u32) -> Vec<u32> {
    let zero = f64::from(1_u32 << (bits - 1));
    let last = f64::from((1_u32 << bits) - 1);
    values
        .map(|x| (x + zero).round().clamp(0.0, last) as u32)
        .collect()
}

proptest! {
    #[test]
    fn what_is_coded_is_decoded(
        bits in 2_u32..=16,
        columns in 1_usize..60,
        skew in 1_i32..9,
        random in prop::collection::vec(any::<u32>(), 1..3000),
    ) {
        // Powers of uniform numbers: small symbols are frequent, large ones far away.
        let scale = f64::from((1_u32 << bits) - 1);
        let symbols: Vec<u32> = random
            .iter()
            .map(|&x| ((f64::from(x) / f64::from(u32::MAX)).powi(skew) * scale) as u32)
            .collect();
        round_trip(&symbols, bits, columns.min(symbols.len()));
    }

    #[test]
    fn ends_of_the_range_are_decoded(bits in 2_u32..=16, ends in prop::collection::vec(any::<bool>(), 1..400)) {
        let last = (1_u32 << bits) - 1;
        let symbols: Vec<u32> = ends.iter().map(|&end| if end { last } else { 0 }).collect();
        round_trip(&symbols, bits, symbols.len().min(7));
    }

    /// Whatever is read: codes of the right number, or an error.
    #[test]
    fn forged_bytes_are_codes_or_an_error(
        bits in 0_u32..=17,
        count in 0_usize..500,
        columns in 0_usize..500,
        zero in 0_u32..1 << 17,
        order in 0_u8..40,
        bytes in prop::collection::vec(any::<u8>(), 0..120),
    ) {
        let numbers = Numbers { bits, count, columns, zero };
        let mut forged = vec![order, 0];
        forged.extend(&bytes);
        for coded in [&bytes, &forged] {
            if let Ok(raw) = numbers.decode(coded) {
                prop_assert_eq!(Some(raw.len()), numbers.raw_bytes());
            }
        }
    }

    #[test]
    fn cut_bytes_are_codes_or_an_error(seed in any::<u64>(), change in any::<u8>(), at in 0.0..1.0) {
        let symbols = codes(normal(seed, 600).into_iter().map(|x| 3.0 * x), 6);
        let numbers = Numbers::of(&symbols, 6, CodeMeaning::Numbers { columns: 20 }).unwrap();
        let mut coded = numbers.encode(&symbols).unwrap();
        let place = (at * coded.len() as f64) as usize;
        for other in [&coded[..place], &coded[..coded.len() - 4]] {
            if let Ok(raw) = numbers.decode(other) {
                prop_assert_eq!(Some(raw.len()), numbers.raw_bytes());
            }
        }
        coded[place] ^= change;
        if let Ok(raw) = numbers.decode(&coded) {
            prop_assert_eq!(Some(raw.len()), numbers.raw_bytes());
        }
    }
}

#[test]
fn independent_numbers_take_their_entropy() {
    // ½ log₂(2πe σ²) bits each for normal numbers of σ steps.
    for (sigma, bits) in [(2.0_f64, 6), (20.0, 9), (1000.0, 14)] {
        let count = 100_000;
        let symbols = codes(normal(3, count).into_iter().map(|x| sigma * x), bits);
        let coded = round_trip(&symbols, bits, 500) as f64;
        let entropy = 0.5 * (std::f64::consts::TAU * std::f64::consts::E * sigma * sigma).log2();
        let a_number = 8.0 * coded / count as f64;
        // Scales are estimated from some thirty neighbours, off by an eighth: a hundredth of a bit; what is learned from 255
        // symbols costs 15 / (2 · 255 · ln 2) = 0.04 bits.
        assert!(
            a_number > entropy - 0.01 && a_number < entropy + 0.07,
            "{a_number} for {entropy}"
        );
    }
}

#[test]
fn scales_of_rows_and_columns_are_found() {
    // σ = 2^(r + c) steps; the law of all numbers together costs more than each under its own.
    let (rows, columns) = (200, 300);
    let scale = |i: usize| f64::from((i / columns % 3 + i % columns % 4) as u32).exp2();
    let symbols = codes(
        normal(4, rows * columns)
            .into_iter()
            .enumerate()
            .map(|(i, x)| scale(i) * x),
        9,
    );
    let coded = 8.0 * round_trip(&symbols, 9, columns) as f64 / symbols.len() as f64;
    // The mean of log₂ σ is 1 + 1.5.
    let apart = 0.5 * (std::f64::consts::TAU * std::f64::consts::E).log2() + 2.5;
    let mut counts = [0.0; 512];
    symbols
        .iter()
        .for_each(|&symbol| counts[symbol as usize] += 1.0 / symbols.len() as f64);
    let together: f64 = counts
        .iter()
        .filter(|&&p| p > 0.0)
        .map(|p| -p * p.log2())
        .sum();
    // Most of what knowing each scale would save.
    assert!(
        coded < apart + 0.4 * (together - apart),
        "{coded} between {apart} and {together}"
    );
}

#[test]
fn neighbours_predict() {
    // v_t = 0.9 v_{t−1} + noise of 3 steps: the noise is all that has to be told.
    let mut value = 0.0;
    let symbols = codes(
        normal(5, 100_000).into_iter().map(|x| {
            value = 0.9 * value + 3.0 * x;
            value
        }),
        8,
    );
    let coded = round_trip(&symbols, 8, 1000) as f64;
    let entropy = 0.5 * (std::f64::consts::TAU * std::f64::consts::E * 9.0).log2();
    let a_number = 8.0 * coded / symbols.len() as f64;
    assert!(a_number < entropy + 0.1, "{a_number} for {entropy}");
}

#[test]
fn the_bytes_are_those_of_every_machine() {
    // Fixed by the format: a change here is another format.
    let symbols: Vec<u32> = (0..64).map(|i| (i * i * 7 + i / 5) % 32).collect();
    let numbers = Numbers::of(&symbols, 5, CodeMeaning::Numbers { columns: 8 }).unwrap();
    let coded = numbers.encode(&symbols).unwrap();
    let sum = coded.iter().fold(0_u32, |sum, &byte| {
        sum.wrapping_mul(31).wrapping_add(byte.into())
    });
    assert_eq!((numbers.zero, coded.len(), sum), (14, 46, 176061509));
}

#[test]
fn the_nearest_number_is_expected() {
    for expected in -3000_i32..=3000 {
        let distance = |number: i32| (expected - (number << FRACTION)).abs();
        let (nearest, offset) = on_grid(expected);
        assert_eq!(offset, expected - (nearest << FRACTION));
        assert_eq!((-20..=20).map(distance).min(), Some(offset.abs()));
    }
}
