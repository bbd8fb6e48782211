//! y = x Wᵀ with a product-quantized W, by look-ups or by decompressing one block of W after the other.

use ndarray::{ArrayView2, ArrayViewMut2, Axis};

use super::{PqMatrix, SplitAxis};
use crate::artifact::check_apply;
use crate::kernels::Level;
use crate::{Float, LinearOp, Result, linalg};

/// Rows of x that are computed together. It limits the memory that look-ups need besides the result.
const ROWS: usize = 256;
/// Weights that are decompressed together. It limits the memory of this method.
const BLOCK: usize = 1 << 20;

/// How a product with a [`PqMatrix`] is computed.
///
/// ```
/// use taper::ndarray::Array2;
/// use taper::quantize::product::{ProductMethod, ProductQuantizer};
/// use taper::Quantizer;
///
/// let weights = Array2::from_shape_fn((64, 32), |(o, i)| ((o * 3 + i * 5) % 7) as f64);
/// let matrix = ProductQuantizer::with_width(4).centroids(8).quantize(weights.view())?;
/// let x = Array2::ones((2, 32));
/// let products = [ProductMethod::LookUp, ProductMethod::Decompress].map(|method| {
///     let mut y = Array2::zeros((2, 64));
///     matrix.apply_by(method, x.view(), y.view_mut()).map(|()| y)
/// });
/// assert_eq!(products[0], products[1]); // sums of small integers are exact
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProductMethod {
    /// From the codes, as [the module](super) explains.
    LookUp,
    /// Decompresses one block of W after the other and multiplies with it.
    Decompress,
}

impl<F: Float> LinearOp<F> for PqMatrix<F> {
    /// By look-ups, as [the module](super) explains, or by decompressing one block of W after the other, whichever is expected
    /// to be faster for this batch.
    fn apply_into(&self, x: ArrayView2<'_, F>, y: ArrayViewMut2<'_, F>) -> Result<()> {
        self.apply_by(self.method(x.nrows()), x, y)
    }
}

impl<F: Float> PqMatrix<F> {
    /// The method that is expected to be faster for `batch` rows of x.
    ///
    /// Costs are estimated in multiply-adds. For each row of x, look-ups take 2 for each code with [`SplitAxis::In`] and 5
    /// with [`SplitAxis::Out`], and one for each value of the codebooks. Decompressing takes 30 for each weight, once, and one
    /// for each weight and row of x. The constants follow from the times below, in microseconds for `f32`: look-ups /
    /// decompressing, and faer's product with a dense W, on two cores of an AMD EPYC (Zen 4, AVX-512), by
    /// `cargo bench --bench product -- apply`.
    ///
    /// | W | k | d | axis | batch 1 | 4 | 16 | 64 | 256 |
    /// |---|--:|--:|---|--:|--:|--:|--:|--:|
    /// | 512 × 512 | dense | | | 50 | 85 | 145 | 313 | 976 |
    /// | | 16 | 8 | in | 7 / 188 | 20 / 345 | 47 / 266 | 134 / 587 | 613 / 1077 |
    /// | | 16 | 8 | out | 16 / 98 | 46 / 213 | 67 / 494 | 256 / 281 | 929 / 767 |
    /// | | 256 | 8 | in | 16 / 165 | 44 / 235 | 73 / 280 | 199 / 365 | 715 / 799 |
    /// | | 256 | 8 | out | 17 / 133 | 53 / 200 | 83 / 242 | 277 / 340 | 964 / 806 |
    /// | | 256 | 2 | in | 37 / 219 | 98 / 235 | 130 / 310 | 431 / 391 | 1526 / 822 |
    /// | | 256 | 2 | out | 93 / 134 | 159 / 198 | 293 / 250 | 862 / 349 | 3472 / 794 |
    /// | 4096 × 4096 | dense | | | 1848 | 5548 | 7435 | 19737 | 45982 |
    /// | | 16 | 8 | in | 152 / 7755 | 596 / 14364 | 996 / 16303 | 3081 / 24746 | 12233 / 75598 |
    /// | | 16 | 8 | out | 507 / 2944 | 1368 / 3543 | 3421 / 5493 | 6996 / 15577 | 26716 / 64993 |
    /// | | 256 | 8 | in | 367 / 12028 | 747 / 16441 | 1275 / 20720 | 4961 / 27838 | 16618 / 76967 |
    /// | | 256 | 8 | out | 436 / 4394 | 1152 / 5134 | 2232 / 7207 | 5876 / 16430 | 27729 / 55229 |
    #[doc(hidden)]
    #[must_use]
    pub fn method(&self, batch: usize) -> ProductMethod {
        let books = &self.codebooks;
        let look_up = match books.axis() {
            SplitAxis::In => 2.0,
            SplitAxis::Out => 5.0,
        };
        let centroids = books.split_length() as f64 * books.centroids() as f64;
        let a_row = look_up * self.codes.len() as f64 + centroids;
        // The kernels compute eight rows at a time, or a single one.
        let rows = match batch {
            1 => 4.0,
            _ => batch.next_multiple_of(8) as f64,
        };
        let weights = self.shape[0] as f64 * self.shape[1] as f64;
        if rows * a_row <= weights * (batch as f64 + 30.0) {
            ProductMethod::LookUp
        } else {
            ProductMethod::Decompress
        }
    }

    /// [`apply_into`](LinearOp::apply_into) by the given method.
    ///
    /// Both methods compute the same product, with roundings in another order. The result of each is the same for any number
    /// of threads.
    ///
    /// # Errors
    ///
    /// Those of [`apply_into`](LinearOp::apply_into).
    #[doc(hidden)]
    pub fn apply_by(
        &self,
        method: ProductMethod,
        x: ArrayView2<'_, F>,
        y: ArrayViewMut2<'_, F>,
    ) -> Result<()> {
        check_apply(self.shape, &x, &y)?;
        self.product(x, y, Level::current(), method);
        Ok(())
    }

    pub(super) fn product(
        &self,
        x: ArrayView2<'_, F>,
        mut y: ArrayViewMut2<'_, F>,
        level: Level,
        method: ProductMethod,
    ) {
        if method == ProductMethod::Decompress {
            return self.decompress_and_multiply(x, y);
        }
        for (x, y) in x
            .axis_chunks_iter(Axis(0), ROWS)
            .zip(y.axis_chunks_iter_mut(Axis(0), ROWS))
        {
            // A table of 256 entries has one for each code of up to eight bits.
            if self.codes.bits() <= 8 {
                self.look_up::<u8>(x, y, level);
            } else {
                self.look_up::<u32>(x, y, level);
            }
        }
    }

    fn decompress_and_multiply(&self, x: ArrayView2<'_, F>, mut y: ArrayViewMut2<'_, F>) {
        let inputs = self.shape[1];
        let rows = (BLOCK / inputs).max(1).next_multiple_of(self.row_step());
        let mut block = vec![F::zero(); rows.min(self.shape[0]) * inputs];
        for (i, y) in y.axis_chunks_iter_mut(Axis(1), rows).enumerate() {
            let block = &mut block[..y.ncols() * inputs];
            self.decompress_rows(i * rows..i * rows + y.ncols(), block);
            let block = ArrayView2::from_shape((y.ncols(), inputs), block);
            let block = block.expect("the block has this many rows");
            linalg::product_into(x, block.t(), y);
        }
    }
}
