//! Laying a container out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::coded::Coded;
use super::{KEY, VERSION};
use crate::model::compressed::Entry;
use crate::model::header::{self, Planned};
use crate::model::source::file_error;
use crate::model::{Dtype, TensorData};
use crate::{Error, Result, parallel};

/// Tensors that are coded before they are written: enough for threads to share, few beside a large model.
const AT_ONCE: usize = 32;

/// Collects tensors in any order in a spill, and writes them in the order of a file.
#[derive(Debug)]
pub(in crate::model) struct Assembler<S> {
    spill: S,
    /// Where the next tensor goes.
    end: u64,
    tensors: Vec<(Planned, u64)>,
    names: BTreeSet<String>,
    metadata: BTreeMap<String, String>,
}

fn io_error(error: &io::Error) -> Error {
    Error::File {
        path: "the container".to_owned(),
        message: error.to_string(),
    }
}

impl<S: Write> Assembler<S> {
    pub(in crate::model) fn new(spill: S) -> Self {
        Self {
            spill,
            end: 0,
            tensors: Vec::new(),
            names: BTreeSet::new(),
            metadata: BTreeMap::from([(KEY.to_owned(), VERSION.to_owned())]),
        }
    }

    /// Adds to what the file says of itself.
    ///
    /// Keys that begin with `taper` are the container's own.
    pub(in crate::model) fn metadata(&mut self, key: &str, value: &str) -> Result<()> {
        if key.starts_with(KEY) {
            return Err(Error::Unsupported {
                what: format!("the metadata {key}"),
                reason: "its name is the container's own".to_owned(),
            });
        }
        self.metadata.insert(key.to_owned(), value.to_owned());
        Ok(())
    }

    pub(in crate::model) fn raw_metadata(&mut self, key: &str, value: &str) {
        self.metadata.insert(key.to_owned(), value.to_owned());
    }

    fn tensor(
        &mut self,
        name: String,
        dtype: Dtype,
        shape: Vec<usize>,
        bytes: &[u8],
    ) -> Result<u64> {
        if name == "__metadata__" || !self.names.insert(name.clone()) {
            return Err(Error::DuplicateName { name });
        }
        self.spill
            .write_all(bytes)
            .map_err(|error| io_error(&error))?;
        let planned = Planned {
            name,
            dtype,
            shape,
            length: bytes.len(),
        };
        self.tensors.push((planned, self.end));
        self.end += bytes.len() as u64;
        Ok(bytes.len() as u64)
    }

    /// Adds a tensor; the bytes of its arrays are returned.
    pub(in crate::model) fn entry(&mut self, name: &str, entry: &Entry) -> Result<u64> {
        self.coded(Coded::entry(name, entry)?)
    }

    /// Adds a tensor as it is; its bytes are returned.
    pub(in crate::model) fn plain(&mut self, name: &str, tensor: &TensorData<'_>) -> Result<u64> {
        self.coded(Coded::plain(name, tensor)?)
    }

    /// Adds what was coded before; the bytes of its arrays are returned.
    fn coded(&mut self, coded: Coded<'_>) -> Result<u64> {
        let mut written = 0;
        for (name, array) in coded.arrays {
            written += self.tensor(name, array.dtype, array.shape, &array.bytes)?;
        }
        self.metadata.extend(coded.descriptions);
        Ok(written)
    }

    /// Adds tensors in their order, coded on all threads.
    pub(in crate::model) fn entries<'a>(
        &mut self,
        entries: impl Iterator<Item = (&'a str, &'a Entry)>,
    ) -> Result<()> {
        let entries: Vec<_> = entries.collect();
        for some in entries.chunks(AT_ONCE) {
            let code = |i: usize| some.get(i).map(|(name, entry)| Coded::entry(name, entry));
            for coded in parallel::map(some.len(), code).into_iter().flatten() {
                self.coded(coded?)?;
            }
        }
        Ok(())
    }

    /// The header of the file, in which the tensors are put into their order.
    fn header(&mut self) -> Result<Vec<u8>> {
        self.tensors
            .sort_by_cached_key(|(tensor, _)| tensor.order());
        let planned: Vec<Planned> = self
            .tensors
            .iter()
            .map(|(tensor, _)| tensor.clone())
            .collect();
        header::write(&planned, &self.metadata)
    }

    /// The number of arrays so far.
    pub(in crate::model) fn arrays(&self) -> usize {
        self.tensors.len()
    }

    /// The length of the file.
    pub(in crate::model) fn file_bytes(mut self) -> Result<u64> {
        Ok(self.header()?.len() as u64 + self.end)
    }
}

