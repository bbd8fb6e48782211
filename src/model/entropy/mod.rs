//! Entropy coding of a part's bytes.
//!
//! There are two ways to code packed codes, of which the encoder takes the shorter: under [`laws`] that are stored with the
//! symbols, or, where codes are numbers in rows, under laws that adapt to the numbers before ([`numbers`]). Trellis codes have a coder
//! of their own ([`paths`]). Other arrays are cut into [`planes`] of bits, without loss. [`text`] codes a table of contents.
//! `docs/format.md` describes the bytes.
//!
//! The range coder of codes is that of the crate `constriction` (Bamler, arXiv:2201.01741).

mod activity;
mod ans;
mod known;
mod law;
mod laws;
mod numbers;
mod paths;
mod planes;
mod predictor;
pub(crate) mod text;

pub(super) use laws::Laws;
pub(super) use numbers::Numbers;
pub(super) use paths::Paths;
pub(super) use planes::Planes;

use super::extend::{CodeLayout, CodeMeaning};
use crate::packing::PackedCodes;
use crate::{DType, Error, Result};

/// How coded bytes are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Laws(Laws),
    Numbers(Numbers),
    Paths(Paths),
    Planes(Planes),
}

impl Coding {
    /// The bytes before coding.
    pub(super) fn raw_bytes(&self) -> Option<usize> {
        match self {
            Self::Laws(laws) => laws.raw_bytes(),
            Self::Numbers(numbers) => numbers.raw_bytes(),
            Self::Paths(paths) => paths.raw_bytes(),
            Self::Planes(planes) => Some(planes.length),
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
            Self::Planes(planes) => planes.decode(coded),
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

/// The bytes of an array coded in the shortest way found, where that saves more than `margin` bytes.
///
/// `layout` describes packed codes; other arrays consist of elements of type `dtype`.
pub(super) fn encode(
    raw: &[u8],
    layout: Option<CodeLayout>,
    dtype: DType,
    margin: usize,
) -> Result<Option<(Coding, Vec<u8>)>> {
    let best = match layout {
        Some(CodeLayout {
            meaning: CodeMeaning::Trellis { rows, columns },
            ..
        }) => {
            let (paths, coded) = Paths::encode(rows, columns, raw)?;
            Some((Coding::Paths(paths), coded))
        }
        Some(layout) => encode_codes(raw, layout)?,
        None => {
            let length = raw.len();
            let planes = Planes { dtype, length };
            let coded = planes.encode(raw);
            coded.map(|coded| (Coding::Planes(planes), coded))
        }
    };
    Ok(best.filter(|(_, coded)| coded.len() + margin < raw.len()))
}

fn encode_codes(raw: &[u8], layout: CodeLayout) -> Result<Option<(Coding, Vec<u8>)>> {
    let mut best = encode_numbers(raw, layout)?;
    let shortest = best.as_ref().map_or(raw.len(), |(_, coded)| coded.len());
    let plan = laws::plan(raw, layout)?;
    if let Some(plan) = plan.filter(|plan| plan.estimate < shortest as f64)
        && let Some((laws, coded)) = plan.encode()
        && coded.len() < shortest
    {
        best = Some((Coding::Laws(laws), coded));
    }
    Ok(best)
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
