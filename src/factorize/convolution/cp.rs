//! `CpConv2d`: the chain of convolutions of a CP decomposition.

use ndarray::{Array1, Array2, Array4, ArrayView4, ArrayViewMutD};

use super::dense::{for_each_image, matrix};
use super::inputs::{check_bias, check_image};
use crate::factorize::cp::CpTensor;
use crate::kernels::{Level, hadamard};
use crate::{
    Compressed, Error, Float, Geometry, Part, Precision, Result, Role, StorageBits, check, linalg,
};

/// A convolution as a chain of four smaller ones: 1×1 (in_channels to R), k×1 and 1×k depthwise, 1×1 (R to out_channels); or of
/// three, with one k×k depthwise convolution in the middle.
///
/// Lebedev et al., "Speeding-up convolutional neural networks using fine-tuned CP-decomposition", ICLR 2015,
/// arXiv:1412.6553. The vertical geometry belongs to the k×1 link, the horizontal one to the 1×k link, and the bias
/// to the last link.
///
/// ```
/// use ndarray::Array4;
/// use taper::factorize::convolution::{conv2d, CpConv2d};
/// use taper::factorize::{Rank, cp::CpAls};
/// use taper::{Compressed, Factorizer, Geometry};
///
/// // A kernel of rank two, 16 outputs and 8 inputs.
/// let kernel = Array4::from_shape_fn((16, 8, 3, 3), |(o, i, y, x)| {
///     let (o, i, y, x) = (o as f32, i as f32, y as f32, x as f32);
///     (1.0 + o) * (1.0 - i) * (1.0 + y) * x + o * i * (1.0 - y)
/// });
/// let fit = CpAls::new(Rank::Fixed(2)).factorize(kernel.view())?;
/// let geometry = Geometry { padding: [1, 1], ..Geometry::default() };
/// let chain = CpConv2d::new(&fit, None, geometry)?;
/// assert_eq!(chain.links()[1].shape(), [2, 1, 3, 1]);
/// assert!(chain.ratio() > 19.0);
///
/// let images = Array4::ones((1, 8, 5, 5));
/// let (y, dense) = (chain.apply(images.view())?, conv2d(images.view(), kernel.view(), None, geometry)?);
/// assert!(y.iter().zip(&dense).all(|(a, b)| (a - b).abs() < 0.05));
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct CpConv2d<F: Float> {
    shape: Vec<usize>,
    /// (R, in_channels).
    reduce: Array2<F>,
    /// The depthwise links, each (taps, R).
    depthwise: Depthwise<F>,
    /// (out_channels, R).
    expand: Array2<F>,
    bias: Option<Array1<F>>,
    geometry: Geometry,
    precision: Precision,
}

#[derive(Debug, Clone, PartialEq)]
enum Depthwise<F> {
    Separable {
        vertical: Array2<F>,
        horizontal: Array2<F>,
    },
    Square {
        taps: Array2<F>,
    },
}

const NAMES: [&str; 4] = ["reduce", "vertical", "horizontal", "expand"];
const SQUARE_NAMES: [&str; 3] = ["reduce", "depthwise", "expand"];

impl<F: Float> CpConv2d<F> {
    /// Creates the chain of four links from a decomposed kernel (out_channels, in_channels, height, width) and a bias of length
    /// out_channels.
    ///
    /// The weights of the terms are distributed evenly over the links, up to a factor of two.
    ///
    /// # Errors
    ///
    /// [`Error::Dimensions`] for a kernel without four axes, [`Error::ShapeMismatch`] and [`Error::NonFinite`] for the bias,
    /// [`Error::Parameter`] for a stride or a dilation of zero.
    pub fn new(kernel: &CpTensor<F>, bias: Option<Array1<F>>, geometry: Geometry) -> Result<Self> {
        let [output, input, vertical, horizontal] = kernel.factors() else {
            return Err(axes("four axes", kernel));
        };
        let shares = kernel.shares(4);
        Self::build(
            (output * &shares[0], input * &shares[1]),
            Depthwise::Separable {
                vertical: vertical * &shares[2],
                horizontal: horizontal * &shares[3],
            },
            [vertical.nrows(), horizontal.nrows()],
            bias,
            geometry,
            kernel.precision(),
        )
    }

