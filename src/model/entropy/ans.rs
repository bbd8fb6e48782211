//! Asymmetric numeral systems (rANS; J. Duda, arXiv:1311.2540) with laws that are counted from the symbols before.
//!
//! Laws change only between blocks of symbols, so that a decoder looks symbols up in a table. Integers alone: every machine
//! does the same.

/// The states of the coder, which take turns: processors work on all of them at once.
pub(super) const LANES: usize = 4;
/// A state is from here to 2^16 times this; words of 16 bits move between states and bytes.
const LEAST: u32 = 1 << 16;
/// The largest alphabet whose probabilities are multiples of 2^−12; those of larger ones are multiples of 2^−14.
const SMALL: usize = 64;
/// What a symbol that was seen weighs, in units of the prior weights.
const SEEN: u64 = 16;
/// Counts are halved at this sum, so that old symbols fade.
const MEMORY: u32 = 1 << 16;

/// Where a symbol lies in a law.
#[derive(Debug, Clone, Copy, Default)]
struct Slice {
    start: u16,
    width: u16,
}

/// The probabilities of symbols: from prior weights at first, and then from counts.
#[derive(Debug, Clone)]
pub(super) struct Law {
    /// The sum of all widths is 2 to this.
    bits: u32,
    prior: Vec<u16>,
    counts: Vec<u32>,
    total: u32,
    slices: Vec<Slice>,
    /// The symbol at each place below 2^bits.
    symbols: Vec<u16>,
}

impl Law {
    /// A law over at least two symbols, and at most 2^11, of these positive weights.
    pub(super) fn new(prior: Vec<u16>) -> Self {
        let bits = if prior.len() <= SMALL { 12 } else { 14 };
        let mut law = Self {
            bits,
            counts: vec![0; prior.len()],
            slices: vec![Slice::default(); prior.len()],
            total: 0,
            prior,
            symbols: vec![0; 1 << bits],
        };
        law.update();
        law
    }

    /// Counts symbols for the next [`update`](Self::update).
    pub(super) fn count(&mut self, symbol: u16) {
        self.counts[usize::from(symbol)] += 1;
        self.total += 1;
    }

    /// Sets the probabilities to the prior weights and what was counted.
    pub(super) fn update(&mut self) {
        if self.total > MEMORY {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.total = self.counts.iter().sum();
        }
        let prior: u64 = self.prior.iter().map(|&weight| u64::from(weight)).sum();
        let sum = prior + SEEN * u64::from(self.total);
        // Each symbol has one part, and the others are shared out by weight.
        let shared = (1 << self.bits) - self.prior.len() as u64;
        let (mut rest, mut largest) = (shared, 0);
        let weights = self.prior.iter().zip(&self.counts);
        for (i, (&prior, &count)) in weights.enumerate() {
            let weight = u64::from(prior) + SEEN * u64::from(count);
            let width = weight * shared / sum;
            rest -= width;
            self.slices[i].width = width as u16 + 1;
            if self.slices[i].width > self.slices[largest].width {
                largest = i;
            }
        }
        self.slices[largest].width += rest as u16;
        let mut start = 0;
        for (symbol, slice) in (0..).zip(&mut self.slices) {
            slice.start = start;
            start += slice.width;
            self.symbols[usize::from(slice.start)..usize::from(start)].fill(symbol);
        }
    }

    /// What the coding of each symbol costs, in 256ths of a bit.
    pub(super) fn costs(&self) -> Vec<u32> {
        let slices = self.slices.iter();
        let costs = slices.map(|slice| (self.bits << 8) - log2(slice.width));
        costs.collect()
    }
}

/// The binary logarithm of a positive number in 256ths, rounded down.
fn log2(number: u16) -> u32 {
    let whole = number.ilog2();
    let mut mantissa = u64::from(number) << (31 - whole);
    let mut log = whole;
    for _ in 0..8 {
        mantissa = (mantissa * mantissa) >> 31;
        let above = mantissa >> 32;
        mantissa >>= above;
        log = 2 * log + above as u32;
    }
    log
}

/// Collects symbols and codes them from the last to the first.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    symbols: Vec<(Slice, u8, u8)>,
}

impl Encoder {
    /// The next symbol, which the state of this number codes.
    pub(super) fn push(&mut self, law: &Law, symbol: u16, lane: usize) {
        let slice = law.slices[usize::from(symbol)];
        self.symbols.push((slice, law.bits as u8, lane as u8));
    }

    /// Appends the states of `lanes` lanes and the words to `out`, and begins anew.
    pub(super) fn finish(&mut self, lanes: usize, out: &mut Vec<u8>) {
        let mut states = [LEAST; LANES];
        let mut words = Vec::new();
        for &(Slice { start, width }, bits, lane) in self.symbols.iter().rev() {
            let state = &mut states[usize::from(lane)];
            let (start, width) = (u32::from(start), u32::from(width));
            if u64::from(*state) >= u64::from(width) << (32 - bits) {
                words.push(*state as u16);
                *state >>= 16;
            }
            *state = ((*state / width) << bits) + *state % width + start;
        }
        out.extend(states[..lanes].iter().flat_map(|state| state.to_le_bytes()));
        out.extend(words.iter().rev().flat_map(|word| word.to_le_bytes()));
        self.symbols.clear();
    }
}

