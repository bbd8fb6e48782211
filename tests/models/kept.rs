//! Tensors that a chain cannot compress.

use taper::Error;
use taper::factorize::Rank;
use taper::factorize::svd::TruncatedSvd;
use taper::model::{Budget, CompressOptions, Recipe, Step};
use taper::ndarray::ArrayD;
use taper::prune::{Keep, MagnitudePruner, Sparsity};
use taper::quantize::fixed_point::FixedPointQuantizer;
use taper::quantize::product::ProductQuantizer;

use crate::{model, numbers, recipe, row};

fn with_infinity() -> ArrayD<f32> {
    let mut tensor = numbers(&[8, 8], 4);
    tensor[[3, 2]] = f32::NEG_INFINITY;
    tensor
}

#[test]
fn a_tensor_that_its_chain_cannot_compress_is_kept_with_a_note_and_an_error_if_strict() {
    let fixed = || -> Step { FixedPointQuantizer::new(4).into() };
    let prune =
        || -> Step { MagnitudePruner::new(Sparsity::Unstructured(Keep::Fraction(0.1))).into() };
    let product = ProductQuantizer::with_width(4).centroids(8);
    let svd = TruncatedSvd::new(Rank::Fixed(8));
    let cases: Vec<(&str, ArrayD<f32>, Vec<Step>)> = vec![
        (
            "width that does not divide",
            numbers(&[64, 3, 7, 7], 1),
            vec![product.into()],
        ),
        (
            "rank above the matrix's",
            numbers(&[4, 64], 2),
            vec![svd.into()],
        ),
        ("infinite weight", with_infinity(), vec![fixed()]),
        (
            "zero weights alone",
            ArrayD::zeros(vec![8, 8]),
            vec![prune(), fixed()],
        ),
        (
            "no weight left",
            numbers(&[2, 2], 3),
            vec![prune(), fixed()],
        ),
    ];
    for (name, tensor, chain) in cases {
        let network = model(&[(name, tensor.clone()), ("good", numbers(&[32, 16], 5))]);
        let mut recipe = recipe(chain);
        recipe.rules[0].tensors = name.to_owned();
        recipe.rules.push(crate::rule("*", vec![fixed()]));
        let (small, report) = recipe
            .compress(&network, &CompressOptions::default())
            .unwrap();
        let kept = row(&report, name);
        assert_eq!(kept.method, "keep");
        assert_eq!((kept.weight_error, kept.notes.len()), (0.0, 1), "{kept:?}");
        assert_eq!(small.decompress(name).unwrap(), tensor);
        assert_eq!(row(&report, "good").method, "fixed_point 4");
        let strict = CompressOptions::default().strict(true);
        match recipe.compress(&network, &strict) {
            Err(Error::InTensor { name: named, .. }) => assert_eq!(named, name),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn rules_and_exceptions_without_effect_are_named_in_the_notes() {
    let network = model(&[
        ("fc.bias", numbers(&[16], 1)),
        ("fc.weight", numbers(&[16, 8], 2)),
    ]);
    let fixed = || -> Vec<Step> { vec![FixedPointQuantizer::new(4).into()] };
    let mut recipe = recipe(fixed());
    recipe.rules[0].except = vec!["haed.*".to_owned(), "*.bias".to_owned()];
    recipe.rules.push(crate::rule("fc.wieght", fixed()));
    recipe.rules.push(crate::rule("fc.*", fixed()));
    let notes = |recipe: &Recipe| {
        let (_, report) = recipe
            .compress(&network, &CompressOptions::default())
            .unwrap();
        for note in &report.notes {
            assert!(report.to_string().contains(note), "{report}");
        }
        report.notes
    };
    let found = notes(&recipe);
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[0].starts_with("rule 1, \"*\": the exception \"haed.*\" matches no tensor"));
    assert!(found[1].starts_with("rule 2, \"fc.wieght\", matches no tensor"));
    assert!(found[2].starts_with("rule 3, \"fc.*\", is used for no tensor"));
    recipe.rules.truncate(1);
    recipe.rules[0].except.remove(0);
    assert_eq!(notes(&recipe), Vec::<String>::new());
}

#[test]
fn a_budget_keeps_tensors_of_odd_values_and_shapes() {
    let network = model(&[
        ("big", numbers(&[64, 64], 1)),
        ("infinite", with_infinity()),
        ("stem", numbers(&[64, 3, 7, 7], 2)),
        ("tiny", numbers(&[2, 2], 3)),
        ("zero", ArrayD::zeros(vec![8, 8])),
    ]);
    let (small, report) = Budget::ratio(2.0).compress(&network).unwrap();
    assert!(report.ratio() >= 2.0, "{report}");
    let kept = row(&report, "infinite");
    assert_eq!((kept.method.as_str(), kept.notes.len()), ("keep", 1));
    assert_eq!(small.decompress("infinite").unwrap(), with_infinity());
    assert_eq!(
        small.decompress("zero").unwrap(),
        ArrayD::<f32>::zeros(vec![8, 8])
    );
    match Budget::ratio(2.0).strict(true).compress(&network) {
        Err(Error::InTensor { name, source }) => {
            assert_eq!(name, "infinite");
            assert!(matches!(*source, Error::NonFinite { .. }), "{source}");
        }
        other => panic!("{other:?}"),
    }
}
