//! Arrays as `.npy` files of little-endian values in row-major order (NumPy enhancement proposal 1).

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use taper::ndarray::{ArrayBase, ArrayD, Data, Dimension, IxDyn};

/// Reads the shape and the bytes of a file with values of this type, `<f4` or `<i8`.
fn read(path: &Path, dtype: &str) -> anyhow::Result<(Vec<usize>, Vec<u8>)> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(
        bytes.starts_with(b"\x93NUMPY"),
        "{} is not a .npy file",
        path.display()
    );
    let length = match bytes.get(6..12) {
        Some(&[1, _, a, b, ..]) => 10 + usize::from(u16::from_le_bytes([a, b])),
        Some(&[2 | 3, _, a, b, c, d]) => 12 + u32::from_le_bytes([a, b, c, d]) as usize,
        _ => bail!("{} ends within its header", path.display()),
    };
    let header = bytes
        .get(10..length)
        .context("the header is longer than the file")?;
    let header = String::from_utf8_lossy(header);
    ensure!(
        header.contains(dtype) && header.contains("'fortran_order': False"),
        "{} does not have {dtype} in row-major order: {header}",
        path.display()
    );
    let shape = header
        .split_once('(')
        .and_then(|(_, rest)| rest.split_once(')'));
    let (shape, _) = shape.context("the header has no shape")?;
    let lengths = shape
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty());
    let shape = lengths.map(str::parse).collect::<Result<_, _>>()?;
    Ok((shape, bytes[length..].to_vec()))
}

/// Reads single-precision values.
pub fn read_f32(path: impl AsRef<Path>) -> anyhow::Result<ArrayD<f32>> {
    let (shape, bytes) = read(path.as_ref(), "<f4")?;
    let (values, _) = bytes.as_chunks::<4>();
    let values = values
        .iter()
        .map(|&value| f32::from_le_bytes(value))
        .collect();
    Ok(ArrayD::from_shape_vec(IxDyn(&shape), values)?)
}

/// Reads nonnegative integers.
pub fn read_indices(path: impl AsRef<Path>) -> anyhow::Result<Vec<usize>> {
    let (_, bytes) = read(path.as_ref(), "<i8")?;
    let (values, _) = bytes.as_chunks::<8>();
    let values = values.iter().map(|&value| i64::from_le_bytes(value));
    Ok(values.map(usize::try_from).collect::<Result<_, _>>()?)
}

/// Writes single-precision values.
pub fn write_f32<S: Data<Elem = f32>, D: Dimension>(
    path: impl AsRef<Path>,
    array: &ArrayBase<S, D>,
) -> anyhow::Result<()> {
    let shape = array
        .shape()
        .iter()
        .fold(String::new(), |mut text, length| {
            let _ = write!(text, "{length}, ");
            text
        });
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}");
    // The values start at a multiple of 64 bytes.
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let file = std::fs::File::create(path)?;
    let mut file = std::io::BufWriter::new(file);
    file.write_all(b"\x93NUMPY\x01\x00")?;
    file.write_all(&u16::try_from(header.len())?.to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    for value in array {
        file.write_all(&value.to_le_bytes())?;
    }
    Ok(file.flush()?)
}
