//! Hints: the student's hidden features learn to be the teacher's.

use ndarray::{
    Array1, Array2, ArrayView, ArrayView2, ArrayViewMut, ArrayViewMut2, Axis, Dimension, Ix2,
};

use super::LossValue;
use super::loss::in_range;
use crate::{Distiller, Error, Float, ParamError, Result, check};

/// The hint loss of Romero et al., "FitNets: Hints for Thin Deep Nets"
/// ([arXiv:1412.6550](https://arxiv.org/abs/1412.6550)), between features of one shape:
/// $\frac{w}{2B} \sum \lVert t - s \rVert^2$ for a batch of B.
///
/// The first axis is the batch. Labels are not used. A [`HintRegressor`] maps a student with fewer features to the teacher's
/// width.
///
/// ```
/// use taper::Distiller;
/// use taper::distill::HintLoss;
/// use taper::ndarray::array;
///
/// let (student, teacher) = (array![[1.0, 2.0]], array![[1.0, 5.0]]);
/// let (value, gradient) = HintLoss::new().loss(student.view(), teacher.view(), &[])?;
/// assert_eq!(value.total, 4.5);
/// assert_eq!(gradient, array![[0.0, -3.0]]);
/// # Ok::<(), taper::Error>(())
/// ```
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(deny_unknown_fields, default))]
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct HintLoss {
    /// The weight w of the loss, at least 0; 1 by default.
    pub weight: f64,
}

impl Default for HintLoss {
    fn default() -> Self {
        Self::new()
    }
}

impl HintLoss {
    /// Creates a loss of weight 1.
    #[must_use]
    pub fn new() -> Self {
        Self { weight: 1.0 }
    }

    /// Sets [`weight`](Self#structfield.weight).
    #[must_use]
    pub fn weight(mut self, weight: f64) -> Self {
        self.weight = weight;
        self
    }

    /// Checks the parameters. Every call that uses them does so too.
    ///
    /// # Errors
    ///
    /// [`ParamError`] for the first parameter that is out of its range.
    pub fn validate(&self) -> Result<(), ParamError> {
        super::check_weight("weight", self.weight)
    }
}

impl<F: Float, D: Dimension> Distiller<F, D> for HintLoss {
    fn loss_into(
        &self,
        student: ArrayView<'_, F, D>,
        teacher: ArrayView<'_, F, D>,
        _labels: &[usize],
        mut gradient: ArrayViewMut<'_, F, D>,
    ) -> Result<LossValue<F>> {
        self.validate()?;
        check::same_shape("teacher", student.shape(), teacher.shape())?;
        check::same_shape("gradient", student.shape(), gradient.shape())?;
        check::finite("student", &student)?;
        check::finite("teacher", &teacher)?;
        hint(self.weight, &student, &teacher, &mut gradient)
    }
}

/// Returns the loss of finite features of one shape and writes its gradient to `gradient`.
fn hint<F: Float, D: Dimension>(
    weight: f64,
    student: &ArrayView<'_, F, D>,
    teacher: &ArrayView<'_, F, D>,
    gradient: &mut ArrayViewMut<'_, F, D>,
) -> Result<LossValue<F>> {
    let Some(&samples) = student.shape().first() else {
        return Err(Error::Dimensions {
            what: "student",
            expected: "an axis for the batch",
            shape: Vec::new(),
        });
    };
    let samples = samples as f64;
    let scale = weight / samples;
    let mut squares = 0.0;
    for ((slope, s), t) in gradient.iter_mut().zip(student).zip(teacher) {
        let difference = s.as_f64() - t.as_f64();
        squares += difference * difference;
        *slope = in_range("the gradient of the hint loss", scale * difference)?;
    }
    let soft = squares / 2.0 / samples;
    let what = "the hint loss";
    Ok(LossValue::new(
        in_range(what, weight * soft)?,
        in_range(what, soft)?,
    ))
}

