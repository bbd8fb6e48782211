//! Lays a container out.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::coded::{code, fingerprint};
use super::names::{description_key, metadata_key, path_of};
use super::read::Pieces;
use super::{ALIAS, Container, KEY, VERSION};
use crate::model::TensorData;
use crate::model::entry::{CodedTensor, Entry, Fingerprint};
use crate::model::header::{self, Planned};
use crate::model::save::NewFile;
use crate::model::ties::can_be_tied;
use crate::{Error, Result, parallel};

/// Tensors that are coded before they are written: enough for all threads, and a small part of a large model.
const AT_ONCE: usize = 32;

/// An array, and where it is in the spill.
type Spilled = (Planned, u64);

/// Collects tensors in any order in a spill, and writes them in the order that files have.
#[derive(Debug)]
pub(in crate::model) struct Assembler<S> {
    spill: S,
    path: PathBuf,
    /// Where the next array goes.
    end: u64,
    tensors: Vec<StoredTensor>,
    /// The numbers of the tensors by the names in the model.
    by_name: BTreeMap<String, usize>,
    /// The same by what they hold.
    by_content: BTreeMap<Fingerprint, usize>,
    metadata: BTreeMap<String, String>,
}

/// A tensor that is in the spill once, whatever the number of its names.
#[derive(Debug, Default)]
struct StoredTensor {
    /// Its arrays stand in the file under the first of these.
    names: BTreeSet<String>,
    /// Arrays under their paths below the tensor, and where they are in the spill.
    arrays: Vec<(Planned, u64)>,
    /// Descriptions under their paths below the tensor.
    descriptions: Vec<(String, String)>,
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
            by_name: BTreeMap::new(),
            by_content: BTreeMap::new(),
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

    /// Gives the tensor of this number one more name, which no other one may have.
    fn name(&mut self, name: &str, number: usize) {
        self.by_name.insert(name.to_owned(), number);
        self.tensors[number].names.insert(name.to_owned());
    }

    /// Errs for a name that a tensor has.
    fn check_name(&self, name: &str) -> Result<()> {
        if !self.by_name.contains_key(name) {
            return Ok(());
        }
        Err(Error::DuplicateName {
            name: name.to_owned(),
        })
    }

