//! A weight matrix of one bit for each weight.

use ndarray::{Array2, ArrayView2, ArrayViewMut2, ArrayViewMutD};

use super::product::in_blocks;
use super::scaling::{count, of_row};
use super::signs::Signs;
use super::{BinaryActivations, Granularity};
use crate::artifact::check_apply;
use crate::kernels::masked_sum::MaskedSum;
use crate::kernels::{Level, xnor};
use crate::{
    Compressed, Error, Float, LinearOp, Part, Precision, Result, Role, StorageBits, check,
};

const NAME: &str = "BinaryMatrix";

/// A weight matrix of shape (out_features, in_features) whose values are ±1, times a scale.
///
/// A weight is one bit, set for +1. In a file the rows follow each other bit by bit, so that the part `signs`
/// is exactly ⌈out·in / 8⌉ bytes; in memory each row begins at a word of 64 bits
/// ([`memory_bytes`](Self::memory_bytes) counts it). Bits beyond a row's end are never counted as weights.
///
/// Products run on the bits: with ±1 inputs by exclusive or and population count
/// ([`multiply`](Self::multiply)), with 8-bit ([`multiply_bytes`](Self::multiply_bytes)) and with real inputs
/// ([`apply`](LinearOp::apply)) by summing the inputs whose weight is +1, since
/// $\sum\_i \pm x\_i = 2 \sum\_{w\_i = +1} x\_i - \sum\_i x\_i$.
///
/// ```
/// use ndarray::array;
/// use taper::quantize::binary::{Binarizer, BinaryActivations};
/// use taper::{Compressed, Quantizer};
///
/// let w = Binarizer::new().quantize(array![[1.0, -1.0, 1.0], [-1.0, -1.0, 1.0]].view())?;
/// assert_eq!(w.storage().bytes(), 1);
///
/// let x = BinaryActivations::from_signs(array![[1.0, 1.0, -1.0]].view())?;
/// assert_eq!(w.multiply(&x)?, array![[-1, -3]]);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct BinaryMatrix<F: Float> {
    shape: [usize; 2],
    pub(super) signs: Signs,
    pub(super) scaling: Option<Granularity>,
    pub(super) precision: Precision,
    pub(super) scales: Vec<F>,
}

impl<F: Float> BinaryMatrix<F> {
    pub(super) fn new(
        signs: Signs,
        scaling: Option<Granularity>,
        precision: Precision,
        scales: Vec<F>,
    ) -> Self {
        // Without scales, matrices of different precisions are equal.
        let precision = if scales.is_empty() {
            Precision::default()
        } else {
            precision
        };
        Self {
            shape: [signs.rows(), signs.columns()],
            signs,
            scaling,
            precision,
            scales,
        }
    }

    /// Creates a matrix of shape (out_features, in_features) from its parts `signs` and `scales`.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] where the lengths do not fit the shape, where bits are set beyond the last weight,
    /// and for a scale that is negative, not finite or not of that precision.
    pub fn from_parts(
        shape: [usize; 2],
        signs: &[u8],
        scaling: Option<Granularity>,
        precision: Precision,
        scales: Vec<F>,
    ) -> Result<Self> {
        let malformed = |problem| Error::Malformed {
            artifact: NAME,
            problem,
        };
        if let Some(Granularity::Block(width)) = scaling {
            return Err(malformed(format!("signs with a scale for {width} inputs")));
        }
        let [rows, columns] = shape;
        let signs = Signs::from_bytes(NAME, rows, columns, signs)?;
        if scales.len() != count(scaling, rows) {
            return Err(malformed(format!(
                "{} scales are needed, found {}",
                count(scaling, rows),
                scales.len()
            )));
        }
        for &scale in &scales {
            if !(scale.is_finite() && scale >= F::zero()) {
                return Err(malformed(format!("{scale} is no scale")));
            }
            if precision.round("a scale", scale) != Ok(scale) {
                return Err(malformed(format!("{scale} is no value of {precision}")));
            }
        }
        Ok(Self::new(signs, scaling, precision, scales))
    }

    /// Which weights share a scale; `None` for weights of ±1.
    #[must_use]
    pub fn scaling(&self) -> Option<Granularity> {
        self.scaling
    }

    /// The scales: none, one, or one for each output.
    #[must_use]
    pub fn scales(&self) -> &[F] {
        &self.scales
    }

