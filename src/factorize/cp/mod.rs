//! Tensors as sums of rank-one terms (CP: canonical polyadic, CANDECOMP/PARAFAC).
//!
//! $$\mathcal W \approx \sum\_{r=1}^{R} \lambda\_r \\, a^{(1)}\_r \circ a^{(2)}\_r \circ \dots \circ a^{(d)}\_r$$
//!
//! [`CpAls`] fits the terms by alternating least squares, [`CpAdmm`] with a [`Constraint`] or a penalty per factor. Both return
//! a [`CpTensor`]. [`convolution`](crate::factorize::convolution) makes layers of a decomposed kernel.
//!
//! The terms are those of the survey of Kolda and Bader, "Tensor decompositions and applications", SIAM Review 2009,
//! doi:10.1137/07070111X.
//!
//! ```
//! use taper::Factorizer;
//! use taper::factorize::{Rank, cp::{CpAls, Start}};
//! use taper::ndarray::Array3;
//!
//! let tensor = Array3::from_shape_fn((4, 3, 2), |(i, j, k)| ((i + 1) * (j + 2) * (k + 1)) as f64);
//! for start in [Start::Hosvd, Start::Random] {
//!     let fit = CpAls::new(Rank::Fixed(1)).start(start).factorize(tensor.view())?;
//!     assert!(fit.cp_report().relative_error < 1e-6 && fit.cp_report().term_norm_ratio > 0.99);
//! }
//! # Ok::<(), taper::Error>(())
//! ```

mod admm;
mod als;
mod constraint;
mod correction;
mod end;
mod model;
mod mttkrp;
mod problem;
mod start;
mod tensor;
mod trainable;

pub use admm::CpAdmm;
pub use als::CpAls;
pub use constraint::Constraint;
pub use correction::NormBound;
pub(in crate::factorize) use end::End;
#[cfg(test)]
pub(in crate::factorize) use model::random_factors;
use mttkrp::mttkrp;
pub(in crate::factorize) use problem::{normalized, standard};
pub use start::Start;
pub(in crate::factorize) use start::{leading_vectors, multiply_mode, unfolding_spectrum};
pub use tensor::{CpReport, CpTensor};
