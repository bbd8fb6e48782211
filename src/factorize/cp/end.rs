//! Why alternating sweeps ended.

use crate::FitReport;

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::factorize) enum End {
    Converged,
    Limit,
    Stopped,
}

impl End {
    /// The report of a fit that ended for this reason.
    pub(in crate::factorize) fn report(self, iterations: usize, losses: Vec<f64>) -> FitReport {
        FitReport {
            iterations,
            converged: self == Self::Converged,
            stopped: self == Self::Stopped,
            losses,
        }
    }
}
