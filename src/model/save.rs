//! Files that appear at their path whole or not at all.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::header::{self, Planned};
use crate::{Error, Result};

/// How many symbolic links lead to a file at most, as on Linux.
const MAX_LINKS: usize = 40;

/// A new file, which takes the place of the one at its path when it is [committed](Self::commit).
///
/// Until then it has a random name in the same folder, and is removed when it is dropped. A file that is replaced
/// keeps its contents for everyone who has it open or mapped, and hands on its permissions. Two writers of one path do not
/// disturb each other: the last one to commit wins.
#[derive(Debug)]
pub(crate) struct NewFile {
    /// The path as it was given, for errors.
    path: PathBuf,
    /// Where the file will be, without symbolic links.
    target: PathBuf,
    out: BufWriter<NamedTempFile>,
}

impl NewFile {
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let create = || {
            let target = resolve(path)?;
            let folder = folder(&target)?;
            let mut builder = tempfile::Builder::new();
            builder.prefix(".taper-").suffix(".tmp").rand_bytes(12);
            #[cfg(unix)]
            {
                use std::os::unix::fs::PermissionsExt;
                // The mode of any new file: the system takes the user's umask away.
                builder.permissions(fs::Permissions::from_mode(0o666));
            }
            let out = BufWriter::new(builder.tempfile_in(folder)?);
            Ok((target, out))
        };
        let (target, out) = create().map_err(|error| Error::file(path, error))?;
        Ok(Self {
            path: path.to_owned(),
            target,
            out,
        })
    }

    /// A file without a name in the same folder, for what has to be put aside.
    pub(super) fn scratch(&self) -> Result<File> {
        folder(&self.target)
            .and_then(tempfile::tempfile_in)
            .map_err(|error| self.error(error))
    }

    /// The error of a read or a write, with the path that was given.
    pub(crate) fn error(&self, error: io::Error) -> Error {
        Error::file(&self.path, error)
    }

    /// Puts the file in its place once all of it is on the disk.
    pub(crate) fn commit(self) -> Result<()> {
        let Self { path, target, out } = self;
        let commit = || {
            let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
            match fs::metadata(&target) {
                Ok(replaced) => file.as_file().set_permissions(replaced.permissions())?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            file.as_file().sync_all()?;
            file.persist(&target).map_err(|failed| failed.error)?;
            Ok(())
        };
        commit().map_err(|error| Error::file(&path, error))
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Writes the safetensors file `path` of `tensors` as [`header::write_file`] does; returns its length.
pub(super) fn save_tensors<B: AsRef<[u8]>>(
    path: &Path,
    tensors: Vec<Planned>,
    metadata: &BTreeMap<String, String>,
    data: impl FnMut(&str) -> Result<B>,
) -> Result<u64> {
    let mut file = NewFile::create(path)?;
    let failed = |error| Error::file(path, error);
    let length = header::write_file(&mut file, tensors, metadata, data, failed)?;
    file.commit()?;
    Ok(length)
}

/// The path behind symbolic links, of a regular file or of nothing.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    let mut target = std::path::absolute(path)?;
    for _ in 0..MAX_LINKS {
        let kind = match fs::symlink_metadata(&target) {
            Ok(metadata) => metadata.file_type(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(target),
            Err(error) => return Err(error),
        };
        if kind.is_file() {
            return Ok(target);
        } else if kind.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        } else if !kind.is_symlink() {
            let reason = "a device or a pipe cannot be replaced: name a regular file";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        target = folder(&target)?.join(fs::read_link(&target)?);
    }
    Err(io::Error::other("too many symbolic links"))
}

fn folder(target: &Path) -> io::Result<&Path> {
    target.parent().ok_or(io::ErrorKind::IsADirectory.into())
}
