//! The scales of a binary matrix.

use crate::Float;

/// The scales by which the signs of a binary matrix are multiplied.
///
/// ```
/// use taper::ndarray::array;
/// use taper::quantize::binary::{Binarizer, Scaling};
/// use taper::{LinearOp, Quantizer};
///
/// let w = array![[0.5, -1.5], [2.0, 2.0]];
/// let of = |scaling| Binarizer::new().scaling(scaling).quantize(w.view());
/// assert_eq!(of(Scaling::None)?.decompress_matrix()?, array![[1.0, -1.0], [1.0, 1.0]]);
/// assert_eq!(of(Scaling::PerTensor)?.decompress_matrix()?, array![[1.5, -1.5], [1.5, 1.5]]);
/// assert_eq!(of(Scaling::PerRow)?.decompress_matrix()?, array![[1.0, -1.0], [2.0, 2.0]]);
/// # Ok::<(), taper::Error>(())
/// ```
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(rename_all = "snake_case"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Scaling {
    /// No scale: weights of ±1, for a network whose batch normalization sets the scale.
    #[default]
    None,
    /// One scale for the whole matrix.
    PerTensor,
    /// One scale for each output, that is, for each row.
    PerRow,
}

impl Scaling {
    /// The number of scales of a matrix with this number of rows.
    pub(super) fn count(self, rows: usize) -> usize {
        match self {
            Self::None => 0,
            Self::PerTensor => 1,
            Self::PerRow => rows,
        }
    }

    /// The scale of a row.
    pub(super) fn of_row<F: Float>(self, scales: &[F], row: usize) -> F {
        match self {
            Self::None => F::one(),
            Self::PerTensor => scales[0],
            Self::PerRow => scales[row],
        }
    }
}
