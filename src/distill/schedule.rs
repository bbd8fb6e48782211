//! Temperature and α over the course of a training.

use super::{KnowledgeDistillation, check_temperature};
use crate::{ParamError, check};

/// A number that changes over the course of a training, from `from` at its start to `to` at its end.
///
/// ```
/// use taper::distill::Anneal;
///
/// let cosine = Anneal::Cosine { from: 8.0, to: 2.0 };
/// assert!((cosine.at(0.5)? - 5.0).abs() < 1e-12);
/// # Ok::<(), taper::ParamError>(())
/// ```
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(rename_all = "snake_case"))]
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Anneal {
    /// The same all the time.
    Constant(f64),
    /// In equal steps.
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
    /// By equal factors; both ends are positive.
    Geometric {
        /// The first value.
        from: f64,
        /// The last value.
        to: f64,
    },
}

impl Anneal {
    /// The value after the part `progress` of the training, in [0, 1].
    ///
    /// It lies between the two ends, and is one of them at 0 and at 1.
    ///
    /// # Errors
    ///
    /// [`ParamError::OutOfRange`] for a progress outside [0, 1].
    ///
    /// ```
    /// use taper::distill::Anneal;
    ///
    /// let temperature = Anneal::Geometric { from: 16.0, to: 1.0 };
    /// assert_eq!(temperature.at(0.5)?, 4.0);
    /// assert!(temperature.at(1.5).is_err());
    /// # Ok::<(), taper::ParamError>(())
    /// ```
    pub fn at(self, progress: f64) -> Result<f64, ParamError> {
        let inside = (0.0..=1.0).contains(&progress);
        check::in_range("progress", progress, "in [0, 1]", inside)?;
        let (from, to) = self.ends();
        let value = match self {
            Self::Constant(value) => value,
            Self::Linear { .. } => from * (1.0 - progress) + to * progress,
            Self::Cosine { .. } => {
                let part = 0.5 - 0.5 * (std::f64::consts::PI * progress).cos();
                from * (1.0 - part) + to * part
            }
            Self::Geometric { .. } => from.powf(1.0 - progress) * to.powf(progress),
        };
        // Rounding may step over an end.
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

    /// Errs where an end fails `check`; what lies between two ends then passes too, as ranges have no holes.
    fn check(self, check_end: impl Fn(f64) -> Result<(), ParamError>) -> Result<(), ParamError> {
        let (from, to) = self.ends();
        for end in [from, to] {
            check_end(end)?;
            if matches!(self, Self::Geometric { .. }) {
                let inside = end > 0.0 && end.is_finite();
                check::in_range("a geometric end", end, "positive and finite", inside)?;
            }
        }
        Ok(())
    }
}

/// [`KnowledgeDistillation`] whose temperature and α change over the course of a training.
///
/// ```
/// use taper::distill::{Anneal, DistillationSchedule};
///
/// let schedule = DistillationSchedule::new(Anneal::Cosine { from: 8.0, to: 2.0 })
///     .alpha(Anneal::Linear { from: 1.0, to: 0.5 });
/// for epoch in 0..20 {
///     let distiller = schedule.at(f64::from(epoch) / 19.0)?;
///     assert!((2.0..=8.0).contains(&distiller.temperature));
/// }
/// # Ok::<(), taper::ParamError>(())
/// ```
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(deny_unknown_fields))]
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct DistillationSchedule {
    /// The temperature T over the training.
    pub temperature: Anneal,
    /// The weight α over the training.
    #[cfg_attr(feature = "model", serde(default = "crate::defaults::constant_alpha"))]
    pub alpha: Anneal,
}

impl DistillationSchedule {
    /// Parameters with the course of the temperature given and α = 0.9 throughout.
    #[must_use]
    pub fn new(temperature: Anneal) -> Self {
        Self {
            temperature,
            alpha: crate::defaults::constant_alpha(),
        }
    }

    /// The loss after the part `progress` of the training, in [0, 1].
    ///
    /// # Errors
    ///
    /// [`ParamError::OutOfRange`] for a progress outside [0, 1].
    pub fn at(&self, progress: f64) -> Result<KnowledgeDistillation, ParamError> {
        self.validate()?;
        let temperature = self.temperature.at(progress)?;
        Ok(KnowledgeDistillation::new(temperature).alpha(self.alpha.at(progress)?))
    }

    /// Sets the course of the weight of the teacher's part, in [0, 1].
    #[must_use]
    pub fn alpha(mut self, alpha: Anneal) -> Self {
        self.alpha = alpha;
        self
    }

    /// Checks the parameters, as every call that uses them does.
    ///
    /// # Errors
    ///
    /// The first parameter that no input could make right.
    pub fn validate(&self) -> Result<(), ParamError> {
        self.temperature.check(check_temperature)?;
        self.alpha.check(super::check_alpha)?;
        Ok(())
    }
}