/// The regressor of FitNets: $r(s) = s W^\top + b$ maps the student's features to the teacher's width, where the
/// [hint loss](HintLoss) compares them. It is trained with the student and discarded afterwards.
///
/// As a [`Distiller`] it computes the gradient for the student only.
///
/// For convolutional features the regressor is a 1 × 1 convolution: reshape (batch, channels, height, width) to
/// (batch · height · width, channels). The mean is then over positions too.
///
/// ```
/// use taper::distill::HintRegressor;
/// use taper::ndarray::array;
///
/// let regressor = HintRegressor::new(array![[1.0], [2.0]], array![0.0, 1.0])?;
/// let (student, teacher) = (array![[3.0]], array![[3.0, 6.0]]);
/// let (value, gradient, own) = regressor.loss_and_gradients(student.view(), teacher.view())?;
/// assert_eq!(value.total, 0.5);
/// assert_eq!(gradient, array![[2.0]]);
/// assert_eq!(own.weights, array![[0.0], [3.0]]);
/// assert_eq!(own.bias, array![0.0, 1.0]);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct HintRegressor<F: Float> {
    /// The weights W, (teacher_features, student_features).
    pub weights: Array2<F>,
    /// The bias b, (teacher_features).
    pub bias: Array1<F>,
}

impl<F: Float> HintRegressor<F> {
    /// Creates a regressor.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`], [`Error::EmptyAxis`], [`Error::NonFinite`].
    pub fn new(weights: Array2<F>, bias: Array1<F>) -> Result<Self> {
        let regressor = Self { weights, bias };
        regressor.check()?;
        Ok(regressor)
    }

    fn check(&self) -> Result<()> {
        check::same_shape("bias", &[self.weights.nrows()], self.bias.shape())?;
        check::finite("weights", &self.weights.view())?;
        check::finite("bias", &self.bias.view())
    }

    /// Computes the hint loss, of weight 1, of `student`, (batch, student_features), against `teacher`,
    /// (batch, teacher_features).
    ///
    /// Returns the value, its gradient with respect to `student`, and its gradients with respect to the weights and the bias of
    /// the regressor.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`], [`Error::EmptyAxis`], [`Error::NonFinite`], [`Error::Overflow`].
    pub fn loss_and_gradients(
        &self,
        student: ArrayView2<'_, F>,
        teacher: ArrayView2<'_, F>,
    ) -> Result<(LossValue<F>, Array2<F>, Self)> {
        let (value, slope) = self.regress(&student, &teacher)?;
        let gradient = slope.dot(&self.weights);
        let own = Self {
            weights: slope.t().dot(&student),
            bias: slope.sum_axis(Axis(0)),
        };
        finite_gradient(gradient.iter().chain(&own.weights).chain(&own.bias))?;
        Ok((value, gradient, own))
    }

    /// Returns the loss and its derivative with respect to the regressor's output.
    fn regress(
        &self,
        student: &ArrayView2<'_, F>,
        teacher: &ArrayView2<'_, F>,
    ) -> Result<(LossValue<F>, Array2<F>)> {
        self.check()?;
        let samples = student.nrows();
        let (out_features, in_features) = self.weights.dim();
        check::same_shape("student", &[samples, in_features], student.shape())?;
        check::same_shape("teacher", &[samples, out_features], teacher.shape())?;
        check::finite("student", student)?;
        check::finite("teacher", teacher)?;
        let regressed = student.dot(&self.weights.t()) + &self.bias;
        if regressed.iter().any(|x| !x.is_finite()) {
            return Err(Error::Overflow {
                what: "the regressed features",
            });
        }
        let mut slope = Array2::zeros(regressed.dim());
        let value = hint(1.0, &regressed.view(), teacher, &mut slope.view_mut())?;
        Ok((value, slope))
    }
}

impl<F: Float> Distiller<F, Ix2> for HintRegressor<F> {
    fn loss_into(
        &self,
        student: ArrayView2<'_, F>,
        teacher: ArrayView2<'_, F>,
        _labels: &[usize],
        mut gradient: ArrayViewMut2<'_, F>,
    ) -> Result<LossValue<F>> {
        check::same_shape("gradient", student.shape(), gradient.shape())?;
        let (value, slope) = self.regress(&student, &teacher)?;
        let slope = slope.dot(&self.weights);
        finite_gradient(slope.iter())?;
        gradient.assign(&slope);
        Ok(value)
    }
}

fn finite_gradient<'a, F: Float>(mut values: impl Iterator<Item = &'a F>) -> Result<()> {
    if values.all(|x| x.is_finite()) {
        return Ok(());
    }
    Err(Error::Overflow {
        what: "the gradient of the hint loss",
    })
}
