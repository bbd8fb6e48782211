//! Models in the safetensors format: tensors by name.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use ndarray::{ArrayD, ArrayViewD, IxDyn};

use super::elements;
use super::header::{self, Header, Info, Planned};
use super::save::{NewFile, save_tensors};
use super::scales::Scales;
use super::source::Source;
#[cfg(feature = "onnx")]
use super::turned::Turned;
use crate::{DType, Error, Result};

/// The tensors of a model in the safetensors format, read one at a time.
///
/// Only headers are read at first; a tensor is decoded when it is asked for. A model that is [opened](Self::open) may be larger
/// than memory.
///
/// ```
/// use taper::model::NamedTensors;
/// use taper::ndarray::{ArrayD, IxDyn};
///
/// let weight = ArrayD::from_elem(IxDyn(&[2, 3]), 0.5);
/// let bytes = NamedTensors::to_bytes([("fc.weight", weight.view())])?;
/// let tensors = NamedTensors::from_bytes(bytes)?;
/// assert_eq!(tensors.names().collect::<Vec<_>>(), ["fc.weight"]);
/// assert_eq!(tensors.get("fc.weight")?, weight);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct NamedTensors {
    /// One file, or the shards of a model.
    pub(super) sources: Vec<Arc<Source>>,
    pub(super) tensors: BTreeMap<String, Place>,
    pub(super) metadata: BTreeMap<String, String>,
    /// The length of the files, where it is not the sum of the sources.
    #[cfg(feature = "onnx")]
    length: Option<u64>,
}

/// Where a tensor is.
#[derive(Debug)]
pub(super) struct Place {
    /// The number of its file.
    pub(super) source: usize,
    pub(super) info: Info,
    /// The scales of 8-bit weights that are read as BF16.
    pub(super) scales: Option<Scales>,
    /// The order of the elements in the file, where it is another one.
    #[cfg(feature = "onnx")]
    turned: Option<Turned>,
}

impl Place {
    pub(super) fn new(source: usize, info: Info) -> Self {
        Self {
            source,
            info,
            scales: None,
            #[cfg(feature = "onnx")]
            turned: None,
        }
    }

    /// The type of elements with which the tensor is read.
    fn dtype(&self) -> DType {
        match self.scales {
            Some(_) => DType::BF16,
            None => self.info.dtype,
        }
    }
}

/// A tensor in one of several files.
#[cfg(feature = "onnx")]
#[derive(Debug, Clone)]
pub(crate) struct StoredTensor {
    /// The number of the file.
    pub(crate) source: usize,
    pub(crate) bytes: std::ops::Range<usize>,
    pub(crate) dtype: DType,
    pub(crate) shape: Vec<usize>,
    pub(crate) turned: Option<Turned>,
}

/// One tensor as a file stores it: elements of any type, bit for bit.
///
/// ```
/// use taper::DType;
/// use taper::model::TensorData;
/// use taper::ndarray::arr1;
///
/// let tensor = TensorData { dtype: DType::BF16, shape: vec![2], bytes: vec![0, 0x3f, 0x80, 0xbf].into() };
/// assert_eq!(tensor.to_f32()?, arr1(&[0.5, -1.0]).into_dyn());
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct TensorData<'a> {
    /// The type of its elements.
    pub dtype: DType,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its elements in row-major order, little-endian.
    pub bytes: Cow<'a, [u8]>,
}

/// A type in words, a shape, and the bytes of a tensor.
type Identity<'a> = (String, Vec<usize>, Vec<&'a [u8]>);

/// Whether elements of this type are read as weights.
pub(super) fn is_float(dtype: DType) -> bool {
    matches!(
        dtype,
        DType::F64 | DType::F32 | DType::F16 | DType::BF16 | DType::F8_E4M3 | DType::F8_E5M2
    )
}

