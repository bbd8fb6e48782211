//! What is written to a file is read back equal, and a file is replaced whole or not at all.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ndarray::{Array2, ArrayD, IxDyn, arr1, arr2};
use proptest::prelude::*;

use super::{forged, same};
use crate::factorize::Rank;
use crate::factorize::svd::TruncatedSvd;
use crate::model::*;
use crate::{DType, Error, Factorizer, Precision};

/// An empty folder that is removed with all that it holds.
pub(super) fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

pub(super) fn low_rank() -> CompressedTensor {
    let weights = Array2::from_shape_fn((4, 3), |(i, j)| (i * 3 + j) as f32);
    CompressedTensor::new(
        TruncatedSvd::new(Rank::Fixed(1))
            .factorize(weights.view())
            .unwrap(),
    )
}

pub(super) fn plain(values: &[f32]) -> TensorData<'static> {
    TensorData::from(arr1(values).view().into_dyn())
}

fn dense(values: &[f32]) -> CompressedTensor {
    CompressedTensor::new(Dense::new(arr1(values).view().into_dyn(), Precision::F32).unwrap())
}

const DTYPES: [DType; 22] = [
    DType::BOOL,
    DType::F4,
    DType::F6_E2M3,
    DType::F6_E3M2,
    DType::U8,
    DType::I8,
    DType::F8_E5M2,
    DType::F8_E4M3,
    DType::F8_E8M0,
    DType::F8_E4M3FNUZ,
    DType::F8_E5M2FNUZ,
    DType::I16,
    DType::U16,
    DType::F16,
    DType::BF16,
    DType::I32,
    DType::U32,
    DType::F32,
    DType::C64,
    DType::F64,
    DType::I64,
    DType::U64,
];

/// Names that a file format finds hard.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "",
            "/",
            "#",
            "%",
            "%23",
            "##",
            "a",
            "a/b",
            "a/b/c",
            "a#b",
            "a#b/c",
            "a/left",
            "a#left",
            "a/values",
            "a#values",
            "__metadata__",
            "%5F_metadata__",
            "taper",
            "taper:a",
            "taper-shard",
            "taper+",
            "taper+taper",
            ".",
            "..",
            "left",
            "values",
            "\u{0}",
            "\"",
            "\\",
            "\n",
            "π/权重",
            "🦀",
        ])
        .prop_map(str::to_owned),
        "[a-c/#%._]{0,4}",
        any::<String>(),
        Just("long".repeat(5000)),
    ]
}

#[derive(Debug, Clone)]
enum Kind {
    Plain(DType, Vec<usize>, u64),
    Dense(DType, Vec<f32>),
    LowRank(DType),
}

fn plain_kind() -> impl Strategy<Value = Kind> {
    let dtype = prop::sample::select(DTYPES.to_vec());
    let shape = prop::collection::vec(0_usize..4, 0..4);
    (dtype, shape, any::<u64>()).prop_map(|(dtype, shape, seed)| Kind::Plain(dtype, shape, seed))
}

fn kind() -> impl Strategy<Value = Kind> {
    let dtype = || prop::sample::select(DTYPES.to_vec());
    prop_oneof![
        plain_kind(),
        (dtype(), prop::collection::vec(-1e3_f32..1e3, 1..4))
            .prop_map(|(dtype, values)| Kind::Dense(dtype, values)),
        dtype().prop_map(Kind::LowRank),
    ]
}

fn fill(tensors: &BTreeMap<String, Kind>, metadata: &BTreeMap<String, String>) -> CompressedModel {
    let mut model = CompressedModel::new();
    for (name, kind) in tensors {
        match entry(kind) {
            Entry::Plain(tensor) => model.insert_plain(name, tensor).unwrap(),
            Entry::Compressed(tensor) => model.insert(name, tensor).unwrap(),
        }
    }
    for (key, value) in metadata {
        model.set_metadata(key, value);
    }
    model
}

