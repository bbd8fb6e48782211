//! The path of least cost through a trellis, for one sequence of values; the states lie in the lanes of vectors.
//!
//! The algorithm of Viterbi (doi:10.1109/TIT.1967.1054010) keeps only the cheapest of all paths that reach a state. The costs of
//! all states are kept for all steps, and the way back compares them anew: that takes no instruction on the way forth.

use super::Level;
use super::vectorize::at_level;

/// Classes of values: those of even and of odd numbers from states whose last bit is 0, and the same where it is 1.
pub(crate) const CLASSES: usize = 4;
/// The most states.
const MOST: usize = 256;
/// Steps after which costs are reduced, so that single precision holds them.
const SPAN: usize = 16;

/// A convolutional code of rate 1/2 whose state s is followed by s / 2, plus (exclusive or) `FEEDBACK` if s is odd, plus `INPUT`
/// if the number is odd.
///
/// Both constants are polynomials over two elements without their last coefficient; the first bit of a state is set in `FEEDBACK`
/// and not in `INPUT`.
pub(crate) trait Code {
    /// The number of states, a power of two from 8 to 256.
    const STATES: usize;
    const FEEDBACK: usize;
    const INPUT: usize;

    /// One step: the costs of the states after it from those before it.
    ///
    /// Must be `#[inline(always)]`, and so must all that it calls.
    fn step(before: &[f32], costs: &[f32; CLASSES], after: &mut [f32]);
}

/// Defines the code of a number of states, which are worked on so many lanes at a time.
macro_rules! code {
    ($name:ident, $states:literal, $lanes:literal, $feedback:literal, $input:literal) => {
        #[derive(Debug)]
        pub(crate) struct $name;

        impl Code for $name {
            const STATES: usize = $states;
            const FEEDBACK: usize = $feedback >> 1;
            const INPUT: usize = $input >> 1;

            #[inline(always)]
            fn step(before: &[f32], costs: &[f32; CLASSES], after: &mut [f32]) {
                const HALF: usize = $states / 2;
                const LOW: usize = ($feedback >> 1) ^ HALF;
                let (mut even, mut odd) = ([0.0; HALF], [0.0; HALF]);
                let pairs = before.as_chunks::<2>().0.iter();
                for ((even, odd), pair) in even.iter_mut().zip(&mut odd).zip(pairs) {
                    (*even, *odd) = (pair[0], pair[1]);
                }
                let (lower, upper) = after.split_at_mut(HALF);
                let input = Self::INPUT;
                half::<HALF, $lanes>(&even, [costs[0], costs[1]], [0, input], lower);
                half::<HALF, $lanes>(&odd, [costs[2], costs[3]], [LOW, LOW ^ input], upper);
            }
        }
    };
}

// The codes of rate 1/2 for amplitude modulation of G. Ungerboeck, "Channel Coding with Multilevel/Phase Signals", 1982,
// doi:10.1109/TIT.1982.1056454, table I: the parity-check polynomials h⁰ and h¹.
code!(Code8, 8, 4, 0o13, 0o4);
code!(Code16, 16, 8, 0o23, 0o4);
code!(Code32, 32, 8, 0o45, 0o10);
code!(Code64, 64, 8, 0o103, 0o24);
code!(Code128, 128, 8, 0o235, 0o126);
code!(Code256, 256, 8, 0o515, 0o362);

/// The costs of half of the states: state i follows the states i ^ `ways[0]` and i ^ `ways[1]` of `before`.
#[inline(always)]
fn half<const HALF: usize, const LANES: usize>(
    before: &[f32; HALF],
    costs: [f32; 2],
    ways: [usize; 2],
    after: &mut [f32],
) {
    for (block, after) in after.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        let of = |way: usize, cost: f32| -> [f32; LANES] {
            let from = (block ^ (way / LANES)) * LANES;
            std::array::from_fn(|i| before[from + (i ^ (way % LANES))] + cost)
        };
        let (first, second) = (of(ways[0], costs[0]), of(ways[1], costs[1]));
        for ((after, first), second) in after.iter_mut().zip(first).zip(second) {
            *after = if second < first { second } else { first };
        }
    }
}

/// The class at each step of the path of least cost from state zero on, where `costs` are those of each class at each step;
/// of two paths at the same cost, that of the even number.
///
/// `room` is scratch memory. At least one class of each of the pairs (0, 1) and (2, 3) has a finite cost at each step.
pub(crate) fn cheapest_path<C: Code>(
    level: Level,
    costs: &[[f32; CLASSES]],
    room: &mut Vec<f32>,
    classes: &mut [u8],
) {
    at_level!(level, cheapest_path_of<C: Code>(
        costs: &[[f32; CLASSES]],
        room: &mut Vec<f32>,
        classes: &mut [u8],
    ) -> ())
}

