//! The report of a container that has been written before.

use std::borrow::Cow;

use super::compress::Task;
use super::report::{Report, ReportRow};
use super::tensors::within;
use super::ties;
use super::{Container, Entry, NamedTensors};
use crate::{Result, Seed, check};

impl Container {
    /// Reports the method, bytes and bits of each tensor, as the compression did. With the `original` model the report also
    /// has the errors of the weights, and with `limits` the rate-distortion limits.
    ///
    /// ```
    /// use taper::model::{Budget, Container, NamedTensors};
    /// use taper::ndarray::ArrayD;
    ///
    /// let weight = ArrayD::from_shape_fn(vec![64, 64], |i| ((i[0] * 31 + i[1] * 17) as f32).sin());
    /// let model = NamedTensors::from_bytes(NamedTensors::to_bytes([("fc.weight", weight.view())])?)?;
    /// let (small, report) = Budget::ratio(6.0).compress(&model)?;
    /// let again = Container::from_bytes(small.to_bytes()?)?.report(Some(&model), false)?;
    /// assert_eq!(again.bytes_after, report.bytes_after);
    /// assert_eq!(again.rows[0].weight_error, report.rows[0].weight_error);
    /// # Ok::<(), taper::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`get`](Self::get); [`Error::UnknownTensor`](crate::Error::UnknownTensor) and [`Error::InTensor`](crate::Error::InTensor) where
    /// the original lacks a tensor or has another shape.
    pub fn report(&self, original: Option<&NamedTensors>, limits: bool) -> Result<Report> {
        let mut report = Report {
            bytes_after: self.file_bytes(),
            ..Report::default()
        };
        for name in self.names() {
            let row = within(name, self.row(name, original, limits))?;
            report.bytes_before += row.bytes_before;
            report.rows.push(row);
        }
        if let Some(original) = original {
            report.bytes_before = original.file_bytes();
        }
        Ok(report)
    }

    fn row(&self, name: &str, original: Option<&NamedTensors>, limits: bool) -> Result<ReportRow> {
        let (kinds, bytes_after) = self.stored(name)?;
        let (bytes_before, shape) = self.dense_size(name)?;
        let mut row = ReportRow::new(name, shape, bytes_before);
        row.bytes_after = bytes_after;
        if !kinds.is_empty() {
            row.method = kinds.join(" > ");
        }
        let tied = self.tied_to(name);
        if let Some(first) = tied {
            row.method = ties::method(first);
            row.bytes_after = 0;
        }
        let (Some(original), Entry::Compressed(tensor)) = (original, self.get(name)?) else {
            return Ok(row);
        };
        let data = original.data(name)?;
        check::same_shape("the tensor of the original model", &row.shape, &data.shape)?;
        let task = Task {
            name,
            weights: data.to_f32()?,
            dtype: data.dtype,
            moments: None::<Cow<'_, _>>,
            rows: None,
            seed: Seed::default(),
            observer: None,
        };
        let made = task.measure(tensor, Vec::new())?;
        task.describe(&made, &mut row, limits && tied.is_none());
        Ok(row)
    }
}