/// Reads what [`Encoder::finish`] wrote.
pub(super) struct Decoder<'a> {
    states: [u32; LANES],
    lanes: usize,
    bytes: &'a [u8],
    /// The next word. Beyond the end there are zeros.
    at: usize,
}

impl<'a> Decoder<'a> {
    /// Begins at `bytes`; none where they end within the states.
    pub(super) fn new(bytes: &'a [u8], lanes: usize) -> Option<Self> {
        let mut states = [LEAST; LANES];
        let (stored, _) = bytes.split_at_checked(4 * lanes)?;
        for (state, stored) in states.iter_mut().zip(stored.as_chunks().0) {
            *state = u32::from_le_bytes(*stored);
        }
        Some(Self {
            states,
            lanes,
            bytes,
            at: 4 * lanes,
        })
    }

    /// The next symbols, the law of each being that of its context.
    pub(super) fn symbols(
        &mut self,
        laws: &[Law],
        context: impl Fn(usize) -> usize,
        symbols: &mut [u16],
    ) {
        let Self {
            mut states,
            lanes,
            bytes,
            mut at,
        } = *self;
        let mut step = |state: &mut u32, i: usize, symbol: &mut u16| {
            let law = &laws[context(i)];
            let place = *state & ((1 << law.bits) - 1);
            *symbol = law.symbols[place as usize];
            let Slice { start, width } = law.slices[usize::from(*symbol)];
            *state = u32::from(width) * (*state >> law.bits) + (place - u32::from(start));
            // Both ways are computed: which one is taken is as good as random.
            let word = bytes.get(at..).and_then(|rest| rest.first_chunk());
            let more = *state << 16 | u32::from(u16::from_le_bytes(*word.unwrap_or(&[0; 2])));
            let short = *state < LEAST;
            *state = if short { more } else { *state };
            at += 2 * usize::from(short);
        };
        if lanes == 1 {
            for (i, symbol) in symbols.iter_mut().enumerate() {
                step(&mut states[0], i, symbol);
            }
        } else {
            let (rounds, rest) = symbols.as_chunks_mut::<LANES>();
            let last = LANES * rounds.len();
            for (round, symbols) in rounds.iter_mut().enumerate() {
                for (lane, symbol) in symbols.iter_mut().enumerate() {
                    step(&mut states[lane], LANES * round + lane, symbol);
                }
            }
            for (lane, symbol) in rest.iter_mut().enumerate() {
                step(&mut states[lane], last + lane, symbol);
            }
        }
        (self.states, self.at) = (states, at);
    }

    /// The bytes after the last word; none where an encoder would not have ended here.
    pub(super) fn finish(self) -> Option<&'a [u8]> {
        let ended = self.states.iter().all(|&state| state == LEAST);
        self.bytes.get(self.at..).filter(|_| ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn symbols_come_back_in_their_order(
            prior in prop::collection::vec(1_u16..50, 2..100),
            seeds in prop::collection::vec(any::<u16>(), 0..400),
            several in any::<bool>(),
        ) {
            let lanes = if several { LANES } else { 1 };
            let symbols: Vec<u16> = seeds.iter().map(|seed| (seed % 64) * (seed / 64 % 3) % prior.len() as u16).collect();
            let mut encoder = Encoder::default();
            let mut laws = [Law::new(prior.clone()), Law::new(prior)];
            let fresh = laws.clone();
            let context = |i: usize| i % 3 / 2;
            for block in symbols.chunks(50) {
                for (i, &symbol) in block.iter().enumerate() {
                    encoder.push(&laws[context(i)], symbol, i % lanes);
                }
                for (i, &symbol) in block.iter().enumerate() {
                    laws[context(i)].count(symbol);
                }
                laws.iter_mut().for_each(Law::update);
            }
            let mut bytes = Vec::new();
            encoder.finish(lanes, &mut bytes);
            let length = bytes.len();
            bytes.extend([7; 3]);
            let mut laws = fresh;
            let mut decoder = Decoder::new(&bytes, lanes).unwrap();
            let mut decoded = vec![0; symbols.len()];
            for block in decoded.chunks_mut(50) {
                decoder.symbols(&laws, context, block);
                for (i, &mut symbol) in block.iter_mut().enumerate() {
                    laws[context(i)].count(symbol);
                }
                laws.iter_mut().for_each(Law::update);
            }
            prop_assert_eq!(decoded, symbols);
            prop_assert_eq!(decoder.finish(), Some(&bytes[length..]));
        }
    }

    #[test]
    fn logarithms_are_rounded_down() {
        for number in 1..=u16::MAX {
            let exact = f64::from(number).log2() * 256.0;
            let found = f64::from(log2(number));
            assert!(found <= exact + 1e-9 && exact < found + 1.001, "{number}");
        }
    }
}
