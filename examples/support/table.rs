//! Tables for the terminal and for Markdown.

use std::fmt;

/// A table with a header. The first column is aligned to the left, all others to the right.
#[derive(Debug, Clone, Default)]
pub struct Table {
    title: String,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Creates a table with a title and names of columns.
    pub fn new<S: Into<String>>(
        title: impl Into<String>,
        columns: impl IntoIterator<Item = S>,
    ) -> Self {
        Self {
            title: title.into(),
            rows: vec![columns.into_iter().map(Into::into).collect()],
        }
    }

    /// The title and the table in Markdown.
    pub fn markdown(&self) -> String {
        let mut text = format!("{}\n\n", self.title);
        for (i, row) in self.rows.iter().enumerate() {
            text += &format!("| {} |\n", row.join(" | "));
            if i == 0 {
                text += &format!("|---|{}\n", "--:|".repeat(row.len().saturating_sub(1)));
            }
        }
        text
    }

    /// Adds a row. Missing cells are empty.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cell = |row: &Vec<String>, column: usize| row.get(column).cloned().unwrap_or_default();
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                let lengths = self
                    .rows
                    .iter()
                    .map(|row| cell(row, column).chars().count());
                lengths.max().unwrap_or(0)
            })
            .collect();
        if !self.title.is_empty() {
            writeln!(f, "\n{}", self.title)?;
        }
        for (i, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for (column, &width) in widths.iter().enumerate() {
                let text = cell(row, column);
                line += &if column == 0 {
                    format!("  {text:<width$}")
                } else {
                    format!("  {text:>width$}")
                };
            }
            writeln!(f, "{}", line.trim_end())?;
            if i == 0 {
                let length = widths.iter().map(|width| width + 2).sum::<usize>();
                writeln!(f, "  {}", "─".repeat(length.saturating_sub(2)))?;
            }
        }
        Ok(())
    }
}

/// Formats a number of bytes with a unit: `1.23 MB`.
pub fn bytes(count: u64) -> String {
    let value = count as f64;
    match count {
        0..1_000 => format!("{count} B"),
        1_000..1_000_000 => format!("{:.1} kB", value / 1e3),
        _ => format!("{:.2} MB", value / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new("Title", ["k", "accuracy"]);
        table.row(["10", "9.5"]);
        table.row(["1000"]);
        let expected = "\nTitle\n  k     accuracy\n  ──────────────\n  10         9.5\n  1000\n";
        assert_eq!(table.to_string(), expected);
    }

    #[test]
    fn markdown_has_a_line_per_row_and_one_below_the_header() {
        let mut table = Table::new("Title", ["k", "accuracy"]);
        table.row(["10", "9.5"]);
        let expected = "Title\n\n| k | accuracy |\n|---|--:|\n| 10 | 9.5 |\n";
        assert_eq!(table.markdown(), expected);
    }

    #[test]
    fn bytes_are_counted_in_powers_of_ten() {
        let texts = [999, 12_345, 3_200_000].map(bytes);
        assert_eq!(texts, ["999 B", "12.3 kB", "3.20 MB"]);
    }
}
