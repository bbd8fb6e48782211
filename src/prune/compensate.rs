//! The weights that a layer's outputs need least, and how the kept weights compensate for the others.

use ndarray::{Array1, Array2, ArrayView2};

use crate::feedback::Feedback;
use crate::{Float, InputMoments, Result, linalg, power};

/// Returns the square root of twice the saliency of B. Hassibi and D. Stork's optimal brain surgeon, |w| / √[H⁻¹]ᵢᵢ: by how
/// much the output changes when a weight is removed and the others of its row compensate as far as they can. The moments are
/// divided by 2^`exponent`.
pub(super) fn scores<F: Float>(
    weights: ArrayView2<'_, F>,
    inputs: &InputMoments,
    damping: f64,
    exponent: i32,
) -> Result<Vec<f64>> {
    let (inputs, own) = inputs.normalized()?;
    let inverse = inputs.cholesky(damping)?.inverse();
    let in_units = |x: f64| power::times(x, exponent - own);
    let factors = inverse.diag().mapv(|x| in_units(x).sqrt().recip());
    let rows = weights.rows().into_iter();
    let scores = rows.flat_map(|row| {
        let pairs = row.into_iter().zip(&factors);
        pairs.map(|(w, factor)| w.as_f64().abs() * factor)
    });
    Ok(scores.collect())
}

/// Returns weights that are zero where `mask` (row by row) is not set and change the outputs little.
///
/// First, column by column, later columns compensate for the error of earlier ones (E. Frantar and D. Alistarh, "SparseGPT",
/// 2023, arXiv:2301.00774). Then follow `refinements` steps of conjugate gradients on the kept weights of each row. None of
/// them raises the output error of the damped moments.
pub(super) fn compensate<F: Float>(
    weights: ArrayView2<'_, F>,
    mask: &[bool],
    inputs: &InputMoments,
    damping: f64,
    refinements: usize,
) -> Result<Array2<F>> {
    // Products round by the order in memory, and the result must not depend on strides.
    let weights = weights.as_standard_layout();
    // In units in which no square overflows or vanishes.
    let exponent = power::largest_exponent(&weights.view());
    let weights = power::scaled(&weights.view(), -exponent);
    let weights = weights.view();
    let (inputs, _) = &inputs.normalized()?;
    let columns = weights.ncols();
    let kept = |i: usize, j: usize| mask[i * columns + j];
    let feedback = Feedback::new(inputs, damping)?;
    let rebuilt = feedback.run(
        weights,
        |i, j, target| {
            if kept(i, j) { target } else { F::zero() }
        },
    );
    if refinements == 0 {
        return Ok(power::scaled(&rebuilt.view(), exponent));
    }
    let moments = inputs.damped(damping)?;
    let inside = |mut a: Array2<f64>| {
        for ((i, j), x) in a.indexed_iter_mut() {
            if !kept(i, j) {
                *x = 0.0;
            }
        }
        a
    };
    let mut solution = rebuilt.mapv(Float::as_f64);
    let error = weights.mapv(Float::as_f64) - &solution;
    let mut residual = inside(linalg::product(error.view(), moments.view()));
    // Inputs differ in scale.
    let precondition = moments
        .diag()
        .mapv(|x| if x > 0.0 { x.recip() } else { 0.0 });
    let mut direction = &residual * &precondition;
    let mut energies = row_products(&residual, &direction);
    for _ in 0..refinements {
        let image = inside(linalg::product(direction.view(), moments.view()));
        let curvatures = row_products(&direction, &image);
        let steps = ratios(&energies, &curvatures);
        add_rows(&mut solution, &steps, &direction);
        add_rows(&mut residual, &steps.mapv(|x| -x), &image);
        let scaled = &residual * &precondition;
        let next = row_products(&residual, &scaled);
        let ratio = ratios(&next, &energies);
        direction *= &ratio.insert_axis(ndarray::Axis(1));
        direction += &scaled;
        energies = next;
    }
    Ok(solution.mapv(|x| F::from_f64_lossy(power::times(x, exponent))))
}

/// The diagonal of A Bᵀ.
fn row_products(a: &Array2<f64>, b: &Array2<f64>) -> Array1<f64> {
    let rows = a.rows().into_iter().zip(b.rows());
    rows.map(|(a, b)| a.dot(&b)).collect()
}

/// `a` over `b`, and zero where `b` is zero: the row has converged.
fn ratios(a: &Array1<f64>, b: &Array1<f64>) -> Array1<f64> {
    let pairs = a.iter().zip(b);
    pairs
        .map(|(&a, &b)| if b > 0.0 { a / b } else { 0.0 })
        .collect()
}

/// `to ← to + diag(steps) from`.
fn add_rows(to: &mut Array2<f64>, steps: &Array1<f64>, from: &Array2<f64>) {
    let rows = to.rows_mut().into_iter().zip(from.rows());
    for ((mut to, from), &step) in rows.zip(steps) {
        to.scaled_add(step, &from);
    }
}
