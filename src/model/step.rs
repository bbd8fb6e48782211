//! One step of a recipe, and the result of a chain of steps on a tensor.

use std::fmt;
use std::sync::Arc;

use ndarray::{ArrayView2, ArrayView4, ArrayViewD, CowArray, Ix2, Ix4};
use serde::{Deserialize, Serialize};

use super::CompressedTensor;
use super::extend::Artifact;
use super::kinds::{Dense, FactoredMatrix, FactoredTensor, SparseQuantized};
use crate::context::ROWS;
use crate::factorize::Rank;
use crate::factorize::convolution::{Tucker2, TuckerSize};
use crate::factorize::cp::{CpAdmm, CpAls};
use crate::factorize::svd::TruncatedSvd;
use crate::prune::{Keep, MagnitudePruner, Sparsity};
use crate::quantize::binary::Binarizer;
use crate::quantize::fixed_point::{FixedPointQuantizer, Granularity};
use crate::quantize::product::{
    Codebook, OptimizedProductQuantizer, ProductQuantizer, ResidualQuantizer, Split, SplitAxis,
};
use crate::quantize::trellis::TrellisQuantizer;
use crate::{
    Compressed, Error, Factorizer, FitContext, InputMoments, ParamError, Precision, Quantizer,
    Result, Seed, linalg,
};

/// One compressor of a chain.
///
/// A step holds the compressor itself, so that a recipe has all its options with the same names and defaults. Most
/// compressors convert into a step by `into()`.
///
/// `SpatialSvd`, `Cp`, `CpAdmm`, `Tucker` and `Dense` keep the axes of a tensor. All other steps treat a tensor of more than two
/// axes as a matrix (first axis, all others). A chain is one of
///
/// - a single step;
/// - `Svd`, `Cp` or `CpAdmm`, followed by a quantizer (`Dense`, `FixedPoint`, `Binary`, `Product`, `Residual`,
///   `RotatedProduct`, `Trellis`), which is applied to each factor;
/// - `Prune`, followed by a quantizer, which is applied to the list of remaining weights. A list has no rows: the quantizer
///   needs one scale or codebook for all of it and sub-vectors of one value. `RotatedProduct` and `Trellis` do not apply.
///
/// The seed that a compressor uses is derived from the seed of the recipe, the name of the tensor, and its own seed.
///
/// ```
/// use taper::model::Step;
/// use taper::quantize::fixed_point::{FixedPointQuantizer, Granularity};
///
/// let step: Step = serde_json::from_str(r#"{"fixed_point": {"bits": 4, "granularity": "per_row"}}"#).unwrap();
/// assert_eq!(step, FixedPointQuantizer::new(4).granularity(Granularity::PerRow).into());
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Step {
    /// Keeps the tensor as it is, bit for bit.
    Keep,
    /// Stores the tensor in another precision.
    Dense(Precision),
    /// Fixed point.
    FixedPoint(FixedPointQuantizer),
    /// Signs, with or without scales.
    Binary(Binarizer),
    /// Product quantization.
    Product(ProductQuantizer),
    /// Product quantization in several stages.
    Residual(ResidualQuantizer),
    /// Product quantization of rotated sub-vectors.
    RotatedProduct(OptimizedProductQuantizer),
    /// Trellis codes.
    Trellis(TrellisQuantizer),
    /// Truncated singular value decomposition of a matrix.
    Svd(TruncatedSvd),
    /// Truncated singular value decomposition of a convolution kernel into a vertical and a horizontal one.
    SpatialSvd(TruncatedSvd),
    /// CP decomposition by alternating least squares.
    Cp(CpAls),
    /// CP decomposition under constraints, by ADMM.
    CpAdmm(CpAdmm),
    /// Tucker-2 decomposition of a convolution kernel.
    Tucker(Tucker2),
    /// Pruning of single weights.
    Prune(MagnitudePruner),
}

macro_rules! from_compressor {
    ($($variant:ident($compressor:ty)),* $(,)?) => {$(
        impl From<$compressor> for Step {
            fn from(compressor: $compressor) -> Self {
                Self::$variant(compressor)
            }
        }
    )*};
}

from_compressor! {
    Dense(Precision),
    FixedPoint(FixedPointQuantizer),
    Binary(Binarizer),
    Product(ProductQuantizer),
    Residual(ResidualQuantizer),
    RotatedProduct(OptimizedProductQuantizer),
    Trellis(TrellisQuantizer),
    Svd(TruncatedSvd),
    Cp(CpAls),
    CpAdmm(CpAdmm),
    Tucker(Tucker2),
    Prune(MagnitudePruner),
}

