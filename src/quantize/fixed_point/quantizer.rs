//! Rounding a real matrix to fixed point.

use ndarray::{Array2, ArrayView2, Axis, s};

use super::Granularity;
use super::grid::{Codes, Grid, Range, Symmetry};
use super::matrix::{FixedPointMatrix, check_block, grids_of};
use crate::feedback::Feedback;
use crate::kernels::Level;
use crate::kernels::evenly;
use crate::{FitContext, Float, ParamError, Precision, Quantizer, Result, check, parallel};

/// Replaces weights by integers of 1 to 16 bits with a scale: w ≈ scale·(q − z).
///
/// The values are evenly spaced, and zero is one of them: on a symmetric grid z = 0, on an affine grid z is an integer, as in
/// B. Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018,
/// [arXiv:1712.05877](https://arxiv.org/abs/1712.05877). A weight of zero therefore stays zero. One symmetric bit is the
/// exception: −scale and scale.
///
/// With the moments of a layer's inputs ([`quantize_with`](Quantizer::quantize_with)) the grids are the same, but columns
/// are rounded one after the other, those of the largest inputs first, and later columns compensate for the rounding error of
/// earlier ones: the method of E. Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative
/// Pre-trained Transformers", 2022, [arXiv:2210.17323](https://arxiv.org/abs/2210.17323). The output error is then the sum of
/// the rounding errors of single columns, without terms between columns.
///
/// Scales are kept to the relative rounding error of their precision. A row whose scale is too small for it, such as weights below
/// 1e-3 with 8 bits in half precision, is [`Error::Underflow`](crate::Error::Underflow).
///
/// ```
/// use ndarray::array;
/// use taper::quantize::fixed_point::FixedPointQuantizer;
/// use taper::{Compressed, Quantizer};
///
/// let weights = array![[0.5_f64, -1.0, 0.3], [0.0, 0.75, -0.2]];
/// let quantized = FixedPointQuantizer::new(3).quantize(weights.view())?;
/// assert_eq!(quantized.storage().payload(), 6 * 3);
/// // Seven values, a third apart from −1 to 1.
/// for (q, w) in quantized.decompress()?.iter().zip(&weights) {
///     assert!((q - w).abs() <= 0.5 / 3.0 + 1e-7);
/// }
/// # Ok::<(), taper::Error>(())
/// ```
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(deny_unknown_fields))]
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct FixedPointQuantizer {
    /// Bits of a code, 1 to 16.
    pub bits: u32,
    /// Whether the grid is symmetric around zero or has a zero point.
    #[cfg_attr(feature = "model", serde(default))]
    pub symmetry: Symmetry,
    /// Which weights share a scale.
    #[cfg_attr(feature = "model", serde(default))]
    pub granularity: Granularity,
    /// The range of weights that the grid covers.
    #[cfg_attr(feature = "model", serde(default))]
    pub range: Range,
    /// The precision in which scales are stored.
    #[cfg_attr(feature = "model", serde(default))]
    pub precision: Precision,
    /// How strongly moments are damped; see [`InputMoments::damped`](crate::InputMoments::damped).
    #[cfg_attr(feature = "model", serde(default = "crate::defaults::damping"))]
    pub damping: f64,
}

impl FixedPointQuantizer {
    /// Creates a quantizer with codes of `bits` bits; by default symmetric, with one grid for all weights, over the whole range.
    #[must_use]
    pub fn new(bits: u32) -> Self {
        Self {
            bits,
            symmetry: Symmetry::Symmetric,
            granularity: Granularity::PerTensor,
            range: Range::MinMax,
            precision: Precision::F32,
            damping: crate::defaults::damping(),
        }
    }

    fn codes(&self) -> Codes {
        Codes {
            bits: self.bits,
            symmetry: self.symmetry,
        }
    }

