//! The geometry of a convolution: which values of an image a kernel meets.

use std::ops::Range;

use crate::{Error, ParamError, Result, check};

/// How the kernel of a convolution moves over an image.
///
/// ```
/// use taper::ndarray::Array4;
/// use taper::{Geometry, InputMoments};
///
/// let images = Array4::<f32>::ones((2, 3, 8, 8));
/// let geometry = Geometry { stride: [2, 2], ..Geometry::default() };
/// assert_eq!(geometry.output([8, 8], [3, 3])?, [3, 3]);
/// let mut moments = InputMoments::new(3 * 3 * 3)?;
/// moments.add_patches(images.view(), [3, 3], geometry)?;
/// assert_eq!(moments.count(), 2 * 3 * 3); // a patch for each position of the result
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// The steps along height and width, at least 1.
    pub stride: [usize; 2],
    /// The zeros added on both sides, along height and width.
    pub padding: [usize; 2],
    /// The distance in the image between neighbouring taps of the kernel, along height and width, at least 1.
    pub dilation: [usize; 2],
}

impl Default for Geometry {
    /// Steps of one, no padding and no dilation.
    fn default() -> Self {
        Self {
            stride: [1, 1],
            padding: [0, 0],
            dilation: [1, 1],
        }
    }
}

impl Geometry {
    /// Returns the height and width of the result for an image and a kernel of these heights and widths.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] for a kernel, a stride or a dilation of zero, [`Error::ExceedsInput`] for a kernel that
    /// reaches beyond the padded image, [`Error::Overflow`].
    pub fn output(&self, image: [usize; 2], kernel: [usize; 2]) -> Result<[usize; 2]> {
        self.check()?;
        let mut output = [0; 2];
        for axis in 0..2 {
            check::at_least_one("the length of the kernel", kernel[axis])?;
            let padded = self.padding[axis].checked_mul(2);
            let padded = padded.and_then(|padding| padding.checked_add(image[axis]));
            let reach = (kernel[axis] - 1).checked_mul(self.dilation[axis]);
            let (Some(padded), Some(reach)) = (padded, reach) else {
                return Err(Error::Overflow {
                    what: "the reach of the kernel",
                });
            };
            if reach >= padded {
                return Err(Error::ExceedsInput {
                    what: "the reach of the kernel",
                    value: reach.saturating_add(1),
                    limit: padded,
                });
            }
            output[axis] = (padded - reach - 1) / self.stride[axis] + 1;
        }
        Ok(output)
    }

    /// Returns the geometry along the height alone, and along the width alone.
    #[must_use]
    pub fn separate(&self) -> [Self; 2] {
        let ([down, across], [above, left], [apart, aside]) =
            (self.stride, self.padding, self.dilation);
        [
            Self {
                stride: [down, 1],
                padding: [above, 0],
                dilation: [apart, 1],
            },
            Self {
                stride: [1, across],
                padding: [0, left],
                dilation: [1, aside],
            },
        ]
    }

    pub(crate) fn check(&self) -> Result<(), ParamError> {
        for axis in 0..2 {
            check::at_least_one("stride", self.stride[axis])?;
            check::at_least_one("dilation", self.dilation[axis])?;
        }
        Ok(())
    }

    /// The positions of a result of length `output` at which tap `tap` of the kernel meets the image of length
    /// `image` (along `axis`), and the position of the image that the first of them meets.
    pub(crate) fn meeting(
        &self,
        axis: usize,
        tap: usize,
        image: usize,
        output: usize,
    ) -> (Range<usize>, usize) {
        let (stride, padding) = (self.stride[axis], self.padding[axis]);
        let offset = tap * self.dilation[axis];
        // Position o meets o · stride + offset − padding, which must be in 0..image.
        let first = padding.saturating_sub(offset).div_ceil(stride);
        let end = (image + padding)
            .saturating_sub(offset)
            .div_ceil(stride)
            .min(output);
        if first >= end {
            return (0..0, 0);
        }
        (first..end, first * stride + offset - padding)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meetings_are_those_of_the_definition() {
        for index in ndarray::indices([3, 4, 3]) {
            let (stride, padding, dilation) = (index.0 + 1, index.1, index.2 + 1);
            for (image, kernel) in [(7, 3), (5, 5), (4, 1), (9, 2)] {
                let geometry = Geometry {
                    stride: [stride, 1],
                    padding: [padding, 0],
                    dilation: [dilation, 1],
                };
                let Ok([output, _]) = geometry.output([image, 1], [kernel, 1]) else {
                    assert!((kernel - 1) * dilation >= image + 2 * padding);
                    continue;
                };
                for tap in 0..kernel {
                    let place = |o: usize| o * stride + tap * dilation;
                    let inside = |o: &usize| (padding..padding + image).contains(&place(*o));
                    let expected: Vec<usize> = (0..output).filter(inside).collect();
                    let (range, first) = geometry.meeting(0, tap, image, output);
                    assert_eq!(range.collect::<Vec<_>>(), expected);
                    let met = expected.first().map_or(0, |&o| place(o) - padding);
                    assert_eq!(first, met);
                }
            }
        }
    }

    #[test]
    fn kernels_without_a_place_are_errors() {
        let geometry = Geometry::default();
        assert!(matches!(
            geometry.output([3, 3], [4, 1]),
            Err(Error::ExceedsInput {
                value: 4,
                limit: 3,
                ..
            })
        ));
        let still = Geometry {
            stride: [0, 1],
            ..geometry
        };
        assert!(matches!(
            still.output([9, 9], [4, 1]),
            Err(Error::Parameter(_))
        ));
        let padded = Geometry {
            padding: [usize::MAX, 0],
            ..geometry
        };
        assert!(matches!(
            padded.output([9, 9], [4, 1]),
            Err(Error::Overflow { .. })
        ));
    }
}
