//! Convolutions of low rank: the chains of smaller convolutions that a factored kernel becomes.
//!
//! - `geometry` ([`Geometry`]): stride and padding;
//! - `dense` ([`conv2d`]): the plain convolution that the chains are compared with;
//! - `cp` ([`CpConv2d`]): 1×1, k×1 depthwise, 1×k depthwise, 1×1, from a CP decomposition of the kernel;
//! - `tucker` ([`Tucker2`]) and `tucker_conv` ([`TuckerConv2d`]): 1×1, k×k, 1×1, from a Tucker decomposition of its
//!   channel axes.
//!
//! Kernels are (out_channels, in_channels, height, width), images (batch, channels, height, width), as the
//! frameworks have them; a convolution is a correlation, as there.

mod cp;
mod dense;
mod geometry;
mod tucker;
mod tucker_conv;

pub use cp::CpConv2d;
pub use dense::conv2d;
pub use geometry::Geometry;
pub use tucker::{Tucker2, Tucker2Params};
pub use tucker_conv::TuckerConv2d;