fn entry(kind: &Kind) -> Entry {
    match kind {
        Kind::Plain(dtype, shape, seed) => {
            let mut shape = shape.clone();
            let bits = |shape: &[usize]| shape.iter().product::<usize>() * dtype.bits();
            if bits(&shape) % 8 != 0 {
                shape.push(8);
            }
            let bytes = (0..bits(&shape) as u64 / 8)
                .map(|i| crate::Seed::from(*seed).derive(i).value() as u8);
            Entry::Plain(TensorData {
                dtype: *dtype,
                bytes: bytes.collect(),
                shape,
            })
        }
        Kind::Dense(dtype, values) => Entry::Compressed(dense(values).with_dtype(*dtype)),
        Kind::LowRank(dtype) => Entry::Compressed(low_rank().with_dtype(*dtype)),
    }
}

proptest! {
    #[test]
    fn any_map_of_names_and_metadata_reads_back(
        tensors in prop::collection::btree_map(name(), kind(), 0..8),
        metadata in prop::collection::btree_map(name(), any::<String>(), 0..5),
    ) {
        let model = fill(&tensors, &metadata);
        let bytes = model.to_bytes().unwrap();
        let container = Container::from_bytes(bytes.clone()).unwrap();
        prop_assert_eq!(container.metadata(), &metadata);
        let again = CompressedModel::from_container(&container).unwrap();
        same(&model, &again);
        prop_assert_eq!(again.to_bytes().unwrap(), bytes);
    }

    /// A dense file becomes a container, or is written by itself, and comes out byte for byte as it went in.
    #[test]
    fn dense_files_come_out_as_they_went_in(
        mut tensors in prop::collection::btree_map(name(), plain_kind(), 0..8),
        metadata in prop::collection::btree_map(name(), any::<String>(), 0..5),
    ) {
        tensors.remove("__metadata__");
        let folder = folder();
        let path = |name: &str| folder.path().join(name);
        let read = |name: &str| std::fs::read(path(name)).unwrap();
        let length = fill(&tensors, &metadata).save_dense(path("dense")).unwrap();
        let dense = NamedTensors::open(path("dense")).unwrap();
        prop_assert_eq!(dense.file_bytes(), length);
        prop_assert_eq!(dense.metadata(), &metadata);
        prop_assert_eq!(dense.names().collect::<Vec<_>>(), tensors.keys().collect::<Vec<_>>());

        let mut writer = ContainerWriter::create(path("container")).unwrap();
        metadata.iter().for_each(|(key, value)| writer.metadata(key, value));
        for (name, kind) in &tensors {
            let data = dense.data(name).unwrap();
            let Entry::Plain(tensor) = entry(kind) else { unreachable!("all are plain") };
            prop_assert_eq!(&data, &tensor);
            writer.add_plain(name, &data).unwrap();
        }
        writer.finish().unwrap();
        Container::open(path("container")).unwrap().save_dense(path("streamed")).unwrap();
        CompressedModel::load(path("container")).unwrap().save_dense(path("loaded")).unwrap();
        dense.save_with(path("again"), []).unwrap();
        dense.save_with(path("dense"), []).unwrap();
        for other in ["streamed", "loaded", "again"] {
            prop_assert_eq!(read(other), read("dense"));
        }
    }

    /// Arrays and tensors of any type are read back as they were given, by any reader of the format.
    #[test]
    fn any_map_of_dense_tensors_reads_back(
        mut tensors in prop::collection::btree_map(name(), plain_kind(), 0..8),
    ) {
        tensors.remove("__metadata__");
        let entries: BTreeMap<&str, Entry> = tensors.iter().map(|(name, kind)| (&**name, entry(kind))).collect();
        let data = || entries.iter().map(|(name, entry)| {
            let Entry::Plain(tensor) = entry else { unreachable!("all are plain") };
            (*name, tensor.clone())
        });
        let bytes = NamedTensors::to_bytes(data()).unwrap();
        let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        prop_assert_eq!(theirs.len(), tensors.len());
        let ours = NamedTensors::from_bytes(bytes.clone()).unwrap();
        for (name, tensor) in data() {
            prop_assert_eq!(&ours.data(name).unwrap(), &tensor);
            let theirs = theirs.tensor(name).unwrap();
            prop_assert_eq!((format!("{:?}", theirs.dtype()), theirs.shape(), theirs.data()), (format!("{:?}", tensor.dtype), &*tensor.shape, &*tensor.bytes));
        }
    }

    /// Half precision that is compressed without loss has the same bits in the dense file.
    #[test]
    fn half_precision_survives_compression(bits in prop::collection::vec(any::<u16>(), 1..50)) {
        let folder = folder();
        let path = folder.path().join("dense");
        let mut model = CompressedModel::new();
        let halves: Vec<half::f16> = bits.iter().map(|&bits| half::f16::from_bits(bits)).filter(|x| x.is_finite()).collect();
        let brains: Vec<half::bf16> = bits.iter().map(|&bits| half::bf16::from_bits(bits)).filter(|x| x.is_finite()).collect();
        let half_bytes: Vec<u8> = halves.iter().flat_map(|x| x.to_le_bytes()).collect();
        let brain_bytes: Vec<u8> = brains.iter().flat_map(|x| x.to_le_bytes()).collect();
        prop_assume!(!halves.is_empty() && !brains.is_empty());
        let compressed = |values: Vec<f32>, precision, dtype| {
            let array = ndarray::Array1::from(values).into_dyn();
            CompressedTensor::new(Dense::new(array.view(), precision).unwrap()).with_dtype(dtype)
        };
        let values = halves.iter().map(|x| x.to_f32()).collect();
        model.insert("f16", compressed(values, Precision::F16, DType::F16)).unwrap();
        let values = brains.iter().map(|x| x.to_f32()).collect();
        model.insert("bf16", compressed(values, Precision::F32, DType::BF16)).unwrap();
        let again = CompressedModel::from_bytes(&model.to_bytes().unwrap()).unwrap();
        again.save_dense(&path).unwrap();
        let dense = NamedTensors::open(&path).unwrap();
        prop_assert_eq!(&*dense.data("f16").unwrap().bytes, half_bytes);
        prop_assert_eq!(&*dense.data("bf16").unwrap().bytes, brain_bytes);
    }
}

