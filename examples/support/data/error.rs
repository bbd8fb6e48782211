//! Errors of the readers of images.

use std::io;
use std::path::PathBuf;

/// A file of images or labels that cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// There is no such folder.
    #[error("there is no folder {path}: {hint}")]
    MissingFolder {
        /// The path.
        path: PathBuf,
        /// How to set another folder.
        hint: &'static str,
    },

    /// A file of the set is missing, packed and unpacked.
    #[error("{folder} has neither {name} nor {name}.gz")]
    MissingFile {
        /// The folder.
        folder: PathBuf,
        /// Its name.
        name: &'static str,
    },

    /// A file could not be read or unpacked.
    #[error("cannot read {path}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },

    /// A file of another kind.
    #[error("{path} has the magic number {found:#010x} instead of {expected:#010x}")]
    Magic {
        /// The file.
        path: PathBuf,
        /// The magic number of this kind of file.
        expected: u32,
        /// The magic number of the file.
        found: u32,
    },

    /// A file that is shorter or longer than its header says.
    #[error("{path} has {found} bytes, but its header says {expected}")]
    Length {
        /// The file.
        path: PathBuf,
        /// The expected number of bytes, unpacked.
        expected: u64,
        /// The number of bytes found.
        found: u64,
    },

    /// Images of another size.
    #[error("{path} has images of {found:?} pixels instead of {expected:?}")]
    ImageSize {
        /// The file.
        path: PathBuf,
        /// The expected rows and columns.
        expected: [u32; 2],
        /// The rows and columns found.
        found: [u32; 2],
    },

    /// Different numbers of labels and images.
    #[error("{folder} has {labels} labels, but {images} images")]
    Count {
        /// The folder of the two files.
        folder: PathBuf,
        /// The number of images.
        images: usize,
        /// The number of labels.
        labels: usize,
    },

    /// A label that is not a class.
    #[error("label {index} in {path} is {label}, but must be below {classes}")]
    Label {
        /// The file.
        path: PathBuf,
        /// The index of the label.
        index: usize,
        /// Its value.
        label: usize,
        /// The number of classes.
        classes: usize,
    },
}
