//! What is written to a file is read back equal, and a file is replaced whole or not at all.

use std::path::{Path, PathBuf};

use ndarray::{Array2, ArrayD, IxDyn, arr1, arr2};
use proptest::prelude::*;

use super::*;
use crate::factorize::Rank;
use crate::factorize::svd::TruncatedSvd;
use crate::{Error, Factorizer, Precision};

/// An empty folder that is removed with all that it holds.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn low_rank() -> CompressedTensor {
    let weights = Array2::from_shape_fn((4, 3), |(i, j)| (i * 3 + j) as f32);
    CompressedTensor::new(TruncatedSvd::params(Rank::Fixed(1)).factorize(weights.view()).unwrap())
}

fn plain(values: &[f32]) -> PlainTensor {
    PlainTensor::from(arr1(values).view().into_dyn())
}

fn dense(values: &[f32]) -> CompressedTensor {
    CompressedTensor::new(Dense::new(arr1(values).view().into_dyn(), Precision::F32).unwrap())
}

const DTYPES: [Dtype; 22] = [
    Dtype::BOOL, Dtype::F4, Dtype::F6_E2M3, Dtype::F6_E3M2, Dtype::U8, Dtype::I8, Dtype::F8_E5M2,
    Dtype::F8_E4M3, Dtype::F8_E8M0, Dtype::F8_E4M3FNUZ, Dtype::F8_E5M2FNUZ, Dtype::I16, Dtype::U16,
    Dtype::F16, Dtype::BF16, Dtype::I32, Dtype::U32, Dtype::F32, Dtype::C64, Dtype::F64, Dtype::I64, Dtype::U64,
];

/// Names that a file format finds hard.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "", "/", "#", "%", "%23", "##", "a", "a/b", "a/b/c", "a#b", "a#b/c", "a/left", "a#left", "a/values", "a#values",
            "__metadata__", "%5F_metadata__", "taper", "taper:a", "taper-shard", "taper+", "taper+taper", ".", "..",
            "left", "values", "\u{0}", "\"", "\\", "\n", "π/权重", "🦀",
        ])
        .prop_map(str::to_owned),
        "[a-c/#%._]{0,4}",
        any::<String>(),
        Just("long".repeat(5000)),
    ]
}

#[derive(Debug, Clone)]
enum Kind {
    Plain(Dtype, Vec<usize>, u64),
    Dense(Dtype, Vec<f32>),
    LowRank(Dtype),
}

fn kind() -> impl Strategy<Value = Kind> {
    let dtype = || prop::sample::select(DTYPES.to_vec());
    prop_oneof![
        (dtype(), prop::collection::vec(0_usize..4, 0..4), any::<u64>()).prop_map(|(dtype, shape, seed)| Kind::Plain(dtype, shape, seed)),
        (dtype(), prop::collection::vec(-1e3_f32..1e3, 1..4)).prop_map(|(dtype, values)| Kind::Dense(dtype, values)),
        dtype().prop_map(Kind::LowRank),
    ]
}

fn entry(kind: &Kind) -> Entry {
    match kind {
        Kind::Plain(dtype, shape, seed) => {
            let mut shape = shape.clone();
            let bits = |shape: &[usize]| shape.iter().product::<usize>() * dtype.bitsize();
            if bits(&shape) % 8 != 0 {
                shape.push(8);
            }
            let bytes = (0..bits(&shape) as u64 / 8).map(|i| crate::Seed::from(*seed).derive(i).value() as u8);
            Entry::Plain(TensorData { dtype: *dtype, bytes: bytes.collect(), shape })
        }
        Kind::Dense(dtype, values) => Entry::Compressed(dense(values).with_dtype(*dtype)),
        Kind::LowRank(dtype) => Entry::Compressed(low_rank().with_dtype(*dtype)),
    }
}

fn same(a: &CompressedModel, b: &CompressedModel) {
    assert_eq!(a.iter().map(|x| x.0).collect::<Vec<_>>(), b.iter().map(|x| x.0).collect::<Vec<_>>());
    for ((name, a), (_, b)) in a.iter().zip(b.iter()) {
        match (a, b) {
            (Entry::Plain(a), Entry::Plain(b)) => assert_eq!(a, b),
            (Entry::Compressed(a), Entry::Compressed(b)) => {
                assert_eq!((a.shape(), a.dtype()), (b.shape(), b.dtype()));
                assert_eq!(a.artifact().kind(), b.artifact().kind());
                assert_eq!(a.artifact().parts(), b.artifact().parts());
            }
            _ => panic!("{name:?} is compressed in one model and plain in the other"),
        }
    }
}

