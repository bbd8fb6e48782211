//! Symbols coded under fixed laws, which are stored before them.
//!
//! Each symbol belongs to one of a few contexts, and each context has a law of its own: the runs of codes (the groups of product
//! quantization), or a byte's place in its element (the exponents of real numbers are distributed differently from the other
//! bytes). A law is stored as one byte a symbol, a small floating-point number, and turned into probabilities by integer
//! arithmetic alone, so that every machine decodes the same.

use constriction::stream::model::ContiguousCategoricalEntropyModel;
use constriction::stream::queue::{DefaultRangeDecoder, DefaultRangeEncoder};
use constriction::stream::{Decode, Encode};

use super::malformed;
use crate::Result;
use crate::model::extend::CodeLayout;
use crate::packing::PackedCodes;

const PRECISION: usize = 24;
type Model = ContiguousCategoricalEntropyModel<u32, Vec<u32>, PRECISION>;

/// The widest symbols that get a law of their own.
const MAX_BITS: u32 = 16;
/// Coded bytes are never fewer than the raw ones over this: what a file claims to hold is bounded by its length.
const MAX_RATIO: usize = 128;
/// Symbols that are packed together: a multiple of eight.
const STEP: usize = 1 << 13;

/// How coded bytes are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::model) struct Laws {
    /// The width of a symbol.
    pub(in crate::model) bits: u32,
    /// How many symbols there are.
    pub(in crate::model) count: usize,
    /// Symbols are below this.
    pub(in crate::model) alphabet: usize,
    /// The number of laws, each of which serves a run of symbols; runs have equal lengths.
    pub(in crate::model) contexts: usize,
}

impl Laws {
    fn context(&self, position: usize) -> usize {
        position / self.count.div_ceil(self.contexts)
    }

    /// The bytes of the laws.
    fn table_bytes(&self) -> Option<usize> {
        self.alphabet.checked_mul(self.contexts)
    }

    /// How often each symbol occurs in each context.
    fn histogram(&self, symbols: &[u32]) -> Vec<u64> {
        let mut counts = vec![0_u64; self.alphabet * self.contexts];
        for (position, &symbol) in symbols.iter().enumerate() {
            counts[self.context(position) * self.alphabet + symbol as usize] += 1;
        }
        counts
    }

    /// The laws as they are stored, and the bytes that coding by them takes, to within a few.
    fn plan(&self, symbols: &[u32]) -> (Vec<u8>, f64) {
        let counts = self.histogram(symbols);
        let mut tables = Vec::with_capacity(counts.len());
        let mut bits = 0.0;
        for counts in counts.chunks(self.alphabet) {
            let largest = counts.iter().copied().fold(1, u64::max);
            let table: Vec<u8> = counts
                .iter()
                .map(|&count| pack_weight(count, largest))
                .collect();
            for (&count, probability) in counts.iter().zip(probabilities(&table, PRECISION)) {
                if count > 0 {
                    let cost = PRECISION as f64 - f64::from(probability).log2();
                    bits += count as f64 * cost;
                }
            }
            tables.extend(table);
        }
        let bytes = tables.len() as f64 + bits / 8.0;
        (tables, bytes)
    }

    fn models(&self, tables: &[u8]) -> Vec<Model> {
        let laws = tables.chunks(self.alphabet);
        laws.map(|table| {
            let law = probabilities(table, PRECISION);
            Model::from_nonzero_fixed_point_probabilities(law, false)
                .expect("probabilities are positive and sum to one")
        })
        .collect()
    }

    fn encode(&self, symbols: &[u32], tables: Vec<u8>) -> Vec<u8> {
        let models = self.models(&tables);
        let mut encoder = DefaultRangeEncoder::new();
        for (position, &symbol) in symbols.iter().enumerate() {
            encoder
                .encode_symbol(symbol as usize, &models[self.context(position)])
                .expect("a law has every symbol of its alphabet");
        }
        let Ok(words) = encoder.into_compressed();
        let mut bytes = tables;
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        bytes
    }

    /// The bytes that `coded` stands for.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] where the laws do not fit or the data does not end where it should.
    pub(super) fn decode(&self, coded: &[u8]) -> Result<Vec<u8>> {
        let raw = self
            .raw_bytes()
            .filter(|&raw| raw / MAX_RATIO <= coded.len());
        let sound = (1..=MAX_BITS).contains(&self.bits)
            && self.count > 0
            && (1..=self.count).contains(&self.contexts)
            && (2..=1 << self.bits).contains(&self.alphabet);
        if raw.is_none() || !sound {
            return Err(malformed(format!("{} bytes as {self:?}", coded.len())));
        }
        let tables = self
            .table_bytes()
            .and_then(|length| coded.split_at_checked(length));
        let (tables, words) = tables.ok_or_else(|| malformed("it ends within its laws"))?;
        let models = self.models(tables);
        let Ok(mut decoder) = DefaultRangeDecoder::from_compressed(super::words(words)?);
        let mut raw = Vec::new();
        // Whole bytes at a time, whatever the width.
        let mut symbols = Vec::with_capacity(STEP.min(self.count));
        for position in 0..self.count {
            let symbol = decoder
                .decode_symbol(&models[self.context(position)])
                .map_err(|_| malformed("it holds words that no encoder writes"))?;
            symbols.push(symbol as u32);
            if symbols.len() == STEP || position + 1 == self.count {
                raw.extend_from_slice(PackedCodes::pack(&symbols, self.bits).bytes());
                symbols.clear();
            }
        }
        if !decoder.maybe_exhausted() {
            return Err(malformed("words follow the last symbol"));
        }
        Ok(raw)
    }

