//! The number types that weights may have.

use std::fmt::{Debug, Display};
use std::iter::Sum;

use ndarray::{LinalgScalar, ScalarOperand};
use num_traits::{FromPrimitive, NumAssign};

/// The number types of weights: `f32` and `f64`.
///
/// Sealed: the kernels and the linear algebra are written for these two. Weights that are stored as
/// half precision are read into `f32` first.
///
/// ```
/// use taper::{Float, Quantizer, Compressed, ndarray::ArrayView2};
///
/// fn bits_before<F: Float>(weights: ArrayView2<'_, F>) -> usize {
///     weights.len() * F::BITS as usize
/// }
/// assert_eq!(bits_before(taper::ndarray::arr2(&[[1.0_f32, 2.0]]).view()), 64);
/// assert_eq!(f32::from_f64_lossy(0.1).as_f64(), f64::from(0.1_f32));
/// ```
pub trait Float:
    num_traits::Float
    + NumAssign
    + FromPrimitive
    + LinalgScalar
    + ScalarOperand
    + Sum
    + Default
    + Debug
    + Display
    + Send
    + Sync
    + sealed::Sealed
    + crate::kernels::KernelFloat
    + crate::linalg::LinalgFloat
    + 'static
{
    /// The size of the type in bits.
    const BITS: u32;

    /// The nearest value of this type.
    #[must_use]
    fn from_f64_lossy(value: f64) -> Self;

    /// The value as `f64`, exactly.
    #[must_use]
    fn as_f64(self) -> f64;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

impl Float for f32 {
    const BITS: u32 = 32;

    #[inline(always)]
    fn from_f64_lossy(value: f64) -> Self {
        value as f32
    }

    #[inline(always)]
    fn as_f64(self) -> f64 {
        f64::from(self)
    }
}

impl Float for f64 {
    const BITS: u32 = 64;

    #[inline(always)]
    fn from_f64_lossy(value: f64) -> Self {
        value
    }

    #[inline(always)]
    fn as_f64(self) -> f64 {
        self
    }
}
