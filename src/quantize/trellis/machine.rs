//! The machine whose state chooses between two grids.

use crate::kernels::Level;
use crate::kernels::viterbi::{
    CLASSES, Code, Code8, Code16, Code32, Code64, Code128, Code256, cheapest_path,
};

/// A machine that changes its state with the parity of each number. The last bit of the state is the grid of the next number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Machine {
    states: usize,
    feedback: usize,
    input: usize,
}

impl Machine {
    /// The machine with so many states, a power of two from 8 to 256.
    pub(crate) fn new(states: usize) -> Option<Self> {
        const fn of<C: Code>() -> Machine {
            Machine {
                states: C::STATES,
                feedback: C::FEEDBACK,
                input: C::INPUT,
            }
        }
        Some(match states {
            8 => of::<Code8>(),
            16 => of::<Code16>(),
            32 => of::<Code32>(),
            64 => of::<Code64>(),
            128 => of::<Code128>(),
            256 => of::<Code256>(),
            _ => return None,
        })
    }

    pub(crate) fn states(self) -> usize {
        self.states
    }

    /// The state after a number.
    #[inline(always)]
    pub(crate) fn next(self, state: usize, number: i32) -> usize {
        let feedback = self.feedback & (state & 1).wrapping_neg();
        let input = self.input & (number as usize & 1).wrapping_neg();
        (state >> 1) ^ feedback ^ input
    }

    /// The class at each step of the path of least cost; see [`cheapest_path`].
    pub(super) fn cheapest(
        self,
        level: Level,
        costs: &[[f32; CLASSES]],
        room: &mut Vec<f32>,
        classes: &mut [u8],
    ) {
        let run = match self.states {
            8 => cheapest_path::<Code8>,
            16 => cheapest_path::<Code16>,
            32 => cheapest_path::<Code32>,
            64 => cheapest_path::<Code64>,
            128 => cheapest_path::<Code128>,
            256 => cheapest_path::<Code256>,
            _ => unreachable!("a machine has one of these numbers of states"),
        };
        run(level, costs, room, classes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two paths that separate at a state and meet again differ by at least the free distance of the code in squared
    /// steps; those on a single grid of even multiples by four.
    #[test]
    fn paths_that_separate_differ_by_the_free_distance() {
        for (states, free) in [(8, 10), (16, 11), (32, 13), (64, 14), (128, 16), (256, 17)] {
            let machine = Machine::new(states).unwrap();
            // The values of a class are four steps apart: grid and parity give a residue, and the grids are mirrored.
            let residue = |state: usize, odd: i32| {
                let value = 4 * odd + 1;
                if state & 1 == 1 { -value } else { value }
            };
            let apart = |a: i32, b: i32| {
                // In half steps.
                let d = (a - b).rem_euclid(8);
                d.min(8 - d).pow(2) / 4
            };
            // The least distance to reach each pair of states, by relaxation; the code is linear up to signs of distances.
            let mut least = vec![i32::MAX; states * states];
            let mut open = std::collections::BTreeSet::new();
            let mut found = i32::MAX;
            for state in 0..states {
                let (a, b) = (machine.next(state, 0), machine.next(state, 1));
                let d = apart(residue(state, 0), residue(state, 1));
                if d < least[a * states + b] {
                    least[a * states + b] = d;
                    open.insert((d, a, b));
                }
            }
            while let Some((d, a, b)) = open.pop_first() {
                if a == b {
                    found = d;
                    break;
                }
                for (i, j) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                    let total = d + apart(residue(a, i), residue(b, j));
                    let (a, b) = (machine.next(a, i), machine.next(b, j));
                    let (a, b) = (a.min(b), a.max(b));
                    if total < least[a * states + b] {
                        least[a * states + b] = total;
                        open.insert((total, a, b));
                    }
                }
            }
            assert_eq!(found, free, "{states} states");
        }
    }
}
