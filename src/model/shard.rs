//! A model compressed by several processes, and joined again.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use super::NamedTensors;
pub(super) use super::container::SHARD_KEY;
use super::container::{Container, ContainerWriter};
use super::ties::Ties;
use crate::{Error, ParamError, Result};

/// One of n parts of a model, which several processes compress at the same time.
///
/// Tensors are independent of each other and draw from seeds of their own, so that the parts, once [merged](Self::merge), equal
/// the file that one process writes, byte for byte. Each process computes the same division: the largest tensor first,
/// each to the part that has the fewest bytes so far. Tensors that are equal are in the same part, which has them once.
///
/// ```
/// use taper::model::Shard;
///
/// let shard: Shard = "2/3".parse()?;
/// assert_eq!((shard.index(), shard.count()), (2, 3));
/// assert!("4/3".parse::<Shard>().is_err());
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    index: usize,
    count: usize,
}

impl Default for Shard {
    /// The whole model.
    fn default() -> Self {
        Self { index: 1, count: 1 }
    }
}

impl Shard {
    /// Part `index` of `count`, counted from 1.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] where one of them is zero, [`Error::ExceedsInput`] for an index above `count`.
    pub fn new(index: usize, count: usize) -> Result<Self> {
        for (name, value) in [
            ("the count of parts", count),
            ("the number of the part", index),
        ] {
            if value == 0 {
                return Err(ParamError::Zero { name }.into());
            }
        }
        if index > count {
            return Err(Error::ExceedsInput {
                what: "the number of the part",
                value: index,
                limit: count,
            });
        }
        Ok(Self { index, count })
    }

    /// The number of this part, from 1.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// The number of parts.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Joins all parts of a model into the container `output`; returns its length in bytes.
    ///
    /// ```
    /// use taper::model::{CompressOptions, NamedTensors, Recipe, Shard};
    /// use taper::ndarray::ArrayD;
    ///
    /// let (a, b) = (ArrayD::<f32>::zeros(vec![4, 4]), ArrayD::<f32>::ones(vec![4, 4]));
    /// let bytes = NamedTensors::to_bytes([("a", a.view()), ("b", b.view())])?;
    /// let model = NamedTensors::from_bytes(bytes)?;
    /// let folder = std::env::temp_dir().join(format!("taper-merge-{}", std::process::id()));
    /// std::fs::create_dir_all(&folder).unwrap();
    /// let parts = [1, 2].map(|i| folder.join(format!("part-{i}")));
    /// for (i, part) in parts.iter().enumerate() {
    ///     let options = CompressOptions::default().shard(Shard::new(i + 1, 2)?);
    ///     Recipe::default().compress_file(&model, part, &options)?;
    /// }
    /// assert!(Shard::merge(&parts, folder.join("whole"))? > 128);
    /// # std::fs::remove_dir_all(&folder).unwrap();
    /// # Ok::<(), taper::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Shards`] where a part is missing, is given twice or belongs to another model, and for a file that is not a part;
    /// [`Error::File`], and [`Error::Malformed`] for a file that is not a container.
    pub fn merge(parts: &[impl AsRef<Path>], output: impl AsRef<Path>) -> Result<u64> {
        let shards = |problem: String| Error::Shards { problem };
        let mut writer = ContainerWriter::create(output)?;
        let mut seen = Vec::new();
        let mut metadata = None;
        for path in parts {
            let path = path.as_ref();
            let container = Container::open(path)?;
            let tensors = container.raw();
            let shard: Self = match tensors.metadata().get(SHARD_KEY) {
                Some(shard) => shard.parse()?,
                None => {
                    return Err(shards(format!(
                        "{} is not a part of a model",
                        path.display()
                    )));
                }
            };
            if shard.count != parts.len() || seen.contains(&shard) {
                return Err(shards(format!(
                    "{} is part {shard}, but {} parts were given, or it is given twice",
                    path.display(),
                    parts.len()
                )));
            }
            seen.push(shard);
            let own = container.metadata();
            if metadata.get_or_insert_with(|| own.clone()) != own {
                return Err(shards(format!("{} is of another model", path.display())));
            }
            writer.container(&container)?;
        }
        if seen.is_empty() {
            return Err(shards("no parts were given".to_owned()));
        }
        writer.finish()
    }

    /// The names of this part's tensors, in rising order. All names of a tensor are in one part.
    pub(super) fn names(&self, tensors: &NamedTensors, ties: &Ties) -> Result<Vec<String>> {
        let mut sizes = Vec::new();
        for name in tensors.names().filter(|name| ties.is_first(name)) {
            sizes.push((tensors.stored_bytes(name)?, name.to_owned()));
        }
        sizes.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        // No part beyond the number of tensors gets one.
        let mut loads = vec![0_u64; self.count.min(sizes.len())];
        let mut names = Vec::new();
        for (bytes, name) in sizes {
            let least = loads
                .iter_mut()
                .enumerate()
                .min_by_key(|(i, load)| (**load, *i));
            let (part, load) = least.expect("as long as there is a tensor there is a part");
            *load = load.saturating_add(bytes.max(1));
            if part + 1 == self.index {
                names.extend_from_slice(ties.names(&name));
            }
        }
        names.sort();
        Ok(names)
    }
}

impl FromStr for Shard {
    type Err = Error;

    /// From `i/n`.
    fn from_str(text: &str) -> Result<Self> {
        let numbers = text
            .split_once('/')
            .and_then(|(i, n)| Some((i.trim().parse().ok()?, n.trim().parse().ok()?)));
        let (index, count) = numbers.ok_or_else(|| Error::Unsupported {
            what: format!("the part {text:?}"),
            reason: "it must have the form i/n".to_owned(),
        })?;
        Self::new(index, count)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}
