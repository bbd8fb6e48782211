//! The leading singular triplets by random projection.
//!
//! Halko, Martinsson and Tropp, "Finding structure with randomness", 2011, arXiv:0909.4061, algorithms 4.4
//! (power iterations that orthonormalize at each step) and 5.1. The bases are orthonormalized by CholeskyQR2
//! (Yamamoto et al. 2015, Electronic Transactions on Numerical Analysis 44), which consists of products only, or by
//! Householder QR if the columns are nearly dependent.
//! The block Krylov variant (Musco and Musco 2015, arXiv:1504.05477) projects on the span of all iterates instead of the
//! last one.

use ndarray::{Array2, ArrayView2, Axis, s};
use rand_distr::{Distribution, StandardNormal};

use super::triplets::Triplets;
use crate::linalg::{self, Cholesky};
use crate::{Float, Result, Seed};

/// The parameters of the projection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Projection {
    pub(super) oversampling: usize,
    pub(super) power_iterations: usize,
    /// Whether to project on all iterates instead of the last one.
    pub(super) krylov: bool,
    pub(super) seed: Seed,
}

/// The `rank` leading singular triplets of `weights`.
pub(super) fn leading<F: Float>(
    weights: ArrayView2<'_, F>,
    rank: usize,
    projection: Projection,
) -> Result<Triplets<F>> {
    // A wide matrix is transposed, so that the basis has the length of the longer side.
    if weights.nrows() < weights.ncols() {
        let Triplets { u, s, vt } = leading(weights.reversed_axes(), rank, projection)?;
        return Ok(Triplets {
            u: vt.reversed_axes(),
            s,
            vt: u.reversed_axes(),
        });
    }
    let q = basis(weights, rank, projection)?;
    // W ≈ Q B with B = Qᵀ W; the transpose of B is tall and thin.
    let projected = linalg::product(weights.t(), q.view());
    let small = linalg::thin_svd(projected.view())?;
    let u = linalg::product(q.view(), small.vt.slice(s![..rank, ..]).t());
    Ok(Triplets {
        u,
        s: small.s.slice_move(s![..rank]),
        vt: small.u.slice_move(s![.., ..rank]).reversed_axes(),
    })
}

/// Orthonormal columns that nearly span the leading left singular vectors.
fn basis<F: Float>(
    weights: ArrayView2<'_, F>,
    rank: usize,
    projection: Projection,
) -> Result<Array2<F>> {
    let n = weights.ncols();
    let width = rank.saturating_add(projection.oversampling).min(n);
    let mut rng = projection.seed.rng();
    let sketch = Array2::from_shape_fn((width, n), |_| {
        let draw: f64 = StandardNormal.sample(&mut rng);
        F::from_f64_lossy(draw)
    });
    let mut iterate = linalg::product(weights, sketch.t());
    let mut earlier = Vec::new();
    for _ in 0..projection.power_iterations {
        // One pass is enough: only the span matters for the next iteration.
        let range = orthonormalize(iterate, 1)?;
        let rows = orthonormalize(linalg::product(weights.t(), range.view()), 1)?;
        iterate = linalg::product(weights, rows.view());
        // At most as many columns as the matrix has.
        if projection.krylov && (earlier.len() + 2) * width <= n {
            earlier.push(range);
        }
    }
    if earlier.is_empty() {
        return orthonormalize(iterate, 2);
    }
    // The last iterate gets the length of the others, which it would outweigh otherwise.
    let last = orthonormalize(iterate, 1)?;
    let blocks: Vec<_> = earlier
        .iter()
        .chain([&last])
        .map(|block| block.view())
        .collect();
    let all = ndarray::concatenate(Axis(1), &blocks).expect("all blocks have as many rows");
    orthonormalize(all, 2)
}

/// Returns a basis of the columns of `a`: orthonormal to working precision after two passes, nearly orthonormal after one.
fn orthonormalize<F: Float>(mut a: Array2<F>, passes: usize) -> Result<Array2<F>> {
    for _ in 0..passes {
        match Cholesky::new(linalg::gram(a.view()).view()).filter(well_conditioned) {
            Some(cholesky) => cholesky.whiten_rows(a.view_mut()),
            None => return Ok(linalg::thin_qr(a.view())?.0),
        }
    }
    Ok(a)
}

/// Whether the loss of orthogonality in a pass, κ² ε, is small enough for the next pass.
fn well_conditioned<F: Float>(cholesky: &Cholesky<F>) -> bool {
    let diagonal = cholesky.lower().diag();
    let largest = diagonal.iter().fold(F::zero(), |max, &x| max.max(x));
    let smallest = diagonal.iter().fold(F::infinity(), |min, &x| min.min(x));
    let ratio = (smallest / largest).as_f64();
    // The diagonal of L gives the condition κ up to a small factor; the 100 covers it.
    ratio * ratio > 100.0 * F::epsilon().as_f64()
}
