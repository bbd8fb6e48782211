//! For artifacts of your own: what a container needs in order to store one and read it again.
//!
//! Implement [`Compressed`] and [`Artifact`], and give the reader a [`Registry`] with the new kind:
//!
//! ```
//! use taper::model::extend::{Artifact, Attributes, Registry, Stored};
//! use taper::model::{CompressedModel, CompressedTensor, Container};
//! use taper::ndarray::ArrayViewMutD;
//! use taper::{Compressed, Part, StorageBits};
//!
//! /// A tensor whose elements all have one value.
//! #[derive(Debug)]
//! struct Constant {
//!     shape: Vec<usize>,
//!     value: f32,
//! }
//!
//! impl Compressed<f32> for Constant {
//!     fn shape(&self) -> &[usize] {
//!         &self.shape
//!     }
//!     fn parts(&self) -> Vec<Part<'_>> {
//!         Vec::new()
//!     }
//!     fn storage(&self) -> StorageBits {
//!         StorageBits::new()
//!     }
//!     fn decompress_into(&self, mut out: ArrayViewMutD<'_, f32>) -> taper::Result<()> {
//!         out.fill(self.value);
//!         Ok(())
//!     }
//! }
//!
//! impl Artifact for Constant {
//!     fn kind(&self) -> &'static str {
//!         "constant"
//!     }
//!     fn attributes(&self) -> taper::Result<Attributes> {
//!         Ok(Attributes::default().with("value", self.value))
//!     }
//!     fn restore(stored: Stored) -> taper::Result<Self> {
//!         Ok(Self { value: stored.attributes.get("value")?, shape: stored.shape })
//!     }
//! }
//!
//! let mut model = CompressedModel::new();
//! let ones = Constant { shape: vec![64, 32], value: 1.0 };
//! model.insert("norm.weight", CompressedTensor::new(ones))?;
//!
//! let kinds = Registry::default().with::<Constant>("constant");
//! let container = Container::from_bytes(model.to_bytes()?)?.with_registry(kinds);
//! assert_eq!(container.get("norm.weight")?.decompress()?.sum(), 64.0 * 32.0);
//! # Ok::<(), taper::Error>(())
//! ```

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::{Debug, Display};
use std::str::FromStr;

use ndarray::{Array, Array1, Array2, ArrayD, Dimension, IxDyn};

use crate::{Compressed, DType, Error, LinearOp, Precision, Result};

/// An artifact that a container can store.
///
/// A container writes the [kind](Self::kind), the [attributes](Self::attributes) and the [`parts`](Compressed::parts);
/// [`restore`](Self::restore) makes an equal artifact of them. Every artifact of this crate implements the trait;
/// [`Registry::with`] adds others. The [module](self) has an example.
///
/// An implementation guarantees two things. Its parts are its own, followed by those of its [children](Self::children) in
/// their order. `restore` checks everything that it is given, and allocates no more than a fixed multiple of it.
pub trait Artifact: Compressed<f32> + Any {
    /// The name under which [`restore`](Self::restore) is registered: lower-case letters, digits and `_`.
    fn kind(&self) -> &'static str;

    /// What `restore` needs besides shape and parts.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for an artifact that a container cannot store.
    fn attributes(&self) -> Result<Attributes> {
        Ok(Attributes::default())
    }

    /// The artifacts of which this one consists, with a name for each.
    fn children(&self) -> Vec<(String, &dyn Artifact)> {
        Vec::new()
    }

    /// The layout of `part` where it consists of packed codes, which may then be entropy-coded; `None` for any other part.
    fn code_layout(&self, part: &str) -> Option<CodeLayout> {
        let _ = part;
        None
    }

    /// The artifact as a linear operator, where it is a matrix that multiplies without being decompressed.
    fn as_linear(&self) -> Option<&dyn LinearOp<f32>> {
        None
    }

    /// Rebuilds the artifact that was written.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] and the errors of the artifact's own `from_parts`, for anything that this kind does not write.
    fn restore(stored: Stored) -> Result<Self>
    where
        Self: Sized;
}

/// The layout of a part that consists of packed codes: codes of equal width without gaps, from the lowest bit of the first
/// byte on.
///
/// ```
/// use taper::Quantizer;
/// use taper::model::extend::{Artifact, CodeMeaning};
/// use taper::ndarray::Array2;
/// use taper::quantize::fixed_point::FixedPointQuantizer;
///
/// let matrix = FixedPointQuantizer::new(4).quantize(Array2::<f32>::eye(4).view())?;
/// let layout = matrix.code_layout("codes").expect("codes may be entropy-coded");
/// assert_eq!((layout.bits, layout.count), (4, 16));
/// assert_eq!(layout.meaning, CodeMeaning::Numbers { columns: 4 });
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodeLayout {
    /// Bits per code.
    pub bits: u32,
    /// The number of codes.
    pub count: usize,
    /// The number of runs of equal length whose codes may have different frequencies, such as the groups of product
    /// quantization; 1 where all codes have the same.
    pub runs: usize,
    /// What the codes stand for.
    pub meaning: CodeMeaning,
}

