//! Checkpoints whose weights are codes already: 8-bit floating point with scales, and packed integers.

use std::collections::BTreeMap;

use super::NamedTensors;
use super::scales::{Scales, matrix};
use super::tensors::within;
use crate::{DType, Error, Result};

/// The rows and columns that share a scale, unless the shape of the scales says otherwise: those of DeepSeek-V3
/// (arXiv:2412.19437, section 3.3).
const BLOCK: usize = 128;

/// What is appended to the name of codes for the name of a tensor that belongs to them.
const SUFFIXES: [&str; 10] = [
    "_scale_inv",
    "_scale",
    "_scale_2",
    "_scales",
    "_zero_point",
    ".absmax",
    ".quant_map",
    ".nested_absmax",
    ".nested_quant_map",
    "_format",
];

/// The last words of the names of tensors that belong to the codes beside them, as in `fc.scales` beside `fc.qweight`.
const BESIDE: [&str; 17] = [
    "scales",
    "scale",
    "qzeros",
    "zeros",
    "zero",
    "g_idx",
    "biases",
    "SCB",
    "weight_scale",
    "weight_global_scale",
    "weight_zero_point",
    "scale_weight",
    "input_scale",
    "scale_input",
    "output_scale",
    "k_scale",
    "v_scale",
];

/// The last words of the names of codes.
const CODES: [&str; 4] = ["qweight", "weight", "weight_packed", "W_q"];

/// The names of the scales of 8-bit weights: a suffix of the whole name, or a word in place of `weight`.
const SCALES: [&str; 2] = ["_scale_inv", "_scale"];
const SCALES_BESIDE: [&str; 2] = ["scale_weight", "scale"];

fn is_eight_bits(dtype: DType) -> bool {
    matches!(dtype, DType::F8_E4M3 | DType::F8_E5M2)
}

/// Whether elements of this type may be codes.
fn may_be_codes(dtype: DType) -> bool {
    let real = matches!(dtype, DType::F64 | DType::F32 | DType::F16 | DType::BF16);
    let other = matches!(dtype, DType::BOOL | DType::I64 | DType::U64 | DType::C64);
    !real && !other
}

/// The beginning of a name up to its last word, and this word.
fn split(name: &str) -> (&str, &str) {
    name.split_at(name.rfind('.').map_or(0, |dot| dot + 1))
}

/// The name of the codes that the tensor `name` belongs to.
fn codes_of(model: &NamedTensors, name: &str) -> Option<String> {
    let coded = |codes: &str| {
        let place = model.tensors.get(codes);
        place.is_some_and(|place| may_be_codes(place.info.dtype))
    };
    for suffix in SUFFIXES {
        if let Some(codes) = name.strip_suffix(suffix)
            && coded(codes)
        {
            return Some(codes.to_owned());
        }
    }
    let (stem, word) = split(name);
    if !BESIDE.contains(&word) {
        return None;
    }
    let candidates = CODES.iter().map(|codes| format!("{stem}{codes}"));
    candidates.into_iter().find(|codes| coded(codes))
}

/// The name of the scales of 8-bit weights.
fn scales_of(model: &NamedTensors, name: &str) -> Option<String> {
    let (stem, word) = split(name);
    let appended = SCALES.iter().map(|suffix| format!("{name}{suffix}"));
    let beside = SCALES_BESIDE.iter().map(|word| format!("{stem}{word}"));
    let beside = beside.filter(|_| word == "weight");
    let exists = |scales: &String| model.tensors.contains_key(scales);
    appended.chain(beside).find(exists)
}

/// Why tensors of quantized layouts are kept, by name.
pub(super) fn notes(model: &NamedTensors) -> BTreeMap<String, String> {
    let mut notes = BTreeMap::new();
    for (name, place) in &model.tensors {
        if let Some(codes) = codes_of(model, name) {
            let whole = &model.tensors[&codes];
            let note = match scales_of(model, &codes) {
                // These are read as weights.
                _ if whole.scales.is_some() => None,
                None if is_eight_bits(whole.info.dtype) => None,
                Some(scales) if is_eight_bits(whole.info.dtype) => Some(format!(
                    "kept, since it holds 8-bit codes with scales in {scales}: NamedTensors::dequantized reads the weights for which they stand"
                )),
                _ => Some(
                    "kept, since it holds codes of weights that are quantized already".to_owned(),
                ),
            };
            if let Some(note) = note {
                notes.insert(codes.clone(), note);
            }
            let note = format!("kept, since it belongs to the codes in {codes}");
            notes.entry(name.clone()).or_insert(note);
        } else if name.ends_with("_scale_inv") && !may_be_codes(place.info.dtype) {
            let note = "kept, since its name is that of the scales of codes";
            notes.entry(name.clone()).or_insert_with(|| note.to_owned());
        }
    }
    notes
}

