//! Several product quantizers in sequence, each for the error of those before it.

use ndarray::{
    Array1, Array2, ArrayView1, ArrayView2, ArrayViewD, ArrayViewMut2, ArrayViewMutD, Axis,
};

use super::{PqMatrix, ProductQuantizer};
use crate::artifact::check_apply;
use crate::cluster::{Clusterer, KMeans};
use crate::trainable::check_parameters;
use crate::{
    Compressed, Error, FitContext, FitReport, Float, LinearOp, ParamError, Part, Quantizer, Result,
    StorageBits, Trainable, check,
};

/// Residual product quantization: the sum of several product-quantized matrices.
///
/// The first stage quantizes the weights, and each further stage the error of the stages before it (Chen, Guan and Wang,
/// "Approximate nearest neighbor search by residual vector quantization", 2010, doi:10.3390/s101211259; here with m groups in
/// each stage instead of one). The codes of two stages of 16 centroids take as many bits as those of one stage of 256, and the
/// codebooks an eighth of the values.
///
/// ```
/// use taper::ndarray::Array2;
/// use taper::quantize::product::{ProductQuantizer, ResidualQuantizer};
/// use taper::{Compressed, Quantizer};
///
/// let w = Array2::from_shape_fn((32, 48), |(o, i)| ((o * i) as f32).sin());
/// let stage = ProductQuantizer::new(8).centroids(16);
/// let two = ResidualQuantizer::new(stage, 2).quantize(w.view())?;
/// assert_eq!(two.storage().payload(), 2 * 4 * 8 * 32);
/// # Ok::<(), taper::Error>(())
/// ```
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(deny_unknown_fields))]
#[cfg_attr(
    feature = "model",
    serde(bound(deserialize = "C: serde::Deserialize<'de> + Default"))
)]
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ResidualQuantizer<C = KMeans> {
    /// The quantizer of each stage.
    pub quantizer: ProductQuantizer<C>,
    /// The number of stages, from 1 to 256.
    pub stages: usize,
}

/// Far more stages than rounding errors leave room for.
const MAX_STAGES: usize = 256;

impl<C> ResidualQuantizer<C> {
    /// `stages` stages, each with the parameters of `quantizer`.
    #[must_use]
    pub fn new(quantizer: ProductQuantizer<C>, stages: usize) -> Self {
        Self { quantizer, stages }
    }

    /// Checks the parameters except those of the clusterer, which its own calls check.
    fn check(&self) -> Result<(), ParamError> {
        check::at_least_one("stages", self.stages)?;
        let inside = self.stages <= MAX_STAGES;
        check::in_range("stages", self.stages as f64, "in 1..=256", inside)?;
        self.quantizer.check()?;
        Ok(())
    }
}

impl ResidualQuantizer {
    /// Checks the parameters, as every call that uses them does.
    ///
    /// # Errors
    ///
    /// The first parameter that no input could make right.
    pub fn validate(&self) -> Result<(), ParamError> {
        self.check()?;
        self.quantizer.clusterer.validate()
    }
}

impl<F: Float, C: Clusterer<F>> Quantizer<F> for ResidualQuantizer<C> {
    type Output = ResidualPqMatrix<F>;

    /// If an observer stops a stage, it is the last one.
    ///
    /// The report's losses are mean squared errors of a weight, without any stage and after each. With moments of the
    /// inputs, each stage lowers the output error, and the losses are mean squared errors of an output.
    fn quantize_with(
        &self,
        weights: ArrayView2<'_, F>,
        context: FitContext<'_>,
    ) -> Result<ResidualPqMatrix<F>> {
        self.check()?;
        context.rows_unused("ResidualQuantizer")?;
        let inputs = context.inputs;
        check::finite("weights", &weights)?;
        let quantizer = &self.quantizer;
        let mean_square = |a: &Array2<F>| match inputs {
            Some(inputs) => {
                let none = Array2::zeros(a.dim());
                Ok(inputs.output_error(a.view(), none.view())? / a.nrows() as f64)
            }
            None => {
                Ok::<_, Error>(a.iter().map(|x| x.as_f64().powi(2)).sum::<f64>() / a.len() as f64)
            }
        };
        let mut rest = weights.to_owned();
        let mut report = FitReport {
            converged: true,
            losses: vec![mean_square(&rest)?],
            ..FitReport::default()
        };
        let mut stages: Vec<PqMatrix<F>> = Vec::new();
        for _ in 0..self.stages {
            let stage = quantizer.quantize_stage(rest.view(), context)?;
            rest = &rest - &stage.decompress_matrix()?;
            check::no_overflow("the error of a stage", &rest)?;
            report.iterations += 1;
            report.converged &= stage.report().is_none_or(|report| report.converged);
            report.stopped = stage.report().is_some_and(|report| report.stopped);
            report.losses.push(mean_square(&rest)?);
            stages.push(stage);
            if report.stopped {
                break;
            }
        }
        quantizer.check_precision(weights)?;
        let mut matrix = ResidualPqMatrix::from_parts(stages)?;
        matrix.report = Some(report);
        Ok(matrix)
    }
}

