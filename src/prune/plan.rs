//! Which channels of which layers are kept.

use std::collections::BTreeSet;

use crate::{Error, Result, check};

/// The channels that each layer keeps.
///
/// A [`Pruner`](crate::Pruner) identifies layers by their place in a list of scores, and so does the plan that it returns. A plan
/// for a [`Coupling`](super::Coupling) names them too, so that it cannot be applied to other channels by mistake:
/// [`Coupling::plan`](super::Coupling::plan) gives the names, and so does [`named`](Self::named).
///
/// ```
/// use taper::prune::PrunePlan;
///
/// let plan = PrunePlan::new(vec![(4, vec![0, 3]), (2, vec![1])])?.named(["conv1", "conv2"])?;
/// assert_eq!(plan.kept(0), Some(&[0, 3][..]));
/// assert_eq!((plan.name(1), plan.channels(1)), (Some("conv2"), Some(2)));
/// assert_eq!(plan.kept_fraction(), 0.5);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrunePlan {
    layers: Vec<LayerPlan>,
    /// One for each layer, or none at all.
    names: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct LayerPlan {
    channels: usize,
    kept: Vec<usize>,
}

impl PrunePlan {
    /// Creates a plan from the number of channels of each layer and the indices that it keeps, in rising order.
    ///
    /// # Errors
    ///
    /// [`Error::ExceedsInput`] for an index that is no channel, [`Error::Malformed`] for indices that do not rise and for
    /// a layer that keeps nothing (see [`with_dropped_layers`](Self::with_dropped_layers)).
    pub fn new(layers: Vec<(usize, Vec<usize>)>) -> Result<Self> {
        let empty = layers.iter().position(|(_, kept)| kept.is_empty());
        if let Some(layer) = empty {
            return Err(malformed(format!(
                "layer {layer} keeps none of its {} channels: keep one, or drop layers on purpose with \
                 PrunePlan::with_dropped_layers",
                layers[layer].0
            )));
        }
        Self::with_dropped_layers(layers)
    }

    /// Creates a plan in which layers may keep nothing.
    ///
    /// Their tensors then have an empty axis. That is of use for the hidden channels of a residual branch, which need not be
    /// computed any more ([`LayerPruner`](super::LayerPruner)).
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new) for indices.
    pub fn with_dropped_layers(layers: Vec<(usize, Vec<usize>)>) -> Result<Self> {
        for (channels, kept) in &layers {
            if let Some(&index) = kept.iter().find(|&index| index >= channels) {
                return Err(Error::ExceedsInput {
                    what: "a kept channel's index",
                    value: index,
                    limit: channels.saturating_sub(1),
                });
            }
            if let Some(pair) = kept.windows(2).find(|pair| pair[0] >= pair[1]) {
                return Err(malformed(format!(
                    "kept index {} is followed by {}: indices must rise",
                    pair[0], pair[1]
                )));
            }
        }
        let layers = layers
            .into_iter()
            .map(|(channels, kept)| LayerPlan { channels, kept })
            .collect();
        Ok(Self {
            layers,
            names: Vec::new(),
        })
    }

    /// Names the layers, in their order.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`] for another number of names than of layers, and [`Error::DuplicateName`].
    pub fn named<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Result<Self> {
        self.names = names.into_iter().map(Into::into).collect();
        check::same_shape(
            "the list of names",
            &[self.layers.len()],
            &[self.names.len()],
        )?;
        let mut seen = BTreeSet::new();
        match self.names.iter().find(|name| !seen.insert(*name)) {
            Some(name) => Err(Error::DuplicateName { name: name.clone() }),
            None => Ok(self),
        }
    }

    /// Returns how many layers the plan is for.
    #[must_use]
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// Returns the name of layer `layer`.
    #[must_use]
    pub fn name(&self, layer: usize) -> Option<&str> {
        self.names.get(layer).map(String::as_str)
    }

    /// Returns the names of the layers: one for each, or none in a plan without names.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// Returns the indices that layer `layer` keeps, in rising order.
    #[must_use]
    pub fn kept(&self, layer: usize) -> Option<&[usize]> {
        self.layers.get(layer).map(|layer| layer.kept.as_slice())
    }

    /// Returns how many channels layer `layer` has before pruning.
    #[must_use]
    pub fn channels(&self, layer: usize) -> Option<usize> {
        self.layers.get(layer).map(|layer| layer.channels)
    }

    /// Returns for each channel of layer `layer` whether it is kept.
    pub(super) fn mask(&self, layer: usize) -> Option<Vec<bool>> {
        let layer = self.layers.get(layer)?;
        let mut mask = vec![false; layer.channels];
        for &index in &layer.kept {
            mask[index] = true;
        }
        Some(mask)
    }

    /// Joins this plan and `next`, which is for the network that this one leaves, into one plan for the original network.
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
    /// [`Error::ShapeMismatch`] where `next` has other layers or other numbers of channels than this plan leaves, and
    /// [`Error::Malformed`] where its layers have other names.
    pub fn then(&self, next: &Self) -> Result<Self> {
        let left: Vec<usize> = self.layers.iter().map(|layer| layer.kept.len()).collect();
        let taken: Vec<usize> = next.layers.iter().map(|layer| layer.channels).collect();
        check::same_shape("the next plan's list of channels", &left, &taken)?;
        if self.names != next.names {
            return Err(malformed(format!(
                "a plan for the layers {:?} is followed by one for {:?}",
                self.names, next.names
            )));
        }
        let layers = self.layers.iter().zip(&next.layers).map(|(first, second)| {
            let kept = second.kept.iter().map(|&i| first.kept[i]);
            (first.channels, kept.collect())
        });
        let both = Self::with_dropped_layers(layers.collect())?;
        Ok(Self {
            names: self.names.clone(),
            ..both
        })
    }

    /// Returns kept channels over all channels, of all layers together; 1 for a plan without channels.
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

