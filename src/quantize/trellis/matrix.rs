//! A weight matrix of trellis codes.

use std::marker::PhantomData;

use ndarray::{Array2, ArrayView2, ArrayViewMut2, ArrayViewMutD, s};

use super::layout::{Layout, NAME, malformed};
use crate::artifact::check_apply;
use crate::packing::PackedCodes;
use crate::{
    Compressed, DType, Float, LinearOp, Part, Precision, Result, Role, StorageBits, check, linalg,
    parallel,
};

/// Weights that a task takes.
const TASK: usize = 1 << 14;
/// Weights that are decompressed at once for a product.
const PANEL: usize = 1 << 20;

/// A weight matrix of shape (out_features, in_features) in trellis codes. Its rows (or its columns, where it was fitted to the
/// moments of inputs) are paths through a machine: a code selects a value on one of two grids, and the grid of the next weight.
///
/// The grids mirror each other: a number k stands for about ±(2k + 1/2) steps. Rows and columns have a scale, whose sum is the class of a weight,
/// and a step. The numbers −4 to 4 have values of their own in each class.
///
/// The part `codes` holds what belongs to rows, columns and classes, and then the codes of 1 to 16 bits (`docs/format.md`
/// has the layout); `scale` is the step. Products decompress panels of rows or columns and multiply by them.
///
/// ```
/// use taper::ndarray::array;
/// use taper::quantize::trellis::TrellisQuantizer;
/// use taper::{Compressed, LinearOp, Quantizer};
///
/// let w = TrellisQuantizer::new(0.5).quantize(array![[7.0, -3.0], [1.0, 2.0]].view())?;
/// let dense = w.decompress_matrix()?;
/// let x = array![[1.0, 2.0]];
/// assert_eq!(w.apply(x.view())?, x.dot(&dense.t()));
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct TrellisMatrix<F: Float> {
    shape: [usize; 2],
    precision: Precision,
    step: f64,
    layout: Layout,
    codes: PackedCodes,
    number: PhantomData<F>,
}

impl<F: Float> TrellisMatrix<F> {
    /// Creates a matrix from the numbers of all paths, one path after the other. The width of codes is that of the largest number.
    pub(super) fn new(
        mut layout: Layout,
        precision: Precision,
        step: F,
        numbers: &[i32],
    ) -> Result<Self> {
        // A negative number k needs as many bits as −k − 1.
        let magnitudes = numbers.iter().map(|&k| if k < 0 { !k } else { k });
        let largest = magnitudes.max().unwrap_or(0).cast_unsigned();
        layout.bits = u32::BITS - largest.leading_zeros() + 1;
        let codes: Vec<u32> = numbers
            .iter()
            .map(|&number| Layout::code(layout.bits, number))
            .collect();
        check::product_in_range("a weight", (1 << layout.bits) + 1, [step])?;
        Ok(Self {
            shape: [layout.rows.len(), layout.columns.len()],
            precision,
            step: step.as_f64(),
            codes: PackedCodes::pack(&codes, layout.bits),
            layout,
            number: PhantomData,
        })
    }

    /// Creates a matrix of shape (out_features, in_features) from its parts `codes` and `scale`.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`](crate::Error::Malformed) for codes that are not laid out for the shape, and for a step that is not
    /// above zero, not of that precision, or so large that weights could be infinite.
    pub fn from_parts(
        shape: [usize; 2],
        precision: Precision,
        codes: &[u8],
        step: F,
    ) -> Result<Self> {
        let (layout, codes) = Layout::parse(shape, codes)?;
        let count = shape[0]
            .checked_mul(shape[1])
            .ok_or_else(|| malformed(format!("there is no matrix of shape {shape:?}")))?;
        let codes = PackedCodes::from_bytes(NAME, codes.to_vec(), count, layout.bits)?;
        let largest = step.as_f64() * f64::from((1_u32 << layout.bits) + 1);
        let finite = F::from_f64_lossy(largest).is_finite();
        if !(step > F::zero() && finite && precision.round("a step", step) == Ok(step)) {
            return Err(malformed(format!("{step} is no step in {precision}")));
        }
        Ok(Self {
            shape,
            precision,
            step: step.as_f64(),
            layout,
            codes,
            number: PhantomData,
        })
    }

    /// The bits of a code before entropy coding.
    #[must_use]
    pub fn bits(&self) -> u32 {
        self.layout.bits
    }

    /// The number of states.
    #[must_use]
    pub fn states(&self) -> usize {
        self.layout.states
    }

    /// The step Δ. Rows and columns may have a finer one, by powers of the fourth root of 2.
    #[must_use]
    pub fn step(&self) -> F {
        F::from_f64_lossy(self.step)
    }

    /// Writes the weights of paths from `first` on into `out`, path by path.
    fn paths_into(&self, first: usize, out: &mut [F]) {
        let (_, length) = self.layout.paths();
        let (mut codes, mut numbers) = (vec![0; length], vec![0; length]);
        for (i, out) in out.chunks_mut(length).enumerate() {
            self.codes.unpack_into((first + i) * length, &mut codes);
            for (number, &code) in numbers.iter_mut().zip(&codes) {
                *number = Layout::number(self.layout.bits, code);
            }
            self.layout.dequantize(first + i, self.step, &numbers, out);
        }
    }

    /// The weights of some paths, one in each row.
    fn panel(&self, paths: std::ops::Range<usize>, out: &mut [F]) {
        let (_, length) = self.layout.paths();
        let each = TASK.div_ceil(length);
        parallel::for_each_chunk_mut(out, each * length, |i, out| {
            self.paths_into(paths.start + i * each, out);
        });
    }
}

