//! Systems with a symmetric positive definite matrix, factored once and solved many times.

use ndarray::{Array2, ArrayView2, ArrayViewMut2};

use super::Backend;
use crate::Float;

/// A = L Lᵀ.
#[derive(Debug, Clone)]
pub(crate) struct Cholesky<F> {
    lower: Array2<F>,
}

impl<F: Float> Cholesky<F> {
    /// Factors `a`; `None` if it is not positive definite to working precision. Only the lower triangle is read.
    pub(crate) fn new(a: ArrayView2<'_, F>) -> Option<Self> {
        debug_assert!(a.is_square());
        F::Backend::cholesky(a).map(|lower| Self { lower })
    }

    /// L, with zeros above the diagonal.
    pub(crate) fn lower(&self) -> &Array2<F> {
        &self.lower
    }

    /// `x ← A⁻¹ x`: one right-hand side per column.
    pub(crate) fn solve(&self, mut x: ArrayViewMut2<'_, F>) {
        debug_assert_eq!(x.nrows(), self.lower.nrows());
        F::Backend::solve_lower(self.lower.view(), false, x.view_mut());
        F::Backend::solve_lower(self.lower.view(), true, x);
    }

    /// `x ← x A⁻¹`: one right-hand side per row.
    pub(crate) fn solve_rows(&self, x: ArrayViewMut2<'_, F>) {
        self.solve(x.reversed_axes());
    }

    /// `x ← x L⁻ᵀ`, which makes the columns of x orthonormal if A = xᵀ x.
    pub(crate) fn whiten_rows(&self, x: ArrayViewMut2<'_, F>) {
        debug_assert_eq!(x.ncols(), self.lower.nrows());
        F::Backend::solve_lower(self.lower.view(), false, x.reversed_axes());
    }

    /// `x ← x L⁻¹`.
    pub(crate) fn unwhiten_rows(&self, x: ArrayViewMut2<'_, F>) {
        debug_assert_eq!(x.ncols(), self.lower.nrows());
        F::Backend::solve_lower(self.lower.view(), true, x.reversed_axes());
    }

    /// A⁻¹.
    pub(crate) fn inverse(&self) -> Array2<F> {
        let mut inverse = Array2::eye(self.lower.nrows());
        self.solve(inverse.view_mut());
        inverse
    }
}
