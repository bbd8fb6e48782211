//! Weights or moments times a power of two give the result times that power, bit for bit.

use proptest::prelude::*;
use taper::factorize::Rank;
use taper::factorize::svd::{SingularValues, SvdMethod, TruncatedSvd};
use taper::ndarray::{Array2, ArrayD, ArrayView2, ArrayViewD, Ix2};
use taper::prune::{Keep, MagnitudePruner, Sparsity};
use taper::quantize::binary::Binarizer;
use taper::quantize::fixed_point::{FixedPointQuantizer, Granularity, Range, Symmetry};
use taper::quantize::product::{Codebook, ProductQuantizer, ResidualQuantizer, SplitAxis};
use taper::{
    Compressed, DType, Error, Factorizer, FitContext, Float, InputMoments, Precision, Quantizer,
    Result,
};

use crate::draw::Draw;
use crate::kinds::{Kind, kinds};
use crate::laws::{numbers, rounding, squared_error, weights};

/// Kinds for which the law cannot hold, and why.
const NOT_SCALED: [(&str, &str); 1] = [(
    "stochastic binary",
    "the probability of a sign is a function of the weight itself",
)];

fn power(exponent: i32) -> f64 {
    2_f64.powi(exponent)
}

fn times<F: Float>(array: &ArrayD<F>, exponent: i32) -> ArrayD<F> {
    array.mapv(|x| F::from_f64_lossy(x.as_f64() * power(exponent)))
}

fn in_halves<F: Float>(artifact: &(impl Compressed<F> + ?Sized)) -> bool {
    artifact.parts().iter().any(|part| part.dtype == DType::F16)
}

