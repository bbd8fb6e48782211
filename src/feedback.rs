//! Error feedback: later columns of a weight matrix compensate for the rounding errors of earlier ones.
//!
//! With the moments H of a layer's inputs and E = W − Ŵ, the output error is tr(E H Eᵀ). Let H = (A + I) D (A + I)ᵀ with
//! A strictly upper triangular and D diagonal (or, for columns that are rounded in groups, block diagonal). Rounding the
//! columns one after the other, each with the target
//!
//! $$t\_j = w\_j + \sum\_{k<j} (w\_k - \hat w\_k)\\, A\_{kj}$$
//!
//! makes the output error the sum of $D\_j \lVert t\_j - \hat w\_j \rVert^2$, the rounding errors of the single columns
//! without a term between columns. That is the method of E. Frantar et al., "GPTQ", 2022, arXiv:2210.17323, in the form that
//! J. Chee et al., "QuIP", 2023, arXiv:2307.13304, proved equal to it: no inverse of H is needed.

use ndarray::{Array2, ArrayView2, s};

use crate::{Float, InputMoments, Result, linalg, parallel};

/// Columns whose targets start from one matrix product.
const BLOCK: usize = 64;
/// Rows that are rounded together.
const ROWS: usize = 64;

/// The coefficients of columns that are rounded one by one, those of the largest inputs first.
#[derive(Debug)]
pub(crate) struct Feedback<F> {
    order: Vec<usize>,
    blocks: Vec<Block<F>>,
    /// D_j of each column, up to a power of two that is common to all.
    conditional: Vec<f64>,
}

#[derive(Debug)]
struct Block<F> {
    /// Aᵀ of these columns (rows) and all columns of earlier blocks.
    before: Array2<F>,
    /// Aᵀ among these columns, strictly lower triangular.
    within: Array2<F>,
}

impl<F: Float> Feedback<F> {
    /// # Errors
    ///
    /// Those of [`InputMoments::factored`].
    pub(crate) fn new(inputs: &InputMoments, damping: f64) -> Result<Self> {
        // Powers of two change no coefficient, but their square roots would be rounded.
        let (inputs, _) = &inputs.normalized()?;
        let diagonal = inputs.diagonal()?;
        let mut order: Vec<usize> = (0..diagonal.len()).collect();
        order.sort_by(|&a, &b| diagonal[b].total_cmp(&diagonal[a]));
        let (upper, _) = upper_factor(inputs, damping, &order)?;
        let upper = upper.view();
        let starts: Vec<usize> = (0..order.len()).step_by(BLOCK).collect();
        let blocks = parallel::map(starts.len(), |b| {
            let (start, end) = (starts[b], order.len().min(starts[b] + BLOCK));
            let coefficient = |j: usize, k: usize| {
                let (j, k) = (start + j, k);
                F::from_f64_lossy(if k < j {
                    upper[[k, j]] / upper[[j, j]]
                } else {
                    0.0
                })
            };
            let width = end - start;
            Block {
                before: Array2::from_shape_fn((width, start), |(j, k)| coefficient(j, k)),
                within: Array2::from_shape_fn((width, width), |(j, k)| coefficient(j, start + k)),
            }
        });
        let mut conditional = vec![0.0; order.len()];
        for (j, &column) in order.iter().enumerate() {
            conditional[column] = upper[[j, j]] * upper[[j, j]];
        }
        Ok(Self {
            order,
            blocks,
            conditional,
        })
    }

    /// D_j for each column: what a squared rounding error of 1 adds to the output error, up to a power of two that is common
    /// to all columns.
    pub(crate) fn conditional(&self) -> &[f64] {
        &self.conditional
    }

    /// Ŵ for weights of shape (rows, in_features), where `round(row, column, target)` rounds a weight.
    pub(crate) fn run(
        &self,
        weights: ArrayView2<'_, F>,
        round: impl Fn(usize, usize, F) -> F + Sync + Send,
    ) -> Array2<F> {
        let (rows, columns) = weights.dim();
        let mut rounded = vec![F::zero(); rows * columns];
        parallel::for_each_chunk_mut(&mut rounded, ROWS * columns, |i, out| {
            let first = i * ROWS;
            let chunk = weights.slice(s![first..rows.min(first + ROWS), ..]);
            let found = self.run_together(chunk, |column, targets, rounded| {
                for (r, (&target, out)) in targets.iter().zip(rounded).enumerate() {
                    *out = round(first + r, column, target);
                }
            });
            out.iter_mut()
                .zip(&found)
                .for_each(|(to, &from)| *to = from);
        });
        Array2::from_shape_vec((rows, columns), rounded).expect("the length is that of the shape")
    }

