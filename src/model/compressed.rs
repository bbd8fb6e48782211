//! A model as tensors by name, in memory.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;

use ndarray::{Array2, ArrayD, ArrayView2};

use super::TensorData;
use super::container::{Assembler, Container, ContainerWriter};
use super::entry::{CompressedTensor, Entry};
use super::header::Planned;
use super::index::in_file;
use super::save::save_tensors;
use super::source::Source;
use super::tensors::within;
use crate::{Error, Result};

/// A model whose tensors are compressed, in memory.
///
/// [`ContainerWriter`] and [`Container`] do the same with one tensor in memory at a time. Tensors that are equal are stored once
/// in a container; reading it returns all of them.
///
/// ```
/// use taper::Quantizer;
/// use taper::model::{CompressedModel, CompressedTensor, Entry};
/// use taper::ndarray::Array2;
/// use taper::quantize::fixed_point::FixedPointQuantizer;
///
/// let weights = Array2::from_shape_fn((8, 6), |(o, i)| (o + i) as f32);
/// let matrix = FixedPointQuantizer::new(4).quantize(weights.view())?;
/// let mut model = CompressedModel::new();
/// model.insert("fc.weight", CompressedTensor::new(matrix))?;
/// model.insert_plain("fc.bias", taper::ndarray::ArrayD::zeros(vec![8]).view().into())?;
/// model.set_metadata("format", "pt");
/// let again = CompressedModel::from_bytes(&model.to_bytes()?)?;
/// let names: Vec<&str> = again.iter().map(|(name, _)| name).collect();
/// assert_eq!(names, ["fc.bias", "fc.weight"]);
/// assert_eq!(again.apply("fc.weight", Array2::ones((1, 6)).view())?.dim(), (1, 8));
/// # assert!(matches!(again.get("fc.bias")?, Entry::Plain(_)));
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct CompressedModel {
    entries: BTreeMap<String, Entry>,
    metadata: BTreeMap<String, String>,
}

impl CompressedModel {
    /// Creates a model without tensors.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a compressed tensor.
    ///
    /// # Errors
    ///
    /// [`Error::DuplicateName`].
    pub fn insert(&mut self, name: &str, tensor: CompressedTensor) -> Result<()> {
        self.insert_entry(name, Entry::Compressed(tensor))
    }

    /// Adds a tensor that is not compressed.
    ///
    /// # Errors
    ///
    /// [`Error::DuplicateName`], and [`Error::Malformed`] where its bytes are not those of its shape.
    pub fn insert_plain(&mut self, name: &str, tensor: TensorData<'static>) -> Result<()> {
        tensor.check(name)?;
        self.insert_entry(name, Entry::Plain(tensor))
    }

    pub(super) fn insert_entry(&mut self, name: &str, entry: Entry) -> Result<()> {
        if self.entries.contains_key(name) {
            return Err(Error::DuplicateName {
                name: name.to_owned(),
            });
        }
        self.entries.insert(name.to_owned(), entry);
        Ok(())
    }

