//! One line of text for each artifact: what it is and which arrays it consists of.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::Error as ValueError;

use crate::model::entropy::{Coding, Laws, Numbers, Paths, Planes};
use crate::model::extend::{Artifact, Attributes, malformed};
use crate::model::header;
use crate::{DType, Result};

/// A part of an artifact.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PartLine {
    pub(super) name: String,
    pub(super) array: ArrayLine,
}

/// An array in a file: as it is, or coded.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ArrayLine {
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
    pub(super) coding: Option<Coding>,
    /// The bytes that it takes in the file.
    pub(super) length: usize,
}

/// The description of one artifact.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Description {
    pub(super) kind: String,
    pub(super) shape: Vec<usize>,
    pub(super) attributes: BTreeMap<String, String>,
    pub(super) parts: Vec<PartLine>,
    pub(super) children: Vec<String>,
    /// The shape of the tensor, where that of the artifact differs.
    pub(super) view: Option<Vec<usize>>,
    /// The element type of the tensor, unless it was F32.
    pub(super) dtype: Option<DType>,
}

/// Words that attributes cannot have as their names.
const WORDS: [&str; 3] = ["shape", "view", "dtype"];

/// The type of a part, the elements of which take whole bytes.
pub(super) fn whole_bytes(dtype: DType) -> Result<DType> {
    if dtype.bits().is_multiple_of(8) {
        return Ok(dtype);
    }
    Err(malformed(format!(
        "a part of type {dtype:?}, whose elements take {} bits and not whole bytes",
        dtype.bits()
    )))
}

fn shape_text(shape: &[usize]) -> String {
    let lengths: Vec<String> = shape.iter().map(usize::to_string).collect();
    lengths.join("x")
}

fn parse_number<T: std::str::FromStr>(text: &str) -> Result<T> {
    text.parse()
        .map_err(|_| malformed(format!("{text:?} is not a number in its range")))
}

fn parse_dtype(text: &str) -> Result<DType> {
    DType::deserialize(text.into_deserializer())
        .map_err(|_: ValueError| malformed(format!("{text:?} is not a type of elements")))
}

/// Sets what a description gives once.
fn set<T>(place: &mut Option<T>, value: T, word: &str) -> Result<()> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(malformed(format!("{word} is given twice"))),
    }
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

/// The word for arrays of elements that are coded by planes.
const PLANES: &str = "planes";

impl ArrayLine {
    /// An array as it is.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`](crate::Error::Malformed) for a shape whose bytes cannot be counted.
    pub(super) fn plain(dtype: DType, shape: Vec<usize>) -> Result<Self> {
        let length = header::bytes_of(dtype, &shape).ok_or_else(|| {
            malformed(format!(
                "an array of {dtype:?} and shape {} does not take a whole number of bytes that can be counted",
                shape_text(&shape)
            ))
        })?;
        Ok(Self {
            dtype,
            shape,
            coding: None,
            length,
        })
    }

    /// Packed codes, whose type and shape follow from their number.
    pub(super) fn packed(coding: Coding, length: usize) -> Result<Self> {
        let bytes = coding
            .raw_bytes()
            .ok_or_else(|| malformed(format!("the codes of {coding:?} are too many")))?;
        Ok(Self {
            dtype: DType::U8,
            shape: vec![bytes],
            coding: Some(coding),
            length,
        })
    }

    pub(super) fn to_text(&self) -> String {
        let elements = format!("{:?}:{}", self.dtype, shape_text(&self.shape));
        let codes = match self.coding {
            None => return elements,
            Some(Coding::Planes(_)) => format!("{elements}:{PLANES}"),
            Some(Coding::Laws(laws)) => format!(
                "codes:{}:{}:{}:{}",
                laws.bits, laws.count, laws.alphabet, laws.contexts
            ),
            Some(Coding::Paths(paths)) => {
                format!("trellis:{}:{}:{}", paths.rows, paths.columns, paths.bytes)
            }
            Some(Coding::Numbers(numbers)) => format!(
                "numbers:{}:{}:{}:{}",
                numbers.bits, numbers.count, numbers.columns, numbers.zero
            ),
        };
        format!("{codes}:{}", self.length)
    }

