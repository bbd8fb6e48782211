//! Hints: the student's features in the middle are to be the teacher's.

use ndarray::{
    Array1, Array2, ArrayView, ArrayView2, ArrayViewMut, ArrayViewMut2, Axis, Dimension, Ix2,
};

use super::LossValue;
use super::loss::in_range;
use crate::{Distiller, Float, ParamError, Result, check};

/// The hint loss of Romero et al., "FitNets: Hints for Thin Deep Nets"
/// ([arXiv:1412.6550](https://arxiv.org/abs/1412.6550)), between features of one shape:
/// $\frac{w}{2B} \sum \lVert t - s \rVert^2$ for a batch of B.
///
/// The first axis is the batch; the others may be anything. Labels have no say. Where the student is
/// thinner than the teacher, a [`HintRegressor`] stands between them.
///
/// ```
/// use ndarray::array;
/// use taper::Distiller;
/// use taper::distill::HintLoss;
///
/// let (student, teacher) = (array![[1.0, 2.0]], array![[1.0, 5.0]]);
/// let loss = HintLoss::new().loss(student.view(), teacher.view(), &[])?;
/// assert_eq!(loss.value.total, 4.5);
/// assert_eq!(loss.gradient, array![[0.0, -3.0]]);
/// # Ok::<(), taper::Error>(())
/// ```
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(deny_unknown_fields, default))]
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct HintLoss {
    /// The weight of the loss, at least 0.
    pub weight: f64,
}

impl Default for HintLoss {
    fn default() -> Self {
        Self::new()
    }
}

impl HintLoss {
    /// Parameters with a weight of 1.
    #[must_use]
    pub fn new() -> Self {
        Self { weight: 1.0 }
    }

    /// Sets the weight of the loss, at least 0.
    #[must_use]
    pub fn weight(mut self, weight: f64) -> Self {
        self.weight = weight;
        self
    }

    /// Checks the parameters, as every call that uses them does.
    ///
    /// # Errors
    ///
    /// The first parameter that no input could make right.
    pub fn validate(&self) -> Result<(), ParamError> {
        super::check_weight(self.weight)?;
        Ok(())
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
        let samples = student.shape().first().copied().unwrap_or(1) as f64;
        let scale = self.weight / samples;
        let mut squares = 0.0;
        for ((slope, s), t) in gradient.iter_mut().zip(&student).zip(&teacher) {
            let difference = s.as_f64() - t.as_f64();
            squares += difference * difference;
            *slope = in_range("the gradient of the hint loss", scale * difference)?;
        }
        let soft = squares / 2.0 / samples;
        let what = "the hint loss";
        Ok(LossValue::new(
            in_range(what, self.weight * soft)?,
            in_range(what, soft)?,
        ))
    }
}

/// The regressor of FitNets: $r(s) = s W^\top + b$ takes the thin student's features to the width of the teacher's,
/// where the [hint loss](HintLoss) compares them. It is trained with the student and thrown away.
///
/// For convolutional features the regressor is a 1 × 1 convolution: reshape (batch, channels, height, width)
/// to (batch · height · width, channels), which makes the mean one over positions too.
///
/// ```
/// use ndarray::array;
/// use taper::distill::HintRegressor;
///
/// let regressor = HintRegressor::new(array![[1.0], [2.0]], array![0.0, 1.0])?;
/// let (student, teacher) = (array![[3.0]], array![[3.0, 6.0]]);
/// let loss = regressor.loss_and_gradients(student.view(), teacher.view())?;
/// assert_eq!(loss.value.total, 0.5);
/// assert_eq!(loss.student, array![[2.0]]);
/// assert_eq!(loss.weights, array![[0.0], [3.0]]);
/// assert_eq!(loss.bias, array![0.0, 1.0]);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct HintRegressor<F: Float> {
    weights: Array2<F>,
    bias: Array1<F>,
}

