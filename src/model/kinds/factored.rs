//! Products whose factors are compressed.

use std::sync::Arc;

use ndarray::{Array1, Array2, ArrayView2, ArrayViewMut2, ArrayViewMutD, Ix2};

use crate::artifact::check_apply;
use crate::factorize::cp::CpTensor;
use crate::model::extend::{Artifact, Stored, malformed};
use crate::{Compressed, Error, LinearOp, Part, Precision, Result, StorageBits, check, linalg};

pub(super) const MATRIX: &str = "factored_matrix";
pub(super) const TENSOR: &str = "factored_tensor";

fn parts<'a>(factors: impl IntoIterator<Item = &'a Arc<dyn Artifact>>) -> Vec<Part<'a>> {
    factors
        .into_iter()
        .flat_map(|factor| factor.parts())
        .collect()
}

fn storage<'a>(factors: impl IntoIterator<Item = &'a Arc<dyn Artifact>>) -> StorageBits {
    factors.into_iter().fold(StorageBits::new(), |all, factor| {
        let storage = factor.storage();
        let parts = storage.parts();
        parts.fold(all, |all, (name, role, bits)| all.with(name, role, bits))
    })
}

/// A factor as a dense matrix.
fn dense(factor: &dyn Artifact) -> Result<Array2<f32>> {
    let dense = factor.decompress()?;
    let shape = dense.shape().to_vec();
    dense
        .into_dimensionality::<Ix2>()
        .map_err(|_| Error::Dimensions {
            what: "a factor",
            expected: "two axes",
            shape,
        })
}

/// The rows and columns of a factor.
fn two_axes(factor: &dyn Artifact) -> Result<[usize; 2]> {
    <[usize; 2]>::try_from(factor.shape())
        .map_err(|_| malformed(format!("a factor of shape {:?}", factor.shape())))
}

/// A matrix (out_features, in_features) that is the product of two artifacts, such as a low-rank matrix with both factors in
/// fixed point.
///
/// It multiplies without being decompressed if both factors do.
///
/// ```
/// use taper::factorize::{Rank, svd::TruncatedSvd};
/// use taper::model::FactoredMatrix;
/// use taper::ndarray::Array2;
/// use taper::quantize::fixed_point::FixedPointQuantizer;
/// use taper::{Compressed, Factorizer, Quantizer};
///
/// let weights = Array2::from_shape_fn((32, 48), |(i, j)| ((i * j) as f32).cos());
/// let product = TruncatedSvd::new(Rank::Fixed(4)).factorize(weights.view())?;
/// let bytes = FixedPointQuantizer::new(8);
/// let factored = FactoredMatrix::new(
///     bytes.quantize(product.left())?,
///     bytes.quantize(product.right())?,
/// )?;
/// assert_eq!(factored.storage().bytes(), 4 * (32 + 48) + 2 * 4);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct FactoredMatrix {
    shape: [usize; 2],
    left: Arc<dyn Artifact>,
    right: Arc<dyn Artifact>,
}

impl FactoredMatrix {
    /// Creates the product of `left` (out_features, r) and `right` (r, in_features).
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] if the shapes do not fit together.
    pub fn new(left: impl Artifact, right: impl Artifact) -> Result<Self> {
        Self::of(Arc::new(left), Arc::new(right))
    }

    pub(in crate::model) fn of(left: Arc<dyn Artifact>, right: Arc<dyn Artifact>) -> Result<Self> {
        let ([rows, inner], [other, columns]) = (two_axes(&*left)?, two_axes(&*right)?);
        if inner != other || rows.checked_mul(columns).is_none() {
            return Err(malformed(format!(
                "factors of shapes {:?} and {:?}",
                left.shape(),
                right.shape()
            )));
        }
        Ok(Self {
            shape: [rows, columns],
            left,
            right,
        })
    }
}

impl Compressed<f32> for FactoredMatrix {
    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn parts(&self) -> Vec<Part<'_>> {
        parts([&self.left, &self.right])
    }

    fn storage(&self) -> StorageBits {
        storage([&self.left, &self.right])
    }

    fn decompress_into(&self, out: ArrayViewMutD<'_, f32>) -> Result<()> {
        check::same_shape("out", &self.shape, out.shape())?;
        let (left, right) = (dense(&*self.left)?, dense(&*self.right)?);
        let out = out.into_dimensionality::<Ix2>();
        let out = out.map_err(|error| malformed(error.to_string()))?;
        let factors = [check::largest(&left), check::largest(&right)];
        check::product_in_range("a product of artifacts", left.ncols(), factors)?;
        linalg::product_into(left.view(), right.view(), out);
        Ok(())
    }
}

