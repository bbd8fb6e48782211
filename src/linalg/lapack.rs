//! Linear algebra by LAPACK and BLAS, through `ndarray-linalg`.
//!
//! A feature of the crate selects the LAPACK library. The library has its own threads: a parallel OpenBLAS may round differently
//! with another number of threads.

use ndarray::linalg::general_mat_mul;
use ndarray::{Array1, Array2, ArrayView2, ArrayViewMut2};
use ndarray_linalg::{
    Cholesky as _, Diag, EigValsh as _, Eigh as _, JobSvd, Lapack as LapackScalar, QRInto as _,
    SVDDCInto as _, SolveTriangularInplace as _, UPLO,
};
// The linker includes the library only because of this import.
#[cfg(any(feature = "openblas-system", feature = "openblas-static"))]
use openblas_src as _;

use super::{Backend, ThinSvd};
use crate::{Error, Float, Result};

/// The back end of the LAPACK features.
#[derive(Debug, Clone, Copy)]
pub struct Lapack;

impl<F: Float + LapackScalar<Real = F>> Backend<F> for Lapack {
    fn product(
        alpha: F,
        a: ArrayView2<'_, F>,
        b: ArrayView2<'_, F>,
        add: bool,
        mut out: ArrayViewMut2<'_, F>,
    ) {
        let (zero, one) = (
            <F as num_traits::Zero>::zero(),
            <F as num_traits::One>::one(),
        );
        if !add {
            // Scaling by zero would keep a NaN, so fill.
            out.fill(zero);
        }
        general_mat_mul(alpha, &a, &b, one, &mut out);
    }

    fn thin_svd(a: ArrayView2<'_, F>) -> Result<ThinSvd<F>> {
        let failure = Error::NoConvergence {
            what: "the singular value decomposition",
        };
        match row_major(a).svddc_into(JobSvd::Some) {
            Ok((Some(u), s, Some(vt))) => Ok(ThinSvd { u, s, vt }),
            _ => Err(failure),
        }
    }

    fn thin_qr(a: ArrayView2<'_, F>) -> Result<(Array2<F>, Array2<F>)> {
        row_major(a).qr_into().map_err(|_| Error::NoConvergence {
            what: "the QR decomposition",
        })
    }

    fn symmetric_eigen(a: ArrayView2<'_, F>) -> Result<(Array1<F>, Array2<F>)> {
        row_major(a)
            .eigh(UPLO::Lower)
            .map_err(|_| Error::NoConvergence {
                what: "the symmetric eigenvalue decomposition",
            })
    }

    fn symmetric_eigenvalues(a: ArrayView2<'_, F>) -> Result<Array1<F>> {
        row_major(a)
            .eigvalsh(UPLO::Lower)
            .map_err(|_| Error::NoConvergence {
                what: "the symmetric eigenvalue decomposition",
            })
    }

    fn cholesky(a: ArrayView2<'_, F>) -> Option<Array2<F>> {
        let lower = row_major(a).cholesky(UPLO::Lower).ok()?;
        lower
            .diag()
            .iter()
            .all(|x| num_traits::Float::is_finite(*x))
            .then_some(lower)
    }

    fn solve_lower(lower: ArrayView2<'_, F>, transposed: bool, mut x: ArrayViewMut2<'_, F>) {
        let mut copy = row_major(x.view());
        let solved = if transposed {
            row_major(lower.reversed_axes()).solve_triangular_inplace(
                UPLO::Upper,
                Diag::NonUnit,
                &mut copy,
            )
        } else {
            row_major(lower).solve_triangular_inplace(UPLO::Lower, Diag::NonUnit, &mut copy)
        };
        solved.expect("no zero on the diagonal, the only failure that LAPACK names");
        x.assign(&copy);
    }
}

/// A copy without gaps, which LAPACK overwrites.
///
/// It is filled value by value: other copies keep the stride of an axis of length one, which `ndarray-linalg` reads.
fn row_major<F: Float>(a: ArrayView2<'_, F>) -> Array2<F> {
    let mut copy = Array2::zeros(a.raw_dim());
    copy.assign(&a);
    copy
}
