//! What a compression did, tensor by tensor.

use std::fmt;

use serde::Serialize;

use super::Recipe;

/// What became of one tensor.
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
/// assert_eq!((row.bits_per_weight(), row.weight_error), (16.0, 0.0)); // whole numbers fit half precision
/// assert_eq!(report.bytes_after, small.file_bytes()?);
/// println!("{report}");
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ReportRow {
    /// Its name.
    pub name: String,
    /// The chain of compressors, in words; `tied to NAME` where the tensor equals another one, as which it is stored.
    pub method: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its bytes in the file it came from.
    pub bytes_before: u64,
    /// The bytes of its arrays in the container, entropy coding included; names and descriptions are in the header. 0 for a
    /// tensor that is stored as another one.
    pub bytes_after: u64,
    /// ‖W − Ŵ‖² / ‖W‖².
    pub weight_error: f64,
    /// The same of the layer's output, over the inputs that were given for it.
    pub output_error: Option<f64>,
    /// The least bits a weight at the same error of the weights, for any code, were the weights independent draws from
    /// their own histogram: a scale and no promise, see [`RateDistortionGap`](crate::limit::RateDistortionGap). Where
    /// [`CompressOptions::limits`](super::CompressOptions::limits) asked for it.
    pub limit_bits: Option<f64>,
    /// Why the tensor was kept although a chain was chosen for it, and what did not use the calibration.
    pub notes: Vec<String>,
}

impl ReportRow {
    /// Bytes before over bytes after; 1 for an empty tensor, infinite for one that is stored as another one.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        quotient(self.bytes_before as f64, self.bytes_after as f64, 1.0)
    }

    /// The bits of the container for one value; 0 for an empty tensor.
    #[must_use]
    pub fn bits_per_weight(&self) -> f64 {
        let values: f64 = self.shape.iter().map(|&n| n as f64).product();
        quotient(self.bytes_after as f64 * 8.0, values, 0.0)
    }

    /// The bits a weight above the limit.
    #[must_use]
    pub fn distance(&self) -> Option<f64> {
        Some(self.bits_per_weight() - self.limit_bits?)
    }
}

/// What a compression did.
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
/// assert_eq!((row.bits_per_weight(), row.weight_error), (16.0, 0.0)); // whole numbers fit half precision
/// assert_eq!(report.bytes_after, small.file_bytes()?);
/// println!("{report}");
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// Every tensor, in rising order of names.
    pub rows: Vec<ReportRow>,
    /// The length of the file it came from; of a part of a model, that of its arrays.
    pub bytes_before: u64,
    /// The length of the container.
    pub bytes_after: u64,
    /// The recipe by which the model was compressed; empty in the report of a file.
    pub recipe: Recipe,
}

impl Report {
    /// The length of the file over that of the container.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.bytes_before as f64 / self.bytes_after as f64
    }

    /// What names, shapes and descriptions take of the container.
    #[must_use]
    pub fn header_bytes(&self) -> u64 {
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

/// A table of the tensors, without columns that are empty; below it notes and totals.
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
