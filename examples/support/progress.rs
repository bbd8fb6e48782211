//! Bars that show how far the work is. They are drawn on the terminal alone, never into a file.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar of `steps` steps for the work called `name`, with room for a message at its end.
pub fn bar(name: &'static str, steps: usize) -> ProgressBar {
    let style = ProgressStyle::with_template(
        "{prefix:>8} [{elapsed_precise} / {duration_precise}] {wide_bar} {percent:>3} %  {msg}",
    )
    .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(steps as u64)
        .with_style(style)
        .with_prefix(name)
}
