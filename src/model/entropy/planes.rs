//! Arrays of elements, coded without loss: each element is cut into planes of bits, and a plane is coded where that is shorter.
//!
//! The exponents of trained weights take about three bits of their eight, while mantissas are as good as random
//! (ZipNN, M. Hershcovitch et al., arXiv:2411.05239). So a real number becomes its exponent, then its sign with the upper bits of
//! its mantissa, and then the rest, of which planes may be constant (single precision that once was half precision).
//! `docs/format.md` describes the bytes.

use super::ans::{Decoder, Encoder, LANES, Law};
use super::malformed;
use crate::packing::PackedCodes;
use crate::{DType, Result};

/// Elements whose planes follow each other in a file.
const CHUNK: usize = 1 << 14;
/// Shorter chunks are coded by one state: each takes four bytes.
const SEVERAL_LANES: usize = 1 << 12;
/// Symbols before the first update of a law.
const FIRST_BLOCK: usize = 16;
/// Laws of a plane that depends on the first one.
const CONTEXTS: usize = 8;
/// Coded bytes are never fewer than the raw ones over this: what a file claims to hold is bounded by its length.
const MAX_RATIO: usize = 128;
/// The upper bits of a mantissa that are coded with the sign.
const WITH_SIGN: u32 = 3;
/// Elements from which the modes of planes are chosen: all of a short array, this many runs of a long one.
const RUNS: usize = 8;
const RUN: usize = 1 << 12;
/// The part of its packed bits that coding a plane saves at least, as its reciprocal.
const WORTH: u64 = 32;
/// The first weights of exponents, from the largest one down: those of 64 numbers of a normal distribution.
const EXPONENTS: [u16; 7] = [3, 17, 19, 12, 6, 3, 2];
/// The first weight of all other symbols.
const FLAT: u16 = 6;

/// An array of elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::model) struct Planes {
    pub(in crate::model) dtype: DType,
    /// The bytes of the array, a whole number of elements.
    pub(in crate::model) length: usize,
}

/// How elements are cut into planes.
struct Layout {
    /// Bytes of an element.
    width: usize,
    /// Bits of the mantissa of a real number with a sign.
    mantissa: Option<u32>,
    /// Lowest bits and numbers of bits of the planes, from the top.
    planes: Vec<(u32, u32)>,
}

/// What a file has of a plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// One value for all elements.
    Constant,
    /// Packed bits.
    Raw,
    /// Symbols under one law.
    Coded,
    /// Symbols under laws that depend on the symbol of the first plane.
    Dependent,
}

const MODES: [Mode; 4] = [Mode::Constant, Mode::Raw, Mode::Coded, Mode::Dependent];

/// A plane of an array.
struct Plane {
    shift: u32,
    bits: u32,
    mode: Mode,
    /// The least and the largest symbol, where it is constant or coded.
    range: [u16; 2],
    laws: Vec<Law>,
}

impl Layout {
    fn of(dtype: DType) -> Self {
        let (width, mantissa) = match dtype {
            DType::F8_E4M3 | DType::F8_E4M3FNUZ => (1, Some(3)),
            DType::F8_E5M2 | DType::F8_E5M2FNUZ => (1, Some(2)),
            DType::F16 => (2, Some(10)),
            DType::BF16 => (2, Some(7)),
            DType::F32 | DType::C64 => (4, Some(23)),
            DType::F64 => (8, Some(52)),
            other => (other.bytes(), None),
        };
        let mut planes = Vec::new();
        let mut left = 8 * width as u32;
        let mut push = |bits: u32| {
            if bits > 0 {
                left -= bits;
                planes.push((left, bits));
            }
            left
        };
        let mut rest = push(0);
        if let Some(mantissa) = mantissa {
            push(rest - 1 - mantissa);
            rest = push(1 + mantissa.min(WITH_SIGN));
        }
        push(rest % 8);
        for _ in 0..rest / 8 {
            push(8);
        }
        Self {
            width,
            mantissa,
            planes,
        }
    }

