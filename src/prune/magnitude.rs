//! Pruning of single weights by their magnitude.

use ndarray::{Array2, ArrayView1, ArrayView2};

use super::compensate::{compensate, scores};
use super::{Keep, PrunePlan, Scope, SparseMatrix, keep};
use crate::{
    FitContext, Float, InputMoments, ParamError, Precision, Pruner, Result, check, parallel, power,
};

/// The pattern of the weights that are kept.
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(rename_all = "snake_case"))]
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Sparsity {
    /// The largest weights, in any places.
    Unstructured(Keep),
    /// The `n` largest of every `m` weights in a row. Some hardware multiplies 2 of 4 faster (Mishra et al., "Accelerating
    /// Sparse Deep Neural Networks", 2021, [arXiv:2104.08378](https://arxiv.org/abs/2104.08378)).
    NOfM {
        /// How many are kept, at least 1.
        n: usize,
        /// Of how many, at least n; must divide in_features.
        m: usize,
    },
}

/// Keeps the weights of the largest magnitude and stores only these (S. Han et al., "Learning both Weights and Connections
/// for Efficient Neural Networks", 2015, [arXiv:1506.02626](https://arxiv.org/abs/1506.02626)).
///
/// [`prune_matrix`](Self::prune_matrix) returns a [`SparseMatrix`]. As a [`Pruner`] it takes the weights themselves as scores
/// and returns which are kept. Of equal magnitudes the one in the earlier layer is kept, and in the same layer the one that
/// comes first in row-major order.
///
/// ```
/// use taper::Compressed;
/// use taper::ndarray::arr2;
/// use taper::prune::{Keep, MagnitudePruner, Sparsity};
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
    /// The pattern of the weights that are kept.
    pub sparsity: Sparsity,
    /// Whether the weights of all layers compete (the default), or those of each layer among themselves.
    /// [`Sparsity::NOfM`] does not use it.
    #[cfg_attr(feature = "model", serde(default))]
    pub scope: Scope,
    /// The precision in which kept weights are stored; [`Precision::F32`] by default.
    #[cfg_attr(feature = "model", serde(default))]
    pub precision: Precision,
    /// How strongly moments are damped; 0.01 by default. See [`InputMoments::damped`](crate::InputMoments::damped).
    #[cfg_attr(feature = "model", serde(default = "crate::defaults::damping"))]
    pub damping: f64,
    /// The number of conjugate-gradient steps that the kept weights take when moments are given; 10 by default. Each
    /// multiplies the weights with the moments once.
    #[cfg_attr(feature = "model", serde(default = "crate::defaults::refinements"))]
    pub refinements: usize,
}

impl MagnitudePruner {
    /// Creates a pruner that keeps weights in the given pattern.
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

