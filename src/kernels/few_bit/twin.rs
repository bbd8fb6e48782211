//! The scalar form, which is also the form for 1, 7 and 8 bits.

use super::{Bytes, GROUP, LANES, Layout, Row, SUB, Sums, order, steps, sub_blocks};
use crate::Float;
use crate::kernels::Level;
use crate::kernels::unpack::unpack_bytes;
use crate::kernels::vectorize::at_level;

/// What a group needs besides its codes.
struct Tables {
    order: [u8; GROUP],
    blocks: [usize; LANES],
}

impl Tables {
    fn new(layout: Layout, order: [u8; GROUP]) -> Self {
        Self {
            order,
            blocks: sub_blocks(layout.bits).map(|sub| sub * SUB / layout.width),
        }
    }
}

pub(super) fn rounded<F: Float>(
    level: Level,
    layout: Layout,
    row: Row<'_, F>,
    x: Bytes<'_>,
    groups: usize,
    sums: &mut [Sums<F>],
) {
    #[inline(always)]
    fn body<F: Float>(
        layout: Layout,
        tables: &Tables,
        row: Row<'_, F>,
        codes: &[u8; GROUP],
        values: &[i8; GROUP],
        totals: &[i32],
        sums: &mut Sums<F>,
    ) {
        let mut lanes = [0_i32; LANES];
        for (vector, codes) in values
            .as_chunks::<32>()
            .0
            .iter()
            .zip(codes.as_chunks::<32>().0)
        {
            for lane in 0..LANES {
                for j in 0..4 {
                    let place = 4 * lane + j;
                    lanes[lane] += i32::from(codes[place]) * i32::from(vector[place]);
                }
            }
        }
        for lane in 0..LANES {
            let block = tables.blocks[lane];
            let sum = layout.step * lanes[lane] - row.zeros[block] * totals[lane];
            // Of at most 21 bits: exact in both types.
            let sum = F::from_f64_lossy(f64::from(sum));
            sums[lane] = sum.mul_add(row.scales[block], sums[lane]);
        }
    }
    let tables = Tables::new(layout, order(layout.bits));
    for g in 0..groups {
        let row = row.starting_at(layout, g);
        let codes = unpacked(level, layout, row, &tables);
        for (b, sums) in sums.iter_mut().enumerate() {
            let at = b * x.stride + g;
            let values = &x.values.as_chunks::<GROUP>().0[at];
            let totals = &x.totals[at * LANES..(at + 1) * LANES];
            let (tables, codes) = (&tables, &codes);
            run(level, layout, tables, row, codes, values, totals, sums);
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn run<F: Float>(
        level: Level,
        layout: Layout,
        tables: &Tables,
        row: Row<'_, F>,
        codes: &[u8; GROUP],
        values: &[i8; GROUP],
        totals: &[i32],
        sums: &mut Sums<F>,
    ) {
        at_level!(level, body<F: Float>(
            layout: Layout, tables: &Tables, row: Row<'_, F>, codes: &[u8; GROUP], values: &[i8; GROUP],
            totals: &[i32], sums: &mut Sums<F>,
        ) -> ())
    }
}

/// The codes of the first group, in the order of the tables.
fn unpacked<F: Float>(
    level: Level,
    layout: Layout,
    row: Row<'_, F>,
    tables: &Tables,
) -> [u8; GROUP] {
    let mut natural = [0; GROUP];
    let bytes = &row.codes[..layout.bytes()];
    unpack_bytes(level, bytes, layout.bits, 0, &mut natural);
    tables.order.map(|place| natural[usize::from(place)])
}

pub(super) fn exact<F: Float>(
    level: Level,
    layout: Layout,
    row: Row<'_, F>,
    x: &[F],
    stride: usize,
    groups: usize,
    sums: &mut [Sums<F>],
) {
    let tables = Tables::new(layout, steps(layout.bits));
    for g in 0..groups {
        let row = row.starting_at(layout, g);
        let codes = unpacked(level, layout, row, &tables);
        let mut values = [F::zero(); GROUP];
        for (place, value) in values.iter_mut().enumerate() {
            let zero = row.zeros[tables.blocks[place % LANES]];
            let code = layout.step * i32::from(codes[place]) - zero;
            *value = F::from_f64_lossy(f64::from(code));
        }
        for (b, sums) in sums.iter_mut().enumerate() {
            let at = b * stride + g;
            let x = &x[at * GROUP..(at + 1) * GROUP];
            // Two sums for each lane: the steps of even vectors and of odd ones.
            let mut parts = [[F::zero(); LANES]; 2];
            for (t, (x, values)) in x.chunks(LANES).zip(values.chunks(LANES)).enumerate() {
                for lane in 0..LANES {
                    let part = &mut parts[t / 4 % 2][lane];
                    *part = values[lane].mul_add(x[lane], *part);
                }
            }
            for lane in 0..LANES {
                let scale = row.scales[tables.blocks[lane]];
                sums[lane] = (parts[0][lane] + parts[1][lane]).mul_add(scale, sums[lane]);
            }
        }
    }
}
