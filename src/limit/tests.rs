use std::f64::consts::{E, PI, SQRT_2};

use ndarray::{Array1, Array2, Array3, Array4, ArrayView2, array, s};
use proptest::prelude::*;

use super::*;
use crate::cluster::cluster_scalars;
use crate::factorize::Rank;
use crate::factorize::cp::CpAls;
use crate::factorize::svd::TruncatedSvd;
use crate::quantize::binary::{Binarizer, Granularity};
use crate::quantize::fixed_point::{FixedPointQuantizer, Range};
use crate::{Compressed, Error, Factorizer, ParamError, Quantizer, Seed, linalg};

/// In [0, 1).
fn uniform(seed: u64, index: usize) -> f64 {
    (Seed::from(seed).uniform(index as u64) + 1.0) / 2.0
}

fn matrix(seed: u64, rows: usize, columns: usize) -> Array2<f64> {
    Array2::from_shape_fn((rows, columns), |(i, j)| {
        uniform(seed, i * columns + j) - 0.5
    })
}

/// The quantiles of a Laplace law of variance one.
fn laplace(count: usize) -> Array1<f64> {
    let quantile = |i: usize| {
        let u = (i as f64 + 0.5) / count as f64 - 0.5;
        -u.signum() * (1.0 - 2.0 * u.abs()).ln() / SQRT_2
    };
    (0..count).map(quantile).collect()
}

/// Normal values by Box and Muller from a grid of quantiles.
fn gaussian(side: usize) -> Array1<f64> {
    let quantile = |i: usize| (i as f64 + 0.5) / side as f64;
    let value = |i: usize| {
        let radius = (-2.0 * quantile(i / side).ln()).sqrt();
        radius * (2.0 * PI * quantile(i % side)).cos()
    };
    (0..side * side).map(value).collect()
}

fn source(values: &Array1<f64>) -> EmpiricalSource {
    EmpiricalSource::of(values.view()).unwrap()
}

/// The width of the bounds that the docs promise, as a fraction.
const BRACKET: f64 = 0.01;

/// The rounding of a sum of this many terms of order one.
fn rounding(terms: usize) -> f64 {
    f64::EPSILON * terms as f64
}

/// The rounding of bounds from the iteration, whose kernel has at most 4 million entries.
const KERNEL_ROUNDING: f64 = 4e6 * f64::EPSILON;

fn contains(bounds: Bounds, value: f64, tolerance: f64) {
    assert!(
        bounds.lower <= value + tolerance && value - tolerance <= bounds.upper,
        "{value} is not in {bounds:?}"
    );
    assert!(bounds.lower <= bounds.upper, "{bounds:?}");
}

#[test]
fn the_rate_of_a_gaussian_is_half_a_logarithm() {
    let source = source(&gaussian(400));
    for part in [0.7, 0.5, 0.125, 0.02, 0.005] {
        let distortion = part * source.variance();
        let bounds = source.rate(distortion).unwrap();
        let expected = 0.5 * (source.variance() / distortion).log2();
        // The tails beyond the 160,000 quantiles are missing. The rate is lower by about the square root of the missing
        // variance: 0.1 %.
        contains(bounds, expected, 1e-3);
        assert!(bounds.width() < BRACKET, "{bounds:?}");
        // No other law of this variance has a larger rate than the Gaussian.
        assert!(bounds.lower <= expected + KERNEL_ROUNDING);
    }
    // ½ log₂(2πe σ²)
    let entropy = 0.5 * (2.0 * PI * E * source.variance()).log2();
    assert!((source.differential_entropy() - entropy).abs() < 5e-3);
}

#[test]
fn the_rate_of_a_laplace_law_has_the_figures_of_berger() {
    let source = source(&laplace(100_000));
    // At D/σ² = 0.125: the Shannon bound is 1.397 bits and R(D) 1.398.
    let distortion = 0.125 * source.variance();
    let shannon = source.shannon_rate(distortion).unwrap();
    assert!((shannon - 1.397).abs() < 3e-3, "{shannon}");
    let bounds = source.rate(distortion).unwrap();
    contains(bounds, 1.398, 1e-3);
    assert!(bounds.width() < BRACKET, "{bounds:?}");
    // At low rates the Shannon bound is loose: the best reproductions have an atom at zero.
    let few = source.rate(0.5 * source.variance()).unwrap();
    assert!(few.lower > source.shannon_rate(0.5 * source.variance()).unwrap() + 5e-3);
    // log₂(e √2 σ)
    assert!((source.differential_entropy() - (E * SQRT_2).log2()).abs() < 3e-3);
}