    /// The bytes before coding.
    pub(in crate::model) fn raw_bytes(&self) -> Option<usize> {
        super::packed_bytes(self.count, self.bits)
    }
}

/// A count relative to the `largest`, as a floating-point number with three bits of fraction and five of exponent.
pub(super) fn pack_weight(count: u64, largest: u64) -> u8 {
    if count == 0 {
        return 0;
    }
    // The largest becomes 15 · 2³¹, the top of the scale.
    let weight = (u128::from(count) * (15_u128 << 31) / u128::from(largest)).max(9);
    let exponent = weight.ilog2() - 3;
    let mut packed = (exponent << 3) as u128 + ((weight >> exponent) & 7);
    // To the nearest, where there is a next.
    if exponent > 0 && (weight >> (exponent - 1)) & 1 == 1 && packed < 255 {
        packed += 1;
    }
    packed.max(1) as u8
}

fn unpack_weight(packed: u8) -> u64 {
    match packed {
        0 => 0,
        packed => u64::from(8 + (packed & 7)) << (packed >> 3),
    }
}

/// The law of a table of at least one symbol: positive numbers that sum to 2 to the power `precision`, which is more than there
/// are symbols.
pub(super) fn probabilities(table: &[u8], precision: usize) -> Vec<u32> {
    let one = 1_u64 << precision;
    let weights: Vec<u64> = table.iter().map(|&packed| unpack_weight(packed)).collect();
    let total = weights.iter().map(|&w| u128::from(w)).sum::<u128>().max(1);
    let share = u128::from(one - table.len() as u64);
    let mut law: Vec<u32> = weights
        .iter()
        .map(|&weight| (u128::from(weight) * share / total) as u32 + 1)
        .collect();
    let sum: u64 = law.iter().map(|&p| u64::from(p)).sum();
    // What rounding left over goes to the first of the most frequent.
    let mut first = 0;
    for (i, &probability) in law.iter().enumerate() {
        if probability > law[first] {
            first = i;
        }
    }
    law[first] += (one - sum) as u32;
    law
}

/// A way to code symbols, and its laws.
pub(super) struct Plan {
    coding: Laws,
    tables: Vec<u8>,
    symbols: Vec<u32>,
    /// The bytes that it will take, to within a few.
    pub(super) estimate: f64,
}

impl Plan {
    /// The coded bytes; none where they are so few that a reader would refuse them.
    pub(super) fn encode(self) -> Option<(Laws, Vec<u8>)> {
        let coded = self.coding.encode(&self.symbols, self.tables);
        let raw = self.coding.raw_bytes();
        let raw = raw.expect("the bytes of symbols in memory can be counted");
        (raw / MAX_RATIO <= coded.len()).then_some((self.coding, coded))
    }
}

