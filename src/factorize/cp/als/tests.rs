use super::*;
use crate::{Compressed, FitReport};
use ndarray::{Array2, Array3, ArrayD, s};

/// A tensor of `terms` random rank-one terms, plus noise of `noise` times their norm.
pub(in super::super) fn low_rank<F: Float>(
    shape: &[usize],
    terms: usize,
    noise: f64,
    seed: u64,
) -> ArrayD<F> {
    let factors = random_factors::<F>(shape, terms, Seed::from(seed));
    let mut values = Walk::new(shape, terms).rebuild(&factors, &vec![1.0; terms]);
    let size = values.len();
    let disturbance = &random_factors::<F>(&[size], 1, Seed::from(seed).derive(99))[0];
    let norm = |values: &[F]| {
        values
            .iter()
            .map(|x| x.as_f64().powi(2))
            .sum::<f64>()
            .sqrt()
    };
    let scale = F::from_f64_lossy(noise * norm(&values) / norm(disturbance));
    for (value, &noise) in values.iter_mut().zip(disturbance) {
        *value += scale * noise;
    }
    ArrayD::from_shape_vec(shape.to_vec(), values).unwrap()
}

pub(in super::super) fn relative_error<F: Float>(tensor: &ArrayD<F>, fit: &CpTensor<F>) -> f64 {
    let model = fit.decompress().unwrap();
    let error: f64 = tensor
        .iter()
        .zip(&model)
        .map(|(&x, &y)| (x - y).as_f64().powi(2))
        .sum();
    let norm: f64 = tensor.iter().map(|x| x.as_f64().powi(2)).sum();
    (error / norm).sqrt()
}

pub(in super::super) fn never_rise(fit: &FitReport) {
    for pair in fit.losses.windows(2) {
        assert!(
            pair[1] <= pair[0],
            "the loss rises from {} to {}",
            pair[0],
            pair[1]
        );
    }
}

#[test]
fn a_tensor_of_known_rank_is_recovered_to_rounding() {
    for (shape, rank) in [
        (vec![8, 7], 3),
        (vec![10, 9, 8], 4),
        (vec![7, 6, 3, 3], 4),
        (vec![5, 4, 3, 3, 2], 3),
    ] {
        let als = CpAls::new(Rank::Fixed(rank))
            .tolerance(1e-9)
            .max_sweeps(1000)
            .precision(Precision::F64);
        // The error of a backward stable fit: the rounding of a sum over all entries, times a modest condition.
        let size: usize = shape.iter().product();
        let bound = 64.0 * (size as f64).sqrt();
        let double = low_rank::<f64>(&shape, rank, 0.0, 5);
        let fit = als.factorize(double.view()).unwrap();
        let error = relative_error(&double, &fit);
        assert!(error < bound * f64::EPSILON, "{shape:?} in f64: {error:e}");
        never_rise(fit.report().unwrap());

        let single = low_rank::<f32>(&shape, rank, 0.0, 5);
        let fit = als.factorize(single.view()).unwrap();
        let error = relative_error(&single, &fit);
        assert!(
            error < bound * f64::from(f32::EPSILON),
            "{shape:?} in f32: {error:e}"
        );
        never_rise(fit.report().unwrap());
    }
}

#[test]
fn losses_never_rise_and_are_those_of_the_result() {
    for seed in 0..6 {
        for extrapolate in [false, true] {
            let tensor = low_rank::<f32>(&[12, 10, 3, 3], 6, 0.5, seed);
            let als = CpAls::new(Rank::Fixed(5))
                .extrapolate(extrapolate)
                .start(Start::Random)
                .starts(1, 0);
            let fit = als
                .max_sweeps(60)
                .tolerance(0.0)
                .factorize(tensor.view())
                .unwrap();
            let report = fit.cp_report();
            never_rise(&report.fit);
            assert_eq!(report.fit.losses.len(), report.fit.iterations + 1);
            let error = relative_error(&tensor, &fit);
            // Rounding errors of n values add up like √n; each value is a sum of five products.
            let tolerance = 16.0 * f64::from(f32::EPSILON) * (tensor.len() as f64).sqrt();
            assert!(
                (error - report.relative_error).abs() < tolerance,
                "{error} and {}",
                report.relative_error
            );
        }
    }
}

