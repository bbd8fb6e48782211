//! A weight matrix of trellis codes.

use std::marker::PhantomData;

use ndarray::{Array2, ArrayView2, ArrayViewMut2, ArrayViewMutD, s};

use super::states::State;
use crate::artifact::check_apply;
use crate::packing::PackedCodes;
use crate::{
    Compressed, DType, Error, Float, LinearOp, Part, Precision, Result, Role, StorageBits, check,
    linalg, parallel,
};

const NAME: &str = "TrellisMatrix";
/// The widest codes.
pub(super) const MAX_BITS: u32 = 16;
/// Rows that a task takes.
pub(super) const ROWS: usize = 32;
/// Weights that are decompressed at once for a product.
const PANEL: usize = 1 << 20;

/// A weight matrix of shape (out_features, in_features) whose values are multiples of a step. Each row is a sequence of
/// [numbers](crate::quantize::trellis) of 2 to 16 bits; each number determines the grid of the next.
///
/// A number k is stored as k + 2^(b−1) − 1. The part `codes` is exactly ⌈out·in·bits / 8⌉ bytes, and `scale` is the step.
/// Products decompress panels of rows and multiply by them.
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
/// assert_eq!(w.storage().bytes(), (4 * w.bits() as u64).div_ceil(8) + 4);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct TrellisMatrix<F: Float> {
    shape: [usize; 2],
    precision: Precision,
    step: f64,
    packed: PackedCodes,
    number: PhantomData<F>,
}

/// The code of the number zero.
fn zero(bits: u32) -> u32 {
    (1 << (bits - 1)) - 1
}

impl<F: Float> TrellisMatrix<F> {
    /// Creates a matrix from numbers that fit into the widest codes.
    pub(super) fn new(
        shape: [usize; 2],
        precision: Precision,
        step: F,
        numbers: &[i32],
    ) -> Result<Self> {
        let largest = numbers.iter().map(|k| k.unsigned_abs()).max().unwrap_or(0);
        let bits = largest.max(1).ilog2() + 2;
        let zero = zero(bits) as i32;
        let codes: Vec<u32> = numbers.iter().map(|&k| (k + zero) as u32).collect();
        check::product_in_range("a weight", 2 * largest as usize, [step])?;
        Ok(Self {
            shape,
            precision,
            step: step.as_f64(),
            packed: PackedCodes::pack(&codes, bits),
            number: PhantomData,
        })
    }

    /// Creates a matrix of shape (out_features, in_features) with codes of `bits` bits from its parts `codes` and `scale`.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] for a width that is not in 2..=16, for a length that does not fit the shape, for the highest
    /// code, which is not used, for bits beyond the last code, and for a step that is not above zero, not of
    /// that precision, or so large that weights would be infinite.
    pub fn from_parts(
        shape: [usize; 2],
        bits: u32,
        precision: Precision,
        codes: &[u8],
        step: F,
    ) -> Result<Self> {
        let malformed = |problem| Error::Malformed {
            artifact: NAME,
            problem,
        };
        if !(2..=MAX_BITS).contains(&bits) {
            return Err(malformed(format!("codes of {bits} bits")));
        }
        let [rows, columns] = shape;
        let count = rows
            .checked_mul(columns)
            .filter(|&count| count > 0)
            .ok_or_else(|| malformed(format!("there is no matrix of {rows} by {columns} codes")))?;
        let packed = PackedCodes::from_bytes(NAME, codes.to_vec(), count, bits)?;
        let last = 2 * zero(bits);
        if packed.unpack().into_iter().any(|code| code > last) {
            return Err(malformed(format!("{} is no code of {bits} bits", last + 1)));
        }
        let largest = step.as_f64() * f64::from(last);
        let finite = F::from_f64_lossy(largest).is_finite();
        if !(step > F::zero() && finite && precision.round("a step", step) == Ok(step)) {
            return Err(malformed(format!("{step} is no step in {precision}")));
        }
        Ok(Self {
            shape,
            precision,
            step: step.as_f64(),
            packed,
            number: PhantomData,
        })
    }

    /// The bits of a code.
    #[must_use]
    pub fn bits(&self) -> u32 {
        self.packed.bits()
    }

    /// The step Δ, of which all weights are multiples.
    #[must_use]
    pub fn step(&self) -> F {
        F::from_f64_lossy(self.step)
    }

