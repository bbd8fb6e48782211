//! Products with rows of codes of a few bits that have a scale for each block of inputs.
//!
//! A row is read in groups of [`GROUP`] codes, in the order in which they are stored, and its codes are unpacked in registers.
//! A *sub-block* is 16 consecutive codes, which share a scale.
//!
//! With rounded inputs, each of the [`LANES`] lanes of 32 bits holds codes of one sub-block, so that a lane multiplies its sum by
//! its scale once in each group ([`order`]). With exact inputs, eight codes of one sub-block at a time become numbers
//! ([`places`]). The inputs are put into the same order once for all rows.
//!
//! All levels add in the same order, with fused multiply-adds, so that they give the same bits. Codes of 2 to 6 bits have vector
//! forms in single precision; [`twin`] is the scalar form, for all codes of up to 8 bits and for both number types.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod twin;

use std::ops::Range;

use super::Level;
use crate::Float;

/// Codes that are unpacked together.
pub(crate) const GROUP: usize = 128;
/// Sub-blocks of a group.
pub(crate) const LANES: usize = 8;
/// Codes of a sub-block.
pub(crate) const SUB: usize = GROUP / LANES;
/// Bytes behind the last group that must be readable.
pub(crate) const SLACK: usize = 16;
/// Vectors of inputs that are multiplied together.
pub(crate) const TILE: usize = 4;

/// The sums of one row with one vector of inputs: one for each lane.
pub type Sums<F> = [F; LANES];

/// How the codes of all rows are stored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Layout {
    /// Bits of a code, 1 to 8.
    pub(crate) bits: u32,
    /// Inputs that share a scale: 16, 32, 64 or 128.
    pub(crate) width: usize,
    /// Code q stands for step·q − zero: 2 where the codes are two signs.
    pub(crate) step: i32,
    /// Whether each block has a zero of its own.
    pub(crate) affine: bool,
}

impl Layout {
    /// Bytes of a group.
    pub(crate) fn bytes(self) -> usize {
        GROUP / 8 * self.bits as usize
    }

    /// Scales of a group.
    pub(crate) fn scales(self) -> usize {
        GROUP >> self.width.trailing_zeros()
    }

    /// Which block of a group a sub-block belongs to.
    fn block(self, sub: usize) -> usize {
        (sub * SUB) >> self.width.trailing_zeros()
    }

    /// Whether there are vector forms for these codes.
    pub(crate) fn is_few(self) -> bool {
        has_vectors(self.bits) && self.step == 1
    }
}

fn has_vectors(bits: u32) -> bool {
    (2..=6).contains(&bits)
}

/// One row. Codes have [`SLACK`] bytes and scales and zeros [`LANES`] numbers behind the last group.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a, F> {
    pub(crate) codes: &'a [u8],
    pub(crate) scales: &'a [F],
    /// What is subtracted from the codes of each block: the same for all unless the layout is affine.
    pub(crate) zeros: &'a [i32],
}

impl<F> Row<'_, F> {
    fn check(&self, layout: Layout, groups: usize) {
        assert!(self.codes.len() >= groups * layout.bytes() + SLACK);
        assert!(self.scales.len() >= groups * layout.scales() + LANES);
        assert!(self.zeros.len() >= groups * layout.scales() + LANES);
    }
}

/// Checks the lengths that all products need.
fn check<F>(layout: Layout, rows: &[Row<'_, F>], groups: &Range<usize>, batch: usize, sums: usize) {
    assert!(matches!(layout.width, 16 | 32 | 64 | 128));
    assert!((1..=8).contains(&layout.bits));
    assert!((1..=TILE).contains(&batch) && sums == rows.len() * batch);
    for row in rows {
        row.check(layout, groups.end);
    }
}

/// Vectors of inputs, rounded to bytes, in the order of [`order`]; each begins `stride` groups behind the one before.
#[derive(Debug, Clone, Copy)]
pub struct Bytes<'a> {
    pub(crate) values: &'a [i8],
    /// For each lane of each group the sum of its inputs, times the zero of all codes unless the layout is affine.
    pub(crate) totals: &'a [i32],
    pub(crate) stride: usize,
}

/// Which code of a group stands at each place of the unpacked bytes, and with which rounded input it is multiplied.
///
/// Where there are vectors, byte 4·l + j of the k-th vector of 32 bytes belongs to lane l.
pub(crate) fn order(bits: u32) -> [u8; GROUP] {
    if !has_vectors(bits) {
        return std::array::from_fn(|place| place as u8);
    }
    let lanes = sub_blocks(bits);
    std::array::from_fn(|place| {
        let (k, lane, j) = (place / 32, place % 32 / 4, place % 4);
        let within = match bits {
            // A byte holds four codes.
            2 => 4 * j + k,
            // Even codes are low halves of bytes, and a lane takes four bytes of a sub-block at a time.
            4 => 8 * (k / 2) + 2 * j + k % 2,
            _ => 4 * k + j,
        };
        (SUB * lanes[lane] + within) as u8
    })
}

