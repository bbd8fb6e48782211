//! Laws of fine-tuned artifacts.

use proptest::prelude::*;
use taper::factorize::Rank;
use taper::factorize::cp::{CpAls, CpTensor};
use taper::factorize::svd::{SingularValues, TruncatedSvd};
use taper::ndarray::{Array1, Array2, Array3, ArrayD, array};
use taper::prune::SparseMatrix;
use taper::quantize::binary::Binarizer;
use taper::quantize::fixed_point::{FixedPointQuantizer, Granularity, Symmetry};
use taper::quantize::product::{Codebook, ProductQuantizer, ResidualQuantizer, SplitAxis};
use taper::{Error, Factorizer, Precision, Quantizer, Seed, Trainable};

/// Numbers in [−1, 1), the same for the same seed.
fn numbers(shape: &[usize], seed: u64) -> ArrayD<f64> {
    let seed = Seed::from(seed);
    let mut next = 0;
    ArrayD::from_shape_simple_fn(shape, || {
        next += 1;
        seed.uniform(next)
    })
}

fn matrix(rows: usize, columns: usize, seed: u64) -> Array2<f64> {
    numbers(&[rows, columns], seed)
        .into_dimensionality()
        .unwrap()
}

/// Checks all promises of [`Trainable`] for an artifact whose numbers are stored in double precision.
fn laws_hold_for(artifact: &mut (impl Trainable<f64> + Clone), seed: u64) {
    let start = artifact.parameters();
    let weights = artifact.decompress().unwrap();
    let storage = artifact.storage();
    let dense = numbers(artifact.shape(), seed);
    let inner = |w: &ArrayD<f64>| -> f64 { w.iter().zip(&dense).map(|(w, g)| w * g).sum() };
    let gradient = artifact.gradient(dense.view()).unwrap();
    assert_eq!(gradient.len(), start.len());

    // Setting the parameters to themselves changes nothing.
    artifact.set_parameters(start.view()).unwrap();
    assert_eq!(artifact.decompress().unwrap(), weights);
    assert_eq!(artifact.parameters(), start);

    // Ŵ is linear in each parameter, so a difference is its derivative up to the rounding of sums of as many terms as there are
    // weights, divided by the step.
    let step = 0.25;
    let size: f64 = weights.iter().map(|w| w.abs()).sum::<f64>() + weights.len() as f64;
    let rounding = 64.0 * f64::EPSILON * size / step;
    for i in 0..start.len() {
        let at = |by: f64| {
            let mut parameters = start.clone();
            // Both points are above the start, because scales are not negative.
            parameters[i] += by;
            let mut moved = artifact.clone();
            moved.set_parameters(parameters.view()).unwrap();
            inner(&moved.decompress().unwrap())
        };
        let difference = (at(2.0 * step) - at(0.0)) / (2.0 * step);
        assert!(
            (difference - gradient[i]).abs() <= rounding,
            "parameter {i}: {} for {difference}, rounding {rounding}",
            gradient[i]
        );
    }

    // Strides may change the order of a sum only.
    let turned = dense.t().as_standard_layout().into_owned();
    let again = artifact.gradient(turned.t()).unwrap();
    for (again, gradient) in again.iter().zip(&gradient) {
        assert!((again - gradient).abs() <= rounding, "{again} {gradient}");
    }

    // To first order, a step lowers the value by rate times the squared length of the gradient. The other orders are below half
    // of that for so small a rate.
    let before = inner(&weights);
    let length: f64 = gradient.iter().map(|g| g * g).sum();
    let mut moved = artifact.clone();
    let rate = 1e-6;
    moved.step(dense.view(), rate).unwrap();
    let after = inner(&moved.decompress().unwrap());
    assert!(
        after <= before - 0.5 * rate * length + rounding,
        "{after} {before}"
    );
    assert_eq!(moved.storage(), storage);

    // Wrong inputs are refused, and nothing has changed.
    let wrong = Array1::zeros(start.len() + 1);
    assert!(matches!(
        artifact.set_parameters(wrong.view()),
        Err(Error::ShapeMismatch { .. })
    ));
    if !start.is_empty() {
        let mut bad = start.clone();
        bad[start.len() - 1] = f64::NAN;
        assert!(matches!(
            artifact.set_parameters(bad.view()),
            Err(Error::NonFinite { .. })
        ));
    }
    let mut bad = dense.clone();
    bad.as_slice_mut().unwrap()[0] = f64::INFINITY;
    assert!(matches!(
        artifact.gradient(bad.view()),
        Err(Error::NonFinite { .. })
    ));
    assert!(matches!(
        artifact.gradient(numbers(&[3, 1, 2], 1).view()),
        Err(Error::ShapeMismatch { .. })
    ));
    assert_eq!(artifact.parameters(), start);
    assert_eq!(artifact.decompress().unwrap(), weights);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn codebooks(
        groups in 1_usize..4,
        width in 1_usize..4,
        points in 1_usize..12,
        centroids in 1_usize..6,
        split_inputs in any::<bool>(),
        shared in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let (axis, w) = if split_inputs {
            (SplitAxis::In, matrix(points, groups * width, seed))
        } else {
            (SplitAxis::Out, matrix(groups * width, points, seed))
        };
        let quantizer = ProductQuantizer::new(groups)
            .centroids(centroids)
            .axis(axis)
            .codebook(if shared { Codebook::Shared } else { Codebook::PerGroup })
            .precision(Precision::F64)
            .seed(seed);
        laws_hold_for(&mut quantizer.quantize(w.view()).unwrap(), seed);
        let residual = ResidualQuantizer::new(quantizer, 2);
        laws_hold_for(&mut residual.quantize(w.view()).unwrap(), seed);
    }

    #[test]
    fn scales(rows in 1_usize..5, columns in 1_usize..70, bits in 1_u32..6, granularity in 0_usize..3, seed in any::<u64>()) {
        let w = matrix(rows, columns, seed);
        let granularity = [Granularity::PerTensor, Granularity::PerRow, Granularity::Block(32)][granularity];
        for symmetry in [Symmetry::Symmetric, Symmetry::Affine, Symmetry::SignedScale] {
            let quantizer = FixedPointQuantizer::new(bits)
                .symmetry(symmetry)
                .granularity(granularity)
                .precision(Precision::F64);
            laws_hold_for(&mut quantizer.quantize(w.view()).unwrap(), seed);
        }
        for scaling in [None, Some(Granularity::PerTensor), Some(Granularity::PerRow)] {
            let binarizer = Binarizer::new().scaling(scaling).precision(Precision::F64);
            laws_hold_for(&mut binarizer.quantize(w.view()).unwrap(), seed);
        }
    }

    #[test]
    fn thin_factors(m in 1_usize..6, n in 1_usize..6, rank in 1_usize..4, seed in any::<u64>()) {
        let w = matrix(m, n, seed);
        for folding in [SingularValues::Split, SingularValues::Apart] {
            let svd = TruncatedSvd::new(Rank::Fixed(rank.min(m).min(n)))
                .singular_values(folding)
                .precision(Precision::F64);
            laws_hold_for(&mut svd.factorize(w.view()).unwrap(), seed);
        }
    }

    #[test]
    fn terms(rank in 1_usize..4, seed in any::<u64>()) {
        let tensor: Array3<f64> = numbers(&[3, 4, 2], seed).into_dimensionality().unwrap();
        let cp = CpAls::new(Rank::Fixed(rank)).precision(Precision::F64);
        laws_hold_for(&mut cp.factorize(tensor.view()).unwrap(), seed);
    }

    #[test]
    fn kept_weights(rows in 1_usize..6, columns in 1_usize..40, seed in any::<u64>(), threshold in 0.0_f64..1.1) {
        let w = matrix(rows, columns, seed).mapv(|w| if w.abs() < threshold { 0.0 } else { w });
        laws_hold_for(&mut SparseMatrix::from_dense(w.view(), Precision::F64).unwrap(), seed);
    }
}

