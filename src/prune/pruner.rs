//! `Pruner`: from scores to a plan.

use ndarray::ArrayView1;

use super::plan::PrunePlan;
use crate::{Float, Result};

/// Chooses what may go: which channels (or weights) of which layers are kept.
///
/// What an implementation promises:
/// - the plan has one entry for each array of `scores`, in their order, with kept indices in rising order;
/// - a kept index never has a lower score than a dropped one of the same layer, ties falling to the lower
///   index;
/// - scores that hold a NaN or an infinity, or none at all, are an error; nothing panics.
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
    /// Chooses by importance: one score a channel, one array a layer.
    ///
    /// # Errors
    ///
    /// [`Error::NonFinite`], [`Error::EmptyAxis`], [`Error::Parameter`].
    fn plan(&self, scores: &[ArrayView1<'_, F>]) -> Result<PrunePlan>;
}
