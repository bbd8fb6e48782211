//! Products with codes of few bits, and with codes that have a scale for each block: unpacked in registers.
//!
//! Codes and scales are read in place where rows are whole groups of 128 inputs. Other rows, and the last ones, are copied,
//! some rows at a time.

use std::ops::Range;

use ndarray::{ArrayView2, ArrayViewMut2, Axis};

use super::Granularity;
use super::matrix::FixedPointMatrix;
use super::product::{RoundedInputs, TOGETHER, shared};
use crate::kernels::Level;
use crate::kernels::few_bit::{self, Bytes, GROUP, LANES, Layout, Row, SLACK, Sums, TILE};
use crate::{Float, parallel};

/// Bytes of inputs that stay in the first-level cache while all rows of a task pass.
const CACHED: usize = 1 << 14;

impl<F: Float> FixedPointMatrix<F> {
    /// The layout that the kernels for few bits take.
    fn layout(&self) -> Layout {
        Layout {
            bits: self.codes.bits,
            width: match self.granularity {
                Granularity::Block(width) => width,
                // One scale for the row, which multiplies the sum of all blocks.
                Granularity::PerTensor | Granularity::PerRow => GROUP,
            },
            step: self.codes.step() as i32,
        }
    }

    /// Whether products with rounded inputs take these kernels.
    pub(super) fn rounds_in_registers(&self) -> bool {
        matches!(self.granularity, Granularity::Block(_)) || self.multiplies_in_registers()
    }

    /// Whether there are vector kernels for these codes.
    pub(super) fn multiplies_in_registers(&self) -> bool {
        F::FAST && self.layout().is_few()
    }

    /// y = x Wᵀ with inputs rounded to bytes.
    pub(super) fn apply_few_rounded(&self, x: ArrayView2<'_, F>, y: ArrayViewMut2<'_, F>) {
        let layout = self.layout();
        let groups = self.shape[1].div_ceil(GROUP);
        let rounded = RoundedInputs::of(x, 0);
        let order = few_bit::order(layout.bits);
        let batch = rounded.scales.len();
        let mut values = vec![0_i8; batch * groups * GROUP];
        let mut totals = vec![0_i32; batch * groups * LANES];
        let vectors = values
            .chunks_mut((groups * GROUP).max(1))
            .zip(totals.chunks_mut((groups * LANES).max(1)))
            .zip(rounded.values.values().chunks(rounded.stride.max(1)));
        let share = batch * self.shape[1] >= 1 << 16;
        parallel::for_each_with(
            vectors.collect(),
            share,
            || (),
            |(), ((values, totals), natural)| {
                reorder(&natural[..self.shape[1]], &order, values);
                for (group, totals) in values.chunks(GROUP).zip(totals.chunks_mut(LANES)) {
                    for (place, &x) in group.iter().enumerate() {
                        totals[place % (4 * LANES) / 4] += i32::from(x);
                    }
                }
            },
        );
        let product = |row: Row<'_, F>, first: usize, some: Range<usize>, sums: &mut [Sums<F>]| {
            let at = first * groups + some.start;
            let x = Bytes {
                values: &values[at * GROUP..],
                totals: &totals[at * LANES..],
                stride: groups,
            };
            let row = row.starting_at(layout, some.start);
            F::add_rounded(Level::current(), layout, row, x, some.len(), sums);
        };
        self.multiply(&rounded.scales, CACHED / GROUP, product, y);
    }

    /// y = x Wᵀ; whether all outputs are finite.
    pub(super) fn apply_few_exact(
        &self,
        x: ArrayView2<'_, F>,
        y: &mut ArrayViewMut2<'_, F>,
    ) -> bool {
        let layout = self.layout();
        let groups = self.shape[1].div_ceil(GROUP);
        let order = few_bit::steps(layout.bits);
        let mut values = vec![F::zero(); x.nrows() * groups * GROUP];
        let x = x.as_standard_layout();
        let rows = x.as_slice().expect("the layout is standard");
        for (row, values) in rows
            .chunks(self.shape[1])
            .zip(values.chunks_mut(groups * GROUP))
        {
            reorder(row, &order, values);
        }
        let product = |row: Row<'_, F>, first: usize, some: Range<usize>, sums: &mut [Sums<F>]| {
            let x = &values[(first * groups + some.start) * GROUP..];
            let row = row.starting_at(layout, some.start);
            F::add_exact(Level::current(), layout, row, x, groups, some.len(), sums);
        };
        let cached = CACHED / GROUP / size_of::<F>();
        self.multiply(&vec![1.0; x.nrows()], cached, product, y.view_mut());
        y.iter().all(|y| y.is_finite())
    }

    /// The outputs: for each row and each [`TILE`] of inputs the total of the sums that `product` makes of some groups, times
    /// the scale of the inputs.
    ///
    /// `product(row, first, groups, sums)` adds the products with the inputs from `first` on. `cached` is how many groups of
    /// one vector of inputs the first-level cache holds.
    fn multiply(
        &self,
        scales: &[f64],
        cached: usize,
        product: impl Fn(Row<'_, F>, usize, Range<usize>, &mut [Sums<F>]) + Sync + Send,
        mut y: ArrayViewMut2<'_, F>,
    ) {
        let [outputs, inputs] = self.shape;
        let (layout, groups) = (self.layout(), inputs.div_ceil(GROUP));
        let batch = scales.len();
        let tasks: Vec<_> = y
            .axis_chunks_iter_mut(Axis(1), TOGETHER)
            .enumerate()
            .collect();
        let share = shared(outputs, inputs, batch);
        let make = || Rows::new(layout, groups);
        parallel::for_each_with(tasks, share, make, |rows, (task, mut y)| {
            let range = task * TOGETHER..outputs.min((task + 1) * TOGETHER);
            rows.fill(self, range.clone());
            let mut sums = vec![[F::zero(); LANES]; range.len() * TILE];
            for first in (0..batch).step_by(TILE) {
                let tile = TILE.min(batch - first);
                sums.fill([F::zero(); LANES]);
                let panel = (cached / tile).max(1);
                for from in (0..groups).step_by(panel) {
                    let some = from..groups.min(from + panel);
                    for (row, sums) in sums.chunks_mut(TILE).enumerate() {
                        let row = rows.row(self, range.start, row);
                        product(row, first, some.clone(), &mut sums[..tile]);
                    }
                }
                for (i, sums) in sums.chunks(TILE).enumerate() {
                    let of_row = match self.granularity {
                        Granularity::PerTensor => self.scales[0].as_f64(),
                        Granularity::PerRow => self.scales[range.start + i].as_f64(),
                        Granularity::Block(_) => 1.0,
                    };
                    for (b, sums) in sums[..tile].iter().enumerate() {
                        let total = few_bit::total(layout.bits, sums).as_f64();
                        let scaled = total * of_row * scales[first + b];
                        y[[first + b, i]] = F::from_f64_lossy(scaled);
                    }
                }
            }
        });
    }
}