#[inline(always)]
fn cheapest_path_of<C: Code>(costs: &[[f32; CLASSES]], room: &mut Vec<f32>, classes: &mut [u8]) {
    let needed = (costs.len() + 1) * C::STATES;
    if room.len() < needed {
        room.resize(needed, 0.0);
    }
    let totals = &mut room[..needed];
    totals[..C::STATES].fill(f32::INFINITY);
    totals[0] = 0.0;
    for (t, costs) in costs.iter().enumerate() {
        let (before, after) = totals[t * C::STATES..].split_at_mut(C::STATES);
        let after = &mut after[..C::STATES];
        C::step(before, costs, after);
        if t % SPAN == SPAN - 1 {
            let least = least(after);
            after.iter_mut().for_each(|cost| *cost -= least);
        }
    }
    let last = &totals[costs.len() * C::STATES..];
    let mut state = 0;
    for (s, cost) in last.iter().enumerate() {
        if *cost < last[state] {
            state = s;
        }
    }
    for (t, (costs, class)) in costs.iter().zip(classes).enumerate().rev() {
        let before = &totals[t * C::STATES..][..C::STATES];
        let odd_grid = state >= C::STATES / 2;
        let plain = if odd_grid { state ^ C::FEEDBACK } else { state };
        let even = 2 * plain + usize::from(odd_grid);
        let odd = 2 * (plain ^ C::INPUT) + usize::from(odd_grid);
        let first = 2 * usize::from(odd_grid);
        let by_odd = before[odd] + costs[first + 1] < before[even] + costs[first];
        *class = (first + usize::from(by_odd)) as u8;
        state = if by_odd { odd } else { even };
    }
}

#[inline(always)]
fn least(costs: &[f32]) -> f32 {
    let mut least = [f32::INFINITY; 8];
    for costs in costs.as_chunks::<8>().0 {
        for (least, &cost) in least.iter_mut().zip(costs) {
            *least = if cost < *least { cost } else { *least };
        }
    }
    least.into_iter().fold(f32::INFINITY, f32::min)
}

const _: () = assert!(Code256::STATES == MOST);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Seed;
    use crate::kernels::sizes;

    fn next<C: Code>(state: usize, odd: bool) -> usize {
        let feedback = if state & 1 == 1 { C::FEEDBACK } else { 0 };
        (state >> 1) ^ feedback ^ if odd { C::INPUT } else { 0 }
    }

    /// The least cost of all paths, in double precision.
    fn least_cost<C: Code>(costs: &[[f32; CLASSES]]) -> f64 {
        let mut totals = vec![f64::INFINITY; C::STATES];
        totals[0] = 0.0;
        for costs in costs {
            let mut after = vec![f64::INFINITY; C::STATES];
            for (state, total) in totals.iter().enumerate() {
                for odd in [false, true] {
                    let class = 2 * (state & 1) + usize::from(odd);
                    let to = &mut after[next::<C>(state, odd)];
                    *to = to.min(total + f64::from(costs[class]));
                }
            }
            totals = after;
        }
        totals.into_iter().fold(f64::INFINITY, f64::min)
    }

    fn check<C: Code>() {
        for length in sizes([0, 1, 2, 9, 40, 100]) {
            let seed = Seed::from(length as u64);
            let costs: Vec<[f32; CLASSES]> = (0..length as u64)
                .map(|t| std::array::from_fn(|c| seed.uniform(4 * t + c as u64) as f32))
                .collect();
            let mut expected = vec![9; length];
            let mut room = Vec::new();
            cheapest_path::<C>(Level::Scalar, &costs, &mut room, &mut expected);
            // The classes are those of a path, and no path is cheaper.
            let (mut state, mut found) = (0, 0.0);
            for (costs, &class) in costs.iter().zip(&expected) {
                assert_eq!(usize::from(class) / 2, state & 1);
                found += f64::from(costs[usize::from(class)]);
                state = next::<C>(state, class & 1 == 1);
            }
            let least = least_cost::<C>(&costs);
            // Each step rounds sums of at most two spans of costs below 1.
            let rounding = f64::from(f32::EPSILON) * 2.0 * SPAN as f64 * length as f64;
            assert!((found - least).abs() <= rounding, "{found} for {least}");
            for level in Level::available() {
                let mut classes = vec![9; length];
                cheapest_path::<C>(level, &costs, &mut room, &mut classes);
                assert_eq!(classes, expected, "{level:?}");
            }
        }
    }

    #[test]
    fn no_path_is_cheaper_at_any_level() {
        check::<Code8>();
        check::<Code16>();
        check::<Code32>();
        check::<Code64>();
        check::<Code128>();
        check::<Code256>();
    }

    /// Both ways out of a state and both ways into a state differ, and each state is reached.
    fn check_ways<C: Code>() {
        let mut into = vec![0; C::STATES];
        for state in 0..C::STATES {
            let ways = [false, true].map(|odd| next::<C>(state, odd));
            assert_ne!(ways[0], ways[1]);
            for way in ways {
                into[way] += 1;
                // The last bit of a state is the first one of its successor.
                assert_eq!(way >= C::STATES / 2, state & 1 == 1);
            }
        }
        assert!(into.into_iter().all(|count| count == 2));
    }

    #[test]
    fn codes_have_two_ways_into_each_state() {
        check_ways::<Code8>();
        check_ways::<Code16>();
        check_ways::<Code32>();
        check_ways::<Code64>();
        check_ways::<Code128>();
        check_ways::<Code256>();
    }
}
