//! How much is kept, and the choice by rank that the pruners share.

use std::cmp::Ordering;

use ndarray::ArrayView1;

use super::PrunePlan;
use crate::{Error, Float, ParamError, Result, check};

/// How much is kept.
///
/// ```
/// use taper::Pruner;
/// use taper::ndarray::arr1;
/// use taper::prune::{ChannelSlimming, Keep};
///
/// let scales = arr1(&[0.9_f32, 0.1, 0.5, 0.4]);
/// for keep in [Keep::Fraction(0.5), Keep::Count(2), Keep::Threshold(0.45)] {
///     let plan = ChannelSlimming::new(keep).plan(&[scales.view()])?;
///     assert_eq!(plan.kept(0), Some(&[0, 2][..]));
/// }
/// # Ok::<(), taper::Error>(())
/// ```
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(rename_all = "snake_case"))]
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Keep {
    /// This fraction, from 0 to 1. The count is rounded to the nearest integer.
    Fraction(f64),
    /// This number.
    Count(usize),
    /// All whose magnitude is at least this.
    Threshold(f64),
}

impl Keep {
    pub(super) fn check(self) -> Result<(), ParamError> {
        match self {
            Self::Fraction(fraction) => check::in_range(
                "the kept fraction",
                fraction,
                "from 0 to 1",
                (0.0..=1.0).contains(&fraction),
            ),
            Self::Count(_) => Ok(()),
            Self::Threshold(threshold) => check::in_range(
                "the threshold",
                threshold,
                "finite and not negative",
                threshold.is_finite() && threshold >= 0.0,
            ),
        }
    }
}

