//! Protocol buffers, as far as a file has to be read, changed in places and written again.
//!
//! A message is the list of its fields in the order of the file. Fields that nothing here knows stay in the list with their
//! bytes, so that what is written again holds them bit for bit. A schema compiler would drop them, and needs the whole schema.

use std::ops::{Deref, Range};
use std::sync::Arc;

use crate::model::Source;
use crate::{Error, Result};

/// How many messages may lie inside each other, as in the libraries of the format.
const MAX_DEPTH: usize = 100;

const VARINT: u8 = 0;
const FIXED_64: u8 = 1;
const BYTES: u8 = 2;
const GROUP: u8 = 3;
const END_OF_GROUP: u8 = 4;
const FIXED_32: u8 = 5;

pub(super) fn malformed(problem: impl Into<String>) -> Error {
    Error::Malformed {
        artifact: "an ONNX file",
        problem: problem.into(),
    }
}

/// Bytes of a file, which all parts of a model share.
#[derive(Debug, Clone)]
pub(super) struct Chunk {
    pub(super) source: Arc<Source>,
    pub(super) range: Range<usize>,
}

impl Chunk {
    pub(super) fn new(source: Arc<Source>) -> Self {
        let range = 0..source.len();
        Self { source, range }
    }

    /// The bytes of `range`, counted from the start of this chunk.
    pub(super) fn part(&self, range: Range<usize>) -> Self {
        let start = self.range.start;
        Self {
            source: Arc::clone(&self.source),
            range: start + range.start..start + range.end,
        }
    }
}

impl From<Vec<u8>> for Chunk {
    fn from(bytes: Vec<u8>) -> Self {
        Self::new(Arc::new(Source::from(bytes)))
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.source[self.range.clone()]
    }
}

/// What is known of the fields of a message: which of them hold messages, texts and numbers.
#[derive(Debug)]
pub(super) struct Kind {
    pub(super) messages: &'static [(u32, &'static Kind)],
    pub(super) texts: &'static [u32],
    pub(super) integers: &'static [u32],
    pub(super) floats: &'static [u32],
}

/// A message: its fields, in the order of the file.
#[derive(Debug, Clone, Default)]
pub(super) struct Message {
    pub(super) fields: Vec<Field>,
}

#[derive(Debug, Clone)]
pub(super) struct Field {
    pub(super) number: u32,
    value: Value,
}

#[derive(Debug, Clone)]
enum Value {
    /// A field that is not taken apart: all its bytes. Its value begins at `start`.
    Whole {
        wire: u8,
        start: usize,
        bytes: Chunk,
    },
    /// The value of a field of bytes that lies in another file.
    Apart(Chunk),
    Message(Message),
}

/// Reads a number of seven bits a byte from `bytes` at `at`, which moves behind it.
fn varint(bytes: &[u8], at: &mut usize) -> Result<u64> {
    let start = *at;
    let mut value = 0_u64;
    for place in 0..10 {
        let Some(&byte) = bytes.get(*at) else {
            return Err(malformed(format!(
                "the number at byte {start} is cut off after {place} bytes"
            )));
        };
        *at += 1;
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte < 0x80 {
            if place == 9 && byte > 1 {
                break;
            }
            return Ok(value);
        }
    }
    Err(malformed(format!(
        "the number at byte {start} has more than 64 bits"
    )))
}

