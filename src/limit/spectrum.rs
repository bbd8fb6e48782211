//! The least error of a matrix of low rank.

use ndarray::{Array2, ArrayView2};

use crate::{Float, Result, check, linalg};

const SQUARED_NORM: &str = "a squared norm of the weights";

/// The least error that any matrix of rank r has, for every r: the theorem of Eckart and Young (1936,
/// doi:10.1007/BF02288367).
///
/// The bound is exact for the given weights and holds for every method. It comes from the eigenvalues of the smaller of
/// W Wᵀ and Wᵀ W in double precision, which are right to about 10⁻¹³ of the squared norm.
///
/// ```
/// use taper::limit::LowRankLimit;
/// use taper::ndarray::array;
///
/// let limit = LowRankLimit::of(array![[3.0, 0.0], [0.0, 4.0]].view())?;
/// assert!((limit.squared_error(1) - 9.0).abs() < 1e-12);
/// assert!((limit.relative_error(1) - 0.6).abs() < 1e-12);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct LowRankLimit {
    /// The squared error at rank 0, 1, …: falling, the last is zero.
    discarded: Vec<f64>,
}

impl LowRankLimit {
    /// The limit for the error of the weights, ‖W − Ŵ‖² (Frobenius), of a matrix (out_features, in_features).
    ///
    /// # Errors
    ///
    /// [`Error::EmptyAxis`](crate::Error::EmptyAxis), [`Error::NonFinite`](crate::Error::NonFinite),
    /// [`Error::Overflow`](crate::Error::Overflow), [`Error::NoConvergence`](crate::Error::NoConvergence).
    pub fn of<F: Float>(weights: ArrayView2<'_, F>) -> Result<Self> {
        check::finite("weights", &weights)?;
        Self::of_checked(weights.mapv(Float::as_f64).view())
    }

    /// The limit for the error of the outputs, tr((W − Ŵ) M (W − Ŵ)ᵀ), where M (in_features, in_features) is the second moment
    /// XᵀX/n of the layer's inputs ([`InputMoments::matrix`](crate::InputMoments::matrix)): the mean squared norm of x (W − Ŵ)ᵀ
    /// over these inputs.
    ///
    /// It is Eckart and Young's theorem for W M^(1/2). M may be singular: directions without inputs cause no error.
    ///
    /// # Errors
    ///
    /// Those of [`of`](Self::of), [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) for another shape of M, and
    /// [`Error::Parameter`](crate::Error::Parameter) for an M that is no second moment: not symmetric, or with an eigenvalue
    /// clearly below zero.
    pub fn whitened<F: Float>(
        weights: ArrayView2<'_, F>,
        second_moment: ArrayView2<'_, f64>,
    ) -> Result<Self> {
        check::finite("weights", &weights)?;
        let root = moment_root(weights.ncols(), second_moment)?;
        let whitened = linalg::product(weights.mapv(Float::as_f64).view(), root.view());
        check::no_overflow(SQUARED_NORM, &whitened)?;
        Self::of_checked(whitened.view())
    }

    pub(super) fn of_checked(weights: ArrayView2<'_, f64>) -> Result<Self> {
        let gram = if weights.nrows() < weights.ncols() {
            linalg::gram(weights.t())
        } else {
            linalg::gram(weights)
        };
        check::no_overflow(SQUARED_NORM, &gram)?;
        let energies = linalg::symmetric_eigenvalues(gram.view())?;
        // Rising, and summed from the smallest on, so that the small errors of high ranks keep their digits.
        let mut left = 0.0;
        let mut discarded: Vec<f64> = vec![0.0];
        for energy in energies {
            left += energy.max(0.0);
            discarded.push(left);
        }
        discarded.reverse();
        Ok(Self { discarded })
    }

    /// The largest rank, at which the error is zero.
    pub(super) fn largest_rank(&self) -> usize {
        self.discarded.len() - 1
    }

    /// The least squared error of any matrix of rank at most `rank`; zero for ranks beyond the largest.
    #[must_use]
    pub fn squared_error(&self, rank: usize) -> f64 {
        self.discarded.get(rank).copied().unwrap_or(0.0)
    }

    /// The least distance ‖W − Ŵ‖ at that rank, divided by the norm ‖W‖: in [0, 1], and 0 for a matrix of zeros.
    #[must_use]
    pub fn relative_error(&self, rank: usize) -> f64 {
        let total = self.squared_error(0);
        if total > 0.0 {
            (self.squared_error(rank) / total).sqrt()
        } else {
            0.0
        }
    }

    /// The smallest rank at which a squared error of at most `squared_error` is possible.
    #[must_use]
    pub fn least_rank(&self, squared_error: f64) -> usize {
        self.discarded
            .iter()
            .position(|&left| left <= squared_error)
            .unwrap_or(self.largest_rank())
    }
}

/// The eigenvalues of a second moment, rising and not negative, and its eigenvectors as columns.
pub(super) fn moment_spectrum(
    features: usize,
    second_moment: ArrayView2<'_, f64>,
) -> Result<(Vec<f64>, Array2<f64>)> {
    check::same_shape(
        "the second moment",
        &[features, features],
        second_moment.shape(),
    )?;
    check::finite("the second moment", &second_moment)?;
    let largest = check::largest(&second_moment);
    let rounding = 64.0 * f64::EPSILON * features as f64 * largest;
    let asymmetry = second_moment
        .indexed_iter()
        .map(|((i, j), x)| (x - second_moment[[j, i]]).abs())
        .fold(0.0, f64::max);
    let range = "symmetric";
    check::in_range(
        "the asymmetry of the second moment",
        asymmetry,
        range,
        asymmetry <= rounding,
    )?;
    let (values, vectors) = linalg::symmetric_eigen(second_moment)?;
    let least = values[0];
    let range = "not negative";
    check::in_range(
        "an eigenvalue of the second moment",
        least,
        range,
        least >= -rounding * features as f64,
    )?;
    let values = values.iter().map(|value| value.max(0.0)).collect();
    Ok((values, vectors))
}

/// A root R of M = R Rᵀ.
fn moment_root(features: usize, second_moment: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
    let (values, mut vectors) = moment_spectrum(features, second_moment)?;
    for (mut column, value) in vectors.columns_mut().into_iter().zip(values) {
        column *= value.sqrt();
    }
    Ok(vectors)
}
