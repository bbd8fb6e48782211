//! What can go wrong, each case with the values that were wrong.

/// The result of everything in taper that can fail.
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

/// A value or a shape that cannot be worked with.
///
/// Inputs are checked before any work is done: a function that returns an error has changed nothing.
///
/// ```
/// use taper::ndarray::array;
/// use taper::quantize::fixed_point::FixedPointQuantizer;
/// use taper::{Error, Quantizer};
///
/// let error = FixedPointQuantizer::new(4).quantize(array![[0.5, f64::NAN]].view()).unwrap_err();
/// assert!(matches!(&error, Error::NonFinite { index, .. } if index == &[0, 1]));
/// assert_eq!(error.to_string(), "weights holds NaN at [0, 1]: every value must be finite");
/// ```
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A parameter is out of its range, whatever the input.
    #[error(transparent)]
    Parameter(#[from] ParamError),

    /// An input holds a NaN or an infinity.
    #[error("{what} holds {value} at {index:?}: every value must be finite")]
    NonFinite {
        /// Which input.
        what: &'static str,
        /// Where in it, in its own axes.
        index: Vec<usize>,
        /// The value found there.
        value: f64,
    },

    /// An input has an axis of length zero.
    #[error("{what} has shape {shape:?}: no axis may be empty")]
    EmptyAxis {
        /// Which input.
        what: &'static str,
        /// Its shape.
        shape: Vec<usize>,
    },

    /// Two shapes that must agree do not.
    #[error("{what} has shape {found:?}, but {expected:?} is needed")]
    ShapeMismatch {
        /// Which array.
        what: &'static str,
        /// The shape it should have.
        expected: Vec<usize>,
        /// The shape it has.
        found: Vec<usize>,
    },

    /// An array has the wrong number of axes.
    #[error("{what} has shape {shape:?}: it needs {expected}")]
    Dimensions {
        /// Which array.
        what: &'static str,
        /// How many axes are needed, in words.
        expected: &'static str,
        /// Its shape.
        shape: Vec<usize>,
    },

    /// A number of groups that does not divide the axis it is to split.
    #[error(
        "{parts} {what} do not divide an axis of {length} evenly: the nearest numbers that do are {nearest:?}"
    )]
    Indivisible {
        /// What was asked for, in the plural.
        what: &'static str,
        /// How many were asked for.
        parts: usize,
        /// The length of the axis.
        length: usize,
        /// The divisors of `length` next below and next above `parts`.
        nearest: Vec<usize>,
    },

    /// A number (a rank, a count, an index) above what the input allows.
    #[error("{what} is {value}, but the input allows at most {limit}")]
    ExceedsInput {
        /// Which number.
        what: &'static str,
        /// Its value.
        value: usize,
        /// The largest value that fits.
        limit: usize,
    },

    /// A computation whose result is not a finite number of this type.
    #[error("{what} leaves the range of the number type")]
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

    /// A compression ratio that not even the smallest rank reaches.
    #[error("a compression ratio of {ratio} is out of reach: rank 1 gives {limit}")]
    RatioOutOfReach {
        /// What was asked for.
        ratio: f64,
        /// The ratio at rank 1.
        limit: f64,
    },

    /// Moments of inputs of which none has been seen.
    #[error("no input has been added to the moments yet")]
    NoInputs,

    /// Moments of inputs handed to a compressor that has no use for them.
    #[error(
        "{compressor} minimizes the error of the weights: it has no use for moments of the inputs"
    )]
    MomentsUnused {
        /// The compressor.
        compressor: &'static str,
    },

    /// An iteration of the linear algebra back end that found no end.
    #[error("{what} did not converge")]
    NoConvergence {
        /// Which decomposition.
        what: &'static str,
    },

    /// A tensor that was asked for by a name that nothing has.
    #[error("there is no tensor called {name}")]
    UnknownTensor {
        /// The name.
        name: String,
    },

    /// An axis of a tensor that does not carry as many entries as the channels coupled to it.
    #[error(
        "axis {axis} of {tensor}, of shape {shape:?}, must have {expected} entries: those of {channels}"
    )]
    ChannelAxis {
        /// The tensor.
        tensor: String,
        /// The axis, from 0.
        axis: usize,
        /// How many entries the channels take.
        expected: usize,
        /// The channels, in words.
        channels: String,
        /// The tensor's shape.
        shape: Vec<usize>,
    },

    /// Channels that cannot depend on each other in the way that was declared.
    #[error("channels cannot be coupled: {problem}")]
    Coupling {
        /// What does not fit.
        problem: String,
    },

    /// What an engine of another crate could not do.
    #[error("{engine}: {message}")]
    Foreign {
        /// The crate.
        engine: &'static str,
        /// What it says.
        message: String,
    },

    /// A file that could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: String,
        /// The error of the operating system.
        source: IoError,
    },

    /// Something that is well-formed but that this cannot be done with.
    #[error("{what}: {reason}")]
    Unsupported {
        /// What was to be worked on.
        what: String,
        /// Why it cannot be.
        reason: String,
    },

    /// Two things of the same name where names must differ.
    #[error("there are two of the name {name}")]
    DuplicateName {
        /// The name.
        name: String,
    },

    /// A recipe that does not read.
    #[error("line {line}: {problem}")]
    Recipe {
        /// The line, from 1; 0 where it has none.
        line: usize,
        /// What is wrong there.
        problem: String,
    },

    /// A budget that no choice keeps.
    #[error("a budget of {budget} {what} is out of reach: the least is {least}")]
    BudgetOutOfReach {
        /// What is to be kept small.
        what: &'static str,
        /// What was asked for.
        budget: f64,
        /// The least that there is a choice for.
        least: f64,
    },

    /// Parts of a model that do not make one.
    #[error("parts do not make a model: {problem}")]
    Shards {
        /// What does not fit.
        problem: String,
    },

    /// What went wrong with one tensor of a model.
    #[error("tensor {name}: {source}")]
    InTensor {
        /// The tensor.
        name: String,
        /// What went wrong.
        source: Box<Error>,
    },

    /// An observer stopped work that has no partial result.
    #[error("{what} was stopped by its observer")]
    Stopped {
        /// What was stopped.
        what: &'static str,
    },

    /// Stored parts that cannot be the artifact they claim to be.
    #[error("{artifact}: {problem}")]
    Malformed {
        /// The kind of artifact that was to be read.
        artifact: &'static str,
        /// What is wrong with its parts.
        problem: String,
    },
}

