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
const CACHED: usize = 1 << 13;

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
            affine: !self.zeros.is_empty(),
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
        let zero = if layout.affine { 1 } else { -self.codes.low() };
        let share = batch * self.shape[1] >= 1 << 16;
        parallel::for_each_with(
            vectors.collect(),
            share,
            || (),
            |(), ((values, totals), natural)| {
                reorder(&natural[..self.shape[1]], &order, values);
                for (group, totals) in values.chunks(GROUP).zip(totals.chunks_mut(LANES)) {
                    for (place, &x) in group.iter().enumerate() {
                        totals[few_bit::lane_of(layout.bits, place)] += zero * i32::from(x);
                    }
                }
            },
        );
        let product = |rows: &[Row<'_, F>], vectors: Range<usize>, some, sums: &mut [Sums<F>]| {
            let x = Bytes {
                values: &values[vectors.start * groups * GROUP..],
                totals: &totals[vectors.start * groups * LANES..],
                stride: groups,
            };
            F::add_rounded(Level::current(), layout, rows, x, some, vectors.len(), sums);
        };
        let total = |sums: &Sums<F>| few_bit::total(layout.bits, sums);
        self.multiply(&rounded.scales, CACHED / GROUP, product, total, y);
    }

    /// y = x Wᵀ; whether all outputs are finite.
    pub(super) fn apply_few_exact(
        &self,
        x: ArrayView2<'_, F>,
        y: &mut ArrayViewMut2<'_, F>,
    ) -> bool {
        let layout = self.layout();
        let groups = self.shape[1].div_ceil(GROUP);
        let order = few_bit::places(layout.bits);
        let mut values = vec![F::zero(); x.nrows() * groups * GROUP];
        let x = x.as_standard_layout();
        let rows = x.as_slice().expect("the layout is standard");
        for (row, values) in rows
            .chunks(self.shape[1])
            .zip(values.chunks_mut(groups * GROUP))
        {
            reorder(row, &order, values);
        }
        let product = |rows: &[Row<'_, F>], vectors: Range<usize>, some, sums: &mut [Sums<F>]| {
            let x = (&values[vectors.start * groups * GROUP..], groups);
            F::add_exact(Level::current(), layout, rows, x, some, vectors.len(), sums);
        };
        let cached = CACHED / GROUP / size_of::<F>();
        self.multiply(
            &vec![1.0; x.nrows()],
            cached,
            product,
            few_bit::sum,
            y.view_mut(),
        );
        y.iter().all(|y| y.is_finite())
    }

    /// The outputs: for each row and vector of inputs the `total` of the sums that `product` makes, times the scale of the inputs.
    ///
    /// `product(rows, vectors, groups, sums)` adds the products of some rows with some groups of some vectors. `cached` is how many
    /// groups of one vector the first-level cache holds.
    fn multiply(
        &self,
        scales: &[f64],
        cached: usize,
        product: impl Fn(&[Row<'_, F>], Range<usize>, Range<usize>, &mut [Sums<F>]) + Sync + Send,
        total: impl Fn(&Sums<F>) -> F + Sync + Send,
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
        let make = || Copies::new(layout, groups);
        parallel::for_each_with(tasks, share, make, |copies, (task, mut y)| {
            let range = task * TOGETHER..outputs.min((task + 1) * TOGETHER);
            copies.fill(self, range.clone());
            let rows = (0..range.len()).map(|i| copies.row(self, range.start, i));
            let rows: Vec<Row<'_, F>> = rows.collect();
            let mut sums = vec![[F::zero(); LANES]; rows.len() * TILE];
            for first in (0..batch).step_by(TILE) {
                let vectors = first..batch.min(first + TILE);
                let sums = &mut sums[..rows.len() * vectors.len()];
                sums.fill([F::zero(); LANES]);
                let panel = (cached / vectors.len()).max(1);
                for from in (0..groups).step_by(panel) {
                    let some = from..groups.min(from + panel);
                    product(&rows, vectors.clone(), some, sums);
                }
                for (i, sums) in sums.chunks(vectors.len()).enumerate() {
                    let of_row = match self.granularity {
                        Granularity::PerTensor => self.scales[0].as_f64(),
                        Granularity::PerRow => self.scales[range.start + i].as_f64(),
                        Granularity::Block(_) => 1.0,
                    };
                    for (vector, sums) in vectors.clone().zip(sums) {
                        let scaled = total(sums).as_f64() * of_row * scales[vector];
                        y[[vector, i]] = F::from_f64_lossy(scaled);
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
struct Copies<F> {
    layout: Layout,
    groups: usize,
    /// Whether codes and scales are copied.
    copied: bool,
    codes: Vec<u8>,
    scales: Vec<F>,
    /// Of all rows if the grid is affine, otherwise of one.
    zeros: Vec<i32>,
}

impl<F: Float> Copies<F> {
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