    /// The grid of all rows, of each row, or of each block, with the scale as it will be stored.
    fn grids<F: Float>(&self, weights: ArrayView2<'_, F>) -> Result<Vec<Grid>> {
        let fit = |values: &[F]| -> Result<Grid> {
            let grid = self.codes().fit(self.range, values);
            let scale: F = self.precision.round_factor("a scale", grid.scale)?;
            Ok(Grid {
                scale: scale.as_f64(),
                ..grid
            })
        };
        match self.granularity {
            // In the order of the axes: sums in another order would round differently.
            Granularity::PerTensor => match weights.as_slice() {
                Some(values) => Ok(vec![fit(values)?]),
                None => Ok(vec![fit(&weights.iter().copied().collect::<Vec<_>>())?]),
            },
            Granularity::PerRow => {
                parallel::map(weights.nrows(), |i| fit(&weights.row(i).to_vec()))
                    .into_iter()
                    .collect()
            }
            Granularity::Block(width) => {
                let (rows, columns) = weights.dim();
                let together = rows_together(columns);
                let runs = parallel::map(rows.div_ceil(together), |run| {
                    let rows = run * together..rows.min((run + 1) * together);
                    let rows = weights.slice(s![rows, ..]);
                    let rows = rows.as_standard_layout();
                    let values = rows.as_slice().expect("the layout is standard");
                    let blocks = values.chunks(columns).flat_map(|row| row.chunks(width));
                    blocks.map(fit).collect::<Result<Vec<_>>>()
                });
                let mut grids = Vec::new();
                for run in runs {
                    grids.extend(run?);
                }
                Ok(grids)
            }
        }
    }

    /// The grids of a row among those of all rows.
    fn of_row<'a>(&self, grids: &'a [Grid], columns: usize, row: usize) -> &'a [Grid] {
        &grids[grids_of(self.granularity, columns, row)]
    }

    /// The weights that the codes stand for, without packing them: what a network computes with while it is
    /// trained for few bits.
    ///
    /// # Errors
    ///
    /// As [`quantize`](Quantizer::quantize).
    pub fn fake_quantize<F: Float>(&self, weights: ArrayView2<'_, F>) -> Result<Array2<F>> {
        self.validate()?;
        check::finite("weights", &weights)?;
        let grids = self.grids(weights)?;
        let codes = self.codes();
        let mut rounded = weights.as_standard_layout().into_owned();
        let columns = rounded.ncols();
        let together = rows_together(columns);
        let values = rounded.as_slice_mut().expect("the layout is standard");
        parallel::for_each_chunk_mut(values, together * columns, |chunk, rows| {
            for (i, row) in rows.chunks_mut(columns).enumerate() {
                let grids = self.of_row(&grids, columns, chunk * together + i);
                for (block, &grid) in row.chunks_mut(self.granularity.width(columns)).zip(grids) {
                    evenly::snap(Level::current(), codes.spacing::<F>(grid), block);
                }
            }
        });
        Ok(rounded)
    }

    /// The gradient with respect to the weights, given that with respect to the quantized ones: the same
    /// where a weight is inside the range of its grid, and zero where it was clipped (the straight-through estimator of
    /// Y. Bengio et al., 2013, arXiv:1308.3432).
    ///
    /// # Errors
    ///
    /// As [`quantize`](Quantizer::quantize), [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) where the shapes differ.
    pub fn backward<F: Float>(
        &self,
        weights: ArrayView2<'_, F>,
        gradient: ArrayView2<'_, F>,
    ) -> Result<Array2<F>> {
        self.validate()?;
        check::finite("weights", &weights)?;
        check::finite("gradient", &gradient)?;
        check::same_shape("gradient", weights.shape(), gradient.shape())?;
        let grids = self.grids(weights)?;
        let codes = self.codes();
        let mut passed = gradient.to_owned();
        for (i, (mut row, weights)) in passed
            .rows_mut()
            .into_iter()
            .zip(weights.rows())
            .enumerate()
        {
            let columns = weights.len();
            let width = self.granularity.width(columns);
            let blocks = row.axis_chunks_iter_mut(Axis(0), width);
            let blocks = blocks.zip(weights.axis_chunks_iter(Axis(0), width));
            for ((mut row, weights), &grid) in blocks.zip(self.of_row(&grids, columns, i)) {
                let mut ends = [F::zero(); 2];
                let last = codes.last();
                let spacing = codes.spacing::<F>(grid);
                evenly::values(Level::current(), spacing, &[0, last], &mut ends);
                // A negative scale turns the grid round.
                let [low, high] = if ends[0] <= ends[1] {
                    ends
                } else {
                    [ends[1], ends[0]]
                };
                for (gradient, &w) in row.iter_mut().zip(weights) {
                    if w < low || w > high {
                        *gradient = F::zero();
                    }
                }
            }
        }
        Ok(passed)
    }

    /// Sets where the values lie; symmetric around zero by default.
    #[must_use]
    pub fn symmetry(mut self, symmetry: Symmetry) -> Self {
        self.symmetry = symmetry;
        self
    }

    /// Sets which weights share a grid; all by default.
    #[must_use]
    pub fn granularity(mut self, granularity: Granularity) -> Self {
        self.granularity = granularity;
        self
    }

    /// Sets the range that the grid covers; the whole one by default.
    #[must_use]
    pub fn range(mut self, range: Range) -> Self {
        self.range = range;
        self
    }

    /// Sets the precision of scales; single by default.
    #[must_use]
    pub fn precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// Sets how strongly the moments of inputs are damped (see [`InputMoments::damped`](crate::InputMoments::damped)); 0.01 by
    /// default. Without moments it has no effect.
    #[must_use]
    pub fn damping(mut self, damping: f64) -> Self {
        self.damping = damping;
        self
    }

    /// Checks the parameters, as every call that uses them does.
    ///
    /// # Errors
    ///
    /// The first parameter that no input could make right.
    pub fn validate(&self) -> Result<(), ParamError> {
        let bits = self.bits;
        check::in_range(
            "bits",
            f64::from(bits),
            "in 1..=16",
            (1..=16).contains(&bits),
        )?;
        check_block(self.granularity)?;
        check::damping(self.damping)?;
        match self.range {
            Range::Percentile(p) => {
                check::in_range("percentile", p, "in (0, 100]", p > 0.0 && p <= 100.0)?;
            }
            Range::Fixed(limit) => {
                let inside = limit > 0.0 && limit.is_finite();
                check::in_range("limit", limit, "above 0 and finite", inside)?;
            }
            Range::MinMax | Range::SquaredError => {}
        }
        Ok(())
    }
}

