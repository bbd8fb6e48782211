//! Trellis codes, each coded under the law of its class.
//!
//! Laws are stored before the codes, so that chunks of codes are coded one by one and decoded by all threads. Within a chunk the
//! coder is an asymmetric numeral system (J. Duda, arXiv:1311.2540) with table lookups, that of the crate `constriction`.

use std::borrow::Borrow;
use std::num::NonZeroU16;

use constriction::stream::model::{
    ContiguousCategoricalEntropyModel, DecoderModel, EncoderModel, EntropyModel,
    SmallContiguousLookupDecoderModel,
};
use constriction::stream::queue::{DefaultRangeDecoder, DefaultRangeEncoder};
use constriction::stream::stack::SmallAnsCoder;
use constriction::stream::{Decode, Encode};

use super::law::{Bits, ESCAPE, Law, REACH};
use super::laws::{pack_weight, probabilities};
use super::{malformed, words};
use crate::packing::PackedCodes;
use crate::quantize::trellis::layout::{LEVELS, Layout, Line, POINTS};
use crate::{Result, parallel};

/// Probabilities sum to 2 to this power.
const PRECISION: usize = 12;
/// The most symbols of a law, without the one for all numbers beyond.
const MOST: usize = 60;
/// One in so many numbers at most has no symbol.
const RARE: u64 = 1 << 10;
/// Codes of a chunk: a multiple of eight.
const CHUNK: usize = 1 << 16;
/// The raw bytes are never more than coded bytes times this.
const MAX_RATIO: usize = 128;
/// Parts of a matrix whose codes are counted at the same time.
const TASKS: usize = 8;
/// Bits of the numbers beyond, without sign.
const WIDE: u32 = 16;

type Coder = ContiguousCategoricalEntropyModel<u16, Vec<u16>, PRECISION>;
type Decoder = SmallContiguousLookupDecoderModel;

/// How coded trellis codes are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::model) struct Paths {
    pub(in crate::model) rows: usize,
    pub(in crate::model) columns: usize,
    /// The bytes before coding.
    pub(in crate::model) bytes: usize,
}

/// The law of a class: numbers are paired off with the natural numbers, and the lowest `shift` bits are coded as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Table {
    shift: u32,
    /// The packed frequencies of all symbols; the last one stands for all numbers beyond.
    weights: Vec<u8>,
}

impl Table {
    /// The law for `counts` of the natural numbers that stand for numbers.
    fn new(counts: &[u64]) -> Self {
        let total: u64 = counts.iter().sum();
        let beyond = |shift: u32| counts.iter().skip(MOST << shift).sum::<u64>();
        let shift = (0..WIDE).find(|&shift| beyond(shift) <= total / RARE);
        let shift = shift.unwrap_or(WIDE);
        let mut of_symbols: Vec<u64> = counts
            .chunks(1 << shift)
            .take(MOST)
            .map(|counts| counts.iter().sum())
            .collect();
        while of_symbols.last() == Some(&0) && of_symbols.len() > 1 {
            of_symbols.pop();
        }
        of_symbols.push(beyond(shift));
        let largest = of_symbols.iter().copied().fold(1, u64::max);
        let weights = of_symbols.iter().map(|&count| match count {
            0 => 1,
            count => pack_weight(count, largest),
        });
        Self {
            shift,
            weights: weights.collect(),
        }
    }

    fn coder(&self) -> Coder {
        let law = probabilities(&self.weights, PRECISION);
        // Each of at least two symbols has a part.
        let law = law.into_iter().map(|probability| probability as u16);
        Coder::from_nonzero_fixed_point_probabilities(law, false)
            .expect("probabilities are positive and sum to one")
    }

    fn beyond(&self) -> usize {
        self.weights.len() - 1
    }
}

/// The natural number that stands for a number: those around 0 come first.
fn natural(number: i32) -> u32 {
    let twice = number.cast_unsigned() << 1;
    if number < 0 { !twice } else { twice }
}

