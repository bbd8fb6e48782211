//! The tensors of a file: their elements, wherever they stand.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::schema::{entry, graph, tensor};
use super::wire::{Chunk, Field, Message, malformed};
use crate::model::Source;
use crate::{DType, Error, Result};

/// The numbers that ONNX gives to types of elements.
pub(super) const FLOAT: i64 = 1;
pub(super) const UINT8: i64 = 2;
pub(super) const INT8: i64 = 3;
pub(super) const UINT16: i64 = 4;
pub(super) const INT32: i64 = 6;
pub(super) const INT64: i64 = 7;
pub(super) const FLOAT16: i64 = 10;
pub(super) const DOUBLE: i64 = 11;
pub(super) const BFLOAT16: i64 = 16;
pub(super) const UINT4: i64 = 21;
pub(super) const INT4: i64 = 22;

/// The number of a type of real numbers.
pub(super) fn number_of(dtype: DType) -> i64 {
    match dtype {
        DType::F16 => FLOAT16,
        DType::F64 => DOUBLE,
        DType::BF16 => BFLOAT16,
        _ => FLOAT,
    }
}

/// The shape of a tensor.
pub(super) fn shape(message: &Message) -> Result<Vec<usize>> {
    let dims = message.integers(tensor::DIMS).into_iter();
    let shape: Option<Vec<usize>> = dims.map(|n| usize::try_from(n).ok()).collect();
    let count = |shape: &Vec<usize>| {
        let mut axes = shape.iter();
        axes.try_fold(1_usize, |n, &m| n.checked_mul(m)).is_some()
    };
    shape.filter(count).ok_or_else(|| {
        malformed(format!(
            "tensor {} has the shape {:?}",
            message.text(tensor::NAME),
            message.integers(tensor::DIMS)
        ))
    })
}

/// The type and shape of a tensor of real numbers; `None` for one of other elements and for one that is a segment.
pub(super) fn header(message: &Message) -> Result<Option<(DType, Vec<usize>)>> {
    let dtype = match message.integer(tensor::DATA_TYPE) {
        Some(FLOAT) => DType::F32,
        Some(FLOAT16) => DType::F16,
        Some(BFLOAT16) => DType::BF16,
        Some(DOUBLE) => DType::F64,
        _ => return Ok(None),
    };
    if message.last(tensor::SEGMENT).is_some() {
        return Ok(None);
    }
    Ok(Some((dtype, shape(message)?)))
}

/// The bytes of a tensor of this type and shape.
pub(super) fn elements(message: &Message, dtype: DType, shape: &[usize]) -> Result<Chunk> {
    let bytes = match (raw(message), dtype) {
        (Some(raw), _) => raw,
        (None, DType::F32) => message.floats(tensor::FLOAT_DATA).into(),
        (None, DType::F64) => {
            let chunks = message.all(tensor::DOUBLE_DATA);
            let chunks = chunks.filter_map(Field::chunk);
            let bytes: Vec<u8> = chunks.flat_map(|chunk| chunk.to_vec()).collect();
            bytes.into()
        }
        // The bits of half precision as whole numbers.
        (None, _) => {
            let bits = message.integers(tensor::INT32_DATA).into_iter();
            let bytes: Vec<u8> = bits.flat_map(|bits| (bits as u16).to_le_bytes()).collect();
            bytes.into()
        }
    };
    let count: usize = shape.iter().product();
    if count.checked_mul(dtype.bits() / 8) != Some(bytes.len()) {
        return Err(malformed(format!(
            "tensor {} of shape {shape:?} and type {dtype:?} has {} bytes",
            message.text(tensor::NAME),
            bytes.len()
        )));
    }
    Ok(bytes)
}

fn raw(message: &Message) -> Option<Chunk> {
    message.last(tensor::RAW_DATA)?.chunk()
}

/// A new tensor of `bytes`.
pub(super) fn new(name: &str, data_type: i64, shape: &[usize], bytes: Vec<u8>) -> Message {
    let dims = shape
        .iter()
        .map(|&n| Field::of_integer(tensor::DIMS, n as i64));
    let mut fields: Vec<Field> = dims.collect();
    fields.push(Field::of_integer(tensor::DATA_TYPE, data_type));
    fields.push(Field::of_bytes(tensor::NAME, name.as_bytes()));
    fields.push(Field::of_chunk(tensor::RAW_DATA, bytes.into()));
    Message { fields }
}

/// Puts other elements of the same type into a tensor.
pub(super) fn set_elements(message: &mut Message, shape: &[usize], bytes: Vec<u8>) {
    remove_elements(message);
    message.remove(tensor::DIMS);
    let dims = shape
        .iter()
        .map(|&n| Field::of_integer(tensor::DIMS, n as i64));
    let raw = Field::of_chunk(tensor::RAW_DATA, bytes.into());
    message.fields.extend(dims.chain([raw]));
}