/// Groups and centroids of a product quantizer.
struct Product<'a>(&'a ProductQuantizer);

impl fmt::Display for Product<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.split {
            Split::Width(width) => write!(f, "{width}x{}", self.0.centroids),
            Split::Groups(groups) => write!(f, "{groups} groups x{}", self.0.centroids),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keep => f.write_str("keep"),
            Self::Dense(precision) => write!(f, "dense {}", precision.bits()),
            Self::FixedPoint(q) => write!(f, "fixed_point {}", q.bits),
            Self::Binary(_) => f.write_str("binary"),
            Self::Product(q) => write!(f, "product {}", Product(q)),
            Self::Residual(q) => write!(f, "residual {}x{}", Product(&q.quantizer), q.stages),
            Self::RotatedProduct(q) => write!(f, "rotated_product {}", Product(&q.quantizer)),
            Self::Trellis(q) => {
                let unit = if q.relative { " rms" } else { "" };
                write!(f, "trellis {:.2e}{unit}", q.step)
            }
            Self::Svd(svd) => write!(f, "svd {}", rank_text(svd.rank)),
            Self::SpatialSvd(svd) => write!(f, "spatial_svd {}", rank_text(svd.rank)),
            Self::Cp(cp) => write!(f, "cp {}", rank_text(cp.rank)),
            Self::CpAdmm(cp) => write!(f, "cp_admm {}", rank_text(cp.rank)),
            Self::Tucker(tucker) => match tucker.size {
                TuckerSize::Ranks(p, q) => write!(f, "tucker {p}x{q}"),
                TuckerSize::Energy(x) => write!(f, "tucker {x} of the energy"),
                TuckerSize::Ratio(x) => write!(f, "tucker {x} times smaller"),
            },
            Self::Prune(pruner) => match pruner.sparsity {
                Sparsity::Unstructured(Keep::Fraction(x)) => write!(f, "prune {x}"),
                Sparsity::Unstructured(Keep::Count(n)) => write!(f, "prune {n}"),
                Sparsity::Unstructured(Keep::Threshold(x)) => write!(f, "prune >={x}"),
                Sparsity::NOfM { n, m } => write!(f, "prune {n}:{m}"),
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

/// The steps of a chain as text, in order.
pub(super) fn chain_text(chain: &[Step]) -> String {
    let steps: Vec<String> = chain.iter().map(Step::to_string).collect();
    if steps.is_empty() {
        return "keep".to_owned();
    }
    steps.join(" > ")
}

impl Step {
    /// Whether this step quantizes a matrix.
    fn is_quantizer(&self) -> bool {
        matches!(
            self,
            Self::Dense(_)
                | Self::FixedPoint(_)
                | Self::Binary(_)
                | Self::Product(_)
                | Self::Residual(_)
                | Self::RotatedProduct(_)
                | Self::Trellis(_)
        )
    }

    /// Checks the parameters of the compressor, as every call that uses it does.
    ///
    /// # Errors
    ///
    /// [`ParamError`] for the first parameter that is invalid for every input.
    pub fn validate(&self) -> Result<(), ParamError> {
        match self {
            Self::Keep | Self::Dense(_) => Ok(()),
            Self::FixedPoint(q) => q.validate(),
            Self::Binary(q) => q.validate(),
            Self::Product(q) => q.validate(),
            Self::Residual(q) => q.validate(),
            Self::RotatedProduct(q) => q.validate(),
            Self::Trellis(q) => q.validate(),
            Self::Svd(svd) | Self::SpatialSvd(svd) => svd.validate(),
            Self::Cp(cp) => cp.validate(),
            Self::CpAdmm(cp) => cp.validate(),
            Self::Tucker(tucker) => tucker.validate(),
            Self::Prune(pruner) => pruner.validate(),
        }
    }

    /// This step with single precision instead of half precision; `None` if it does not use half precision.
    fn widened(&self) -> Option<Self> {
        let mut step = self.clone();
        let precision = match &mut step {
            Self::Keep => return None,
            Self::Dense(precision) => precision,
            Self::FixedPoint(q) => &mut q.precision,
            Self::Binary(q) => &mut q.precision,
            Self::Product(q) => &mut q.precision,
            Self::Residual(q) => &mut q.quantizer.precision,
            Self::RotatedProduct(q) => &mut q.quantizer.precision,
            Self::Trellis(q) => &mut q.precision,
            Self::Svd(svd) | Self::SpatialSvd(svd) => &mut svd.precision,
            Self::Cp(cp) => &mut cp.precision,
            Self::CpAdmm(cp) => &mut cp.precision,
            Self::Tucker(tucker) => &mut tucker.precision,
            Self::Prune(pruner) => &mut pruner.precision,
        };
        if *precision != Precision::F16 {
            return None;
        }
        *precision = Precision::F32;
        Some(step)
    }

    /// Why this quantizer cannot code the list of weights that pruning keeps, which has no rows and no neighbours.
    fn unfit_for_list(&self) -> Option<&'static str> {
        let product = |q: &ProductQuantizer| {
            (q.split != Split::Width(1)
                || q.axis != SplitAxis::In
                || q.codebook != Codebook::Shared)
                .then_some("needs width 1, axis in and a shared codebook after prune")
        };
        match self {
            Self::Product(q) => product(q),
            Self::Residual(q) => product(&q.quantizer),
            Self::FixedPoint(q) if q.granularity != Granularity::PerTensor => {
                Some("needs one scale per tensor after prune")
            }
            Self::Binary(q) if q.scaling == Some(Granularity::PerRow) => {
                Some("needs one scale per tensor after prune")
            }
            Self::RotatedProduct(_) | Self::Trellis(_) => Some("does not code a list of weights"),
            other if !other.is_quantizer() => Some("is not a quantizer"),
            _ => None,
        }
    }
}

/// The chain with single precision instead of half precision; `None` if no step uses half precision.
pub(super) fn widened(chain: &[Step]) -> Option<Vec<Step>> {
    let steps: Vec<Option<Step>> = chain.iter().map(Step::widened).collect();
    steps.iter().any(Option::is_some).then(|| {
        let steps = steps.into_iter().zip(chain);
        steps
            .map(|(wide, step)| wide.unwrap_or_else(|| step.clone()))
            .collect()
    })
}

/// Checks that a chain is one of those that [`Step`] lists, with valid parameters.
pub(super) fn check_chain(chain: &[Step]) -> Result<()> {
    let unsupported = |reason: String| {
        Err(Error::Unsupported {
            what: format!("the chain {}", chain_text(chain)),
            reason,
        })
    };
    for step in chain {
        step.validate()?;
    }
    match chain {
        [] | [_] => Ok(()),
        [Step::Svd(_) | Step::Cp(_) | Step::CpAdmm(_), second] if second.is_quantizer() => Ok(()),
        [Step::Svd(_) | Step::Cp(_) | Step::CpAdmm(_), second] => unsupported(format!(
            "{second} is not a quantizer, which is what can follow {}",
            chain[0]
        )),
        [Step::Prune(_), second] => match second.unfit_for_list() {
            None => Ok(()),
            Some(reason) => unsupported(format!("{second} {reason}")),
        },
        [first, _] => unsupported(format!("no step can follow {first}")),
        _ => unsupported("a chain has at most two steps".to_owned()),
    }
}

/// Whether a chain changes nothing.
pub(super) fn keeps(chain: &[Step]) -> bool {
    matches!(chain, [] | [Step::Keep])
}

/// Whether a chain needs a tensor of at least two axes.
pub(super) fn needs_matrix(chain: &[Step]) -> bool {
    !keeps(chain) && !matches!(chain, [Step::Dense(_)])
}

/// What notes call the moments of the inputs.
const CALIBRATION: &str = "calibration";

/// The state of a chain that is applied to one tensor.
struct Fit<'a> {
    context: FitContext<'a>,
    seed: Seed,
    /// Notes on what steps could not use.
    unused: Vec<String>,
}

