//! Numbers that change over a training.

use crate::{ParamError, check};

/// A number that changes over a training, such as the temperature or the weight of a
/// [`KnowledgeDistillation`](super::KnowledgeDistillation).
///
/// ```
/// use taper::distill::{Anneal, KnowledgeDistillation};
///
/// let temperature = Anneal::Geometric { from: 16.0, to: 1.0 };
/// let alpha = Anneal::Linear { from: 1.0, to: 0.5 };
/// for epoch in 0..=20 {
///     let progress = f64::from(epoch) / 20.0;
///     let loss = KnowledgeDistillation::new(temperature.at(progress)?).alpha(alpha.at(progress)?);
///     println!("epoch {epoch}: T = {}, α = {}", loss.temperature, loss.alpha);
/// }
/// assert_eq!(temperature.at(0.5)?, 4.0);
/// # Ok::<(), taper::ParamError>(())
/// ```
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(rename_all = "snake_case"))]
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Anneal {
    /// The same value throughout.
    Constant(f64),
    /// In equal steps from the first value to the last.
    Linear {
        /// The first value.
        from: f64,
        /// The last value.
        to: f64,
    },
    /// Slow at both ends: half a period of a cosine.
    Cosine {
        /// The first value.
        from: f64,
        /// The last value.
        to: f64,
    },
    /// By equal factors. Both values must be positive and finite.
    Geometric {
        /// The first value.
        from: f64,
        /// The last value.
        to: f64,
    },
}

impl Anneal {
    /// Returns the value after the fraction `progress` of the training, in [0, 1]. It lies between the first value and the
    /// last.
    ///
    /// # Errors
    ///
    /// [`ParamError::OutOfRange`] for a progress outside [0, 1], for values that are not finite, and for a
    /// [`Geometric`](Self::Geometric) with a value that is not positive.
    pub fn at(self, progress: f64) -> Result<f64, ParamError> {
        let inside = (0.0..=1.0).contains(&progress);
        check::in_range("progress", progress, "in [0, 1]", inside)?;
        let (from, to) = self.ends();
        for end in [from, to] {
            check::in_range("a value to anneal", end, "finite", end.is_finite())?;
            if matches!(self, Self::Geometric { .. }) {
                check::in_range("a geometric value", end, "positive", end > 0.0)?;
            }
        }
        let value = match self {
            Self::Constant(value) => value,
            Self::Linear { .. } => from * (1.0 - progress) + to * progress,
            Self::Cosine { .. } => {
                let part = 0.5 - 0.5 * (std::f64::consts::PI * progress).cos();
                from * (1.0 - part) + to * part
            }
            Self::Geometric { .. } => from.powf(1.0 - progress) * to.powf(progress),
        };
        // Rounding may pass an end.
        Ok(value.max(from.min(to)).min(from.max(to)))
    }

    fn ends(self) -> (f64, f64) {
        match self {
            Self::Constant(value) => (value, value),
            Self::Linear { from, to }
            | Self::Cosine { from, to }
            | Self::Geometric { from, to } => (from, to),
        }
    }
}
