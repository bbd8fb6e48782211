//! The command-line tool, run as a program.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ndarray::{ArrayD, IxDyn};
use taper::model::{Calibration, CompressedModel, NamedTensors, Recipe};

fn taper(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_taper"))
        .args(args)
        .current_dir(folder)
        .output()
        .expect("the tool has been built")
}

fn succeeds(folder: &Path, args: &[&str]) -> String {
    let output = taper(folder, args);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?}: {error}");
    String::from_utf8(output.stdout).expect("the tool prints text")
}

fn fails(folder: &Path, args: &[&str]) -> String {
    let output = taper(folder, args);
    assert!(!output.status.success(), "{args:?}");
    String::from_utf8(output.stderr).expect("the tool prints text")
}

/// A folder with `model.safetensors`, removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("taper-cli-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let weight = |rows: usize, columns: usize| {
            ArrayD::from_shape_fn(IxDyn(&[rows, columns]), |i| {
                ((i[0] * 31 + i[1] * 17) as f32).sin()
            })
        };
        let layers = [
            ("fc1.weight", weight(96, 64)),
            ("fc2.weight", weight(32, 96)),
        ];
        let bias = ArrayD::zeros(IxDyn(&[32]));
        let tensors = layers.iter().map(|(name, layer)| (*name, layer.view()));
        let tensors = tensors.chain([("fc2.bias", bias.view())]);
        NamedTensors::save(folder.join("model.safetensors"), tensors).unwrap();
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn length(path: PathBuf) -> u64 {
    std::fs::metadata(path).unwrap().len()
}

#[test]
fn a_budget_is_kept_and_the_dense_file_has_the_same_tensors() {
    let folder = Folder::new("budget");
    let at = |name: &str| folder.0.join(name);
    let mut calibration = Calibration::new();
    let inputs = ArrayD::from_shape_fn(IxDyn(&[50, 64]), |i| ((i[0] * 7 + i[1]) as f32).cos());
    calibration.add("fc1.weight", inputs.view()).unwrap();
    calibration.save(at("moments.safetensors")).unwrap();
    let printed = succeeds(
        &folder.0,
        &[
            "compress",
            "model.safetensors",
            "small.safetensors",
            "--budget",
            "5x",
            "--calibration",
            "moments.safetensors",
            "--sensitivity",
            "fc2.*=2",
            "--save-recipe",
            "recipe.toml",
            "--json",
            "report.json",
        ],
    );
    assert!(
        printed.contains("fc1.weight") && printed.contains("output"),
        "{printed}"
    );
    assert!(5 * length(at("small.safetensors")) <= length(at("model.safetensors")));
    let report = std::fs::read_to_string(at("report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["bytes_after"], length(at("small.safetensors")));

    // The recipe gives the same file.
    assert!(Recipe::load(at("recipe.toml")).is_ok());
    succeeds(
        &folder.0,
        &[
            "compress",
            "model.safetensors",
            "again.safetensors",
            "--recipe",
            "recipe.toml",
            "--calibration",
            "moments.safetensors",
        ],
    );
    let bytes = |name| std::fs::read(at(name)).unwrap();
    assert_eq!(bytes("small.safetensors"), bytes("again.safetensors"));

    succeeds(
        &folder.0,
        &["decompress", "small.safetensors", "dense.safetensors"],
    );
    let dense = NamedTensors::open(at("dense.safetensors")).unwrap();
    let small = CompressedModel::load(at("small.safetensors")).unwrap();
    for (name, entry) in small.iter() {
        assert_eq!(dense.get(name).unwrap(), entry.decompress().unwrap());
    }
    let inspected = succeeds(
        &folder.0,
        &[
            "inspect",
            "small.safetensors",
            "--original",
            "model.safetensors",
            "--limits",
        ],
    );
    assert!(inspected.contains("limit"), "{inspected}");
}

#[test]
fn parts_of_a_model_join_to_the_whole() {
    let folder = Folder::new("parts");
    let recipe = "[[rule]]\ntensors = \"*.weight\"\nchain = [{ fixed_point = { bits = 4 } }]";
    std::fs::write(folder.0.join("recipe.toml"), recipe).unwrap();
    let compress = |output: &str, more: &[&str]| {
        let args = [
            "compress",
            "model.safetensors",
            output,
            "--recipe",
            "recipe.toml",
        ];
        succeeds(&folder.0, &[&args, more].concat());
    };
    compress("whole", &[]);
    compress("1", &["--shard", "1/2"]);
    compress("2", &["--shard", "2/2"]);
    succeeds(&folder.0, &["merge", "joined", "1", "2"]);
    let bytes = |name| std::fs::read(folder.0.join(name)).unwrap();
    assert_eq!(bytes("whole"), bytes("joined"));
}

#[test]
fn errors_say_what_is_wrong_and_write_nothing() {
    let folder = Folder::new("errors");
    let missing = fails(&folder.0, &["compress", "model.safetensors", "small"]);
    assert!(
        missing.contains("--budget") && missing.contains("--recipe"),
        "{missing}"
    );
    let budget = fails(
        &folder.0,
        &["compress", "model.safetensors", "small", "--budget", "8q"],
    );
    assert!(budget.contains("8q"), "{budget}");
    let reach = fails(
        &folder.0,
        &[
            "compress",
            "model.safetensors",
            "small",
            "--budget",
            "100000x",
        ],
    );
    assert!(reach.contains("cannot be kept"), "{reach}");
    let file = fails(&folder.0, &["inspect", "model.safetensors"]);
    assert!(file.contains("container"), "{file}");
    assert!(!folder.0.join("small").exists());
}