#[test]
fn the_largest_rank_of_a_shape_is_exact() {
    for shape in [vec![4, 6], vec![3, 5, 2], vec![2, 3, 2, 2]] {
        let tensor = low_rank::<f32>(&shape, 40, 0.0, 3);
        let limit: usize = shape.iter().product::<usize>() / shape.iter().max().unwrap();
        let fit = CpAls::new(Rank::Fixed(limit))
            .factorize(tensor.view())
            .unwrap();
        assert!(relative_error(&tensor, &fit) <= 2.0 * f64::from(f32::EPSILON));
        let error = CpAls::new(Rank::Fixed(limit + 1))
            .factorize(tensor.view())
            .unwrap_err();
        assert_eq!(
            error,
            crate::Error::ExceedsInput {
                what: "the rank",
                value: limit + 1,
                limit
            }
        );
    }
}

#[test]
fn a_rank_above_that_of_the_tensor_is_exact() {
    let tensor = low_rank::<f64>(&[6, 5, 4], 2, 0.0, 8);
    let fit = CpAls::new(Rank::Fixed(4))
        .precision(Precision::F64)
        .factorize(tensor.view())
        .unwrap();
    // The fit ends when a sweep gains less than the tolerance, 1e-6 of the squared error.
    assert!(relative_error(&tensor, &fit) < 1e-6);
}

#[test]
fn a_fit_of_a_matrix_is_the_truncated_svd() {
    let matrix = low_rank::<f64>(&[9, 7], 7, 0.2, 2);
    let dense = matrix
        .clone()
        .into_dimensionality::<ndarray::Ix2>()
        .unwrap();
    let svd = crate::linalg::thin_svd(dense.view()).unwrap();
    let discarded: f64 = svd.s.iter().skip(3).map(|x| x * x).sum();
    let total: f64 = svd.s.iter().map(|x| x * x).sum();
    let fit = CpAls::new(Rank::Fixed(3))
        .precision(Precision::F64)
        .tolerance(1e-12)
        .factorize(dense.view())
        .unwrap();
    let error = relative_error(&matrix, &fit);
    let optimum = (discarded / total).sqrt();
    // The fit ends when a sweep gains less than 1e-12 of the squared error, 1e-6 of the error.
    assert!((error - optimum).abs() < 1e-6, "{error}");
    // Two sums over 9 · 7 squares are rounded.
    assert!(error >= optimum * (1.0 - 2.0 * 63.0 * f64::EPSILON));
}

#[test]
fn zeros_are_rebuilt_exactly() {
    let fit = CpAls::new(Rank::Fixed(3))
        .factorize(ArrayD::<f32>::zeros(vec![4, 3, 3]).view())
        .unwrap();
    assert!(fit.decompress().unwrap().iter().all(|&x| x == 0.0));
    assert_eq!(fit.cp_report().relative_error, 0.0);
}

#[test]
fn wrong_inputs_and_parameters_are_errors() {
    let mut tensor = low_rank::<f32>(&[4, 3, 3], 2, 0.0, 1);
    assert_eq!(
        CpAls::new(Rank::Fixed(0))
            .factorize(tensor.view())
            .unwrap_err(),
        ParamError::Zero { name: "rank" }.into()
    );
    assert!(
        CpAls::new(Rank::Fixed(1))
            .tolerance(f64::NAN)
            .validate()
            .is_err()
    );
    assert!(CpAls::new(Rank::Fixed(1)).starts(0, 1).validate().is_err());
    let loose = NormBound {
        ratio: 0.5,
        ..NormBound::default()
    };
    assert!(
        CpAls::new(Rank::Fixed(1))
            .norm_bound(loose)
            .validate()
            .is_err()
    );
    tensor[[3, 1, 2]] = f32::NAN;
    assert!(matches!(
        CpAls::new(Rank::Fixed(2)).factorize(tensor.view()),
        Err(crate::Error::NonFinite { index, .. }) if index == [3, 1, 2]
    ));
    assert!(matches!(
        CpAls::new(Rank::Fixed(1)).factorize(ArrayD::<f32>::zeros(vec![3]).view()),
        Err(crate::Error::Dimensions { .. })
    ));
    assert!(matches!(
        CpAls::new(Rank::Fixed(1)).factorize(Array2::<f32>::zeros((3, 0)).view()),
        Err(crate::Error::EmptyAxis { .. })
    ));
}

#[test]
fn strides_and_scale_do_not_matter() {
    let tensor = low_rank::<f64>(&[6, 5, 4], 3, 0.1, 4)
        .into_dimensionality::<ndarray::Ix3>()
        .unwrap();
    let als = CpAls::new(Rank::Fixed(3)).precision(Precision::F64);
    let fit = als.factorize(tensor.view()).unwrap();
    let mut spread = Array3::<f64>::zeros((4, 10, 6));
    spread.slice_mut(s![..;-1, ..;2, ..]).assign(&tensor.t());
    let view = spread.slice(s![..;-1, ..;2, ..]);
    assert_eq!(als.factorize(view.t()).unwrap(), fit);
    // A power of two changes only the weights, even if squares are out of the range of f64.
    let tiny = als
        .factorize(tensor.mapv(|x| x * 2.0_f64.powi(-700)).view())
        .unwrap();
    assert_eq!(tiny.factors(), fit.factors());
    assert_eq!(
        tiny.weights().mapv(|x| x * 2.0_f64.powi(700)),
        fit.weights()
    );
}

