//! Figures as JSON.

use std::fs;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;

/// Writes `figures` to `path`, indented, with a newline at the end.
pub fn write(path: &Path, figures: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(figures)?;
    text.push('\n');
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
