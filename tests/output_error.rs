//! Compressors that see the moments of a layer's inputs: the error of the outputs is what they make small.

use taper::factorize::Rank;
use taper::factorize::convolution::Tucker2;
use taper::factorize::cp::CpAls;
use taper::factorize::svd::TruncatedSvd;
use taper::ndarray::{Array2, Array4, ArrayView2, Ix2, s};
use taper::prune::{Keep, MagnitudePruner, Sparsity};
use taper::quantize::binary::Binarizer;
use taper::quantize::fixed_point::{FixedPointQuantizer, Granularity, Range, Symmetry};
use taper::quantize::product::{Codebook, ProductQuantizer, ResidualQuantizer, SplitAxis};
use taper::{
    Compressed, Error, Factorizer, FitContext, InputMoments, ParamError, Precision, Quantizer, Seed,
};

const OUTPUTS: usize = 40;
const INPUTS: usize = 96;

/// Numbers in [−1, 1).
fn numbers(rows: usize, columns: usize, seed: u64) -> Array2<f64> {
    Array2::from_shape_fn((rows, columns), |(i, j)| {
        Seed::from(seed).uniform((i * columns + j) as u64)
    })
}

fn weights(seed: u64) -> Array2<f64> {
    numbers(OUTPUTS, INPUTS, seed)
}

/// Inputs that are mixtures of a few strong and many weak sources, as those of a network are.
fn correlated(features: usize, seed: u64) -> InputMoments {
    let mut sources = numbers(4 * features, features, seed);
    for (i, mut source) in sources.columns_mut().into_iter().enumerate() {
        source *= 4.0 / (1.0 + i as f64);
    }
    let mut moments = InputMoments::new(features).unwrap();
    let inputs = sources.dot(&numbers(features, features, seed + 1));
    moments.add(inputs.view()).unwrap();
    moments
}

fn white(features: usize) -> InputMoments {
    InputMoments::from_matrix(Array2::eye(features).view(), 1).unwrap()
}

fn inputs(moments: &InputMoments) -> FitContext<'_> {
    FitContext::new().inputs(moments)
}

fn dense(artifact: &dyn Compressed<f64>) -> Array2<f64> {
    artifact
        .decompress()
        .unwrap()
        .into_dimensionality::<Ix2>()
        .unwrap()
}

fn error(moments: &InputMoments, w: &Array2<f64>, artifact: &dyn Compressed<f64>) -> f64 {
    moments
        .output_error(w.view(), dense(artifact).view())
        .unwrap()
}

/// What every quantizer promises: from many weights and inputs, smaller output errors with moments than without; and the
/// same result in whatever order the weights lie in memory, and for any number of threads.
fn outputs_move_less<Q: Quantizer<f64> + Sync>(quantizer: &Q)
where
    Q::Output: Send,
{
    for seed in 0..4 {
        let w = weights(100 + seed);
        let moments = correlated(INPUTS, 10 * seed);
        let plain = quantizer.quantize(w.view()).unwrap();
        let aware = quantizer.quantize_with(w.view(), inputs(&moments)).unwrap();
        let (plain_error, aware_error) = (error(&moments, &w, &plain), error(&moments, &w, &aware));
        assert!(
            aware_error < plain_error,
            "seed {seed}: {aware_error} with moments, {plain_error} without"
        );
        assert_eq!(aware.storage(), plain.storage());
        let turned = w.t().as_standard_layout().into_owned();
        let again = quantizer
            .quantize_with(turned.t(), inputs(&moments))
            .unwrap();
        assert!(again.parts() == aware.parts(), "strides matter");
        #[cfg(feature = "rayon")]
        {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(1)
                .build()
                .unwrap();
            let alone =
                pool.install(|| quantizer.quantize_with(w.view(), inputs(&moments)).unwrap());
            assert!(alone.parts() == aware.parts(), "threads matter");
        }
    }
    let w = weights(1);
    let other = white(INPUTS + 1);
    assert!(matches!(
        quantizer.quantize_with(w.view(), inputs(&other)),
        Err(Error::ShapeMismatch { .. })
    ));
    let none = InputMoments::new(INPUTS).unwrap();
    assert!(matches!(
        quantizer.quantize_with(w.view(), inputs(&none)),
        Err(Error::NoInputs)
    ));
    let mut bad = w;
    bad[[1, 2]] = f64::NAN;
    assert!(matches!(
        quantizer.quantize_with(bad.view(), inputs(&white(INPUTS))),
        Err(Error::NonFinite { .. })
    ));
}

