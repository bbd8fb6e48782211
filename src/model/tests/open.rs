//! Models in several files, and files that are not models.

use std::path::Path;

use super::file::{folder, plain};
use crate::Error;
use crate::model::*;

fn write(folder: &Path, file: &str, tensors: &[(&str, f32)]) {
    let tensors: Vec<_> = tensors
        .iter()
        .map(|&(name, value)| (name, plain(&[value])))
        .collect();
    NamedTensors::save(folder.join(file), tensors).unwrap();
}

const INDEX: &str = "model.safetensors.index.json";

/// A model of two shards, and the index with this map.
fn sharded(map: &str) -> tempfile::TempDir {
    let folder = folder();
    write(
        folder.path(),
        "model-1-of-2.safetensors",
        &[("a", 1.0), ("c", 3.0)],
    );
    write(folder.path(), "model-2-of-2.safetensors", &[("b", 2.0)]);
    let index = format!(r#"{{"metadata": {{"total_size": 12}}, "weight_map": {map}}}"#);
    std::fs::write(folder.path().join(INDEX), index).unwrap();
    folder
}

const MAP: &str = r#"{"b": "model-2-of-2.safetensors", "a": "model-1-of-2.safetensors", "c": "model-1-of-2.safetensors"}"#;

#[test]
fn shards_open_as_one_model() {
    let folder = sharded(MAP);
    for path in [folder.path().to_owned(), folder.path().join(INDEX)] {
        let model = NamedTensors::open(path).unwrap();
        assert_eq!(model.names().collect::<Vec<_>>(), ["a", "b", "c"]);
        for (name, value) in [("a", 1.0), ("b", 2.0), ("c", 3.0)] {
            assert_eq!(model.data(name).unwrap(), plain(&[value]));
        }
        let shard = |i| {
            std::fs::metadata(folder.path().join(format!("model-{i}-of-2.safetensors")))
                .unwrap()
                .len()
        };
        assert_eq!(model.file_bytes(), shard(1) + shard(2));
        // They become one file, equal to that of the same tensors.
        model.save_with(folder.path().join("one"), []).unwrap();
        write(folder.path(), "same", &[("a", 1.0), ("b", 2.0), ("c", 3.0)]);
        let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
        assert_eq!(read("one"), read("same"));
    }
}

#[test]
fn shards_have_the_metadata_on_which_they_agree() {
    let folder = sharded(MAP);
    for (i, names) in [(1, &["a", "c"][..]), (2, &["b"])] {
        let mut model = CompressedModel::new();
        names
            .iter()
            .for_each(|name| model.insert_plain(name, plain(&[1.0])).unwrap());
        model.set_metadata("format", "pt");
        model.set_metadata("part", &i.to_string());
        model
            .save_dense(folder.path().join(format!("model-{i}-of-2.safetensors")))
            .unwrap();
    }
    let model = NamedTensors::open(folder.path()).unwrap();
    assert_eq!(
        model.metadata().iter().collect::<Vec<_>>(),
        [(&"format".to_owned(), &"pt".to_owned())]
    );
}

#[test]
fn an_index_that_does_not_agree_with_its_shards_is_malformed() {
    for (map, problem) in [
        (r#"{"b": "model-1-of-2.safetensors"}"#, r#""b" is not in"#),
        (r#"{"d": "model-1-of-2.safetensors"}"#, r#""d" is not in"#),
        (
            r#"{"a": "model-1-of-2.safetensors", "a": "model-1-of-2.safetensors"}"#,
            "twice",
        ),
        (
            r#"{"a": "../model-1-of-2.safetensors"}"#,
            "not the name of a file",
        ),
        (r#"{"a": "/etc/passwd"}"#, "not the name of a file"),
        (r#"{"a": ""}"#, "not the name of a file"),
        (r#"{"a": 1}"#, "string"),
        ("[]", "an object"),
    ] {
        let folder = sharded(map);
        let error = NamedTensors::open(folder.path()).unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains(problem) && text.contains(INDEX),
            "{map}: {text}"
        );
    }
    let folder = sharded(MAP);
    write(
        folder.path(),
        "model-2-of-2.safetensors",
        &[("a", 1.0), ("b", 2.0)],
    );
    let error = NamedTensors::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains(r#""a" is in "#), "{error}");
    std::fs::remove_file(folder.path().join("model-2-of-2.safetensors")).unwrap();
    let error = NamedTensors::open(folder.path()).unwrap_err();
    assert!(
        matches!(&error, Error::File { path, .. } if path.ends_with("model-2-of-2.safetensors")),
        "{error}"
    );
}

#[test]
fn a_folder_opens_where_it_holds_one_model() {
    let folder = folder();
    assert!(matches!(
        NamedTensors::open(folder.path()),
        Err(Error::Unsupported { .. })
    ));
    let names = || NamedTensors::open(folder.path()).map(|model| model.names().collect::<String>());
    write(folder.path(), "adapter.safetensors", &[("a", 1.0)]);
    assert_eq!(names().unwrap(), "a");
    write(folder.path(), "other.safetensors", &[("b", 1.0)]);
    let error = names().unwrap_err().to_string();
    assert!(
        error.contains("adapter.safetensors") && error.contains("other.safetensors"),
        "{error}"
    );
    write(folder.path(), "model.safetensors", &[("c", 1.0)]);
    assert_eq!(names().unwrap(), "c");
    let folder = sharded(MAP);
    std::fs::copy(
        folder.path().join(INDEX),
        folder.path().join("model.fp16.safetensors.index.json"),
    )
    .unwrap();
    let error = NamedTensors::open(folder.path()).unwrap_err().to_string();
    assert!(
        error.contains("model.fp16") && error.contains(INDEX),
        "{error}"
    );
}

#[test]
fn files_of_other_formats_are_named() {
    let folder = folder();
    let page = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>";
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5000000000\n";
    let archive =
        b"PK\x03\x04\0\0\x08\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x10\0\x12\0archive/data.pklFB";
    let arrays = b"PK\x03\x04\x14\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x0a\0\0\0weight.npy";
    let pickle = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.";
    let shifted = b"\xef\xbb\xbf  \n<HTML lang=\"en\">";
    for (bytes, name) in [
        (&b""[..], "empty"),
        (page, "HTML"),
        (shifted, "HTML"),
        (
            b"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>",
            "XML",
        ),
        (pointer, "git-lfs"),
        (archive, "pickle"),
        (pickle, "pickle"),
        (arrays, ".npz"),
        (b"PK\x03\x04\x14\0\0\0\x08\0weights.txt", "ZIP"),
        (b"GGUF\x03\0\0\0\x23\x01\0\0\0\0\0\0", "GGUF"),
        (b"\x89HDF\r\n\x1a\n\0\0\0\0\0\x08\x08\0", "HDF5"),
        (b"\x93NUMPY\x01\0v\0{'descr': '<f4'", ".npy"),
        (b"\x1c\0\0\0TFL3\0\0\0\0", "TensorFlow Lite"),
        (b"\x1f\x8b\x08\0\0\0\0\0", "gzip"),
        (b"{\"weight_map\": {}}", "JSON"),
        (b"Entry not found", "Entry not found"),
        (b"\x08\x09\x12\x07pytorch\x1a\x05", "header"),
        (b"\x01\x02", "header"),
    ] {
        let path = folder.path().join("model.safetensors");
        std::fs::write(&path, bytes).unwrap();
        let errors = [
            NamedTensors::open(&path).unwrap_err(),
            Container::open(&path).unwrap_err(),
            CompressedModel::load(&path).unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error, Error::Malformed { .. }), "{error}");
            let text = error.to_string();
            assert!(
                text.contains(name) && text.contains("model.safetensors"),
                "{name}: {text}"
            );
        }
        if !bytes.is_empty() && name != "JSON" {
            let path = folder.path().join(INDEX);
            std::fs::write(&path, bytes).unwrap();
            let error = NamedTensors::open(&path).unwrap_err();
            assert!(matches!(error, Error::Malformed { .. }), "{error}");
        }
    }
}

/// The length of a header may have the bytes with which another format begins.
#[test]
fn a_model_that_begins_like_another_format_is_read() {
    for length in [0x0280_usize, 0x0380, 0x0a7b, 0x8b1f] {
        let header = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;
        let mut bytes = (length as u64).to_le_bytes().to_vec();
        bytes.extend(format!("{header:<length$}").bytes());
        bytes.push(5);
        let model = NamedTensors::from_bytes(bytes).unwrap();
        assert_eq!(&*model.data("a").unwrap().bytes, [5]);
    }
}