fn number(natural: u32) -> i32 {
    let half = (natural >> 1).cast_signed();
    if natural & 1 == 1 { !half } else { half }
}

/// Some bits of equal probability, at most 8.
#[derive(Debug, Clone, Copy)]
struct Low(u32);

impl Low {
    fn width(self) -> NonZeroU16 {
        NonZeroU16::new((1 << PRECISION) >> self.0).expect("at most as many bits as the precision")
    }
}

impl EntropyModel<PRECISION> for Low {
    type Symbol = u32;
    type Probability = u16;
}

impl EncoderModel<PRECISION> for Low {
    fn left_cumulative_and_probability(
        &self,
        symbol: impl Borrow<u32>,
    ) -> Option<(u16, NonZeroU16)> {
        let (symbol, width) = (*symbol.borrow(), self.width());
        (symbol < 1 << self.0).then(|| (symbol as u16 * width.get(), width))
    }
}

impl DecoderModel<PRECISION> for Low {
    fn quantile_function(&self, quantile: u16) -> (u32, u16, NonZeroU16) {
        let width = self.width();
        let symbol = quantile / width.get();
        (symbol.into(), symbol * width.get(), width)
    }
}

/// Pieces of at most eight bits, the lowest first, that `bits` bits are coded in.
fn pieces(bits: u32) -> impl DoubleEndedIterator<Item = (u32, u32)> {
    (0..bits.div_ceil(8)).map(move |i| (8 * i, (bits - 8 * i).min(8)))
}

/// The class of each code of a chunk, in the order of codes.
struct Classes<'a> {
    layout: &'a Layout,
    along: &'a [Line],
    across: &'a [Line],
}

impl<'a> Classes<'a> {
    fn new(layout: &'a Layout) -> Self {
        let (along, across) = layout.lines();
        Self {
            layout,
            along,
            across,
        }
    }

    /// Calls `f` with the classes of runs of consecutive codes from `start` on, `count` in all.
    fn runs(
        &self,
        start: usize,
        count: usize,
        mut f: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let length = self.across.len();
        let mut classes = vec![0; length];
        let (mut path, mut offset, mut left) = (start / length, start % length, count);
        while left > 0 {
            let line = self.along[path];
            let some = (length - offset).min(left);
            let by_scale: [u8; LEVELS as usize] = std::array::from_fn(|scale| {
                let other = Line {
                    scale: scale as u8,
                    step: 0,
                };
                self.layout.class(line, other) as u8
            });
            for (class, other) in classes.iter_mut().zip(&self.across[offset..][..some]) {
                *class = by_scale[usize::from(other.scale)];
            }
            f(&classes[..some])?;
            (path, offset, left) = (path + 1, 0, left - some);
        }
        Ok(())
    }

    fn of_chunk(&self, start: usize, count: usize) -> Vec<u8> {
        let mut all = Vec::with_capacity(count);
        self.runs(start, count, |classes| {
            all.extend_from_slice(classes);
            Ok(())
        })
        .expect("appending has no error");
        all
    }
}

impl Paths {
    /// The bytes before coding.
    pub(in crate::model) fn raw_bytes(&self) -> Option<usize> {
        Some(self.bytes)
    }

