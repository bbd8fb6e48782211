//! The nearest paths through a trellis, for eight rows of values at a time.
//!
//! The algorithm of Viterbi (doi:10.1109/TIT.1967.1054010) keeps only the nearest of all paths that reach a state. Each step
//! depends on the one before it, so a vector holds the same step of several rows.

use super::Level;
use super::vectorize::at_level;

/// Rows that are worked on together.
pub(crate) const ROWS: usize = 8;
/// States of a trellis.
pub(crate) const STATES: usize = 8;
/// Classes of values.
pub(crate) const CLASSES: usize = 4;

/// Eight states with two ways into each: state s follows s / 2 and s / 2 + 4.
pub(crate) trait Trellis {
    /// The class of the value on the way into each state, from the lower and from the upper state before it.
    const WAYS: [[usize; 2]; STATES];

    /// How far each value is from the nearest one of each class, squared.
    ///
    /// Must be `#[inline(always)]`, and so must all that it calls.
    fn distances(values: &[f64; ROWS]) -> [[f64; ROWS]; CLASSES];
}

/// The classes along the path of least Σ d² from state zero on, for each row; ties go to the lower state.
///
/// `values` holds one value of each row for each step, and `classes` is filled in the same layout. `room` is scratch memory.
pub(crate) fn nearest_paths<T: Trellis>(
    level: Level,
    values: &[[f64; ROWS]],
    classes: &mut Vec<[u8; ROWS]>,
    room: &mut Vec<[u8; ROWS]>,
) {
    at_level!(level, nearest_paths_of<T: Trellis>(
        values: &[[f64; ROWS]],
        classes: &mut Vec<[u8; ROWS]>,
        room: &mut Vec<[u8; ROWS]>,
    ) -> ())
}

#[inline(always)]
fn nearest_paths_of<T: Trellis>(
    values: &[[f64; ROWS]],
    classes: &mut Vec<[u8; ROWS]>,
    room: &mut Vec<[u8; ROWS]>,
) {
    let mut costs = [[f64::INFINITY; ROWS]; STATES];
    costs[0] = [0.0; ROWS];
    // For each row a bit for each state: whether its nearest path came from the upper of both states.
    room.clear();
    room.resize(values.len(), [0; ROWS]);
    for (values, room) in values.iter().zip(room.iter_mut()) {
        let distances = T::distances(values);
        let mut upper = [0_u8; ROWS];
        let mut next = [[0.0; ROWS]; STATES];
        for state in 0..STATES {
            let [lower_way, upper_way] = T::WAYS[state];
            let from_lower = add(&costs[state / 2], &distances[lower_way]);
            let from_upper = add(&costs[state / 2 + STATES / 2], &distances[upper_way]);
            let mut is_upper = [false; ROWS];
            for row in 0..ROWS {
                is_upper[row] = from_upper[row] < from_lower[row];
            }
            for row in 0..ROWS {
                next[state][row] = if is_upper[row] {
                    from_upper[row]
                } else {
                    from_lower[row]
                };
            }
            for row in 0..ROWS {
                upper[row] |= u8::from(is_upper[row]) << state;
            }
        }
        (costs, *room) = (next, upper);
    }
    let mut at = [0_usize; ROWS];
    for (state, cost) in costs.iter().enumerate() {
        for row in 0..ROWS {
            if cost[row] < costs[at[row]][row] {
                at[row] = state;
            }
        }
    }
    classes.clear();
    classes.resize(values.len(), [0; ROWS]);
    for (classes, upper) in classes.iter_mut().zip(room.iter()).rev() {
        for row in 0..ROWS {
            let is_upper = usize::from(upper[row] >> at[row] & 1);
            classes[row] = T::WAYS[at[row]][is_upper] as u8;
            at[row] = at[row] / 2 + is_upper * (STATES / 2);
        }
    }
}

#[inline(always)]
fn add(a: &[f64; ROWS], b: &[f64; ROWS]) -> [f64; ROWS] {
    let mut sum = [0.0; ROWS];
    for ((sum, a), b) in sum.iter_mut().zip(a).zip(b) {
        *sum = a + b;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Seed;
    use crate::kernels::sizes;

    /// Classes are integers modulo four, each way in another one.
    struct Integers;

    impl Trellis for Integers {
        const WAYS: [[usize; 2]; STATES] = [
            [0, 2],
            [1, 3],
            [2, 0],
            [3, 1],
            [2, 0],
            [3, 1],
            [0, 2],
            [1, 3],
        ];

        #[inline(always)]
        fn distances(values: &[f64; ROWS]) -> [[f64; ROWS]; CLASSES] {
            let mut distances = [[0.0; ROWS]; CLASSES];
            for (class, distances) in distances.iter_mut().enumerate() {
                for (distance, value) in distances.iter_mut().zip(values) {
                    let off = value - class as f64;
                    let off = off - 4.0 * (off / 4.0).round();
                    *distance = off * off;
                }
            }
            distances
        }
    }

    /// The least cost of one row, over all paths.
    fn exhaustive(values: &[f64], state: usize) -> f64 {
        let Some((&value, rest)) = values.split_first() else {
            return 0.0;
        };
        let distances = Integers::distances(&[value; ROWS]);
        let mut least = f64::INFINITY;
        for next in 0..STATES {
            for (way, before) in [next / 2, next / 2 + STATES / 2].into_iter().enumerate() {
                if before == state {
                    let distance = distances[Integers::WAYS[next][way]][0];
                    least = least.min(distance + exhaustive(rest, next));
                }
            }
        }
        least
    }

    #[test]
    fn no_path_is_nearer_at_any_level() {
        for length in sizes([0, 1, 2, 5, 9]) {
            let seed = Seed::from(length as u64);
            let random = |i: u64| 4.0 * seed.uniform(i);
            let values: Vec<[f64; ROWS]> = (0..length as u64)
                .map(|t| std::array::from_fn(|row| random(t * ROWS as u64 + row as u64)))
                .collect();
            let (mut expected, mut room) = (Vec::new(), Vec::new());
            nearest_paths::<Integers>(Level::Scalar, &values, &mut expected, &mut room);
            for row in 0..ROWS {
                let own: Vec<f64> = values.iter().map(|values| values[row]).collect();
                let found: f64 = values
                    .iter()
                    .zip(&expected)
                    .map(|(values, classes)| {
                        Integers::distances(values)[usize::from(classes[row])][row]
                    })
                    .sum();
                // Both are sums of the same numbers, from either end.
                let least = exhaustive(&own, 0);
                let rounding = f64::EPSILON * length as f64 * least;
                assert!((found - least).abs() <= rounding, "{found} for {least}");
            }
            for level in Level::available() {
                let mut classes = vec![[9; ROWS]; 3];
                nearest_paths::<Integers>(level, &values, &mut classes, &mut room);
                assert_eq!(classes, expected, "{level:?}");
            }
        }
    }
}
