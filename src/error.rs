//! The errors of the crate, each with the values that caused it.

/// The result of a function of taper.
///
/// ```
/// fn halve(weights: taper::ndarray::ArrayView2<'_, f32>) -> taper::Result<u64> {
///     use taper::{Compressed, Quantizer, quantize::fixed_point::FixedPointQuantizer};
///     Ok(FixedPointQuantizer::new(16).quantize(weights)?.storage().payload())
/// }
/// assert_eq!(halve(taper::ndarray::arr2(&[[1.0, 2.0]]).view())?, 32);
/// # Ok::<(), taper::Error>(())
/// ```
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The error of a function of taper: what is wrong, and the values.
///
/// Inputs are checked before any work: a function that returns an error has changed nothing.
///
/// ```
/// use taper::ndarray::array;
/// use taper::quantize::fixed_point::FixedPointQuantizer;
/// use taper::{Error, Quantizer};
///
/// let error = FixedPointQuantizer::new(4).quantize(array![[0.5, f64::NAN]].view()).unwrap_err();
/// assert!(matches!(&error, Error::NonFinite { index, .. } if index == &[0, 1]));
/// assert_eq!(error.to_string(), "weights: NaN at index [0, 1], but every value must be finite");
/// ```
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A parameter is wrong for every input.
    #[error(transparent)]
    Parameter(#[from] ParamError),

    /// An input holds a NaN or an infinity.
    #[error("{what}: {value} at index {index:?}, but every value must be finite")]
    NonFinite {
        /// The input.
        what: &'static str,
        /// The index of the value, one number per axis.
        index: Vec<usize>,
        /// The value.
        value: f64,
    },

    /// An input has an axis of length zero.
    #[error("{what}: an axis of shape {shape:?} is empty, but every axis needs an entry")]
    EmptyAxis {
        /// The input.
        what: &'static str,
        /// Its shape.
        shape: Vec<usize>,
    },

    /// An array has another shape than the rest of the input needs.
    #[error("{what}: the shape is {found:?}, but must be {expected:?}")]
    ShapeMismatch {
        /// The array.
        what: &'static str,
        /// The shape it should have.
        expected: Vec<usize>,
        /// The shape it has.
        found: Vec<usize>,
    },

    /// An array has the wrong number of axes.
    #[error("{what}: the shape is {shape:?}, but must have {expected}")]
    Dimensions {
        /// The array.
        what: &'static str,
        /// The axes that are needed, in words.
        expected: &'static str,
        /// Its shape.
        shape: Vec<usize>,
    },

    /// An axis cannot be split into this many equal parts.
    #[error(
        "{parts} {what} do not divide an axis of length {length}; the nearest numbers that do are {nearest:?}"
    )]
    Indivisible {
        /// The parts, in the plural.
        what: &'static str,
        /// The number of parts.
        parts: usize,
        /// The length of the axis.
        length: usize,
        /// The divisors of `length` next below and next above `parts`.
        nearest: Vec<usize>,
    },

    /// A rank, a count or an index is too large for the input.
    #[error("{what} is {value}, but the input allows at most {limit}")]
    ExceedsInput {
        /// The number.
        what: &'static str,
        /// Its value.
        value: usize,
        /// The largest value that the input allows.
        limit: usize,
    },

    /// A result is too large for its number type, or for the address space.
    #[error(
        "{what} is too large for its number type or for memory: use smaller values, a wider type or smaller shapes"
    )]
    Overflow {
        /// What was computed.
        what: &'static str,
    },

    /// A value so small that the precision it is to be stored in cannot hold it to its relative rounding error.
    #[error("precision {precision} cannot store {what} of {value:e}: {}", wider(*precision))]
    Underflow {
        /// What was to be stored.
        what: &'static str,
        /// Its value; of several values, the largest magnitude.
        value: f64,
        /// The precision.
        precision: crate::Precision,
    },

    /// Not even rank 1 reaches the compression ratio.
    #[error("the compression ratio must be at most {limit}, which rank 1 gives, but is {ratio}")]
    RatioOutOfReach {
        /// The ratio that was asked for.
        ratio: f64,
        /// The ratio at rank 1.
        limit: f64,
    },

    /// Moments are used before any input was added.
    #[error("the moments are empty: add the inputs of the layer first")]
    NoInputs,

    /// A compressor was given something in its [`FitContext`](crate::FitContext) that it cannot use.
    #[error("{compressor} cannot use {what}: leave them out")]
    ContextUnused {
        /// The compressor.
        compressor: &'static str,
        /// "moments of the inputs" or "weights of rows".
        what: &'static str,
    },

    /// A decomposition of the linear algebra back end failed.
    #[error("{what} did not converge; with moments of the inputs, more damping can help")]
    NoConvergence {
        /// The decomposition.
        what: &'static str,
    },

    /// There is no tensor of this name.
    #[error("there is no tensor called {name}")]
    UnknownTensor {
        /// The name.
        name: String,
    },

    /// An axis of a tensor has another length than the channels that it carries.
    #[error(
        "axis {axis} of {tensor}, of shape {shape:?}, must have {expected} entries: those of {channels}"
    )]
    ChannelAxis {
        /// The tensor.
        tensor: String,
        /// The axis, from 0.
        axis: usize,
        /// The number of entries that the channels need.
        expected: usize,
        /// The channels, in words.
        channels: String,
        /// The tensor's shape.
        shape: Vec<usize>,
    },

    /// Channels cannot depend on each other as declared.
    #[error("channels cannot be coupled: {problem}")]
    Coupling {
        /// What is wrong.
        problem: String,
    },

    /// Another crate failed.
    #[error("{engine}: {source}")]
    Foreign {
        /// The crate.
        engine: &'static str,
        /// Its error.
        source: Shared<dyn std::error::Error + Send + Sync>,
    },

    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The path of the file.
        path: String,
        /// The error of the operating system.
        source: Shared<std::io::Error>,
    },

    /// A valid input that taper does not support.
    #[error("{what}: {reason}")]
    Unsupported {
        /// The input.
        what: String,
        /// Why it is not supported, or what to do instead.
        reason: String,
    },

    /// Two things have the same name.
    #[error("the name {name} is used twice: names must differ")]
    DuplicateName {
        /// The name.
        name: String,
    },

    /// A recipe has a mistake.
    #[error("{}{problem}", at_line(.line))]
    Recipe {
        /// The line, from 1; 0 if the mistake belongs to no line.
        line: usize,
        /// The mistake.
        problem: String,
    },

    /// No choice of candidates keeps the budget.
    #[error(
        "the budget of {budget} ({what}) cannot be kept: the least that can be kept is {least}"
    )]
    BudgetOutOfReach {
        /// What the budget limits: `bytes` or `error`.
        what: &'static str,
        /// The budget.
        budget: f64,
        /// The smallest budget that can be kept.
        least: f64,
    },

    /// Parts of a model do not belong together.
    #[error("the parts do not make one model: {problem}")]
    Shards {
        /// What is wrong.
        problem: String,
    },

    /// An error with one tensor of a model.
    #[error("tensor {name}: {source}")]
    InTensor {
        /// The tensor.
        name: String,
        /// The error.
        source: Box<Error>,
    },

    /// An error with one rule of a recipe.
    #[error("rule for {tensors:?}: {source}")]
    InRule {
        /// The pattern of the rule.
        tensors: String,
        /// The error.
        source: Box<Error>,
    },

    /// An observer stopped the work, and there is no partial result.
    #[error("the observer stopped {what}")]
    Stopped {
        /// The work.
        what: &'static str,
    },

    /// Stored parts are not a valid artifact.
    #[error("{artifact}: {problem}")]
    Malformed {
        /// The kind of artifact.
        artifact: &'static str,
        /// What is wrong with its parts.
        problem: String,
    },
}