    /// The tensors by name, in rising order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries
            .iter()
            .map(|(name, entry)| (name.as_str(), entry))
    }

    /// The tensor of this name.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTensor`].
    pub fn get(&self, name: &str) -> Result<&Entry> {
        self.entries.get(name).ok_or_else(|| Error::UnknownTensor {
            name: name.to_owned(),
        })
    }

    /// The dense tensor of this name.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTensor`] and those of [`Entry::decompress`].
    pub fn decompress(&self, name: &str) -> Result<ArrayD<f32>> {
        self.get(name)?.decompress()
    }

    /// y = x Wᵀ with the matrix of this name.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTensor`]; [`Error::Unsupported`] for a tensor that is not compressed; those of
    /// [`CompressedTensor::apply`].
    pub fn apply(&self, name: &str, x: ArrayView2<'_, f32>) -> Result<Array2<f32>> {
        match self.get(name)? {
            Entry::Compressed(tensor) => tensor.apply(x),
            Entry::Plain(_) => Err(Error::Unsupported {
                what: name.to_owned(),
                reason: "the tensor is not compressed: multiply with its dense values".to_owned(),
            }),
        }
    }

    /// Sets one value of the file's metadata: `format` is `pt` in files from PyTorch.
    pub fn set_metadata(&mut self, key: &str, value: &str) {
        self.metadata.insert(key.to_owned(), value.to_owned());
    }

    /// The metadata of the file.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    fn fill<S: std::io::Write>(&self, assembler: &mut Assembler<S>) -> Result<()> {
        for (key, value) in &self.metadata {
            assembler.metadata(key, value);
        }
        assembler.entries(self.iter())
    }

    /// The length of the container in bytes, without writing it.
    ///
    /// # Errors
    ///
    /// As [`to_bytes`](Self::to_bytes).
    pub fn file_bytes(&self) -> Result<u64> {
        let mut assembler = Assembler::new(std::io::sink());
        self.fill(&mut assembler)?;
        assembler.file_bytes()
    }

    /// The container.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for an artifact that a container cannot hold.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut assembler = Assembler::new(Cursor::new(Vec::new()));
        self.fill(&mut assembler)?;
        let mut bytes = Vec::new();
        assembler.finish(&mut bytes)?;
        Ok(bytes)
    }

    /// Writes the container, which replaces a file at `path` once it is complete; returns its length in bytes.
    ///
    /// # Errors
    ///
    /// As [`to_bytes`](Self::to_bytes), and [`Error::File`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<u64> {
        let mut writer = ContainerWriter::create(path)?;
        for (key, value) in &self.metadata {
            writer.metadata(key, value);
        }
        writer.add_all(self.iter())?;
        writer.finish()
    }

    /// Writes all tensors decompressed to the safetensors file `path`; returns its length in bytes.
    ///
    /// Each tensor has the element type that it had before compression, to which its values are rounded, and the file the
    /// model's metadata: other programs read it as they read the original. One tensor is decompressed at a time.
    ///
    /// ```
    /// use taper::DType;
    /// use taper::model::{CompressedModel, CompressedTensor, Dense, NamedTensors};
    /// use taper::Precision;
    /// use taper::ndarray::arr1;
    ///
    /// let weights = arr1(&[0.5, -1.5]).into_dyn();
    /// let mut model = CompressedModel::new();
    /// let tensor = CompressedTensor::new(Dense::new(weights.view(), Precision::F16)?);
    /// model.insert("scale", tensor.with_dtype(DType::BF16))?;
    /// model.set_metadata("format", "pt");
    /// let path = std::env::temp_dir().join(format!("taper-save-dense-{}", std::process::id()));
    /// model.save_dense(&path)?;
    /// let dense = NamedTensors::open(&path)?;
    /// assert_eq!(dense.data("scale")?.dtype, DType::BF16);
    /// assert_eq!(dense.get("scale")?, weights);
    /// assert_eq!(dense.metadata()["format"], "pt");
    /// # std::fs::remove_file(&path).unwrap();
    /// # Ok::<(), taper::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for a tensor called `__metadata__`, a name that dense files cannot have;
    /// [`Error::InTensor`] for values that the element type does not hold and with what an artifact says; [`Error::File`].
    pub fn save_dense(&self, path: impl AsRef<Path>) -> Result<u64> {
        let planned = self
            .iter()
            .map(|(name, entry)| Planned::new(name, entry.dtype(), entry.shape()));
        let planned = planned.collect::<Result<_>>()?;
        let data = |name: &str| within(name, self.entries[name].to_data());
        save_tensors(path.as_ref(), planned, &self.metadata, data)
    }

    /// The model in a container.
    ///
    /// # Errors
    ///
    /// Those of [`Container::from_bytes`] and [`Container::get`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        Self::from_container(&Container::from_bytes(bytes.to_vec())?)
    }

    /// The model in the container at `path`.
    ///
    /// # Errors
    ///
    /// As [`from_bytes`](Self::from_bytes), and [`Error::File`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let container = Container::new(Source::read(path)?);
        container
            .and_then(|container| Self::from_container(&container))
            .map_err(|error| in_file(path, error))
    }

    /// All tensors of a container.
    ///
    /// # Errors
    ///
    /// Those of [`Container::get`].
    pub fn from_container(container: &Container) -> Result<Self> {
        let mut model = Self {
            metadata: container.metadata().clone(),
            ..Self::default()
        };
        for name in container.names() {
            let tied = container.tied_to(name);
            let entry = match tied.and_then(|first| model.entries.get(first)) {
                Some(entry) => entry.clone(),
                None => container.get(name)?,
            };
            model.insert_entry(name, entry)?;
        }
        Ok(model)
    }
}