impl Fit<'_> {
    /// The seed for a compressor: that of the tensor, combined with the compressor's own where one is set.
    fn seed(&self, own: Seed) -> Seed {
        if own == Seed::default() {
            self.seed
        } else {
            self.seed.derive(own.value())
        }
    }

    /// Runs `compress` with the context. If the compressor cannot use a part of it, notes that and runs it without.
    fn guided<T>(
        &mut self,
        step: &Step,
        compress: impl Fn(FitContext<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut context = self.context;
        loop {
            match compress(context) {
                Err(Error::ContextUnused { what, .. }) => {
                    self.note(step, if what == ROWS { ROWS } else { CALIBRATION });
                    context = context.without(what);
                }
                result => return result,
            }
        }
    }

    /// Notes that a step does not use a part of the context.
    fn note(&mut self, step: &Step, what: &str) {
        let note = format!("{step} does not use the {what}");
        if !self.unused.contains(&note) {
            self.unused.push(note);
        }
    }

    /// Notes that a step uses no part of the context.
    fn note_all(&mut self, step: &Step) {
        if self.context.inputs.is_some() {
            self.note(step, CALIBRATION);
        }
        if self.context.rows.is_some() {
            self.note(step, ROWS);
        }
    }

    /// Runs one part of the chain with its own moments, weights of rows and seed.
    fn part<T>(
        &mut self,
        inputs: Option<&InputMoments>,
        rows: Option<&[f64]>,
        seed: Seed,
        run: impl FnOnce(&mut Fit<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut part = Fit {
            context: FitContext {
                inputs,
                rows,
                ..self.context
            },
            seed,
            unused: Vec::new(),
        };
        let result = run(&mut part)?;
        for step in part.unused {
            if !self.unused.contains(&step) {
                self.unused.push(step);
            }
        }
        Ok(result)
    }

    fn quantize(&mut self, step: &Step, matrix: ArrayView2<'_, f32>) -> Result<Arc<dyn Artifact>> {
        let with_seed = |q: &ProductQuantizer, seed| q.clone().seed(seed);
        Ok(match step {
            Step::Dense(precision) => {
                self.note_all(step);
                Arc::new(Dense::new(matrix.into_dyn(), *precision)?)
            }
            Step::FixedPoint(q) => {
                Arc::new(self.guided(step, |context| q.quantize_with(matrix, context))?)
            }
            Step::Binary(q) => {
                let mut q = q.clone();
                q.stochastic = q.stochastic.map(|own| self.seed(own));
                Arc::new(self.guided(step, |context| q.quantize_with(matrix, context))?)
            }
            Step::Trellis(q) => {
                Arc::new(self.guided(step, |context| q.quantize_with(matrix, context))?)
            }
            Step::Product(q) => {
                let q = with_seed(q, self.seed(q.seed));
                Arc::new(self.guided(step, |context| q.quantize_with(matrix, context))?)
            }
            Step::Residual(q) => {
                let mut q = q.clone();
                q.quantizer.seed = self.seed(q.quantizer.seed);
                Arc::new(self.guided(step, |context| q.quantize_with(matrix, context))?)
            }
            Step::RotatedProduct(q) => {
                let mut q = q.clone();
                q.quantizer.seed = self.seed(q.quantizer.seed);
                Arc::new(self.guided(step, |context| q.quantize_with(matrix, context))?)
            }
            other => {
                return Err(Error::Unsupported {
                    what: other.to_string(),
                    reason: "it is not a quantizer".to_owned(),
                });
            }
        })
    }

    fn svd(
        &mut self,
        step: &Step,
        svd: &TruncatedSvd,
        matrix: ArrayView2<'_, f32>,
    ) -> Result<crate::factorize::svd::LowRankMatrix<f32>> {
        let svd = svd.seed(self.seed(svd.seed));
        self.guided(step, |context| svd.factorize_with(matrix, context))
    }

    fn cp(
        &mut self,
        step: &Step,
        weights: ArrayViewD<'_, f32>,
    ) -> Result<crate::factorize::cp::CpTensor<f32>> {
        match step {
            Step::Cp(cp) => {
                let cp = cp.clone().seed(self.seed(cp.seed));
                self.guided(step, |context| cp.factorize_with(weights.view(), context))
            }
            Step::CpAdmm(cp) => {
                let cp = cp.clone().seed(self.seed(cp.seed));
                self.guided(step, |context| cp.factorize_with(weights.view(), context))
            }
            other => unreachable!("{other} is not a CP decomposition"),
        }
    }

    fn chain(&mut self, chain: &[Step], weights: ArrayViewD<'_, f32>) -> Result<Arc<dyn Artifact>> {
        let matrix = || as_matrix(weights.view());
        Ok(match chain {
            [step @ Step::Dense(precision)] => {
                self.note_all(step);
                Arc::new(Dense::new(weights.view(), *precision)?)
            }
            [step @ Step::Svd(svd)] => Arc::new(self.svd(step, svd, matrix()?.view())?),
            [step @ Step::Svd(svd), quantizer] => {
                let product = self.svd(step, svd, matrix()?.view())?;
                let (inputs, rows, seed) = (self.context.inputs, self.context.rows, self.seed);
                let right = self.part(inputs, None, seed.derive_name("right"), |part| {
                    part.quantize(quantizer, product.right())
                })?;
                let inner = inputs.map(|inputs| passed_on(inputs, &*right));
                let inner = inner.transpose()?;
                let left = self.part(inner.as_ref(), rows, seed.derive_name("left"), |part| {
                    part.quantize(quantizer, product.left())
                })?;
                Arc::new(FactoredMatrix::of(left, right)?)
            }
            [step @ Step::SpatialSvd(svd)] => {
                let kernel = as_kernel(&weights)?;
                let svd = svd.seed(self.seed(svd.seed));
                Arc::new(self.guided(step, |context| svd.factorize_with(kernel, context))?)
            }
            [step @ (Step::Cp(_) | Step::CpAdmm(_))] => Arc::new(self.cp(step, weights)?),
            [step @ (Step::Cp(_) | Step::CpAdmm(_)), quantizer] => {
                let cp = self.cp(step, weights)?;
                // Each factor takes an equal share of the weight of every term.
                let shares = cp.shares(cp.factors().len());
                let seed = self.seed;
                let factors = cp.factors().iter().zip(&shares).enumerate();
                let factors = factors.map(|(axis, (factor, share))| {
                    let scaled = factor * share;
                    // Moments are known for the inputs of the layer, not for those of a factor.
                    self.part(None, None, seed.derive(axis as u64), |part| {
                        part.quantize(quantizer, scaled.view())
                    })
                });
                let factors = factors.collect::<Result<_>>()?;
                Arc::new(FactoredTensor::of(factors)?)
            }
            [step @ Step::Tucker(tucker)] => {
                let kernel = as_kernel(&weights)?;
                Arc::new(self.guided(step, |context| tucker.factorize_with(kernel, context))?)
            }
            [step @ Step::Prune(pruner)] => {
                let matrix = matrix()?;
                Arc::new(self.guided(step, |context| {
                    pruner.prune_matrix_with(matrix.view(), context)
                })?)
            }
            [step @ Step::Prune(pruner), quantizer] => {
                let matrix = matrix()?;
                let pruned = self.guided(step, |context| {
                    pruner.prune_matrix_with(matrix.view(), context)
                })?;
                let left = pruned.decompress()?;
                let left = as_matrix(left.view())?;
                self.note_all(quantizer);
                let seed = self.seed;
                self.part(None, None, seed, |part| {
                    let list = SparseQuantized::of(left.view(), |values| {
                        part.quantize(quantizer, values)
                    })?;
                    Ok(Arc::new(list))
                })?
            }
            [quantizer] => self.quantize(quantizer, matrix()?.view())?,
            _ => {
                return Err(Error::Unsupported {
                    what: format!("the chain {}", chain_text(chain)),
                    reason: "it keeps the tensor".to_owned(),
                });
            }
        })
    }
}

/// A tensor as a matrix (first axis, all others), copied only if its memory layout requires it.
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

fn as_kernel<'a>(weights: &'a ArrayViewD<'_, f32>) -> Result<ArrayView4<'a, f32>> {
    let kernel = weights.view().into_dimensionality::<Ix4>();
    kernel.map_err(|_| Error::Dimensions {
        what: "a convolution kernel",
        expected: "four axes",
        shape: weights.shape().to_vec(),
    })
}

/// The moments R M Rᵀ of the outputs of the right factor, which are the inputs of the left one.
fn passed_on(inputs: &InputMoments, right: &dyn Artifact) -> Result<InputMoments> {
    let right = right.decompress()?;
    let right = as_matrix(right.view())?.mapv(f64::from);
    let product = right.dot(&inputs.matrix()?).dot(&right.t());
    // Rounding may have broken the symmetry.
    let symmetric = (&product + &product.t()) * 0.5;
    InputMoments::from_matrix(symmetric.view(), inputs.count())
}

/// The result of a chain on a tensor.
pub(super) struct ChainResult {
    pub(super) tensor: CompressedTensor,
    /// Notes on what steps could not use.
    pub(super) unused: Vec<String>,
}

/// Compresses a tensor by a chain, with the seed of the tensor.
pub(super) fn compress(
    chain: &[Step],
    weights: ArrayViewD<'_, f32>,
    context: FitContext<'_>,
    seed: Seed,
) -> Result<ChainResult> {
    check_chain(chain)?;
    let shape = weights.shape().to_vec();
    let mut fit = Fit {
        context,
        seed,
        unused: Vec::new(),
    };
    let artifact = fit.chain(chain, weights)?;
    Ok(ChainResult {
        tensor: CompressedTensor::of(artifact).with_shape(&shape)?,
        unused: fit.unused,
    })
}
