//! One tensor of a model, compressed or not.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use ndarray::{Array, Array2, ArrayD, ArrayView2, Dimension, IntoDimension, IxDyn};

use super::TensorData;
use super::extend::Artifact;
use super::tensors::reshaped;
use crate::{DType, Error, Result};

/// A compressed tensor of a model: an artifact, and the shape and element type of the tensor from which it was made.
///
/// The two shapes may differ: a convolution kernel (OIHW), for example, may be compressed as a matrix
/// (out_channels, in_channels · height · width).
///
/// ```
/// use taper::Quantizer;
/// use taper::model::CompressedTensor;
/// use taper::ndarray::Array2;
/// use taper::quantize::fixed_point::FixedPointQuantizer;
///
/// let weights = Array2::from_shape_fn((8, 6), |(o, i)| (o + i) as f32);
/// let matrix = FixedPointQuantizer::new(4).quantize(weights.view())?;
/// // The kernel of a convolution, compressed as a matrix.
/// let tensor = CompressedTensor::new(matrix).with_shape(&[8, 6, 1, 1])?;
/// assert_eq!(tensor.decompress()?.shape(), [8, 6, 1, 1]);
/// assert_eq!(tensor.artifact().kind(), "fixed_point");
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct CompressedTensor {
    artifact: Arc<dyn Artifact>,
    shape: Vec<usize>,
    dtype: DType,
    /// Made once, when the tensor is first measured or written; clones share it.
    coded: Arc<OnceLock<CodedTensor>>,
}

/// A tensor as a container has it, its arrays coded where that is shorter.
#[derive(Debug, Default)]
pub(super) struct CodedTensor {
    /// Its lines in the table of contents, without its name.
    pub(super) text: String,
    /// Its arrays, one after the other.
    pub(super) bytes: Vec<u8>,
    /// What equal tensors have in common; none for a tensor that cannot be tied to another one.
    pub(super) fingerprint: Option<Fingerprint>,
}

/// 128 bits of hash.
pub(super) type Fingerprint = [u64; 2];

impl CompressedTensor {
    /// A tensor of F32 elements with the shape of the artifact.
    #[must_use]
    pub fn new(artifact: impl Artifact) -> Self {
        Self::of(Arc::new(artifact))
    }

    pub(super) fn of(artifact: Arc<dyn Artifact>) -> Self {
        Self {
            shape: artifact.shape().to_vec(),
            artifact,
            dtype: DType::F32,
            coded: Arc::default(),
        }
    }

    /// The same with another shape of the tensor.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`] for a shape with another number of values.
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
        self.coded = Arc::default();
        Ok(self)
    }

    /// The same with the type that the tensor's elements had, in which [`CompressedModel::save_dense`] writes them.
    ///
    /// [`CompressedModel::save_dense`]: super::CompressedModel::save_dense
    #[must_use]
    pub fn with_dtype(self, dtype: DType) -> Self {
        Self {
            dtype,
            coded: Arc::default(),
            ..self
        }
    }

    /// The coded form, which `code` makes the first time.
    pub(super) fn coded(
        &self,
        code: impl FnOnce(&Self) -> Result<CodedTensor>,
    ) -> Result<&CodedTensor> {
        if let Some(coded) = self.coded.get() {
            return Ok(coded);
        }
        let coded = code(self)?;
        Ok(self.coded.get_or_init(|| coded))
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

    /// The type that its elements had.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The dense tensor.
    ///
    /// # Errors
    ///
    /// Those of the artifact, and [`Error::Unsupported`] for a tensor that does not fit into memory.
    pub fn decompress(&self) -> Result<ArrayD<f32>> {
        let shape = self.artifact.shape();
        let mut array = zeros(IxDyn(shape))?;
        self.artifact.decompress_into(array.view_mut())?;
        reshaped(array, &self.shape)
    }

    /// y = x Wᵀ with x of shape (batch, in_features), computed from the compressed form.
    ///
    /// # Errors
    ///
    /// [`Error::Dimensions`] where the artifact is not a matrix, [`Error::Unsupported`] for a product that does not fit into
    /// memory, and those of the artifact.
    pub fn apply(&self, x: ArrayView2<'_, f32>) -> Result<Array2<f32>> {
        let Some(matrix) = self.artifact.as_linear() else {
            return Err(Error::Dimensions {
                what: "a compressed tensor whose product is asked for",
                expected: "two axes",
                shape: self.shape.clone(),
            });
        };
        let mut y = zeros([x.nrows(), matrix.shape()[0]])?;
        matrix.apply_into(x, y.view_mut())?;
        Ok(y)
    }
}

impl From<Box<dyn Artifact>> for CompressedTensor {
    fn from(artifact: Box<dyn Artifact>) -> Self {
        Self::of(Arc::from(artifact))
    }
}

/// A tensor of a model: compressed, or kept bit for bit.
///
/// [`CompressedModel::get`](super::CompressedModel::get) and [`Container::get`](super::Container::get) return it.
///
/// ```
/// use taper::Precision;
/// use taper::model::{CompressedTensor, Dense, Entry};
/// use taper::ndarray::arr1;
///
/// // A third is not a number of half precision.
/// let weights = arr1(&[0.5, 1.0 / 3.0]).into_dyn();
/// let plain = Entry::Plain(weights.view().into());
/// assert_eq!(plain.decompress()?, weights);
/// let half = Dense::new(weights.view(), Precision::F16)?;
/// let compressed = Entry::Compressed(CompressedTensor::new(half));
/// assert_ne!(compressed.decompress()?, weights);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone)]
pub enum Entry {
    /// Compressed, to an artifact.
    Compressed(CompressedTensor),
    /// Kept, with elements of any type.
    Plain(TensorData<'static>),
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
    /// Those of [`CompressedTensor::decompress`] and [`TensorData::to_f32`].
    pub fn decompress(&self) -> Result<ArrayD<f32>> {
        match self {
            Self::Compressed(tensor) => tensor.decompress(),
            Self::Plain(tensor) => tensor.to_f32(),
        }
    }

    /// The type of the tensor's elements before compression.
    pub(crate) fn dtype(&self) -> DType {
        match self {
            Self::Compressed(tensor) => tensor.dtype(),
            Self::Plain(tensor) => tensor.dtype,
        }
    }

    /// The dense tensor with elements of its own type.
    pub(crate) fn to_data(&self) -> Result<Cow<'_, [u8]>> {
        match self {
            Self::Compressed(tensor) => {
                let dense = tensor.decompress()?;
                Ok(TensorData::of(dense.view(), tensor.dtype())?.bytes)
            }
            Self::Plain(tensor) => Ok(Cow::Borrowed(&tensor.bytes)),
        }
    }
}

/// An array of zeros. A small artifact may stand for a tensor that no machine holds, as a forged file may.
fn zeros<D: Dimension>(shape: impl IntoDimension<Dim = D>) -> Result<Array<f32, D>> {
    let shape = shape.into_dimension();
    let too_large = || Error::Unsupported {
        what: format!("a dense array of shape {:?}", shape.slice()),
        reason: "it does not fit into memory".to_owned(),
    };
    let count = shape.size_checked().ok_or_else(too_large)?;
    let mut values = Vec::new();
    values.try_reserve_exact(count).map_err(|_| too_large())?;
    values.resize(count, 0.0);
    Array::from_shape_vec(shape.clone(), values).map_err(|_| too_large())
}
