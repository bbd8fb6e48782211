//! A model as artifacts by name.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use ndarray::{Array2, ArrayD, ArrayView2};
use safetensors::Dtype;

use super::artifact::malformed;
use super::container::{Assembler, Container, ContainerWriter};
use super::tensors::reshaped;
use super::{Artifact, PlainTensor, Registry, Source};
use crate::{Error, Result};

/// A compressed tensor of a model: an artifact, and the shape and type of the tensor that it stands for.
///
/// A convolution kernel (OIHW), say, may be compressed as a matrix (out_channels, in_channels · height · width).
///
/// ```
/// use taper::Quantizer;
/// use taper::model::{CompressedModel, CompressedTensor, Entry};
/// use taper::ndarray::Array2;
/// use taper::quantize::fixed_point::FixedPointQuantizer;
///
/// let weights = Array2::from_shape_fn((8, 6), |(o, i)| (o + i) as f32);
/// let matrix = FixedPointQuantizer::new(4).quantize(weights.view())?;
/// // The kernel of a convolution, compressed as a matrix.
/// let tensor = CompressedTensor::new(matrix).with_shape(&[8, 6, 1, 1])?;
/// assert_eq!(tensor.decompress()?.shape(), [8, 6, 1, 1]);
/// assert_eq!(tensor.artifact().kind(), "fixed_point");
/// # let _ = |model: CompressedModel, entry: Entry| (model, entry);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct CompressedTensor {
    artifact: Arc<dyn Artifact>,
    shape: Vec<usize>,
    dtype: Dtype,
}

impl CompressedTensor {
    /// The tensor of an artifact's own shape.
    #[must_use]
    pub fn new(artifact: impl Artifact) -> Self {
        Self::of(Arc::new(artifact))
    }

    pub(super) fn of(artifact: Arc<dyn Artifact>) -> Self {
        Self {
            shape: artifact.shape().to_vec(),
            artifact,
            dtype: Dtype::F32,
        }
    }

    /// The same as a tensor of another shape.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`] for a shape of another number of values.
    pub fn with_shape(mut self, shape: &[usize]) -> Result<Self> {
        let count = |shape: &[usize]| shape.iter().try_fold(1_usize, |n, &m| n.checked_mul(m));
        if count(shape).is_none() || count(shape) != count(&self.shape) {
            return Err(Error::ShapeMismatch {
                what: "a compressed tensor",
                expected: self.shape,
                found: shape.to_vec(),
            });
        }
        self.shape = shape.to_vec();
        Ok(self)
    }

    /// The same as a tensor whose values were of this type before.
    #[must_use]
    pub fn with_dtype(self, dtype: Dtype) -> Self {
        Self { dtype, ..self }
    }

    /// The artifact.
    #[must_use]
    pub fn artifact(&self) -> &dyn Artifact {
        &*self.artifact
    }

    /// The shape of the tensor.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The type that its values had.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The dense tensor.
    ///
    /// # Errors
    ///
    /// Those of the artifact.
    pub fn decompress(&self) -> Result<ArrayD<f32>> {
        reshaped(self.artifact.decompress()?, &self.shape)
    }

    /// y = x Wᵀ with x of shape (batch, in_features), from the compressed form where the artifact can.
    ///
    /// # Errors
    ///
    /// [`Error::Dimensions`] where the artifact is no matrix, and those of the artifact.
    pub fn apply(&self, x: ArrayView2<'_, f32>) -> Result<Array2<f32>> {
        match self.artifact.as_linear() {
            Some(matrix) => matrix.apply(x),
            None => Err(Error::Dimensions {
                what: "a compressed tensor that is to multiply",
                expected: "two axes",
                shape: self.shape.clone(),
            }),
        }
    }
}

impl From<Box<dyn Artifact>> for CompressedTensor {
    fn from(artifact: Box<dyn Artifact>) -> Self {
        Self::of(Arc::from(artifact))
    }
}

/// A tensor of a model: compressed, or kept as it was.
///
/// ```
/// use taper::Quantizer;
/// use taper::model::{CompressedModel, CompressedTensor, Entry};
/// use taper::ndarray::Array2;
/// use taper::quantize::fixed_point::FixedPointQuantizer;
///
/// let weights = Array2::from_shape_fn((8, 6), |(o, i)| (o + i) as f32);
/// let matrix = FixedPointQuantizer::new(4).quantize(weights.view())?;
/// let entries = [
///     Entry::Compressed(CompressedTensor::new(matrix)),
///     Entry::Plain(weights.view().into_dyn().into()),
/// ];
/// for entry in &entries {
///     assert_eq!(entry.decompress()?.shape(), entry.shape());
/// }
/// # let _ = CompressedModel::new();
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone)]
pub enum Entry {
    /// An artifact.
    Compressed(CompressedTensor),
    /// The tensor itself, of any type.
    Plain(PlainTensor),
}