/// Removes the elements of a tensor; its name, type and shape stay.
pub(super) fn remove_elements(message: &mut Message) {
    for number in [
        tensor::FLOAT_DATA,
        tensor::INT32_DATA,
        tensor::RAW_DATA,
        tensor::DOUBLE_DATA,
    ] {
        message.remove(number);
    }
}

/// The files beside a model in which its tensors may lie.
#[derive(Debug)]
pub(super) struct Files {
    folder: Option<PathBuf>,
    files: BTreeMap<String, Arc<Source>>,
}

impl Files {
    /// The files of a folder; none for a model in memory.
    pub(super) fn new(folder: Option<&Path>) -> Self {
        Self {
            folder: folder.map(Path::to_owned),
            files: BTreeMap::new(),
        }
    }

    /// The lengths of the files that have been opened.
    pub(super) fn length(&self) -> u64 {
        self.files.values().map(|file| file.len() as u64).sum()
    }

    /// Brings the elements of all tensors that lie in other files into the message.
    pub(super) fn gather(&mut self, message: &mut Message) -> Result<()> {
        let external = message.integer(tensor::DATA_LOCATION) == Some(tensor::IS_EXTERNAL);
        if external && message.last(tensor::EXTERNAL_DATA).is_some() {
            let bytes = self.external(message)?;
            message.remove(tensor::EXTERNAL_DATA);
            message.remove(tensor::DATA_LOCATION);
            message.set(Field::of_chunk(tensor::RAW_DATA, bytes));
        }
        Ok(())
    }

    fn external(&mut self, message: &Message) -> Result<Chunk> {
        let name = message.text(tensor::NAME).to_owned();
        let wrong = |problem: String| malformed(format!("the data of tensor {name}: {problem}"));
        let entries = message.messages(tensor::EXTERNAL_DATA);
        let entries: BTreeMap<&str, &str> = entries
            .map(|pair| (pair.text(entry::KEY), pair.text(entry::VALUE)))
            .collect();
        let location = *entries
            .get("location")
            .ok_or_else(|| wrong("the location is missing".to_owned()))?;
        let number = |key: &str| {
            let text = entries.get(key);
            let parsed = text.map(|text| text.parse::<usize>());
            parsed
                .transpose()
                .map_err(|_| wrong(format!("{key} is {:?}, not a number", entries[key])))
        };
        let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
        let file = match self.files.get(location) {
            Some(file) => Arc::clone(file),
            None => {
                let file = Arc::new(self.map(location, &name)?);
                self.files.insert(location.to_owned(), Arc::clone(&file));
                file
            }
        };
        let left = file.len().checked_sub(offset);
        let length = length.or(left).unwrap_or(0);
        if left.is_none_or(|left| length > left) {
            return Err(wrong(format!(
                "{length} bytes from byte {offset} of {location:?}, which has {} bytes",
                file.len()
            )));
        }
        Ok(Chunk::new(file).part(offset..offset + length))
    }

    /// Maps a file inside of the folder.
    fn map(&self, location: &str, tensor: &str) -> Result<Source> {
        let Some(folder) = &self.folder else {
            return Err(Error::Unsupported {
                what: format!("tensor {tensor}, whose data is in the file {location:?}"),
                reason: "a model in memory has no files beside it: open it by its path".to_owned(),
            });
        };
        let mut components = Path::new(location).components();
        let plain = components.all(|component| matches!(component, Component::Normal(_)));
        let path = folder.join(location);
        let resolve = |path: &Path| {
            path.canonicalize()
                .map_err(|error| Error::file(path, error))
        };
        // A link may lead out of the folder too.
        if location.is_empty() || !plain || !resolve(&path)?.starts_with(resolve(folder)?) {
            return Err(malformed(format!(
                "the data of tensor {tensor} is in {location:?}, which is not a file in the folder of the model"
            )));
        }
        Source::map(path)
    }
}

/// Calls `f` with every tensor of a graph and of the graphs inside of it.
pub(super) fn each_tensor(
    message: &mut Message,
    f: &mut impl FnMut(&mut Message) -> Result<()>,
) -> Result<()> {
    use super::schema::{attribute, node};
    for field in &mut message.fields {
        let number = field.number;
        let Some(inside) = field.message_mut() else {
            continue;
        };
        match number {
            graph::INITIALIZER => f(inside)?,
            graph::NODE => {
                for field in &mut inside.fields {
                    if field.number != node::ATTRIBUTE {
                        continue;
                    }
                    let attribute = field.message_mut().expect("attributes are messages");
                    for field in &mut attribute.fields {
                        let number = field.number;
                        match (number, field.message_mut()) {
                            (attribute::TENSOR | attribute::TENSORS, Some(tensor)) => f(tensor)?,
                            (attribute::GRAPH | attribute::GRAPHS, Some(graph)) => {
                                each_tensor(graph, f)?;
                            }
                            _ => {}
                        }
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}