fn at_line(line: &usize) -> String {
    match *line {
        0 => String::new(),
        line => format!("line {line}: "),
    }
}

/// What to do about a value that is too small for a precision.
fn wider(precision: crate::Precision) -> &'static str {
    match precision {
        crate::Precision::F16 => "use f32",
        _ => "multiply the weights by a power of two first",
    }
}

impl Error {
    /// Creates the error of reading or writing the file `path`.
    ///
    /// ```
    /// use std::error::Error as _;
    /// use std::io::ErrorKind;
    ///
    /// let error = taper::Error::file("weights.bin", ErrorKind::NotFound.into());
    /// let source = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
    /// assert_eq!(source.unwrap().kind(), ErrorKind::NotFound);
    /// ```
    #[must_use]
    pub fn file(path: impl AsRef<std::path::Path>, source: std::io::Error) -> Self {
        Self::File {
            path: path.as_ref().display().to_string(),
            source: Shared(std::sync::Arc::new(source)),
        }
    }

    /// Creates the error of another crate.
    #[cfg(feature = "linfa")]
    pub(crate) fn foreign(
        engine: &'static str,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self::Foreign {
            engine,
            source: Shared(std::sync::Arc::new(source)),
        }
    }
}

/// The error of another crate, which can be cloned, and compared by its text.
///
/// It dereferences to that error, which is the source of [`Error::File`] and [`Error::Foreign`].
#[derive(Debug)]
pub struct Shared<E: ?Sized>(std::sync::Arc<E>);

impl<E: ?Sized> Clone for Shared<E> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<E: ?Sized> std::ops::Deref for Shared<E> {
    type Target = E;

    fn deref(&self) -> &E {
        &self.0
    }
}

impl<E: std::fmt::Display + ?Sized> std::fmt::Display for Shared<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl<E: std::fmt::Display + ?Sized> PartialEq for Shared<E> {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

#[cfg(feature = "linfa")]
impl From<linfa::Error> for Error {
    fn from(error: linfa::Error) -> Self {
        Self::foreign("linfa", error)
    }
}

/// A parameter that is wrong for every input.
///
/// ```
/// use taper::quantize::fixed_point::FixedPointQuantizer;
/// use taper::ParamError;
///
/// let error = FixedPointQuantizer::new(40).validate().unwrap_err();
/// assert!(matches!(error, ParamError::OutOfRange { value: 40.0, .. }));
/// ```
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ParamError {
    /// A count that must be at least one is zero.
    #[error("{name} must be at least 1, but is 0")]
    Zero {
        /// The parameter.
        name: &'static str,
    },

    /// A parameter is NaN or outside its range.
    #[error("{name} must be {range}, but is {value}")]
    OutOfRange {
        /// The parameter.
        name: &'static str,
        /// The allowed values, in words or as an interval.
        range: &'static str,
        /// Its value.
        value: f64,
    },

    /// Two parameters contradict each other.
    #[error("{first} cannot be combined with {second}: {reason}")]
    Conflict {
        /// One parameter.
        first: &'static str,
        /// The other.
        second: &'static str,
        /// Why.
        reason: &'static str,
    },
}
