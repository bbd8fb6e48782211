//! Reads a container, one tensor at a time.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::description::{Description, whole_bytes};
use super::names::{described, description_key, join, model_key, name_of, path_of};
use super::{ALIAS, KEY, SHARD_KEY, VERSION};
use crate::model::TensorData;
use crate::model::entry::{CompressedTensor, Entry};
use crate::model::extend::{Artifact, Attributes, Registry, Stored, StoredPart, malformed};
use crate::model::header::Planned;
use crate::model::index::in_file;
use crate::model::save::save_tensors;
use crate::model::source::Source;
use crate::model::tensors::{NamedTensors, within};
use crate::{DType, Error, Result};

/// How many times artifacts may be nested.
const MAX_DEPTH: usize = 8;

/// A container whose tensors are decoded when they are asked for.
///
/// Everything that is read is checked: a file that was cut, forged or damaged gives an error. Reading allocates at most a
/// fixed multiple of the file's length; a tensor may decompress to more.
///
/// ```
/// use taper::Quantizer;
/// use taper::model::{CompressedModel, CompressedTensor, Container};
/// use taper::ndarray::Array2;
/// use taper::quantize::fixed_point::FixedPointQuantizer;
///
/// let weights = Array2::from_shape_fn((8, 6), |(o, i)| (o + i) as f32);
/// let matrix = FixedPointQuantizer::new(4).quantize(weights.view())?;
/// let mut model = CompressedModel::new();
/// model.insert("fc.weight", CompressedTensor::new(matrix))?;
/// let container = Container::from_bytes(model.to_bytes()?)?;
/// for name in container.names() {
///     let dense = container.get(name)?.decompress()?; // one tensor at a time
///     assert_eq!(dense.shape(), [8, 6]);
/// }
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug)]
pub struct Container {
    tensors: NamedTensors,
    descriptions: BTreeMap<String, Description>,
    /// Every tensor of the model, and whether it is compressed.
    names: BTreeMap<String, bool>,
    /// The names of tensors that are stored under another name, and this name.
    tied: BTreeMap<String, String>,
    metadata: BTreeMap<String, String>,
    registry: Registry,
}

/// A tensor as it stands in a container.
pub(super) struct Pieces<'a> {
    /// Arrays under their paths below the tensor.
    pub(super) arrays: Vec<(String, TensorData<'a>)>,
    /// Descriptions under their paths below the tensor.
    pub(super) descriptions: Vec<(String, String)>,
    /// The shape of the tensor.
    pub(super) shape: Vec<usize>,
}

impl NamedTensors {
    /// Errs for a container, which is a safetensors file too.
    pub(in crate::model) fn check_dense(&self) -> Result<()> {
        let version = self.metadata().get(KEY);
        let is_version = version
            .is_some_and(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
        if !is_version {
            return Ok(());
        }
        Err(Error::Unsupported {
            what: "compressing a container of taper".to_owned(),
            reason: "its tensors are compressed already: write the dense model by Container::save_dense, and compress that"
                .to_owned(),
        })
    }
}

impl Container {
    /// Opens the container at `path`, mapped into memory.
    ///
    /// While the file is mapped, no process may shorten it or write to it: reading beyond the new end stops the program
    /// (`SIGBUS` on Unix). Replacing the file is safe, and every function of this crate that saves replaces. Where others
    /// may write to the file in place, read it first: `from_bytes(std::fs::read(path)?)`.
    ///
    /// # Errors
    ///
    /// [`Error::File`], [`Error::Malformed`], and [`Error::Unsupported`] for a file of another version.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::new(Source::map(path)?).map_err(|error| in_file(path, error))
    }

