//! Whole models with tied, quantized, empty and odd tensors.

use ndarray::{Array2, ArrayD, IxDyn};

use super::file::{folder, plain};
use super::{contents, forged};
use crate::factorize::Rank;
use crate::factorize::svd::TruncatedSvd;
use crate::model::*;
use crate::prune::{Keep, MagnitudePruner, Sparsity};
use crate::quantize::binary::Binarizer;
use crate::quantize::fixed_point::FixedPointQuantizer;
use crate::quantize::product::ProductQuantizer;
use crate::{DType, Error, Precision, Seed};

fn numbers(shape: &[usize], seed: u64) -> ArrayD<f32> {
    let mut stream = 0;
    ArrayD::from_shape_simple_fn(IxDyn(shape), || {
        stream += 1;
        Seed::from(seed).uniform(stream) as f32 / 2.0
    })
}

fn model(tensors: &[(&str, TensorData<'static>)]) -> NamedTensors {
    let tensors = tensors.iter().map(|(name, tensor)| (*name, tensor.clone()));
    NamedTensors::from_bytes(NamedTensors::to_bytes(tensors).unwrap()).unwrap()
}

fn array(values: &ArrayD<f32>) -> TensorData<'static> {
    TensorData::from(values.view()).into_owned()
}

fn of(dtype: DType, shape: &[usize], bytes: Vec<u8>) -> TensorData<'static> {
    TensorData {
        dtype,
        shape: shape.to_vec(),
        bytes: bytes.into(),
    }
}

fn doubles(shape: &[usize], values: impl IntoIterator<Item = f64>) -> TensorData<'static> {
    let bytes = values.into_iter().flat_map(f64::to_le_bytes).collect();
    of(DType::F64, shape, bytes)
}

fn rule(tensors: &str, chain: impl Into<Vec<Step>>) -> Rule {
    Rule {
        tensors: tensors.to_owned(),
        except: Vec::new(),
        min_values: 0,
        chain: chain.into(),
    }
}

fn recipe(rules: impl Into<Vec<Rule>>) -> Recipe {
    Recipe {
        seed: 3,
        rules: rules.into(),
    }
}

fn product() -> Step {
    let quantizer = ProductQuantizer::with_width(4).centroids(16);
    quantizer.precision(Precision::F16).into()
}

fn fixed(bits: u32) -> Step {
    FixedPointQuantizer::new(bits).into()
}

fn row<'a>(report: &'a Report, name: &str) -> &'a ReportRow {
    report.rows.iter().find(|row| row.name == name).unwrap()
}

/// A language model whose output layer is its embedding.
fn tied() -> NamedTensors {
    let shared = array(&numbers(&[64, 32], 1));
    model(&[
        ("embed.weight", shared.clone()),
        ("fc.weight", array(&numbers(&[64, 32], 2))),
        ("lm_head.weight", shared),
        ("norm.bias", plain(&[0.0; 32])),
        ("output.bias", plain(&[0.0; 32])),
        ("steps", plain(&[7.0])),
        ("steps_too", plain(&[7.0])),
    ])
}

