//! Recipes in TOML and JSON.

use taper::cluster::{KMeans, Seeding};
use taper::factorize::Rank;
use taper::factorize::convolution::{Tucker2, TuckerSize};
use taper::factorize::cp::{Constraint, CpAdmm, CpAls, NormBound, Start};
use taper::factorize::svd::{SingularValues, SvdMethod, TruncatedSvd};
use taper::model::{CompressOptions, Recipe, Step};
use taper::ndarray::{Array2, Array4};
use taper::prune::{Keep, MagnitudePruner, Scope, Sparsity};
use taper::quantize::binary::Binarizer;
use taper::quantize::fixed_point::{FixedPointQuantizer, Granularity, Range, Symmetry};
use taper::quantize::product::{
    Codebook, OptimizedProductQuantizer, ProductQuantizer, ResidualQuantizer, SplitAxis,
};
use taper::quantize::trellis::TrellisQuantizer;
use taper::{Error, Factorizer, ParamError, Precision, Quantizer};

use crate::{model, numbers, recipe, row, rule};

/// Every compressor with a value of its own for each parameter.
fn all_parameters_set() -> Vec<Step> {
    let kmeans = KMeans::new()
        .max_iterations(7)
        .tolerance(0.125)
        .restarts(3)
        .seeding(Seeding::Greedy);
    let product = ProductQuantizer::new(5)
        .centroids(11)
        .axis(SplitAxis::Out)
        .codebook(Codebook::PerGroup)
        .precision(Precision::F64)
        .seed(9)
        .damping(0.25)
        .sweeps(2)
        .clusterer(kmeans);
    let svd = TruncatedSvd::new(Rank::Fraction(0.75))
        .method(SvdMethod::BlockKrylov)
        .oversampling(3)
        .power_iterations(4)
        .measure_optimum(true)
        .damping(0.5)
        .singular_values(SingularValues::Apart)
        .precision(Precision::F16)
        .seed(8);
    let bound = NormBound {
        ratio: 2.0,
        sweeps: 6,
        slack: 0.5,
    };
    let pruner = |sparsity| {
        MagnitudePruner::new(sparsity)
            .scope(Scope::Layer)
            .precision(Precision::F64)
            .damping(0.75)
            .refinements(4)
    };
    vec![
        Step::Keep,
        Precision::F16.into(),
        FixedPointQuantizer::new(4)
            .symmetry(Symmetry::SignedScale)
            .granularity(Granularity::Block(32))
            .into(),
        FixedPointQuantizer::new(5)
            .symmetry(Symmetry::Affine)
            .granularity(Granularity::PerRow)
            .range(Range::Percentile(97.5))
            .precision(Precision::F16)
            .damping(0.5)
            .into(),
        Binarizer::new()
            .scaling(Granularity::PerRow)
            .precision(Precision::F64)
            .damping(0.5)
            .stochastic(6)
            .into(),
        product.clone().into(),
        ResidualQuantizer::new(product.clone(), 3).into(),
        OptimizedProductQuantizer::new(product)
            .iterations(3)
            .tolerance(0.25)
            .eigenvalue_start(true)
            .block(4)
            .rotation_precision(Precision::F16)
            .into(),
        TrellisQuantizer::new(0.5)
            .states(32)
            .precision(Precision::F16)
            .into(),
        svd.into(),
        Step::SpatialSvd(svd),
        CpAls::new(Rank::Fraction(0.5))
            .max_sweeps(9)
            .tolerance(0.125)
            .start(Start::Random)
            .starts(2, 5)
            .extrapolate(false)
            .norm_bound(bound)
            .precision(Precision::F16)
            .seed(4)
            .into(),
        CpAdmm::new(Rank::Ratio(3.0))
            .all(Constraint::NonNegative)
            .mode(1, Constraint::L1(0.5))
            .max_sweeps(9)
            .inner_iterations(3)
            .tolerance(0.125)
            .start(Start::Random, 2)
            .precision(Precision::F16)
            .seed(4)
            .into(),
        Tucker2::ranks(3, 2)
            .max_iterations(6)
            .tolerance(0.125)
            .precision(Precision::F16)
            .into(),
        pruner(Sparsity::Unstructured(Keep::Threshold(0.5))).into(),
        pruner(Sparsity::NOfM { n: 2, m: 4 }).into(),
    ]
}

