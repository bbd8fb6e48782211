//! Codebooks: the centroids of each group.

use ndarray::{Array2, Array3, ArrayView2, ArrayView3, Axis, CowArray, Ix2, s};

use super::{Codebook, SplitAxis};
use crate::packing::PackedCodes;
use crate::{Error, FitReport, Float, Precision, Result, check, linalg};

/// Trained codebooks: k centroids for each group of a split axis, or k that all groups share.
///
/// [`encode`](Self::encode) takes any weights whose split axis has the length of the training weights.
///
/// ```
/// use taper::ndarray::array;
/// use taper::quantize::product::ProductQuantizer;
///
/// // Two groups of two inputs. There are four different sub-vectors, and each becomes a centroid.
/// let w = array![[1.0, 2.0, 0.0, 1.0], [3.0, 4.0, 1.0, 0.0], [1.0, 2.0, 1.0, 0.0]];
/// let codebooks = ProductQuantizer::new(2).centroids(4).train(w.view())?;
/// let codes = codebooks.encode(w.view())?.codes();
/// assert_eq!(codes.dim(), (2, 3));
/// assert_eq!(codebooks.decode(codes.view())?, w);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ProductCodebooks<F> {
    /// (books, centroids, width). The order in memory is the one that the kernels of `axis` read.
    values: Array3<F>,
    groups: usize,
    axis: SplitAxis,
    precision: Precision,
}

impl<F: Float> ProductCodebooks<F> {
    /// Codebooks of shape (books, k, width), where there is one book for each of the `groups`, or a single one.
    ///
    /// The values are rounded to `precision`.
    ///
    /// # Errors
    ///
    /// [`Error::NonFinite`], [`Error::EmptyAxis`], [`Error::Malformed`] where the number of books is neither one
    /// nor that of the groups, or where the sizes do not fit into the address space, [`Error::Overflow`] where
    /// a value is beyond the range of `precision`.
    pub fn from_parts(
        groups: usize,
        axis: SplitAxis,
        precision: Precision,
        values: ArrayView3<'_, F>,
    ) -> Result<Self> {
        check::finite("codebooks", &values)?;
        let (books, centroids, width) = values.dim();
        let malformed = |problem| Error::Malformed {
            artifact: "product codebooks",
            problem,
        };
        if groups == 0 || (books != 1 && books != groups) {
            return Err(malformed(format!("{books} codebooks for {groups} groups")));
        }
        if groups.checked_mul(width).is_none() || u32::try_from(centroids - 1).is_err() {
            return Err(malformed(format!(
                "{groups} groups of {centroids} centroids of {width} values"
            )));
        }
        // With the inputs split, the kernels compute a table with one entry for each centroid, value by value of the
        // width: equal values of all centroids are contiguous. With the outputs split, they read whole centroids.
        let rounded = |value: &F| precision.round("a codebook", *value);
        let values = match axis {
            SplitAxis::In => {
                let view = values.permuted_axes([0, 2, 1]);
                let order = view.iter().map(rounded).collect::<Result<Vec<F>>>()?;
                from_order((books, width, centroids), order).permuted_axes([0, 2, 1])
            }
            SplitAxis::Out => {
                let order = values.iter().map(rounded).collect::<Result<Vec<F>>>()?;
                from_order((books, centroids, width), order)
            }
        };
        Ok(Self {
            values,
            groups,
            axis,
            precision,
        })
    }

    /// The number m of groups.
    #[must_use]
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// The number k of centroids in a codebook.
    #[must_use]
    pub fn centroids(&self) -> usize {
        self.values.len_of(Axis(1))
    }

    /// The width d of a group: the length of a centroid.
    #[must_use]
    pub fn group_width(&self) -> usize {
        self.values.len_of(Axis(2))
    }

    /// The length m·d of the axis that is split.
    pub(super) fn split_length(&self) -> usize {
        self.groups * self.group_width()
    }

    /// The axis of W that is split.
    #[must_use]
    pub fn axis(&self) -> SplitAxis {
        self.axis
    }

