use super::*;
use crate::Seed;
use crate::packing::PackedCodes;
use proptest::prelude::*;

/// Rows and inputs in the natural order, and what the kernels take.
struct Case {
    layout: Layout,
    codes: Vec<u32>,
    packed: Vec<u8>,
    scales: Vec<f32>,
    zeros: Vec<i32>,
    bytes: Vec<i8>,
    numbers: Vec<f32>,
}

impl Case {
    fn new(layout: Layout, groups: usize, batch: usize, seed: u64) -> Self {
        let word = |stream: u64, i: usize| Seed::from(seed).derive(stream).derive(i as u64).value();
        let blocks = groups * layout.scales() + LANES;
        let codes: Vec<u32> = (0..groups * GROUP)
            .map(|i| (word(0, i) >> 20) as u32 % (1 << layout.bits))
            .collect();
        let mut packed = PackedCodes::pack(&codes, layout.bits).bytes().to_vec();
        packed.resize(packed.len() + SLACK, 0xa5);
        let inputs = batch * groups * GROUP;
        Self {
            layout,
            codes,
            packed,
            scales: (0..blocks)
                .map(|i| (word(1, i) >> 40) as f32 / 2_f32.powi(23) - 1.0)
                .collect(),
            zeros: (0..blocks)
                .map(|i| if layout.affine { i } else { 0 })
                .map(|i| (word(2, i) >> 20) as i32 & ((1 << layout.bits) - 1))
                .collect(),
            bytes: (0..inputs)
                .map(|i| ((word(3, i) >> 20) % 255) as i32 - 127)
                .map(|x| x as i8)
                .collect(),
            numbers: (0..inputs)
                .map(|i| (word(4, i) >> 40) as f32 / 2_f32.powi(23) - 1.0)
                .collect(),
        }
    }

    fn row(&self) -> Row<'_, f32> {
        Row {
            codes: &self.packed,
            scales: &self.scales,
            zeros: &self.zeros,
        }
    }

    /// Σ scale·(step·q − zero)·x, and the sum of the magnitudes.
    fn expected(&self, x: impl Fn(usize) -> f64) -> (f64, f64) {
        let terms = self.codes.iter().enumerate().map(|(i, &code)| {
            let block = i / self.layout.width;
            let code = self.layout.step * code as i32 - self.zeros[block];
            f64::from(self.scales[block]) * f64::from(code) * x(i)
        });
        let terms: Vec<f64> = terms.collect();
        (
            terms.iter().sum(),
            terms.iter().map(|term| term.abs()).sum(),
        )
    }

    fn ordered<T: Copy>(&self, values: &[T], order: [u8; GROUP]) -> Vec<T> {
        let groups = values.chunks(GROUP);
        groups
            .flat_map(|group| order.map(|place| group[usize::from(place)]))
            .collect()
    }
}

proptest! {
    #[test]
    fn every_level_sums_alike_and_right(bits in 1_u32..=8, width in 0_usize..4, signs in any::<bool>(), affine in any::<bool>(), first in 0_usize..2, groups in 1_usize..5, batch in 1_usize..=TILE, seed in any::<u64>()) {
        let step = if bits == 1 && signs { 2 } else { 1 };
        let layout = Layout { bits, width: 16 << width, step, affine };
        let case = Case::new(layout, groups, batch, seed);
        let bytes = case.ordered(&case.bytes, order(bits));
        let totals: Vec<i32> = bytes.chunks(GROUP).flat_map(|group| {
            let factor = if affine { 1 } else { case.zeros[0] };
            let lane = move |lane: usize| (0..GROUP).filter(move |&place| lane_of(bits, place) == lane);
            (0..LANES).map(move |l| factor * lane(l).map(|place| i32::from(group[place])).sum::<i32>())
        }).collect();
        let x = Bytes { values: &bytes, totals: &totals, stride: groups };
        let numbers = case.ordered(&case.numbers, places(bits));
        let start = [[0.5_f32; LANES]; TILE];
        let mut all = Vec::new();
        for level in Level::available() {
            let (mut rounded, mut exact) = (start, start);
            // In two pieces, and two rows at a time.
            let first = first.min(groups);
            let rows = [case.row(); 2];
            for some in [0..first, first..groups] {
                let mut both = [rounded, rounded].map(|sums| sums[..batch].to_vec()).concat();
                f32::add_rounded(level, layout, &rows, x, some.clone(), batch, &mut both);
                prop_assert_eq!(&both[..batch], &both[batch..]);
                rounded[..batch].copy_from_slice(&both[..batch]);
                f32::add_exact(level, layout, &rows[..1], (&numbers, groups), some, batch, &mut exact[..batch]);
            }
            for (b, (rounded, exact)) in rounded.iter().zip(&exact).take(batch).enumerate() {
                let length = groups * GROUP;
                let of_bytes = case.expected(|i| f64::from(case.bytes[b * length + i]));
                let of_numbers = case.expected(|i| f64::from(case.numbers[b * length + i]));
                for (total, (expected, size)) in [(total(bits, rounded), of_bytes), (sum(exact), of_numbers)] {
                    let total = f64::from(total) - 0.5 * LANES as f64;
                    // One rounding for each product of a lane, and of the sums of what they began with.
                    let terms = (length + LANES) as f64;
                    prop_assert!((total - expected).abs() <= terms * f64::from(f32::EPSILON) * (size + 4.0), "{:?}: {} for {}", level, total, expected);
                }
            }
            all.push((rounded, exact));
        }
        for pair in all.windows(2) {
            prop_assert_eq!(&pair[0], &pair[1]);
        }
    }
}

#[test]
fn the_extremes_do_not_overflow() {
    for bits in 1..=8 {
        for input in [-127_i8, 127] {
            let layout = Layout {
                bits,
                width: 128,
                step: 1,
                affine: true,
            };
            let largest = (1_i32 << bits) - 1;
            for (code, zero) in [(largest, 0), (0, largest)] {
                let mut packed = PackedCodes::pack(&[code as u32; GROUP], bits)
                    .bytes()
                    .to_vec();
                packed.resize(packed.len() + SLACK, 0);
                let row = Row {
                    codes: &packed,
                    scales: &[1.0_f32; 9],
                    zeros: &[zero; 9],
                };
                let totals = [SUB as i32 * i32::from(input); LANES];
                let x = Bytes {
                    values: &[input; GROUP],
                    totals: &totals,
                    stride: 1,
                };
                for level in Level::available() {
                    let mut sums = [[0.0; LANES]];
                    f32::add_rounded(level, layout, &[row], x, 0..1, 1, &mut sums);
                    let expected = SUB as i32 * (code - zero) * i32::from(input);
                    assert_eq!(sums, [[expected as f32; LANES]], "{level:?}");
                }
            }
        }
    }
}

#[test]
fn an_order_names_every_code_once() {
    for bits in 1..=8 {
        for mut order in [order(bits), places(bits)] {
            order.sort_unstable();
            assert_eq!(order, std::array::from_fn(|i| i as u8));
        }
    }
}
