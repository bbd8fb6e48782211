//! Arrays between ndarray 0.17 and ndarray 0.16, the version of linfa 0.8.

use ndarray::{Array2, ArrayView2, CowArray, Ix2, ShapeBuilder};
use ndarray_016 as old;

/// An array of ndarray 0.16 as one of ndarray 0.17, copied only where it has gaps or runs backwards in memory.
pub(crate) fn from_linfa<F: Copy>(
    array: &old::ArrayBase<impl old::Data<Elem = F>, old::Ix2>,
) -> CowArray<'_, F, Ix2> {
    if let Some(values) = array.as_slice_memory_order()
        && let [Ok(rows), Ok(columns)] = [0, 1].map(|axis| usize::try_from(array.strides()[axis]))
        && let Ok(view) = ArrayView2::from_shape(array.dim().strides((rows, columns)), values)
    {
        return view.into();
    }
    let values = array.iter().copied().collect();
    Array2::from_shape_vec(array.dim(), values)
        .expect("one value for each element of the array")
        .into()
}

/// An array of ndarray 0.17 as one of ndarray 0.16, copied only where it has gaps or another order than that of rows.
pub(crate) fn to_linfa<'a, F: Copy>(
    array: &'a ArrayView2<'_, F>,
) -> old::CowArray<'a, F, old::Ix2> {
    if let Some(values) = array.as_slice()
        && let Ok(view) = old::ArrayView2::from_shape(array.dim(), values)
    {
        return view.into();
    }
    into_linfa(array.to_owned()).into()
}

/// The same for an owned array.
pub(crate) fn into_linfa<F: Copy>(array: Array2<F>) -> old::Array2<F> {
    let shape = array.dim();
    let (values, _) = array
        .as_standard_layout()
        .into_owned()
        .into_raw_vec_and_offset();
    old::Array2::from_shape_vec(shape, values).expect("one value for each element of the array")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_layout_keeps_its_values_and_contiguous_ones_their_memory() {
        let array = old::Array2::from_shape_fn((4, 6), |(i, j)| (10 * i + j) as f32);
        let turned = array.t();
        let reversed = array.slice(old::s![..;-1, ..;2]);
        for (view, borrowed) in [(array.view(), true), (turned, true), (reversed, false)] {
            let ours = from_linfa(&view);
            assert_eq!(ours.is_view(), borrowed);
            assert_eq!(ours.dim(), view.dim());
            assert!(view.indexed_iter().all(|((i, j), x)| ours[[i, j]] == *x));
            let back = to_linfa(&ours.view()).to_owned();
            assert_eq!(back, view);
            assert_eq!(into_linfa(ours.into_owned()), view);
        }
    }
}
