//! The bytes of a file, mapped or read.

use std::fs::File;
use std::ops::Deref;
use std::path::Path;

use crate::kernels::mapped_file::map;
use crate::{Error, Result};

/// The bytes of a file: mapped into memory, or read.
#[derive(Debug)]
pub(crate) struct Source(Bytes);

#[derive(Debug)]
enum Bytes {
    Owned(Vec<u8>),
    Mapped(memmap2::Mmap),
}

impl Source {
    /// Maps a file into memory: the system reads the parts that are used, so that the file may be larger than memory.
    ///
    /// While it is mapped, no process may shorten the file or write to it, which the public callers document.
    ///
    /// # Errors
    ///
    /// [`Error::File`].
    pub(crate) fn map(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|error| Error::file(path, error))?;
        let length = file.metadata().map_err(|error| Error::file(path, error))?;
        if length.len() == 0 {
            return Ok(Self(Bytes::Owned(Vec::new())));
        }
        let mapped = map(&file).map_err(|error| Error::file(path, error))?;
        Ok(Self(Bytes::Mapped(mapped)))
    }

    /// Reads a whole file into memory.
    ///
    /// # Errors
    ///
    /// [`Error::File`].
    pub(super) fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|error| Error::file(path, error))?;
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
