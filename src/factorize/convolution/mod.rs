//! Convolutions of low rank: a factorized kernel becomes a chain of smaller convolutions.
//!
//! - [`CpConv2d`]: 1×1, k×1 depthwise, 1×k depthwise, 1×1, from a CP decomposition of the kernel;
//! - [`Tucker2`] and its artifact [`TuckerConv2d`]: 1×1, k×k, 1×1, from a Tucker decomposition of the channel axes;
//! - [`conv2d`]: the dense convolution.
//!
//! As in the frameworks, kernels are (out_channels, in_channels, height, width), images are (batch, channels, height, width),
//! and a convolution is a correlation.
//!
//! ```
//! use taper::Factorizer;
//! use taper::factorize::convolution::Tucker2;
//! use taper::ndarray::Array4;
//!
//! let kernel = Array4::from_shape_fn((16, 8, 3, 3), |(o, i, y, x)| ((o + 2 * i) * (y + 3 * x)) as f64);
//! let chain = Tucker2::ratio(4.0).max_iterations(5).tolerance(1e-6).factorize(kernel.view())?;
//! let links = chain.links(); // 1×1, 3×3 and 1×1 kernels
//! assert_eq!(links.len(), 3);
//! assert_eq!(links[1].shape()[..2], chain.ranks());
//! # Ok::<(), taper::Error>(())
//! ```

mod cp;
mod dense;
mod inputs;
mod tucker;
mod tucker_conv;

pub use cp::CpConv2d;
pub use dense::conv2d;
#[cfg(test)]
pub(in crate::factorize) use dense::tests::{largest, rounding};
pub use tucker::{Tucker2, TuckerSize};
pub use tucker_conv::TuckerConv2d;
