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
    /// A reason why the result does not save anything.
    pub warning: Option<LowRankWarning>,
}

impl SvdReport {
    /// Returns the fraction by which the error exceeds the optimum; `None` if the optimum is unknown or zero.
    #[must_use]
    pub fn excess_error(&self) -> Option<f64> {
        let optimum = self.optimal_error.filter(|&optimum| optimum > 0.0)?;
        Some(self.relative_error / optimum - 1.0)
    }
}

/// A reason why a low-rank matrix does not save anything.
///
/// ```
/// use taper::factorize::{Rank, svd::{LowRankWarning, TruncatedSvd}};
/// use taper::ndarray::Array2;
/// use taper::Factorizer;
///
/// // Rank 3 of a 4×4 matrix takes 24 values instead of 16.
/// let factors = TruncatedSvd::new(Rank::Fixed(3)).factorize(Array2::<f32>::eye(4).view())?;
/// let warning = factors.svd_report().and_then(|report| report.warning);
/// assert_eq!(warning, Some(LowRankWarning::SavesNothing { rank: 3, largest_useful: 1 }));
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LowRankWarning {
    /// The factors hold as many values as the matrix, or more: r ≥ m n / (m + n).
    SavesNothing {
        /// The rank.
        rank: usize,
        /// The largest rank that saves something; 0 if none does.
        largest_useful: usize,
    },
}

impl LowRankWarning {
    /// The warning for factors (m, rank) and (rank, n) that hold no fewer values than an (m, n) matrix.
    pub(super) fn of_size(rank: usize, m: usize, n: usize) -> Option<Self> {
        let (dense, per_term) = (m as u128 * n as u128, m as u128 + n as u128);
        (rank as u128 * per_term >= dense).then(|| Self::SavesNothing {
            rank,
            largest_useful: usize::try_from(dense.saturating_sub(1) / per_term.max(1))
                .unwrap_or(usize::MAX),
        })
    }
}