impl<F: Float> Quantizer<F> for FixedPointQuantizer {
    type Output = FixedPointMatrix<F>;

    fn quantize_with(
        &self,
        weights: ArrayView2<'_, F>,
        context: FitContext<'_>,
    ) -> Result<FixedPointMatrix<F>> {
        self.validate()?;
        context.rows_unused("FixedPointQuantizer")?;
        let inputs = context.inputs;
        check::finite("weights", &weights)?;
        let grids = self.grids(weights)?;
        let (level, codes) = (Level::current(), self.codes());
        let targets = match inputs {
            None => weights.as_standard_layout(),
            Some(inputs) => {
                inputs.fits(weights.ncols())?;
                let feedback = Feedback::new(inputs, self.damping)?;
                let columns = weights.ncols();
                let width = self.granularity.width(columns);
                let round = |i, column, target| {
                    let mut rounded = [target];
                    let grid = self.of_row(&grids, columns, i)[column / width];
                    evenly::snap(level, codes.spacing::<F>(grid), &mut rounded);
                    rounded[0]
                };
                feedback.run(weights, round).into()
            }
        };
        let (rows, columns) = targets.dim();
        let targets = targets.as_standard_layout();
        let values = targets.as_slice().expect("the layout is standard");
        let mut stored = vec![0; values.len()];
        let together = rows_together(columns);
        parallel::for_each_chunk_mut(&mut stored, together * columns, |chunk, stored| {
            let from = chunk * together;
            let values = &values[from * columns..];
            let pairs = values.chunks(columns).zip(stored.chunks_mut(columns));
            for (i, (values, stored)) in pairs.enumerate() {
                let width = self.granularity.width(columns);
                let blocks = values.chunks(width).zip(stored.chunks_mut(width));
                for ((values, stored), &grid) in blocks.zip(self.of_row(&grids, columns, from + i))
                {
                    evenly::round(level, codes.spacing::<F>(grid), values, stored);
                }
            }
        });
        Ok(FixedPointMatrix::new(
            [rows, columns],
            codes,
            self.granularity,
            self.precision,
            &grids,
            &stored,
        ))
    }
}

