//! Reads a container, one tensor at a time.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use super::contents::{Contents, Form, Listed, Node};
use super::description::{ArrayLine, whole_bytes};
use super::names::model_key;
use super::{ARRAYS, CONTENTS, KEY, SHARD_KEY, VERSION};
use crate::model::TensorData;
use crate::model::entropy::text;
use crate::model::entry::{CompressedTensor, Entry};
use crate::model::extend::{Artifact, Attributes, Registry, Stored, StoredPart, malformed};
use crate::model::header::Planned;
use crate::model::index::in_file;
use crate::model::save::save_tensors;
use crate::model::source::Source;
use crate::model::tensors::{NamedTensors, within};
use crate::{DType, Error, Result};

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
    /// The arrays and the table of contents, as any reader of safetensors sees them.
    file: NamedTensors,
    contents: Contents,
    metadata: BTreeMap<String, String>,
    registry: Registry,
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
        let file = NamedTensors::new(source)?;
        match file.metadata().get(KEY).map(String::as_str) {
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
        let mut metadata = BTreeMap::new();
        for (key, text) in file.metadata() {
            if let Some(key) = model_key(key) {
                metadata.insert(key.to_owned(), text.clone());
            } else if key != KEY && key != SHARD_KEY {
                return Err(malformed(format!("the metadata {key:?} has no meaning")));
            }
        }
        if !file.names().eq([ARRAYS, CONTENTS]) {
            let names: Vec<&str> = file.names().collect();
            return Err(malformed(format!(
                "a container has the tensors {ARRAYS:?} and {CONTENTS:?}, not {names:?}"
            )));
        }
        let text = text::decode(&file.data(CONTENTS)?.bytes)?;
        let length = file.data(ARRAYS)?.bytes.len();
        Ok(Self {
            contents: Contents::parse(&text, length)?,
            file,
            metadata,
            registry: Registry::default(),
        })
    }

    /// The names of the model's tensors, in rising order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.contents.names()
    }

    /// The length of the container in bytes.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.file.file_bytes()
    }

    /// The model's metadata.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The file as any reader of safetensors sees it.
    pub(in crate::model) fn raw(&self) -> &NamedTensors {
        &self.file
    }

    /// The tensor of this name.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTensor`], and [`Error::Malformed`] and the errors of the artifact's own `from_parts`
    /// for parts that do not fit together.
    pub fn get(&self, name: &str) -> Result<Entry> {
        let listed = self.listed(name)?;
        match &listed.form {
            Form::Plain(line) => {
                let (dtype, shape) = (line.dtype, line.shape.clone());
                let bytes = self.array(line, &listed.bytes)?.into();
                Ok(Entry::Plain(TensorData {
                    dtype,
                    shape,
                    bytes,
                }))
            }
            Form::Compressed(node) => {
                let tensor = CompressedTensor::from(self.artifact(node)?);
                let tensor = match &node.description.view {
                    Some(shape) => tensor.with_shape(shape)?,
                    None => tensor,
                };
                let dtype = node.description.dtype.unwrap_or(DType::F32);
                Ok(Entry::Compressed(tensor.with_dtype(dtype)))
            }
        }
    }

    fn listed(&self, name: &str) -> Result<&Listed> {
        let listed = self.contents.find(name);
        listed.ok_or_else(|| Error::UnknownTensor {
            name: name.to_owned(),
        })
    }

    /// The name under which the tensor `name` is stored, where that is another one.
    pub(in crate::model) fn tied_to(&self, name: &str) -> Option<&str> {
        self.contents.tied.get(name).map(String::as_str)
    }

    /// Bytes of the arrays.
    fn bytes(&self, range: &Range<usize>) -> Result<&[u8]> {
        match self.file.data(ARRAYS)?.bytes {
            // The table of contents was checked against their length.
            Cow::Borrowed(bytes) => Ok(&bytes[range.clone()]),
            Cow::Owned(_) => {
                unreachable!("bytes of a file that is mapped or in memory are borrowed")
            }
        }
    }

    /// The lines and the arrays of a tensor, as they stand in the file.
    pub(super) fn stored_form(&self, name: &str) -> Result<(&str, &[u8])> {
        let listed = self.listed(name)?;
        Ok((&listed.text, self.bytes(&listed.bytes)?))
    }

    /// The type and shape that a tensor has when it is decompressed, as the file says.
    fn dense(&self, name: &str) -> Result<Planned> {
        match &self.listed(name)?.form {
            Form::Plain(line) => Planned::new(name, line.dtype, &line.shape),
            Form::Compressed(Node { description, .. }) => {
                let shape = description.view.as_ref().unwrap_or(&description.shape);
                Planned::new(name, description.dtype.unwrap_or(DType::F32), shape)
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
        fn walk<'a>(node: &'a Node, kinds: &mut Vec<&'a str>) {
            if !kinds.contains(&node.description.kind.as_str()) {
                kinds.push(&node.description.kind);
            }
            node.children.iter().for_each(|child| walk(child, kinds));
        }
        let listed = self.listed(name)?;
        let mut kinds = Vec::new();
        if let Form::Compressed(node) = &listed.form {
            walk(node, &mut kinds);
        }
        Ok((kinds, listed.bytes.len() as u64))
    }

    /// The bytes that a tensor has when it is decompressed, and its shape.
    pub(in crate::model) fn dense_size(&self, name: &str) -> Result<(u64, Vec<usize>)> {
        let planned = self.dense(name)?;
        Ok((planned.length as u64, planned.shape))
    }

    /// The elements of an array, decoded.
    fn array(&self, line: &ArrayLine, range: &Range<usize>) -> Result<Vec<u8>> {
        let bytes = self.bytes(range)?;
        match line.coding {
            None => Ok(bytes.to_vec()),
            Some(coding) => coding.decode(bytes),
        }
    }

    fn artifact(&self, node: &Node) -> Result<Box<dyn Artifact>> {
        let Node {
            description,
            parts,
            children,
        } = node;
        let mut stored = Stored {
            shape: description.shape.clone(),
            attributes: Attributes(description.attributes.clone()),
            ..Stored::default()
        };
        for (part, range) in description.parts.iter().zip(parts) {
            let read = StoredPart {
                dtype: whole_bytes(part.array.dtype)?,
                shape: part.array.shape.clone(),
                bytes: self.array(&part.array, range)?,
            };
            stored.parts.insert(part.name.clone(), read);
        }
        for (name, child) in description.children.iter().zip(children) {
            stored.children.push((name.clone(), self.artifact(child)?));
        }
        self.registry.restore(&description.kind, stored)
    }
}