/// Compares what `compress` makes of the weights with what it makes of them times powers of two. Half precision may be an
/// error, and rounds differently below its normal numbers: there the error grows by no more than rounding.
fn powers_scale<F: Float, A: Compressed<F> + ?Sized>(
    weights: &ArrayD<F>,
    exponents: &[i32],
    signs_alone: bool,
    compress: impl Fn(ArrayViewD<'_, F>) -> Result<Box<A>>,
) {
    let artifact = compress(weights.view()).unwrap();
    let once = artifact.decompress().unwrap();
    for &exponent in exponents {
        let scaled = match compress(times(weights, exponent).view()) {
            Err(Error::Underflow { .. }) if in_halves(&*artifact) && exponent < 0 => continue,
            Err(Error::Overflow { .. }) if in_halves(&*artifact) && exponent > 0 => continue,
            scaled => scaled.unwrap(),
        };
        // Scales that half precision cannot hold are in single precision, whichever of the two has them.
        let halves = in_halves(&*artifact) || in_halves(&*scaled);
        let rounding = rounding(&*artifact).max(rounding(&*scaled));
        let scaled = scaled.decompress().unwrap();
        if signs_alone {
            assert_eq!(scaled, once);
        } else if !halves {
            assert_eq!(scaled, times(&once, exponent), "2^{exponent}");
        } else {
            let errors = [times(&scaled, -exponent), once.clone()]
                .map(|rebuilt| squared_error(&rebuilt, weights.view()).sqrt());
            let norm: f64 = weights.iter().map(|w| w.as_f64().powi(2)).sum();
            let bound = 8.0 * rounding * (weights.len() as f64).sqrt() * norm.sqrt();
            assert!(errors[0] <= errors[1] + bound, "2^{exponent}: {errors:?}");
        }
    }
}

/// The law for both types of numbers.
fn kind_scales(kind: &Kind, seed: u64) {
    let mut draw = Draw::from(seed);
    let single = weights(kind.axes, &mut draw);
    let artifact = (kind.single)(single.view(), &mut draw.clone()).unwrap();
    let signs_alone = kind.name == "binary" && artifact.parts().len() == 1;
    powers_scale(
        &single,
        &[-60, -21, -2, 3, 10, 40],
        signs_alone,
        |weights| (kind.single)(weights, &mut draw.clone()),
    );
    if let Some(make) = kind.double {
        let double = single.mapv(f64::from);
        // Stored in single precision, a product of three factors has this range at least.
        powers_scale(&double, &[-35, -2, 1, 33], signs_alone, |weights| {
            make(weights, &mut draw.clone())
        });
    }
}

/// A compressor that uses the moments of the inputs.
type Calibrated<F> = (
    &'static str,
    fn(ArrayView2<'_, F>, FitContext<'_>, Precision) -> Result<Box<dyn Compressed<F>>>,
);

macro_rules! calibrated {
    ($name:literal, |$w:ident, $context:ident, $precision:ident| $make:expr) => {
        ($name, |$w, $context, $precision| Ok(Box::new($make?)))
    };
}

fn calibrated<F: Float>() -> Vec<Calibrated<F>> {
    let mut all = of_quantizers();
    all.extend(of_svd());
    all.extend(of_pruners());
    all
}

fn of_quantizers<F: Float>() -> Vec<Calibrated<F>> {
    vec![
        calibrated!("fixed point", |w, context, precision| {
            FixedPointQuantizer::new(4)
                .precision(precision)
                .quantize_with(w, context)
        }),
        calibrated!("affine fixed point", |w, context, precision| {
            FixedPointQuantizer::new(3)
                .symmetry(Symmetry::Affine)
                .granularity(Granularity::PerRow)
                .range(Range::SquaredError)
                .precision(precision)
                .quantize_with(w, context)
        }),
        calibrated!("fixed point by blocks", |w, context, precision| {
            FixedPointQuantizer::new(3)
                .symmetry(Symmetry::SignedScale)
                .granularity(Granularity::Block(16))
                .range(Range::SquaredError)
                .precision(precision)
                .quantize_with(w, context)
        }),
        calibrated!("binary", |w, context, precision| {
            Binarizer::new()
                .scaling(Granularity::PerTensor)
                .precision(precision)
                .quantize_with(w, context)
        }),
        calibrated!("binary rows", |w, context, precision| {
            Binarizer::new()
                .scaling(Granularity::PerRow)
                .precision(precision)
                .quantize_with(w, context)
        }),
        calibrated!("product of inputs", |w, context, precision| {
            pairs(SplitAxis::In, Codebook::PerGroup, precision).quantize_with(w, context)
        }),
        calibrated!("shared product of inputs", |w, context, precision| {
            pairs(SplitAxis::In, Codebook::Shared, precision).quantize_with(w, context)
        }),
        calibrated!("product of outputs", |w, context, precision| {
            pairs(SplitAxis::Out, Codebook::PerGroup, precision).quantize_with(w, context)
        }),
        calibrated!("residual product", |w, context, precision| {
            let stage = pairs(SplitAxis::In, Codebook::PerGroup, precision);
            ResidualQuantizer::new(stage, 2).quantize_with(w, context)
        }),
    ]
}

fn of_svd<F: Float>() -> Vec<Calibrated<F>> {
    vec![
        calibrated!("low rank", |w, context, precision| {
            svd(Rank::Fixed(3), SvdMethod::Exact, precision).factorize_with(w, context)
        }),
        calibrated!("low rank by energy", |w, context, precision| {
            svd(Rank::Energy(0.8), SvdMethod::Exact, precision)
                .singular_values(SingularValues::Left)
                .factorize_with(w, context)
        }),
        calibrated!("low rank by ratio", |w, context, precision| {
            svd(Rank::Ratio(1.5), SvdMethod::BlockKrylov, precision)
                .singular_values(SingularValues::Right)
                .factorize_with(w, context)
        }),
        calibrated!("low rank at random", |w, context, precision| {
            svd(Rank::Fraction(0.3), SvdMethod::Randomized, precision)
                .singular_values(SingularValues::Apart)
                .factorize_with(w, context)
        }),
    ]
}

fn of_pruners<F: Float>() -> Vec<Calibrated<F>> {
    vec![
        calibrated!("pruned", |w, context, precision| {
            MagnitudePruner::new(Sparsity::Unstructured(Keep::Fraction(0.4)))
                .precision(precision)
                .prune_matrix_with(w, context)
        }),
        calibrated!(
            "pruned in groups, without refinement",
            |w, context, precision| {
                MagnitudePruner::new(Sparsity::NOfM { n: 2, m: 4 })
                    .refinements(0)
                    .precision(precision)
                    .prune_matrix_with(w, context)
            }
        ),
    ]
}

fn pairs(axis: SplitAxis, codebook: Codebook, precision: Precision) -> ProductQuantizer {
    ProductQuantizer::with_width(2)
        .axis(axis)
        .codebook(codebook)
        .centroids(5)
        .precision(precision)
        .seed(1)
}

fn svd(rank: Rank, method: SvdMethod, precision: Precision) -> TruncatedSvd {
    TruncatedSvd::new(rank).method(method).precision(precision)
}

/// Moments of correlated inputs, and the same times a power of two.
fn moments(features: usize, exponent: i32, draw: &mut Draw<'_>) -> [InputMoments; 2] {
    let x = numbers(&[2 * features, features], draw).mapv(f64::from);
    let x: Array2<f64> = x.into_dimensionality().unwrap();
    let mix = numbers(&[features, features], draw).mapv(f64::from);
    let x = x.dot(&mix.into_dimensionality::<Ix2>().unwrap());
    let mut inputs = InputMoments::new(features).unwrap();
    inputs.add(x.view()).unwrap();
    // A count that is a power of two divides and multiplies without rounding.
    let matrix = inputs.matrix().unwrap();
    [0, exponent]
        .map(|exponent| InputMoments::from_matrix((&matrix * power(exponent)).view(), 1).unwrap())
}

fn calibrated_fits_scale<F: Float>(seed: u64, weights_by: i32, moments_by: i32) {
    let mut draw = Draw::from(seed);
    let weights = numbers(&[10, 12], &mut draw).mapv(|w| F::from_f64_lossy(f64::from(w)));
    let inputs = moments(12, moments_by, &mut draw);
    for (name, make) in calibrated::<F>() {
        for precision in [Precision::F32, Precision::F64] {
            let fit = |weights: &ArrayD<F>, inputs| {
                let matrix = weights.view().into_dimensionality().unwrap();
                let context = FitContext::new().inputs(inputs);
                make(matrix, context, precision)
                    .unwrap()
                    .decompress()
                    .unwrap()
            };
            let once = fit(&weights, &inputs[0]);
            let scaled = fit(&times(&weights, weights_by), &inputs[1]);
            assert_eq!(
                scaled,
                times(&once, weights_by),
                "{name}: 2^{weights_by}, moments 2^{moments_by}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn weights_times_a_power_of_two_give_the_result_times_it(seed in any::<u64>().no_shrink()) {
        let scaled = kinds().into_iter();
        let scaled = scaled.filter(|kind| NOT_SCALED.iter().all(|(name, _)| *name != kind.name));
        let broken: Vec<_> = scaled.filter(|kind| {
            std::panic::catch_unwind(|| kind_scales(kind, seed)).is_err()
        }).map(|kind| kind.name).collect();
        prop_assert!(broken.is_empty(), "{broken:?} with seed {seed}");
    }

    #[test]
    fn calibrated_fits_scale_with_weights_and_not_with_moments(
        seed in any::<u64>().no_shrink(), weights_by in -50_i32..=50, moments_by in -300_i32..=300,
    ) {
        calibrated_fits_scale::<f32>(seed, weights_by, moments_by);
        calibrated_fits_scale::<f64>(seed, weights_by, moments_by);
    }
}

/// Squares of the smallest of these weights are zero in `f64`.
#[test]
fn weights_whose_squares_vanish_are_like_any_others() {
    for (name, make) in calibrated::<f64>() {
        let mut draw = Draw::from(3);
        let weights = numbers(&[10, 12], &mut draw).mapv(f64::from);
        let [inputs, tiny] = moments(12, -601, &mut draw);
        let fit = |weights: &ArrayD<f64>, inputs| {
            let matrix = weights.view().into_dimensionality().unwrap();
            let context = FitContext::new().inputs(inputs);
            make(matrix, context, Precision::F64)
                .unwrap()
                .decompress()
                .unwrap()
        };
        let once = fit(&weights, &inputs);
        for exponent in [-701, 401] {
            assert_eq!(
                fit(&times(&weights, exponent), &tiny),
                times(&once, exponent),
                "{name}"
            );
        }
    }
}
