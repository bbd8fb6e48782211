//! Linear algebra in Rust, by faer.
//!
//! In faer's own parallel algorithms the shapes of blocks, and with them the order of some sums, depend on the number of
//! threads. Here products are cut into blocks that depend on the shapes of matrices only, and each block is computed
//! sequentially; decompositions run on one thread.

use ::faer::dyn_stack::{MemBuffer, MemStack, StackReq};
use ::faer::linalg::cholesky::llt;
use ::faer::linalg::evd::{self, ComputeEigenvectors};
use ::faer::linalg::matmul::matmul;
use ::faer::linalg::qr::no_pivoting::factor as qr;
use ::faer::linalg::svd::{self, ComputeSvdVectors};
use ::faer::linalg::{householder, triangular_solve};
use ::faer::prelude::{Reborrow, ReborrowMut};
use ::faer::traits::RealField;
use ::faer::{Accum, Conj, MatMut, MatRef, Par};
use ndarray::{Array1, Array2, ArrayView2, ArrayViewMut2, CowArray, Ix2, ShapeBuilder};

use super::{Backend, ThinSvd};
use crate::{Error, Float, Result, parallel};

/// The back end that is always compiled.
#[derive(Debug, Clone, Copy)]
pub struct Faer;

/// Products of fewer multiply-adds (some ten microseconds) run on one thread.
const SEQUENTIAL: usize = 1 << 20;
/// The length of the blocks of a product: long enough that packing the other operand again for each block costs little, short
/// enough that many threads have work.
const BLOCK: usize = 128;

impl<F: Float + RealField> Backend<F> for Faer {
    fn product(
        alpha: F,
        a: ArrayView2<'_, F>,
        b: ArrayView2<'_, F>,
        add: bool,
        mut out: ArrayViewMut2<'_, F>,
    ) {
        let a = dense(a);
        let b = dense(b);
        let accumulate = if add { Accum::Add } else { Accum::Replace };
        with_mut(&mut out, |out| {
            blocked_product(alpha, borrow(&a), borrow(&b), accumulate, out);
        });
    }

    fn thin_svd(a: ArrayView2<'_, F>) -> Result<ThinSvd<F>> {
        let (m, n) = a.dim();
        let size = m.min(n);
        let a = dense(a);
        let mut u = Array2::zeros((m, size).f());
        let mut v = Array2::zeros((n, size).f());
        let mut s = Array1::zeros(size);
        let vectors = ComputeSvdVectors::Thin;
        let params = Default::default();
        let scratch = svd::svd_scratch::<F>(m, n, vectors, vectors, Par::Seq, params);
        let result = with_mut(&mut u.view_mut(), |u| {
            with_mut(&mut v.view_mut(), |v| {
                with_scratch(scratch, |stack| {
                    let s = ::faer::ColMut::from_slice_mut(slice_mut(&mut s));
                    let s = s.as_diagonal_mut();
                    svd::svd(borrow(&a), s, Some(u), Some(v), Par::Seq, stack, params)
                })
            })
        });
        match result {
            Ok(()) => Ok(ThinSvd {
                u,
                s,
                vt: v.reversed_axes(),
            }),
            Err(svd::SvdError::NoConvergence) => Err(Error::NoConvergence {
                what: "the singular value decomposition",
            }),
        }
    }

    fn thin_qr(a: ArrayView2<'_, F>) -> Result<(Array2<F>, Array2<F>)> {
        let (m, n) = a.dim();
        let size = m.min(n);
        let mut basis = column_major(a);
        let block = qr::recommended_block_size::<F>(m, n);
        let mut coefficients = Array2::zeros((block, size).f());
        let mut q = Array2::zeros((m, size).f());
        q.diag_mut().fill(<F as num_traits::One>::one());
        let params = Default::default();
        let scratch = StackReq::any_of(&[
            qr::qr_in_place_scratch::<F>(m, n, block, Par::Seq, params),
            householder::apply_block_householder_sequence_on_the_left_in_place_scratch::<F>(
                m, block, size,
            ),
        ]);
        with_scratch(scratch, |stack| {
            with_mut(&mut basis.view_mut(), |mut basis| {
                with_mut(&mut coefficients.view_mut(), |mut coefficients| {
                    qr::qr_in_place(
                        basis.rb_mut(),
                        coefficients.rb_mut(),
                        Par::Seq,
                        stack,
                        params,
                    );
                    with_mut(&mut q.view_mut(), |q| {
                        householder::apply_block_householder_sequence_on_the_left_in_place_with_conj(
                            basis.rb().subcols(0, size),
                            coefficients.rb(),
                            Conj::No,
                            q,
                            Par::Seq,
                            stack,
                        );
                    });
                });
            });
        });
        let zero = <F as num_traits::Zero>::zero();
        let r = Array2::from_shape_fn(
            (size, n),
            |(i, j)| if i <= j { basis[[i, j]] } else { zero },
        );
        Ok((q, r))
    }

