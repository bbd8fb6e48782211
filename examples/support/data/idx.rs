//! The idx format: a magic number, the length of each axis, then the values; all big-endian.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::DataError;

/// The magic number of unsigned bytes over `axes` axes.
const fn magic(axes: usize) -> u32 {
    0x0800 + axes as u32
}

/// An array of unsigned bytes with N axes.
pub(super) struct Idx<const N: usize> {
    pub(super) path: PathBuf,
    pub(super) shape: [u32; N],
    pub(super) values: Vec<u8>,
}

/// Reads `name` or `name.gz` in `folder`.
pub(super) fn read<const N: usize>(folder: &Path, name: &'static str) -> Result<Idx<N>, DataError> {
    let plain = folder.join(name);
    if plain.is_file() {
        let bytes = unpack(&plain, false)?;
        return parse(plain, &bytes);
    }
    let packed = folder.join(format!("{name}.gz"));
    if packed.is_file() {
        let bytes = unpack(&packed, true)?;
        return parse(packed, &bytes);
    }
    Err(DataError::MissingFile {
        folder: folder.to_owned(),
        name,
    })
}

/// The unpacked bytes of a file. A truncated gzip file gives the bytes that could be unpacked, so that [`parse`] can report how
/// many are missing.
fn unpack(path: &Path, gzip: bool) -> Result<Vec<u8>, DataError> {
    let unreadable = |source| DataError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let mut file = File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    let outcome = if gzip {
        MultiGzDecoder::new(file).read_to_end(&mut bytes)
    } else {
        file.read_to_end(&mut bytes)
    };
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(unreadable(error)),
        _ => Ok(bytes),
    }
}

fn parse<const N: usize>(path: PathBuf, bytes: &[u8]) -> Result<Idx<N>, DataError> {
    let found = bytes.len() as u64;
    let header = 4 * (N as u64 + 1);
    let mut words = bytes
        .chunks_exact(4)
        .map(|word| u32::from_be_bytes([word[0], word[1], word[2], word[3]]));
    match words.next() {
        Some(first) if first == magic(N) => {}
        Some(first) => {
            return Err(DataError::Magic {
                path,
                expected: magic(N),
                found: first,
            });
        }
        None => {
            return Err(DataError::Length {
                path,
                expected: header,
                found,
            });
        }
    }
    let mut shape = [0; N];
    for length in &mut shape {
        let Some(word) = words.next() else {
            return Err(DataError::Length {
                path,
                expected: header,
                found,
            });
        };
        *length = word;
    }
    let expected = shape
        .iter()
        .fold(1, |product: u64, &n| product.saturating_mul(n.into()))
        .saturating_add(header);
    if found != expected {
        return Err(DataError::Length {
            path,
            expected,
            found,
        });
    }
    let values = bytes.get(header as usize..).unwrap_or_default().to_vec();
    Ok(Idx {
        path,
        shape,
        values,
    })
}