/// For ±1 with equal probabilities, a code word with the posterior probability u has the error 4 u (1 − u) and leaves h(u) bits.
/// h is a concave function of that error, so that equal posteriors are best: R(D) = 1 − h((1 − √(1 − D)) / 2).
#[test]
fn the_rate_of_two_values_is_a_binary_entropy() {
    let source = source(&array![-1.0, 1.0]);
    let h = |p: f64| -p * p.log2() - (1.0 - p) * (1.0 - p).log2();
    for distortion in [0.9, 0.5, 0.2, 0.05, 0.001] {
        let expected = 1.0 - h((1.0 - f64::sqrt(1.0 - distortion)) / 2.0);
        let bounds = source.rate(distortion).unwrap();
        contains(bounds, expected, KERNEL_ROUNDING);
        assert!(bounds.width() < BRACKET, "{bounds:?}");
    }
    assert_eq!(source.rate(1.0).unwrap(), Bounds::exactly(0.0));
}

#[test]
fn distortion_is_the_inverse_of_rate() {
    let source = source(&laplace(20_000));
    for rate in [0.1, 1.0, 2.5, 4.0] {
        let error = source.distortion(rate).unwrap();
        assert!(error.width() < BRACKET * error.upper, "{error:?}");
        let (least, most) = (
            source.rate(error.upper).unwrap(),
            source.rate(error.lower).unwrap(),
        );
        assert!(
            least.lower <= rate && rate <= most.upper,
            "{least:?} {most:?}"
        );
        assert!(source.shannon_distortion(rate).unwrap() <= error.upper * 1.01);
        assert!(error.lower <= gaussian_distortion(source.variance(), rate).unwrap());
    }
    assert_eq!(
        source.distortion(0.0).unwrap(),
        Bounds::exactly(source.variance())
    );
}

#[test]
fn the_histogram_keeps_mean_and_variance() {
    let values: Array1<f32> = (0..3_000_000)
        .map(|i| ((i as f32) * 0.37).sin().powi(3) + 5.0)
        .collect();
    let law = EmpiricalSource::of(values.view()).unwrap();
    let count = values.len() as f64;
    let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
    let squares = values.iter().map(|&x| (f64::from(x) - mean).powi(2));
    let variance = squares.sum::<f64>() / count;
    assert_eq!(law.count(), values.len());
    // Sums of n terms of order one, each rounded: ε √n, with room for the bins.
    let rounding = 16.0 * f64::EPSILON * count.sqrt();
    assert!((law.mean() - mean).abs() <= rounding * mean);
    assert!((law.variance() - variance).abs() <= rounding * mean * mean);
    // Other strides and more axes give the same source.
    let square = values.view().into_shape_with_order((1500, 2000)).unwrap();
    let turned = EmpiricalSource::of(square.slice(s![..;-1, ..;2])).unwrap();
    let plain = square.slice(s![..;-1, ..;2]).to_owned();
    assert_eq!(turned, EmpiricalSource::of(plain.view()).unwrap());
}