    fn symmetric_eigen(a: ArrayView2<'_, F>) -> Result<(Array1<F>, Array2<F>)> {
        let mut vectors = Array2::zeros((a.nrows(), a.nrows()).f());
        let values = with_mut(&mut vectors.view_mut(), |vectors| eigen(a, Some(vectors)))?;
        Ok((values, vectors))
    }

    fn symmetric_eigenvalues(a: ArrayView2<'_, F>) -> Result<Array1<F>> {
        eigen(a, None)
    }

    fn cholesky(a: ArrayView2<'_, F>) -> Option<Array2<F>> {
        let n = a.nrows();
        let mut lower = column_major(a);
        let params = Default::default();
        let scratch = llt::factor::cholesky_in_place_scratch::<F>(n, Par::Seq, params);
        with_mut(&mut lower.view_mut(), |lower| {
            with_scratch(scratch, |stack| {
                let regularization = Default::default();
                llt::factor::cholesky_in_place(lower, regularization, Par::Seq, stack, params)
            })
        })
        .ok()?;
        for j in 1..n {
            lower
                .column_mut(j)
                .slice_mut(ndarray::s![..j])
                .fill(<F as num_traits::Zero>::zero());
        }
        lower
            .diag()
            .iter()
            .all(|x| num_traits::Float::is_finite(*x))
            .then_some(lower)
    }

    fn solve_lower(lower: ArrayView2<'_, F>, transposed: bool, mut x: ArrayViewMut2<'_, F>) {
        let lower = dense(lower);
        let lower = borrow(&lower);
        // Right-hand sides are independent: blocks of them are solved in parallel.
        let work = x.len() * lower.nrows();
        with_mut(&mut x, |x| {
            let blocks = if work > SEQUENTIAL {
                column_blocks(x, BLOCK)
            } else {
                vec![x]
            };
            parallel::for_each(blocks, |x| {
                if transposed {
                    let upper = lower.transpose();
                    triangular_solve::solve_upper_triangular_in_place(upper, x, Par::Seq);
                } else {
                    triangular_solve::solve_lower_triangular_in_place(lower, x, Par::Seq);
                }
            });
        });
    }
}

/// The eigenvalues of a symmetric matrix, and its eigenvectors into `vectors`, if given.
fn eigen<F: Float + RealField>(
    a: ArrayView2<'_, F>,
    vectors: Option<MatMut<'_, F>>,
) -> Result<Array1<F>> {
    let n = a.nrows();
    let a = dense(a);
    let mut values = Array1::zeros(n);
    let params = Default::default();
    let wanted = match vectors {
        Some(_) => ComputeEigenvectors::Yes,
        None => ComputeEigenvectors::No,
    };
    let scratch = evd::self_adjoint_evd_scratch::<F>(n, wanted, Par::Seq, params);
    let result = with_scratch(scratch, |stack| {
        let values = ::faer::ColMut::from_slice_mut(slice_mut(&mut values));
        let values = values.as_diagonal_mut();
        evd::self_adjoint_evd(borrow(&a), values, vectors, Par::Seq, stack, params)
    });
    match result {
        Ok(()) => Ok(values),
        Err(evd::EvdError::NoConvergence) => Err(Error::NoConvergence {
            what: "the symmetric eigenvalue decomposition",
        }),
    }
}

