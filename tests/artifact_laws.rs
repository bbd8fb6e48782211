//! The laws that every artifact keeps, whatever made it.
//!
//! [`Laws`] checks one artifact against the weights it stands for; a family of compressors joins by a test
//! below that makes its artifacts and says how they are rebuilt from their parts.

use proptest::prelude::*;
use taper::ndarray::{Array1, Array2, Array3, ArrayD, ArrayView2, Ix2};
use taper::quantize::product::{
    Codebook, OptimizedPqMatrix, OptimizedProductQuantizer, PqMatrix, ProductQuantizer,
    ResidualPqMatrix, ResidualQuantizer, RotationStart, SplitAxis,
};
use taper::{Compressed, DType, LinearOp, Part, Precision, Quantizer, Result};

/// The values of a part, as stored.
fn values(part: &Part<'_>) -> Vec<f64> {
    fn read<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        let (chunks, rest) = bytes.as_chunks();
        assert!(rest.is_empty(), "a part ends within an element");
        chunks.iter().map(|&chunk| value(chunk)).collect()
    }
    match part.dtype {
        DType::U8 => read(&part.bytes, |b: [u8; 1]| b[0].into()),
        DType::U16 => read(&part.bytes, |b| u16::from_le_bytes(b).into()),
        DType::U32 => read(&part.bytes, |b| u32::from_le_bytes(b).into()),
        DType::I32 => read(&part.bytes, |b| i32::from_le_bytes(b).into()),
        DType::F16 => read(&part.bytes, |b| half::f16::from_le_bytes(b).into()),
        DType::F32 => read(&part.bytes, |b| f32::from_le_bytes(b).into()),
        DType::F64 => read(&part.bytes, f64::from_le_bytes),
        other => panic!("no reader for {other:?}"),
    }
}

/// Numbers in [−1, 1), the same for the same seed.
fn numbers(rows: usize, columns: usize, seed: u64) -> Array2<f64> {
    let seed = taper::Seed::from(seed);
    Array2::from_shape_fn((rows, columns), |(i, j)| {
        let bits = seed.derive((i * columns + j) as u64).value();
        (bits >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    })
}

fn squared_error(a: &ArrayD<f64>, b: ArrayView2<'_, f64>) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

/// What there is to know of a family of artifacts in order to check one of them.
struct Laws<'a, A> {
    /// From weights to an artifact.
    compress: &'a dyn Fn(ArrayView2<'_, f64>) -> Result<A>,
    /// From an artifact's parts to an equal one.
    rebuild: &'a dyn Fn(&A, &[Part<'_>]) -> Result<A>,
}

