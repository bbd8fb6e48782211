//! The checks that public functions make on their inputs.

use std::cmp::Ordering;

use ndarray::{ArrayBase, ArrayView, ArrayView1, Data, Dimension};

use crate::{Error, Float, ParamError, Result};

/// Fails if `array` has an empty axis, a NaN or an infinity.
pub(crate) fn finite<F: Float, D: Dimension>(
    what: &'static str,
    array: &ArrayView<'_, F, D>,
) -> Result<()> {
    not_empty(what, array.shape())?;
    // `&` without an early exit inside a chunk, so that the test vectorizes.
    let all_finite = match array.as_slice_memory_order() {
        Some(values) => values
            .chunks(1024)
            .all(|chunk| chunk.iter().fold(true, |ok, x| ok & x.is_finite())),
        None => array.iter().all(|x| x.is_finite()),
    };
    if all_finite {
        return Ok(());
    }
    let mut values = array.iter().enumerate();
    let (position, value) = values
        .find(|(_, x)| !x.is_finite())
        .expect("some value is not finite");
    Err(Error::NonFinite {
        what,
        index: unravel(position, array.shape()),
        value: value.as_f64(),
    })
}

/// Fails if there are no `values`, or one is negative or not finite: of weights and counts.
pub(crate) fn not_negative<F: Float>(what: &'static str, values: &ArrayView1<'_, F>) -> Result<()> {
    finite(what, values)?;
    if let Some(value) = values.iter().find(|x| **x < F::zero()) {
        in_range(what, value.as_f64(), "at least 0", false)?;
    }
    Ok(())
}

/// Fails if any axis of `shape` is empty.
pub(crate) fn not_empty(what: &'static str, shape: &[usize]) -> Result<()> {
    if shape.contains(&0) {
        return Err(Error::EmptyAxis {
            what,
            shape: shape.to_vec(),
        });
    }
    Ok(())
}

/// Fails if `found` is not `expected`.
pub(crate) fn same_shape(what: &'static str, expected: &[usize], found: &[usize]) -> Result<()> {
    if expected != found {
        return Err(Error::ShapeMismatch {
            what,
            expected: expected.to_vec(),
            found: found.to_vec(),
        });
    }
    Ok(())
}

/// Fails if an array of this shape, with elements of `bytes` bytes, does not fit into the address space.
pub(crate) fn has_address(what: &'static str, shape: &[usize], bytes: usize) -> Result<()> {
    shape
        .iter()
        .try_fold(bytes, |size, &length| size.checked_mul(length))
        .filter(|&size| isize::try_from(size).is_ok())
        .ok_or(Error::Overflow { what })?;
    Ok(())
}

/// The largest magnitude in `array`; zero where it is empty.
pub(crate) fn largest<F: Float, S: Data<Elem = F>, D: Dimension>(array: &ArrayBase<S, D>) -> F {
    let larger = |a: F, b: F| if b > a { b } else { a };
    let Some(values) = array.as_slice_memory_order() else {
        return array.iter().map(|x| x.abs()).fold(F::zero(), larger);
    };
    // Sixteen maxima side by side, so that the loop vectorizes.
    let (chunks, rest) = values.as_chunks::<16>();
    let mut largest = [F::zero(); 16];
    for chunk in chunks {
        for (largest, x) in largest.iter_mut().zip(chunk) {
            *largest = larger(*largest, x.abs());
        }
    }
    let all = largest.into_iter().chain(rest.iter().map(|x| x.abs()));
    all.fold(F::zero(), larger)
}

/// Fails if one of the computed `values` is not finite; `what` names such a value.
pub(crate) fn no_overflow<'a, F: Float>(
    what: &'static str,
    values: impl IntoIterator<Item = &'a F>,
) -> Result<()> {
    if values.into_iter().all(|x| x.is_finite()) {
        return Ok(());
    }
    Err(Error::Overflow { what })
}

/// Fails if a sum of `terms` products may leave the range of the type. Each product takes one value from every factor;
/// `factors` holds the largest magnitude of each. Of three factors and more, any may be multiplied and summed first: these
/// sums must be in range too.
pub(crate) fn product_in_range<F: Float>(
    what: &'static str,
    terms: usize,
    factors: impl IntoIterator<Item = F>,
) -> Result<()> {
    let mut factors: Vec<F> = factors.into_iter().collect();
    // In rising order, so that no product of the first of them is larger than that of all.
    factors.sort_by(|a, b| a.partial_cmp(b).unwrap_or(Ordering::Equal));
    let product = |factors: &mut dyn Iterator<Item = F>| factors.fold(F::one(), |a, b| a * b);
    let large = product(&mut factors.iter().map(|&x| x.max(F::one())));
    let terms = F::from_usize(terms).expect("every count has a nearest number");
    let first = if factors.len() > 2 {
        large * terms
    } else {
        large
    };
    let all = product(&mut factors.iter().copied()) * terms;
    no_overflow(what, [&first, &all])
}

/// Fails if the count `value` is zero.
pub(crate) fn at_least_one(name: &'static str, value: usize) -> Result<(), ParamError> {
    if value == 0 {
        return Err(ParamError::Zero { name });
    }
    Ok(())
}