#[test]
fn scales_do_not_become_negative() {
    let w = array![[1.0, -2.0], [3.0, 4.0]];
    let mut fixed = FixedPointQuantizer::new(3).quantize(w.view()).unwrap();
    fixed.set_parameters(array![-1.0].view()).unwrap();
    assert_eq!(fixed.parameters(), array![0.0]);
    let mut binary = Binarizer::new()
        .scaling(Granularity::PerTensor)
        .quantize(w.view())
        .unwrap();
    binary.set_parameters(array![-1.0].view()).unwrap();
    assert_eq!(binary.parameters(), array![0.0]);
}

#[test]
fn parameters_are_rounded_to_the_stored_precision() {
    let w = array![[1.0, -2.0], [3.0, 4.0]];
    let mut sparse = SparseMatrix::from_dense(w.view(), Precision::F16).unwrap();
    let new = array![1.0 / 3.0, 2.0, 3.0, 4.0];
    sparse.set_parameters(new.view()).unwrap();
    assert_eq!(
        sparse.parameters()[0],
        half::f16::from_f64(1.0 / 3.0).to_f64()
    );
    // 65,504 is the largest number of half precision.
    assert!(matches!(
        sparse.set_parameters((&new * 1e5).view()),
        Err(Error::Overflow { .. })
    ));
    // A tensor of three axes, as a trait object.
    let factors = vec![array![[1.0]], array![[2.0]], array![[3.0], [4.0]]];
    let tensor = CpTensor::<f64>::from_parts(array![1.0], factors, Precision::F64).unwrap();
    let object: Box<dyn Trainable<f64>> = Box::new(tensor);
    let gradient = object
        .gradient(array![[[1.0, 1.0]]].into_dyn().view())
        .unwrap();
    assert_eq!(gradient, array![14.0, 14.0, 7.0, 2.0, 2.0]);
}
