//! Single weights chosen by their magnitude.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2};

use super::compensate::{compensate, scores};
use super::keep::choose;
use super::{Keep, PrunePlan, Scope, SparseMatrix};
use crate::{FitContext, Float, ParamError, Precision, Pruner, Result, check, parallel};

/// Which patterns of weights may be left.
///
/// ```
/// use ndarray::arr2;
/// use taper::prune::{Keep, MagnitudePruner, Sparsity};
///
/// let weights = arr2(&[[4.0_f32, 3.0, 2.0, 1.0], [0.4, 0.3, 0.2, 0.1]]);
/// for (sparsity, first_row) in [
///     (Sparsity::Unstructured(Keep::Count(4)), [4.0, 3.0, 2.0, 1.0]),
///     (Sparsity::NOfM { n: 2, m: 4 }, [4.0, 3.0, 0.0, 0.0]),
/// ] {
///     let sparse = MagnitudePruner::new(sparsity).prune_matrix(weights.view())?;
///     assert_eq!(sparse.nonzeros(), 4);
///     let dense = taper::Compressed::decompress(&sparse)?;
///     assert_eq!(dense.iter().take(4).copied().collect::<Vec<_>>(), first_row);
/// }
/// # Ok::<(), taper::Error>(())
/// ```
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(rename_all = "snake_case"))]
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
/// use taper::{Compressed};
///
/// let weights = arr2(&[[0.1_f32, -0.9, 0.3, 0.2], [0.8, 0.05, -0.7, 0.6]]);
/// let quarter = MagnitudePruner::new(Sparsity::Unstructured(Keep::Fraction(0.25)));
/// let sparse = quarter.prune_matrix(weights.view())?;
/// assert_eq!(sparse.decompress()?, arr2(&[[0., -0.9, 0., 0.], [0.8, 0., 0., 0.]]).into_dyn());
///
/// let two_of_four = MagnitudePruner::new(Sparsity::NOfM { n: 2, m: 4 });
/// let sparse = two_of_four.prune_matrix(weights.view())?;
/// assert_eq!(sparse.decompress()?, arr2(&[[0., -0.9, 0.3, 0.], [0.8, 0., -0.7, 0.]]).into_dyn());
/// # Ok::<(), taper::Error>(())
/// ```
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(deny_unknown_fields))]
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct MagnitudePruner {
    /// The pattern of weights that is kept.
    pub sparsity: Sparsity,
    /// Whether the weights of all layers compete, or those of each layer. [`Sparsity::NOfM`] does not use it.
    #[cfg_attr(feature = "model", serde(default))]
    pub scope: Scope,
    /// The precision in which kept weights are stored.
    #[cfg_attr(feature = "model", serde(default))]
    pub precision: Precision,
    /// How strongly moments are damped; see [`InputMoments::damped`](crate::InputMoments::damped).
    #[cfg_attr(feature = "model", serde(default = "crate::defaults::damping"))]
    pub damping: f64,
    /// The number of conjugate-gradient steps that the kept weights take when moments are given.
    #[cfg_attr(feature = "model", serde(default = "crate::defaults::refinements"))]
    pub refinements: usize,
}

impl MagnitudePruner {
    /// Leaves weights in the given pattern.
    #[must_use]
    pub fn new(sparsity: Sparsity) -> Self {
        Self {
            sparsity,
            scope: Scope::Global,
            precision: Precision::F32,
            damping: crate::defaults::damping(),
            refinements: crate::defaults::refinements(),
        }
    }

