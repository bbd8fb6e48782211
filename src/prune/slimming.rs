//! Choosing channels by their scores, and the penalty that makes scales of batch normalization small.

use ndarray::{ArrayView1, ArrayViewMut1};

use super::{Keep, PrunePlan, Scope, keep};
use crate::{Float, ParamError, Pruner, Result, check};

/// Keeps the channels with the largest |score|, with one threshold for all layers.
///
/// With the scales γ of batch normalizations as scores this is network slimming (Liu et al., "Learning Efficient
/// Convolutional Networks through Network Slimming", 2017, [arXiv:1708.06519](https://arxiv.org/abs/1708.06519)): train
/// with the [`penalty`](Self::penalty), prune, fine-tune. Other scores work too. Norms of filters are comparable within a layer only:
/// use [`Scope::Layer`] (Li et al., "Pruning Filters for Efficient ConvNets", 2017,
/// [arXiv:1608.08710](https://arxiv.org/abs/1608.08710)).
///
/// Of equal magnitudes the one in the earlier layer is kept, and in the same layer the one with the lower index.
///
/// ```
/// use taper::Pruner;
/// use taper::ndarray::arr1;
/// use taper::prune::{ChannelSlimming, Keep};
///
/// // The scales γ of two batch normalizations. All of the second are small, but it keeps one channel.
/// let scales = [arr1(&[0.9, -0.8, 0.4]), arr1(&[0.1, -0.2, 0.05])];
/// let plan = ChannelSlimming::new(Keep::Fraction(0.5)).plan(&[scales[0].view(), scales[1].view()])?;
/// assert_eq!(plan.kept(0), Some(&[0, 1][..]));
/// assert_eq!(plan.kept(1), Some(&[1][..]));
/// # Ok::<(), taper::Error>(())
/// ```
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(deny_unknown_fields))]
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ChannelSlimming {
    /// How many channels are kept.
    pub keep: Keep,
    /// Whether the channels of all layers compete (the default), or those of each layer among themselves.
    #[cfg_attr(feature = "model", serde(default))]
    pub scope: Scope,
    /// The number of channels that every layer keeps whatever their scores, or all if it has fewer; 1 by default.
    ///
    /// They count towards `keep`, so a fraction or a count is met exactly unless the minima alone exceed it. With 0 a
    /// layer may lose all its channels, which leaves tensors with an empty axis.
    #[cfg_attr(feature = "model", serde(default = "crate::defaults::one"))]
    pub minimum: usize,
}

impl ChannelSlimming {
    /// Creates a pruner that keeps `keep` of the channels of all layers together, and at least one in each.
    #[must_use]
    pub fn new(keep: Keep) -> Self {
        Self {
            keep,
            scope: Scope::Global,
            minimum: crate::defaults::one(),
        }
    }

