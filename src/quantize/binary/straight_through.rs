//! The straight-through estimator: the gradient of a sign.

use ndarray::{Array, ArrayView, ArrayViewMut, Dimension, Zip};

use crate::{Float, Result, check};

/// +1 where `x` ≥ 0 (also for −0.0), else −1: the convention of this module.
pub(crate) fn sign<F: Float>(x: F) -> F {
    if x >= F::zero() { F::one() } else { -F::one() }
}

/// The sign in the forward pass, the derivative of the hard tanh in the backward pass.
///
/// The derivative of the sign is zero almost everywhere. Training therefore replaces it, in the
/// backward pass only, by the derivative of $\operatorname{htanh}(x) = \max(-1, \min(1, x))$ (Courbariaux et al.,
/// "Binarized Neural Networks", 2016, arXiv:1602.02830, section 1.3; Bengio et al., 2013, arXiv:1308.3432):
///
/// $$
/// q = \operatorname{sign}(x) \in \lbrace -1, +1 \rbrace, \qquad
/// \frac{\partial L}{\partial x} = \frac{\partial L}{\partial q} \cdot \mathbf{1}\_{|x| \le 1}.
/// $$
///
/// The same rule applies to binary activations and binary weights. The optimizer updates real *latent* weights, which are
/// [clipped](Self::clip) to [−1, 1] after each step: beyond this range their gradient would stay zero.
///
/// Inputs and outputs are arrays of any shape and strides, so that the custom operation of any framework can call these
/// functions.
///
/// ```
/// use ndarray::array;
/// use taper::quantize::binary::StraightThrough;
///
/// let x = array![-1.5, -0.3, -0.0, 0.7, 1.2];
/// let signs = StraightThrough.forward(x.view())?;
/// assert_eq!(signs, array![-1.0, -1.0, 1.0, 1.0, 1.0]);
///
/// let gradient = array![0.1, 0.2, 0.3, 0.4, 0.5];
/// let passed = StraightThrough.backward(x.view(), gradient.view())?;
/// assert_eq!(passed, array![0.0, 0.2, 0.3, 0.4, 0.0]);
///
/// let mut latent = array![-1.5, 0.7];
/// StraightThrough.clip(latent.view_mut())?;
/// assert_eq!(latent, array![-1.0, 0.7]);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct StraightThrough;

impl StraightThrough {
    /// The signs of `x`: +1 where x ≥ 0 (also for −0.0), else −1.
    ///
    /// # Errors
    ///
    /// [`Error::EmptyAxis`](crate::Error::EmptyAxis), [`Error::NonFinite`](crate::Error::NonFinite).
    pub fn forward<F: Float, D: Dimension>(&self, x: ArrayView<'_, F, D>) -> Result<Array<F, D>> {
        check::finite("x", &x)?;
        Ok(x.mapv(sign))
    }

    /// Writes the signs of `x` into `out`.
    ///
    /// # Errors
    ///
    /// As [`forward`](Self::forward), and [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) where `out`
    /// has another shape than `x`.
    pub fn forward_into<F: Float, D: Dimension>(
        &self,
        x: ArrayView<'_, F, D>,
        out: ArrayViewMut<'_, F, D>,
    ) -> Result<()> {
        check::finite("x", &x)?;
        check::same_shape("out", x.shape(), out.shape())?;
        Zip::from(out).and(x).for_each(|q, &x| *q = sign(x));
        Ok(())
    }

    /// The gradient with respect to `x`, given that with respect to the signs of `x`: `gradient` where
    /// |x| ≤ 1, else zero.
    ///
    /// # Errors
    ///
    /// [`Error::EmptyAxis`](crate::Error::EmptyAxis), [`Error::NonFinite`](crate::Error::NonFinite), and
    /// [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) where the shapes differ.
    pub fn backward<F: Float, D: Dimension>(
        &self,
        x: ArrayView<'_, F, D>,
        gradient: ArrayView<'_, F, D>,
    ) -> Result<Array<F, D>> {
        let mut gradient = gradient.to_owned();
        self.backward_in_place(x, gradient.view_mut())?;
        Ok(gradient)
    }

    /// As [`backward`](Self::backward), on the array that holds the gradient.
    ///
    /// # Errors
    ///
    /// As [`backward`](Self::backward); `gradient` is not changed then.
    pub fn backward_in_place<F: Float, D: Dimension>(
        &self,
        x: ArrayView<'_, F, D>,
        gradient: ArrayViewMut<'_, F, D>,
    ) -> Result<()> {
        check::same_shape("gradient", x.shape(), gradient.shape())?;
        check::finite("x", &x)?;
        check::finite("gradient", &gradient.view())?;
        Zip::from(gradient).and(x).for_each(|gradient, &x| {
            *gradient = if x.abs() <= F::one() {
                *gradient
            } else {
                F::zero()
            };
        });
        Ok(())
    }

