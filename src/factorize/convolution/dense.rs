//! The dense convolution: patches become the columns of a matrix, with one product per image.

use ndarray::{Array4, ArrayView1, ArrayView2, ArrayView4};

use super::inputs::{check_image, dimensions};
use crate::factorize::cp::standard;
use crate::{Float, Geometry, Result, check, linalg, parallel};

/// Convolves images `x` (batch, in_channels, height, width) with `kernel` (out_channels, in_channels, height, width).
///
/// ```
/// use ndarray::{array, Array4};
/// use taper::Geometry;
/// use taper::factorize::convolution::conv2d;
///
/// let x = Array4::from_shape_fn((1, 1, 3, 3), |(_, _, i, j)| (3 * i + j) as f32);
/// let kernel = Array4::ones((1, 1, 2, 2));
/// let y = conv2d(x.view(), kernel.view(), Some(array![0.5].view()), Geometry::default())?;
/// assert_eq!(y.as_slice(), Some(&[8.5, 12.5, 20.5, 24.5][..]));
/// # Ok::<(), taper::Error>(())
/// ```
///
/// # Errors
///
/// [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) for channels or a bias that do not fit,
/// [`Error::EmptyAxis`](crate::Error::EmptyAxis) for an empty kernel, and those of [`Geometry::output`].
pub fn conv2d<F: Float>(
    x: ArrayView4<'_, F>,
    kernel: ArrayView4<'_, F>,
    bias: Option<ArrayView1<'_, F>>,
    geometry: Geometry,
) -> Result<Array4<F>> {
    check::not_empty("the kernel", kernel.shape())?;
    let [out_channels, in_channels, kernel_height, kernel_width] = dimensions(kernel.dim());
    check_image(&x, in_channels, bias.as_ref(), out_channels)?;
    let weights = standard(&kernel);
    let weights = matrix(&weights, out_channels);
    let kernel = [kernel_height, kernel_width];
    for_each_image(x, out_channels, kernel, geometry, bias, |image| {
        let rows = in_channels * kernel_height * kernel_width;
        let patches = patches(image, image.values, in_channels, kernel, geometry);
        let patches = matrix(&patches, rows);
        linalg::product(weights, patches)
            .into_raw_vec_and_offset()
            .0
    })
}

/// One image of a batch.
pub(super) struct Image<'a, F> {
    /// (channels, height, width).
    pub(super) values: &'a [F],
    /// Height and width.
    pub(super) size: [usize; 2],
    /// Height and width of the result.
    pub(super) output: [usize; 2],
}

