//! The artifact of product quantization: codes and codebooks.

use std::borrow::Cow;

use ndarray::{Array2, ArrayView3, ArrayViewMutD, Axis, Ix2};

use super::{ProductCodebooks, SplitAxis};
use crate::packing::PackedCodes;
use crate::{
    Compressed, Error, FitReport, Float, Part, Precision, Result, Role, StorageBits, check,
};

/// A weight matrix (out_features, in_features) in which each sub-vector is a code into a codebook.
///
/// Made by a [`ProductQuantizer`](super::ProductQuantizer) or by [`encode`](ProductCodebooks::encode).
/// [`LinearOp`](crate::LinearOp) multiplies with it without decompressing it; [the module](super) explains how.
///
/// In memory the codes are packed as in a file. The centroids are of type `F` for every stored precision.
///
/// ```
/// use taper::ndarray::Array2;
/// use taper::quantize::product::{PqMatrix, ProductQuantizer};
/// use taper::{Compressed, Quantizer};
///
/// let weights = Array2::from_shape_fn((64, 32), |(o, i)| ((o * 3 + i * 5) as f32).sin());
/// let matrix = ProductQuantizer::with_width(4).centroids(8).quantize(weights.view())?;
/// let (books, codes) = (matrix.codebooks(), matrix.parts()[0].bytes.to_vec());
/// let again = PqMatrix::from_parts([64, 32], books.axis(), books.precision(), books.values(), codes)?;
/// assert_eq!(again.codes(), matrix.codes());
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct PqMatrix<F> {
    pub(super) shape: [usize; 2],
    pub(super) codebooks: ProductCodebooks<F>,
    /// (groups, points): the order in which every kernel reads them.
    pub(super) codes: PackedCodes,
    report: Option<FitReport>,
}

impl<F: Float> PqMatrix<F> {
    /// The matrix of `shape` that consists of these parts, as [`parts`](Compressed::parts) gives them.
    ///
    /// `codebooks` has shape (books, k, d), with one book for each group or one for all. The number m of groups is the length
    /// of the split axis divided by d. `codes` holds (m, n) codes of ⌈log₂ k⌉ bits, n being the length of the other axis.
    ///
    /// # Errors
    ///
    /// [`Error::EmptyAxis`], [`Error::Indivisible`] where d does not divide the split axis,
    /// [`Error::Malformed`] where there are too many or too few bytes, or a code that is not the number of a centroid, and
    /// the errors of [`ProductCodebooks::from_parts`].
    pub fn from_parts(
        shape: [usize; 2],
        axis: SplitAxis,
        precision: Precision,
        codebooks: ArrayView3<'_, F>,
        codes: Vec<u8>,
    ) -> Result<Self> {
        check::not_empty("the matrix", &shape)?;
        check::not_empty("codebooks", codebooks.shape())?;
        let (points, length) = axis.points_and_length(shape);
        let groups = check::divide("sub-vectors' values", length, codebooks.len_of(Axis(2)))?;
        let codebooks = ProductCodebooks::from_parts(groups, axis, precision, codebooks)?;
        let count = groups
            .checked_mul(points)
            .ok_or_else(|| malformed(format!("{groups} groups of {points} codes")))?;
        let codes = PackedCodes::from_bytes(NAME, codes, count, codebooks.code_bits())?;
        check_codes(&codes, codebooks.centroids())?;
        Ok(Self {
            shape,
            codebooks,
            codes,
            report: None,
        })
    }

    /// The matrix of `codes` (groups, points).
    pub(super) fn from_codes(
        codebooks: ProductCodebooks<F>,
        shape: [usize; 2],
        codes: &[u32],
    ) -> Result<Self> {
        let codes = PackedCodes::pack(codes, codebooks.code_bits());
        check_codes(&codes, codebooks.centroids())?;
        Ok(Self {
            shape,
            codebooks,
            codes,
            report: None,
        })
    }

    pub(super) fn with_report(self, report: FitReport) -> Self {
        Self {
            report: Some(report),
            ..self
        }
    }

    /// Removes the report, which no longer holds after the codebooks were changed.
    pub(super) fn drop_report(&mut self) {
        self.report = None;
    }

    /// The codebooks.
    #[must_use]
    pub fn codebooks(&self) -> &ProductCodebooks<F> {
        &self.codebooks
    }