    /// Creates the chain of three links, with a k×k depthwise convolution in the middle.
    ///
    /// The decomposed kernel has the shape (out_channels, in_channels, height · width), or four axes, of which the last two
    /// factors are joined. `size` is height and width.
    ///
    /// # Errors
    ///
    /// Those of [`new`](Self::new), and [`Error::ShapeMismatch`] for a `size` that does not fit the kernel.
    pub fn square(
        kernel: &CpTensor<F>,
        size: [usize; 2],
        bias: Option<Array1<F>>,
        geometry: Geometry,
    ) -> Result<Self> {
        let (output, input, taps) = match kernel.factors() {
            [output, input, taps] => {
                let needed = size[0].checked_mul(size[1]).ok_or(Error::Overflow {
                    what: "the size of the kernel",
                })?;
                check::same_shape("the taps of the kernel", &[needed], &[taps.nrows()])?;
                (output, input, taps.clone())
            }
            [output, input, vertical, horizontal] => {
                let found = [vertical.nrows(), horizontal.nrows()];
                check::same_shape("the size of the kernel", &size, &found)?;
                let taps = Array2::from_shape_fn((size[0] * size[1], kernel.rank()), |(tap, r)| {
                    vertical[[tap / size[1], r]] * horizontal[[tap % size[1], r]]
                });
                (output, input, taps)
            }
            _ => return Err(axes("three or four axes", kernel)),
        };
        let shares = kernel.shares(3);
        let depthwise = Depthwise::Square {
            taps: taps * &shares[2],
        };
        let ends = (output * &shares[0], input * &shares[1]);
        Self::build(ends, depthwise, size, bias, geometry, kernel.precision())
    }

    fn build(
        (expand, input): (Array2<F>, Array2<F>),
        depthwise: Depthwise<F>,
        size: [usize; 2],
        bias: Option<Array1<F>>,
        geometry: Geometry,
        precision: Precision,
    ) -> Result<Self> {
        geometry.check()?;
        check_bias(bias.as_ref(), expand.nrows())?;
        let round = |mut link: Array2<F>| -> Result<Array2<F>> {
            precision.round_tensor("a link of a CP convolution", &mut link)?;
            Ok(link)
        };
        let depthwise = match depthwise {
            Depthwise::Separable {
                vertical,
                horizontal,
            } => Depthwise::Separable {
                vertical: round(vertical)?,
                horizontal: round(horizontal)?,
            },
            Depthwise::Square { taps } => Depthwise::Square { taps: round(taps)? },
        };
        let middle = match &depthwise {
            Depthwise::Separable {
                vertical,
                horizontal,
            } => [check::largest(vertical), check::largest(horizontal)],
            Depthwise::Square { taps } => [check::largest(taps), F::one()],
        };
        let ends = [check::largest(&expand), check::largest(&input)];
        let links = middle.into_iter().chain(ends);
        check::product_in_range("the product of the links", expand.ncols(), links)?;
        Ok(Self {
            shape: vec![expand.nrows(), input.nrows(), size[0], size[1]],
            reduce: round(input.reversed_axes())?
                .as_standard_layout()
                .into_owned(),
            depthwise,
            expand: round(expand)?,
            bias,
            geometry,
            precision,
        })
    }