impl TensorData<'_> {
    /// The values as `f32`, which holds those of F16, BF16, F8_E4M3 and F8_E5M2 exactly. F64 values are rounded.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for elements of any other type and for F64 values that are all too small for F32,
    /// [`Error::Overflow`] for F64 values beyond its range, [`Error::Malformed`] where the bytes are not those of the shape.
    pub fn to_f32(&self) -> Result<ArrayD<f32>> {
        let values = elements::decode(self.dtype, &self.bytes)?;
        self.check("a tensor")?;
        ArrayD::from_shape_vec(IxDyn(&self.shape), values).map_err(|_| Error::Unsupported {
            what: format!("a tensor of shape {:?}", self.shape),
            reason: "its axes multiply to more than an array can have".to_owned(),
        })
    }

    /// Whether [`to_f32`](Self::to_f32) reads elements of this type.
    #[must_use]
    pub fn is_float(&self) -> bool {
        is_float(self.dtype)
    }

    /// The same tensor, with a copy of the bytes where they are borrowed.
    #[must_use]
    pub fn into_owned(self) -> TensorData<'static> {
        TensorData {
            dtype: self.dtype,
            shape: self.shape,
            bytes: Cow::Owned(self.bytes.into_owned()),
        }
    }

    /// Checks that the bytes are those of the shape.
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

    /// `array` with elements of `dtype`, rounded to the nearest.
    pub(super) fn of(array: ArrayViewD<'_, f32>, dtype: DType) -> Result<TensorData<'static>> {
        Ok(TensorData {
            dtype,
            shape: array.shape().to_vec(),
            bytes: elements::encode(array.iter().copied(), dtype)?.into(),
        })
    }
}

impl From<ArrayViewD<'_, f32>> for TensorData<'_> {
    fn from(array: ArrayViewD<'_, f32>) -> Self {
        Self {
            dtype: DType::F32,
            shape: array.shape().to_vec(),
            bytes: array.iter().flat_map(|x| x.to_le_bytes()).collect(),
        }
    }
}

