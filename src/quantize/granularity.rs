//! Which weights share a scale.

/// Which weights share a scale: the grid of fixed point, or the factor of signs.
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
}
