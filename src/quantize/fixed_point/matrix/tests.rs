use super::*;
use crate::kernels::integer;
use crate::quantize::fixed_point::FixedPointQuantizer;
use crate::{LinearOp, Quantizer, Seed};
use ndarray::{Array2, array};
use proptest::prelude::*;

fn random(seed: u64, shape: (usize, usize)) -> Array2<f64> {
    let mut stream = 0;
    Array2::from_shape_simple_fn(shape, || {
        stream += 1;
        Seed::from(seed).uniform(stream)
    })
}

fn kinds() -> impl Strategy<Value = (Symmetry, Granularity)> {
    let symmetry = prop::sample::select(vec![
        Symmetry::Symmetric,
        Symmetry::Affine,
        Symmetry::SignedScale,
    ]);
    let granularity = prop::sample::select(vec![
        Granularity::PerTensor,
        Granularity::PerRow,
        Granularity::Block(16),
        Granularity::Block(32),
        Granularity::Block(64),
        Granularity::Block(128),
    ]);
    (symmetry, granularity)
}

proptest! {
    #[test]
    fn sizes_are_bytes_and_parts_are_enough(bits in 1_u32..=16, (symmetry, granularity) in kinds(), rows in 1_usize..8, columns in 1_usize..40, seed in any::<u64>()) {
        // So large that half precision holds the scale of any row.
        let w = random(seed, (rows, columns)) * 4096.0;
        let q = FixedPointQuantizer::new(bits).symmetry(symmetry).granularity(granularity).precision(Precision::F16)
            .quantize(w.view());
        let Ok(q) = q else {
            let too_small = matches!(q, Err(Error::Underflow { .. }));
            prop_assert!(too_small && w.iter().any(|x| x.abs() < 8.0));
            return Ok(());
        };
        let parts = q.parts();
        prop_assert_eq!(parts[0].bytes.len(), (rows * columns * bits as usize).div_ceil(8));
        prop_assert_eq!(q.storage().payload(), (rows * columns) as u64 * u64::from(bits));
        let again = FixedPointMatrix::from_parts([rows, columns], bits, symmetry, granularity, Precision::F16, &parts[0].bytes, &q.scales(), parts.get(2).map_or(&[][..], |part| &part.bytes[..]));
        prop_assert_eq!(again.unwrap(), q);
    }

    #[test]
    fn applying_is_decompressing_and_multiplying(bits in 1_u32..=16, (symmetry, granularity) in kinds(), batch in 0_usize..20, rows in 1_usize..80, columns in 1_usize..90, seed in any::<u64>()) {
        let x = random(!seed, (batch, columns));
        let q = FixedPointQuantizer::new(bits).symmetry(symmetry).granularity(granularity).quantize(random(seed, (rows, columns)).view()).unwrap();
        let dense: Array2<f64> = q.decompress().unwrap().into_dimensionality().unwrap();
        let expected = x.dot(&dense.t());
        let mut y = Array2::zeros((rows, batch));
        q.apply_into(x.view(), y.view_mut().reversed_axes()).unwrap();
        for ((i, o), expected) in expected.indexed_iter() {
            let rounding = 4.0 * columns as f64 * f64::EPSILON * columns as f64;
            let largest = x.row(i).fold(0.0, |a: f64, b| a.max(b.abs()));
            let moved = largest / 254.0 * dense.row(o).mapv(f64::abs).sum();
            let inputs = if bits == 8 { moved } else { 0.0 };
            prop_assert!((y[[o, i]] - expected).abs() <= inputs * (1.0 + 1e-12) + rounding);
            if bits <= 8 {
                let y = q.apply_rounded(x.view()).unwrap()[[i, o]];
                prop_assert!((y - expected).abs() <= moved * (1.0 + 1e-12) + rounding);
            } else {
                prop_assert!(q.apply_rounded(x.view()).is_err());
            }
        }
    }

    // Inputs that are 8-bit integers already are not moved: the product is exact.
    #[test]
    fn integers_are_multiplied_exactly((symmetry, granularity) in kinds(), batch in 1_usize..20, rows in 1_usize..150, columns in 1_usize..200, seed in any::<u64>()) {
        let mut x = random(!seed, (batch, columns)).mapv(|x| (x * 127.0).round());
        x.column_mut(0).fill(127.0);
        let q = FixedPointQuantizer::new(8).symmetry(symmetry).granularity(granularity).quantize(random(seed, (rows, columns)).view()).unwrap();
        let dense: Array2<f64> = q.decompress().unwrap().into_dimensionality().unwrap();
        let expected = x.dot(&dense.t());
        for (y, expected) in q.apply(x.view()).unwrap().iter().zip(&expected) {
            prop_assert!((y - expected).abs() <= 4.0 * columns as f64 * 127.0 * f64::EPSILON * columns as f64);
        }
    }
}

