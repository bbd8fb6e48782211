//! Recipes, budgets and parts of models, from file to file.

use std::path::PathBuf;

use ndarray::{ArrayD, IxDyn};
use proptest::prelude::*;

use crate::factorize::Rank;
use crate::factorize::cp::CpAls;
use crate::factorize::svd::TruncatedSvd;
use crate::model::*;
use crate::prune::{Keep, MagnitudePruner, Sparsity};
use crate::quantize::binary::Binarizer;
use crate::quantize::fixed_point::{FixedPointQuantizer, Range};
use crate::quantize::product::{OptimizedProductQuantizer, ProductQuantizer};
use crate::{Error, Precision, Seed};

fn numbers(shape: &[usize], seed: u64) -> ArrayD<f32> {
    let mut stream = 0;
    ArrayD::from_shape_simple_fn(IxDyn(shape), || {
        stream += 1;
        Seed::from(seed).uniform(stream) as f32 / 2.0
    })
}

/// A small network of linear and convolution weights.
fn network() -> NamedTensors {
    let tensors = [
        ("conv.weight", numbers(&[8, 4, 3, 3], 1)),
        ("fc1.weight", numbers(&[48, 32], 2)),
        ("fc1.bias", numbers(&[48], 3)),
        ("fc2.weight", numbers(&[16, 48], 4)),
        ("scale", numbers(&[], 5)),
    ];
    let views = tensors.iter().map(|(name, tensor)| (*name, tensor.view()));
    NamedTensors::from_bytes(NamedTensors::to_bytes(views).unwrap()).unwrap()
}

fn product(width: usize, centroids: usize) -> ProductQuantizer {
    ProductQuantizer::with_width(width)
        .centroids(centroids)
        .precision(Precision::F16)
}

fn fixed(bits: u32) -> Step {
    FixedPointQuantizer::new(bits)
        .range(Range::SquaredError)
        .precision(Precision::F32)
        .into()
}

fn svd(rank: usize) -> TruncatedSvd {
    TruncatedSvd::new(Rank::Fixed(rank)).precision(Precision::F16)
}

fn prune(keep: f64) -> Step {
    MagnitudePruner::new(Sparsity::Unstructured(Keep::Fraction(keep)))
        .precision(Precision::F16)
        .into()
}

fn chains() -> Vec<Vec<Step>> {
    let cp = CpAls::new(Rank::Fixed(2));
    vec![
        vec![Precision::F16.into()],
        vec![fixed(4)],
        vec![Binarizer::new().precision(Precision::F16).into()],
        vec![product(2, 8).into()],
        vec![OptimizedProductQuantizer::new(product(2, 8)).into()],
        vec![svd(2).into()],
        vec![svd(2).into(), fixed(6)],
        vec![svd(2).into(), product(1, 4).into()],
        vec![cp.clone().into()],
        vec![cp.precision(Precision::F16).into(), fixed(8)],
        vec![prune(0.3)],
        vec![prune(0.3), product(1, 4).into()],
        vec![prune(0.3), fixed(3)],
    ]
}

fn recipe(chain: Vec<Step>) -> Recipe {
    let rule = Rule {
        tensors: "*.weight".to_owned(),
        except: Vec::new(),
        min_values: 0,
        chain,
    };
    Recipe {
        seed: 3,
        rules: vec![rule],
    }
}

/// A folder that is removed afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("taper-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn files(&self) -> usize {
        std::fs::read_dir(&self.0).unwrap().count()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn every_chain_reads_back_as_it_was_reported() {
    let network = network();
    for chain in chains() {
        let recipe = recipe(chain);
        let text = recipe.to_toml().unwrap();
        assert_eq!(Recipe::from_toml(&text).unwrap(), recipe, "{text}");
        let options = CompressOptions::default().limits(true);
        let (model, report) = recipe.compress(&network, &options).unwrap();
        let bytes = model.to_bytes().unwrap();
        assert_eq!(report.bytes_after, bytes.len() as u64);
        assert_eq!(report.bytes_before, network.file_bytes());
        let arrays: u64 = report.rows.iter().map(|row| row.bytes_after).sum();
        assert_eq!(report.header_bytes() + arrays, bytes.len() as u64);
        let again = CompressedModel::from_bytes(&bytes).unwrap();
        for row in &report.rows {
            let weights = network.get(&row.name).unwrap();
            let rebuilt = again.decompress(&row.name).unwrap();
            assert_eq!(weights.shape(), rebuilt.shape());
            let sum = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
                weights
                    .iter()
                    .zip(&rebuilt)
                    .map(|(&w, &r)| f(w.into(), r.into()))
                    .sum()
            };
            let error = sum(&|w, r| (w - r) * (w - r)) / sum(&|w, _| w * w);
            // Two sums of the same terms in the same order.
            assert!(
                (error - row.weight_error).abs() <= 1e-12 * error,
                "{}",
                row.name
            );
            // A limit for independent weights is below the bits of a code for single weights.
            if let Some(limit) = row.limit_bits {
                assert!(limit >= 0.0 && row.weight_error > 0.0);
                let scalar = row.method.starts_with("fixed_point") || row.method == "binary";
                assert!(!scalar || row.distance().unwrap() > 0.0, "{row:?}");
            }
            assert_eq!(
                row.method == "keep",
                !row.name.ends_with("weight"),
                "{}",
                row.name
            );
        }
        let text = report.to_string();
        assert!(report.rows.iter().all(|row| text.contains(&row.name)));
        assert!(text.contains(&report.bytes_after.to_string()));
    }
}

