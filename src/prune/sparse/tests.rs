//! Laws of sparse matrices.

use super::*;
use crate::{LinearOp, Seed};
use ndarray::{Array2, Axis, s};
use proptest::prelude::*;

fn matrix(rows: usize, columns: usize, keep: usize, seed: usize) -> Array2<f32> {
    Array2::from_shape_fn((rows, columns), |(i, j)| {
        let place = 2 * (i * columns + j) as u64;
        let uniform = |stream| Seed::from(seed as u64).uniform(stream);
        // `keep` of a hundred weights, on average.
        if uniform(place) < keep as f64 / 50.0 - 1.0 {
            uniform(place + 1) as f32
        } else {
            0.0
        }
    })
}

fn forms(sparse: &SparseMatrix<f32>) -> SparsePositions {
    let parts = sparse.parts();
    let bytes = |name: &str| {
        let part = parts.iter().find(|part| part.name == name);
        part.map(|part| part.bytes.to_vec())
    };
    match bytes("bitmap") {
        Some(bytes) => SparsePositions::Bitmap(bytes),
        None => SparsePositions::Gaps {
            bits: bytes(GAP_BITS).unwrap()[0].into(),
            bytes: bytes("gaps").unwrap(),
        },
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn sparse_matrices_decompress_and_multiply_as_the_dense_one(
        rows in 1_usize..40,
        columns in 1_usize..70,
        keep in prop::sample::select(vec![0, 1, 3, 10, 50, 100]),
        inputs in 0_usize..140,
        seed in 0_usize..1000,
    ) {
        let weights = matrix(rows, columns, keep, seed);
        let sparse = SparseMatrix::from_dense(weights.view(), Precision::F32).unwrap();
        prop_assert_eq!(sparse.decompress().unwrap(), weights.clone().into_dyn());

        let bytes: usize = sparse.parts().iter().map(|part| part.bytes.len()).sum();
        // A bitmap is the largest form.
        prop_assert!(bytes <= (rows * columns).div_ceil(8) + 4 * sparse.nonzeros());

        let again = SparseMatrix::from_positions(
            [rows, columns], Precision::F32, forms(&sparse), sparse.values.clone(),
        );
        prop_assert_eq!(again.as_ref(), Ok(&sparse));

        // Inputs and outputs of other strides.
        let wide = matrix(columns, 2 * inputs, 100, seed + 1);
        let x = wide.slice(s![.., ..;2]).reversed_axes();
        let mut turned = Array2::from_elem((rows, inputs), f32::NAN);
        sparse.apply_into(x, turned.view_mut().reversed_axes()).unwrap();
        for ((o, b), &sum) in turned.indexed_iter() {
            let row = weights.row(o);
            let products = row.iter().zip(x.row(b)).map(|(&w, &x)| f64::from(w) * f64::from(x));
            let (exact, magnitude) = products.fold((0.0, 0.0), |(s, m), p| (s + p, m + p.abs()));
            // n products and n additions round by half a unit in the last place each.
            let bound = columns as f64 * f64::from(f32::EPSILON) * magnitude;
            prop_assert!((f64::from(sum) - exact).abs() <= bound);
        }
    }
}

#[test]
fn the_smaller_form_is_taken() {
    let form = |keep| SparseMatrix::from_dense(matrix(64, 64, keep, 0).view(), Precision::F32);
    let is_bitmap = |count| matches!(forms(&form(count).unwrap()), SparsePositions::Bitmap(_));
    assert!(is_bitmap(50) && !is_bitmap(1));
    let nothing = form(0).unwrap();
    assert_eq!(nothing.storage().bytes(), 1);
    assert_eq!(nothing.density(), 0.0);
}

#[test]
fn half_precision_rounds_and_overflows() {
    let mut weights = matrix(5, 9, 50, 3);
    let sparse = SparseMatrix::from_dense(weights.view(), Precision::F16).unwrap();
    let size = sparse.storage();
    assert_eq!(size.payload(), 45 + 16 * sparse.nonzeros() as u64);
    for (&w, &rebuilt) in weights.iter().zip(&sparse.decompress().unwrap()) {
        assert!((w - rebuilt).abs() <= w.abs() / 2048.0);
    }
    let again = SparseMatrix::from_positions(
        [5, 9],
        Precision::F16,
        forms(&sparse),
        sparse.values.clone(),
    );
    assert_eq!(again, Ok(sparse));
    weights[[0, 0]] = 1e6;
    assert!(matches!(
        SparseMatrix::from_dense(weights.view(), Precision::F16),
        Err(Error::Overflow { .. })
    ));
}

#[test]
fn forged_parts_are_refused() {
    let bitmap = |byte: u8| SparsePositions::Bitmap(vec![byte]);
    let from = |shape, positions, values: &[f32]| {
        SparseMatrix::from_positions(shape, Precision::F16, positions, values.to_vec())
    };
    assert!(from([2, 3], bitmap(0b11), &[1.0, 2.0]).is_ok());
    for (shape, positions, values) in [
        ([2, 3], bitmap(0b11), &[1.0][..]),
        ([2, 3], bitmap(0b100_0001), &[1.0, 2.0]),
        ([4, 3], bitmap(0b11), &[1.0, 2.0]),
        ([usize::MAX, 3], bitmap(0b11), &[1.0, 2.0]),
        // Not a number that half precision holds.
        ([2, 3], bitmap(0b11), &[1.0, 0.1]),
        (
            [2, 3],
            SparsePositions::Gaps {
                bits: 4,
                bytes: vec![0x51],
            },
            &[1.0, 2.0],
        ),
        (
            [2, 3],
            SparsePositions::Gaps {
                bits: 4,
                bytes: vec![0x51, 0],
            },
            &[1.0, 2.0],
        ),
        (
            [2, 3],
            SparsePositions::Gaps {
                bits: 33,
                bytes: vec![],
            },
            &[],
        ),
    ] {
        let result = from(shape, positions, values);
        assert!(matches!(result, Err(Error::Malformed { .. })), "{result:?}");
    }
    let gaps = SparsePositions::Gaps {
        bits: 4,
        bytes: vec![0x31],
    };
    assert!(from([2, 3], gaps, &[1.0, 2.0]).is_ok());
    assert!(matches!(
        from([2, 3], bitmap(1), &[f32::NAN]),
        Err(Error::NonFinite { .. })
    ));
    assert!(matches!(
        from([0, 3], bitmap(0), &[]),
        Err(Error::EmptyAxis { .. })
    ));
}

#[test]
fn inputs_that_are_not_finite_give_outputs_that_are_not() {
    let weights = matrix(3, 40, 10, 1);
    let sparse = SparseMatrix::from_dense(weights.view(), Precision::F32).unwrap();
    for inputs in [1, 2, 70] {
        let mut x = Array2::ones((inputs, 40));
        x[[inputs - 1, 7]] = f32::INFINITY;
        let y = sparse.apply(x.view()).unwrap();
        let (finite, last) = y.view().split_at(Axis(0), inputs - 1);
        assert!(finite.iter().all(|y| y.is_finite()));
        assert!(last.iter().all(|y| !y.is_finite()));
    }
    assert!(matches!(
        sparse.apply(Array2::zeros((2, 39)).view()),
        Err(Error::ShapeMismatch { .. })
    ));
}
