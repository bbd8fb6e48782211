//! The laws of truncated singular value decompositions.

use ndarray::{Array1, Array2, Array4, ArrayView2, Axis, array, s};
use rand::Rng;

use super::*;
use crate::Geometry;
use crate::factorize::Rank;
use crate::factorize::convolution::{self, conv2d};
use crate::{
    Compressed, Error, Factorizer, FitContext, Float, InputMoments, LinearOp, Precision, Seed,
    power,
};

fn random<F: Float>(m: usize, n: usize, seed: u64) -> Array2<F> {
    let mut rng = Seed::from(seed).rng();
    Array2::from_shape_fn((m, n), |_| F::from_f64_lossy(rng.gen_range(-1.0..1.0)))
}

/// Q₁ diag(s) Q₂ᵀ with random orthonormal Q.
fn with_spectrum<F: Float>(m: usize, n: usize, spectrum: &[f64], seed: u64) -> Array2<F> {
    let orthonormal = |rows, seed| {
        let a = random::<f64>(rows, spectrum.len(), seed);
        crate::linalg::thin_qr(a.view()).unwrap().0
    };
    let left = orthonormal(m, seed) * &Array1::from(spectrum.to_vec());
    left.dot(&orthonormal(n, seed + 1).t())
        .mapv(F::from_f64_lossy)
}

fn distance<F: Float>(a: ArrayView2<'_, F>, b: &LowRankMatrix<F>) -> f64 {
    let b = b.decompress().unwrap();
    let squares = a
        .indexed_iter()
        .map(|((i, j), &x)| (x - b[[i, j]]).as_f64().powi(2));
    squares.sum::<f64>().sqrt()
}

fn norm<F: Float>(a: ArrayView2<'_, F>) -> f64 {
    a.iter().map(|x| x.as_f64().powi(2)).sum::<f64>().sqrt()
}

fn exact(rank: usize) -> TruncatedSvd {
    TruncatedSvd::new(Rank::Fixed(rank))
        .method(SvdMethod::Exact)
        .precision(Precision::F64)
}

fn randomized(rank: usize) -> TruncatedSvd {
    exact(rank).method(SvdMethod::Randomized)
}

/// The change of singular values by rounding in a decomposition of an (m, n) matrix, relative to the norm.
fn rounding<F: Float>(m: usize, n: usize) -> f64 {
    F::epsilon().as_f64() * (m + n) as f64
}

fn error_is_the_discarded_energy<F: Float>() {
    let (m, n) = (60, 45);
    let weights = random::<F>(m, n, 1);
    let spectrum = exact(n).factorize(weights.view()).unwrap().report_values();
    let mut last = f64::INFINITY;
    for rank in 1..=n {
        let matrix = exact(rank).factorize(weights.view()).unwrap();
        let tail: f64 = spectrum.iter().skip(rank).map(|s| s * s).sum();
        let optimum = tail.sqrt() / norm(weights.view());
        let tolerance = rounding::<F>(m, n);
        let report = matrix.svd_report().unwrap();
        assert!(
            (report.relative_error - optimum).abs() <= tolerance,
            "rank {rank}"
        );
        assert!((report.optimal_error.unwrap() - optimum).abs() <= tolerance);
        let measured = distance(weights.view(), &matrix) / norm(weights.view());
        assert!((report.relative_error - measured).abs() <= tolerance);
        // More terms do not raise the error; all of them make it zero.
        assert!(report.relative_error <= last + tolerance);
        last = report.relative_error;
    }
    assert!(last <= rounding::<F>(m, n));
}

impl<F: Float> LowRankMatrix<F> {
    fn report_values(&self) -> Vec<f64> {
        self.svd_report().unwrap().singular_values.clone()
    }
}

#[test]
fn the_truncation_error_is_the_discarded_energy() {
    error_is_the_discarded_energy::<f32>();
    error_is_the_discarded_energy::<f64>();
}