    /// Sets [`scope`](Self#structfield.scope).
    #[must_use]
    pub fn scope(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    /// Sets [`minimum`](Self#structfield.minimum).
    #[must_use]
    pub fn minimum(mut self, channels: usize) -> Self {
        self.minimum = channels;
        self
    }

    /// Returns the ℓ1 penalty λ Σ|γ| on the scales γ of a batch normalization, and adds its subgradient λ·sign(γ), which is 0
    /// at γ = 0, to `gradient`.
    ///
    /// Call it before each step of the optimizer with the gradient that the framework computed for γ. The scales of
    /// unimportant channels go to zero in training, and pruning these channels costs little (Liu et al., 2017,
    /// [arXiv:1708.06519](https://arxiv.org/abs/1708.06519), who use λ from 10⁻⁵ to 10⁻³).
    ///
    /// ```
    /// use taper::ndarray::arr1;
    /// use taper::prune::ChannelSlimming;
    ///
    /// let scales = arr1(&[2.0, -1.0, 0.0]);
    /// let mut gradient = arr1(&[0.25, 0.25, 0.25]);
    /// let value = ChannelSlimming::penalty(0.5, scales.view(), gradient.view_mut())?;
    /// assert_eq!(value, 1.5);
    /// assert_eq!(gradient, arr1(&[0.75, -0.25, 0.25]));
    /// # Ok::<(), taper::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ParamError::OutOfRange`] for a `weight` λ that is negative or not finite; [`Error::NonFinite`](crate::Error::NonFinite)
    /// and [`Error::EmptyAxis`](crate::Error::EmptyAxis) for the scales; and
    /// [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) for a `gradient` of another length.
    pub fn penalty<F: Float>(
        weight: f64,
        scales: ArrayView1<'_, F>,
        mut gradient: ArrayViewMut1<'_, F>,
    ) -> Result<F> {
        let inside = weight.is_finite() && weight >= 0.0;
        check::in_range(
            "the weight of the penalty",
            weight,
            "finite and not negative",
            inside,
        )?;
        check::finite("scales", &scales)?;
        check::same_shape("gradient", scales.shape(), gradient.shape())?;
        let slope = F::from_f64_lossy(weight);
        gradient.zip_mut_with(&scales, |gradient, &scale| {
            if scale > F::zero() {
                *gradient += slope;
            } else if scale < F::zero() {
                *gradient -= slope;
            }
        });
        let sum: f64 = scales.iter().map(|scale| scale.as_f64().abs()).sum();
        Ok(F::from_f64_lossy(weight * sum))
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

impl<F: Float> Pruner<F> for ChannelSlimming {
    fn plan(&self, scores: &[ArrayView1<'_, F>]) -> Result<PrunePlan> {
        self.validate()?;
        keep::plan(
            &keep::magnitudes(scores)?,
            self.keep,
            self.scope,
            self.minimum,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use ndarray::{Array1, arr1};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_penalty_has_the_gradient_of_its_value(
            scales in prop::collection::vec(-3.0_f64..3.0, 1..10),
            weight in 0.0_f64..2.0,
        ) {
            let scales = Array1::from(scales);
            let penalty = |scales: &Array1<f64>| {
                let mut gradient = Array1::zeros(scales.len());
                let value = ChannelSlimming::penalty(weight, scales.view(), gradient.view_mut());
                (value.unwrap(), gradient)
            };
            let (_, gradient) = penalty(&scales);
            let step = 1e-6;
            for i in (0..scales.len()).filter(|&i| scales[i].abs() > step) {
                let mut ahead = scales.clone();
                ahead[i] += step;
                let mut behind = scales.clone();
                behind[i] -= step;
                let difference = penalty(&ahead).0 - penalty(&behind).0;
                // Piecewise linear, so that only the rounding of two sums below 60 divided by the step remains.
                let bound = 2.0 * 60.0 * 16.0 * f64::EPSILON / step;
                prop_assert!((difference / (2.0 * step) - gradient[i]).abs() <= bound);
            }
        }
    }

    #[test]
    fn parameters_are_checked() {
        for keep in [
            Keep::Fraction(1.5),
            Keep::Fraction(f64::NAN),
            Keep::Threshold(-1.0),
            Keep::Threshold(f64::INFINITY),
        ] {
            assert!(matches!(
                ChannelSlimming::new(keep).validate(),
                Err(ParamError::OutOfRange { .. })
            ));
            assert!(matches!(
                ChannelSlimming::new(keep).plan(&[arr1(&[1.0_f32]).view()]),
                Err(Error::Parameter(_))
            ));
        }
        for weight in [-1.0, f64::NAN, f64::INFINITY] {
            let mut gradient = arr1(&[0.0]);
            assert!(matches!(
                ChannelSlimming::penalty(weight, arr1(&[1.0]).view(), gradient.view_mut()),
                Err(Error::Parameter(ParamError::OutOfRange { .. }))
            ));
        }
    }

    #[test]
    fn a_layer_is_emptied_only_where_asked() {
        let scores = [arr1(&[1.0_f32, 2.0]), arr1(&[0.1, 0.2])];
        let views = [scores[0].view(), scores[1].view()];
        let params = ChannelSlimming::new(Keep::Count(2));
        let plan = params.clone().plan(&views).unwrap();
        assert_eq!(
            (plan.kept(0), plan.kept(1)),
            (Some(&[1][..]), Some(&[1][..]))
        );
        let plan = params.minimum(0).plan(&views).unwrap();
        assert_eq!(
            (plan.kept(0), plan.kept(1)),
            (Some(&[0, 1][..]), Some(&[][..]))
        );
    }

    #[test]
    fn gradients_of_other_lengths_are_refused() {
        let mut gradient = arr1(&[0.0_f32]);
        let error = ChannelSlimming::penalty(1.0, arr1(&[1.0, 2.0]).view(), gradient.view_mut());
        assert!(matches!(error, Err(Error::ShapeMismatch { .. })));
    }
}
