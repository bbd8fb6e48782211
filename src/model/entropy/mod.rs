//! Entropy coding of a part's bytes.
//!
//! Packed codes are read as codes, other arrays as bytes. There are two ways to code them, of which the encoder takes the
//! shorter: under [`laws`] that are stored with the symbols, or, where codes are numbers in rows, under laws that
//! adapt to the numbers before ([`numbers`]). Trellis codes have a coder of their own ([`paths`]). `docs/format.md` describes the bytes.
//!
//! The range coder is that of the crate `constriction` (Bamler, arXiv:2201.01741).

mod activity;
mod law;
mod laws;
mod numbers;
mod paths;
mod predictor;

pub(super) use laws::{Laws, Order};
pub(super) use numbers::Numbers;
pub(super) use paths::Paths;

use super::extend::{CodeLayout, CodeMeaning};
use crate::packing::PackedCodes;
use crate::{Error, Result};

/// How coded bytes are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Laws(Laws),
    Numbers(Numbers),
    Paths(Paths),
}

impl Coding {
    /// The bytes before coding.
    pub(super) fn raw_bytes(&self) -> Option<usize> {
        match self {
            Self::Laws(laws) => laws.raw_bytes(),
            Self::Numbers(numbers) => numbers.raw_bytes(),
            Self::Paths(paths) => paths.raw_bytes(),
        }
    }

    /// The bytes that `coded` stands for.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] where the data is not what an encoder writes.
    pub(super) fn decode(&self, coded: &[u8]) -> Result<Vec<u8>> {
        match self {
            Self::Laws(laws) => laws.decode(coded),
            Self::Numbers(numbers) => numbers.decode(coded),
            Self::Paths(paths) => paths.decode(coded),
        }
    }
}

fn malformed(problem: impl Into<String>) -> Error {
    Error::Malformed {
        artifact: "entropy-coded data",
        problem: problem.into(),
    }
}

/// The bytes of `count` packed codes.
fn packed_bytes(count: usize, bits: u32) -> Option<usize> {
    usize::try_from((count as u128 * u128::from(bits)).div_ceil(8)).ok()
}

/// The words of the range coder.
fn words(bytes: &[u8]) -> Result<Vec<u32>> {
    let (words, rest) = bytes.as_chunks();
    if !rest.is_empty() {
        return Err(malformed("it ends within a word"));
    }
    Ok(words.iter().map(|&word| u32::from_le_bytes(word)).collect())
}

/// The bytes of a part coded in the shortest way found, where that saves more than `margin` bytes.
///
/// `layout` describes packed codes; other arrays are coded byte by byte, with `width` bytes an element.
pub(super) fn encode(
    raw: &[u8],
    layout: Option<CodeLayout>,
    width: usize,
    margin: usize,
) -> Result<Option<(Coding, Vec<u8>)>> {
    let mut best = match layout {
        Some(CodeLayout {
            meaning: CodeMeaning::Trellis { rows, columns },
            ..
        }) => {
            let coded = Paths::encode(rows, columns, raw)?;
            let coded = coded.filter(|(_, coded)| coded.len() + margin < raw.len());
            return Ok(coded.map(|(paths, coded)| (Coding::Paths(paths), coded)));
        }
        Some(layout) => encode_numbers(raw, layout)?,
        None => None,
    };
    let shortest = best.as_ref().map_or(raw.len(), |(_, coded)| coded.len());
    let plan = laws::plan(raw, layout, width)?;
    if let Some(plan) = plan.filter(|plan| plan.estimate < shortest as f64)
        && let Some((laws, coded)) = plan.encode()
        && coded.len() < shortest
    {
        best = Some((Coding::Laws(laws), coded));
    }
    Ok(best.filter(|(_, coded)| coded.len() + margin < raw.len()))
}

fn encode_numbers(raw: &[u8], layout: CodeLayout) -> Result<Option<(Coding, Vec<u8>)>> {
    if layout.meaning == CodeMeaning::Labels
        || packed_bytes(layout.count, layout.bits) != Some(raw.len())
    {
        return Ok(None);
    }
    let packed = PackedCodes::from_bytes("a part", raw.to_vec(), layout.count, layout.bits)?;
    let symbols = packed.unpack();
    let Some(numbers) = Numbers::of(&symbols, layout.bits, layout.meaning) else {
        return Ok(None);
    };
    let coded = numbers.encode(&symbols);
    Ok(coded.map(|coded| (Coding::Numbers(numbers), coded)))
}