/// A weight matrix (out_features, in_features) that is the sum of product-quantized ones.
///
/// ```
/// use taper::Quantizer;
/// use taper::ndarray::Array2;
/// use taper::quantize::product::{ProductQuantizer, ResidualQuantizer};
///
/// let weights = Array2::from_shape_fn((32, 64), |(o, i)| ((o * 3 + i * 5) as f32).sin());
/// let two = ResidualQuantizer::new(ProductQuantizer::new(8).centroids(8), 2).quantize(weights.view())?;
/// assert_eq!(two.stages().len(), 2);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ResidualPqMatrix<F> {
    shape: [usize; 2],
    /// At least one, all of this shape.
    stages: Vec<PqMatrix<F>>,
    report: Option<FitReport>,
}

impl<F: Float> ResidualPqMatrix<F> {
    /// The sum of `stages`.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] for no stage at all, [`Error::ShapeMismatch`] for stages of different shapes.
    pub fn from_parts(stages: Vec<PqMatrix<F>>) -> Result<Self> {
        let shape = stages.first().map(|stage| stage.shape);
        let shape = shape.ok_or_else(|| Error::Malformed {
            artifact: "a residual product-quantized matrix",
            problem: "it has no stage".to_owned(),
        })?;
        for stage in &stages {
            check::same_shape("a stage", &shape, &stage.shape)?;
        }
        Ok(Self {
            shape,
            stages,
            report: None,
        })
    }

    /// The stages, the coarsest first.
    #[must_use]
    pub fn stages(&self) -> &[PqMatrix<F>] {
        &self.stages
    }
}

impl<F: Float> Compressed<F> for ResidualPqMatrix<F> {
    fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The parts of each stage, one stage after the other.
    fn parts(&self) -> Vec<Part<'_>> {
        self.stages.iter().flat_map(Compressed::parts).collect()
    }

    fn storage(&self) -> StorageBits {
        let stages = self.stages.iter().map(Compressed::storage);
        stages.fold(StorageBits::new(), |all, stage| {
            let parts = stage.parts();
            parts.fold(all, |all, (name, role, bits)| all.with(name, role, bits))
        })
    }

    fn decompress_into(&self, mut out: ArrayViewMutD<'_, F>) -> Result<()> {
        check::same_shape("the output", &self.shape, out.shape())?;
        out.fill(F::zero());
        for stage in &self.stages {
            out += &stage.decompress()?;
        }
        Ok(())
    }

    fn report(&self) -> Option<&FitReport> {
        self.report.as_ref()
    }
}

impl<F: Float> Trainable<F> for ResidualPqMatrix<F> {
    /// The parameters of each stage, one stage after the other.
    fn parameters(&self) -> Array1<F> {
        let stages = self.stages.iter().map(Trainable::parameters);
        stages.flatten().collect()
    }

    fn set_parameters(&mut self, parameters: ArrayView1<'_, F>) -> Result<()> {
        let counts = self.stages.iter().map(|stage| stage.parameters().len());
        let counts: Vec<usize> = counts.collect();
        check_parameters(counts.iter().sum(), &parameters)?;
        // On a copy, so that an error of one stage leaves all unchanged.
        let mut stages = self.stages.clone();
        let mut rest = parameters;
        for (stage, count) in stages.iter_mut().zip(counts) {
            let (own, others) = rest.split_at(Axis(0), count);
            stage.set_parameters(own)?;
            rest = others;
        }
        self.stages = stages;
        self.report = None;
        Ok(())
    }

    fn gradient(&self, dense: ArrayViewD<'_, F>) -> Result<Array1<F>> {
        let mut gradient = Vec::new();
        for stage in &self.stages {
            gradient.extend(stage.gradient(dense.view())?);
        }
        Ok(gradient.into())
    }
}

impl<F: Float> LinearOp<F> for ResidualPqMatrix<F> {
    fn apply_into(&self, x: ArrayView2<'_, F>, mut y: ArrayViewMut2<'_, F>) -> Result<()> {
        check_apply(self.shape, &x, &y)?;
        y.fill(F::zero());
        for stage in &self.stages {
            y += &stage.apply(x)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn more_stages_than_any_weights_need_are_an_error() {
        let weights = array![[1.0_f32, 2.0]];
        let quantizer = |stages| ResidualQuantizer::new(ProductQuantizer::new(1), stages);
        for stages in [0, MAX_STAGES + 1, usize::MAX] {
            let found = quantizer(stages).quantize(weights.view());
            assert!(matches!(found, Err(Error::Parameter(_))), "{stages}");
        }
        let most = quantizer(MAX_STAGES).quantize(weights.view());
        assert_eq!(most.unwrap().stages().len(), MAX_STAGES);
    }
}
