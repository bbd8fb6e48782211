//! Inputs of layers in the compression of whole models.

use taper::factorize::Rank;
use taper::factorize::convolution::Tucker2;
use taper::factorize::cp::CpAls;
use taper::model::{Calibration, CompressOptions, NamedTensors, Step};
use taper::ndarray::{Array2, ArrayD, Ix2};
use taper::prune::{Keep, MagnitudePruner, Sparsity};
use taper::quantize::fixed_point::FixedPointQuantizer;
use taper::quantize::product::{OptimizedProductQuantizer, ProductQuantizer};
use taper::{Error, Precision};

use crate::{model, numbers, recipe, row};

const FEATURES: usize = 32;

fn calibration(inputs: &[(&str, ArrayD<f32>)]) -> taper::Result<Calibration> {
    Calibration::from_tensors(model(inputs))
}

/// Mixtures of four sources, with noise of a thousandth.
fn correlated(rows: usize, features: usize) -> ArrayD<f32> {
    let matrix = |shape: [usize; 2], seed| -> Array2<f32> {
        numbers(&shape, seed).into_dimensionality::<Ix2>().unwrap()
    };
    let mixed = matrix([rows, 4], 11).dot(&matrix([4, features], 12));
    (mixed + matrix([rows, features], 13) * 1e-3).into_dyn()
}

fn output_error(chain: Vec<Step>, model: &NamedTensors, calibration: &Calibration) -> [f64; 2] {
    let recipe = recipe(chain);
    let options = CompressOptions::default().strict(true);
    let (plain, _) = recipe.compress(model, &options).unwrap();
    let (guided, report) = recipe
        .compress(model, &options.calibration(calibration))
        .unwrap();
    let moments = calibration.moments("fc.weight").unwrap().unwrap();
    let dense = |tensor: ArrayD<f32>| tensor.into_dimensionality::<Ix2>().unwrap();
    let weights = dense(model.get("fc.weight").unwrap());
    let [plain, guided] = [plain, guided].map(|small| {
        let rebuilt = dense(small.decompress("fc.weight").unwrap());
        moments
            .relative_output_error(weights.view(), rebuilt.view())
            .unwrap()
    });
    assert_eq!(row(&report, "fc.weight").output_error, Some(guided));
    [plain, guided]
}

#[test]
fn pruning_in_a_chain_uses_the_calibration() {
    let network = model(&[("fc.weight", numbers(&[24, FEATURES], 1))]);
    let inputs = calibration(&[("fc.weight", correlated(200, FEATURES))]).unwrap();
    let prune =
        || -> Step { MagnitudePruner::new(Sparsity::Unstructured(Keep::Fraction(0.4))).into() };
    for chain in [
        vec![prune()],
        vec![prune(), FixedPointQuantizer::new(8).into()],
    ] {
        let [plain, guided] = output_error(chain.clone(), &network, &inputs);
        assert!(
            10.0 * guided <= plain,
            "{guided} with, {plain} without: {chain:?}"
        );
    }
}

#[test]
fn steps_that_cannot_use_the_calibration_are_named_in_the_notes() {
    let network = model(&[("conv.weight", numbers(&[8, 4, 3, 3], 1))]);
    let inputs = calibration(&[("conv.weight", correlated(100, 36))]).unwrap();
    let cp = CpAls::new(Rank::Fixed(2)).max_sweeps(5);
    let rotated = OptimizedProductQuantizer::new(ProductQuantizer::with_width(4).centroids(4));
    let prune = MagnitudePruner::new(Sparsity::Unstructured(Keep::Fraction(0.5)));
    let cases: Vec<(Vec<Step>, &[&str])> = vec![
        (vec![cp.clone().into()], &["cp 2"]),
        (
            vec![cp.into(), FixedPointQuantizer::new(8).into()],
            &["cp 2"],
        ),
        (vec![Tucker2::ranks(2, 2).into()], &["tucker 2x2"]),
        (vec![rotated.into()], &["rotated_product 4x4"]),
        (vec![Precision::F16.into()], &["dense 16"]),
        (
            vec![prune.into(), FixedPointQuantizer::new(8).into()],
            &["fixed_point 8"],
        ),
        (vec![FixedPointQuantizer::new(4).into()], &[]),
    ];
    for (chain, unused) in cases {
        let recipe = recipe(chain);
        let options = CompressOptions::default().strict(true);
        let (_, report) = recipe.compress(&network, &options).unwrap();
        assert!(report.rows[0].notes.is_empty(), "{report:?}");
        let (_, report) = recipe
            .compress(&network, &options.calibration(&inputs))
            .unwrap();
        let expected: Vec<String> = unused
            .iter()
            .map(|step| format!("{step} does not use the calibration"))
            .collect();
        assert_eq!(report.rows[0].notes, expected);
    }
}