fn known_rank_is_recovered<F: Float>() {
    for (m, n) in [(150, 120), (120, 300)] {
        let weights = with_spectrum::<F>(m, n, &[9.0, 5.0, 2.0, 1.0, 0.5], 2);
        let krylov = randomized(5).method(SvdMethod::BlockKrylov);
        for params in [exact(5), randomized(5), krylov, randomized(8), exact(8)] {
            let matrix = params.factorize(weights.view()).unwrap();
            let report = matrix.svd_report().unwrap();
            assert!(
                report.relative_error <= rounding::<F>(m, n),
                "{}",
                report.relative_error
            );
            let expected = [9.0, 5.0, 2.0, 1.0, 0.5];
            for (s, expected) in report.singular_values.iter().zip(expected) {
                assert!((s - expected).abs() <= rounding::<F>(m, n) * 9.0);
            }
        }
        let energy = TruncatedSvd::new(Rank::Energy(1.0 - 1e-9)).precision(Precision::F64);
        assert_eq!(energy.factorize(weights.view()).unwrap().rank(), 5);
    }
}

#[test]
fn a_matrix_of_known_rank_is_recovered() {
    known_rank_is_recovered::<f32>();
    known_rank_is_recovered::<f64>();
}

#[test]
fn power_iterations_bring_the_randomized_error_close_to_the_optimum() {
    // The spectrum of a random matrix falls slowly: the hard case.
    let weights = random::<f32>(400, 300, 3);
    let excess = |method, iterations| {
        let params = randomized(20).method(method).power_iterations(iterations);
        let matrix = params
            .measure_optimum(true)
            .seed(5)
            .factorize(weights.view())
            .unwrap();
        matrix.svd_report().unwrap().excess_error().unwrap()
    };
    let falling = [
        excess(SvdMethod::Randomized, 0),
        excess(SvdMethod::Randomized, 2),
        excess(SvdMethod::Randomized, 4),
        excess(SvdMethod::BlockKrylov, 4),
        -rounding::<f32>(400, 300),
    ];
    assert!(
        falling.windows(2).all(|pair| pair[0] > pair[1]),
        "{falling:?}"
    );
    let limits = [0.1, 0.02, 0.005, 0.0005];
    assert!(
        falling
            .iter()
            .zip(limits)
            .all(|(found, limit)| *found < limit),
        "{falling:?}"
    );
}

#[test]
fn the_automatic_method_depends_on_shape_and_rank() {
    let method = |m, n, rank| {
        let weights = random::<f32>(m, n, 4);
        let matrix = TruncatedSvd::new(rank).factorize(weights.view()).unwrap();
        matrix.svd_report().unwrap().method
    };
    assert_eq!(method(60, 300, Rank::Fixed(2)), SvdMethod::Exact);
    assert_eq!(method(200, 300, Rank::Fixed(10)), SvdMethod::Randomized);
    assert_eq!(method(200, 300, Rank::Fixed(100)), SvdMethod::Exact);
    assert_eq!(method(200, 300, Rank::Energy(0.1)), SvdMethod::Exact);
}

#[test]
fn factors_are_orthonormal_and_signs_are_unique() {
    let weights = random::<f64>(130, 110, 5);
    for params in [exact(7), randomized(7)] {
        let matrix = params
            .singular_values(SingularValues::Apart)
            .factorize(weights.view())
            .unwrap();
        let (u, vt) = (matrix.left(), matrix.right());
        for gram in [u.t().dot(&u), vt.dot(&vt.t())] {
            let off = (&gram - &Array2::<f64>::eye(7))
                .iter()
                .fold(0.0, |max: f64, x| max.max(x.abs()));
            assert!(off <= f64::EPSILON * 130.0, "{off:e}");
        }
        for column in u.columns() {
            let largest = column
                .iter()
                .fold(0.0_f64, |l, &x| if x.abs() > l.abs() { x } else { l });
            assert!(largest > 0.0);
        }
        // −W changes the sign of the right factor only.
        let negative = params
            .singular_values(SingularValues::Apart)
            .factorize((-&weights).view())
            .unwrap();
        for (a, b) in vt.iter().zip(negative.right()) {
            assert_eq!(*a, -b);
        }
    }
}