/// Computes a convolution image by image, on several threads: `f` returns the (out_channels, height, width) of one image
/// without the bias.
pub(super) fn for_each_image<F: Float>(
    x: ArrayView4<'_, F>,
    out_channels: usize,
    kernel: [usize; 2],
    geometry: Geometry,
    bias: Option<ArrayView1<'_, F>>,
    f: impl Fn(&Image<'_, F>) -> Vec<F> + Sync + Send,
) -> Result<Array4<F>> {
    let [batch, channels, height, width] = dimensions(x.dim());
    let output = geometry.output([height, width], kernel)?;
    let taps = [channels, kernel[0], kernel[1], output[0], output[1]];
    check::has_address("the patches of an image", &taps, size_of::<F>())?;
    let all = [batch, out_channels, output[0], output[1]];
    check::has_address("the output of a convolution", &all, size_of::<F>())?;
    let mut y = Array4::zeros((batch, out_channels, output[0], output[1]));
    let values = standard(&x);
    let area = output[0] * output[1];
    let length = channels * height * width;
    let images = y.as_slice_mut().expect("a new array has no gaps");
    parallel::for_each_chunk_mut(images, out_channels * area, |i, y| {
        let image = Image {
            values: &values[i * length..(i + 1) * length],
            size: [height, width],
            output,
        };
        y.copy_from_slice(&f(&image));
        if let Some(bias) = &bias {
            for (y, &bias) in y.chunks_exact_mut(area).zip(bias) {
                y.iter_mut().for_each(|y| *y += bias);
            }
        }
    });
    Ok(y)
}

/// The patches of `channels` channels of the size of `image`, as a matrix (channels · taps, positions of the result): row
/// (c, i, j) holds the values of channel c that tap (i, j) of the kernel is multiplied with.
pub(super) fn patches<F: Float>(
    image: &Image<'_, F>,
    values: &[F],
    channels: usize,
    [kernel_height, kernel_width]: [usize; 2],
    geometry: Geometry,
) -> Vec<F> {
    let [height, width] = image.size;
    let [out_height, out_width] = image.output;
    let area = height * width;
    let out_area = out_height * out_width;
    let stride = geometry.stride[1];
    let mut patches = vec![F::zero(); channels * kernel_height * kernel_width * out_area];
    let mut rows = patches.chunks_exact_mut(out_area);
    for channel in 0..channels {
        let channel = &values[channel * area..][..area];
        for i in 0..kernel_height {
            let (ys, first) = geometry.meeting(0, i, height, out_height);
            for j in 0..kernel_width {
                let row = rows.next().expect("one row per channel and tap");
                let (xs, left) = geometry.meeting(1, j, width, out_width);
                if xs.is_empty() {
                    continue;
                }
                for (step, y) in ys.clone().enumerate() {
                    let from = &channel[(first + step * geometry.stride[0]) * width..][..width];
                    let to = &mut row[y * out_width..][xs.clone()];
                    if stride == 1 {
                        to.copy_from_slice(&from[left..left + xs.len()]);
                    } else {
                        for (to, &from) in to.iter_mut().zip(from[left..].iter().step_by(stride)) {
                            *to = from;
                        }
                    }
                }
            }
        }
    }
    patches
}

/// A slice as a matrix of `rows` rows, at least one; the length is a multiple of `rows`.
pub(super) fn matrix<F>(values: &[F], rows: usize) -> ArrayView2<'_, F> {
    ArrayView1::from(values)
        .into_shape_with_order((rows, values.len() / rows))
        .expect("the length is a multiple of the rows")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::Seed;
    use crate::factorize::cp::random_factors;
    use ndarray::{Array1, s};

    pub(in crate::factorize) fn largest(x: &Array4<f64>) -> f64 {
        check::largest(x)
    }

    /// Standard normal values.
    pub(in super::super) fn random(shape: [usize; 4], seed: u64) -> Array4<f64> {
        let size = shape.iter().product();
        let values = random_factors(&[size], 1, Seed::from(seed)).remove(0);
        Array4::from_shape_vec(shape, values).unwrap()
    }

    /// How much two ways to compute a chain of convolutions may differ, on images whose values are at most `largest` and with a
    /// bias of at most 1. A value is a sum of n products, n the product of the summands of all links, and its rounding error is
    /// at most n·ε times the sum of their magnitudes.
    pub(in crate::factorize) fn rounding(links: &[Array4<f64>], largest: f64) -> f64 {
        let (mut summands, mut magnitude) = (1, largest);
        for link in links {
            summands *= link.len() / link.shape()[0];
            let filters = link.outer_iter();
            let sums = filters.map(|filter| filter.iter().map(|w| w.abs()).sum::<f64>());
            magnitude *= sums.fold(0.0, f64::max);
        }
        2.0 * (summands + 1) as f64 * f64::EPSILON * (magnitude + 1.0)
    }

    /// The convolution by its definition.
    fn naive(x: &Array4<f64>, kernel: &Array4<f64>, geometry: Geometry) -> Array4<f64> {
        let [batch, channels, height, width] = dimensions(x.dim());
        let [out_channels, _, kh, kw] = dimensions(kernel.dim());
        let [oh, ow] = geometry.output([height, width], [kh, kw]).unwrap();
        Array4::from_shape_fn((batch, out_channels, oh, ow), |(b, o, y, z)| {
            let mut sum = 0.0;
            for c in 0..channels {
                for i in 0..kh {
                    for j in 0..kw {
                        let y = y * geometry.stride[0] + i * geometry.dilation[0];
                        let z = z * geometry.stride[1] + j * geometry.dilation[1];
                        let inside = |at: usize, padding: usize, size: usize| {
                            (padding..padding + size).contains(&at)
                        };
                        if inside(y, geometry.padding[0], height)
                            && inside(z, geometry.padding[1], width)
                        {
                            sum += kernel[[o, c, i, j]]
                                * x[[b, c, y - geometry.padding[0], z - geometry.padding[1]]];
                        }
                    }
                }
            }
            sum
        })
    }

    #[test]
    fn conv2d_equals_the_definition() {
        for (stride, padding, dilation) in [
            ([1, 1], [0, 0], [1, 1]),
            ([1, 1], [1, 2], [1, 2]),
            ([2, 1], [1, 0], [2, 1]),
            ([2, 3], [2, 2], [2, 3]),
        ] {
            let geometry = Geometry {
                stride,
                padding,
                dilation,
            };
            for kernel in [[3, 3], [1, 1], [4, 2]] {
                let x = random([2, 3, 7, 6], 1);
                let kernel = random([4, 3, kernel[0], kernel[1]], 2);
                let bias = Array1::from(vec![1.0, -1.0, 0.5, 0.0]);
                let y = conv2d(x.view(), kernel.view(), Some(bias.view()), geometry).unwrap();
                let expected = naive(&x, &kernel, geometry);
                let bound = rounding(std::slice::from_ref(&kernel), largest(&x));
                for ((b, o, i, j), y) in y.indexed_iter() {
                    assert!((y - bias[o] - expected[[b, o, i, j]]).abs() <= bound);
                }
                // Views with other strides.
                let mut spread = Array4::zeros((6, 14, 3, 2));
                spread
                    .slice_mut(s![..;-1, ..;2, .., ..])
                    .assign(&x.view().reversed_axes());
                let view = spread.slice(s![..;-1, ..;2, .., ..]);
                let again = conv2d(
                    view.reversed_axes(),
                    kernel.view(),
                    Some(bias.view()),
                    geometry,
                )
                .unwrap();
                assert_eq!(again, y);
            }
        }
    }

    #[test]
    fn wrong_shapes_are_errors() {
        let (x, kernel) = (random([1, 2, 3, 3], 1), random([2, 3, 1, 1], 2));
        assert!(conv2d(x.view(), kernel.view(), None, Geometry::default()).is_err());
        let kernel = random([2, 2, 1, 1], 2);
        let bias = Array1::zeros(3);
        assert!(
            conv2d(
                x.view(),
                kernel.view(),
                Some(bias.view()),
                Geometry::default()
            )
            .is_err()
        );
        let empty = Array4::<f64>::zeros((0, 2, 1, 1));
        assert!(conv2d(x.view(), empty.view(), None, Geometry::default()).is_err());
    }

    #[test]
    fn an_image_of_padding_only_gives_the_bias() {
        let x = Array4::zeros((2, 3, 0, 2));
        let kernel = random([4, 3, 2, 2], 8);
        let bias = Array1::from(vec![1.0, 2.0, 3.0, 4.0]);
        let padded = Geometry {
            padding: [1, 1],
            ..Geometry::default()
        };
        let y = conv2d(x.view(), kernel.view(), Some(bias.view()), padded).unwrap();
        assert_eq!(y.dim(), (2, 4, 1, 3));
        for ((_, channel, _, _), &y) in y.indexed_iter() {
            assert_eq!(y, bias[channel]);
        }
    }
}
