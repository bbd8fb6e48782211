//! Scaling weights or moments by a power of two scales the result and changes no bit of it otherwise.

use ndarray::{Array2, ArrayD, ArrayView2, Axis};
use proptest::prelude::*;

use super::numbers;
use crate::cluster::{KMeans, Seeding};
use crate::quantize::product::*;
use crate::{
    Compressed, Error, FitContext, Float, InputMoments, Precision, Quantizer, Result, power,
};

/// Dense values and losses of what `quantizer` makes of weights and moments.
fn fitted<F: Float, Q: Quantizer<F>>(
    quantizer: &Q,
    weights: ArrayView2<'_, F>,
    moments: Option<&InputMoments>,
) -> Result<(ArrayD<F>, Vec<f64>)>
where
    Q::Output: Compressed<F>,
{
    let context = match moments {
        Some(moments) => FitContext::new().inputs(moments),
        None => FitContext::new(),
    };
    let artifact = quantizer.quantize_with(weights, context)?;
    let losses = artifact.report().unwrap().losses.clone();
    Ok((artifact.decompress()?, losses))
}

/// Moments of correlated inputs, multiplied by 2^`exponent`.
fn moments(features: usize, exponent: i32) -> InputMoments {
    let x = numbers(3 * features, features, 5).dot(&numbers(features, features, 6));
    let matrix = power::scaled(&x.t().dot(&x).view(), exponent);
    let symmetric = Array2::from_shape_fn(matrix.dim(), |(i, j)| matrix[[i.max(j), i.min(j)]]);
    InputMoments::from_matrix(symmetric.view(), 1).unwrap()
}

/// Compares the fit of weights · 2^`k` and moments · 2^`m` with that of weights and moments.
fn assert_scales<F: Float, Q: Quantizer<F>>(quantizer: &Q, seed: u64, k: i32, m: Option<i32>)
where
    Q::Output: Compressed<F>,
{
    let weights = numbers(16, 12, seed).mapv(F::from_f64_lossy);
    let inputs = m.map(|m| (moments(12, 0), moments(12, m)));
    let (before, after) = match &inputs {
        Some((before, after)) => (Some(before), Some(after)),
        None => (None, None),
    };
    let (dense, losses) = fitted(quantizer, weights.view(), before).unwrap();
    let scaled = power::scaled(&weights.view(), k);
    let (found, found_losses) = fitted(quantizer, scaled.view(), after).unwrap();
    assert_eq!(found, power::scaled(&dense.view(), k), "2^{k}, {m:?}");
    let squares = 2 * k + m.unwrap_or(0);
    let losses: Vec<f64> = losses.iter().map(|&x| power::times(x, squares)).collect();
    assert_eq!(found_losses, losses, "2^{k}, {m:?}");
}

/// The law for all quantizers of the module.
fn hold<F: Float>(axis: SplitAxis, codebook: Codebook, seed: u64, k: i32, m: i32) {
    let quantizer = ProductQuantizer::with_width(2)
        .centroids(6)
        .axis(axis)
        .codebook(codebook)
        .seed(seed)
        .sweeps(3);
    let residual = ResidualQuantizer::new(quantizer.clone(), 2);
    for m in [None, Some(m)] {
        assert_scales::<F, _>(&quantizer, seed, k, m);
        assert_scales::<F, _>(&quantizer.clone().precision(Precision::F64), seed, k, m);
        assert_scales::<F, _>(&residual, seed, k, m);
    }
    for start in [false, true] {
        let rotated = OptimizedProductQuantizer::new(quantizer.clone());
        let rotated = rotated.eigenvalue_start(start).block(4).iterations(3);
        assert_scales::<F, _>(&rotated, seed, k, None);
    }
}

fn axes() -> impl Strategy<Value = SplitAxis> {
    prop_oneof![Just(SplitAxis::In), Just(SplitAxis::Out)]
}

