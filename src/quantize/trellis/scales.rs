//! The scales of rows and columns, which decide the class of each weight.

use ndarray::ArrayView2;

use super::layout::{LEVELS, Line, MOST_CLASSES};
use crate::{Float, power};

/// Weights that a class has at least; smaller classes join the next one.
const FEWEST: u64 = 1024;
/// A class has at least this share of all weights.
const SHARE: u64 = 64;

/// Sets the scale of each line, which rises by one where the mean square, in squared steps, doubles. The result is the base of
/// classes and their number.
///
/// A class is one octave of variance, as far as it is the product of what row and column say.
pub(super) fn set<F: Float>(
    weights: &ArrayView2<'_, F>,
    step: f64,
    rows: &mut [Line],
    columns: &mut [Line],
) -> (i8, usize) {
    let mut of_columns = vec![0.0_f64; columns.len()];
    let mut of_rows = Vec::with_capacity(rows.len());
    let inverse: Vec<f64> = columns.iter().map(|line| squared_gain(*line)).collect();
    for (row, line) in weights.rows().into_iter().zip(rows.iter()) {
        let gain = squared_gain(*line);
        let mut sum = 0.0;
        for ((w, inverse), column) in row.iter().zip(&inverse).zip(&mut of_columns) {
            let x = w.as_f64() / step;
            let square = x * x * inverse * gain;
            sum += square;
            *column += square;
        }
        of_rows.push(sum / columns.len() as f64);
    }
    let count = rows.len() as f64;
    of_columns.iter_mut().for_each(|sum| *sum /= count);
    let all = of_columns.iter().sum::<f64>() / columns.len() as f64;
    set_scales(rows, &of_rows, all);
    set_scales(columns, &of_columns, all);
    classes(rows, columns)
}

/// 2 to the power `step` / 2: what a finer step does to a square, but for rounding.
fn squared_gain(line: Line) -> f64 {
    let root = if line.step % 2 == 1 {
        std::f64::consts::SQRT_2
    } else {
        1.0
    };
    root * (1_u32 << (line.step / 2)) as f64
}

fn set_scales(lines: &mut [Line], squares: &[f64], all: f64) {
    // A line like all others lies in the middle of an octave.
    let exponents = squares.iter().map(|&square| match square {
        0.0 => None,
        square => Some(power::exponent(square / all * std::f64::consts::SQRT_2)),
    });
    let exponents: Vec<Option<i32>> = exponents.collect();
    let most = exponents.iter().flatten().copied().max().unwrap_or(0);
    let top = i32::from(LEVELS) - 1;
    for (line, exponent) in lines.iter_mut().zip(exponents) {
        line.scale = exponent.map_or(0, |e| (top - (most - e)).max(1) as u8);
    }
}

/// The base and the number of classes for lines whose scales are set.
fn classes(rows: &[Line], columns: &[Line]) -> (i8, usize) {
    let counts = |lines: &[Line]| {
        let mut counts = [0_u64; LEVELS as usize];
        lines
            .iter()
            .for_each(|line| counts[usize::from(line.scale)] += 1);
        counts
    };
    let (rows, columns) = (counts(rows), counts(columns));
    let mut sums = [0_u64; 2 * LEVELS as usize];
    for (i, &row) in rows.iter().enumerate().skip(1) {
        for (j, &column) in columns.iter().enumerate().skip(1) {
            sums[i + j] += row * column;
        }
    }
    let fewest = (sums.iter().sum::<u64>() / SHARE).max(FEWEST);
    // The sum up to which weights are few, from below and from above.
    let first = |sums: &mut dyn Iterator<Item = (usize, u64)>| {
        let mut seen = 0;
        let mut enough = sums.skip_while(|&(_, count)| {
            seen += count;
            seen < fewest
        });
        enough.next().map(|(sum, _)| sum)
    };
    let places = || sums.iter().copied().enumerate();
    let low = first(&mut places());
    let high = first(&mut places().rev());
    // All weights in one class where there are few.
    let (low, high) = match (low, high) {
        (Some(low), Some(high)) if low <= high => (low, high),
        (Some(low), _) => (low, low),
        _ => (2, 2),
    };
    let high = high.min(low + MOST_CLASSES - 2);
    (low as i8 - 1, high - low + 2)
}
