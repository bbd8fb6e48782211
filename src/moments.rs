//! Second moments of a layer's inputs, which turn an error of the weights into an error of the outputs.

mod geometry;

use ndarray::{Array1, Array2, ArrayView2, ArrayView4, s};

use crate::linalg::{self, Cholesky};
use crate::{Error, Float, Result, check, power};

pub use geometry::Geometry;

/// Rows whose products are summed at once, so that the copy in `f64` stays small.
const BLOCK: usize = 1024;

/// M = XᵀX/n, the second moment of the inputs x of a layer, each a row of X.
///
/// If the weights of a linear layer change by E, its output for an input x changes by E x. The mean squared change over all
/// inputs is
///
/// $$ \tfrac1n \lVert X E^\top \rVert_F^2 = \operatorname{tr}(E M E^\top), $$
///
/// A compressor that minimizes the error of a layer's *outputs* instead of its weights therefore needs M, of shape
/// (in_features, in_features), and nothing else of the data. The sums are kept in `f64`; batches are added one by one, and
/// moments of the same layer can be merged. M is not centered: it contains the mean of the inputs, as the output error does.
///
/// For a convolution the rows are patches, one for each position of its kernel ([`add_patches`](Self::add_patches)), with
/// features in the order of a kernel's axes (in_channels, height, width). The weight is then the OIHW kernel as a matrix of
/// shape (out_channels, in_channels · height · width).
///
/// ```
/// use ndarray::array;
/// use taper::InputMoments;
///
/// let mut inputs = InputMoments::new(2)?;
/// inputs.add(array![[1.0_f32, 2.0], [3.0, 0.0]].view())?;
/// inputs.add(array![[1.0_f32, 1.0]].view())?;
/// assert_eq!(inputs.count(), 3);
/// assert_eq!(inputs.matrix()? * 3.0, array![[11.0, 3.0], [3.0, 5.0]]);
///
/// let weights = array![[1.0_f32, -1.0]];
/// let compressed = array![[1.0_f32, -0.5]];
/// // The output changes by x₂/2.
/// assert_eq!(inputs.output_error(weights.view(), compressed.view())?, 0.25 * 5.0 / 3.0);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct InputMoments {
    count: u64,
    /// Sums of products, exactly symmetric.
    sum: Array2<f64>,
}

impl InputMoments {
    /// Creates empty moments for a layer with `features` inputs.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] for zero, [`Error::Overflow`] where a square matrix of that size has no address.
    pub fn new(features: usize) -> Result<Self> {
        check::at_least_one("features", features)?;
        let size = "the size of the second moment";
        check::has_address(size, &[features, features], size_of::<f64>())?;
        Ok(Self {
            count: 0,
            sum: Array2::zeros((features, features)),
        })
    }

    /// Creates moments from a second moment XᵀX/n that was computed elsewhere, from `count` inputs.
    ///
    /// # Errors
    ///
    /// [`Error::Dimensions`] where it is not square, [`Error::NonFinite`], [`Error::EmptyAxis`],
    /// [`Error::Malformed`] where it is not symmetric, has a negative value on its diagonal, or `count` is zero, and
    /// [`Error::Overflow`] where the sum over all inputs leaves the range of `f64`.
    pub fn from_matrix(matrix: ArrayView2<'_, f64>, count: u64) -> Result<Self> {
        let malformed = |problem| Error::Malformed {
            artifact: "a second moment of inputs",
            problem,
        };
        if !matrix.is_square() {
            return Err(Error::Dimensions {
                what: "a second moment of inputs",
                expected: "two axes of the same length",
                shape: matrix.shape().to_vec(),
            });
        }
        check::finite("the second moment", &matrix)?;
        if count == 0 {
            return Err(malformed("the count of inputs is zero".to_owned()));
        }
        for ((i, j), &value) in matrix.indexed_iter() {
            let mirrored = matrix[[j, i]];
            if value != mirrored {
                return Err(malformed(format!(
                    "it is not symmetric: {value} at ({i}, {j}) and {mirrored} at ({j}, {i})"
                )));
            }
            if i == j && value < 0.0 {
                return Err(malformed(format!(
                    "the mean square of input {i} is negative: {value}"
                )));
            }
        }
        let sum = &matrix * count as f64;
        check::no_overflow("the sum of products", &sum)?;
        Ok(Self { count, sum })
    }

