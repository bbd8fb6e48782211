//! Single weights chosen by their magnitude.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2};

use super::keep::choose;
use super::{Keep, PrunePlan, Scope, SparseMatrix};
use crate::{Error, Float, ParamError, ParamGuard, Precision, Pruner, Result, check};

/// Which patterns of weights may be left.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Sparsity {
    /// Any weights.
    Unstructured(Keep),
    /// Of every `m` weights in a row, the `n` largest: what some hardware multiplies faster (2 of 4; Mishra et al.,
    /// "Accelerating Sparse Deep Neural Networks", 2021, [arXiv:2104.08378](https://arxiv.org/abs/2104.08378)).
    NOfM {
        /// How many are kept, at least 1.
        n: usize,
        /// Of how many, at least n; must divide in_features.
        m: usize,
    },
}

/// Keeps the weights of the largest magnitude, and stores these alone (S. Han et al., "Learning both Weights and
/// Connections for Efficient Neural Networks", 2015, [arXiv:1506.02626](https://arxiv.org/abs/1506.02626)).
///
/// [`prune`](Self::prune) gives a [`SparseMatrix`] for each weight matrix; as a [`Pruner`] it takes the weights
/// themselves as scores and says which are kept. Of equal magnitudes the one in the earlier layer, and there the
/// one that comes first in row-major order, is kept.
///
/// ```
/// use ndarray::arr2;
/// use taper::prune::{Keep, MagnitudePruner, Scope, Sparsity};
/// use taper::{Compressed, ParamGuard};
///
/// let weights = arr2(&[[0.1_f32, -0.9, 0.3, 0.2], [0.8, 0.05, -0.7, 0.6]]);
/// let quarter = MagnitudePruner::params(Sparsity::Unstructured(Keep::Fraction(0.25))).check()?;
/// let sparse = quarter.prune_matrix(weights.view())?;
/// assert_eq!(sparse.decompress()?, arr2(&[[0., -0.9, 0., 0.], [0.8, 0., 0., 0.]]).into_dyn());
///
/// let two_of_four = MagnitudePruner::params(Sparsity::NOfM { n: 2, m: 4 }).check()?;
/// let sparse = two_of_four.prune_matrix(weights.view())?;
/// assert_eq!(sparse.decompress()?, arr2(&[[0., -0.9, 0.3, 0.], [0.8, 0., -0.7, 0.]]).into_dyn());
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct MagnitudePruner {
    sparsity: Sparsity,
    scope: Scope,
    precision: Precision,
}

/// Parameters of [`MagnitudePruner`], yet to be checked.
#[derive(Debug, Clone, PartialEq)]
pub struct MagnitudePrunerParams(MagnitudePruner);

impl MagnitudePruner {
    /// Leaves weights in the given pattern.
    #[must_use]
    pub fn params(sparsity: Sparsity) -> MagnitudePrunerParams {
        MagnitudePrunerParams(Self {
            sparsity,
            scope: Scope::Global,
            precision: Precision::F32,
        })
    }

    /// The kept weights of each matrix, of shape (out_features, in_features).
    ///
    /// # Errors
    ///
    /// As [`plan`](Pruner::plan), and what [`SparseMatrix::from_dense`] says.
    pub fn prune<F: Float>(&self, weights: &[ArrayView2<'_, F>]) -> Result<Vec<SparseMatrix<F>>> {
        if let Sparsity::NOfM { m, .. } = self.sparsity {
            for weights in weights {
                groups_of(m, weights.ncols())?;
            }
        }
        let flat: Vec<Array1<F>> = weights
            .iter()
            .map(|weights| weights.iter().copied().collect())
            .collect();
        let views: Vec<ArrayView1<'_, F>> = flat.iter().map(Array1::view).collect();
        let plan = self.plan(&views)?;
        let layers = weights.iter().zip(&flat).enumerate();
        layers
            .map(|(layer, (weights, flat))| {
                let mask = plan.mask(layer).unwrap_or_default();
                let mut kept = Array2::zeros(weights.dim());
                let places = kept.iter_mut().zip(flat).zip(mask);
                for ((place, &weight), _) in places.filter(|(_, kept)| *kept) {
                    *place = weight;
                }
                SparseMatrix::from_dense(kept.view(), self.precision)
            })
            .collect()
    }

    /// The kept weights of one matrix, of shape (out_features, in_features).
    ///
    /// # Errors
    ///
    /// As [`prune`](Self::prune).
    pub fn prune_matrix<F: Float>(&self, weights: ArrayView2<'_, F>) -> Result<SparseMatrix<F>> {
        let mut pruned = self.prune(&[weights])?;
        pruned.pop().ok_or(Error::EmptyAxis {
            what: "the list of weights",
            shape: vec![0],
        })
    }
}

impl MagnitudePrunerParams {
    /// Whether the weights of all layers compete (the default) or those of each layer among themselves.
    ///
    /// Without a say for [`Sparsity::NOfM`].
    #[must_use]
    pub fn scope(mut self, scope: Scope) -> Self {
        self.0.scope = scope;
        self
    }

    /// The precision in which kept weights are stored; single unless told otherwise.
    #[must_use]
    pub fn precision(mut self, precision: Precision) -> Self {
        self.0.precision = precision;
        self
    }
}

impl ParamGuard for MagnitudePrunerParams {
    type Checked = MagnitudePruner;

