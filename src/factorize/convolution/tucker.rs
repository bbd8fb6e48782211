//! Tucker decomposition of a kernel's two channel axes, and the chain that it is.

use ndarray::{Array1, Array2, Array4, ArrayView, ArrayView4, ArrayViewMutD, Axis, Ix4, s};

use super::dense::{for_each_image, matrix, patches};
use super::geometry::{Geometry, check_image, dimensions};
use crate::factorize::cp::{leading_vectors, multiply_mode, standard, unfolding_spectrum};
use crate::{
    Compressed, Error, Factorizer, FitReport, Float, InputMoments, ParamError, ParamGuard, Part,
    Precision, Result, Role, StorageBits, check, linalg, moments,
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
        let tolerance = self.0.tolerance;
        check::in_range(
            "tolerance",
            tolerance,
            "in [0, 1)",
            (0.0..1.0).contains(&tolerance),
        )?;
        match self.0.size {
            Size::Ranks(output, input) => {
                check::at_least_one("the output rank", output)?;
                check::at_least_one("the input rank", input)?;
            }
            Size::Energy(e) => check::in_range(
                "the fraction of the energy",
                e,
                "in (0, 1]",
                e > 0.0 && e <= 1.0,
            )?,
            Size::Ratio(r) => check::in_range(
                "the compression ratio",
                r,
                "positive and finite",
                r > 0.0 && r.is_finite(),
            )?,
        }
        Ok(&self.0)
    }

    fn check(self) -> Result<Tucker2, ParamError> {
        self.check_ref()?;
        Ok(self.0)
    }
}

/// A convolution as three: 1×1 (in_channels to q), k×k (q to p), 1×1 (p to out_channels).
///
/// Stride and padding belong to the link in the middle, the bias to the last. The losses of the
/// [report](Compressed::report) are squared errors over the squared norm of the kernel, after each round.
#[derive(Debug, Clone, PartialEq)]
pub struct TuckerConv2d<F: Float> {
    shape: Vec<usize>,
    reduce: Array2<F>,
    core: Array4<F>,
    expand: Array2<F>,
    bias: Option<Array1<F>>,
    geometry: Geometry,
    precision: Precision,
    report: FitReport,
}

impl<F: Float> TuckerConv2d<F> {
    fn build(
        mut reduce: Array2<F>,
        mut core: Array4<F>,
        mut expand: Array2<F>,
        bias: Option<Array1<F>>,
        geometry: Geometry,
        precision: Precision,
        report: FitReport,
    ) -> Result<Self> {
        for value in reduce
            .iter_mut()
            .chain(core.iter_mut())
            .chain(expand.iter_mut())
        {
            *value = precision.round("a link of a Tucker convolution", *value)?;
        }
        let shape = vec![
            expand.nrows(),
            reduce.ncols(),
            core.shape()[2],
            core.shape()[3],
        ];
        let chain = Self {
            shape,
            reduce: reduce.as_standard_layout().into_owned(),
            core: core.as_standard_layout().into_owned(),
            expand: expand.as_standard_layout().into_owned(),
            bias: None,
            geometry: Geometry::default(),
            precision,
            report,
        };
        chain.with_geometry(geometry, bias)
    }

    /// The same links with another stride, padding and bias.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] for a stride of zero, [`Error::ShapeMismatch`] and [`Error::NonFinite`] for the bias.
    pub fn with_geometry(mut self, geometry: Geometry, bias: Option<Array1<F>>) -> Result<Self> {
        geometry.check()?;
        if let Some(bias) = &bias {
            check::same_shape("the bias", &[self.shape[0]], bias.shape())?;
            check::finite("the bias", &bias.view())?;
        }
        self.geometry = geometry;
        self.bias = bias;
        Ok(self)
    }

    /// A chain from its links as [`links`](Self::links) gives them.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] for links that do not fit together or values that are not finite, and those of
    /// [`with_geometry`](Self::with_geometry); [`Error::Overflow`] for values beyond the range of `precision`.
    pub fn from_parts(
        links: &[Array4<F>],
        bias: Option<Array1<F>>,
        geometry: Geometry,
        precision: Precision,
    ) -> Result<Self> {
        let plain = |link: &Array4<F>| link.slice(s![.., .., 0, 0]).to_owned();
        match links {
            [reduce, core, expand]
                if links
                    .iter()
                    .all(|link| !link.is_empty() && link.iter().all(|x| x.is_finite()))
                    && reduce.shape()[2..] == [1, 1]
                    && expand.shape()[2..] == [1, 1]
                    && core.shape()[..2] == [expand.shape()[1], reduce.shape()[0]] =>
            {
                let report = FitReport::default();
                Self::build(
                    plain(reduce),
                    core.clone(),
                    plain(expand),
                    bias,
                    geometry,
                    precision,
                    report,
                )
            }
            _ => Err(Error::Malformed {
                artifact: "TuckerConv2d",
                problem: format!(
                    "links of shapes {:?}",
                    links
                        .iter()
                        .map(|link| link.shape().to_vec())
                        .collect::<Vec<_>>()
                ),
            }),
        }
    }

