//! What a budget asks for.

use super::compress::CompressOptions;
use super::step::{self, Step};
use crate::{Result, check};

/// A budget, its candidates and the weights of errors.
#[derive(Debug, Clone)]
pub(super) struct Plan<'a> {
    pub(super) target: Target,
    /// The chains to be tried; a trellis with a step for each tensor if there are none.
    pub(super) candidates: Option<Vec<Vec<Step>>>,
    /// Patterns of names, and what the errors of these tensors are multiplied with.
    pub(super) sensitivities: Vec<(String, f64)>,
    pub(super) seed: u64,
    pub(super) options: CompressOptions<'a>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Target {
    Bytes(u64),
    Ratio(f64),
    Error(f64),
}

impl Plan<'_> {
    /// Checks candidates, sensitivities and the target.
    pub(super) fn check(&self) -> Result<()> {
        for chain in self.candidates.iter().flatten() {
            step::check_chain(chain)?;
        }
        for &(ref pattern, factor) in &self.sensitivities {
            super::recipe::pattern(pattern)?;
            let inside = factor >= 0.0 && factor.is_finite();
            check::in_range("sensitivity", factor, "at least 0 and finite", inside)?;
        }
        self.target.check()
    }

    pub(super) fn sensitivity_of(&self, name: &str) -> Result<f64> {
        for (pattern, factor) in &self.sensitivities {
            if super::recipe::pattern(pattern)?.matches(name) {
                return Ok(*factor);
            }
        }
        Ok(1.0)
    }
}

impl Target {
    pub(super) fn check(self) -> Result<()> {
        match self {
            Self::Bytes(_) => Ok(()),
            Self::Ratio(ratio) => {
                let inside = ratio > 0.0 && ratio.is_finite();
                let range = "above 0 and finite";
                Ok(check::in_range("ratio", ratio, range, inside)?)
            }
            Self::Error(error) => Ok(check::in_range("error", error, "at least 0", error >= 0.0)?),
        }
    }
}
