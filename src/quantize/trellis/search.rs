//! The search of a path: the numbers of one row or column.

use super::laws::{Counts, Law};
use super::machine::Machine;
use crate::kernels::Level;
use crate::kernels::viterbi::CLASSES;

/// A weight to be coded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    /// The weight in steps.
    pub(super) x: f64,
    pub(super) class: usize,
    /// Whether the number must be zero.
    pub(super) zero: bool,
}

/// The number next to `x` steps on the even grid of values 2k + 1/2.
#[inline(always)]
pub(super) fn nearest(x: f64) -> i32 {
    (x * 0.5 + 0.25).floor() as i32
}

/// Searches paths, with room for one of them.
pub(super) struct Search<'a> {
    level: Level,
    machine: Machine,
    laws: &'a [Law],
    /// Those of the last path.
    targets: Vec<Target>,
    costs: Vec<[f32; CLASSES]>,
    numbers: Vec<[i32; CLASSES]>,
    classes: Vec<u8>,
    room: Vec<f32>,
}

impl<'a> Search<'a> {
    pub(super) fn new(level: Level, machine: Machine, laws: &'a [Law]) -> Self {
        Self {
            level,
            machine,
            laws,
            targets: Vec::new(),
            costs: Vec::new(),
            numbers: Vec::new(),
            classes: Vec::new(),
            room: Vec::new(),
        }
    }

    /// Writes the numbers of least cost for the targets of a path.
    pub(super) fn run(&mut self, targets: impl Iterator<Item = Target>, out: &mut [i32]) {
        self.targets.clear();
        self.targets.extend(targets);
        self.costs.clear();
        self.numbers.clear();
        for &target in &self.targets {
            let (costs, numbers) = self.step(target);
            self.costs.push(costs);
            self.numbers.push(numbers);
        }
        self.classes.resize(self.costs.len(), 0);
        let (machine, level) = (self.machine, self.level);
        machine.cheapest(level, &self.costs, &mut self.room, &mut self.classes);
        for ((out, numbers), &class) in out.iter_mut().zip(&self.numbers).zip(&self.classes) {
            *out = numbers[usize::from(class)];
        }
    }

    /// The cheapest number of each parity on each grid, and its cost.
    #[inline(always)]
    fn step(&self, target: Target) -> ([f32; CLASSES], [i32; CLASSES]) {
        let mut costs = [f32::INFINITY; CLASSES];
        let mut numbers = [0; CLASSES];
        let law = &self.laws[target.class];
        for grid in 0..2 {
            let x = if grid == 1 { -target.x } else { target.x };
            if target.zero {
                costs[2 * grid] = law.cost(x as f32, 0);
                continue;
            }
            let number = nearest(x);
            let x = x as f32;
            let [below, at, above] = [-1, 0, 1].map(|d| (law.cost(x, number + d), number + d));
            let beside = if above.0 < below.0 { above } else { below };
            // The parity of a negative number is that of its last bit too.
            let odd = (number & 1) as usize;
            (costs[2 * grid + odd], numbers[2 * grid + odd]) = at;
            (costs[2 * grid + 1 - odd], numbers[2 * grid + 1 - odd]) = beside;
        }
        (costs, numbers)
    }

    /// Counts the numbers that were found for the last path.
    pub(super) fn record(&self, numbers: &[i32], counts: &mut Counts) {
        let mut state = 0;
        for (target, &number) in self.targets.iter().zip(numbers) {
            let x = if state & 1 == 1 { -target.x } else { target.x };
            counts.record(target.class, x, number);
            state = self.machine.next(state, number);
        }
    }
}
