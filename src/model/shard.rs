//! A model compressed by several processes, and joined again.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use super::container::{Container, ContainerWriter};
use super::{NamedTensors, Registry, Source};
use crate::{Error, ParamError, Result};

/// The metadata of a part of a model.
pub(super) const SHARD_KEY: &str = "taper-shard";

/// One of n parts of a model, which any number of processes may compress side by side.
///
/// Tensors are independent of each other and draw from seeds of their own, so that the parts, [merged](merge), are equal
/// byte for byte to what one process writes. Each process computes the same division: the largest tensor first,
/// each to the part that has the fewest bytes so far.
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
    /// Part `index`, from 1, of `count`.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] for zero parts, [`Error::ExceedsInput`] for an index that is none.
    pub fn new(index: usize, count: usize) -> Result<Self> {
        for (name, value) in [("the number of parts", count), ("the part", index)] {
            if value == 0 {
                return Err(ParamError::Zero { name }.into());
            }
        }
        if index > count {
            return Err(Error::ExceedsInput {
                what: "the part",
                value: index,
                limit: count,
            });
        }
        Ok(Self { index, count })
    }

    /// The part, from 1.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// The number of parts.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// The names of this part's tensors, in rising order.
    pub(super) fn names(&self, tensors: &NamedTensors) -> Result<Vec<String>> {
        let mut sizes = Vec::new();
        for name in tensors.names() {
            sizes.push((tensors.data(name)?.bytes.len() as u64, name.to_owned()));
        }
        sizes.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        let mut loads = vec![0_u64; self.count.min(sizes.len())];
        let mut names = Vec::new();
        for (bytes, name) in sizes {
            let least = loads.iter().enumerate().min_by_key(|&(i, &load)| (load, i));
            let part = least.map_or(0, |(i, _)| i);
            if let Some(load) = loads.get_mut(part) {
                *load = load.saturating_add(bytes.max(1));
            }
            if part + 1 == self.index {
                names.push(name);
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
            reason: "it is not of the form i/n".to_owned(),
        })?;
        Self::new(index, count)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

/// Joins all parts of a model into the container `output`; returns its length in bytes.
///
/// ```
/// use taper::model::{CompressOptions, NamedTensors, Recipe, Shard, Source, merge};
/// use taper::ndarray::ArrayD;
///
/// let weight = ArrayD::<f32>::zeros(vec![4, 4]);
/// let bytes = NamedTensors::to_bytes([("a", weight.view()), ("b", weight.view())])?;
/// let model = NamedTensors::new(Source::from(bytes))?;
/// let folder = std::env::temp_dir().join(format!("taper-merge-{}", std::process::id()));
/// std::fs::create_dir_all(&folder).unwrap();
/// let parts = [1, 2].map(|i| folder.join(format!("part-{i}")));
/// for (i, part) in parts.iter().enumerate() {
///     let options = CompressOptions::default().shard(Shard::new(i + 1, 2)?);
///     Recipe::default().compress_file(&model, part, &options)?;
/// }
/// assert!(merge(&parts, folder.join("whole"))? > 128);
/// # std::fs::remove_dir_all(&folder).unwrap();
/// # Ok::<(), taper::Error>(())
/// ```
///
/// # Errors
///
/// [`Error::Shards`] where a part is missing, is there twice, or belongs to another model; [`Error::File`],
/// and [`Error::Malformed`] for a file that is no part.
pub fn merge(parts: &[impl AsRef<Path>], output: impl AsRef<Path>) -> Result<u64> {
    let shards = |problem: String| Error::Shards { problem };
    let mut writer = ContainerWriter::create(output)?;
    let mut seen = Vec::new();
    let mut metadata = None;
    for path in parts {
        let path = path.as_ref();
        let container = Container::new(Source::map(path)?, Registry::default())?;
        let tensors = container.raw();
        let shard: Shard = match tensors.metadata().get(SHARD_KEY) {
            Some(shard) => shard.parse()?,
            None => return Err(shards(format!("{} is no part of a model", path.display()))),
        };
        if shard.count != parts.len() || seen.contains(&shard) {
            return Err(shards(format!(
                "{} is part {shard} of {} that were given, or is there twice",
                path.display(),
                parts.len()
            )));
        }
        seen.push(shard);
        let own: Vec<(String, String)> = container
            .metadata()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        if *metadata.get_or_insert_with(|| own.clone()) != own {
            return Err(shards(format!("{} is of another model", path.display())));
        }
        for (key, value) in tensors
            .metadata()
            .iter()
            .filter(|(key, _)| *key != SHARD_KEY)
        {
            writer.raw_metadata(key, value);
        }
        for name in tensors.names() {
            writer.add_plain(name, &tensors.data(name)?)?;
        }
    }
    if seen.is_empty() {
        return Err(shards("no parts were given".to_owned()));
    }
    writer.finish()
}