    /// The bits of an element with the sign below the exponent.
    #[inline]
    fn arrange(&self, element: u64) -> u64 {
        let Some(mantissa) = self.mantissa else {
            return element;
        };
        let sign = 8 * self.width as u32 - 1;
        let fraction = element & ((1 << mantissa) - 1);
        let exponent = (element & !(1 << sign)) >> mantissa;
        exponent << (mantissa + 1) | (element >> sign) << mantissa | fraction
    }

    /// The element of arranged bits.
    #[inline]
    fn restore(&self, arranged: u64) -> u64 {
        let Some(mantissa) = self.mantissa else {
            return arranged;
        };
        let sign = 8 * self.width as u32 - 1;
        let fraction = arranged & ((1 << mantissa) - 1);
        let exponent = arranged >> (mantissa + 1);
        ((arranged >> mantissa) & 1) << sign | exponent << mantissa | fraction
    }

    /// The arranged elements of some bytes.
    fn read(&self, bytes: &[u8]) -> Vec<u64> {
        let element = |bytes: &[u8]| {
            let mut element = [0; 8];
            element[..self.width].copy_from_slice(bytes);
            self.arrange(u64::from_le_bytes(element))
        };
        bytes.chunks_exact(self.width).map(element).collect()
    }

    fn write(&self, arranged: &[u64], bytes: &mut Vec<u8>) {
        fn put<const N: usize>(layout: &Layout, arranged: &[u64], bytes: &mut Vec<u8>) {
            let start = bytes.len();
            bytes.resize(start + N * arranged.len(), 0);
            let (elements, _) = bytes[start..].as_chunks_mut::<N>();
            for (element, &arranged) in elements.iter_mut().zip(arranged) {
                let all = layout.restore(arranged).to_le_bytes();
                element.copy_from_slice(&all[..N]);
            }
        }
        match self.width {
            1 => put::<1>(self, arranged, bytes),
            2 => put::<2>(self, arranged, bytes),
            4 => put::<4>(self, arranged, bytes),
            8 => put::<8>(self, arranged, bytes),
            width => unreachable!("no type has elements of {width} bytes"),
        }
    }
}

impl Plane {
    fn new((shift, bits): (u32, u32), mode: Mode, range: [u16; 2], exponents: bool) -> Self {
        let laws = match mode {
            Mode::Constant | Mode::Raw => 0,
            Mode::Coded => 1,
            Mode::Dependent => CONTEXTS,
        };
        let alphabet = usize::from(range[1] - range[0]) + 1;
        let mut prior = vec![if exponents { 1 } else { FLAT }; alphabet];
        if exponents {
            for (weight, first) in prior.iter_mut().rev().zip(EXPONENTS) {
                *weight = first;
            }
        }
        let laws = match laws {
            0 => Vec::new(),
            laws => vec![Law::new(prior); laws],
        };
        Self {
            shift,
            bits,
            mode,
            range,
            laws,
        }
    }

    fn is_coded(&self) -> bool {
        !self.laws.is_empty()
    }

    #[inline]
    fn value(&self, arranged: u64) -> u16 {
        (arranged >> self.shift) as u16 & ((1 << self.bits) - 1)
    }

    /// The number of the law where the first plane has this value, of at most `top`.
    #[inline]
    fn context(&self, first: u16, top: u16) -> usize {
        match self.mode {
            Mode::Dependent => usize::from(top - first).min(CONTEXTS - 1),
            _ => 0,
        }
    }
}

/// The ends of the blocks in a chunk from the element `start` on: laws are updated after each.
fn blocks(start: usize, length: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let block = at..length.min(at + ((start + at) / 4).max(FIRST_BLOCK));
        at = block.end;
        (!block.is_empty()).then_some(block)
    })
}

