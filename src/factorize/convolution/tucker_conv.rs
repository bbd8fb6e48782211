//! `TuckerConv2d`: the chain of convolutions of a Tucker decomposition.

use ndarray::{Array1, Array2, Array4, ArrayView4, ArrayViewMutD, Axis, s};

use super::dense::{for_each_image, matrix, patches};
use super::inputs::{check_bias, check_image};
use crate::factorize::cp::{multiply_mode, standard};
use crate::{
    Compressed, Error, FitReport, Float, Geometry, Part, Precision, Result, Role, StorageBits,
    check, linalg,
};

/// A convolution as a chain of three smaller ones: 1×1 (in_channels to q), k×k (q to p), 1×1 (p to out_channels).
///
/// The geometry belongs to the middle link, the bias to the last. The losses of the [report](Compressed::report) are the
/// squared errors divided by the squared norm of the kernel, at the start and after each round.
///
/// The [module](super) has an example.
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
    pub(super) fn build(
        mut reduce: Array2<F>,
        mut core: Array4<F>,
        mut expand: Array2<F>,
        bias: Option<Array1<F>>,
        geometry: Geometry,
        precision: Precision,
        report: FitReport,
    ) -> Result<Self> {
        let what = "a link of a Tucker convolution";
        precision.round_tensor(what, &mut reduce)?;
        precision.round_tensor(what, &mut core)?;
        precision.round_tensor(what, &mut expand)?;
        let [p, q] = [core.shape()[0], core.shape()[1]];
        let links = [
            check::largest(&reduce),
            check::largest(&core),
            check::largest(&expand),
        ];
        check::product_in_range("the product of the links", p.saturating_mul(q), links)?;
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

    /// Sets the geometry and the bias.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] for a stride or a dilation of zero, [`Error::ShapeMismatch`] and [`Error::NonFinite`] for the bias.
    pub fn with_geometry(mut self, geometry: Geometry, bias: Option<Array1<F>>) -> Result<Self> {
        geometry.check()?;
        check_bias(bias.as_ref(), self.shape[0])?;
        self.geometry = geometry;
        self.bias = bias;
        Ok(self)
    }

    /// Creates a chain from its [`links`](Self::links).
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] for links that do not fit together or values that are not finite, [`Error::Overflow`] for values
    /// out of the range of `precision`, and those of [`with_geometry`](Self::with_geometry).
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

    /// The numbers of channels p and q on the output and the input side of the small kernel.
    #[must_use]
    pub fn ranks(&self) -> [usize; 2] {
        [self.expand.ncols(), self.reduce.nrows()]
    }

    /// The bias of the last link.
    #[must_use]
    pub fn bias(&self) -> Option<&Array1<F>> {
        self.bias.as_ref()
    }

    /// The geometry of the whole chain.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Convolves images (batch, in_channels, height, width) with one link after the other.
    ///
    /// # Errors
    ///
    /// Those of [`conv2d`](super::conv2d()).
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
            let patches = patches(image, &reduced, q, kernel, self.geometry);
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
    /// The shape of the kernel, (out_channels, in_channels, height, width). Sizes do not include the bias.
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
