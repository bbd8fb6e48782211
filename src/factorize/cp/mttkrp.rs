//! The matricized tensor times a Khatri–Rao product, for one mode or for all modes in order.
//!
//! For mode n it is $M^{(n)}\_{i r} = \sum w\_{i\_1 \dots i\_d} \prod\_{m \ne n} a^{(m)}\_{i\_m r}$ over all indices with $i\_n
//! = i$. The modes are split into two halves, both as small as possible. One product of matrices contracts one half. The rest,
//! a small tensor with the R terms as its last axis, is contracted term by term to each mode of the other half. A sweep over
//! all modes therefore reads the tensor twice instead of d times (a dimension tree: Phan, Tichavský and Cichocki, "Fast
//! alternating LS algorithms for high order CANDECOMP/PARAFAC tensor factorizations", IEEE TSP 2013,
//! doi:10.1109/TSP.2013.2269903), and only the Khatri–Rao product of the contracted half is formed, block by block.

use std::ops::Range;

use ndarray::{Array2, ArrayView2, ArrayViewD, ArrayViewMut2};

use super::problem::{check_order, squared_norm, standard};
use crate::kernels::{Level, hadamard};
use crate::{Error, Float, Result, check, linalg, parallel};

/// The number of values of a Khatri–Rao product that are formed at a time; they fit into the second-level cache.
const BLOCK: usize = 1 << 20;
/// Several threads contract an intermediate tensor with more values than this.
const SHARED: usize = 1 << 16;

