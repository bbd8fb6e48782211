//! One step of a recipe, and what a chain of them does to a tensor.

use std::fmt;
use std::sync::Arc;

use ndarray::{ArrayView2, ArrayViewD, CowArray, Ix2, Ix4};
use serde::{Deserialize, Serialize};

use super::CompressedTensor;
use super::artifact::Artifact;
use super::kinds::{Dense, FactoredMatrix, FactoredTensor, SparseQuantized};
use crate::factorize::Rank;
use crate::factorize::convolution::Tucker2;
use crate::factorize::cp::CpAls;
use crate::factorize::svd::TruncatedSvd;
use crate::prune::{Keep, MagnitudePruner, Scope, Sparsity};
use crate::quantize::binary::{Binarizer, Scaling};
use crate::quantize::fixed_point::{FixedPointQuantizer, Granularity, Range, Symmetry};
use crate::quantize::product::{
    Codebook, OptimizedProductQuantizer, ProductQuantizer, ResidualQuantizer, SplitAxis,
};
use crate::quantize::trellis::TrellisQuantizer;
use crate::{
    Compressed, Error, Factorizer, InputMoments, Precision, Quantizer, Result, Seed, linalg,
};

/// One compressor of a chain.
///
/// Tensors of more than two axes are taken as matrices (first axis, all others) by all but `Cp`, `Tucker` and `Dense`.
/// A chain is
///
/// - `Keep`, `Dense`, `FixedPoint`, `Binary`, `Product`, `Trellis`, `Svd`, `Cp`, `Tucker` or `Prune` alone;
/// - `Svd` or `Cp`, and then a quantizer (`FixedPoint`, `Binary`, `Product`, `Trellis`, `Dense`) of each factor;
/// - `Prune`, and then a quantizer of the weights that are left, but for `Trellis`, which has no use for a list.
///
/// ```
/// use taper::model::Step;
///
/// let step: Step = serde_json::from_str(r#"{"fixed_point": {"bits": 4, "granularity": "per_row"}}"#).unwrap();
/// assert_eq!(step.to_string(), "fixed_point 4");
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Step {
    /// The tensor as it is, bit for bit.
    Keep,
    /// The tensor in another precision.
    Dense {
        /// In which its values are stored.
        precision: Precision,
    },
    /// [`FixedPointQuantizer`].
    FixedPoint {
        /// Bits a weight, 1 to 16.
        bits: u32,
        /// Whether the grid has an offset.
        #[serde(default)]
        symmetry: Symmetry,
        /// Whose a scale is.
        #[serde(default)]
        granularity: Granularity,
        /// What the grid covers.
        #[serde(default)]
        range: Range,
        /// In which scales and offsets are stored.
        #[serde(default)]
        precision: Precision,
    },
    /// [`Binarizer`].
    Binary {
        /// What signs are multiplied with.
        #[serde(default)]
        scaling: Scaling,
        /// In which scales are stored.
        #[serde(default)]
        precision: Precision,
    },
    /// [`ProductQuantizer`], or with more than one stage [`ResidualQuantizer`].
    Product {
        /// The length of a sub-vector; must divide the axis.
        width: usize,
        /// The number of centroids of a codebook.
        centroids: usize,
        /// The axis that is split, the inputs unless told otherwise.
        #[serde(default = "inputs")]
        axis: SplitAxis,
        /// Whose a codebook is, one for all unless told otherwise.
        #[serde(default = "shared")]
        codebook: Codebook,
        /// In which centroids are stored.
        #[serde(default)]
        precision: Precision,
        /// How many times what is left is quantized again.
        #[serde(default = "one")]
        stages: usize,
        /// Whether sub-vectors are rotated first ([`OptimizedProductQuantizer`]); with one stage only.
        #[serde(default)]
        rotate: bool,
    },
    /// [`TrellisQuantizer`].
    Trellis {
        /// Of which all values are multiples. The error is near that of `FixedPoint` with a scale that is 1.76 times as large.
        step: f64,
        /// What a bit may cost in squared steps, from 0 to 16; near 0.3 files are shortest for their error.
        #[serde(default)]
        rate_weight: f64,
        /// In which the step is stored.
        #[serde(default)]
        precision: Precision,
    },
    /// [`TruncatedSvd`].
    Svd {
        /// How many singular values are kept.
        rank: Rank,
        /// In which factors are stored, where no quantizer follows.
        #[serde(default)]
        precision: Precision,
    },
    /// [`CpAls`].
    Cp {
        /// How many terms.
        rank: Rank,
        /// In which factors are stored, where no quantizer follows.
        #[serde(default)]
        precision: Precision,
    },
    /// [`Tucker2`], of convolution kernels.
    Tucker {
        /// Channels on the output and the input side of the small kernel.
        ranks: [usize; 2],
        /// In which factors are stored.
        #[serde(default)]
        precision: Precision,
    },
    /// [`MagnitudePruner`], of single weights.
    Prune {
        /// How many are left.
        keep: Keep,
        /// In which they are stored, where no quantizer follows.
        #[serde(default)]
        precision: Precision,
    },
}

