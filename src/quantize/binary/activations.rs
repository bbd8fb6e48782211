//! Binary activations: a batch of vectors of ±1, one bit for each value.

use ndarray::{Array2, ArrayView2};

use super::signs::Signs;
use crate::{Float, Result, check};

/// A batch of vectors of ±1, packed: the input of [`BinaryMatrix::multiply`](super::BinaryMatrix::multiply).
///
/// ```
/// use ndarray::array;
/// use taper::quantize::binary::BinaryActivations;
///
/// let x = BinaryActivations::from_signs(array![[0.3, -2.0, -0.0], [-1.0, 5.0, 1.0]].view())?;
/// assert_eq!((x.batch(), x.features()), (2, 3));
/// assert_eq!(x.unpack::<f64>(), array![[1.0, -1.0, 1.0], [-1.0, 1.0, 1.0]]);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BinaryActivations {
    pub(super) signs: Signs,
}

impl BinaryActivations {
    /// The signs of `x`, of shape (batch, features): +1 where x ≥ 0 (also for −0.0), else −1.
    ///
    /// # Errors
    ///
    /// [`Error::EmptyAxis`](crate::Error::EmptyAxis), [`Error::NonFinite`](crate::Error::NonFinite).
    pub fn from_signs<F: Float>(x: ArrayView2<'_, F>) -> Result<Self> {
        check::finite("x", &x)?;
        Ok(Self {
            signs: Signs::of(x),
        })
    }

    /// The number of vectors.
    #[must_use]
    pub fn batch(&self) -> usize {
        self.signs.rows()
    }

    /// The number of values of a vector.
    #[must_use]
    pub fn features(&self) -> usize {
        self.signs.columns()
    }

    /// The values as numbers, of shape (batch, features).
    #[must_use]
    pub fn unpack<F: Float>(&self) -> Array2<F> {
        let mut values = Array2::zeros((self.batch(), self.features()));
        for (i, mut row) in values.rows_mut().into_iter().enumerate() {
            for (value, sign) in row.iter_mut().zip(self.signs.row_values(i)) {
                *value = sign;
            }
        }
        values
    }
}
