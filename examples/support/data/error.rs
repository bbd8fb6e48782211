//! What can be wrong with a file of images.

use std::io;
use std::path::PathBuf;

/// A file of images or labels that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// There is no such folder.
    #[error("there is no folder {path}: {hint}")]
    MissingFolder {
        /// Where it was looked for.
        path: PathBuf,
        /// How to name another place.
        hint: &'static str,
    },

    /// A file of the set is in none of its forms there.
    #[error("{folder} holds neither {name} nor {name}.gz")]
    MissingFile {
        /// Where it was looked for.
        folder: PathBuf,
        /// Its name.
        name: &'static str,
    },

    /// A file could not be read or unpacked.
    #[error("cannot read {path}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },

    /// A file of another kind.
    #[error("{path} begins with the magic number {found:#010x}, but {expected:#010x} is needed")]
    Magic {
        /// The file.
        path: PathBuf,
        /// The number of this kind of file.
        expected: u32,
        /// The number found.
        found: u32,
    },

    /// A file that ends before what its header promises, or goes on after it.
    #[error("{path} holds {found} bytes, but its header promises {expected}")]
    Length {
        /// The file.
        path: PathBuf,
        /// The bytes that there should be, unpacked.
        expected: u64,
        /// The bytes that there are.
        found: u64,
    },

    /// Images of another size.
    #[error("{path} holds images of {found:?} pixels, but {expected:?} is needed")]
    ImageSize {
        /// The file.
        path: PathBuf,
        /// Rows and columns that there should be.
        expected: [u32; 2],
        /// Rows and columns that there are.
        found: [u32; 2],
    },

    /// Labels and images that do not go together.
    #[error("{labels} labels do not go with {images} images in {folder}")]
    Count {
        /// Where the two files are.
        folder: PathBuf,
        /// The number of images.
        images: usize,
        /// The number of labels.
        labels: usize,
    },

    /// A label that is no class.
    #[error("label {index} in {path} is {label}, but there are {classes} classes")]
    Label {
        /// The file.
        path: PathBuf,
        /// Which label.
        index: usize,
        /// Its value.
        label: usize,
        /// How many classes there are.
        classes: usize,
    },
}