    fn check_ref(&self) -> Result<&MagnitudePruner, ParamError> {
        match self.0.sparsity {
            Sparsity::Unstructured(keep) => keep.check()?,
            Sparsity::NOfM { n, m } => {
                check::at_least_one("n", n)?;
                check::in_range("m", m as f64, "at least n", m >= n)?;
            }
        }
        Ok(&self.0)
    }

    fn check(self) -> Result<MagnitudePruner, ParamError> {
        self.check_ref()?;
        Ok(self.0)
    }
}

impl<F: Float> Pruner<F> for MagnitudePruner {
    /// # Errors
    ///
    /// As [`Pruner::plan`] says, and [`Error::Indivisible`] where groups of m do not fill a layer.
    fn plan(&self, scores: &[ArrayView1<'_, F>]) -> Result<PrunePlan> {
        let (n, m) = match self.sparsity {
            Sparsity::Unstructured(keep) => return choose(scores, keep, self.scope, 0),
            Sparsity::NOfM { n, m } => (n, m),
        };
        check::not_empty("the list of scores", &[scores.len()])?;
        let layers = scores.iter().map(|layer| {
            check::finite("scores", layer)?;
            groups_of(m, layer.len())?;
            let mut kept = Vec::with_capacity(layer.len() / m * n);
            let mut group: Vec<(F, usize)> = Vec::with_capacity(m);
            for start in (0..layer.len()).step_by(m) {
                group.clear();
                let members = layer.iter().enumerate().skip(start).take(m);
                group.extend(members.map(|(index, score)| (score.abs(), index)));
                // Stable: of equals, the first.
                group.sort_by(|a, b| b.0.as_f64().total_cmp(&a.0.as_f64()));
                group.truncate(n);
                group.sort_by_key(|&(_, index)| index);
                kept.extend(group.iter().map(|&(_, index)| index));
            }
            Ok((layer.len(), kept))
        });
        PrunePlan::new(layers.collect::<Result<_>>()?)
    }
}

/// Errs where groups of `m` do not fill an axis.
fn groups_of(m: usize, length: usize) -> Result<()> {
    check::divide("weights a group", length, m).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Compressed;
    use ndarray::arr2;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn n_of_m_is_the_closest_such_matrix(
            rows in 1_usize..6,
            groups in 1_usize..6,
            n in 1_usize..5,
            more in 0_usize..4,
            weights in prop::collection::vec(-6_i8..7, 5 * 5 * 8),
        ) {
            let m = n + more;
            let weights = Array2::from_shape_fn((rows, groups * m), |(i, j)| {
                f32::from(weights[(i * groups * m + j) % weights.len()])
            });
            let pruner = MagnitudePruner::params(Sparsity::NOfM { n, m }).check().unwrap();
            // Any strides: from the transposed copy.
            let turned = weights.t().as_standard_layout().into_owned();
            let sparse = pruner.prune_matrix(turned.t()).unwrap();
            let rebuilt = sparse.decompress().unwrap();
            for (row, rebuilt) in weights.rows().into_iter().zip(rebuilt.outer_iter()) {
                for start in (0..groups * m).step_by(m) {
                    let mut errors: Vec<f32> = (start..start + m).map(|j| row[j].powi(2)).collect();
                    errors.sort_by(f32::total_cmp);
                    let best: f32 = errors[..m - n].iter().sum();
                    let error: f32 = (start..start + m).map(|j| (row[j] - rebuilt[j]).powi(2)).sum();
                    prop_assert_eq!(error, best);
                }
            }
            // What is pruned already stays as it is.
            let dense = rebuilt.into_dimensionality::<ndarray::Ix2>().unwrap();
            prop_assert_eq!(pruner.prune_matrix(dense.view()).unwrap(), sparse);
        }
    }

    #[test]
    fn layers_compete_or_do_not() {
        let weights = [arr2(&[[1.0_f32, 2.0], [3.0, 4.0]]), arr2(&[[0.1, 0.2]])];
        let views = [weights[0].view(), weights[1].view()];
        let params = MagnitudePruner::params(Sparsity::Unstructured(Keep::Fraction(0.5)));
        let counts = |params: MagnitudePrunerParams| -> Vec<usize> {
            let pruned = params.check().unwrap().prune(&views).unwrap();
            pruned.iter().map(SparseMatrix::nonzeros).collect()
        };
        assert_eq!(counts(params.clone()), [3, 0]);
        assert_eq!(counts(params.scope(Scope::Layer)), [2, 1]);
    }

    #[test]
    fn patterns_are_checked() {
        let check = |sparsity| MagnitudePruner::params(sparsity).check();
        assert!(matches!(
            check(Sparsity::NOfM { n: 0, m: 4 }),
            Err(ParamError::Zero { .. })
        ));
        assert!(matches!(
            check(Sparsity::NOfM { n: 3, m: 2 }),
            Err(ParamError::OutOfRange { .. })
        ));
        assert!(check(Sparsity::Unstructured(Keep::Fraction(2.0))).is_err());
        let weights = arr2(&[[1.0_f32, 2.0, 3.0], [1.0, 2.0, 3.0]]);
        // Two groups of three fill the six weights, but no group of two fills a row.
        let pruner = check(Sparsity::NOfM { n: 1, m: 2 }).unwrap();
        assert!(matches!(
            pruner.prune_matrix(weights.view()),
            Err(Error::Indivisible {
                parts: 2,
                length: 3,
                ..
            })
        ));
        assert!(matches!(
            pruner.prune::<f32>(&[]),
            Err(Error::EmptyAxis { .. })
        ));
    }
}
