//! Where the bytes of a file come from.

use std::fs::File;
use std::ops::Deref;
use std::path::Path;

use crate::kernels::mapped_file::map;
use crate::{Error, Result};

/// The bytes of a file: mapped into memory, or read.
///
/// ```
/// use taper::model::Source;
///
/// let source = Source::from(vec![1, 2, 3]);
/// assert_eq!(&source[..], [1, 2, 3]);
/// assert!(Source::read("no/such/file").is_err());
/// ```
#[derive(Debug)]
pub struct Source(Bytes);

#[derive(Debug)]
enum Bytes {
    Owned(Vec<u8>),
    Mapped(memmap2::Mmap),
}

impl Source {
    /// Maps a file into memory: only what is looked at is read, so that the file may be larger than memory.
    ///
    /// While the map lives the file must neither be cut nor written to, by any process: reading beyond the new end
    /// stops the program (`SIGBUS` on Unix). Where that cannot be promised, [`read`](Self::read).
    ///
    /// # Errors
    ///
    /// [`Error::File`].
    pub fn map(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|error| file_error(path, &error))?;
        let length = file.metadata().map_err(|error| file_error(path, &error))?;
        if length.len() == 0 {
            return Ok(Self(Bytes::Owned(Vec::new())));
        }
        let mapped = map(&file).map_err(|error| file_error(path, &error))?;
        Ok(Self(Bytes::Mapped(mapped)))
    }

    /// Reads a file whole.
    ///
    /// # Errors
    ///
    /// [`Error::File`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|error| file_error(path, &error))?;
        Ok(Self(Bytes::Owned(bytes)))
    }
}

impl From<Vec<u8>> for Source {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Bytes::Owned(bytes))
    }
}

impl Deref for Source {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Bytes::Owned(bytes) => bytes,
            Bytes::Mapped(map) => map,
        }
    }
}

pub(super) fn file_error(path: &Path, error: &std::io::Error) -> Error {
    Error::File {
        path: path.display().to_string(),
        message: error.to_string(),
    }
}
