//! Laws that every compiled back end has to pass.

use ndarray::{Array2, Axis, ShapeBuilder, s};
use rand::Rng;

use super::*;
use crate::Seed;

fn random<F: Float>(m: usize, n: usize, seed: u64) -> Array2<F> {
    let mut rng = Seed::from(seed).rng();
    Array2::from_shape_fn((m, n), |_| F::from_f64_lossy(rng.gen_range(-1.0..1.0)))
}

/// A symmetric matrix with eigenvalues of at least one.
fn positive_definite<F: Float>(n: usize, seed: u64) -> Array2<F> {
    let a = random::<F>(n, n + 3, seed);
    naive(a.view(), a.t()) + Array2::eye(n)
}

/// The product by its definition, summed in double precision.
fn naive<F: Float>(a: ArrayView2<'_, F>, b: ArrayView2<'_, F>) -> Array2<F> {
    Array2::from_shape_fn((a.nrows(), b.ncols()), |(i, j)| {
        let terms = a.row(i).into_iter().zip(b.column(j));
        F::from_f64_lossy(terms.map(|(x, y)| x.as_f64() * y.as_f64()).sum())
    })
}

/// Entries of sums over k terms of magnitude at most `scale` differ by at most k ε scale.
fn assert_close<F: Float>(a: ArrayView2<'_, F>, b: ArrayView2<'_, F>, terms: usize, scale: f64) {
    assert_eq!(a.dim(), b.dim());
    let tolerance = F::epsilon().as_f64() * (terms as f64 + 4.0) * scale;
    for (index, x) in a.indexed_iter() {
        let difference = (x.as_f64() - b[index].as_f64()).abs();
        assert!(
            difference <= tolerance,
            "{difference:e} > {tolerance:e} at {index:?}"
        );
    }
}

fn assert_orthonormal_columns<F: Float>(q: ArrayView2<'_, F>) {
    let identity = Array2::eye(q.ncols());
    assert_close(naive(q.t(), q).view(), identity.view(), q.nrows(), 2.0);
}