fn codebooks() -> impl Strategy<Value = Codebook> {
    prop_oneof![Just(Codebook::PerGroup), Just(Codebook::Shared)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn weights_times_a_power_of_two_give_the_result_times_it(
        axis in axes(), codebook in codebooks(), seed in 0_u64..1000, k in -60_i32..=60, m in -200_i32..=200,
    ) {
        hold::<f32>(axis, codebook, seed, k, m);
        hold::<f64>(axis, codebook, seed, k, m);
    }

    #[test]
    fn given_centroids_are_in_the_units_of_the_weights(
        axis in axes(), moved in -60_i32..=60, m in -60_i32..=60,
    ) {
        let given = numbers(6, 2, 9);
        let quantizer = |k: i32| {
            let kmeans = KMeans::new().seeding(Seeding::Given(power::scaled(&given.view(), k)));
            ProductQuantizer::with_width(2).centroids(6).axis(axis).clusterer(kmeans)
        };
        let weights = numbers(16, 12, 3);
        let scaled = power::scaled(&weights.view(), moved);
        for inputs in [None, Some((moments(12, 0), moments(12, m)))] {
            let (before, after) = (inputs.as_ref().map(|i| &i.0), inputs.as_ref().map(|i| &i.1));
            let (dense, _) = fitted(&quantizer(0), weights.view(), before).unwrap();
            let (found, _) = fitted(&quantizer(moved), scaled.view(), after).unwrap();
            prop_assert_eq!(found, power::scaled(&dense.view(), moved));
        }
    }
}

/// The output error with moments of inputs of any magnitude is not larger than without.
#[test]
fn tiny_and_huge_inputs_give_moments_like_any_others() {
    let weights = numbers(16, 12, 11).mapv(|x| x as f32);
    for axis in [SplitAxis::In, SplitAxis::Out] {
        for codebook in [Codebook::PerGroup, Codebook::Shared] {
            let quantizer = ProductQuantizer::with_width(2)
                .centroids(6)
                .axis(axis)
                .codebook(codebook);
            // A single input makes the moments singular.
            for (batch, damping) in [(40, 0.01), (40, 0.0), (1, 0.0), (1, 0.01)] {
                for scale in [1e-100, 1e-20, 1e-15, 1.0, 1e20, 1e100] {
                    let mut moments = InputMoments::new(12).unwrap();
                    let inputs = numbers(batch, 12, 13) * scale;
                    moments.add(inputs.view()).unwrap();
                    let quantizer = quantizer.clone().damping(damping);
                    let error = |moments_of_fit: Option<&InputMoments>| {
                        let found = fitted(&quantizer, weights.view(), moments_of_fit).unwrap();
                        let dense = found.0.into_dimensionality().unwrap();
                        moments.output_error(weights.view(), dense.view()).unwrap()
                    };
                    let (with, without) = (error(Some(&moments)), error(None));
                    assert!(
                        with <= without,
                        "{axis:?} {codebook:?} {batch} {damping} {scale}: {with} and {without}"
                    );
                }
            }
        }
    }
}

#[test]
fn rotations_gain_as_much_for_tiny_and_huge_weights() {
    // Vectors that a rotation helps: all values mix a few hidden ones.
    let hidden = Array2::from_shape_fn((300, 8), |(i, j)| {
        numbers(300, 8, 83)[[i, j]] * 0.6_f64.powi(j as i32)
    });
    let weights = hidden.dot(&numbers(8, 8, 89));
    let relative = |scale: f64| {
        let weights = weights.mapv(|x| (x * scale) as f32);
        let plain = ProductQuantizer::new(4)
            .codebook(Codebook::PerGroup)
            .centroids(16);
        let rotated = OptimizedProductQuantizer::new(plain);
        let (dense, _) = fitted(&rotated, weights.view(), None).unwrap();
        let square = |x: f64| (x / scale).powi(2);
        let errors = dense
            .iter()
            .zip(&weights)
            .map(|(a, b)| square(f64::from(a - b)));
        let norm: f64 = weights.iter().map(|&w| square(f64::from(w))).sum();
        errors.sum::<f64>() / norm
    };
    let expected = relative(1.0);
    for scale in [1e-30, 1e-20, 1e9, 1e30] {
        // The weights differ by roundings, which may lead k-means to another optimum nearby.
        let found = relative(scale);
        assert!(found <= 1.1 * expected, "{scale}: {found} and {expected}");
    }
}

#[test]
fn centroids_out_of_range_are_an_overflow_and_no_infinity() {
    // Error feedback with strongly correlated inputs moves targets beyond the largest weight.
    let weights = numbers(16, 12, 17).mapv(|x| x as f32 * f32::MAX);
    let x = numbers(40, 1, 19).broadcast((40, 12)).unwrap().to_owned() + numbers(40, 12, 23) * 0.01;
    let mut moments = InputMoments::new(12).unwrap();
    moments.add(x.view()).unwrap();
    for axis in [SplitAxis::In, SplitAxis::Out] {
        let quantizer = ProductQuantizer::with_width(2)
            .codebook(Codebook::PerGroup)
            .centroids(6)
            .axis(axis);
        match fitted(&quantizer, weights.view(), Some(&moments)) {
            Ok((dense, _)) => assert!(dense.iter().all(|x| x.is_finite())),
            Err(error) => assert!(matches!(error, Error::Overflow { .. }), "{error}"),
        }
    }
}

#[test]
fn rows_of_any_strides_give_the_same_fit() {
    let weights = numbers(16, 12, 29);
    let columns = weights.t().to_owned();
    let mut reversed = weights.clone();
    reversed.invert_axis(Axis(0));
    let reversed = reversed.as_standard_layout().into_owned();
    let inputs = moments(12, 0);
    let quantizer = ProductQuantizer::with_width(2).centroids(6);
    let expected = fitted(&quantizer, weights.view(), Some(&inputs)).unwrap();
    let views = [columns.t(), reversed.slice(ndarray::s![..;-1, ..])];
    for view in views {
        assert_eq!(fitted(&quantizer, view, Some(&inputs)).unwrap(), expected);
    }
}
