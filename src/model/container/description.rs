//! One line of text for each artifact: what it is and where its arrays are.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use safetensors::Dtype;

use crate::model::artifact::{Artifact, Attributes, malformed};
use crate::model::entropy::{Coding, Laws, Numbers, Order, middle};
use crate::model::header;
use crate::{DType, Result};

/// A part in a file: as it is, or coded.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PartLine {
    pub(super) name: String,
    pub(super) coding: Option<CodedPart>,
}

/// What coded bytes stand for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct CodedPart {
    pub(super) coding: Coding,
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
}

/// The description of one artifact.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Description {
    pub(super) kind: String,
    pub(super) shape: Vec<usize>,
    pub(super) attributes: BTreeMap<String, String>,
    pub(super) parts: Vec<PartLine>,
    pub(super) children: Vec<String>,
    /// The shape of the tensor, where the artifact is of another one.
    pub(super) view: Option<Vec<usize>>,
    /// The element type of the tensor, where it was another one than F32.
    pub(super) dtype: Option<Dtype>,
}

const DTYPES: [(&str, DType); 7] = [
    ("U8", DType::U8),
    ("U16", DType::U16),
    ("U32", DType::U32),
    ("I32", DType::I32),
    ("F16", DType::F16),
    ("F32", DType::F32),
    ("F64", DType::F64),
];

/// The type of a stored tensor that holds a part of this type.
pub(super) fn tensor_dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::U8 => Dtype::U8,
        DType::U16 => Dtype::U16,
        DType::U32 => Dtype::U32,
        DType::I32 => Dtype::I32,
        DType::F16 => Dtype::F16,
        DType::F32 => Dtype::F32,
        DType::F64 => Dtype::F64,
    }
}

/// The type of a part that a stored tensor holds.
pub(super) fn part_dtype(dtype: Dtype) -> Result<DType> {
    let found = DTYPES.iter().find(|(_, part)| tensor_dtype(*part) == dtype);
    found
        .map(|&(_, part)| part)
        .ok_or_else(|| malformed(format!("a part of type {dtype:?}")))
}

fn shape_text(shape: &[usize]) -> String {
    let lengths: Vec<String> = shape.iter().map(usize::to_string).collect();
    lengths.join("x")
}

fn parse_number<T: std::str::FromStr>(text: &str) -> Result<T> {
    text.parse()
        .map_err(|_| malformed(format!("{text:?} is no number")))
}

fn parse_shape(text: &str) -> Result<Vec<usize>> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    text.split('x').map(parse_number).collect()
}

