//! The parameters of a truncated SVD.

use crate::factorize::Rank;
use crate::{ParamError, Precision, Seed, check};

/// The algorithm that finds the leading singular values and vectors. [`LowRankMatrix`](super::LowRankMatrix) has an example.
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(rename_all = "snake_case"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum SvdMethod {
    /// Randomized for a rank of at most about a quarter of a large matrix's smaller side, exact otherwise.
    #[default]
    Auto,
    /// The full decomposition, truncated: the optimum.
    Exact,
    /// Random projection with power iterations (Halko, Martinsson and Tropp 2011, arXiv:0909.4061): close to the optimum,
    /// and much faster.
    Randomized,
    /// Random projection on all iterates (block Krylov; Musco and Musco 2015, arXiv:1504.05477): slower, and closer to the
    /// optimum.
    BlockKrylov,
}

/// Which factor the singular values are multiplied into. [`LowRankMatrix`](super::LowRankMatrix) has an example.
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(rename_all = "snake_case"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum SingularValues {
    /// Both factors, as square roots. The factors are then equally large, up to a factor of two, which is best for training.
    #[default]
    Split,
    /// The left factor; the rows of the right one stay orthonormal.
    Left,
    /// The right factor; the columns of the left one stay orthonormal.
    Right,
    /// Neither: they are stored apart, as side information, and both factors stay orthonormal.
    Apart,
}

/// Truncated singular value decomposition.
///
/// Factorizes a matrix (out_features, in_features) into a [`LowRankMatrix`](super::LowRankMatrix), and a
/// convolution kernel OIHW into a [`SpatialConv2d`](super::SpatialConv2d). The largest entry of each left singular vector is
/// positive, which makes the signs unique.
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
/// assert_eq!(factors.storage().bytes(), 4 * 2 * (40 + 30)); // in single precision, the default
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
    /// The damping of the moments; see [`InputMoments::damped`](crate::InputMoments::damped).
    #[cfg_attr(feature = "model", serde(default = "crate::defaults::svd_damping"))]
    pub damping: f64,
    /// Which factor the singular values are multiplied into.
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
    /// Creates the decomposition with the number of singular values that `rank` gives.
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

    /// Sets the algorithm; [`SvdMethod::Auto`] unless set.
    #[must_use]
    pub fn method(mut self, method: SvdMethod) -> Self {
        self.method = method;
        self
    }

    /// Sets the number of columns by which a random projection is wider than the rank; 10 unless set.
    #[must_use]
    pub fn oversampling(mut self, oversampling: usize) -> Self {
        self.oversampling = oversampling;
        self
    }

    /// Sets the number of times a random projection is multiplied by W Wᵀ; 2 unless set.
    ///
    /// A flat spectrum needs more. On Gaussian noise, the hardest case, of 512×512 at rank 26, the error is about 1 % above
    /// the optimum with two and about 0.4 % with four (`cargo bench --bench svd` prints both).
    #[must_use]
    pub fn power_iterations(mut self, power_iterations: usize) -> Self {
        self.power_iterations = power_iterations;
        self
    }

    /// Sets whether a randomized decomposition also computes the optimum for its report; `false` unless set.
    ///
    /// This takes as long as the exact decomposition.
    #[must_use]
    pub fn measure_optimum(mut self, measure_optimum: bool) -> Self {
        self.measure_optimum = measure_optimum;
        self
    }

    /// Sets the damping of the moments (see [`InputMoments::damped`](crate::InputMoments::damped)); 10⁻⁴ unless set.
    ///
    /// It has no effect without moments.
    #[must_use]
    pub fn damping(mut self, damping: f64) -> Self {
        self.damping = damping;
        self
    }

    /// Sets which factor the singular values are multiplied into; [`SingularValues::Split`] unless set.
    #[must_use]
    pub fn singular_values(mut self, singular_values: SingularValues) -> Self {
        self.singular_values = singular_values;
        self
    }

    /// Sets the precision in which factors are stored; single unless set.
    #[must_use]
    pub fn precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// Sets the seed of random projections; 0 unless set.
    #[must_use]
    pub fn seed(mut self, seed: impl Into<Seed>) -> Self {
        self.seed = seed.into();
        self
    }

    /// Checks the parameters. Every call that uses them checks them too.
    ///
    /// # Errors
    ///
    /// The first parameter that is wrong for every input.
    pub fn validate(&self) -> Result<(), ParamError> {
        self.rank.check()?;
        check::damping(self.damping)?;
        let random = matches!(self.method, SvdMethod::Randomized | SvdMethod::BlockKrylov);
        if random && matches!(self.rank, Rank::Energy(_)) {
            return Err(ParamError::Conflict {
                first: "Rank::Energy",
                second: "a randomized method",
                reason: "a random projection computes only a part of the spectrum",
            });
        }
        Ok(())
    }
}
