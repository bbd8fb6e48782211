//! Products with rows of codes of a few bits that have a scale for each block of inputs.
//!
//! A row is read in groups of [`GROUP`] codes, in the order in which they are stored. The codes of a group are unpacked into the
//! 32-bit lanes of registers so that each of the [`LANES`] lanes holds codes of one *sub-block*: 16 consecutive codes, which
//! share a scale. The inputs are put into the same order once for all rows ([`order`]). A lane multiplies its sum by its scale
//! once in each group.
//!
//! All levels add in the same order, with fused multiply-adds, so that they give the same bits. Codes of 2 to 6 bits have vector
//! forms in single precision; [`twin`] is the scalar form, for all codes of up to 8 bits and for both number types.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod twin;

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
}

impl Layout {
    /// Bytes of a group.
    pub(crate) fn bytes(self) -> usize {
        GROUP / 8 * self.bits as usize
    }

    /// Scales of a group.
    pub(crate) fn scales(self) -> usize {
        GROUP / self.width
    }

    /// Whether there are vector forms for these codes.
    pub(crate) fn is_few(self) -> bool {
        (2..=6).contains(&self.bits) && self.step == 1
    }
}

/// Some groups of one row. Codes have [`SLACK`] bytes and scales [`LANES`] numbers behind the last group.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a, F> {
    pub(crate) codes: &'a [u8],
    pub(crate) scales: &'a [F],
    /// What is subtracted from the codes of each block.
    pub(crate) zeros: &'a [i32],
}

impl<'a, F> Row<'a, F> {
    /// From group `first` on.
    pub(crate) fn starting_at(self, layout: Layout, first: usize) -> Self {
        Self {
            codes: &self.codes[first * layout.bytes()..],
            scales: &self.scales[first * layout.scales()..],
            zeros: &self.zeros[first * layout.scales()..],
        }
    }

    fn check(&self, layout: Layout, groups: usize) {
        assert!(matches!(layout.width, 16 | 32 | 64 | 128));
        assert!((1..=8).contains(&layout.bits));
        assert!(self.codes.len() >= groups * layout.bytes() + SLACK);
        assert!(self.scales.len() >= groups * layout.scales() + LANES);
        assert!(self.zeros.len() >= groups * layout.scales() + LANES);
    }
}

/// Vectors of inputs, rounded to bytes, in the order of [`order`]; each begins `stride` groups behind the one before.
#[derive(Debug, Clone, Copy)]
pub struct Bytes<'a> {
    pub(crate) values: &'a [i8],
    /// For each lane of each group the sum of its inputs.
    pub(crate) totals: &'a [i32],
    pub(crate) stride: usize,
}

/// Which code of a group stands at each place of the unpacked bytes, and with which input it is multiplied.
///
/// Byte 4·l + j of the k-th vector of 32 bytes belongs to lane l.
pub(crate) fn order(bits: u32) -> [u8; GROUP] {
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

/// Which sub-block each lane holds.
pub(crate) fn sub_blocks(bits: u32) -> [usize; LANES] {
    match bits {
        2 => [0, 1, 2, 3, 4, 5, 6, 7],
        4 => [0, 1, 4, 5, 2, 3, 6, 7],
        _ => [0, 2, 4, 6, 1, 3, 5, 7],
    }
}

/// The order of inputs for exact products: step t = 4·k + j multiplies byte j of each lane of the k-th vector.
pub(crate) fn steps(bits: u32) -> [u8; GROUP] {
    let order = order(bits);
    std::array::from_fn(|place| {
        let (t, lane) = (place / LANES, place % LANES);
        order[32 * (t / 4) + 4 * lane + t % 4]
    })
}

/// Number types with these products; a supertrait of [`Float`].
///
/// Public in name only: the module is private.
pub trait FewBitKernels: Sized {
    /// Whether there are vector forms for this type.
    const FAST: bool;

    /// Adds to `sums[b]` the products of the row with the inputs `b`, for as many as `sums` is long (at most [`TILE`]).
    fn add_rounded(
        level: Level,
        layout: Layout,
        row: Row<'_, Self>,
        x: Bytes<'_>,
        groups: usize,
        sums: &mut [Sums<Self>],
    );

    /// The same for inputs that are not rounded, in the order of [`steps`].
    fn add_exact(
        level: Level,
        layout: Layout,
        row: Row<'_, Self>,
        x: &[Self],
        stride: usize,
        groups: usize,
        sums: &mut [Sums<Self>],
    );
}

impl FewBitKernels for f64 {
    const FAST: bool = false;

    fn add_rounded(
        level: Level,
        layout: Layout,
        row: Row<'_, f64>,
        x: Bytes<'_>,
        groups: usize,
        sums: &mut [Sums<f64>],
    ) {
        row.check(layout, groups);
        twin::rounded(level, layout, row, x, groups, sums);
    }

    fn add_exact(
        level: Level,
        layout: Layout,
        row: Row<'_, f64>,
        x: &[f64],
        stride: usize,
        groups: usize,
        sums: &mut [Sums<f64>],
    ) {
        row.check(layout, groups);
        twin::exact(level, layout, row, x, stride, groups, sums);
    }
}

impl FewBitKernels for f32 {
    const FAST: bool = true;

    fn add_rounded(
        level: Level,
        layout: Layout,
        row: Row<'_, f32>,
        x: Bytes<'_>,
        groups: usize,
        sums: &mut [Sums<f32>],
    ) {
        row.check(layout, groups);
        let last = (sums.len().max(1) - 1) * x.stride + groups;
        assert!(sums.len() <= TILE && x.values.len() >= last * GROUP);
        assert!(x.totals.len() >= last * LANES);
        #[cfg(target_arch = "x86_64")]
        if level >= Level::Avx2 && layout.is_few() {
            // SAFETY: both levels have AVX2 and FMA, and the lengths are checked above.
            unsafe { avx2::rounded(layout, row, x, groups, sums) };
            return;
        }
        twin::rounded(level, layout, row, x, groups, sums);
    }

    fn add_exact(
        level: Level,
        layout: Layout,
        row: Row<'_, f32>,
        x: &[f32],
        stride: usize,
        groups: usize,
        sums: &mut [Sums<f32>],
    ) {
        row.check(layout, groups);
        let last = (sums.len().max(1) - 1) * stride + groups;
        assert!(sums.len() <= TILE && x.len() >= last * GROUP);
        #[cfg(target_arch = "x86_64")]
        if level >= Level::Avx2 && layout.is_few() {
            // SAFETY: both levels have AVX2 and FMA, and the lengths are checked above.
            unsafe { avx2::exact(layout, row, x, stride, groups, sums) };
            return;
        }
        twin::exact(level, layout, row, x, stride, groups, sums);
    }
}

/// The sum of all lanes, in the order of the sub-blocks.
pub(crate) fn total<F: Float>(bits: u32, sums: &Sums<F>) -> F {
    let mut ordered = [F::zero(); LANES];
    for (&sum, sub_block) in sums.iter().zip(sub_blocks(bits)) {
        ordered[sub_block] = sum;
    }
    let [a, b, c, d, e, f, g, h] = ordered;
    ((a + b) + (c + d)) + ((e + f) + (g + h))
}

#[cfg(test)]
mod tests;
