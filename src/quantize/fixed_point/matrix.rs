//! A weight matrix of fixed-point codes.

use ndarray::{Array2, ArrayViewMutD};

use super::Granularity;
use super::grid::{Codes, Grid, Symmetry};
use crate::kernels::{Level, evenly};
use crate::packing::PackedCodes;
use crate::{
    Compressed, DType, Error, Float, Part, Precision, Result, Role, StorageBits, check, parallel,
};

const NAME: &str = "FixedPointMatrix";
/// Rows whose codes are unpacked at once.
pub(super) const ROWS: usize = 32;

/// A weight matrix of shape (out_features, in_features) whose values are scale·(q − z), q an integer of
/// 1 to 16 bits and z the zero point.
///
/// Codes are packed without gaps: the part `codes` is exactly ⌈out·in·bits / 8⌉ bytes. The part `scales` holds one scale, or one
/// for each row. On an affine grid, the part `zero_points` holds as many zero points, packed like codes; on a symmetric grid z
/// is 0. The value of q = z is exactly zero, in every precision.
///
/// [`apply`](crate::LinearOp::apply) decompresses blocks of rows and multiplies them, so that the result is the product with
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
    pub(super) grids: Vec<Grid>,
    pub(super) packed: PackedCodes,
    number: std::marker::PhantomData<F>,
}

impl<F: Float> FixedPointMatrix<F> {
    pub(super) fn new(
        shape: [usize; 2],
        codes: Codes,
        granularity: Granularity,
        precision: Precision,
        grids: Vec<Grid>,
        stored: &[u32],
    ) -> Self {
        Self {
            shape,
            codes,
            granularity,
            precision,
            grids,
            packed: PackedCodes::pack(stored, codes.bits),
            number: std::marker::PhantomData,
        }
    }

    /// Creates a matrix of shape (out_features, in_features) with codes of `bits` bits from its parts `codes`,
    /// `scales` and, on an affine grid, `zero_points` (empty on a symmetric one).
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] for a width that is not in 1..=16, for lengths that do not fit the shape, for the
    /// code that symmetric grids do not use, for bits beyond the last code or zero point, and
    /// for scales that are negative, not finite or not of that precision.
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
        let grids = match granularity {
            Granularity::PerTensor => 1,
            Granularity::PerRow => rows,
        };
        if scales.len() != grids {
            return Err(malformed(format!(
                "{grids} scales are needed, found {}",
                scales.len()
            )));
        }
        for &scale in scales {
            if !(scale.is_finite() && scale >= F::zero()) {
                return Err(malformed(format!("a scale of {scale}")));
            }
            if precision.round("a scale", scale) != Ok(scale) {
                return Err(malformed(format!("{scale} is no value of {precision}")));
            }
        }
        let zeros = match symmetry {
            Symmetry::Symmetric if zero_points.is_empty() => vec![0; grids],
            Symmetry::Symmetric => {
                return Err(malformed("zero points of a symmetric grid".to_owned()));
            }
            Symmetry::Affine => {
                PackedCodes::from_bytes(NAME, zero_points.to_vec(), grids, bits)?.unpack()
            }
        };
        let grids = scales.iter().zip(zeros).map(|(scale, zero)| Grid {
            scale: scale.as_f64(),
            zero: zero as i32,
        });
        Ok(Self {
            shape,
            codes,
            granularity,
            precision,
            grids: grids.collect(),
            packed,
            number: std::marker::PhantomData,
        })
    }

    /// The bits of a code.
    #[must_use]
    pub fn bits(&self) -> u32 {
        self.codes.bits
    }

    /// Whether the grid has a zero point.
    #[must_use]
    pub fn symmetry(&self) -> Symmetry {
        self.codes.symmetry
    }

    /// Whether each row has a scale of its own.
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

    /// The scales: one, or one for each output.
    #[must_use]
    pub fn scales(&self) -> Vec<F> {
        self.grids
            .iter()
            .map(|grid| F::from_f64_lossy(grid.scale))
            .collect()
    }

    /// The zero points z: none on a symmetric grid, else one, or one for each output.
    #[must_use]
    pub fn zero_points(&self) -> Vec<u16> {
        match self.codes.symmetry {
            Symmetry::Symmetric => Vec::new(),
            Symmetry::Affine => {
                let zeros = self.grids.iter().map(|grid| u16::try_from(grid.zero));
                zeros
                    .map(|zero| zero.expect("a zero point is a code of at most 16 bits"))
                    .collect()
            }
        }
    }

    /// The zero points as they are stored.
    fn packed_zero_points(&self) -> Option<PackedCodes> {
        let zeros: Vec<u32> = self.zero_points().into_iter().map(u32::from).collect();
        (!zeros.is_empty()).then(|| PackedCodes::pack(&zeros, self.codes.bits))
    }

    pub(super) fn grid(&self, row: usize) -> Grid {
        grid_of(&self.grids, row)
    }

    /// Writes the weights of rows from `first` on into `out`, row by row.
    pub(super) fn rows_into(&self, first: usize, out: &mut [F]) {
        let (level, inputs) = (Level::current(), self.shape[1]);
        let mut bytes = vec![0_u8; if self.codes.bits <= 8 { inputs } else { 0 }];
        let mut words = vec![0_u32; inputs - bytes.len()];
        for (i, out) in out.chunks_mut(inputs).enumerate() {
            let spacing = self.codes.spacing::<F>(self.grid(first + i));
            let start = (first + i) * inputs;
            if self.codes.bits <= 8 {
                self.packed.unpack_bytes_into(start, &mut bytes);
                evenly::values(level, spacing, &bytes, out);
            } else {
                self.packed.unpack_into(start, &mut words);
                evenly::values(level, spacing, &words, out);
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
            shape: vec![self.grids.len()],
            role: Role::SideInformation,
            bytes: self.precision.encode(self.scales()).into(),
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
        let grids = self.grids.len() as u64;
        let size = StorageBits::new()
            .with("codes", Role::Payload, self.packed.total_bits())
            .with(
                "scales",
                Role::SideInformation,
                grids * self.precision.bits(),
            );
        match self.codes.symmetry {
            Symmetry::Symmetric => size,
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

/// The grid of a row: its own, or the one of all rows.
pub(super) fn grid_of(grids: &[Grid], row: usize) -> Grid {
    match grids {
        &[grid] => grid,
        grids => grids[row],
    }
}

#[cfg(test)]
mod tests;
