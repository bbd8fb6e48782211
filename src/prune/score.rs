//! How much a channel matters.

use ndarray::{Array1, ArrayView, ArrayViewD, Axis, Dimension};

use super::Coupling;
use super::coupled::{Tensors, check_all};
use super::graph::{Origin, Segment};
use crate::{Error, Float, Result, check};

/// A norm of a filter.
///
/// ```
/// use ndarray::arr2;
/// use taper::prune::{Norm, filter_norms};
///
/// let norms = filter_norms(arr2(&[[3.0_f64, -4.0]]).view(), Norm::L2)?;
/// assert_eq!(norms[0], 5.0);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Norm {
    /// The sum of magnitudes.
    L1,
    /// The square root of the sum of squares.
    L2,
}

/// What a channel's score is made of.
///
/// ```
/// use ndarray::{arr1, arr2};
/// use taper::prune::{ChannelScore, Coupling, Norm, Tensors};
///
/// let mut net = Coupling::new();
/// let x = net.input(2)?;
/// let x = net.layer("fc1", x, 2)?;
/// let x = net.batch_norm("bn", x)?;
/// let x = net.layer("fc2", x, 1)?;
/// net.output(x)?;
/// let tensors: Tensors<f64> = [
///     ("fc1.weight", arr2(&[[1.0, 2.0], [3.0, 4.0]]).into_dyn()),
///     ("bn.weight", arr1(&[0.7, -0.2]).into_dyn()),
///     ("bn.bias", arr1(&[0.0, 0.0]).into_dyn()),
///     ("bn.running_mean", arr1(&[0.0, 0.0]).into_dyn()),
///     ("bn.running_var", arr1(&[1.0, 1.0]).into_dyn()),
///     ("fc2.weight", arr2(&[[1.0, 1.0]]).into_dyn()),
/// ]
/// .map(|(name, tensor)| (name.to_owned(), tensor))
/// .into();
/// assert_eq!(net.scores(&tensors, ChannelScore::NormScale)?[0], arr1(&[0.7, 0.2]));
/// assert_eq!(net.scores(&tensors, ChannelScore::Filter(Norm::L1))?[0], arr1(&[3.0, 7.0]));
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ChannelScore {
    /// The scale |γ| of the batch normalizations along the channel (Liu et al., 2017,
    /// [arXiv:1708.06519](https://arxiv.org/abs/1708.06519)).
    NormScale,
    /// A norm of the filters that make the channel (Li et al., 2017,
    /// [arXiv:1608.08710](https://arxiv.org/abs/1608.08710), with [`Norm::L1`]). Comparable within a layer only.
    Filter(Norm),
}

/// The norm of each filter: of each index of the first axis of a weight (out, in, …).
///
/// ```
/// use ndarray::{arr1, arr2};
/// use taper::prune::{Norm, filter_norms};
///
/// let weight = arr2(&[[3.0, -4.0], [0.0, 1.0]]);
/// assert_eq!(filter_norms(weight.view(), Norm::L1)?, arr1(&[7.0, 1.0]));
/// assert_eq!(filter_norms(weight.view(), Norm::L2)?, arr1(&[5.0, 1.0]));
/// # Ok::<(), taper::Error>(())
/// ```
///
/// # Errors
///
/// [`Error::Dimensions`] where `weight` has no axis, [`Error::EmptyAxis`], [`Error::NonFinite`], and
/// [`Error::Overflow`] where a norm is beyond `F`.
pub fn filter_norms<F: Float, D: Dimension>(
    weight: ArrayView<'_, F, D>,
    norm: Norm,
) -> Result<Array1<F>> {
    let weight = weight.into_dyn();
    if weight.ndim() == 0 {
        return Err(Error::Dimensions {
            what: "weight",
            expected: "at least one axis",
            shape: Vec::new(),
        });
    }
    check::finite("weight", &weight)?;
    let norms: Array1<F> = weight
        .axis_iter(Axis(0))
        .map(|filter| F::from_f64_lossy(norm_of(&filter, norm)))
        .collect();
    check::no_overflow("the norm of a filter", &norms)?;
    Ok(norms)
}

fn norm_of<F: Float>(filter: &ArrayViewD<'_, F>, norm: Norm) -> f64 {
    let magnitudes = filter.iter().map(|weight| weight.as_f64().abs());
    match norm {
        Norm::L1 => magnitudes.sum(),
        Norm::L2 => {
            // Scaled, so that no square leaves the range.
            let largest = magnitudes.clone().fold(0.0, f64::max);
            if largest == 0.0 {
                return 0.0;
            }
            let sum: f64 = magnitudes.map(|x| (x / largest) * (x / largest)).sum();
            largest * sum.sqrt()
        }
    }
}

