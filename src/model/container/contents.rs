//! The table of contents: a line for each tensor and each artifact in it.

use std::collections::BTreeMap;
use std::ops::Range;

use super::description::{ArrayLine, Description};
use super::names::{escape, unescape};
use crate::Result;
use crate::model::extend::malformed;

/// How many times artifacts may be nested.
const MAX_DEPTH: usize = 8;
/// The beginning of the line of a tensor that is stored under another name, which follows.
const TIED: char = '=';

/// What a container holds.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) tensors: BTreeMap<String, Listed>,
    /// The names of tensors that are stored under another name, and this name.
    pub(super) tied: BTreeMap<String, String>,
}

/// A tensor, and where its arrays are.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) form: Form,
    /// Its lines, without its name.
    pub(super) text: String,
    /// All its arrays.
    pub(super) bytes: Range<usize>,
}

#[derive(Debug)]
pub(super) enum Form {
    /// An array that is kept.
    Plain(ArrayLine),
    Compressed(Node),
}

/// An artifact.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) description: Description,
    /// Where its parts are.
    pub(super) parts: Vec<Range<usize>>,
    pub(super) children: Vec<Node>,
}

impl Contents {
    /// The text: for each tensor its names, of which the first one in rising order has its lines.
    pub(super) fn to_text<'a>(tensors: impl Iterator<Item = (&'a str, Line<'a>)>) -> String {
        let mut lines: Vec<_> = tensors.collect();
        lines.sort_by_key(|line| line.0);
        let mut text = String::new();
        for (name, line) in lines {
            text += &escape(name);
            text.push('\t');
            match line {
                Line::Tied(first) => text += &format!("{TIED}{}\n", escape(first)),
                Line::Stored(lines) => text += lines,
            }
        }
        text
    }

    /// Reads the text of a container whose arrays have this many bytes together.
    pub(super) fn parse(text: &str, length: usize) -> Result<Self> {
        let mut contents = Self::default();
        let mut lines = Lines { text, end: 0 };
        let mut last: Option<String> = None;
        while !lines.text.is_empty() {
            let line = lines.text;
            let (name, rest) = line
                .split_once('\t')
                .ok_or_else(|| malformed(format!("the line {:?} has no name", first(line))))?;
            let name = unescape(name)
                .ok_or_else(|| malformed(format!("{name:?} is not the name of a tensor")))?;
            if last.as_ref().is_some_and(|last| *last >= name) {
                return Err(malformed(format!(
                    "the tensor {name:?} is not in its place, or given twice"
                )));
            }
            lines.text = rest;
            if let Some(rest) = rest.strip_prefix(TIED) {
                lines.text = rest;
                let target = lines.next()?;
                let stored = unescape(target).filter(|first| contents.tensors.contains_key(first));
                let stored = stored.ok_or_else(|| {
                    malformed(format!(
                        "{name:?} is tied to {target:?}, which is not stored before"
                    ))
                })?;
                contents.tied.insert(name.clone(), stored);
            } else {
                let start = lines.end;
                let form = lines.tensor()?;
                let listed = Listed {
                    form,
                    text: rest[..rest.len() - lines.text.len()].to_owned(),
                    bytes: start..lines.end,
                };
                contents.tensors.insert(name.clone(), listed);
            }
            last = Some(name);
        }
        if lines.end != length {
            return Err(malformed(format!(
                "the arrays have {length} bytes, but the tensors take {}",
                lines.end
            )));
        }
        Ok(contents)
    }

    /// The names of all tensors, in rising order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let mut names: Vec<&str> = self
            .tensors
            .keys()
            .chain(self.tied.keys())
            .map(String::as_str)
            .collect();
        names.sort_unstable();
        names.into_iter()
    }

    /// The name under which the tensor `name` is stored, and what is.
    pub(super) fn find(&self, name: &str) -> Option<&Listed> {
        let stored = self.tied.get(name).map_or(name, String::as_str);
        self.tensors.get(stored)
    }
}

/// What follows the name of a tensor.
pub(super) enum Line<'a> {
    /// The lines of the tensor.
    Stored(&'a str),
    /// The name under which it is stored.
    Tied(&'a str),
}

/// The first line of a text.
fn first(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// Lines that have not been read yet.
struct Lines<'a> {
    text: &'a str,
    /// Where the arrays of the lines before end.
    end: usize,
}

impl<'a> Lines<'a> {
    fn next(&mut self) -> Result<&'a str> {
        let (line, rest) = self
            .text
            .split_once('\n')
            .ok_or_else(|| malformed("the table of contents ends within a line".to_owned()))?;
        self.text = rest;
        Ok(line)
    }

    /// The bytes of the next array.
    fn place(&mut self, array: &ArrayLine) -> Result<Range<usize>> {
        let end = self.end.checked_add(array.length);
        let end = end.ok_or_else(|| malformed("the arrays are too long".to_owned()))?;
        let start = std::mem::replace(&mut self.end, end);
        Ok(start..end)
    }

    fn tensor(&mut self) -> Result<Form> {
        let line = first(self.text);
        // The name of a kind has no colon, and an array has one.
        if line
            .split(' ')
            .next()
            .is_some_and(|word| word.contains(':'))
        {
            let array = ArrayLine::parse(self.next()?)?;
            self.place(&array)?;
            return Ok(Form::Plain(array));
        }
        self.artifact(0).map(Form::Compressed)
    }

    fn artifact(&mut self, depth: usize) -> Result<Node> {
        if depth > MAX_DEPTH {
            return Err(malformed(format!(
                "an artifact is nested more than {MAX_DEPTH} artifacts deep"
            )));
        }
        let description = Description::parse(self.next()?)?;
        if depth > 0 && (description.view.is_some() || description.dtype.is_some()) {
            return Err(malformed(format!(
                "an artifact of kind {:?} has the shape or type of a tensor, but is part of one",
                description.kind
            )));
        }
        let parts = description.parts.iter().map(|part| self.place(&part.array));
        let parts = parts.collect::<Result<_>>()?;
        let children = description
            .children
            .iter()
            .map(|_| self.artifact(depth + 1));
        Ok(Node {
            parts,
            children: children.collect::<Result<_>>()?,
            description,
        })
    }
}
