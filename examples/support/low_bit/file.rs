//! The file of a packed network: the length of the header as eight bytes, the header (JSON: names and lengths of the parts), and the
//! bytes of all parts.

use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use taper::quantize::binary::BinaryMlp;
use taper::{DType, Part, Role};

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    /// The number of inputs of the first layer.
    inputs: usize,
    layers: Vec<Vec<Entry>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    name: String,
    dtype: String,
    shape: Vec<usize>,
}

/// The parts of a network of unscaled signs, and whether each is payload.
const PARTS: [(&str, Role); 5] = [
    ("signs", Role::Payload),
    ("thresholds", Role::SideInformation),
    ("rises", Role::SideInformation),
    ("weights", Role::Payload),
    ("bias", Role::SideInformation),
];

/// The element types of these parts.
const TYPES: [DType; 4] = [DType::U8, DType::I32, DType::F32, DType::F64];

/// The bytes of a network whose signs have no scale.
///
/// # Errors
///
/// If the header cannot be written.
pub fn to_bytes(network: &BinaryMlp<f32>, inputs: usize) -> anyhow::Result<Vec<u8>> {
    let layers = network.parts();
    let entry = |part: &Part<'_>| Entry {
        name: part.name.to_owned(),
        dtype: format!("{:?}", part.dtype),
        shape: part.shape.clone(),
    };
    let entries = layers
        .iter()
        .map(|parts| parts.iter().map(entry).collect())
        .collect();
    let header = serde_json::to_vec(&Header {
        inputs,
        layers: entries,
    })?;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    for part in layers.iter().flatten() {
        bytes.extend_from_slice(&part.bytes);
    }
    Ok(bytes)
}

/// Restores the network from the bytes of [`to_bytes`].
///
/// # Errors
///
/// If the bytes are truncated, too long, or not a network.
pub fn from_bytes(bytes: &[u8]) -> anyhow::Result<BinaryMlp<f32>> {
    let short = "the network is truncated";
    let (length, rest) = bytes.split_first_chunk::<8>().context(short)?;
    let length = usize::try_from(u64::from_le_bytes(*length))?;
    let (header, mut rest) = rest.split_at_checked(length).context(short)?;
    let header: Header = serde_json::from_slice(header)?;
    let mut layers = Vec::new();
    for entries in &header.layers {
        let mut parts = Vec::new();
        for entry in entries {
            let (name, role) = PARTS
                .into_iter()
                .find(|(name, _)| *name == entry.name)
                .with_context(|| format!("unknown part {}", entry.name))?;
            let dtype = TYPES
                .into_iter()
                .find(|dtype| format!("{dtype:?}") == entry.dtype)
                .with_context(|| format!("unknown type of part {}", entry.dtype))?;
            let count = entry
                .shape
                .iter()
                .try_fold(dtype.bits() / 8, |count, &axis| count.checked_mul(axis));
            let (now, after) = count
                .and_then(|count| rest.split_at_checked(count))
                .context(short)?;
            parts.push(Part {
                name,
                dtype,
                shape: entry.shape.clone(),
                role,
                bytes: now.into(),
            });
            rest = after;
        }
        layers.push(parts);
    }
    ensure!(rest.is_empty(), "{} bytes after the network", rest.len());
    let signs = layers.len().saturating_sub(1);
    let scalings = vec![None; signs];
    Ok(BinaryMlp::from_parts(header.inputs, &scalings, &layers)?)
}

/// Writes a network.
///
/// # Errors
///
/// If the file cannot be written.
pub fn write(path: &Path, network: &BinaryMlp<f32>, inputs: usize) -> anyhow::Result<()> {
    fs::write(path, to_bytes(network, inputs)?)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Reads a network.
///
/// # Errors
///
/// If the file cannot be read, and as [`from_bytes`].
pub fn read(path: &Path) -> anyhow::Result<BinaryMlp<f32>> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    from_bytes(&bytes).with_context(|| format!("{} is not a packed network", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::low_bit::{Activation, LowBitMlp, Weights};
    use taper::Seed;

    #[test]
    fn a_file_gives_the_network_back_and_a_part_of_it_an_error() {
        let widths = [7, 20, 9, 4];
        let network =
            LowBitMlp::new(&widths, Weights::Binary, Activation::Sign, Seed::from(1)).unwrap();
        let network = network.pack().unwrap();
        let bytes = to_bytes(&network, 7).unwrap();
        assert_eq!(from_bytes(&bytes).unwrap(), network);
        for end in 0..bytes.len() {
            assert!(from_bytes(&bytes[..end]).is_err(), "{end} bytes");
        }
        let mut long = bytes;
        long.push(0);
        assert!(from_bytes(&long).is_err());
    }
}
