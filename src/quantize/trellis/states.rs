//! The state machine that chooses between two grids.

use crate::kernels::viterbi::{CLASSES, STATES};

/// A state of the machine, which starts at zero.
///
/// The last bit is the grid of the next number. From a state s, a number leads to 2 s mod 8, plus 1 if it is
/// odd (if it is even, where the upper two bits of s differ). With the four classes of values (even and odd numbers on
/// either grid) that is the trellis of G. Ungerboeck, "Channel Coding with Multilevel/Phase Signals", 1982,
/// doi:10.1109/TIT.1982.1056454, with eight states: paths that separate differ in at least three numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct State(u8);

impl State {
    /// Whether the next number lies on the odd grid.
    pub(crate) const fn odd_grid(self) -> bool {
        self.0 & 1 == 1
    }

    /// Whether the machine inverts parities here.
    const fn inverts(self) -> bool {
        (self.0 >> 2 ^ self.0 >> 1) & 1 == 1
    }

    /// The state after a number.
    pub(crate) fn next(self, number: i32) -> Self {
        let odd = number & 1 == 1;
        Self(self.0 << 1 & 7 | u8::from(odd != self.inverts()))
    }

    /// The classes of the values that lead to each state, from the lower and from the upper of its two previous states.
    pub(super) const fn ways() -> [[usize; 2]; STATES] {
        let mut ways = [[0; 2]; STATES];
        let mut state = 0;
        while state < STATES {
            let mut upper = 0;
            while upper < 2 {
                let before = Self((state / 2 + upper * STATES / 2) as u8);
                let odd = (state & 1 == 1) != before.inverts();
                ways[state][upper] = class(before.odd_grid(), odd);
                upper += 1;
            }
            state += 1;
        }
        ways
    }

    /// The value of a number in multiples of the step: 2k, or on the odd grid 2k − sgn k.
    pub(crate) fn value(self, number: i32) -> i32 {
        value(self.odd_grid(), number)
    }
}

pub(super) fn value(odd_grid: bool, number: i32) -> i32 {
    2 * number - if odd_grid { number.signum() } else { 0 }
}

/// Numbers of a parity, on a grid. The values of a class are four apart, but for the middle of the odd grid: 0, ±4, …; ±2, ±6, …;
/// on the odd grid 0, ±3, ±7, … and ±1, ±5, …
const fn class(odd_grid: bool, odd: bool) -> usize {
    2 * odd_grid as usize + odd as usize
}

/// The positive number of a class, or zero, whose value is nearest to `magnitude`, above −1 and below 2¹⁶.
pub(super) fn nearest(magnitude: f64, class: usize) -> i32 {
    // The number added before the division by four, and the number of the first quarter.
    const ADDED: [f64; CLASSES] = [2.0, 0.0, -1.0, 1.0];
    const FIRST: [i32; CLASSES] = [0, 1, 2, 1];
    let class = class.min(CLASSES - 1);
    let number = FIRST[class] + 2 * ((magnitude + ADDED[class]) / 4.0) as i32;
    let is_zero = class == 2 && magnitude < 1.5;
    if is_zero { 0 } else { number }
}

/// How far `magnitude`, above −1 and below 2¹⁶, is from the nearest value of a class that is not negative, squared.
#[inline(always)]
pub(super) fn squared_distance(magnitude: f64, class: usize) -> f64 {
    // Adding it leaves no binary digits after the point.
    const WHOLE: f64 = 1.5 * (1_u64 << 52) as f64;
    const FIRST: [f64; CLASSES] = [0.0, 2.0, 3.0, 1.0];
    let first = FIRST[class];
    // The nearest of first + 4 j: of two at the same distance either will do.
    let quarters = ((magnitude - first) * 0.25 + WHOLE) - WHOLE;
    let quarters = if quarters > 0.0 { quarters } else { 0.0 };
    let off = magnitude - (4.0 * quarters + first);
    let to_zero = class == 2 && magnitude < 1.5;
    let off = if to_zero { magnitude } else { off };
    off * off
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> [State; STATES] {
        [0, 1, 2, 3, 4, 5, 6, 7].map(State)
    }

    #[test]
    fn states_follow_their_previous_states() {
        let ways = State::ways();
        for state in all() {
            for number in -4..=4 {
                let next = usize::from(state.next(number).0);
                let upper = usize::from(state.0) / (STATES / 2);
                assert_eq!(next / 2 + upper * STATES / 2, usize::from(state.0));
                assert_eq!(ways[next][upper], class(state.odd_grid(), number & 1 == 1));
            }
        }
    }

    #[test]
    fn no_number_of_the_class_is_nearer() {
        for odd_grid in [false, true] {
            for odd in [false, true] {
                for i in -199..=4000 {
                    let x = f64::from(i) / 200.0;
                    let distance = |k: i32| (x - f64::from(value(odd_grid, k))).abs();
                    let class = class(odd_grid, odd);
                    let found = nearest(x, class);
                    assert_eq!(found & 1 == 1, odd);
                    let of_class = (0..=20_i32).filter(|k| (k & 1 == 1) == odd);
                    let least = of_class.map(distance).fold(f64::INFINITY, f64::min);
                    assert!(distance(found) <= least + 1e-12, "{found} for {x}");
                    // The path is chosen by the very distance that its number has.
                    let squared = squared_distance(x, class);
                    assert_eq!(squared, distance(found).powi(2), "{x}");
                }
            }
        }
    }

    /// Two paths that separate at a state and meet again differ by at least nine squared steps, those on a single grid of even
    /// multiples by four: the gain of the trellis.
    #[test]
    fn paths_that_separate_differ_by_nine_squared_steps() {
        // The distance of classes far from zero, where numbers of a class are four values apart.
        let apart = |a: i32, b: i32| {
            let d = (a - b).rem_euclid(4);
            f64::from(d.min(4 - d)).powi(2)
        };
        for start in all() {
            let mut least = f64::INFINITY;
            // Depth first over pairs of paths, all values positive.
            let mut open = vec![(start, start, 0.0_f64, 0)];
            while let Some((a, b, distance, length)) = open.pop() {
                if length > 0 && a == b {
                    least = least.min(distance);
                    continue;
                }
                if length == 6 || distance >= least {
                    continue;
                }
                for (i, j) in [(2, 2), (2, 3), (3, 2), (3, 3)] {
                    if length == 0 && i >= j {
                        continue;
                    }
                    let step = apart(a.value(i), b.value(j));
                    open.push((a.next(i), b.next(j), distance + step, length + 1));
                }
            }
            assert!(least >= 9.0, "{least} from {start:?}");
        }
    }
}
