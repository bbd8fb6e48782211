//! Linear algebra: all products and factorizations of dense matrices.
//!
//! [`Backend`] lists the operations. `faer` implements them in Rust and is always compiled;
//! `lapack` calls the LAPACK library that a feature of the crate selects. The functions below take views of any strides.
//! Callers make sure that shapes fit; only debug builds check them.
//! With faer, results are the same for any number of threads.

mod cholesky;
mod faer;
#[cfg(feature = "_lapack")]
mod lapack;
#[cfg(test)]
mod tests;

use ndarray::{Array1, Array2, ArrayView, ArrayView2, ArrayViewMut2, CowArray, Dimension, Ix2};

use crate::{Float, Result};

pub(crate) use cholesky::Cholesky;

/// `array` as a matrix of `shape`, in row-major order; copied only if its order in memory differs. `None` for another number
/// of values.
pub(crate) fn as_matrix<F: Clone, D: Dimension>(
    array: ArrayView<'_, F, D>,
    shape: (usize, usize),
) -> Option<CowArray<'_, F, Ix2>> {
    if let Ok(matrix) = array.clone().into_shape_with_order(shape) {
        return Some(matrix.into());
    }
    let copy = array.as_standard_layout().into_owned();
    Some(copy.into_shape_with_order(shape).ok()?.into())
}

/// The back end that this build uses.
#[cfg(not(feature = "_lapack"))]
pub(crate) type Active = faer::Faer;
/// The back end that this build uses.
#[cfg(feature = "_lapack")]
pub(crate) type Active = lapack::Lapack;

/// The number types of the back ends; a supertrait of [`Float`].
///
/// Public in name only: the module is private.
pub trait LinalgFloat: Sized {
    /// The back end for matrices of this type.
    type Backend: Backend<Self>;
}

impl LinalgFloat for f32 {
    type Backend = Active;
}

impl LinalgFloat for f64 {
    type Backend = Active;
}

/// A = U diag(s) Vᵀ with min(m, n) singular values, the largest first.
#[derive(Debug, Clone)]
pub struct ThinSvd<F> {
    /// (m, min(m, n)), with orthonormal columns.
    pub u: Array2<F>,
    /// The singular values, at least 0, in falling order.
    pub s: Array1<F>,
    /// (min(m, n), n), with orthonormal rows.
    pub vt: Array2<F>,
}

/// The operations of a back end.
///
/// Public in name only: the module is private.
pub trait Backend<F> {
    /// `out ← alpha a b`, or `out ← out + alpha a b` if `add` is set. The shapes fit.
    fn product(
        alpha: F,
        a: ArrayView2<'_, F>,
        b: ArrayView2<'_, F>,
        add: bool,
        out: ArrayViewMut2<'_, F>,
    );

