//! The leading singular triplets by the full decomposition.

use ndarray::{ArrayView2, s};

use super::triplets::Triplets;
use crate::factorize::Rank;
use crate::linalg::{self, ThinSvd};
use crate::{Float, Result};

/// Returns the leading singular triplets, and all singular values.
///
/// The number of triplets is `by_shape`, or follows from the energy in `rank`.
pub(super) fn leading<F: Float>(
    weights: ArrayView2<'_, F>,
    by_shape: Option<usize>,
    rank: Rank,
) -> Result<(Triplets<F>, Vec<f64>)> {
    let ThinSvd { u, s, vt } = linalg::thin_svd(weights)?;
    let spectrum: Vec<f64> = s.iter().map(|s| s.as_f64()).collect();
    let energies = spectrum.iter().map(|s| s * s);
    let kept = match (by_shape, rank) {
        (Some(kept), _) => kept,
        (None, Rank::Energy(fraction)) => {
            Rank::by_energy(fraction, energies.clone().sum(), energies)
        }
        (None, rank) => unreachable!("the shape alone decides {rank:?}"),
    };
    let kept = kept.min(spectrum.len());
    let triplets = Triplets {
        u: u.slice_move(s![.., ..kept]),
        s: s.slice_move(s![..kept]),
        vt: vt.slice_move(s![..kept, ..]),
    };
    Ok((triplets, spectrum))
}