    /// The bytes that signs and scales take in memory, where each row begins at a word.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of_val(self.signs.words()) + size_of_val(self.scales.as_slice())
    }

    /// The product of ±1 inputs with the signs, x·sign(W)ᵀ, of shape (batch, out_features): exact integers,
    /// before any scale.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`] where `x` has another number of features.
    pub fn multiply(&self, x: &BinaryActivations) -> Result<Array2<i32>> {
        let [outputs, inputs] = self.shape;
        check::same_shape("x", &[x.batch(), inputs], &[x.batch(), x.features()])?;
        let width = self.signs.width();
        let (level, weights) = (Level::current(), self.signs.words());
        let x_words = x.signs.words();
        let values = in_blocks(
            x.batch(),
            outputs,
            width,
            |rows, columns, out: &mut [i32]| {
                let mut differing = vec![0; out.len()];
                let x = &x_words[rows.start * width..rows.end * width];
                let weights = &weights[columns.start * width..columns.end * width];
                xnor::differing_bits(level, x, weights, width, &mut differing);
                for (out, differing) in out.iter_mut().zip(differing) {
                    *out = inputs as i32 - 2 * differing as i32;
                }
            },
        );
        shaped(x.batch(), outputs, values)
    }

    /// The product of 8-bit inputs with the signs, x·sign(W)ᵀ, of shape (batch, out_features): exact
    /// integers, before any scale.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`] where `x` has another number of features, and [`Error::Overflow`] from
    /// 2²³ inputs on, whose sum may leave 32 bits.
    pub fn multiply_bytes(&self, x: ArrayView2<'_, u8>) -> Result<Array2<i32>> {
        let [outputs, inputs] = self.shape;
        check::same_shape("x", &[x.nrows(), inputs], x.shape())?;
        if inputs >= 1 << 23 {
            return Err(Error::Overflow {
                what: "a sum of 8-bit inputs",
            });
        }
        let padded = padded_rows(x, 64 * self.signs.width());
        let sums: Vec<u32> = self.positive_sums(&padded, x.nrows());
        let totals = x
            .rows()
            .into_iter()
            .map(|row| row.iter().map(|&x| i32::from(x)).sum());
        let totals: Vec<i32> = totals.collect();
        let values = sums
            .chunks(outputs)
            .zip(totals)
            .flat_map(|(sums, total)| sums.iter().map(move |&sum| 2 * sum as i32 - total))
            .collect();
        shaped(x.nrows(), outputs, values)
    }

    /// For each of `batch` rows, [padded](padded_rows), and each output the sum of the values whose weight is +1.
    fn positive_sums<T: MaskedSum + Send + Sync>(&self, padded: &[T], batch: usize) -> Vec<T::Sum> {
        let width = self.signs.width();
        let (level, weights) = (Level::current(), self.signs.words());
        // A word of weights means 64 additions here, some sixteen times the work of a population count.
        in_blocks(batch, self.shape[0], 16 * width, |rows, columns, out| {
            let x = &padded[rows.start * 64 * width..rows.end * 64 * width];
            let weights = &weights[columns.start * width..columns.end * width];
            T::masked_sums(level, x, weights, width, out);
        })
    }
}

/// The rows of `x`, each filled up to `length` with zeros, which change no sum.
pub(super) fn padded_rows<T: Copy + Default>(x: ArrayView2<'_, T>, length: usize) -> Vec<T> {
    let mut padded = vec![T::default(); x.nrows() * length];
    for (padded, row) in padded.chunks_mut(length.max(1)).zip(x.rows()) {
        for (padded, &x) in padded.iter_mut().zip(row) {
            *padded = x;
        }
    }
    padded
}

/// The sum of each of `rows` rows, [padded](padded_rows) to `width` words.
///
/// By the kernel of the sums over positive weights, so that a row of +1 gives exactly 2·total − total.
pub(super) fn row_totals<F: Float>(padded: &[F], width: usize, rows: usize) -> Vec<F> {
    let mut totals = vec![F::zero(); rows];
    let all = vec![u64::MAX; width];
    F::masked_sums(Level::current(), padded, &all, width, &mut totals);
    totals
}

fn shaped<T>(rows: usize, columns: usize, values: Vec<T>) -> Result<Array2<T>> {
    let found = vec![values.len()];
    Array2::from_shape_vec((rows, columns), values).map_err(|_| Error::ShapeMismatch {
        what: "y",
        expected: vec![rows, columns],
        found,
    })
}

