//! Lays a container out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::coded::{code, code_plain, fingerprint};
use super::contents::{Contents, Line};
use super::names::metadata_key;
use super::{ARRAYS, CONTENTS, Container, KEY, VERSION};
use crate::model::TensorData;
use crate::model::entropy::text;
use crate::model::entry::{CodedTensor, Entry, Fingerprint};
use crate::model::header::{self, Planned};
use crate::model::save::NewFile;
use crate::{DType, Error, Result, parallel};

/// Tensors that are coded before they are written: enough for all threads, and a small part of a large model.
const AT_ONCE: usize = 32;

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

/// What the size of a file depends on in a tensor that is kept.
#[derive(Debug)]
pub(in crate::model) struct Outline {
    text: String,
    length: u64,
    fingerprint: Option<Fingerprint>,
}

impl Outline {
    pub(in crate::model) fn new(name: &str, tensor: &TensorData<'_>) -> Result<Self> {
        tensor.check(name)?;
        let coded = code_plain(tensor)?;
        Ok(Self {
            text: coded.text,
            length: coded.bytes.len() as u64,
            fingerprint: coded.fingerprint,
        })
    }
}

/// A tensor that is in the spill once, whatever the number of its names.
#[derive(Debug, Default)]
struct StoredTensor {
    /// It stands in the file under the first of these.
    names: BTreeSet<String>,
    /// Its lines in the table of contents, without its name.
    text: String,
    /// Where its arrays begin in the spill, and how many bytes they take.
    start: u64,
    length: u64,
}

impl StoredTensor {
    fn first_name(&self) -> &str {
        self.names
            .first()
            .expect("each tensor is added with a name")
    }
}

/// The first bytes of a file, and the last ones.
struct Ends {
    header: Vec<u8>,
    contents: Vec<u8>,
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
    fn add(&mut self, name: &str, coded: &CodedTensor) -> Result<u64> {
        self.add_parts(name, &coded.text, &coded.bytes, coded.fingerprint)
    }

    fn add_parts(
        &mut self,
        name: &str,
        text: &str,
        bytes: &[u8],
        content: Option<Fingerprint>,
    ) -> Result<u64> {
        self.check_name(name)?;
        if let Some(&number) = content.and_then(|content| self.by_content.get(&content)) {
            self.name(name, number);
            return Ok(0);
        }
        self.spill
            .write_all(bytes)
            .map_err(|error| Error::file(&self.path, error))?;
        self.stored(name, text, bytes.len() as u64, content);
        Ok(bytes.len() as u64)
    }

    /// Notes a tensor of so many bytes, which follow those of all others.
    fn stored(&mut self, name: &str, text: &str, length: u64, content: Option<Fingerprint>) {
        let number = self.tensors.len();
        self.tensors.push(StoredTensor {
            names: BTreeSet::new(),
            text: text.to_owned(),
            start: self.end,
            length,
        });
        self.end += length;
        self.name(name, number);
        if let Some(content) = content {
            self.by_content.insert(content, number);
        }
    }

    /// Adds a tensor; the bytes of its arrays are returned, 0 where an equal one has been added before.
    pub(in crate::model) fn entry(&mut self, name: &str, entry: &Entry) -> Result<u64> {
        match entry {
            Entry::Plain(tensor) => self.plain(name, tensor),
            Entry::Compressed(tensor) => self.add(name, tensor.coded(code)?),
        }
    }

    /// Adds a tensor that is not compressed; its bytes are returned, 0 where an equal one has been added before.
    pub(in crate::model) fn plain(&mut self, name: &str, tensor: &TensorData<'_>) -> Result<u64> {
        tensor.check(name)?;
        self.add(name, &code_plain(tensor)?)
    }

    /// Adds a tensor that is only counted, unless one that is equal has been added before.
    pub(in crate::model) fn outline(&mut self, name: &str, outline: &Outline) -> Result<()> {
        self.check_name(name)?;
        match outline
            .fingerprint
            .and_then(|print| self.by_content.get(&print))
        {
            Some(&number) => self.name(name, number),
            None => self.stored(name, &outline.text, outline.length, outline.fingerprint),
        }
        Ok(())
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
            let (text, bytes) = container.stored_form(name)?;
            let content = fingerprint(text, bytes, &container.dense_size(name)?.1);
            self.add_parts(name, text, bytes, content)?;
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
            let plain = parallel::map(some.len(), |i| match some[i].1 {
                Entry::Compressed(tensor) => tensor.coded(code).err().map(Err),
                Entry::Plain(tensor) => {
                    Some(tensor.check(some[i].0).and_then(|()| code_plain(tensor)))
                }
            });
            for ((name, entry), plain) in some.iter().zip(plain) {
                match plain {
                    Some(coded) => self.add(name, &coded?)?,
                    None => self.entry(name, entry)?,
                };
            }
        }
        Ok(())
    }

    /// The tensors in the order of the file.
    fn order(&self) -> Vec<&StoredTensor> {
        let mut order: Vec<_> = self.tensors.iter().collect();
        order.sort_by_key(|tensor| tensor.first_name());
        order
    }

    /// What stands in the file before and after the arrays.
    fn ends(&self) -> Result<Ends> {
        let lines = self.tensors.iter().flat_map(|tensor| {
            let first = tensor.first_name();
            tensor.names.iter().map(move |name| match name == first {
                true => (name.as_str(), Line::Stored(&tensor.text)),
                false => (name.as_str(), Line::Tied(first)),
            })
        });
        let contents = text::encode(&Contents::to_text(lines));
        let arrays = usize::try_from(self.end).map_err(|_| Error::Unsupported {
            what: format!("arrays of {} bytes", self.end),
            reason: "this machine cannot count them".to_owned(),
        })?;
        let planned = [(ARRAYS, arrays), (CONTENTS, contents.len())]
            .map(|(name, length)| Planned::new(name, DType::U8, &[length]));
        let planned = planned.into_iter().collect::<Result<Vec<_>>>()?;
        let header = header::write(&planned, &self.metadata)?;
        Ok(Ends { header, contents })
    }

    /// The length of the file.
    pub(in crate::model) fn file_bytes(&self) -> Result<u64> {
        let Ends { header, contents } = self.ends()?;
        Ok((header.len() + contents.len()) as u64 + self.end)
    }
}

impl<S: Write + Read + Seek> Assembler<S> {
    /// Writes the file; its length is returned.
    pub(in crate::model) fn finish(mut self, out: &mut impl Write) -> Result<u64> {
        let Ends { header, contents } = self.ends()?;
        let order: Vec<_> = self
            .order()
            .iter()
            .map(|tensor| (tensor.start, tensor.length))
            .collect();
        let write = |spill: &mut S, out: &mut dyn Write| {
            out.write_all(&header)?;
            for (start, length) in order {
                spill.seek(SeekFrom::Start(start))?;
                if io::copy(&mut Read::take(&mut *spill, length), out)? != length {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            out.write_all(&contents)?;
            out.flush()
        };
        let written = self.spill.flush();
        written
            .and_then(|()| write(&mut self.spill, out))
            .map_err(|error| Error::file(&self.path, error))?;
        Ok((header.len() + contents.len()) as u64 + self.end)
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

    /// Adds a tensor that is not compressed, coded without loss where that is shorter; returns its bytes as [`add`](Self::add) does.
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
