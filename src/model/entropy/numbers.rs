//! Codes that are numbers, each coded under a law that depends on its neighbours.
//!
//! A code is coded as its distance from a [prediction](super::predictor). Its law is chosen by the
//! [scale](super::activity) expected in this place and by where between two codes the prediction lies; [laws](super::law)
//! adapt to the symbols coded. Encoder and decoder step through the same [`Model`].

use constriction::stream::queue::{DefaultRangeDecoder, DefaultRangeEncoder};
use constriction::stream::{Decode, Encode};

use super::activity::{self, Activity, LEVELS};
use super::law::{Bits, ESCAPE, Law, PRECISION, REACH};
use super::malformed;
use super::predictor::{FRACTION, ORDER, Predictor};
use crate::Result;
use crate::model::extend::CodeMeaning;
use crate::packing::PackedCodes;

/// The widest codes.
const MAX_BITS: u32 = 16;
/// Codes are never more than coded bytes times this.
const MAX_RATIO: usize = 64;
/// Codes that are packed together: a multiple of eight.
const STEP: usize = 1 << 13;
/// Parts of the way from one code to the next where predictions lie.
const QUARTERS: usize = 4;
/// The largest mean that residuals of one step have, in sixteenths; wider ones are coded in wider steps.
const WIDEST: u32 = 32;

/// How coded numbers are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::model) struct Numbers {
    /// The width of a code.
    pub(in crate::model) bits: u32,
    /// How many there are.
    pub(in crate::model) count: usize,
    /// How many make a row.
    pub(in crate::model) columns: usize,
    /// The code that stands for the middle of all values.
    pub(in crate::model) zero: u32,
}

/// What encoder and decoder know of a number before it is coded.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// The expected value, in multiples of 2⁻⁸.
    expected: i32,
    /// The number next to it.
    nearest: i32,
    /// Whether it lies below that number; residuals change their sign then.
    below: bool,
    law: usize,
    /// Residuals are coded in steps of 2 to this.
    shift: u32,
}

impl Place {
    /// The number that lies so far on the side where the expected value lies.
    fn number(self, residual: i64) -> i64 {
        i64::from(self.nearest) + if self.below { -residual } else { residual }
    }

    fn residual(self, number: i32) -> i32 {
        let residual = number - self.nearest;
        if self.below { -residual } else { residual }
    }
}

/// What encoder and decoder know of the numbers before.
struct Model {
    predictor: Predictor,
    activity: Activity,
    laws: Vec<Law>,
    shifts: Vec<u32>,
    /// Zeros before the row, and the row.
    window: Vec<i16>,
    columns: usize,
    column: usize,
}

impl Model {
    fn new(columns: usize, predictor: Predictor, level: u8) -> Self {
        let mut shifts = Vec::with_capacity(LEVELS);
        let mut laws = Vec::with_capacity(LEVELS * QUARTERS);
        for level in 0..LEVELS {
            let mean = activity::mean(level);
            let shift = (0..PRECISION as u32).find(|shift| mean >> shift <= WIDEST);
            let shift = shift.unwrap_or(PRECISION as u32);
            let law = Law::geometric((mean >> shift).min(WIDEST));
            laws.extend(std::iter::repeat_n(law, QUARTERS));
            shifts.push(shift);
        }
        Self {
            activity: Activity::new(columns, level),
            laws,
            shifts,
            window: vec![0; ORDER + columns],
            predictor,
            columns,
            column: 0,
        }
    }

    /// The place of the next number.
    #[inline]
    fn next(&self) -> Place {
        let before = self.window[self.column..].first_chunk();
        let before = before.expect("the window begins with zeros for the first column");
        let expected = self.predictor.predict(before);
        let (nearest, offset) = on_grid(expected);
        // The offset is at most half a step.
        let quarter = (offset.unsigned_abs() as usize >> (FRACTION - 3)).min(QUARTERS - 1);
        let level = self.activity.level(self.column);
        Place {
            expected,
            nearest,
            below: offset < 0,
            law: level * QUARTERS + quarter,
            shift: self.shifts[level],
        }
    }

    fn law(&self, place: Place) -> &Law {
        &self.laws[place.law]
    }

