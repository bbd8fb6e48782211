//! Tucker decomposition of a kernel's two channel axes.

use ndarray::{Array2, Array4, ArrayView, Ix4};

use super::geometry::{Geometry, dimensions};
use super::tucker_conv::TuckerConv2d;
use crate::factorize::Rank;
use crate::factorize::cp::{leading_vectors, multiply_mode, standard, unfolding_spectrum};
use crate::{
    Error, Factorizer, FitReport, Float, InputMoments, ParamError, ParamGuard, Precision, Result,
    check, moments,
};

/// Tucker-2: a kernel as a smaller kernel between two 1×1 convolutions.
///
/// $$W\_{o i y x} \approx \sum\_{p, q} U\_{o p} \\, G\_{p q y x} \\, V\_{i q}$$
///
/// U and V start as the leading singular vectors of the two unfoldings and are improved in turns, each being
/// optimal for the other (HOOI; De Lathauwer, De Moor and Vandewalle, "On the best rank-1 and rank-(R1, ..., RN)
/// approximation of higher-order tensors", 2000, doi:10.1137/S0895479898346995). Kim et al., "Compression of deep
/// convolutional neural networks for fast and low power mobile applications", ICLR 2016, arXiv:1511.06530, is
/// where networks are made small with it.
///
/// ```
/// use ndarray::Array4;
/// use taper::factorize::convolution::{Geometry, Tucker2};
/// use taper::{Compressed, Factorizer};
///
/// let kernel = Array4::from_shape_fn((16, 8, 3, 3), |(o, i, y, x)| ((o + 2 * i) * (y + 3 * x)) as f32);
/// let chain = Tucker2::ranks(2, 2).factorize(kernel.view())?;
/// assert!(chain.report().unwrap().loss().unwrap() < 1e-6);
/// let chain = chain.with_geometry(Geometry { stride: [1, 1], padding: [1, 1] }, None)?;
/// assert_eq!(chain.apply(Array4::ones((1, 8, 5, 5)).view())?.shape(), [1, 16, 5, 5]);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Tucker2 {
    size: Size,
    max_iterations: usize,
    tolerance: f64,
    precision: Precision,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Size {
    Ranks(usize, usize),
    Energy(f64),
    Ratio(f64),
}

/// Parameters of [`Tucker2`].
///
/// ```
/// use taper::Factorizer;
/// use taper::factorize::convolution::Tucker2;
/// use taper::ndarray::Array4;
///
/// let kernel = Array4::from_shape_fn((16, 8, 3, 3), |(o, i, y, x)| ((o + 2 * i) * (y + 3 * x)) as f64);
/// let chain = Tucker2::ratio(4.0).max_iterations(5).tolerance(1e-6).factorize(kernel.view())?;
/// let links = chain.links(); // 1×1, 3×3 and 1×1 kernels
/// assert_eq!(links.len(), 3);
/// assert_eq!(links[1].shape()[..2], chain.ranks());
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Tucker2Params(Tucker2);

impl Tucker2 {
    fn sized(size: Size) -> Tucker2Params {
        Tucker2Params(Self {
            size,
            max_iterations: 30,
            tolerance: 1e-6,
            precision: Precision::F32,
        })
    }

    /// Parameters for given numbers of channels on the output and the input side of the small kernel.
    #[must_use]
    pub fn ranks(output: usize, input: usize) -> Tucker2Params {
        Self::sized(Size::Ranks(output, input))
    }

    /// Parameters for the smallest numbers of channels that leave on each side at most half of the energy (the
    /// squared norm) that may be lost, so that at least `fraction` of it is kept together.
    #[must_use]
    pub fn energy(fraction: f64) -> Tucker2Params {
        Self::sized(Size::Energy(fraction))
    }

    /// Parameters for the largest numbers of channels, in the proportion of the kernel's, that make the number of
    /// stored values smaller by at least `ratio`.
    #[must_use]
    pub fn ratio(ratio: f64) -> Tucker2Params {
        Self::sized(Size::Ratio(ratio))
    }

