//! The leading singular triplets by random projection.
//!
//! Halko, Martinsson and Tropp, "Finding structure with randomness", 2011, arXiv:0909.4061, algorithms 4.4
//! (power iterations that orthonormalize at each step) and 5.1. The bases are orthonormalized by CholeskyQR2
//! (Yamamoto et al. 2015, Electronic Transactions on Numerical Analysis 44), which is nothing but products, and by
//! Householder QR where the columns are too near to dependent for it.
//! The block Krylov variant (Musco and Musco 2015, arXiv:1504.05477) projects on the span of all iterates in place of
//! the last one.

use ndarray::{Array2, ArrayView2, Axis, s};
use rand_distr::{Distribution, StandardNormal};

use super::triplets::Triplets;
use crate::linalg::{self, Cholesky};
use crate::{Float, Result, Seed};

/// What to project on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Projection {
    pub(super) oversampling: usize,
    pub(super) power_iterations: usize,
    /// Whether all iterates count, not only the last.
    pub(super) krylov: bool,
    pub(super) seed: Seed,
}

/// The `rank` leading singular triplets of `weights`.
pub(super) fn leading<F: Float>(
    weights: ArrayView2<'_, F>,
    rank: usize,
    projection: Projection,
) -> Result<Triplets<F>> {
    // A wide matrix is worked on as its transpose, so that the basis of the longer side is the one that is found.
    if weights.nrows() < weights.ncols() {
        let Triplets { u, s, vt } = leading(weights.reversed_axes(), rank, projection)?;
        return Ok(Triplets {
            u: vt.reversed_axes(),
            s,
            vt: u.reversed_axes(),
        });
    }
    let q = basis(weights, rank, projection)?;
    // W ≈ Q B with B = Qᵀ W, of which the transpose is tall and thin.
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
        // One pass is enough here: only the span goes on.
        let range = orthonormalize(iterate, 1)?;
        let rows = orthonormalize(linalg::product(weights.t(), range.view()), 1)?;
        iterate = linalg::product(weights, rows.view());
        // More columns than the matrix has span no more.
        if projection.krylov && (earlier.len() + 2) * width <= n {
            earlier.push(range);
        }
    }
    if earlier.is_empty() {
        return orthonormalize(iterate, 2);
    }
    // The last iterate is brought to the length of the others, which it would outweigh otherwise.
    let last = orthonormalize(iterate, 1)?;
    let blocks: Vec<_> = earlier
        .iter()
        .chain([&last])
        .map(|block| block.view())
        .collect();
    let all = ndarray::concatenate(Axis(1), &blocks).expect("all blocks have as many rows");
    orthonormalize(all, 2)
}

/// A basis of the columns of `a`, orthonormal to working precision after two passes, nearly so after one.
fn orthonormalize<F: Float>(mut a: Array2<F>, passes: usize) -> Result<Array2<F>> {
    for _ in 0..passes {
        match Cholesky::new(linalg::gram(a.view()).view()).filter(well_conditioned) {
            Some(cholesky) => cholesky.whiten_rows(a.view_mut()),
            None => return Ok(linalg::thin_qr(a.view())?.0),
        }
    }
    Ok(a)
}

/// Whether the loss of orthogonality of a pass, κ² ε, leaves the next one something to work with.
fn well_conditioned<F: Float>(cholesky: &Cholesky<F>) -> bool {
    let diagonal = cholesky.lower().diag();
    let largest = diagonal.iter().fold(F::zero(), |max, &x| max.max(x));
    let smallest = diagonal.iter().fold(F::infinity(), |min, &x| min.min(x));
    let ratio = (smallest / largest).as_f64();
    // The diagonal of L gives the condition within a small factor, which the 100 is for.
    ratio * ratio > 100.0 * F::epsilon().as_f64()
}
