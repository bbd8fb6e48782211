//! Text in lines that resemble each other, such as a table of contents.
//!
//! Each bit is predicted by counters in several contexts (the bytes before it, the word, the place in the line, the line above),
//! which are mixed in the logistic domain by weights that learn, as in PAQ (M. Mahoney, "Adaptive weighing of context models for
//! lossless data compression", Florida Tech. CS-2005-16). Counters and weights begin as they are after a text that encoder
//! and decoder know. Integers alone: every machine does the same.

use std::sync::{LazyLock, OnceLock};

use super::known::KNOWN;
use super::malformed;
use crate::Result;

/// Contexts of a bit.
const CONTEXTS: usize = 11;
/// Sets of weights: one for each number of contexts that have been seen.
const SETS: usize = CONTEXTS + 1;
/// Counters of one context for each byte of text.
const COUNTERS: usize = 8;
/// Counters of four bits: they are in one line of a cache.
const GROUP: usize = 16;
/// The most counters of one context: 2 to this power.
const MOST: u32 = 22;
/// The text is never longer than coded bytes times this.
const MAX_RATIO: usize = 128;
/// The rates of a counter end at one over this.
const MEMORY: u32 = 24;
/// Probabilities are multiples of 2^-16.
const PRECISION: u32 = 16;
/// Logits are multiples of 2^-8 from minus this to this.
const LARGEST: i32 = 2047;

/// 2^16 / (1 + e^-x) for x = −8, −7.5, …, 8.
const LOGISTIC: [i32; 33] = [
    22, 36, 60, 98, 162, 267, 439, 720, 1179, 1921, 3108, 4971, 7812, 11955, 17625, 24743, 32768,
    40793, 47911, 53581, 57724, 60565, 62428, 63615, 64357, 64816, 65097, 65269, 65374, 65438,
    65476, 65500, 65514,
];

/// The probability of a logit.
fn squash(logit: i32) -> i32 {
    let logit = logit.clamp(-LARGEST, LARGEST) + 2048;
    let (place, rest) = ((logit >> 7) as usize, logit & 127);
    (LOGISTIC[place] * (128 - rest) + LOGISTIC[place + 1] * rest) >> 7
}

/// The logit of a probability in 2^-12.
fn stretch(probability: u32) -> i32 {
    static LOGITS: LazyLock<Vec<i16>> = LazyLock::new(|| {
        let mut logit = -LARGEST;
        let logits = (0..1 << 12).map(|probability| {
            while logit < LARGEST && squash(logit) >> 4 < probability {
                logit += 1;
            }
            logit as i16
        });
        logits.collect()
    });
    LOGITS[probability as usize].into()
}

/// The probability that a bit is set, in its upper 22 bits, and how many bits were seen.
#[derive(Debug, Clone, Copy)]
struct Counter(u32);

impl Counter {
    const NEW: Self = Self(1 << 31);

    fn seen(self) -> u32 {
        self.0 & 1023
    }

    fn logit(self) -> i32 {
        stretch(self.0 >> 20)
    }

    fn learn(&mut self, bit: bool) {
        let (probability, seen) = ((self.0 >> 10) as i32, self.seen());
        let target = if bit { (1 << 22) - 1 } else { 0 };
        let step = (i64::from(target - probability) * i64::from(RATES[seen as usize])) >> 16;
        self.0 = ((probability + step as i32) as u32) << 10 | (seen + 1).min(MEMORY);
    }
}

/// By how much a counter moves after some bits, in 2^-16: one over their number and a half.
const RATES: [u32; MEMORY as usize + 1] = {
    let mut rates = [0; MEMORY as usize + 1];
    let mut seen = 0;
    while seen < rates.len() {
        rates[seen] = (1 << 17) / (2 * seen as u32 + 3);
        seen += 1;
    }
    rates
};

/// Where in the text the next byte is.
#[derive(Debug, Clone, Default)]
struct Place {
    /// The last eight bytes.
    last: u64,
    /// Hashes of the word so far, of the word before, and of the line without its digits.
    word: u32,
    before: u32,
    line: u32,
    /// The number of words in the line.
    field: u32,
    /// A hash of the first value that the line gives, and how much of it has been read.
    value: u32,
    value_read: u8,
    /// The text before the first tab of the line, and of the line above.
    name: Vec<u8>,
    above: Vec<u8>,
    /// Hash of the line above up to its first tab, without digits.
    line_above: u32,
    in_name: bool,
    /// Whether the name is that of the line above so far.
    same: bool,
}

