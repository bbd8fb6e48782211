//! The container: a safetensors file whose tensors are the parts of artifacts.
//!
//! `docs/format.md` describes the bytes. [`description`] is the text that says how parts become an artifact,
//! [`coded`] a tensor with its arrays as they are stored, [`write`] lays a file out, [`read`] checks and reads one.

mod coded;
mod description;
mod read;
mod write;

pub use read::Container;
pub(super) use write::Assembler;
pub use write::ContainerWriter;

/// The key of the metadata that holds the version, and with a colon begins the keys of descriptions.
pub(super) const KEY: &str = "taper";
/// The version of the format.
const VERSION: &str = "1";

/// The key of the description of an artifact.
fn description_key(path: &str) -> String {
    format!("{KEY}:{path}")
}

/// The name of a part or a child.
fn join(path: &str, name: &str) -> String {
    format!("{path}/{name}")
}
