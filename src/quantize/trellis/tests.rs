//! Laws of trellis quantization.

use ndarray::{Array2, Axis, array};

use super::TrellisQuantizer;
use super::laws::{Counts, laws};
use super::layout::{Layout, Line, POINTS};
use super::machine::Machine;
use super::search::{Search, Target};
use crate::kernels::Level;
use crate::{Error, FitContext, InputMoments, LinearOp, Precision, Quantizer, Seed};

fn uniform(shape: (usize, usize), seed: u64) -> Array2<f64> {
    let seed = Seed::from(seed);
    Array2::from_shape_fn(shape, |(i, j)| 0.5 * seed.uniform((i * shape.1 + j) as u64))
}

/// Independent numbers of a normal distribution with variance 1.
fn normal(shape: (usize, usize), seed: u64) -> Array2<f64> {
    let seed = Seed::from(seed);
    Array2::from_shape_fn(shape, |(i, j)| {
        let at = 2 * (i * shape.1 + j) as u64;
        let [a, b] = [at, at + 1].map(|at| 0.5 * (1.0 + seed.uniform(at)));
        (-2.0 * (1.0 - a).ln()).sqrt() * (std::f64::consts::TAU * b).cos()
    })
}

fn rebuilt(quantizer: &TrellisQuantizer, weights: &Array2<f64>) -> Array2<f64> {
    let rounded = quantizer.quantize(weights.view()).unwrap();
    rounded.decompress_matrix().unwrap()
}

fn mean_square(a: &Array2<f64>) -> f64 {
    a.iter().map(|x| x * x).sum::<f64>() / a.len() as f64
}

#[test]
fn no_sequence_has_less_error_and_rate() {
    // Numbers that are counted more often cost less.
    let mut counts = Counts::new(2);
    for number in -3_i32..=3 {
        for _ in 0..40 / (1 + number.abs()) {
            counts.record(1, 2.0 * f64::from(number) + 0.4, number);
        }
    }
    let points = counts.points(false);
    let laws = laws(&counts, &points);
    let machine = Machine::new(8).unwrap();
    for seed in 0..30 {
        let x: Vec<f64> = uniform((1, 5), seed).iter().map(|x| 8.0 * x).collect();
        let targets = || {
            x.iter().map(|&x| Target {
                x,
                class: 1,
                zero: false,
            })
        };
        let cost = |state: usize, x: f64, number: i32| {
            let x = if state & 1 == 1 { -x } else { x };
            laws[1].cost(x as f32, number)
        };
        // All sequences of numbers from −3 to 3.
        let mut open = vec![(0, 0.0_f32)];
        for &x in &x {
            open = open
                .iter()
                .flat_map(|&(state, total)| (-3..=3).map(move |k| (state, total, k)))
                .map(|(state, total, k)| (machine.next(state, k), total + cost(state, x, k)))
                .collect();
        }
        let least = open
            .iter()
            .map(|&(_, total)| total)
            .fold(f32::INFINITY, f32::min);
        let mut numbers = [0; 5];
        Search::new(Level::current(), machine, &laws).run(targets(), &mut numbers);
        let (mut state, mut found) = (0, 0.0);
        for (&x, &number) in x.iter().zip(&numbers) {
            found += cost(state, x, number);
            state = machine.next(state, number);
        }
        // Sums of five costs below 64 each.
        assert!(
            (found - least).abs() <= 5.0 * 64.0 * f32::EPSILON,
            "{found} for {least}"
        );
    }
}

#[test]
fn decoded_values_are_those_of_the_search() {
    // On grids of steps that differ by line, in two directions.
    for down in [false, true] {
        let line = |i: usize| Line {
            scale: 7,
            step: (i % 3) as u8,
        };
        let mut points = [0; POINTS];
        points[POINTS / 2] = -3;
        let layout = Layout {
            states: 16,
            down,
            bits: 4,
            base: 13,
            rows: (0..3).map(line).collect(),
            columns: (0..5).map(line).collect(),
            points: vec![[0; POINTS], points],
        };
        let (paths, length) = layout.paths();
        let numbers = |path: usize| (0..length).map(move |i| (path * 5 + i * 3) as i32 % 7 - 3);
        let machine = Machine::new(16).unwrap();
        for path in 0..paths {
            let numbers: Vec<i32> = numbers(path).collect();
            let mut out = vec![0.0_f64; length];
            layout.dequantize(path, 0.5, &numbers, &mut out);
            let mut state = 0;
            for (i, (&number, &out)) in numbers.iter().zip(&out).enumerate() {
                let off = if number == 0 { -3.0 / 32.0 } else { 0.0 };
                let value = 2.0 * f64::from(number) + 0.5 + off;
                let sign = if state & 1 == 1 { -1.0 } else { 1.0 };
                let step = 0.5 * 2.0_f64.powf(-((i % 3 + path % 3) as f64) / 4.0);
                let exact = sign * step * value;
                assert!((out - exact).abs() <= 4.0 * f64::EPSILON * exact.abs());
                state = machine.next(state, number);
            }
        }
    }
}

