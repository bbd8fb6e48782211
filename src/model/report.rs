//! The report of a compression.

use std::fmt;

use serde::Serialize;

use super::Recipe;

/// The line of one tensor in a [`Report`].
///
/// [`Report`] has an example.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ReportRow {
    /// The name of the tensor.
    pub name: String,
    /// The chain of compressors, in words; `tied to NAME` where the tensor equals another one, as which it is stored.
    pub method: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its size in the input file, in bytes.
    pub bytes_before: u64,
    /// The bytes of its arrays in the container, entropy coding included; names and descriptions are in the header. 0 for a
    /// tensor that is stored as another one.
    pub bytes_after: u64,
    /// The relative squared error of the weights, ‖W − Ŵ‖² / ‖W‖².
    pub weight_error: f64,
    /// The relative squared error of the layer's outputs on the calibration inputs, if there are any.
    pub output_error: Option<f64>,
    /// The bits per weight that any code needs for the same error, if the weights are independent draws from their own
    /// histogram; see [`RateDistortionGap`](crate::limit::RateDistortionGap). Computed on request
    /// ([`CompressOptions::limits`](super::CompressOptions::limits)).
    pub limit_bits: Option<f64>,
    /// Why the tensor was kept although the recipe has a chain for it, and which steps did not use the calibration.
    pub notes: Vec<String>,
}

impl ReportRow {
    /// Bytes before over bytes after; 1 for an empty tensor, infinite for one that is stored as another one.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        quotient(self.bytes_before as f64, self.bytes_after as f64, 1.0)
    }

    /// Bits of the container per value of the tensor; 0 for an empty tensor.
    #[must_use]
    pub fn bits_per_weight(&self) -> f64 {
        let values: f64 = self.shape.iter().map(|&n| n as f64).product();
        quotient(self.bytes_after as f64 * 8.0, values, 0.0)
    }

    /// The bits per weight above the limit.
    #[must_use]
    pub fn distance(&self) -> Option<f64> {
        Some(self.bits_per_weight() - self.limit_bits?)
    }
}

/// The report of a compression: sizes and errors of every tensor, and the totals. It prints as a table.
///
/// ```
/// use taper::model::{CompressOptions, NamedTensors, Recipe};
/// use taper::ndarray::ArrayD;
///
/// let weight = ArrayD::from_shape_fn(vec![16, 8], |index| (index[0] * 3 + index[1]) as f32);
/// let model = NamedTensors::from_bytes(NamedTensors::to_bytes([("fc.weight", weight.view())])?)?;
/// let recipe = Recipe::from_toml("[[rule]]\ntensors = \"*.weight\"\nchain = [{ dense = \"f16\" }]")?;
/// let (small, report) = recipe.compress(&model, &CompressOptions::default())?;
/// let row = &report.rows[0];
/// assert_eq!(row.weight_error, 0.0); // whole numbers fit half precision
/// assert!(row.bits_per_weight() < 16.0); // and their sixteen bits are coded
/// assert_eq!(report.bytes_after, small.file_bytes()?);
/// println!("{report}");
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// One row for each tensor, in ascending order of names.
    pub rows: Vec<ReportRow>,
    /// The size of the input file in bytes; for one [`Shard`](super::Shard), the size of its arrays.
    pub bytes_before: u64,
    /// The size of the container in bytes.
    pub bytes_after: u64,
    /// The recipe that was applied; empty in the report of an existing container.
    pub recipe: Recipe,
    /// What the recipe says without effect: rules that are used for no tensor, and exceptions that match none.
    pub notes: Vec<String>,
}

impl Report {
    /// The compression ratio: the size of the file divided by the size of the container.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.bytes_before as f64 / self.bytes_after as f64
    }

    /// The bytes of the container that hold names, shapes and descriptions.
    pub(super) fn header_bytes(&self) -> u64 {
        let arrays: u64 = self.rows.iter().map(|row| row.bytes_after).sum();
        self.bytes_after.saturating_sub(arrays)
    }
}

/// a / b, or `otherwise` where both are 0.
fn quotient(a: f64, b: f64, otherwise: f64) -> f64 {
    if a == 0.0 && b == 0.0 {
        otherwise
    } else {
        a / b
    }
}

/// A table of the tensors without empty columns, followed by notes and totals.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut columns = vec![
            Column::left("tensor", self, |row| Some(row.name.clone())),
            Column::left("method", self, |row| Some(row.method.clone())),
            Column::right("shape", self, |row| {
                let shape: Vec<String> = row.shape.iter().map(usize::to_string).collect();
                Some(shape.join("x"))
            }),
            Column::right("before", self, |row| Some(row.bytes_before.to_string())),
            Column::right("after", self, |row| Some(row.bytes_after.to_string())),
            Column::right("ratio", self, |row| {
                let ratio = row.ratio();
                ratio.is_finite().then(|| format!("{ratio:.2}"))
            }),
            Column::right("bits", self, |row| {
                Some(format!("{:.3}", row.bits_per_weight()))
            }),
            Column::right("error", self, |row| {
                Some(format!("{:.2e}", row.weight_error))
            }),
            Column::right("output", self, |row| {
                row.output_error.map(|error| format!("{error:.2e}"))
            }),
            Column::right("limit", self, |row| {
                row.limit_bits.map(|bits| format!("{bits:.3}"))
            }),
            Column::right("distance", self, |row| {
                row.distance().map(|bits| format!("{bits:.3}"))
            }),
        ];
        columns.retain(|column| !column.empty);
        for line in 0..=self.rows.len() {
            let cells: Vec<String> = columns.iter().map(|column| column.cell(line)).collect();
            writeln!(f, "{}", cells.join("  ").trim_end())?;
        }
        for row in &self.rows {
            for note in &row.notes {
                writeln!(f, "{}: {note}", row.name)?;
            }
        }
        for note in &self.notes {
            writeln!(f, "{note}")?;
        }
        write!(
            f,
            "{} bytes became {} ({} of them header): {:.2} times smaller",
            self.bytes_before,
            self.bytes_after,
            self.header_bytes(),
            self.ratio()
        )
    }
}

/// A column of the table.
struct Column {
    /// The title, and then a cell for each tensor.
    cells: Vec<String>,
    width: usize,
    left: bool,
    /// Whether no tensor has a value.
    empty: bool,
}

impl Column {
    fn new(
        title: &str,
        left: bool,
        report: &Report,
        value: impl Fn(&ReportRow) -> Option<String>,
    ) -> Self {
        let values: Vec<Option<String>> = report.rows.iter().map(value).collect();
        let empty = !report.rows.is_empty() && values.iter().all(Option::is_none);
        let values = values
            .into_iter()
            .map(|value| value.unwrap_or_else(|| "-".to_owned()));
        let cells: Vec<String> = std::iter::once(title.to_owned()).chain(values).collect();
        let width = cells.iter().map(|cell| cell.chars().count()).max();
        Self {
            width: width.expect("there is a title"),
            cells,
            left,
            empty,
        }
    }

    fn left(title: &str, report: &Report, value: impl Fn(&ReportRow) -> Option<String>) -> Self {
        Self::new(title, true, report, value)
    }

    fn right(title: &str, report: &Report, value: impl Fn(&ReportRow) -> Option<String>) -> Self {
        Self::new(title, false, report, value)
    }

    fn cell(&self, line: usize) -> String {
        let (cell, width) = (&self.cells[line], self.width);
        if self.left {
            format!("{cell:<width$}")
        } else {
            format!("{cell:>width$}")
        }
    }
}