/// The rows and columns of weights that share one of the scales.
fn block(weights: &[usize], scales: &[usize]) -> Result<[usize; 2]> {
    let (all, parts) = (matrix(weights), matrix(scales));
    let mut block = [0; 2];
    for axis in 0..2 {
        let (length, count) = (all[axis], parts[axis]);
        block[axis] = if length.div_ceil(BLOCK) == count && count != 1 {
            BLOCK
        } else if count > 0 && length.is_multiple_of(count) {
            length / count
        } else {
            return Err(Error::ShapeMismatch {
                what: "the scales of 8-bit weights, one for each block of 128 x 128 weights, row or tensor",
                expected: all.iter().map(|n| n.div_ceil(BLOCK)).collect(),
                found: scales.to_vec(),
            });
        };
    }
    Ok(block)
}

impl NamedTensors {
    /// The model for which a checkpoint of 8-bit floating-point weights with scales stands.
    ///
    /// An F8_E4M3 or F8_E5M2 tensor `fc.weight` with scales (`fc.weight_scale_inv`, `fc.weight_scale`, `fc.scale_weight` or
    /// `fc.scale`) becomes a BF16 tensor of the codes times their scales. There is one scale for the tensor, for each row, or for
    /// each block of 128 × 128 weights as in [DeepSeek-V3](https://arxiv.org/abs/2412.19437). The scales are left out. All other
    /// tensors stay as they are. Weights are computed when they are asked for.
    ///
    /// Without this method 8-bit weights that have scales are kept whole by a [`Recipe`](super::Recipe) and a
    /// [`Budget`](super::Budget), with a note in the report, as are their scales and packed integers (GPTQ, AWQ, bitsandbytes).
    ///
    /// ```
    /// use taper::DType;
    /// use taper::model::{NamedTensors, TensorData};
    /// use taper::ndarray::arr2;
    ///
    /// // 1.0 and -0.5 in E4M3.
    /// let codes = TensorData { dtype: DType::F8_E4M3, shape: vec![1, 2], bytes: vec![0x38, 0xb0].into() };
    /// let scale = arr2(&[[0.25_f32]]).into_dyn();
    /// let tensors = [("fc.weight", codes), ("fc.weight_scale_inv", scale.view().into())];
    /// let model = NamedTensors::from_bytes(NamedTensors::to_bytes(tensors)?)?.dequantized()?;
    /// assert_eq!(model.get("fc.weight")?, arr2(&[[0.25, -0.125]]).into_dyn());
    /// assert_eq!(model.names().collect::<Vec<_>>(), ["fc.weight"]);
    /// # Ok::<(), taper::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InTensor`] with [`Error::ShapeMismatch`] for scales whose shape does not fit the weights, and with
    /// [`Error::Unsupported`] for scales of a type that is not F32, F16, BF16 or F8_E8M0. [`data`](Self::data) returns
    /// [`Error::Overflow`] for weights beyond the range of BF16.
    pub fn dequantized(mut self) -> Result<Self> {
        let mut found = BTreeMap::new();
        for (name, place) in &self.tensors {
            if !is_eight_bits(place.info.dtype) || place.scales.is_some() {
                continue;
            }
            let Some(scales) = scales_of(&self, name) else {
                continue;
            };
            let of = &self.tensors[&scales];
            let real = matches!(
                of.info.dtype,
                DType::F32 | DType::F16 | DType::BF16 | DType::F8_E8M0
            );
            let block = if real {
                block(&place.info.shape, &of.info.shape)
            } else {
                Err(Error::Unsupported {
                    what: format!("scales {scales} of {:?}", of.info.dtype),
                    reason: "scales are F32, F16, BF16 or F8_E8M0".to_owned(),
                })
            };
            let scales = Scales {
                block: within(name, block)?,
                source: of.source,
                info: of.info.clone(),
                name: scales,
            };
            found.insert(name.clone(), scales);
        }
        for scales in found.values() {
            self.tensors.remove(&scales.name);
        }
        for (name, scales) in found {
            let place = self.tensors.get_mut(&name);
            place.expect("weights are no scales").scales = Some(scales);
        }
        Ok(self)
    }
}