#[test]
fn files_are_equal_whoever_writes_them() {
    let network = network();
    let folder = Folder::new("shards");
    let path = |name: &str| folder.0.join(name);
    let recipe = recipe(vec![product(2, 8).into()]);
    let options = CompressOptions::default();
    let report = recipe
        .compress_file(&network, path("one"), &options)
        .unwrap();
    let one = std::fs::read(path("one")).unwrap();
    assert_eq!(report.bytes_after, one.len() as u64);
    let (model, in_memory) = recipe.compress(&network, &options).unwrap();
    assert_eq!(model.to_bytes().unwrap(), one);
    assert_eq!(in_memory, report);
    for count in [2, 3, 7] {
        let parts: Vec<PathBuf> = (1..=count)
            .rev()
            .map(|index| {
                let part = path(&format!("part {index} of {count}"));
                let options = options.shard(Shard::new(index, count).unwrap());
                recipe.compress_file(&network, &part, &options).unwrap();
                part
            })
            .collect();
        let length = Shard::merge(&parts, path("merged")).unwrap();
        assert_eq!(length, one.len() as u64);
        assert_eq!(std::fs::read(path("merged")).unwrap(), one);
        assert!(matches!(
            Shard::merge(&parts[1..], path("no")),
            Err(Error::Shards { .. })
        ));
        let twice = [&parts[0]; 2];
        assert!(matches!(
            Shard::merge(&twice[..], path("no")),
            Err(Error::Shards { .. })
        ));
    }
    assert!(matches!(
        Shard::merge(&[path("one")], path("no")),
        Err(Error::Shards { .. })
    ));
    // Nothing is left of what failed, and nothing beside what succeeded.
    assert!(!path("no").exists());
    assert_eq!(folder.files(), 2 + 2 + 3 + 7);
}

#[test]
fn calibration_is_used_and_reported() {
    let network = network();
    // Inputs that live in a quarter of the directions.
    let mut inputs = numbers(&[200, 32], 9);
    for (index, x) in inputs.indexed_iter_mut() {
        if index[1] >= 8 {
            *x *= 0.01;
        }
    }
    let mut calibration = Calibration::new();
    calibration.add("fc1.weight", inputs.view()).unwrap();
    let recipe = recipe(vec![svd(6).precision(Precision::F32).into()]);
    let plain = recipe
        .compress(&network, &CompressOptions::default())
        .unwrap()
        .1;
    let options = CompressOptions::default().calibration(&calibration);
    let (model, guided) = recipe.compress(&network, &options).unwrap();
    let row = |report: &Report, name: &str| {
        report
            .rows
            .iter()
            .find(|row| row.name == name)
            .unwrap()
            .clone()
    };
    assert_eq!(row(&guided, "fc2.weight"), row(&plain, "fc2.weight"));
    assert_eq!(row(&plain, "fc1.weight").output_error, None);
    let guided = row(&guided, "fc1.weight");
    // Better where the inputs are, worse where they are not.
    assert!(guided.weight_error > row(&plain, "fc1.weight").weight_error);
    let x = inputs.into_dimensionality::<ndarray::Ix2>().unwrap();
    let w = network
        .get("fc1.weight")
        .unwrap()
        .into_dimensionality::<ndarray::Ix2>()
        .unwrap();
    let exact = x.dot(&w.t());
    let norm = |y: &ndarray::Array2<f32>| y.iter().map(|&y| f64::from(y).powi(2)).sum::<f64>();
    let error = norm(&(&model.apply("fc1.weight", x.view()).unwrap() - &exact)) / norm(&exact);
    let reported = guided.output_error.unwrap();
    // The products are sums of 32 numbers in single precision.
    assert!((error - reported).abs() < 1e-4 * reported + 32.0 * f64::from(f32::EPSILON));
}

