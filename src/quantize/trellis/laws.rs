//! The frequencies of numbers, the bits that they cost, and the means of the weights that they stand for.

use super::layout::{FRACTION, Layout, POINTS, REACH};

/// Numbers from minus this to this are counted one by one; all others together.
const COUNTED: i32 = 255;
const COUNTS: usize = 2 * COUNTED as usize + 2;
/// Prices are multiples of a bit divided by this, so that they do not depend on the system's logarithm.
const PARTS: f64 = 256.0;
/// The price of a bit in squared steps.
///
/// At high rates one more bit divides the squared error of a weight, 0.25 squared steps, by four: the slope of this curve is
/// 2 ln 2 · 0.25 = 0.35. The same price serves low rates: there the error stays at 0.25 squared steps, and zeros get cheap.
const BIT: f64 = 0.35;
/// A value is moved to the mean of as many weights or more.
const ENOUGH: u64 = 16;

/// How often each number occurs in each class, and the sums of what is rounded to it.
#[derive(Debug, Clone)]
pub(super) struct Counts {
    numbers: Vec<[u64; COUNTS]>,
    /// The sums of what the values 2k + 1/2 lack.
    lacks: Vec<[f64; POINTS]>,
}

impl Counts {
    pub(super) fn new(classes: usize) -> Self {
        Self {
            numbers: vec![[0; COUNTS]; classes],
            lacks: vec![[0.0; POINTS]; classes],
        }
    }

    /// Counts a weight of `x` steps on the even grid, or −`x` on the odd one, that is rounded to `number`.
    #[inline]
    pub(super) fn record(&mut self, class: usize, x: f64, number: i32) {
        self.numbers[class][place(number)] += 1;
        if number.abs() <= COUNTED {
            let point = (number.clamp(-REACH, REACH) + REACH) as usize;
            self.lacks[class][point] += x - (2.0 * f64::from(number) + 0.5);
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (own, other) in self.numbers.iter_mut().zip(&other.numbers) {
            own.iter_mut().zip(other).for_each(|(a, b)| *a += b);
        }
        for (own, other) in self.lacks.iter_mut().zip(&other.lacks) {
            own.iter_mut().zip(other).for_each(|(a, b)| *a += b);
        }
    }

    /// The means of what was rounded to each number; `zeros` keeps the value of zero.
    pub(super) fn points(&self, zeros: bool) -> Vec<[i8; POINTS]> {
        let classes = self.numbers.iter().zip(&self.lacks);
        classes
            .map(|(counts, lacks)| {
                std::array::from_fn(|point| {
                    let number = point as i32 - REACH;
                    let count: u64 = match number {
                        0 if zeros => return ZERO,
                        _ if number == -REACH => counts[..=place(number)].iter().sum(),
                        REACH => counts[place(number)..=place(COUNTED)].iter().sum(),
                        _ => counts[place(number)],
                    };
                    if count < ENOUGH {
                        return if number == 0 && count == 0 { ZERO } else { 0 };
                    }
                    let mean = lacks[point] / count as f64 * f64::from(FRACTION);
                    let half = f64::from(FRACTION / 2);
                    mean.round_ties_even().clamp(-half, half - 1.0) as i8
                })
            })
            .collect()
    }
}

/// The point that makes the value of the number zero 0.
pub(super) const ZERO: i8 = -(FRACTION / 2) as i8;

/// Where a number is counted; the last place is that of all numbers beyond.
#[inline(always)]
fn place(number: i32) -> usize {
    if number.abs() <= COUNTED {
        (number + COUNTED) as usize
    } else {
        COUNTS - 1
    }
}

/// What each number of a class costs, in squared steps, and its value, in steps.
#[derive(Debug, Clone)]
pub(super) struct Law {
    prices: [f32; COUNTS],
    values: [f32; COUNTS],
    points: [i8; POINTS],
}

impl Law {
    fn new(counts: &[u64; COUNTS], points: &[i8; POINTS]) -> Self {
        let seen = counts.iter().filter(|&&count| count > 0).count();
        let total = counts.iter().sum::<u64>() as f64 + 0.25 * (seen + 4) as f64;
        let price = |count: u64| {
            let bits = (total / (count as f64 + 0.25)).log2();
            (BIT * (bits * PARTS).round() / PARTS) as f32
        };
        Self {
            prices: counts.map(price),
            values: std::array::from_fn(|i| of(points, i as i32 - COUNTED)),
            points: *points,
        }
    }

    /// The cost of `number` for `x` steps.
    #[inline(always)]
    pub(super) fn cost(&self, x: f32, number: i32) -> f32 {
        let place = place(number);
        let value = if place < COUNTS - 1 {
            self.values[place]
        } else {
            of(&self.points, number)
        };
        let off = x - value;
        off * off + self.prices[place]
    }
}

fn of(points: &[i8; POINTS], number: i32) -> f32 {
    Layout::value(points, number) as f32 / FRACTION as f32
}

/// The laws of all classes.
pub(super) fn laws(counts: &Counts, points: &[[i8; POINTS]]) -> Vec<Law> {
    let classes = counts.numbers.iter().zip(points);
    classes
        .map(|(counts, points)| Law::new(counts, points))
        .collect()
}