    /// The kept weights of each matrix, of shape (out_features, in_features).
    ///
    /// # Errors
    ///
    /// As [`plan`](Pruner::plan), and what [`SparseMatrix::from_dense`] says.
    pub fn prune<F: Float>(&self, weights: &[ArrayView2<'_, F>]) -> Result<Vec<SparseMatrix<F>>> {
        self.prune_with(weights, &[])
    }

    /// Some weights of each matrix, of shape (out_features, in_features), chosen and changed so that with the moments of
    /// the layers' `inputs` their outputs change little.
    ///
    /// With moments, the score of a weight is $|w| / \sqrt{[H^{-1}]\_{ii}}$ in place of |w|, the square root of twice its
    /// saliency in B. Hassibi and D. Stork's optimal brain surgeon (1993), H being the damped moments; a
    /// [threshold](Keep::Threshold) is one of such scores. The weights that are kept then make good what is lost
    /// with the others: column by column, as in E. Frantar and D. Alistarh, "SparseGPT", 2023,
    /// [arXiv:2301.00774](https://arxiv.org/abs/2301.00774), and by
    /// [refinements](MagnitudePruner::refinements).
    ///
    /// ```
    /// use ndarray::{Array2, arr2};
    /// use taper::prune::{Keep, MagnitudePruner, Sparsity};
    /// use taper::{Compressed, FitContext, InputMoments};
    ///
    /// // Two inputs that are almost the same: the one that is kept stands for both.
    /// let mut inputs = InputMoments::new(2)?;
    /// inputs.add(arr2(&[[1.0_f64, 1.0], [-2.0, -2.0], [0.5, 0.51]]).view())?;
    /// let weights = arr2(&[[1.0_f64, 0.9]]);
    /// let pruner = MagnitudePruner::new(Sparsity::Unstructured(Keep::Count(1))).damping(1e-9);
    /// let sparse = &pruner.prune_with(&[weights.view()], &[FitContext::new().inputs(&inputs)])?[0];
    /// let kept = sparse.decompress()?.sum();
    /// assert!((kept - 1.9).abs() < 0.01);
    /// # Ok::<(), taper::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`prune`](Self::prune); [`Error::ShapeMismatch`] for another number of inputs than of weights and for moments that
    /// are not of this layer, [`Error::NoInputs`].
    pub fn prune_with<F: Float>(
        &self,
        weights: &[ArrayView2<'_, F>],
        contexts: &[FitContext<'_>],
    ) -> Result<Vec<SparseMatrix<F>>> {
        self.validate()?;
        if !contexts.is_empty() {
            check::same_shape("the list of contexts", &[weights.len()], &[contexts.len()])?;
        }
        let inputs = |layer: usize| contexts.get(layer).and_then(|context| context.inputs);
        if let Sparsity::NOfM { m, .. } = self.sparsity {
            for weights in weights {
                groups_of(m, weights.ncols())?;
            }
        }
        let flat = parallel::map(weights.len(), |layer| match inputs(layer) {
            None => Ok(weights[layer].iter().copied().collect()),
            Some(inputs) => {
                check::finite("weights", &weights[layer])?;
                inputs.fits(weights[layer].ncols())?;
                scores(weights[layer], inputs, self.damping)
            }
        });
        let flat = flat.into_iter().collect::<Result<Vec<Array1<F>>>>()?;
        let views: Vec<ArrayView1<'_, F>> = flat.iter().map(|array| array.view()).collect();
        let plan = self.plan(&views)?;
        let layers = weights.iter().enumerate();
        layers
            .map(|(layer, weights)| {
                let mask = plan
                    .mask(layer)
                    .expect("the plan has an entry for each layer");
                let kept = match inputs(layer) {
                    Some(inputs) => {
                        compensate(*weights, &mask, inputs, self.damping, self.refinements)?
                    }
                    None => {
                        let mut kept = Array2::zeros(weights.dim());
                        let places = kept.iter_mut().zip(weights).zip(mask);
                        for ((place, &weight), _) in places.filter(|(_, kept)| *kept) {
                            *place = weight;
                        }
                        kept
                    }
                };
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
        self.prune_matrix_with(weights, FitContext::new())
    }

    /// Some weights of one matrix, of shape (out_features, in_features), for the inputs that its layer has.
    ///
    /// # Errors
    ///
    /// As [`prune_with`](Self::prune_with).
    pub fn prune_matrix_with<F: Float>(
        &self,
        weights: ArrayView2<'_, F>,
        context: FitContext<'_>,
    ) -> Result<SparseMatrix<F>> {
        let mut pruned = self.prune_with(&[weights], &[context])?;
        Ok(pruned.pop().expect("one matrix was pruned"))
    }

    /// Whether the weights of all layers compete (the default) or those of each layer among themselves.
    ///
    /// Without a say for [`Sparsity::NOfM`].
    #[must_use]
    pub fn scope(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    /// How much the moments of inputs are damped, as [`InputMoments::damped`] says; 0.01 unless set. Without moments it
    /// has no effect.
    #[must_use]
    pub fn damping(mut self, damping: f64) -> Self {
        self.damping = damping;
        self
    }

    /// How many steps of conjugate gradients the kept weights take, where there are moments of inputs, after they made
    /// good column by column what was lost; 10 unless set. Each takes a product of the weights' matrix with
    /// that of the moments.
    #[must_use]
    pub fn refinements(mut self, refinements: usize) -> Self {
        self.refinements = refinements;
        self
    }

    /// The precision in which kept weights are stored; single unless told otherwise.
    #[must_use]
    pub fn precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// Checks the parameters, as every call that uses them does.
    ///
    /// # Errors
    ///
    /// The first parameter that no input could make right.
    pub fn validate(&self) -> Result<(), ParamError> {
        check::damping(self.damping)?;
        match self.sparsity {
            Sparsity::Unstructured(keep) => keep.check()?,
            Sparsity::NOfM { n, m } => {
                check::at_least_one("n", n)?;
                check::in_range("m", m as f64, "at least n", m >= n)?;
            }
        }
        Ok(())
    }
}

impl<F: Float> Pruner<F> for MagnitudePruner {
    /// # Errors
    ///
    /// As [`Pruner::plan`] says, and [`Error::Indivisible`] where groups of m do not fill a layer.
    fn plan(&self, scores: &[ArrayView1<'_, F>]) -> Result<PrunePlan> {
        self.validate()?;
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
    use crate::{Compressed, Error};
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
            let pruner = MagnitudePruner::new(Sparsity::NOfM { n, m });
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
        let params = MagnitudePruner::new(Sparsity::Unstructured(Keep::Fraction(0.5)));
        let counts = |params: MagnitudePruner| -> Vec<usize> {
            let pruned = params.prune(&views).unwrap();
            pruned.iter().map(SparseMatrix::nonzeros).collect()
        };
        assert_eq!(counts(params.clone()), [3, 0]);
        assert_eq!(counts(params.scope(Scope::Layer)), [2, 1]);
    }

    #[test]
    fn patterns_are_checked() {
        let check = |sparsity| MagnitudePruner::new(sparsity).validate();
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
        let pruner = MagnitudePruner::new(Sparsity::NOfM { n: 1, m: 2 });
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
