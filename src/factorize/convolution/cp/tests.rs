use super::super::conv2d;
use super::super::dense::tests::{largest, random, rounding};
use super::*;
use crate::Factorizer;
use crate::factorize::Rank;
use crate::factorize::cp::CpAls;
use ndarray::{Ix4, s};

fn geometries() -> Vec<Geometry> {
    [
        ([1, 1], [1, 1], [1, 1]),
        ([2, 1], [0, 2], [1, 2]),
        ([2, 3], [3, 1], [2, 1]),
    ]
    .into_iter()
    .map(|(stride, padding, dilation)| Geometry {
        stride,
        padding,
        dilation,
    })
    .collect()
}

fn close(a: &Array4<f64>, b: &Array4<f64>, bound: f64) {
    assert_eq!(a.shape(), b.shape());
    for (a, b) in a.iter().zip(b) {
        assert!((a - b).abs() <= bound, "{a} and {b}");
    }
}

#[test]
fn terms_of_negative_weight_keep_their_sign() {
    let factors = [2, 3, 2, 2].map(|length| Array2::<f64>::ones((length, 1)));
    let kernel = CpTensor::from_parts(ndarray::arr1(&[-2.0]), factors.to_vec(), Precision::F64);
    let kernel = kernel.unwrap();
    let separable = CpConv2d::new(&kernel, None, Geometry::default()).unwrap();
    let square = CpConv2d::square(&kernel, [2, 2], None, Geometry::default()).unwrap();
    for chain in [separable, square] {
        let rounded = Array4::from_elem((2, 3, 2, 2), -2.0);
        close(&dense(&chain), &rounded, rounding(&chain.links(), 1.0));
    }
}

fn dense(chain: &CpConv2d<f64>) -> Array4<f64> {
    chain
        .decompress()
        .unwrap()
        .into_dimensionality::<Ix4>()
        .unwrap()
}

fn check_chain(chain: &CpConv2d<f64>, kernel: &Array4<f64>, x: &Array4<f64>) {
    // The kernel is what the chain makes of images of single ones.
    close(&dense(chain), kernel, rounding(&chain.links(), 1.0));
    let bias = chain.bias().map(|bias| bias.view());
    let expected = conv2d(x.view(), dense(chain).view(), bias, chain.geometry()).unwrap();
    let bound = rounding(&chain.links(), largest(x));
    close(&chain.apply(x.view()).unwrap(), &expected, bound);
    let (bias, precision) = (chain.bias().cloned(), chain.precision);
    let again = CpConv2d::from_parts(&chain.links(), bias, chain.geometry(), precision);
    assert_eq!(again.as_ref(), Ok(chain));
}

#[test]
fn chains_equal_the_convolution_with_the_decompressed_kernel() {
    for kernel in [[3, 3], [5, 2], [1, 4], [1, 1]] {
        let x = random([2, 3, 8, 9], 1);
        let weights = random([6, 3, kernel[0], kernel[1]], 2);
        let als = CpAls::new(Rank::Fixed(3))
            .precision(Precision::F64)
            .max_sweeps(5);
        let fit = als.factorize(weights.view()).unwrap();
        let rebuilt = fit
            .decompress()
            .unwrap()
            .into_dimensionality::<Ix4>()
            .unwrap();
        let flat = weights.to_shape((6, 3, kernel[0] * kernel[1])).unwrap();
        let flat = als.factorize(flat.view()).unwrap();
        let flat_rebuilt = flat
            .decompress()
            .unwrap()
            .into_shape_with_order(weights.raw_dim());
        let bias = Some(Array1::linspace(-1.0, 1.0, 6));
        for geometry in geometries() {
            let chain = CpConv2d::new(&fit, bias.clone(), geometry).unwrap();
            assert_eq!(chain.links().len(), 4);
            check_chain(&chain, &rebuilt, &x);
            let chain = CpConv2d::square(&fit, kernel, None, geometry).unwrap();
            assert_eq!(chain.links().len(), 3);
            check_chain(&chain, &rebuilt, &x);
            let chain = CpConv2d::square(&flat, kernel, bias.clone(), geometry).unwrap();
            check_chain(&chain, flat_rebuilt.as_ref().unwrap(), &x);
        }
    }
}

#[test]
fn the_links_are_convolutions() {
    // A grouped convolution by its definition: each channel has its own kernel.
    let depthwise = |x: &Array4<f64>, link: &Array4<f64>, geometry| {
        let channels: Vec<Array4<f64>> = (0..link.shape()[0])
            .map(|r| {
                let (x, link) = (
                    x.slice(s![.., r..=r, .., ..]),
                    link.slice(s![r..=r, .., .., ..]),
                );
                conv2d(x, link, None, geometry).unwrap()
            })
            .collect();
        let views: Vec<_> = channels.iter().map(|channel| channel.view()).collect();
        ndarray::concatenate(ndarray::Axis(1), &views).unwrap()
    };
    let x = random([1, 3, 8, 9], 1);
    let fit = CpAls::new(Rank::Fixed(4))
        .precision(Precision::F64)
        .factorize(random([5, 3, 3, 3], 2).view())
        .unwrap();
    for geometry in geometries() {
        let chain = CpConv2d::new(&fit, None, geometry).unwrap();
        let links = chain.links();
        let [down, across] = geometry.separate();
        let plain = Geometry::default();
        let mut y = conv2d(x.view(), links[0].view(), None, plain).unwrap();
        y = depthwise(&y, &links[1], down);
        y = depthwise(&y, &links[2], across);
        y = conv2d(y.view(), links[3].view(), None, plain).unwrap();
        let bound = rounding(&links, largest(&x));
        close(&chain.apply(x.view()).unwrap(), &y, bound);
    }
}

#[test]
fn wrong_shapes_are_errors() {
    let fit = CpAls::new(Rank::Fixed(2))
        .factorize(random([4, 3, 9, 1], 2).slice(s![.., .., .., 0]))
        .unwrap();
    let plain = Geometry::default();
    assert!(matches!(
        CpConv2d::new(&fit, None, plain),
        Err(Error::Dimensions { .. })
    ));
    assert!(CpConv2d::square(&fit, [3, 2], None, plain).is_err());
    let bias = Some(Array1::zeros(3));
    assert!(CpConv2d::square(&fit, [3, 3], bias, plain).is_err());
    let chain = CpConv2d::square(&fit, [3, 3], None, plain).unwrap();
    assert!(chain.apply(random([1, 2, 5, 5], 1).view()).is_err());
    assert!(chain.apply(random([1, 3, 2, 5], 1).view()).is_err());
    let mut links = chain.links();
    links[1][[0, 0, 0, 0]] = f64::NAN;
    assert!(CpConv2d::from_parts(&links, None, plain, Precision::F32).is_err());
    assert!(CpConv2d::from_parts(&links[..2], None, plain, Precision::F32).is_err());
    links.reverse();
    assert!(CpConv2d::from_parts(&links, None, plain, Precision::F32).is_err());
}
