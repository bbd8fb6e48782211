use ndarray::{Array2, Array3, ArrayView2, s};

use super::{dense, numbers, squared_error};
use crate::quantize::product::*;
use crate::{Compressed, Error, Precision, Quantizer};

/// Vectors whose values all mix a few hidden ones, which no cut into groups separates.
fn correlated(points: usize, length: usize) -> Array2<f64> {
    let hidden = numbers(points, length, 83);
    let scaled = Array2::from_shape_fn((points, length), |(i, j)| {
        hidden[[i, j]] * 0.6_f64.powi(j as i32)
    });
    scaled.dot(&numbers(length, length, 89))
}

#[test]
fn a_learned_rotation_beats_none_on_correlated_vectors() {
    let vectors = correlated(600, 16);
    for axis in [SplitAxis::In, SplitAxis::Out] {
        let w = axis.vectors(vectors.view()).to_owned();
        let plain = ProductQuantizer::new(4)
            .codebook(Codebook::PerGroup)
            .centroids(16)
            .axis(axis)
            .seed(3);
        let error = |rebuilt: ArrayView2<'_, f64>| squared_error(rebuilt, w.view());
        let without = error(dense(&plain.quantize(w.view()).unwrap()).view());
        for start in [false, true] {
            for (block, share) in [(16, 0.8), (8, 0.95)] {
                let quantizer = OptimizedProductQuantizer::new(plain.clone());
                let quantizer = quantizer.eigenvalue_start(start).block(block);
                let matrix = quantizer.quantize(w.view()).unwrap();
                let rebuilt = matrix.decompress().unwrap().into_dimensionality().unwrap();
                let with: f64 = error(rebuilt.view());
                assert!(
                    with < share * without,
                    "{axis:?} {start} {block}: {with} and {without}"
                );
                // The reported loss is the error of the matrix, up to the rounding of values to f32.
                let told = matrix.report().unwrap().loss().unwrap() * w.len() as f64;
                let rounding =
                    f64::from(f32::EPSILON) * 16.0 * w.iter().map(|w| w * w).sum::<f64>();
                assert!((with - told).abs() <= rounding, "{with} and {told}");
            }
        }
        let identity = OptimizedProductQuantizer::new(plain.clone()).iterations(0);
        let identity = identity.quantize(w.view()).unwrap();
        let plain = plain.quantize(w.view()).unwrap();
        assert_eq!(identity.matrix().parts(), plain.parts());
    }
}

#[test]
fn forged_rotations_and_wrong_blocks_are_refused() {
    let w = numbers(20, 12, 97);
    let plain = ProductQuantizer::new(4)
        .codebook(Codebook::PerGroup)
        .centroids(5)
        .axis(SplitAxis::In);
    let quantizer = OptimizedProductQuantizer::new(plain.clone());
    assert!(quantizer.clone().tolerance(1.0).validate().is_err());
    assert!(quantizer.clone().block(0).validate().is_err());
    for block in [5, 4] {
        let refused = quantizer.clone().block(block).quantize(w.view());
        assert!(matches!(refused, Err(Error::Indivisible { .. })), "{block}");
    }
    let matrix = quantizer.quantize(w.view()).unwrap();
    let rebuild = |rotation: &Array3<f64>| {
        OptimizedPqMatrix::from_parts(matrix.matrix().clone(), Precision::F32, rotation.view())
    };
    let rotation = matrix.rotation().to_owned();
    assert!(rebuild(&rotation).is_ok());
    let forged = |f: &dyn Fn(&mut Array3<f64>)| {
        let mut rotation = rotation.clone();
        f(&mut rotation);
        rebuild(&rotation)
    };
    let skewed = forged(&|r| r[[0, 0, 0]] += 1e-3);
    assert!(matches!(skewed, Err(Error::Malformed { .. })));
    let scaled = forged(&|r| *r *= 2.0);
    assert!(matches!(scaled, Err(Error::Malformed { .. })));
    let unknown = forged(&|r| r[[0, 3, 4]] = f64::NAN);
    assert!(matches!(unknown, Err(Error::NonFinite { .. })));
    let short = rebuild(&rotation.slice(s![.., ..11, ..11]).to_owned());
    assert!(short.is_err());
    let flat = rebuild(&rotation.slice(s![.., ..11, ..]).to_owned());
    assert!(matches!(flat, Err(Error::ShapeMismatch { .. })));
}