impl<A: LinearOp<f64>> Laws<'_, A> {
    fn hold_for(&self, weights: ArrayView2<'_, f64>) {
        let artifact = self.hold_for_one_fit(weights);
        self.again_is_no_worse(&artifact, weights);
    }

    fn hold_for_one_fit(&self, weights: ArrayView2<'_, f64>) -> A {
        let artifact = (self.compress)(weights).unwrap();
        assert_eq!(artifact.shape(), weights.shape());
        self.sizes_are_bytes(&artifact);
        self.parts_rebuild(&artifact);
        self.apply_is_the_product(&artifact);
        // The same weights in another order in memory are the same weights.
        let reordered = weights.t().to_owned().reversed_axes();
        let other = (self.compress)(reordered.view()).unwrap();
        assert_eq!(other.parts(), artifact.parts());
        artifact
    }

    fn sizes_are_bytes(&self, artifact: &A) {
        let parts = artifact.parts();
        let bytes: usize = parts.iter().map(|part| part.bytes.len()).sum();
        let storage = artifact.storage();
        assert_eq!(storage.bytes(), bytes as u64);
        assert_eq!(
            storage.payload() + storage.side_information(),
            storage.total()
        );
        for (part, (name, role, bits)) in parts.iter().zip(storage.parts()) {
            assert_eq!((part.name, part.role), (name, role));
            assert_eq!(part.bytes.len() as u64, bits.div_ceil(8), "{name}");
            let elements: usize = part.shape.iter().product();
            assert_eq!(part.bytes.len(), elements * part.dtype.bytes(), "{name}");
        }
        assert_eq!(parts.len(), storage.parts().count());
    }

    fn parts_rebuild(&self, artifact: &A) {
        let parts = artifact.parts();
        let again = (self.rebuild)(artifact, &parts).unwrap();
        assert_eq!(again.parts(), parts);
        assert_eq!(again.shape(), artifact.shape());
        assert_eq!(again.decompress(), artifact.decompress());
    }

    /// A sum of n products in any order is off by at most ε·(n + 3) times the sum of their magnitudes; twice that
    /// for artifacts that multiply by a matrix of their own first.
    fn apply_is_the_product(&self, artifact: &A) {
        let w = artifact.decompress().unwrap();
        let w = w.into_dimensionality::<Ix2>().unwrap();
        for batch in [0, 1, 3, 17] {
            let x = numbers(batch, w.ncols(), 5);
            let y = artifact.apply(x.view()).unwrap();
            let exact = x.dot(&w.t());
            // The sum of magnitudes may be larger inside an artifact than in W itself (factors that cancel):
            // by Cauchy and Schwarz, norms bound it.
            let norms = |a: &Array2<f64>| -> Array1<f64> {
                a.outer_iter().map(|row| row.dot(&row).sqrt()).collect()
            };
            let (x_norms, w_norm) = (norms(&x), w.iter().map(|w| w * w).sum::<f64>().sqrt());
            let bound = 4.0 * f64::EPSILON * (w.nrows() + w.ncols() + 3) as f64 * w_norm;
            for (((i, _), y), exact) in y.indexed_iter().zip(&exact) {
                let bound = bound * x_norms[i];
                assert!((y - exact).abs() <= bound, "{y} for {exact}, bound {bound}");
            }
        }
    }

    fn again_is_no_worse(&self, artifact: &A, weights: ArrayView2<'_, f64>) {
        let once = artifact.decompress().unwrap();
        let view = once.view().into_dimensionality::<Ix2>().unwrap();
        let twice = (self.compress)(view).unwrap().decompress().unwrap();
        let (first, second) = (
            squared_error(&once, weights),
            squared_error(&twice, weights),
        );
        let scale: f64 = weights.iter().map(|w| w * w).sum();
        // Centroids of equal vectors may be off by a rounding of their mean.
        let bound = (first.sqrt() + f64::EPSILON * weights.len() as f64 * scale.sqrt()).powi(2);
        assert!(second <= bound, "{second} after {first}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn product_quantized_matrices_keep_the_laws(
        groups in 1_usize..5,
        width in 1_usize..6,
        points in 1_usize..40,
        centroids in 1_usize..24,
        split_inputs in any::<bool>(),
        shared in any::<bool>(),
        precision in prop_oneof![Just(Precision::F16), Just(Precision::F32), Just(Precision::F64)],
        seed in any::<u64>(),
    ) {
        let codebook = if shared { Codebook::Shared } else { Codebook::PerGroup };
        let (axis, w) = if split_inputs {
            (SplitAxis::In, numbers(points, groups * width, seed))
        } else {
            (SplitAxis::Out, numbers(groups * width, points, seed))
        };
        let quantizer = ProductQuantizer::params(groups)
            .centroids(centroids)
            .axis(axis)
            .codebook(codebook)
            .precision(precision)
            .seed(seed);
        let laws = Laws {
            compress: &|w| quantizer.quantize(w),
            rebuild: &|matrix: &PqMatrix<f64>, parts| {
                let [codes, books] = parts else { panic!("codes and codebooks") };
                let shape = (books.shape[0], books.shape[1], books.shape[2]);
                let books = Array3::from_shape_vec(shape, values(books)).unwrap();
                let shape = [matrix.shape()[0], matrix.shape()[1]];
                PqMatrix::from_parts(shape, axis, precision, books.view(), codes.bytes.to_vec())
            },
        };
        laws.hold_for(w.view());
    }

    #[test]
    fn sums_of_product_quantized_matrices_keep_the_laws(
        stages in 1_usize..4,
        points in 1_usize..30,
        centroids in 1_usize..9,
        seed in any::<u64>(),
    ) {
        let w = numbers(6, points, seed);
        let stage = ProductQuantizer::params(2).centroids(centroids).seed(seed);
        let quantizer = ResidualQuantizer::params(stage, stages);
        let artifact = quantizer.quantize(w.view()).unwrap();
        let losses = &artifact.report().unwrap().losses;
        prop_assert_eq!(losses.len(), stages + 1);
        let laws = Laws {
            compress: &|w| quantizer.quantize(w),
            rebuild: &|matrix: &ResidualPqMatrix<f64>, parts| {
                let stages = matrix.stages().iter().zip(parts.chunks(2));
                let stages = stages.map(|(stage, parts)| {
                    let [codes, books] = parts else { panic!("codes and codebooks") };
                    let shape = (books.shape[0], books.shape[1], books.shape[2]);
                    let books = Array3::from_shape_vec(shape, values(books)).unwrap();
                    let precision = stage.codebooks().precision();
                    let codes = codes.bytes.to_vec();
                    PqMatrix::from_parts([6, points], SplitAxis::Out, precision, books.view(), codes)
                });
                ResidualPqMatrix::from_parts(stages.collect::<Result<_>>()?)
            },
        };
        // Fitting again what was fitted may find other, better or worse, stages: no law says which.
        laws.hold_for_one_fit(w.view());
    }

    #[test]
    fn rotated_product_quantized_matrices_keep_the_laws(
        groups in 1_usize..5,
        blocks in 1_usize..3,
        points in 1_usize..30,
        centroids in 1_usize..9,
        split_inputs in any::<bool>(),
        eigenvalues in any::<bool>(),
        precision in prop_oneof![Just(Precision::F16), Just(Precision::F32), Just(Precision::F64)],
        seed in any::<u64>(),
    ) {
        let length = blocks * groups * 3;
        let (axis, w) = if split_inputs {
            (SplitAxis::In, numbers(points, length, seed))
        } else {
            (SplitAxis::Out, numbers(length, points, seed))
        };
        let plain = ProductQuantizer::params_with_width(3).centroids(centroids).axis(axis).seed(seed);
        let start = if eigenvalues { RotationStart::Eigenvalues } else { RotationStart::Identity };
        let quantizer = OptimizedProductQuantizer::params(plain)
            .block(groups * 3)
            .start(start)
            .iterations(3)
            .rotation_precision(precision);
        let artifact = quantizer.quantize(w.view()).unwrap();
        let losses = &artifact.report().unwrap().losses;
        prop_assert!(losses.windows(2).all(|pair| pair[1] <= pair[0]), "{losses:?}");
        let laws = Laws {
            compress: &|w| quantizer.quantize(w),
            rebuild: &|matrix: &OptimizedPqMatrix<f64>, parts| {
                let [codes, books, rotation] = parts else { panic!("codes, codebooks, rotation") };
                let three = |part: &Part<'_>| {
                    let shape = (part.shape[0], part.shape[1], part.shape[2]);
                    Array3::from_shape_vec(shape, values(part)).unwrap()
                };
                let shape = [matrix.shape()[0], matrix.shape()[1]];
                let (books, codes) = (three(books), codes.bytes.to_vec());
                let codes = PqMatrix::from_parts(shape, axis, Precision::F32, books.view(), codes)?;
                OptimizedPqMatrix::from_parts(codes, precision, three(rotation).view())
            },
        };
        // Fitting again what was fitted may end at another, better or worse, rotation: no law says which.
        laws.hold_for_one_fit(w.view());
    }
}