/// The matricized tensor times the Khatri–Rao product of all factors but that of `mode`.
///
/// `factors` holds one matrix per axis of `tensor`, of shape (length of the axis, terms). The one of `mode` only has to
/// have the right shape. The result has shape (length of `mode`, terms).
///
/// # Errors
///
/// [`Error::Dimensions`] for fewer than two axes, [`Error::ExceedsInput`] for a mode above the last axis,
/// [`Error::ShapeMismatch`] for factors of other shapes, [`Error::EmptyAxis`], [`Error::NonFinite`].
pub(super) fn mttkrp<F: Float>(
    tensor: ArrayViewD<'_, F>,
    factors: &[ArrayView2<'_, F>],
    mode: usize,
) -> Result<Array2<F>> {
    let shape = tensor.shape().to_vec();
    check_order(&shape)?;
    if mode >= shape.len() {
        return Err(Error::ExceedsInput {
            what: "mode",
            value: mode,
            limit: shape.len() - 1,
        });
    }
    check::finite("the tensor", &tensor)?;
    check::same_shape("the list of factors", &[shape.len()], &[factors.len()])?;
    let terms = factors.first().map_or(0, ArrayView2::ncols);
    for (factor, &length) in factors.iter().zip(&shape) {
        check::same_shape("a factor", &[length, terms], factor.shape())?;
        check::finite("a factor", factor)?;
    }
    let values: Vec<Vec<F>> = factors
        .iter()
        .map(|factor| factor.iter().copied().collect())
        .collect();
    let walk = Walk::new(&shape, terms);
    let product = walk.single(&standard(&tensor), &values, mode);
    let product = Array2::from_shape_vec((shape[mode], terms), product);
    Ok(product.expect("the product has a row per index of the mode and a column per term"))
}

/// The shape of a tensor and the number of terms: what a sweep over its factors needs.
#[derive(Debug, Clone)]
pub(super) struct Walk {
    shape: Vec<usize>,
    terms: usize,
    level: Level,
}

impl Walk {
    pub(super) fn new(shape: &[usize], terms: usize) -> Self {
        Self {
            shape: shape.to_vec(),
            terms,
            level: Level::current(),
        }
    }

    /// Calls `update(n, M⁽ⁿ⁾, factors)` for each mode n in order, with M⁽ⁿ⁾ from the current factors.
    pub(super) fn sweep<F: Float>(
        &self,
        tensor: &[F],
        factors: &mut [Vec<F>],
        update: &mut impl FnMut(usize, &[F], &mut [Vec<F>]) -> Result<()>,
    ) -> Result<()> {
        let modes = 0..self.shape.len();
        let middle = self.split(&modes);
        for kept in [0..middle, middle..modes.end] {
            let node = self.contract_tensor(tensor, factors, kept.clone());
            self.descend(node, kept, factors, update)?;
        }
        Ok(())
    }

    /// M of a single mode.
    fn single<F: Float>(&self, tensor: &[F], factors: &[Vec<F>], mode: usize) -> Vec<F> {
        let mut modes = 0..self.shape.len();
        let middle = self.split(&modes);
        if mode < middle {
            modes.end = middle;
        } else {
            modes.start = middle;
        }
        let mut node = self.contract_tensor(tensor, factors, modes.clone());
        while modes.len() > 1 {
            let middle = self.split(&modes);
            if mode < middle {
                node = self.contract_left(&node, factors, &modes, middle);
                modes.end = middle;
            } else {
                node = self.contract_right(&node, factors, &modes, middle);
                modes.start = middle;
            }
        }
        node
    }

    fn descend<F: Float>(
        &self,
        node: Vec<F>,
        modes: Range<usize>,
        factors: &mut [Vec<F>],
        update: &mut impl FnMut(usize, &[F], &mut [Vec<F>]) -> Result<()>,
    ) -> Result<()> {
        if modes.len() == 1 {
            return update(modes.start, &node, factors);
        }
        let middle = self.split(&modes);
        let left = self.contract_left(&node, factors, &modes, middle);
        self.descend(left, modes.start..middle, factors, update)?;
        let right = self.contract_right(&node, factors, &modes, middle);
        self.descend(right, middle..modes.end, factors, update)
    }

    /// The mode at which `modes` are split, so that both sides together have the fewest values.
    fn split(&self, modes: &Range<usize>) -> usize {
        (modes.start + 1..modes.end)
            .min_by_key(|&middle| {
                self.length(&(modes.start..middle))
                    .saturating_add(self.length(&(middle..modes.end)))
            })
            .expect("two modes or more have a middle")
    }

    fn length(&self, modes: &Range<usize>) -> usize {
        self.shape[modes.clone()].iter().product()
    }

    /// Contracts the tensor with the factors of all modes but `kept`, which are the first or the last ones, to a node
    /// (modes `kept`, terms).
    fn contract_tensor<F: Float>(
        &self,
        tensor: &[F],
        factors: &[Vec<F>],
        kept: Range<usize>,
    ) -> Vec<F> {
        let all = self.shape.len();
        let (matrix, others) = if kept.start == 0 {
            (self.matrix(tensor, kept.end), kept.end..all)
        } else {
            let matrix = self.matrix(tensor, kept.start);
            (matrix.reversed_axes(), 0..kept.start)
        };
        let rows = matrix.nrows();
        let mut out = vec![F::zero(); rows * self.terms];
        self.khatri_rao_blocks(factors, others, |block, at| {
            let columns = matrix.slice(ndarray::s![.., at.clone()]);
            let block = view(block, at.len(), self.terms);
            let out = view_mut(&mut out, rows, self.terms);
            linalg::product_add(F::one(), columns, block, out);
        });
        out
    }

    /// The tensor as a matrix whose rows are the modes before `middle`.
    fn matrix<'a, F>(&self, tensor: &'a [F], middle: usize) -> ArrayView2<'a, F> {
        let rows = self.length(&(0..middle));
        view(tensor, rows, tensor.len() / rows)
    }

    /// The node of the modes before `middle`, from the node of all `modes`.
    fn contract_left<F: Float>(
        &self,
        node: &[F],
        factors: &[Vec<F>],
        modes: &Range<usize>,
        middle: usize,
    ) -> Vec<F> {
        let weights = self.khatri_rao(factors, middle..modes.end);
        let weights: &[F] = &weights;
        let mut out = vec![F::zero(); self.length(&(modes.start..middle)) * self.terms];
        let run = weights.len();
        let rows = if node.len() > SHARED {
            (SHARED / 2 / run).max(1)
        } else {
            usize::MAX / self.terms
        };
        parallel::for_each_chunk_mut(&mut out, rows * self.terms, |i, out| {
            for (j, out) in out.chunks_exact_mut(self.terms).enumerate() {
                let start = (i * rows + j) * run;
                hadamard::sum_of_products(self.level, out, &node[start..start + run], weights);
            }
        });
        out
    }

    /// The node of the modes from `middle` on, from the node of all `modes`.
    fn contract_right<F: Float>(
        &self,
        node: &[F],
        factors: &[Vec<F>],
        modes: &Range<usize>,
        middle: usize,
    ) -> Vec<F> {
        let weights = self.khatri_rao(factors, modes.start..middle);
        let mut out = vec![F::zero(); self.length(&(middle..modes.end)) * self.terms];
        for (slice, row) in node
            .chunks_exact(out.len())
            .zip(weights.chunks_exact(self.terms))
        {
            hadamard::add_scaled_rows(self.level, &mut out, slice, row);
        }
        out
    }

    /// The Khatri–Rao product of the factors of `modes`, with rows in row-major order of the indices.
    pub(super) fn khatri_rao<'a, F: Float>(
        &self,
        factors: &'a [Vec<F>],
        modes: Range<usize>,
    ) -> std::borrow::Cow<'a, [F]> {
        let mut factors = factors[modes].iter();
        let mut product: std::borrow::Cow<'a, [F]> = match factors.next() {
            Some(first) => first.as_slice().into(),
            None => vec![F::one(); self.terms].into(),
        };
        for factor in factors {
            product = self.expand(&product, factor).into();
        }
        product
    }

    /// The product of each row of `rows` with each row of `factor`.
    fn expand<F: Float>(&self, rows: &[F], factor: &[F]) -> Vec<F> {
        let mut out = vec![F::zero(); rows.len() / self.terms * factor.len()];
        let blocks = out.chunks_exact_mut(factor.len());
        for (out, row) in blocks.zip(rows.chunks_exact(self.terms)) {
            hadamard::scale_rows(self.level, out, factor, row);
        }
        out
    }

    /// Calls `f` on blocks of the Khatri–Rao product of `modes`, each with the range of its rows.
    fn khatri_rao_blocks<F: Float>(
        &self,
        factors: &[Vec<F>],
        modes: Range<usize>,
        mut f: impl FnMut(&[F], &Range<usize>),
    ) {
        let length = self.length(&modes);
        if modes.len() == 1 || length * self.terms <= BLOCK {
            f(&self.khatri_rao(factors, modes), &(0..length));
            return;
        }
        let inner = self.khatri_rao(factors, modes.start + 1..modes.end);
        let rows = (BLOCK / inner.len()).max(1);
        let mut start = 0;
        for outer in factors[modes.start].chunks(rows * self.terms) {
            let block = self.expand(outer, &inner);
            let end = start + block.len() / self.terms;
            f(&block, &(start..end));
            start = end;
        }
    }

    /// Σ (tensor − model)², computed in blocks, where the model is the sum of the terms times `weights`.
    pub(super) fn squared_error<F: Float>(
        &self,
        tensor: &[F],
        factors: &[Vec<F>],
        weights: &[f64],
    ) -> f64 {
        let middle = self.split(&(0..self.shape.len()));
        let columns = self.length(&(middle..self.shape.len()));
        let (left, right) = self.halves(factors, weights, middle);
        let rows = (BLOCK / columns).max(1);
        let count = (left.len() / self.terms).div_ceil(rows);
        let errors = parallel::map(count, |i| {
            let tensor = chunk(tensor, i, rows * columns);
            let model = self.rebuild_rows(chunk(&left, i, rows * self.terms), &right, columns);
            let errors: Vec<F> = tensor.iter().zip(&model).map(|(&x, &y)| x - y).collect();
            squared_norm(&errors)
        });
        errors.iter().sum()
    }

    /// The sum of the terms, dense and in row-major order.
    pub(super) fn rebuild<F: Float>(&self, factors: &[Vec<F>], weights: &[f64]) -> Vec<F> {
        let middle = self.split(&(0..self.shape.len()));
        let (left, right) = self.halves(factors, weights, middle);
        self.rebuild_rows(&left, &right, right.len() / self.terms)
    }

    fn halves<F: Float>(
        &self,
        factors: &[Vec<F>],
        weights: &[f64],
        middle: usize,
    ) -> (Vec<F>, Vec<F>) {
        let mut left = self.khatri_rao(factors, 0..middle).into_owned();
        for row in left.chunks_exact_mut(self.terms) {
            for (value, &weight) in row.iter_mut().zip(weights) {
                *value *= F::from_f64_lossy(weight);
            }
        }
        let right = self.khatri_rao(factors, middle..self.shape.len());
        (left, right.into_owned())
    }

    fn rebuild_rows<F: Float>(&self, left: &[F], right: &[F], columns: usize) -> Vec<F> {
        let rows = left.len() / self.terms;
        let mut out = vec![F::zero(); rows * columns];
        let left = view(left, rows, self.terms);
        let right = view(right, columns, self.terms);
        linalg::product_into(left, right.t(), view_mut(&mut out, rows, columns));
        out
    }
}

