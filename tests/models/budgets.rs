//! Exact sizes at the two ends of a budget, and weights that half precision cannot hold.

use taper::model::{Budget, Calibration, CompressOptions, Recipe, Report, Rule};
use taper::quantize::fixed_point::{FixedPointQuantizer, Granularity};
use taper::{Error, Precision};

use crate::{model, numbers};

#[test]
fn the_exact_sizes_at_both_ends_are_within_reach() {
    let network = model(&[
        ("conv.weight", numbers(&[8, 4, 3, 3], 1)),
        ("fc.bias", numbers(&[48], 2)),
        ("fc.weight", numbers(&[48, 32], 3)),
    ]);
    let options = CompressOptions::default();
    let (kept, _) = Recipe::default().compress(&network, &options).unwrap();
    let largest = kept.file_bytes().unwrap();
    let (same, report) = Budget::bytes(largest).compress(&network).unwrap();
    assert_eq!(same.to_bytes(), kept.to_bytes());
    assert!(
        report.rows.iter().all(|row| row.method == "keep"),
        "{report}"
    );
    let (_, report) = Budget::bytes(largest - 1).compress(&network).unwrap();
    assert!(report.bytes_after < largest);
    assert!(
        report.rows.iter().any(|row| row.method != "keep"),
        "{report}"
    );
    let least = match Budget::bytes(10).compress(&network) {
        Err(Error::BudgetOutOfReach { least, .. }) => least as u64,
        other => panic!("{other:?}"),
    };
    let (small, report) = Budget::bytes(least).compress(&network).unwrap();
    assert_eq!(small.file_bytes(), Ok(least));
    assert_eq!(report.bytes_after, least);
    let recipe = Budget::bytes(least).recipe(&network).unwrap();
    let (again, _) = recipe.compress(&network, &options).unwrap();
    assert_eq!(again.to_bytes(), small.to_bytes());
    match Budget::bytes(least - 1).compress(&network) {
        Err(Error::BudgetOutOfReach { least: again, .. }) => assert_eq!(again, least as f64),
        other => panic!("{other:?}"),
    }
}

/// A search serves any budget nearly as well as a new one, and files use the bytes that they may have.
#[test]
fn a_search_is_used_again() {
    let network = model(&[
        ("a.weight", numbers(&[96, 80], 1)),
        ("b.weight", numbers(&[64, 32, 3, 3], 2).mapv(|w| 0.01 * w)),
        ("b.bias", numbers(&[64], 3)),
    ]);
    let mut search = Budget::ratio(4.0).search(&network).unwrap();
    let mut before = f64::INFINITY;
    for ratio in [12.0, 6.0, 3.0] {
        let (small, report) = search.ratio(ratio).compress().unwrap();
        let most = network.file_bytes() as f64 / ratio;
        assert_eq!(small.file_bytes().unwrap(), report.bytes_after);
        let bytes = report.bytes_after as f64;
        assert!(bytes <= most && bytes >= 0.99 * most, "{bytes} of {most}");
        let error: f64 = report.rows.iter().map(|row| row.weight_error).sum();
        assert!(error < before, "{error} after {before}");
        before = error;
    }
    let (small, report) = search.error(0.01).compress().unwrap();
    let error: f64 = report.rows.iter().map(|row| row.weight_error).sum();
    assert!(error <= 0.01);
    assert_eq!(small.file_bytes().unwrap(), report.bytes_after);
    // Fits for other budgets correct the curves in other places.
    let (_, fresh) = Budget::ratio(3.0).compress(&network).unwrap();
    let (_, again) = search.ratio(3.0).compress().unwrap();
    let error = |report: &Report| report.rows.iter().map(|row| row.weight_error).sum::<f64>();
    assert!(error(&again) <= 1.01 * error(&fresh));
    let (_, report) = Budget::ratio(3.0)
        .sensitivity("c.*", 2.0)
        .compress(&network)
        .unwrap();
    assert_eq!(
        report.notes,
        ["the sensitivity of \"c.*\" matches no tensor"]
    );
}

