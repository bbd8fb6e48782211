//! The scalar form, which is also the form for 1, 7 and 8 bits.

use std::ops::Range;

use super::{Bytes, GROUP, LANES, Layout, Row, SUB, Sums, has_vectors, order, places, sub_blocks};
use crate::Float;
use crate::kernels::Level;
use crate::kernels::unpack::unpack_bytes;
use crate::kernels::vectorize::at_level;

/// The codes of group `g`, in an order.
fn unpacked<F>(
    level: Level,
    layout: Layout,
    row: &Row<'_, F>,
    g: usize,
    order: &[u8; GROUP],
) -> [u8; GROUP] {
    let mut natural = [0; GROUP];
    let bytes = &row.codes[g * layout.bytes()..(g + 1) * layout.bytes()];
    unpack_bytes(level, bytes, layout.bits, 0, &mut natural);
    if has_vectors(layout.bits) {
        order.map(|place| natural[usize::from(place)])
    } else {
        natural
    }
}

pub(super) fn rounded<F: Float>(
    level: Level,
    layout: Layout,
    rows: &[Row<'_, F>],
    x: Bytes<'_>,
    groups: Range<usize>,
    batch: usize,
    sums: &mut [Sums<F>],
) {
    /// The sums of the products of each lane.
    #[inline(always)]
    fn products(natural: bool, codes: &[u8; GROUP], values: &[i8; GROUP]) -> [i32; LANES] {
        let mut lanes = [0; LANES];
        let product = |place: usize| i32::from(codes[place]) * i32::from(values[place]);
        for (lane, sum) in lanes.iter_mut().enumerate() {
            for i in 0..SUB {
                *sum += product(match natural {
                    true => SUB * lane + i,
                    false => 32 * (i / 4) + 4 * lane + i % 4,
                });
            }
        }
        lanes
    }
    fn at(level: Level, natural: bool, codes: &[u8; GROUP], values: &[i8; GROUP]) -> [i32; LANES] {
        at_level!(level, products(natural: bool, codes: &[u8; GROUP], values: &[i8; GROUP]) -> [i32; LANES])
    }
    let (order, natural) = (order(layout.bits), !has_vectors(layout.bits));
    let blocks = sub_blocks(layout.bits).map(|sub| layout.block(sub));
    for (row, sums) in rows.iter().zip(sums.chunks_mut(batch)) {
        for g in groups.clone() {
            let codes = unpacked(level, layout, row, g, &order);
            for (b, sums) in sums.iter_mut().enumerate() {
                let group = b * x.stride + g;
                let values = &x.values.as_chunks::<GROUP>().0[group];
                let products = at(level, natural, &codes, values);
                for lane in 0..LANES {
                    let block = g * layout.scales() + blocks[lane];
                    let total = x.totals[group * LANES + lane];
                    let zero = if layout.affine { row.zeros[block] } else { 1 };
                    let product = layout.step * products[lane] - zero * total;
                    // Of at most 21 bits: exact in both types.
                    let product = F::from_f64_lossy(f64::from(product));
                    sums[lane] = product.mul_add(row.scales[block], sums[lane]);
                }
            }
        }
    }
}

pub(super) fn exact<F: Float>(
    level: Level,
    layout: Layout,
    rows: &[Row<'_, F>],
    (x, stride): (&[F], usize),
    groups: Range<usize>,
    batch: usize,
    sums: &mut [Sums<F>],
) {
    let order = places(layout.bits);
    for (row, sums) in rows.iter().zip(sums.chunks_mut(batch)) {
        for g in groups.clone() {
            let codes = unpacked(level, layout, row, g, &order);
            for block in 0..layout.scales() {
                let at = g * layout.scales() + block;
                let range = block * layout.width..(block + 1) * layout.width;
                for (b, sums) in sums.iter_mut().enumerate() {
                    let x = &x[(b * stride + g) * GROUP..][range.clone()];
                    let mut part = [F::zero(); LANES];
                    for (x, codes) in x.chunks(LANES).zip(codes[range.clone()].chunks(LANES)) {
                        for lane in 0..LANES {
                            let code = layout.step * i32::from(codes[lane]) - row.zeros[at];
                            let code = F::from_f64_lossy(f64::from(code));
                            part[lane] = code.mul_add(x[lane], part[lane]);
                        }
                    }
                    for lane in 0..LANES {
                        sums[lane] = part[lane].mul_add(row.scales[at], sums[lane]);
                    }
                }
            }
        }
    }
}
