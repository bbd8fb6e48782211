//! Exact sizes at the two ends of a budget, and weights that half precision cannot hold.

use taper::model::{Budget, CompressOptions, Recipe, Rule};
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