/// The lane of each place of [`order`].
pub(crate) fn lane_of(bits: u32, place: usize) -> usize {
    if has_vectors(bits) {
        place % 32 / 4
    } else {
        place / SUB
    }
}

/// Which sub-block each lane holds.
fn sub_blocks(bits: u32) -> [usize; LANES] {
    match bits {
        4 => [0, 1, 4, 5, 2, 3, 6, 7],
        3 | 5 | 6 => [0, 2, 4, 6, 1, 3, 5, 7],
        _ => [0, 1, 2, 3, 4, 5, 6, 7],
    }
}

/// The order of exact inputs: eight of each sub-block, and then its other eight.
pub(crate) fn places(bits: u32) -> [u8; GROUP] {
    std::array::from_fn(|place| {
        let (sub, half, lane) = (place / SUB, place % SUB / LANES, place % LANES);
        let within = match bits {
            // Even codes are low halves of bytes.
            4 => 2 * lane + half,
            _ => LANES * half + lane,
        };
        (SUB * sub + within) as u8
    })
}

/// Number types with these products; a supertrait of [`Float`].
///
/// Public in name only: the module is private.
pub trait FewBitKernels: Sized {
    /// Whether there are vector forms for this type.
    const FAST: bool;

    /// Adds to `sums[batch·r + b]` the products of some groups of row r with those of the inputs b, for `batch` of them (at
    /// most [`TILE`]).
    fn add_rounded(
        level: Level,
        layout: Layout,
        rows: &[Row<'_, Self>],
        x: Bytes<'_>,
        groups: Range<usize>,
        batch: usize,
        sums: &mut [Sums<Self>],
    ) where
        Self: Float,
    {
        check(layout, rows, &groups, batch, sums.len());
        twin::rounded(level, layout, rows, x, groups, batch, sums);
    }

    /// The same for inputs that are not rounded, in the order of [`places`]; each vector begins `stride` groups behind the one
    /// before.
    fn add_exact(
        level: Level,
        layout: Layout,
        rows: &[Row<'_, Self>],
        x: (&[Self], usize),
        groups: Range<usize>,
        batch: usize,
        sums: &mut [Sums<Self>],
    ) where
        Self: Float,
    {
        check(layout, rows, &groups, batch, sums.len());
        twin::exact(level, layout, rows, x, groups, batch, sums);
    }
}

impl FewBitKernels for f32 {
    const FAST: bool = true;

    fn add_rounded(
        level: Level,
        layout: Layout,
        rows: &[Row<'_, f32>],
        x: Bytes<'_>,
        groups: Range<usize>,
        batch: usize,
        sums: &mut [Sums<f32>],
    ) {
        check(layout, rows, &groups, batch, sums.len());
        let last = (batch - 1) * x.stride + groups.end;
        assert!(x.values.len() >= last * GROUP && x.totals.len() >= last * LANES);
        #[cfg(target_arch = "x86_64")]
        if level >= Level::Avx2 && layout.is_few() {
            // SAFETY: both levels have AVX2 and FMA, and the lengths are checked above.
            unsafe { avx2::rounded(layout, rows, x, groups, batch, sums) };
            return;
        }
        twin::rounded(level, layout, rows, x, groups, batch, sums);
    }

    fn add_exact(
        level: Level,
        layout: Layout,
        rows: &[Row<'_, f32>],
        x: (&[f32], usize),
        groups: Range<usize>,
        batch: usize,
        sums: &mut [Sums<f32>],
    ) {
        check(layout, rows, &groups, batch, sums.len());
        assert!(x.0.len() >= ((batch - 1) * x.1 + groups.end) * GROUP);
        #[cfg(target_arch = "x86_64")]
        if level >= Level::Avx2 && layout.is_few() {
            // SAFETY: as above.
            unsafe { avx2::exact(layout, rows, x, groups, batch, sums) };
            return;
        }
        twin::exact(level, layout, rows, x, groups, batch, sums);
    }
}

impl FewBitKernels for f64 {
    const FAST: bool = false;
}

/// The sum of all lanes of a product with rounded inputs, in the order of the sub-blocks.
pub(crate) fn total<F: Float>(bits: u32, sums: &Sums<F>) -> F {
    let mut ordered = [F::zero(); LANES];
    for (&sum, sub_block) in sums.iter().zip(sub_blocks(bits)) {
        ordered[sub_block] = sum;
    }
    sum(&ordered)
}

/// The sum of all lanes.
pub(crate) fn sum<F: Float>(&[a, b, c, d, e, f, g, h]: &Sums<F>) -> F {
    ((a + b) + (c + d)) + ((e + f) + (g + h))
}

#[cfg(test)]
mod tests;
