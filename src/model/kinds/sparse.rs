//! Sparse matrices, and sparse matrices whose values are quantized.

use std::borrow::Cow;
use std::sync::Arc;

use ndarray::{ArrayView2, ArrayViewMut2, ArrayViewMutD};

use crate::model::extend::{Artifact, Attributes, CodeLayout, CodeMeaning, Stored, malformed};
use crate::prune::{SparseMatrix, SparsePositions};
use crate::{Compressed, LinearOp, Part, Precision, Result, Role, StorageBits, check};

pub(super) const SPARSE: &str = "sparse";
pub(super) const QUANTIZED: &str = "sparse_quantized";

const VALUES: &str = "values";

/// An empty row has no byte in the file, but takes memory when the matrix is read.
fn check_rows(rows: usize, bytes: usize) -> Result<()> {
    if rows > bytes.saturating_mul(1024).saturating_add(1 << 16) {
        return Err(malformed(format!("{rows} rows in {bytes} bytes")));
    }
    Ok(())
}

fn stored_bytes<A: Compressed<f32>>(matrix: &A) -> usize {
    usize::try_from(matrix.storage().bytes()).unwrap_or(usize::MAX)
}

fn layout(matrix: &SparseMatrix<f32>, part: &str) -> Option<CodeLayout> {
    match part {
        "bitmap" => Some(CodeLayout {
            bits: 1,
            count: matrix.shape().iter().product(),
            runs: 1,
            meaning: CodeMeaning::Labels,
        }),
        "gaps" => {
            let parts = matrix.parts();
            let bits = parts.iter().find(|part| part.name == "gap_bits")?;
            Some(CodeLayout {
                bits: u32::from(*bits.bytes.first()?),
                count: matrix.nonzeros(),
                runs: 1,
                meaning: CodeMeaning::Labels,
            })
        }
        _ => None,
    }
}

fn positions(stored: &mut Stored) -> Result<SparsePositions> {
    if stored.parts.contains_key("bitmap") {
        return Ok(SparsePositions::Bitmap(stored.bytes("bitmap")?));
    }
    let bits = stored.bytes("gap_bits")?;
    let &[bits] = bits.as_slice() else {
        return Err(malformed(format!("gap_bits of {} bytes", bits.len())));
    };
    Ok(SparsePositions::Gaps {
        bits: bits.into(),
        bytes: stored.bytes("gaps")?,
    })
}

impl Artifact for SparseMatrix<f32> {
    fn kind(&self) -> &'static str {
        SPARSE
    }

    fn attributes(&self) -> Result<Attributes> {
        let rows = self.shape().first().copied().unwrap_or(0);
        check_rows(rows, stored_bytes(self))?;
        Ok(Attributes::default())
    }

    fn code_layout(&self, part: &str) -> Option<CodeLayout> {
        layout(self, part)
    }

    fn as_linear(&self) -> Option<&dyn LinearOp<f32>> {
        Some(self)
    }

    fn restore(mut stored: Stored) -> Result<Self> {
        let shape: [usize; 2] = stored.axes()?;
        let bytes = stored.parts.values().map(|part| part.bytes.len()).sum();
        check_rows(shape[0], bytes)?;
        let positions = positions(&mut stored)?;
        let (values, precision) = stored.vector(VALUES)?;
        stored.finish()?;
        Self::from_positions(shape, precision, positions, values.to_vec())
    }
}

/// A sparse matrix (out_features, in_features) whose values are compressed too: the pruning and quantization of Han et al.,
/// "Deep Compression" (arXiv:1510.00149).
///
/// The values form an artifact of shape (nonzeros, 1). Product quantization of that column, for example, is k-means over the
/// remaining weights.
///
/// ```
/// use taper::model::SparseQuantized;
/// use taper::ndarray::array;
/// use taper::quantize::product::ProductQuantizer;
/// use taper::{Compressed, Quantizer};
///
/// let pruned = array![[0.0_f32, 2.0, 0.0, 0.0], [1.0, 0.0, 0.0, 2.0]];
/// let quantized = SparseQuantized::new(pruned.view(), |values| {
///     ProductQuantizer::new(1).centroids(2).seed(1).quantize(values)
/// })?;
/// assert_eq!(quantized.decompress()?, pruned.into_dyn());
/// // One bit per weight for the positions, one per nonzero weight for the codes, and two centroids.
/// assert_eq!(quantized.storage().bytes(), 1 + 1 + 2 * 4);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct SparseQuantized {
    /// Positions and the decompressed values.
    matrix: SparseMatrix<f32>,
    values: Arc<dyn Artifact>,
}

