//! Checks of images and biases.

use ndarray::{Array1, ArrayView1, ArrayView4};

use crate::{Float, Result, check};

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