/// What packed codes stand for, which decides how they are entropy-coded. [`CodeLayout`] has an example.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CodeMeaning {
    /// Names of things that have no order, such as centroids.
    Labels,
    /// Numbers: the larger of two codes stands for the larger value. A coder may predict a number from its neighbours in the
    /// row and the column.
    Numbers {
        /// The length of a row.
        columns: usize,
    },
    /// The part `codes` of a matrix of [trellis](crate::quantize::trellis) codes.
    Trellis {
        /// The rows of the matrix.
        rows: usize,
        /// The columns of the matrix.
        columns: usize,
    },
}

/// Named values in text: what describes an artifact besides its shape and its parts.
///
/// ```
/// use taper::model::extend::Attributes;
///
/// let attributes = Attributes::default().with("bits", 4);
/// assert_eq!(attributes.get::<u32>("bits")?, 4);
/// assert!(attributes.get::<u32>("axis").is_err());
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes(pub(super) BTreeMap<String, String>);

impl Attributes {
    /// Adds a value.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Display) -> Self {
        self.0.insert(name.to_owned(), value.to_string());
        self
    }

    /// The text of the value `name`, if there is one.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The required value `name`.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] where there is none, or it does not parse.
    pub fn get<T: FromStr>(&self, name: &str) -> Result<T> {
        let text = self
            .text(name)
            .ok_or_else(|| malformed(format!("the attribute {name} is missing")))?;
        text.parse()
            .map_err(|_| malformed(format!("{text} is no {name}")))
    }

    /// The required value `name`, which is one of a list.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] for any other.
    pub fn choice<T: Copy>(&self, name: &str, choices: &[(&str, T)]) -> Result<T> {
        let text = self.text(name).unwrap_or_default();
        choices
            .iter()
            .find(|(choice, _)| *choice == text)
            .map(|&(_, value)| value)
            .ok_or_else(|| malformed(format!("{text} is no {name}")))
    }
}

pub(super) fn malformed(problem: String) -> Error {
    Error::Malformed {
        artifact: "a stored artifact",
        problem,
    }
}

/// One array of a [`Stored`] artifact.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredPart {
    /// The type of its elements.
    pub dtype: DType,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its elements in row-major order, little-endian.
    pub bytes: Vec<u8>,
}

/// What a file holds of an artifact: the input of [`Artifact::restore`], which has to check it.
///
/// ```
/// use std::collections::BTreeMap;
/// use taper::model::extend::{Registry, Stored, StoredPart};
/// use taper::{Compressed, DType};
///
/// let values = StoredPart { dtype: DType::F32, shape: vec![1, 1], bytes: 0.5_f32.to_le_bytes().to_vec() };
/// let stored = Stored {
///     shape: vec![1, 1],
///     parts: BTreeMap::from([("values".to_owned(), values)]),
///     ..Stored::default()
/// };
/// let artifact = Registry::default().restore("dense", stored)?;
/// assert_eq!(artifact.decompress()?[[0, 0]], 0.5);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct Stored {
    /// The shape of the dense tensor.
    pub shape: Vec<usize>,
    /// Its attributes.
    pub attributes: Attributes,
    /// Its own parts by name.
    pub parts: BTreeMap<String, StoredPart>,
    /// Its children, by name, in the order in which they were written.
    pub children: Vec<(String, Box<dyn Artifact>)>,
}

impl Stored {
    /// The shape, which has to have `N` axes.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] for another number of axes, or for more values than a `usize` counts.
    pub fn axes<const N: usize>(&self) -> Result<[usize; N]> {
        let count = self
            .shape
            .iter()
            .try_fold(1_usize, |n, &m| n.checked_mul(m));
        match <[usize; N]>::try_from(self.shape.as_slice()) {
            Ok(axes) if count.is_some() => Ok(axes),
            _ => Err(malformed(format!("a tensor of shape {:?}", self.shape))),
        }
    }

    /// Removes the part `name` and returns it.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] where there is none.
    pub fn part(&mut self, name: &str) -> Result<StoredPart> {
        self.parts
            .remove(name)
            .ok_or_else(|| malformed(format!("the part {name} is missing")))
    }

    /// Removes the part `name`, which consists of bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] where there is no such part, or it has another type.
    pub fn bytes(&mut self, name: &str) -> Result<Vec<u8>> {
        let part = self.part(name)?;
        if part.dtype != DType::U8 {
            return Err(malformed(format!("{name} holds {:?}", part.dtype)));
        }
        Ok(part.bytes)
    }