impl SparseQuantized {
    /// Compresses the weights that are not zero with `quantize`, which takes them as a matrix of one column.
    ///
    /// # Errors
    ///
    /// Those of [`SparseMatrix::from_dense`], [`Error::EmptyAxis`](crate::Error::EmptyAxis) where every weight is
    /// zero, and those of `quantize`.
    pub fn new<A: Artifact>(
        weights: ArrayView2<'_, f32>,
        quantize: impl FnOnce(ArrayView2<'_, f32>) -> Result<A>,
    ) -> Result<Self> {
        Self::of(weights, |values| Ok(Arc::new(quantize(values)?)))
    }

    pub(in crate::model) fn of(
        weights: ArrayView2<'_, f32>,
        quantize: impl FnOnce(ArrayView2<'_, f32>) -> Result<Arc<dyn Artifact>>,
    ) -> Result<Self> {
        let matrix = SparseMatrix::from_dense(weights, Precision::F32)?;
        let values: Vec<f32> = weights.iter().copied().filter(|&w| w != 0.0).collect();
        check::not_empty("the weights that are left", &[values.len()])?;
        let view = ArrayView2::from_shape((values.len(), 1), &values);
        let view = view.map_err(|error| malformed(error.to_string()))?;
        let artifact = quantize(view)?;
        // Gaps of zero bits describe a matrix of which at most the end is pruned. A bitmap describes the same in bytes, whose
        // number bounds the number of values.
        let positions = match matrix.parts().iter().find(|part| part.name == "gaps") {
            Some(gaps) if !gaps.bytes.is_empty() => {
                let bits = layout(&matrix, "gaps").map_or(0, |layout| layout.bits);
                let bytes = gaps.bytes.to_vec();
                SparsePositions::Gaps { bits, bytes }
            }
            _ => {
                let mut bits = vec![0_u8; weights.len().div_ceil(8)];
                for (i, &weight) in weights.iter().enumerate() {
                    if let Some(byte) = bits.get_mut(i / 8).filter(|_| weight != 0.0) {
                        *byte |= 1 << (i % 8);
                    }
                }
                SparsePositions::Bitmap(bits)
            }
        };
        Self::build([weights.nrows(), weights.ncols()], positions, artifact)
    }

    fn build(
        shape: [usize; 2],
        positions: SparsePositions,
        values: Arc<dyn Artifact>,
    ) -> Result<Self> {
        let (bytes, most) = match &positions {
            SparsePositions::Bitmap(bytes) => (bytes.len(), bytes.len().saturating_mul(8)),
            SparsePositions::Gaps { bits, bytes } => {
                let bits = (*bits as usize).max(1);
                (bytes.len(), bytes.len().saturating_mul(8) / bits)
            }
        };
        check_rows(shape[0], bytes)?;
        let &[count, 1] = values.shape() else {
            return Err(malformed(format!("values of shape {:?}", values.shape())));
        };
        if count > most {
            return Err(malformed(format!("{count} values for {most} positions")));
        }
        let dense = values.decompress()?.iter().copied().collect();
        let matrix = SparseMatrix::from_positions(shape, Precision::F32, positions, dense)?;
        Ok(Self { matrix, values })
    }

    /// The values, an artifact of shape (nonzeros, 1).
    #[must_use]
    pub fn values(&self) -> &dyn Artifact {
        &*self.values
    }

    /// The sparse matrix that multiplies, with decompressed values.
    #[must_use]
    pub fn matrix(&self) -> &SparseMatrix<f32> {
        &self.matrix
    }
}

impl Compressed<f32> for SparseQuantized {
    fn shape(&self) -> &[usize] {
        self.matrix.shape()
    }

    fn parts(&self) -> Vec<Part<'_>> {
        let mut parts = self.matrix.parts();
        parts.retain(|part| part.name != VALUES);
        // Parts of the values keep their names, such as codes and codebooks.
        parts.extend(self.values.parts());
        let owned = parts.into_iter().map(|part| Part {
            bytes: Cow::Owned(part.bytes.into_owned()),
            ..part
        });
        owned.collect()
    }

    fn storage(&self) -> StorageBits {
        let own = self.matrix.storage();
        let own: Vec<(&'static str, Role, u64)> =
            own.parts().filter(|part| part.0 != VALUES).collect();
        let values = self.values.storage();
        own.into_iter()
            .chain(values.parts())
            .fold(StorageBits::new(), |all, (name, role, bits)| {
                all.with(name, role, bits)
            })
    }

    fn decompress_into(&self, out: ArrayViewMutD<'_, f32>) -> Result<()> {
        self.matrix.decompress_into(out)
    }
}

impl LinearOp<f32> for SparseQuantized {
    fn apply_into(&self, x: ArrayView2<'_, f32>, y: ArrayViewMut2<'_, f32>) -> Result<()> {
        self.matrix.apply_into(x, y)
    }
}

impl Artifact for SparseQuantized {
    fn kind(&self) -> &'static str {
        QUANTIZED
    }

    fn children(&self) -> Vec<(String, &dyn Artifact)> {
        vec![(VALUES.to_owned(), &*self.values)]
    }

    fn code_layout(&self, part: &str) -> Option<CodeLayout> {
        layout(&self.matrix, part)
    }

    fn as_linear(&self) -> Option<&dyn LinearOp<f32>> {
        Some(self)
    }

    fn restore(mut stored: Stored) -> Result<Self> {
        let shape = stored.axes()?;
        let values = stored.child(VALUES)?;
        let positions = positions(&mut stored)?;
        stored.finish()?;
        Self::build(shape, positions, Arc::from(values))
    }
}