#[test]
fn fixed_point_with_error_feedback() {
    for bits in [2, 3, 4, 8] {
        for symmetry in [Symmetry::Symmetric, Symmetry::Affine] {
            for granularity in [Granularity::PerRow, Granularity::PerTensor] {
                let quantizer = FixedPointQuantizer::new(bits)
                    .symmetry(symmetry)
                    .granularity(granularity)
                    .range(Range::SquaredError);
                outputs_move_less(&quantizer);
                // Uncorrelated inputs: nothing can be made good, and the nearest values are the best.
                let w = weights(5);
                let aware = quantizer.quantize_with(w.view(), inputs(&white(INPUTS)));
                assert_eq!(aware.unwrap(), quantizer.quantize(w.view()).unwrap());
            }
        }
    }
}

#[test]
fn weights_that_are_on_the_grid_stay_there() {
    let quantizer = FixedPointQuantizer::new(4);
    let once = quantizer
        .quantize_with(weights(3).view(), inputs(&correlated(INPUTS, 1)))
        .unwrap();
    let again = quantizer.quantize_with(dense(&once).view(), inputs(&correlated(INPUTS, 2)));
    assert_eq!(again.unwrap().integers(), once.integers());
}

#[test]
fn binary_with_error_feedback() {
    for scaling in [Some(Granularity::PerRow), Some(Granularity::PerTensor)] {
        outputs_move_less(&Binarizer::new().scaling(scaling));
    }
    for scaling in [
        Some(Granularity::PerRow),
        Some(Granularity::PerTensor),
        None,
    ] {
        let binarizer = Binarizer::new().scaling(scaling);
        for seed in 0..8 {
            // Even where inputs hardly say anything, it is not worse than without them.
            let w = weights(seed);
            let moments = correlated(INPUTS, 3 * seed);
            let plain = binarizer.quantize(w.view()).unwrap();
            let aware = binarizer.quantize_with(w.view(), inputs(&moments)).unwrap();
            let (plain, aware) = (error(&moments, &w, &plain), error(&moments, &w, &aware));
            assert!(aware <= plain * (1.0 + INPUTS as f64 * f64::EPSILON));
        }
        let w = weights(9);
        let plain = binarizer.quantize(w.view()).unwrap();
        let aware = binarizer.quantize_with(w.view(), inputs(&white(INPUTS)));
        let aware = aware.unwrap();
        for (a, b) in dense(&aware).iter().zip(&dense(&plain)) {
            // Scales are stored in single precision.
            assert!((a - b).abs() <= 2.0 * f64::from(f32::EPSILON) * b.abs());
        }
    }
    let stochastic = Binarizer::new().stochastic(1);
    assert!(matches!(
        stochastic.quantize_with(weights(1).view(), inputs(&white(INPUTS))),
        Err(Error::ContextUnused { .. })
    ));
}

fn product_quantizers() -> Vec<ProductQuantizer> {
    let mut all = Vec::new();
    for axis in [SplitAxis::In, SplitAxis::Out] {
        for codebook in [Codebook::PerGroup, Codebook::Shared] {
            for (width, k) in [(4, 8), (8, 12), (1, 4)] {
                all.push(
                    ProductQuantizer::with_width(width)
                        .axis(axis)
                        .codebook(codebook)
                        .centroids(k)
                        .seed(3),
                );
            }
        }
    }
    all
}