impl<F: Float> Compressed<F> for TrellisMatrix<F> {
    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn parts(&self) -> Vec<Part<'_>> {
        let bytes = self.layout.to_bytes(&self.codes);
        vec![
            Part {
                name: "codes",
                dtype: DType::U8,
                shape: vec![bytes.len()],
                role: Role::Payload,
                bytes: bytes.into(),
            },
            Part {
                name: "scale",
                dtype: self.precision.dtype(),
                shape: vec![1],
                role: Role::SideInformation,
                bytes: self.precision.encode([self.step()]).into(),
            },
        ]
    }

    fn storage(&self) -> StorageBits {
        let lines = 8 * self.layout.head_bytes() as u64;
        StorageBits::new()
            .with("codes", Role::Payload, lines + self.codes.total_bits())
            .with("scale", Role::SideInformation, self.precision.bits())
    }

    fn decompress_into(&self, mut out: ArrayViewMutD<'_, F>) -> Result<()> {
        check::same_shape("out", &self.shape, out.shape())?;
        let (paths, length) = self.layout.paths();
        if let Some(out) = out.as_slice_mut().filter(|_| !self.layout.down) {
            self.panel(0..paths, out);
            return Ok(());
        }
        let mut values = Array2::zeros((paths, length));
        self.panel(
            0..paths,
            values.as_slice_mut().expect("a new array has no gaps"),
        );
        let values = if self.layout.down {
            values.t()
        } else {
            values.view()
        };
        out.assign(&values);
        Ok(())
    }
}

impl<F: Float> LinearOp<F> for TrellisMatrix<F> {
    fn apply_into(&self, x: ArrayView2<'_, F>, mut y: ArrayViewMut2<'_, F>) -> Result<()> {
        check_apply(self.shape, &x, &y)?;
        let (paths, length) = self.layout.paths();
        let together = (PANEL / length).clamp(1, paths);
        let mut weights = Array2::zeros((together, length));
        if self.layout.down {
            y.fill(F::zero());
        }
        for from in (0..paths).step_by(together) {
            let panel = from..paths.min(from + together);
            let mut weights = weights.slice_mut(s![..panel.len(), ..]);
            let values = weights.as_slice_mut().expect("whole rows have no gaps");
            self.panel(panel.clone(), values);
            if self.layout.down {
                linalg::product_add(
                    F::one(),
                    x.slice(s![.., panel]),
                    weights.view(),
                    y.view_mut(),
                );
            } else {
                linalg::product_into(x, weights.t(), y.slice_mut(s![.., panel]));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    /// A layout of 8 states, two rows and two columns, two classes and codes of `bits` bits.
    fn head(bits: u8) -> Vec<u8> {
        let mut bytes = vec![3, 0, bits, 2, 13, 7, 7, 7, 7];
        bytes.resize(bytes.len() + 18, 0);
        bytes
    }

    fn build(head: &[u8], codes: &[u8], step: f32) -> Result<TrellisMatrix<f32>> {
        let bytes: Vec<u8> = head.iter().chain(codes).copied().collect();
        TrellisMatrix::from_parts([2, 2], Precision::F32, &bytes, step)
    }

    #[test]
    fn parts_give_the_matrix_back() {
        let matrix = build(&head(4), &[0x37, 0xf7], 0.5).unwrap();
        let parts = matrix.parts();
        let again = TrellisMatrix::from_parts([2, 2], Precision::F32, &parts[0].bytes, 0.5);
        assert_eq!(again.as_ref(), Ok(&matrix));
        // Codes are numbers plus 8: −1, −5, −1, 7. States are 0, 2, 1 | 0, 2 (a number is odd, and so on).
        assert_eq!(
            matrix.decompress_matrix().unwrap(),
            ndarray::array![[-0.75, -4.75], [-0.75, 7.25]]
        );
    }

    #[test]
    fn forged_parts_are_errors() {
        let malformed = |head: &[u8], codes: &[u8]| {
            matches!(build(head, codes, 0.5), Err(Error::Malformed { .. }))
        };
        // Too few codes and too many; widths that there are not.
        assert!(malformed(&head(4), &[0x37]));
        assert!(malformed(&head(4), &[0x37, 0, 0]));
        assert!(malformed(&head(0), &[0x37, 0]));
        assert!(malformed(&head(17), &[0; 9]));
        // States, directions, classes and values that there are not, and a head that ends early.
        for (place, byte) in [
            (0, 2),
            (0, 9),
            (1, 2),
            (3, 1),
            (3, 17),
            (12, 16),
            (12, 0x80),
        ] {
            let mut forged = head(4);
            forged[place] = byte;
            assert!(malformed(&forged, &[0x37, 0xf7]), "{byte} at {place}");
        }
        for length in 0..head(4).len() {
            assert!(malformed(&head(4)[..length], &[]));
        }
        for step in [0.0, -0.0, -1.0, f32::NAN, f32::INFINITY, f32::MAX] {
            assert!(build(&head(4), &[0x37, 0xf7], step).is_err(), "{step}");
        }
        let bytes = [&head(4)[..], &[0x37, 0xf7]].concat();
        assert!(TrellisMatrix::from_parts([2, 2], Precision::F16, &bytes, 0.1_f32).is_err());
        assert!(TrellisMatrix::from_parts([0, 4], Precision::F32, &bytes, 0.5_f32).is_err());
    }
}