    /// The thin singular value decomposition of a matrix without empty axes.
    ///
    /// # Errors
    ///
    /// [`Error::NoConvergence`](crate::Error::NoConvergence).
    fn thin_svd(a: ArrayView2<'_, F>) -> Result<ThinSvd<F>>;

    /// A = Q R, where Q (m, min(m, n)) has orthonormal columns and R is upper triangular.
    ///
    /// # Errors
    ///
    /// [`Error::NoConvergence`](crate::Error::NoConvergence), if the back end reports a failure.
    fn thin_qr(a: ArrayView2<'_, F>) -> Result<(Array2<F>, Array2<F>)>;

    /// The eigenvalues of a symmetric matrix in rising order, and the eigenvectors as columns. Only the lower triangle is read.
    ///
    /// # Errors
    ///
    /// [`Error::NoConvergence`](crate::Error::NoConvergence).
    fn symmetric_eigen(a: ArrayView2<'_, F>) -> Result<(Array1<F>, Array2<F>)>;

    /// The eigenvalues alone, in rising order.
    ///
    /// # Errors
    ///
    /// [`Error::NoConvergence`](crate::Error::NoConvergence).
    fn symmetric_eigenvalues(a: ArrayView2<'_, F>) -> Result<Array1<F>>;

    /// The lower triangular L with L Lᵀ = `a`, with zeros above the diagonal; `None` if `a` is not positive definite to working
    /// precision. Only the lower triangle of `a` is read.
    fn cholesky(a: ArrayView2<'_, F>) -> Option<Array2<F>>;

    /// `x ← L⁻¹ x`, or `x ← L⁻ᵀ x` if `transposed` is set. L is lower triangular without zeros on its diagonal.
    fn solve_lower(lower: ArrayView2<'_, F>, transposed: bool, x: ArrayViewMut2<'_, F>);
}

/// The product a b. For y = x Wᵀ call `product(x, w.t())`: a transpose is a view.
pub(crate) fn product<F: Float>(a: ArrayView2<'_, F>, b: ArrayView2<'_, F>) -> Array2<F> {
    let mut out = Array2::zeros((a.nrows(), b.ncols()));
    product_into(a, b, out.view_mut());
    out
}

/// `out ← a b`.
pub(crate) fn product_into<F: Float>(
    a: ArrayView2<'_, F>,
    b: ArrayView2<'_, F>,
    out: ArrayViewMut2<'_, F>,
) {
    multiply(F::one(), a, b, false, out);
}

/// `out ← out + alpha a b`.
pub(crate) fn product_add<F: Float>(
    alpha: F,
    a: ArrayView2<'_, F>,
    b: ArrayView2<'_, F>,
    out: ArrayViewMut2<'_, F>,
) {
    multiply(alpha, a, b, true, out);
}

fn multiply<F: Float>(
    alpha: F,
    a: ArrayView2<'_, F>,
    b: ArrayView2<'_, F>,
    add: bool,
    out: ArrayViewMut2<'_, F>,
) {
    debug_assert_eq!(a.ncols(), b.nrows());
    debug_assert_eq!(out.dim(), (a.nrows(), b.ncols()));
    F::Backend::product(alpha, a, b, add, out);
}

/// aᵀ a, exactly symmetric.
pub(crate) fn gram<F: Float>(a: ArrayView2<'_, F>) -> Array2<F> {
    let mut gram = product(a.t(), a);
    for i in 0..gram.nrows() {
        for j in 0..i {
            gram[[j, i]] = gram[[i, j]];
        }
    }
    gram
}

/// The thin singular value decomposition.
///
/// The signs of the vectors are those of the back end.
///
/// # Errors
///
/// [`Error::NoConvergence`](crate::Error::NoConvergence).
pub(crate) fn thin_svd<F: Float>(a: ArrayView2<'_, F>) -> Result<ThinSvd<F>> {
    F::Backend::thin_svd(a)
}

/// The thin QR decomposition.
///
/// # Errors
///
/// [`Error::NoConvergence`](crate::Error::NoConvergence).
pub(crate) fn thin_qr<F: Float>(a: ArrayView2<'_, F>) -> Result<(Array2<F>, Array2<F>)> {
    F::Backend::thin_qr(a)
}

/// The eigenvalues of a symmetric matrix in rising order, and its eigenvectors as columns.
///
/// # Errors
///
/// [`Error::NoConvergence`](crate::Error::NoConvergence).
pub(crate) fn symmetric_eigen<F: Float>(a: ArrayView2<'_, F>) -> Result<(Array1<F>, Array2<F>)> {
    debug_assert!(a.is_square());
    F::Backend::symmetric_eigen(a)
}

/// The eigenvalues of a symmetric matrix in rising order.
///
/// # Errors
///
/// [`Error::NoConvergence`](crate::Error::NoConvergence).
pub(crate) fn symmetric_eigenvalues<F: Float>(a: ArrayView2<'_, F>) -> Result<Array1<F>> {
    debug_assert!(a.is_square());
    F::Backend::symmetric_eigenvalues(a)
}