fn write_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The bytes of a number of seven bits a byte.
fn varint_length(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

fn tag(number: u32, wire: u8) -> u64 {
    u64::from(number) << 3 | u64::from(wire)
}

/// The number and the kind of encoding of the field at `at`, which moves behind them.
fn read_tag(bytes: &[u8], at: &mut usize) -> Result<(u32, u8)> {
    let start = *at;
    let tag = varint(bytes, at)?;
    match u32::try_from(tag >> 3) {
        Ok(number @ 1..=0x1fff_ffff) => Ok((number, (tag & 7) as u8)),
        _ => Err(malformed(format!(
            "the field at byte {start} has the number {}; numbers are 1 to 2^29 - 1",
            tag >> 3
        ))),
    }
}

/// Moves `at` behind the value of a field; returns where the value itself begins and ends.
fn skip(bytes: &[u8], at: &mut usize, number: u32, wire: u8, depth: usize) -> Result<Range<usize>> {
    let field = *at;
    let fixed = |at: &mut usize, length: usize| {
        let start = *at;
        let left = bytes.len() - start;
        if length > left {
            return Err(malformed(format!(
                "field {number} at byte {field} has {length} bytes, but only {left} are left"
            )));
        }
        *at += length;
        Ok(start..*at)
    };
    match wire {
        VARINT => {
            varint(bytes, at)?;
            Ok(field..*at)
        }
        FIXED_64 => fixed(at, 8),
        FIXED_32 => fixed(at, 4),
        BYTES => {
            let length = varint(bytes, at)?;
            // A length that no machine has is longer than what is left.
            fixed(at, usize::try_from(length).unwrap_or(usize::MAX))
        }
        GROUP => {
            if depth == 0 {
                return Err(too_deep());
            }
            loop {
                let end = *at;
                let (inner, wire) = read_tag(bytes, at)?;
                if wire == END_OF_GROUP {
                    if inner != number {
                        return Err(malformed(format!(
                            "group {number} at byte {field} ends as group {inner}"
                        )));
                    }
                    return Ok(field..end);
                }
                skip(bytes, at, inner, wire, depth - 1)?;
            }
        }
        _ => Err(malformed(format!(
            "field {number} at byte {field} has the wire type {wire}, which does not exist or begins nothing"
        ))),
    }
}

fn too_deep() -> Error {
    malformed(format!(
        "more than {MAX_DEPTH} messages lie inside each other"
    ))
}

/// Reads numbers that lie one after the other.
fn packed(bytes: &[u8]) -> Result<Vec<i64>> {
    let (mut at, mut values) = (0, Vec::new());
    while at < bytes.len() {
        values.push(varint(bytes, &mut at)? as i64);
    }
    Ok(values)
}

impl Field {
    /// Checks the value of a field whose meaning is known.
    fn check(&self, kind: &Kind) -> Result<()> {
        let Value::Whole { wire, .. } = self.value else {
            return Ok(());
        };
        let number = self.number;
        let wrong = |found: &str| malformed(format!("field {number} holds {found}"));
        if kind.texts.contains(&number) {
            if wire != BYTES {
                return Err(wrong("no text where one belongs"));
            }
            let text = std::str::from_utf8(self.bytes());
            text.map_err(|error| wrong(&format!("a text that is not UTF-8: {error}")))?;
        } else if kind.integers.contains(&number) {
            match wire {
                VARINT => {}
                BYTES => drop(packed(self.bytes())?),
                _ => return Err(wrong("no whole number where one belongs")),
            }
        } else if kind.floats.contains(&number)
            && wire != FIXED_32
            && !(wire == BYTES && self.bytes().len().is_multiple_of(4))
        {
            return Err(wrong("no real number where one belongs"));
        }
        Ok(())
    }

    /// The bytes of the value.
    fn bytes(&self) -> &[u8] {
        match &self.value {
            Value::Whole { start, bytes, .. } => &bytes[*start..],
            Value::Apart(bytes) => bytes,
            Value::Message(_) => &[],
        }
    }

    /// The value as a chunk.
    pub(super) fn chunk(&self) -> Option<Chunk> {
        match &self.value {
            Value::Whole {
                wire: BYTES,
                start,
                bytes,
            } => Some(bytes.part(*start..bytes.len())),
            Value::Apart(bytes) => Some(bytes.clone()),
            _ => None,
        }
    }

    pub(super) fn message(&self) -> Option<&Message> {
        match &self.value {
            Value::Message(message) => Some(message),
            _ => None,
        }
    }

    pub(super) fn message_mut(&mut self) -> Option<&mut Message> {
        match &mut self.value {
            Value::Message(message) => Some(message),
            _ => None,
        }
    }

    /// The text, which has been checked.
    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(self.bytes()).expect("texts are checked when a message is read")
    }

    fn integers(&self) -> Vec<i64> {
        packed(self.bytes()).expect("numbers are checked when a message is read")
    }

    fn whole(number: u32, wire: u8, value: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut bytes = Vec::new();
        write_varint(tag(number, wire), &mut bytes);
        let mut inside = Vec::new();
        value(&mut inside);
        if wire == BYTES {
            write_varint(inside.len() as u64, &mut bytes);
        }
        let start = bytes.len();
        bytes.append(&mut inside);
        Self {
            number,
            value: Value::Whole {
                wire,
                start,
                bytes: bytes.into(),
            },
        }
    }

    pub(super) fn of_bytes(number: u32, value: &[u8]) -> Self {
        Self::whole(number, BYTES, |out| out.extend_from_slice(value))
    }

    pub(super) fn of_integer(number: u32, value: i64) -> Self {
        Self::whole(number, VARINT, |out| write_varint(value as u64, out))
    }

    pub(super) fn of_chunk(number: u32, value: Chunk) -> Self {
        Self {
            number,
            value: Value::Apart(value),
        }
    }

    pub(super) fn of_message(number: u32, message: Message) -> Self {
        Self {
            number,
            value: Value::Message(message),
        }
    }

    fn length(&self) -> usize {
        let inside = match &self.value {
            Value::Whole { bytes, .. } => return bytes.len(),
            Value::Apart(bytes) => bytes.len(),
            Value::Message(message) => message.length(),
        };
        varint_length(tag(self.number, BYTES)) + varint_length(inside as u64) + inside
    }

    fn write(&self, out: &mut Vec<u8>) {
        match &self.value {
            Value::Whole { bytes, .. } => out.extend_from_slice(bytes),
            Value::Apart(bytes) => {
                write_varint(tag(self.number, BYTES), out);
                write_varint(bytes.len() as u64, out);
                out.extend_from_slice(bytes);
            }
            Value::Message(message) => {
                write_varint(tag(self.number, BYTES), out);
                write_varint(message.length() as u64, out);
                message.write(out);
            }
        }
    }
}