    /// The weights of the links: (q, in_channels, 1, 1), (p, q, height, width), (out_channels, p, 1, 1).
    #[must_use]
    pub fn links(&self) -> Vec<Array4<F>> {
        let plain = |link: &Array2<F>| link.clone().insert_axis(Axis(2)).insert_axis(Axis(3));
        vec![plain(&self.reduce), self.core.clone(), plain(&self.expand)]
    }

    /// p and q, the channels on the output and the input side of the small kernel.
    #[must_use]
    pub fn ranks(&self) -> [usize; 2] {
        [self.expand.ncols(), self.reduce.nrows()]
    }

    /// What the last link adds.
    #[must_use]
    pub fn bias(&self) -> Option<&Array1<F>> {
        self.bias.as_ref()
    }

    /// Stride and padding of the whole chain.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The convolution of images (batch, in_channels, height, width), link after link.
    ///
    /// # Errors
    ///
    /// As [`conv2d`](super::conv2d()).
    pub fn apply(&self, x: ArrayView4<'_, F>) -> Result<Array4<F>> {
        let bias = self.bias.as_ref().map(|bias| bias.view());
        check_image(&x, self.shape[1], bias.as_ref(), self.shape[0])?;
        let kernel = [self.shape[2], self.shape[3]];
        let [p, q] = self.ranks();
        let core = standard(&self.core.view()).into_owned();
        for_each_image(x, self.shape[0], kernel, self.geometry, bias, |image| {
            let pixels = matrix(image.values, self.shape[1]);
            let reduced = linalg::product(self.reduce.view(), pixels)
                .into_raw_vec_and_offset()
                .0;
            let patches = patches(&reduced, image.size, kernel, self.geometry, image.output);
            let patches = matrix(&patches, q * kernel[0] * kernel[1]);
            let mixed = linalg::product(matrix(&core, p), patches);
            linalg::product(self.expand.view(), mixed.view())
                .into_raw_vec_and_offset()
                .0
        })
    }
}

const NAMES: [&str; 3] = ["reduce", "core", "expand"];

impl<F: Float> Compressed<F> for TuckerConv2d<F> {
    /// That of the kernel, (out_channels, in_channels, height, width); the bias is counted nowhere.
    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn parts(&self) -> Vec<Part<'_>> {
        let parts = NAMES.iter().zip(self.links()).map(|(&name, link)| Part {
            name,
            dtype: self.precision.dtype(),
            shape: link.shape().to_vec(),
            role: Role::Payload,
            bytes: self.precision.encode(link).into(),
        });
        parts.collect()
    }

    fn storage(&self) -> StorageBits {
        let sizes = [self.reduce.len(), self.core.len(), self.expand.len()];
        NAMES
            .iter()
            .zip(sizes)
            .fold(StorageBits::new(), |size, (&name, count)| {
                size.with(name, Role::Payload, count as u64 * self.precision.bits())
            })
    }

    fn decompress_into(&self, mut out: ArrayViewMutD<'_, F>) -> Result<()> {
        check::same_shape("the output", &self.shape, out.shape())?;
        let [p, q] = self.ranks();
        let (height, width) = (self.shape[2], self.shape[3]);
        let core: Vec<F> = self.core.iter().copied().collect();
        let values = multiply_mode(&core, &[p, q, height, width], 0, self.expand.view());
        let shape = [self.shape[0], q, height, width];
        let values = multiply_mode(&values, &shape, 1, self.reduce.t());
        for (to, from) in out.iter_mut().zip(values) {
            *to = from;
        }
        Ok(())
    }

    fn report(&self) -> Option<&FitReport> {
        (!self.report.losses.is_empty()).then_some(&self.report)
    }
}

#[cfg(test)]
mod tests {
    use super::super::conv2d;
    use super::super::dense::tests::random;
    use super::*;

