//! A weight matrix of fixed-point codes.

use std::ops::Range;

use ndarray::{Array2, ArrayViewMutD};

use super::Granularity;
use super::grid::{Codes, Grid, Symmetry};
use crate::kernels::{Level, evenly};
use crate::packing::PackedCodes;
use crate::{
    Compressed, DType, Error, Float, ParamError, Part, Precision, Result, Role, StorageBits, check,
    parallel,
};

const NAME: &str = "FixedPointMatrix";
/// Rows whose codes are unpacked at once.
pub(super) const ROWS: usize = 32;

/// A weight matrix of shape (out_features, in_features) whose values are scale·(q − z), q an integer of
/// 1 to 16 bits and z the zero point.
///
/// Codes are packed without gaps: the part `codes` is exactly ⌈out·in·bits / 8⌉ bytes. The part `scales` holds one scale, one
/// for each row, or one for each block of inputs, row by row. On an affine grid, the part `zero_points` holds as many zero points, packed like codes; on other grids z
/// is 0. The value of q = z is exactly zero, in every precision.
///
/// [`apply`](crate::LinearOp::apply) unpacks some weights at a time and multiplies them, so that the result is the product with
/// the decompressed matrix, up to the rounding of sums. With codes of up to 8 bits,
/// [`apply_rounded`](Self::apply_rounded) is faster: it also rounds each vector of inputs to 8 bits, with the scale
/// max|x| / 127 of that vector, and sums integers. An input then moves by at most half of that scale, so that
///
/// $$ |y\_o - (x W^T)\_o| \le \frac{\max |x|}{254} \sum\_i |W\_{oi}| $$
///
/// up to the rounding of sums.
///
/// ```
/// use ndarray::array;
/// use taper::quantize::fixed_point::FixedPointQuantizer;
/// use taper::{Compressed, LinearOp, Quantizer};
///
/// let w = FixedPointQuantizer::new(4).quantize(array![[7.0, -3.0], [1.0, 2.0]].view())?;
/// assert_eq!(w.storage().bytes(), 2 + 4);
/// assert_eq!(w.apply(array![[1.0, 2.0]].view())?, array![[1.0, 5.0]]);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct FixedPointMatrix<F: Float> {
    pub(super) shape: [usize; 2],
    pub(super) codes: Codes,
    pub(super) granularity: Granularity,
    pub(super) precision: Precision,
    /// The scales of all grids, row by row.
    pub(super) scales: Vec<F>,
    /// The zero points of all grids; empty unless the grid is affine.
    pub(super) zeros: Vec<u16>,
    pub(super) packed: PackedCodes,
}

impl<F: Float> FixedPointMatrix<F> {
    pub(super) fn new(
        shape: [usize; 2],
        codes: Codes,
        granularity: Granularity,
        precision: Precision,
        grids: &[Grid],
        stored: &[u32],
    ) -> Self {
        let zero = |grid: &Grid| u16::try_from(grid.zero);
        let zero = |grid| zero(grid).expect("a zero point is a code of at most 16 bits");
        Self {
            shape,
            codes,
            granularity,
            precision,
            scales: grids
                .iter()
                .map(|grid| F::from_f64_lossy(grid.scale))
                .collect(),
            zeros: match codes.symmetry {
                Symmetry::Affine => grids.iter().map(zero).collect(),
                Symmetry::Symmetric | Symmetry::SignedScale => Vec::new(),
            },
            packed: PackedCodes::pack(stored, codes.bits),
        }
    }