impl<F: Float> Compressed<F> for BinaryMatrix<F> {
    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn parts(&self) -> Vec<Part<'_>> {
        let bytes = self.signs.to_bytes();
        let mut parts = vec![Part {
            name: "signs",
            dtype: crate::DType::U8,
            shape: vec![bytes.len()],
            role: Role::Payload,
            bytes: bytes.into(),
        }];
        if !self.scales.is_empty() {
            parts.push(Part {
                name: "scales",
                dtype: self.precision.dtype(),
                shape: vec![self.scales.len()],
                role: Role::SideInformation,
                bytes: self.precision.encode(self.scales.iter().copied()).into(),
            });
        }
        parts
    }

    fn storage(&self) -> StorageBits {
        let [rows, columns] = self.shape;
        let size = StorageBits::new().with("signs", Role::Payload, (rows * columns) as u64);
        if self.scales.is_empty() {
            return size;
        }
        let scales = self.scales.len() as u64 * self.precision.bits();
        size.with("scales", Role::SideInformation, scales)
    }

    fn decompress_into(&self, mut out: ArrayViewMutD<'_, F>) -> Result<()> {
        check::same_shape("out", &self.shape, out.shape())?;
        for (i, mut row) in out.rows_mut().into_iter().enumerate() {
            let scale = self.scale(i);
            for (value, sign) in row.iter_mut().zip(self.signs.row_values::<F>(i)) {
                *value = sign * scale;
            }
        }
        Ok(())
    }
}

impl<F: Float> BinaryMatrix<F> {
    /// The scale of row `i`.
    pub(super) fn scale(&self, i: usize) -> F {
        of_row(self.scaling, &self.scales, i)
    }
}

