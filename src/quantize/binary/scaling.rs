//! The scales of a binary matrix. Blocks are refused where a matrix is made.

use crate::Float;
use crate::quantize::granularity::Granularity;

/// The number of scales of a matrix with this number of rows.
pub(super) fn count(scaling: Option<Granularity>, rows: usize) -> usize {
    match scaling {
        None => 0,
        Some(Granularity::PerTensor) => 1,
        Some(_) => rows,
    }
}

/// The scale of a row; 1 without scales.
pub(super) fn of_row<F: Float>(scaling: Option<Granularity>, scales: &[F], row: usize) -> F {
    match scaling {
        None => F::one(),
        Some(Granularity::PerTensor) => scales[0],
        Some(_) => scales[row],
    }
}
