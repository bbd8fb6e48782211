//! Tensors by name, as frameworks save them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use ndarray::{ArrayD, ArrayViewD, IxDyn};
use safetensors::Dtype;

use super::header::{self, Header, Planned};
use super::source::{Source, file_error};
use crate::{Error, Result};

/// The tensors of a safetensors file, read one at a time.
///
/// Only the header is read at first; a tensor is decoded when it is asked for. With a [mapped](Source::map) source a
/// model may be larger than memory.
///
/// ```
/// use taper::model::{NamedTensors, Source};
/// use taper::ndarray::{ArrayD, IxDyn};
///
/// let weight = ArrayD::from_elem(IxDyn(&[2, 3]), 0.5);
/// let bytes = NamedTensors::to_bytes([("fc.weight", weight.view())])?;
/// let tensors = NamedTensors::new(Source::from(bytes))?;
/// assert_eq!(tensors.names().collect::<Vec<_>>(), ["fc.weight"]);
/// assert_eq!(tensors.get("fc.weight")?, weight);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug)]
pub struct NamedTensors {
    source: Source,
    header: Header,
}

/// One tensor of a file, as it is stored.
///
/// ```
/// use taper::model::PlainTensor;
/// use taper::ndarray::arr1;
///
/// let tensor = PlainTensor::from(arr1(&[1.0_f32, 2.0]).view().into_dyn());
/// assert!(tensor.is_float() && tensor.bytes.len() == 8);
/// assert_eq!(tensor.to_f32()?, arr1(&[1.0, 2.0]).into_dyn());
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct TensorData<'a> {
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its elements in row-major order, little-endian.
    pub bytes: Cow<'a, [u8]>,
}

/// A tensor that is kept as it was found, bit for bit.
///
/// ```
/// use taper::model::PlainTensor;
/// use taper::ndarray::arr1;
///
/// let tensor = PlainTensor::from(arr1(&[1.0_f32, 2.0]).view().into_dyn());
/// assert!(tensor.is_float() && tensor.bytes.len() == 8);
/// assert_eq!(tensor.to_f32()?, arr1(&[1.0, 2.0]).into_dyn());
/// # Ok::<(), taper::Error>(())
/// ```
pub type PlainTensor = TensorData<'static>;

impl TensorData<'_> {
    /// The values as `f32`, which half precision (IEEE 754 and bfloat16) converts to exactly.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for elements of any other type.
    pub fn to_f32(&self) -> Result<ArrayD<f32>> {
        fn values<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f32) -> Vec<f32> {
            bytes.as_chunks().0.iter().map(|&x| value(x)).collect()
        }
        let values = match self.dtype {
            Dtype::F32 => values(&self.bytes, f32::from_le_bytes),
            Dtype::F16 => values(&self.bytes, |x| half::f16::from_le_bytes(x).to_f32()),
            Dtype::BF16 => values(&self.bytes, |x| half::bf16::from_le_bytes(x).to_f32()),
            other => {
                return Err(Error::Unsupported {
                    what: format!("a tensor of {other:?}"),
                    reason: "only F32, F16 and BF16 are read as weights".to_owned(),
                });
            }
        };
        let found = vec![values.len()];
        ArrayD::from_shape_vec(IxDyn(&self.shape), values).map_err(|_| Error::ShapeMismatch {
            what: "a tensor's values",
            expected: self.shape.clone(),
            found,
        })
    }

    /// Whether [`to_f32`](Self::to_f32) reads this.
    #[must_use]
    pub fn is_float(&self) -> bool {
        matches!(self.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16)
    }

    /// The same with bytes of its own.
    #[must_use]
    pub fn into_owned(self) -> PlainTensor {
        TensorData {
            dtype: self.dtype,
            shape: self.shape,
            bytes: Cow::Owned(self.bytes.into_owned()),
        }
    }

    /// Errs where the bytes are not those of the shape.
    pub(super) fn check(&self, name: &str) -> Result<()> {
        if header::bytes_of(self.dtype, &self.shape) == Some(self.bytes.len()) {
            return Ok(());
        }
        Err(header::malformed(format!(
            "{name} is {:?} of shape {:?} in {} bytes",
            self.dtype,
            self.shape,
            self.bytes.len()
        )))
    }
}

