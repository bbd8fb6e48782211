//! Progress bars. They are drawn on a terminal only, not into a file.

use indicatif::{ProgressBar, ProgressStyle};

/// A progress bar of `steps` steps with the name `name` in front and a message at the end.
pub fn bar(name: &'static str, steps: usize) -> ProgressBar {
    let style = ProgressStyle::with_template(
        "{prefix:>8} [{elapsed_precise} / {duration_precise}] {wide_bar} {percent:>3} %  {msg}",
    )
    .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(steps as u64)
        .with_style(style)
        .with_prefix(name)
}