#[test]
fn tied_tensors_have_one_artifact_and_are_stored_once() {
    let input = tied();
    let recipe = recipe([rule("*", [product()])]);
    let (small, report) = recipe
        .compress(&input, &CompressOptions::default())
        .unwrap();
    let head = row(&report, "lm_head.weight");
    assert_eq!(head.method, "tied to embed.weight");
    assert_eq!((head.bytes_before, head.bytes_after), (8192, 0));
    assert_eq!(head.weight_error, row(&report, "embed.weight").weight_error);
    assert_eq!(row(&report, "output.bias").method, "tied to norm.bias");
    // Single values are equal by chance.
    assert_eq!(row(&report, "steps_too").method, "keep");
    assert!(report.to_string().contains("tied to embed.weight"));
    assert!(!report.to_string().contains("inf"), "{report}");

    let bytes = small.to_bytes().unwrap();
    assert_eq!(report.bytes_after, bytes.len() as u64);
    assert_eq!(small.file_bytes().unwrap(), bytes.len() as u64);
    let container = Container::from_bytes(bytes.clone()).unwrap();
    let lines = contents(&bytes).0;
    assert!(lines.contains("lm_head.weight\t=embed.weight\n"), "{lines}");
    for name in input.names() {
        let dense = small.decompress(name).unwrap();
        assert_eq!(container.get(name).unwrap().decompress().unwrap(), dense);
    }
    let [embed, head] = ["embed.weight", "lm_head.weight"].map(|n| small.decompress(n).unwrap());
    assert_eq!(embed, head);
    // What is read and written again is stored once, too.
    let again = CompressedModel::from_bytes(&bytes).unwrap();
    assert_eq!(again.to_bytes().unwrap(), bytes);
    let of_file = container.report(Some(&input), false).unwrap();
    for (a, b) in of_file.rows.iter().zip(&report.rows) {
        assert_eq!((&a.name, a.bytes_after), (&b.name, b.bytes_after));
        assert_eq!(a.weight_error, b.weight_error);
        assert_eq!(a.method.starts_with("tied"), b.method.starts_with("tied"));
    }
    // Dense files have all names.
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    container.save_dense(path("dense")).unwrap();
    small.save_dense(path("same")).unwrap();
    let read = |name: &str| std::fs::read(path(name)).unwrap();
    assert_eq!(read("dense"), read("same"));
    let dense = NamedTensors::open(path("dense")).unwrap();
    assert_eq!(dense.get("lm_head.weight").unwrap(), embed);
    assert_eq!(dense.len(), input.len());
}

#[test]
fn ties_do_not_depend_on_who_writes_the_file() {
    let input = tied();
    let recipe = recipe([rule("*", [product()])]);
    let options = CompressOptions::default();
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    let (small, in_memory) = recipe.compress(&input, &options).unwrap();
    let report = recipe.compress_file(&input, path("one"), &options).unwrap();
    let one = std::fs::read(path("one")).unwrap();
    assert_eq!(report, in_memory);
    assert_eq!(small.to_bytes().unwrap(), one);
    for count in [2, 3, 9] {
        let parts: Vec<_> = (1..=count)
            .map(|index| {
                let part = path(&format!("{index}"));
                let options = options.shard(Shard::new(index, count).unwrap());
                recipe.compress_file(&input, &part, &options).unwrap();
                part
            })
            .collect();
        Shard::merge(&parts, path("merged")).unwrap();
        assert_eq!(std::fs::read(path("merged")).unwrap(), one, "{count} parts");
    }
    // Equal tensors are found whoever adds them, in any order.
    let entries: Vec<_> = small.iter().collect();
    let mut writer = ContainerWriter::create(path("reversed")).unwrap();
    for (name, entry) in entries.into_iter().rev() {
        writer.add(name, &fresh(entry)).unwrap();
    }
    writer.finish().unwrap();
    assert_eq!(std::fs::read(path("reversed")).unwrap(), one);
}

/// The same tensor, which shares nothing with the one given.
fn fresh(entry: &Entry) -> Entry {
    let mut model = CompressedModel::new();
    match entry {
        Entry::Compressed(tensor) => model.insert("a", tensor.clone()).unwrap(),
        Entry::Plain(tensor) => model.insert_plain("a", tensor.clone()).unwrap(),
    }
    let again = Container::from_bytes(model.to_bytes().unwrap()).unwrap();
    again.get("a").unwrap()
}

#[test]
fn only_equal_tensors_are_tied() {
    let one = numbers(&[8, 8], 30);
    let mut other = one.clone();
    other[[7, 6]] += 0.25;
    let zeros = |dtype, shape: &[usize]| {
        let bytes = shape.iter().product::<usize>() * if dtype == DType::F32 { 4 } else { 2 };
        of(dtype, shape, vec![0; bytes])
    };
    let input = model(&[
        ("a", array(&one)),
        ("b", array(&other)),
        ("c", array(&one)),
        ("d", array(&other)),
        ("e", array(&one)),
        (
            "f",
            array(&one.clone().into_shape_with_order(IxDyn(&[4, 16])).unwrap()),
        ),
        ("g", zeros(DType::F16, &[8, 8])),
        ("h", zeros(DType::BF16, &[8, 8])),
        ("i", zeros(DType::F32, &[4, 8])),
        ("j", of(DType::I64, &[4], vec![1; 32])),
        ("k", of(DType::I64, &[4], vec![1; 32])),
    ]);
    let (small, report) = recipe([rule("*", [product()])])
        .compress(&input, &CompressOptions::default())
        .unwrap();
    for (name, first) in [("c", "a"), ("d", "b"), ("e", "a"), ("k", "j")] {
        assert_eq!(row(&report, name).method, format!("tied to {first}"));
        assert_eq!(
            row(&report, name).weight_error,
            row(&report, first).weight_error
        );
    }
    for name in ["a", "b", "f", "g", "h", "i", "j"] {
        assert!(!row(&report, name).method.starts_with("tied"), "{name}");
    }
    let again = CompressedModel::from_bytes(&small.to_bytes().unwrap()).unwrap();
    for name in input.names().filter(|name| !["j", "k"].contains(name)) {
        let dense = again.decompress(name).unwrap();
        assert_eq!(dense.shape(), input.data(name).unwrap().shape);
        assert_eq!(dense, small.decompress(name).unwrap());
    }
}

