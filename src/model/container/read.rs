//! Reading a container, one tensor at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::description::{Description, part_dtype};
use super::{KEY, VERSION, description_key, join};
use crate::model::artifact::{Attributes, Stored, StoredPart, malformed};
use crate::model::compressed::{CompressedTensor, Entry};
use crate::model::tensors::NamedTensors;
use crate::model::{Artifact, Dtype, Registry, Source};
use crate::{Error, Result};

/// How deep artifacts may consist of artifacts.
const MAX_DEPTH: usize = 8;

/// A container whose tensors are decoded when they are asked for.
///
/// Everything that is read is checked: a file that was cut, forged or damaged gives an error. No more is allocated
/// than a fixed multiple of the file's length; what a tensor decompresses to may be larger.
///
/// ```
/// use taper::Quantizer;
/// use taper::model::{CompressedModel, CompressedTensor, Container, Registry, Source};
/// use taper::ndarray::Array2;
/// use taper::quantize::fixed_point::FixedPointQuantizer;
///
/// let weights = Array2::from_shape_fn((8, 6), |(o, i)| (o + i) as f32);
/// let matrix = FixedPointQuantizer::new(4).quantize(weights.view())?;
/// let mut model = CompressedModel::new();
/// model.insert("fc.weight", CompressedTensor::new(matrix))?;
/// let container = Container::new(Source::from(model.to_bytes()?), Registry::default())?;
/// assert_eq!(container.names().collect::<Vec<_>>(), ["fc.weight"]);
/// assert_eq!(container.get("fc.weight")?.shape(), [8, 6]);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug)]
pub struct Container {
    tensors: NamedTensors,
    descriptions: BTreeMap<String, Description>,
    /// Every tensor of the model, and whether it is compressed.
    names: BTreeMap<String, bool>,
    registry: Registry,
}

impl Container {
    /// The container at `path`, mapped into memory; see [`Source::map`] for what that asks of the file.
    ///
    /// # Errors
    ///
    /// [`Error::File`], [`Error::Malformed`], and [`Error::Unsupported`] for a file of another version.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::new(Source::map(path)?, Registry::default())
    }

    /// The container in `source`, read with the kinds of `registry`.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`], and [`Error::Unsupported`] for a file of another version.
    pub fn new(source: Source, registry: Registry) -> Result<Self> {
        let tensors = NamedTensors::new(source)?;
        match tensors.metadata().get(KEY).map(String::as_str) {
            Some(VERSION) => {}
            Some(other) => {
                return Err(Error::Unsupported {
                    what: format!("a container of version {other}"),
                    reason: format!("this reads version {VERSION}"),
                });
            }
            None => return Err(malformed("this is no container".to_owned())),
        }
        let mut descriptions = BTreeMap::new();
        let prefix = description_key("");
        for (key, text) in tensors.metadata() {
            if let Some(path) = key.strip_prefix(&prefix) {
                descriptions.insert(path.to_owned(), Description::parse(text)?);
            }
        }
        let mut names = BTreeMap::new();
        let mut claimed = BTreeSet::new();
        let mut children = BTreeSet::new();
        for (path, description) in &descriptions {
            let parts = description.parts.iter().map(|part| join(path, &part.name));
            for part in parts {
                if !claimed.insert(part.clone()) {
                    return Err(malformed(format!("{part} is given twice")));
                }
            }
            let own = description.children.iter().map(|child| join(path, child));
            for child in own {
                if !descriptions.contains_key(&child) || !children.insert(child.clone()) {
                    return Err(malformed(format!("{child} is missing or given twice")));
                }
            }
        }
        let tops = descriptions.keys().filter(|path| !children.contains(*path));
        names.extend(tops.map(|path| (path.clone(), true)));
        for name in tensors.names().filter(|name| !claimed.remove(*name)) {
            if names.insert(name.to_owned(), false).is_some() {
                return Err(malformed(format!("{name} is given twice")));
            }
        }
        if let Some(part) = claimed.first() {
            return Err(malformed(format!("the part {part} is missing")));
        }
        Ok(Self {
            tensors,
            descriptions,
            names,
            registry,
        })
    }

    /// The names of the model's tensors, in rising order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }

    /// The length of the file in bytes.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.tensors.file_bytes()
    }

    /// What the file says of itself, without the container's own.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, &str)> {
        let metadata = self.tensors.metadata().iter();
        metadata
            .filter(|(key, _)| !key.starts_with(KEY))
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }

    pub(in crate::model) fn raw(&self) -> &NamedTensors {
        &self.tensors
    }

    /// A tensor.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTensor`], and [`Error::Malformed`] and the errors of the artifact's own `from_parts`
    /// for parts that do not fit together.
    pub fn get(&self, name: &str) -> Result<Entry> {
        match self.names.get(name) {
            Some(false) => Ok(Entry::Plain(self.tensors.data(name)?.into_owned())),
            Some(true) => {
                let artifact = self.artifact(name, 0)?;
                let description = self.description(name)?;
                let tensor = CompressedTensor::from(artifact);
                let tensor = match &description.view {
                    Some(shape) => tensor.with_shape(shape)?,
                    None => tensor,
                };
                let dtype = description.dtype.unwrap_or(Dtype::F32);
                Ok(Entry::Compressed(tensor.with_dtype(dtype)))
            }
            None => Err(Error::UnknownTensor {
                name: name.to_owned(),
            }),
        }
    }

    fn description(&self, path: &str) -> Result<&Description> {
        let description = self.descriptions.get(path);
        description.ok_or_else(|| malformed(format!("{path} is not described")))
    }

    fn artifact(&self, path: &str, depth: usize) -> Result<Box<dyn Artifact>> {
        if depth > MAX_DEPTH {
            return Err(malformed(format!("{path} lies too deep")));
        }
        let description = self.description(path)?;
        let mut stored = Stored {
            shape: description.shape.clone(),
            attributes: Attributes(description.attributes.clone()),
            ..Stored::default()
        };
        for part in &description.parts {
            let data = self.tensors.data(&join(path, &part.name))?;
            let part_read = match &part.coding {
                None => StoredPart {
                    dtype: part_dtype(data.dtype)?,
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