    /// Adds a tensor, unless one that is equal has been added before; the bytes that are written are returned.
    fn add(
        &mut self,
        name: &str,
        arrays: &[(String, TensorData<'_>)],
        descriptions: &[(String, String)],
        content: Option<Fingerprint>,
    ) -> Result<u64> {
        self.check_name(name)?;
        if let Some(&number) = content.and_then(|content| self.by_content.get(&content)) {
            self.name(name, number);
            return Ok(0);
        }
        let mut stored = StoredTensor {
            descriptions: descriptions.to_vec(),
            ..StoredTensor::default()
        };
        let mut paths = BTreeSet::new();
        let mut written = 0;
        for (path, array) in arrays {
            let whole = || format!("{}{path}", path_of(name));
            if !paths.insert(path) {
                return Err(Error::DuplicateName { name: whole() });
            }
            array.check(&whole())?;
            let planned = Planned::new(path, array.dtype, &array.shape)?;
            self.spill
                .write_all(&array.bytes)
                .map_err(|error| Error::file(&self.path, error))?;
            let length = array.bytes.len() as u64;
            stored.arrays.push((planned, self.end));
            self.end += length;
            written += length;
        }
        let number = self.tensors.len();
        self.tensors.push(stored);
        self.name(name, number);
        if let Some(content) = content {
            self.by_content.insert(content, number);
        }
        Ok(written)
    }

    /// Adds a tensor; the bytes of its arrays are returned, 0 where an equal one has been added before.
    pub(in crate::model) fn entry(&mut self, name: &str, entry: &Entry) -> Result<u64> {
        match entry {
            Entry::Plain(tensor) => self.plain(name, tensor),
            Entry::Compressed(tensor) => {
                let coded = tensor.coded(code)?;
                let CodedTensor {
                    arrays,
                    descriptions,
                    fingerprint,
                } = coded;
                self.add(name, arrays, descriptions, *fingerprint)
            }
        }
    }

    /// Adds a tensor that is not compressed; its bytes are returned, 0 where an equal one has been added before.
    pub(in crate::model) fn plain(&mut self, name: &str, tensor: &TensorData<'_>) -> Result<u64> {
        tensor.check(name)?;
        let borrowed = TensorData {
            dtype: tensor.dtype,
            shape: tensor.shape.clone(),
            bytes: Cow::Borrowed(&*tensor.bytes),
        };
        let arrays = [(String::new(), borrowed)];
        let content = can_be_tied(&tensor.shape).then(|| fingerprint(&arrays, &[]));
        self.add(name, &arrays, &[], content)
    }

    /// Gives the tensor `first`, which has been added, the name `name` as well.
    pub(in crate::model) fn tie(&mut self, name: &str, first: &str) -> Result<()> {
        self.check_name(name)?;
        let number = self.by_name[first];
        self.name(name, number);
        Ok(())
    }

    /// Adds all of another container, but for the mark that it is a part of a model.
    pub(in crate::model) fn container(&mut self, container: &Container) -> Result<()> {
        for (key, value) in container.metadata() {
            self.metadata(key, value);
        }
        for name in container.names() {
            let Pieces {
                arrays,
                descriptions,
                shape,
            } = container.pieces(name)?;
            let content = can_be_tied(&shape).then(|| fingerprint(&arrays, &descriptions));
            self.add(name, &arrays, &descriptions, content)?;
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

    /// The arrays in the order of the file with their places in the spill, and the header of the file.
    fn layout(&self) -> Result<(Vec<Spilled>, Vec<u8>)> {
        let mut arrays = Vec::new();
        let mut metadata = self.metadata.clone();
        for tensor in &self.tensors {
            let mut names = tensor.names.iter();
            let base = path_of(names.next().expect("each tensor is added with a name"));
            for (array, offset) in &tensor.arrays {
                let name = format!("{base}{}", array.name);
                let array = Planned {
                    name,
                    ..array.clone()
                };
                arrays.push((array, *offset));
            }
            for (path, text) in &tensor.descriptions {
                metadata.insert(description_key(&format!("{base}{path}")), text.clone());
            }
            for name in names {
                metadata.insert(description_key(&path_of(name)), format!("{ALIAS}{base}"));
            }
        }
        arrays.sort_by_cached_key(|(array, _)| array.order());
        let planned: Vec<Planned> = arrays.iter().map(|(array, _)| array.clone()).collect();
        let header = header::write(&planned, &metadata)?;
        Ok((arrays, header))
    }

    /// The number of arrays so far.
    pub(in crate::model) fn arrays(&self) -> usize {
        self.tensors.iter().map(|tensor| tensor.arrays.len()).sum()
    }

    /// The length of the file.
    pub(in crate::model) fn file_bytes(&self) -> Result<u64> {
        Ok(self.layout()?.1.len() as u64 + self.end)
    }
}

impl<S: Write + Read + Seek> Assembler<S> {
    /// Writes the file; its length is returned.
    pub(in crate::model) fn finish(mut self, out: &mut impl Write) -> Result<u64> {
        let (arrays, header) = self.layout()?;
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
            .and_then(|()| write(&mut self.spill, out, &arrays))
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
    /// A tensor that equals one that was added before takes none: the container has it once, under the first of their names in
    /// rising order, and the others refer to it. Single values are not compared.
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

    /// Gives the tensor `first`, which has been added, the name `name` as well.
    pub(in crate::model) fn tie(&mut self, name: &str, first: &str) -> Result<()> {
        self.assembler.tie(name, first)
    }

    /// Adds a tensor that is not compressed, without a copy; returns its bytes as [`add`](Self::add) does.
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