#[test]
fn product_quantization_of_either_axis() {
    for quantizer in product_quantizers() {
        outputs_move_less(&quantizer);
        outputs_move_less(&quantizer.clone().sweeps(0));
        outputs_move_less(&quantizer.precision(Precision::F16));
    }
}

#[test]
fn sweeps_of_product_quantization_never_raise_the_error() {
    for quantizer in product_quantizers() {
        let quantizer = quantizer.precision(Precision::F64);
        let (w, moments) = (weights(8), correlated(INPUTS, 8));
        let damped = InputMoments::from_matrix(moments.damped(0.01).unwrap().view(), 1).unwrap();
        let mut last = f64::INFINITY;
        for sweeps in [0, 1, 2, 5] {
            let aware = quantizer.clone().sweeps(sweeps);
            let aware = aware.quantize_with(w.view(), inputs(&moments)).unwrap();
            let losses = &aware.report().unwrap().losses;
            assert!(losses.windows(2).all(|pair| pair[1] <= pair[0]));
            // The report tells the error of the artifact; sums of n² products each.
            let found = error(&damped, &w, &aware) / OUTPUTS as f64;
            let n = (INPUTS * INPUTS) as f64;
            assert!((found - losses.last().unwrap()).abs() <= 1e3 * n * f64::EPSILON * losses[0]);
            assert!(found <= last * (1.0 + n * f64::EPSILON));
            last = found;
        }
    }
}

#[test]
fn product_quantization_for_uncorrelated_inputs_is_as_good_as_plain() {
    for quantizer in product_quantizers() {
        let w = weights(12);
        let plain = quantizer.quantize(w.view()).unwrap();
        // The first choice is the plain one, and a sweep may go on where k-means ended.
        let first = quantizer.clone().sweeps(0);
        let first = first
            .quantize_with(w.view(), inputs(&white(INPUTS)))
            .unwrap();
        assert!(first.codes() == plain.codes(), "{quantizer:?}");
        let swept = quantizer.quantize_with(w.view(), inputs(&white(INPUTS)));
        let moments = white(INPUTS);
        // Centroids are stored in single precision.
        let tolerance = 1.0 + 16.0 * f64::from(f32::EPSILON);
        assert!(error(&moments, &w, &swept.unwrap()) <= error(&moments, &w, &plain) * tolerance);
    }
}

#[test]
fn as_many_centroids_as_points_leave_no_error() {
    for axis in [SplitAxis::In, SplitAxis::Out] {
        let (w, moments) = (weights(2), correlated(INPUTS, 2));
        let quantizer = ProductQuantizer::with_width(4)
            .codebook(Codebook::PerGroup)
            .axis(axis)
            .centroids(INPUTS)
            .precision(Precision::F64);
        let aware = quantizer.quantize_with(w.view(), inputs(&moments)).unwrap();
        let relative = moments
            .relative_output_error(w.view(), dense(&aware).view())
            .unwrap();
        // The square of what a solve leaves: n ε times the condition, at most n / 0.01.
        let bound = (INPUTS as f64).powi(2) * 100.0 * f64::EPSILON;
        assert!(relative <= bound * bound, "{relative}");
    }
}

#[test]
fn residual_stages_see_the_inputs() {
    for axis in [SplitAxis::In, SplitAxis::Out] {
        let stage = ProductQuantizer::with_width(4)
            .codebook(Codebook::PerGroup)
            .axis(axis)
            .centroids(8);
        let quantizer = ResidualQuantizer::new(stage, 3);
        outputs_move_less(&quantizer);
        let (w, moments) = (weights(2), correlated(INPUTS, 2));
        let aware = quantizer.quantize_with(w.view(), inputs(&moments)).unwrap();
        let losses = &aware.report().unwrap().losses;
        assert!(losses.windows(2).all(|pair| pair[1] < pair[0]));
    }
}

fn pruners() -> Vec<MagnitudePruner> {
    [
        Sparsity::Unstructured(Keep::Fraction(0.5)),
        Sparsity::Unstructured(Keep::Fraction(0.1)),
        Sparsity::NOfM { n: 2, m: 4 },
        Sparsity::NOfM { n: 1, m: 8 },
    ]
    .map(MagnitudePruner::new)
    .to_vec()
}