impl<F: Float> LinearOp<F> for BinaryMatrix<F> {
    fn apply_into(&self, x: ArrayView2<'_, F>, mut y: ArrayViewMut2<'_, F>) -> Result<()> {
        check_apply(self.shape, &x, &y)?;
        if x.nrows() == 0 {
            return Ok(());
        }
        let width = self.signs.width();
        let padded = padded_rows(x, 64 * width);
        let sums: Vec<F> = self.positive_sums(&padded, x.nrows());
        let totals = row_totals(&padded, width, x.nrows());
        for ((mut y, sums), total) in y
            .rows_mut()
            .into_iter()
            .zip(sums.chunks(self.shape[0]))
            .zip(totals)
        {
            for (o, (y, &sum)) in y.iter_mut().zip(sums).enumerate() {
                *y = (sum + sum - total) * self.scale(o);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::binary::Binarizer;
    use crate::{Quantizer, Seed};
    use ndarray::{array, s};
    use proptest::prelude::*;

    fn random(seed: u64, shape: (usize, usize)) -> Array2<f32> {
        let mut stream = 0;
        Array2::from_shape_simple_fn(shape, || {
            stream += 1;
            Seed::from(seed).uniform(stream) as f32
        })
    }

    fn scalings() -> [Option<Granularity>; 3] {
        [
            None,
            Some(Granularity::PerTensor),
            Some(Granularity::PerRow),
        ]
    }

    proptest! {
        #[test]
        fn sizes_are_bytes_and_parts_are_enough(rows in 1_usize..20, columns in 1_usize..150, seed in any::<u64>()) {
            for scaling in scalings() {
                let w = Binarizer::new().scaling(scaling).precision(Precision::F16)
                    .quantize(random(seed, (rows, columns)).view()).unwrap();
                let parts = w.parts();
                prop_assert_eq!(parts[0].bytes.len(), (rows * columns).div_ceil(8));
                prop_assert_eq!(w.storage().payload(), (rows * columns) as u64);
                let again = BinaryMatrix::from_parts([rows, columns], &parts[0].bytes, scaling, Precision::F16, w.scales().to_vec());
                prop_assert_eq!(&again.unwrap(), &w);
            }
        }

        // Equal to the integer product of the ±1 matrices, bit for bit.
        #[test]
        fn the_product_of_signs_is_that_of_integers(batch in 1_usize..20, rows in 1_usize..40, columns in 1_usize..300, seed in any::<u64>()) {
            let (x, w) = (random(seed, (batch, columns)), random(!seed, (rows, columns)));
            let integers = |values: &Array2<f32>| values.mapv(|x| if x >= 0.0 { 1_i32 } else { -1 });
            let expected = integers(&x).dot(&integers(&w).t());
            let w = Binarizer::new().quantize(w.view()).unwrap();
            let x = BinaryActivations::from_signs(x.view()).unwrap();
            prop_assert_eq!(w.multiply(&x).unwrap(), expected);
        }

        #[test]
        fn the_product_of_bytes_is_that_of_integers(batch in 1_usize..12, rows in 1_usize..40, columns in 1_usize..300, seed in any::<u64>()) {
            let x = random(seed, (batch, columns)).mapv(|x| ((x + 1.0) * 127.5) as u8);
            let w = random(!seed, (rows, columns));
            let expected = x.mapv(i32::from).dot(&w.mapv(|w| if w >= 0.0 { 1 } else { -1 }).t());
            let w = Binarizer::new().quantize(w.view()).unwrap();
            prop_assert_eq!(w.multiply_bytes(x.view()).unwrap(), expected.clone());
            let reversed = x.slice(s![..;-1, ..]);
            prop_assert_eq!(w.multiply_bytes(reversed).unwrap(), expected.slice(s![..;-1, ..]));
        }

        #[test]
        fn applying_is_decompressing_and_multiplying(batch in 0_usize..12, rows in 1_usize..40, columns in 1_usize..300, seed in any::<u64>()) {
            let x = random(seed, (batch, columns));
            for scaling in scalings() {
                let w = Binarizer::new().scaling(scaling).quantize(random(!seed, (rows, columns)).view()).unwrap();
                let dense: Array2<f32> = w.decompress().unwrap().into_dimensionality().unwrap();
                let expected = x.mapv(f64::from).dot(&dense.mapv(f64::from).t());
                let y = w.apply(x.view()).unwrap();
                // Three sums of n values of at most 1, each off by at most n·ε·n, the scales at most 1.
                let tolerance = 3.0 * (columns * columns) as f64 * f64::from(f32::EPSILON);
                for (y, expected) in y.iter().zip(&expected) {
                    prop_assert!((f64::from(*y) - expected).abs() <= tolerance);
                }
                let mut turned = Array2::zeros((rows, batch));
                w.apply_into(x.view(), turned.view_mut().reversed_axes()).unwrap();
                prop_assert_eq!(turned.t(), y);
            }
        }
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        let w = Binarizer::new()
            .quantize(array![[1.0, -1.0], [-1.0, 1.0]].view())
            .unwrap();
        for bad in [f64::INFINITY, f64::NEG_INFINITY, f64::NAN] {
            let y = w.apply(array![[bad, 1.0]].view()).unwrap();
            assert!(y.iter().all(|y| !y.is_finite()), "{y}");
        }
    }

    #[test]
    fn shapes_are_checked() {
        let w = Binarizer::new()
            .quantize(array![[1.0, -1.0]].view())
            .unwrap();
        let wide = Array2::<f64>::zeros((2, 3));
        assert!(w.apply(wide.view()).is_err());
        assert!(w.multiply_bytes(Array2::zeros((2, 3)).view()).is_err());
        assert!(
            w.multiply(&BinaryActivations::from_signs(wide.view()).unwrap())
                .is_err()
        );
        assert!(
            w.decompress_into(Array2::zeros((2, 1)).into_dyn().view_mut())
                .is_err()
        );
    }

    #[test]
    fn forged_parts_are_refused() {
        let build = |shape, signs: &[u8], scaling, scales| {
            BinaryMatrix::<f32>::from_parts(shape, signs, scaling, Precision::F16, scales)
        };
        assert!(build([1, 3], &[0b101], Some(Granularity::PerRow), vec![0.5]).is_ok());
        for wrong in [
            build([1, 3], &[0b1101], Some(Granularity::PerRow), vec![0.5]),
            build([1, 3], &[0b101, 0], Some(Granularity::PerRow), vec![0.5]),
            build([1, 3], &[], Some(Granularity::PerRow), vec![0.5]),
            build([0, 3], &[], None, vec![]),
            build([usize::MAX, 2], &[], None, vec![]),
            build([1, 3], &[0b101], Some(Granularity::PerRow), vec![]),
            build([1, 3], &[0b101], None, vec![0.5]),
            build([1, 3], &[0b101], Some(Granularity::PerRow), vec![f32::NAN]),
            build(
                [1, 3],
                &[0b101],
                Some(Granularity::PerRow),
                vec![f32::INFINITY],
            ),
            build([1, 3], &[0b101], Some(Granularity::PerRow), vec![-0.5]),
            build([1, 3], &[0b101], Some(Granularity::PerRow), vec![0.1]),
        ] {
            assert!(matches!(wrong, Err(Error::Malformed { .. })), "{wrong:?}");
        }
    }
}