fn inputs() -> SplitAxis {
    SplitAxis::In
}

fn shared() -> Codebook {
    Codebook::Shared
}

fn one() -> usize {
    1
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keep => f.write_str("keep"),
            Self::Dense { precision } => write!(f, "dense {}", precision.bits()),
            Self::FixedPoint { bits, .. } => write!(f, "fixed_point {bits}"),
            Self::Binary { .. } => f.write_str("binary"),
            Self::Product {
                width,
                centroids,
                stages,
                rotate,
                ..
            } => {
                write!(f, "product {width}x{centroids}")?;
                if *rotate {
                    f.write_str(" rotated")?;
                }
                if *stages > 1 {
                    write!(f, "x{stages}")?;
                }
                Ok(())
            }
            Self::Trellis {
                step, rate_weight, ..
            } => {
                write!(f, "trellis {step}")?;
                if *rate_weight > 0.0 {
                    write!(f, " rate {rate_weight}")?;
                }
                Ok(())
            }
            Self::Svd { rank, .. } => write!(f, "svd {}", rank_text(*rank)),
            Self::Cp { rank, .. } => write!(f, "cp {}", rank_text(*rank)),
            Self::Tucker { ranks: [p, q], .. } => write!(f, "tucker {p}x{q}"),
            Self::Prune { keep, .. } => match keep {
                Keep::Fraction(x) => write!(f, "prune {x}"),
                Keep::Count(n) => write!(f, "prune {n}"),
                Keep::Threshold(x) => write!(f, "prune >={x}"),
            },
        }
    }
}

fn rank_text(rank: Rank) -> String {
    match rank {
        Rank::Fixed(r) => r.to_string(),
        Rank::Fraction(x) => format!("{x} of all"),
        Rank::Energy(x) => format!("{x} of the energy"),
        Rank::Ratio(x) => format!("{x} times smaller"),
    }
}

/// A chain in words.
pub(super) fn chain_text(chain: &[Step]) -> String {
    let steps: Vec<String> = chain.iter().map(Step::to_string).collect();
    if steps.is_empty() {
        return "keep".to_owned();
    }
    steps.join(" > ")
}

impl Step {
    /// Whether this makes codes of a matrix.
    fn is_quantizer(&self) -> bool {
        matches!(
            self,
            Self::Dense { .. }
                | Self::FixedPoint { .. }
                | Self::Binary { .. }
                | Self::Product { .. }
                | Self::Trellis { .. }
        )
    }
}

/// Errs for chains that mean nothing.
pub(super) fn check_chain(chain: &[Step]) -> Result<()> {
    let both = |step: &Step| {
        matches!(
            step,
            Step::Product {
                stages: 2..,
                rotate: true,
                ..
            }
        )
    };
    let sound = match chain {
        chain if chain.iter().any(both) => false,
        [] | [_] => true,
        [Step::Svd { .. } | Step::Cp { .. }, second] => second.is_quantizer(),
        // The weights that are left are a list: no part of it has a row or a sub-vector of its own.
        [Step::Prune { .. }, second] => match second {
            Step::Product { width, rotate, .. } => *width == 1 && !rotate,
            Step::FixedPoint { granularity, .. } => *granularity == Granularity::PerTensor,
            Step::Binary { scaling, .. } => *scaling != Scaling::PerRow,
            Step::Trellis { .. } => false,
            other => other.is_quantizer(),
        },
        _ => false,
    };
    if sound {
        return Ok(());
    }
    Err(Error::Unsupported {
        what: format!("the chain {}", chain_text(chain)),
        reason: "it is none of those that Step lists".to_owned(),
    })
}

/// Whether a chain changes nothing.
pub(super) fn keeps(chain: &[Step]) -> bool {
    matches!(chain, [] | [Step::Keep])
}

