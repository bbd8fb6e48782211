//! `Pruner`: from scores to a plan.

use ndarray::ArrayView1;

use super::plan::PrunePlan;
use crate::{Float, Result};

/// Chooses from scores which channels of each layer are kept.
///
/// An implementation promises:
/// - the plan has one entry for each array of `scores`, in their order, with kept indices in rising order;
/// - no kept index has a lower score than a dropped one of the same layer; of equal scores the lower index is kept;
/// - a NaN, an infinity or an empty array is an error; nothing panics.
///
/// ```
/// use taper::Pruner;
/// use taper::ndarray::arr1;
/// use taper::prune::{ChannelSlimming, Keep};
///
/// let scales = arr1(&[0.9_f32, 0.01, 0.4]);
/// let plan = ChannelSlimming::new(Keep::Count(2)).plan(&[scales.view()])?;
/// assert_eq!(plan.kept(0), Some(&[0, 2][..]));
/// # Ok::<(), taper::Error>(())
/// ```
pub trait Pruner<F: Float> {
    /// Chooses by `scores`: one array per layer with one score per channel.
    ///
    /// # Errors
    ///
    /// [`NonFinite`](crate::Error::NonFinite) and [`EmptyAxis`](crate::Error::EmptyAxis) for the scores,
    /// [`Parameter`](crate::Error::Parameter) for the parameters of the pruner.
    fn plan(&self, scores: &[ArrayView1<'_, F>]) -> Result<PrunePlan>;
}