    /// The coded bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`](crate::Error::Malformed) where `raw` is no matrix of trellis codes.
    pub(super) fn encode(rows: usize, columns: usize, raw: &[u8]) -> Result<(Self, Vec<u8>)> {
        let (layout, codes) = Layout::parse([rows, columns], raw)?;
        let count = layout.rows.len() * layout.columns.len();
        let codes = PackedCodes::from_bytes("a part", codes.to_vec(), count, layout.bits)?;
        let classes = Classes::new(&layout);
        let chunks: Vec<usize> = (0..count).step_by(CHUNK).collect();
        let in_chunk = |start: usize| CHUNK.min(count - start);
        let codes_of = |start: usize| {
            let mut found = vec![0; in_chunk(start)];
            codes.unpack_into(start, &mut found);
            found
                .iter_mut()
                .for_each(|code| *code = natural(Layout::number(layout.bits, *code)));
            found
        };
        // Few tasks, since the counts of wide codes take megabytes.
        let each = chunks.len().div_ceil(TASKS);
        let counts = parallel::map(chunks.len().div_ceil(each), |task| {
            let mut counts = vec![vec![0_u64; 1 << layout.bits]; layout.points.len()];
            for &start in chunks.iter().skip(task * each).take(each) {
                let naturals = codes_of(start);
                let classes = classes.of_chunk(start, naturals.len());
                for (&natural, &class) in naturals.iter().zip(&classes) {
                    counts[usize::from(class)][natural as usize] += 1;
                }
            }
            counts
        });
        let sum = counts.into_iter().reduce(|mut sum, part| {
            for (sum, part) in sum.iter_mut().flatten().zip(part.iter().flatten()) {
                *sum += part;
            }
            sum
        });
        let sum = sum.expect("a matrix has a code");
        let tables: Vec<Table> = sum.iter().map(|counts| Table::new(counts)).collect();
        let coders: Vec<Coder> = tables.iter().map(Table::coder).collect();
        let chunks = parallel::map(chunks.len(), |i| {
            let naturals = codes_of(chunks[i]);
            let classes = classes.of_chunk(chunks[i], naturals.len());
            let mut coder = SmallAnsCoder::new();
            // What is coded last is decoded first.
            for (&natural, &class) in naturals.iter().zip(&classes).rev() {
                let class = usize::from(class);
                put(&mut coder, natural, &tables[class], &coders[class]);
            }
            let Ok(words) = coder.into_compressed();
            words
        });
        let mut bytes = raw[..Layout::HEAD].to_vec();
        let side = side(&layout, &tables, &chunks);
        bytes.extend((side.len() as u32).to_le_bytes());
        bytes.extend(side.iter().flat_map(|word| word.to_le_bytes()));
        bytes.extend(chunks.iter().flatten().flat_map(|word| word.to_le_bytes()));
        let coding = Self {
            rows,
            columns,
            bytes: raw.len(),
        };
        // A reader refuses fewer bytes.
        while bytes.len() < raw.len() / MAX_RATIO {
            bytes.extend([0, 0]);
        }
        Ok((coding, bytes))
    }

