//! The output of an experiment: on the terminal while it runs, and as a page of the documentation.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::Context;

use crate::table::Table;

/// The paragraphs and tables of an experiment, in order.
#[derive(Debug)]
pub struct Report {
    start: Instant,
    text: String,
}

impl Report {
    /// Starts the report of the example `name`, and its clock.
    pub fn new(name: &str) -> Self {
        Self::of(name, &format!("--example {name}"))
    }

    /// Starts the report of a program that `cargo run {target}` runs.
    pub fn of(name: &str, target: &str) -> Self {
        let flags = flags(std::env::args().skip(1));
        Self {
            start: Instant::now(),
            text: format!(
                "# {name}\n\nWritten by this command:\n\n    cargo run {target}{flags}\n"
            ),
        }
    }

    /// Adds and prints a paragraph.
    pub fn say(&mut self, paragraph: &str) {
        println!("\n{paragraph}");
        self.text += &format!("\n{paragraph}\n");
    }

    /// Adds and prints preformatted text.
    pub fn text(&mut self, text: &str) {
        println!("\n{text}");
        self.text += &format!("\n```text\n{text}\n```\n");
    }

    /// Adds and prints a table.
    pub fn table(&mut self, table: &Table) {
        print!("{table}");
        self.text += &format!("\n{}", table.markdown());
    }

    /// Adds the elapsed time, writes the page to `path` if there is one, and returns the seconds.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn finish(mut self, path: Option<&Path>) -> anyhow::Result<f64> {
        let seconds = self.start.elapsed().as_secs_f64();
        let threads = rayon::current_num_threads();
        self.say(&format!("{seconds:.0} s in all, on {threads} threads."));
        if let Some(path) = path {
            fs::write(path, &self.text)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(seconds)
    }
}

/// The flags that influence the figures, after ` -- `; those that name files and folders are left out.
fn flags(args: impl Iterator<Item = String>) -> String {
    const FILES: [&str; 7] = [
        "--json",
        "--plot",
        "--curves",
        "--markdown",
        "--checkpoint",
        "--checkpoints",
        "--packed",
    ];
    let mut kept = Vec::new();
    let mut args = args;
    while let Some(arg) = args.next() {
        if FILES.contains(&arg.as_str()) {
            args.next();
        } else if !FILES
            .iter()
            .any(|file| arg.starts_with(&format!("{file}=")))
        {
            kept.push(arg);
        }
    }
    if kept.is_empty() {
        return String::new();
    }
    format!(" -- {}", kept.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_leaves_out_the_files_that_a_run_writes() {
        let of = |text: &str| flags(text.split_whitespace().map(str::to_owned));
        assert_eq!(
            of("--json a.json --seed 3 --plot=b.svg --quick --checkpoints c"),
            " -- --seed 3 --quick"
        );
        assert_eq!(of("--markdown a.md"), "");
    }

    #[test]
    fn the_page_has_all_paragraphs_and_tables_in_order() {
        let mut report = Report::new("example");
        report.say("First.");
        let mut table = Table::new("Second", ["a"]);
        table.row(["1"]);
        report.table(&table);
        let path = std::env::temp_dir().join(format!("taper-report-{}.md", std::process::id()));
        report.finish(Some(&path)).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(text.starts_with("# example\n"));
        let places: Vec<usize> = ["First.", "Second", "| 1 |", "s in all"]
            .iter()
            .filter_map(|part| text.find(part))
            .collect();
        assert!(places.len() == 4 && places.is_sorted(), "{text}");
    }
}