#[test]
fn calibration_that_does_not_fit_the_model_is_an_error() {
    let network = model(&[("fc.weight", numbers(&[24, FEATURES], 1))]);
    let recipe = recipe(vec![FixedPointQuantizer::new(4).into()]);
    let refused = |inputs: &[(&str, ArrayD<f32>)]| {
        let inputs = match calibration(inputs) {
            Ok(inputs) => inputs,
            Err(error) => return error,
        };
        let options = CompressOptions::default().calibration(&inputs);
        let error = recipe.compress(&network, &options).unwrap_err();
        let budget = taper::model::Budget::ratio(4.0).calibration(&inputs);
        assert_eq!(budget.compress(&network).unwrap_err(), error);
        error
    };
    match refused(&[("fc.wieght", correlated(8, FEATURES))]) {
        Error::Unsupported { what, .. } => assert!(what.contains("fc.wieght"), "{what}"),
        other => panic!("{other:?}"),
    }
    let inside = |error: Error| match error {
        Error::InTensor { name, source } => {
            assert_eq!(name, "fc.weight");
            *source
        }
        other => panic!("{other:?}"),
    };
    let wide = inside(refused(&[("fc.weight", correlated(8, FEATURES + 1))]));
    assert!(matches!(wide, Error::ShapeMismatch { .. }), "{wide}");
    let flat = inside(refused(&[("fc.weight", numbers(&[], 1))]));
    assert!(matches!(flat, Error::Dimensions { .. }), "{flat}");
    let empty = inside(refused(&[("fc.weight", numbers(&[0, FEATURES], 1))]));
    assert_eq!(empty, Error::NoInputs);
}

/// With the counts of its rows, an embedding of the same bytes has a smaller error in the rows that are used.
#[test]
fn counts_of_rows_move_the_error_to_rows_that_are_not_used() {
    let network = model(&[("embedding", numbers(&[400, 64], 1))]);
    let mut counts = vec![0.0; 400];
    for (row, count) in counts.iter_mut().enumerate().take(40) {
        *count = (1 + row) as f64;
    }
    let mut inputs = Calibration::new();
    inputs.add_rows("embedding", &counts).unwrap();
    let budget = taper::model::Budget::ratio(9.0);
    let (plain, before) = budget.clone().compress(&network).unwrap();
    let (counted, after) = budget.calibration(&inputs).compress(&network).unwrap();
    assert!(before.rows[0].output_error.is_none());
    assert!(after.rows[0].output_error.unwrap() < after.rows[0].weight_error);
    assert!(after.bytes_after * 9 <= after.bytes_before);
    let weights = network.get("embedding").unwrap();
    let error = |compressed: &taper::model::CompressedModel| -> f64 {
        let rebuilt = compressed.get("embedding").unwrap().decompress().unwrap();
        let rows = weights.outer_iter().zip(rebuilt.outer_iter()).zip(&counts);
        rows.map(|((w, r), count)| count * f64::from((&w - &r).mapv(|e| e * e).sum()))
            .sum()
    };
    assert!(error(&counted) < 0.5 * error(&plain));

    let recipe = recipe(vec![FixedPointQuantizer::new(4).into()]);
    let options = CompressOptions::default().calibration(&inputs);
    let (_, report) = recipe.compress(&network, &options).unwrap();
    assert_eq!(
        report.rows[0].notes,
        ["fixed_point 4 does not use the weights of rows"]
    );
    for (name, counts) in [("embeding", vec![1.0; 400]), ("embedding", vec![1.0; 64])] {
        let mut wrong = Calibration::new();
        wrong.add_rows(name, &counts).unwrap();
        let options = CompressOptions::default().calibration(&wrong);
        assert!(recipe.compress(&network, &options).is_err());
    }
}
