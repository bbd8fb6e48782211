//! What a compression did, tensor by tensor.

use std::fmt;

use serde::Serialize;

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
    /// The chain of compressors, in words.
    pub method: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its bytes in the file it came from.
    pub bytes_before: u64,
    /// The bytes of its arrays in the container, entropy coding included; names and descriptions are in the header.
    pub bytes_after: u64,
    /// ‖W − Ŵ‖² / ‖W‖².
    pub weight_error: f64,
    /// The same of the layer's output, over the inputs that were given for it.
    pub output_error: Option<f64>,
    /// The least bits a weight at the same error of the weights, for any code, were the weights independent draws from
    /// their own histogram: a scale and no promise, see [`RateDistortionGap`](crate::limit::RateDistortionGap). Where
    /// [`CompressOptions::limits`](super::CompressOptions::limits) asked for it.
    pub limit_bits: Option<f64>,
    /// Why the tensor was kept although a chain was chosen for it, and which steps did not use the calibration.
    pub notes: Vec<String>,
}

impl ReportRow {
    /// Bytes before over bytes after.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.bytes_before as f64 / self.bytes_after as f64
    }

    /// The bits of the container that stand for one value.
    #[must_use]
    pub fn bits_per_weight(&self) -> f64 {
        let values: f64 = self.shape.iter().map(|&n| n as f64).product();
        self.bytes_after as f64 * 8.0 / values
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

/// A table, with the totals below it.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.rows.iter().map(|row| row.name.chars().count());
        let methods = self.rows.iter().map(|row| row.method.chars().count());
        let (name, method) = (
            names.max().unwrap_or(0).max(6),
            methods.max().unwrap_or(0).max(6),
        );
        writeln!(
            f,
            "{:<name$}  {:<method$}  {:>16}  {:>11}  {:>11}  {:>7}  {:>7}  {:>9}  {:>9}  {:>7}  {:>8}",
            "tensor",
            "method",
            "shape",
            "before",
            "after",
            "ratio",
            "bits",
            "error",
            "output",
            "limit",
            "distance"
        )?;
        for row in &self.rows {
            let shape: Vec<String> = row.shape.iter().map(usize::to_string).collect();
            let bits = |bits: Option<f64>| bits.map_or("-".to_owned(), |bits| format!("{bits:.3}"));
            let output = row
                .output_error
                .map_or("-".to_owned(), |error| format!("{error:.2e}"));
            writeln!(
                f,
                "{:<name$}  {:<method$}  {:>16}  {:>11}  {:>11}  {:>7.2}  {:>7.3}  {:>9.2e}  {:>9}  {:>7}  {:>8}",
                row.name,
                row.method,
                shape.join("x"),
                row.bytes_before,
                row.bytes_after,
                row.ratio(),
                row.bits_per_weight(),
                row.weight_error,
                output,
                bits(row.limit_bits),
                bits(row.distance())
            )?;
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
