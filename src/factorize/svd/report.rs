//! What a truncated SVD says of itself.

use super::SvdMethod;

/// How a truncated SVD went.
///
/// Where moments of the inputs were given, all figures are of W L in place of W, L Lᵀ being the damped moments: errors are
/// those of the outputs.
///
/// ```
/// use taper::factorize::Rank;
/// use taper::factorize::svd::{SingularValues, SvdMethod, TruncatedSvd};
/// use taper::ndarray::Array2;
/// use taper::Factorizer;
///
/// let weights = Array2::from_shape_fn((20, 12), |(o, i)| ((o * o * i + i) as f64).sin());
/// let factors = TruncatedSvd::new(Rank::Fixed(3))
///     .method(SvdMethod::Exact)
///     .singular_values(SingularValues::Apart)
///     .factorize(weights.view())?;
/// assert_eq!((factors.left().dim(), factors.right().dim()), ((20, 3), (3, 12)));
/// assert_eq!(factors.singular_values().map(|values| values.len()), Some(3));
/// let report = factors.svd_report().expect("fresh from the fit");
/// // Beyond the optimum by no more than what single precision rounds.
/// assert!(report.warning.is_none() && report.excess_error().is_some_and(|excess| excess < 1e-6));
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct SvdReport {
    /// How it was computed: exact or randomized.
    pub method: SvdMethod,
    /// The singular values that were kept, the largest first, before they were rounded.
    pub singular_values: Vec<f64>,
    /// The distance of the artifact, as stored, from the matrix, over the norm of the matrix (Frobenius);
    /// 0 for a matrix of zeros.
    pub relative_error: f64,
    /// The smallest such distance that any matrix of this rank has, by the theorem of Eckart and Young:
    /// known where the whole spectrum is.
    pub optimal_error: Option<f64>,
    /// What makes the result less than it seems.
    pub warning: Option<LowRankWarning>,
}

impl SvdReport {
    /// By how much the error is above the optimum, as a fraction of it; none where the optimum is not known,
    /// or zero.
    #[must_use]
    pub fn excess_error(&self) -> Option<f64> {
        let optimum = self.optimal_error.filter(|&optimum| optimum > 0.0)?;
        Some(self.relative_error / optimum - 1.0)
    }
}

/// What makes a low-rank matrix less than it seems.
///
/// ```
/// use taper::factorize::{Rank, svd::{LowRankWarning, TruncatedSvd}};
/// use taper::ndarray::Array2;
/// use taper::Factorizer;
///
/// // Rank 3 of a 4×4 matrix takes 24 values in place of 16.
/// let factors = TruncatedSvd::new(Rank::Fixed(3)).factorize(Array2::<f32>::eye(4).view())?;
/// let warning = factors.svd_report().and_then(|report| report.warning);
/// assert_eq!(warning, Some(LowRankWarning::SavesNothing { rank: 3, largest_useful: 1 }));
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LowRankWarning {
    /// The factors hold no fewer values than the matrix: r ≥ m n / (m + n).
    SavesNothing {
        /// The rank.
        rank: usize,
        /// The largest rank that saves something; 0 where none does.
        largest_useful: usize,
    },
}

impl LowRankWarning {
    /// Whether factors of `rank`, (m, r) and (r, n), hold fewer values than an (m, n) matrix.
    pub(super) fn of_size(rank: usize, m: usize, n: usize) -> Option<Self> {
        let (dense, per_term) = (m as u128 * n as u128, m as u128 + n as u128);
        (rank as u128 * per_term >= dense).then(|| Self::SavesNothing {
            rank,
            largest_useful: usize::try_from(dense.saturating_sub(1) / per_term.max(1))
                .unwrap_or(usize::MAX),
        })
    }
}