#[test]
fn wrong_sources_and_arguments_are_errors() {
    let of = |values: Array1<f64>| EmpiricalSource::of(values.view());
    assert!(matches!(of(array![]), Err(Error::EmptyAxis { .. })));
    assert!(matches!(
        of(array![1.0, f64::NAN]),
        Err(Error::NonFinite { .. })
    ));
    assert!(matches!(
        of(array![f64::MAX, f64::MIN]),
        Err(Error::Overflow { .. })
    ));
    let same = of(array![3.0, 3.0]).unwrap();
    assert_eq!((same.variance(), same.mean()), (0.0, 3.0));
    assert_eq!(same.rate(1e-9).unwrap(), Bounds::exactly(0.0));
    assert_eq!(same.distortion(1.0).unwrap(), Bounds::exactly(0.0));
    assert_eq!(same.differential_entropy(), f64::NEG_INFINITY);
    assert_eq!(same.levels_error(1).unwrap(), Bounds::exactly(0.0));
    let two = of(array![0.0, 1.0]).unwrap();
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(two.rate(bad).is_err(), "{bad}");
    }
    for bad in [-1.0, f64::NAN, f64::INFINITY] {
        assert!(two.distortion(bad).is_err(), "{bad}");
        assert!(two.shannon_distortion(bad).is_err(), "{bad}");
    }
    assert!(two.levels_error(0).is_err());
    // An error below the resolution of the histogram.
    let fine = source(&laplace(10_000)).rate(1e-9);
    assert!(matches!(
        fine,
        Err(Error::Parameter(ParamError::OutOfRange { .. }))
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// No code beats the limit; a scalar quantizer with entropy-coded codes is a code.
    #[test]
    fn scalar_quantizers_lie_above_the_limit(seed in any::<u64>(), step in 0.02_f64..0.6, power in 1_i32..4) {
        let values: Array1<f64> = (0..4000).map(|i| (2.0 * uniform(seed, i) - 1.0).powi(power)).collect();
        let law = source(&values);
        let codes: Vec<i64> = values.iter().map(|x| (x / step).round() as i64).collect();
        let mut sums = std::collections::BTreeMap::<i64, (f64, f64)>::new();
        for (code, x) in codes.iter().zip(&values) {
            let sum = sums.entry(*code).or_default();
            *sum = (sum.0 + 1.0, sum.1 + x);
        }
        let count = values.len() as f64;
        let entropy: f64 = sums.values().map(|(n, _)| -n / count * (n / count).log2()).sum();
        let errors = codes.iter().zip(&values).map(|(code, x)| (x - sums[code].1 / sums[code].0).powi(2));
        let error = errors.sum::<f64>() / count;
        if error > 1e-6 * law.variance() {
            let limit = law.rate(error).unwrap();
            prop_assert!(limit.lower <= entropy + KERNEL_ROUNDING, "{} bits for {:?}", entropy, limit);
        }
    }

    #[test]
    fn levels_are_bounded_by_the_histogram(seed in any::<u64>(), levels in 1_usize..9) {
        let values: Array1<f64> = (0..900).map(|i| uniform(seed, i).powi(2)).collect();
        let exact = cluster_scalars(values.view(), None, levels).unwrap();
        let exact = exact.report.loss().unwrap();
        let bounds = source(&values).levels_error(levels).unwrap();
        contains(bounds, exact, rounding(values.len()));
        prop_assert!(bounds.width() <= BRACKET * exact + rounding(values.len()));
        // Evenly spaced levels are no better.
        let bits = levels.ilog2().max(1);
        if 1 << bits <= levels {
            let w = values.view().insert_axis(ndarray::Axis(0));
            let fixed = FixedPointQuantizer::new(bits).range(Range::SquaredError).quantize(w).unwrap();
            let gap = RateDistortionGap::of(&fixed, w.into_dyn()).unwrap();
            prop_assert!(exact <= gap.mean_squared_error + rounding(values.len()));
        }
    }

    #[test]
    fn signs_reach_their_limit(seed in any::<u64>(), rows in 1_usize..6, columns in 1_usize..30) {
        let w = matrix(seed, rows, columns);
        let binary = Binarizer::new().scaling(Granularity::PerTensor).precision(crate::Precision::F64);
        let rebuilt = binary.quantize(w.view()).unwrap().decompress().unwrap();
        let error = w.iter().zip(&rebuilt).map(|(w, r)| (w - r).powi(2)).sum::<f64>() / w.len() as f64;
        let limit = sign_error(w.view()).unwrap();
        prop_assert!((error - limit).abs() <= rounding(w.len()), "{} {}", error, limit);
    }

    #[test]
    fn water_filling_inverts_itself(seed in any::<u64>(), count in 1_usize..20, rate in 0.0_f64..8.0) {
        let variances: Array1<f64> = (0..count).map(|i| 16.0 * uniform(seed, i).powi(4)).collect();
        let filling = WaterFilling::of(variances.view()).unwrap();
        let error = filling.distortion(rate).unwrap();
        let back = filling.rate(error).unwrap();
        // The level is a difference of sums of variances; the logarithms of the variances are at most 256.
        let tolerance = rounding(count) * (variances.sum() / error + 256.0);
        prop_assert!((back - rate).abs() <= tolerance, "{} for {}", back, rate);
        // The same bits for each component are no better.
        let even = variances.iter().map(|v| v * (-2.0 * rate).exp2()).sum::<f64>() / count as f64;
        prop_assert!(error <= even * (1.0 + 256.0 * rounding(count)));
    }

    #[test]
    fn no_matrix_of_the_rank_has_a_smaller_error(seed in any::<u64>(), m in 2_usize..9, n in 2_usize..9, rank in 1_usize..4) {
        let w = matrix(seed, m, n);
        let rank = rank.min(m).min(n);
        let limit = LowRankLimit::of(w.view()).unwrap();
        let svd = TruncatedSvd::new(Rank::Fixed(rank)).factorize(w.view()).unwrap();
        let rebuilt = svd.decompress().unwrap();
        let error: f64 = w.iter().zip(&rebuilt).map(|(w, r)| (w - r).powi(2)).sum();
        let norm = limit.squared_error(0);
        // Factors are stored as f32, which adds half a unit of each value.
        let stored = f64::from(f32::EPSILON) * norm;
        prop_assert!(error >= limit.squared_error(rank) - rounding(m * n) * norm);
        prop_assert!(error <= limit.squared_error(rank) + stored);
        prop_assert_eq!(limit.squared_error(m.min(n)), 0.0);
        prop_assert_eq!(limit.largest_rank(), m.min(n));
        prop_assert_eq!(limit.least_rank(limit.squared_error(rank)), rank);
    }

    #[test]
    fn whitened_limits_hold_for_outputs(seed in any::<u64>(), m in 2_usize..8, n in 2_usize..8, rank in 1_usize..4) {
        let w = matrix(seed, m, n);
        let x = matrix(seed ^ 1, 3 * n, n).dot(&matrix(seed ^ 2, n, n));
        let moment = linalg::gram(x.view()) / x.nrows() as f64;
        let rank = rank.min(m).min(n);
        let limit = LowRankLimit::whitened(w.view(), moment.view()).unwrap();
        let output_error = |rebuilt: ArrayView2<'_, f64>| {
            let outputs = x.dot(&(&w - &rebuilt).t());
            outputs.iter().map(|y| y * y).sum::<f64>() / x.nrows() as f64
        };
        // The projection of W on the leading directions of the outputs is optimal.
        let gram = linalg::gram(x.dot(&w.t()).view());
        let (_, vectors) = linalg::symmetric_eigen(gram.view()).unwrap();
        let leading = vectors.slice(s![.., m - rank..]);
        let best = output_error(leading.dot(&leading.t()).dot(&w).view());
        let total = w.iter().map(|w| w * w).sum::<f64>() * moment.diag().sum();
        let tolerance = rounding(m * x.len()) * total;
        prop_assert!((best - limit.squared_error(rank)).abs() <= tolerance);
        // The SVD of W alone is another matrix of this rank.
        let svd = TruncatedSvd::new(Rank::Fixed(rank)).factorize(w.view()).unwrap();
        let plain = svd.decompress().unwrap().into_dimensionality().unwrap();
        prop_assert!(output_error(plain.view()) >= limit.squared_error(rank) - tolerance);
    }

    #[test]
    fn no_tensor_of_the_rank_has_a_smaller_error(seed in any::<u64>(), rank in 1_usize..4) {
        let tensor = Array3::from_shape_fn((4, 3, 5), |(i, j, k)| uniform(seed, (i * 3 + j) * 5 + k) - 0.5);
        let limit = UnfoldingLimit::of(tensor.view()).unwrap();
        let fit = CpAls::new(Rank::Fixed(rank)).factorize(tensor.view()).unwrap();
        let error: f64 = tensor.iter().zip(&fit.decompress().unwrap()).map(|(w, r)| (w - r).powi(2)).sum();
        let norm = limit.squared_norm();
        prop_assert!(error >= limit.cp_squared_error(rank).unwrap() - rounding(tensor.len()) * norm);
        // Ranks above the lengths of the axes lose nothing, and smaller ranks lose more.
        let wide = limit.tucker_squared_error(&[9, 9, 9]).unwrap();
        prop_assert_eq!(wide, 0.0);
        prop_assert!(limit.tucker_squared_error(&[rank, 3, 5]).unwrap() <= limit.tucker_squared_error(&[rank, 1, 5]).unwrap());
    }
}

