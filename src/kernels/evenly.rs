//! Rounding to evenly spaced values, and products with them: plain loops, compiled for each level.
//!
//! Rounding is in double precision and no product is fused with a sum, so that every level gives the same bits and every
//! number type the same codes.

use super::Level;
use super::vectorize::at_level;
use crate::Float;

/// Adding and then subtracting it rounds a number below 2⁵¹ to a whole number, ties to even.
const ROUND: f64 = 1.5 * (1_u64 << 52) as f64;
/// Sums that run side by side.
const LANES: usize = 8;

/// The values offset + scale·q for the codes q = low, low + step, …, high.
///
/// The step is 1, or 2 for the two signs −1 and +1, where every value from zero on becomes +1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spacing {
    pub(crate) scale: f64,
    pub(crate) offset: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
    pub(crate) step: f64,
    /// The largest finite number of the type of the values.
    pub(crate) largest: f64,
}

impl Spacing {
    /// The code nearest to `w`, whose place is (w − offset) / scale.
    #[inline(always)]
    fn code(self, w: f64, place: f64) -> f64 {
        if self.step == 2.0 {
            return if w >= 0.0 { 1.0 } else { -1.0 };
        }
        // Comparisons compile to fewer instructions than `max` and `min`, which have rules for NaN.
        let above = if place > self.low { place } else { self.low };
        let inside = if above < self.high { above } else { self.high };
        (inside + ROUND) - ROUND
    }

    #[inline(always)]
    fn nearest(self, w: f64) -> f64 {
        self.code(w, (w - self.offset) / self.scale)
    }

    /// The value of a code, limited to the largest number.
    #[inline(always)]
    fn value(self, code: f64) -> f64 {
        let value = self.offset + self.scale * code;
        let above = if value > -self.largest {
            value
        } else {
            -self.largest
        };
        if above < self.largest {
            above
        } else {
            self.largest
        }
    }

    /// If the scale is zero, every value has the code 0.
    #[inline(always)]
    fn guarded(mut self) -> Self {
        if self.scale == 0.0 {
            (self.low, self.high, self.step) = (0.0, 0.0, 1.0);
        }
        self
    }
}

/// The nearest code of each value, counted from the lowest: ties go to the even one, of signs to +1.
pub(crate) fn round<F: Float>(level: Level, spacing: Spacing, values: &[F], out: &mut [u32]) {
    #[inline(always)]
    fn body<F: Float>(spacing: Spacing, values: &[F], out: &mut [u32]) {
        let guarded = spacing.guarded();
        let inverse = spacing.step.recip();
        for (out, w) in out.iter_mut().zip(values) {
            let code = guarded.nearest(w.as_f64());
            // Small and not negative: a signed conversion is an instruction of its own.
            *out = ((code - spacing.low) * inverse) as i32 as u32;
        }
    }
    at_level!(level, body<F: Float>(spacing: Spacing, values: &[F], out: &mut [u32]) -> ())
}

/// Replaces each value by the nearest of the spacing.
pub(crate) fn snap<F: Float>(level: Level, spacing: Spacing, values: &mut [F]) {
    #[inline(always)]
    fn body<F: Float>(spacing: Spacing, values: &mut [F]) {
        let guarded = spacing.guarded();
        for w in values {
            *w = F::from_f64_lossy(spacing.value(guarded.nearest(w.as_f64())));
        }
    }
    at_level!(level, body<F: Float>(spacing: Spacing, values: &mut [F]) -> ())
}

/// A stored code.
pub(crate) trait Stored: Copy {
    fn number(self) -> f64;
}

impl Stored for u8 {
    #[inline(always)]
    fn number(self) -> f64 {
        f64::from(self)
    }
}

impl Stored for u32 {
    #[inline(always)]
    fn number(self) -> f64 {
        // Of at most 16 bits: a signed conversion is an instruction of its own.
        f64::from(self as i32)
    }
}

/// The values of codes that are counted from the lowest.
pub(crate) fn values<F: Float, C: Stored>(
    level: Level,
    spacing: Spacing,
    codes: &[C],
    out: &mut [F],
) {
    #[inline(always)]
    fn body<F: Float, C: Stored>(spacing: Spacing, codes: &[C], out: &mut [F]) {
        for (out, code) in out.iter_mut().zip(codes) {
            let code = spacing.low + spacing.step * code.number();
            *out = F::from_f64_lossy(spacing.value(code));
        }
    }
    at_level!(level, body<F: Float, C: Stored>(spacing: Spacing, codes: &[C], out: &mut [F]) -> ())
}