impl<S: Write + Read + Seek> Assembler<S> {
    /// Writes the file; its length is returned.
    pub(in crate::model) fn finish(mut self, out: &mut impl Write) -> Result<u64> {
        let header = self.header()?;
        let write = |spill: &mut S, out: &mut dyn Write, tensors: &[(Planned, u64)]| {
            out.write_all(&header)?;
            for (tensor, offset) in tensors {
                spill.seek(SeekFrom::Start(*offset))?;
                let copied = io::copy(&mut Read::take(&mut *spill, tensor.length as u64), out)?;
                if copied != tensor.length as u64 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            out.flush()
        };
        self.spill.flush().map_err(|error| io_error(&error))?;
        write(&mut self.spill, out, &self.tensors).map_err(|error| io_error(&error))?;
        Ok(header.len() as u64 + self.end)
    }
}

/// A file that is removed unless it is renamed.
#[derive(Debug)]
struct Partial {
    path: PathBuf,
    renamed: bool,
}

impl Partial {
    /// A new file beside `target`.
    fn create(target: &Path, role: &str) -> Result<(Self, File)> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let name = format!(".{name}.{}.{role}", std::process::id());
        let path = target.with_file_name(name);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).open(&path);
        let file = file.map_err(|error| file_error(&path, &error))?;
        let renamed = false;
        Ok((Self { path, renamed }, file))
    }

    fn rename(mut self, target: &Path) -> Result<()> {
        std::fs::rename(&self.path, target).map_err(|error| file_error(target, &error))?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.renamed {
            // There is nobody to tell, and the next writer takes another name.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Writes a container tensor by tensor, holding none of them in memory.
///
/// Arrays go to a temporary file beside the target, since the header, which comes first, tells where each one ends;
/// [`finish`](Self::finish) writes the container and renames it into place. Without it nothing is left behind.
///
/// ```
/// use taper::model::{Container, ContainerWriter, Entry, PlainTensor};
/// use taper::ndarray::{ArrayD, IxDyn};
///
/// let path = std::env::temp_dir().join(format!("taper-doc-{}.safetensors", std::process::id()));
/// let bias = ArrayD::from_elem(IxDyn(&[3]), 0.5);
/// let mut writer = ContainerWriter::create(&path)?;
/// writer.add("fc.bias", &Entry::Plain(PlainTensor::from(bias.view())))?;
/// let length = writer.finish()?;
/// assert_eq!(length, std::fs::metadata(&path).unwrap().len());
/// assert_eq!(Container::open(&path)?.get("fc.bias")?.decompress()?, bias);
/// # std::fs::remove_file(&path).unwrap();
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug)]
pub struct ContainerWriter {
    target: PathBuf,
    assembler: Assembler<BufWriterFile>,
    spill: Partial,
}

/// A buffered file that is written first and read afterwards.
#[derive(Debug)]
struct BufWriterFile(BufWriter<File>);

impl Write for BufWriterFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Read for BufWriterFile {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.get_mut().read(bytes)
    }
}

impl Seek for BufWriterFile {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.0.seek(position)
    }
}

impl ContainerWriter {
    /// A container that will be at `path`.
    ///
    /// # Errors
    ///
    /// [`Error::File`].
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        let target = path.as_ref().to_owned();
        let (spill, file) = Partial::create(&target, "parts")?;
        let assembler = Assembler::new(BufWriterFile(BufWriter::new(file)));
        Ok(Self {
            target,
            assembler,
            spill,
        })
    }

    /// Adds to what the file says of itself.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for keys that begin with `taper`.
    pub fn metadata(&mut self, key: &str, value: &str) -> Result<()> {
        self.assembler.metadata(key, value)
    }

    /// Metadata of the container's own.
    pub(in crate::model) fn raw_metadata(&mut self, key: &str, value: &str) {
        self.assembler.raw_metadata(key, value);
    }

    /// Adds a tensor; returns the bytes that its arrays take in the file.
    ///
    /// # Errors
    ///
    /// [`Error::DuplicateName`] where a tensor or a part has that name already, [`Error::File`], and what the
    /// artifact's [`attributes`](crate::model::Artifact::attributes) say.
    pub fn add(&mut self, name: &str, entry: &Entry) -> Result<u64> {
        self.assembler.entry(name, entry)
    }

    /// Adds tensors in their order.
    pub(in crate::model) fn add_all<'a>(
        &mut self,
        entries: impl Iterator<Item = (&'a str, &'a Entry)>,
    ) -> Result<()> {
        self.assembler.entries(entries)
    }

    /// Adds a tensor as it is, without a copy; returns its bytes.
    ///
    /// # Errors
    ///
    /// As [`add`](Self::add).
    pub fn add_plain(&mut self, name: &str, tensor: &TensorData<'_>) -> Result<u64> {
        self.assembler.plain(name, tensor)
    }

    /// Writes the container, and returns its length in bytes.
    ///
    /// # Errors
    ///
    /// [`Error::File`].
    pub fn finish(self) -> Result<u64> {
        let (partial, file) = Partial::create(&self.target, "partial")?;
        let mut out = BufWriter::new(file);
        let length = self.assembler.finish(&mut out)?;
        out.into_inner()
            .map_err(io::IntoInnerError::into_error)
            .and_then(|file| file.sync_all())
            .map_err(|error| file_error(&self.target, &error))?;
        drop(self.spill);
        partial.rename(&self.target)?;
        Ok(length)
    }
}