/// The shortest way found to code packed codes.
pub(super) fn plan(raw: &[u8], layout: CodeLayout) -> Result<Option<Plan>> {
    let mut candidates = Vec::new();
    let new = |bits, count, contexts| Laws {
        bits,
        count,
        alphabet: 0,
        contexts,
    };
    let CodeLayout {
        bits, count, runs, ..
    } = layout;
    if (1..=MAX_BITS).contains(&bits) && count > 0 {
        candidates.push(new(bits, count, 1));
        if runs > 1 && runs <= count {
            candidates.push(new(bits, count, runs));
        }
        if bits < 4 {
            candidates.push(new(8, raw.len(), 1));
        }
    }
    let mut best: Option<Plan> = None;
    for mut coding in candidates {
        if coding.raw_bytes() != Some(raw.len()) {
            continue;
        }
        let packed = PackedCodes::from_bytes("a part", raw.to_vec(), coding.count, coding.bits)?;
        let symbols = packed.unpack();
        let largest = symbols.iter().copied().fold(1, u32::max) as usize;
        coding.alphabet = largest + 1;
        // A part whose laws alone are as long as its bytes would not get shorter.
        if coding
            .table_bytes()
            .is_none_or(|length| length >= raw.len())
        {
            continue;
        }
        let (tables, estimate) = coding.plan(&symbols);
        if best.as_ref().is_none_or(|best| estimate < best.estimate) {
            best = Some(Plan {
                coding,
                tables,
                symbols,
                estimate,
            });
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::extend::CodeMeaning;
    use proptest::prelude::*;

    fn entropy_bytes(symbols: &[u32]) -> f64 {
        let mut counts = std::collections::BTreeMap::new();
        for symbol in symbols {
            *counts.entry(symbol).or_insert(0.0) += 1.0;
        }
        let n = symbols.len() as f64;
        let bits: f64 = counts.values().map(|c: &f64| -c * (c / n).log2()).sum();
        bits / 8.0
    }

    proptest! {
        #[test]
        fn what_is_coded_is_decoded(
            bits in 1_u32..=9,
            contexts in 1_usize..5,
            skew in 1_u32..6,
            random in prop::collection::vec(any::<u32>(), 5..3000),
        ) {
            // Powers of uniform numbers: small symbols are frequent.
            let scale = f64::from((1_u32 << bits) - 1);
            let symbols: Vec<u32> = random
                .iter()
                .map(|&x| ((f64::from(x) / f64::from(u32::MAX)).powi(skew as i32) * scale) as u32)
                .collect();
            let coding = Laws { bits, count: symbols.len(), alphabet: 1 << bits, contexts };
            let (tables, estimate) = coding.plan(&symbols);
            let coded = coding.encode(&symbols, tables);
            // The coder ends within two words of what the probabilities promise.
            prop_assert!((coded.len() as f64 - estimate).abs() <= 9.0);
            // Rounding a law to three bits of fraction costs less than a hundredth of a bit a symbol
            // (the square of a sixteenth, over 2 ln 2).
            if contexts == 1 {
                let limit = entropy_bytes(&symbols) + 0.01 * symbols.len() as f64 / 8.0;
                prop_assert!(coded.len() as f64 <= limit + coding.alphabet as f64 + 9.0);
            }
            let raw = PackedCodes::pack(&symbols, bits);
            prop_assert_eq!(coding.decode(&coded).unwrap(), raw.bytes());
            // Cut anywhere it is an error, or other bytes of the same number.
            for cut in [0, coded.len() / 2, coded.len() - 1] {
                if let Ok(other) = coding.decode(&coded[..cut]) {
                    prop_assert_eq!(other.len(), raw.bytes().len());
                }
            }
        }

        /// A plan is made wherever the laws are shorter than the part, and takes the bytes that it says.
        #[test]
        fn plans_are_kept(
            bits in 1_u32..=9,
            runs in 1_usize..5,
            random in prop::collection::vec(any::<u32>(), 1..3000),
        ) {
            let symbols: Vec<u32> = random.iter().map(|x| x >> (32 - bits)).collect();
            let raw = PackedCodes::pack(&symbols, bits).bytes().to_vec();
            let layout = CodeLayout { bits, count: symbols.len(), runs, meaning: CodeMeaning::Labels };
            let alphabet = symbols.iter().max().unwrap().max(&1) + 1;
            match plan(&raw, layout).unwrap() {
                None => prop_assert!(alphabet as usize >= raw.len()),
                Some(plan) => {
                    let estimate = plan.estimate;
                    let (coding, coded) = plan.encode().expect("random symbols are not short");
                    prop_assert!((coded.len() as f64 - estimate).abs() <= 9.0);
                    prop_assert_eq!(coding.decode(&coded).unwrap(), raw);
                }
            }
        }

        #[test]
        fn laws_sum_to_one(table in prop::collection::vec(any::<u8>(), 1..600)) {
            let law = probabilities(&table, PRECISION);
            prop_assert!(law.iter().all(|&p| p > 0));
            prop_assert_eq!(law.iter().map(|&p| u64::from(p)).sum::<u64>(), 1 << PRECISION);
        }

        #[test]
        fn weights_keep_their_size(count in 1_u64..1 << 40, more in 0_u64..1 << 30) {
            let largest = count + more;
            let weight = unpack_weight(pack_weight(count, largest)) as f64;
            let exact = count as f64 / largest as f64 * (15_u64 << 31) as f64;
            // Half of the last of four significant bits, or the lower end of the scale.
            prop_assert!((weight - exact).abs() <= exact / 16.0 + 9.0, "{weight} for {exact}");
        }
    }

    #[test]
    fn data_that_would_be_too_short_is_not_coded() {
        let raw = vec![0; 1 << 20];
        let layout = CodeLayout {
            bits: 8,
            count: raw.len(),
            runs: 1,
            meaning: CodeMeaning::Labels,
        };
        let plan = plan(&raw, layout).unwrap().expect("there is a law");
        assert!(plan.estimate * (MAX_RATIO as f64) < raw.len() as f64);
        assert!(plan.encode().is_none());
        // A reader refuses data that is said to stand for more.
        let coding = Laws {
            bits: 8,
            count: 1 << 40,
            alphabet: 2,
            contexts: 1,
        };
        assert!(coding.decode(&[1; 64]).is_err());
    }
}