    fn error(kernel: &Array4<f64>, chain: &TuckerConv2d<f64>) -> f64 {
        let rebuilt = chain.decompress().unwrap();
        let error: f64 = kernel
            .iter()
            .zip(&rebuilt)
            .map(|(a, b)| (a - b).powi(2))
            .sum();
        error / kernel.iter().map(|x| x * x).sum::<f64>()
    }

    #[test]
    fn the_loss_is_the_error_and_never_rises() {
        let kernel = random([8, 6, 3, 3], 1);
        let params = Tucker2::ranks(4, 3).precision(Precision::F64);
        let chain = params.factorize(kernel.view()).unwrap();
        let report = chain.report().unwrap();
        assert!(report.losses.len() > 1);
        assert!(report.losses.windows(2).all(|pair| pair[1] <= pair[0]));
        let bound = 64.0 * f64::EPSILON * (kernel.len() as f64).sqrt();
        assert!((error(&kernel, &chain) - report.loss().unwrap()).abs() < bound);
        let whole = Tucker2::ranks(8, 6)
            .precision(Precision::F64)
            .factorize(kernel.view())
            .unwrap();
        assert!(error(&kernel, &whole) < bound * bound);
    }

    #[test]
    fn chains_are_the_convolution_with_the_rebuilt_kernel() {
        let kernel = random([5, 4, 3, 2], 1);
        let x = random([2, 4, 7, 6], 2);
        let params = Tucker2::ranks(3, 2).precision(Precision::F64);
        let geometry = Geometry {
            stride: [2, 1],
            padding: [1, 2],
        };
        let bias = Array1::linspace(-1.0, 1.0, 5);
        let chain = params
            .factorize(kernel.view())
            .unwrap()
            .with_geometry(geometry, Some(bias.clone()))
            .unwrap();
        let rebuilt = chain
            .decompress()
            .unwrap()
            .into_dimensionality::<Ix4>()
            .unwrap();
        let expected = conv2d(x.view(), rebuilt.view(), Some(bias.view()), geometry).unwrap();
        let y = chain.apply(x.view()).unwrap();
        for (a, b) in y.iter().zip(&expected) {
            assert!((a - b).abs() <= 1024.0 * f64::EPSILON * (1.0 + b.abs()));
        }
        let bytes: usize = chain.parts().iter().map(|part| part.bytes.len()).sum();
        assert_eq!(chain.storage().bytes(), bytes as u64);
        let again =
            TuckerConv2d::from_parts(&chain.links(), Some(bias), geometry, Precision::F64).unwrap();
        assert_eq!(again.links(), chain.links());
        assert_eq!(again.apply(x.view()).unwrap(), y);
        let mut links = chain.links();
        links.swap(0, 2);
        assert!(TuckerConv2d::from_parts(&links, None, geometry, Precision::F64).is_err());
    }

    #[test]
    fn ranks_follow_from_an_energy_or_a_ratio() {
        let kernel = random([12, 10, 3, 3], 1);
        for fraction in [0.3, 0.7, 0.95, 1.0] {
            let params = Tucker2::energy(fraction).precision(Precision::F64);
            let chain = params.factorize(kernel.view()).unwrap();
            assert!(1.0 - error(&kernel, &chain) >= fraction - 1e-12);
        }
        for ratio in [1.0, 2.0, 8.0] {
            let chain = Tucker2::ratio(ratio)
                .precision(Precision::F64)
                .factorize(kernel.view())
                .unwrap();
            assert!(chain.ratio() >= ratio, "{} for {ratio}", chain.ratio());
        }
        assert!(matches!(
            Tucker2::ratio(1e6).factorize(kernel.view()),
            Err(Error::RatioOutOfReach { .. })
        ));
    }

    #[test]
    fn what_cannot_be_is_an_error() {
        let mut kernel = random([4, 3, 1, 1], 1);
        assert!(Tucker2::ranks(0, 1).check().is_err());
        assert!(Tucker2::energy(0.0).check().is_err());
        assert!(Tucker2::ratio(f64::NAN).check().is_err());
        assert!(matches!(
            Tucker2::ranks(4, 3).factorize(kernel.view()),
            Err(Error::ExceedsInput {
                value: 4,
                limit: 3,
                ..
            })
        ));
        let zero = Tucker2::ranks(2, 2)
            .factorize(Array4::<f64>::zeros((4, 3, 3, 3)).view())
            .unwrap();
        assert!(zero.decompress().unwrap().iter().all(|&x| x == 0.0));
        kernel[[1, 2, 0, 0]] = f64::INFINITY;
        assert!(matches!(
            Tucker2::ranks(1, 1).factorize(kernel.view()),
            Err(Error::NonFinite { .. })
        ));
    }
}