#[test]
fn a_tensor_may_be_named_like_the_part_of_another() {
    let mut model = CompressedModel::new();
    model.insert("fc", low_rank()).unwrap();
    model.insert_plain("fc/left", plain(&[1.0])).unwrap();
    same(
        &model,
        &CompressedModel::from_bytes(&model.to_bytes().unwrap()).unwrap(),
    );
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
        file(
            &format!(r#"{{"__metadata__":{{"k":"1","k":"2"}},{tensor}}}"#),
            &[0],
        ),
        file(
            &format!(r#"{{"__metadata__":{{}},"__metadata__":{{}},{tensor}}}"#),
            &[0],
        ),
        // The same key, written in another way.
        file(
            &format!(r#"{{{tensor},{}}}"#, tensor.replace("\"a\"", "\"\\u0061\"")),
            &[0],
        ),
        file(r#"{"__metadata__":{"taper":"3","taper":"3"}}"#, &[]),
        file(
            r#"{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#,
            &[0],
        ),
    ];
    for bytes in twice {
        let error = NamedTensors::from_bytes(bytes).unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{error}");
        assert!(
            error.to_string().contains("twice") || error.to_string().contains("duplicate"),
            "{error}"
        );
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
    // The map has the content of the opened file, and the path leads to the new file.
    assert_eq!(mapped.get("a").unwrap(), large);
    assert_eq!(
        NamedTensors::open(&path).unwrap().get("a").unwrap().shape(),
        [1, 1]
    );
}

pub(super) fn listed(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
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
        let writers: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| (0..8).try_for_each(|_| model.save(&path).map(drop))))
            .collect();
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
    assert_eq!(
        mode(&path),
        mode(&ordinary),
        "a new file has the mode of any other new file"
    );
    for wanted in [0o600, 0o640, 0o664, 0o755] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(wanted)).unwrap();
        model.save(&path).unwrap();
        assert_eq!(mode(&path), wanted);
        NamedTensors::save(&path, [("a", arr1(&[1.0_f32]).view().into_dyn())]).unwrap();
        assert_eq!(mode(&path), wanted);
    }
}