    /// Prunes several matrices of shape (out_features, in_features) together, so that their weights compete
    /// ([`Scope::Global`]).
    ///
    /// # Errors
    ///
    /// As [`prune_matrix`](Self::prune_matrix), and [`Error::EmptyAxis`](crate::Error::EmptyAxis) for an empty list.
    pub fn prune<F: Float>(&self, weights: &[ArrayView2<'_, F>]) -> Result<Vec<SparseMatrix<F>>> {
        self.prune_with(weights, &[])
    }

    /// Prunes several matrices of shape (out_features, in_features) together, with one context for each (none at all for an
    /// empty list of contexts).
    ///
    /// Moments of the layer's inputs are used as in [`prune_matrix_with`](Self::prune_matrix_with).
    ///
    /// # Errors
    ///
    /// As [`prune`](Self::prune) and [`prune_matrix_with`](Self::prune_matrix_with), and
    /// [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) for another number of contexts than of matrices.
    pub fn prune_with<F: Float>(
        &self,
        weights: &[ArrayView2<'_, F>],
        contexts: &[FitContext<'_>],
    ) -> Result<Vec<SparseMatrix<F>>> {
        self.validate()?;
        if !contexts.is_empty() {
            check::same_shape("the list of contexts", &[weights.len()], &[contexts.len()])?;
        }
        check::not_empty("the list of weights", &[weights.len()])?;
        for context in contexts {
            context.rows_unused("MagnitudePruner")?;
        }
        let inputs = |layer: usize| contexts.get(layer).and_then(|context| context.inputs);
        for (layer, weights) in weights.iter().enumerate() {
            check::finite("weights", weights)?;
            if let Sparsity::NOfM { m, .. } = self.sparsity {
                groups_of(m, weights.ncols())?;
            }
            if let Some(inputs) = inputs(layer) {
                inputs.fits(weights.ncols())?;
            }
        }
        // Scores are divided by √2ᵉ, so that moments times a power of two make the same choice.
        let exponents = (0..weights.len()).filter_map(inputs);
        let exponents = exponents.map(InputMoments::exponent);
        let exponents = exponents.collect::<Result<Vec<_>>>()?;
        let exponent = exponents.into_iter().max().unwrap_or(0);
        let unit = power::root(exponent);
        let magnitudes = parallel::map(weights.len(), |layer| match inputs(layer) {
            None => {
                let magnitudes = weights[layer].iter().map(|w| w.as_f64().abs() / unit);
                Ok(magnitudes.collect())
            }
            Some(inputs) => {
                let scores = scores(weights[layer], inputs, self.damping, exponent)?;
                check::finite("scores", &ArrayView1::from(&scores))?;
                Ok(scores)
            }
        });
        let magnitudes = magnitudes.into_iter().collect::<Result<Vec<_>>>()?;
        let plan = self.choose(&magnitudes, unit)?;
        let layers = weights.iter().enumerate();
        layers
            .map(|(layer, weights)| {
                let mask = plan
                    .mask(layer)
                    .expect("the plan has an entry for each layer");
                let kept = match inputs(layer) {
                    Some(inputs) => {
                        let kept =
                            compensate(*weights, &mask, inputs, self.damping, self.refinements)?;
                        check::finite("the compensated weights", &kept.view())?;
                        kept
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
                SparseMatrix::from_finite(kept.view(), self.precision)
            })
            .collect()
    }

    /// Prunes one matrix of shape (out_features, in_features).
    ///
    /// # Errors
    ///
    /// [`Error::NonFinite`](crate::Error::NonFinite), [`Error::EmptyAxis`](crate::Error::EmptyAxis),
    /// [`Error::Indivisible`](crate::Error::Indivisible) where groups of m do not fill a row,
    /// [`Error::ExceedsInput`](crate::Error::ExceedsInput) for a count above the number of weights, those of
    /// [`validate`](Self::validate), and those of [`SparseMatrix::from_dense`].
    pub fn prune_matrix<F: Float>(&self, weights: ArrayView2<'_, F>) -> Result<SparseMatrix<F>> {
        self.prune_matrix_with(weights, FitContext::new())
    }

    /// Prunes one matrix of shape (out_features, in_features). With the moments of the layer's inputs, weights are chosen and
    /// changed so that the layer's output changes little.
    ///
    /// The score of a weight is then $|w| / \sqrt{[H^{-1}]\_{ii}}$ in place of |w|, where H are the damped moments: the square
    /// root of twice its saliency in B. Hassibi and D. Stork's optimal brain surgeon (1993). A [threshold](Keep::Threshold)
    /// is compared with these scores. The kept weights compensate for the removed ones: column by column as in E. Frantar and
    /// D. Alistarh, "SparseGPT", 2023, [arXiv:2301.00774](https://arxiv.org/abs/2301.00774), then by
    /// [`refinements`](Self#structfield.refinements).
    ///
    /// ```
    /// use taper::ndarray::arr2;
    /// use taper::prune::{Keep, MagnitudePruner, Sparsity};
    /// use taper::{Compressed, FitContext, InputMoments};
    ///
    /// // Two inputs are almost equal: the weight that is kept takes over the other.
    /// let mut inputs = InputMoments::new(2)?;
    /// inputs.add(arr2(&[[1.0_f64, 1.0], [-2.0, -2.0], [0.5, 0.51]]).view())?;
    /// let weights = arr2(&[[1.0_f64, 0.9]]);
    /// let pruner = MagnitudePruner::new(Sparsity::Unstructured(Keep::Count(1))).damping(1e-9);
    /// let sparse = pruner.prune_matrix_with(weights.view(), FitContext::new().inputs(&inputs))?;
    /// let kept = sparse.decompress()?.sum();
    /// assert!((kept - 1.9).abs() < 0.01);
    /// # Ok::<(), taper::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`prune_matrix`](Self::prune_matrix), [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) for moments of another
    /// number of inputs, and [`Error::NoInputs`](crate::Error::NoInputs).
    pub fn prune_matrix_with<F: Float>(
        &self,
        weights: ArrayView2<'_, F>,
        context: FitContext<'_>,
    ) -> Result<SparseMatrix<F>> {
        let mut pruned = self.prune_with(&[weights], &[context])?;
        Ok(pruned.pop().expect("one matrix was pruned"))
    }

    /// Sets [`scope`](Self#structfield.scope).
    #[must_use]
    pub fn scope(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    /// Sets [`damping`](Self#structfield.damping).
    #[must_use]
    pub fn damping(mut self, damping: f64) -> Self {
        self.damping = damping;
        self
    }

    /// Sets [`refinements`](Self#structfield.refinements).
    #[must_use]
    pub fn refinements(mut self, refinements: usize) -> Self {
        self.refinements = refinements;
        self
    }

    /// Sets [`precision`](Self#structfield.precision).
    #[must_use]
    pub fn precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// Checks the parameters. Every call that uses them does so too.
    ///
    /// # Errors
    ///
    /// [`ParamError`] for the first parameter that is out of its range.
    pub fn validate(&self) -> Result<(), ParamError> {
        check::damping(self.damping)?;
        match self.sparsity {
            Sparsity::Unstructured(keep) => keep.check(),
            Sparsity::NOfM { n, m } => {
                check::at_least_one("n", n)?;
                check::in_range("m", m as f64, "at least n", m >= n)
            }
        }
    }

    /// The plan for magnitudes in this unit, in which a threshold is measured too.
    fn choose(&self, layers: &[Vec<f64>], unit: f64) -> Result<PrunePlan> {
        let (n, m) = match self.sparsity {
            Sparsity::Unstructured(Keep::Threshold(threshold)) => {
                let keep = Keep::Threshold(threshold / unit);
                return keep::plan(layers, keep, self.scope, 0);
            }
            Sparsity::Unstructured(keep) => return keep::plan(layers, keep, self.scope, 0),
            Sparsity::NOfM { n, m } => (n, m),
        };
        let layers = layers.iter().map(|layer| {
            groups_of(m, layer.len())?;
            let mut kept = Vec::with_capacity(layer.len() / m * n);
            let mut group: Vec<(f64, usize)> = Vec::with_capacity(m);
            for (number, magnitudes) in layer.chunks(m).enumerate() {
                group.clear();
                let members = magnitudes.iter().enumerate();
                group.extend(members.map(|(i, &magnitude)| (magnitude, number * m + i)));
                // The sort is stable: the first of equals is kept.
                group.sort_by(|a, b| b.0.total_cmp(&a.0));
                group.truncate(n);
                kept.extend(group.iter().map(|&(_, index)| index));
                kept[number * n..].sort_unstable();
            }
            Ok((layer.len(), kept))
        });
        PrunePlan::with_dropped_layers(layers.collect::<Result<_>>()?)
    }
}

impl<F: Float> Pruner<F> for MagnitudePruner {
    /// # Errors
    ///
    /// As [`Pruner::plan`], and [`Error::Indivisible`](crate::Error::Indivisible) where groups of m do not fill a layer.
    fn plan(&self, scores: &[ArrayView1<'_, F>]) -> Result<PrunePlan> {
        self.validate()?;
        self.choose(&keep::magnitudes(scores)?, 1.0)
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
            // Pruning again changes nothing.
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
