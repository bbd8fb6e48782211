//! Stride and padding, and checks of images and biases.

use ndarray::{Array1, ArrayView1, ArrayView4};

use crate::{Float, ParamError, Patches, Result, check};

/// The stride and the padding of a convolution.
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
    /// The steps along height and width, at least 1.
    pub stride: [usize; 2],
    /// The zeros added on both sides, along height and width.
    pub padding: [usize; 2],
}

impl Default for Geometry {
    /// Steps of one and no padding.
    fn default() -> Self {
        Self {
            stride: [1, 1],
            padding: [0, 0],
        }
    }
}

impl Geometry {
    /// Returns the height and width of the result for an image and a kernel of these heights and widths.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`](crate::Error::Parameter) for a kernel or a stride of zero,
    /// [`Error::ExceedsInput`](crate::Error::ExceedsInput) for a kernel larger than the padded image.
    pub fn output(&self, image: [usize; 2], kernel: [usize; 2]) -> Result<[usize; 2]> {
        self.patches(kernel).output(image)
    }

    fn patches(&self, kernel: [usize; 2]) -> Patches {
        Patches {
            stride: self.stride,
            padding: self.padding,
            ..Patches::new(kernel)
        }
    }

    pub(super) fn check(&self) -> Result<(), ParamError> {
        self.stride
            .iter()
            .try_for_each(|&stride| check::at_least_one("stride", stride))
    }

    /// Returns the geometry along the height alone, and along the width alone.
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

    /// As [`Patches::meeting`].
    pub(super) fn meeting(
        &self,
        axis: usize,
        tap: usize,
        image: usize,
        output: usize,
    ) -> (std::ops::Range<usize>, usize) {
        // The size of the kernel does not matter here.
        self.patches([1, 1]).meeting(axis, tap, image, output)
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

/// Checks the bias of a chain.
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