/// Sums over values w and their codes q, for the squared error and the least-squares line through them.
///
/// Both are relative to a point near their middle, so that the sums keep their digits.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Sums {
    /// Σ (w − value of q)².
    pub(crate) error: f64,
    pub(crate) w: f64,
    pub(crate) q: f64,
    pub(crate) wq: f64,
    pub(crate) qq: f64,
}

impl Sums {
    /// The sums of both.
    pub(crate) fn add(self, other: Self) -> Self {
        Self {
            error: self.error + other.error,
            w: self.w + other.w,
            q: self.q + other.q,
            wq: self.wq + other.wq,
            qq: self.qq + other.qq,
        }
    }
}

/// Σ (w − nearest value)².
///
/// Multiplies by the inverse of the scale. Where that changes a code, the value is midway between two codes, and both have
/// the same error.
pub(crate) fn squared_error<F: Float>(level: Level, spacing: Spacing, values: &[F]) -> f64 {
    #[inline(always)]
    fn body<F: Float>(spacing: Spacing, values: &[F]) -> f64 {
        let guarded = spacing.guarded();
        let inverse = spacing.scale.recip();
        let square = |w: F| {
            let w = w.as_f64();
            let code = guarded.code(w, (w - spacing.offset) * inverse);
            let gap = w - (spacing.offset + spacing.scale * code);
            gap * gap
        };
        let mut sums = [0.0; LANES];
        let chunks = values.chunks_exact(LANES);
        for (sum, &w) in sums.iter_mut().zip(chunks.remainder()) {
            *sum += square(w);
        }
        for chunk in chunks {
            for i in 0..LANES {
                sums[i] += square(chunk[i]);
            }
        }
        sums.iter().sum()
    }
    at_level!(level, body<F: Float>(spacing: Spacing, values: &[F]) -> f64)
}

/// The sums of `values` with their nearest codes, relative to the middle of the spacing.
pub(crate) fn sums<F: Float>(level: Level, spacing: Spacing, values: &[F]) -> Sums {
    #[inline(always)]
    fn body<F: Float>(spacing: Spacing, values: &[F]) -> Sums {
        let guarded = spacing.guarded();
        let (middle_w, middle_q) = spacing.middle();
        let mut lanes = [[0.0; LANES]; 5];
        let mut add = |i: usize, w: F| {
            let w = w.as_f64();
            let code = guarded.nearest(w);
            let gap = w - (spacing.offset + spacing.scale * code);
            let (w, q) = (w - middle_w, code - middle_q);
            lanes[0][i] += gap * gap;
            lanes[1][i] += w;
            lanes[2][i] += q;
            lanes[3][i] += w * q;
            lanes[4][i] += q * q;
        };
        let chunks = values.chunks_exact(LANES);
        for (i, &w) in chunks.remainder().iter().enumerate() {
            add(i, w);
        }
        for chunk in chunks {
            for (i, &w) in chunk.iter().enumerate() {
                add(i, w);
            }
        }
        let [error, w, q, wq, qq] = lanes.map(|lanes| lanes.iter().sum());
        Sums {
            error,
            w,
            q,
            wq,
            qq,
        }
    }
    at_level!(level, body<F: Float>(spacing: Spacing, values: &[F]) -> Sums)
}

impl Spacing {
    /// The code midway between the ends, and the value there; zero on a spacing around zero.
    #[inline(always)]
    pub(crate) fn middle(self) -> (f64, f64) {
        let code = (self.low + self.high) / 2.0;
        (self.offset + self.scale * code, code)
    }
}

/// Rounds inputs to signed bytes, `values / scale`, ties to even, and returns the sum of the bytes.
///
/// Magnitudes are at most 127 times the scale.
pub(crate) fn round_inputs<F: Float>(
    level: Level,
    values: &[F],
    scale: f64,
    out: &mut [i8],
) -> i64 {
    #[inline(always)]
    fn body<F: Float>(values: &[F], scale: f64, out: &mut [i8]) -> i64 {
        let mut total = 0;
        for (out, x) in out.chunks_mut(1 << 16).zip(values.chunks(1 << 16)) {
            // 2¹⁶ bytes: their sum fits 32 bits.
            let mut sum = 0_i32;
            for (out, x) in out.iter_mut().zip(x) {
                // The whole number is in the lowest bits of the sum.
                let whole = (x.as_f64() / scale + ROUND).to_bits() as i8;
                *out = whole;
                sum += i32::from(whole);
            }
            total += i64::from(sum);
        }
        total
    }
    at_level!(level, body<F: Float>(values: &[F], scale: f64, out: &mut [i8]) -> i64)
}