    /// Ŵ for weights of shape (rows, in_features), where `round(column, targets, rounded)` rounds all rows of a column.
    pub(crate) fn run_together(
        &self,
        weights: ArrayView2<'_, F>,
        mut round: impl FnMut(usize, &[F], &mut [F]),
    ) -> Array2<F> {
        let (rows, columns) = weights.dim();
        // Transposed, so that the errors of all rows in one column are contiguous.
        let mut errors = Array2::<F>::zeros((columns, rows));
        let mut result = Array2::zeros((rows, columns));
        let mut rounded = vec![F::zero(); rows];
        let mut start = 0;
        for block in &self.blocks {
            let width = block.within.nrows();
            let order = &self.order[start..start + width];
            let mut targets = linalg::product(block.before.view(), errors.slice(s![..start, ..]));
            for (j, &column) in order.iter().enumerate() {
                let (done, mut rest) = errors.view_mut().split_at(ndarray::Axis(0), start + j);
                let mut target = targets.row_mut(j);
                target += &weights.column(column);
                let earlier = done.slice(s![start.., ..]);
                for (k, error) in earlier.rows().into_iter().enumerate() {
                    target.scaled_add(block.within[[j, k]], &error);
                }
                let target = target.as_slice().expect("rows of a product have no gaps");
                round(column, target, &mut rounded);
                let mut error = rest.row_mut(0);
                let places = error.iter_mut().zip(weights.column(column)).zip(&rounded);
                for ((error, &weight), &rounded) in places {
                    *error = weight - rounded;
                }
                let column = result.column_mut(column);
                column
                    .into_iter()
                    .zip(&rounded)
                    .for_each(|(to, &from)| *to = from);
            }
            start += width;
        }
        result
    }
}

/// The coefficients of columns that are rounded in groups of the same width, the first group first.
#[derive(Debug)]
pub(crate) struct GroupFeedback<F> {
    /// For each group Aᵀ of its columns (rows) and all columns before it.
    pub(crate) before: Vec<Array2<F>>,
    /// For each group the upper triangular S with D = S Sᵀ: the output error is the sum of ‖(t − ŵ) S‖².
    pub(crate) metrics: Vec<Array2<f64>>,
    /// The damped moments.
    pub(crate) matrix: Array2<f64>,
}

impl<F: Float> GroupFeedback<F> {
    /// # Errors
    ///
    /// Those of [`InputMoments::factored`]; `width` divides the number of features.
    pub(crate) fn new(inputs: &InputMoments, damping: f64, width: usize) -> Result<Self> {
        let order: Vec<usize> = (0..inputs.features()).collect();
        let (upper, matrix) = upper_factor(inputs, damping, &order)?;
        let upper = upper.view();
        let groups = parallel::map(order.len() / width, |g| {
            let (start, end) = (g * width, (g + 1) * width);
            let metric = upper.slice(s![start..end, start..end]).to_owned();
            let inverse = inverse_upper(metric.view());
            let before = upper.slice(s![..start, start..end]).dot(&inverse);
            (
                before.t().as_standard_layout().mapv(F::from_f64_lossy),
                metric,
            )
        });
        let (before, metrics) = groups.into_iter().unzip();
        Ok(Self {
            before,
            metrics,
            matrix,
        })
    }
}

/// The upper triangular R with R Rᵀ = H, and H itself: the damped moments in `order`.
fn upper_factor(
    inputs: &InputMoments,
    damping: f64,
    order: &[usize],
) -> Result<(Array2<f64>, Array2<f64>)> {
    // H backwards is L Lᵀ, and L backwards is upper triangular.
    let backwards: Vec<usize> = order.iter().rev().copied().collect();
    let (matrix, cholesky) = inputs.factored(damping, Some(&backwards))?;
    let forwards = |a: ArrayView2<'_, f64>| {
        let a = a.slice_move(s![..;-1, ..;-1]);
        a.as_standard_layout().into_owned()
    };
    Ok((forwards(cholesky.lower().view()), forwards(matrix.view())))
}