    /// Creates a matrix of shape (out_features, in_features) with codes of `bits` bits from its parts `codes`,
    /// `scales` and, on an affine grid, `zero_points` (empty on others).
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] for a width that is not in 1..=16, for blocks that are not of 16, 32, 64 or 128 inputs, for lengths that do not fit the shape, for the
    /// code that symmetric grids do not use, for bits beyond the last code or zero point, and
    /// for scales that are not finite, not of that precision, or negative where the grid has no signed scale.
    #[allow(clippy::too_many_arguments)]
    pub fn from_parts(
        shape: [usize; 2],
        bits: u32,
        symmetry: Symmetry,
        granularity: Granularity,
        precision: Precision,
        codes: &[u8],
        scales: &[F],
        zero_points: &[u8],
    ) -> Result<Self> {
        let malformed = |problem| Error::Malformed {
            artifact: NAME,
            problem,
        };
        if !(1..=16).contains(&bits) {
            return Err(malformed(format!("codes of {bits} bits")));
        }
        let [rows, columns] = shape;
        let count = rows
            .checked_mul(columns)
            .filter(|&count| count > 0)
            .ok_or_else(|| malformed(format!("there is no matrix of {rows} by {columns} codes")))?;
        let packed = PackedCodes::from_bytes(NAME, codes.to_vec(), count, bits)?;
        let codes = Codes { bits, symmetry };
        if let Some(stored) = packed
            .unpack()
            .into_iter()
            .find(|&q| codes.code(q).is_none())
        {
            return Err(malformed(format!(
                "{stored} is no symmetric code of {bits} bits"
            )));
        }
        check_block(granularity).map_err(|error| malformed(error.to_string()))?;
        let grids = granularity
            .count(shape)
            .ok_or_else(|| malformed(format!("{granularity:?} of {rows} by {columns} codes")))?;
        if scales.len() != grids {
            return Err(malformed(format!(
                "{grids} scales are needed, found {}",
                scales.len()
            )));
        }
        for &scale in scales {
            let signed = symmetry == Symmetry::SignedScale;
            if !(scale.is_finite() && (signed || scale >= F::zero())) {
                return Err(malformed(format!("a scale of {scale}")));
            }
            if precision.round("a scale", scale) != Ok(scale) {
                return Err(malformed(format!("{scale} is no value of {precision}")));
            }
        }
        let zeros = match symmetry {
            Symmetry::Affine => {
                PackedCodes::from_bytes(NAME, zero_points.to_vec(), grids, bits)?.unpack()
            }
            _ if zero_points.is_empty() => Vec::new(),
            _ => {
                return Err(malformed("zero points of a grid around zero".to_owned()));
            }
        };
        Ok(Self {
            shape,
            codes,
            granularity,
            precision,
            scales: scales.to_vec(),
            // At most sixteen bits each.
            zeros: zeros.into_iter().map(|zero| zero as u16).collect(),
            packed,
        })
    }

    /// The bits of a code.
    #[must_use]
    pub fn bits(&self) -> u32 {
        self.codes.bits
    }

    /// Where the values of the grid lie.
    #[must_use]
    pub fn symmetry(&self) -> Symmetry {
        self.codes.symmetry
    }

    /// Which weights share a scale.
    #[must_use]
    pub fn granularity(&self) -> Granularity {
        self.granularity
    }

    /// The integers q, of shape (out_features, in_features).
    #[must_use]
    pub fn integers(&self) -> Array2<i32> {
        let codes = self.packed.unpack().into_iter();
        let codes = codes.map(|q| self.code(q)).collect();
        Array2::from_shape_vec(self.shape, codes).expect("the matrix has one code for each weight")
    }

    /// The integer q that is stored as this number.
    pub(super) fn code(&self, stored: u32) -> i32 {
        self.codes
            .code(stored)
            .expect("stored codes have been checked")
    }

    /// The scales: one, one for each output, or one for each block of inputs, row by row.
    #[must_use]
    pub fn scales(&self) -> Vec<F> {
        self.scales.clone()
    }

    /// The zero points z: as many as scales on an affine grid, none on others.
    #[must_use]
    pub fn zero_points(&self) -> Vec<u16> {
        self.zeros.clone()
    }

    /// The zero points as they are stored.
    fn packed_zero_points(&self) -> Option<PackedCodes> {
        let zeros: Vec<u32> = self.zeros.iter().copied().map(u32::from).collect();
        (!zeros.is_empty()).then(|| PackedCodes::pack(&zeros, self.codes.bits))
    }

    /// The inputs of a row that share a grid.
    pub(super) fn width(&self) -> usize {
        self.granularity.width(self.shape[1])
    }

    /// The grids of a row, one for each run of [`width`](Self::width) inputs.
    pub(super) fn grids(&self, row: usize) -> impl Iterator<Item = Grid> {
        let range = grids_of(self.granularity, self.shape[1], row);
        range.map(|i| Grid {
            scale: self.scales[i].as_f64(),
            zero: self.zeros.get(i).map_or(0, |&zero| zero.into()),
        })
    }

    /// The weights of some rows, of shape (number of indices, in_features): embeddings of words, looked up from their codes.
    ///
    /// ```
    /// use taper::Quantizer;
    /// use taper::ndarray::array;
    /// use taper::quantize::fixed_point::FixedPointQuantizer;
    ///
    /// let words = array![[7.0_f32, -3.0], [1.0, 2.0], [0.0, 5.0]];
    /// let stored = FixedPointQuantizer::new(4).quantize(words.view())?;
    /// assert_eq!(stored.rows(&[2, 0, 2])?, array![[0.0, 5.0], [7.0, -3.0], [0.0, 5.0]]);
    /// # Ok::<(), taper::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] for an index of no row.
    pub fn rows(&self, indices: &[usize]) -> Result<Array2<F>> {
        let mut out = Array2::zeros((indices.len(), self.shape[1]));
        let rows = out.as_slice_mut().expect("a new array has no gaps");
        for (&row, out) in indices.iter().zip(rows.chunks_mut(self.shape[1])) {
            let inside = row < self.shape[0];
            check::in_range("a row", row as f64, "below the number of rows", inside)?;
            self.rows_into(row, out);
        }
        Ok(out)
    }

    /// Writes the weights of rows from `first` on into `out`, row by row.
    pub(super) fn rows_into(&self, first: usize, out: &mut [F]) {
        let (level, inputs) = (Level::current(), self.shape[1]);
        let mut bytes = vec![0_u8; if self.codes.bits <= 8 { inputs } else { 0 }];
        let mut words = vec![0_u32; inputs - bytes.len()];
        for (i, out) in out.chunks_mut(inputs).enumerate() {
            let start = (first + i) * inputs;
            let width = self.width();
            if self.codes.bits <= 8 {
                self.packed.unpack_bytes_into(start, &mut bytes);
            } else {
                self.packed.unpack_into(start, &mut words);
            }
            let blocks = out.chunks_mut(width).zip(self.grids(first + i));
            for (b, (out, grid)) in blocks.enumerate() {
                let spacing = self.codes.spacing::<F>(grid);
                let range = b * width..b * width + out.len();
                if self.codes.bits <= 8 {
                    evenly::values(level, spacing, &bytes[range], out);
                } else {
                    evenly::values(level, spacing, &words[range], out);
                }
            }
        }
    }
}

