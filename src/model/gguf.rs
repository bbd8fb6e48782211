//! Models as GGUF files, the format of llama.cpp and candle.
//!
//! The layouts are those of ggml: blocks of 32 weights of a row, each with a scale of half precision.

use std::io::Write;
use std::path::Path;

use super::CompressedModel;
use super::entry::Entry;
use super::save::NewFile;
use super::tensors::within;
use crate::quantize::fixed_point::{FixedPointMatrix, Granularity, Symmetry};
use crate::{DType, Error, Precision, Result};

/// The longest name of a tensor that ggml reads.
const LONGEST_NAME: usize = 63;
/// Tensors begin at multiples of this many bytes.
const ALIGNMENT: u64 = 32;
/// Weights of a block.
const BLOCK: usize = 32;
const STRING: u32 = 8;

/// How the elements of a tensor are stored.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Layout {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q8_0,
}

impl Layout {
    /// The layout in which a tensor loses nothing but the rounding of scales; dense if none of the blocks fits.
    fn of(entry: &Entry) -> Self {
        match blocks(entry) {
            Some(matrix) if matrix.bits() == 8 => Self::Q8_0,
            Some(matrix) if matrix.symmetry() == Symmetry::Affine => Self::Q4_1,
            Some(_) => Self::Q4_0,
            None => match entry {
                Entry::Plain(tensor) if tensor.dtype == DType::F16 => Self::F16,
                Entry::Plain(tensor) if tensor.dtype == DType::BF16 => Self::BF16,
                _ => Self::F32,
            },
        }
    }

    /// Its number in the file.
    fn number(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q8_0 => 8,
            Self::BF16 => 30,
        }
    }

    /// The bytes of `count` elements.
    fn bytes(self, count: u64) -> u64 {
        let blocks = count / BLOCK as u64;
        match self {
            Self::F32 => 4 * count,
            Self::F16 | Self::BF16 => 2 * count,
            Self::Q4_0 => 18 * blocks,
            Self::Q4_1 => 20 * blocks,
            Self::Q8_0 => 34 * blocks,
        }
    }

    /// The elements of a tensor.
    fn encode(self, entry: &Entry) -> Result<Vec<u8>> {
        let Some(matrix) = blocks(entry) else {
            return match (self, entry) {
                (Self::F16 | Self::BF16, Entry::Plain(tensor)) => Ok(tensor.bytes.to_vec()),
                _ => {
                    let dense = entry.decompress()?;
                    Ok(dense.iter().flat_map(|x| x.to_le_bytes()).collect())
                }
            };
        };
        let codes = matrix.integers();
        let codes = codes.as_slice().expect("a new array has no gaps");
        let zeros = matrix.zero_points();
        let mut out = Vec::new();
        for (i, (codes, scale)) in codes.chunks(BLOCK).zip(matrix.scales()).enumerate() {
            let scale: f32 = Precision::F16.round_factor("a scale", scale.into())?;
            out.extend(Precision::F16.encode([scale]));
            if self == Self::Q4_1 {
                // The value of code 0, in place of the zero point.
                let least = -scale * f32::from(zeros[i]);
                let least = Precision::F16.round("the least value of a block", least)?;
                out.extend(Precision::F16.encode([least]));
            }
            match self {
                Self::Q8_0 => out.extend(codes.iter().map(|&code| code as u8)),
                _ => {
                    // Both kinds of codes are counted from 0 here.
                    let first = if self == Self::Q4_0 { 8 } else { 0 };
                    let (low, high) = codes.split_at(BLOCK / 2);
                    let halves = low.iter().zip(high);
                    out.extend(
                        halves.map(|(low, high)| (low + first) as u8 | ((high + first) as u8) << 4),
                    );
                }
            }
        }
        Ok(out)
    }
}

