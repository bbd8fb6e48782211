//! What an artifact adds to [`Compressed`] so that it can be written down and read again.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::{Debug, Display};
use std::str::FromStr;

use ndarray::{Array, Array1, Array2, ArrayD, Dimension, IxDyn};

use crate::{Compressed, DType, Error, LinearOp, Precision, Result};

/// An artifact that a container can hold.
///
/// A container writes the [kind](Self::kind), the [attributes](Self::attributes) and the
/// [`parts`](Compressed::parts), and [`restore`](Self::restore) makes an equal artifact of them. All kinds of this crate implement
/// it; those of others join by [`Registry::with`].
///
/// What an implementation promises: the parts are those of its own, followed by those of its
/// [children](Self::children) in their order; `restore` checks everything, and allocates no more than a
/// fixed multiple of what it was given.
///
/// ```
/// use taper::Quantizer;
/// use taper::model::Artifact;
/// use taper::ndarray::Array2;
/// use taper::quantize::fixed_point::FixedPointQuantizer;
///
/// let matrix = FixedPointQuantizer::new(4).quantize(Array2::<f32>::eye(4).view())?;
/// let artifact: &dyn Artifact = &matrix;
/// assert_eq!(artifact.kind(), "fixed_point");
/// assert_eq!(artifact.attributes()?.get::<u32>("bits")?, 4);
/// assert!(artifact.as_linear().is_some() && artifact.children().is_empty());
/// # Ok::<(), taper::Error>(())
/// ```
pub trait Artifact: Compressed<f32> + Any {
    /// The name under which [`restore`](Self::restore) is registered: lower-case letters, digits and `_`.
    fn kind(&self) -> &'static str;

    /// What `restore` needs beside shape and parts.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for what a container cannot hold.
    fn attributes(&self) -> Result<Attributes> {
        Ok(Attributes::default())
    }

    /// The artifacts that this one consists of, with a name for each.
    fn children(&self) -> Vec<(String, &dyn Artifact)> {
        Vec::new()
    }

    /// How a part that is made of packed codes is laid out, which lets them be entropy-coded.
    fn code_layout(&self, part: &str) -> Option<CodeLayout> {
        let _ = part;
        None
    }

    /// The artifact as an operator, where it is a matrix that multiplies as it is.
    fn as_linear(&self) -> Option<&dyn LinearOp<f32>> {
        None
    }

    /// The artifact that was written.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] and the errors of the artifact's own `from_parts` for anything but what it wrote.
    fn restore(stored: Stored) -> Result<Self>
    where
        Self: Sized;
}

/// Codes of equal width, packed without gaps from the lowest bit of the first byte on.
///
/// ```
/// use taper::Quantizer;
/// use taper::model::Artifact;
/// use taper::ndarray::Array2;
/// use taper::quantize::fixed_point::FixedPointQuantizer;
///
/// let matrix = FixedPointQuantizer::new(4).quantize(Array2::<f32>::eye(4).view())?;
/// let layout = matrix.code_layout("codes").expect("codes may be entropy-coded");
/// assert_eq!((layout.bits, layout.count), (4, 16));
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodeLayout {
    /// The width of a code.
    pub bits: u32,
    /// How many codes there are.
    pub count: usize,
    /// How many runs of equal length the codes consist of whose laws may differ (the groups of product
    /// quantization, say); 1 where all are alike.
    pub runs: usize,
    /// What the codes stand for.
    pub meaning: CodeMeaning,
}

/// What packed codes stand for, as far as it helps to code them.
///
/// ```
/// use taper::Quantizer;
/// use taper::model::{Artifact, CodeMeaning};
/// use taper::ndarray::Array2;
/// use taper::quantize::fixed_point::FixedPointQuantizer;
///
/// let matrix = FixedPointQuantizer::new(4).quantize(Array2::<f32>::eye(4).view())?;
/// let layout = matrix.code_layout("codes").expect("codes may be entropy-coded");
/// assert_eq!(layout.meaning, CodeMeaning::Numbers { columns: 4 });
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CodeMeaning {
    /// Names of things that have no order: centroids, say.
    Labels,
    /// Numbers: of two codes the larger one stands for the larger value. What neighbours in a row or a column are
    /// tells something of a number.
    Numbers {
        /// The length of a row.
        columns: usize,
    },
    /// Numbers k, stored as k + 2^(b−1) − 1, whose rows are paths of the [trellis](crate::quantize::trellis).
    Trellis {
        /// The length of a row.
        columns: usize,
    },
}

/// Named values in text: what an artifact is, beside its shape and its arrays.
///
/// ```
/// use taper::model::Attributes;
///
/// let attributes = Attributes::default().with("bits", 4);
/// assert_eq!(attributes.get::<u32>("bits")?, 4);
/// assert!(attributes.get::<u32>("axis").is_err());
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes(pub(super) BTreeMap<String, String>);

