//! Singular triplets, on which the fits and the artifact work.

use ndarray::{Array1, Array2, ArrayView1};

use crate::Float;

/// Leading singular values with their vectors.
pub(super) struct Triplets<F> {
    /// Left singular vectors, as columns.
    pub(super) u: Array2<F>,
    /// Singular values, the largest first.
    pub(super) s: Array1<F>,
    /// Right singular vectors, as rows.
    pub(super) vt: Array2<F>,
}

impl<F: Float> Triplets<F> {
    /// Makes the signs unique: in each left vector the entry of the largest magnitude (the first of several) becomes
    /// positive. The right vector changes its sign with it.
    pub(super) fn fix_signs(&mut self) {
        for (mut u, mut v) in self.u.columns_mut().into_iter().zip(self.vt.rows_mut()) {
            let largest =
                u.iter().fold(
                    F::zero(),
                    |largest, &x| {
                        if x.abs() > largest.abs() { x } else { largest }
                    },
                );
            if largest < F::zero() {
                u.mapv_inplace(|x| -x);
                v.mapv_inplace(|x| -x);
            }
        }
    }
}

/// The sum of squares of the values times `scale`, in double precision.
pub(super) fn sum_of_squares<F: Float>(values: ArrayView1<'_, F>, scale: f64) -> f64 {
    let square = |x: F| {
        let x = x.as_f64() * scale;
        x * x
    };
    let Some(values) = values.to_slice() else {
        return values.iter().map(|&x| square(x)).sum();
    };
    // Sums side by side, so that they are computed in vectors.
    let (chunks, rest) = values.as_chunks::<16>();
    let mut sums = [0.0; 16];
    for chunk in chunks {
        for (sum, &x) in sums.iter_mut().zip(chunk) {
            *sum += square(x);
        }
    }
    let rest: f64 = rest.iter().map(|&x| square(x)).sum();
    sums.into_iter().sum::<f64>() + rest
}
