//! The kinds of artifacts that a container holds: how each is described, and how it is read again.
//!
//! The artifacts of a family are described here and not in the family, because only whole models are stored. Artifacts that
//! combine families ([`FactoredMatrix`], [`FactoredTensor`], [`SparseQuantized`]) are here because families do not import
//! each other.

mod convolution;
mod dense;
mod factored;
mod factorized;
mod quantized;
mod sparse;

pub use dense::Dense;
pub use factored::{FactoredMatrix, FactoredTensor};
pub use sparse::SparseQuantized;

use super::extend::Registry;
use crate::factorize::convolution::{CpConv2d, TuckerConv2d};
use crate::factorize::cp::CpTensor;
use crate::factorize::svd::{LowRankMatrix, SpatialConv2d};
use crate::prune::SparseMatrix;
use crate::quantize::binary::BinaryMatrix;
use crate::quantize::fixed_point::FixedPointMatrix;
use crate::quantize::product::{OptimizedPqMatrix, PqMatrix, ResidualPqMatrix};
use crate::quantize::trellis::TrellisMatrix;

impl Default for Registry {
    /// The registry of all kinds of this crate.
    fn default() -> Self {
        Self::empty()
            .with::<BinaryMatrix<f32>>(quantized::BINARY)
            .with::<CpConv2d<f32>>(convolution::CP)
            .with::<CpTensor<f32>>(factorized::CP)
            .with::<Dense>(dense::KIND)
            .with::<FactoredMatrix>(factored::MATRIX)
            .with::<FactoredTensor>(factored::TENSOR)
            .with::<FixedPointMatrix<f32>>(quantized::FIXED_POINT)
            .with::<LowRankMatrix<f32>>(factorized::LOW_RANK)
            .with::<OptimizedPqMatrix<f32>>(quantized::OPTIMIZED_PQ)
            .with::<PqMatrix<f32>>(quantized::PQ)
            .with::<ResidualPqMatrix<f32>>(quantized::RESIDUAL_PQ)
            .with::<SparseMatrix<f32>>(sparse::SPARSE)
            .with::<SparseQuantized>(sparse::QUANTIZED)
            .with::<SpatialConv2d<f32>>(factorized::SPATIAL)
            .with::<TrellisMatrix<f32>>(quantized::TRELLIS)
            .with::<TuckerConv2d<f32>>(convolution::TUCKER)
    }
}
