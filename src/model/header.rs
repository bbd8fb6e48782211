//! The header of a safetensors file: eight bytes of length, then JSON.

use std::collections::BTreeMap;
use std::ops::Range;

use safetensors::Dtype;
use safetensors::tensor::Metadata;

use crate::{Error, Result};

/// The largest header that is read or written, the limit of the format's own library.
const MAX_HEADER: usize = 100_000_000;
const LENGTH: usize = 8;

/// One tensor as a header lists it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Info {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// Where its bytes are, from the start of the file.
    pub(super) bytes: Range<usize>,
}

/// A header that has been checked against the file it stands in.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Header {
    pub(super) tensors: BTreeMap<String, Info>,
    pub(super) metadata: BTreeMap<String, String>,
}

pub(super) fn malformed(problem: String) -> Error {
    Error::Malformed {
        artifact: "a safetensors file",
        problem,
    }
}

/// The bytes that a tensor takes, where that number exists.
pub(super) fn bytes_of(dtype: Dtype, shape: &[usize]) -> Option<usize> {
    let elements = shape
        .iter()
        .try_fold(1_usize, |size, &n| size.checked_mul(n))?;
    let bits = elements.checked_mul(dtype.bitsize())?;
    bits.is_multiple_of(8).then_some(bits / 8)
}

impl Header {
    /// Reads the header of `file`; its tensors fill the rest of the file without holes.
    pub(super) fn read(file: &[u8]) -> Result<Self> {
        let length = file
            .first_chunk::<LENGTH>()
            .ok_or_else(|| malformed(format!("{} bytes hold no header", file.len())))?;
        let start = usize::try_from(u64::from_le_bytes(*length))
            .ok()
            .filter(|&length| length <= MAX_HEADER)
            .and_then(|length| length.checked_add(LENGTH))
            .filter(|&start| start <= file.len())
            .ok_or_else(|| malformed("the header is longer than the file".to_owned()))?;
        let json = file.get(LENGTH..start).unwrap_or_default();
        let json = std::str::from_utf8(json)
            .map_err(|error| malformed(format!("the header is no text: {error}")))?;
        let listed: Metadata = serde_json::from_str(json)
            .map_err(|error| malformed(format!("the header does not parse: {error}")))?;
        let mut tensors: Vec<(String, Info)> = Vec::new();
        for (name, info) in listed.tensors() {
            let (from, to) = info.data_offsets;
            let place = |offset: usize| {
                start
                    .checked_add(offset)
                    .filter(|&place| place <= file.len())
                    .ok_or_else(|| malformed(format!("{name} ends beyond the file")))
            };
            let bytes = place(from)?..place(to)?;
            if bytes.start > bytes.end || bytes_of(info.dtype, &info.shape) != Some(bytes.len()) {
                return Err(malformed(format!(
                    "{name} is {:?} of shape {:?} in {} bytes",
                    info.dtype,
                    info.shape,
                    bytes.end.saturating_sub(bytes.start)
                )));
            }
            let (dtype, shape) = (info.dtype, info.shape.clone());
            tensors.push((
                name,
                Info {
                    dtype,
                    shape,
                    bytes,
                },
            ));
        }
        tensors.sort_by_key(|(_, info)| (info.bytes.start, info.bytes.end));
        let mut end = start;
        for (name, info) in &tensors {
            if info.bytes.start != end {
                return Err(malformed(format!("{name} does not begin where it should")));
            }
            end = info.bytes.end;
        }
        if end != file.len() {
            return Err(malformed(format!(
                "{} bytes at the end belong to no tensor",
                file.len() - end
            )));
        }
        let metadata = listed.metadata().clone().unwrap_or_default();
        Ok(Self {
            tensors: tensors.into_iter().collect(),
            metadata: metadata.into_iter().collect(),
        })
    }
}

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Planned {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    pub(super) length: usize,
}

impl Planned {
    /// The order of tensors in a file: widest elements first, so that all are aligned, then by name.
    pub(super) fn order(&self) -> impl Ord + use<> {
        (std::cmp::Reverse(self.dtype.bitsize()), self.name.clone())
    }
}

/// The first bytes of a file of `tensors`, which are in their [order](Planned::order).
pub(super) fn write(tensors: &[Planned], metadata: &BTreeMap<String, String>) -> Result<Vec<u8>> {
    let failed = |error: serde_json::Error| malformed(error.to_string());
    let mut json = String::from("{");
    if !metadata.is_empty() {
        json += "\"__metadata__\":";
        json += &serde_json::to_string(metadata).map_err(failed)?;
    }
    let mut offset = 0_usize;
    for tensor in tensors {
        let end = offset
            .checked_add(tensor.length)
            .ok_or_else(|| malformed("the file is too large".to_owned()))?;
        if json.len() > 1 {
            json.push(',');
        }
        json += &serde_json::to_string(&tensor.name).map_err(failed)?;
        json += &format!(
            ":{{\"dtype\":{},\"shape\":{},\"data_offsets\":[{offset},{end}]}}",
            serde_json::to_string(&tensor.dtype).map_err(failed)?,
            serde_json::to_string(&tensor.shape).map_err(failed)?,
        );
        offset = end;
    }
    json.push('}');
    while !json.len().is_multiple_of(LENGTH) {
        json.push(' ');
    }
    if json.len() > MAX_HEADER {
        return Err(malformed(format!("a header of {} bytes", json.len())));
    }
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json.into_bytes());
    Ok(bytes)
}