/// Rows that a thread takes at a time: some thousand values, since a smaller task takes less time than its start.
fn rows_together(columns: usize) -> usize {
    (1_usize << 14).div_ceil(columns.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::binary::Binarizer;
    use crate::{Compressed, Error};
    use ndarray::array;
    use proptest::prelude::*;

    fn weights() -> impl Strategy<Value = Array2<f64>> {
        (1_usize..6, 1_usize..40).prop_flat_map(|(rows, columns)| {
            prop::collection::vec(-3.0..3.0, rows * columns)
                .prop_map(move |values| Array2::from_shape_vec((rows, columns), values).unwrap())
        })
    }

    fn settings() -> impl Strategy<Value = FixedPointQuantizer> {
        (1_u32..=16, 0_usize..3, 0_usize..4, 0_usize..4).prop_map(
            |(bits, symmetry, granularity, range)| {
                FixedPointQuantizer::new(bits)
                    .symmetry(
                        [Symmetry::Symmetric, Symmetry::Affine, Symmetry::SignedScale][symmetry],
                    )
                    .granularity(
                        [
                            Granularity::PerTensor,
                            Granularity::PerRow,
                            Granularity::Block(16),
                            Granularity::Block(32),
                        ][granularity],
                    )
                    .range(
                        [
                            Range::MinMax,
                            Range::Percentile(95.0),
                            Range::SquaredError,
                            Range::Fixed(1.5),
                        ][range],
                    )
                    .precision(Precision::F64)
            },
        )
    }

    fn error(a: &Array2<f64>, b: &ndarray::ArrayD<f64>) -> f64 {
        a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum()
    }

    proptest! {
        #[test]
        fn over_the_whole_range_no_weight_moves_by_more_than_half_a_step(w in weights(), bits in 2_u32..=16, affine in any::<bool>()) {
            let (symmetry, levels, span) = if affine {
                let span = w.fold(0.0, |a: f64, &b| a.max(b)) - w.fold(0.0, |a: f64, &b| a.min(b));
                // An integer zero point costs up to one step of the range.
                (Symmetry::Affine, (1 << bits) - 2, span)
            } else {
                (Symmetry::Symmetric, (1 << (bits - 1)) - 1, w.fold(0.0, |a: f64, b| a.max(b.abs())))
            };
            let q = FixedPointQuantizer::new(bits).symmetry(symmetry).precision(Precision::F64).quantize(w.view()).unwrap();
            let half = span / f64::from(levels) / 2.0;
            for (w, q) in w.iter().zip(&q.decompress().unwrap()) {
                prop_assert!((w - q).abs() <= half + 16.0 * f64::EPSILON);
            }
        }

        #[test]
        fn quantizing_what_was_quantized_does_not_raise_the_error(w in weights(), params in settings()) {
            let once = params.quantize(w.view()).unwrap().decompress().unwrap();
            let dense: Array2<f64> = once.view().into_dimensionality().unwrap().to_owned();
            let twice = params.clone().range(Range::MinMax).quantize(dense.view()).unwrap();
            // At two and more symmetric bits the largest code may be unused, so that the grid changes; where
            // the ends are used, the second grid is the first.
            if params.range == Range::MinMax {
                prop_assert!(error(&dense, &twice.decompress().unwrap()) <= dense.len() as f64 * (64.0 * f64::EPSILON).powi(2));
            }
            prop_assert_eq!(&params.fake_quantize(w.view()).unwrap().into_dyn(), &once);
        }

        #[test]
        fn the_least_squared_error_is_no_more_than_that_of_the_whole_range(w in weights(), bits in 1_u32..=8, affine in any::<bool>()) {
            let symmetry = if affine { Symmetry::Affine } else { Symmetry::Symmetric };
            let params = FixedPointQuantizer::new(bits).symmetry(symmetry).precision(Precision::F64);
            let of = |range| error(&w, &params.clone().range(range).quantize(w.view()).unwrap().decompress().unwrap());
            let least = of(Range::SquaredError);
            prop_assert!(least <= of(Range::MinMax) * (1.0 + w.len() as f64 * f64::EPSILON));
        }

        // At one symmetric bit the grid of least squared error is the binary matrix with its best scale.
        #[test]
        fn one_bit_is_binary(w in weights(), rows in any::<bool>()) {
            let (granularity, scaling) = if rows { (Granularity::PerRow, Some(Granularity::PerRow)) } else { (Granularity::PerTensor, Some(Granularity::PerTensor)) };
            let fixed = FixedPointQuantizer::new(1).range(Range::SquaredError).granularity(granularity).precision(Precision::F64);
            let fixed = fixed.quantize(w.view()).unwrap().decompress().unwrap();
            let binary = Binarizer::new().scaling(scaling).precision(Precision::F64).quantize(w.view()).unwrap().decompress().unwrap();
            for (a, b) in fixed.iter().zip(&binary) {
                prop_assert!((a - b).abs() <= 3.0 * w.len() as f64 * f64::EPSILON, "{} {}", a, b);
            }
        }

        #[test]
        fn more_bits_over_the_same_range_do_not_raise_the_error(w in weights(), bits in 2_u32..=8) {
            // With non-negative weights the zero point is 0, and an affine grid of 2b bits holds that of b bits:
            // 2^2b − 1 = (2^b − 1)(2^b + 1).
            let w = w.mapv(f64::abs);
            let params = |bits| FixedPointQuantizer::new(bits).symmetry(Symmetry::Affine).precision(Precision::F64);
            let of = |bits| error(&w, &params(bits).quantize(w.view()).unwrap().decompress().unwrap());
            prop_assert!(of(2 * bits) <= of(bits) + w.len() as f64 * 64.0 * f64::EPSILON);
        }

        #[test]
        fn zero_stays_zero(w in weights(), params in settings(), precision in 0_usize..3, k in -10_i32..10) {
            prop_assume!(params.bits > 1 || params.symmetry != Symmetry::Symmetric);
            let params = params.precision([Precision::F16, Precision::F32, Precision::F64][precision]);
            // Every other weight is pruned.
            let mut w = w * 2_f64.powi(k) + 0.1;
            w.iter_mut().step_by(2).for_each(|w| *w = 0.0);
            let Ok(q) = params.quantize(w.view()) else {
                // Sixteen bits of small weights are below the half precision.
                return Ok(());
            };
            for (w, q) in w.iter().zip(&q.decompress().unwrap()) {
                prop_assert!(*w != 0.0 || *q == 0.0, "{q}");
            }
        }

        // Exponents at which squares of weights leave the range of a double, too.
        #[test]
        fn powers_of_two_scale_the_result(w in weights(), params in settings(), k in -900_i32..900) {
            let params = match params.range {
                Range::Fixed(_) => params.range(Range::MinMax),
                _ => params,
            };
            let power = 2_f64.powi(k);
            let once = params.quantize(w.view()).unwrap();
            let scaled = params.quantize((&w * power).view()).unwrap();
            prop_assert_eq!(once.integers(), scaled.integers());
            prop_assert_eq!(once.zero_points(), scaled.zero_points());
            for (once, scaled) in once.scales().iter().zip(scaled.scales()) {
                prop_assert_eq!(once * power, scaled);
            }
        }

        #[test]
        fn strides_make_no_difference(w in weights(), params in settings()) {
            let view = w.slice(s![..;-1, ..;2]);
            prop_assert_eq!(params.quantize(view).unwrap(), params.quantize(view.to_owned().view()).unwrap());
        }
    }

    #[test]
    fn the_gradient_passes_inside_the_range() {
        let quantizer = FixedPointQuantizer::new(4).range(Range::Fixed(1.0));
        let w = array![[-1.5_f64, -1.0, 0.2, 1.0, 1.1]];
        let passed = quantizer.backward(w.view(), array![[1.0, 2.0, 3.0, 4.0, 5.0]].view());
        assert_eq!(passed, Ok(array![[0.0, 2.0, 3.0, 4.0, 0.0]]));
        assert!(quantizer.backward(w.view(), array![[1.0]].view()).is_err());
        assert!(
            quantizer
                .backward(w.view(), Array2::from_elem((1, 5), f64::NAN).view())
                .is_err()
        );
    }

    #[test]
    fn scales_below_the_precision_are_errors() {
        let halves = FixedPointQuantizer::new(8)
            .granularity(Granularity::PerRow)
            .precision(Precision::F16);
        let w = array![[1.0_f32, -0.5], [1e-6, -5e-7]];
        let error = halves.quantize(w.view()).unwrap_err();
        assert!(
            matches!(error, Error::Underflow { value, .. } if (value * 127.0 / 1e-6 - 1.0).abs() < 1e-6)
        );
        assert!(
            error
                .to_string()
                .starts_with("precision f16 cannot store a scale of 7.87")
        );
        assert!(error.to_string().ends_with("use f32"));
        let single = halves.clone().precision(Precision::F32);
        let rebuilt = single.quantize(w.view()).unwrap().decompress().unwrap();
        for (w, q) in w.row(1).iter().zip(rebuilt.index_axis(Axis(0), 1)) {
            // Half a step, and the rounding of the weights themselves.
            assert!((w - q).abs() <= 0.5 * 1e-6 / 127.0 + 2.0 * f32::EPSILON * 1e-6);
        }
        // A row of zeros needs no precision.
        assert!(
            halves
                .quantize(array![[1.0, 0.5], [0.0, 0.0]].view())
                .is_ok()
        );
        let subnormal = single.quantize(array![[1e-40_f32, 3e-41]].view());
        assert!(matches!(subnormal, Err(Error::Underflow { .. })));
    }

    #[test]
    fn wrong_parameters_and_weights_are_refused() {
        let one = array![[1.0_f32, 2.0]];
        for params in [
            FixedPointQuantizer::new(0),
            FixedPointQuantizer::new(17),
            FixedPointQuantizer::new(8).range(Range::Percentile(0.0)),
            FixedPointQuantizer::new(8).range(Range::Percentile(100.5)),
            FixedPointQuantizer::new(8).range(Range::Percentile(f64::NAN)),
            FixedPointQuantizer::new(8).range(Range::Fixed(0.0)),
            FixedPointQuantizer::new(8).granularity(Granularity::Block(0)),
            FixedPointQuantizer::new(8).granularity(Granularity::Block(24)),
            FixedPointQuantizer::new(8).range(Range::Fixed(f64::INFINITY)),
        ] {
            assert!(matches!(
                params.quantize(one.view()),
                Err(Error::Parameter(_))
            ));
        }
        let params = FixedPointQuantizer::new(8);
        assert!(params.quantize(array![[f32::NAN]].view()).is_err());
        assert!(
            params
                .quantize(Array2::<f32>::zeros((2, 0)).view())
                .is_err()
        );
        let zero = params
            .quantize(Array2::<f32>::zeros((2, 3)).view())
            .unwrap();
        assert_eq!(
            zero.decompress().unwrap(),
            Array2::<f32>::zeros((2, 3)).into_dyn()
        );
        let extreme = array![[f32::MAX, f32::MIN]];
        for symmetry in [Symmetry::Symmetric, Symmetry::Affine] {
            let q = params
                .clone()
                .symmetry(symmetry)
                .quantize(extreme.view())
                .unwrap();
            assert!(q.decompress().unwrap().iter().all(|x| x.is_finite()));
        }
    }
}
