//! The report of a truncated SVD.

use super::SvdMethod;

/// The method, the singular values and the errors of a truncated SVD. [`LowRankMatrix`](super::LowRankMatrix) has an example.
///
/// With moments of the inputs, all figures belong to W L instead of W, where L Lᵀ are the damped moments. The errors are then
/// those of the outputs.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct SvdReport {
    /// The method that was used: exact, randomized or block Krylov.
    pub method: SvdMethod,
    /// The kept singular values before rounding, the largest first.
    pub singular_values: Vec<f64>,
    /// The distance of the artifact as stored from the matrix, divided by the norm of the matrix (both Frobenius); 0 for a
    /// matrix of zeros.
    pub relative_error: f64,
    /// The smallest such distance of any matrix of this rank (Eckart and Young); `None` if the whole spectrum was not
    /// computed.
    pub optimal_error: Option<f64>,
    /// The largest rank that saves anything, r < m n / (m + n); 0 if none does. The factors of a larger rank hold as many
    /// values as the matrix, or more.
    pub largest_useful_rank: usize,
}

impl SvdReport {
    /// Returns the fraction by which the error exceeds the optimum; `None` if the optimum is unknown or zero.
    #[must_use]
    pub fn excess_error(&self) -> Option<f64> {
        let optimum = self.optimal_error.filter(|&optimum| optimum > 0.0)?;
        Some(self.relative_error / optimum - 1.0)
    }
}

/// The largest rank whose factors (m, rank) and (rank, n) hold fewer values than an (m, n) matrix.
pub(super) fn largest_useful(m: usize, n: usize) -> usize {
    let (dense, per_term) = (m as u128 * n as u128, m as u128 + n as u128);
    usize::try_from(dense.saturating_sub(1) / per_term.max(1)).unwrap_or(usize::MAX)
}