    /// Adapts to the number at a place and to the symbol that stood for it.
    #[inline]
    fn learn(&mut self, place: Place, symbol: usize, number: i32) {
        self.laws[place.law].learn(symbol);
        let distance = (number << FRACTION).abs_diff(place.expected);
        self.activity.record(self.column, distance);
        self.window[ORDER + self.column] = clamped(number);
        self.column += 1;
        if self.column == self.columns {
            self.column = 0;
            self.activity.next_row();
        }
    }
}

/// The nearest number, and how far `expected` is above it.
fn on_grid(expected: i32) -> (i32, i32) {
    let step = 1 << FRACTION;
    let nearest = (expected + step / 2).div_euclid(step);
    (nearest, expected - nearest * step)
}

/// A value as predictions see it.
fn clamped(value: i32) -> i16 {
    value.clamp(i16::MIN.into(), i16::MAX.into()) as i16
}

/// A residual in steps of 2 to `shift`, and what is above the lower end of that step.
fn split(residual: i32, shift: u32) -> (i32, u32) {
    let half = (1 << shift) / 2;
    let steps = (residual + half) >> shift;
    (steps, (residual + half - (steps << shift)) as u32)
}

fn symbol(steps: i32) -> usize {
    if steps.abs() <= REACH {
        (steps + REACH) as usize
    } else {
        ESCAPE
    }
}

fn put(encoder: &mut DefaultRangeEncoder, value: u32, bits: u32) {
    let put = encoder.encode_symbol(value, Bits(bits));
    put.expect("the value has no more bits than it is given");
}

fn take(decoder: &mut DefaultRangeDecoder, bits: u32) -> Result<u32> {
    let taken = decoder.decode_symbol(Bits(bits));
    taken.map_err(|_| malformed("it holds words that no encoder writes"))
}

impl Numbers {
    /// How to code numbers in rows; none for labels and for widths that are not coded so.
    pub(super) fn of(symbols: &[u32], bits: u32, meaning: CodeMeaning) -> Option<Self> {
        let count = symbols.len();
        let CodeMeaning::Numbers { columns } = meaning else {
            return None;
        };
        if !((2..=MAX_BITS).contains(&bits) && (1..=count).contains(&columns)) {
            return None;
        }
        let sum: u64 = symbols.iter().map(|&symbol| u64::from(symbol)).sum();
        let zero = ((sum + count as u64 / 2) / count as u64) as u32;
        Some(Self {
            bits,
            count,
            columns,
            zero,
        })
    }

    /// The values of numbers, as predictions see them.
    fn values(&self, symbols: &[u32]) -> Vec<i16> {
        symbols
            .iter()
            .map(|&symbol| clamped(self.number(symbol)))
            .collect()
    }

    /// The bytes before coding.
    pub(in crate::model) fn raw_bytes(&self) -> Option<usize> {
        super::packed_bytes(self.count, self.bits)
    }

    fn number(&self, symbol: u32) -> i32 {
        symbol as i32 - self.zero as i32
    }

    /// The coded bytes; none where they are so few that a reader would refuse them.
    pub(super) fn encode(&self, symbols: &[u32]) -> Option<Vec<u8>> {
        let bytes = self.coded(symbols);
        (self.count / MAX_RATIO <= bytes.len()).then_some(bytes)
    }

    fn coded(&self, symbols: &[u32]) -> Vec<u8> {
        let numbers = symbols.iter().map(|&symbol| self.number(symbol));
        let predictor = Predictor::fit(&self.values(symbols), self.columns);
        let level = activity::first_level(numbers.clone().map(i32::unsigned_abs));
        let mut bytes = vec![predictor.coefficients().len() as u8, level];
        for coefficient in predictor.coefficients() {
            bytes.extend(coefficient.to_le_bytes());
        }
        let mut model = Model::new(self.columns, predictor, level);
        let mut encoder = DefaultRangeEncoder::new();
        for number in numbers {
            let place = model.next();
            let (steps, rest) = split(place.residual(number), place.shift);
            let symbol = symbol(steps);
            encoder
                .encode_symbol(symbol, model.law(place))
                .expect("no symbol has the probability zero");
            if symbol == ESCAPE {
                put(&mut encoder, u32::from(steps < 0), 1);
                let excess = steps.unsigned_abs() - REACH as u32;
                let length = excess.ilog2();
                for _ in 0..length {
                    put(&mut encoder, 1, 1);
                }
                put(&mut encoder, 0, 1);
                for bit in (0..length).rev() {
                    put(&mut encoder, (excess >> bit) & 1, 1);
                }
            }
            if place.shift > 0 {
                put(&mut encoder, rest, place.shift);
            }
            model.learn(place, symbol, number);
        }
        let Ok(words) = encoder.into_compressed();
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        bytes
    }

