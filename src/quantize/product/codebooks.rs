//! What training results in: the centroids of each group.

use ndarray::{Array2, Array3, ArrayView2, ArrayView3, Axis, s};

use super::{Codebook, PqMatrix, SplitAxis};
use crate::cluster;
use crate::packing::PackedCodes;
use crate::{Error, Float, Precision, Result, check, parallel};

/// Trained codebooks: k centroids for each group of a split axis, or k that all groups share.
///
/// Training, encoding and decoding are three verbs here, since codebooks outlive the weights that they were
/// trained on: [`encode`](Self::encode) takes any weights whose split axis has the same length.
///
/// ```
/// use taper::ndarray::array;
/// use taper::quantize::product::ProductQuantizer;
///
/// // Two groups of two inputs each: all four different sub-vectors become centroids.
/// let w = array![[1.0, 2.0, 0.0, 1.0], [3.0, 4.0, 1.0, 0.0], [1.0, 2.0, 1.0, 0.0]];
/// let codebooks = ProductQuantizer::new(2).centroids(4).train(w.view())?;
/// let codes = codebooks.encode(w.view())?.codes();
/// assert_eq!(codes.dim(), (2, 3));
/// assert_eq!(codebooks.decode(codes.view())?, w);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ProductCodebooks<F> {
    /// (books, centroids, width) with an axis order in memory that the kernels of `axis` read.
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
    /// nor that of the groups, or where sizes leave what the machine can address, [`Error::Overflow`] where
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
        // For a split of the inputs the tables are sums over the width, one entry for each centroid: these lie side
        // by side. For a split of the outputs whole centroids are read.
        let rounded = |value: &F| precision.round("a codebook", *value);
        let values = match axis {
            SplitAxis::In => {
                let view = values.permuted_axes([0, 2, 1]);
                let order = view.iter().map(rounded).collect::<Result<Vec<F>>>()?;
                from_order((books, width, centroids), order)?.permuted_axes([0, 2, 1])
            }
            SplitAxis::Out => {
                let order = values.iter().map(rounded).collect::<Result<Vec<F>>>()?;
                from_order((books, centroids, width), order)?
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
    #[must_use]
    pub fn split_length(&self) -> usize {
        self.groups * self.group_width()
    }

    /// The axis of W that is split.
    #[must_use]
    pub fn axis(&self) -> SplitAxis {
        self.axis
    }

    /// Whether the groups share their codebook. One group alone has its own.
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

    /// All centroids, (books, k, d): a book for each group, or a single one.
    #[must_use]
    pub fn values(&self) -> ArrayView3<'_, F> {
        self.values.view()
    }

    /// The centroids (k, d) of the group with number `group`; of the last group for a number beyond it.
    #[must_use]
    pub fn codebook(&self, group: usize) -> ArrayView2<'_, F> {
        let book = group.min(self.values.len_of(Axis(0)) - 1);
        self.values.index_axis(Axis(0), book)
    }

    /// The values of a codebook in the order in memory: (d, k) for [`SplitAxis::In`], (k, d) for the other.
    pub(super) fn slice(&self, group: usize) -> &[F] {
        let length = self.centroids() * self.group_width();
        self.slice_from(group).get(..length).unwrap_or_default()
    }

    /// The values of the codebook of `group` and of all that follow, in the order in memory.
    pub(super) fn slice_from(&self, group: usize) -> &[F] {
        let length = self.centroids() * self.group_width();
        let book = group.min(self.values.len_of(Axis(0)) - 1);
        self.values
            .as_slice_memory_order()
            .and_then(|values| values.get(book * length..))
            .unwrap_or_default()
    }

    /// The bits of a code: ⌈log₂ k⌉.
    #[must_use]
    pub fn code_bits(&self) -> u32 {
        PackedCodes::bits_for(self.centroids())
    }

    /// Replaces each sub-vector of `weights` (out_features, in_features) by its nearest centroid.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`] where the split axis has another length than that which was trained on,
    /// [`Error::NonFinite`], [`Error::EmptyAxis`].
    pub fn encode(&self, weights: ArrayView2<'_, F>) -> Result<PqMatrix<F>> {
        check::finite("weights", &weights)?;
        let vectors = self.axis.vectors(weights);
        if vectors.ncols() != self.split_length() {
            let mut expected = weights.dim();
            match self.axis {
                SplitAxis::In => expected.1 = self.split_length(),
                SplitAxis::Out => expected.0 = self.split_length(),
            }
            check::same_shape("weights", &[expected.0, expected.1], weights.shape())?;
        }
        let width = self.group_width();
        let few = self.groups.div_ceil(4 * parallel::threads());
        let together = (GATHERED / (width * size_of::<F>())).clamp(1, few);
        let codes = parallel::map(self.groups.div_ceil(together), |batch| {
            let first = batch * together;
            let last = self.groups.min(first + together);
            let vectors = vectors.slice(s![.., first * width..last * width]);
            let codes = (first..last)
                .zip(parts(vectors, width))
                .map(|(group, points)| cluster::assign(points.view(), self.codebook(group)));
            Ok(codes.collect::<Result<Vec<_>>>()?.concat())
        });
        let codes = codes.into_iter().collect::<Result<Vec<_>>>()?.concat();
        PqMatrix::from_codes(self.clone(), [weights.nrows(), weights.ncols()], &codes)
    }

    /// The weights (out_features, in_features) that `codes` of shape (m, n) stand for, n being the length of the
    /// axis that is not split.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`] where `codes` has not one row a group, [`Error::EmptyAxis`],
    /// [`Error::ExceedsInput`] for a code that is no centroid.
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

/// Bytes of a row that are gathered together: waiting for the first line of memory then is a small part of it.
const GATHERED: usize = 1024;

/// Each `width` columns of `vectors` as an array of their own, without the gaps of rows, which lie a power of two apart where they
/// push each other out of the cache.
fn parts<F: Float>(vectors: ArrayView2<'_, F>, width: usize) -> Vec<Array2<F>> {
    let count = vectors.ncols() / width;
    let mut parts = vec![Array2::zeros((vectors.nrows(), width)); count];
    if vectors.strides()[1] == 1 {
        let mut slices: Vec<_> = parts.iter_mut().filter_map(Array2::as_slice_mut).collect();
        for (i, row) in vectors.outer_iter().enumerate() {
            let values = row.as_slice().unwrap_or_default().chunks_exact(width);
            for (part, values) in slices.iter_mut().zip(values) {
                part[i * width..(i + 1) * width].copy_from_slice(values);
            }
        }
    } else {
        for (part, values) in parts
            .iter_mut()
            .zip(vectors.axis_chunks_iter(Axis(1), width))
        {
            part.assign(&values);
        }
    }
    parts
}

fn from_order<F: Float>(shape: (usize, usize, usize), values: Vec<F>) -> Result<Array3<F>> {
    Array3::from_shape_vec(shape, values).map_err(|error| Error::Malformed {
        artifact: "product codebooks",
        problem: error.to_string(),
    })
}
