//! The header of a safetensors file: eight bytes of length, then JSON.
//!
//! The safetensors crate reads headers too, but into maps that keep the last of two equal keys: a file could hold a
//! tensor that nobody sees. Here a key that is given twice is an error.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::marker::PhantomData;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};

use super::foreign;
use crate::{DType, Error, Result};

/// The largest header that is read or written, the limit of the format's own library.
pub(super) const MAX_HEADER: usize = 100_000_000;
const LENGTH: usize = 8;
/// The key of the metadata, which no tensor can have as its name.
pub(super) const METADATA: &str = "__metadata__";

/// One tensor as a header lists it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Info {
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
    /// Where its bytes are, from the start of the file.
    pub(super) bytes: Range<usize>,
}

/// A header that has been checked against its file.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Header {
    pub(super) tensors: BTreeMap<String, Info>,
    pub(super) metadata: BTreeMap<String, String>,
}

pub(super) fn malformed(problem: impl Into<String>) -> Error {
    Error::Malformed {
        artifact: "a safetensors file",
        problem: problem.into(),
    }
}

/// The bytes that a tensor takes, where that is a whole number that the machine can count.
pub(super) fn bytes_of(dtype: DType, shape: &[usize]) -> Option<usize> {
    let elements = shape
        .iter()
        .try_fold(1_usize, |size, &n| size.checked_mul(n))?;
    let bits = elements.checked_mul(dtype.bits())?;
    bits.is_multiple_of(8).then_some(bits / 8)
}

/// A JSON object, no key of which is given twice.
#[derive(Debug)]
pub(super) struct Unique<V>(pub(super) BTreeMap<String, V>);

fn twice<E: de::Error>(key: &str) -> E {
    E::custom(format_args!("{key:?} is given twice"))
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Unique<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Object<V> {
            type Value = Unique<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut values = BTreeMap::new();
                while let Some(key) = map.next_key::<String>()? {
                    if values.contains_key(&key) {
                        return Err(twice(&key));
                    }
                    let value = map.next_value()?;
                    values.insert(key, value);
                }
                Ok(Unique(values))
            }
        }
        deserializer.deserialize_map(Object(PhantomData))
    }
}

/// One tensor in the JSON of a header.
#[derive(Debug, Deserialize)]
struct ListedTensor {
    dtype: DType,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

/// What the JSON of a header says.
#[derive(Debug)]
struct Listed {
    metadata: BTreeMap<String, String>,
    tensors: BTreeMap<String, ListedTensor>,
}

impl<'de> Deserialize<'de> for Listed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Listed;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Listed, A::Error> {
                let mut metadata = None;
                let mut tensors = BTreeMap::new();
                while let Some(key) = map.next_key::<String>()? {
                    if key == METADATA {
                        if metadata.is_some() {
                            return Err(twice(&key));
                        }
                        let found: Option<Unique<String>> = map.next_value()?;
                        metadata = Some(found.map_or_else(BTreeMap::new, |found| found.0));
                    } else {
                        if tensors.contains_key(&key) {
                            return Err(twice(&key));
                        }
                        tensors.insert(key, map.next_value()?);
                    }
                }
                Ok(Listed {
                    metadata: metadata.unwrap_or_default(),
                    tensors,
                })
            }
        }
        deserializer.deserialize_map(Object)
    }
}

impl Header {
    /// Reads the header of `file`; its tensors fill the rest of the file without holes.
    pub(super) fn read(file: &[u8]) -> Result<Self> {
        let (start, listed) = match listed(file) {
            Ok(listed) => listed,
            // A file of another format is told by name.
            Err(problem) => return Err(malformed(foreign::recognize(file).unwrap_or(problem))),
        };
        let mut tensors: Vec<(String, Info)> = Vec::new();
        for (name, info) in listed.tensors {
            let (from, to) = info.data_offsets;
            let place = |offset: usize| {
                start
                    .checked_add(offset)
                    .filter(|&place| place <= file.len())
                    .ok_or_else(|| {
                        malformed(format!(
                            "{name:?} ends at byte {offset} of the data, of which there are {}: the file was cut",
                            file.len() - start
                        ))
                    })
            };
            let bytes = place(from)?..place(to)?;
            if bytes.start > bytes.end || bytes_of(info.dtype, &info.shape) != Some(bytes.len()) {
                return Err(malformed(format!(
                    "{name:?} is {:?} of shape {:?}, but lies from byte {from} to byte {to}",
                    info.dtype, info.shape
                )));
            }
            let info = Info {
                dtype: info.dtype,
                shape: info.shape,
                bytes,
            };
            tensors.push((name, info));
        }
        tensors.sort_by_key(|(_, info)| (info.bytes.start, info.bytes.end));
        let mut end = start;
        for (name, info) in &tensors {
            if info.bytes.start != end {
                return Err(malformed(format!(
                    "{name:?} begins at byte {} of the data, but the tensor before it ends at byte {}",
                    info.bytes.start - start,
                    end - start
                )));
            }
            end = info.bytes.end;
        }
        if end != file.len() {
            return Err(malformed(format!(
                "{} bytes at the end belong to no tensor",
                file.len() - end
            )));
        }
        Ok(Self {
            tensors: tensors.into_iter().collect(),
            metadata: listed.metadata,
        })
    }
}