impl Attributes {
    /// The same with one more value.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Display) -> Self {
        self.0.insert(name.to_owned(), value.to_string());
        self
    }

    /// The value of this name, if any, as text.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// A value that must be there.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] where there is none, or one that does not parse.
    pub fn get<T: FromStr>(&self, name: &str) -> Result<T> {
        let text = self
            .text(name)
            .ok_or_else(|| malformed(format!("the attribute {name} is missing")))?;
        text.parse()
            .map_err(|_| malformed(format!("{text} is no {name}")))
    }

    /// A value out of a list of named ones.
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
///
/// ```
/// use std::collections::BTreeMap;
/// use taper::model::{Attributes, Registry, Stored, StoredPart};
/// use taper::{Compressed, DType};
///
/// let scale = StoredPart { dtype: DType::F32, shape: vec![1], bytes: 0.5_f32.to_le_bytes().to_vec() };
/// let stored = Stored {
///     shape: vec![1, 1],
///     attributes: Attributes::default(),
///     parts: BTreeMap::from([("values".to_owned(), StoredPart { shape: vec![1, 1], ..scale })]),
///     children: Vec::new(),
/// };
/// let artifact = Registry::default().restore("dense", stored)?;
/// assert_eq!(artifact.decompress()?.iter().copied().collect::<Vec<f32>>(), [0.5]);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct StoredPart {
    /// The type of its elements.
    pub dtype: DType,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its elements in row-major order, little-endian.
    pub bytes: Vec<u8>,
}

/// What was written of an artifact, to be checked and made one again.
///
/// ```
/// use std::collections::BTreeMap;
/// use taper::model::{Attributes, Registry, Stored, StoredPart};
/// use taper::{Compressed, DType};
///
/// let scale = StoredPart { dtype: DType::F32, shape: vec![1], bytes: 0.5_f32.to_le_bytes().to_vec() };
/// let stored = Stored {
///     shape: vec![1, 1],
///     attributes: Attributes::default(),
///     parts: BTreeMap::from([("values".to_owned(), StoredPart { shape: vec![1, 1], ..scale })]),
///     children: Vec::new(),
/// };
/// let artifact = Registry::default().restore("dense", stored)?;
/// assert_eq!(artifact.decompress()?.iter().copied().collect::<Vec<f32>>(), [0.5]);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct Stored {
    /// The shape of the dense tensor that it claims to stand for.
    pub shape: Vec<usize>,
    /// Its attributes.
    pub attributes: Attributes,
    /// Its own parts by name.
    pub parts: BTreeMap<String, StoredPart>,
    /// Its children, by name, in the order in which they were written.
    pub children: Vec<(String, Box<dyn Artifact>)>,
}

impl Stored {
    /// The shape of something with `N` axes.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] for another number of axes, or more values than the machine can count.
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

    /// Takes a part out.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] where there is none of this name.
    pub fn part(&mut self, name: &str) -> Result<StoredPart> {
        self.parts
            .remove(name)
            .ok_or_else(|| malformed(format!("the part {name} is missing")))
    }

    /// Takes a part of bytes out.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] where there is none of this name, or it holds something else.
    pub fn bytes(&mut self, name: &str) -> Result<Vec<u8>> {
        let part = self.part(name)?;
        if part.dtype != DType::U8 {
            return Err(malformed(format!("{name} holds {:?}", part.dtype)));
        }
        Ok(part.bytes)
    }

    /// Takes a part of real numbers out, and the precision it is stored in.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] where there is none of this name, it holds something else, or its bytes are not those of
    /// its shape.
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

    /// Takes a vector of real numbers out.
    ///
    /// # Errors
    ///
    /// As [`array`](Self::array), and for another number of axes.
    pub fn vector(&mut self, name: &str) -> Result<(Array1<f32>, Precision)> {
        self.with_axes(name)
    }

    /// Takes a matrix of real numbers out.
    ///
    /// # Errors
    ///
    /// As [`array`](Self::array), and for another number of axes.
    pub fn matrix(&mut self, name: &str) -> Result<(Array2<f32>, Precision)> {
        self.with_axes(name)
    }

    /// Takes an array of real numbers out that has the axes of `D`.
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

    /// Takes a child out.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] where there is none of this name.
    pub fn child(&mut self, name: &str) -> Result<Box<dyn Artifact>> {
        let position = self.children.iter().position(|child| child.0 == name);
        let position = position.ok_or_else(|| malformed(format!("the part {name} is missing")))?;
        Ok(self.children.remove(position).1)
    }

    /// Errs where something is left that `restore` did not ask for.
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

/// A child as the type it must have.
pub(super) fn downcast<A: Artifact>(child: Box<dyn Artifact>) -> Result<A> {
    let kind = child.kind();
    let any: Box<dyn Any> = child;
    match any.downcast() {
        Ok(artifact) => Ok(*artifact),
        Err(_) => Err(malformed(format!("a child of kind {kind}"))),
    }
}

type Restore = fn(Stored) -> Result<Box<dyn Artifact>>;

/// The kinds of artifacts that a container is read with.
///
/// ```
/// use taper::model::Registry;
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

impl Default for Registry {
    /// All kinds of this crate.
    fn default() -> Self {
        super::kinds::registry()
    }
}

impl Registry {
    /// No kinds.
    #[must_use]
    pub fn empty() -> Self {
        Self(BTreeMap::new())
    }

    /// The same with one more kind, or another reader of one.
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

    /// The artifact of a kind.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for a kind that is not registered, and what its `restore` says.
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