    /// The bytes that `coded` stands for.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`](crate::Error::Malformed) where it is not what an encoder writes.
    pub(super) fn decode(&self, coded: &[u8]) -> Result<Vec<u8>> {
        let early = || malformed("trellis codes end early");
        let count = self.rows.checked_mul(self.columns).filter(|&count| {
            // Codes have a bit or more.
            count > 0 && count / 8 <= self.bytes && self.bytes / MAX_RATIO <= coded.len()
        });
        let count = count.ok_or_else(|| malformed(format!("{} bytes as {self:?}", coded.len())))?;
        let lines = self
            .rows
            .checked_add(self.columns)
            .filter(|&lines| lines <= self.bytes);
        lines.ok_or_else(early)?;
        let (head, rest) = coded.split_at_checked(Layout::HEAD).ok_or_else(early)?;
        let (&length, rest) = rest.split_first_chunk().ok_or_else(early)?;
        let length = 4 * u64::from(u32::from_le_bytes(length));
        let length = usize::try_from(length).map_err(|_| early())?;
        let (side, rest) = rest.split_at_checked(length).ok_or_else(early)?;
        let mut side = Side::new(side)?;
        let classes = usize::from(head[3]);
        let head_bytes = Layout::HEAD + self.rows + self.columns + POINTS * classes;
        let mut raw = Vec::with_capacity(self.bytes.min(coded.len().saturating_mul(MAX_RATIO)));
        raw.extend(head);
        side.lines(self.rows, &mut raw)?;
        side.lines(self.columns, &mut raw)?;
        side.points(classes, &mut raw)?;
        debug_assert_eq!(raw.len(), head_bytes);
        let (layout, _) = Layout::parse([self.rows, self.columns], &raw)?;
        let code_bytes = super::packed_bytes(count, layout.bits);
        if code_bytes.and_then(|bytes| bytes.checked_add(head_bytes)) != Some(self.bytes) {
            return Err(malformed(format!(
                "codes of {} bits as {self:?}",
                layout.bits
            )));
        }
        let mut law = Law::geometric(32);
        let tables = (0..classes).map(|_| side.table(&mut law));
        let tables: Vec<Table> = tables.collect::<Result<_>>()?;
        let chunks: Vec<usize> = (0..count).step_by(CHUNK).collect();
        let lengths = chunks.iter().map(|_| side.length());
        let lengths: Vec<usize> = lengths.collect::<Result<_>>()?;
        side.finish()?;
        let (words, odd) = rest.as_chunks::<2>();
        let used = lengths
            .iter()
            .try_fold(0_usize, |sum, &l| sum.checked_add(l));
        let filling = used.and_then(|used| words.get(used..));
        // Zeros fill a part up to the least length.
        let filled = filling.is_some_and(|filling| {
            filling.is_empty()
                || coded.len() <= self.bytes / MAX_RATIO + 1
                    && filling.iter().all(|word| *word == [0, 0])
        });
        if !odd.is_empty() || !filled {
            return Err(malformed("chunks of trellis codes do not fill their part"));
        }
        let mut start = 0;
        let words: Vec<&[[u8; 2]]> = lengths
            .iter()
            .map(|&length| {
                let own = &words[start..start + length];
                start += length;
                own
            })
            .collect();
        let decoders: Vec<Decoder> = tables
            .iter()
            .map(|table| table.coder().to_lookup_decoder_model())
            .collect();
        let classes = Classes::new(&layout);
        let decoded = parallel::map(chunks.len(), |i| {
            let words: Vec<u16> = words[i]
                .iter()
                .map(|&word| u16::from_le_bytes(word))
                .collect();
            let coder = SmallAnsCoder::from_compressed(words);
            let mut coder =
                coder.map_err(|_| malformed("a chunk of trellis codes ends with a zero"))?;
            let mut codes = Vec::with_capacity(CHUNK.min(count - chunks[i]));
            classes.runs(chunks[i], CHUNK.min(count - chunks[i]), |classes| {
                for &class in classes {
                    let class = usize::from(class);
                    let natural = get(&mut coder, &tables[class], &decoders[class])?;
                    if natural >> layout.bits != 0 {
                        return Err(malformed("a number beyond the last code"));
                    }
                    codes.push(Layout::code(layout.bits, number(natural)));
                }
                Ok(())
            })?;
            if !coder.is_empty() {
                return Err(malformed("words follow the last trellis code of a chunk"));
            }
            Ok(PackedCodes::pack(&codes, layout.bits).bytes().to_vec())
        });
        for chunk in decoded {
            raw.extend(chunk?);
        }
        Ok(raw)
    }
}

/// Codes the natural number of a code.
#[inline]
fn put(coder: &mut SmallAnsCoder, natural: u32, table: &Table, law: &Coder) {
    let symbol = (natural >> table.shift) as usize;
    let beyond = symbol >= table.beyond();
    let low = if beyond { WIDE } else { table.shift };
    for (from, bits) in pieces(low).rev() {
        let piece = natural >> from & ((1 << bits) - 1);
        let put = coder.encode_symbol(piece, Low(bits));
        put.expect("the piece has no more bits than it is given");
    }
    let put = coder.encode_symbol(symbol.min(table.beyond()), law);
    put.expect("each symbol has a probability");
}