    fn resolve<F: Float>(&self, values: &[F], shape: [usize; 4]) -> Result<[usize; 2]> {
        let [output, input, height, width] = shape;
        match self.size {
            Size::Ranks(p, q) => {
                // Beyond these the unfoldings have no further singular vectors.
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
            Size::Energy(fraction) => {
                let mut ranks = [1, 1];
                for (mode, rank) in ranks.iter_mut().enumerate() {
                    let (energies, _) = unfolding_spectrum(values, &shape, mode)?;
                    let total: f64 = energies.iter().sum();
                    let mut lost = 0.0;
                    // Rising: the smallest go first.
                    let dropped = energies.iter().take_while(|&&energy| {
                        lost += energy;
                        lost <= 0.5 * (1.0 - fraction) * total
                    });
                    *rank = (shape[mode] - dropped.count()).max(1);
                }
                Ok(limit_each_other(ranks, shape))
            }
            Size::Ratio(ratio) => {
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

/// Ranks that singular vectors exist for.
fn limit_each_other([p, q]: [usize; 2], [output, input, height, width]: [usize; 4]) -> [usize; 2] {
    let area = height * width;
    let p = p.min(output).min(q.saturating_mul(area));
    [p, q.min(input).min(p.saturating_mul(area))]
}

/// Loss, output and input side, and core.
type Round<F> = (f64, Array2<F>, Array2<F>, Vec<F>);

impl<F: Float> Factorizer<F, Ix4> for Tucker2 {
    type Output = TuckerConv2d<F>;

    fn factorize_with(
        &self,
        weights: ArrayView<'_, F, Ix4>,
        inputs: Option<&InputMoments>,
    ) -> Result<TuckerConv2d<F>> {
        moments::unused("Tucker2", inputs)?;
        check::finite("the kernel", &weights)?;
        let shape = dimensions(weights.dim());
        let values = standard(&weights);
        let largest = values.iter().fold(F::zero(), |max, x| max.max(x.abs()));
        // Scaled to at most one, so that no square leaves the range of the type.
        let scale = if largest > F::zero() {
            largest
        } else {
            F::one()
        };
        let values: Vec<F> = values.iter().map(|&x| x / scale).collect();
        let [p, q] = self.resolve(&values, shape)?;
        let total: f64 = values.iter().map(|x| x.as_f64() * x.as_f64()).sum();

        let mut report = FitReport::default();
        let mut input = leading_vectors(&values, &shape, 1, q)?;
        let mut best: Option<Round<F>> = None;
        while report.iterations < self.max_iterations.max(1) {
            let reduced = multiply_mode(&values, &shape, 1, input.t());
            let output = leading_vectors(&reduced, &[shape[0], q, shape[2], shape[3]], 0, p)?;
            let reduced = multiply_mode(&values, &shape, 0, output.t());
            let small = [p, shape[1], shape[2], shape[3]];
            input = leading_vectors(&reduced, &small, 1, q)?;
            let core = multiply_mode(&reduced, &small, 1, input.t());
            let held: f64 = core.iter().map(|x| x.as_f64() * x.as_f64()).sum();
            let loss = if total > 0.0 {
                (1.0 - held / total).max(0.0)
            } else {
                0.0
            };
            report.iterations += 1;
            let before = best.as_ref().map(|(loss, ..)| *loss);
            if before.is_some_and(|before| loss > before) {
                // By rounding: the last one stays.
                report.converged = true;
                break;
            }
            report.losses.push(loss);
            best = Some((loss, output, input.clone(), core));
            if before.is_some_and(|before| before - loss <= self.tolerance * before) {
                report.converged = true;
                break;
            }
        }
        let Some((_, output, input, core)) = best else {
            return Err(Error::Overflow {
                what: "the norm of the kernel",
            });
        };
        let core = core.into_iter().map(|x| x * scale).collect();
        let core = Array4::from_shape_vec((p, q, shape[2], shape[3]), core).map_err(|_| {
            Error::Overflow {
                what: "the size of the core",
            }
        })?;
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

impl Tucker2Params {
    /// Rounds over both sides at most; 30 unless set.
    #[must_use]
    pub fn max_iterations(mut self, iterations: usize) -> Self {
        self.0.max_iterations = iterations;
        self
    }

    /// The fit ends where a round lowers the squared error by less than this share of itself; 10⁻⁶ unless set.
    #[must_use]
    pub fn tolerance(mut self, tolerance: f64) -> Self {
        self.0.tolerance = tolerance;
        self
    }

    /// In which precision the links are stored; single unless set.
    #[must_use]
    pub fn precision(mut self, precision: Precision) -> Self {
        self.0.precision = precision;
        self
    }
}

impl ParamGuard for Tucker2Params {
    type Checked = Tucker2;

    fn check_ref(&self) -> Result<&Tucker2, ParamError> {
        check::tolerance(self.0.tolerance)?;
        match self.0.size {
            Size::Ranks(output, input) => {
                check::at_least_one("the output rank", output)?;
                check::at_least_one("the input rank", input)?;
            }
            Size::Energy(fraction) => Rank::Energy(fraction).check()?,
            Size::Ratio(ratio) => Rank::Ratio(ratio).check()?,
        }
        Ok(&self.0)
    }

    fn check(self) -> Result<Tucker2, ParamError> {
        self.check_ref()?;
        Ok(self.0)
    }
}

#[cfg(test)]
#[path = "tucker_tests.rs"]
mod tests;