/// Whether layers compete with each other.
///
/// ```
/// use taper::Pruner;
/// use taper::ndarray::arr1;
/// use taper::prune::{ChannelSlimming, Keep, Scope};
///
/// let (large, small) = (arr1(&[0.9_f32, 0.8]), arr1(&[0.2_f32, 0.1]));
/// let kept = |scope| {
///     let pruner = ChannelSlimming::new(Keep::Fraction(0.75)).scope(scope);
///     let plan = pruner.plan(&[large.view(), small.view()])?;
///     Ok::<_, taper::Error>([0, 1].map(|layer| plan.kept(layer).map_or(0, <[usize]>::len)))
/// };
/// assert_eq!(kept(Scope::Global)?, [2, 1]);
/// // Each layer keeps 75 % of its two channels, rounded.
/// assert_eq!(kept(Scope::Layer)?, [2, 2]);
/// # Ok::<(), taper::Error>(())
/// ```
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(rename_all = "snake_case"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Scope {
    /// All layers together, with one threshold: less important layers lose more.
    #[default]
    Global,
    /// Each layer by itself: every layer keeps the same fraction or count.
    Layer,
}

/// Returns the magnitudes of scores, which must be finite.
pub(super) fn magnitudes<F: Float>(scores: &[ArrayView1<'_, F>]) -> Result<Vec<Vec<f64>>> {
    check::not_empty("the list of scores", &[scores.len()])?;
    let layers = scores.iter().map(|layer| {
        check::finite("scores", layer)?;
        Ok(layer.iter().map(|score| score.as_f64().abs()).collect())
    });
    layers.collect()
}

/// Returns the indices of the largest magnitudes of each layer, at least `minimum` (or all, where a layer has fewer).
///
/// The minimum is set aside first and counts towards what is kept, so a fraction or a count is met exactly unless the
/// minima alone exceed it.
pub(super) fn choose(
    layers: &[Vec<f64>],
    keep: Keep,
    scope: Scope,
    minimum: usize,
) -> Result<Vec<Vec<usize>>> {
    match scope {
        Scope::Global => choose_among(layers, keep, minimum),
        Scope::Layer => layers
            .chunks(1)
            .map(|layer| Ok(choose_among(layer, keep, minimum)?.concat()))
            .collect(),
    }
}

/// Returns the plan of [`choose`].
pub(super) fn plan(
    layers: &[Vec<f64>],
    keep: Keep,
    scope: Scope,
    minimum: usize,
) -> Result<PrunePlan> {
    let kept = choose(layers, keep, scope, minimum)?;
    let lengths = layers.iter().map(Vec::len);
    PrunePlan::with_dropped_layers(lengths.zip(kept).collect())
}

struct Candidate {
    magnitude: f64,
    layer: usize,
    index: usize,
}

impl Candidate {
    /// A total order without equals: larger first, then the earlier layer, then the lower index.
    fn rank(&self, other: &Self) -> Ordering {
        other
            .magnitude
            .total_cmp(&self.magnitude)
            .then(self.layer.cmp(&other.layer))
            .then(self.index.cmp(&other.index))
    }
}

/// Moves the first `count` candidates by rank to the front, in no order.
fn partition(candidates: &mut [Candidate], count: usize) {
    if count > 0 && count < candidates.len() {
        candidates.select_nth_unstable_by(count, Candidate::rank);
    }
}

/// Leaves as many of the largest candidates as bring the number kept from `taken` to `count`.
fn keep_first(candidates: &mut Vec<Candidate>, count: usize, taken: usize) {
    let more = count.saturating_sub(taken);
    partition(candidates, more);
    candidates.truncate(more);
}

fn choose_among(layers: &[Vec<f64>], keep: Keep, minimum: usize) -> Result<Vec<Vec<usize>>> {
    let total: usize = layers.iter().map(Vec::len).sum();
    let mut kept: Vec<Vec<usize>> = vec![Vec::new(); layers.len()];
    let mut rest = Vec::with_capacity(total);
    for (number, layer) in layers.iter().enumerate() {
        let mut candidates: Vec<Candidate> = layer
            .iter()
            .enumerate()
            .map(|(index, &magnitude)| Candidate {
                magnitude,
                layer: number,
                index,
            })
            .collect();
        let reserved = minimum.min(candidates.len());
        partition(&mut candidates, reserved);
        let others = candidates.split_off(reserved);
        kept[number].extend(candidates.iter().map(|candidate| candidate.index));
        rest.extend(others);
    }
    let taken = total - rest.len();
    match keep {
        Keep::Threshold(threshold) => rest.retain(|candidate| candidate.magnitude >= threshold),
        Keep::Fraction(fraction) => {
            keep_first(&mut rest, (fraction * total as f64).round() as usize, taken)
        }
        Keep::Count(count) if count > total => {
            return Err(Error::ExceedsInput {
                what: "the number to keep",
                value: count,
                limit: total,
            });
        }
        Keep::Count(count) => keep_first(&mut rest, count, taken),
    }
    for candidate in rest {
        kept[candidate.layer].push(candidate.index);
    }
    for layer in &mut kept {
        layer.sort_unstable();
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array1, arr1};
    use proptest::prelude::*;

    fn choose(
        layers: &[Array1<f32>],
        keep: Keep,
        scope: Scope,
        minimum: usize,
    ) -> Result<PrunePlan> {
        let views: Vec<_> = layers.iter().map(|layer| layer.view()).collect();
        plan(&magnitudes(&views)?, keep, scope, minimum)
    }

    proptest! {
        #[test]
        fn the_largest_are_kept(
            // Few distinct values, so that ties are common.
            layers in prop::collection::vec(prop::collection::vec(-4_i8..5, 1..9), 1..5),
            fraction in 0.0_f64..=1.0,
            minimum in 0_usize..4,
            global in any::<bool>(),
        ) {
            let layers: Vec<Array1<f32>> =
                layers.iter().map(|layer| layer.iter().map(|&x| f32::from(x)).collect()).collect();
            let scope = if global { Scope::Global } else { Scope::Layer };
            let plan = choose(&layers, Keep::Fraction(fraction), scope, minimum).unwrap();
            let count = |n: usize| (fraction * n as f64).round() as usize;
            let total: usize = layers.iter().map(Array1::len).sum();
            let minima: Vec<usize> = layers.iter().map(|layer| minimum.min(layer.len())).collect();
            let kept: usize = (0..layers.len()).map(|i| plan.kept(i).unwrap().len()).sum();
            if global {
                prop_assert_eq!(kept, count(total).max(minima.iter().sum()));
            }
            for (i, layer) in layers.iter().enumerate() {
                let kept = plan.kept(i).unwrap();
                prop_assert!(kept.len() >= minima[i]);
                if !global {
                    prop_assert_eq!(kept.len(), count(layer.len()).max(minima[i]));
                }
                for &k in kept {
                    for d in (0..layer.len()).filter(|d| !kept.contains(d)) {
                        let (x, y) = (layer[k].abs(), layer[d].abs());
                        prop_assert!(x > y || (x == y && k < d));
                    }
                }
                // Beyond the minima, nothing kept anywhere is below anything dropped anywhere.
                if global && kept.len() > minima[i] {
                    let weakest = kept.iter().map(|&k| layer[k].abs()).fold(f32::INFINITY, f32::min);
                    for (j, other) in layers.iter().enumerate() {
                        let there = plan.kept(j).unwrap();
                        for d in (0..other.len()).filter(|d| !there.contains(d)) {
                            prop_assert!(weakest >= other[d].abs());
                        }
                    }
                }
            }
        }

        #[test]
        fn a_threshold_keeps_what_reaches_it(
            layer in prop::collection::vec(-8_i8..9, 1..20),
            threshold in 0_u8..9,
        ) {
            let scores: Array1<f32> = layer.iter().map(|&x| f32::from(x)).collect();
            let keep = Keep::Threshold(f64::from(threshold));
            let plan = choose(&[scores], keep, Scope::Global, 0).unwrap();
            let expected: Vec<usize> = (0..layer.len())
                .filter(|&i| layer[i].unsigned_abs() >= threshold)
                .collect();
            prop_assert_eq!(plan.kept(0).unwrap(), expected);
        }
    }

    #[test]
    fn scores_that_cannot_be_ranked_are_refused() {
        assert!(matches!(
            choose(&[], Keep::Count(0), Scope::Global, 0),
            Err(Error::EmptyAxis { .. })
        ));
        let empty = arr1::<f32>(&[]);
        assert!(matches!(
            choose(&[empty], Keep::Count(0), Scope::Global, 0),
            Err(Error::EmptyAxis { .. })
        ));
        let bad = arr1(&[1.0, f32::NAN]);
        assert!(matches!(
            choose(&[bad], Keep::Count(1), Scope::Global, 0),
            Err(Error::NonFinite { index, .. }) if index == [1]
        ));
        let good = arr1(&[1.0_f32, 2.0]);
        assert_eq!(
            choose(&[good], Keep::Count(3), Scope::Global, 0),
            Err(Error::ExceedsInput {
                what: "the number to keep",
                value: 3,
                limit: 2
            })
        );
    }
}