/// The same matrix in several memory layouts.
fn layouts<F: Float>(a: &Array2<F>, check: impl Fn(ArrayView2<'_, F>)) {
    let (m, n) = a.dim();
    check(a.view());
    let mut column_major = Array2::zeros((m, n).f());
    column_major.assign(a);
    check(column_major.view());
    let mut gaps = Array2::from_elem((2 * m, n + 3), F::nan());
    gaps.slice_mut(s![..;2, ..n]).assign(a);
    check(gaps.slice(s![..;2, ..n]));
    let mut reversed = a.clone();
    reversed.invert_axis(Axis(0));
    reversed = reversed.as_standard_layout().into_owned();
    reversed.invert_axis(Axis(0));
    check(reversed.view());
}

fn products<F: Float, B: Backend<F>>() {
    // Empty, single, odd, wide, tall, and large enough to be cut into blocks.
    for (m, n, k) in [
        (0, 3, 2),
        (2, 3, 0),
        (1, 1, 1),
        (1, 7, 5),
        (13, 1, 17),
        (5, 9, 300),
        (300, 2, 7),
        (301, 67, 60),
        (67, 301, 60),
    ] {
        let (a, b) = (random::<F>(m, k, 1), random::<F>(k, n, 2));
        let expected = naive(a.view(), b.view());
        layouts(&a, |a| {
            layouts(&b, |b| {
                layouts(&Array2::from_elem((m, n), F::nan()), |out| {
                    let mut out = out.to_owned();
                    B::product(F::one(), a, b, false, out.view_mut());
                    assert_close(out.view(), expected.view(), k, 1.0 + k as f64);
                });
            });
        });
        // Adds to a view with gaps. The values in the gaps do not change.
        let two = F::one() + F::one();
        let mut around = Array2::from_elem((2 * m + 1, n + 1), F::one());
        let out = around.slice_mut(s![..2 * m;2, ..n]);
        B::product(-two, a.view(), b.view(), true, out);
        let added = around.slice(s![..2 * m;2, ..n]);
        assert_close(
            added,
            expected.mapv(|x| F::one() - two * x).view(),
            k,
            2.0 + 2.0 * k as f64,
        );
        assert!(around.slice(s![1..;2, ..]).iter().all(|&x| x == F::one()));
        assert!(around.slice(s![.., n..]).iter().all(|&x| x == F::one()));
    }
}

fn singular_values<F: Float, B: Backend<F>>() {
    for (m, n) in [(1, 1), (1, 6), (6, 1), (20, 20), (150, 40), (40, 150)] {
        let a = random::<F>(m, n, 3);
        layouts(&a, |a| {
            let ThinSvd { u, s, vt } = B::thin_svd(a).unwrap();
            assert_eq!(s.len(), m.min(n));
            assert!(s.iter().all(|&x| x >= F::zero()));
            assert!(s.windows(2).into_iter().all(|pair| pair[0] >= pair[1]));
            assert_orthonormal_columns(u.view());
            assert_orthonormal_columns(vt.t());
            let rebuilt = naive((&u * &s).view(), vt.view());
            assert_close(rebuilt.view(), a, m + n, s[0].as_f64());
        });
    }
    let zero = B::thin_svd(Array2::zeros((5, 3)).view()).unwrap();
    assert!(zero.s.iter().all(|&s| s == F::zero()));
    assert_orthonormal_columns(zero.u.view());
    // Singular values in closed form: those of a diagonal matrix with mixed signs.
    let diagonal = Array2::from_diag(&ndarray::array![1.0, -3.0, 0.0, 2.0].mapv(F::from_f64_lossy));
    let s = B::thin_svd(diagonal.view()).unwrap().s;
    let expected = ndarray::array![3.0, 2.0, 1.0, 0.0].mapv(F::from_f64_lossy);
    let as_row = |s: Array1<F>| s.insert_axis(Axis(0));
    assert_close(as_row(s).view(), as_row(expected).view(), 4, 3.0);
}

fn orthogonal_triangular<F: Float, B: Backend<F>>() {
    for (m, n) in [(1, 1), (7, 1), (1, 7), (20, 20), (150, 40), (40, 150)] {
        let a = random::<F>(m, n, 4);
        layouts(&a, |a| {
            let (q, r) = B::thin_qr(a).unwrap();
            assert_eq!((q.dim(), r.dim()), ((m, m.min(n)), (m.min(n), n)));
            assert_orthonormal_columns(q.view());
            assert!(
                r.indexed_iter()
                    .all(|((i, j), &x)| i <= j || x == F::zero())
            );
            let scale = (m as f64).sqrt();
            assert_close(naive(q.view(), r.view()).view(), a, m, scale);
        });
    }
}

fn eigenvalues<F: Float, B: Backend<F>>() {
    for n in [1, 2, 30, 100] {
        let a = random::<F>(n, n, 5);
        let a = &a + &a.t();
        layouts(&a, |a| {
            let (values, vectors) = B::symmetric_eigen(a).unwrap();
            assert!(values.windows(2).into_iter().all(|pair| pair[0] <= pair[1]));
            assert_orthonormal_columns(vectors.view());
            let rebuilt = naive((&vectors * &values).view(), vectors.t());
            assert_close(
                rebuilt.view(),
                a,
                4 * n,
                values[n - 1].abs().as_f64().max(1.0),
            );
        });
    }
}

fn positive_definite_systems<F: Float, B: Backend<F>>() {
    for n in [1, 2, 25, 90] {
        let a = positive_definite::<F>(n, 6);
        let scale = a.iter().fold(0.0, |max, x| x.as_f64().abs().max(max));
        layouts(&a, |a| {
            let lower = B::cholesky(a).unwrap();
            assert!(
                lower
                    .indexed_iter()
                    .all(|((i, j), &x)| i >= j || x == F::zero())
            );
            assert_close(naive(lower.view(), lower.t()).view(), a, n, scale);
            for columns in [1, 4, 150] {
                let x = random::<F>(n, columns, 7);
                layouts(&naive(lower.view(), x.view()), |b| {
                    let mut solved = b.to_owned();
                    B::solve_lower(lower.view(), false, solved.view_mut());
                    // Residuals, not errors: those are bounded whatever the condition.
                    assert_close(naive(lower.view(), solved.view()).view(), b, n, scale);
                });
                let mut gaps = Array2::from_elem((n, 2 * columns), F::one());
                let b = naive(lower.t(), x.view());
                gaps.slice_mut(s![.., ..;2]).assign(&b);
                B::solve_lower(lower.view(), true, gaps.slice_mut(s![.., ..;2]));
                let solved = gaps.slice(s![.., ..;2]);
                assert_close(naive(lower.t(), solved).view(), b.view(), n, scale);
                assert!(gaps.slice(s![.., 1..;2]).iter().all(|&x| x == F::one()));
            }
        });
    }
    let mut indefinite = Array2::<F>::eye(4);
    indefinite[[2, 2]] = -F::one();
    assert!(B::cholesky(indefinite.view()).is_none());
    assert!(B::cholesky(Array2::zeros((3, 3)).view()).is_none());
    assert!(B::cholesky(Array2::from_elem((3, 3), F::nan()).view()).is_none());
}

macro_rules! laws {
    ($module:ident, $backend:ty: $($law:ident),*) => {
        mod $module {
            use crate::linalg;

            $(#[test]
            fn $law() {
                super::$law::<f32, $backend>();
                super::$law::<f64, $backend>();
            })*
        }
    };
}

laws!(of_faer, linalg::faer::Faer:
    products, singular_values, orthogonal_triangular, eigenvalues, positive_definite_systems);
#[cfg(feature = "_lapack")]
laws!(of_lapack, linalg::lapack::Lapack:
    products, singular_values, orthogonal_triangular, eigenvalues, positive_definite_systems);

#[test]
fn systems_are_solved_by_columns_and_by_rows() {
    let a = positive_definite::<f64>(6, 8);
    let b = random::<f64>(6, 5, 9);
    let cholesky = Cholesky::new(a.view()).unwrap();
    let mut x = b.clone();
    cholesky.solve(x.view_mut());
    let mut by_rows = b.t().to_owned();
    cholesky.solve_rows(by_rows.view_mut());
    assert_close(a.dot(&x).view(), b.view(), 6, 20.0);
    assert_close(by_rows.t(), x.view(), 36, 1.0);
    assert_close(cholesky.inverse().dot(&b).view(), x.view(), 36, 1.0);
}

#[test]
fn whitening_by_the_gram_matrix_makes_columns_orthonormal() {
    let mut a = random::<f64>(200, 9, 10);
    let gram = gram(a.view());
    assert_eq!(gram, gram.t());
    Cholesky::new(gram.view())
        .unwrap()
        .whiten_rows(a.view_mut());
    assert_orthonormal_columns(a.view());
}

#[cfg(feature = "rayon")]
#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    type B = faer::Faer;
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            let a = random::<f32>(500, 170, 11);
            let wide = product(a.view(), a.t());
            let mut x = random::<f32>(170, 700, 12);
            let spd = positive_definite::<f32>(170, 13);
            let lower = <B as Backend<f32>>::cholesky(spd.view()).unwrap();
            <B as Backend<f32>>::solve_lower(lower.view(), true, x.view_mut());
            let svd = <B as Backend<f32>>::thin_svd(a.view()).unwrap();
            let qr = <B as Backend<f32>>::thin_qr(a.view()).unwrap();
            let eigen = <B as Backend<f32>>::symmetric_eigen(spd.view()).unwrap();
            (wide, x, lower, svd.u, svd.s, svd.vt, qr, eigen)
        })
    };
    let one = run(1);
    for threads in [2, 3, 8] {
        assert_eq!(one, run(threads), "{threads} threads");
    }
}