#[test]
fn different_tensors_with_equal_codes_are_stored_once() {
    // Signs are all that is left of these, and they are equal.
    let one = numbers(&[16, 16], 31);
    let input = model(&[("a", array(&one)), ("b", array(&one.mapv(|x| 3.0 * x)))]);
    let recipe = recipe([rule("*", [Binarizer::new().into()])]);
    let (small, report) = recipe
        .compress(&input, &CompressOptions::default())
        .unwrap();
    let folder = folder();
    let path = folder.path().join("file");
    let of_file = recipe
        .compress_file(&input, &path, &CompressOptions::default())
        .unwrap();
    assert_eq!(report, of_file);
    assert_eq!(std::fs::read(&path).unwrap(), small.to_bytes().unwrap());
    assert_eq!(row(&report, "b").bytes_after, 0);
    assert_ne!(
        row(&report, "b").weight_error,
        row(&report, "a").weight_error
    );
}

#[test]
fn tied_tensors_with_different_rules_follow_their_rules() {
    let input = tied();
    let rules = [rule("lm_head.*", [fixed(4)]), rule("*", [product()])];
    let (small, report) = recipe(rules)
        .compress(&input, &CompressOptions::default())
        .unwrap();
    let head = row(&report, "lm_head.weight");
    assert!(head.method.starts_with("fixed_point"), "{}", head.method);
    assert!(
        head.notes[0].contains("equals embed.weight"),
        "{:?}",
        head.notes
    );
    assert_ne!(
        small.decompress("embed.weight").unwrap(),
        small.decompress("lm_head.weight").unwrap()
    );
}

#[test]
fn tied_tensors_use_the_calibration_of_the_first_layer_that_has_one() {
    let input = tied();
    let mut calibration = Calibration::new();
    let inputs = Array2::from_shape_fn((50, 32), |(n, i)| ((n * 7 + i * i) as f32).cos());
    calibration.add("lm_head.weight", inputs.view()).unwrap();
    let options = CompressOptions::default().calibration(&calibration);
    let recipe = recipe([rule("*", [fixed(3)])]);
    let report = recipe.compress(&input, &options).unwrap().1;
    let [embed, head] = ["embed.weight", "lm_head.weight"].map(|name| row(&report, name));
    assert!(embed.output_error.is_some());
    assert_eq!(embed.output_error, head.output_error);
    // Inputs that are not used are not ignored in silence.
    calibration
        .add("embed.weight", (&inputs * 0.5).view())
        .unwrap();
    let options = CompressOptions::default().calibration(&calibration);
    let report = recipe.compress(&input, &options).unwrap().1;
    assert_eq!(row(&report, "lm_head.weight").notes.len(), 1);
}

#[test]
fn budgets_count_tied_tensors_once() {
    let input = tied();
    let budget = Budget::ratio(8.0).seed(3);
    let (small, report) = budget.compress(&input).unwrap();
    assert_eq!(
        row(&report, "lm_head.weight").method,
        "tied to embed.weight"
    );
    assert_eq!(small.file_bytes().unwrap(), report.bytes_after);
    assert!(report.ratio() >= 8.0, "{report}");
    let names: Vec<&str> = report.rows.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(names, input.names().collect::<Vec<_>>());
    // The recipe that was found makes the same file.
    let again = report.recipe.compress(&input, &CompressOptions::default());
    assert_eq!(
        again.unwrap().0.to_bytes().unwrap(),
        small.to_bytes().unwrap()
    );
    let folder = folder();
    budget
        .compress_file(&input, folder.path().join("a"))
        .unwrap();
    let file = std::fs::read(folder.path().join("a")).unwrap();
    assert_eq!(file, small.to_bytes().unwrap());
}

