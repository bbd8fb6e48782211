//! Iterative pruning: how much is kept after each of several rounds.

use super::Keep;
use crate::{ParamError, Result, check};

/// How the kept fraction falls from round to round.
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(rename_all = "snake_case"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Decay {
    /// Each round keeps the same fraction of what is left: $f^{t/T}$ of all after round t of T.
    #[default]
    Geometric,
    /// Each round drops the same number: $1 - (1 - f) t/T$ of all are left.
    Linear,
    /// Rounds drop much at first and little at the end: $1 - (1 - f)(1 - (1 - t/T)^3)$ of all are left (Zhu and Gupta,
    /// "To prune, or not to prune", 2017, [arXiv:1710.01878](https://arxiv.org/abs/1710.01878)).
    Cubic,
}

/// The rounds of iterative pruning: prune a little, fine-tune, prune again.
///
/// Each round keeps a number of all channels (or weights) that the network had at the start. Plan each round with the scores
/// of the fine-tuned network; [`PrunePlan::then`](super::PrunePlan::then) joins the plans into one for the original
/// network.
///
/// ```
/// use taper::prune::{Decay, IterativeSchedule, Keep};
///
/// let schedule = IterativeSchedule::new(0.25).rounds(2);
/// assert_eq!(schedule.keeps(1000)?, [Keep::Count(500), Keep::Count(250)]);
/// let schedule = schedule.decay(Decay::Linear);
/// assert_eq!(schedule.keeps(1000)?, [Keep::Count(625), Keep::Count(250)]);
/// # Ok::<(), taper::ParamError>(())
/// ```
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(deny_unknown_fields))]
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct IterativeSchedule {
    /// The fraction f that is kept after the last round, from 0 to 1.
    pub fraction: f64,
    /// The number of rounds T, at least 1; 3 by default.
    #[cfg_attr(feature = "model", serde(default = "crate::defaults::rounds"))]
    pub rounds: usize,
    /// How the kept fraction falls; [`Decay::Geometric`] by default.
    #[cfg_attr(feature = "model", serde(default))]
    pub decay: Decay,
}

impl IterativeSchedule {
    /// Creates a schedule that keeps `fraction` of all after three rounds.
    #[must_use]
    pub fn new(fraction: f64) -> Self {
        Self {
            fraction,
            rounds: crate::defaults::rounds(),
            decay: Decay::default(),
        }
    }

    /// Sets [`rounds`](Self#structfield.rounds).
    #[must_use]
    pub fn rounds(mut self, rounds: usize) -> Self {
        self.rounds = rounds;
        self
    }

    /// Sets [`decay`](Self#structfield.decay).
    #[must_use]
    pub fn decay(mut self, decay: Decay) -> Self {
        self.decay = decay;
        self
    }

    /// Returns the fraction of all that is kept after each round. The fractions never rise, and the last is
    /// [`fraction`](Self#structfield.fraction).
    ///
    /// # Errors
    ///
    /// Those of [`validate`](Self::validate).
    pub fn fractions(&self) -> Result<Vec<f64>, ParamError> {
        self.validate()?;
        let fraction = |round| {
            if round == self.rounds {
                return self.fraction;
            }
            let time = round as f64 / self.rounds as f64;
            let dropped = 1.0 - self.fraction;
            match self.decay {
                Decay::Geometric => self.fraction.powf(time),
                Decay::Linear => 1.0 - dropped * time,
                Decay::Cubic => 1.0 - dropped * (1.0 - (1.0 - time).powi(3)),
            }
        };
        Ok((1..=self.rounds).map(fraction).collect())
    }

    /// Returns the number to keep in each round, of the `total` before the first round.
    ///
    /// # Errors
    ///
    /// Those of [`validate`](Self::validate).
    pub fn keeps(&self, total: usize) -> Result<Vec<Keep>, ParamError> {
        let count = |fraction: f64| Keep::Count((fraction * total as f64).round() as usize);
        Ok(self.fractions()?.into_iter().map(count).collect())
    }

    /// Checks the parameters. Every call that uses them does so too.
    ///
    /// # Errors
    ///
    /// [`ParamError`] for the first parameter that is out of its range.
    pub fn validate(&self) -> Result<(), ParamError> {
        Keep::Fraction(self.fraction).check()?;
        check::at_least_one("the number of rounds", self.rounds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_left_never_rises_and_ends_as_asked(
            fraction in 0.0_f64..=1.0,
            rounds in 1_usize..12,
            decay in prop::sample::select(vec![Decay::Geometric, Decay::Linear, Decay::Cubic]),
            total in 0_usize..5000,
        ) {
            let schedule = IterativeSchedule::new(fraction).rounds(rounds).decay(decay);
            let fractions = schedule.fractions().unwrap();
            prop_assert_eq!(fractions.len(), rounds);
            prop_assert_eq!(fractions.last(), Some(&fraction));
            // The last is exact; the others carry a few roundings of numbers up to 1.
            prop_assert!(fractions.windows(2).all(|pair| pair[1] <= pair[0] + 8.0 * f64::EPSILON));
            let last = schedule.keeps(total).unwrap().pop();
            prop_assert_eq!(last, Some(Keep::Count((fraction * total as f64).round() as usize)));
        }
    }

    #[test]
    fn each_decay_has_its_closed_form() {
        let left = |decay| -> Vec<f64> {
            let schedule = IterativeSchedule::new(0.0625).rounds(2).decay(decay);
            schedule.fractions().unwrap()
        };
        assert_eq!(left(Decay::Geometric), [0.25, 0.0625]);
        assert_eq!(left(Decay::Linear), [0.53125, 0.0625]);
        assert_eq!(left(Decay::Cubic), [1.0 - 0.9375 * (1.0 - 0.125), 0.0625]);
    }

    #[test]
    fn parameters_are_checked() {
        assert!(IterativeSchedule::new(1.1).validate().is_err());
        assert!(IterativeSchedule::new(f64::NAN).validate().is_err());
        assert!(IterativeSchedule::new(0.5).rounds(0).validate().is_err());
    }
}