/// The matrix of a tensor whose blocks are those of a layout of GGUF.
fn blocks(entry: &Entry) -> Option<&FixedPointMatrix<f32>> {
    let Entry::Compressed(tensor) = entry else {
        return None;
    };
    let artifact: &dyn std::any::Any = tensor.artifact();
    let matrix: &FixedPointMatrix<f32> = artifact.downcast_ref()?;
    let bits = match matrix.bits() {
        4 => true,
        8 => matrix.symmetry() != Symmetry::Affine,
        _ => false,
    };
    let whole = tensor.shape().len() == 2 && tensor.shape()[1].is_multiple_of(BLOCK);
    let fits = whole && tensor.shape() == tensor.artifact().shape();
    (bits && fits && matrix.granularity() == Granularity::Block(BLOCK)).then_some(matrix)
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

impl CompressedModel {
    /// Writes the model as a GGUF file (version 3), which candle and other readers of GGUF load; returns its length in bytes.
    ///
    /// Matrices of [fixed point](crate::quantize::fixed_point) with [`Granularity::Block(32)`](Granularity::Block), rows of a
    /// multiple of 32 inputs, and these codes keep their codes:
    ///
    /// | codes | layout | bits a weight |
    /// |---|---|--:|
    /// | 4 bits, [`SignedScale`](Symmetry::SignedScale) or [`Symmetric`](Symmetry::Symmetric) | Q4_0 | 4.5 |
    /// | 4 bits, [`Affine`](Symmetry::Affine) | Q4_1 | 5 |
    /// | 8 bits, `SignedScale` or `Symmetric` | Q8_0 | 8.5 |
    ///
    /// Scales are rounded to half precision, if they are not of it, and so is the least value of a block of Q4_1. All other
    /// tensors are dense: tensors of half precision that were kept, as they are, the others in single precision. The model's
    /// metadata become strings. Keys that a program needs are the caller's to set; those with numbers or lists as values, which llama.cpp
    /// needs for a whole language model, cannot be set here.
    ///
    /// ```
    /// use taper::Quantizer;
    /// use taper::model::{CompressedModel, CompressedTensor};
    /// use taper::ndarray::Array2;
    /// use taper::quantize::fixed_point::{FixedPointQuantizer, Granularity, Range, Symmetry};
    ///
    /// let q4_0 = FixedPointQuantizer::new(4)
    ///     .granularity(Granularity::Block(32))
    ///     .symmetry(Symmetry::SignedScale)
    ///     .range(Range::SquaredError);
    /// let weights = Array2::from_shape_fn((16, 64), |(i, j)| ((3 * i + 7 * j) as f32).sin());
    /// let mut model = CompressedModel::new();
    /// model.insert("fc.weight", CompressedTensor::new(q4_0.quantize(weights.view())?))?;
    /// let path = std::env::temp_dir().join(format!("taper-{}.gguf", std::process::id()));
    /// // 32 blocks of 18 bytes, behind a header of 96.
    /// assert_eq!(model.save_gguf(&path)?, 96 + 32 * 18);
    /// # std::fs::remove_file(&path).unwrap();
    /// # Ok::<(), taper::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InTensor`] with [`Error::Overflow`] or [`Error::Underflow`] for a scale that half precision does not hold, and
    /// for a tensor of more than four axes, which the format does not have; [`Error::Unsupported`] for a name of more than 63 bytes and
    /// for the metadata key `general.alignment`; [`Error::File`].
    pub fn save_gguf(&self, path: impl AsRef<Path>) -> Result<u64> {
        let mut header = b"GGUF".to_vec();
        header.extend(3_u32.to_le_bytes());
        header.extend((self.iter().count() as u64).to_le_bytes());
        header.extend((self.metadata().len() as u64).to_le_bytes());
        for (key, value) in self.metadata() {
            if key == "general.alignment" {
                return Err(Error::Unsupported {
                    what: "the metadata key general.alignment".to_owned(),
                    reason: format!(
                        "tensors of the file are aligned to {ALIGNMENT} bytes: remove the key"
                    ),
                });
            }
            string(&mut header, key);
            header.extend(STRING.to_le_bytes());
            string(&mut header, value);
        }
        let mut offset = 0_u64;
        for (name, entry) in self.iter() {
            let layout = Layout::of(entry);
            let shape = entry.shape();
            if shape.len() > 4 {
                return within(
                    name,
                    Err(Error::Dimensions {
                        what: "a tensor of a GGUF file",
                        expected: "at most four axes",
                        shape: shape.to_vec(),
                    }),
                );
            }
            if name.len() > LONGEST_NAME {
                let error = Error::Unsupported {
                    what: format!("a name of {} bytes", name.len()),
                    reason: format!(
                        "ggml reads names of at most {LONGEST_NAME} bytes: rename the tensor"
                    ),
                };
                return within(name, Err(error));
            }
            string(&mut header, name);
            header.extend((shape.len() as u32).to_le_bytes());
            // The innermost axis comes first.
            for &length in shape.iter().rev() {
                header.extend((length as u64).to_le_bytes());
            }
            header.extend(layout.number().to_le_bytes());
            header.extend(offset.to_le_bytes());
            let count = shape.iter().map(|&length| length as u64).product();
            offset += layout.bytes(count).next_multiple_of(ALIGNMENT);
        }
        header.resize(header.len().next_multiple_of(ALIGNMENT as usize), 0);
        let mut file = NewFile::create(path.as_ref())?;
        let mut length = 0_u64;
        let mut write = |file: &mut NewFile, bytes: &[u8]| {
            length += bytes.len() as u64;
            file.write_all(bytes).map_err(|error| file.error(error))
        };
        write(&mut file, &header)?;
        for (name, entry) in self.iter() {
            let bytes = within(name, Layout::of(entry).encode(entry))?;
            write(&mut file, &bytes)?;
            let gap = (bytes.len() as u64).next_multiple_of(ALIGNMENT) - bytes.len() as u64;
            write(&mut file, &[0; ALIGNMENT as usize][..gap as usize])?;
        }
        file.commit()?;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::CompressedTensor;
    use crate::quantize::fixed_point::FixedPointQuantizer;
    use crate::{Compressed, Quantizer, Seed};
    use ndarray::Array2;

    /// The values of the blocks as ggml defines them.
    fn decode(layout: Layout, bytes: &[u8]) -> Vec<f32> {
        let half =
            |at: usize, block: &[u8]| half::f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
        let length = layout.bytes(BLOCK as u64) as usize;
        let blocks = bytes.chunks(length).flat_map(|block| {
            let scale = half(0, block);
            let nibble = |codes: &[u8], i: usize| match i {
                0..16 => codes[i] & 15,
                _ => codes[i - 16] >> 4,
            };
            let value = |i: usize| match layout {
                Layout::Q4_0 => (f32::from(nibble(&block[2..], i)) - 8.0) * scale,
                Layout::Q4_1 => f32::from(nibble(&block[4..], i)) * scale + half(2, block),
                _ => f32::from(block[2 + i] as i8) * scale,
            };
            (0..BLOCK).map(value).collect::<Vec<f32>>()
        });
        blocks.collect()
    }

    #[test]
    fn blocks_stand_for_the_weights_of_the_artifact() {
        use Symmetry::{Affine, SignedScale, Symmetric};
        let w = Array2::from_shape_fn((5, 96), |(i, j)| {
            Seed::from(3).uniform((96 * i + j) as u64) as f32 - 0.2
        });
        for (bits, symmetry, layout) in [
            (4, Symmetric, Layout::Q4_0),
            (4, SignedScale, Layout::Q4_0),
            (4, Affine, Layout::Q4_1),
            (8, Symmetric, Layout::Q8_0),
            (8, SignedScale, Layout::Q8_0),
            (8, Affine, Layout::F32),
            (5, Symmetric, Layout::F32),
        ] {
            let quantizer = FixedPointQuantizer::new(bits)
                .symmetry(symmetry)
                .granularity(Granularity::Block(BLOCK))
                .precision(Precision::F16);
            let q = quantizer.quantize(w.view()).unwrap();
            let dense = q.decompress().unwrap();
            let entry = Entry::Compressed(CompressedTensor::new(q.clone()));
            assert_eq!(Layout::of(&entry), layout);
            let bytes = layout.encode(&entry).unwrap();
            assert_eq!(bytes.len() as u64, layout.bytes(w.len() as u64));
            if layout == Layout::F32 {
                continue;
            }
            // The least value of an affine block, at most fifteen steps from zero, is rounded to half precision.
            let step = q.scales().into_iter().fold(0.0, f32::max);
            let bound = if layout == Layout::Q4_1 {
                15.0 * step / 2048.0
            } else {
                0.0
            };
            for (found, expected) in decode(layout, &bytes).iter().zip(&dense) {
                assert!((found - expected).abs() <= bound, "{found} for {expected}");
            }
        }
    }

    #[test]
    fn scales_that_half_precision_does_not_hold_are_refused() {
        for factor in [1e-9_f32, 1e9] {
            let w = Array2::from_elem((1, 32), factor);
            let quantizer = FixedPointQuantizer::new(4).granularity(Granularity::Block(BLOCK));
            let q = quantizer.quantize(w.view()).unwrap();
            let mut model = CompressedModel::new();
            model.insert("w", CompressedTensor::new(q)).unwrap();
            let path = std::env::temp_dir().join(format!("taper-{}.gguf", std::process::id()));
            let error = model.save_gguf(&path).unwrap_err();
            assert!(matches!(error, Error::InTensor { name, .. } if name == "w"));
            assert!(!path.exists());
        }
    }
}