#[test]
fn sizes_that_an_error_names_are_within_reach() {
    let input = tied();
    let least = |budget: &Budget<'_>| match budget.compress(&input) {
        Err(Error::BudgetOutOfReach { least, .. }) => least,
        other => panic!("{:?}", other.map(|made| made.1)),
    };
    for candidates in [vec![vec![fixed(2)]], vec![], few_bit_candidates()] {
        let budget = |bytes| Budget::bytes(bytes).candidates(candidates.clone());
        let smallest = least(&budget(10)) as u64;
        assert_eq!(least(&budget(smallest - 1)), smallest as f64);
        let report = budget(smallest).compress(&input).unwrap().1;
        assert_eq!(report.bytes_after, smallest);
        // The size at which nothing is compressed is within reach, and nothing is lost there.
        let kept = Recipe::default().compress(&input, &CompressOptions::default());
        let kept = kept.unwrap().1.bytes_after;
        let report = budget(kept).compress(&input).unwrap().1;
        assert!(report.rows.iter().all(|row| row.weight_error == 0.0));
        // Less than a tensor takes without ties, and a byte less than with them, is a budget too.
        if smallest < kept {
            let report = budget(kept - 1).compress(&input).unwrap().1;
            assert!(report.bytes_after < kept);
        }
    }
}

#[test]
fn zeros_are_no_error() {
    let zeros = ArrayD::zeros(IxDyn(&[16, 8]));
    let input = model(&[
        ("dead.weight", array(&numbers(&[16, 8], 4))),
        ("zero.weight", array(&zeros)),
    ]);
    let mut calibration = Calibration::new();
    for name in ["dead.weight", "zero.weight"] {
        calibration
            .add(name, Array2::<f32>::zeros((9, 8)).view())
            .unwrap();
    }
    for calibration in [None, Some(&calibration)] {
        let mut chains = few_bit_candidates();
        chains.push(vec![Binarizer::new().into()]);
        chains.push(vec![TruncatedSvd::new(Rank::Fixed(2)).into(), fixed(4)]);
        for chain in chains {
            let options = CompressOptions {
                calibration,
                ..CompressOptions::default()
            };
            let recipe = recipe([rule("*", chain.clone())]);
            let report = recipe.compress(&input, &options).unwrap().1;
            assert_eq!(row(&report, "zero.weight").weight_error, 0.0, "{chain:?}");
            for row in &report.rows {
                assert!(
                    row.weight_error.is_finite() && row.output_error.is_none_or(f64::is_finite)
                );
            }
        }
        let mut budget = Budget::error(0.1);
        if let Some(calibration) = calibration {
            budget = budget.calibration(calibration);
        }
        let report = budget.compress(&input).unwrap().1;
        assert_ne!(row(&report, "dead.weight").method, "keep", "{report}");
        // Zeros take next to nothing as they are.
        assert!(row(&report, "zero.weight").bytes_after < 16, "{report}");
    }
}

#[test]
fn one_odd_tensor_does_not_stop_a_model() {
    let mut mask = ArrayD::zeros(IxDyn(&[8, 8]));
    mask[[0, 1]] = f32::NEG_INFINITY;
    let prune = |keep| MagnitudePruner::new(Sparsity::Unstructured(Keep::Fraction(keep)));
    let cases: [(&str, ArrayD<f32>, Vec<Step>); 5] = [
        ("conv1.weight", numbers(&[64, 3, 7, 7], 5), vec![product()]),
        (
            "thin.weight",
            numbers(&[4, 64], 6),
            vec![TruncatedSvd::new(Rank::Fixed(8)).into()],
        ),
        ("attn.mask", mask, vec![fixed(4)]),
        (
            "lora_B.weight",
            ArrayD::zeros(IxDyn(&[16, 4])),
            vec![prune(0.5).into(), fixed(4)],
        ),
        ("tiny.weight", numbers(&[2, 2], 7), vec![prune(0.1).into()]),
    ];
    for (name, tensor, chain) in cases {
        let good = array(&numbers(&[32, 16], 8));
        let input = model(&[(name, array(&tensor)), ("good.weight", good)]);
        let rules = [rule(name, chain), rule("*", [fixed(4)])];
        let recipe = recipe(rules);
        let (small, report) = recipe
            .compress(&input, &CompressOptions::default())
            .unwrap();
        assert!(
            row(&report, "good.weight")
                .method
                .starts_with("fixed_point")
        );
        let odd = row(&report, name);
        let strict = recipe.compress(&input, &CompressOptions::default().strict(true));
        if odd.method == "keep" {
            assert!(odd.notes[0].starts_with("kept, since"), "{:?}", odd.notes);
            assert_eq!(small.decompress(name).unwrap(), tensor);
            assert!(matches!(strict, Err(Error::InTensor { name: of, .. }) if of == name));
        } else {
            assert!(strict.is_ok() && odd.weight_error.is_finite(), "{name}");
        }
    }
}

