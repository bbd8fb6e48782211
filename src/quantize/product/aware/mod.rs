//! Codes and codebooks with a small error of the outputs, tr(E M Eᵀ), instead of the weights.
//!
//! Both axes begin with k-means weighted by the inputs (P. Stock et al., "And the Bit Goes Down", 2019, arXiv:1907.05686)
//! and with error feedback (as in M. van Baalen et al., "GPTVQ", 2024, arXiv:2402.15319, and GPTQ). A descent follows, which
//! chooses codes given all other codes, and centroids given all codes, in turn. No step of the descent raises the output error
//! (of the damped moments).
//!
//! - `inputs`: groups of inputs. The moments couple the groups, and are a metric for the sub-vectors of a group.
//! - `outputs`: groups of outputs. The groups are independent; the moments couple the points (inputs) of a group.
//! - `units`: weights and moments are scaled by powers of two before the fit, so that the result does not depend on their
//!   scale.
//! - `descent`: the losses of the descent, and when it ends.

mod descent;
mod inputs;
mod outputs;
mod units;

use ndarray::ArrayView2;

use self::units::Units;
use super::codebooks::Fit;
use super::scaled::ScaledClusterer;
use super::{ProductQuantizer, SplitAxis};
use crate::cluster::Clusterer;
use crate::{Float, InputMoments, Observer, Result, power};

/// Codebooks and codes for weights that are finite.
pub(super) fn fit<F: Float, C: Clusterer<F>>(
    quantizer: &ProductQuantizer<C>,
    weights: ArrayView2<'_, F>,
    moments: &InputMoments,
    observer: Option<&dyn Observer>,
) -> Result<Fit<F>> {
    moments.fits(weights.ncols())?;
    let (moments, squares) = moments.normalized()?;
    let exponent = power::largest_exponent(&weights);
    let units = Units {
        weights: exponent,
        outputs: 2 * exponent + squares,
    };
    let weights = power::scaled(&weights, -exponent);
    // Products of matrices round differently for another order in memory.
    let weights = weights.as_standard_layout();
    let weights = weights.view();
    let quantizer = quantizer.with_clusterer(ScaledClusterer {
        clusterer: &quantizer.clusterer,
        exponent,
    });
    match quantizer.axis {
        SplitAxis::In => inputs::fit(&quantizer, weights, &moments, units, observer),
        SplitAxis::Out => outputs::fit(&quantizer, weights, &moments, units, observer),
    }
}