    /// The container in the bytes of a file.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`], and [`Error::Unsupported`] for a file of another version.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        Self::new(Source::from(bytes))
    }

    /// Reads artifacts with the kinds of `registry` from now on: those of this crate and [your own](crate::model::extend).
    #[must_use]
    pub fn with_registry(self, registry: Registry) -> Self {
        Self { registry, ..self }
    }

    pub(in crate::model) fn new(source: Source) -> Result<Self> {
        let tensors = NamedTensors::new(source)?;
        match tensors.metadata().get(KEY).map(String::as_str) {
            Some(VERSION) => {}
            Some(other) => {
                return Err(Error::Unsupported {
                    what: format!("a container of version {other:?}"),
                    reason: format!("this version of taper reads version {VERSION:?}"),
                });
            }
            None => {
                return Err(malformed(
                    "it is a safetensors file, but not a container: open it as NamedTensors"
                        .to_owned(),
                ));
            }
        }
        let mut descriptions = BTreeMap::new();
        let mut metadata = BTreeMap::new();
        let mut aliases = BTreeMap::new();
        for (key, text) in tensors.metadata() {
            if let Some(path) = described(key) {
                if let Some(target) = text.strip_prefix(ALIAS) {
                    aliases.insert(path, target);
                    continue;
                }
                descriptions.insert(path.to_owned(), Description::parse(text)?);
            } else if let Some(key) = model_key(key) {
                metadata.insert(key.to_owned(), text.clone());
            } else if key != KEY && key != SHARD_KEY {
                return Err(malformed(format!("the metadata {key:?} has no meaning")));
            }
        }
        let mut names = names(&tensors, &descriptions)?;
        let tied = tied(&names, &aliases)?;
        for (name, first) in &tied {
            names.insert(name.clone(), names[first]);
        }
        Ok(Self {
            tensors,
            descriptions,
            names,
            tied,
            metadata,
            registry: Registry::default(),
        })
    }

    /// The names of the model's tensors, in rising order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }

    /// The length of the container in bytes.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.tensors.file_bytes()
    }

    /// The model's metadata.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    pub(in crate::model) fn raw(&self) -> &NamedTensors {
        &self.tensors
    }

    /// The tensor of this name.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTensor`], and [`Error::Malformed`] and the errors of the artifact's own `from_parts`
    /// for parts that do not fit together.
    pub fn get(&self, name: &str) -> Result<Entry> {
        let path = self.path(name);
        match self.names.get(name) {
            Some(false) => Ok(Entry::Plain(self.tensors.data(&path)?.into_owned())),
            Some(true) => {
                let artifact = self.artifact(&path, 0)?;
                let description = &self.descriptions[&*path];
                let tensor = CompressedTensor::from(artifact);
                let tensor = match &description.view {
                    Some(shape) => tensor.with_shape(shape)?,
                    None => tensor,
                };
                let dtype = description.dtype.unwrap_or(DType::F32);
                Ok(Entry::Compressed(tensor.with_dtype(dtype)))
            }
            None => Err(Error::UnknownTensor {
                name: name.to_owned(),
            }),
        }
    }

    /// The name under which the tensor `name` is stored, where that is another one.
    pub(in crate::model) fn tied_to(&self, name: &str) -> Option<&str> {
        self.tied.get(name).map(String::as_str)
    }

    /// The path under which a tensor is stored.
    fn path<'a>(&'a self, name: &'a str) -> Cow<'a, str> {
        path_of(self.tied_to(name).unwrap_or(name))
    }

    /// A tensor as it stands in the file.
    pub(super) fn pieces(&self, name: &str) -> Result<Pieces<'_>> {
        fn collect<'a>(
            container: &'a Container,
            base: &str,
            below: &str,
            depth: usize,
            pieces: &mut Pieces<'a>,
        ) -> Result<()> {
            let path = format!("{base}{below}");
            check_depth(&path, depth)?;
            let description = &container.descriptions[&path];
            for part in &description.parts {
                let array = container.tensors.data(&join(&path, &part.name))?;
                pieces.arrays.push((join(below, &part.name), array));
            }
            for child in &description.children {
                collect(container, base, &join(below, child), depth + 1, pieces)?;
            }
            let text = container.tensors.metadata()[&description_key(&path)].clone();
            pieces.descriptions.push((below.to_owned(), text));
            Ok(())
        }
        let path = self.path(name);
        let mut pieces = Pieces {
            arrays: Vec::new(),
            descriptions: Vec::new(),
            shape: self.dense(name)?.shape,
        };
        if self.descriptions.contains_key(&*path) {
            collect(self, &path, "", 0, &mut pieces)?;
        } else {
            let array = self.tensors.data(&path)?;
            pieces.arrays.push((String::new(), array));
        }
        Ok(pieces)
    }

    /// The type and shape that a tensor has when it is decompressed, as the file says.
    fn dense(&self, name: &str) -> Result<Planned> {
        let path = self.path(name);
        match self.descriptions.get(&*path) {
            Some(description) => {
                let shape = description.view.as_ref().unwrap_or(&description.shape);
                Planned::new(name, description.dtype.unwrap_or(DType::F32), shape)
            }
            None => {
                let data = self.tensors.data(&path)?;
                Planned::new(name, data.dtype, &data.shape)
            }
        }
    }

    /// Writes all tensors decompressed to the safetensors file `path`, as
    /// [`CompressedModel::save_dense`](crate::model::CompressedModel::save_dense) does; returns its length in bytes.
    ///
    /// One tensor at a time is in memory, so that the model may be larger.
    ///
    /// # Errors
    ///
    /// As [`CompressedModel::save_dense`](crate::model::CompressedModel::save_dense), and those of [`get`](Self::get).
    pub fn save_dense(&self, path: impl AsRef<Path>) -> Result<u64> {
        let planned = self.names().map(|name| self.dense(name));
        let planned = planned.collect::<Result<_>>()?;
        let data = |name: &str| {
            let entry = within(name, self.get(name))?;
            within(name, entry.to_data()).map(Cow::into_owned)
        };
        save_tensors(path.as_ref(), planned, &self.metadata, data)
    }

    /// What the file has of a tensor, without decoding it: the kinds of its artifacts, outermost first, and the bytes of its
    /// arrays.
    pub(in crate::model) fn stored(&self, name: &str) -> Result<(Vec<&str>, u64)> {
        fn walk<'a>(
            container: &'a Container,
            path: &str,
            depth: usize,
            kinds: &mut Vec<&'a str>,
        ) -> Result<u64> {
            check_depth(path, depth)?;
            let description = &container.descriptions[path];
            if !kinds.contains(&description.kind.as_str()) {
                kinds.push(&description.kind);
            }
            let mut bytes = 0;
            for part in &description.parts {
                let data = container.tensors.data(&join(path, &part.name))?;
                bytes += data.bytes.len() as u64;
            }
            for child in &description.children {
                bytes += walk(container, &join(path, child), depth + 1, kinds)?;
            }
            Ok(bytes)
        }
        let path = self.path(name);
        let mut kinds = Vec::new();
        let bytes = match self.names.get(name) {
            Some(true) => walk(self, &path, 0, &mut kinds)?,
            Some(false) => self.tensors.data(&path)?.bytes.len() as u64,
            None => {
                return Err(Error::UnknownTensor {
                    name: name.to_owned(),
                });
            }
        };
        Ok((kinds, bytes))
    }

    /// The bytes that a tensor has when it is decompressed, and its shape.
    pub(in crate::model) fn dense_size(&self, name: &str) -> Result<(u64, Vec<usize>)> {
        let planned = self.dense(name)?;
        Ok((planned.length as u64, planned.shape))
    }

    fn artifact(&self, path: &str, depth: usize) -> Result<Box<dyn Artifact>> {
        check_depth(path, depth)?;
        // `names` has seen that every child is described.
        let description = &self.descriptions[path];
        let mut stored = Stored {
            shape: description.shape.clone(),
            attributes: Attributes(description.attributes.clone()),
            ..Stored::default()
        };
        for part in &description.parts {
            let data = self.tensors.data(&join(path, &part.name))?;
            let part_read = match &part.coding {
                None => StoredPart {
                    dtype: whole_bytes(data.dtype)?,
                    shape: data.shape,
                    bytes: data.bytes.into_owned(),
                },
                Some(coded) => StoredPart {
                    dtype: coded.dtype,
                    shape: coded.shape.clone(),
                    bytes: coded.coding.decode(&data.bytes)?,
                },
            };
            stored.parts.insert(part.name.clone(), part_read);
        }
        for child in &description.children {
            let artifact = self.artifact(&join(path, child), depth + 1)?;
            stored.children.push((child.clone(), artifact));
        }
        self.registry.restore(&description.kind, stored)
    }
}