    /// Creates a chain from its [`links`](Self::links), for example after fine-tuning: four of shapes (R, in_channels, 1, 1),
    /// (R, 1, height, 1), (R, 1, 1, width) and (out_channels, R, 1, 1), or three with (R, 1, height, width) in the middle.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] for links of other shapes or values that are not finite; [`Error::ShapeMismatch`] and
    /// [`Error::NonFinite`] for the bias, [`Error::Parameter`] for a stride or a dilation of zero, [`Error::Overflow`] for
    /// values beyond the range of `precision`.
    pub fn from_parts(
        links: &[Array4<F>],
        bias: Option<Array1<F>>,
        geometry: Geometry,
        precision: Precision,
    ) -> Result<Self> {
        let malformed = || Error::Malformed {
            artifact: "CpConv2d",
            problem: format!(
                "links of shapes {:?}",
                links
                    .iter()
                    .map(|link| link.shape().to_vec())
                    .collect::<Vec<_>>()
            ),
        };
        let (Some(reduce), Some(expand)) = (links.first(), links.last()) else {
            return Err(malformed());
        };
        let terms = reduce.shape()[0];
        // (R, 1, h, w) to (h · w, R), and (a, b, 1, 1) to (a, b).
        let taps = |link: &Array4<F>| {
            Array2::from_shape_fn((link.len() / terms, terms), |(tap, r)| {
                link[[r, 0, tap / link.shape()[3], tap % link.shape()[3]]]
            })
        };
        let plain = |link: &Array4<F>| {
            Array2::from_shape_fn((link.shape()[0], link.shape()[1]), |(i, j)| {
                link[[i, j, 0, 0]]
            })
        };
        let fits = terms > 0
            && links
                .iter()
                .all(|link| !link.is_empty() && link.iter().all(|x| x.is_finite()))
            && reduce.shape()[2..] == [1, 1]
            && expand.shape()[1..] == [terms, 1, 1];
        let ends = || (plain(expand), plain(reduce).reversed_axes());
        match links {
            [_, vertical, horizontal, _]
                if fits
                    && vertical.shape() == [terms, 1, vertical.shape()[2], 1]
                    && horizontal.shape() == [terms, 1, 1, horizontal.shape()[3]] =>
            {
                let size = [vertical.shape()[2], horizontal.shape()[3]];
                let depthwise = Depthwise::Separable {
                    vertical: taps(vertical),
                    horizontal: taps(horizontal),
                };
                Self::build(ends(), depthwise, size, bias, geometry, precision)
            }
            [_, square, _] if fits && square.shape()[..2] == [terms, 1] => {
                let size = [square.shape()[2], square.shape()[3]];
                let depthwise = Depthwise::Square { taps: taps(square) };
                Self::build(ends(), depthwise, size, bias, geometry, precision)
            }
            _ => Err(malformed()),
        }
    }

    /// The weights of the links in order and in the layout of the frameworks: depthwise ones have one input channel per group.
    #[must_use]
    pub fn links(&self) -> Vec<Array4<F>> {
        let plain = |link: &Array2<F>| {
            Array4::from_shape_fn((link.nrows(), link.ncols(), 1, 1), |(i, j, _, _)| {
                link[[i, j]]
            })
        };
        let taps = |link: &Array2<F>, [height, width]: [usize; 2]| {
            Array4::from_shape_fn((self.rank(), 1, height, width), |(r, _, y, x)| {
                link[[y * width + x, r]]
            })
        };
        let [height, width] = self.kernel_size();
        let middle = match &self.depthwise {
            Depthwise::Separable {
                vertical,
                horizontal,
            } => {
                vec![taps(vertical, [height, 1]), taps(horizontal, [1, width])]
            }
            Depthwise::Square { taps: square } => vec![taps(square, [height, width])],
        };
        let mut links = vec![plain(&self.reduce)];
        links.extend(middle);
        links.push(plain(&self.expand));
        links
    }

    /// The number R of channels between the links.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.expand.ncols()
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

    fn kernel_size(&self) -> [usize; 2] {
        [self.shape[2], self.shape[3]]
    }

    /// Convolves images (batch, in_channels, height, width) with one link after the other.
    ///
    /// # Errors
    ///
    /// Those of [`conv2d`](super::conv2d()).
    pub fn apply(&self, x: ArrayView4<'_, F>) -> Result<Array4<F>> {
        let (out_channels, in_channels) = (self.shape[0], self.shape[1]);
        let bias = self.bias.as_ref().map(|bias| bias.view());
        check_image(&x, in_channels, bias.as_ref(), out_channels)?;
        let level = Level::current();
        for_each_image(
            x,
            out_channels,
            self.kernel_size(),
            self.geometry,
            bias,
            |image| {
                // Channels come last between the links, so that depthwise links process all of them at once.
                let pixels = matrix(image.values, in_channels);
                let reduced = linalg::product(pixels.t(), self.reduce.t());
                let reduced = reduced.into_raw_vec_and_offset().0;
                let mixed = match &self.depthwise {
                    Depthwise::Separable {
                        vertical,
                        horizontal,
                    } => {
                        let [down, across] = self.geometry.separate();
                        let between = [image.output[0], image.size[1]];
                        let kernel = [self.shape[2], 1];
                        let columns =
                            depthwise(level, &reduced, image.size, vertical, kernel, down, between);
                        let kernel = [1, self.shape[3]];
                        depthwise(
                            level,
                            &columns,
                            between,
                            horizontal,
                            kernel,
                            across,
                            image.output,
                        )
                    }
                    Depthwise::Square { taps } => {
                        let kernel = self.kernel_size();
                        depthwise(
                            level,
                            &reduced,
                            image.size,
                            taps,
                            kernel,
                            self.geometry,
                            image.output,
                        )
                    }
                };
                let mixed = matrix(&mixed, image.output[0] * image.output[1]);
                linalg::product(self.expand.view(), mixed.t())
                    .into_raw_vec_and_offset()
                    .0
            },
        )
    }

