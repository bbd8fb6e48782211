//! A lower bound on the error of a tensor of low rank.

use ndarray::{ArrayView, ArrayViewD, Dimension};

use super::LowRankLimit;
use crate::{Error, Float, ParamError, Result, check};

/// The most axes for which all unfoldings are used: 2⁵ − 1 of them.
const ALL_UNFOLDINGS: usize = 6;

/// A lower bound on the error of CP and Tucker decompositions of given ranks.
///
/// A tensor of CP rank R has rank at most R in every unfolding into a matrix, and one of Tucker ranks r has rank at most
/// the smaller of the products of r over both sides. The theorem of Eckart and Young bounds each unfolding's error, and
/// the largest of these bounds holds for the tensor. The error of the best decomposition may be far larger. For a matrix
/// the bound is exact.
///
/// All unfoldings are used for tensors of up to six axes, and those of single axes for more.
///
/// ```
/// use taper::limit::UnfoldingLimit;
/// use taper::ndarray::array;
///
/// // A sum of two unit terms, of which rank one keeps one.
/// let tensor = array![[[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]];
/// let limit = UnfoldingLimit::of(tensor.view())?;
/// assert!((limit.cp_squared_error(1)? - 1.0).abs() < 1e-12);
/// assert!(limit.cp_squared_error(2)? < 1e-12);
/// assert!((limit.tucker_squared_error(&[2, 2, 1])? - 1.0).abs() < 1e-12);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct UnfoldingLimit {
    shape: Vec<usize>,
    /// Which axes are rows, and the least error of the matrix at each rank.
    unfoldings: Vec<(Vec<bool>, LowRankLimit)>,
}

impl UnfoldingLimit {
    /// The limit for a tensor of two axes or more.
    ///
    /// # Errors
    ///
    /// [`Error::Dimensions`] for fewer axes, [`Error::EmptyAxis`], [`Error::NonFinite`], [`Error::Overflow`],
    /// [`Error::NoConvergence`].
    pub fn of<F: Float, D: Dimension>(tensor: ArrayView<'_, F, D>) -> Result<Self> {
        let order = tensor.ndim();
        if order < 2 {
            return Err(Error::Dimensions {
                what: "the tensor",
                expected: "two axes or more",
                shape: tensor.shape().to_vec(),
            });
        }
        check::finite("the tensor", &tensor)?;
        let tensor = tensor.mapv(Float::as_f64).into_dyn();
        let unfoldings = sides(order)
            .into_iter()
            .map(|rows| Ok((rows.clone(), unfold(tensor.view(), &rows)?)));
        Ok(Self {
            shape: tensor.shape().to_vec(),
            unfoldings: unfoldings.collect::<Result<_>>()?,
        })
    }

    /// A lower bound on the squared error of every sum of `rank` rank-one terms.
    ///
    /// # Errors
    ///
    /// [`ParamError::Zero`] for no terms.
    pub fn cp_squared_error(&self, rank: usize) -> Result<f64> {
        check::at_least_one("rank", rank)?;
        Ok(self.largest(|_| rank))
    }

    /// A lower bound on the squared error of every Tucker decomposition with these ranks, one for each axis.
    ///
    /// A rank above the length of its axis counts as that length; give any such rank for an axis that is not decomposed (as in
    /// Tucker-2).
    ///
    /// # Errors
    ///
    /// [`ParamError::Zero`] for a rank of zero, [`Error::ShapeMismatch`] for another number of ranks than of axes.
    pub fn tucker_squared_error(&self, ranks: &[usize]) -> Result<f64> {
        check::same_shape("the ranks", &[self.shape.len()], &[ranks.len()])?;
        if ranks.contains(&0) {
            return Err(ParamError::Zero { name: "a rank" }.into());
        }
        let ranks: Vec<usize> = ranks
            .iter()
            .zip(&self.shape)
            .map(|(&rank, &length)| rank.min(length))
            .collect();
        Ok(self.largest(|rows| {
            let side = |side: bool| {
                let ranks = ranks.iter().zip(rows).filter(|(_, row)| **row == side);
                ranks.fold(1_usize, |all, (&rank, _)| all.saturating_mul(rank))
            };
            side(true).min(side(false))
        }))
    }

    /// The squared norm of the tensor: the error of a tensor of zeros.
    #[must_use]
    pub fn squared_norm(&self) -> f64 {
        self.largest(|_| 0)
    }

    fn largest(&self, rank: impl Fn(&[bool]) -> usize) -> f64 {
        self.unfoldings
            .iter()
            .map(|(rows, limit)| limit.squared_error(rank(rows)))
            .fold(0.0, f64::max)
    }
}

/// The ways to divide the axes between rows and columns, each once.
fn sides(order: usize) -> Vec<Vec<bool>> {
    if order > ALL_UNFOLDINGS {
        let single = |axis: usize| (0..order).map(|i| i == axis).collect();
        return (0..order).map(single).collect();
    }
    // The first axis is always among the rows, and some other is not.
    (0..(1_usize << (order - 1)) - 1)
        .map(|others| {
            (0..order)
                .map(|axis| axis == 0 || others >> (axis - 1) & 1 == 1)
                .collect()
        })
        .collect()
}

fn unfold(tensor: ArrayViewD<'_, f64>, rows: &[bool]) -> Result<LowRankLimit> {
    let side = |side: bool| (0..rows.len()).filter(move |&axis| rows[axis] == side);
    let order: Vec<usize> = side(true).chain(side(false)).collect();
    let height: usize = side(true)
        .map(|axis| tensor.len_of(ndarray::Axis(axis)))
        .product();
    let width = tensor.len() / height;
    let turned = tensor.permuted_axes(order);
    let matrix = turned.to_shape((height, width));
    let matrix = matrix.expect("rows and columns divide the axes between them");
    LowRankLimit::of_checked(matrix.view())
}