/// The hint loss through a regressor, and its gradients.
///
/// ```
/// use taper::distill::HintRegressor;
/// use taper::ndarray::array;
///
/// let regressor = HintRegressor::new(array![[1.0], [2.0]], array![0.0, 1.0])?;
/// let hint = regressor.loss_and_gradients(array![[3.0]].view(), array![[3.0, 6.0]].view())?;
/// assert_eq!((hint.student, hint.bias), (array![[2.0]], array![0.0, 1.0]));
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct RegressedHint<F: Float> {
    /// The value.
    pub value: LossValue<F>,
    /// ∂value/∂student, (batch, student_features).
    pub student: Array2<F>,
    /// ∂value/∂weights of the regressor, (teacher_features, student_features).
    pub weights: Array2<F>,
    /// ∂value/∂bias of the regressor, (teacher_features).
    pub bias: Array1<F>,
}

impl<F: Float> HintRegressor<F> {
    /// A regressor with `weights` of shape (teacher_features, student_features) and `bias` (teacher_features).
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`](crate::Error::ShapeMismatch), [`Error::EmptyAxis`](crate::Error::EmptyAxis), [`Error::NonFinite`](crate::Error::NonFinite).
    pub fn new(weights: Array2<F>, bias: Array1<F>) -> Result<Self> {
        check::same_shape("bias", &[weights.nrows()], bias.shape())?;
        check::finite("weights", &weights.view())?;
        check::finite("bias", &bias.view())?;
        Ok(Self { weights, bias })
    }

    /// The weights, (teacher_features, student_features).
    #[must_use]
    pub fn weights(&self) -> ArrayView2<'_, F> {
        self.weights.view()
    }

    /// The loss of `student`, (batch, student_features), against `teacher`, (batch, teacher_features), with the
    /// gradients of student and regressor; its weight is 1.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`](crate::Error::ShapeMismatch), [`Error::EmptyAxis`](crate::Error::EmptyAxis), [`Error::NonFinite`](crate::Error::NonFinite), [`Error::Overflow`](crate::Error::Overflow).
    pub fn loss_and_gradients(
        &self,
        student: ArrayView2<'_, F>,
        teacher: ArrayView2<'_, F>,
    ) -> Result<RegressedHint<F>> {
        let (value, slope) = self.regress(&student, teacher)?;
        let loss = RegressedHint {
            value,
            student: slope.dot(&self.weights),
            weights: slope.t().dot(&student),
            bias: slope.sum_axis(Axis(0)),
        };
        finite_gradient(loss.student.iter().chain(&loss.weights).chain(&loss.bias))?;
        Ok(loss)
    }

    /// The value, and its derivative with respect to what the regressor puts out.
    fn regress(
        &self,
        student: &ArrayView2<'_, F>,
        teacher: ArrayView2<'_, F>,
    ) -> Result<(LossValue<F>, Array2<F>)> {
        let samples = student.nrows();
        let (out_features, in_features) = self.weights.dim();
        check::same_shape("student", &[samples, in_features], student.shape())?;
        check::same_shape("teacher", &[samples, out_features], teacher.shape())?;
        check::finite("student", student)?;
        let regressed = student.dot(&self.weights.t()) + &self.bias;
        check::no_overflow("the regressed features", &regressed)?;
        let loss = HintLoss { weight: 1.0 }.loss(regressed.view(), teacher, &[])?;
        Ok((loss.value, loss.gradient))
    }
}

/// The student's features may be of another width than the teacher's here.
impl<F: Float> Distiller<F, Ix2> for HintRegressor<F> {
    fn loss_into(
        &self,
        student: ArrayView2<'_, F>,
        teacher: ArrayView2<'_, F>,
        _labels: &[usize],
        mut gradient: ArrayViewMut2<'_, F>,
    ) -> Result<LossValue<F>> {
        check::same_shape("gradient", student.shape(), gradient.shape())?;
        let (value, slope) = self.regress(&student, teacher)?;
        let slope = slope.dot(&self.weights);
        finite_gradient(slope.iter())?;
        gradient.assign(&slope);
        Ok(value)
    }
}

fn finite_gradient<'a, F: Float>(values: impl Iterator<Item = &'a F>) -> Result<()> {
    check::no_overflow("the gradient of the hint loss", values)
}