#[inline]
fn get(coder: &mut SmallAnsCoder, table: &Table, law: &Decoder) -> Result<u32> {
    let Ok(symbol) = coder.decode_symbol(law);
    let beyond = symbol == table.beyond();
    let mut natural = if beyond {
        0
    } else {
        (symbol as u32) << table.shift
    };
    let low = if beyond { WIDE } else { table.shift };
    for (from, bits) in pieces(low) {
        let Ok(piece) = coder.decode_symbol(Low(bits));
        natural |= piece << from;
    }
    Ok(natural)
}

/// What stands before the chunks: lines, points, laws, and lengths.
fn side(layout: &Layout, tables: &[Table], chunks: &[Vec<u16>]) -> Vec<u32> {
    let mut side = SideEncoder::default();
    for lines in [&layout.rows, &layout.columns] {
        let mut laws = [Law::geometric(16), Law::geometric(1)];
        for line in lines {
            let (scale, step) = line_symbols(*line);
            side.symbol(&mut laws[0], scale);
            side.symbol(&mut laws[1], step);
        }
    }
    let mut law = Law::geometric(24);
    let mut before = [0; POINTS];
    for points in &layout.points {
        for (point, before) in points.iter().zip(&before) {
            side.difference(&mut law, i32::from(*point) - before);
        }
        before = points.map(i32::from);
    }
    let mut law = Law::geometric(32);
    for table in tables {
        side.put(table.shift, 5);
        side.put(table.weights.len() as u32, 6);
        let (mut last, mut slope) = (0, 0);
        for &weight in &table.weights {
            let weight = i32::from(weight);
            side.difference(&mut law, weight - last - slope);
            (slope, last) = (weight - last, weight);
        }
    }
    for chunk in chunks {
        side.put(chunk.len() as u32 & 0xffff, 16);
        side.put(chunk.len() as u32 >> 16, 16);
    }
    let Ok(words) = side.0.into_compressed();
    words
}

/// The symbols of a line's scale, from the largest down, and of its step, around the middle of a law.
fn line_symbols(line: Line) -> (usize, usize) {
    let middle = REACH as u8;
    let symbol = |level: u8| usize::from((level + middle) % LEVELS);
    (symbol(LEVELS - 1 - line.scale), symbol(line.step))
}

#[derive(Default)]
struct SideEncoder(DefaultRangeEncoder);

impl SideEncoder {
    fn symbol(&mut self, law: &mut Law, symbol: usize) {
        let put = self.0.encode_symbol(symbol, &*law);
        put.expect("no symbol has the probability zero");
        law.learn(symbol);
    }

    fn put(&mut self, value: u32, bits: u32) {
        let put = self.0.encode_symbol(value, Bits(bits));
        put.expect("the value has no more bits than it is given");
    }

    /// A difference of bytes or less, at most 1023 in magnitude.
    fn difference(&mut self, law: &mut Law, difference: i32) {
        if difference.abs() <= REACH {
            self.symbol(law, (difference + REACH) as usize);
        } else {
            self.symbol(law, ESCAPE);
            self.put((difference + 1024) as u32, 11);
        }
    }
}

struct Side(DefaultRangeDecoder);

impl Side {
    fn new(bytes: &[u8]) -> Result<Self> {
        let Ok(decoder) = DefaultRangeDecoder::from_compressed(words(bytes)?);
        Ok(Self(decoder))
    }

    fn symbol(&mut self, law: &mut Law) -> Result<usize> {
        let symbol = self.0.decode_symbol(&*law);
        let symbol = symbol.map_err(|_| malformed("it holds words that no encoder writes"))?;
        law.learn(symbol);
        Ok(symbol)
    }

    fn take(&mut self, bits: u32) -> Result<u32> {
        let taken = self.0.decode_symbol(Bits(bits));
        taken.map_err(|_| malformed("it holds words that no encoder writes"))
    }

    fn difference(&mut self, law: &mut Law) -> Result<i32> {
        match self.symbol(law)? {
            ESCAPE => Ok(self.take(11)? as i32 - 1024),
            symbol => Ok(symbol as i32 - REACH),
        }
    }