fn lanes(length: usize) -> usize {
    if length < SEVERAL_LANES { 1 } else { LANES }
}

/// What the planes of some elements cost, each in 256ths of a bit.
fn cost(plane: &Plane, elements: &[u64], first: &Plane) -> u64 {
    let mut laws = plane.laws.clone();
    let mut cost = 0;
    for block in blocks(0, elements.len()) {
        let costs: Vec<Vec<u32>> = laws.iter().map(Law::costs).collect();
        for &element in &elements[block] {
            let law = plane.context(first.value(element), first.range[1]);
            let symbol = plane.value(element) - plane.range[0];
            cost += u64::from(costs[law][usize::from(symbol)]);
            laws[law].count(symbol);
        }
        laws.iter_mut().for_each(Law::update);
    }
    cost
}

impl Planes {
    /// The shortest modes of the planes of an array.
    fn plan(&self, layout: &Layout, raw: &[u8]) -> Vec<Plane> {
        let step = RUN * layout.width;
        // Bits that are set in some element, and bits that are set in all.
        let (mut some, mut all) = (0, u64::MAX);
        for chunk in raw.chunks(step) {
            for element in layout.read(chunk) {
                some |= element;
                all &= element;
            }
        }
        let runs = raw.len().div_ceil(step);
        let sampled = runs.min(RUNS);
        let sample: Vec<u64> = (0..sampled)
            .flat_map(|i| {
                let start = i * runs / sampled * step;
                layout.read(&raw[start..raw.len().min(start + step)])
            })
            .collect();
        let mut planes: Vec<Plane> = Vec::new();
        for (i, &place) in layout.planes.iter().enumerate() {
            let (shift, bits) = place;
            let exponents = i == 0 && layout.mantissa.is_some();
            let of = |mode, range| Plane::new(place, mode, range, exponents);
            let value = |bits_of: u64| (bits_of >> shift) as u16 & ((1 << bits) - 1);
            if value(some) == value(all) {
                planes.push(of(Mode::Constant, [value(all); 2]));
                continue;
            }
            let range = |elements: &[u64], range: [u16; 2]| {
                let values = elements.iter().map(|&element| value(element));
                values.fold(range, |[least, most], value| {
                    [least.min(value), most.max(value)]
                })
            };
            let seen = range(&sample, [u16::MAX, 0]);
            let packed = sample.len() as u64 * u64::from(bits) * 256;
            // Packed bits are read much faster than symbols, which have to save something.
            let mut best = (packed - packed / WORTH, Mode::Raw);
            for mode in [Mode::Coded, Mode::Dependent] {
                let plane = of(mode, seen);
                let first = planes.first().unwrap_or(&plane);
                if mode == Mode::Dependent && !(i > 0 && first.is_coded()) {
                    continue;
                }
                // The range has to be paid for, too.
                let cost = cost(&plane, &sample, first) + 32 * 256;
                if cost < best.0 {
                    best = (cost, mode);
                }
            }
            let range = match best.1 {
                Mode::Raw => [0, (1 << bits) - 1],
                _ if sampled == runs => seen,
                _ => raw
                    .chunks(step)
                    .fold(seen, |all, chunk| range(&layout.read(chunk), all)),
            };
            planes.push(of(best.1, range));
        }
        planes
    }

