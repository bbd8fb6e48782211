//! Which channels of which layers are kept.

use crate::{Error, Result, check};

/// The channels that each layer keeps.
///
/// ```
/// use taper::prune::PrunePlan;
///
/// let plan = PrunePlan::new(vec![(4, vec![0, 3]), (2, vec![1])])?;
/// assert_eq!(plan.kept(0), Some(&[0, 3][..]));
/// assert_eq!(plan.channels(0), Some(4));
/// assert!((plan.kept_fraction() - 0.5).abs() < 1e-12);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrunePlan {
    layers: Vec<LayerPlan>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct LayerPlan {
    channels: usize,
    kept: Vec<usize>,
}

impl PrunePlan {
    /// A plan from the number of channels of each layer and the indices it keeps, in rising order.
    ///
    /// # Errors
    ///
    /// [`Error::ExceedsInput`] for an index that is no channel, [`Error::Malformed`] for indices that do not
    /// rise.
    pub fn new(layers: Vec<(usize, Vec<usize>)>) -> Result<Self> {
        for (channels, kept) in &layers {
            if let Some(&index) = kept.iter().find(|&index| index >= channels) {
                return Err(Error::ExceedsInput {
                    what: "a kept channel's index",
                    value: index,
                    limit: channels.saturating_sub(1),
                });
            }
            if let Some(pair) = kept.windows(2).find(|pair| pair[0] >= pair[1]) {
                return Err(Error::Malformed {
                    artifact: "PrunePlan",
                    problem: format!("kept index {} is followed by {}", pair[0], pair[1]),
                });
            }
        }
        let layers = layers
            .into_iter()
            .map(|(channels, kept)| LayerPlan { channels, kept })
            .collect();
        Ok(Self { layers })
    }

    /// How many layers the plan is for.
    #[must_use]
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// The indices that layer `layer` keeps, in rising order.
    #[must_use]
    pub fn kept(&self, layer: usize) -> Option<&[usize]> {
        self.layers.get(layer).map(|layer| layer.kept.as_slice())
    }

    /// How many channels layer `layer` had.
    #[must_use]
    pub fn channels(&self, layer: usize) -> Option<usize> {
        self.layers.get(layer).map(|layer| layer.channels)
    }

    /// For each channel of layer `layer` whether it is kept.
    #[must_use]
    pub fn mask(&self, layer: usize) -> Option<Vec<bool>> {
        let layer = self.layers.get(layer)?;
        let mut mask = vec![false; layer.channels];
        for &index in &layer.kept {
            if let Some(kept) = mask.get_mut(index) {
                *kept = true;
            }
        }
        Some(mask)
    }

    /// This plan and then `next`, which is for the network that this one leaves, as one plan for the original.
    ///
    /// ```
    /// use taper::prune::PrunePlan;
    ///
    /// let first = PrunePlan::new(vec![(5, vec![0, 2, 4])])?;
    /// let second = PrunePlan::new(vec![(3, vec![1, 2])])?;
    /// assert_eq!(first.then(&second)?, PrunePlan::new(vec![(5, vec![2, 4])])?);
    /// # Ok::<(), taper::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`] where `next` has other layers or other numbers of channels than this one leaves.
    pub fn then(&self, next: &Self) -> Result<Self> {
        let left: Vec<usize> = self.layers.iter().map(|layer| layer.kept.len()).collect();
        let taken: Vec<usize> = next.layers.iter().map(|layer| layer.channels).collect();
        check::same_shape("the next plan's list of channels", &left, &taken)?;
        let layers = self.layers.iter().zip(&next.layers).map(|(first, second)| {
            let kept = second.kept.iter().filter_map(|&i| first.kept.get(i));
            (first.channels, kept.copied().collect())
        });
        Self::new(layers.collect())
    }

    /// Kept channels over all channels, all layers together; 1 for a plan of nothing.
    #[must_use]
    pub fn kept_fraction(&self) -> f64 {
        let channels: usize = self.layers.iter().map(|layer| layer.channels).sum();
        let kept: usize = self.layers.iter().map(|layer| layer.kept.len()).sum();
        if channels == 0 {
            return 1.0;
        }
        kept as f64 / channels as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_must_be_channels_and_rise() {
        assert!(matches!(
            PrunePlan::new(vec![(2, vec![2])]),
            Err(Error::ExceedsInput {
                value: 2,
                limit: 1,
                ..
            })
        ));
        assert!(PrunePlan::new(vec![(3, vec![1, 1])]).is_err());
        assert!(PrunePlan::new(vec![(3, vec![2, 1])]).is_err());
        assert!(PrunePlan::new(vec![(0, vec![])]).is_ok());
    }

    #[test]
    fn a_plan_follows_only_one_that_leaves_its_channels() {
        let first = PrunePlan::new(vec![(5, vec![0, 2, 4]), (2, vec![])]).unwrap();
        let second = PrunePlan::new(vec![(3, vec![0]), (0, vec![])]).unwrap();
        let both = PrunePlan::new(vec![(5, vec![0]), (2, vec![])]).unwrap();
        assert_eq!(first.then(&second), Ok(both));
        assert!(matches!(
            second.then(&first),
            Err(Error::ShapeMismatch { .. })
        ));
    }

    #[test]
    fn a_mask_says_what_is_kept() {
        let plan = PrunePlan::new(vec![(3, vec![0, 2])]).unwrap();
        assert_eq!(plan.mask(0), Some(vec![true, false, true]));
        assert_eq!(plan.mask(1), None);
    }
}
