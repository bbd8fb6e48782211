//! How far is a result from what is possible?
//!
//! Yardsticks for a compressed tensor, each with its assumptions. None of them says how small a *network* can be
//! at an accuracy: they bound the error of weights, or of a linear layer's outputs, under the model that is named.
//!
//! | yardstick | what it bounds | under which assumptions |
//! |---|---|---|
//! | [`EmpiricalSource::rate`], [`distortion`](EmpiricalSource::distortion) | bits a weight at a mean squared error, and the other way round | weights drawn independently from their own histogram, which the decoder knows for free |
//! | [`EmpiricalSource::shannon_rate`] | the same, from below | as above, with a density; its entropy is an estimate |
//! | [`gaussian_rate`] | nothing: a reference | it is R(D) of Gaussian weights, the *largest* of any law of that variance |
//! | [`WaterFilling`] | bits a weight at a mean squared output error of a linear layer | independent Gaussian weights, known second moment of the inputs |
//! | [`levels_error`], [`EmpiricalSource::levels_error`] | the error of any k values shared by all weights | none: these weights |
//! | [`sign_error`] | the error of any α·(±1) | none: these weights |
//! | [`LowRankLimit`] | the error of any matrix of rank r, in the weights or in the outputs | none: these weights |
//! | [`UnfoldingLimit`] | the error of any CP or Tucker model of given ranks, from below | none: these weights |
//!
//! The limit of the independent source is no limit for what makes use of dependence between weights: a low-rank
//! matrix may lie below it, and tells by that how far the weights are from independent.
//! [`RateDistortionGap`] puts the limit beside an artifact.
//!
//! `source` holds the histogram, `blahut` the rate–distortion function on it, `gap` the comparison, and the other files
//! a yardstick each.
//!
//! ```
//! use taper::limit::{gaussian_rate, sign_error};
//! use taper::ndarray::arr1;
//!
//! // A quarter of the variance takes one bit of a Gaussian source.
//! assert!((gaussian_rate(1.0, 0.25)? - 1.0).abs() < 1e-12);
//! assert_eq!(sign_error(arr1(&[1.0_f64, -1.0, 3.0, -3.0]).view().into_dyn())?, 1.0); // by ±2
//! # Ok::<(), taper::Error>(())
//! ```

mod blahut;
mod bounds;
mod gap;
mod gaussian;
mod optimum;
mod source;
mod spectrum;
#[cfg(test)]
mod tests;
mod unfolding;
mod water_filling;

pub use bounds::Bounds;
pub use gap::{Estimator, RateDistortionGap};
pub use gaussian::{gaussian_distortion, gaussian_rate};
pub use optimum::{levels_error, sign_error};
pub use source::EmpiricalSource;
pub use spectrum::LowRankLimit;
pub use unfolding::UnfoldingLimit;
pub use water_filling::WaterFilling;