impl Message {
    /// Reads a message.
    ///
    /// The fields take at most a fixed multiple of the bytes that they are read from.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] for fields that are cut, numbers of more than 64 bits, texts that are not UTF-8, values of another
    /// encoding than their field has, and for more than 100 messages inside each other.
    pub(super) fn read(bytes: &Chunk, kind: &'static Kind) -> Result<Self> {
        Self::read_at(bytes, kind, MAX_DEPTH)
    }

    fn read_at(bytes: &Chunk, kind: &'static Kind, depth: usize) -> Result<Self> {
        if depth == 0 {
            return Err(too_deep());
        }
        let mut fields = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let first = at;
            let (number, wire) = read_tag(bytes, &mut at)?;
            let value = skip(bytes, &mut at, number, wire, depth)?;
            let inside = kind.messages.iter().find(|(field, _)| *field == number);
            let value = match inside {
                Some((_, kind)) if wire == BYTES => {
                    Value::Message(Self::read_at(&bytes.part(value), kind, depth - 1)?)
                }
                Some(_) => {
                    return Err(malformed(format!(
                        "field {number} holds no message where one belongs"
                    )));
                }
                None => Value::Whole {
                    wire,
                    start: value.start - first,
                    bytes: bytes.part(first..at),
                },
            };
            let field = Field { number, value };
            field.check(kind)?;
            fields.push(field);
        }
        Ok(Self { fields })
    }

    fn length(&self) -> usize {
        self.fields.iter().map(Field::length).sum()
    }

    fn write(&self, out: &mut Vec<u8>) {
        for field in &self.fields {
            field.write(out);
        }
    }

    /// The bytes of the message.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for 2 GiB and more, which no reader of the format takes.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>> {
        let length = self.length();
        if length > i32::MAX as usize {
            return Err(Error::Unsupported {
                what: format!("an ONNX file of {length} bytes"),
                reason: format!("readers take at most {} bytes", i32::MAX),
            });
        }
        let mut bytes = Vec::with_capacity(length);
        self.write(&mut bytes);
        Ok(bytes)
    }

    /// All fields of this number.
    pub(super) fn all(&self, number: u32) -> impl DoubleEndedIterator<Item = &Field> {
        self.fields
            .iter()
            .filter(move |field| field.number == number)
    }

    /// The field of this number; the last one where there are several, as in every reader of the format.
    pub(super) fn last(&self, number: u32) -> Option<&Field> {
        self.all(number).next_back()
    }

    pub(super) fn messages(&self, number: u32) -> impl DoubleEndedIterator<Item = &Message> {
        self.all(number).filter_map(Field::message)
    }

    pub(super) fn message(&self, number: u32) -> Option<&Message> {
        self.messages(number).next_back()
    }

    /// The text of a field; empty where there is none, which is the default of the format.
    pub(super) fn text(&self, number: u32) -> &str {
        self.last(number).map_or("", Field::text)
    }

    /// The bytes of a field; none where it is missing.
    pub(super) fn bytes(&self, number: u32) -> &[u8] {
        self.last(number).map_or(&[], Field::bytes)
    }

    pub(super) fn texts(&self, number: u32) -> impl DoubleEndedIterator<Item = &str> {
        self.all(number).map(Field::text)
    }

    pub(super) fn integer(&self, number: u32) -> Option<i64> {
        self.last(number)?.integers().pop()
    }

    pub(super) fn integers(&self, number: u32) -> Vec<i64> {
        self.all(number).flat_map(Field::integers).collect()
    }

    /// The real numbers of a field, four bytes each.
    pub(super) fn floats(&self, number: u32) -> Vec<u8> {
        let bytes = self.all(number).map(Field::bytes);
        bytes.flatten().copied().collect()
    }

    /// Puts a field in the place of those of its number, or at the end where there is none.
    pub(super) fn set(&mut self, field: Field) {
        let number = field.number;
        match self.fields.iter().position(|other| other.number == number) {
            None => self.fields.push(field),
            Some(place) => {
                let mut index = 0;
                self.fields.retain(|other| {
                    index += 1;
                    other.number != number || index - 1 == place
                });
                self.fields[place] = field;
            }
        }
    }

    pub(super) fn remove(&mut self, number: u32) {
        self.fields.retain(|field| field.number != number);
    }
}