    pub(super) fn parse(text: &str) -> Result<Self> {
        let fields: Vec<&str> = text.split(':').collect();
        match fields.as_slice() {
            ["codes", bits, count, alphabet, contexts, length] => {
                let laws = Laws {
                    bits: parse_number(bits)?,
                    count: parse_number(count)?,
                    alphabet: parse_number(alphabet)?,
                    contexts: parse_number(contexts)?,
                };
                Self::packed(Coding::Laws(laws), parse_number(length)?)
            }
            ["numbers", bits, count, columns, zero, length] => {
                let numbers = Numbers {
                    bits: parse_number(bits)?,
                    count: parse_number(count)?,
                    columns: parse_number(columns)?,
                    zero: parse_number(zero)?,
                };
                Self::packed(Coding::Numbers(numbers), parse_number(length)?)
            }
            ["trellis", rows, columns, bytes, length] => {
                let paths = Paths {
                    rows: parse_number(rows)?,
                    columns: parse_number(columns)?,
                    bytes: parse_number(bytes)?,
                };
                Self::packed(Coding::Paths(paths), parse_number(length)?)
            }
            [dtype, shape] => Self::plain(parse_dtype(dtype)?, parse_shape(shape)?),
            [dtype, shape, PLANES, length] => {
                let plain = Self::plain(parse_dtype(dtype)?, parse_shape(shape)?)?;
                let planes = Planes {
                    dtype: plain.dtype,
                    length: plain.length,
                };
                Ok(Self {
                    coding: Some(Coding::Planes(planes)),
                    length: parse_number(length)?,
                    ..plain
                })
            }
            _ => Err(malformed(format!("{text:?} is not an array"))),
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

    /// Checks that all names and values can stand in a line and are read back as what they are.
    fn check(&self) -> Result<()> {
        let attributes = self.attributes.iter();
        let mut words = [&self.kind]
            .into_iter()
            .chain(attributes.flat_map(|(name, value)| [name, value]))
            .chain(self.parts.iter().map(|part| &part.name))
            .chain(&self.children);
        if let Some(odd) = words.find(|word| !is_word(word)) {
            return Err(malformed(format!(
                "{odd:?} cannot stand in a description: use letters, digits, '_', '.' and '-'"
            )));
        }
        match WORDS
            .iter()
            .find(|word| self.attributes.contains_key(**word))
        {
            Some(name) => Err(malformed(format!("an attribute cannot be called {name:?}"))),
            None => Ok(()),
        }?;
        let parts = self.parts.iter().map(|part| &part.name);
        let mut names = BTreeSet::new();
        match parts
            .chain(&self.children)
            .find(|name| !names.insert(*name))
        {
            Some(name) => Err(malformed(format!("the part {name:?} is given twice"))),
            None => Ok(()),
        }
    }

    /// The line.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`](crate::Error::Malformed) for names and values that would not be read back.
    pub(super) fn to_text(&self) -> Result<String> {
        self.check()?;
        let mut text = format!("{} shape={}", self.kind, shape_text(&self.shape));
        if let Some(view) = &self.view {
            text += &format!(" view={}", shape_text(view));
        }
        if let Some(dtype) = self.dtype {
            text += &format!(" dtype={dtype:?}");
        }
        for (name, value) in &self.attributes {
            text += &format!(" {name}={value}");
        }
        for part in &self.parts {
            text += &format!(" +{}={}", part.name, part.array.to_text());
        }
        for child in &self.children {
            text += &format!(" /{child}");
        }
        Ok(text)
    }

    pub(super) fn parse(text: &str) -> Result<Self> {
        let (kind, words) = text.split_once(' ').unwrap_or((text, ""));
        let mut description = Self {
            kind: kind.to_owned(),
            ..Self::default()
        };
        let mut shape = None;
        for word in words.split(' ') {
            if let Some(part) = word.strip_prefix('+') {
                let (name, array) = part
                    .split_once('=')
                    .ok_or_else(|| malformed(format!("the part {part:?} has no array")))?;
                let array = ArrayLine::parse(array)?;
                whole_bytes(array.dtype)?;
                let name = name.to_owned();
                description.parts.push(PartLine { name, array });
            } else if let Some(child) = word.strip_prefix('/') {
                description.children.push(child.to_owned());
            } else {
                match word.split_once('=') {
                    Some(("shape", text)) => set(&mut shape, parse_shape(text)?, "shape")?,
                    Some(("view", text)) => set(&mut description.view, parse_shape(text)?, "view")?,
                    Some(("dtype", text)) => {
                        set(&mut description.dtype, parse_dtype(text)?, "dtype")?
                    }
                    Some((name, value)) => {
                        let before = description
                            .attributes
                            .insert(name.to_owned(), value.to_owned());
                        if before.is_some() {
                            return Err(malformed(format!("{name} is given twice")));
                        }
                    }
                    None => return Err(malformed(format!("{word:?} is not an attribute"))),
                }
            }
        }
        description.shape = shape.ok_or_else(|| malformed(format!("{text:?} has no shape")))?;
        description.check()?;
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
            let coding = Laws { bits, count, alphabet: 2, contexts: 1 };
            let coding = Coding::Laws(coding);
            let numbers = if half {
                Coding::Paths(Paths { rows: count, columns: 3, bytes: 4 * count })
            } else {
                Coding::Numbers(Numbers { bits, count, columns: count, zero: 1 })
            };
            let planes = Coding::Planes(Planes { dtype: DType::F32, length: 4 * count });
            let part = |name: &str, array| PartLine { name: name.to_owned(), array };
            let scales = ArrayLine::plain(DType::F32, vec![count]).unwrap();
            let description = Description {
                kind: "pq".to_owned(),
                shape: shape.clone(),
                attributes: BTreeMap::from([("axis".to_owned(), value)]),
                parts: vec![
                    part("codes", ArrayLine::packed(coding, 3).unwrap()),
                    part("more", ArrayLine::packed(numbers, 5).unwrap()),
                    part("books", ArrayLine { coding: Some(planes), length: 2, ..scales.clone() }),
                    part("scales", scales),
                ],
                children: vec!["left".to_owned()],
                view: half.then_some(shape),
                dtype: half.then_some(DType::BF16),
            };
            let text = description.to_text().unwrap();
            prop_assert_eq!(Description::parse(&text).unwrap(), description);
        }

        /// Whatever is read is written in a form that reads back equal.
        #[test]
        fn any_text_is_an_error_or_a_description(text in "[a-z]{1,3} shape=[0-9x]{0,5}( [+/]?[a-z]{1,3}(=([a-z0-9:x]{1,12}|F32:[0-9]:planes:[0-9]))?){0,3}") {
            if let Ok(description) = Description::parse(&text) {
                let again = description.to_text().unwrap();
                prop_assert_eq!(Description::parse(&again).unwrap(), description);
            }
        }
    }

    #[test]
    fn what_is_given_twice_is_malformed() {
        for text in [
            "dense shape=1 shape=1",
            "dense shape=1 view=1 view=1",
            "dense shape=1 dtype=F16 dtype=F16",
            "dense shape=1 bits=1 bits=2",
            "dense shape=1 +a=U8:1 +a=U8:1",
            "dense shape=1 /a /a",
            "dense shape=1 +a=U8:1 /a",
        ] {
            let error = Description::parse(text).unwrap_err();
            assert!(error.to_string().contains("twice"), "{text}: {error}");
        }
    }

    #[test]
    fn elements_of_parts_take_whole_bytes() {
        for (dtype, accepted) in [
            ("F32", true),
            ("I64", true),
            ("F4", false),
            ("F6_E2M3", false),
        ] {
            let text = format!("dense shape=2 +values={dtype}:4:planes:3");
            assert_eq!(Description::parse(&text).is_ok(), accepted, "{text}");
        }
    }

    #[test]
    fn attributes_do_not_take_the_place_of_words() {
        for name in WORDS {
            let attributes = BTreeMap::from([(name.to_owned(), "1".to_owned())]);
            let description = Description {
                kind: "dense".to_owned(),
                attributes,
                ..Description::default()
            };
            assert!(description.to_text().is_err(), "{name}");
        }
    }
}
