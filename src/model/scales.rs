//! The scales of 8-bit weights.

use ndarray::ArrayD;

use super::elements;
use super::header::Info;
use crate::Result;

/// The scales of 8-bit weights.
#[derive(Debug, Clone)]
pub(super) struct Scales {
    pub(super) name: String,
    pub(super) source: usize,
    pub(super) info: Info,
    /// The rows and columns that share a scale.
    pub(super) block: [usize; 2],
}

/// A shape as rows and columns.
pub(super) fn matrix(shape: &[usize]) -> [usize; 2] {
    match shape {
        [] => [1, 1],
        [rows, rest @ ..] => [*rows, rest.iter().product()],
    }
}

impl Scales {
    /// Multiplies the values of 8-bit codes by their scales, which `bytes` holds.
    pub(super) fn apply(&self, bytes: &[u8], codes: &mut ArrayD<f32>) -> Result<()> {
        let factors = elements::decode(self.info.dtype, bytes)?;
        let ([_, columns], [_, parts]) = (matrix(codes.shape()), matrix(&self.info.shape));
        let [high, wide] = self.block;
        for (index, weight) in codes.iter_mut().enumerate() {
            let (row, column) = (index / columns, index % columns);
            *weight *= factors[row / high * parts + column / wide];
        }
        Ok(())
    }
}