/// A hash of two numbers.
fn hash(a: u32, b: u32) -> u32 {
    let mixed = (a ^ b.wrapping_mul(0x9e37_79b1)).wrapping_mul(0x85eb_ca6b);
    mixed ^ (mixed >> 15)
}

impl Place {
    fn new() -> Self {
        Self {
            in_name: true,
            same: true,
            ..Self::default()
        }
    }

    fn step(&mut self, byte: u8) {
        self.last = self.last << 8 | u64::from(byte);
        let number = u32::from(byte);
        if byte.is_ascii_alphanumeric() || byte == b'_' || byte > 127 {
            self.word = hash(self.word, number + 1);
        } else {
            self.before = self.word;
            self.word = 0;
            self.field += 1;
        }
        if !byte.is_ascii_digit() {
            self.line = hash(self.line, number + 1);
        }
        match byte {
            b'=' | b':' if self.value_read == 0 => self.value_read = 1,
            b' ' | b':' if self.value_read == 1 => self.value_read = 2,
            _ if self.value_read == 1 => self.value = hash(self.value, number),
            _ => {}
        }
        match byte {
            b'\n' => {
                self.word = 0;
                self.line = 0;
                self.field = 0;
                self.value = 0;
                self.value_read = 0;
                self.in_name = true;
                self.same = true;
                self.name.clear();
            }
            b'\t' if self.in_name => {
                self.in_name = false;
                self.field = 1 << 8;
                self.value_read = 0;
                self.value = 0;
                self.line_above = self.line;
                std::mem::swap(&mut self.above, &mut self.name);
            }
            _ if self.in_name => {
                self.same &= self.above.get(self.name.len()) == Some(&byte);
                self.name.push(byte);
            }
            _ => {}
        }
    }

    /// Hashes of the contexts of the next byte.
    fn contexts(&self) -> [u32; CONTEXTS] {
        let order = |bytes: u32| {
            let last = self.last & ((1 << (8 * bytes)) - 1);
            hash(last as u32, (last >> 32) as u32 + bytes)
        };
        let above = if self.in_name && self.same {
            let next = self.above.get(self.name.len());
            2 + u32::from(*next.unwrap_or(&b'\t'))
        } else {
            u32::from(self.in_name)
        };
        let contexts = [
            self.field,
            order(1),
            order(2),
            order(3),
            order(4),
            order(6),
            hash(self.word, self.before),
            hash(self.line, self.word),
            hash(hash(self.line_above, self.line), self.word),
            hash(hash(self.value, self.field), self.word),
            hash(above, self.name.len().min(3) as u32),
        ];
        let mut number = 0;
        contexts.map(|context| {
            number += 1;
            hash(context, number)
        })
    }
}

/// Predicts bits, and learns from them.
#[derive(Debug, Clone)]
struct Model {
    place: Place,
    contexts: [u32; CONTEXTS],
    /// Counters of all contexts, one after the other.
    counters: Vec<Counter>,
    bits: u32,
    weights: Vec<[i32; CONTEXTS]>,
    /// The bits of the byte so far, after a one.
    byte: u32,
    /// Where the counters of the next bits begin, for each context.
    groups: [usize; CONTEXTS],
    /// What the prediction of the next bit was made of.
    logits: [i32; CONTEXTS],
    set: usize,
    probability: i32,
}

impl Model {
    /// A model for a text of this length, which has learned the known one.
    fn new(length: usize) -> Self {
        static SMALL: OnceLock<Model> = OnceLock::new();
        let counters = |bytes: usize| (COUNTERS * (KNOWN.len() + bytes)).next_power_of_two();
        let least = counters(0);
        let bits = counters(length).ilog2().min(MOST);
        if bits == least.ilog2() {
            return SMALL.get_or_init(|| Self::learned(bits)).clone();
        }
        Self::learned(bits)
    }

    fn learned(bits: u32) -> Self {
        let place = Place::new();
        let mut model = Self {
            contexts: place.contexts(),
            place,
            counters: vec![Counter::NEW; CONTEXTS << bits],
            bits,
            weights: vec![[(1 << 16) * 3 / 10; CONTEXTS]; SETS],
            byte: 1,
            groups: [0; CONTEXTS],
            logits: [0; CONTEXTS],
            set: 0,
            probability: 0,
        };
        model.find();
        for byte in KNOWN.bytes() {
            for bit in (0..8).rev() {
                model.predict();
                model.learn((byte >> bit) & 1 == 1);
            }
        }
        model
    }