/// How to turn sums of stored codes times rounded inputs into outputs, for one vector of inputs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OfSums {
    /// The codes q = low + step·stored.
    pub(crate) low: i64,
    pub(crate) step: i64,
    /// The scale of the inputs, and their sum before scaling.
    pub(crate) scale: f64,
    pub(crate) total: i64,
}

/// `out[o]` = (scales[o]·scale)·Σ q·x + (offsets[o]·scale)·Σ x, where `sums[o]` = Σ stored·x.
pub(crate) fn from_sums<F: Float, S: Into64>(
    level: Level,
    of: OfSums,
    sums: &[S],
    scales: &[f64],
    offsets: &[f64],
    out: &mut [F],
) {
    #[inline(always)]
    fn body<F: Float, S: Into64>(
        of: OfSums,
        sums: &[S],
        scales: &[f64],
        offsets: &[f64],
        out: &mut [F],
    ) {
        // Stored codes begin at zero: the lowest code comes back here, once for each input.
        let low = of.low * of.total;
        let total = of.total as f64;
        let grids = scales.iter().zip(offsets);
        for ((out, &sum), (scale, offset)) in out.iter_mut().zip(sums).zip(grids) {
            let sum = of.step * sum.into() + low;
            let offset = offset * of.scale * total;
            *out = F::from_f64_lossy(scale * of.scale * sum as f64 + offset);
        }
    }
    at_level!(level, body<F: Float, S: Into64>(of: OfSums, sums: &[S], scales: &[f64], offsets: &[f64], out: &mut [F]) -> ())
}

/// Whole numbers of up to 64 bits.
pub(crate) trait Into64: Copy + Into<i64> {}
impl Into64 for i32 {}
impl Into64 for i64 {}