/// Fails unless the value is `inside` its range, which `range` describes in words.
pub(crate) fn in_range(
    name: &'static str,
    value: f64,
    range: &'static str,
    inside: bool,
) -> Result<(), ParamError> {
    if !inside {
        return Err(ParamError::OutOfRange { name, range, value });
    }
    Ok(())
}

/// Fails if `value` is not in [0, 1). A fit ends when an iteration lowers the loss by less than this fraction.
pub(crate) fn tolerance(value: f64) -> Result<(), ParamError> {
    in_range("tolerance", value, "in [0, 1)", (0.0..1.0).contains(&value))
}

/// Fails if `damping` is negative or not finite.
pub(crate) fn damping(damping: f64) -> Result<(), ParamError> {
    let inside = damping >= 0.0 && damping.is_finite();
    in_range("damping", damping, "at least 0 and finite", inside)
}

/// The length of each part when an axis of `length` is divided into `parts` equal parts; fails if it does not divide.
pub(crate) fn divide(what: &'static str, length: usize, parts: usize) -> Result<usize> {
    if parts > 0 && length.is_multiple_of(parts) {
        return Ok(length / parts);
    }
    let below = (1..parts.min(length + 1))
        .rev()
        .find(|d| length.is_multiple_of(*d));
    let above = (parts.saturating_add(1)..=length).find(|d| length.is_multiple_of(*d));
    Err(Error::Indivisible {
        what,
        parts,
        length,
        nearest: below.into_iter().chain(above).collect(),
    })
}

/// The index of the element at `position` in row-major order.
pub(crate) fn unravel(mut position: usize, shape: &[usize]) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for (i, &length) in index.iter_mut().zip(shape).rev() {
        *i = position % length;
        position /= length;
    }
    index
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array2, array};

    #[test]
    fn finite_names_the_index_of_the_first_bad_value() {
        let mut a = Array2::<f32>::zeros((3, 4));
        assert_eq!(finite("a", &a.view()), Ok(()));
        a[[1, 2]] = f32::INFINITY;
        let expected = Error::NonFinite {
            what: "a",
            index: vec![1, 2],
            value: f64::INFINITY,
        };
        assert_eq!(finite("a", &a.view()), Err(expected));
        // The index is that in the view's own axes.
        let transposed = finite("a", &a.t()).unwrap_err();
        assert!(matches!(transposed, Error::NonFinite { index, .. } if index == [2, 1]));
    }

    #[test]
    fn finite_accepts_the_extremes() {
        let a = array![f32::MAX, f32::MIN, f32::MIN_POSITIVE, -0.0, 1e-45];
        assert_eq!(finite("a", &a.view()), Ok(()));
    }

    #[test]
    fn empty_axes_are_refused() {
        let a = Array2::<f64>::zeros((0, 4));
        assert!(matches!(
            finite("a", &a.view()),
            Err(Error::EmptyAxis { .. })
        ));
    }

    #[test]
    fn factors_are_in_range_in_any_order() {
        let range = |terms, factors: &[f32]| product_in_range("a", terms, factors.iter().copied());
        assert!(range(2, &[1e30, 1e-30, 1e30]).is_err());
        assert!(range(2, &[1e-30, 1e30, 1e30]).is_err());
        // A sum of two such products is out of range before the third factor makes it smaller.
        assert!(range(2, &[1e19, 2e19, 1e-30]).is_err());
        assert!(range(2, &[3e38, 0.1]).is_ok());
        assert!(range(20, &[3e38, 0.1]).is_err());
        assert!(range(2, &[1e30, 1e-30, 1e-30]).is_ok());
        assert!(range(2, &[1e-30, 0.0, 1e30]).is_ok());
        for bad in [f32::NAN, f32::INFINITY] {
            assert!(range(1, &[bad, 1.0]).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_beyond_the_address_space_are_refused() {
        let limit = isize::MAX as usize;
        assert_eq!(has_address("a", &[limit / 8, 2], 4), Ok(()));
        for shape in [[limit, 2], [limit / 4, 2], [usize::MAX, usize::MAX]] {
            let refused = has_address("a", &shape, 4);
            assert_eq!(refused, Err(Error::Overflow { what: "a" }));
        }
    }

    #[test]
    fn divide_names_the_nearest_divisors() {
        assert_eq!(divide("groups", 512, 64), Ok(8));
        let Err(Error::Indivisible { nearest, .. }) = divide("groups", 12, 5) else {
            panic!("5 does not divide 12");
        };
        assert_eq!(nearest, [4, 6]);
        let Err(Error::Indivisible { nearest, .. }) = divide("groups", 12, 13) else {
            panic!("13 does not divide 12");
        };
        assert_eq!(nearest, [12]);
        let Err(Error::Indivisible { nearest, .. }) = divide("groups", 12, usize::MAX) else {
            panic!("no such number divides 12");
        };
        assert_eq!(nearest, [12]);
    }

    #[test]
    fn tolerances_are_fractions() {
        assert!([0.0, 1e-300, 0.999].iter().all(|&t| tolerance(t).is_ok()));
        for outside in [1.0, -1e-300, f64::NAN, f64::INFINITY] {
            assert!(matches!(
                tolerance(outside),
                Err(ParamError::OutOfRange {
                    name: "tolerance",
                    ..
                })
            ));
        }
    }
}
