//! Orthogonal matrices that are learned with the codes, of one block or of several along the diagonal.

use std::borrow::Cow;

use ndarray::{Array2, Array3, ArrayView2, ArrayView3, ArrayViewMut2, Axis, s};

use crate::{Error, Float, Part, Precision, Result, Role, check, linalg};

/// An orthogonal matrix R of blocks along its diagonal: v ↦ v R rotates vectors, v ↦ v Rᵀ brings them back.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rotation<F> {
    /// (blocks, size, size)
    blocks: Array3<F>,
    precision: Precision,
}

impl<F: Float> Rotation<F> {
    /// The blocks, rounded to `precision`.
    ///
    /// # Errors
    ///
    /// [`Error::NonFinite`], [`Error::EmptyAxis`], [`Error::ShapeMismatch`] for blocks that are not square, and
    /// [`Error::Malformed`] for one that is not orthogonal up to the rounding of its values.
    pub(super) fn from_parts(precision: Precision, blocks: ArrayView3<'_, F>) -> Result<Self> {
        check::finite("the rotation", &blocks)?;
        let (count, size, _) = blocks.dim();
        check::same_shape("the rotation", &[count, size, size], blocks.shape())?;
        let rotation = Self::rounded(precision, blocks.to_owned())?;
        for (i, block) in rotation.blocks.outer_iter().enumerate() {
            let worst = worst_product(block);
            if worst > rotation.tolerance() {
                return Err(Error::Malformed {
                    artifact: "an optimized product-quantized matrix",
                    problem: format!(
                        "block {i} of its rotation is not orthogonal: a product of its columns is off by {worst}"
                    ),
                });
            }
        }
        Ok(rotation)
    }

    /// The rotation that changes nothing.
    pub(super) fn identity(length: usize, size: usize) -> Self {
        let identity = Array2::eye(size);
        let blocks = identity.broadcast((length / size, size, size));
        Self {
            blocks: blocks
                .expect("a matrix repeats along a new axis")
                .to_owned(),
            precision: Precision::F64,
        }
    }

    /// Principal directions, assigned to the groups of `width` values so that the product of variances is about the same in
    /// each: the parametric solution, optimal for normally distributed vectors.
    ///
    /// In the order of falling variance, each direction goes to the group with the smallest product of variances so far,
    /// among the groups that are not full.
    pub(super) fn of_eigenvalues(
        vectors: ArrayView2<'_, F>,
        size: usize,
        width: usize,
    ) -> Result<Self> {
        Self::from_blocks(vectors.ncols(), size, |start| {
            let part = vectors.slice(s![.., start..start + size]);
            let means = part.mean_axis(Axis(0)).expect("there are vectors");
            let (variances, directions) =
                linalg::symmetric_eigen(linalg::gram((&part - &means).view()).view())?;
            let groups = size / width;
            let mut members: Vec<Vec<usize>> = vec![Vec::with_capacity(width); groups];
            let mut products = vec![0.0; groups];
            // Below the floor, a variance is rounding error.
            let largest = variances.iter().fold(0.0, |a: f64, v| a.max(v.as_f64()));
            let floor = (largest * F::epsilon().as_f64() * size as f64).max(f64::MIN_POSITIVE);
            for i in (0..size).rev() {
                let open = (0..groups).filter(|&g| members[g].len() < width);
                let least = open.min_by(|&a, &b| f64::total_cmp(&products[a], &products[b]));
                let group = least.expect("the groups have room for all directions");
                members[group].push(i);
                // Relative to the floor, so that a product grows with every direction.
                products[group] += (variances[i].as_f64().max(floor) / floor).ln();
            }
            Ok(directions.select(Axis(1), &members.concat()))
        })
    }

    /// The rotation with the least ‖V R − Q‖. For each block it is U Wᵀ, where Vᵀ Q = U S Wᵀ (Schönemann, "A generalized
    /// solution of the orthogonal Procrustes problem", 1966, doi:10.1007/BF02289451).
    pub(super) fn procrustes(
        vectors: ArrayView2<'_, F>,
        targets: ArrayView2<'_, F>,
        size: usize,
    ) -> Result<Self> {
        Self::from_blocks(vectors.ncols(), size, |start| {
            let columns = s![.., start..start + size];
            let product = linalg::product(vectors.slice(columns).t(), targets.slice(columns));
            let svd = linalg::thin_svd(product.view())?;
            Ok(linalg::product(svd.u.view(), svd.vt.view()))
        })
    }

