use ndarray::Array1;

use super::super::conv2d;
use super::super::dense::tests::{largest, random, rounding};
use super::*;
use crate::Compressed;

fn error(kernel: &Array4<f64>, chain: &TuckerConv2d<f64>) -> f64 {
    let rebuilt = chain.decompress().unwrap();
    let error: f64 = kernel
        .iter()
        .zip(&rebuilt)
        .map(|(a, b)| (a - b).powi(2))
        .sum();
    error / kernel.iter().map(|x| x * x).sum::<f64>()
}

#[test]
fn the_loss_is_the_squared_error_and_never_rises() {
    let kernel = random([8, 6, 3, 3], 1);
    let params = Tucker2::ranks(4, 3).precision(Precision::F64);
    let chain = params.factorize(kernel.view()).unwrap();
    let report = chain.report().unwrap();
    assert!(report.losses.len() > 1);
    assert!(report.losses.windows(2).all(|pair| pair[1] <= pair[0]));
    // Rounding errors of n values add up like √n; an orthogonal product of each side has 64 steps at most.
    let bound = 64.0 * f64::EPSILON * (kernel.len() as f64).sqrt();
    assert!((error(&kernel, &chain) - report.loss().unwrap()).abs() < bound);
    let whole = Tucker2::ranks(8, 6)
        .precision(Precision::F64)
        .factorize(kernel.view())
        .unwrap();
    assert!(error(&kernel, &whole) < bound * bound);
}

#[test]
fn chains_equal_the_convolution_with_the_decompressed_kernel() {
    let kernel = random([5, 4, 3, 2], 1);
    let x = random([2, 4, 7, 6], 2);
    let params = Tucker2::ranks(3, 2).precision(Precision::F64);
    let geometry = Geometry {
        stride: [2, 1],
        padding: [1, 2],
        dilation: [1, 2],
    };
    let bias = Array1::linspace(-1.0, 1.0, 5);
    let chain = params
        .factorize(kernel.view())
        .unwrap()
        .with_geometry(geometry, Some(bias.clone()))
        .unwrap();
    let rebuilt = chain
        .decompress()
        .unwrap()
        .into_dimensionality::<Ix4>()
        .unwrap();
    let expected = conv2d(x.view(), rebuilt.view(), Some(bias.view()), geometry).unwrap();
    let y = chain.apply(x.view()).unwrap();
    let bound = rounding(&chain.links(), largest(&x));
    for (a, b) in y.iter().zip(&expected) {
        assert!((a - b).abs() <= bound, "{a} and {b}");
    }
    let again =
        TuckerConv2d::from_parts(&chain.links(), Some(bias), geometry, Precision::F64).unwrap();
    assert_eq!(again.links(), chain.links());
    assert_eq!(again.apply(x.view()).unwrap(), y);
    let mut links = chain.links();
    links.swap(0, 2);
    assert!(TuckerConv2d::from_parts(&links, None, geometry, Precision::F64).is_err());
}

#[test]
fn ranks_follow_from_an_energy_or_a_ratio() {
    let kernel = random([12, 10, 3, 3], 1);
    for fraction in [0.3, 0.7, 0.95, 1.0] {
        let params = Tucker2::energy(fraction).precision(Precision::F64);
        let chain = params.factorize(kernel.view()).unwrap();
        // A sum of squares of n values has a relative rounding error of n·ε at most.
        let rounding = kernel.len() as f64 * f64::EPSILON;
        assert!(1.0 - error(&kernel, &chain) >= fraction - rounding);
    }
    for ratio in [1.0, 2.0, 8.0] {
        let chain = Tucker2::ratio(ratio)
            .precision(Precision::F64)
            .factorize(kernel.view())
            .unwrap();
        assert!(chain.ratio() >= ratio, "{} for {ratio}", chain.ratio());
    }
    assert!(matches!(
        Tucker2::ratio(1e6).factorize(kernel.view()),
        Err(Error::RatioOutOfReach { .. })
    ));
}

#[test]
fn wrong_inputs_and_parameters_are_errors() {
    let mut kernel = random([4, 3, 1, 1], 1);
    assert!(Tucker2::ranks(0, 1).validate().is_err());
    assert!(Tucker2::energy(0.0).validate().is_err());
    assert!(Tucker2::ratio(f64::NAN).validate().is_err());
    assert!(matches!(
        Tucker2::ranks(4, 3).factorize(kernel.view()),
        Err(Error::ExceedsInput {
            value: 4,
            limit: 3,
            ..
        })
    ));
    let zero = Tucker2::ranks(2, 2)
        .factorize(Array4::<f64>::zeros((4, 3, 3, 3)).view())
        .unwrap();
    assert!(zero.decompress().unwrap().iter().all(|&x| x == 0.0));
    kernel[[1, 2, 0, 0]] = f64::INFINITY;
    assert!(matches!(
        Tucker2::ranks(1, 1).factorize(kernel.view()),
        Err(Error::NonFinite { .. })
    ));
}
