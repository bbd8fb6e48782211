//! Lower bounds on the error or the size of a compressed tensor: how far a result is from what is possible.
//!
//! Each bound holds for the error of weights, or of a linear layer's outputs, under the assumptions in the table. None of
//! them says how small a *network* can be at a given accuracy.
//!
//! | function | what it bounds | under which assumptions |
//! |---|---|---|
//! | [`EmpiricalSource::rate`], [`distortion`](EmpiricalSource::distortion) | bits a weight at a mean squared error, and the error at a number of bits | weights drawn independently from their own histogram, which the decoder knows at no cost |
//! | [`EmpiricalSource::shannon_rate`] | a simpler lower bound on the same | as above, and the weights have a density, whose entropy is estimated |
//! //! | [`WaterFilling::of`] | with one variance a reference, not a bound: R(D) of Gaussian weights | Gaussian weights, which need *more* bits than any other distribution of this variance |
//! | [`WaterFilling::linear_layer`] | bits a weight at a mean squared output error of a linear layer | independent Gaussian weights, a known second moment of the inputs |
//! | [`EmpiricalSource::levels_error`] | the error of any k values shared by all weights | none: these weights |
//! | [`sign_error`] | the error of any α·(±1) | none: these weights |
//! | [`LowRankLimit`] | the error of any matrix of rank r, in the weights or in the outputs | none: these weights |
//! | [`UnfoldingLimit`] | the error of any CP or Tucker model of given ranks, from below | none: these weights |
//!
//! A compressor that exploits dependence between weights can pass the limit of the independent source. A low-rank matrix
//! below it shows how far the weights are from independent. [`RateDistortionGap`] compares an artifact with the limit.
//!
//! ```
//! use taper::limit::{WaterFilling, sign_error};
//! use taper::ndarray::arr1;
//!
//! // A quarter of the variance takes one bit of a Gaussian source.
//! assert_eq!(WaterFilling::of(arr1(&[1.0]).view())?.rate(0.25)?, 1.0);
//! assert_eq!(sign_error(arr1(&[1.0_f64, -1.0, 3.0, -3.0]).view().into_dyn())?, 1.0); // by ±2
//! # Ok::<(), taper::Error>(())
//! ```

mod blahut;
mod bounds;
mod gap;
mod gaussian;
mod histogram;
mod optimum;
mod source;
mod spectrum;
#[cfg(test)]
mod tests;
mod unfolding;
mod water_filling;

pub use bounds::Bounds;
pub use gap::RateDistortionGap;
use gaussian::gaussian_distortion;
pub use optimum::sign_error;
pub use source::EmpiricalSource;
pub use spectrum::LowRankLimit;
pub use unfolding::UnfoldingLimit;
pub use water_filling::WaterFilling;
