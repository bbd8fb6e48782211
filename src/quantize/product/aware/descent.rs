//! The course of the descent.

use super::units::Units;
use crate::observer::ObservedFit;
use crate::{FitReport, power};

/// A descent is converged when a sweep lowers the error by no more than this fraction of it.
const TOLERANCE: f64 = 1e-6;

/// The output errors of a descent, as a mean over the outputs.
pub(super) struct Descent<'a> {
    outputs: f64,
    units: Units,
    /// The last loss, in the units of the fit.
    loss: f64,
    observed: ObservedFit<'a>,
    /// With losses in the units of the caller.
    pub(super) report: FitReport,
}

impl<'a> Descent<'a> {
    /// Begins with the output error of the start, in the units of the fit.
    pub(super) fn new(outputs: usize, error: f64, units: Units, observed: ObservedFit<'a>) -> Self {
        let mut descent = Self {
            outputs: outputs as f64,
            units,
            loss: f64::INFINITY,
            observed,
            report: FitReport::default(),
        };
        descent.push(error);
        descent
    }

    /// Before a sweep: whether the observer stops the fit.
    pub(super) fn stops(&mut self) -> bool {
        let loss = self.report.loss().expect("the start has a loss");
        self.report.stopped = self.observed.stops(self.report.iterations, loss);
        self.report.stopped
    }

    /// After a sweep, which raises the error by rounding at most. Returns whether the descent has converged.
    pub(super) fn sweep(&mut self, error: f64) -> bool {
        let before = self.loss;
        self.push(error);
        self.report.iterations += 1;
        self.report.converged = self.loss >= before * (1.0 - TOLERANCE);
        self.report.converged
    }

    fn push(&mut self, error: f64) {
        // The reciprocal first, so that the losses have the same bits in all units.
        self.loss = (error.max(0.0) * (1.0 / self.outputs)).min(self.loss);
        let loss = power::times(self.loss, self.units.outputs);
        self.report.losses.push(loss);
    }
}
