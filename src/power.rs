//! Powers of two. Multiplying by one changes no digit of a number, as long as the result is in the type's range.

use std::f64::consts::SQRT_2;

use ndarray::{Array, ArrayView, Dimension};

use crate::{Float, check};

/// ⌊log₂ |value|⌋, exactly; 0 for zero. `value` is finite.
pub(crate) fn exponent(value: f64) -> i32 {
    const BIAS: i32 = 1023;
    let field = |value: f64| (value.abs().to_bits() >> 52) as i32;
    match field(value) {
        _ if value == 0.0 => 0,
        // A subnormal number.
        0 => field(value * 2.0_f64.powi(54)) - 54 - BIAS,
        field => field - BIAS,
    }
}

/// ⌊log₂⌋ of the largest magnitude in `array`, whose values are finite; 0 for zeros.
pub(crate) fn largest_exponent<F: Float, D: Dimension>(array: &ArrayView<'_, F, D>) -> i32 {
    exponent(check::largest(array).as_f64())
}

/// `value` · 2^`exponent`.
pub(crate) fn times<F: Float>(value: F, exponent: i32) -> F {
    let (first, second) = factors(exponent);
    F::from_f64_lossy(value.as_f64() * first * second)
}

/// `array` · 2^`exponent`.
pub(crate) fn scaled<F: Float, D: Dimension>(
    array: &ArrayView<'_, F, D>,
    exponent: i32,
) -> Array<F, D> {
    let (first, second) = factors(exponent);
    array.mapv(|x| F::from_f64_lossy(x.as_f64() * first * second))
}

/// √2^`exponent`.
pub(crate) fn root(exponent: i32) -> f64 {
    let odd = exponent.rem_euclid(2) == 1;
    times(if odd { SQRT_2 } else { 1.0 }, exponent.div_euclid(2))
}

/// `exponent` as the sum of `parts` numbers that differ by one at most, the larger ones last.
pub(crate) fn divided(exponent: i32, parts: usize) -> Vec<i32> {
    let count = i32::try_from(parts).expect("a tensor has few axes");
    let larger = exponent.rem_euclid(count);
    (0..count)
        .map(|part| exponent.div_euclid(count) + i32::from(part >= count - larger))
        .collect()
}

/// Two factors with the product 2^`exponent`, which are in the range of `f64` even if the product is not.
fn factors(exponent: i32) -> (f64, f64) {
    let half = exponent / 2;
    (2.0_f64.powi(half), 2.0_f64.powi(exponent - half))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponents_are_exact_for_every_power_of_two_and_its_neighbours() {
        assert_eq!(exponent(0.0), 0);
        for e in -1074..=1023 {
            let power = times(1.0_f64, e);
            assert_eq!(exponent(power), e);
            assert_eq!(exponent(-power), e);
            if e > -1022 {
                assert_eq!(exponent(power.next_down()), e - 1);
                assert_eq!(exponent(power.next_up()), e);
            }
        }
    }

    #[test]
    fn exponents_are_divided_evenly_and_without_a_rest() {
        for exponent in -40..=40 {
            for count in 1..=6 {
                let parts = divided(exponent, count);
                assert_eq!(parts.len(), count);
                assert_eq!(parts.iter().sum::<i32>(), exponent);
                assert!(parts.is_sorted() && parts[count - 1] <= parts[0] + 1);
            }
        }
    }

    #[test]
    fn multiplying_by_a_power_and_its_inverse_changes_nothing() {
        for e in -149..=127 {
            let power = times(1.0_f32, e);
            assert_eq!(times(power, -e), 1.0, "{e}");
        }
        for e in -1074..=1023 {
            assert_eq!(times(times(1.0_f64, e), -e), 1.0, "{e}");
        }
    }
}
