//! Lays a container out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::coded::code;
use super::names::{description_key, metadata_key, path_of};
use super::{Container, KEY, SHARD_KEY, VERSION};
use crate::model::TensorData;
use crate::model::entry::Entry;
use crate::model::header::{self, Planned};
use crate::model::save::NewFile;
use crate::{Error, Result, parallel};

/// Tensors that are coded before they are written: enough for all threads, and a small part of a large model.
const AT_ONCE: usize = 32;

/// Collects tensors in any order in a spill, and writes them in the order that files have.
#[derive(Debug)]
pub(in crate::model) struct Assembler<S> {
    spill: S,
    path: PathBuf,
    /// Where the next array goes.
    end: u64,
    /// Arrays, and where they are in the spill.
    tensors: Vec<(Planned, u64)>,
    /// The names of the arrays.
    paths: BTreeSet<String>,
    /// The names of the model's tensors.
    names: BTreeSet<String>,
    metadata: BTreeMap<String, String>,
}

impl<S: Write> Assembler<S> {
    /// Puts tensors aside in `spill`, which is memory or counts bytes.
    pub(in crate::model) fn new(spill: S) -> Self {
        Self::of_file(spill, Path::new("memory"))
    }

    /// Puts tensors aside in `spill`; errors name the file `path`.
    fn of_file(spill: S, path: &Path) -> Self {
        Self {
            spill,
            path: path.to_owned(),
            end: 0,
            tensors: Vec::new(),
            paths: BTreeSet::new(),
            names: BTreeSet::new(),
            metadata: BTreeMap::from([(KEY.to_owned(), VERSION.to_owned())]),
        }
    }

    /// Sets one value of the model's metadata.
    pub(in crate::model) fn metadata(&mut self, key: &str, value: &str) {
        self.raw_metadata(&metadata_key(key), value);
    }

    /// Sets one value of the file's metadata.
    pub(in crate::model) fn raw_metadata(&mut self, key: &str, value: &str) {
        self.metadata.insert(key.to_owned(), value.to_owned());
    }

    /// Notes the name of a tensor, which no other one may have.
    fn claim(&mut self, name: &str) -> Result<()> {
        if self.names.insert(name.to_owned()) {
            return Ok(());
        }
        Err(Error::DuplicateName {
            name: name.to_owned(),
        })
    }

    /// Adds an array under its name in the file; its bytes are returned.
    fn array(&mut self, path: String, array: &TensorData<'_>) -> Result<u64> {
        // Paths of different tensors differ; an artifact may still give two of its parts one name.
        if !self.paths.insert(path.clone()) {
            return Err(Error::DuplicateName { name: path });
        }
        let planned = Planned::new(&path, array.dtype, &array.shape)?;
        array.check(&path)?;
        self.spill
            .write_all(&array.bytes)
            .map_err(|error| Error::file(&self.path, error))?;
        let length = array.bytes.len() as u64;
        self.tensors.push((planned, self.end));
        self.end += length;
        Ok(length)
    }

    /// Adds a tensor; the bytes of its arrays are returned.
    pub(in crate::model) fn entry(&mut self, name: &str, entry: &Entry) -> Result<u64> {
        let tensor = match entry {
            Entry::Plain(tensor) => return self.plain(name, tensor),
            Entry::Compressed(tensor) => tensor,
        };
        let coded = tensor.coded(code)?;
        self.claim(name)?;
        let base = path_of(name);
        let mut written = 0;
        for (path, array) in &coded.arrays {
            written += self.array(format!("{base}{path}"), array)?;
        }
        for (path, text) in &coded.descriptions {
            self.raw_metadata(&description_key(&format!("{base}{path}")), text);
        }
        Ok(written)
    }

    /// Adds a tensor that is not compressed; its bytes are returned.
    pub(in crate::model) fn plain(&mut self, name: &str, tensor: &TensorData<'_>) -> Result<u64> {
        tensor.check(name)?;
        self.claim(name)?;
        self.array(path_of(name).into_owned(), tensor)
    }