impl Entry {
    /// The shape of the tensor.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::Compressed(tensor) => tensor.shape(),
            Self::Plain(tensor) => &tensor.shape,
        }
    }

    /// The dense tensor.
    ///
    /// # Errors
    ///
    /// Those of the artifact, and [`Error::Unsupported`] for plain tensors that hold no floating-point numbers.
    pub fn decompress(&self) -> Result<ArrayD<f32>> {
        match self {
            Self::Compressed(tensor) => tensor.decompress(),
            Self::Plain(tensor) => tensor.to_f32(),
        }
    }
}

/// A model whose tensors are compressed, in memory.
///
/// See [the module](super) for an example. For a model that does not fit, [`ContainerWriter`] and [`Container`] take
/// one tensor at a time.
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
/// model.set_metadata("format", "pt")?;
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
    /// A model without tensors.
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

    /// Adds a tensor that is kept as it is.
    ///
    /// # Errors
    ///
    /// [`Error::DuplicateName`], and [`Error::Malformed`] where its bytes are not those of its shape.
    pub fn insert_plain(&mut self, name: &str, tensor: PlainTensor) -> Result<()> {
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

    /// A tensor.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTensor`].
    pub fn get(&self, name: &str) -> Result<&Entry> {
        self.entries.get(name).ok_or_else(|| Error::UnknownTensor {
            name: name.to_owned(),
        })
    }

    /// A dense tensor.
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
    /// [`Error::UnknownTensor`], [`Error::Unsupported`] for a tensor that is not compressed, and those of
    /// [`CompressedTensor::apply`].
    pub fn apply(&self, name: &str, x: ArrayView2<'_, f32>) -> Result<Array2<f32>> {
        match self.get(name)? {
            Entry::Compressed(tensor) => tensor.apply(x),
            Entry::Plain(_) => Err(Error::Unsupported {
                what: name.to_owned(),
                reason: "it is not compressed".to_owned(),
            }),
        }
    }

    /// Says something of the model in its file, as `{"format": "pt"}` does.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for keys that begin with `taper`.
    pub fn set_metadata(&mut self, key: &str, value: &str) -> Result<()> {
        Assembler::new(std::io::sink()).metadata(key, value)?;
        self.metadata.insert(key.to_owned(), value.to_owned());
        Ok(())
    }

    fn fill<S: std::io::Write>(&self, assembler: &mut Assembler<S>) -> Result<()> {
        for (key, value) in &self.metadata {
            assembler.metadata(key, value)?;
        }
        assembler.entries(self.iter())
    }

    /// The length of the container, without writing it.
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
    /// [`Error::DuplicateName`] where the part of a tensor has the name of another tensor, [`Error::Unsupported`] for
    /// an artifact that a container cannot hold.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut assembler = Assembler::new(Cursor::new(Vec::new()));
        self.fill(&mut assembler)?;
        let mut bytes = Vec::new();
        assembler.finish(&mut bytes)?;
        Ok(bytes)
    }

    /// Writes the container and returns its length in bytes. The file is there whole or not at all.
    ///
    /// # Errors
    ///
    /// As [`to_bytes`](Self::to_bytes), and [`Error::File`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<u64> {
        let mut writer = ContainerWriter::create(path)?;
        for (key, value) in &self.metadata {
            writer.metadata(key, value)?;
        }
        writer.add_all(self.iter())?;
        writer.finish()
    }

    /// The model in a container.
    ///
    /// # Errors
    ///
    /// Those of [`Container::new`] and [`Container::get`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let source = Source::from(bytes.to_vec());
        Self::from_container(&Container::new(source, Registry::default())?)
    }

    /// The model in the container at `path`.
    ///
    /// # Errors
    ///
    /// As [`from_bytes`](Self::from_bytes), and [`Error::File`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        Self::from_container(&Container::new(Source::read(path)?, Registry::default())?)
    }

    /// All tensors of a container.
    ///
    /// # Errors
    ///
    /// Those of [`Container::get`].
    pub fn from_container(container: &Container) -> Result<Self> {
        let mut model = Self::new();
        for (key, value) in container.metadata() {
            model.metadata.insert(key.to_owned(), value.to_owned());
        }
        for name in container.names() {
            model.insert_entry(name, container.get(name)?)?;
        }
        if model.entries.len() != container.names().count() {
            return Err(malformed("names are given twice".to_owned()));
        }
        Ok(model)
    }
}