/// Whether a name may stand in a description.
fn is_word(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

impl CodedPart {
    fn to_text(&self) -> String {
        match self.coding {
            Coding::Laws(Laws {
                bits,
                count,
                alphabet,
                contexts,
                order: Order::Runs,
            }) => format!("codes:{bits}:{count}:{alphabet}:{contexts}"),
            Coding::Laws(Laws {
                alphabet,
                order: Order::Cyclic,
                ..
            }) => {
                let dtype = DTYPES.iter().find(|dtype| dtype.1 == self.dtype);
                let dtype = dtype.map_or("", |dtype| dtype.0);
                format!("bytes:{dtype}:{}:{alphabet}", shape_text(&self.shape))
            }
            Coding::Numbers(Numbers {
                bits,
                count,
                columns,
                trellis: true,
                ..
            }) => format!("trellis:{bits}:{count}:{columns}"),
            Coding::Numbers(Numbers {
                bits,
                count,
                columns,
                zero,
                trellis: false,
            }) => format!("numbers:{bits}:{count}:{columns}:{zero}"),
        }
    }

    /// Packed codes, whose type and shape follow from their number.
    fn packed(coding: Coding, text: &str) -> Result<Self> {
        let bytes = coding
            .raw_bytes()
            .ok_or_else(|| malformed(format!("{text} is too large")))?;
        Ok(Self {
            coding,
            dtype: DType::U8,
            shape: vec![bytes],
        })
    }

    fn parse(text: &str) -> Result<Self> {
        let fields: Vec<&str> = text.split(':').collect();
        match fields.as_slice() {
            ["codes", bits, count, alphabet, contexts] => {
                let laws = Laws {
                    bits: parse_number(bits)?,
                    count: parse_number(count)?,
                    alphabet: parse_number(alphabet)?,
                    contexts: parse_number(contexts)?,
                    order: Order::Runs,
                };
                Self::packed(Coding::Laws(laws), text)
            }
            ["numbers", bits, count, columns, zero] => {
                let numbers = Numbers {
                    bits: parse_number(bits)?,
                    count: parse_number(count)?,
                    columns: parse_number(columns)?,
                    zero: parse_number(zero)?,
                    trellis: false,
                };
                Self::packed(Coding::Numbers(numbers), text)
            }
            ["trellis", bits, count, columns] => {
                let bits = parse_number(bits)?;
                let numbers = Numbers {
                    bits,
                    count: parse_number(count)?,
                    columns: parse_number(columns)?,
                    zero: middle(bits),
                    trellis: true,
                };
                Self::packed(Coding::Numbers(numbers), text)
            }
            ["bytes", dtype, shape, alphabet] => {
                let found = DTYPES.iter().find(|found| found.0 == *dtype);
                let dtype = found
                    .ok_or_else(|| malformed(format!("{dtype} is no type")))?
                    .1;
                let shape = parse_shape(shape)?;
                let count = header::bytes_of(tensor_dtype(dtype), &shape)
                    .ok_or_else(|| malformed(format!("{text} is too large")))?;
                let laws = Laws {
                    bits: 8,
                    count,
                    alphabet: parse_number(alphabet)?,
                    contexts: dtype.bytes(),
                    order: Order::Cyclic,
                };
                Ok(Self {
                    coding: Coding::Laws(laws),
                    dtype,
                    shape,
                })
            }
            _ => Err(malformed(format!("{text} is no coding"))),
        }
    }
}

impl Description {
    /// The description of an artifact, without its parts.
    pub(super) fn new(artifact: &dyn Artifact) -> Result<Self> {
        let Attributes(attributes) = artifact.attributes()?;
        let children = artifact.children();
        Ok(Self {
            kind: artifact.kind().to_owned(),
            shape: artifact.shape().to_vec(),
            attributes,
            children: children.into_iter().map(|child| child.0).collect(),
            ..Self::default()
        })
    }

    /// The line.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`](crate::Error::Malformed) for names and values that would not be read back.
    pub(super) fn to_text(&self) -> Result<String> {
        let parts = self.parts.iter().map(|part| &part.name);
        let mut words = [&self.kind]
            .into_iter()
            .chain(
                self.attributes
                    .iter()
                    .flat_map(|(name, value)| [name, value]),
            )
            .chain(parts)
            .chain(&self.children);
        if let Some(odd) = words.find(|word| !is_word(word)) {
            return Err(malformed(format!("{odd:?} is no word")));
        }
        let mut text = format!("{} shape={}", self.kind, shape_text(&self.shape));
        if let Some(view) = &self.view {
            let _ = write!(text, " view={}", shape_text(view));
        }
        if let Some(dtype) = self.dtype {
            let _ = write!(text, " dtype={dtype:?}");
        }
        for (name, value) in &self.attributes {
            let _ = write!(text, " {name}={value}");
        }
        for part in &self.parts {
            let _ = write!(text, " +{}", part.name);
            if let Some(coded) = &part.coding {
                let _ = write!(text, "={}", coded.to_text());
            }
        }
        for child in &self.children {
            let _ = write!(text, " /{child}");
        }
        Ok(text)
    }

    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut words = text.split(' ');
        let mut description = Self {
            kind: words.next().unwrap_or_default().to_owned(),
            ..Self::default()
        };
        let mut has_shape = false;
        for word in words {
            if let Some(part) = word.strip_prefix('+') {
                let (name, coding) = match part.split_once('=') {
                    Some((name, coding)) => (name, Some(CodedPart::parse(coding)?)),
                    None => (part, None),
                };
                let name = name.to_owned();
                description.parts.push(PartLine { name, coding });
            } else if let Some(child) = word.strip_prefix('/') {
                description.children.push(child.to_owned());
            } else {
                match word.split_once('=') {
                    Some(("shape", shape)) => {
                        description.shape = parse_shape(shape)?;
                        has_shape = true;
                    }
                    Some(("view", shape)) => description.view = Some(parse_shape(shape)?),
                    Some(("dtype", dtype)) => {
                        let dtype = match dtype {
                            "F16" => Dtype::F16,
                            "BF16" => Dtype::BF16,
                            other => return Err(malformed(format!("weights of type {other}"))),
                        };
                        description.dtype = Some(dtype);
                    }
                    Some((name, value)) => {
                        let before = description
                            .attributes
                            .insert(name.to_owned(), value.to_owned());
                        if before.is_some() {
                            return Err(malformed(format!("{name} is given twice")));
                        }
                    }
                    None => return Err(malformed(format!("{word:?} is no attribute"))),
                }
            }
        }
        if !has_shape {
            return Err(malformed(format!("{text:?} has no shape")));
        }
        Ok(description)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn lines_read_back(
            shape in prop::collection::vec(0_usize..1 << 20, 0..5),
            value in "[a-z0-9_.-]{1,8}",
            bits in 1_u32..16,
            count in 1_usize..1000,
            half in any::<bool>(),
        ) {
            let coding = Laws { bits, count, alphabet: 2, contexts: 1, order: Order::Runs };
            let coding = Coding::Laws(coding);
            let zero = if half { middle(bits) } else { 1 };
            let numbers = Numbers { bits, count, columns: count, zero, trellis: half };
            let numbers = Coding::Numbers(numbers);
            let bytes = Laws { bits: 8, count: 4 * count, alphabet: 9, contexts: 4, order: Order::Cyclic };
            let bytes = Coding::Laws(bytes);
            let part = |coding: Coding, dtype, shape| PartLine {
                name: "codes".to_owned(),
                coding: Some(CodedPart { coding, dtype, shape }),
            };
            let description = Description {
                kind: "pq".to_owned(),
                shape: shape.clone(),
                attributes: BTreeMap::from([("axis".to_owned(), value)]),
                parts: vec![
                    part(coding, DType::U8, vec![coding.raw_bytes().unwrap()]),
                    part(numbers, DType::U8, vec![numbers.raw_bytes().unwrap()]),
                    part(bytes, DType::F32, vec![count]),
                    PartLine { name: "scales".to_owned(), coding: None },
                ],
                children: vec!["left".to_owned()],
                view: half.then_some(shape),
                dtype: half.then_some(Dtype::BF16),
            };
            let text = description.to_text().unwrap();
            prop_assert_eq!(Description::parse(&text).unwrap(), description);
        }

        #[test]
        fn any_text_is_a_description_or_an_error(text in "[a-z+/=:x0-9 ]{0,60}") {
            let _ = Description::parse(&text);
        }
    }
}