/// The product, computed in blocks along the longer axis of the result. The blocks do not depend on the threads.
fn blocked_product<F: Float + RealField>(
    alpha: F,
    a: MatRef<'_, F>,
    b: MatRef<'_, F>,
    accumulate: Accum,
    out: MatMut<'_, F>,
) {
    let (m, n, k) = (out.nrows(), out.ncols(), a.ncols());
    if n > m {
        // Always split rows: (a b)ᵀ = bᵀ aᵀ.
        let (a, b, out) = (b.transpose(), a.transpose(), out.transpose_mut());
        return blocked_product_of_rows(alpha, a, b, accumulate, out, n * m * k);
    }
    blocked_product_of_rows(alpha, a, b, accumulate, out, m * n * k);
}

fn blocked_product_of_rows<F: Float + RealField>(
    alpha: F,
    a: MatRef<'_, F>,
    b: MatRef<'_, F>,
    accumulate: Accum,
    out: MatMut<'_, F>,
    work: usize,
) {
    // At least four blocks of whole registers, so that several threads also work on a result with few rows.
    let block = BLOCK.min(out.nrows().div_ceil(4).next_multiple_of(32));
    if work <= SEQUENTIAL || out.nrows() <= block {
        matmul(out, accumulate, a, b, alpha, Par::Seq);
        return;
    }
    let blocks = column_blocks(out.transpose_mut(), block)
        .into_iter()
        .enumerate()
        .collect();
    parallel::for_each(blocks, |(i, out): (usize, MatMut<'_, F>)| {
        let out = out.transpose_mut();
        let a = a.subrows(i * block, out.nrows());
        matmul(out, accumulate, a, b, alpha, Par::Seq);
    });
}

/// Blocks of `length` columns (the last may be shorter).
fn column_blocks<F>(mut rest: MatMut<'_, F>, length: usize) -> Vec<MatMut<'_, F>> {
    let mut blocks = Vec::with_capacity(rest.ncols().div_ceil(length));
    while rest.ncols() > length {
        let (head, tail) = rest.split_at_col_mut(length);
        blocks.push(head);
        rest = tail;
    }
    blocks.push(rest);
    blocks
}

/// The matrix in row-major or column-major order without gaps; copied only if it has gaps.
fn dense<F: Float>(a: ArrayView2<'_, F>) -> CowArray<'_, F, Ix2> {
    if a.is_standard_layout() || a.t().is_standard_layout() {
        a.into()
    } else {
        a.as_standard_layout().into_owned().into()
    }
}

/// A copy in column-major order, which faer's decompositions prefer.
fn column_major<F: Float>(a: ArrayView2<'_, F>) -> Array2<F> {
    let mut copy = Array2::zeros(a.raw_dim().f());
    copy.assign(&a);
    copy
}

/// The view that faer works on, of a matrix from [`dense`].
fn borrow<'a, F: Float>(a: &'a CowArray<'_, F, Ix2>) -> MatRef<'a, F> {
    let (m, n) = a.dim();
    if let Some(values) = a.as_slice() {
        return MatRef::from_row_major_slice(values, m, n);
    }
    let columns = a.t();
    let columns = columns.to_slice().expect("`dense` leaves no gaps");
    MatRef::from_column_major_slice(columns, m, n)
}

/// Calls `f` with the view that faer works on. If `a` has gaps, `f` works on a copy that is then written back.
fn with_mut<F: Float, T>(a: &mut ArrayViewMut2<'_, F>, f: impl FnOnce(MatMut<'_, F>) -> T) -> T {
    let (m, n) = a.dim();
    if let Some(values) = a.as_slice_mut() {
        return f(MatMut::from_row_major_slice_mut(values, m, n));
    }
    if let Some(values) = a.view_mut().reversed_axes().as_slice_mut() {
        return f(MatMut::from_column_major_slice_mut(values, m, n));
    }
    let mut copy: Vec<F> = a.iter().copied().collect();
    let result = f(MatMut::from_row_major_slice_mut(&mut copy, m, n));
    a.iter_mut().zip(copy).for_each(|(to, from)| *to = from);
    result
}

fn slice_mut<F: Float>(a: &mut Array1<F>) -> &mut [F] {
    a.as_slice_mut().expect("a new array has no gaps")
}

fn with_scratch<T>(size: StackReq, f: impl FnOnce(&mut MemStack) -> T) -> T {
    f(MemStack::new(&mut MemBuffer::new(size)))
}
