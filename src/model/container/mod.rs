//! The container: a safetensors file of two arrays, the parts of all artifacts and their table of contents.
//!
//! `docs/format.md` describes the bytes. [`contents`] is the table of contents, [`description`] one of its lines, [`names`]
//! how names stand in it; [`coded`] makes the arrays and lines of one tensor, [`write`] lays a file out, [`read`] checks and
//! reads one.

mod coded;
mod contents;
mod description;
mod names;
mod read;
mod write;

pub use read::Container;
pub use write::ContainerWriter;
pub(super) use write::{Assembler, Outline};

/// The key of the metadata that holds the version, and the beginning of all keys that the container uses itself.
pub(super) const KEY: &str = "taper";
/// The version of the format.
const VERSION: &str = "3";
/// The key of the metadata that marks a part of a model.
pub(super) const SHARD_KEY: &str = "taper-shard";
/// The name in the file of the arrays of all tensors.
const ARRAYS: &str = "arrays";
/// The name in the file of the table of contents.
const CONTENTS: &str = "contents";