#[test]
fn a_dense_file_that_cannot_be_written_changes_nothing() {
    let folder = folder();
    let path = folder.path().join("dense");
    std::fs::write(&path, "as before").unwrap();
    let unchanged = || {
        assert_eq!(std::fs::read(&path).unwrap(), b"as before");
        assert_eq!(listed(folder.path()), std::slice::from_ref(&path));
    };
    let save = |name: &str, tensor: CompressedTensor| {
        let mut model = CompressedModel::new();
        model.insert(name, tensor).unwrap();
        let container = Container::from_bytes(model.to_bytes().unwrap());
        let streamed = container.unwrap().save_dense(&path).unwrap_err();
        let error = model.save_dense(&path).unwrap_err();
        assert_eq!(error, streamed);
        unchanged();
        error
    };
    let error = save("__metadata__", dense(&[1.0]));
    assert!(error.to_string().contains("__metadata__"), "{error}");
    assert!(matches!(error, Error::Unsupported { .. }));
    // The value is beyond the range of the type that the tensor had.
    let error = save("fc", dense(&[1e6]).with_dtype(DType::F16));
    assert!(
        matches!(&error, Error::InTensor { name, .. } if name == "fc"),
        "{error}"
    );
    let error = save("fc", dense(&[1.0; 8]).with_dtype(DType::BOOL));
    assert!(
        matches!(&error, Error::InTensor { name, .. } if name == "fc"),
        "{error}"
    );

    let bytes = NamedTensors::to_bytes([("a", plain(&[1.0]))]).unwrap();
    let model = NamedTensors::from_bytes(bytes).unwrap();
    let value = arr1(&[1.0_f32]).into_dyn();
    assert!(matches!(
        model.save_with(&path, [("b", value.view())]),
        Err(Error::UnknownTensor { .. })
    ));
    assert!(matches!(
        NamedTensors::save(&path, [("__metadata__", value.view())]),
        Err(Error::Unsupported { .. })
    ));
    let cut = TensorData {
        bytes: vec![0; 3].into(),
        ..plain(&[1.0])
    };
    assert!(matches!(
        NamedTensors::save(&path, [("a", cut)]),
        Err(Error::Malformed { .. })
    ));
    unchanged();
}

#[test]
fn changed_tensors_keep_their_types() {
    let folder = folder();
    let path = folder.path().join("model");
    let mut model = CompressedModel::new();
    let half = CompressedTensor::new(
        Dense::new(arr1(&[1.0, 2.0]).into_dyn().view(), Precision::F16).unwrap(),
    );
    model.insert("half", half.with_dtype(DType::F16)).unwrap();
    model
        .insert_plain(
            "kept",
            TensorData {
                dtype: DType::I8,
                shape: vec![3],
                bytes: vec![1, 2, 3].into(),
            },
        )
        .unwrap();
    model.set_metadata("format", "pt");
    model.save_dense(&path).unwrap();
    let opened = NamedTensors::open(&path).unwrap();
    // Another shape too, and over the file that is mapped. 1 / 3 is not a number of half precision.
    let third = ArrayD::from_elem(IxDyn(&[3, 1]), 1.0_f32 / 3.0);
    opened.save_with(&path, [("half", third.view())]).unwrap();
    let again = NamedTensors::open(&path).unwrap();
    assert_eq!(again.data("half").unwrap().dtype, DType::F16);
    let rounded = half::f16::from_f32(1.0 / 3.0).to_f32();
    assert_eq!(
        again.get("half").unwrap(),
        ArrayD::from_elem(IxDyn(&[3, 1]), rounded)
    );
    assert_eq!(again.data("kept").unwrap(), opened.data("kept").unwrap());
    assert_eq!(again.metadata()["format"], "pt");
}

