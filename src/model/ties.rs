//! Tensors that a model has under several names.

use std::collections::BTreeMap;

use super::NamedTensors;
use crate::Result;

/// Whether a tensor of this shape can be tied to another one. Single values, such as counters, are equal by chance and take no
/// more bytes than a reference to them.
pub(super) fn can_be_tied(shape: &[usize]) -> bool {
    let values = shape.iter().try_fold(1_usize, |n, &m| n.checked_mul(m));
    values.is_none_or(|values| values > 1)
}

/// The method of a tensor that is stored as another one, for the report.
pub(super) fn method(name: &str) -> String {
    format!("tied to {name}")
}

/// Which tensors of a model have the same type, shape and bytes.
#[derive(Debug, Default)]
pub(super) struct Ties {
    /// The first name of each group, by each of its names.
    first: BTreeMap<String, String>,
    /// The names of each group in rising order, by its first name.
    groups: BTreeMap<String, Vec<String>>,
}

/// Bytes from everywhere in a tensor: two tensors are compared in full only where these are equal.
fn sample(slices: &[&[u8]]) -> Vec<u8> {
    /// Places in each slice.
    const PLACES: usize = 16;
    const LENGTH: usize = 16;
    let mut sample = Vec::new();
    for bytes in slices {
        for place in 0..PLACES {
            let start = bytes.len() / PLACES * place;
            sample.extend(bytes[start..].iter().take(LENGTH));
        }
    }
    sample
}

impl Ties {
    /// The ties of a model. Only tensors of the same type, shape and samples are read in full.
    pub(super) fn of(model: &NamedTensors) -> Result<Self> {
        let mut ties = Self::default();
        let mut similar: BTreeMap<_, Vec<&str>> = BTreeMap::new();
        for name in model.names() {
            let (kind, shape, slices) = model.identity(name)?;
            let mut first = name;
            if can_be_tied(&shape) {
                let key = (kind, shape, sample(&slices));
                let candidates = similar.entry(key).or_default();
                let mut equal = None;
                for &candidate in candidates.iter() {
                    if model.identity(candidate)?.2 == slices {
                        equal = Some(candidate);
                        break;
                    }
                }
                match equal {
                    Some(equal) => first = equal,
                    None => candidates.push(name),
                }
            }
            ties.first.insert(name.to_owned(), first.to_owned());
            let group = ties.groups.entry(first.to_owned()).or_default();
            group.push(name.to_owned());
        }
        Ok(ties)
    }

    /// The first of the names of a tensor.
    pub(super) fn first(&self, name: &str) -> &str {
        &self.first[name]
    }

    /// All names of a tensor, in rising order.
    pub(super) fn names(&self, name: &str) -> &[String] {
        &self.groups[self.first(name)]
    }

    /// Whether a name is the first one of its tensor.
    pub(super) fn is_first(&self, name: &str) -> bool {
        self.first(name) == name
    }
}