/// Whether a chain needs a tensor of at least two axes.
pub(super) fn needs_matrix(chain: &[Step]) -> bool {
    !keeps(chain) && !matches!(chain, [Step::Dense { .. }])
}

/// With the moments where the compressor has a use for them.
fn guided<T>(
    inputs: Option<&InputMoments>,
    compress: impl Fn(Option<&InputMoments>) -> Result<T>,
) -> Result<T> {
    match compress(inputs) {
        Err(Error::MomentsUnused { .. }) => compress(None),
        result => result,
    }
}

fn quantize(
    step: &Step,
    matrix: ArrayView2<'_, f32>,
    inputs: Option<&InputMoments>,
    seed: Seed,
) -> Result<Arc<dyn Artifact>> {
    Ok(match *step {
        Step::Dense { precision } => Arc::new(Dense::new(matrix.into_dyn(), precision)?),
        Step::FixedPoint {
            bits,
            symmetry,
            granularity,
            range,
            precision,
        } => {
            let quantizer = FixedPointQuantizer::params(bits)
                .symmetry(symmetry)
                .granularity(granularity)
                .range(range)
                .precision(precision);
            Arc::new(guided(inputs, |inputs| {
                quantizer.quantize_with(matrix, inputs)
            })?)
        }
        Step::Binary { scaling, precision } => {
            let quantizer = Binarizer::params().scaling(scaling).precision(precision);
            Arc::new(guided(inputs, |inputs| {
                quantizer.quantize_with(matrix, inputs)
            })?)
        }
        Step::Trellis {
            step,
            rate_weight,
            precision,
        } => {
            let quantizer = TrellisQuantizer::params(step)
                .rate_weight(rate_weight)
                .precision(precision);
            Arc::new(guided(inputs, |inputs| {
                quantizer.quantize_with(matrix, inputs)
            })?)
        }
        Step::Product {
            width,
            centroids,
            axis,
            codebook,
            precision,
            stages,
            rotate,
        } => {
            let quantizer = ProductQuantizer::params_with_width(width)
                .centroids(centroids)
                .axis(axis)
                .codebook(codebook)
                .precision(precision)
                .seed(seed);
            if rotate {
                let quantizer = OptimizedProductQuantizer::params(quantizer);
                Arc::new(guided(inputs, |inputs| {
                    quantizer.quantize_with(matrix, inputs)
                })?)
            } else if stages == 1 {
                Arc::new(guided(inputs, |inputs| {
                    quantizer.quantize_with(matrix, inputs)
                })?)
            } else {
                let quantizer = ResidualQuantizer::params(quantizer, stages);
                Arc::new(guided(inputs, |inputs| {
                    quantizer.quantize_with(matrix, inputs)
                })?)
            }
        }
        _ => {
            return Err(Error::Unsupported {
                what: step.to_string(),
                reason: "it is no quantizer".to_owned(),
            });
        }
    })
}