/// Brings the values of a vector into the order of a kernel, group by group; the end is filled with zeros.
fn reorder<T: Copy + Default>(values: &[T], order: &[u8; GROUP], out: &mut [T]) {
    for (group, out) in values.chunks(GROUP).zip(out.chunks_mut(GROUP)) {
        let mut whole = [T::default(); GROUP];
        whole[..group.len()].copy_from_slice(group);
        for (out, &place) in out.iter_mut().zip(order) {
            *out = whole[usize::from(place)];
        }
    }
}

/// The rows of a task, for the kernels: copies where they cannot be read in place.
struct Rows<F> {
    layout: Layout,
    groups: usize,
    /// Whether codes and scales are copied.
    copied: bool,
    codes: Vec<u8>,
    scales: Vec<F>,
    /// Of all rows if the grid is affine, otherwise of one.
    zeros: Vec<i32>,
}

impl<F: Float> Rows<F> {
    fn new(layout: Layout, groups: usize) -> Self {
        Self {
            layout,
            groups,
            copied: false,
            codes: Vec::new(),
            scales: Vec::new(),
            zeros: Vec::new(),
        }
    }

    /// Bytes and scales of a row, with what must be readable behind them.
    fn lengths(&self) -> (usize, usize) {
        (
            self.groups * self.layout.bytes() + SLACK,
            self.groups * self.layout.scales() + LANES,
        )
    }

    fn fill(&mut self, matrix: &FixedPointMatrix<F>, rows: Range<usize>) {
        let columns = matrix.shape[1];
        let (bytes, scales) = self.lengths();
        let blocks = matches!(matrix.granularity, Granularity::Block(_));
        let of_row = columns.div_ceil(self.layout.width);
        // Behind the rows are other rows, but for the last ones.
        let last = rows.end - 1;
        let whole = columns.is_multiple_of(GROUP)
            && last * (bytes - SLACK) + bytes <= matrix.packed.bytes().len()
            && (!blocks || last * of_row + scales <= matrix.scales.len());
        self.copied = !whole;
        if self.copied {
            self.codes.clear();
            self.codes.resize(rows.len() * bytes, 0);
            for (row, to) in rows.clone().zip(self.codes.chunks_mut(bytes)) {
                matrix.packed.copy_bits(row * columns, columns, to);
            }
        }
        if !blocks {
            self.scales.resize(scales, F::one());
        } else if self.copied {
            self.scales.clear();
            self.scales.resize(rows.len() * scales, F::zero());
            for (row, to) in rows.clone().zip(self.scales.chunks_mut(scales)) {
                to[..of_row].copy_from_slice(&matrix.scales[row * of_row..(row + 1) * of_row]);
            }
        }
        let low = matrix.codes.low();
        if matrix.zeros.is_empty() {
            self.zeros.resize(scales, -low);
            return;
        }
        self.zeros.clear();
        self.zeros.resize(rows.len() * scales, 0);
        for (row, to) in rows.zip(self.zeros.chunks_mut(scales)) {
            match matrix.granularity {
                Granularity::PerTensor => to.fill(i32::from(matrix.zeros[0]) - low),
                Granularity::PerRow => to.fill(i32::from(matrix.zeros[row]) - low),
                Granularity::Block(_) => {
                    let zeros = &matrix.zeros[row * of_row..(row + 1) * of_row];
                    for (to, &zero) in to.iter_mut().zip(zeros) {
                        *to = i32::from(zero) - low;
                    }
                }
            }
        }
    }

    /// The row `i` after `first`, the first that was filled in.
    fn row<'a>(&'a self, matrix: &'a FixedPointMatrix<F>, first: usize, i: usize) -> Row<'a, F> {
        let (bytes, scales) = self.lengths();
        let blocks = matches!(matrix.granularity, Granularity::Block(_));
        let of_row = matrix.shape[1].div_ceil(self.layout.width);
        Row {
            codes: match self.copied {
                true => &self.codes[i * bytes..][..bytes],
                false => &matrix.packed.bytes()[(first + i) * (bytes - SLACK)..][..bytes],
            },
            scales: match (blocks, self.copied) {
                (false, _) => &self.scales,
                (true, true) => &self.scales[i * scales..][..scales],
                (true, false) => &matrix.scales[(first + i) * of_row..][..scales],
            },
            zeros: match matrix.zeros.is_empty() {
                true => &self.zeros,
                false => &self.zeros[i * scales..][..scales],
            },
        }
    }
}