#[test]
fn every_place_of_the_singular_values_gives_the_same_product() {
    let weights = with_spectrum::<f64>(20, 16, &[4.0, 1.0, 0.25], 6);
    let lengths = |a: ArrayView2<'_, f64>| -> Vec<f64> {
        a.columns().into_iter().map(|c| c.dot(&c).sqrt()).collect()
    };
    // An odd power of two is divided between both factors.
    let odd = power::largest_exponent(&weights.view()).rem_euclid(2);
    let (more, less) = (
        2.0_f64.powf(f64::from(odd) / 2.0),
        2.0_f64.powf(-f64::from(odd) / 2.0),
    );
    let split = |factor: f64| [2.0, 1.0, 0.5].map(|length| length * factor);
    for (folding, left, right) in [
        (SingularValues::Split, split(less), split(more)),
        (SingularValues::Left, [4.0, 1.0, 0.25], [1.0; 3]),
        (SingularValues::Right, [1.0; 3], [4.0, 1.0, 0.25]),
        (SingularValues::Apart, [1.0; 3], [1.0; 3]),
    ] {
        let matrix = exact(3)
            .singular_values(folding)
            .factorize(weights.view())
            .unwrap();
        let found = lengths(matrix.left())
            .into_iter()
            .chain(lengths(matrix.right().t()));
        for (found, expected) in found.zip(left.into_iter().chain(right)) {
            assert!(
                (found - expected).abs() <= rounding::<f64>(20, 16) * 4.0,
                "{folding:?}"
            );
        }
        assert_eq!(
            matrix.singular_values().is_some(),
            folding == SingularValues::Apart
        );
        assert!(distance(weights.view(), &matrix) <= rounding::<f64>(20, 16));
        // `apply` is the product with the decompressed matrix.
        let x = random::<f64>(5, 16, 7);
        let dense: Array2<f64> = matrix.decompress().unwrap().into_dimensionality().unwrap();
        let difference = matrix.apply(x.view()).unwrap() - x.dot(&dense.t());
        // Sums of 16 and of 3 products, computed in two ways.
        let bound = 2.0 * 19.0 * f64::EPSILON * norm(x.view()) * norm(weights.view());
        assert!(difference.iter().all(|d| d.abs() <= bound));
    }
}

#[test]
fn parts_have_the_size_of_the_factors_and_restore_the_matrix() {
    let weights = random::<f32>(30, 20, 8);
    for precision in [Precision::F16, Precision::F32, Precision::F64] {
        for folding in [SingularValues::Split, SingularValues::Apart] {
            let params = exact(4).precision(precision).singular_values(folding);
            let matrix = params.factorize(weights.view()).unwrap();
            let apart = if folding == SingularValues::Apart {
                4
            } else {
                0
            };
            assert_eq!(
                matrix.storage().total(),
                precision.bits() * (4 * 50 + apart)
            );
            let again = LowRankMatrix::from_parts(
                matrix.left().to_owned(),
                matrix.singular_values().map(|s| s.to_owned()),
                matrix.right().to_owned(),
                precision,
            )
            .unwrap();
            assert_eq!(again.parts(), matrix.parts());
            assert_eq!(again.decompress(), matrix.decompress());
            assert_eq!(again.svd_report(), None);
        }
    }
    // The report includes the rounding to half precision.
    let half = exact(20)
        .precision(Precision::F16)
        .factorize(weights.view())
        .unwrap();
    let error = half.svd_report().unwrap().relative_error;
    assert!(error > 1e-5 && error < 2.0 * 2.0_f64.powi(-11), "{error}");
}