#[test]
fn unfoldings_of_two_axes_give_a_larger_bound() {
    // (0, 1) against (2, 3): a matrix of rank four whose single axes have rank two.
    let tensor = Array4::from_shape_fn(
        (2, 2, 2, 2),
        |(i, j, k, l)| {
            if (i, j) == (k, l) { 1.0 } else { 0.0 }
        },
    );
    let limit = UnfoldingLimit::of(tensor.view()).unwrap();
    // The unfoldings of single axes have rank two, and would lose nothing.
    let error = limit.cp_squared_error(2).unwrap();
    assert!((error - 2.0).abs() <= rounding(tensor.len()) * limit.squared_norm());
    assert_eq!(limit.cp_squared_error(4), Ok(0.0));
    assert_eq!(limit.tucker_squared_error(&[2, 2, 2, 2]), Ok(0.0));
    assert!(limit.cp_squared_error(0).is_err());
    assert!(limit.tucker_squared_error(&[2, 2]).is_err());
    assert!(limit.tucker_squared_error(&[0, 1, 1, 1]).is_err());
    assert!(matches!(
        UnfoldingLimit::of(array![1.0, 2.0].view()),
        Err(Error::Dimensions { .. })
    ));
}

#[test]
fn inputs_in_few_directions_need_few_bits() {
    let w = matrix(4, 30, 8);
    let square = w.iter().map(|w| w * w).sum::<f64>() / w.len() as f64;
    // White inputs: the rate of a Gaussian.
    let white = WaterFilling::linear_layer(w.view(), Array2::eye(8).view()).unwrap();
    let rate = white.rate(0.1 * square).unwrap();
    let gaussian = WaterFilling::of(array![square].view());
    let gaussian = gaussian.unwrap().rate(0.1 * square).unwrap();
    assert!((rate - gaussian).abs() <= rounding(w.len()));
    // One direction of eight: the others cost nothing.
    let mut moment = Array2::zeros((8, 8));
    moment[[0, 0]] = 8.0;
    let narrow = WaterFilling::linear_layer(w.view(), moment.view()).unwrap();
    let rate = narrow.rate(0.1 * square).unwrap();
    assert!((rate - gaussian / 8.0).abs() <= rounding(w.len()));
    moment[[0, 1]] = 1.0;
    assert!(WaterFilling::linear_layer(w.view(), moment.view()).is_err());
    assert!(WaterFilling::linear_layer(w.view(), (-Array2::<f64>::eye(8)).view()).is_err());
    assert!(WaterFilling::linear_layer(w.view(), Array2::eye(7).view()).is_err());
    assert!(WaterFilling::of(array![1.0, -1.0].view()).is_err());
    assert_eq!(
        WaterFilling::of(array![0.0].view())
            .unwrap()
            .distortion(1.0),
        Ok(0.0)
    );
}