/// Σ a b, in lanes.
pub(crate) fn dot<F: Float>(level: Level, a: &[F], b: &[F]) -> F {
    /// Four vectors of sixteen lanes of single precision.
    const WIDTH: usize = 64;
    #[inline(always)]
    fn body<F: Float>(a: &[F], b: &[F]) -> F {
        let mut sums = [F::zero(); WIDTH];
        let (a, b) = (a.chunks_exact(WIDTH), b.chunks_exact(WIDTH));
        let rest = a.remainder().iter().zip(b.remainder());
        for (sum, (&a, &b)) in sums.iter_mut().zip(rest) {
            *sum = a * b;
        }
        for (a, b) in a.zip(b) {
            for ((sum, &a), &b) in sums.iter_mut().zip(a).zip(b) {
                *sum += a * b;
            }
        }
        let mut width = WIDTH / 2;
        while width > 0 {
            let (low, high) = sums.split_at_mut(width);
            for (low, &mut high) in low.iter_mut().zip(high) {
                *low += high;
            }
            width /= 2;
        }
        sums[0]
    }
    at_level!(level, body<F: Float>(a: &[F], b: &[F]) -> F)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spacings() -> impl Strategy<Value = Spacing> {
        let scale = prop_oneof![Just(0.0), 0.01_f64..2.0];
        (scale, -2.0_f64..2.0, 0_usize..4).prop_map(|(scale, offset, kind)| {
            let (low, high, step) = [
                (-7.0, 7.0, 1.0),
                (0.0, 15.0, 1.0),
                (-1.0, 1.0, 2.0),
                (0.0, 65_535.0, 1.0),
            ][kind];
            Spacing {
                scale,
                offset: if low < 0.0 { 0.0 } else { offset },
                low,
                high,
                step,
                largest: f64::from(f32::MAX),
            }
        })
    }

    fn by_definition(s: Spacing, w: f64) -> f64 {
        if s.scale == 0.0 {
            return 0.0;
        }
        if s.step == 2.0 {
            return if w >= 0.0 { 1.0 } else { -1.0 };
        }
        let place = ((w - s.offset) / s.scale).round_ties_even();
        place.clamp(s.low, s.high)
    }

    proptest! {
        #[test]
        fn every_level_rounds_as_defined(s in spacings(), values in prop::collection::vec(prop_oneof![-9.0_f32..9.0, Just(0.0), Just(-0.0), Just(f32::MAX)], 1..100), whole in -20_i32..20) {
            // Ties among them.
            let mut w = values;
            w.push((s.offset + s.scale * (f64::from(whole) + 0.5)) as f32);
            let codes: Vec<f64> = w.iter().map(|&w| by_definition(s, f64::from(w))).collect();
            let stored: Vec<u32> = codes.iter().map(|q| ((q - s.low) / s.step) as u32).collect();
            let stands_for: Vec<f32> = codes.iter().map(|q| (s.offset + s.scale * q) as f32).collect();
            let squares = w.iter().zip(&codes).map(|(&w, q)| (f64::from(w) - (s.offset + s.scale * q)).powi(2));
            let error: f64 = squares.sum();
            let (middle, middle_code) = s.middle();
            let wq: f64 = w.iter().zip(&codes).map(|(&w, q)| (f64::from(w) - middle) * (q - middle_code)).sum();
            let size: f64 = w.iter().zip(&codes).map(|(&w, q)| ((f64::from(w) - middle) * (q - middle_code)).abs()).sum();
            let tolerance = 4.0 * w.len() as f64 * f64::EPSILON;
            for level in Level::available() {
                let mut out = vec![9; w.len()];
                round(level, s, &w, &mut out);
                prop_assert_eq!(&out, &stored, "{:?}", level);
                let mut snapped = w.clone();
                snap(level, s, &mut snapped);
                prop_assert_eq!(&snapped, &stands_for, "{:?}", level);
                // Decoding gives the rounded values.
                let mut back = vec![0.0; w.len()];
                values_of(level, s, &out, &mut back);
                prop_assert_eq!(&back, &stands_for, "{:?}", level);
                let sums = sums(level, s, &w);
                prop_assert_eq!(sums, self::sums(Level::Scalar, s, &w));
                prop_assert!((sums.error - error).abs() <= tolerance * error);
                prop_assert!((sums.wq - wq).abs() <= tolerance * size);
                let quick = squared_error(level, s, &w);
                prop_assert_eq!(quick.to_bits(), squared_error(Level::Scalar, s, &w).to_bits());
                // A tie may go the other way, whose error differs by the rounding of the place.
                prop_assert!((quick - error).abs() <= tolerance * error + w.len() as f64 * 1e-10 * s.scale * s.scale);
            }
        }

        #[test]
        fn every_level_sums_products_alike(a in prop::collection::vec(-1.0_f32..1.0, 0..300)) {
            let b: Vec<f32> = a.iter().rev().map(|x| x * 0.7).collect();
            let expected: f64 = a.iter().zip(&b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
            for level in Level::available() {
                let sum = dot(level, &a, &b);
                prop_assert_eq!(sum.to_bits(), dot(Level::Scalar, &a, &b).to_bits(), "{:?}", level);
                let n = a.len() as f64;
                prop_assert!((f64::from(sum) - expected).abs() <= n * n * f64::from(f32::EPSILON));
            }
        }

        #[test]
        fn every_level_rounds_inputs_as_defined(values in prop::collection::vec(-5.0_f64..5.0, 1..200)) {
            let scale = values.iter().fold(0.0_f64, |a, x| a.max(x.abs())) / 127.0;
            prop_assume!(scale > 0.0);
            let expected: Vec<i8> = values.iter().map(|x| (x / scale).round_ties_even() as i8).collect();
            for level in Level::available() {
                let mut out = vec![0; values.len()];
                let total = round_inputs(level, &values, scale, &mut out);
                prop_assert_eq!(&out, &expected, "{:?}", level);
                prop_assert_eq!(total, expected.iter().map(|&q| i64::from(q)).sum::<i64>());
            }
        }
    }

    /// [`values`], of bytes if the codes fit into them.
    fn values_of(level: Level, s: Spacing, stored: &[u32], out: &mut [f32]) {
        if s.high - s.low <= 255.0 {
            let bytes: Vec<u8> = stored.iter().map(|&q| q as u8).collect();
            values(level, s, &bytes, out);
        } else {
            values(level, s, stored, out);
        }
    }
}
