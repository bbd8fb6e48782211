//! What the fuzz targets are started from, and what they once failed on, without a fuzzer.

use std::path::{Path, PathBuf};

use taper::Seed;
use taper::model::{CompressedModel, CompressedTensor, Container, Entry};
use taper::ndarray::ArrayD;

use crate::draw::Draw;
use crate::kinds::{Kind, kinds};
use crate::{laws, targets};

type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 4] = [
    ("container", targets::container),
    ("artifact", targets::artifact),
    ("recipe", targets::recipe),
    ("compress", targets::compress),
];

fn seeds(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/seeds")
        .join(target)
}

#[test]
fn seeds_of_the_fuzz_targets() {
    for (name, target) in TARGETS {
        let mut files = 0;
        for file in std::fs::read_dir(seeds(name)).unwrap() {
            let file = file.unwrap().path();
            let result = std::panic::catch_unwind(|| target(&std::fs::read(&file).unwrap()));
            assert!(result.is_ok(), "{}", file.display());
            files += 1;
        }
        assert!(files > 0, "no seeds for {name}");
    }
}

#[test]
fn random_bytes() {
    for (name, target) in TARGETS {
        for i in 0..200 {
            let seed = Seed::from(i);
            let bytes: Vec<u8> = (0..8 + 3 * i)
                .map(|j| seed.derive(j).value() as u8)
                .collect();
            let result = std::panic::catch_unwind(|| target(&bytes));
            assert!(result.is_ok(), "{name} of the {i}th bytes");
        }
    }
}

/// A fuzzer would not come upon a coding by itself.
#[test]
fn some_seeds_are_coded() {
    let files = std::fs::read_dir(seeds("container")).unwrap();
    let coded = files.filter(|file| {
        let file = std::fs::read(file.as_ref().unwrap().path()).unwrap();
        is_coded(&file)
    });
    assert!(coded.count() > 2);
}

/// Whether the arrays of a container are shorter than the parts of its artifacts.
fn is_coded(container: &[u8]) -> bool {
    let Ok(container) = Container::from_bytes(container.to_vec()) else {
        return false;
    };
    let report = container.report(None, false).unwrap();
    let stored: u64 = report.rows.iter().map(|row| row.bytes_after).sum();
    let model = CompressedModel::from_container(&container).unwrap();
    let parts = model.iter().map(|(_, entry)| match entry {
        Entry::Compressed(tensor) => tensor.artifact().storage().bytes(),
        Entry::Plain(tensor) => tensor.bytes.len() as u64,
    });
    stored < parts.sum()
}

/// Writes a container of each kind where the fuzzer begins, and one with coded parts where that pays: after the format or the
/// kinds have changed, `cargo test -p taper --test artifacts write_containers -- --ignored`.
#[test]
#[ignore = "writes files"]
fn write_containers() {
    let container = |kind: &Kind, weights: ArrayD<f32>, mut draw: Draw<'_>| {
        let artifact = (kind.single)(weights.view(), &mut draw).unwrap();
        let mut model = CompressedModel::new();
        model.insert("w", CompressedTensor::from(artifact)).unwrap();
        model.to_bytes().unwrap()
    };
    for kind in kinds() {
        let file = seeds("container").join(kind.name.replace(' ', "_"));
        let mut draw = Draw::from(2);
        let weights = laws::weights(kind.axes, &mut draw);
        std::fs::write(&file, container(&kind, weights, draw.clone())).unwrap();
        // Few large weights among many small ones.
        let shape = [32, 40, 3, 3];
        let weights = laws::numbers(&shape[..kind.axes], &mut draw).mapv(|w| w.powi(5));
        let coded = container(&kind, weights, draw);
        if is_coded(&coded) && coded.len() < 3000 {
            std::fs::write(file.with_extension("coded"), coded).unwrap();
        }
    }
}