impl Coupling {
    /// The score of every channel that can be pruned: one array a group, in the order of
    /// [`groups`](Self::groups), ready for a [`Pruner`](crate::Pruner).
    ///
    /// Where several layers make (or several batch normalizations scale) the same channels, and where a channel is
    /// a block of entries, the score is the mean over them all.
    ///
    /// ```
    /// use ndarray::{arr1, arr2};
    /// use taper::Pruner;
    /// use taper::prune::{ChannelScore, ChannelSlimming, Coupling, Keep, Norm, Scope, Tensors};
    ///
    /// let mut net = Coupling::new();
    /// let x = net.input(2)?;
    /// let x = net.layer("fc1", x, 3)?;
    /// let x = net.layer("fc2", x, 1)?;
    /// net.output(x)?;
    /// let mut tensors: Tensors<f32> = Tensors::new();
    /// tensors.insert("fc1.weight".into(), arr2(&[[1., 2.], [0., 0.5], [5., 6.]]).into_dyn());
    /// tensors.insert("fc2.weight".into(), arr2(&[[7., 8., 9.]]).into_dyn());
    ///
    /// let scores = net.scores(&tensors, ChannelScore::Filter(Norm::L1))?;
    /// assert_eq!(scores, [arr1(&[3.0, 0.5, 11.0])]);
    /// let views: Vec<_> = scores.iter().map(|group| group.view()).collect();
    /// let plan = ChannelSlimming::new(Keep::Count(2)).scope(Scope::Layer).plan(&views)?;
    /// assert_eq!(plan.kept(0), Some(&[0, 2][..]));
    /// # Ok::<(), taper::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTensor`] and [`Error::ChannelAxis`] for tensors that are not there or do not fit,
    /// [`Error::Coupling`] where no batch normalization runs along a group ([`ChannelScore::NormScale`]), and
    /// [`Error::NonFinite`].
    pub fn scores<F: Float>(
        &self,
        tensors: &Tensors<F>,
        score: ChannelScore,
    ) -> Result<Vec<Array1<F>>> {
        check_all(self, tensors)?;
        let groups = self.groups()?;
        let slots = self.slots()?;
        // The sum of scores and how many there were, for each channel of each group.
        let mut sums: Vec<Vec<(f64, usize)>> = groups
            .iter()
            .map(|group| vec![(0.0, 0); group.channels()])
            .collect();
        for node in &self.nodes {
            let entries = match (&node.origin, score) {
                (Origin::BatchNorm { name, .. }, ChannelScore::NormScale) => {
                    let scale = tensors.get(&self.tensor(name, |names| &names.scale));
                    scale.map(|scale| filter_norms(scale.view(), Norm::L1))
                }
                (Origin::Layer { name, .. }, ChannelScore::Filter(norm)) => {
                    let weight = tensors.get(&self.tensor(name, |names| &names.weight));
                    weight.map(|weight| filter_norms(weight.view(), norm))
                }
                _ => None,
            };
            if let Some(entries) = entries {
                self.add_scores(&mut sums, &slots, &node.segments, &entries?);
            }
        }
        let means = sums.iter().zip(&groups).map(|(sums, group)| {
            let means = sums.iter().map(|&(sum, count)| match count {
                0 => None,
                count => Some(F::from_f64_lossy(sum / count as f64)),
            });
            means.collect::<Option<_>>().ok_or_else(|| Error::Coupling {
                problem: format!(
                    "no batch normalization gives a score to the channels of {}",
                    group.name()
                ),
            })
        });
        means.collect()
    }

    fn add_scores<F: Float>(
        &self,
        sums: &mut [Vec<(f64, usize)>],
        slots: &[Option<usize>],
        segments: &[Segment],
        entries: &Array1<F>,
    ) {
        let mut entries = entries.iter();
        for segment in segments {
            let slot = slots.get(segment.group).copied().flatten();
            for unit in 0..self.units(segment.group) {
                let block = entries.by_ref().take(segment.block);
                let sum: f64 = block.map(|score| score.as_f64()).sum();
                let place = slot.and_then(|slot| sums.get_mut(slot)?.get_mut(unit));
                if let Some((total, count)) = place {
                    *total += sum;
                    *count += segment.block;
                }
            }
        }
    }
}