    /// From sums of products over `count` inputs.
    #[cfg(feature = "model")]
    pub(crate) fn from_sum(sum: Array2<f64>, count: u64) -> Result<Self> {
        check::finite("the sum of products", &sum.view())?;
        Ok(Self { count, sum })
    }

    /// The sums of products.
    #[cfg(feature = "model")]
    pub(crate) fn sum(&self) -> &Array2<f64> {
        &self.sum
    }

    /// The number of inputs of the layer.
    #[must_use]
    pub fn features(&self) -> usize {
        self.sum.nrows()
    }

    /// The number of input vectors added; each patch counts as one.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Adds inputs, of shape (batch, features). An empty batch changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`], [`Error::NonFinite`], and [`Error::Overflow`] where a product leaves the range of
    /// `f64`; nothing is added then.
    pub fn add<F: Float>(&mut self, inputs: ArrayView2<'_, F>) -> Result<()> {
        let features = self.features();
        check::same_shape("inputs", &[inputs.nrows(), features], inputs.shape())?;
        if inputs.nrows() == 0 {
            return Ok(());
        }
        check::finite("inputs", &inputs)?;
        let mut sum = self.sum.clone();
        for start in (0..inputs.nrows()).step_by(BLOCK) {
            let end = inputs.nrows().min(start + BLOCK);
            let block = inputs.slice(s![start..end, ..]).mapv(Float::as_f64);
            linalg::product_add(1.0, block.t(), block.view(), sum.view_mut());
        }
        self.replace(sum, inputs.nrows() as u64)
    }

    /// Adds the patches of images of shape (batch, in_channels, height, width) that a `kernel` of this height and width meets,
    /// each of in_channels · kernel height · kernel width features.
    ///
    /// # Errors
    ///
    /// As [`add`](Self::add); [`Error::Parameter`] for a kernel, a stride or a dilation of zero, [`Error::ExceedsInput`] for a
    /// kernel that reaches beyond the padded image.
    pub fn add_patches<F: Float>(
        &mut self,
        images: ArrayView4<'_, F>,
        kernel: [usize; 2],
        geometry: Geometry,
    ) -> Result<()> {
        let (batch, channels, height, width) = images.dim();
        let [rows, columns] = geometry.output([height, width], kernel)?;
        let [kernel_height, kernel_width] = kernel;
        let taps = kernel_height.saturating_mul(kernel_width);
        let features = channels.saturating_mul(taps);
        check::same_shape("patches", &[self.features()], &[features])?;
        if batch == 0 {
            return Ok(());
        }
        check::finite("images", &images)?;
        let mut sum = self.sum.clone();
        // A line for each place of the kernel, of the values that its taps see; those in the padding stay zero.
        let mut lines = Array2::<f64>::zeros((rows * columns, features));
        for image in images.outer_iter() {
            for (feature, mut line) in lines.columns_mut().into_iter().enumerate() {
                let (channel, tap) = (feature / taps, feature % taps);
                let (ys, top) = geometry.meeting(0, tap / kernel_width, height, rows);
                let (xs, left) = geometry.meeting(1, tap % kernel_width, width, columns);
                for (y, row) in ys.zip((top..).step_by(geometry.stride[0])) {
                    for (x, column) in xs.clone().zip((left..).step_by(geometry.stride[1])) {
                        line[y * columns + x] = image[[channel, row, column]].as_f64();
                    }
                }
            }
            linalg::product_add(1.0, lines.t(), lines.view(), sum.view_mut());
        }
        let places = (batch as u64).saturating_mul((rows * columns) as u64);
        self.replace(sum, places)
    }

