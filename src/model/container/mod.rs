//! The container: a safetensors file whose tensors are the parts of artifacts.
//!
//! `docs/format.md` describes the bytes. [`names`] maps the names of a model to those of a file, [`description`] is the text
//! that says how parts become an artifact, [`coded`] holds a tensor's arrays as they are stored, [`write`] lays a file out,
//! [`read`] checks and reads one.

mod coded;
mod description;
mod names;
mod read;
mod write;

pub use read::Container;
pub(super) use write::Assembler;
pub use write::ContainerWriter;

/// The key of the metadata that holds the version, and the beginning of all keys that the container uses itself.
pub(super) const KEY: &str = "taper";
/// The version of the format.
const VERSION: &str = "2";
/// The beginning of the description of a tensor that is stored under another name; the path of this name follows.
const ALIAS: &str = "alias: ";
/// The key of the metadata that marks a part of a model.
pub(super) const SHARD_KEY: &str = "taper-shard";