/// The mean squared error is about a quarter of a squared step at every rate, and falls with the number of states.
#[test]
fn the_error_is_a_quarter_of_a_squared_step() {
    let weights = normal((128, 256), 3);
    for step in [0.1, 0.4, 0.9] {
        let off = &weights - &rebuilt(&TrellisQuantizer::new(step), &weights);
        let error = mean_square(&off) / (step * step);
        assert!((0.22..0.28).contains(&error), "{error} at {step}");
    }
}

/// At 8 states the gain on a grid is at least a decibel at high rates: the granular gain of the code (Ungerboeck) is 1.1 dB, and
/// no code has more than 1.53 dB.
#[test]
fn the_trellis_gains_a_decibel() {
    let weights = 200.0 * uniform((40, 1000), 3);
    let rounded = rebuilt(&TrellisQuantizer::new(1.0).states(8), &weights);
    // The grid with as many values: two steps apart. Prices do not matter where all numbers are as frequent.
    let plain = 4.0 / 12.0;
    let gain = 10.0 * (plain / mean_square(&(&weights - &rounded))).log10();
    // The mean of 40,000 squares is off by half a percent, 0.02 dB, at most; laws are estimated.
    assert!(gain > 0.95 && gain < 1.53, "{gain} dB");
}

/// Moments of strongly correlated inputs lower the output error several times at the same step.
#[test]
fn moments_lower_the_output_error() {
    let weights = normal((48, 32), 5);
    let basis = normal((4, 32), 6);
    let inputs = normal((300, 4), 7).dot(&basis) + 0.1 * normal((300, 32), 9);
    let mut moments = InputMoments::new(32).unwrap();
    moments.add(inputs.view()).unwrap();
    let quantizer = TrellisQuantizer::new(0.5);
    let plain = quantizer.quantize(weights.view()).unwrap();
    let context = FitContext::new().inputs(&moments);
    let guided = quantizer.quantize_with(weights.view(), context).unwrap();
    let error = |matrix: &dyn LinearOp<f64>| {
        let rebuilt = matrix.decompress_matrix().unwrap();
        moments
            .output_error(weights.view(), rebuilt.view())
            .unwrap()
    };
    assert!(
        3.0 * error(&guided) < error(&plain),
        "{} for {}",
        error(&guided),
        error(&plain)
    );
    let x = normal((7, 32), 11);
    let exact = x.dot(&guided.decompress_matrix().unwrap().t());
    let off = (&guided.apply(x.view()).unwrap() - &exact).mapv(f64::abs);
    let size = x
        .mapv(f64::abs)
        .dot(&guided.decompress_matrix().unwrap().mapv(f64::abs).t());
    assert!(
        off.iter()
            .zip(&size)
            .all(|(off, size)| *off <= 64.0 * f64::EPSILON * size)
    );
}

/// Each row adds the same to the weighted error. Only ratios of weights matter.
#[test]
fn rows_that_count_more_get_smaller_errors() {
    let columns = 1 << 12;
    let weights = normal((6, columns), 5);
    let rows = [1.0, 4.0, 16.0, 1.0, 4.0, 16.0];
    let fit = |rows: &[f64]| {
        let context = FitContext::new().rows(rows);
        let quantizer = TrellisQuantizer::new(0.25);
        quantizer.quantize_with(weights.view(), context).unwrap()
    };
    let matrix = fit(&rows);
    let errors = &matrix.decompress_matrix().unwrap() - &weights;
    let means = errors.rows().into_iter().zip(rows);
    let means = means.map(|(row, weight)| weight * row.dot(&row) / columns as f64);
    let means: Vec<f64> = means.collect();
    let (least, most) = (
        means.iter().copied().fold(f64::INFINITY, f64::min),
        means.iter().copied().fold(0.0, f64::max),
    );
    // Errors are about normal: the mean of 4096 squares is off by √(2 / 4096), four times that here, on either side. The
    // rate weighs as much in a fine step as in a coarse one.
    let off = 4.0 * (2.0 / columns as f64).sqrt();
    assert!(most / least <= (1.0 + off) / (1.0 - off), "{means:?}");
    for factor in [2.0_f64.powi(-900), 3.0, 2.0_f64.powi(900)] {
        assert_eq!(fit(&rows.map(|weight| weight * factor)), matrix);
    }
    assert_eq!(
        fit(&[7.0; 6]),
        TrellisQuantizer::new(0.25)
            .quantize(weights.view())
            .unwrap()
    );
}

#[test]
fn wrong_weights_of_rows_are_errors() {
    let weights = normal((3, 8), 5);
    for wrong in [
        &[1.0, 2.0][..],
        &[1.0, -1.0, 1.0],
        &[1.0, f64::NAN, 1.0],
        &[0.0; 3],
    ] {
        let context = FitContext::new().rows(wrong);
        let result = TrellisQuantizer::new(0.25).quantize_with(weights.view(), context);
        assert!(matches!(
            result,
            Err(Error::ShapeMismatch { .. } | Error::NonFinite { .. } | Error::Parameter(_))
        ));
    }
}

