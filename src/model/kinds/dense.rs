//! A dense tensor in a chosen precision.

use ndarray::{ArrayD, ArrayView2, ArrayViewD, ArrayViewMut2, ArrayViewMutD, Ix2};

use crate::artifact::check_apply;
use crate::model::extend::{Artifact, Stored};
use crate::{Compressed, Error, LinearOp, Part, Precision, Result, Role, StorageBits, check};

pub(super) const KIND: &str = "dense";

/// A dense tensor of any shape whose values are rounded to a [`Precision`].
///
/// ```
/// use taper::model::Dense;
/// use taper::ndarray::{ArrayD, IxDyn};
/// use taper::{Compressed, Precision};
///
/// let weights = ArrayD::from_elem(IxDyn(&[8, 4]), 0.1);
/// let half = Dense::new(weights.view(), Precision::F16)?;
/// assert_eq!(half.storage().bytes(), 8 * 4 * 2);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Dense {
    values: ArrayD<f32>,
    precision: Precision,
}

impl Dense {
    /// Rounds the values to `precision`: each with an absolute error of at most u times the largest magnitude, where u is the
    /// relative rounding error of the precision.
    ///
    /// # Errors
    ///
    /// [`Error::EmptyAxis`], [`Error::NonFinite`], [`Error::Overflow`] for values beyond the range of `precision`, and
    /// [`Error::Underflow`] where the largest magnitude is too small for it.
    pub fn new(values: ArrayViewD<'_, f32>, precision: Precision) -> Result<Self> {
        check::finite("the tensor", &values)?;
        let mut values = values.as_standard_layout().into_owned();
        precision.round_tensor("a weight", &mut values)?;
        Ok(Self { values, precision })
    }

    /// The rounded values.
    #[must_use]
    pub fn values(&self) -> ArrayViewD<'_, f32> {
        self.values.view()
    }
}

impl Compressed<f32> for Dense {
    fn shape(&self) -> &[usize] {
        self.values.shape()
    }

    fn parts(&self) -> Vec<Part<'_>> {
        vec![Part {
            name: "values",
            dtype: self.precision.dtype(),
            shape: self.values.shape().to_vec(),
            role: Role::Payload,
            bytes: self.precision.encode(self.values.iter().copied()).into(),
        }]
    }

    fn storage(&self) -> StorageBits {
        let bits = self.values.len() as u64 * self.precision.bits();
        StorageBits::new().with("values", Role::Payload, bits)
    }

    fn decompress_into(&self, mut out: ArrayViewMutD<'_, f32>) -> Result<()> {
        check::same_shape("out", self.values.shape(), out.shape())?;
        out.assign(&self.values);
        Ok(())
    }
}

impl LinearOp<f32> for Dense {
    /// Multiplies by a tensor of two axes; any other is [`Error::Dimensions`].
    fn apply_into(&self, x: ArrayView2<'_, f32>, mut y: ArrayViewMut2<'_, f32>) -> Result<()> {
        let weights = self.values.view().into_dimensionality::<Ix2>();
        let weights = weights.map_err(|_| Error::Dimensions {
            what: "a dense tensor that is to multiply",
            expected: "two axes",
            shape: self.values.shape().to_vec(),
        })?;
        check_apply([weights.nrows(), weights.ncols()], &x, &y)?;
        y.assign(&x.dot(&weights.t()));
        Ok(())
    }
}

impl Artifact for Dense {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn as_linear(&self) -> Option<&dyn LinearOp<f32>> {
        (self.values.ndim() == 2).then_some(self)
    }

    fn restore(mut stored: Stored) -> Result<Self> {
        let (values, precision) = stored.array("values")?;
        stored.finish()?;
        Self::new(values.view(), precision)
    }
}