#[test]
fn budgets_are_kept() {
    let network = network();
    let options = CompressOptions::default();
    let mut last = f64::INFINITY;
    for ratio in [1.0, 2.0, 3.0, 4.0].into_iter().rev() {
        let limit = (network.file_bytes() as f64 / ratio) as u64;
        let budget = Budget::bytes(limit).seed(1);
        let recipe = match budget.recipe(&network) {
            Ok(recipe) => recipe,
            Err(Error::BudgetOutOfReach { least, .. }) => {
                assert!(least > limit as f64);
                continue;
            }
            Err(other) => panic!("{other}"),
        };
        let report = recipe.compress(&network, &options).unwrap().1;
        assert!(
            report.bytes_after <= limit,
            "{} of {limit}",
            report.bytes_after
        );
        let error: f64 = report.rows.iter().map(|row| row.weight_error).sum();
        assert!(error <= last, "{error} after {last}");
        last = error;
        // What matters more is kept better.
        let guarded = budget.sensitivity("fc2.weight", 1e6);
        let guarded = guarded.recipe(&network).unwrap();
        let guarded = guarded.compress(&network, &options).unwrap().1;
        let error = |report: &Report| {
            report
                .rows
                .iter()
                .find(|row| row.name == "fc2.weight")
                .unwrap()
                .weight_error
        };
        assert!(error(&guarded) <= error(&report));
    }
    assert!(last.is_finite(), "no budget was within reach");
    let none = Budget::bytes(10).recipe(&network);
    assert!(matches!(none, Err(Error::BudgetOutOfReach { .. })));
    let report = Budget::error(0.02).seed(1).compress(&network).unwrap().1;
    assert!(report.rows.iter().map(|row| row.weight_error).sum::<f64>() <= 0.02 + 1e-12);
    assert!(report.bytes_after < report.bytes_before / 2);
}

#[test]
fn errors_name_the_line_and_the_tensor() {
    let line = |text: &str| match Recipe::from_toml(text) {
        Err(Error::Recipe { line, .. }) => line,
        other => panic!("{other:?}"),
    };
    assert_eq!(line("seed = 1\nsede = 2\n"), 2);
    assert_eq!(
        line("[[rule]]\ntensors = \"*\"\nchain = [\n  \"keep\",\n  \"kepe\",\n]"),
        5
    );
    assert!(Recipe::from_toml("[[rule]]\ntensors = \"[\"\nchain = []").is_err());
    assert!(Recipe::from_toml("[[rule]]\ntensors = \"*\"\nchain = [\"keep\", \"keep\"]").is_err());
    assert!(matches!(
        Recipe::from_json("{\n\"seed\": -1}"),
        Err(Error::Recipe { line: 2, .. })
    ));
    // A width that divides no axis.
    let strict = CompressOptions::default().strict(true);
    let error = recipe(vec![product(5, 4).into()]).compress(&network(), &strict);
    match error {
        Err(Error::InTensor { name, source }) => {
            assert_eq!(name, "conv.weight");
            assert!(matches!(*source, Error::Indivisible { .. }), "{source}");
        }
        other => panic!("{other:?}"),
    }
}

/// A recipe with each kind of value.
const RECIPE: &str = "seed = 7
[[rule]]
tensors = \"*.w\"
except = [\"a.w\"]
min_values = 9
chain = [{ svd = { rank = { fraction = 0.25 } } }, { fixed_point = { bits = 4, granularity = \"per_row\" } }]
[[rule]]
tensors = \"?\"
chain = [\"keep\"]
";

proptest! {
    #[test]
    fn a_recipe_with_a_change_is_another_recipe_or_an_error(
        at in 0..RECIPE.len(),
        removed in 0_usize..6,
        inserted in "[a-z\\[\\]{}=\" \n0-9.]{0,4}",
    ) {
        let mut text = RECIPE.to_owned();
        text.replace_range(at..RECIPE.len().min(at + removed), &inserted);
        match Recipe::from_toml(&text) {
            Ok(recipe) => {
                let again = Recipe::from_toml(&recipe.to_toml().unwrap());
                prop_assert_eq!(again.unwrap(), recipe);
            }
            Err(Error::Recipe { .. } | Error::InRule { .. }) => {}
            Err(other) => prop_assert!(false, "{}", other),
        }
    }
}
