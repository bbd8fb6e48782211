//! Whole layers kept or dropped.

use ndarray::ArrayView1;

use super::{Keep, PrunePlan, Scope, keep};
use crate::{Float, ParamError, Pruner, Result};

/// Keeps whole layers, by the mean magnitude of their channels' scores.
///
/// Each layer of the plan keeps all of its channels or none. A layer may only be dropped where the network has a path
/// around it: give the scores of the hidden channels of residual branches. A branch without hidden channels adds a
/// constant; [`CoupledPlan`](super::CoupledPlan) folds it into the layers that read it, and the branch need
/// not be computed any more.
///
/// The fraction or the count is of layers. Of equal means the earlier layer is kept.
///
/// ```
/// use taper::Pruner;
/// use taper::ndarray::arr1;
/// use taper::prune::{Keep, LayerPruner};
///
/// let scores = [arr1(&[0.9, 0.1]), arr1(&[0.2, 0.3]), arr1(&[-0.8, 0.1])];
/// let views: Vec<_> = scores.iter().map(|layer| layer.view()).collect();
/// let plan = LayerPruner::new(Keep::Count(2)).plan(&views)?;
/// assert_eq!(plan.kept(0), Some(&[0, 1][..]));
/// assert_eq!(plan.kept(1), Some(&[][..]));
/// assert_eq!(plan.kept(2), Some(&[0, 1][..]));
/// # Ok::<(), taper::Error>(())
/// ```
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(deny_unknown_fields))]
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LayerPruner {
    /// How many layers are kept.
    pub keep: Keep,
}

impl LayerPruner {
    /// Creates a pruner that keeps `keep` of the layers.
    #[must_use]
    pub fn new(keep: Keep) -> Self {
        Self { keep }
    }

    /// Checks the parameters. Every call that uses them does so too.
    ///
    /// # Errors
    ///
    /// [`ParamError`] for the first parameter that is out of its range.
    pub fn validate(&self) -> Result<(), ParamError> {
        self.keep.check()
    }
}

impl<F: Float> Pruner<F> for LayerPruner {
    fn plan(&self, scores: &[ArrayView1<'_, F>]) -> Result<PrunePlan> {
        self.validate()?;
        let layers = keep::magnitudes(scores)?;
        let means = layers
            .iter()
            .map(|layer| layer.iter().sum::<f64>() / layer.len() as f64);
        let kept = keep::choose(&[means.collect()], self.keep, Scope::Global, 0)?.concat();
        let layers = layers.iter().enumerate().map(|(number, layer)| {
            let channels = if kept.contains(&number) {
                layer.len()
            } else {
                0
            };
            (layer.len(), (0..channels).collect())
        });
        PrunePlan::with_dropped_layers(layers.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use ndarray::{Array1, arr1};

    #[test]
    fn scores_are_checked() {
        let params = LayerPruner::new(Keep::Fraction(0.5));
        assert!(matches!(
            Pruner::<f32>::plan(&params, &[]),
            Err(Error::EmptyAxis { .. })
        ));
        let bad = arr1(&[f32::INFINITY]);
        assert!(matches!(
            params.plan(&[bad.view()]),
            Err(Error::NonFinite { .. })
        ));
        assert!(LayerPruner::new(Keep::Fraction(-0.1)).validate().is_err());
    }

    #[test]
    fn a_mean_does_not_grow_with_the_width() {
        let narrow = arr1(&[0.5_f64]);
        let wide = Array1::from_elem(100, 0.4);
        let plan = LayerPruner::new(Keep::Count(1))
            .plan(&[wide.view(), narrow.view()])
            .unwrap();
        assert_eq!(plan.kept(0), Some(&[][..]));
        assert_eq!(plan.kept(1), Some(&[0][..]));
    }
}