impl From<ArrayViewD<'_, f32>> for PlainTensor {
    fn from(array: ArrayViewD<'_, f32>) -> Self {
        Self {
            dtype: Dtype::F32,
            shape: array.shape().to_vec(),
            bytes: array.iter().flat_map(|x| x.to_le_bytes()).collect(),
        }
    }
}

impl NamedTensors {
    /// The tensors of a file that is mapped into memory; see [`Source::map`] for what that asks of the file.
    ///
    /// # Errors
    ///
    /// [`Error::File`], and [`Error::Malformed`] for a header that is wrong or a file that was cut.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::new(Source::map(path)?)
    }

    /// The tensors of the bytes of a safetensors file.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] for a header that is wrong or a file that was cut.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        Self::new(Source::from(bytes))
    }

    /// The tensors of `source`.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] for a header that is wrong or a file that was cut.
    pub fn new(source: Source) -> Result<Self> {
        let header = Header::read(&source)?;
        Ok(Self { source, header })
    }

    /// The names, in rising order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.header.tensors.keys().map(String::as_str)
    }

    /// The number of tensors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.header.tensors.len()
    }

    /// Whether there is no tensor.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.header.tensors.is_empty()
    }

    /// The length of the whole file in bytes.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.source.len() as u64
    }

    /// What the file says of itself.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.header.metadata
    }

    /// A tensor as it is stored.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTensor`].
    pub fn data(&self, name: &str) -> Result<TensorData<'_>> {
        let info = self.header.tensors.get(name);
        let info = info.ok_or_else(|| Error::UnknownTensor {
            name: name.to_owned(),
        })?;
        Ok(TensorData {
            dtype: info.dtype,
            shape: info.shape.clone(),
            bytes: Cow::Borrowed(self.source.get(info.bytes.clone()).unwrap_or_default()),
        })
    }

    /// A tensor's values.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTensor`], and [`Error::Unsupported`] for elements that are not F32, F16 or BF16.
    pub fn get(&self, name: &str) -> Result<ArrayD<f32>> {
        self.data(name)?.to_f32()
    }

    /// A safetensors file of `tensors` in single precision.
    ///
    /// # Errors
    ///
    /// [`Error::DuplicateName`].
    pub fn to_bytes<'a>(
        tensors: impl IntoIterator<Item = (&'a str, ArrayViewD<'a, f32>)>,
    ) -> Result<Vec<u8>> {
        let mut by_name = BTreeMap::new();
        for (name, tensor) in tensors {
            if by_name.insert(name, tensor).is_some() {
                return Err(Error::DuplicateName {
                    name: name.to_owned(),
                });
            }
        }
        let planned: Vec<Planned> = by_name
            .iter()
            .map(|(name, tensor)| Planned {
                name: (*name).to_owned(),
                dtype: Dtype::F32,
                shape: tensor.shape().to_vec(),
                length: tensor.len() * 4,
            })
            .collect();
        let mut bytes = header::write(&planned, &BTreeMap::new())?;
        for tensor in by_name.values() {
            bytes.extend(tensor.iter().flat_map(|x| x.to_le_bytes()));
        }
        Ok(bytes)
    }

    /// Writes a safetensors file of `tensors` in single precision.
    ///
    /// # Errors
    ///
    /// [`Error::DuplicateName`] and [`Error::File`].
    pub fn save<'a>(
        path: impl AsRef<Path>,
        tensors: impl IntoIterator<Item = (&'a str, ArrayViewD<'a, f32>)>,
    ) -> Result<()> {
        let path = path.as_ref();
        let bytes = Self::to_bytes(tensors)?;
        std::fs::write(path, bytes).map_err(|error| file_error(path, &error))
    }
}

/// `array` in another shape of as many values.
pub(super) fn reshaped(array: ArrayD<f32>, shape: &[usize]) -> Result<ArrayD<f32>> {
    let found = array.shape().to_vec();
    if found == shape {
        return Ok(array);
    }
    let values = array.iter().copied().collect();
    ArrayD::from_shape_vec(IxDyn(shape), values).map_err(|_| Error::ShapeMismatch {
        what: "a tensor",
        expected: shape.to_vec(),
        found,
    })
}