#[test]
fn forged_parts_are_errors() {
    let (left, right) = (Array2::<f32>::ones((3, 2)), Array2::<f32>::ones((2, 4)));
    let from = |left: &Array2<f32>, s: Option<Array1<f32>>, right: &Array2<f32>, precision| {
        LowRankMatrix::from_parts(left.clone(), s, right.clone(), precision)
    };
    assert!(from(&left, None, &right, Precision::F16).is_ok());
    let with = |value| {
        let mut forged = left.clone();
        forged[[1, 1]] = value;
        forged
    };
    let forgeries = [
        from(&left, None, &Array2::ones((3, 4)), Precision::F32),
        from(&left, Some(array![1.0]), &right, Precision::F32),
        from(&left, Some(array![1.0, -1.0]), &right, Precision::F32),
        from(
            &Array2::ones((3, 0)),
            None,
            &Array2::ones((0, 4)),
            Precision::F32,
        ),
        from(
            &Array2::ones((3, 4)),
            None,
            &Array2::ones((4, 4)),
            Precision::F32,
        ),
        from(&with(f32::NAN), None, &right, Precision::F32),
        from(&with(f32::INFINITY), None, &right, Precision::F32),
        from(&with(0.1), None, &right, Precision::F16),
        from(&with(f32::MAX), None, &right, Precision::F32),
    ];
    for forged in forgeries {
        assert!(matches!(forged, Err(Error::Malformed { .. })), "{forged:?}");
    }
}

#[test]
fn wrong_inputs_and_parameters_are_errors() {
    let weights = random::<f32>(6, 4, 9);
    assert!(exact(0).factorize(weights.view()).is_err());
    let above = exact(5).factorize(weights.view()).unwrap_err();
    assert!(matches!(
        above,
        Error::ExceedsInput {
            value: 5,
            limit: 4,
            ..
        }
    ));
    let mut holes = weights.clone();
    holes[[3, 1]] = f32::NAN;
    let error = randomized(2).factorize(holes.view()).unwrap_err();
    assert!(matches!(error, Error::NonFinite { index, .. } if index == [3, 1]));
    let empty = exact(1).factorize(Array2::<f32>::zeros((0, 4)).view());
    assert!(matches!(empty, Err(Error::EmptyAxis { .. })));
    let conflict = TruncatedSvd::new(Rank::Energy(0.9)).method(SvdMethod::Randomized);
    assert!(conflict.validate().is_err());
    let large = array![[1e6_f32, 0.0], [0.0, 1.0]];
    let half = exact(1)
        .precision(Precision::F16)
        .singular_values(SingularValues::Left);
    assert!(matches!(
        half.factorize(large.view()),
        Err(Error::Overflow { .. })
    ));
    let matrix = exact(2).factorize(weights.view()).unwrap();
    assert!(matrix.apply(weights.t()).is_err());
    assert!(
        matrix
            .decompress_into(Array2::zeros((4, 6)).view_mut().into_dyn())
            .is_err()
    );
}

#[test]
fn zeros_are_rebuilt_exactly() {
    for params in [
        exact(3),
        randomized(3),
        TruncatedSvd::new(Rank::Energy(0.5)),
    ] {
        let zeros = Array2::<f32>::zeros((40, 30));
        let matrix = params.factorize(zeros.view()).unwrap();
        assert_eq!(matrix.decompress().unwrap(), zeros.into_dyn());
        assert_eq!(matrix.svd_report().unwrap().relative_error, 0.0);
        assert_eq!(matrix.svd_report().unwrap().excess_error(), None);
    }
}

#[test]
fn scaling_by_a_power_of_two_scales_the_result() {
    let weights = random::<f32>(120, 110, 10);
    for params in [exact(9), randomized(9)] {
        let error = |scale: f32| {
            let matrix = params.factorize((&weights * scale).view()).unwrap();
            matrix.svd_report().unwrap().relative_error
        };
        // A power of two changes no digit.
        for exponent in [-100, -60, 60, 120] {
            let difference = error(2.0_f32.powi(exponent)) - error(1.0);
            assert!(
                difference.abs() <= rounding::<f32>(120, 110),
                "{difference:e}"
            );
        }
    }
}