#[test]
fn doubles_are_compressed_and_come_back_as_doubles() {
    let values = numbers(&[16, 8], 9);
    let input = model(&[
        ("empty", of(DType::F32, &[0, 4], Vec::new())),
        ("flags", of(DType::BOOL, &[2, 2], vec![1, 0, 1, 1])),
        ("huge", doubles(&[2, 2], [1e300, 1.0, 2.0, 3.0])),
        ("ids", of(DType::I64, &[2, 2], vec![1; 32])),
        ("small", doubles(&[2, 2], [1e-300, 1e-301, 0.0, 2e-300])),
        (
            "weight",
            doubles(&[16, 8], values.iter().map(|&x| f64::from(x))),
        ),
    ]);
    let recipe = recipe([rule("*", [fixed(8)])]);
    let (small, report) = recipe
        .compress(&input, &CompressOptions::default())
        .unwrap();
    let weight = row(&report, "weight");
    assert!(
        weight.method.starts_with("fixed_point") && weight.ratio() > 6.0,
        "{report}"
    );
    for name in ["huge", "small"] {
        let row = row(&report, name);
        assert!(row.method == "keep" && row.notes.len() == 1, "{row:?}");
    }
    for name in ["empty", "flags", "ids"] {
        assert!(row(&report, name).notes.is_empty());
    }
    assert!(!report.to_string().contains("NaN"), "{report}");
    let (_, budgeted) = Budget::error(0.1).compress(&input).unwrap();
    assert!(!budgeted.to_string().contains("NaN"), "{budgeted}");
    assert_ne!(row(&budgeted, "weight").method, "keep");
    let folder = folder();
    let path = folder.path().join("dense");
    small.save_dense(&path).unwrap();
    let dense = NamedTensors::open(&path).unwrap();
    for name in input.names() {
        let (before, after) = (input.data(name).unwrap(), dense.data(name).unwrap());
        assert_eq!((before.dtype, &before.shape), (after.dtype, &after.shape));
        assert!(name == "weight" || before.bytes == after.bytes, "{name}");
    }
}

#[test]
fn a_container_is_not_compressed_again() {
    let recipe = recipe([rule("*", [product()])]);
    let options = CompressOptions::default();
    let small = recipe.compress(&tied(), &options).unwrap().0;
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    small.save(path("small")).unwrap();
    let container = NamedTensors::open(path("small")).unwrap();
    let errors = [
        recipe.compress(&container, &options).unwrap_err(),
        recipe
            .compress_file(&container, path("no"), &options)
            .unwrap_err(),
        Budget::ratio(2.0).compress(&container).unwrap_err(),
        Budget::ratio(2.0).recipe(&container).unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        assert!(
            error.to_string().contains("Container::save_dense"),
            "{error}"
        );
    }
    assert!(!path("no").exists());
    // What the error says works.
    Container::open(path("small"))
        .unwrap()
        .save_dense(path("dense"))
        .unwrap();
    let dense = NamedTensors::open(path("dense")).unwrap();
    recipe.compress(&dense, &options).unwrap();
}

/// E4M3 codes of a few small numbers.
fn codes(shape: &[usize]) -> TensorData<'static> {
    let count = shape.iter().product::<usize>();
    let bytes = (0..count).map(|i| ((i * 37 + i / 11) % 0x60) as u8 | ((i % 3 == 0) as u8) << 7);
    of(DType::F8_E4M3, shape, bytes.collect())
}