    /// Adds the inputs that `other` has seen of the same layer.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`] for another number of features, [`Error::Overflow`]; nothing is added then.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        check::same_shape("moments", self.sum.shape(), other.sum.shape())?;
        self.replace(&self.sum + &other.sum, other.count)
    }

    fn replace(&mut self, mut sum: Array2<f64>, count: u64) -> Result<()> {
        check::no_overflow("a second moment of inputs", &sum)?;
        for i in 0..sum.nrows() {
            for j in 0..i {
                sum[[j, i]] = sum[[i, j]];
            }
        }
        self.sum = sum;
        self.count = self.count.saturating_add(count);
        Ok(())
    }

    /// M, of shape (features, features), exactly symmetric.
    ///
    /// # Errors
    ///
    /// [`Error::NoInputs`] where no input has been added.
    pub fn matrix(&self) -> Result<Array2<f64>> {
        self.seen()?;
        Ok(&self.sum / self.count as f64)
    }

    /// The mean square of each input: the diagonal of M.
    ///
    /// # Errors
    ///
    /// As [`matrix`](Self::matrix).
    pub fn diagonal(&self) -> Result<Array1<f64>> {
        self.seen()?;
        Ok(&self.sum.diag() / self.count as f64)
    }

    /// M · 2⁻ᵉ and e, such that the largest mean square is in [1, 2); e is 0 where all are zero.
    ///
    /// # Errors
    ///
    /// As [`matrix`](Self::matrix).
    pub(crate) fn normalized(&self) -> Result<(Self, i32)> {
        let exponent = self.exponent()?;
        let normalized = Self {
            count: self.count,
            sum: power::scaled(&self.sum.view(), -exponent),
        };
        Ok((normalized, exponent))
    }

    /// The e of [`normalized`](Self::normalized).
    pub(crate) fn exponent(&self) -> Result<i32> {
        Ok(power::largest_exponent(&self.diagonal()?.view()))
    }

    /// M + λ m I, where m is the mean of its diagonal (1 where that is zero): positive definite for λ > 0.
    ///
    /// Inputs that are always zero, or linear combinations of others, make M singular. Damping also limits the weight of
    /// directions that occur in few inputs. 0.01 is a usual value.
    ///
    /// # Errors
    ///
    /// As [`matrix`](Self::matrix); [`Error::Parameter`] where λ is negative or not finite.
    pub fn damped(&self, damping: f64) -> Result<Array2<f64>> {
        check::damping(damping)?;
        let mut matrix = self.matrix()?;
        let mean = matrix.diag().sum() / self.features() as f64;
        let mean = if mean > 0.0 { mean } else { 1.0 };
        matrix.diag_mut().mapv_inplace(|x| x + damping * mean);
        Ok(matrix)
    }

    /// tr(E M Eᵀ) for E = `weights` − `compressed`, both of shape (out_features, in_features): the squared norm of the
    /// change of the output, averaged over the inputs seen.
    ///
    /// # Errors
    ///
    /// As [`matrix`](Self::matrix); [`Error::ShapeMismatch`], [`Error::NonFinite`], and [`Error::Overflow`] for an error out of
    /// the range of `f64`.
    pub fn output_error<F: Float>(
        &self,
        weights: ArrayView2<'_, F>,
        compressed: ArrayView2<'_, F>,
    ) -> Result<f64> {
        check_pair(weights, compressed)?;
        let (error, exponent) = self.difference(weights, compressed)?;
        let error = power::times(error, exponent);
        check::no_overflow("the output error", [&error])?;
        Ok(error)
    }

    /// [`output_error`](Self::output_error) divided by the mean squared norm of the output, tr(W M Wᵀ): 0 for equal
    /// weights, 1 for compressed weights of zero. If the output is always zero, it is 0 or infinite.
    ///
    /// # Errors
    ///
    /// As [`output_error`](Self::output_error).
    pub fn relative_output_error<F: Float>(
        &self,
        weights: ArrayView2<'_, F>,
        compressed: ArrayView2<'_, F>,
    ) -> Result<f64> {
        check_pair(weights, compressed)?;
        let (error, of_error) = self.difference(weights, compressed)?;
        let (output, of_output) = self.difference(weights, Array2::zeros(weights.dim()).view())?;
        Ok(if error == 0.0 {
            0.0
        } else {
            power::times(error / output, of_error - of_output)
        })
    }

    /// tr(W M Wᵀ) divided by m ‖W‖², where m is the mean of the diagonal of M: how many times larger the output is than for
    /// inputs of the same power in all directions; none where there is no output.
    #[cfg(feature = "model")]
    pub(crate) fn alignment<F: Float>(&self, weights: ArrayView2<'_, F>) -> Result<Option<f64>> {
        // All in the units of `difference`.
        let (output, _) = self.difference(weights, Array2::zeros(weights.dim()).view())?;
        let exponent = power::largest_exponent(&weights);
        let squares = weights
            .iter()
            .map(|w| power::times(w.as_f64(), -exponent).powi(2));
        let moments = self.normalized()?.0.diagonal()?;
        let mean = moments.sum() / self.features() as f64;
        let ratio = output / (mean * squares.sum::<f64>());
        Ok((ratio > 0.0 && ratio.is_finite()).then_some(ratio))
    }

    /// tr(E M Eᵀ) · 2⁻ᵉ for E = `weights` − `compressed`, and e: in units in which no square overflows or vanishes.
    fn difference<F: Float>(
        &self,
        weights: ArrayView2<'_, F>,
        compressed: ArrayView2<'_, F>,
    ) -> Result<(f64, i32)> {
        let largest = check::largest(&weights).max(check::largest(&compressed));
        let exponent = power::exponent(largest.as_f64());
        let in_units = |x: F| power::times(x.as_f64(), -exponent);
        let mut error = weights.mapv(in_units);
        error.zip_mut_with(&compressed, |e, &w| *e -= in_units(w));
        check::same_shape(
            "the weights",
            &[error.nrows(), self.features()],
            error.shape(),
        )?;
        let (moments, squares) = self.normalized()?;
        let product = linalg::product(error.view(), moments.matrix()?.view());
        let sum: f64 = product.iter().zip(&error).map(|(a, b)| a * b).sum();
        // Rounding may make it slightly negative.
        Ok((sum.max(0.0), 2 * exponent + squares))
    }

    /// M and its Cholesky factor, damped by `damping`, or by the first of ten times as much, a hundred times … that has one.
    ///
    /// Rows and columns are those of M in `order`, where one is given.
    pub(crate) fn factored(
        &self,
        damping: f64,
        order: Option<&[usize]>,
    ) -> Result<(Array2<f64>, Cholesky<f64>)> {
        let mut damping = damping;
        for _ in 0..20 {
            let mut matrix = self.damped(damping)?;
            if let Some(order) = order {
                matrix = Array2::from_shape_fn((order.len(), order.len()), |(i, j)| {
                    matrix[[order[i], order[j]]]
                });
            }
            if let Some(cholesky) = Cholesky::new(matrix.view()) {
                return Ok((matrix, cholesky));
            }
            damping = (10.0 * damping).max(1e-14);
        }
        Err(Error::NoConvergence {
            what: "the Cholesky factor of the inputs' second moment",
        })
    }

    /// The Cholesky factor alone, in the order of the features.
    pub(crate) fn cholesky(&self, damping: f64) -> Result<Cholesky<f64>> {
        Ok(self.factored(damping, None)?.1)
    }

    /// Fails if these are not the moments of a layer with `in_features` inputs, or no input has been added.
    pub(crate) fn fits(&self, in_features: usize) -> Result<()> {
        self.seen()?;
        check::same_shape("the inputs' moments", &[in_features], &[self.features()])
    }

    fn seen(&self) -> Result<()> {
        if self.count == 0 {
            return Err(Error::NoInputs);
        }
        Ok(())
    }
}

