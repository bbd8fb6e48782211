//! Opens models: a safetensors file, or several and the index that lists them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::foreign;
use super::header::{Header, MAX_HEADER, Unique};
use super::source::Source;
use super::tensors::{NamedTensors, Place};
use crate::{Error, Result};

/// The names of a model's files in a folder, as transformers and diffusers give them.
const INDEX: &str = ".safetensors.index.json";
const SINGLE: &str = "model.safetensors";
const FILE: &str = ".safetensors";

/// An index, as far as it is needed: which tensor is in which file.
#[derive(Deserialize)]
struct Index {
    weight_map: Unique<String>,
}

fn malformed(path: &Path, problem: impl std::fmt::Display) -> Error {
    Error::Malformed {
        artifact: "an index of shards",
        problem: format!("{}: {problem}", path.display()),
    }
}

/// The same error with the path of the file.
pub(super) fn in_file(path: &Path, error: Error) -> Error {
    match error {
        Error::Malformed { artifact, problem } => Error::Malformed {
            artifact,
            problem: format!("{}: {problem}", path.display()),
        },
        error => error,
    }
}

impl NamedTensors {
    /// Opens the model at `path`, mapped into memory.
    ///
    /// The path is that of a safetensors file, of an index of shards (`model.safetensors.index.json`), or of a folder
    /// that holds one index or else one model. Shards open as one model; of their metadata it has what all of
    /// them agree on.
    ///
    /// While the files are mapped, no process may shorten them or write to them: reading beyond the new end stops the program
    /// (`SIGBUS` on Unix). Replacing the file is safe, and every function of this crate that saves replaces. Where others
    /// may write to the file in place, read it first: `from_bytes(std::fs::read(path)?)`.
    ///
    /// ```
    /// use taper::model::NamedTensors;
    /// use taper::ndarray::arr1;
    ///
    /// let folder = std::env::temp_dir().join(format!("taper-shards-{}", std::process::id()));
    /// std::fs::create_dir_all(&folder).unwrap();
    /// let index = r#"{"weight_map": {"fc1.bias": "1.safetensors", "fc2.bias": "2.safetensors"}}"#;
    /// std::fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
    /// for (file, name) in [("1.safetensors", "fc1.bias"), ("2.safetensors", "fc2.bias")] {
    ///     NamedTensors::save(folder.join(file), [(name, arr1(&[0.5_f32]).view().into_dyn())])?;
    /// }
    /// let model = NamedTensors::open(&folder)?;
    /// assert_eq!(model.names().collect::<Vec<_>>(), ["fc1.bias", "fc2.bias"]);
    /// # std::fs::remove_dir_all(&folder).unwrap();
    /// # Ok::<(), taper::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::File`]; [`Error::Malformed`] for a header that is wrong, a file that was cut or is of another format (which
    /// the error names), and for an index that does not agree with its shards; [`Error::Unsupported`] for a folder
    /// that does not hold exactly one model.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        open(path.as_ref())
    }
}

/// The model at `path`: a safetensors file, an index of shards, or a folder that holds one model.
fn open(path: &Path) -> Result<NamedTensors> {
    if path.is_dir() {
        return open(&model_in(path)?);
    }
    let is_index = path
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    if is_index {
        return shards(path);
    }
    NamedTensors::new(Source::map(path)?).map_err(|error| in_file(path, error))
}

/// The index in a folder, or else its `model.safetensors`, or else its only safetensors file.
fn model_in(folder: &Path) -> Result<PathBuf> {
    let failed = |error| Error::file(folder, error);
    let (mut indices, mut files) = (Vec::new(), Vec::new());
    for file in fs::read_dir(folder).map_err(failed)? {
        let name = file.map_err(failed)?.file_name();
        match name.to_str() {
            Some(text) if text.ends_with(INDEX) => indices.push(name),
            Some(SINGLE) => files.insert(0, name),
            Some(text) if text.ends_with(FILE) => files.push(name),
            _ => {}
        }
    }
    let has_usual_name = files.first().is_some_and(|name| name == SINGLE);
    let mut models = match (indices.is_empty(), has_usual_name) {
        (false, _) => indices,
        (true, true) => vec![SINGLE.into()],
        (true, false) => files,
    };
    models.sort();
    let reason = match models.as_slice() {
        [model] => return Ok(folder.join(model)),
        [] => format!("the folder holds neither *{INDEX} nor *{FILE}"),
        several => format!("the folder holds several models: name one of {several:?}"),
    };
    Err(Error::Unsupported {
        what: folder.display().to_string(),
        reason,
    })
}

/// The model whose index is at `path`.
fn shards(path: &Path) -> Result<NamedTensors> {
    let failed = |error| Error::file(path, error);
    let length = fs::metadata(path).map_err(failed)?.len();
    if length > MAX_HEADER as u64 {
        let problem = format!("it has {length} bytes; at most {MAX_HEADER} are read");
        return Err(malformed(path, problem));
    }
    let text = fs::read(path).map_err(failed)?;
    let index: Index = serde_json::from_slice(&text).map_err(|error| {
        let json = text.trim_ascii_start().starts_with(b"{");
        match foreign::recognize(&text).filter(|_| !json) {
            Some(problem) => malformed(path, problem),
            None => malformed(path, error),
        }
    })?;
    let index = index.weight_map.0;
    let mut model = NamedTensors::default();
    // The number of each shard, in rising order of their names.
    let mut numbers: BTreeMap<&str, usize> = index.values().map(|name| (&**name, 0)).collect();
    let mut metadata: Option<BTreeMap<String, String>> = None;
    for (name, number) in &mut numbers {
        // An index is given by others and names files beside it, no others.
        let mut components = Path::new(name).components();
        let inside = components.all(|component| matches!(component, Component::Normal(_)));
        if !inside || name.is_empty() {
            let problem = format!("{name:?} is not the name of a file in the folder of the index");
            return Err(malformed(path, problem));
        }
        let shard = path.with_file_name(name);
        let source = Source::map(&shard)?;
        let header = Header::read(&source).map_err(|error| in_file(&shard, error))?;
        *number = model.sources.len();
        for (tensor, info) in header.tensors {
            let place = Place::new(*number, info);
            if model.tensors.insert(tensor.clone(), place).is_some() {
                let problem = format!("{tensor:?} is in {name:?} and in a shard before it");
                return Err(malformed(path, problem));
            }
        }
        // What the shards agree on holds for the model.
        match &mut metadata {
            None => metadata = Some(header.metadata),
            Some(common) => common.retain(|key, value| header.metadata.get(key) == Some(value)),
        }
        model.sources.push(Arc::new(source));
    }
    model.metadata = metadata.unwrap_or_default();
    for (tensor, shard) in &index {
        let number = numbers[shard.as_str()];
        if model.tensors.get(tensor).map(|place| place.source) != Some(number) {
            let problem = format!("{tensor:?} is not in {shard:?}, where the index says it is");
            return Err(malformed(path, problem));
        }
    }
    Ok(model)
}