#[test]
fn scales_of_eight_bit_weights_are_never_compressed() {
    let scale = ndarray::arr2(&[[0.01_f32, 0.02], [0.037, 0.041]]).into_dyn();
    let input = model(&[
        ("a.weight", codes(&[200, 256])),
        ("a.weight_scale_inv", array(&scale)),
        ("b.weight", codes(&[4, 8])),
        ("b.weight_scale", array(&numbers(&[4, 1], 10))),
        ("b.input_scale", array(&numbers(&[1, 2], 11))),
        // The weights are in another file.
        ("c.weight_scale_inv", array(&scale)),
        ("d.weight", array(&numbers(&[32, 32], 12))),
        // Eight bits without scales are weights.
        ("e.weight", codes(&[16, 16])),
        ("norm.weight_scale", array(&numbers(&[8, 8], 13))),
    ]);
    let recipe = recipe([rule("*", [fixed(2)])]);
    let (small, report) = recipe
        .compress(&input, &CompressOptions::default())
        .unwrap();
    let budgeted = Budget::error(1.0).compress(&input).unwrap().1;
    for name in input.names() {
        let ordinary = ["d.weight", "e.weight", "norm.weight_scale"].contains(&name);
        let row = row(&report, name);
        if ordinary {
            assert!(row.method.starts_with("fixed_point"), "{row:?}");
            continue;
        }
        assert!(
            row.method.starts_with("keep") || row.method.starts_with("tied"),
            "{row:?}"
        );
        let Entry::Plain(kept) = small.get(name).unwrap() else {
            panic!("{name} is compressed");
        };
        assert_eq!(kept, &input.data(name).unwrap());
        if row.method == "keep" {
            assert!(row.notes[0].starts_with("kept, since"), "{row:?}");
            let budgeted = budgeted.rows.iter().find(|row| row.name == name).unwrap();
            assert!(budgeted.notes[0].starts_with("kept, since"), "{budgeted:?}");
        }
    }
    // A recipe that keeps all has nothing to say.
    let kept = Recipe::default().compress(&input, &CompressOptions::default());
    assert!(kept.unwrap().1.rows.iter().all(|row| row.notes.is_empty()));
}

#[test]
fn eight_bit_weights_are_read_as_what_they_stand_for() {
    let blocks = numbers(&[2, 3], 14);
    let rows = numbers(&[5, 1], 15);
    let input = model(&[
        ("a.weight", codes(&[130, 300])),
        ("a.weight_scale_inv", array(&blocks)),
        ("b.weight", codes(&[5, 7])),
        ("b.weight_scale", array(&rows)),
        ("c.weight", codes(&[3, 4])),
        ("c.scale_weight", plain(&[0.25])),
        ("d.weight", codes(&[6, 6])),
    ]);
    let raw = |name: &str| input.get(name).unwrap();
    let expected = [
        ("a.weight", raw("a.weight"), 128, 128, blocks.clone()),
        ("b.weight", raw("b.weight"), 1, 7, rows.clone()),
        (
            "c.weight",
            raw("c.weight"),
            3,
            4,
            ArrayD::from_elem(IxDyn(&[1, 1]), 0.25),
        ),
    ];
    let last = raw("d.weight");
    let whole = input.dequantized().unwrap();
    assert_eq!(
        whole.names().collect::<Vec<_>>(),
        ["a.weight", "b.weight", "c.weight", "d.weight"]
    );
    for (name, codes, high, wide, scales) in expected {
        let weights = whole.get(name).unwrap();
        for ((index, &weight), &code) in weights.indexed_iter().zip(&codes) {
            let exact = code * scales[[index[0] / high, index[1] / wide]];
            assert_eq!(
                weight,
                half::bf16::from_f32(exact).to_f32(),
                "{name} {index:?}"
            );
        }
        assert_eq!(whole.data(name).unwrap().dtype, DType::BF16);
    }
    assert_eq!(whole.get("d.weight").unwrap(), last);
    assert_eq!(whole.data("d.weight").unwrap().dtype, DType::F8_E4M3);
    // They are compressed like any others.
    let recipe = recipe([rule("*", [fixed(8)])]);
    let (small, report) = recipe
        .compress(&whole, &CompressOptions::default())
        .unwrap();
    for row in &report.rows {
        assert!(
            row.method.starts_with("fixed_point") && row.notes.is_empty(),
            "{row:?}"
        );
    }
    let folder = folder();
    small.save_dense(folder.path().join("dense")).unwrap();
    let dense = NamedTensors::open(folder.path().join("dense")).unwrap();
    assert_eq!(dense.data("a.weight").unwrap().dtype, DType::BF16);
    // Equal codes with equal scales are equal weights, with other scales they are not.
    let names = ["p", "q", "r"].map(|name| (name.to_owned(), format!("{name}_scale")));
    let mut tensors = Vec::new();
    for ((name, scale), factor) in names.iter().zip([0.5, 0.5, 0.25]) {
        tensors.push((name.as_str(), codes(&[8, 8])));
        tensors.push((scale.as_str(), plain(&[factor])));
    }
    let whole = model(&tensors).dequantized().unwrap();
    let report = recipe
        .compress(&whole, &CompressOptions::default())
        .unwrap()
        .1;
    assert_eq!(row(&report, "q").method, "tied to p");
    assert!(row(&report, "r").method.starts_with("fixed_point"));
    // Scales that do not fit are an error with the name.
    let wrong = model(&[
        ("w", codes(&[10, 10])),
        ("w_scale", array(&numbers(&[3, 1], 16))),
    ]);
    assert!(matches!(wrong.dequantized(), Err(Error::InTensor { name, .. }) if name == "w"));
    let odd = model(&[
        ("w", codes(&[2, 2])),
        ("w_scale", of(DType::I32, &[1], vec![1; 4])),
    ]);
    assert!(matches!(odd.dequantized(), Err(Error::InTensor { name, .. }) if name == "w"));
}

