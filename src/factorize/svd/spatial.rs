//! A convolution as a column convolution and a row convolution.

use ndarray::{Array4, ArrayView1, ArrayView4, ArrayViewMutD, Ix4};

use super::{LowRankMatrix, TruncatedSvd};
use crate::factorize::convolution::conv2d;
use crate::{
    Compressed, Error, Factorizer, FitContext, Float, Geometry, Part, Result, StorageBits, check,
};

/// A kernel (out, in, h, w) as a column convolution (r, in, h, 1) followed by a row convolution (out, r, 1, w).
///
/// These are the separable filters of Jaderberg, Vedaldi and Zisserman, "Speeding up convolutional neural networks with
/// low rank expansions", 2014, arXiv:1405.3866 (their second scheme), in closed form: the truncated SVD of the kernel as a
/// matrix with rows (in, h) and columns (out, w). No kernel of this form and rank is closer to the original.
///
/// In a framework, the first convolution has the vertical stride, padding and dilation of the original and no bias. The second
/// has the horizontal ones and the original bias. [`Geometry::separate`] returns both. At stride one
/// each output position costs r (in · h + out · w) multiply-adds instead of out · in · h · w.
///
/// ```
/// use taper::factorize::Rank;
/// use taper::factorize::svd::TruncatedSvd;
/// use taper::ndarray::Array4;
/// use taper::{Compressed, Factorizer};
///
/// let kernel = Array4::from_shape_fn((16, 8, 3, 3), |(o, i, h, w)| ((o * i + h * w) as f32).cos());
/// let separable = TruncatedSvd::new(Rank::Fixed(6)).factorize(kernel.view())?;
/// assert_eq!(separable.vertical().dim(), (6, 8, 3, 1));
/// assert_eq!(separable.horizontal().dim(), (16, 6, 1, 3));
/// assert_eq!(separable.storage().bytes(), 4 * 6 * (8 * 3 + 16 * 3));
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct SpatialConv2d<F> {
    shape: [usize; 4],
    matrix: LowRankMatrix<F>,
}

impl<F: Float> SpatialConv2d<F> {
    /// Creates the factorized kernel of `shape` (out, in, h, w) from its [`matrix`](Self::matrix).
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] unless the matrix has shape (in · h, out · w).
    pub fn from_parts(shape: [usize; 4], matrix: LowRankMatrix<F>) -> Result<Self> {
        let [out, inner, height, width] = shape;
        let expected = [inner.checked_mul(height), out.checked_mul(width)];
        let [m, n] = [matrix.left().nrows(), matrix.right().ncols()];
        if expected != [Some(m), Some(n)] {
            return Err(Error::Malformed {
                artifact: "a separable convolution",
                problem: format!("a matrix of shape ({m}, {n}) for a kernel of shape {shape:?}"),
            });
        }
        Ok(Self { shape, matrix })
    }

    /// The number r of channels between the two convolutions.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.matrix.rank()
    }

    /// The kernel as a low-rank matrix with rows (in, h) and columns (out, w).
    #[must_use]
    pub fn matrix(&self) -> &LowRankMatrix<F> {
        &self.matrix
    }

    /// The kernel of the first convolution, (r, in, h, 1), multiplied by the singular values if these are stored apart.
    #[must_use]
    pub fn vertical(&self) -> Array4<F> {
        let [_, inner, height, _] = self.shape;
        let left = self.matrix.left();
        let scale = self.matrix.singular_values();
        Array4::from_shape_fn((self.rank(), inner, height, 1), |(r, i, h, _)| {
            left[[i * height + h, r]] * scale.map_or(F::one(), |s| s[r])
        })
    }

    /// The kernel of the second convolution, (out, r, 1, w).
    #[must_use]
    pub fn horizontal(&self) -> Array4<F> {
        let [out, _, _, width] = self.shape;
        let right = self.matrix.right();
        Array4::from_shape_fn((out, self.rank(), 1, width), |(o, r, _, w)| {
            right[[r, o * width + w]]
        })
    }

    /// Convolves images (batch, in, height, width) with one kernel after the other; `bias` has one value per output channel.
    ///
    /// # Errors
    ///
    /// Those of [`conv2d`].
    pub fn apply(
        &self,
        x: ArrayView4<'_, F>,
        bias: Option<ArrayView1<'_, F>>,
        geometry: Geometry,
    ) -> Result<Array4<F>> {
        let [down, across] = geometry.separate();
        let between = conv2d(x, self.vertical().view(), None, down)?;
        conv2d(between.view(), self.horizontal().view(), bias, across)
    }
}

impl<F: Float> Factorizer<F, Ix4> for TruncatedSvd {
    type Output = SpatialConv2d<F>;

    /// Factorizes a kernel of shape (out_channels, in_channels, height, width).
    ///
    /// # Errors
    ///
    /// Those for a matrix of shape (in_channels · height, out_channels · width), and
    /// [`Error::ContextUnused`] if the context has moments.
    fn factorize_with(
        &self,
        weights: ArrayView4<'_, F>,
        context: FitContext<'_>,
    ) -> Result<SpatialConv2d<F>> {
        self.validate()?;
        context.unused("the spatial SVD of a kernel")?;
        check::finite("weights", &weights)?;
        let (out, inner, height, width) = weights.dim();
        let matrix = weights.permuted_axes([1, 2, 0, 3]);
        let matrix = matrix.as_standard_layout();
        let matrix = matrix
            .to_shape((inner * height, out * width))
            .expect("both shapes have as many elements");
        Ok(SpatialConv2d {
            shape: [out, inner, height, width],
            matrix: self.factorize(matrix.view())?,
        })
    }
}

impl<F: Float> Compressed<F> for SpatialConv2d<F> {
    fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The parts of the [`matrix`](Self::matrix).
    fn parts(&self) -> Vec<Part<'_>> {
        self.matrix.parts()
    }

    fn storage(&self) -> StorageBits {
        self.matrix.storage()
    }

    fn decompress_into(&self, mut out: ArrayViewMutD<'_, F>) -> Result<()> {
        check::same_shape("out", &self.shape, out.shape())?;
        let [_, _, height, width] = self.shape;
        let matrix = self.matrix.decompress()?;
        for (index, x) in out.indexed_iter_mut() {
            *x = matrix[[index[1] * height + index[2], index[0] * width + index[3]]];
        }
        Ok(())
    }
}