#[test]
fn strides_do_not_matter() {
    let weights = random::<f32>(130, 101, 11);
    for params in [exact(6), randomized(6)] {
        let expected = params.factorize(weights.view()).unwrap();
        let mut gaps = Array2::zeros((260, 101));
        gaps.slice_mut(s![..;2, ..]).assign(&weights);
        assert_eq!(
            params.factorize(gaps.slice(s![..;2, ..])),
            Ok(expected.clone())
        );
        let transposed = weights.t().as_standard_layout().into_owned();
        assert_eq!(params.factorize(transposed.t()), Ok(expected.clone()));
        let mut reversed = weights.clone();
        reversed.invert_axis(Axis(1));
        let mut reversed = reversed.as_standard_layout().into_owned();
        reversed.invert_axis(Axis(1));
        assert_eq!(params.factorize(reversed.view()), Ok(expected));
    }
}

#[cfg(feature = "rayon")]
#[test]
fn the_number_of_threads_does_not_matter() {
    let weights = random::<f32>(700, 310, 12);
    let run = |threads: usize, params: TruncatedSvd| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| params.factorize(weights.view()).unwrap())
    };
    let krylov = randomized(12).method(SvdMethod::BlockKrylov);
    for params in [exact(12), randomized(12).seed(3), krylov] {
        let one = run(1, params);
        assert_eq!(one, run(2, params));
        assert_eq!(one, run(5, params));
    }
}

#[test]
fn the_largest_useful_rank_is_the_largest_that_saves_bytes() {
    for rank in 1..=20 {
        let matrix = exact(rank)
            .factorize(random::<f64>(30, 20, 13).view())
            .unwrap();
        let saves = matrix.storage().bytes() < 30 * 20 * 8;
        let largest = matrix.svd_report().unwrap().largest_useful_rank;
        assert_eq!(saves, rank <= largest, "{rank} and {largest}");
    }
}

/// Convolution at stride one without padding, by its definition.
fn convolve(x: &ndarray::Array3<f64>, kernel: &Array4<f64>) -> ndarray::Array3<f64> {
    let (out, inner, h, w) = kernel.dim();
    let (_, rows, columns) = x.dim();
    ndarray::Array3::from_shape_fn((out, rows - h + 1, columns - w + 1), |(o, i, j)| {
        let window = x.slice(s![..inner, i..i + h, j..j + w]);
        (&window * &kernel.index_axis(Axis(0), o)).sum()
    })
}

#[test]
fn a_separable_convolution_equals_the_convolution_with_the_decompressed_kernel() {
    let mut rng = Seed::from(14).rng();
    let kernel = Array4::from_shape_fn((6, 5, 3, 2), |_| rng.gen_range(-1.0..1.0));
    let x = ndarray::Array3::from_shape_fn((5, 7, 8), |_| rng.gen_range(-1.0..1.0));
    for folding in [SingularValues::Split, SingularValues::Apart] {
        let separable = exact(4)
            .singular_values(folding)
            .factorize(kernel.view())
            .unwrap();
        let rebuilt = separable
            .decompress()
            .unwrap()
            .into_dimensionality()
            .unwrap();
        let chained = convolve(
            &convolve(&x, &separable.vertical()),
            &separable.horizontal(),
        );
        let difference = chained - convolve(&x, &rebuilt);
        let links = [separable.vertical(), separable.horizontal()];
        // The inputs are at most 1.
        let bound = convolution::rounding(&links, 1.0);
        assert!(difference.iter().all(|d| d.abs() <= bound));
        let images = x.view().insert_axis(Axis(0));
        let bias = Array1::linspace(-1.0, 1.0, 6);
        let geometry = Geometry {
            stride: [2, 1],
            padding: [1, 2],
            dilation: [2, 1],
        };
        let expected = conv2d(images, rebuilt.view(), Some(bias.view()), geometry).unwrap();
        let y = separable
            .apply(images, Some(bias.view()), geometry)
            .unwrap();
        assert_eq!(y.shape(), expected.shape());
        assert!((y - expected).iter().all(|d| d.abs() <= bound));
        assert!(
            separable
                .apply(images.slice(s![.., ..4, .., ..]), None, geometry)
                .is_err()
        );
        let again = SpatialConv2d::from_parts([6, 5, 3, 2], separable.matrix().clone());
        assert_eq!(again.as_ref(), Ok(&separable));
        let forged = SpatialConv2d::from_parts([5, 6, 3, 2], separable.matrix().clone());
        assert!(matches!(forged, Err(Error::Malformed { .. })));
    }
    // The full rank, min(5 · 3, 6 · 2), is exact.
    let full = exact(12).factorize(kernel.view()).unwrap();
    let largest = convolution::largest(&kernel);
    let difference = full.decompress().unwrap() - kernel.into_dyn();
    // The norm of a matrix of 15 × 12 values is at most √180 times the largest.
    let bound = rounding::<f64>(15, 12) * 180.0_f64.sqrt() * largest;
    assert!(difference.iter().all(|d| d.abs() <= bound));
}

