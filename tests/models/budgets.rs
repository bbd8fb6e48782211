//! Exact sizes at the two ends of a budget.

use taper::Error;
use taper::model::{Budget, CompressOptions, Recipe};

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