impl NamedTensors {
    /// The tensors of the bytes of a safetensors file.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] for a header that is wrong, or a file that was cut or is of another format.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        Self::new(Source::from(bytes))
    }

    pub(super) fn new(source: Source) -> Result<Self> {
        let Header { tensors, metadata } = Header::read(&source)?;
        let place = |(name, info)| (name, Place::new(0, info));
        Ok(Self {
            tensors: tensors.into_iter().map(place).collect(),
            metadata,
            sources: vec![Arc::new(source)],
            #[cfg(feature = "onnx")]
            length: None,
        })
    }

    /// Tensors of files of `length` bytes: the name, the place of the bytes, and the type and shape of each. Their lengths have
    /// been checked.
    #[cfg(feature = "onnx")]
    pub(crate) fn of_places(
        length: u64,
        sources: Vec<Arc<Source>>,
        places: impl IntoIterator<Item = (String, StoredTensor)>,
    ) -> Self {
        let places = places.into_iter().map(|(name, tensor)| {
            let shape = tensor.turned.as_ref().map(|turned| turned.shape.clone());
            let info = Info {
                dtype: tensor.dtype,
                shape: shape.unwrap_or(tensor.shape),
                bytes: tensor.bytes,
            };
            let place = Place {
                turned: tensor.turned,
                ..Place::new(tensor.source, info)
            };
            (name, place)
        });
        Self {
            tensors: places.collect(),
            sources,
            metadata: BTreeMap::new(),
            length: Some(length),
        }
    }

    /// The names, in rising order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The number of tensors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there is no tensor.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// The length of the file in bytes; of shards, the sum of their lengths.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        #[cfg(feature = "onnx")]
        if let Some(length) = self.length {
            return length;
        }
        self.sources.iter().map(|source| source.len() as u64).sum()
    }

    /// The metadata of the file.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    fn place(&self, name: &str) -> Result<&Place> {
        self.tensors.get(name).ok_or_else(|| Error::UnknownTensor {
            name: name.to_owned(),
        })
    }

    /// A tensor as it is stored.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTensor`]; for [dequantized](Self::dequantized) weights beyond the range of BF16 [`Error::InTensor`]
    /// with [`Error::Overflow`].
    pub fn data(&self, name: &str) -> Result<TensorData<'_>> {
        let Place {
            source,
            info,
            scales,
            ..
        } = self.place(name)?;
        // The header was checked against the length of the file.
        let bytes = Cow::Borrowed(&self.sources[*source][info.bytes.clone()]);
        #[cfg(feature = "onnx")]
        let bytes = match &self.place(name)?.turned {
            None => bytes,
            Some(turned) => turned.turn(&bytes, info.dtype.bits() / 8).into(),
        };
        let stored = TensorData {
            dtype: info.dtype,
            shape: info.shape.clone(),
            bytes,
        };
        match scales {
            None => Ok(stored),
            Some(scales) => within(name, self.dequantize(&stored, scales)),
        }
    }

    /// The type, shape and bytes of a tensor, by which it is compared with others.
    pub(super) fn identity(&self, name: &str) -> Result<Identity<'_>> {
        let Place {
            source,
            info,
            scales,
            ..
        } = self.place(name)?;
        let mut slices = vec![&self.sources[*source][info.bytes.clone()]];
        let mut kind = format!("{:?}", info.dtype);
        #[cfg(feature = "onnx")]
        if let Some(turned) = &self.place(name)?.turned {
            kind += &format!(" {turned:?}");
        }
        if let Some(scales) = scales {
            kind += &format!(" {:?} {:?}", scales.info.dtype, scales.info.shape);
            slices.push(&self.sources[scales.source][scales.info.bytes.clone()]);
        }
        Ok((kind, info.shape.clone(), slices))
    }

    /// The bytes of a tensor in its file.
    pub(super) fn stored_bytes(&self, name: &str) -> Result<u64> {
        Ok(self.place(name)?.info.bytes.len() as u64)
    }

    /// The weights for which 8-bit codes stand.
    fn dequantize(&self, codes: &TensorData<'_>, scales: &Scales) -> Result<TensorData<'static>> {
        let bytes = &self.sources[scales.source][scales.info.bytes.clone()];
        let mut weights = codes.to_f32()?;
        scales.apply(bytes, &mut weights)?;
        TensorData::of(weights.view(), DType::BF16)
    }

    /// A tensor's values.
    ///
    /// # Errors
    ///
    /// Those of [`data`](Self::data) and of [`TensorData::to_f32`].
    pub fn get(&self, name: &str) -> Result<ArrayD<f32>> {
        self.data(name)?.to_f32()
    }

    /// A safetensors file of `tensors`: of arrays, which are written in single precision, or of [`TensorData`], which
    /// keeps its type.
    ///
    /// # Errors
    ///
    /// [`Error::DuplicateName`], [`Error::Unsupported`] for the name `__metadata__`, [`Error::Malformed`] for a
    /// tensor whose bytes are not those of its shape.
    pub fn to_bytes<'a, T: Into<TensorData<'a>>>(
        tensors: impl IntoIterator<Item = (&'a str, T)>,
    ) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let failed = |error| unreachable!("memory takes all that is written: {error}");
        write(&mut bytes, tensors, &BTreeMap::new(), failed)?;
        Ok(bytes)
    }

    /// Writes the safetensors file of [`to_bytes`](Self::to_bytes), which replaces a file at `path` once it is complete.
    ///
    /// # Errors
    ///
    /// Those of [`to_bytes`](Self::to_bytes), and [`Error::File`].
    pub fn save<'a, T: Into<TensorData<'a>>>(
        path: impl AsRef<Path>,
        tensors: impl IntoIterator<Item = (&'a str, T)>,
    ) -> Result<()> {
        Self::save_tagged(path, tensors, &BTreeMap::new())
    }

    /// As [`save`](Self::save), with metadata.
    pub(super) fn save_tagged<'a, T: Into<TensorData<'a>>>(
        path: impl AsRef<Path>,
        tensors: impl IntoIterator<Item = (&'a str, T)>,
        metadata: &BTreeMap<String, String>,
    ) -> Result<()> {
        let path = path.as_ref();
        let mut file = NewFile::create(path)?;
        write(&mut file, tensors, metadata, |error| {
            Error::file(path, error)
        })?;
        file.commit()
    }

    /// Writes this model again, with `changed` in place of the tensors of these names; returns the length of the file.
    ///
    /// Each tensor keeps its type, to which changed values are rounded, and the file its metadata. One tensor is in memory at a
    /// time. The path may be the one from which this model was opened; shards become one file.
    ///
    /// ```
    /// use taper::DType;
    /// use taper::model::{NamedTensors, TensorData};
    /// use taper::ndarray::arr1;
    ///
    /// let half = TensorData { dtype: DType::F16, shape: vec![1], bytes: vec![0, 0x3c].into() };
    /// let model = NamedTensors::from_bytes(NamedTensors::to_bytes([("scale", half)])?)?;
    /// let path = std::env::temp_dir().join(format!("taper-save-with-{}", std::process::id()));
    /// let doubled = model.get("scale")? * 2.0;
    /// model.save_with(&path, [("scale", doubled.view())])?;
    /// let again = NamedTensors::open(&path)?;
    /// assert_eq!(again.get("scale")?, arr1(&[2.0]).into_dyn());
    /// assert_eq!(again.data("scale")?.dtype, DType::F16);
    /// # std::fs::remove_file(&path).unwrap();
    /// # Ok::<(), taper::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTensor`] for a changed tensor that the model does not have, [`Error::DuplicateName`] for one that is
    /// given twice, [`Error::InTensor`] for values beyond the range of the type, and [`Error::File`].
    pub fn save_with<'a>(
        &self,
        path: impl AsRef<Path>,
        changed: impl IntoIterator<Item = (&'a str, ArrayViewD<'a, f32>)>,
    ) -> Result<u64> {
        let path = path.as_ref();
        let changed = by_name(changed)?;
        for name in changed.keys() {
            self.place(name)?;
        }
        let planned = self.tensors.iter().map(|(name, place)| {
            let shape = match changed.get(name.as_str()) {
                Some(array) => array.shape(),
                None => &place.info.shape,
            };
            Planned::new(name, place.dtype(), shape)
        });
        let planned = planned.collect::<Result<_>>()?;
        let data = |name: &str| match changed.get(name) {
            Some(array) => {
                let dtype = self.place(name)?.dtype();
                let tensor = within(name, TensorData::of(array.view(), dtype))?;
                Ok(tensor.bytes)
            }
            None => Ok(self.data(name)?.bytes),
        };
        save_tensors(path, planned, &self.metadata, data)
    }
}

/// Adds the name of the tensor to an error.
pub(crate) fn within<T>(name: &str, result: Result<T>) -> Result<T> {
    result.map_err(|error| match error {
        error @ (Error::InTensor { .. } | Error::File { .. } | Error::Stopped { .. }) => error,
        error => Error::InTensor {
            name: name.to_owned(),
            source: Box::new(error),
        },
    })
}

/// Values by name, each of which is given once.
fn by_name<'a, T>(values: impl IntoIterator<Item = (&'a str, T)>) -> Result<BTreeMap<&'a str, T>> {
    let mut by_name = BTreeMap::new();
    for (name, value) in values {
        if by_name.insert(name, value).is_some() {
            return Err(Error::DuplicateName {
                name: name.to_owned(),
            });
        }
    }
    Ok(by_name)
}

/// Writes a safetensors file of `tensors`.
fn write<'a, T: Into<TensorData<'a>>>(
    out: &mut impl std::io::Write,
    tensors: impl IntoIterator<Item = (&'a str, T)>,
    metadata: &BTreeMap<String, String>,
    failed: impl Fn(std::io::Error) -> Error,
) -> Result<u64> {
    let tensors = tensors
        .into_iter()
        .map(|(name, tensor)| (name, tensor.into()));
    let tensors: BTreeMap<&str, TensorData<'a>> = by_name(tensors)?;
    let mut planned = Vec::with_capacity(tensors.len());
    for (name, tensor) in &tensors {
        tensor.check(name)?;
        planned.push(Planned::new(name, tensor.dtype, &tensor.shape)?);
    }
    let data = |name: &str| Ok(&tensors[name].bytes);
    header::write_file(out, planned, metadata, data, failed)
}

/// `array` in another shape with the same number of values.
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