fn chunk<T>(values: &[T], i: usize, length: usize) -> &[T] {
    let start = (i * length).min(values.len());
    &values[start..(start + length).min(values.len())]
}

/// A slice of length `rows × columns` as a matrix.
pub(super) fn view<F>(values: &[F], rows: usize, columns: usize) -> ArrayView2<'_, F> {
    ndarray::ArrayView1::from(values)
        .into_shape_with_order((rows, columns))
        .expect("the length is rows times columns")
}

/// A mutable slice of length `rows × columns` as a matrix.
pub(super) fn view_mut<F>(values: &mut [F], rows: usize, columns: usize) -> ArrayViewMut2<'_, F> {
    ndarray::ArrayViewMut1::from(values)
        .into_shape_with_order((rows, columns))
        .expect("the length is rows times columns")
}

#[cfg(test)]
mod tests {
    use super::super::model::random_factors;
    use super::*;
    use crate::Seed;
    use ndarray::ArrayD;

    /// M by its definition.
    fn naive(tensor: &ArrayD<f64>, factors: &[Array2<f64>], mode: usize) -> Array2<f64> {
        let terms = factors[0].ncols();
        let mut out = Array2::zeros((tensor.shape()[mode], terms));
        for (index, &value) in tensor.indexed_iter() {
            for r in 0..terms {
                let others = (0..tensor.ndim()).filter(|&m| m != mode);
                out[[index[mode], r]] +=
                    value * others.map(|m| factors[m][[index[m], r]]).product::<f64>();
            }
        }
        out
    }