/// A tensor as a matrix (first axis, all others), copied only where its order in memory is another one.
pub(super) fn as_matrix(weights: ArrayViewD<'_, f32>) -> Result<CowArray<'_, f32, Ix2>> {
    let shape = weights.shape().to_vec();
    let dimensions = || Error::Dimensions {
        what: "a tensor that is to be compressed as a matrix",
        expected: "at least two axes",
        shape: shape.clone(),
    };
    crate::check::not_empty("a tensor", &shape)?;
    let [rows, rest @ ..] = shape.as_slice() else {
        return Err(dimensions());
    };
    if rest.is_empty() {
        return Err(dimensions());
    }
    let columns: usize = rest.iter().product();
    linalg::as_matrix(weights, (*rows, columns)).ok_or_else(dimensions)
}

/// The moments of what a factor's product gives to the next one, R M Rᵀ.
fn passed_on(inputs: &InputMoments, right: &dyn Artifact) -> Result<InputMoments> {
    let right = right.decompress()?;
    let right = as_matrix(right.view())?.mapv(f64::from);
    let product = right.dot(&inputs.matrix()?).dot(&right.t());
    // Exactly symmetric, whatever rounding did.
    let symmetric = (&product + &product.t()) * 0.5;
    InputMoments::from_matrix(symmetric.view(), inputs.count())
}

/// What a chain makes of a tensor.
///
/// `seed` is the tensor's own.
pub(super) fn compress(
    chain: &[Step],
    weights: ArrayViewD<'_, f32>,
    inputs: Option<&InputMoments>,
    seed: Seed,
) -> Result<CompressedTensor> {
    check_chain(chain)?;
    let shape = weights.shape().to_vec();
    let matrix = || as_matrix(weights.view());
    let artifact: Arc<dyn Artifact> = match chain {
        [Step::Dense { precision }] => Arc::new(Dense::new(weights.view(), *precision)?),
        [Step::Svd { rank, precision }] => {
            let svd = TruncatedSvd::params(*rank).precision(*precision).seed(seed);
            let matrix = matrix()?;
            Arc::new(guided(inputs, |inputs| {
                svd.factorize_with(matrix.view(), inputs)
            })?)
        }
        [Step::Svd { rank, .. }, quantizer] => {
            let svd = TruncatedSvd::params(*rank).seed(seed);
            let matrix = matrix()?;
            let product = guided(inputs, |inputs| svd.factorize_with(matrix.view(), inputs))?;
            let right = quantize(
                quantizer,
                product.right(),
                inputs,
                seed.derive_name("right"),
            )?;
            let inner = inputs
                .map(|inputs| passed_on(inputs, &*right))
                .transpose()?;
            let left = quantize(
                quantizer,
                product.left(),
                inner.as_ref(),
                seed.derive_name("left"),
            )?;
            Arc::new(FactoredMatrix::of(left, right)?)
        }
        [Step::Cp { rank, precision }] => {
            let cp = CpAls::params(*rank).precision(*precision).seed(seed);
            Arc::new(cp.factorize(weights.view())?)
        }
        [Step::Cp { rank, .. }, quantizer] => {
            let cp = CpAls::params(*rank).seed(seed).factorize(weights.view())?;
            // The terms' weights go into the factors in equal shares.
            let axes = cp.factors().len() as f32;
            let share = cp.weights().mapv(|weight| weight.abs().powf(1.0 / axes));
            let signs = cp
                .weights()
                .mapv(|weight| if weight < 0.0 { -1.0 } else { 1.0 });
            let factors = cp.factors().iter().enumerate().map(|(axis, factor)| {
                let scaled = factor * &share;
                let scaled = if axis == 0 { scaled * &signs } else { scaled };
                quantize(quantizer, scaled.view(), None, seed.derive(axis as u64))
            });
            Arc::new(FactoredTensor::of(factors.collect::<Result<_>>()?)?)
        }
        [
            Step::Tucker {
                ranks: [p, q],
                precision,
            },
        ] => {
            let shape = shape.clone();
            let kernel = weights.view().into_dimensionality::<Ix4>();
            let kernel = kernel.map_err(|_| Error::Dimensions {
                what: "a convolution kernel",
                expected: "four axes",
                shape,
            })?;
            let tucker = Tucker2::ranks(*p, *q).precision(*precision);
            Arc::new(guided(inputs, |inputs| {
                tucker.factorize_with(kernel, inputs)
            })?)
        }
        [Step::Prune { keep, precision }] => {
            let pruner = MagnitudePruner::params(Sparsity::Unstructured(*keep))
                .scope(Scope::Layer)
                .precision(*precision);
            let pruner = crate::ParamGuard::check(pruner)?;
            Arc::new(pruner.prune_matrix(matrix()?.view())?)
        }
        [Step::Prune { keep, .. }, quantizer] => {
            let pruner = MagnitudePruner::params(Sparsity::Unstructured(*keep)).scope(Scope::Layer);
            let pruner = crate::ParamGuard::check(pruner)?;
            let left = pruner.prune_matrix(matrix()?.view())?.decompress()?;
            let left = as_matrix(left.view())?;
            // The list of weights has one column, which is the axis of sub-vectors of length one.
            let quantizer = match quantizer.clone() {
                Step::Product {
                    width,
                    centroids,
                    precision,
                    stages,
                    ..
                } => Step::Product {
                    width,
                    centroids,
                    axis: SplitAxis::In,
                    codebook: Codebook::Shared,
                    precision,
                    stages,
                    rotate: false,
                },
                other => other,
            };
            Arc::new(SparseQuantized::of(left.view(), |values| {
                quantize(&quantizer, values, None, seed)
            })?)
        }
        [quantizer] => quantize(quantizer, matrix()?.view(), inputs, seed)?,
        _ => {
            return Err(Error::Unsupported {
                what: format!("the chain {}", chain_text(chain)),
                reason: "it keeps the tensor".to_owned(),
            });
        }
    };
    CompressedTensor::of(artifact).with_shape(&shape)
}