    /// Adds all of another container, but for the mark that it is a part of a model.
    pub(in crate::model) fn container(&mut self, container: &Container) -> Result<()> {
        for name in container.names() {
            self.claim(name)?;
        }
        let raw = container.raw();
        for (key, value) in raw.metadata().iter().filter(|(key, _)| *key != SHARD_KEY) {
            self.raw_metadata(key, value);
        }
        for path in raw.names() {
            self.array(path.to_owned(), &raw.data(path)?)?;
        }
        Ok(())
    }

    /// Adds tensors in their order, coded on all threads.
    pub(in crate::model) fn entries<'a>(
        &mut self,
        entries: impl Iterator<Item = (&'a str, &'a Entry)>,
    ) -> Result<()> {
        let entries: Vec<_> = entries.collect();
        for some in entries.chunks(AT_ONCE) {
            // Errors come again, in order, where the tensors are added.
            parallel::map(some.len(), |i| match some[i].1 {
                Entry::Compressed(tensor) => tensor.coded(code).is_ok(),
                Entry::Plain(_) => true,
            });
            for (name, entry) in some {
                self.entry(name, entry)?;
            }
        }
        Ok(())
    }

    /// Puts the tensors into the order of the file; its header is returned.
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
        let written = self.spill.flush();
        written
            .and_then(|()| write(&mut self.spill, out, &self.tensors))
            .map_err(|error| Error::file(&self.path, error))?;
        Ok(header.len() as u64 + self.end)
    }
}

/// Writes a container tensor by tensor, holding none of them in memory.
///
/// Arrays first go to a temporary file in the folder of the target, because the header, which comes first, tells where
/// each one ends; [`finish`](Self::finish) writes the container and renames it into place. Without it nothing is left behind.
/// The target may be a file that is mapped: its contents stay as they are for those who have opened it.
///
/// ```
/// use taper::model::{Container, ContainerWriter, Entry};
/// use taper::ndarray::{ArrayD, IxDyn};
///
/// let path = std::env::temp_dir().join(format!("taper-doc-{}.safetensors", std::process::id()));
/// let bias = ArrayD::from_elem(IxDyn(&[3]), 0.5);
/// let mut writer = ContainerWriter::create(&path)?;
/// writer.add("fc.bias", &Entry::Plain(bias.view().into()))?;
/// let length = writer.finish()?;
/// assert_eq!(length, std::fs::metadata(&path).unwrap().len());
/// assert_eq!(Container::open(&path)?.get("fc.bias")?.decompress()?, bias);
/// # std::fs::remove_file(&path).unwrap();
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug)]
pub struct ContainerWriter {
    assembler: Assembler<BufWriterFile>,
    file: NewFile,
}

/// A buffered file that is first written and then read.
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
        let path = path.as_ref();
        let file = NewFile::create(path)?;
        let spill = BufWriterFile(BufWriter::new(file.scratch()?));
        let assembler = Assembler::of_file(spill, path);
        Ok(Self { assembler, file })
    }

    /// Sets one value of the model's metadata.
    pub fn metadata(&mut self, key: &str, value: &str) {
        self.assembler.metadata(key, value);
    }

    /// Sets one value of the container's own metadata.
    pub(in crate::model) fn raw_metadata(&mut self, key: &str, value: &str) {
        self.assembler.raw_metadata(key, value);
    }

    /// Adds a tensor; returns the bytes that its arrays take in the file.
    ///
    /// # Errors
    ///
    /// [`Error::DuplicateName`] for a name that another tensor has, [`Error::File`], and the errors of the
    /// artifact's [`attributes`](crate::model::extend::Artifact::attributes).
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

    /// Adds all of another container, but for the mark that it is a part of a model.
    pub(in crate::model) fn container(&mut self, container: &Container) -> Result<()> {
        self.assembler.container(container)
    }

    /// Adds a tensor that is not compressed, without a copy; returns its bytes.
    ///
    /// # Errors
    ///
    /// As [`add`](Self::add).
    pub fn add_plain(&mut self, name: &str, tensor: &TensorData<'_>) -> Result<u64> {
        self.assembler.plain(name, tensor)
    }

    /// Writes the container, which replaces a file at its path; returns its length in bytes.
    ///
    /// # Errors
    ///
    /// [`Error::File`].
    pub fn finish(mut self) -> Result<u64> {
        let length = self.assembler.finish(&mut self.file)?;
        self.file.commit()?;
        Ok(length)
    }
}
