//! The fit: from a matrix to a [`LowRankMatrix`].

use ndarray::{Array2, ArrayView2, Ix2};

use super::low_rank::LowRankMatrix;
use super::randomized::Projection;
use super::report::largest_useful;
use super::triplets::sum_of_squares;
use super::{SvdMethod, SvdReport, TruncatedSvd, exact, randomized};
use crate::linalg::Cholesky;
use crate::{Factorizer, FitContext, Float, LinearOp, Result, check, linalg, parallel, power};

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
        context.rows_unused("TruncatedSvd")?;
        let inputs = context.inputs;
        check::finite("weights", &weights)?;
        // In units of powers of two, so that the result of weights or moments times such a power is the same, bit for bit.
        let (normal, exponent) = normalized(weights);
        let (target, exponent, root) = match inputs {
            None => (normal, exponent, None),
            Some(inputs) => {
                inputs.fits(weights.ncols())?;
                let (inputs, squares) = inputs.normalized()?;
                let root = Root {
                    cholesky: inputs.cholesky(self.damping)?,
                    squares,
                };
                let whitened = whitened(normal.view(), &root.cholesky);
                let further = power::largest_exponent(&whitened.view());
                let target = whitened.mapv(|x| F::from_f64_lossy(power::times(x, -further)));
                (target, exponent + further, Some(root))
            }
        };
        let (m, n) = weights.dim();
        let by_shape = self
            .rank
            .by_shape(m.min(n), m.saturating_mul(n), m.saturating_add(n))?;
        let target = target.view();
        let total = norm(target);
        let (mut triplets, method, spectrum) = match by_shape {
            Some(rank) if self.method_for(m, n, rank) != SvdMethod::Exact => {
                let method = self.method_for(m, n, rank);
                let projection = Projection {
                    oversampling: self.oversampling,
                    power_iterations: self.power_iterations,
                    krylov: method == SvdMethod::BlockKrylov,
                    seed: self.seed,
                };
                let triplets = randomized::leading(target, rank, projection)?;
                let spectrum = if self.measure_optimum {
                    let all = linalg::thin_svd(target)?.s;
                    Some(all.iter().map(|s| s.as_f64()).collect())
                } else {
                    None
                };
                (triplets, method, spectrum)
            }
            _ => {
                let (triplets, spectrum) = exact::leading(target, by_shape, self.rank)?;
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
        let units = root.as_ref().map_or(1.0, |root| power::root(root.squares));
        let kept = triplets.s.iter();
        let kept = kept.map(|s| power::times(s.as_f64() * units, exponent));
        let kept = kept.collect();
        if let Some(root) = &root {
            let mut right = triplets.vt.mapv(Float::as_f64);
            root.cholesky.unwhiten_rows(right.view_mut());
            triplets.vt = right.mapv(F::from_f64_lossy);
        }
        let mut artifact =
            LowRankMatrix::new(triplets, exponent, self.singular_values, self.precision)?;
        let rest = total * total - energy;
        let distance = match &root {
            // For orthonormal vectors the squared error is the difference of the squared norms. Rounding matters little
            // unless the difference is small.
            None if rest > LARGE_REST * total * total
                && self.precision.bits() >= u64::from(F::BITS) =>
            {
                rest.sqrt()
            }
            None => artifact.distance(weights, exponent),
            Some(root) => {
                let error = &weights - &artifact.decompress_matrix()?;
                let error = error.mapv(|x| power::times(x.as_f64(), -exponent));
                norm(whitened(error.view(), &root.cholesky).view())
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

/// The moments of the inputs divided by 2^`squares`, as L Lᵀ.
struct Root {
    cholesky: Cholesky<f64>,
    squares: i32,
}

/// W L. Distances between such products are those between the outputs.
fn whitened<F: Float>(weights: ArrayView2<'_, F>, root: &Cholesky<f64>) -> Array2<f64> {
    let weights = weights.mapv(Float::as_f64);
    linalg::product(weights.view(), root.lower().view())
}

/// The matrix without gaps, divided by 2ᵉ, and e: its largest magnitude is in [1, 2). Squares then neither overflow nor vanish.
fn normalized<F: Float>(weights: ArrayView2<'_, F>) -> (Array2<F>, i32) {
    let weights = weights.as_standard_layout();
    let exponent = power::largest_exponent(&weights.view());
    (power::scaled(&weights.view(), -exponent), exponent)
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
