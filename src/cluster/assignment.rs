//! The nearest centroid of each point.

use ndarray::ArrayView2;

use super::blocks::{Frame, magnitude};
use crate::kernels::Level;
use crate::kernels::distance::{BLOCK, half_squared_norms, nearest};
use crate::{Error, Float, Result, check, parallel};

/// The index of the nearest centroid of each point; of equally near ones the lowest index.
///
/// `points` has shape (points, axes), `centroids` (clusters, axes). The index of a point depends on the point and the
/// centroids alone, and is the same on every processor. Distances are compared in the number type `F`
/// by ‖c‖²/2 − x·c, after points and centroids are shifted if the centroids are far from the origin. If the distances of two
/// centroids differ by less than the rounding of squares in `F`, either may be chosen.
///
/// ```
/// use ndarray::array;
///
/// let points = array![[0.0_f32, 0.0], [0.9, 1.2], [0.5, 0.5]];
/// let centroids = array![[0.0_f32, 0.0], [1.0, 1.0]];
/// assert_eq!(taper::cluster::assign(points.view(), centroids.view())?, [0, 1, 0]);
/// # Ok::<(), taper::Error>(())
/// ```
///
/// # Errors
///
/// [`Error::EmptyAxis`], [`Error::NonFinite`]; [`Error::ShapeMismatch`] where the numbers of axes differ;
/// [`Error::ExceedsInput`] for more than 2³¹ centroids; [`Error::Overflow`] for values whose squares leave
/// the range of `f64`.
pub fn assign<F: Float>(
    points: ArrayView2<'_, F>,
    centroids: ArrayView2<'_, F>,
) -> Result<Vec<u32>> {
    check::finite("points", &points)?;
    check::finite("centroids", &centroids)?;
    check::same_shape(
        "centroids",
        &[centroids.nrows(), points.ncols()],
        centroids.shape(),
    )?;
    check_clusters(centroids.nrows())?;
    assign_finite(points, centroids)
}

/// [`assign`] for points and centroids that are finite and have the same axes.
pub(crate) fn assign_finite<F: Float>(
    points: ArrayView2<'_, F>,
    centroids: ArrayView2<'_, F>,
) -> Result<Vec<u32>> {
    let magnitude = magnitude("a squared distance of points", &points)?
        .max(magnitude("a squared distance of centroids", &centroids)?);
    let centroids: Vec<F> = centroids.iter().copied().collect();
    Ok(assign_checked(&points, &centroids, magnitude))
}

/// Fails if there are no clusters, or more than an index can number.
pub(super) fn check_clusters(clusters: usize) -> Result<()> {
    const LIMIT: usize = 1 << 31;
    check::at_least_one("clusters", clusters)?;
    if clusters > LIMIT {
        return Err(Error::ExceedsInput {
            what: "the number of clusters",
            value: clusters,
            limit: LIMIT,
        });
    }
    Ok(())
}

/// [`assign`] without checks; `magnitude` is the largest magnitude of points and centroids.
pub(super) fn assign_checked<F: Float>(
    points: &ArrayView2<'_, F>,
    centroids: &[F],
    magnitude: F,
) -> Vec<u32> {
    let axes = points.ncols();
    let frame = Frame::new(centroids.chunks_exact(axes), axes, magnitude);
    let mut rows = Vec::new();
    frame.rows_into(centroids, axes, &mut rows);
    let mut half_norms = Vec::new();
    half_squared_norms(&rows, axes, &mut half_norms);
    let level = Level::current();
    let mut assignments = vec![0; points.nrows()];
    const CHUNK: usize = 32 * BLOCK;
    parallel::for_each_chunk_mut(&mut assignments, CHUNK, |chunk, assignments| {
        let mut block = vec![F::zero(); axes * BLOCK];
        for (b, out) in assignments.chunks_mut(BLOCK).enumerate() {
            frame.pack_block(points, chunk * CHUNK + b * BLOCK, &mut block);
            let (mut scores, mut indices) = ([F::infinity(); BLOCK], [0; BLOCK]);
            nearest(
                level,
                &block,
                axes,
                &rows,
                &half_norms,
                &mut scores,
                &mut indices,
            );
            out.copy_from_slice(&indices[..out.len()]);
        }
    });
    assignments
}