/// Fails unless both have the same shape and finite values.
fn check_pair<F: Float>(weights: ArrayView2<'_, F>, compressed: ArrayView2<'_, F>) -> Result<()> {
    check::same_shape(
        "the compressed weights",
        weights.shape(),
        compressed.shape(),
    )?;
    check::finite("the compressed weights", &compressed)?;
    check::finite("the weights", &weights)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Seed;
    use ndarray::{Array4, array};

    fn numbers(rows: usize, columns: usize, seed: u64) -> Array2<f64> {
        Array2::from_shape_fn((rows, columns), |(i, j)| {
            Seed::from(seed).uniform((i * columns + j) as u64)
        })
    }

    #[test]
    fn batches_blocks_and_strides_do_not_matter() {
        let x = numbers(BLOCK + 37, 5, 1);
        let mut whole = InputMoments::new(5).unwrap();
        whole.add(x.view()).unwrap();
        let mut parts = InputMoments::new(5).unwrap();
        let mut other = InputMoments::new(5).unwrap();
        let columns = x.t().to_owned();
        parts.add(columns.t().slice(s![..100, ..])).unwrap();
        parts.add(x.slice(s![100..100, ..])).unwrap();
        other.add(x.slice(s![100..;-1, ..])).unwrap();
        parts.merge(&other).unwrap();
        assert_eq!(parts.count(), x.nrows() as u64);
        // Sums of n products of numbers below 1.
        let bound = 2.0 * f64::EPSILON * x.nrows() as f64;
        for (a, b) in whole.matrix().unwrap().iter().zip(&parts.matrix().unwrap()) {
            assert!((a - b).abs() <= bound, "{a} and {b}");
        }
        let exact = x.t().dot(&x) / x.nrows() as f64;
        for (a, b) in whole.matrix().unwrap().iter().zip(&exact) {
            assert!((a - b).abs() <= bound, "{a} and {b}");
        }
    }

    /// How much two ways to compute tr(E M Eᵀ) may differ: sums of n, features and rows · features products are rounded, and the
    /// sum of their magnitudes is at most ‖E‖² tr(M).
    fn rounding(inputs: &InputMoments, error: &Array2<f64>) -> f64 {
        let summands = inputs.count() as usize + inputs.features() + error.len();
        let squares = error.iter().map(|e| e * e).sum::<f64>();
        let trace = inputs.diagonal().unwrap().sum();
        2.0 * summands as f64 * f64::EPSILON * squares * trace
    }

    #[test]
    fn the_output_error_is_the_mean_squared_change_of_the_outputs() {
        let (x, w, v) = (numbers(50, 7, 1), numbers(3, 7, 2), numbers(3, 7, 3));
        let mut inputs = InputMoments::new(7).unwrap();
        inputs.add(x.view()).unwrap();
        let moved = x.dot(&(&w - &v).t());
        let exact = moved.iter().map(|y| y * y).sum::<f64>() / 50.0;
        let found = inputs.output_error(w.view(), v.view()).unwrap();
        assert!((found - exact).abs() <= rounding(&inputs, &(&w - &v)));
        let zero = Array2::zeros((3, 7));
        let relative =
            |compressed: &Array2<f64>| inputs.relative_output_error(w.view(), compressed.view());
        assert_eq!((relative(&w), relative(&zero)), (Ok(0.0), Ok(1.0)));
    }

    #[test]
    fn the_output_error_of_patches_is_that_of_a_convolution() {
        let images = numbers(2, 3 * 6 * 5, 4);
        let images = images.into_shape_with_order((2, 3, 6, 5)).unwrap();
        let geometry = Geometry {
            stride: [2, 1],
            padding: [1, 2],
            dilation: [1, 3],
        };
        let kernel = numbers(4, 18, 5);
        let mut inputs = InputMoments::new(18).unwrap();
        inputs.add_patches(images.view(), [3, 2], geometry).unwrap();
        // The naive loop over a padded copy.
        let mut padded = Array4::<f64>::zeros((2, 3, 8, 9));
        padded.slice_mut(s![.., .., 1..7, 2..7]).assign(&images);
        let (rows, columns) = ((8 - 3) / 2 + 1, (9 - 4) + 1);
        assert_eq!(inputs.count(), (2 * rows * columns) as u64);
        let mut total = 0.0;
        for image in padded.outer_iter() {
            for (out, y, x) in ndarray::indices((4, rows, columns)) {
                let mut sum = 0.0;
                for (c, i, j) in ndarray::indices((3, 3, 2)) {
                    sum += kernel[[out, c * 6 + i * 2 + j]] * image[[c, 2 * y + i, x + 3 * j]];
                }
                total += sum * sum;
            }
        }
        let exact = total / inputs.count() as f64;
        let zero = Array2::zeros((4, 18));
        let found = inputs.output_error(kernel.view(), zero.view()).unwrap();
        assert!((found - exact).abs() <= rounding(&inputs, &kernel));
    }

    #[test]
    fn wrong_inputs_are_errors_and_change_nothing() {
        assert!(matches!(InputMoments::new(0), Err(Error::Parameter(_))));
        let huge = InputMoments::new(usize::MAX);
        assert!(matches!(huge, Err(Error::Overflow { .. })));
        let mut inputs = InputMoments::new(2).unwrap();
        assert_eq!(inputs.matrix(), Err(Error::NoInputs));
        assert_eq!(inputs.diagonal(), Err(Error::NoInputs));
        inputs.add(array![[1.0, 2.0]].view()).unwrap();
        let before = inputs.clone();
        let longer = inputs.add(array![[1.0, 2.0, 3.0]].view());
        assert!(matches!(longer, Err(Error::ShapeMismatch { .. })));
        let bad = inputs.add(array![[1.0, f64::NAN]].view());
        assert!(matches!(bad, Err(Error::NonFinite { .. })));
        let large = inputs.add(array![[1e200, 1.0]].view());
        assert!(matches!(large, Err(Error::Overflow { .. })));
        let other = inputs.merge(&InputMoments::new(3).unwrap());
        assert!(matches!(other, Err(Error::ShapeMismatch { .. })));
        assert!(matches!(inputs.damped(-1.0), Err(Error::Parameter(_))));
        let image = Array4::<f32>::zeros((1, 1, 2, 2));
        let mut nine = InputMoments::new(9).unwrap();
        let beyond = nine.add_patches(image.view(), [3, 3], Geometry::default());
        assert!(matches!(beyond, Err(Error::ExceedsInput { .. })));
        assert_eq!(nine.count(), 0);
        assert_eq!(inputs, before);
        for (matrix, count) in [
            (array![[1.0, 2.0], [0.0, 1.0]], 1),
            (array![[-1.0]], 1),
            (array![[1.0]], 0),
        ] {
            let found = InputMoments::from_matrix(matrix.view(), count);
            assert!(matches!(found, Err(Error::Malformed { .. })), "{matrix}");
        }
        let large = InputMoments::from_matrix(array![[1e300]].view(), u64::MAX);
        assert!(matches!(large, Err(Error::Overflow { .. })));
        let again = InputMoments::from_matrix(inputs.matrix().unwrap().view(), 1).unwrap();
        assert_eq!(again, inputs);
    }

    #[test]
    fn errors_of_weights_whose_squares_are_out_of_range_are_right() {
        let mut inputs = InputMoments::new(4).unwrap();
        inputs.add(numbers(9, 4, 3).view()).unwrap();
        let (weights, half) = (numbers(3, 4, 5), numbers(3, 4, 5) * 0.5);
        let relative = |exponent: i32, moments: &InputMoments| {
            let [weights, half] = [&weights, &half].map(|w| power::scaled(&w.view(), exponent));
            moments.relative_output_error(weights.view(), half.view())
        };
        for exponent in [-1000, -600, 0, 500, 1000] {
            // E = W / 2.
            assert_eq!(relative(exponent, &inputs), Ok(0.25), "2^{exponent}");
        }
        let tiny = power::scaled(&inputs.matrix().unwrap().view(), -1000);
        let tiny = InputMoments::from_matrix(tiny.view(), 9).unwrap();
        assert_eq!(relative(0, &tiny), Ok(0.25));
        let large = power::scaled(&weights.view(), 900);
        let zeros = Array2::zeros(large.dim());
        let error = inputs.output_error(large.view(), zeros.view());
        assert!(matches!(error, Err(Error::Overflow { .. })), "{error:?}");
    }

    #[test]
    fn singular_moments_are_damped_until_they_have_a_factor() {
        let mut inputs = InputMoments::new(3).unwrap();
        inputs.add(array![[1.0, 2.0, 0.0]].view()).unwrap();
        let lower = inputs.cholesky(0.0).unwrap();
        let product = lower.lower().dot(&lower.lower().t());
        let exact = inputs.matrix().unwrap();
        // The least damping that is tried exceeds the rounding of the factor, (n + 1)·ε of the trace, and is enough.
        let trace = exact.diag().sum();
        let tolerance = 1e-14 * trace / 3.0 + 4.0 * f64::EPSILON * trace;
        for (a, b) in product.iter().zip(&exact) {
            assert!((a - b).abs() <= tolerance, "{a} and {b}");
        }
        let mut nothing = InputMoments::new(3).unwrap();
        nothing.add(Array2::<f64>::zeros((4, 3)).view()).unwrap();
        assert!(nothing.cholesky(0.01).is_ok());
    }
}