    fn parts_list(&self) -> Vec<(&'static str, Vec<usize>, Vec<F>)> {
        let links = self.links();
        let names: &[&'static str] = if links.len() == 4 {
            &NAMES
        } else {
            &SQUARE_NAMES
        };
        let parts = names.iter().zip(links);
        parts
            .map(|(&name, link)| {
                (
                    name,
                    link.shape().to_vec(),
                    link.into_raw_vec_and_offset().0,
                )
            })
            .collect()
    }
}

/// A depthwise convolution of an image (height, width, R) with taps (height · width, R).
fn depthwise<F: Float>(
    level: Level,
    image: &[F],
    [height, width]: [usize; 2],
    taps: &Array2<F>,
    kernel: [usize; 2],
    geometry: Geometry,
    output: [usize; 2],
) -> Vec<F> {
    let terms = taps.ncols();
    let stride = geometry.stride;
    let mut out = vec![F::zero(); output[0] * output[1] * terms];
    let places = (0..kernel[0]).flat_map(|i| (0..kernel[1]).map(move |j| (i, j)));
    for ((i, j), weights) in places.zip(taps.rows()) {
        let weights = weights.to_vec();
        let (ys, top) = geometry.meeting(0, i, height, output[0]);
        let (xs, left) = geometry.meeting(1, j, width, output[1]);
        if xs.is_empty() {
            continue;
        }
        for (step, y) in ys.enumerate() {
            let from = &image[((top + step * stride[0]) * width + left) * terms..];
            let to = &mut out[(y * output[1] + xs.start) * terms..][..xs.len() * terms];
            if stride[1] == 1 {
                hadamard::add_scaled_rows(level, to, from, &weights);
                continue;
            }
            let from = from.chunks(stride[1] * terms);
            for (to, from) in to.chunks_exact_mut(terms).zip(from) {
                hadamard::add_scaled_rows(level, to, from, &weights);
            }
        }
    }
    out
}

fn axes<F: Float>(expected: &'static str, kernel: &CpTensor<F>) -> Error {
    Error::Dimensions {
        what: "the decomposed kernel",
        expected,
        shape: kernel.shape().to_vec(),
    }
}

impl<F: Float> Compressed<F> for CpConv2d<F> {
    /// The shape of the kernel, (out_channels, in_channels, height, width). Sizes do not include the bias.
    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn parts(&self) -> Vec<Part<'_>> {
        let parts = self
            .parts_list()
            .into_iter()
            .map(|(name, shape, values)| Part {
                name,
                dtype: self.precision.dtype(),
                shape,
                role: Role::Payload,
                bytes: self.precision.encode(values).into(),
            });
        parts.collect()
    }

    fn storage(&self) -> StorageBits {
        let bits = |values: usize| values as u64 * self.precision.bits();
        let size = StorageBits::new().with(NAMES[0], Role::Payload, bits(self.reduce.len()));
        let size = match &self.depthwise {
            Depthwise::Separable {
                vertical,
                horizontal,
            } => size
                .with(NAMES[1], Role::Payload, bits(vertical.len()))
                .with(NAMES[2], Role::Payload, bits(horizontal.len())),
            Depthwise::Square { taps } => {
                size.with(SQUARE_NAMES[1], Role::Payload, bits(taps.len()))
            }
        };
        size.with(NAMES[3], Role::Payload, bits(self.expand.len()))
    }

    fn decompress_into(&self, mut out: ArrayViewMutD<'_, F>) -> Result<()> {
        check::same_shape("the output", &self.shape, out.shape())?;
        let [height, width] = self.kernel_size();
        let terms = self.rank();
        // (out · taps, R) times (R, in), tap by tap.
        for y in 0..height {
            for x in 0..width {
                let tap = |r: usize| match &self.depthwise {
                    Depthwise::Separable {
                        vertical,
                        horizontal,
                    } => vertical[[y, r]] * horizontal[[x, r]],
                    Depthwise::Square { taps } => taps[[y * width + x, r]],
                };
                let taps = (0..terms).map(tap).collect::<Array1<F>>();
                let slice = linalg::product((&self.expand * &taps).view(), self.reduce.view());
                for ((o, i), &value) in slice.indexed_iter() {
                    out[[o, i, y, x].as_slice()] = value;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
