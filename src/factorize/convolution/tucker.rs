//! `Tucker2`: the Tucker decomposition of a kernel's channel axes.

use ndarray::{Array2, Array4, ArrayView, Ix4};

use super::inputs::dimensions;
use super::tucker_conv::TuckerConv2d;
use crate::factorize::Rank;
use crate::factorize::cp::{End, leading_vectors, multiply_mode, normalized, unfolding_spectrum};
use crate::observer::ObservedFit;
use crate::{
    Error, Factorizer, FitContext, FitReport, Float, Geometry, Observer, ParamError, Precision,
    Result, Stage, check, power,
};

/// Tucker-2: a kernel becomes a smaller kernel between two 1×1 convolutions.
///
/// $$W\_{o i y x} \approx \sum\_{p, q} U\_{o p} \\, G\_{p q y x} \\, V\_{i q}$$
///
/// V starts as the leading singular vectors of its unfolding, and U as the optimum for this V (Vannieuwenhoven, Vandebril and
/// Meerbergen, "A new truncation strategy for the higher-order singular value decomposition", 2012, doi:10.1137/110836067).
/// Each round then replaces V by the optimum for U and U by the optimum for V (HOOI; De Lathauwer, De Moor and Vandewalle, "On
/// the best rank-1 and rank-(R1, ..., RN) approximation of higher-order tensors", 2000, doi:10.1137/S0895479898346995). Kim et
/// al., "Compression of deep convolutional neural networks for fast and low power mobile applications", ICLR 2016,
/// arXiv:1511.06530, compress networks with it.
///
/// ```
/// use ndarray::Array4;
/// use taper::factorize::convolution::Tucker2;
/// use taper::{Compressed, Factorizer, Geometry};
///
/// let kernel = Array4::from_shape_fn((16, 8, 3, 3), |(o, i, y, x)| ((o + 2 * i) * (y + 3 * x)) as f32);
/// let chain = Tucker2::ranks(2, 2).factorize(kernel.view())?;
/// assert!(chain.report().unwrap().loss().unwrap() < 1e-6);
/// let chain = chain.with_geometry(Geometry { padding: [1, 1], ..Geometry::default() }, None)?;
/// assert_eq!(chain.apply(Array4::ones((1, 8, 5, 5)).view())?.shape(), [1, 16, 5, 5]);
/// # Ok::<(), taper::Error>(())
/// ```
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(deny_unknown_fields))]
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Tucker2 {
    /// The criterion for the numbers of channels of the small kernel.
    pub size: TuckerSize,
    /// The largest number of rounds over both sides.
    #[cfg_attr(
        feature = "model",
        serde(default = "crate::defaults::tucker_iterations")
    )]
    pub max_iterations: usize,
    /// The fit ends when a round lowers the squared error by less than this fraction of it.
    #[cfg_attr(feature = "model", serde(default = "crate::defaults::fit_tolerance"))]
    pub tolerance: f64,
    /// The precision in which the kernels are stored.
    #[cfg_attr(feature = "model", serde(default))]
    pub precision: Precision,
}

#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(rename_all = "snake_case"))]
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
/// The criterion for the numbers of channels of the small kernel of a [`Tucker2`].
pub enum TuckerSize {
    /// The numbers of channels on the output and the input side.
    Ranks(usize, usize),
    /// The smallest numbers of channels that keep this fraction of the energy (the squared norm), in (0, 1]. Each side may lose
    /// half of the rest.
    Energy(f64),
    /// The largest numbers of channels, in the proportion of the kernel's, that make the number of stored values smaller by at
    /// least this factor.
    Ratio(f64),
}

impl Tucker2 {
    /// Creates the decomposition with the numbers of channels that `size` gives.
    #[must_use]
    pub fn new(size: TuckerSize) -> Self {
        Self {
            size,
            max_iterations: crate::defaults::tucker_iterations(),
            tolerance: crate::defaults::fit_tolerance(),
            precision: Precision::F32,
        }
    }

    /// Creates the decomposition with [`TuckerSize::Ranks`]: the numbers of channels on the output and the input side.
    #[must_use]
    pub fn ranks(output: usize, input: usize) -> Tucker2 {
        Self::new(TuckerSize::Ranks(output, input))
    }

    /// Creates the decomposition with [`TuckerSize::Energy`].
    #[must_use]
    pub fn energy(fraction: f64) -> Tucker2 {
        Self::new(TuckerSize::Energy(fraction))
    }