/// Powers of two of weights, step and moments change nothing but the size of the result.
#[test]
fn powers_of_two_scale_the_result() {
    let weights = normal((24, 16), 5);
    let mut moments = InputMoments::new(16).unwrap();
    moments.add(normal((40, 16), 6).view()).unwrap();
    for inputs in [None, Some(&moments)] {
        let context = inputs.map_or(FitContext::new(), |inputs| FitContext::new().inputs(inputs));
        let quantizer = TrellisQuantizer::relative(0.3).precision(Precision::F64);
        let plain = quantizer.quantize_with(weights.view(), context).unwrap();
        for power in [-200, -1, 7, 300] {
            let factor = 2.0_f64.powi(power);
            let scaled = quantizer
                .quantize_with((&weights * factor).view(), context)
                .unwrap();
            assert_eq!(
                scaled.decompress_matrix().unwrap(),
                plain.decompress_matrix().unwrap() * factor
            );
        }
    }
}

#[test]
fn zeros_stay_zero() {
    // A row and a column of zeros in a dense matrix.
    let mut weights = normal((40, 40), 2);
    weights.row_mut(7).fill(0.0);
    weights.column_mut(9).fill(0.0);
    let found = rebuilt(&TrellisQuantizer::new(0.7), &weights);
    assert!(
        found
            .row(7)
            .iter()
            .chain(found.column(9))
            .all(|&w| w == 0.0)
    );
    // A matrix with three of four weights pruned.
    let pruned = Array2::from_shape_fn((40, 40), |(i, j)| match (i * 7 + j * 3) % 4 {
        0 => weights[[i, j]],
        _ => 0.0,
    });
    let mut moments = InputMoments::new(40).unwrap();
    moments.add(normal((80, 40), 6).view()).unwrap();
    for context in [FitContext::new(), FitContext::new().inputs(&moments)] {
        let found = TrellisQuantizer::new(0.2).quantize_with(pruned.view(), context);
        let found = found.unwrap().decompress_matrix().unwrap();
        assert!(
            pruned
                .iter()
                .zip(&found)
                .all(|(w, r)| *w != 0.0 || *r == 0.0)
        );
    }
    let zeros = Array2::<f64>::zeros((3, 2));
    assert_eq!(rebuilt(&TrellisQuantizer::new(1.0), &zeros), zeros);
    assert_eq!(rebuilt(&TrellisQuantizer::relative(1.0), &zeros), zeros);
}

/// Rows far below the step vanish instead of becoming noise of its size.
#[test]
fn small_rows_stay_small() {
    let mut weights = normal((64, 64), 2);
    weights
        .slice_mut(ndarray::s![..32, ..])
        .mapv_inplace(|w| w * 1e-3);
    let found = rebuilt(&TrellisQuantizer::new(0.5), &weights);
    let small = found.slice(ndarray::s![..32, ..]);
    // The values of their class are multiples of a 32nd of a step.
    assert!(small.iter().all(|w| w.abs() <= 0.5 / 32.0), "{small}");
}

#[test]
fn wrong_weights_and_steps_are_errors() {
    let w = array![[1.0, f64::NAN]];
    assert!(matches!(
        TrellisQuantizer::new(0.1).quantize(w.view()),
        Err(Error::NonFinite { .. })
    ));
    let w = array![[1.0, -1.0]];
    for step in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-5] {
        let result = TrellisQuantizer::new(step).quantize(w.view());
        assert!(
            matches!(result, Err(Error::Parameter(_))),
            "{step}: {result:?}"
        );
    }
    // Subnormal numbers hold a step less accurately than normal ones.
    for (step, precision) in [
        (1e-320, Precision::F64),
        (1e-40, Precision::F32),
        (4e-8, Precision::F16),
    ] {
        let result = TrellisQuantizer::new(step)
            .precision(precision)
            .quantize((&w * step).view());
        assert!(
            matches!(result, Err(Error::Underflow { .. })),
            "{step}: {result:?}"
        );
    }
    let finest = TrellisQuantizer::new(1.0 / 65_500.0)
        .quantize(w.view())
        .unwrap();
    assert_eq!(finest.bits(), 16);
    let off = (&finest.decompress_matrix().unwrap() - &w).mapv(f64::abs);
    assert!(off.iter().all(|off| *off <= 2.0 / 65_500.0));
    // Moments that move weights out of the range of codes.
    let wrong = InputMoments::new(3).unwrap();
    let context = FitContext::new().inputs(&wrong);
    assert!(
        TrellisQuantizer::new(0.1)
            .quantize_with(w.view(), context)
            .is_err()
    );
}

#[test]
fn rows_do_not_depend_on_the_split_into_tasks() {
    // A row more or less at the end changes laws, and nothing else: with rows repeated, laws are nearly the same.
    let weights = normal((16, 32), 4);
    let twice = ndarray::concatenate(Axis(0), &[weights.view(), weights.view()]).unwrap();
    let found = rebuilt(&TrellisQuantizer::new(0.1), &twice);
    assert_eq!(
        found.slice(ndarray::s![..16, ..]),
        found.slice(ndarray::s![16.., ..])
    );
}