    /// The packed codes that `coded` stands for.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] where it is not what an encoder writes.
    pub(super) fn decode(&self, coded: &[u8]) -> Result<Vec<u8>> {
        let sound = (2..=MAX_BITS).contains(&self.bits)
            && (1..=self.count).contains(&self.columns)
            && self.zero < 1 << self.bits
            && self.count / MAX_RATIO <= coded.len()
            && self.raw_bytes().is_some();
        if !sound {
            return Err(malformed(format!("{} bytes as {self:?}", coded.len())));
        }
        let (predictor, level, words) = head(coded)?;
        let mut model = Model::new(self.columns, predictor, level);
        let Ok(mut decoder) = DefaultRangeDecoder::from_compressed(super::words(words)?);
        let mut raw = Vec::new();
        // Whole bytes at a time, whatever the width.
        let mut symbols = Vec::with_capacity(STEP.min(self.count));
        for position in 0..self.count {
            let place = model.next();
            let symbol = decoder
                .decode_symbol(model.law(place))
                .map_err(|_| malformed("it holds words that no encoder writes"))?;
            let steps = if symbol == ESCAPE {
                escaped(&mut decoder)?
            } else {
                symbol as i32 - REACH
            };
            let rest = match place.shift {
                0 => 0,
                shift => take(&mut decoder, shift)?,
            };
            let half = (1_i64 << place.shift) / 2;
            let residual = (i64::from(steps) << place.shift) + i64::from(rest) - half;
            let code = place.number(residual) + i64::from(self.zero);
            if !(0..1 << self.bits).contains(&code) {
                return Err(malformed("a number beyond the last code"));
            }
            model.learn(place, symbol, self.number(code as u32));
            symbols.push(code as u32);
            if symbols.len() == STEP || position + 1 == self.count {
                raw.extend_from_slice(PackedCodes::pack(&symbols, self.bits).bytes());
                symbols.clear();
            }
        }
        if !decoder.maybe_exhausted() {
            return Err(malformed("words follow the last number"));
        }
        Ok(raw)
    }
}

/// The predictor and the first level, and the words of the coder that follow.
fn head(coded: &[u8]) -> Result<(Predictor, u8, &[u8])> {
    let ends = || malformed("it ends within its coefficients");
    let [order, level, rest @ ..] = coded else {
        return Err(ends());
    };
    let order = usize::from(*order);
    let (coefficients, words) = rest.split_at_checked(2 * order).ok_or_else(ends)?;
    let coefficients = coefficients
        .as_chunks()
        .0
        .iter()
        .map(|&c| i16::from_le_bytes(c));
    let predictor = Predictor::new(coefficients.collect());
    let predictor = predictor.filter(|_| usize::from(*level) < LEVELS && order <= ORDER);
    let predictor = predictor.ok_or_else(|| malformed("its coefficients are too large"))?;
    Ok((predictor, *level, words))
}

/// Steps beyond the symbols' reach: the sign, and the rest in the code of Elias for numbers from 1 on.
fn escaped(decoder: &mut DefaultRangeDecoder) -> Result<i32> {
    let negative = take(decoder, 1)? == 1;
    let mut length = 0;
    while take(decoder, 1)? == 1 {
        length += 1;
        if length > MAX_BITS {
            return Err(malformed("a number beyond the last code"));
        }
    }
    let mut excess = 1;
    for _ in 0..length {
        excess = 2 * excess + take(decoder, 1)? as i32;
    }
    let steps = excess + REACH;
    Ok(if negative { -steps } else { steps })
}

#[cfg(test)]
mod tests;