#[test]
fn pruning_with_compensation() {
    for params in pruners() {
        let pruner = params.clone();
        for seed in 0..4 {
            let (w, moments) = (weights(seed), correlated(INPUTS, seed));
            let damped =
                InputMoments::from_matrix(moments.damped(0.01).unwrap().view(), 1).unwrap();
            let plain = pruner.prune_matrix(w.view()).unwrap();
            let aware = pruner
                .prune_matrix_with(w.view(), inputs(&moments))
                .unwrap();
            assert_eq!(aware.nonzeros(), plain.nonzeros());
            let plain_error = error(&damped, &w, &plain);
            let mut last = plain_error;
            // More refinements never make it worse.
            for refinements in [0, 1, 10, 300] {
                let pruner = params.clone().refinements(refinements);
                let aware = pruner
                    .prune_matrix_with(w.view(), inputs(&moments))
                    .unwrap();
                let found = error(&damped, &w, &aware);
                // Kept weights are stored in single precision.
                let rounding = f64::from(f32::EPSILON) * (INPUTS as f64).sqrt();
                assert!(
                    found <= last * (1.0 + rounding),
                    "{refinements}: {found} after {last}"
                );
                last = found;
            }
            assert!(last < 0.7 * plain_error, "{last} of {plain_error}");
            let turned = w.t().as_standard_layout().into_owned();
            assert_eq!(
                pruner.prune_matrix_with(turned.t(), inputs(&moments)),
                Ok(aware)
            );
        }
        // Uncorrelated inputs: the largest are kept, as they are.
        let w = weights(7);
        let aware = pruner.prune_matrix_with(w.view(), inputs(&white(INPUTS)));
        assert_eq!(aware, pruner.prune_matrix(w.view()));
    }
}

#[test]
fn the_pattern_of_pruning_is_kept() {
    let pruner = MagnitudePruner::new(Sparsity::NOfM { n: 2, m: 4 });
    let w = weights(3);
    let aware = pruner.prune_matrix_with(w.view(), inputs(&correlated(INPUTS, 3)));
    let aware = dense(&aware.unwrap());
    for row in aware.rows() {
        for start in (0..INPUTS).step_by(4) {
            let kept = row.slice(s![start..start + 4]);
            assert!(kept.iter().filter(|&&w| w != 0.0).count() <= 2);
        }
    }
}

// The kept weights of each row solve the least squares problem that is left: the error is orthogonal to them.
#[test]
fn kept_weights_are_the_best_that_they_can_be() {
    let (w, moments) = (weights(4), correlated(INPUTS, 4));
    let pruner = MagnitudePruner::new(Sparsity::Unstructured(Keep::Fraction(0.2)))
        .precision(Precision::F64)
        .refinements(400);
    let pruned = dense(
        &pruner
            .prune_matrix_with(w.view(), inputs(&moments))
            .unwrap(),
    );
    let damped = moments.damped(0.01).unwrap();
    let gradient = (&w - &pruned).dot(&damped);
    let size = w
        .dot(&damped)
        .iter()
        .fold(0.0_f64, |max, x| max.max(x.abs()));
    for (gradient, kept) in gradient
        .iter()
        .zip(&pruned)
        .filter(|(_, kept)| **kept != 0.0)
    {
        // Conjugate gradients end where rounding takes over, at about ε times the condition (at most n / 0.01).
        assert!(
            gradient.abs() <= 1e4 * f64::EPSILON * INPUTS as f64 * size,
            "{gradient} at {kept}"
        );
    }
}