/// Rows that a sample may miss: an outlier, rows that alternate, and inputs that say nothing of the weights.
#[test]
fn odd_tensors_use_the_budget_too() {
    let plain = || ("b", numbers(&[128, 96], 2));
    let mut outlier = numbers(&[2000, 64], 1);
    outlier[[1001, 5]] = 1e6;
    let alternating = |factor: f32| {
        let mut weights = numbers(&[512, 64], 3);
        for mut row in weights.axis_iter_mut(ndarray::Axis(0)).step_by(2) {
            row.mapv_inplace(|w| w * factor);
        }
        weights
    };
    for weights in [outlier, alternating(0.0), alternating(1e-3)] {
        let network = model(&[("a", weights), plain()]);
        for ratio in [4.0, 8.0] {
            let (_, report) = Budget::ratio(ratio).compress(&network).unwrap();
            let used = ratio / report.ratio();
            assert!(report.ratio() >= ratio, "{report}");
            // A tensor with an outlier has no finer step than the 16 bits of a code allow; the other one is then kept.
            let kept = report.rows.iter().any(|row| row.method == "keep");
            assert!(used > 0.9 || kept, "{used}: {report}");
        }
    }
    // All inputs are zero: the error of the weights counts.
    let network = model(&[("a", numbers(&[128, 96], 1)), plain()]);
    let mut calibration = Calibration::new();
    calibration
        .add("a", ndarray::Array2::<f32>::zeros((50, 96)).view())
        .unwrap();
    let budget = Budget::ratio(6.0).calibration(&calibration);
    let (_, report) = budget.compress(&network).unwrap();
    assert!(report.ratio() < 6.3, "{report}");
    assert!(
        report.rows.iter().all(|row| row.weight_error < 0.05),
        "{report}"
    );
}

/// All tensors times a power of two: the same codes, and steps times that power.
#[test]
fn budgets_scale_with_the_model() {
    let tensors = [numbers(&[96, 80], 1), numbers(&[40, 96], 2)];
    let compressed = |power: i32| {
        let scaled = tensors
            .each_ref()
            .map(|t| t.mapv(|w| w * 2.0_f32.powi(power)));
        let [a, b] = scaled;
        let network = model(&[("a", a), ("b", b)]);
        Budget::ratio(8.0).compress(&network).unwrap().0
    };
    let once = compressed(0);
    for power in [-20, 13] {
        let scaled = compressed(power);
        for name in ["a", "b"] {
            let exact = once
                .decompress(name)
                .unwrap()
                .mapv(|w| w * 2.0_f32.powi(power));
            assert_eq!(scaled.decompress(name).unwrap(), exact);
        }
    }
}

/// A row that half precision cannot hold is compressed in single precision, and the report says so.
#[test]
fn a_small_row_does_not_vanish() {
    let mut weights = numbers(&[16, 64], 4);
    weights
        .index_axis_mut(ndarray::Axis(0), 3)
        .map_inplace(|w| *w *= 1e-7);
    let row = |weights: &ndarray::ArrayD<f32>| {
        let row = weights.index_axis(ndarray::Axis(0), 3).to_owned();
        row.mapv(f64::from)
    };
    let exact = row(&weights);
    let network = model(&[("fc.weight", weights)]);
    let fixed = FixedPointQuantizer::new(8)
        .granularity(Granularity::PerRow)
        .precision(Precision::F16);
    let recipe = Recipe {
        rules: vec![Rule {
            tensors: "*".to_owned(),
            except: Vec::new(),
            min_values: 0,
            chain: vec![fixed.clone().into()],
        }],
        ..Recipe::default()
    };
    let options = CompressOptions::default();
    let by_recipe = recipe.compress(&network, &options).unwrap();
    let budget = Budget::ratio(2.0).candidates([vec![fixed.into()]]);
    let by_budget = budget.compress(&network).unwrap();
    for (compressed, report) in [by_recipe, by_budget] {
        let notes = &report.rows[0].notes;
        assert!(
            notes
                .iter()
                .any(|note| note.starts_with("f16 cannot store a scale of")),
            "{notes:?}"
        );
        let rebuilt = compressed.decompress("fc.weight").unwrap();
        let error = (&exact - &row(&rebuilt)).mapv(|x| x * x).sum();
        // 127 steps to the largest weight, half a step of error at most.
        let largest = exact.fold(0.0, |a: f64, b| a.max(b.abs()));
        let half = largest / 254.0 * (1.0 + f64::from(f32::EPSILON));
        assert!(error <= exact.len() as f64 * half * half);
    }
    let strict = recipe.compress(&network, &options.strict(true));
    assert!(
        matches!(strict, Err(Error::InTensor { source, .. }) if matches!(*source, Error::Underflow { .. }))
    );
}