/// What to do about a value that is too small for a precision.
fn wider(precision: crate::Precision) -> &'static str {
    match precision {
        crate::Precision::F16 => "use f32",
        _ => "multiply the weights by a power of two first",
    }
}

impl Error {
    /// The error of reading or writing the file `path`.
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
            source: IoError(std::sync::Arc::new(source)),
        }
    }
}

/// A [`std::io::Error`] that can be cloned and compared: by its kind and its text.
///
/// It dereferences to the error itself, which is the source of [`Error::File`].
#[derive(Debug, Clone)]
pub struct IoError(std::sync::Arc<std::io::Error>);

impl std::ops::Deref for IoError {
    type Target = std::io::Error;

    fn deref(&self) -> &std::io::Error {
        &self.0
    }
}

impl std::fmt::Display for IoError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl PartialEq for IoError {
    fn eq(&self, other: &Self) -> bool {
        self.kind() == other.kind() && self.to_string() == other.to_string()
    }
}

#[cfg(feature = "linfa")]
impl From<linfa::Error> for Error {
    fn from(error: linfa::Error) -> Self {
        Self::Foreign {
            engine: "linfa",
            message: error.to_string(),
        }
    }
}

/// A parameter that no input could make right.
///
/// ```
/// use taper::quantize::fixed_point::FixedPointQuantizer;
/// use taper::{ParamError};
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

    /// A real number outside its range, or not a number.
    #[error("{name} must be {range}, but is {value}")]
    OutOfRange {
        /// The parameter.
        name: &'static str,
        /// The values it may take, in words or as an interval.
        range: &'static str,
        /// Its value.
        value: f64,
    },

    /// Two parameters that exclude each other.
    #[error("{first} and {second} exclude each other: {reason}")]
    Conflict {
        /// One parameter.
        first: &'static str,
        /// The other.
        second: &'static str,
        /// Why they do not go together.
        reason: &'static str,
    },
}