    /// Creates the decomposition with [`TuckerSize::Ratio`].
    #[must_use]
    pub fn ratio(ratio: f64) -> Tucker2 {
        Self::new(TuckerSize::Ratio(ratio))
    }

    fn resolve<F: Float>(&self, values: &[F], shape: [usize; 4]) -> Result<[usize; 2]> {
        let [output, input, height, width] = shape;
        match self.size {
            TuckerSize::Ranks(p, q) => {
                // The unfoldings have no more singular vectors than this.
                let area = height * width;
                let limits = [output.min(input * area), input.min(output * area)];
                for (what, value, limit) in [
                    ("the output rank", p, limits[0].min(q.saturating_mul(area))),
                    ("the input rank", q, limits[1].min(p.saturating_mul(area))),
                ] {
                    if value > limit {
                        return Err(Error::ExceedsInput { what, value, limit });
                    }
                }
                Ok([p, q])
            }
            TuckerSize::Energy(fraction) => {
                let mut ranks = [1, 1];
                for (mode, rank) in ranks.iter_mut().enumerate() {
                    let (energies, _) = unfolding_spectrum(values, &shape, mode)?;
                    let total: f64 = energies.iter().sum();
                    let mut lost = 0.0;
                    // In rising order: the smallest come first.
                    let dropped = energies.iter().take_while(|&&energy| {
                        lost += energy;
                        lost <= 0.5 * (1.0 - fraction) * total
                    });
                    *rank = (shape[mode] - dropped.count()).max(1);
                }
                Ok(limit_each_other(ranks, shape))
            }
            TuckerSize::Ratio(ratio) => {
                let dense: usize = shape.iter().product();
                let stored = |[p, q]: [usize; 2]| p * output + q * input + p * q * height * width;
                let longest = output.max(input);
                let ranks = (1..=longest).rev().map(|k| {
                    let part = |length: usize| (length * k).div_ceil(longest).max(1);
                    limit_each_other([part(output), part(input)], shape)
                });
                let mut ranks = ranks.filter(|&ranks| stored(ranks) as f64 * ratio <= dense as f64);
                ranks.next().ok_or(Error::RatioOutOfReach {
                    ratio,
                    limit: dense as f64 / stored([1, 1]) as f64,
                })
            }
        }
    }
}

/// The largest ranks for which singular vectors exist.
fn limit_each_other([p, q]: [usize; 2], [output, input, height, width]: [usize; 4]) -> [usize; 2] {
    let area = height * width;
    let p = p.min(output).min(q.saturating_mul(area));
    [p, q.min(input).min(p.saturating_mul(area))]
}

/// Both sides, the core between them, and the loss.
struct Fit<F> {
    output: Array2<F>,
    input: Array2<F>,
    core: Vec<F>,
    loss: f64,
}

/// A kernel whose two sides are fitted alternately.
struct Alternation<'a, F> {
    values: &'a [F],
    shape: [usize; 4],
    ranks: [usize; 2],
    squared_norm: f64,
}

impl<F: Float> Alternation<'_, F> {
    /// The start: the HOSVD, truncated first on the input side, then on the output side for this input side.
    fn start(&self) -> Result<Fit<F>> {
        let ([output, _, height, width], [_, q]) = (self.shape, self.ranks);
        let input = leading_vectors(self.values, &self.shape, 1, q)?;
        let (vectors, reduced) = self.output(&input)?;
        let core = multiply_mode(&reduced, &[output, q, height, width], 0, vectors.t());
        Ok(self.fit(vectors, input, core))
    }

    /// The optimal output side for this input side, and the kernel reduced by the input side.
    fn output(&self, input: &Array2<F>) -> Result<(Array2<F>, Vec<F>)> {
        let ([output, _, height, width], [p, q]) = (self.shape, self.ranks);
        let reduced = multiply_mode(self.values, &self.shape, 1, input.t());
        let vectors = leading_vectors(&reduced, &[output, q, height, width], 0, p)?;
        Ok((vectors, reduced))
    }

    /// The optimal input side for this output side.
    fn improve(&self, output: Array2<F>) -> Result<Fit<F>> {
        let ([_, input, height, width], [p, q]) = (self.shape, self.ranks);
        let reduced = multiply_mode(self.values, &self.shape, 0, output.t());
        let small = [p, input, height, width];
        let vectors = leading_vectors(&reduced, &small, 1, q)?;
        let core = multiply_mode(&reduced, &small, 1, vectors.t());
        Ok(self.fit(output, vectors, core))
    }

    /// Adds the loss. For orthonormal sides it is the squared norm of the kernel less that of the core.
    fn fit(&self, output: Array2<F>, input: Array2<F>, core: Vec<F>) -> Fit<F> {
        let held: f64 = core.iter().map(|x| x.as_f64() * x.as_f64()).sum();
        let loss = if self.squared_norm > 0.0 {
            (1.0 - held / self.squared_norm).max(0.0)
        } else {
            0.0
        };
        Fit {
            output,
            input,
            core,
            loss,
        }
    }
}