#[cfg(feature = "rayon")]
#[test]
fn the_number_of_threads_does_not_matter() {
    // Large enough for several threads in products and contractions.
    let tensor = low_rank::<f32>(&[80, 70, 60], 24, 0.3, 4);
    let als = CpAls::new(Rank::Fixed(24)).max_sweeps(4).starts(2, 3);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| als.factorize(tensor.view()).unwrap())
    };
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(5));
}

#[test]
fn signs_scales_and_order_follow_the_convention() {
    let tensor = low_rank::<f32>(&[6, 5, 4], 3, 0.1, 6);
    let fit = CpAls::new(Rank::Fixed(3)).factorize(tensor.view()).unwrap();
    assert!(
        fit.weights()
            .windows(2)
            .into_iter()
            .all(|pair| pair[0] >= pair[1])
    );
    assert!(fit.weights().iter().all(|&weight| weight > 0.0));
    for (mode, factor) in fit.factors().iter().enumerate() {
        for column in factor.columns() {
            let norm: f32 = column.iter().map(|x| x * x).sum();
            // A column of at most six values: each is rounded, squared and added.
            assert!((norm - 1.0).abs() <= 3.0 * 6.0 * f32::EPSILON);
            let largest = column
                .iter()
                .copied()
                .fold(0.0_f32, |m, x| if x.abs() > m.abs() { x } else { m });
            assert!(mode == 2 || largest > 0.0);
        }
    }
}

/// Rank three, but the limit of tensors of rank two: a∘a∘b + a∘b∘a + b∘a∘a (de Silva and Lim, 2008).
fn border() -> Array3<f64> {
    let (a, b) = ([1.0, 0.0, 0.5], [0.0, 1.0, -0.5]);
    Array3::from_shape_fn((3, 3, 3), |(i, j, k)| {
        a[i] * a[j] * b[k] + a[i] * b[j] * a[k] + b[i] * a[j] * a[k]
    })
}

#[test]
fn terms_that_cancel_are_corrected_without_a_larger_error() {
    let tensor = border();
    let als = CpAls::new(Rank::Fixed(2))
        .precision(Precision::F64)
        .max_sweeps(400)
        .tolerance(0.0)
        .starts(1, 0);
    let free = als
        .clone()
        .norm_bound(NormBound::OFF)
        .factorize(tensor.view())
        .unwrap();
    assert!(
        free.cp_report().term_norm_ratio > 6.0,
        "{:?}",
        free.cp_report().term_norm_ratio
    );
    let bound = NormBound {
        ratio: 3.0,
        sweeps: 400,
        slack: 0.0,
    };
    let bounded = als
        .clone()
        .norm_bound(bound)
        .factorize(tensor.view())
        .unwrap();
    let report = bounded.cp_report();
    assert!(report.corrections > 0);
    never_rise(&report.fit);
    let free = free.cp_report();
    assert!(report.term_norm_ratio < free.term_norm_ratio);
    // With slack for the error, the norm falls to the bound: √2 times that of Σ ‖term‖² for two equal terms.
    let bound = NormBound {
        slack: 1.0,
        ..bound
    };
    let loose = als.norm_bound(bound).factorize(tensor.view()).unwrap();
    let loose = loose.cp_report();
    assert!(
        loose.term_norm_ratio < 1.5 * bound.ratio,
        "{}",
        loose.term_norm_ratio
    );
    assert!(loose.term_norm_ratio < report.term_norm_ratio);
}

#[test]
fn ranks_follow_from_the_shape_or_an_energy() {
    let tensor = low_rank::<f64>(&[8, 7, 6], 3, 0.0, 2);
    let rank = |rank| {
        CpAls::new(rank)
            .factorize(tensor.view())
            .map(|fit| fit.rank())
    };
    // 8 · 7 · 6 / (5 (8 + 7 + 6)) = 3.2.
    assert_eq!(rank(Rank::Ratio(5.0)), Ok(3));
    assert_eq!(rank(Rank::Fraction(0.1)), Ok(4));
    // The unfoldings have rank three.
    assert_eq!(rank(Rank::Energy(1.0 - 1e-12)), Ok(3));
    let some = rank(Rank::Energy(0.5)).unwrap();
    assert!((1..=2).contains(&some));
    assert!(rank(Rank::Ratio(1e6)).is_err());
}
