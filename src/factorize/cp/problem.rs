//! The tensor of a fit, checked and scaled.

use std::borrow::Cow;

use ndarray::{ArrayView, ArrayView1, ArrayViewD, Dimension};

use crate::{Error, Float, Result, check, power};

/// A tensor in row-major order, scaled by a power of two so that its largest magnitude lies in [1, 2). Squares then neither
/// overflow nor vanish, and the scaling does not round.
#[derive(Debug, Clone)]
pub(super) struct Problem<F> {
    pub(super) shape: Vec<usize>,
    pub(super) values: Vec<F>,
    /// The exponent e: the tensor is 2ᵉ times `values`.
    pub(super) exponent: i32,
    /// Σ values².
    pub(super) squared_norm: f64,
}

impl<F: Float> Problem<F> {
    /// # Errors
    ///
    /// [`Error::Dimensions`], [`Error::EmptyAxis`], [`Error::NonFinite`].
    pub(super) fn new(tensor: &ArrayViewD<'_, F>) -> Result<Self> {
        let shape = tensor.shape().to_vec();
        check_order(&shape)?;
        check::finite("the tensor", tensor)?;
        let (values, exponent) = normalized(tensor);
        let squared_norm = squared_norm(&values);
        Ok(Self {
            shape,
            values,
            exponent,
            squared_norm,
        })
    }

    pub(super) fn is_zero(&self) -> bool {
        self.squared_norm == 0.0
    }

    /// A rank that is enough for every tensor of this shape: the product of all axes but the longest.
    pub(super) fn largest_rank(&self) -> usize {
        largest_rank(&self.shape)
    }
}

/// Fails for fewer than two axes.
pub(super) fn check_order(shape: &[usize]) -> Result<()> {
    if shape.len() < 2 {
        return Err(Error::Dimensions {
            what: "the tensor",
            expected: "at least two axes",
            shape: shape.to_vec(),
        });
    }
    Ok(())
}

/// The product of all axes but the longest: at this rank each fibre along the longest axis is one term.
pub(super) fn largest_rank(shape: &[usize]) -> usize {
    let longest = shape.iter().copied().max().unwrap_or(1).max(1);
    shape.iter().product::<usize>() / longest
}

/// The values of `array` in row-major order, divided by 2ᵉ, and e: the largest magnitude is in [1, 2).
pub(in crate::factorize) fn normalized<F: Float, D: Dimension>(
    array: &ArrayView<'_, F, D>,
) -> (Vec<F>, i32) {
    let exponent = power::largest_exponent(array);
    let values = standard(array);
    let values = power::scaled(&ArrayView1::from(&*values), -exponent);
    (values.to_vec(), exponent)
}

/// Σ x², in double precision.
pub(super) fn squared_norm<F: Float>(values: &[F]) -> f64 {
    // One sum per lane, so that the additions are independent.
    let mut sums = [0.0; 8];
    for chunk in values.chunks(sums.len()) {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            let x = x.as_f64();
            *sum += x * x;
        }
    }
    sums.iter().sum()
}

/// The values of `array` in row-major order, copied only if they have another order.
pub(in crate::factorize) fn standard<'a, F: Float, D: Dimension>(
    array: &'a ArrayView<'_, F, D>,
) -> Cow<'a, [F]> {
    match array.as_slice() {
        Some(values) => values.into(),
        None => array.iter().copied().collect::<Vec<F>>().into(),
    }
}