#[test]
fn rows_longer_than_a_sum_of_32_bits_are_summed_in_pieces() {
    let columns = integer::LONGEST + 100;
    let q = FixedPointQuantizer::new(8)
        .quantize(Array2::from_elem((2, columns), 1.0_f64).view())
        .unwrap();
    for batch in [1, 9] {
        let y = q
            .apply(Array2::from_elem((batch, columns), 1.0).view())
            .unwrap();
        for y in y {
            // The scale of single precision: 127 · fl(1/127) is 1 but for ε.
            let relative = (y / columns as f64 - 1.0).abs();
            assert!(relative <= 2.0 * f64::from(f32::EPSILON), "{y}");
        }
    }
}

#[test]
fn inputs_that_are_not_finite_give_outputs_that_are_not_finite() {
    for bits in [4, 8] {
        let q = FixedPointQuantizer::new(bits)
            .quantize(array![[1.0, -1.0], [0.5, 0.5]].view())
            .unwrap();
        let y = q
            .apply(array![[f64::NAN, 1.0], [f64::INFINITY, 1.0]].view())
            .unwrap();
        assert!(y.iter().all(|y| !y.is_finite()), "{y}");
    }
}

#[test]
fn forged_parts_are_refused() {
    let build = |shape, bits, codes: &[u8], scales: &[f32], zeros: &[u8]| {
        let symmetry = if zeros.is_empty() {
            Symmetry::Symmetric
        } else {
            Symmetry::Affine
        };
        FixedPointMatrix::from_parts(
            shape,
            bits,
            symmetry,
            Granularity::PerTensor,
            Precision::F16,
            codes,
            scales,
            zeros,
        )
    };
    // Two symmetric codes of 4 bits: 0..=14 stand for −7..=7.
    assert_eq!(
        build([1, 2], 4, &[0xe0], &[0.5], &[]).unwrap().integers(),
        array![[-7, 7]]
    );
    assert_eq!(
        build([1, 2], 4, &[0xf0], &[0.5], &[0x03])
            .unwrap()
            .integers(),
        array![[0, 15]]
    );
    for wrong in [
        build([1, 2], 4, &[0xf0], &[0.5], &[]),
        build([1, 2], 0, &[], &[0.5], &[]),
        build([1, 2], 17, &[0; 5], &[0.5], &[]),
        build([1, 2], 4, &[0xe0, 0], &[0.5], &[]),
        build([1, 1], 4, &[0x1e], &[0.5], &[]),
        build([1, 2], 4, &[0xe0], &[], &[]),
        build([1, 2], 4, &[0xe0], &[-0.5], &[]),
        build([1, 2], 4, &[0xe0], &[0.1], &[]),
        build([1, 2], 4, &[0xe0], &[f32::NAN], &[]),
        build([1, 2], 4, &[0xe0], &[0.5], &[0x13]),
        build([1, 2], 4, &[0xe0], &[0.5], &[1, 2]),
        build([0, 2], 4, &[], &[0.5], &[]),
        build([usize::MAX, 2], 4, &[], &[0.5], &[]),
    ] {
        assert!(matches!(wrong, Err(Error::Malformed { .. })), "{wrong:?}");
    }
}

/// A sum of codes times scales of blocks passes the range of the type, and the product does not.
#[test]
fn rounded_products_in_range_are_finite() {
    let w = Array2::from_elem((2, 256), 1e35_f32);
    let quantizer = FixedPointQuantizer::new(4).granularity(Granularity::Block(32));
    let matrix = quantizer.quantize(w.view()).unwrap();
    let x = Array2::from_elem((3, 256), 1e-5_f32);
    let exact = 256.0 * 1e30;
    for y in matrix.apply_rounded(x.view()).unwrap() {
        // Weights and inputs of one size are rounded by at most a few ε each.
        assert!(
            (f64::from(y) - exact).abs() <= 256.0 * f64::from(f32::EPSILON) * exact,
            "{y}"
        );
    }
}