    fn from_blocks(
        length: usize,
        size: usize,
        block: impl Fn(usize) -> Result<Array2<F>> + Sync + Send,
    ) -> Result<Self> {
        let count = length / size;
        let found = crate::parallel::map(count, |i| block(i * size));
        let mut blocks = Array3::zeros((count, size, size));
        for (mut block, found) in blocks.outer_iter_mut().zip(found) {
            block.assign(&found?);
        }
        Ok(Self {
            blocks,
            precision: Precision::F64,
        })
    }

    /// The blocks as they will be after they were stored and read again.
    pub(super) fn rounded(precision: Precision, mut blocks: Array3<F>) -> Result<Self> {
        for value in &mut blocks {
            *value = precision.round("the rotation", *value)?;
        }
        Ok(Self { blocks, precision })
    }

    pub(super) fn stored(self, precision: Precision) -> Result<Self> {
        Self::rounded(precision, self.blocks)
    }

    pub(super) fn blocks(&self) -> ArrayView3<'_, F> {
        self.blocks.view()
    }

    /// The length of the vectors that it rotates.
    pub(super) fn length(&self) -> usize {
        self.blocks.len_of(Axis(0)) * self.blocks.len_of(Axis(1))
    }

    pub(super) fn bits(&self) -> u64 {
        self.blocks.len() as u64 * self.precision.bits()
    }

    pub(super) fn part(&self) -> Part<'_> {
        Part {
            name: "rotation",
            dtype: self.precision.dtype(),
            shape: self.blocks.shape().to_vec(),
            role: Role::SideInformation,
            bytes: Cow::Owned(self.precision.encode(self.blocks.iter().copied())),
        }
    }

    /// V R.
    pub(super) fn rotate(&self, vectors: ArrayView2<'_, F>) -> Array2<F> {
        let mut out = Array2::zeros(vectors.raw_dim());
        self.each_block(vectors, out.view_mut(), |block, vectors, out| {
            linalg::product_into(vectors, block, out);
        });
        out
    }

    /// `out ← V Rᵀ`
    pub(super) fn rotate_back_into(&self, vectors: ArrayView2<'_, F>, out: ArrayViewMut2<'_, F>) {
        self.each_block(vectors, out, |block, vectors, out| {
            linalg::product_into(vectors, block.t(), out);
        });
    }

    fn each_block(
        &self,
        vectors: ArrayView2<'_, F>,
        mut out: ArrayViewMut2<'_, F>,
        f: impl Fn(ArrayView2<'_, F>, ArrayView2<'_, F>, ArrayViewMut2<'_, F>),
    ) {
        let size = self.blocks.len_of(Axis(1));
        let parts = vectors.axis_chunks_iter(Axis(1), size);
        let outs = out.axis_chunks_iter_mut(Axis(1), size);
        for ((block, part), out) in self.blocks.outer_iter().zip(parts).zip(outs) {
            f(block, part, out);
        }
    }

    /// How far the product of two columns may be from zero or one. It allows for the rounding of both columns (relative, and
    /// absolute below the normal numbers of half precision) and of the decomposition that computed them.
    fn tolerance(&self) -> f64 {
        let size = self.blocks.len_of(Axis(1)) as f64;
        let (relative, absolute) = match self.precision {
            Precision::F16 => (2_f64.powi(-11), 2_f64.powi(-25)),
            Precision::F32 => (2_f64.powi(-24), 0.0),
            Precision::F64 => (f64::EPSILON / 2.0, 0.0),
        };
        let epsilon = F::epsilon().as_f64();
        3.0 * relative + 3.0 * absolute * size + 8.0 * epsilon * size
    }
}

/// The largest difference of Rᵀ R from the identity.
fn worst_product<F: Float>(block: ArrayView2<'_, F>) -> f64 {
    let gram = linalg::gram(block);
    gram.indexed_iter()
        .map(|((i, j), value)| (value.as_f64() - f64::from(u8::from(i == j))).abs())
        // A NaN counts as larger than any number.
        .fold(0.0, |a: f64, b| if b <= a { a } else { b })
}