#[test]
fn what_killed_processes_left_does_not_stop_a_writer() {
    let folder = folder();
    let path = folder.path().join("model");
    for id in [std::process::id(), 1] {
        for role in ["parts", "partial"] {
            std::fs::write(
                folder.path().join(format!(".model.{id}.{role}")),
                "left over",
            )
            .unwrap();
        }
    }
    let before = listed(folder.path()).len();
    let mut model = CompressedModel::new();
    model.insert("fc", low_rank()).unwrap();
    model.save(&path).unwrap();
    assert_eq!(listed(folder.path()).len(), before + 1);
    // A writer that is dropped leaves nothing.
    let mut writer = ContainerWriter::create(&path).unwrap();
    writer.add("a", &Entry::Compressed(low_rank())).unwrap();
    drop(writer);
    assert_eq!(listed(folder.path()).len(), before + 1);
    same(&model, &CompressedModel::load(&path).unwrap());
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_what_is_not_a_file_is_refused() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    let mut model = CompressedModel::new();
    model.insert("fc", low_rank()).unwrap();
    std::fs::create_dir(path("blobs")).unwrap();
    std::os::unix::fs::symlink("blobs/model", path("link")).unwrap();
    std::os::unix::fs::symlink(path("link"), path("link of a link")).unwrap();
    for link in ["link", "link of a link"] {
        model.save(path(link)).unwrap();
        assert!(std::fs::symlink_metadata(path(link)).unwrap().is_symlink());
        assert_eq!(listed(&path("blobs")), [path("blobs/model")]);
        same(&model, &CompressedModel::load(path("blobs/model")).unwrap());
        std::fs::remove_file(path("blobs/model")).unwrap();
    }
    let _listener = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
    std::os::unix::fs::symlink("circle", path("circle")).unwrap();
    for name in ["blobs", "socket", "circle", "no/such/folder", ""] {
        let error = model.save(path(name)).unwrap_err();
        assert!(matches!(error, Error::File { .. }), "{name}: {error}");
    }
}

#[test]
fn an_error_of_a_file_has_the_error_of_the_system_as_its_source() {
    use std::error::Error as _;
    let error = NamedTensors::open("no/such/file").unwrap_err();
    let source = error
        .source()
        .and_then(|source| source.downcast_ref::<std::io::Error>());
    assert_eq!(source.unwrap().kind(), std::io::ErrorKind::NotFound);
    assert_eq!(error.clone(), error);
    assert_ne!(
        error,
        Error::file("no/such/file", std::io::ErrorKind::IsADirectory.into())
    );
    assert!(error.to_string().starts_with("no/such/file: "), "{error}");
}

#[test]
fn parts_of_a_model_with_any_names_are_joined() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    let entries = [
        ("fc", Entry::Compressed(low_rank())),
        ("fc/left", Entry::Plain(plain(&[1.0]))),
        ("fc#left", Entry::Compressed(dense(&[2.0]))),
        ("__metadata__", Entry::Plain(plain(&[3.0]))),
        (
            "taper",
            Entry::Compressed(low_rank().with_dtype(DType::F64)),
        ),
    ];
    let write = |name: &str, shard: Option<&str>, entries: &[(&str, Entry)]| {
        let mut writer = ContainerWriter::create(path(name)).unwrap();
        writer.metadata("taper-shard", "the model's own");
        writer.metadata("format", "pt");
        if let Some(shard) = shard {
            writer.raw_metadata("taper-shard", shard);
        }
        for (name, entry) in entries {
            writer.add(name, entry).unwrap();
        }
        writer.finish().unwrap();
        path(name)
    };
    let whole = write("whole", None, &entries);
    let parts = [
        write("1", Some("1/2"), &entries[..2]),
        write("2", Some("2/2"), &entries[2..]),
    ];
    Shard::merge(&parts, path("merged")).unwrap();
    assert_eq!(
        std::fs::read(path("merged")).unwrap(),
        std::fs::read(whole).unwrap()
    );
    // The same tensor in two parts, compressed in one and plain in the other.
    let clash = [("fc", Entry::Plain(plain(&[1.0])))];
    let parts = [
        write("1", Some("1/2"), &entries[..2]),
        write("2", Some("2/2"), &clash),
    ];
    let error = Shard::merge(&parts, path("merged")).unwrap_err();
    assert_eq!(
        error,
        Error::DuplicateName {
            name: "fc".to_owned()
        }
    );
}

#[test]
fn a_tensor_larger_than_any_memory_is_an_error() {
    // Three factors of 64 kB each stand for 2^48 values.
    let line = "w\tcp shape=65536x65536x65536 +weights=F16:1 +factor_0=F16:65536x1 +factor_1=F16:65536x1 +factor_2=F16:65536x1\n";
    let bytes = forged(line, &vec![0; 2 * (1 + 3 * 65536)]);
    let container = Container::from_bytes(bytes).unwrap();
    let error = container.get("w").unwrap().decompress().unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    let folder = folder();
    container
        .save_dense(folder.path().join("dense"))
        .unwrap_err();
    assert!(listed(folder.path()).is_empty());
}
