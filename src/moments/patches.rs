//! The geometry of a convolution: which values of an image a kernel meets.

use std::ops::Range;

use crate::{Error, Result, check};

/// How the kernel of a convolution moves over an image.
///
/// ```
/// use taper::ndarray::Array4;
/// use taper::{InputMoments, Patches};
///
/// let images = Array4::<f32>::ones((2, 3, 8, 8));
/// let mut moments = InputMoments::new(3 * 3 * 3)?;
/// moments.add_patches(images.view(), Patches { stride: [2, 2], ..Patches::new([3, 3]) })?;
/// assert_eq!(moments.count(), 2 * 3 * 3); // three places along each axis
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patches {
    /// Height and width of the kernel, at least 1.
    pub kernel: [usize; 2],
    /// Steps along height and width, at least 1.
    pub stride: [usize; 2],
    /// Zeros before and after height and width.
    pub padding: [usize; 2],
    /// Distance in the image between neighbouring taps of the kernel, at least 1.
    pub dilation: [usize; 2],
}

impl Patches {
    /// A kernel of this height and width, with steps of one, no padding and no dilation.
    #[must_use]
    pub fn new(kernel: [usize; 2]) -> Self {
        Self {
            kernel,
            stride: [1, 1],
            padding: [0, 0],
            dilation: [1, 1],
        }
    }

    /// Height and width of the result on images of height and width `image`.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] for a kernel, a stride or a dilation of zero, [`Error::ExceedsInput`] for a kernel that
    /// reaches beyond the padded image, [`Error::Overflow`].
    pub(crate) fn output(&self, image: [usize; 2]) -> Result<[usize; 2]> {
        let mut output = [0; 2];
        for axis in 0..2 {
            for (name, value) in [
                ("the length of the kernel", self.kernel[axis]),
                ("stride", self.stride[axis]),
                ("dilation", self.dilation[axis]),
            ] {
                check::at_least_one(name, value)?;
            }
            let padded = self.padding[axis].checked_mul(2);
            let padded = padded.and_then(|padding| padding.checked_add(image[axis]));
            let reach = (self.kernel[axis] - 1).checked_mul(self.dilation[axis]);
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
                let patches = Patches {
                    kernel: [kernel, 1],
                    stride: [stride, 1],
                    padding: [padding, 0],
                    dilation: [dilation, 1],
                };
                let Ok([output, _]) = patches.output([image, 1]) else {
                    assert!((kernel - 1) * dilation >= image + 2 * padding);
                    continue;
                };
                for tap in 0..kernel {
                    let place = |o: usize| o * stride + tap * dilation;
                    let inside = |o: &usize| (padding..padding + image).contains(&place(*o));
                    let expected: Vec<usize> = (0..output).filter(inside).collect();
                    let (range, first) = patches.meeting(0, tap, image, output);
                    assert_eq!(range.collect::<Vec<_>>(), expected);
                    let met = expected.first().map_or(0, |&o| place(o) - padding);
                    assert_eq!(first, met);
                }
            }
        }
    }

    #[test]
    fn kernels_without_a_place_are_errors() {
        let kernel = Patches::new([4, 1]);
        assert!(matches!(
            kernel.output([3, 3]),
            Err(Error::ExceedsInput {
                value: 4,
                limit: 3,
                ..
            })
        ));
        let still = Patches {
            stride: [0, 1],
            ..kernel
        };
        assert!(matches!(still.output([9, 9]), Err(Error::Parameter(_))));
        let padded = Patches {
            padding: [usize::MAX, 0],
            ..kernel
        };
        assert!(matches!(padded.output([9, 9]), Err(Error::Overflow { .. })));
    }
}
