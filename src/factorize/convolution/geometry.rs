//! Stride and padding.

use ndarray::{Array1, ArrayView1, ArrayView4};

use crate::{Error, Float, ParamError, Result, check};

/// How a kernel moves over an image.
///
/// ```
/// use taper::factorize::convolution::Geometry;
///
/// let geometry = Geometry { stride: [2, 2], padding: [1, 1] };
/// assert_eq!(geometry.output([28, 28], [3, 3])?, [14, 14]);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Steps along height and width, at least 1.
    pub stride: [usize; 2],
    /// Zeros before and after height and width.
    pub padding: [usize; 2],
}

impl Default for Geometry {
    /// Steps of one, no padding.
    fn default() -> Self {
        Self {
            stride: [1, 1],
            padding: [0, 0],
        }
    }
}

impl Geometry {
    /// The height and width of the result of a kernel of `kernel` on an image of `image`.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] for a stride of zero, [`Error::ExceedsInput`] for a kernel that is larger than the
    /// padded image.
    pub fn output(&self, image: [usize; 2], kernel: [usize; 2]) -> Result<[usize; 2]> {
        self.check()?;
        let mut output = [0; 2];
        for axis in 0..2 {
            let padded = self.padding[axis]
                .checked_mul(2)
                .and_then(|padding| padding.checked_add(image[axis]))
                .ok_or(Error::Overflow {
                    what: "the padded image",
                })?;
            if kernel[axis] > padded {
                return Err(Error::ExceedsInput {
                    what: "the length of the kernel",
                    value: kernel[axis],
                    limit: padded,
                });
            }
            output[axis] = (padded - kernel[axis]) / self.stride[axis] + 1;
        }
        Ok(output)
    }

    pub(super) fn check(&self) -> Result<(), ParamError> {
        self.stride
            .iter()
            .try_for_each(|&stride| check::at_least_one("stride", stride))
    }

    /// The part along the height, and the part along the width.
    #[must_use]
    pub fn separate(&self) -> [Self; 2] {
        let ([down, across], [above, left]) = (self.stride, self.padding);
        [
            Self {
                stride: [down, 1],
                padding: [above, 0],
            },
            Self {
                stride: [1, across],
                padding: [0, left],
            },
        ]
    }

    /// The positions of a result of length `output` at which tap `tap` of the kernel meets the image of length
    /// `image` (along `axis`), and the position of the image that the first of them meets.
    pub(super) fn meeting(
        &self,
        axis: usize,
        tap: usize,
        image: usize,
        output: usize,
    ) -> (std::ops::Range<usize>, usize) {
        let (stride, padding) = (self.stride[axis], self.padding[axis]);
        // Position o meets o · stride + tap − padding, which must be in 0..image.
        let first = padding.saturating_sub(tap).div_ceil(stride);
        let end = (image + padding)
            .saturating_sub(tap)
            .div_ceil(stride)
            .min(output);
        if first >= end {
            return (0..0, 0);
        }
        (first..end, first * stride + tap - padding)
    }
}

/// Checks the channels of an image and the length of a bias.
pub(super) fn check_image<F: Float>(
    x: &ArrayView4<'_, F>,
    channels: usize,
    bias: Option<&ArrayView1<'_, F>>,
    out_channels: usize,
) -> Result<()> {
    let [batch, _, height, width] = dimensions(x.dim());
    check::same_shape("x", &[batch, channels, height, width], x.shape())?;
    match bias {
        Some(bias) => check::same_shape("the bias", &[out_channels], bias.shape()),
        None => Ok(()),
    }
}

/// Checks the bias that a chain is to hold.
pub(super) fn check_bias<F: Float>(bias: Option<&Array1<F>>, out_channels: usize) -> Result<()> {
    let Some(bias) = bias else {
        return Ok(());
    };
    check::same_shape("the bias", &[out_channels], bias.shape())?;
    check::finite("the bias", &bias.view())
}

pub(super) fn dimensions((a, b, c, d): (usize, usize, usize, usize)) -> [usize; 4] {
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meetings_are_those_of_the_definition() {
        for stride in 1..4 {
            for padding in 0..4 {
                for (image, kernel) in [(7, 3), (5, 5), (4, 1)] {
                    let geometry = Geometry {
                        stride: [stride, 1],
                        padding: [padding, 0],
                    };
                    let [output, _] = geometry.output([image, 1], [kernel, 1]).unwrap();
                    for tap in 0..kernel {
                        let inside =
                            |o: &usize| (padding..padding + image).contains(&(o * stride + tap));
                        let expected: Vec<usize> = (0..output).filter(inside).collect();
                        let (range, first) = geometry.meeting(0, tap, image, output);
                        assert_eq!(range.clone().collect::<Vec<_>>(), expected);
                        if let Some(o) = expected.first() {
                            assert_eq!(first, o * stride + tap - padding);
                        }
                    }
                }
            }
        }
        let still = Geometry {
            stride: [0, 1],
            padding: [0, 0],
        };
        assert!(matches!(
            still.output([3, 3], [1, 1]),
            Err(Error::Parameter(_))
        ));
        assert!(matches!(
            Geometry::default().output([3, 3], [4, 1]),
            Err(Error::ExceedsInput {
                value: 4,
                limit: 3,
                ..
            })
        ));
    }
}
