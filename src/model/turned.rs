//! Tensors whose elements a file has in another order than taper.

use ndarray::{ArrayViewD, IxDyn};

/// How a file stores a tensor whose axes are not in taper's order: it has the shape `stored`, and taper's tensor is that array with
/// the axes `order`, seen in the shape `shape`.
///
/// The rules of row-major order apply to both: `shape` may join axes that follow each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Turned {
    pub(crate) stored: Vec<usize>,
    pub(crate) order: Vec<usize>,
    pub(crate) shape: Vec<usize>,
}

impl Turned {
    /// Elements of `size` bytes, from the order of the file into that of taper.
    pub(crate) fn turn(&self, bytes: &[u8], size: usize) -> Vec<u8> {
        permuted(bytes, size, &self.stored, &self.order)
    }

    /// Elements of `size` bytes, from the order of taper into that of the file.
    pub(crate) fn back(&self, bytes: &[u8], size: usize) -> Vec<u8> {
        let turned: Vec<usize> = self.order.iter().map(|&axis| self.stored[axis]).collect();
        permuted(bytes, size, &turned, &self.inverse())
    }

    /// The axis of the turned array that each stored axis is.
    pub(crate) fn inverse(&self) -> Vec<usize> {
        let mut inverse = vec![0; self.order.len()];
        for (place, &axis) in self.order.iter().enumerate() {
            inverse[axis] = place;
        }
        inverse
    }
}

fn permuted(bytes: &[u8], size: usize, shape: &[usize], order: &[usize]) -> Vec<u8> {
    fn of<const N: usize>(bytes: &[u8], shape: &[usize], order: &[usize]) -> Vec<u8> {
        let (elements, rest) = bytes.as_chunks::<N>();
        assert!(rest.is_empty(), "the bytes are whole elements");
        let array = ArrayViewD::from_shape(IxDyn(shape), elements);
        let array = array.expect("the bytes are those of the shape");
        let permuted = array.permuted_axes(order.to_vec());
        permuted.iter().flatten().copied().collect()
    }
    match size {
        1 => of::<1>(bytes, shape, order),
        2 => of::<2>(bytes, shape, order),
        4 => of::<4>(bytes, shape, order),
        8 => of::<8>(bytes, shape, order),
        _ => unreachable!("elements have 1, 2, 4 or 8 bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turning_and_turning_back_is_the_identity() {
        let turned = Turned {
            stored: vec![2, 3, 4, 5],
            order: vec![0, 2, 1, 3],
            shape: vec![8, 3, 5],
        };
        for size in [1, 2, 4, 8] {
            let bytes: Vec<u8> = (0..120 * size).map(|i| (i % 251) as u8).collect();
            let there = turned.turn(&bytes, size);
            assert_ne!(there, bytes);
            assert_eq!(turned.back(&there, size), bytes);
        }
    }

    #[test]
    fn a_turned_matrix_is_its_transpose() {
        let turned = Turned {
            stored: vec![2, 3],
            order: vec![1, 0],
            shape: vec![3, 2],
        };
        assert_eq!(turned.turn(&[0, 1, 2, 3, 4, 5], 1), [0, 3, 1, 4, 2, 5]);
    }
}