    #[test]
    fn every_mode_of_every_order_is_the_definition() {
        for (shape, terms) in [
            (vec![4, 3], 2),
            (vec![3, 4, 5], 17),
            (vec![6, 1, 2], 3),
            (vec![5, 4, 3, 2], 4),
            (vec![2, 3, 2, 3, 2], 1),
            // Enough rows for several blocks and several threads.
            (vec![9, 70, 8], 33),
        ] {
            let values = random_factors::<f64>(&[shape.iter().product()], 1, Seed::from(1));
            let tensor = ArrayD::from_shape_vec(shape.clone(), values[0].clone()).unwrap();
            let factors: Vec<Array2<f64>> = random_factors(&shape, terms, Seed::from(2))
                .into_iter()
                .zip(&shape)
                .map(|(values, &n)| Array2::from_shape_vec((n, terms), values).unwrap())
                .collect();
            let views: Vec<_> = factors.iter().map(|array| array.view()).collect();
            for mode in 0..shape.len() {
                let product = mttkrp(tensor.view(), &views, mode).unwrap();
                let expected = naive(&tensor, &factors, mode);
                // Sums of fewer than n products of standard normal values.
                let tolerance = 4.0 * f64::EPSILON * tensor.len() as f64;
                for (a, b) in product.iter().zip(&expected) {
                    assert!(
                        (a - b).abs() <= tolerance,
                        "{shape:?}, mode {mode}: {a} and {b}"
                    );
                }
            }
        }
    }

    #[test]
    fn blocks_of_the_khatri_rao_product_make_the_whole() {
        let shape = [3000, 41, 3];
        let terms = 9;
        let factors = random_factors::<f32>(&shape, terms, Seed::from(3));
        let walk = Walk::new(&shape, terms);
        let whole = walk.khatri_rao(&factors, 0..3).into_owned();
        assert!(whole.len() > 2 * BLOCK);
        let mut joined = Vec::new();
        walk.khatri_rao_blocks(&factors, 0..3, |block, at| {
            assert_eq!(at.start * terms, joined.len());
            joined.extend_from_slice(block);
        });
        // The order of multiplication differs between the two.
        assert_eq!(joined.len(), whole.len());
        for (a, b) in joined.iter().zip(&whole) {
            assert!((a - b).abs() <= 4.0 * f32::EPSILON * b.abs());
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let tensor = ArrayD::<f32>::zeros(vec![2, 3]);
        let (a, b) = (Array2::zeros((2, 1)), Array2::zeros((3, 1)));
        assert!(mttkrp(tensor.view(), &[a.view(), b.view()], 1).is_ok());
        assert!(matches!(
            mttkrp(tensor.view(), &[a.view(), b.view()], 2),
            Err(Error::ExceedsInput {
                value: 2,
                limit: 1,
                ..
            })
        ));
        assert!(matches!(
            mttkrp(tensor.view(), &[a.view(), a.view()], 0),
            Err(Error::ShapeMismatch { .. })
        ));
        assert!(matches!(
            mttkrp(tensor.view(), &[a.view()], 0),
            Err(Error::ShapeMismatch { .. })
        ));
        let vector = ArrayD::<f32>::zeros(vec![2]);
        assert!(matches!(
            mttkrp(vector.view(), &[a.view()], 0),
            Err(Error::Dimensions { .. })
        ));
    }
}
