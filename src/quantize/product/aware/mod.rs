//! Codes and codebooks for the least error of the outputs, tr(E M Eᵀ), instead of that of the weights.
//!
//! Both axes begin with k-means weighted by the inputs (P. Stock et al., "And the Bit Goes Down", 2019, arXiv:1907.05686)
//! and with error feedback (as M. van Baalen et al., "GPTVQ", 2024, arXiv:2402.15319, and GPTQ do), and then descend:
//! codes, given all other codes, and centroids, given all codes, are chosen anew in turn. No step of the descent
//! raises the output error (of the damped moments).
//!
//! - `inputs`: groups of inputs. The moments couple groups, and within a group they are a metric for its sub-vectors.
//! - `outputs`: groups of outputs. Groups are independent; the moments couple the points (inputs) of a group.

mod inputs;
mod outputs;

use ndarray::{Array1, Array2, ArrayView2};

use super::SplitAxis;
use super::params::{Fit, ProductQuantizer};
use crate::cluster::Clusterer;
use crate::observer::ObservedFit;
use crate::{FitReport, Float, InputMoments, Observer, Precision, Result};

/// Codebooks and codes for weights that have been checked.
pub(super) fn fit<F: Float, C: Clusterer<F>>(
    quantizer: &ProductQuantizer<C>,
    weights: ArrayView2<'_, F>,
    moments: &InputMoments,
    observer: Option<&dyn Observer>,
) -> Result<Fit<F>> {
    moments.fits(weights.ncols())?;
    // Products round by the order in memory, which is to have no say.
    let weights = weights.as_standard_layout();
    let weights = weights.view();
    match quantizer.axis {
        SplitAxis::In => inputs::fit(quantizer, weights, moments, observer),
        SplitAxis::Out => outputs::fit(quantizer, weights, moments, observer),
    }
}

/// Weights of points over the largest of them: equal ones are all one, as without weights.
fn relative<F: Float>(weights: Array1<F>) -> Array1<F> {
    let largest = weights.iter().fold(F::zero(), |max, &x| max.max(x));
    if largest > F::zero() {
        weights / largest
    } else {
        weights
    }
}

/// The centroids as they will be stored.
fn rounded<F: Float>(precision: Precision, centroids: &Array2<F>) -> Result<Array2<F>> {
    let values = centroids.iter().map(|&x| precision.round("a codebook", x));
    let values = values.collect::<Result<Vec<F>>>()?;
    Ok(Array2::from_shape_vec(centroids.dim(), values).expect("one value for each centroid value"))
}

/// How the descent went: its losses are output errors, as a mean over the outputs.
struct Descent<'a> {
    scale: f64,
    observed: ObservedFit<'a>,
    report: FitReport,
}

impl<'a> Descent<'a> {
    /// Begins with the output error of the start.
    fn new(outputs: usize, error: f64, observed: ObservedFit<'a>) -> Self {
        let scale = 1.0 / outputs as f64;
        let report = FitReport {
            losses: vec![error.max(0.0) * scale],
            ..FitReport::default()
        };
        Self {
            scale,
            observed,
            report,
        }
    }

    /// Before a sweep: whether an observer asks for none.
    fn stops(&mut self) -> bool {
        let loss = self.report.loss().unwrap_or(f64::INFINITY);
        self.report.stopped = self.observed.stops(self.report.iterations, loss);
        self.report.stopped
    }

    /// After a sweep, which never raises the error by more than rounding. Whether there is nothing left to gain.
    fn sweep(&mut self, error: f64) -> bool {
        let before = self.report.losses.last().copied().unwrap_or(f64::INFINITY);
        let loss = (error.max(0.0) * self.scale).min(before);
        self.report.iterations += 1;
        self.report.losses.push(loss);
        self.report.converged = loss >= before * (1.0 - 1e-6);
        self.report.converged
    }
}