    /// Whether the groups share one codebook. For a single group it is [`Codebook::PerGroup`].
    #[must_use]
    pub fn kind(&self) -> Codebook {
        if self.values.len_of(Axis(0)) < self.groups {
            Codebook::Shared
        } else {
            Codebook::PerGroup
        }
    }

    /// The precision in which the centroids are stored.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// All centroids, of shape (books, k, d), with one book for each group or one for all.
    #[must_use]
    pub fn values(&self) -> ArrayView3<'_, F> {
        self.values.view()
    }

    /// The centroids (k, d) of group `group`, or of the last group where there are fewer.
    #[must_use]
    pub fn codebook(&self, group: usize) -> ArrayView2<'_, F> {
        let book = group.min(self.values.len_of(Axis(0)) - 1);
        self.values.index_axis(Axis(0), book)
    }

    /// The values of the codebook of `group` in memory order: (d, k) for [`SplitAxis::In`], (k, d) for [`SplitAxis::Out`].
    pub(super) fn slice(&self, group: usize) -> &[F] {
        let length = self.centroids() * self.group_width();
        &self.slice_from(group)[..length]
    }

    /// The values of the codebook of `group` and of all that follow, in memory order.
    pub(super) fn slice_from(&self, group: usize) -> &[F] {
        let length = self.centroids() * self.group_width();
        let book = group.min(self.values.len_of(Axis(0)) - 1);
        let values = self.values.as_slice_memory_order();
        &values.expect("codebooks have no gaps")[book * length..]
    }

    /// The size of a code in bits, ⌈log₂ k⌉.
    pub(crate) fn code_bits(&self) -> u32 {
        PackedCodes::bits_for(self.centroids())
    }

    /// The weights (out_features, in_features) for `codes` of shape (m, n), n being the length of the axis that is not
    /// split.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`] where `codes` does not have one row for each group, [`Error::EmptyAxis`],
    /// [`Error::ExceedsInput`] for a code that is not the number of a centroid.
    pub fn decode(&self, codes: ArrayView2<'_, u32>) -> Result<Array2<F>> {
        check::not_empty("codes", codes.shape())?;
        check::same_shape("codes", &[self.groups, codes.ncols()], codes.shape())?;
        let largest = self.centroids() - 1;
        if let Some(&code) = codes.iter().find(|&&code| code as usize > largest) {
            return Err(Error::ExceedsInput {
                what: "a code",
                value: code as usize,
                limit: largest,
            });
        }
        let mut vectors = Array2::zeros((codes.ncols(), self.split_length()));
        let width = self.group_width();
        for (group, codes) in codes.outer_iter().enumerate() {
            let codebook = self.codebook(group);
            let mut part = vectors.slice_mut(s![.., group * width..(group + 1) * width]);
            for (mut vector, &code) in part.outer_iter_mut().zip(codes) {
                vector.assign(&codebook.row(code as usize));
            }
        }
        Ok(match self.axis {
            SplitAxis::In => vectors,
            SplitAxis::Out => vectors.reversed_axes(),
        })
    }
}

fn from_order<F: Float>(shape: (usize, usize, usize), values: Vec<F>) -> Array3<F> {
    Array3::from_shape_vec(shape, values).expect("the values are those of an array of this size")
}

/// Codebooks, the codes of the weights they were trained on (group after group), and the report of the fit.
pub(super) struct Fit<F> {
    pub(super) codebooks: ProductCodebooks<F>,
    pub(super) codes: Vec<u32>,
    pub(super) report: FitReport,
}

/// The sub-vectors of all groups, those of one vector side by side: a view where the order in memory allows it.
pub(super) fn sub_vectors<F: Float>(
    vectors: ArrayView2<'_, F>,
    groups: usize,
    width: usize,
) -> CowArray<'_, F, Ix2> {
    let shape = (vectors.nrows() * groups, width);
    linalg::as_matrix(vectors, shape).expect("the groups make up the vectors")
}

/// The assignments of [`sub_vectors`], group by group.
pub(super) fn by_group(assignments: &[u32], groups: usize) -> Vec<Vec<u32>> {
    let of_group = |g: usize| assignments.iter().skip(g).step_by(groups).copied();
    (0..groups).map(|g| of_group(g).collect()).collect()
}