impl LinearOp<f32> for FactoredMatrix {
    fn apply_into(&self, x: ArrayView2<'_, f32>, y: ArrayViewMut2<'_, f32>) -> Result<()> {
        check_apply(self.shape, &x, &y)?;
        let inner = match self.right.as_linear() {
            Some(right) => right.apply(x)?,
            None => x.dot(&dense(&*self.right)?.t()),
        };
        match self.left.as_linear() {
            Some(left) => left.apply_into(inner.view(), y),
            None => {
                linalg::product_into(inner.view(), dense(&*self.left)?.t(), y);
                Ok(())
            }
        }
    }
}

impl Artifact for FactoredMatrix {
    fn kind(&self) -> &'static str {
        MATRIX
    }

    fn children(&self) -> Vec<(String, &dyn Artifact)> {
        vec![
            ("left".to_owned(), &*self.left),
            ("right".to_owned(), &*self.right),
        ]
    }

    fn as_linear(&self) -> Option<&dyn LinearOp<f32>> {
        Some(self)
    }

    fn restore(mut stored: Stored) -> Result<Self> {
        let left = stored.child("left")?;
        let right = stored.child("right")?;
        stored.finish()?;
        Self::of(Arc::from(left), Arc::from(right))
    }
}

/// A tensor in CP form, a sum of R outer products, whose factors are artifacts of shape (length, R), one for each axis.
///
/// ```
/// use taper::Compressed;
/// use taper::model::{Dense, FactoredTensor};
/// use taper::ndarray::array;
///
/// let factor = |values: taper::ndarray::Array2<f32>| Dense::new(values.into_dyn().view(), Default::default());
/// let tensor = FactoredTensor::new(vec![
///     factor(array![[1.0], [2.0]])?,
///     factor(array![[3.0], [4.0]])?,
///     factor(array![[1.0], [10.0]])?,
/// ])?;
/// assert_eq!(tensor.decompress()?[[1, 0, 1]], 60.0);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct FactoredTensor {
    shape: Vec<usize>,
    factors: Vec<Arc<dyn Artifact>>,
}

impl FactoredTensor {
    /// Creates the tensor of these factors.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] for fewer than two factors, or if the shapes do not fit together.
    pub fn new(factors: Vec<impl Artifact>) -> Result<Self> {
        let factors = factors.into_iter();
        Self::of(
            factors
                .map(|factor| Arc::new(factor) as Arc<dyn Artifact>)
                .collect(),
        )
    }

    pub(in crate::model) fn of(factors: Vec<Arc<dyn Artifact>>) -> Result<Self> {
        let sizes = factors.iter().map(|factor| two_axes(&**factor));
        let sizes = sizes.collect::<Result<Vec<_>>>()?;
        let terms = sizes.first().map_or(0, |size| size[1]);
        let count = sizes
            .iter()
            .try_fold(1_usize, |n, size| n.checked_mul(size[0]));
        if sizes.len() < 2 || count.is_none() || sizes.iter().any(|size| size[1] != terms) {
            return Err(malformed(format!("factors of shapes {sizes:?}")));
        }
        Ok(Self {
            shape: sizes.iter().map(|size| size[0]).collect(),
            factors,
        })
    }
}

impl Compressed<f32> for FactoredTensor {
    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn parts(&self) -> Vec<Part<'_>> {
        parts(&self.factors)
    }

    fn storage(&self) -> StorageBits {
        storage(&self.factors)
    }

    fn decompress_into(&self, out: ArrayViewMutD<'_, f32>) -> Result<()> {
        let factors = self.factors.iter().map(|factor| dense(&**factor));
        let factors = factors.collect::<Result<Vec<_>>>()?;
        let terms = factors.first().map_or(0, Array2::ncols);
        let weights = Array1::ones(terms);
        CpTensor::from_parts(weights, factors, Precision::F32)?.decompress_into(out)
    }
}

impl Artifact for FactoredTensor {
    fn kind(&self) -> &'static str {
        TENSOR
    }

    fn children(&self) -> Vec<(String, &dyn Artifact)> {
        let factors = self.factors.iter().enumerate();
        factors
            .map(|(axis, factor)| (axis.to_string(), &**factor))
            .collect()
    }

    fn restore(mut stored: Stored) -> Result<Self> {
        let factors = std::mem::take(&mut stored.children).into_iter();
        let factors = factors.map(|(_, factor)| Arc::from(factor)).collect();
        stored.finish()?;
        Self::of(factors)
    }
}