    /// The probability that the next bit is set, from 1 to 2^16 − 1.
    fn predict(&mut self) -> u32 {
        let mut known = 0;
        let within = self.within();
        for i in 0..CONTEXTS {
            let counter = self.counters[self.groups[i] + within];
            self.logits[i] = 0;
            if counter.seen() > 0 {
                known += 1;
                self.logits[i] = counter.logit();
            }
        }
        self.set = known;
        let weights = self.weights[known].iter().zip(&self.logits);
        let sum: i64 = weights.map(|(&w, &x)| i64::from(w) * i64::from(x)).sum();
        let logit = (sum >> 16).clamp(-i64::from(LARGEST), i64::from(LARGEST));
        self.probability = squash(logit as i32);
        self.probability as u32
    }

    fn learn(&mut self, bit: bool) {
        let target = if bit { 1 << PRECISION } else { 0 };
        let error = i64::from(target - self.probability);
        for (weight, &logit) in self.weights[self.set].iter_mut().zip(&self.logits) {
            *weight += ((i64::from(logit) * error * RATE) >> 20) as i32;
        }
        let within = self.within();
        for &group in &self.groups {
            self.counters[group + within].learn(bit);
        }
        self.byte = 2 * self.byte + u32::from(bit);
        if self.byte >= 256 {
            self.place.step(self.byte as u8);
            self.byte = 1;
            self.contexts = self.place.contexts();
        }
        if self.byte == 1 || self.byte >> 4 == 1 {
            self.find();
        }
    }

    /// Finds the counters of the next four bits, which lie side by side.
    fn find(&mut self) {
        for (i, (group, &context)) in self.groups.iter_mut().zip(&self.contexts).enumerate() {
            let place = hash(context, self.byte) >> (32 - self.bits);
            *group = (i << self.bits) + (place as usize & !(GROUP - 1));
        }
    }

    /// The place of the next bit's counter in each group.
    fn within(&self) -> usize {
        let read = self.byte.ilog2() % 4;
        (1 << read) + (self.byte as usize & ((1 << read) - 1))
    }
}

/// How fast weights learn.
const RATE: i64 = 24;

/// The numbers from which the coded one is to be chosen.
struct Interval {
    low: u32,
    high: u32,
}

impl Interval {
    const ALL: Self = Self {
        low: 0,
        high: u32::MAX,
    };

    /// The last number that stands for a bit that is set.
    fn middle(&self, probability: u32) -> u32 {
        let width = u64::from(self.high - self.low);
        self.low + ((width * u64::from(probability)) >> PRECISION) as u32
    }

    fn narrow(&mut self, bit: bool, middle: u32) {
        if bit {
            self.high = middle;
        } else {
            self.low = middle + 1;
        }
    }

    /// The first byte, once all numbers have the same, which is then dropped.
    fn shift(&mut self) -> Option<u8> {
        if (self.low ^ self.high) >> 24 != 0 {
            return None;
        }
        let byte = (self.low >> 24) as u8;
        self.low <<= 8;
        self.high = self.high << 8 | 255;
        Some(byte)
    }
}

/// A number in groups of seven bits, the lowest first; all but the last have the eighth bit set.
fn put_length(mut length: usize, out: &mut Vec<u8>) {
    while length >= 128 {
        out.push(length as u8 | 128);
        length >>= 7;
    }
    out.push(length as u8);
}

fn take_length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut length = 0;
    for (i, &byte) in bytes.iter().enumerate().take(8) {
        length |= u64::from(byte & 127) << (7 * i);
        if byte < 128 {
            return Some((usize::try_from(length).ok()?, &bytes[i + 1..]));
        }
    }
    None
}

/// The first byte of a text as it is.
const AS_IT_IS: u8 = 0;
/// The first byte of a coded text.
const CODED: u8 = 1;

/// The text, coded where that is shorter.
pub(in crate::model) fn encode(text: &str) -> Vec<u8> {
    encode_bytes(text.as_bytes())
}

/// Bytes that resemble each other as lines of a text do, coded where that is shorter.
pub(crate) fn encode_bytes(text: &[u8]) -> Vec<u8> {
    let coded = (!text.is_empty()).then(|| code(text));
    let shorter = coded.filter(|coded| coded.len() <= text.len());
    shorter.unwrap_or_else(|| as_it_is(text))
}

/// The text as it is: a writer need not code it.
pub(in crate::model) fn as_it_is(text: &[u8]) -> Vec<u8> {
    [&[AS_IT_IS], text].concat()
}