#[test]
fn packed_layouts_are_kept_whole() {
    let halves =
        |shape: &[usize], seed| TensorData::of(numbers(shape, seed).view(), DType::F16).unwrap();
    let ints = |shape: &[usize]| {
        of(
            DType::I32,
            shape,
            vec![3; 4 * shape.iter().product::<usize>()],
        )
    };
    let input = model(&[
        ("gptq.bias", halves(&[4, 16], 17)),
        ("gptq.g_idx", ints(&[64])),
        ("gptq.qweight", ints(&[8, 16])),
        ("gptq.qzeros", ints(&[2, 2])),
        ("gptq.scales", halves(&[2, 16], 18)),
        ("bnb.weight", of(DType::U8, &[64, 1], vec![9; 64])),
        ("bnb.weight.absmax", array(&numbers(&[2, 2], 19))),
        ("mlx.biases", halves(&[8, 2], 20)),
        ("mlx.scales", halves(&[8, 2], 21)),
        ("mlx.weight", of(DType::U32, &[8, 8], vec![5; 256])),
        ("scales", array(&numbers(&[8, 8], 22))),
        ("step", ints(&[1])),
        ("step_embedding.weight", array(&numbers(&[8, 8], 23))),
    ]);
    let recipe = recipe([rule("*", [fixed(2)])]);
    let report = recipe
        .compress(&input, &CompressOptions::default())
        .unwrap()
        .1;
    for row in &report.rows {
        let ordinary = ["gptq.bias", "scales", "step_embedding.weight"];
        if ordinary.contains(&row.name.as_str()) {
            assert!(row.method.starts_with("fixed_point"), "{row:?}");
        } else {
            assert_eq!(row.method, "keep", "{row:?}");
            assert_eq!(row.notes.is_empty(), row.name == "step", "{row:?}");
        }
    }
}

#[test]
fn forged_ties_are_refused() {
    let file = |ties: &str| forged(&format!("a\tU8:2\n{ties}"), &[7; 2]);
    let good = Container::from_bytes(file("b\t=a\n")).unwrap();
    assert_eq!(good.names().collect::<Vec<_>>(), ["a", "b"]);
    assert!(matches!(good.get("b").unwrap(), Entry::Plain(tensor) if *tensor.bytes == [7, 7]));
    for ties in [
        "b\t=b\n",
        "b\t=c\n",
        "b\t=\n",
        "a\t=a\n",
        "b\t=a\nc\t=b\n",
        "b\t=a",
        "b\t= a\n",
        "b\t=a\n\t=a\n",
    ] {
        let error = Container::from_bytes(file(ties)).unwrap_err();
        assert!(
            matches!(error, Error::Malformed { .. }),
            "{ties:?}: {error}"
        );
    }
}