#[test]
fn the_gap_of_a_scalar_quantizer_is_a_quarter_of_a_bit() {
    // Uniform weights, all codes equally used: at high rates ½ log₂(2πe/12) = 0.2546 bits above the limit.
    let uniform = Array2::from_shape_fn((100, 1000), |(i, j)| (1000 * i + j) as f64 / 1e5);
    for bits in [3, 4, 8] {
        // Zero is the middle of the first of 2^bits equal cells.
        let w = &uniform - 0.5_f64.powi(bits as i32 + 1);
        let affine = FixedPointQuantizer::new(bits)
            .symmetry(crate::quantize::fixed_point::Symmetry::Affine)
            .range(Range::SquaredError)
            .precision(crate::Precision::F64);
        let fixed = affine.quantize(w.view()).unwrap();
        let gap = RateDistortionGap::of(&fixed, w.view().into_dyn()).unwrap();
        let shaping = 0.5 * (2.0 * PI * E / 12.0).log2();
        let found = gap.bits().unwrap();
        // The ends of the range let R(D) exceed the Shannon bound by 0.05 bits at three bits, and less with more.
        assert!(
            found < shaping + BRACKET && found > shaping - 0.06,
            "{bits} bits: {gap:?}"
        );
        let decibels = gap.decibels().unwrap();
        assert!(
            (decibels - 20.0 * found * 2_f64.log10()).abs() < 0.4,
            "{decibels}"
        );
        assert_eq!(gap.proven, bits != 8);
    }
    // Wrong weights.
    let fixed = FixedPointQuantizer::new(4)
        .quantize(uniform.view())
        .unwrap();
    let other = uniform.slice(s![..50, ..]).into_dyn();
    assert!(RateDistortionGap::of(&fixed, other).is_err());
    // Without error there is no rate to compare with.
    let law = source(&array![0.0, 1.0]);
    let gap = RateDistortionGap::at(1.0, 0.0, &law).unwrap();
    assert_eq!((gap.bits(), gap.decibels()), (None, None));
    assert!(RateDistortionGap::at(f64::NAN, 0.0, &law).is_err());
    assert!(RateDistortionGap::at(1.0, -1.0, &law).is_err());
}