    /// Removes the part `name`, which consists of real numbers, and returns them with the precision in which they are stored.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] where there is no such part, it has another type, or its bytes do not fit its shape.
    pub fn array(&mut self, name: &str) -> Result<(ArrayD<f32>, Precision)> {
        let part = self.part(name)?;
        fn read<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f32) -> Vec<f32> {
            bytes.as_chunks().0.iter().map(|&x| value(x)).collect()
        }
        let (values, precision) = match part.dtype {
            DType::F16 => (
                read(&part.bytes, |x| half::f16::from_le_bytes(x).to_f32()),
                Precision::F16,
            ),
            DType::F32 => (read(&part.bytes, f32::from_le_bytes), Precision::F32),
            DType::F64 => {
                let values = read(&part.bytes, |x| f64::from_le_bytes(x) as f32);
                let exact = Precision::F64.encode(values.iter().copied());
                if exact != part.bytes {
                    return Err(malformed(format!("{name} holds what F32 does not")));
                }
                (values, Precision::F64)
            }
            other => return Err(malformed(format!("{name} holds {other:?}"))),
        };
        let elements = values.len();
        let array = ArrayD::from_shape_vec(IxDyn(&part.shape), values).map_err(|_| {
            malformed(format!(
                "{name}, of shape {:?}, has {elements} values",
                part.shape
            ))
        })?;
        Ok((array, precision))
    }

    /// Removes the part `name`, a vector of real numbers.
    ///
    /// # Errors
    ///
    /// As [`array`](Self::array), and for another number of axes.
    pub fn vector(&mut self, name: &str) -> Result<(Array1<f32>, Precision)> {
        self.with_axes(name)
    }

    /// Removes the part `name`, a matrix of real numbers.
    ///
    /// # Errors
    ///
    /// As [`array`](Self::array), and for another number of axes.
    pub fn matrix(&mut self, name: &str) -> Result<(Array2<f32>, Precision)> {
        self.with_axes(name)
    }

    /// Removes the part `name`, real numbers with the axes of `D`.
    ///
    /// # Errors
    ///
    /// As [`array`](Self::array), and for another number of axes.
    pub fn with_axes<D: Dimension>(&mut self, name: &str) -> Result<(Array<f32, D>, Precision)> {
        let (array, precision) = self.array(name)?;
        let shape = array.shape().to_vec();
        let array = array.into_dimensionality();
        let array = array.map_err(|_| malformed(format!("{name} has shape {shape:?}")))?;
        Ok((array, precision))
    }

    /// Removes the child `name` and returns it.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] where there is none.
    pub fn child(&mut self, name: &str) -> Result<Box<dyn Artifact>> {
        let position = self.children.iter().position(|child| child.0 == name);
        let position = position.ok_or_else(|| malformed(format!("the part {name} is missing")))?;
        Ok(self.children.remove(position).1)
    }

    /// Returns an error where a part or child is left that `restore` did not read.
    pub(super) fn finish(self) -> Result<()> {
        let left = self.parts.into_keys();
        match left
            .chain(self.children.into_iter().map(|(name, _)| name))
            .next()
        {
            None => Ok(()),
            Some(name) => Err(malformed(format!("{name} belongs to nothing"))),
        }
    }
}

/// The child as the type that it has to have.
pub(super) fn downcast<A: Artifact>(child: Box<dyn Artifact>) -> Result<A> {
    let kind = child.kind();
    let any: Box<dyn Any> = child;
    match any.downcast() {
        Ok(artifact) => Ok(*artifact),
        Err(_) => Err(malformed(format!("a child of kind {kind}"))),
    }
}

type Restore = fn(Stored) -> Result<Box<dyn Artifact>>;

/// The kinds of artifacts that a container can be read with.
///
/// [`Registry::default`] has all kinds of this crate. [`Container::with_registry`](super::Container::with_registry) sets the
/// registry of a reader.
///
/// ```
/// use taper::model::extend::Registry;
///
/// let kinds = Registry::default();
/// assert!(kinds.kinds().any(|kind| kind == "pq"));
/// ```
#[derive(Clone)]
pub struct Registry(BTreeMap<&'static str, Restore>);

impl Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.kinds()).finish()
    }
}

impl Registry {
    /// Creates a registry without kinds.
    #[must_use]
    pub fn empty() -> Self {
        Self(BTreeMap::new())
    }

    /// Adds a kind, or replaces the type that reads it.
    #[must_use]
    pub fn with<A: Artifact>(mut self, kind: &'static str) -> Self {
        self.0
            .insert(kind, |stored| Ok(Box::new(A::restore(stored)?)));
        self
    }

    /// The kinds, in rising order.
    pub fn kinds(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.0.keys().copied()
    }

    /// Restores an artifact of this kind.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for a kind that is not registered, and the errors of its `restore`.
    pub fn restore(&self, kind: &str, stored: Stored) -> Result<Box<dyn Artifact>> {
        let restore = self.0.get(kind).ok_or_else(|| Error::Unsupported {
            what: format!("an artifact of kind {kind}"),
            reason: "the registry has no such kind".to_owned(),
        })?;
        let shape = stored.shape.clone();
        let artifact = restore(stored)?;
        crate::check::same_shape("a stored artifact", &shape, artifact.shape())?;
        Ok(artifact)
    }
}