    /// The unpacked codes (m, n). Row g has the codes of group g, and n is the length of the axis that is not split.
    #[must_use]
    pub fn codes(&self) -> Array2<u32> {
        let shape = (self.codebooks.groups(), self.points());
        let codes = Array2::from_shape_vec(shape, self.codes.unpack());
        codes.expect("there is one code for each group and point")
    }

    /// The compression ratio by the published formula, which counts log₂ k bits for a code (a file takes ⌈log₂ k⌉) and 32
    /// bits for each value of a centroid.
    ///
    /// $$\frac{32\\, C\_{in} C\_{out}}{32\\, k\\, C\_{out} + \log\_2(k)\\, C\_{in}\\, m}$$
    ///
    /// In it W is C_in × C_out with rows split along C_out, which is [`SplitAxis::Out`] with a codebook for each group.
    /// For [`SplitAxis::In`] C_in and C_out are exchanged, and with a shared codebook $32\\, k\\, d$ replaces
    /// $32\\, k\\, C\_{out}$. [`ratio`](Compressed::ratio) counts the actual bytes.
    #[must_use]
    pub fn formula_ratio(&self) -> f64 {
        let [rows, columns] = self.shape.map(|length| length as f64);
        let codebooks = 32.0 * self.codebooks.values().len() as f64;
        let codes = (self.codebooks.centroids() as f64).log2() * self.codes.len() as f64;
        32.0 * rows * columns / (codebooks + codes)
    }

    /// The number of sub-vectors of a group: the length of the axis that is not split.
    pub(super) fn points(&self) -> usize {
        self.codebooks.axis().points_and_length(self.shape).0
    }
}

impl<F: Float> Compressed<F> for PqMatrix<F> {
    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn parts(&self) -> Vec<Part<'_>> {
        let books = &self.codebooks;
        vec![
            Part {
                name: "codes",
                dtype: crate::DType::U8,
                shape: vec![self.codes.bytes().len()],
                role: Role::Payload,
                bytes: Cow::Borrowed(self.codes.bytes()),
            },
            Part {
                name: "codebooks",
                dtype: books.precision().dtype(),
                shape: books.values().shape().to_vec(),
                role: Role::SideInformation,
                bytes: Cow::Owned(books.precision().encode(books.values().iter().copied())),
            },
        ]
    }

    fn storage(&self) -> StorageBits {
        let values = self.codebooks.values().len() as u64;
        StorageBits::new()
            .with("codes", Role::Payload, self.codes.total_bits())
            .with(
                "codebooks",
                Role::SideInformation,
                values * self.codebooks.precision().bits(),
            )
    }

    fn decompress_into(&self, out: ArrayViewMutD<'_, F>) -> Result<()> {
        check::same_shape("the output", &self.shape, out.shape())?;
        let out = out.into_dimensionality::<Ix2>();
        let mut out = out.expect("the output has the two axes of the matrix");
        let all = 0..self.shape[0];
        match out.as_slice_mut() {
            Some(values) => self.decompress_rows(all, values),
            None => {
                let mut dense = vec![F::zero(); self.shape[0] * self.shape[1]];
                self.decompress_rows(all, &mut dense);
                out.iter_mut().zip(dense).for_each(|(w, value)| *w = value);
            }
        }
        Ok(())
    }

    fn report(&self) -> Option<&FitReport> {
        self.report.as_ref()
    }
}

const NAME: &str = "a product-quantized matrix";

fn malformed(problem: String) -> Error {
    Error::Malformed {
        artifact: NAME,
        problem,
    }
}

/// Fails if a code is not the number of a centroid. Code that reads them does not check them again.
fn check_codes(codes: &PackedCodes, centroids: usize) -> Result<()> {
    // All codes of that many bits are centroids.
    if centroids.is_power_of_two() {
        return Ok(());
    }
    let mut block = [0; 1024];
    for start in (0..codes.len()).step_by(block.len()) {
        codes.unpack_into(start, &mut block);
        if let Some(code) = block.iter().find(|&&code| code as usize >= centroids) {
            return Err(malformed(format!(
                "a code is {code}, but there are {centroids} centroids"
            )));
        }
    }
    Ok(())
}
