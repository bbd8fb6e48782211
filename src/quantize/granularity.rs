//! Which weights share a scale.

/// Which weights share a scale: the grid of fixed point, or the factor of signs.
///
/// In a recipe: `"per_tensor"`, `"per_row"`, `{ block = 32 }`.
///
/// ```
/// use taper::ndarray::array;
/// use taper::quantize::fixed_point::{FixedPointQuantizer, Granularity};
/// use taper::{LinearOp, Quantizer};
///
/// let w = array![[0.25_f64, -0.5], [8.0, 24.0]];
/// let rounded = |granularity| {
///     let quantizer = FixedPointQuantizer::new(3).granularity(granularity);
///     quantizer.quantize(w.view())?.decompress_matrix()
/// };
/// // The small row is below half a step of the large one.
/// assert_eq!(rounded(Granularity::PerTensor)?, array![[0.0, 0.0], [8.0, 24.0]]);
/// assert!((&rounded(Granularity::PerRow)? - &w).iter().all(|x| x.abs() <= 0.5 / 6.0 + 1e-6));
/// # Ok::<(), taper::Error>(())
/// ```
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(rename_all = "snake_case"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Granularity {
    /// All weights.
    #[default]
    PerTensor,
    /// The weights of one output, that is, of one row.
    PerRow,
    /// Runs of so many inputs of one row, of fixed point alone: 16, 32, 64 or 128. The last run of a row may be shorter.
    ///
    /// Each run costs a scale: in half precision half a bit for each weight at 32 inputs.
    Block(usize),
}

impl Granularity {
    /// The inputs of a row that share a scale, for rows of `columns` inputs.
    pub(super) fn width(self, columns: usize) -> usize {
        match self {
            Self::PerTensor | Self::PerRow => columns,
            Self::Block(width) => width,
        }
    }

    /// The number of scales of a matrix; `None` if no matrix has so many.
    pub(super) fn count(self, [rows, columns]: [usize; 2]) -> Option<usize> {
        match self {
            Self::PerTensor => Some(1),
            Self::PerRow => Some(rows),
            Self::Block(width) => rows.checked_mul(columns.div_ceil(width)),
        }
    }
}
