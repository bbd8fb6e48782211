mod optimized;
mod scale;

use ndarray::{Array2, ArrayView2, Axis, s};
use proptest::prelude::*;

use super::*;
use crate::kernels::Level;
use crate::{Compressed, Error, Float, LinearOp, Precision, Quantizer, Result, Seed};

/// Numbers that look random, the same ones every time.
pub(super) fn numbers(rows: usize, columns: usize, seed: u64) -> Array2<f64> {
    Array2::from_shape_fn((rows, columns), |(i, j)| {
        let bits = Seed::from(seed).derive((i * columns + j) as u64).value();
        (bits >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    })
}

pub(super) fn squared_error(a: ArrayView2<'_, f64>, b: ArrayView2<'_, f64>) -> f64 {
    a.iter().zip(&b).map(|(a, b)| (a - b) * (a - b)).sum()
}

pub(super) fn dense(matrix: &PqMatrix<f64>) -> Array2<f64> {
    matrix.decompress().unwrap().into_dimensionality().unwrap()
}

/// |y − x Wᵀ| may be ε·(n + 3)·|x| |W|ᵀ: n roundings of a sum in any order, and those of its products.
fn assert_is_product(y: &Array2<f64>, x: &Array2<f64>, w: &Array2<f64>, context: &str) {
    let exact = x.dot(&w.t());
    let magnitude = x.mapv(f64::abs).dot(&w.mapv(f64::abs).t());
    let bound = 2.0 * f64::EPSILON * (w.ncols() + 3) as f64;
    for ((y, exact), magnitude) in y.iter().zip(&exact).zip(&magnitude) {
        assert!(
            (y - exact).abs() <= bound * magnitude,
            "{context}: {y} for {exact}"
        );
    }
}

#[test]
fn every_method_is_the_product_with_the_decompressed_matrix() {
    // Widths up to a vector and beyond it; codes of no bits, of less than a byte, of a byte and of more.
    for axis in [SplitAxis::In, SplitAxis::Out] {
        for (groups, width) in [(5, 1), (3, 4), (4, 7), (2, 8), (3, 13), (1, 21)] {
            for (points, k) in [(37, 1), (37, 3), (70, 50), (150, 129), (300, 260)] {
                let vectors = numbers(points, groups * width, k as u64);
                let w = match axis {
                    SplitAxis::In => vectors,
                    SplitAxis::Out => vectors.reversed_axes(),
                };
                let quantizer = ProductQuantizer::new(groups)
                    .codebook(Codebook::PerGroup)
                    .centroids(k)
                    .axis(axis);
                let matrix = quantizer.max_iterations(1).quantize(w.view()).unwrap();
                let rebuilt = dense(&matrix);
                for batch in [0, 1, 2, 8, 9, 40] {
                    let x = numbers(batch, w.ncols(), 3);
                    for method in [ProductMethod::LookUp, ProductMethod::Decompress] {
                        for level in Level::available() {
                            let mut y = Array2::from_elem((batch, w.nrows()), f64::NAN);
                            matrix.product(x.view(), y.view_mut(), level, method);
                            let context = format!(
                                "{axis:?} {groups}x{width} k={k} {batch} {method:?} {level:?}"
                            );
                            assert_is_product(&y, &x, &rebuilt, &context);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn long_batches_and_strided_views_multiply_too() {
    for axis in [SplitAxis::In, SplitAxis::Out] {
        let w = numbers(24, 36, 1);
        let matrix = ProductQuantizer::new(6)
            .codebook(Codebook::PerGroup)
            .centroids(7)
            .axis(axis)
            .quantize(w.view())
            .unwrap();
        let x = numbers(36, 600, 2);
        let x = x.slice(s![..;-1, ..;2]).reversed_axes();
        let mut y = Array2::zeros((24, 300));
        matrix.apply_into(x, y.view_mut().reversed_axes()).unwrap();
        assert_is_product(
            &y.reversed_axes(),
            &x.to_owned(),
            &dense(&matrix),
            "strided",
        );
    }
}

#[test]
fn the_other_axis_is_the_transposed_problem() {
    let w = numbers(30, 42, 5);
    for codebook in [Codebook::PerGroup, Codebook::Shared] {
        let quantizer = ProductQuantizer::new(6)
            .axis(SplitAxis::Out)
            .centroids(5)
            .codebook(codebook)
            .seed(3);
        let outputs = quantizer
            .clone()
            .axis(SplitAxis::Out)
            .quantize(w.view())
            .unwrap();
        let inputs = quantizer.axis(SplitAxis::In).quantize(w.t()).unwrap();
        assert_eq!(outputs.codes(), inputs.codes());
        assert_eq!(outputs.codebooks().values(), inputs.codebooks().values());
        assert_eq!(dense(&outputs), dense(&inputs).reversed_axes());
        assert_eq!(outputs.storage(), inputs.storage());
    }
}

#[test]
fn as_many_centroids_as_distinct_sub_vectors_lose_nothing() {
    // Four patterns in each group, the groups' patterns different.
    let w = Array2::from_shape_fn((40, 12), |(i, j)| ((i % 4) * 31 + j * 7) as f64 / 4.0);
    for (codebook, k) in [
        (Codebook::PerGroup, 4),
        (Codebook::PerGroup, 9),
        (Codebook::Shared, 12),
    ] {
        let quantizer = ProductQuantizer::new(3)
            .centroids(k)
            .axis(SplitAxis::In)
            .codebook(codebook);
        let matrix = quantizer.quantize(w.view()).unwrap();
        assert_eq!(dense(&matrix), w, "{codebook:?} {k}");
        assert_eq!(matrix.report().and_then(crate::FitReport::loss), Some(0.0));
    }
}

#[test]
fn the_report_tells_the_error_of_a_weight() {
    let w = numbers(32, 60, 11);
    for codebook in [Codebook::PerGroup, Codebook::Shared] {
        let matrix = ProductQuantizer::new(8)
            .axis(SplitAxis::Out)
            .centroids(6)
            .codebook(codebook)
            .quantize(w.view())
            .unwrap();
        let error = squared_error(w.view(), dense(&matrix).view()) / w.len() as f64;
        let report = matrix.report().unwrap();
        let loss = report.loss().unwrap();
        let bound = f64::EPSILON * w.len() as f64 * error;
        assert!((loss - error).abs() <= bound, "{loss} for {error}");
        assert!(
            report
                .losses
                .windows(2)
                .all(|pair| pair[1] <= pair[0] * (1.0 + 1e-12))
        );
    }
}

#[test]
fn more_iterations_of_the_same_start_never_raise_the_error() {
    let w = numbers(64, 64, 13);
    let errors: Vec<f64> = [1, 2, 4, 8, 16]
        .into_iter()
        .map(|iterations| {
            let quantizer = ProductQuantizer::new(8)
                .axis(SplitAxis::Out)
                .codebook(Codebook::PerGroup)
                .centroids(16)
                .max_iterations(iterations);
            squared_error(
                w.view(),
                dense(&quantizer.quantize(w.view()).unwrap()).view(),
            )
        })
        .collect();
    let bound = 1.0 + f64::EPSILON * w.len() as f64;
    assert!(
        errors.windows(2).all(|pair| pair[1] <= pair[0] * bound),
        "{errors:?}"
    );
}

#[test]
fn centroids_added_to_a_codebook_never_raise_the_error() {
    let w = numbers(64, 64, 17);
    let trained = ProductQuantizer::new(8)
        .axis(SplitAxis::Out)
        .codebook(Codebook::PerGroup)
        .centroids(32)
        .train(w.view())
        .unwrap();
    let mut last = f64::INFINITY;
    for k in 1..=32 {
        let part = trained.values();
        let nested = ProductCodebooks::from_parts(
            8,
            SplitAxis::Out,
            Precision::F64,
            part.slice(s![.., ..k, ..]),
        )
        .unwrap();
        let error = squared_error(w.view(), dense(&nested.encode(w.view()).unwrap()).view());
        // Ties between centroids at the same distance may fall by a rounding.
        assert!(
            error <= last * (1.0 + f64::EPSILON * w.len() as f64),
            "{k}: {error} after {last}"
        );
        last = error;
    }
}

#[test]
fn encoding_the_decompressed_matrix_gives_the_same_matrix() {
    let w = numbers(40, 48, 19);
    for precision in [Precision::F16, Precision::F32, Precision::F64] {
        let matrix = ProductQuantizer::new(10)
            .axis(SplitAxis::Out)
            .codebook(Codebook::PerGroup)
            .centroids(13)
            .precision(precision)
            .quantize(w.view())
            .unwrap();
        let again = matrix.encode(dense(&matrix).view()).unwrap();
        assert_eq!(dense(&again), dense(&matrix));
        let codes = matrix.codes();
        assert_eq!(
            matrix.codebooks().decode(codes.view()).unwrap(),
            dense(&matrix)
        );
    }
}

#[test]
fn half_precision_halves_the_codebooks_and_loses_no_more_than_its_rounding() {
    let w = numbers(64, 64, 23).mapv(|x| x as f32);
    let quantizer = ProductQuantizer::new(16)
        .axis(SplitAxis::Out)
        .codebook(Codebook::PerGroup)
        .centroids(20);
    let single = quantizer.clone().quantize(w.view()).unwrap();
    let half = quantizer
        .precision(Precision::F16)
        .quantize(w.view())
        .unwrap();
    assert_eq!(
        2 * half.storage().side_information(),
        single.storage().side_information()
    );
    assert_eq!(half.storage().payload(), single.storage().payload());
    let norm = |matrix: &PqMatrix<f32>| {
        let difference = matrix.decompress().unwrap() - &w;
        f64::from(difference.mapv(|x| x * x).sum()).sqrt()
    };
    // Codes are chosen anew for the rounded centroids, so that keeping the old ones is an upper bound: each
    // weight moves by 2⁻¹¹ of its centroid's magnitude, below 1 here.
    let bound = norm(&single) + 2.0_f64.powi(-11) * (w.len() as f64).sqrt();
    assert!(norm(&half) <= bound);
    let large = w.mapv(|x| x * 1e6);
    let quantizer = ProductQuantizer::new(16)
        .axis(SplitAxis::Out)
        .codebook(Codebook::PerGroup)
        .precision(Precision::F16);
    assert!(matches!(
        quantizer.quantize(large.view()),
        Err(Error::Overflow { .. })
    ));
}

#[test]
fn sizes_are_those_of_the_published_formula() {
    let w = numbers(512, 512, 29).mapv(|x| x as f32);
    let quantizer = ProductQuantizer::new(64)
        .axis(SplitAxis::Out)
        .codebook(Codebook::PerGroup)
        .centroids(50)
        .max_iterations(1);
    let own = quantizer.clone().quantize(w.view()).unwrap();
    let bits = 32.0 * 50.0 * 512.0 + 50.0_f64.log2() * 512.0 * 64.0;
    let expected = 32.0 * 512.0 * 512.0 / bits;
    assert!((own.formula_ratio() - expected).abs() <= 1e-12 * expected);
    assert_eq!(own.storage().payload(), 6 * 512 * 64);
    assert_eq!(own.storage().side_information(), 32 * 50 * 512);
    let shared = quantizer
        .codebook(Codebook::Shared)
        .quantize(w.view())
        .unwrap();
    assert_eq!(
        64 * shared.storage().side_information(),
        own.storage().side_information()
    );
    assert_eq!(shared.codebooks().kind(), Codebook::Shared);
    assert_eq!(own.codebooks().kind(), Codebook::PerGroup);
}

#[test]
fn a_single_group_has_its_own_codebook_either_way() {
    let w = numbers(8, 50, 31);
    let quantizer = ProductQuantizer::new(1)
        .axis(SplitAxis::Out)
        .codebook(Codebook::PerGroup)
        .centroids(4);
    let shared = quantizer
        .clone()
        .codebook(Codebook::Shared)
        .quantize(w.view())
        .unwrap();
    assert_eq!(quantizer.quantize(w.view()).unwrap(), shared);
}

#[test]
fn a_width_of_four_of_24_is_six_groups() {
    let w = numbers(24, 10, 37);
    let by_width = ProductQuantizer::with_width(4)
        .axis(SplitAxis::Out)
        .codebook(Codebook::PerGroup)
        .centroids(3)
        .quantize(w.view());
    assert_eq!(
        by_width,
        ProductQuantizer::new(6)
            .axis(SplitAxis::Out)
            .codebook(Codebook::PerGroup)
            .centroids(3)
            .quantize(w.view())
    );
}

#[test]
fn wrong_parameters_are_refused() {
    let w = numbers(24, 10, 41);
    let zero = |quantizer: ProductQuantizer| quantizer.quantize(w.view()).unwrap_err();
    assert!(matches!(
        zero(
            ProductQuantizer::new(0)
                .axis(SplitAxis::Out)
                .codebook(Codebook::PerGroup)
        ),
        Error::Parameter(_)
    ));
    assert!(matches!(
        zero(
            ProductQuantizer::with_width(0)
                .axis(SplitAxis::Out)
                .codebook(Codebook::PerGroup)
        ),
        Error::Parameter(_)
    ));
    assert!(matches!(
        zero(
            ProductQuantizer::new(4)
                .axis(SplitAxis::Out)
                .codebook(Codebook::PerGroup)
                .centroids(0)
        ),
        Error::Parameter(_)
    ));
    assert!(matches!(
        zero(
            ProductQuantizer::new(4)
                .axis(SplitAxis::Out)
                .codebook(Codebook::PerGroup)
                .max_iterations(0)
        ),
        Error::Parameter(_)
    ));
    let uneven = zero(
        ProductQuantizer::new(5)
            .axis(SplitAxis::Out)
            .codebook(Codebook::PerGroup),
    );
    assert!(matches!(&uneven, Error::Indivisible { nearest, .. } if nearest == &[4, 6]));
    let uneven = zero(
        ProductQuantizer::new(3)
            .codebook(Codebook::PerGroup)
            .axis(SplitAxis::In),
    );
    assert!(matches!(&uneven, Error::Indivisible { nearest, .. } if nearest == &[2, 5]));
    let mut bad = w.clone();
    bad[[1, 2]] = f64::NAN;
    let found = ProductQuantizer::new(4)
        .axis(SplitAxis::Out)
        .codebook(Codebook::PerGroup)
        .quantize(bad.view());
    assert!(matches!(found, Err(Error::NonFinite { .. })));
    let found = ProductQuantizer::new(4)
        .axis(SplitAxis::Out)
        .codebook(Codebook::PerGroup)
        .quantize(Array2::<f64>::zeros((4, 0)).view());
    assert!(matches!(found, Err(Error::EmptyAxis { .. })));
}

#[test]
fn forged_parts_are_refused() {
    let w = numbers(24, 10, 43);
    let matrix = ProductQuantizer::new(6)
        .axis(SplitAxis::Out)
        .codebook(Codebook::PerGroup)
        .centroids(5)
        .quantize(w.view())
        .unwrap();
    let books = matrix.codebooks().values();
    let rebuild = |shape, books, codes: &[u8]| {
        PqMatrix::from_parts(shape, SplitAxis::Out, Precision::F64, books, codes.to_vec())
    };
    let codes = matrix.codes.bytes();
    assert_eq!(
        dense(&rebuild([24, 10], books, codes).unwrap()),
        dense(&matrix)
    );
    assert!(rebuild([24, 10], books, &codes[1..]).is_err());
    // Five centroids: a code of three bits may be a seven.
    assert!(rebuild([24, 10], books, &vec![0xff; codes.len()]).is_err());
    assert!(rebuild([24, 0], books, codes).is_err());
    assert!(rebuild([25, 10], books, codes).is_err());
    assert!(rebuild([24, usize::MAX], books, codes).is_err());
    assert!(rebuild([24, 10], books.slice(s![..2, .., ..]), codes).is_err());
    assert!(rebuild([24, 10], books.slice(s![.., ..0, ..]), codes).is_err());
    let mut bad = books.to_owned();
    bad[[0, 1, 1]] = f64::INFINITY;
    assert!(rebuild([24, 10], bad.view(), codes).is_err());
}

#[test]
fn wrong_shapes_and_codes_are_refused() {
    let w = numbers(24, 10, 47);
    let matrix = ProductQuantizer::new(6)
        .axis(SplitAxis::Out)
        .codebook(Codebook::PerGroup)
        .centroids(5)
        .quantize(w.view())
        .unwrap();
    let shape = |result: Result<_>| matches!(result, Err(Error::ShapeMismatch { .. }));
    assert!(shape(matrix.apply(w.t()).map(drop)));
    assert!(shape(matrix.encode(w.t()).map(drop)));
    assert!(shape(matrix.codebooks().encode(w.t()).map(drop)));
    let mut out = ndarray::ArrayD::zeros(vec![10, 24]);
    assert!(shape(matrix.decompress_into(out.view_mut())));
    let codes = Array2::from_elem((6, 2), 5);
    let found = matrix.codebooks().decode(codes.view());
    assert!(matches!(
        found,
        Err(Error::ExceedsInput {
            value: 5,
            limit: 4,
            ..
        })
    ));
    // The axis that is not split may have any length.
    assert!(matrix.codebooks().encode(w.slice(s![.., ..3])).is_ok());
}

/// A matrix of random codes; training one of this size would take its time.
fn random_matrix<F: Float>(
    shape: [usize; 2],
    axis: SplitAxis,
    width: usize,
    k: usize,
) -> PqMatrix<F> {
    let (points, length) = axis.points_and_length(shape);
    let groups = length / width;
    let books = numbers(groups * k, width, 71).mapv(F::from_f64_lossy);
    let books = books.into_shape_with_order((groups, k, width)).unwrap();
    let codebooks =
        ProductCodebooks::from_parts(groups, axis, Precision::F32, books.view()).unwrap();
    let codes =
        (0..groups * points).map(|i| (Seed::from(73).derive(i as u64).value() % k as u64) as u32);
    PqMatrix::from_codes(codebooks, shape, &codes.collect::<Vec<_>>()).unwrap()
}

#[test]
fn decompressing_is_decoding_the_codes() {
    fn hold<F: Float>() {
        // Several pieces, tiles that are not full, codes of half a byte, of a byte and of more.
        for (shape, width, k) in [
            ([300, 120], 4, 16),
            ([517, 96], 8, 256),
            ([70, 66], 22, 21),
            ([280, 40], 1, 300),
            // Rows enough to copy whole centroids.
            ([1100, 264], 8, 256),
            ([130, 36], 4, 30),
            ([90, 160], 16, 9),
        ] {
            for axis in [SplitAxis::In, SplitAxis::Out] {
                let [points, length] = shape;
                let shape = if axis == SplitAxis::In {
                    shape
                } else {
                    [length, points]
                };
                let matrix = random_matrix::<F>(shape, axis, width, k);
                let decoded = matrix.codebooks().decode(matrix.codes().view()).unwrap();
                assert_eq!(
                    matrix.decompress().unwrap(),
                    decoded.clone().into_dyn(),
                    "{shape:?} {axis:?}"
                );
                let mut columns = Array2::from_elem((shape[1], shape[0]), F::zero());
                matrix
                    .decompress_into(columns.view_mut().reversed_axes().into_dyn())
                    .unwrap();
                assert_eq!(columns.reversed_axes(), decoded);
            }
        }
    }
    hold::<f32>();
    hold::<f64>();
}

#[test]
fn products_that_threads_divide_are_right_too() {
    for axis in [SplitAxis::In, SplitAxis::Out] {
        let matrix = random_matrix::<f64>([512, 512], axis, 2, 50);
        let rebuilt = dense(&matrix);
        for batch in [1, 4, 20] {
            let x = numbers(batch, 512, 79);
            for method in [ProductMethod::LookUp, ProductMethod::Decompress] {
                let mut y = Array2::zeros((batch, 512));
                matrix.apply_by(method, x.view(), y.view_mut()).unwrap();
                assert_is_product(&y, &x, &rebuilt, &format!("{axis:?} {batch} {method:?}"));
            }
        }
    }
}

#[test]
fn long_sub_vectors_are_looked_up_and_short_ones_of_large_batches_decompressed() {
    for axis in [SplitAxis::In, SplitAxis::Out] {
        let long = random_matrix::<f32>([64, 64], axis, 8, 16);
        assert!(
            [1, 16, 1000]
                .iter()
                .all(|&batch| long.method(batch) == ProductMethod::LookUp)
        );
        let short = random_matrix::<f32>([64, 64], axis, 1, 16);
        assert_eq!(short.method(1), ProductMethod::LookUp);
        assert_eq!(short.method(1000), ProductMethod::Decompress);
    }
}

#[cfg(feature = "rayon")]
#[test]
fn any_number_of_threads_gives_the_same() {
    let w = numbers(128, 256, 53);
    let x = numbers(70, 256, 59);
    let with = |threads: usize, axis: SplitAxis| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            let matrix = ProductQuantizer::new(32)
                .codebook(Codebook::PerGroup)
                .centroids(20)
                .axis(axis)
                .quantize(w.view())
                .unwrap();
            let rows = [1, 5, 70].map(|batch| matrix.apply(x.slice(s![..batch, ..])).unwrap());
            // Enough codes that the work is shared out.
            let large = random_matrix::<f32>([512, 512], axis, 2, 16);
            let x = x.mapv(|x| x as f32);
            let x = ndarray::concatenate![Axis(1), x, x];
            let large = [1, 5, 20, 70].map(|batch| {
                [ProductMethod::LookUp, ProductMethod::Decompress].map(|method| {
                    let mut y = Array2::zeros((batch, 512));
                    large
                        .apply_by(method, x.slice(s![..batch, ..]), y.view_mut())
                        .unwrap();
                    y
                })
            });
            (dense(&matrix), matrix, rows, large)
        })
    };
    for axis in [SplitAxis::In, SplitAxis::Out] {
        let alone = with(1, axis);
        for threads in [2, 3, 7] {
            assert!(with(threads, axis) == alone);
        }
    }
}

proptest! {
    #[test]
    fn a_row_alone_is_a_row_of_the_batch(rows in 1_usize..20, groups in 1_usize..6, width in 1_usize..6, k in 1_usize..20, out in any::<bool>()) {
        let axis = if out { SplitAxis::Out } else { SplitAxis::In };
        let w = axis.vectors(numbers(25, groups * width, k as u64).view()).to_owned();
        let matrix = ProductQuantizer::new(groups).codebook(Codebook::PerGroup).centroids(k).axis(axis).quantize(w.view()).unwrap();
        let x = numbers(rows, w.ncols(), 61);
        let y = matrix.apply(x.view()).unwrap();
        let rebuilt = dense(&matrix);
        for (x, y) in x.axis_chunks_iter(Axis(0), 1).zip(y.axis_chunks_iter(Axis(0), 1)) {
            assert_is_product(&y.to_owned(), &x.to_owned(), &rebuilt, "batch");
            assert_is_product(&matrix.apply(x).unwrap(), &x.to_owned(), &rebuilt, "alone");
        }
    }
}