/// Every compressor with its required parameters alone, and the same in TOML.
fn required_parameters_set() -> Vec<(Step, &'static str)> {
    let rank = Rank::Fixed(3);
    let product = ProductQuantizer::with_width(4);
    let fraction = Sparsity::Unstructured(Keep::Fraction(0.5));
    vec![
        (
            FixedPointQuantizer::new(4).into(),
            "{ fixed_point = { bits = 4 } }",
        ),
        (Binarizer::new().into(), "{ binary = {} }"),
        (
            product.clone().into(),
            "{ product = { split = { width = 4 } } }",
        ),
        (
            ResidualQuantizer::new(product.clone(), 2).into(),
            "{ residual = { quantizer = { split = { width = 4 } }, stages = 2 } }",
        ),
        (
            OptimizedProductQuantizer::new(product).into(),
            "{ rotated_product = { quantizer = { split = { width = 4 } } } }",
        ),
        (
            TrellisQuantizer::new(0.5).into(),
            "{ trellis = { step = 0.5 } }",
        ),
        (
            TruncatedSvd::new(rank).into(),
            "{ svd = { rank = { fixed = 3 } } }",
        ),
        (
            Step::SpatialSvd(TruncatedSvd::new(rank)),
            "{ spatial_svd = { rank = { fixed = 3 } } }",
        ),
        (CpAls::new(rank).into(), "{ cp = { rank = { fixed = 3 } } }"),
        (
            CpAdmm::new(rank).into(),
            "{ cp_admm = { rank = { fixed = 3 } } }",
        ),
        (
            Tucker2::new(TuckerSize::Energy(0.5)).into(),
            "{ tucker = { size = { energy = 0.5 } } }",
        ),
        (
            MagnitudePruner::new(fraction).into(),
            "{ prune = { sparsity = { unstructured = { fraction = 0.5 } } } }",
        ),
    ]
}

/// The name of a step in a recipe.
fn key(step: &Step) -> String {
    let value = recipe(vec![step.clone()]).to_json().unwrap();
    let chain = value.split("\"chain\": [").nth(1).unwrap();
    chain.split('"').nth(1).unwrap().to_owned()
}

/// A parameter error of the only rule.
fn in_rule(error: ParamError) -> Error {
    Error::InRule {
        tensors: "*".to_owned(),
        source: Box::new(Error::Parameter(error)),
    }
}

#[test]
fn every_parameter_of_every_compressor_survives_both_formats() {
    for step in all_parameters_set() {
        let recipe = recipe(vec![step]);
        let (toml, json) = (recipe.to_toml().unwrap(), recipe.to_json().unwrap());
        assert_eq!(Recipe::from_toml(&toml), Ok(recipe.clone()), "{toml}");
        assert_eq!(Recipe::from_json(&json), Ok(recipe), "{json}");
    }
}

#[test]
fn the_tables_have_every_compressor() {
    let all: Vec<String> = all_parameters_set().iter().map(key).collect();
    let required: Vec<String> = required_parameters_set()
        .iter()
        .map(|(step, _)| key(step))
        .collect();
    // The error for an unknown step lists the steps that there are.
    let error = Recipe::from_toml("[[rule]]\ntensors = \"*\"\nchain = [\"nothing\"]").unwrap_err();
    let text = error.to_string();
    let known: Vec<&str> = text.split('`').skip(3).step_by(2).collect();
    assert!(known.len() >= 14, "{text}");
    for step in known {
        assert!(all.iter().any(|key| key == step), "{step}");
        let plain = step == "keep" || step == "dense";
        assert!(plain || required.iter().any(|key| key == step), "{step}");
    }
}

#[test]
fn required_keys_alone_give_what_new_gives() {
    for (step, text) in required_parameters_set() {
        let text = format!("seed = 3\n[[rule]]\ntensors = \"*\"\nchain = [{text}]");
        assert_eq!(Recipe::from_toml(&text), Ok(recipe(vec![step])), "{text}");
    }
}

#[test]
fn a_missing_required_key_and_an_unknown_key_are_errors_with_the_line() {
    for (step, text) in required_parameters_set() {
        let line_three = |chain: String| {
            let text = format!("[[rule]]\ntensors = \"*\"\nchain = [{chain}]");
            match Recipe::from_toml(&text) {
                Err(Error::Recipe { line, .. }) => assert_eq!(line, 3, "{text}"),
                other => panic!("{other:?} for {text}"),
            }
        };
        let key = key(&step);
        line_three(
            text.replacen(
                &format!("{key} = {{"),
                &format!("{key} = {{ unknown = 1, "),
                1,
            )
            .replace(", }", " }"),
        );
        if key != "binary" {
            line_three(format!("{{ {key} = {{}} }}"));
        }
    }
    for text in [
        "sede = 1",
        "[[rule]]\ntensors = \"*\"\nchains = []",
        "[[rule]]\ntensors = \"*\"\nchain = []\nexcept_for = []",
    ] {
        assert!(
            matches!(Recipe::from_toml(text), Err(Error::Recipe { .. })),
            "{text}"
        );
    }
}

