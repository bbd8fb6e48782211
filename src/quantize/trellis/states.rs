//! The machine that chooses between two grids.

/// How many states there are.
pub(super) const STATES: usize = 8;

/// A state of the machine, which begins at zero.
///
/// The last bit is the grid on which the next number lies. From a state s a number goes on to 2 s mod 8, plus 1 if it is
/// odd; where the upper two bits of s differ, if it is even. With the four classes of values (even and odd numbers on
/// either grid) that is the trellis of G. Ungerboeck, "Channel Coding with Multilevel/Phase Signals", 1982,
/// doi:10.1109/TIT.1982.1056454, with eight states: paths that part differ in value for three numbers at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct State(u8);

impl State {
    pub(super) fn index(self) -> usize {
        self.0.into()
    }

    /// All states.
    pub(super) fn all() -> [Self; STATES] {
        [0, 1, 2, 3, 4, 5, 6, 7].map(Self)
    }

    /// Whether the next number lies on the odd grid.
    pub(crate) fn odd_grid(self) -> bool {
        self.0 & 1 == 1
    }

    /// Whether the machine inverts parities here.
    fn inverts(self) -> bool {
        (self.0 >> 2 ^ self.0 >> 1) & 1 == 1
    }

    /// The state after a number.
    pub(crate) fn next(self, number: i32) -> Self {
        let odd = number & 1 == 1;
        Self(self.0 << 1 & 7 | u8::from(odd != self.inverts()))
    }

    /// The two states that this one may follow, and whether by an odd number.
    pub(super) fn before(self) -> [(Self, bool); 2] {
        let one = self.0 & 1 == 1;
        let lower = Self(self.0 >> 1);
        let upper = Self(self.0 >> 1 | 4);
        [lower, upper].map(|state| (state, one != state.inverts()))
    }

    /// What a number stands for, in multiples of the step: 2k, or on the odd grid 2k − sgn k.
    pub(crate) fn value(self, number: i32) -> i32 {
        value(self.odd_grid(), number)
    }
}

pub(super) fn value(odd_grid: bool, number: i32) -> i32 {
    2 * number - if odd_grid { number.signum() } else { 0 }
}

/// The number of a parity whose value on a grid is nearest to `x`, of magnitude below 2¹⁶.
pub(super) fn nearest(x: f64, odd_grid: bool, odd: bool) -> i32 {
    let magnitude = x.abs();
    // Values of one class are four apart, but for the middle of the odd grid: …, −5, −1, 1, 5, … and …, −7, −3, 0, 3, 7, …
    let number = match (odd_grid, odd) {
        (false, false) => 2 * ((magnitude + 2.0) / 4.0) as i32,
        (false, true) => 1 + 2 * (magnitude / 4.0) as i32,
        (true, true) => 1 + 2 * ((magnitude + 1.0) / 4.0) as i32,
        (true, false) if magnitude < 1.5 => 0,
        (true, false) => 2 + 2 * ((magnitude - 1.0) / 4.0) as i32,
    };
    if x < 0.0 { -number } else { number }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_follow_those_they_say() {
        for state in State::all() {
            for number in -4..=4 {
                let next = state.next(number);
                assert!(next.before().contains(&(state, number & 1 == 1)));
            }
            for (before, odd) in state.before() {
                assert_eq!(before.next(odd.into()), state);
            }
        }
    }

    #[test]
    fn no_number_of_the_class_is_nearer() {
        for odd_grid in [false, true] {
            for odd in [false, true] {
                for i in -4000..=4000 {
                    let x = f64::from(i) / 200.0;
                    let distance = |k: i32| (x - f64::from(value(odd_grid, k))).abs();
                    let found = nearest(x, odd_grid, odd);
                    assert_eq!(found & 1 == 1, odd);
                    let of_class = (-20..=20_i32).filter(|k| (k & 1 == 1) == odd);
                    let least = of_class.map(distance).fold(f64::INFINITY, f64::min);
                    assert!(distance(found) <= least + 1e-12, "{found} for {x}");
                }
            }
        }
    }

    /// Two paths that part at a state and meet again differ by nine squared steps at least, a plain grid of even
    /// multiples by four: what the trellis gains.
    #[test]
    fn paths_that_part_stay_apart() {
        // The distance of classes far from zero, where numbers of a class are four values apart.
        let apart = |a: i32, b: i32| {
            let d = (a - b).rem_euclid(4);
            f64::from(d.min(4 - d)).powi(2)
        };
        for start in State::all() {
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