    /// The coded bytes, where they are fewer.
    pub(super) fn encode(&self, raw: &[u8]) -> Option<Vec<u8>> {
        let layout = Layout::of(self.dtype);
        if raw.is_empty() || !raw.len().is_multiple_of(layout.width) {
            return None;
        }
        let mut planes = self.plan(&layout, raw);
        if planes.iter().all(|plane| plane.mode == Mode::Raw) {
            return None;
        }
        let mut coded = vec![0; planes.len().div_ceil(4)];
        for (i, plane) in planes.iter().enumerate() {
            coded[i / 4] |= (plane.mode as u8) << (2 * (i % 4));
        }
        for plane in &planes {
            let bytes = if plane.bits > 8 { 2 } else { 1 };
            let ends = match plane.mode {
                Mode::Raw => &[][..],
                Mode::Constant => &plane.range[..1],
                Mode::Coded | Mode::Dependent => &plane.range,
            };
            ends.iter()
                .for_each(|end| coded.extend_from_slice(&end.to_le_bytes()[..bytes]));
        }
        let mut encoder = Encoder::default();
        for (number, chunk) in raw.chunks(CHUNK * layout.width).enumerate() {
            let elements = layout.read(chunk);
            let lanes = lanes(elements.len());
            let first: Vec<u16> = elements.iter().map(|&x| planes[0].value(x)).collect();
            let top = planes[0].range[1];
            for plane in &mut planes {
                if plane.mode == Mode::Raw && plane.bits == 8 {
                    coded.extend(elements.iter().map(|&x| plane.value(x) as u8));
                } else if plane.mode == Mode::Raw {
                    let values = elements.iter().map(|&x| plane.value(x).into());
                    let values: Vec<u32> = values.collect();
                    coded.extend_from_slice(PackedCodes::pack(&values, plane.bits).bytes());
                }
                if !plane.is_coded() {
                    continue;
                }
                for block in blocks(number * CHUNK, elements.len()) {
                    let symbols = elements[block.clone()].iter().enumerate();
                    for (i, &element) in symbols {
                        let law = plane.context(first[block.start + i], top);
                        let symbol = plane.value(element) - plane.range[0];
                        encoder.push(&plane.laws[law], symbol, i % lanes);
                    }
                    for i in block {
                        let law = plane.context(first[i], top);
                        let symbol = plane.value(elements[i]) - plane.range[0];
                        plane.laws[law].count(symbol);
                    }
                    plane.laws.iter_mut().for_each(Law::update);
                }
            }
            if planes.iter().any(Plane::is_coded) {
                encoder.finish(lanes, &mut coded);
            }
        }
        coded.resize(coded.len().max(raw.len().div_ceil(MAX_RATIO)), 0);
        (coded.len() < raw.len()).then_some(coded)
    }

    /// The bytes that `coded` stands for.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`](crate::Error::Malformed) where it is not what an encoder writes.
    pub(super) fn decode(&self, coded: &[u8]) -> Result<Vec<u8>> {
        let layout = Layout::of(self.dtype);
        let least = self.length.div_ceil(MAX_RATIO);
        if self.length == 0 || !self.length.is_multiple_of(layout.width) || coded.len() < least {
            return Err(malformed(format!("{} bytes as {self:?}", coded.len())));
        }
        let ends = || malformed("it ends within its planes");
        let (mut planes, mut rest) = head(&layout, coded)?;
        let mut raw = Vec::with_capacity(self.length);
        let count = self.length / layout.width;
        let mut first = Vec::new();
        for start in (0..count).step_by(CHUNK) {
            let length = CHUNK.min(count - start);
            let mut elements = vec![0_u64; length];
            // Raw planes come before the coded ones.
            for plane in &planes {
                let put = |elements: &mut [u64], value: u16| {
                    let bits = u64::from(value) << plane.shift;
                    elements.iter_mut().for_each(|element| *element |= bits);
                };
                match plane.mode {
                    Mode::Constant => put(&mut elements, plane.range[0]),
                    Mode::Raw => {
                        let bytes = (length * plane.bits as usize).div_ceil(8);
                        let packed;
                        (packed, rest) = rest.split_at_checked(bytes).ok_or_else(ends)?;
                        unpack(packed, plane, &mut elements)?;
                    }
                    Mode::Coded | Mode::Dependent => {}
                }
            }
            if !planes.iter().any(Plane::is_coded) {
                layout.write(&elements, &mut raw);
                continue;
            }
            let mut decoder = Decoder::new(rest, lanes(length)).ok_or_else(ends)?;
            let mut symbols = vec![0_u16; length];
            first.clear();
            let top = planes[0].range[1] - planes[0].range[0];
            for plane in planes.iter_mut().filter(|plane| plane.is_coded()) {
                for block in blocks(start, length) {
                    let part = &mut symbols[block.clone()];
                    match plane.mode {
                        Mode::Dependent => {
                            let first = &first[block.clone()];
                            let context = |i: usize| plane.context(first[i], top);
                            decoder.symbols(&plane.laws, context, part);
                            for (&first, &symbol) in first.iter().zip(&*part) {
                                let law = plane.context(first, top);
                                plane.laws[law].count(symbol);
                            }
                        }
                        _ => {
                            decoder.symbols(&plane.laws, |_| 0, part);
                            part.iter().for_each(|&symbol| plane.laws[0].count(symbol));
                        }
                    }
                    plane.laws.iter_mut().for_each(Law::update);
                }
                for (element, &symbol) in elements.iter_mut().zip(&symbols) {
                    *element |= u64::from(symbol + plane.range[0]) << plane.shift;
                }
                if first.is_empty() {
                    first.clone_from(&symbols);
                }
            }
            rest = decoder
                .finish()
                .ok_or_else(|| malformed("it holds words that no encoder writes"))?;
            layout.write(&elements, &mut raw);
        }
        let padded = coded.len() == least && rest.iter().all(|&byte| byte == 0);
        if rest.is_empty() || padded {
            return Ok(raw);
        }
        Err(malformed("bytes follow the last plane"))
    }
}