/// The inverse of a small upper triangular matrix without zeros on its diagonal.
pub(crate) fn inverse_upper(upper: ArrayView2<'_, f64>) -> Array2<f64> {
    let n = upper.nrows();
    let mut inverse = Array2::zeros((n, n));
    for j in 0..n {
        for i in (0..=j).rev() {
            let known: f64 = (i + 1..=j).map(|k| upper[[i, k]] * inverse[[k, j]]).sum();
            let unit = if i == j { 1.0 } else { 0.0 };
            inverse[[i, j]] = (unit - known) / upper[[i, i]];
        }
    }
    inverse
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array1;

    fn numbers(rows: usize, columns: usize, seed: u64) -> Array2<f64> {
        Array2::from_shape_fn((rows, columns), |(i, j)| {
            crate::Seed::from(seed).uniform((i * columns + j) as u64)
        })
    }

    fn moments(features: usize, seed: u64) -> InputMoments {
        let x = numbers(3 * features, features, seed).dot(&numbers(features, features, seed + 1));
        let mut moments = InputMoments::new(features).unwrap();
        moments.add(x.view()).unwrap();
        moments
    }

    // The identity that the method relies on.
    #[test]
    fn the_output_error_has_no_terms_between_columns() {
        let n = BLOCK + 9;
        let inputs = moments(n, 1);
        let w = numbers(ROWS + 3, n, 7);
        let feedback = Feedback::<f64>::new(&inputs, 0.01).unwrap();
        let own = std::sync::Mutex::new(Array1::<f64>::zeros(n));
        let rounded = feedback.run(w.view(), |_, column, target| {
            let rounded = (4.0 * target).round() / 4.0;
            own.lock().unwrap()[column] += (target - rounded).powi(2);
            rounded
        });
        let own = own.into_inner().unwrap();
        let (upper, _) = upper_factor(&inputs, 0.01, &feedback.order).unwrap();
        let expected: f64 = feedback
            .order
            .iter()
            .enumerate()
            .map(|(j, &column)| upper[[j, j]].powi(2) * own[column])
            .sum::<f64>();
        let damped = InputMoments::from_matrix(inputs.damped(0.01).unwrap().view(), 1).unwrap();
        let found = damped.output_error(w.view(), rounded.view()).unwrap();
        // Sums of n² products, by a factor whose entries are off by n·ε times the condition number (below 10⁴ for
        // moments that are damped by a hundredth of their mean).
        assert!((found - expected).abs() <= 1e4 * n as f64 * f64::EPSILON * expected);
    }

    #[test]
    fn groups_of_one_are_single_columns() {
        let inputs = moments(12, 3);
        let groups = GroupFeedback::<f64>::new(&inputs, 0.01, 1).unwrap();
        let order: Vec<usize> = (0..12).collect();
        let (upper, _) = upper_factor(&inputs, 0.01, &order).unwrap();
        for (j, (before, metric)) in groups.before.iter().zip(&groups.metrics).enumerate() {
            assert_eq!(before.dim(), (1, j));
            assert_eq!(metric[[0, 0]], upper[[j, j]]);
            for k in 0..j {
                let expected = upper[[k, j]] / upper[[j, j]];
                assert!((before[[0, k]] - expected).abs() <= 2.0 * f64::EPSILON * expected.abs());
            }
        }
        let product = upper.dot(&upper.t());
        let trace = groups.matrix.diag().sum();
        for (a, b) in product.iter().zip(&groups.matrix) {
            assert!((a - b).abs() <= 12.0 * f64::EPSILON * trace);
        }
    }

    #[test]
    fn triangles_are_inverted() {
        let mut upper = numbers(6, 6, 5);
        for i in 0..6 {
            upper[[i, i]] += 3.0;
            for j in 0..i {
                upper[[i, j]] = 0.0;
            }
        }
        let product = upper.dot(&inverse_upper(upper.view()));
        for (a, b) in product.iter().zip(&Array2::<f64>::eye(6)) {
            assert!((a - b).abs() <= 64.0 * f64::EPSILON);
        }
    }
}
