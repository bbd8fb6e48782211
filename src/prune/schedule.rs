//! How much is left after each of several rounds of pruning and fine-tuning.

use super::Keep;
use crate::{ParamError, ParamGuard, Result, check};

/// How the kept fraction falls from round to round.
///
/// ```
/// use taper::ParamGuard;
/// use taper::prune::{Decay, IterativeSchedule};
///
/// let after_first = |decay| {
///     let schedule = IterativeSchedule::params(0.25).rounds(2).decay(decay).check()?;
///     Ok::<_, taper::ParamError>(schedule.fractions().next().unwrap_or(1.0))
/// };
/// assert_eq!(after_first(Decay::Geometric)?, 0.5);
/// assert_eq!(after_first(Decay::Linear)?, 0.625);
/// assert_eq!(after_first(Decay::Cubic)?, 0.34375);
/// # Ok::<(), taper::ParamError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Decay {
    /// Each round keeps the same part of what is left: after round t of T, fᵗᐟᵀ of all.
    #[default]
    Geometric,
    /// Each round drops the same part of all.
    Linear,
    /// Much at first, little at the end: 1 − (1 − f)(1 − (1 − t/T)³) of all is left (Zhu and Gupta, "To prune,
    /// or not to prune", 2017, [arXiv:1710.01878](https://arxiv.org/abs/1710.01878)).
    Cubic,
}

/// The rounds of iterative pruning: prune a little, fine-tune, prune again.
///
/// Each round says what to keep of all that was there at the start, as a count, so that rounding does not add
/// up. Plan each round on the scores of the fine-tuned network, and put plans one after the other with
/// [`PrunePlan::then`](super::PrunePlan::then) where one for the original network is wanted.
///
/// ```
/// use taper::ParamGuard;
/// use taper::prune::{IterativeSchedule, Keep};
///
/// let schedule = IterativeSchedule::params(0.25).rounds(2).check()?;
/// let rounds: Vec<Keep> = schedule.keeps(1000).collect();
/// assert_eq!(rounds, [Keep::Count(500), Keep::Count(250)]);
/// # Ok::<(), taper::ParamError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct IterativeSchedule {
    fraction: f64,
    rounds: usize,
    decay: Decay,
}

/// Parameters of [`IterativeSchedule`], yet to be checked.
///
/// ```
/// use taper::ParamGuard;
/// use taper::prune::IterativeSchedule;
///
/// let schedule = IterativeSchedule::params(0.125).rounds(3).check()?;
/// assert_eq!(schedule.fractions().last(), Some(0.125));
/// # Ok::<(), taper::ParamError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct IterativeScheduleParams(IterativeSchedule);

impl IterativeSchedule {
    /// Ends with `fraction` of all kept, after three rounds.
    #[must_use]
    pub fn params(fraction: f64) -> IterativeScheduleParams {
        IterativeScheduleParams(Self {
            fraction,
            rounds: 3,
            decay: Decay::default(),
        })
    }

    /// The fraction of all that is left after each round; it never rises, and ends at the one asked for.
    pub fn fractions(&self) -> impl Iterator<Item = f64> + '_ {
        (1..=self.rounds).map(|round| {
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
        })
    }

    /// What to keep in each round of `total` channels (or weights) that were there at the start.
    pub fn keeps(&self, total: usize) -> impl Iterator<Item = Keep> + '_ {
        self.fractions()
            .map(move |fraction| Keep::Count((fraction * total as f64).round() as usize))
    }
}

impl IterativeScheduleParams {
    /// The number of rounds, at least 1.
    #[must_use]
    pub fn rounds(mut self, rounds: usize) -> Self {
        self.0.rounds = rounds;
        self
    }

    /// How the kept fraction falls.
    #[must_use]
    pub fn decay(mut self, decay: Decay) -> Self {
        self.0.decay = decay;
        self
    }
}

impl ParamGuard for IterativeScheduleParams {
    type Checked = IterativeSchedule;

    fn check_ref(&self) -> Result<&IterativeSchedule, ParamError> {
        Keep::Fraction(self.0.fraction).check()?;
        check::at_least_one("the number of rounds", self.0.rounds)?;
        Ok(&self.0)
    }

    fn check(self) -> Result<IterativeSchedule, ParamError> {
        self.check_ref()?;
        Ok(self.0)
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
            let schedule = IterativeSchedule::params(fraction).rounds(rounds).decay(decay).check().unwrap();
            let fractions: Vec<f64> = schedule.fractions().collect();
            prop_assert_eq!(fractions.len(), rounds);
            prop_assert_eq!(fractions.last(), Some(&fraction));
            // The last is exact, those before carry a few roundings of numbers below 1.
            prop_assert!(fractions.windows(2).all(|pair| pair[1] <= pair[0] + 8.0 * f64::EPSILON));
            let last = schedule.keeps(total).last();
            prop_assert_eq!(last, Some(Keep::Count((fraction * total as f64).round() as usize)));
        }
    }

    #[test]
    fn each_decay_has_its_closed_form() {
        let left = |decay| -> Vec<f64> {
            let schedule = IterativeSchedule::params(0.0625).rounds(2).decay(decay);
            schedule.check().unwrap().fractions().collect()
        };
        assert_eq!(left(Decay::Geometric), [0.25, 0.0625]);
        assert_eq!(left(Decay::Linear), [0.53125, 0.0625]);
        assert_eq!(left(Decay::Cubic), [1.0 - 0.9375 * (1.0 - 0.125), 0.0625]);
    }

    #[test]
    fn parameters_are_checked() {
        assert!(IterativeSchedule::params(1.1).check().is_err());
        assert!(IterativeSchedule::params(f64::NAN).check().is_err());
        assert!(IterativeSchedule::params(0.5).rounds(0).check().is_err());
    }
}
