//! `Trainable`: the gradient of an artifact's real numbers.

use ndarray::{Array1, ArrayView1, ArrayView2, ArrayViewD};

use crate::{Compressed, Float, Result, check};

/// An artifact whose real numbers can be trained. Its codes and positions do not change.
///
/// A framework computes the gradient with respect to the *dense* weight as usual. The artifact turns it into the gradient of its
/// stored numbers: codebooks, factors, scales, kept weights. With $\hat W(\theta)$ the decompressed weight,
///
/// $$ \frac{\partial L}{\partial \theta\_k} = \sum\_{i} \frac{\partial L}{\partial \hat W\_i}
/// \frac{\partial \hat W\_i}{\partial \theta\_k} $$
///
/// Any framework and any optimizer work: decompress, forward, backward, [`gradient`](Self::gradient), then
/// [`step`](Self::step), or the update of a better optimizer and [`set_parameters`](Self::set_parameters). The guide's page on
/// [fine-tuning](crate::guide::fine_tuning) has a whole recipe.
///
/// The trait is object-safe: layers may be `Box<dyn Trainable<f32>>`.
///
/// ```
/// use taper::ndarray::{Array2, array};
/// use taper::quantize::product::ProductQuantizer;
/// use taper::{Compressed, Quantizer, Trainable};
///
/// let w = array![[1.0_f64, 2.0], [1.2, 2.2], [5.0, 5.0]];
/// let mut small = ProductQuantizer::new(1).centroids(2).quantize(w.view())?;
/// // Each value of a centroid has the gradient of all weights that share it, here the number of these weights.
/// let ones = Array2::ones((3, 2)).into_dyn();
/// let mut shares = small.gradient(ones.view())?.to_vec();
/// shares.sort_by(f64::total_cmp);
/// assert_eq!(shares, [1.0, 1.0, 2.0, 2.0]);
/// // One step down the gradient of ½‖Ŵ − target‖².
/// let target = array![[1.0, 1.0], [1.0, 1.0], [4.0, 4.0]].into_dyn();
/// let distance = |small: &dyn Trainable<f64>| -> taper::Result<f64> {
///     Ok((small.decompress()? - &target).iter().map(|x| x * x).sum())
/// };
/// let before = distance(&small)?;
/// let gradient = small.decompress()? - &target;
/// small.step(gradient.view(), 0.1)?;
/// assert!(distance(&small)? < before);
/// # Ok::<(), taper::Error>(())
/// ```
///
/// What an implementation promises:
/// - the gradient is that of [`decompress`](Compressed::decompress), exactly, with sums in double precision;
/// - a step does not change shape, codes, positions and [`storage`](Compressed::storage);
/// - an error changes nothing; nothing panics.
pub trait Trainable<F: Float>: Compressed<F> {
    /// Returns the numbers that can be trained, in an order that the implementation documents. There may be none.
    fn parameters(&self) -> Array1<F>;

    /// Sets the numbers, rounded to the stored precision and moved into the range that the artifact allows (scales are not
    /// negative).
    ///
    /// A step below the precision is lost, so an optimizer of small steps keeps the unrounded numbers itself. The artifact's
    /// [report](Compressed::report) of its fit no longer holds and is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) for another number of parameters, [`Error::NonFinite`](crate::Error::NonFinite), [`Error::Overflow`](crate::Error::Overflow) for a value beyond
    /// the precision, and [`Error::Malformed`](crate::Error::Malformed) where a weight would leave the range of the type.
    fn set_parameters(&mut self, parameters: ArrayView1<'_, F>) -> Result<()>;

    /// Computes ∂L/∂θ, in the order of [`parameters`](Self::parameters), from ∂L/∂Ŵ, which has the artifact's shape.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`](crate::Error::ShapeMismatch), [`Error::NonFinite`](crate::Error::NonFinite), and [`Error::Overflow`](crate::Error::Overflow) for a sum beyond the range of the type.
    fn gradient(&self, dense: ArrayViewD<'_, F>) -> Result<Array1<F>>;

    /// Takes a step of gradient descent, θ ← θ − rate · ∂L/∂θ, from ∂L/∂Ŵ.
    ///
    /// # Errors
    ///
    /// Those of [`gradient`](Self::gradient) and of [`set_parameters`](Self::set_parameters).
    fn step(&mut self, dense: ArrayViewD<'_, F>, rate: F) -> Result<()> {
        let mut parameters = self.parameters();
        parameters.scaled_add(-rate, &self.gradient(dense)?);
        self.set_parameters(parameters.view())
    }
}

/// Checks the gradient of the dense weight.
pub(crate) fn check_dense<F: Float>(shape: &[usize], dense: &ArrayViewD<'_, F>) -> Result<()> {
    check::same_shape("the dense gradient", shape, dense.shape())?;
    check::finite("the dense gradient", dense)
}

/// Checks the gradient of a dense matrix, whose `shape` has two axes, and returns it with two axes.
pub(crate) fn check_matrix<'a, F: Float>(
    shape: &[usize],
    dense: ArrayViewD<'a, F>,
) -> Result<ArrayView2<'a, F>> {
    check_dense(shape, &dense)?;
    Ok(dense
        .into_dimensionality()
        .expect("the shape is that of a matrix"))
}

/// Checks that there are `count` new parameters and that they are finite.
pub(crate) fn check_parameters<F: Float>(
    count: usize,
    parameters: &ArrayView1<'_, F>,
) -> Result<()> {
    check::same_shape("the parameters", &[count], parameters.shape())?;
    if count == 0 {
        return Ok(());
    }
    check::finite("the parameters", parameters)
}

/// Converts sums to a gradient.
pub(crate) fn gradient_of<F: Float>(sums: Vec<f64>) -> Result<Array1<F>> {
    finite_gradient(sums.into_iter().map(F::from_f64_lossy).collect())
}

/// Fails if a value of `gradient` is not finite.
pub(crate) fn finite_gradient<F: Float>(gradient: Array1<F>) -> Result<Array1<F>> {
    check::no_overflow("the gradient", &gradient)?;
    Ok(gradient)
}