#[test]
fn validate_a_call_and_a_recipe_give_the_same_error() {
    let matrix = Array2::from_shape_fn((8, 12), |(o, i)| ((o * 5 + i * 3) as f32).sin());
    let kernel = Array4::from_shape_fn((4, 3, 2, 2), |(o, i, y, x)| {
        ((o * 5 + i * 3 + y * 7 + x) as f32).sin()
    });
    let (w, k) = (matrix.view(), kernel.view());
    let mut cases: Vec<(Step, Result<(), ParamError>, Option<Error>)> = Vec::new();
    macro_rules! case {
        ($compressor:expr, $call:ident($weights:expr)) => {{
            let compressor = $compressor;
            let called = compressor.$call($weights).err();
            cases.push((compressor.clone().into(), compressor.validate(), called));
        }};
    }
    for bits in [0, 17] {
        case!(FixedPointQuantizer::new(bits), quantize(w));
    }
    case!(
        FixedPointQuantizer::new(4).range(Range::Percentile(101.0)),
        quantize(w)
    );
    case!(Binarizer::new().damping(-1.0), quantize(w));
    case!(ProductQuantizer::new(0), quantize(w));
    case!(ProductQuantizer::new(4).centroids(0), quantize(w));
    case!(
        ResidualQuantizer::new(ProductQuantizer::new(4), 0),
        quantize(w)
    );
    case!(
        ResidualQuantizer::new(ProductQuantizer::new(0), 2),
        quantize(w)
    );
    case!(
        OptimizedProductQuantizer::new(ProductQuantizer::new(4)).tolerance(-1.0),
        quantize(w)
    );
    for step in [0.0, f64::INFINITY] {
        case!(TrellisQuantizer::new(step), quantize(w));
    }
    case!(TrellisQuantizer::new(1.0).states(12), quantize(w));
    case!(TrellisQuantizer::new(1.0).damping(-1.0), quantize(w));
    for rank in [Rank::Fixed(0), Rank::Fraction(1.5), Rank::Energy(-0.5)] {
        case!(TruncatedSvd::new(rank), factorize(w));
        case!(CpAls::new(rank), factorize(k));
        case!(CpAdmm::new(rank), factorize(k));
    }
    case!(CpAls::new(Rank::Fixed(2)).tolerance(-1.0), factorize(k));
    case!(
        CpAdmm::new(Rank::Fixed(2)).all(Constraint::L1(-1.0)),
        factorize(k)
    );
    case!(Tucker2::ranks(0, 2), factorize(k));
    case!(Tucker2::energy(2.0), factorize(k));
    for sparsity in [
        Sparsity::Unstructured(Keep::Fraction(2.0)),
        Sparsity::NOfM { n: 0, m: 4 },
        Sparsity::NOfM { n: 3, m: 2 },
    ] {
        case!(MagnitudePruner::new(sparsity), prune_matrix(w));
    }
    for (step, validated, called) in cases {
        let error = validated.expect_err(&format!("{step:?} is wrong"));
        assert_eq!(called, Some(Error::Parameter(error.clone())), "{step:?}");
        assert_eq!(step.validate(), Err(error.clone()));
        assert_eq!(recipe(vec![step]).check(), Err(in_rule(error)));
    }
}

#[test]
fn a_recipe_and_a_call_give_the_same_error_for_a_clusterer() {
    let matrix = Array2::from_shape_fn((8, 12), |(o, i)| ((o * 5 + i * 3) as f32).sin());
    let product = ProductQuantizer::new(4).centroids(4).max_iterations(0);
    let residual = ResidualQuantizer::new(product.clone(), 2);
    let rotated = OptimizedProductQuantizer::new(product.clone());
    for (called, step) in [
        (product.quantize(matrix.view()).err(), product.into()),
        (residual.quantize(matrix.view()).err(), residual.into()),
        (rotated.quantize(matrix.view()).err(), Step::from(rotated)),
    ] {
        let error = ParamError::Zero {
            name: "max_iterations",
        };
        assert_eq!(called, Some(Error::Parameter(error.clone())), "{step:?}");
        assert_eq!(recipe(vec![step]).check(), Err(in_rule(error)));
    }
}

#[test]
fn a_rule_does_not_match_what_it_excepts() {
    let model = model(&[
        ("layer.0.weight", numbers(&[8, 8], 1)),
        ("layer.1.weight", numbers(&[8, 8], 2)),
        ("head.weight", numbers(&[8, 8], 3)),
    ]);
    let mut recipe = recipe(vec![FixedPointQuantizer::new(4).into()]);
    recipe.rules[0].except = vec!["head.*".to_owned(), "*.1.*".to_owned()];
    recipe
        .rules
        .push(rule("*.1.weight", vec![Precision::F16.into()]));
    assert_eq!(
        Recipe::from_toml(&recipe.to_toml().unwrap()),
        Ok(recipe.clone())
    );
    let (_, report) = recipe
        .compress(&model, &CompressOptions::default())
        .unwrap();
    assert_eq!(row(&report, "layer.0.weight").method, "fixed_point 4");
    assert_eq!(row(&report, "layer.1.weight").method, "dense 16");
    assert_eq!(row(&report, "head.weight").method, "keep");
    recipe.rules[0].except.push("[".to_owned());
    assert!(matches!(recipe.check(), Err(Error::Recipe { .. })));
}