fn code(text: &[u8]) -> Vec<u8> {
    let mut coded = vec![CODED];
    put_length(text.len(), &mut coded);
    let mut model = Model::new(text.len());
    let mut interval = Interval::ALL;
    for &byte in text {
        for bit in (0..8).rev() {
            let bit = (byte >> bit) & 1 == 1;
            let middle = interval.middle(model.predict());
            interval.narrow(bit, middle);
            model.learn(bit);
            while let Some(byte) = interval.shift() {
                coded.push(byte);
            }
        }
    }
    // Beyond the end a reader sees zeros.
    if interval.low > 0 {
        coded.push((interval.low >> 24) as u8 + 1);
    }
    coded.resize(coded.len().max(text.len().div_ceil(MAX_RATIO)), 0);
    coded
}

/// The text that [`encode`] or [`as_it_is`] wrote.
///
/// # Errors
///
/// [`Error::Malformed`](crate::Error::Malformed) where it is not what they write.
pub(in crate::model) fn decode(bytes: &[u8]) -> Result<String> {
    String::from_utf8(decode_bytes(bytes)?).map_err(|_| malformed("it is not a text"))
}

/// The bytes that [`encode_bytes`] wrote.
///
/// # Errors
///
/// [`Error::Malformed`](crate::Error::Malformed) where they are not what it writes.
pub(crate) fn decode_bytes(bytes: &[u8]) -> Result<Vec<u8>> {
    match bytes {
        [AS_IT_IS, text @ ..] => Ok(text.to_vec()),
        [CODED, coded @ ..] => decoded(coded, bytes.len() * MAX_RATIO),
        _ => Err(malformed("it is neither a text nor a coded one")),
    }
}

/// The bytes of a coded text, at most so many.
fn decoded(coded: &[u8], most: usize) -> Result<Vec<u8>> {
    let (length, bytes) = take_length(coded)
        .filter(|&(length, _)| length <= most)
        .ok_or_else(|| malformed("its length is not that of a text"))?;
    let mut bytes = bytes.iter();
    let mut model = Model::new(length);
    let mut interval = Interval::ALL;
    let mut next = || u32::from(*bytes.next().unwrap_or(&0));
    let mut number = (0..4).fold(0, |number, _| (number << 8) | next());
    let mut text = Vec::with_capacity(length);
    while text.len() < length {
        let mut byte = 0;
        for _ in 0..8 {
            let middle = interval.middle(model.predict());
            let bit = number <= middle;
            interval.narrow(bit, middle);
            model.learn(bit);
            byte = byte << 1 | u8::from(bit);
            while interval.shift().is_some() {
                number = (number << 8) | next();
            }
        }
        text.push(byte);
    }
    if bytes.any(|&byte| byte != 0) {
        return Err(malformed("bytes follow the last letter"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn texts_come_back(text in prop_oneof![any::<String>(), "([a-c.]{0,5}[0-9]\t[ =:a-c0-9]{0,9}\n){0,9}"]) {
            let shortest = encode(&text);
            prop_assert!(shortest.len() <= text.len() + 1);
            for bytes in [shortest, code(text.as_bytes()), as_it_is(text.as_bytes())] {
                prop_assert_eq!(decode(&bytes).unwrap(), text.clone());
            }
        }

        #[test]
        fn any_bytes_are_an_error_or_a_text(first in 0_u8..3, mut bytes in prop::collection::vec(any::<u8>(), 1..60)) {
            bytes[0] = first;
            if let Ok(text) = decode(&bytes) {
                prop_assert!(text.len() <= MAX_RATIO * bytes.len());
                prop_assert_eq!(decode(&encode(&text)).unwrap(), text);
            }
        }
    }

    #[test]
    fn long_texts_are_padded_rather_than_too_short() {
        let text = "long".repeat(50_000);
        let coded = encode(&text);
        assert_eq!(coded.len(), text.len().div_ceil(MAX_RATIO));
        assert_eq!(decode(&coded).unwrap(), text);
    }

    #[test]
    fn logits_and_probabilities_are_inverse() {
        for (i, &value) in LOGISTIC.iter().enumerate() {
            let exact = 65536.0 / (1.0 + (-(i as f64 - 16.0) / 2.0).exp());
            assert!((f64::from(value) - exact).abs() <= 0.5, "{i}: {exact}");
        }
        for probability in 4..4092 {
            let again = squash(stretch(probability)) >> 4;
            assert!(
                again.abs_diff(probability as i32) <= 16,
                "{probability}: {again}"
            );
        }
    }
}