fn check_depth(path: &str, depth: usize) -> Result<()> {
    if depth <= MAX_DEPTH {
        return Ok(());
    }
    Err(malformed(format!(
        "{path:?} is nested more than {MAX_DEPTH} artifacts deep"
    )))
}

/// The names of tensors that are stored under another name, and this name, by their paths.
fn tied(
    names: &BTreeMap<String, bool>,
    aliases: &BTreeMap<&str, &str>,
) -> Result<BTreeMap<String, String>> {
    let mut tied = BTreeMap::new();
    for (&path, &target) in aliases {
        let name = name_of(path).filter(|name| !names.contains_key(name));
        let first = name_of(target).filter(|first| names.contains_key(first));
        let (Some(name), Some(first)) = (name, first) else {
            return Err(malformed(format!(
                "{path:?} is tied to {target:?}, but is stored itself or the other is not"
            )));
        };
        tied.insert(name, first);
    }
    Ok(tied)
}

/// The tensors of the model and whether each is compressed, where descriptions and arrays fit together.
fn names(
    tensors: &NamedTensors,
    descriptions: &BTreeMap<String, Description>,
) -> Result<BTreeMap<String, bool>> {
    let mut parts = BTreeSet::new();
    let mut children = BTreeSet::new();
    for (path, description) in descriptions {
        for part in &description.parts {
            let part = join(path, &part.name);
            if !parts.insert(part.clone()) {
                return Err(malformed(format!("the part {part:?} is given twice")));
            }
        }
        for child in &description.children {
            let child = join(path, child);
            let Some(described) = descriptions.get(&child) else {
                return Err(malformed(format!("{child:?} is not described")));
            };
            if described.view.is_some() || described.dtype.is_some() {
                let problem = "has the shape or type of a tensor, but is part of one";
                return Err(malformed(format!("{child:?} {problem}")));
            }
            if !children.insert(child.clone()) {
                return Err(malformed(format!("{child:?} is given twice")));
            }
        }
    }
    let name = |path: &str| {
        name_of(path).ok_or_else(|| malformed(format!("{path:?} belongs to no artifact")))
    };
    let mut names = BTreeMap::new();
    for path in descriptions.keys().filter(|path| !children.contains(*path)) {
        names.insert(name(path)?, true);
    }
    for path in tensors.names().filter(|path| !parts.remove(*path)) {
        if names.insert(name(path)?, false).is_some() {
            return Err(malformed(format!("{path:?} is given twice")));
        }
    }
    match parts.first() {
        Some(part) => Err(malformed(format!("the part {part:?} is missing"))),
        None => Ok(names),
    }
}
