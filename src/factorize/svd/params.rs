//! What can be chosen about a truncated SVD.

use crate::factorize::Rank;
use crate::{ParamError, Precision, Seed, check};

/// How the leading singular values and vectors are found.
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
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(rename_all = "snake_case"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum SvdMethod {
    /// Randomized where the matrix is large and the rank small beside it, exact elsewhere.
    #[default]
    Auto,
    /// The full decomposition, of which the rest is dropped: the optimum.
    Exact,
    /// Random projection with power iterations (Halko, Martinsson and Tropp 2011, arXiv:0909.4061):
    /// nearly the optimum, in a small part of the time.
    Randomized,
    /// The same, projecting on all iterates (block Krylov; Musco and Musco 2015, arXiv:1504.05477): some times
    /// slower, and so near to the optimum that it seldom matters.
    BlockKrylov,
}

/// Where the singular values go.
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
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(rename_all = "snake_case"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum SingularValues {
    /// Their square roots into both factors, which makes the factors equally large: best for training on.
    #[default]
    Split,
    /// Into the left factor; the right one keeps orthonormal rows.
    Left,
    /// Into the right factor; the left one keeps orthonormal columns.
    Right,
    /// Kept by themselves, as side information; both factors are orthonormal.
    Apart,
}

/// Truncated singular value decomposition.
///
/// Factorizes a matrix (out_features, in_features) into a [`LowRankMatrix`](super::LowRankMatrix), and a
/// convolution's kernel OIHW into a [`SpatialConv2d`](super::SpatialConv2d). The signs of the singular vectors are
/// fixed (the largest entry of each left one is positive), and results are the same for any number
/// of threads.
///
/// ```
/// use taper::factorize::Rank;
/// use taper::factorize::svd::TruncatedSvd;
/// use taper::ndarray::Array2;
/// use taper::{Compressed, Factorizer, LinearOp};
///
/// // Any matrix of sin(i + j) has rank two.
/// let weights = Array2::from_shape_fn((40, 30), |(i, j)| ((i + j) as f64).sin());
/// let factors = TruncatedSvd::new(Rank::Fixed(2)).factorize(weights.view())?;
/// assert!(factors.svd_report().is_some_and(|report| report.relative_error < 1e-7));
/// assert_eq!(factors.storage().bytes(), 4 * 2 * (40 + 30)); // single precision unless asked otherwise
///
/// let x = Array2::ones((3, 30));
/// assert_eq!(factors.apply(x.view())?.dim(), (3, 40));
/// # Ok::<(), taper::Error>(())
/// ```
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(deny_unknown_fields))]
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct TruncatedSvd {
    /// The number of singular values that are kept.
    pub rank: Rank,
    /// The algorithm.
    #[cfg_attr(feature = "model", serde(default))]
    pub method: SvdMethod,
    /// The number of columns by which a random projection is wider than the rank.
    #[cfg_attr(feature = "model", serde(default = "crate::defaults::oversampling"))]
    pub oversampling: usize,
    /// The number of times a random projection is multiplied by W Wᵀ.
    #[cfg_attr(
        feature = "model",
        serde(default = "crate::defaults::power_iterations")
    )]
    pub power_iterations: usize,
    /// Whether a randomized decomposition also computes the optimum for its report.
    #[cfg_attr(feature = "model", serde(default))]
    pub measure_optimum: bool,
    /// How strongly moments are damped; see [`InputMoments::damped`](crate::InputMoments::damped).
    #[cfg_attr(feature = "model", serde(default = "crate::defaults::svd_damping"))]
    pub damping: f64,
    /// The factor that takes the singular values.
    #[cfg_attr(feature = "model", serde(default))]
    pub singular_values: SingularValues,
    /// The precision in which factors are stored.
    #[cfg_attr(feature = "model", serde(default))]
    pub precision: Precision,
    /// The seed of random projections.
    #[cfg_attr(feature = "model", serde(default))]
    pub seed: Seed,
}

impl TruncatedSvd {
    /// Parameters with the rank given; the method is chosen by shape and rank.
    #[must_use]
    pub fn new(rank: Rank) -> Self {
        Self {
            rank,
            method: SvdMethod::default(),
            oversampling: crate::defaults::oversampling(),
            power_iterations: crate::defaults::power_iterations(),
            measure_optimum: false,
            damping: crate::defaults::svd_damping(),
            singular_values: SingularValues::default(),
            precision: Precision::default(),
            seed: Seed::default(),
        }
    }

    /// Sets how the decomposition is computed.
    #[must_use]
    pub fn method(mut self, method: SvdMethod) -> Self {
        self.method = method;
        self
    }

    /// Sets by how many columns the random projection is wider than the rank; 10 unless set.
    #[must_use]
    pub fn oversampling(mut self, oversampling: usize) -> Self {
        self.oversampling = oversampling;
        self
    }

    /// Sets how many times the random projection is multiplied by W Wᵀ; 2 unless set.
    ///
    /// The flatter the spectrum, the more are needed: on Gaussian noise of 512×512 at rank 26, the hardest case, two leave
    /// the error about 1 % above the optimum and four about 0.4 % (`cargo bench --bench svd` prints both).
    #[must_use]
    pub fn power_iterations(mut self, power_iterations: usize) -> Self {
        self.power_iterations = power_iterations;
        self
    }

    /// Sets whether a randomized decomposition also computes the optimum that its report is compared with,
    /// which takes as long as the exact one.
    #[must_use]
    pub fn measure_optimum(mut self, measure_optimum: bool) -> Self {
        self.measure_optimum = measure_optimum;
        self
    }

    /// Sets how much the moments of inputs are damped, as [`InputMoments::damped`](crate::InputMoments::damped) says;
    /// 10⁻⁴ unless set. Without moments it has no effect.
    #[must_use]
    pub fn damping(mut self, damping: f64) -> Self {
        self.damping = damping;
        self
    }

    /// Sets where the singular values go.
    #[must_use]
    pub fn singular_values(mut self, singular_values: SingularValues) -> Self {
        self.singular_values = singular_values;
        self
    }

    /// Sets the precision of the stored factors; single unless set.
    #[must_use]
    pub fn precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// Sets the seed of the random projection.
    #[must_use]
    pub fn seed(mut self, seed: impl Into<Seed>) -> Self {
        self.seed = seed.into();
        self
    }

    /// Checks the parameters, as every call that uses them does.
    ///
    /// # Errors
    ///
    /// The first parameter that no input could make right.
    pub fn validate(&self) -> Result<(), ParamError> {
        self.rank.check()?;
        check::damping(self.damping)?;
        let random = matches!(self.method, SvdMethod::Randomized | SvdMethod::BlockKrylov);
        if random && matches!(self.rank, Rank::Energy(_)) {
            return Err(ParamError::Conflict {
                first: "Rank::Energy",
                second: "a randomized method",
                reason: "a random projection does not see the whole spectrum",
            });
        }
        Ok(())
    }
}