/// Inputs that lie mostly in few directions, one of them always zero.
fn correlated_inputs(features: usize) -> InputMoments {
    let mut x = random::<f64>(400, 5, 70).dot(&random::<f64>(5, features, 71));
    x.scaled_add(0.1, &random::<f64>(400, features, 72));
    x.column_mut(0).fill(0.0);
    let mut inputs = InputMoments::new(features).unwrap();
    inputs.add(x.view()).unwrap();
    inputs
}

#[test]
fn the_output_error_is_the_discarded_energy_of_the_outputs() {
    let (m, n) = (20, 12);
    let weights = random::<f64>(m, n, 5);
    let inputs = correlated_inputs(n);
    let damped = InputMoments::from_matrix(inputs.damped(1e-4).unwrap().view(), 1).unwrap();
    let mut last = f64::INFINITY;
    for rank in 1..=n {
        let aware = exact(rank)
            .factorize_with(weights.view(), FitContext::new().inputs(&inputs))
            .unwrap();
        let plain = exact(rank).factorize(weights.view()).unwrap();
        let error = |matrix: &LowRankMatrix<f64>, inputs: &InputMoments| {
            let rebuilt = matrix.decompress().unwrap().into_dimensionality().unwrap();
            inputs
                .relative_output_error(weights.view(), rebuilt.view())
                .unwrap()
        };
        // The condition of the damped moments is at most n/1e-4.
        let bound = 1e5 * rounding::<f64>(m, n);
        let report = aware.report_values();
        assert_eq!(report.len(), rank);
        let found = error(&aware, &damped);
        let optimum = aware.svd_report().unwrap().optimal_error.unwrap();
        assert!(
            (found.sqrt() - optimum).abs() <= bound,
            "{} and {optimum}",
            found.sqrt()
        );
        let said = aware.svd_report().unwrap().relative_error;
        assert!((found.sqrt() - said).abs() <= bound);
        assert!(found <= error(&plain, &damped) + bound);
        assert!(found <= last + bound);
        last = found;
    }
    assert!(last <= rounding::<f64>(m, n) * 1e5);
}

#[test]
fn white_inputs_change_nothing() {
    let weights = random::<f64>(9, 7, 5);
    let white = InputMoments::from_matrix(Array2::eye(7).view(), 1).unwrap();
    let aware = exact(3)
        .damping(0.0)
        .factorize_with(weights.view(), FitContext::new().inputs(&white))
        .unwrap();
    let plain = exact(3).factorize(weights.view()).unwrap();
    let bound = rounding::<f64>(9, 7) * norm(weights.view());
    for (a, b) in aware
        .decompress()
        .unwrap()
        .iter()
        .zip(&plain.decompress().unwrap())
    {
        assert!((a - b).abs() <= bound, "{a} and {b}");
    }
    let other = InputMoments::from_matrix(Array2::eye(8).view(), 1).unwrap();
    let refused = exact(3).factorize_with(weights.view(), FitContext::new().inputs(&other));
    assert!(matches!(refused, Err(Error::ShapeMismatch { .. })));
    let unseen = InputMoments::new(7).unwrap();
    let refused = exact(3).factorize_with(weights.view(), FitContext::new().inputs(&unseen));
    assert_eq!(refused, Err(Error::NoInputs));
}