fn malformed(problem: String) -> Error {
    Error::Malformed {
        artifact: "PrunePlan",
        problem,
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
        for kept in [vec![1, 1], vec![2, 1]] {
            assert!(matches!(
                PrunePlan::new(vec![(3, kept)]),
                Err(Error::Malformed { .. })
            ));
        }
    }

    #[test]
    fn a_layer_that_keeps_nothing_is_an_error_unless_asked_for() {
        for channels in [0, 3] {
            let layers = vec![(2, vec![0]), (channels, vec![])];
            let error = PrunePlan::new(layers.clone()).unwrap_err();
            let text = format!("layer 1 keeps none of its {channels} channels");
            assert!(error.to_string().contains(&text), "{error}");
            let plan = PrunePlan::with_dropped_layers(layers).unwrap();
            assert_eq!(plan.kept(1), Some(&[][..]));
        }
    }

    #[test]
    fn names_are_one_for_each_layer_and_differ() {
        let plan = PrunePlan::new(vec![(2, vec![0]), (2, vec![1])]).unwrap();
        assert_eq!(plan.name(0), None);
        assert!(matches!(
            plan.clone().named(["a"]),
            Err(Error::ShapeMismatch { .. })
        ));
        let twice = Error::DuplicateName {
            name: "a".to_owned(),
        };
        assert_eq!(plan.clone().named(["a", "a"]), Err(twice));
        assert_eq!(plan.named(["a", "b"]).unwrap().name(1), Some("b"));
    }

    #[test]
    fn a_plan_follows_only_one_that_leaves_its_channels() {
        let plan = |layers| {
            let plan = PrunePlan::with_dropped_layers(layers).unwrap();
            plan.named(["a", "b"]).unwrap()
        };
        let first = plan(vec![(5, vec![0, 2, 4]), (2, vec![])]);
        let second = plan(vec![(3, vec![0]), (0, vec![])]);
        let both = plan(vec![(5, vec![0]), (2, vec![])]);
        assert_eq!(first.then(&second), Ok(both));
        assert!(matches!(
            second.then(&first),
            Err(Error::ShapeMismatch { .. })
        ));
        let other = second.named(["a", "c"]).unwrap();
        assert!(matches!(first.then(&other), Err(Error::Malformed { .. })));
    }

    #[test]
    fn a_mask_marks_the_kept_channels() {
        let plan = PrunePlan::new(vec![(3, vec![0, 2])]).unwrap();
        assert_eq!(plan.mask(0), Some(vec![true, false, true]));
        assert_eq!(plan.mask(1), None);
    }
}
