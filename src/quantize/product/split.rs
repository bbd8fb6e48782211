//! How a weight matrix is cut into sub-vectors.

use ndarray::ArrayView2;

/// How an axis is split into groups of neighbouring values.
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(rename_all = "snake_case"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// This number of groups, which must divide the length of the axis.
    Groups(usize),
    /// Groups of this many values, which must divide the length of the axis.
    Width(usize),
}

/// The axis of W (out_features, in_features) that is split into groups.
///
/// ```
/// use taper::ndarray::Array2;
/// use taper::quantize::product::{ProductQuantizer, SplitAxis};
/// use taper::Quantizer;
///
/// let weights = Array2::from_shape_fn((64, 32), |(o, i)| ((o * 3 + i * 5) as f32).sin());
/// let quantizer = ProductQuantizer::with_width(4).centroids(8);
/// let inputs = quantizer.clone().axis(SplitAxis::In).quantize(weights.view())?;
/// let outputs = quantizer.axis(SplitAxis::Out).quantize(weights.view())?;
/// // 32 inputs make 8 groups, 64 outputs make 16.
/// assert_eq!(inputs.codes().dim(), (8, 64));
/// assert_eq!(outputs.codes().dim(), (16, 32));
/// # Ok::<(), taper::Error>(())
/// ```
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(rename_all = "snake_case"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SplitAxis {
    /// The inputs: each row of W is cut into m parts of in_features / m weights.
    #[default]
    In,
    /// The outputs: each column of W is cut into m parts of out_features / m weights. This is the published scheme, which
    /// writes W as C_in × C_out.
    Out,
}

impl SplitAxis {
    /// W with the split axis last.
    pub(super) fn vectors<F>(self, weights: ArrayView2<'_, F>) -> ArrayView2<'_, F> {
        match self {
            Self::In => weights,
            Self::Out => weights.reversed_axes(),
        }
    }

    /// The length of the axis that is not split, and that of the split axis.
    pub(super) fn points_and_length(self, [outputs, inputs]: [usize; 2]) -> (usize, usize) {
        match self {
            Self::In => (outputs, inputs),
            Self::Out => (inputs, outputs),
        }
    }
}

/// Whether groups share one codebook.
///
/// ```
/// use taper::ndarray::Array2;
/// use taper::quantize::product::{Codebook, ProductQuantizer};
///
/// let weights = Array2::from_shape_fn((64, 32), |(o, i)| ((o * 3 + i * 5) as f32).sin());
/// let quantizer = ProductQuantizer::with_width(4).centroids(8);
/// let shared = quantizer.clone().codebook(Codebook::Shared).train(weights.view())?;
/// let own = quantizer.codebook(Codebook::PerGroup).train(weights.view())?;
/// // (codebooks, centroids, width)
/// assert_eq!(shared.values().dim(), (1, 8, 4));
/// assert_eq!(own.values().dim(), (8, 8, 4));
/// # Ok::<(), taper::Error>(())
/// ```
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(rename_all = "snake_case"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Codebook {
    /// Each group has a codebook of its own, as in the published scheme. The m codebooks together hold k values for each
    /// value of the split axis.
    PerGroup,
    /// All groups share one codebook of k·d values. The same size leaves room for more centroids.
    #[default]
    Shared,
}