/// Where the data begins, and what the header lists; what is wrong, where there is no header.
fn listed(file: &[u8]) -> Result<(usize, Listed), String> {
    let length = file
        .first_chunk::<LENGTH>()
        .ok_or_else(|| format!("a file of {} bytes has no header", file.len()))?;
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER as u64 {
        return Err(format!(
            "the header is said to have {length} bytes; at most {MAX_HEADER} are read"
        ));
    }
    let start = LENGTH + length as usize;
    let json = file.get(LENGTH..start).ok_or_else(|| {
        format!(
            "the header is said to have {length} bytes, but the file has {}",
            file.len()
        )
    })?;
    let listed = serde_json::from_slice(json)
        .map_err(|error| format!("the header is not that of safetensors: {error}"))?;
    Ok((start, listed))
}

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Planned {
    pub(super) name: String,
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
    pub(super) length: usize,
}

impl Planned {
    /// The tensor `name` of this type and shape.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] for a shape whose bytes are not a whole number that the machine can count.
    pub(super) fn new(name: &str, dtype: DType, shape: &[usize]) -> Result<Self> {
        let length = bytes_of(dtype, shape).ok_or_else(|| {
            malformed(format!(
                "{name:?} of {dtype:?} and shape {shape:?} does not take a whole number of bytes that can be counted"
            ))
        })?;
        Ok(Self {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
            length,
        })
    }

    /// The order of tensors in a file: widest elements first, so that all are aligned, then by name.
    pub(super) fn order(&self) -> impl Ord + use<> {
        (std::cmp::Reverse(self.dtype.bits()), self.name.clone())
    }
}

/// The first bytes of a file of `tensors`, which are in their [order](Planned::order).
///
/// # Errors
///
/// [`Error::Unsupported`] for a tensor whose name is the key of the metadata, [`Error::Malformed`] for a header that is
/// too long.
pub(super) fn write(tensors: &[Planned], metadata: &BTreeMap<String, String>) -> Result<Vec<u8>> {
    /// Text, numbers and lists of them.
    fn json<T: serde::Serialize + ?Sized>(value: &T) -> String {
        serde_json::to_string(value).expect("maps with text as keys have a JSON form")
    }
    let mut text = String::from("{");
    if !metadata.is_empty() {
        text += &format!("\"{METADATA}\":{}", json(metadata));
    }
    let mut offset = 0_usize;
    for tensor in tensors {
        if tensor.name == METADATA {
            return Err(Error::Unsupported {
                what: format!("a tensor called {METADATA}"),
                reason: "safetensors files hold their metadata under this name: rename the tensor"
                    .to_owned(),
            });
        }
        let end = offset
            .checked_add(tensor.length)
            .ok_or_else(|| malformed(format!("{:?} makes the file too long", tensor.name)))?;
        if text.len() > 1 {
            text.push(',');
        }
        text += &format!(
            "{}:{{\"dtype\":{},\"shape\":{},\"data_offsets\":[{offset},{end}]}}",
            json(&tensor.name),
            json(&tensor.dtype),
            json(&tensor.shape),
        );
        offset = end;
    }
    text.push('}');
    while !text.len().is_multiple_of(LENGTH) {
        text.push(' ');
    }
    if text.len() > MAX_HEADER {
        return Err(malformed(format!(
            "names and shapes take a header of {} bytes; readers take at most {MAX_HEADER}",
            text.len()
        )));
    }
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.into_bytes());
    Ok(bytes)
}

/// Writes a file of `tensors`, each of whose bytes `data` hands over when they are due; returns its length.
///
/// # Errors
///
/// Those of [`write`], and of `data` and `failed`, which gives the error of a write.
pub(super) fn write_file<B: AsRef<[u8]>>(
    out: &mut impl Write,
    mut tensors: Vec<Planned>,
    metadata: &BTreeMap<String, String>,
    mut data: impl FnMut(&str) -> Result<B>,
    failed: impl Fn(std::io::Error) -> Error,
) -> Result<u64> {
    tensors.sort_by_cached_key(Planned::order);
    let header = write(&tensors, metadata)?;
    out.write_all(&header).map_err(&failed)?;
    let mut length = header.len() as u64;
    for tensor in &tensors {
        let bytes = data(&tensor.name)?;
        let bytes = bytes.as_ref();
        assert_eq!(bytes.len(), tensor.length, "the length of {}", tensor.name);
        out.write_all(bytes).map_err(&failed)?;
        length += bytes.len() as u64;
    }
    Ok(length)
}