impl<F: Float> Compressed<F> for FixedPointMatrix<F> {
    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn parts(&self) -> Vec<Part<'_>> {
        let mut parts = vec![Part {
            name: "codes",
            dtype: DType::U8,
            shape: vec![self.packed.bytes().len()],
            role: Role::Payload,
            bytes: self.packed.bytes().into(),
        }];
        parts.push(Part {
            name: "scales",
            dtype: self.precision.dtype(),
            shape: vec![self.scales.len()],
            role: Role::SideInformation,
            bytes: self.precision.encode(self.scales.iter().copied()).into(),
        });
        if let Some(zeros) = self.packed_zero_points() {
            parts.push(Part {
                name: "zero_points",
                dtype: DType::U8,
                shape: vec![zeros.bytes().len()],
                role: Role::SideInformation,
                bytes: zeros.bytes().to_vec().into(),
            });
        }
        parts
    }

    fn storage(&self) -> StorageBits {
        let grids = self.scales.len() as u64;
        let size = StorageBits::new()
            .with("codes", Role::Payload, self.packed.total_bits())
            .with(
                "scales",
                Role::SideInformation,
                grids * self.precision.bits(),
            );
        match self.codes.symmetry {
            Symmetry::Symmetric | Symmetry::SignedScale => size,
            Symmetry::Affine => size.with(
                "zero_points",
                Role::SideInformation,
                grids * u64::from(self.codes.bits),
            ),
        }
    }

    fn decompress_into(&self, mut out: ArrayViewMutD<'_, F>) -> Result<()> {
        check::same_shape("out", &self.shape, out.shape())?;
        let inputs = self.shape[1];
        if let Some(out) = out.as_slice_mut() {
            parallel::for_each_chunk_mut(out, ROWS * inputs, |i, out| {
                self.rows_into(i * ROWS, out)
            });
            return Ok(());
        }
        let mut values = vec![F::zero(); inputs];
        for (i, mut row) in out.rows_mut().into_iter().enumerate() {
            self.rows_into(i, &mut values);
            for (out, &value) in row.iter_mut().zip(&values) {
                *out = value;
            }
        }
        Ok(())
    }
}

/// Which grids are those of a row of `columns` inputs.
pub(super) fn grids_of(granularity: Granularity, columns: usize, row: usize) -> Range<usize> {
    match granularity {
        Granularity::PerTensor => 0..1,
        Granularity::PerRow => row..row + 1,
        Granularity::Block(width) => {
            let blocks = columns.div_ceil(width);
            row * blocks..(row + 1) * blocks
        }
    }
}

/// Refuses blocks of a length that no kernel has.
pub(super) fn check_block(granularity: Granularity) -> Result<(), ParamError> {
    match granularity {
        Granularity::Block(width) => {
            let inside = matches!(width, 16 | 32 | 64 | 128);
            check::in_range("block", width as f64, "16, 32, 64 or 128", inside)
        }
        Granularity::PerTensor | Granularity::PerRow => Ok(()),
    }
}

#[cfg(test)]
mod tests;
