//! The fit: from a matrix to a [`LowRankMatrix`].

use ndarray::{Array2, ArrayView2, CowArray, Ix2};

use super::low_rank::LowRankMatrix;
use super::randomized::Projection;
use super::report::largest_useful;
use super::triplets::sum_of_squares;
use super::{SvdMethod, SvdReport, TruncatedSvd, exact, randomized};
use crate::linalg::Cholesky;
use crate::{Factorizer, FitContext, Float, LinearOp, Result, check, linalg, parallel};

/// If a larger fraction of the squared norm is lost, the error is computed from the singular values.
const LARGE_REST: f64 = 0.25;

impl<F: Float> Factorizer<F, Ix2> for TruncatedSvd {
    type Output = LowRankMatrix<F>;

    /// Factorizes a matrix of shape (out_features, in_features).
    ///
    /// With moments M = L Lᵀ of the inputs, the product W L is truncated instead of W, and the right factor multiplied by L⁻¹.
    /// By the theorem of Eckart and Young for W L, no matrix of this rank has a smaller output error tr(E M Eᵀ). (M is
    /// [damped](super::TruncatedSvd::damping) first.) The report then has the singular values and errors of W L.
    ///
    /// # Errors
    ///
    /// Those of the trait; [`Error::Overflow`](crate::Error::Overflow) for a factor out of the range of the stored precision;
    /// [`Error::NoConvergence`](crate::Error::NoConvergence).
    fn factorize_with(
        &self,
        weights: ArrayView2<'_, F>,
        context: FitContext<'_>,
    ) -> Result<LowRankMatrix<F>> {
        self.validate()?;
        let inputs = context.inputs;
        check::finite("weights", &weights)?;
        let root = match inputs {
            None => None,
            Some(inputs) => {
                inputs.fits(weights.ncols())?;
                Some(inputs.cholesky(self.damping)?)
            }
        };
        let target = match &root {
            None => CowArray::from(weights),
            Some(root) => whitened(weights, root).into(),
        };
        let (m, n) = weights.dim();
        let by_shape = self
            .rank
            .by_shape(m.min(n), m.saturating_mul(n), m.saturating_add(n))?;
        let (scaled, scale) = scale_to_one(target.view());
        let scaled = scaled.view();
        let total = norm(scaled);
        let (mut triplets, method, spectrum) = match by_shape {
            Some(rank) if self.method_for(m, n, rank) != SvdMethod::Exact => {
                let method = self.method_for(m, n, rank);
                let projection = Projection {
                    oversampling: self.oversampling,
                    power_iterations: self.power_iterations,
                    krylov: method == SvdMethod::BlockKrylov,
                    seed: self.seed,
                };
                let triplets = randomized::leading(scaled, rank, projection)?;
                let spectrum = if self.measure_optimum {
                    let all = linalg::thin_svd(scaled)?.s;
                    Some(all.iter().map(|s| s.as_f64()).collect())
                } else {
                    None
                };
                (triplets, method, spectrum)
            }
            _ => {
                let (triplets, spectrum) = exact::leading(scaled, by_shape, self.rank)?;
                (triplets, SvdMethod::Exact, Some(spectrum))
            }
        };
        triplets.fix_signs();
        let rank = triplets.s.len();
        let optimal_error = spectrum.map(|spectrum| {
            let tail: f64 = spectrum.iter().skip(rank).map(|s| s * s).sum();
            relative(tail.sqrt(), total)
        });
        let energy: f64 = triplets.s.iter().map(|s| s.as_f64().powi(2)).sum();
        let kept = triplets.s.iter().map(|s| s.as_f64() * scale).collect();
        if let Some(root) = &root {
            let mut right = triplets.vt.mapv(Float::as_f64);
            root.unwhiten_rows(right.view_mut());
            triplets.vt = right.mapv(F::from_f64_lossy);
        }
        let mut artifact =
            LowRankMatrix::new(triplets, scale, self.singular_values, self.precision)?;
        let rest = total * total - energy;
        let distance = match &root {
            // For orthonormal vectors the squared error is the difference of the squared norms. Rounding matters little
            // unless the difference is small.
            None if rest > LARGE_REST * total * total
                && self.precision.bits() >= u64::from(F::BITS) =>
            {
                rest.sqrt()
            }
            None => artifact.distance(weights, scale),
            Some(root) => {
                let error = &weights - &artifact.decompress_matrix()?;
                norm(whitened(error.view(), root).view()) / scale
            }
        };
        artifact.set_report(SvdReport {
            method,
            singular_values: kept,
            relative_error: relative(distance, total),
            optimal_error,
            largest_useful_rank: largest_useful(m, n),
        });
        Ok(artifact)
    }
}

impl TruncatedSvd {
    /// The method for an (m, n) matrix and this rank.
    fn method_for(&self, m: usize, n: usize, rank: usize) -> SvdMethod {
        // Above a quarter of the full rank the exact decomposition is about as fast. For sides below 100 it takes a
        // millisecond.
        let width = rank.saturating_add(self.oversampling);
        match self.method {
            SvdMethod::Auto if m.min(n) >= 100 && width.saturating_mul(4) <= m.min(n) => {
                SvdMethod::Randomized
            }
            SvdMethod::Auto => SvdMethod::Exact,
            method => method,
        }
    }
}

/// W L. Distances between such products are those between the outputs.
fn whitened<F: Float>(weights: ArrayView2<'_, F>, root: &Cholesky<f64>) -> Array2<F> {
    let weights = weights.mapv(Float::as_f64);
    linalg::product(weights.view(), root.lower().view()).mapv(F::from_f64_lossy)
}

/// Returns the matrix without gaps, and the power of two by which it was divided. It is divided only if its largest magnitude
/// is far from one, so that squares neither overflow nor vanish.
fn scale_to_one<F: Float>(weights: ArrayView2<'_, F>) -> (CowArray<'_, F, Ix2>, f64) {
    let weights = match weights.is_standard_layout() {
        true => weights.into(),
        false => CowArray::from(weights.as_standard_layout().into_owned()),
    };
    let largest = parallel::map(weights.nrows(), |i| {
        check::largest(&weights.row(i)).as_f64()
    });
    let largest = largest.into_iter().fold(0.0, f64::max);
    if largest == 0.0 || (1e-6..=1e6).contains(&largest) {
        return (weights, 1.0);
    }
    // Both the power and its inverse must be finite.
    let scale = 2.0_f64.powi((largest.log2().floor() as i32).clamp(-1020, 1020));
    let scaled = weights.mapv(|x| F::from_f64_lossy(x.as_f64() / scale));
    (scaled.into(), scale)
}

/// The Frobenius norm, summed in double precision.
fn norm<F: Float>(a: ArrayView2<'_, F>) -> f64 {
    let rows = parallel::map(a.nrows(), |i| sum_of_squares(a.row(i), 1.0));
    rows.into_iter().sum::<f64>().sqrt()
}

/// `part` divided by `whole`; 0 if `whole` is 0.
fn relative(part: f64, whole: f64) -> f64 {
    if whole == 0.0 { 0.0 } else { part / whole }
}