/// The planes at the beginning of coded bytes, and the bytes after.
fn head<'a>(layout: &Layout, coded: &'a [u8]) -> Result<(Vec<Plane>, &'a [u8])> {
    let ends = || malformed("it ends before its planes");
    let modes = layout.planes.len().div_ceil(4);
    let (modes, mut rest) = coded.split_at_checked(modes).ok_or_else(ends)?;
    let mut planes: Vec<Plane> = Vec::new();
    for (i, &(shift, bits)) in layout.planes.iter().enumerate() {
        let mode = MODES[usize::from(modes[i / 4] >> (2 * (i % 4))) % MODES.len()];
        let mut take = || {
            let (bytes, after) = rest.split_at_checked(if bits > 8 { 2 } else { 1 })?;
            rest = after;
            let mut value = [0; 2];
            value[..bytes.len()].copy_from_slice(bytes);
            Some(u16::from_le_bytes(value))
        };
        let range = match mode {
            Mode::Raw => [0, (1 << bits) - 1],
            Mode::Constant => [take().ok_or_else(ends)?; 2],
            Mode::Coded | Mode::Dependent => [take().ok_or_else(ends)?, take().ok_or_else(ends)?],
        };
        let coded = matches!(mode, Mode::Coded | Mode::Dependent);
        let sound = range[1] >> bits == 0
            && range[0] <= range[1]
            && (!coded || range[0] < range[1])
            && (mode != Mode::Dependent || planes.first().is_some_and(Plane::is_coded));
        if !sound {
            return Err(malformed(format!(
                "values from {} to {}",
                range[0], range[1]
            )));
        }
        let exponents = i == 0 && layout.mantissa.is_some();
        planes.push(Plane::new((shift, bits), mode, range, exponents));
    }
    Ok((planes, rest))
}

/// Adds the packed bits of a plane to elements.
fn unpack(packed: &[u8], plane: &Plane, elements: &mut [u64]) -> Result<()> {
    if plane.bits == 8 {
        for (element, &byte) in elements.iter_mut().zip(packed) {
            *element |= u64::from(byte) << plane.shift;
        }
        return Ok(());
    }
    let packed = PackedCodes::from_bytes("a plane", packed.to_vec(), elements.len(), plane.bits)?;
    for (element, value) in elements.iter_mut().zip(packed.unpack()) {
        *element |= u64::from(value) << plane.shift;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