    /// Writes the weights of rows from `first` on into `out`, row by row.
    fn rows_into(&self, first: usize, out: &mut [F]) {
        let (columns, zero) = (self.shape[1], zero(self.bits()) as i32);
        let mut codes = vec![0; columns];
        for (i, out) in out.chunks_mut(columns).enumerate() {
            self.packed.unpack_into((first + i) * columns, &mut codes);
            let mut state = State::default();
            for (out, &code) in out.iter_mut().zip(&codes) {
                let number = code as i32 - zero;
                *out = F::from_f64_lossy(self.step * f64::from(state.value(number)));
                state = state.next(number);
            }
        }
    }
}

impl<F: Float> Compressed<F> for TrellisMatrix<F> {
    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn parts(&self) -> Vec<Part<'_>> {
        vec![
            Part {
                name: "codes",
                dtype: DType::U8,
                shape: vec![self.packed.bytes().len()],
                role: Role::Payload,
                bytes: self.packed.bytes().into(),
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
        StorageBits::new()
            .with("codes", Role::Payload, self.packed.total_bits())
            .with("scale", Role::SideInformation, self.precision.bits())
    }

    fn decompress_into(&self, mut out: ArrayViewMutD<'_, F>) -> Result<()> {
        check::same_shape("out", &self.shape, out.shape())?;
        let columns = self.shape[1];
        if let Some(out) = out.as_slice_mut() {
            parallel::for_each_chunk_mut(out, ROWS * columns, |i, out| {
                self.rows_into(i * ROWS, out);
            });
            return Ok(());
        }
        let mut values = vec![F::zero(); columns];
        for (i, mut row) in out.rows_mut().into_iter().enumerate() {
            self.rows_into(i, &mut values);
            row.iter_mut()
                .zip(&values)
                .for_each(|(out, &value)| *out = value);
        }
        Ok(())
    }
}

impl<F: Float> LinearOp<F> for TrellisMatrix<F> {
    fn apply_into(&self, x: ArrayView2<'_, F>, mut y: ArrayViewMut2<'_, F>) -> Result<()> {
        check_apply(self.shape, &x, &y)?;
        let [outputs, inputs] = self.shape;
        let rows = (PANEL / inputs).clamp(1, outputs);
        let mut weights = Array2::zeros((rows, inputs));
        for from in (0..outputs).step_by(rows) {
            let panel = from..outputs.min(from + rows);
            let mut weights = weights.slice_mut(s![..panel.len(), ..]);
            let values = weights.as_slice_mut().expect("whole rows have no gaps");
            parallel::for_each_chunk_mut(values, ROWS * inputs, |i, out| {
                self.rows_into(from + i * ROWS, out);
            });
            linalg::product_into(x, weights.t(), y.slice_mut(s![.., panel]));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forged_parts_are_errors() {
        let build = |bits, codes: &[u8], step: f32| {
            TrellisMatrix::<f32>::from_parts([2, 2], bits, Precision::F32, codes, step)
        };
        assert!(build(4, &[0x37, 0x07], 0.5).is_ok());
        // The highest code, too few bytes, too many, widths that there are not.
        for (bits, codes) in [
            (4, &[0x3f, 0][..]),
            (4, &[0x37]),
            (4, &[0; 3]),
            (1, &[0]),
            (17, &[0; 9]),
        ] {
            assert!(
                matches!(build(bits, codes, 0.5), Err(Error::Malformed { .. })),
                "{bits}"
            );
        }
        for step in [0.0, -0.0, -1.0, f32::NAN, f32::INFINITY, f32::MAX] {
            assert!(build(4, &[0x37, 0x07], step).is_err(), "{step}");
        }
        let halves =
            TrellisMatrix::<f32>::from_parts([2, 2], 4, Precision::F16, &[0x37, 0x07], 0.1);
        assert!(halves.is_err());
        let empty = TrellisMatrix::<f32>::from_parts([0, 2], 4, Precision::F32, &[], 0.5);
        assert!(empty.is_err());
    }

    #[test]
    fn numbers_alternate_between_grids() {
        // The states are 0, 1, 2 and 4: only the second number lies on the odd grid.
        let w = TrellisMatrix::<f64>::new([1, 4], Precision::F64, 0.5, &[1, -2, 3, 0]).unwrap();
        assert_eq!(w.bits(), 3);
        assert_eq!(
            w.decompress_matrix().unwrap(),
            ndarray::array![[1.0, -1.5, 3.0, 0.0]]
        );
    }
}