    /// Clips latent weights to [−1, 1].
    ///
    /// # Errors
    ///
    /// [`Error::EmptyAxis`](crate::Error::EmptyAxis), [`Error::NonFinite`](crate::Error::NonFinite); the
    /// weights do not change then.
    pub fn clip<F: Float, D: Dimension>(&self, mut latent: ArrayViewMut<'_, F, D>) -> Result<()> {
        check::finite("latent", &latent.view())?;
        latent.mapv_inplace(|x| x.max(-F::one()).min(F::one()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use ndarray::{Array1, Array2, ArrayView1, array, s};
    use proptest::prelude::*;

    proptest! {
        // The definition, and that of the hard tanh whose slope the gradient takes: between two points on
        // the same side of its corners the difference quotient is the slope itself.
        #[test]
        fn the_gradient_is_that_of_the_hard_tanh(x in -3.0_f64..3.0, gradient in -5.0_f64..5.0) {
            let step = 1e-3;
            prop_assume!(((x.abs() - 1.0).abs()) > 2.0 * step);
            let hard_tanh = |x: f64| x.clamp(-1.0, 1.0);
            let slope = (hard_tanh(x + step) - hard_tanh(x - step)) / (2.0 * step);
            let passed = StraightThrough.backward(array![x].view(), array![gradient].view()).unwrap();
            // The quotient's rounding: two values of at most 1, each off by half an ε, over 2·step.
            prop_assert!((passed[0] - gradient * slope).abs() <= gradient.abs() * f64::EPSILON / step);
        }

        #[test]
        fn signs_and_clipping_follow_the_definition(values in prop::collection::vec(-2.0_f32..2.0, 1..50)) {
            let x = Array1::from(values);
            let signs = StraightThrough.forward(x.view()).unwrap();
            let mut clipped = x.clone();
            StraightThrough.clip(clipped.view_mut()).unwrap();
            for ((&x, &q), &c) in x.iter().zip(&signs).zip(&clipped) {
                prop_assert_eq!(q, if x < 0.0 { -1.0 } else { 1.0 });
                prop_assert_eq!(c, x.clamp(-1.0, 1.0));
            }
            // Clipping changes no sign, and all that is clipped passes its gradient.
            prop_assert_eq!(&StraightThrough.forward(clipped.view()).unwrap(), &signs);
            prop_assert_eq!(&StraightThrough.backward(clipped.view(), x.view()).unwrap(), &x);
        }
    }

    #[test]
    fn the_corners_pass() {
        let x = array![-1.0_f32, 1.0, -1.0 - f32::EPSILON, 1.0 + f32::EPSILON];
        let passed = StraightThrough.backward(x.view(), Array1::ones(4).view());
        assert_eq!(passed, Ok(array![1.0, 1.0, 0.0, 0.0]));
    }

    #[test]
    fn strides_make_no_difference() {
        let x = Array2::from_shape_fn((5, 8), |(i, j)| (i as f32 - 2.0) * 0.4 + j as f32 * 0.1);
        let view = x.slice(s![..;-2, 1..;3]);
        let dense = view.to_owned();
        let mut out = Array2::zeros((8, 5));
        let mut turned = out.slice_mut(s![..3, ..3]);
        turned.swap_axes(0, 1);
        StraightThrough.forward_into(view, turned).unwrap();
        let expected = StraightThrough.forward(dense.view()).unwrap();
        assert_eq!(out.slice(s![..3, ..3]).t(), expected);
    }

    #[test]
    fn bad_input_is_refused() {
        let good = array![0.5_f32, -0.5];
        let bad = array![0.5_f32, f32::NAN];
        let non_finite = |result: Result<Array1<f32>>| matches!(result, Err(Error::NonFinite { index, .. }) if index == [1]);
        assert!(non_finite(StraightThrough.forward(bad.view())));
        assert!(non_finite(
            StraightThrough.backward(bad.view(), good.view())
        ));
        assert!(non_finite(
            StraightThrough.backward(good.view(), bad.view())
        ));
        let mut latent = bad.clone();
        assert!(StraightThrough.clip(latent.view_mut()).is_err());
        assert!(matches!(
            StraightThrough.backward(good.view(), array![1.0].view()),
            Err(Error::ShapeMismatch { .. })
        ));
        let empty: ArrayView1<'_, f32> = ArrayView1::from(&[]);
        assert!(matches!(
            StraightThrough.forward(empty),
            Err(Error::EmptyAxis { .. })
        ));
    }
}