#[test]
fn all_layers_need_their_inputs() {
    let (w, moments) = (weights(1), white(INPUTS));
    let pruner = MagnitudePruner::new(Sparsity::Unstructured(Keep::Fraction(0.5)));
    let views: [ArrayView2<'_, f64>; 2] = [w.view(), w.view()];
    assert!(matches!(
        pruner.prune_with(&views, &[inputs(&moments)]),
        Err(Error::ShapeMismatch { .. })
    ));
    let other = white(INPUTS - 1);
    assert!(matches!(
        pruner.prune_with(&views, &[inputs(&moments), inputs(&other)]),
        Err(Error::ShapeMismatch { .. })
    ));
    let pruned = pruner.prune_with(&views, &[inputs(&moments); 2]).unwrap();
    assert_eq!(pruned[0].nonzeros() + pruned[1].nonzeros(), w.len());
}

#[test]
fn low_rank_is_best_for_the_outputs() {
    for rank in [1, 5, 20] {
        let (w, moments) = (weights(6), correlated(INPUTS, 6));
        let svd = TruncatedSvd::new(Rank::Fixed(rank)).precision(Precision::F64);
        let plain = svd.factorize(w.view()).unwrap();
        let aware = svd.factorize_with(w.view(), inputs(&moments)).unwrap();
        assert!(error(&moments, &w, &aware) < error(&moments, &w, &plain));
    }
}

#[test]
fn what_has_no_use_for_weights_of_rows_says_so() {
    let w = weights(2);
    let rows = vec![1.0; w.nrows()];
    let context = FitContext::new().rows(&rows);
    let unused = |result: Result<(), Error>| {
        assert!(
            matches!(&result, Err(error @ Error::ContextUnused { .. }) if error.to_string().contains("weights of rows")),
            "{result:?}"
        );
    };
    unused(
        FixedPointQuantizer::new(4)
            .quantize_with(w.view(), context)
            .map(|_| ()),
    );
    unused(
        Binarizer::new()
            .quantize_with(w.view(), context)
            .map(|_| ()),
    );
    let product = ProductQuantizer::with_width(4).centroids(4);
    unused(product.quantize_with(w.view(), context).map(|_| ()));
    let svd = TruncatedSvd::new(Rank::Fixed(2));
    unused(svd.factorize_with(w.view(), context).map(|_| ()));
    let pruner = MagnitudePruner::new(Sparsity::Unstructured(Keep::Fraction(0.5)));
    unused(pruner.prune_matrix_with(w.view(), context).map(|_| ()));
}

#[test]
fn what_has_no_use_for_moments_says_so() {
    let kernel = Array4::from_shape_fn((4, 3, 2, 2), |(o, i, y, x)| (o + i + y * x) as f64);
    let moments = white(12);
    let unused = |result: Result<(), Error>| {
        assert!(
            matches!(result, Err(Error::ContextUnused { .. })),
            "{result:?}"
        );
    };
    let cp = CpAls::new(Rank::Fixed(2));
    unused(
        cp.factorize_with(kernel.view(), inputs(&moments))
            .map(|_| ()),
    );
    let tucker = Tucker2::ranks(2, 2);
    unused(
        tucker
            .factorize_with(kernel.view(), inputs(&moments))
            .map(|_| ()),
    );
    let svd = TruncatedSvd::new(Rank::Fixed(2));
    unused(
        svd.factorize_with(kernel.view(), inputs(&moments))
            .map(|_| ()),
    );
}

#[test]
fn damping_is_checked() {
    for damping in [-0.1, f64::NAN, f64::INFINITY] {
        let out_of_range = |error: Option<ParamError>| {
            assert!(
                matches!(error, Some(ParamError::OutOfRange { .. })),
                "{error:?}"
            );
        };
        out_of_range(
            FixedPointQuantizer::new(4)
                .damping(damping)
                .validate()
                .err(),
        );
        out_of_range(Binarizer::new().damping(damping).validate().err());
        out_of_range(
            ProductQuantizer::new(4)
                .axis(SplitAxis::Out)
                .codebook(Codebook::PerGroup)
                .damping(damping)
                .validate()
                .err(),
        );
        let sparsity = Sparsity::Unstructured(Keep::Fraction(0.5));
        out_of_range(
            MagnitudePruner::new(sparsity)
                .damping(damping)
                .validate()
                .err(),
        );
    }
}