    /// The bytes of so many lines.
    fn lines(&mut self, count: usize, raw: &mut Vec<u8>) -> Result<()> {
        let mut laws = [Law::geometric(16), Law::geometric(1)];
        let level = |symbol: usize| (symbol as u8 + LEVELS - REACH as u8) % LEVELS;
        for _ in 0..count {
            let scale = LEVELS - 1 - level(self.symbol(&mut laws[0])?);
            let step = level(self.symbol(&mut laws[1])?);
            raw.push(scale | step << 4);
        }
        Ok(())
    }

    fn points(&mut self, classes: usize, raw: &mut Vec<u8>) -> Result<()> {
        let mut law = Law::geometric(24);
        let mut before = [0; POINTS];
        for _ in 0..classes {
            for point in &mut before {
                *point += self.difference(&mut law)?;
                let byte = i8::try_from(*point).map_err(|_| malformed("a value is far off"))?;
                raw.push(byte as u8);
            }
        }
        Ok(())
    }

    fn table(&mut self, law: &mut Law) -> Result<Table> {
        let shift = self.take(5)?;
        let length = self.take(6)? as usize;
        if shift > WIDE || !(2..=MOST + 1).contains(&length) {
            return Err(malformed(format!(
                "a law of {length} symbols and {shift} bits"
            )));
        }
        let (mut last, mut slope) = (0, 0);
        let mut weights = Vec::with_capacity(length);
        for _ in 0..length {
            let weight = last + slope + self.difference(law)?;
            let byte =
                u8::try_from(weight).map_err(|_| malformed(format!("a frequency of {weight}")))?;
            weights.push(byte);
            (slope, last) = (weight - last, weight);
        }
        Ok(Table { shift, weights })
    }

    /// The words of a chunk.
    fn length(&mut self) -> Result<usize> {
        let low = self.take(16)?;
        Ok((self.take(16)? << 16 | low) as usize)
    }