impl Tucker2 {
    /// Makes rounds until the loss no longer falls.
    fn alternate<F: Float>(
        &self,
        kernel: &Alternation<'_, F>,
        observer: Option<&dyn Observer>,
    ) -> Result<(Fit<F>, FitReport)> {
        let observed = ObservedFit::new(observer, Stage::Tucker, 0, self.max_iterations);
        let mut fit = kernel.start()?;
        let mut losses = vec![fit.loss];
        let mut iterations = 0;
        let end = loop {
            if iterations == self.max_iterations {
                break End::Limit;
            }
            if observed.stops(iterations, fit.loss) {
                break End::Stopped;
            }
            // The output side of the start is already optimal for its input side.
            let output = match iterations {
                0 => fit.output.clone(),
                _ => kernel.output(&fit.input)?.0,
            };
            let next = kernel.improve(output)?;
            if next.loss > fit.loss {
                // The loss rose by rounding: keep the last fit.
                break End::Converged;
            }
            let gained = fit.loss - next.loss;
            let converged = gained <= self.tolerance * fit.loss;
            fit = next;
            iterations += 1;
            losses.push(fit.loss);
            if converged {
                break End::Converged;
            }
        };
        Ok((fit, end.report(iterations, losses)))
    }
}

impl<F: Float> Factorizer<F, Ix4> for Tucker2 {
    type Output = TuckerConv2d<F>;

    fn factorize_with(
        &self,
        weights: ArrayView<'_, F, Ix4>,
        context: FitContext<'_>,
    ) -> Result<TuckerConv2d<F>> {
        self.validate()?;
        context.unused("Tucker2")?;
        check::finite("the kernel", &weights)?;
        let shape = dimensions(weights.dim());
        let (values, exponent) = normalized(&weights);
        let [p, q] = self.resolve(&values, shape)?;
        let kernel = Alternation {
            values: &values,
            shape,
            ranks: [p, q],
            squared_norm: values.iter().map(|x| x.as_f64() * x.as_f64()).sum(),
        };
        let (fit, report) = self.alternate(&kernel, context.observer)?;
        let Fit {
            output,
            input,
            core,
            ..
        } = fit;
        let core = core
            .into_iter()
            .map(|x| power::times(x, exponent))
            .collect();
        let core = Array4::from_shape_vec((p, q, shape[2], shape[3]), core)
            .expect("a core has p · q · height · width values");
        let reduce = input.reversed_axes();
        TuckerConv2d::build(
            reduce,
            core,
            output,
            None,
            Geometry::default(),
            self.precision,
            report,
        )
    }
}

impl Tucker2 {
    /// Sets the largest number of rounds over both sides; 30 unless set. Zero keeps the start.
    #[must_use]
    pub fn max_iterations(mut self, iterations: usize) -> Self {
        self.max_iterations = iterations;
        self
    }

    /// Sets the fraction of the squared error below which the gain of a round ends the fit, in [0, 1); 10⁻⁶ unless set.
    #[must_use]
    pub fn tolerance(mut self, tolerance: f64) -> Self {
        self.tolerance = tolerance;
        self
    }

    /// Sets the precision in which the kernels are stored; single unless set.
    #[must_use]
    pub fn precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// Checks the parameters. Every call that uses them checks them too.
    ///
    /// # Errors
    ///
    /// The first parameter that is wrong for every input.
    pub fn validate(&self) -> Result<(), ParamError> {
        check::tolerance(self.tolerance)?;
        match self.size {
            TuckerSize::Ranks(output, input) => {
                check::at_least_one("the output rank", output)?;
                check::at_least_one("the input rank", input)?;
            }
            TuckerSize::Energy(fraction) => Rank::Energy(fraction).check()?,
            TuckerSize::Ratio(ratio) => Rank::Ratio(ratio).check()?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