proptest! {
    #[test]
    fn any_map_of_names_and_metadata_reads_back(
        tensors in prop::collection::btree_map(name(), kind(), 0..8),
        metadata in prop::collection::btree_map(name(), any::<String>(), 0..5),
    ) {
        let mut model = CompressedModel::new();
        for (name, kind) in &tensors {
            match entry(kind) {
                Entry::Plain(tensor) => model.insert_plain(name, tensor).unwrap(),
                Entry::Compressed(tensor) => model.insert(name, tensor).unwrap(),
            }
        }
        for (key, value) in &metadata {
            model.set_metadata(key, value);
        }
        let bytes = model.to_bytes().unwrap();
        let container = Container::new(Source::from(bytes.clone()), Registry::default()).unwrap();
        prop_assert_eq!(container.metadata(), &metadata);
        let again = CompressedModel::from_container(&container).unwrap();
        same(&model, &again);
        prop_assert_eq!(again.to_bytes().unwrap(), bytes);
    }
}

#[test]
fn a_tensor_may_be_named_like_the_part_of_another() {
    let mut model = CompressedModel::new();
    model.insert("fc", low_rank()).unwrap();
    model.insert_plain("fc/left", plain(&[1.0])).unwrap();
    same(&model, &CompressedModel::from_bytes(&model.to_bytes().unwrap()).unwrap());
}

#[test]
fn duplicate_keys_are_malformed() {
    let file = |json: &str, data: &[u8]| {
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend(json.bytes());
        bytes.extend(data);
        bytes
    };
    let tensor = r#""a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}"#;
    let twice = [
        file(&format!("{{{tensor},{tensor}}}"), &[0]),
        file(&format!(r#"{{"__metadata__":{{"k":"1","k":"2"}},{tensor}}}"#), &[0]),
        file(&format!(r#"{{"__metadata__":{{}},"__metadata__":{{}},{tensor}}}"#), &[0]),
        file(r#"{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#, &[0]),
    ];
    for bytes in twice {
        let error = NamedTensors::new(Source::from(bytes)).unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{error}");
        assert!(error.to_string().contains("twice") || error.to_string().contains("duplicate"), "{error}");
    }
}

#[test]
fn a_file_is_saved_over_while_it_is_mapped() {
    let folder = folder();
    let path = folder.path().join("model.safetensors");
    let large = ArrayD::from_elem(IxDyn(&[1 << 16]), 1.5_f32);
    NamedTensors::save(&path, [("a", large.view())]).unwrap();
    let mapped = NamedTensors::open(&path).unwrap();
    NamedTensors::save(&path, [("a", arr2(&[[2.0_f32]]).view().into_dyn())]).unwrap();
    // The map shows the file as it was opened, the path the new file.
    assert_eq!(mapped.get("a").unwrap(), large);
    assert_eq!(NamedTensors::open(&path).unwrap().get("a").unwrap().shape(), [1, 1]);
}

fn listed(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn files_of_long_names_are_written() {
    let folder = folder();
    let path = folder.path().join("n".repeat(250));
    NamedTensors::save(&path, [("a", arr1(&[1.0_f32]).view().into_dyn())]).unwrap();
    let mut model = CompressedModel::new();
    model.insert("fc", low_rank()).unwrap();
    model.save(&path).unwrap();
    same(&model, &CompressedModel::load(&path).unwrap());
    assert_eq!(listed(folder.path()), [path]);
}

#[test]
fn threads_write_one_path_at_once() {
    let folder = folder();
    let path = folder.path().join("model");
    let mut model = CompressedModel::new();
    model.insert("fc", low_rank()).unwrap();
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..8).map(|_| scope.spawn(|| (0..8).try_for_each(|_| model.save(&path).map(drop)))).collect();
        for writer in writers {
            writer.join().unwrap().unwrap();
        }
    });
    same(&model, &CompressedModel::load(&path).unwrap());
    assert_eq!(listed(folder.path()), [path]);
}

#[cfg(unix)]
#[test]
fn the_mode_of_a_replaced_file_is_kept() {
    use std::os::unix::fs::PermissionsExt;
    let folder = folder();
    let path = folder.path().join("model");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let mut model = CompressedModel::new();
    model.insert("fc", low_rank()).unwrap();
    model.save(&path).unwrap();
    let ordinary = folder.path().join("ordinary");
    std::fs::write(&ordinary, []).unwrap();
    assert_eq!(mode(&path), mode(&ordinary), "a new file has the mode of any other new file");
    for wanted in [0o600, 0o640, 0o664, 0o755] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(wanted)).unwrap();
        model.save(&path).unwrap();
        assert_eq!(mode(&path), wanted);
        NamedTensors::save(&path, [("a", arr1(&[1.0_f32]).view().into_dyn())]).unwrap();
        assert_eq!(mode(&path), wanted);
    }
}