    fn finish(&self) -> Result<()> {
        if self.0.maybe_exhausted() {
            Ok(())
        } else {
            Err(malformed("words follow the description of trellis codes"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Seed;
    use proptest::prelude::*;

    #[test]
    fn natural_numbers_stand_for_all_numbers() {
        let around: Vec<i32> = (0..5).map(number).collect();
        assert_eq!(around, [0, -1, 1, -2, 2]);
        for k in i32::from(i16::MIN)..=i32::from(i16::MAX) {
            assert!(natural(k) < 1 << WIDE);
            assert_eq!(number(natural(k)), k);
        }
    }

    fn raw(layout: &Layout, numbers: &[i32]) -> Vec<u8> {
        let codes: Vec<u32> = numbers
            .iter()
            .map(|&number| Layout::code(layout.bits, number))
            .collect();
        layout.to_bytes(&PackedCodes::pack(&codes, layout.bits))
    }

    proptest! {
        /// Any matrix of codes comes back, whatever its laws, and a change of any byte gives codes or an error.
        #[test]
        fn what_is_coded_is_decoded(
            (rows, columns) in (1_usize..40, 1_usize..40),
            down in any::<bool>(),
            bits in 1_u32..=16,
            skew in 1_i32..12,
            classes in 2_usize..=16,
            base in any::<i8>(),
            seed in any::<u64>(),
            (place, change) in (0.0..1.0, 1_u8..),
        ) {
            let seed = Seed::from(seed);
            let line = |i: usize| {
                let random = seed.derive(i as u64).value();
                Line { scale: (random & 15) as u8, step: (random >> 4 & 15) as u8 }
            };
            let lines: Vec<Line> = (0..rows + columns).map(line).collect();
            let point = |i: usize| (16.0 * seed.uniform(i as u64)).floor() as i8;
            let layout = Layout {
                states: 8 << (rows % 6),
                down,
                bits,
                base,
                rows: lines[..rows].to_vec(),
                columns: lines[rows..].to_vec(),
                points: (0..classes).map(|c| std::array::from_fn(|i| point(c * POINTS + i))).collect(),
            };
            // Powers of uniform numbers: small ones are frequent, large ones far away.
            let half = f64::from(1_u32 << (bits - 1));
            let numbers: Vec<i32> = (0..rows * columns)
                .map(|i| (half * seed.uniform(i as u64).powi(skew)).floor() as i32)
                .map(|k| k.clamp(-(1 << (bits - 1)), (1 << (bits - 1)) - 1))
                .collect();
            let raw = raw(&layout, &numbers);
            let (paths, mut coded) = Paths::encode(rows, columns, &raw).unwrap();
            prop_assert_eq!(paths.decode(&coded).unwrap(), raw);
            let place = (place * coded.len() as f64) as usize;
            if let Ok(other) = paths.decode(&coded[..place]) {
                prop_assert_eq!(other.len(), paths.bytes);
            }
            coded[place] ^= change;
            if let Ok(other) = paths.decode(&coded) {
                prop_assert_eq!(other.len(), paths.bytes);
            }
        }
    }

    /// The bytes are those of the entropy, but for what describes lines, points and laws.
    #[test]
    fn codes_take_their_entropy_over_several_chunks() {
        let (rows, columns) = (400, 500);
        let seed = Seed::from(3);
        // Geometric numbers with the ratio 1/2 around zero: 1/3 zeros, entropy 8/3 bits.
        let numbers: Vec<i32> = (0..rows * columns)
            .map(|i| {
                let random = seed.derive(i as u64).value();
                let magnitude = (random | 1 << 40).trailing_zeros() as i32;
                let sign = if random >> 63 == 1 { -1 } else { 1 };
                sign * magnitude
            })
            .collect();
        let line = Line { scale: 8, step: 0 };
        let layout = Layout {
            states: 8,
            down: false,
            bits: 7,
            base: 14,
            rows: vec![line; rows],
            columns: vec![line; columns],
            points: vec![[0; POINTS]; 2],
        };
        let raw = raw(&layout, &numbers);
        let (paths, coded) = Paths::encode(rows, columns, &raw).unwrap();
        assert_eq!(paths.decode(&coded).unwrap(), raw);
        let mut counts = std::collections::BTreeMap::new();
        for number in &numbers {
            *counts.entry(number).or_insert(0.0) += 1.0;
        }
        let n = numbers.len() as f64;
        let entropy: f64 = counts.values().map(|c: &f64| -c * (c / n).log2()).sum();
        // Frequencies have three bits after the first, off by a sixteenth: at most 1 / (2 ln 2 · 256) = 0.003 bits a code, and
        // the rounding to 2⁻¹² as much; descriptions take less than 300 bytes.
        let most = (entropy + 0.006 * n) / 8.0 + 300.0;
        assert!(
            (coded.len() as f64) < most,
            "{} for {}",
            coded.len(),
            entropy / 8.0
        );
    }
    /// Zeros take the least that a reader accepts.
    #[test]
    fn zeros_take_a_hundredth_of_their_codes() {
        let (rows, columns) = (1000, 1024);
        let line = Line { scale: 8, step: 0 };
        let layout = Layout {
            states: 8,
            down: false,
            bits: 1,
            base: 14,
            rows: vec![line; rows],
            columns: vec![line; columns],
            points: vec![[0; POINTS]; 2],
        };
        let raw = raw(&layout, &vec![0; rows * columns]);
        let (paths, coded) = Paths::encode(rows, columns, &raw).unwrap();
        assert!(coded.len() <= raw.len() / MAX_RATIO + 1, "{}", coded.len());
        assert_eq!(paths.decode(&coded).unwrap(), raw);
        let more = [&coded[..], &[0, 0]].concat();
        assert!(paths.decode(&more).is_err());
    }
}
