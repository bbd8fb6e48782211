//! The dense matrix product.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use ndarray::{Array2, ArrayView2};

/// x Wᵀ of shape (batch, out), for x of shape (batch, in) and W of shape (out, in), on the calling thread.
///
/// # Panics
///
/// If the two inner lengths differ.
pub fn times_transposed(x: ArrayView2<'_, f32>, weight: ArrayView2<'_, f32>) -> Array2<f32> {
    assert_eq!(x.ncols(), weight.ncols(), "inner lengths of a product");
    let (batch, inner, outputs) = (x.nrows(), x.ncols(), weight.nrows());
    let mut y = Array2::zeros((batch, outputs));
    let (x, weight) = (x.as_standard_layout(), weight.as_standard_layout());
    let (Some(xs), Some(ws), Some(ys)) = (x.as_slice(), weight.as_slice(), y.as_slice_mut()) else {
        unreachable!("arrays in standard layout are slices");
    };
    matmul(
        MatMut::from_row_major_slice_mut(ys, batch, outputs),
        Accum::Replace,
        MatRef::from_row_major_slice(xs, batch, inner),
        MatRef::from_row_major_slice(ws, outputs, inner).transpose(),
        1.0,
        Par::Seq,
    );
    y
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::s;

    #[test]
    fn equals_the_product_by_definition_for_any_strides() {
        let wide = Array2::from_shape_fn((14, 33), |(i, j)| ((i * 7 + j * 3) % 11) as f32 - 5.0);
        let x = wide.slice(s![..;2, ..;-3]);
        let tall = Array2::from_shape_fn((11, 9), |(i, j)| ((i * 5 + j) % 7) as f32 - 3.0);
        let weight = tall.t();
        let y = times_transposed(x, weight);
        // Small integers: the product is exact in any order.
        for ((b, o), value) in y.indexed_iter() {
            let expected: f32 = (0..11).map(|i| x[[b, i]] * weight[[o, i]]).sum();
            assert_eq!(*value, expected);
        }
    }
}
