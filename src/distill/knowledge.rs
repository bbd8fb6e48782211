//! Distillation of softened probabilities.

use ndarray::{ArrayView2, ArrayViewMut2, Ix2};

use super::batch::{self, Rows};
use super::loss::{RowValue, RowWeights, in_range};
use super::row::{self, Scratch};
use super::{
    Comparison, LossValue, check_alpha, check_labels, check_temperature, relation, softened,
};
use crate::kernels::Level;
use crate::{Distiller, Error, Float, ParamError, Result, check};

/// The name of the loss in errors.
const WHAT: &str = "the distillation loss";

/// A loss over logits: the distance of the student's softened probabilities from the teacher's, and the cross-entropy with the
/// labels.
///
/// With the student's logits $z$ for a batch of B, the temperature $T$, the labels $y$, and the distance $D$ that
/// [`comparison`](Self#structfield.comparison) chooses,
///
/// $$ L = \alpha \\, T^2 \\, D - \frac{1 - \alpha}{B} \sum_{b=1}^{B} \ln \mathrm{softmax}(z\_b)\_{y\_b} . $$
///
/// α = 0 is plain cross-entropy; α = 1 is the teacher alone, which needs no labels, except for [`Comparison::Dkd`].
///
/// The default distance is that of Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network"
/// ([arXiv:1503.02531](https://arxiv.org/abs/1503.02531)): $D = \frac1B \sum_b \mathrm{KL}\big(\mathrm{softmax}(v\_b/T)
/// \\,\Vert\\, \mathrm{softmax}(z\_b/T)\big)$ with the teacher's logits $v$, and
///
/// $$ \frac{\partial L}{\partial z} = \frac{1}{B} \Big( \alpha \\, T \big(\mathrm{softmax}(z/T) -
/// \mathrm{softmax}(v/T)\big) + (1 - \alpha) \big(\mathrm{softmax}(z) - \mathrm{onehot}(y)\big) \Big). $$
///
/// **Why T².** The derivative of the softened part has a factor 1/T, and the difference of the two softened distributions
/// shrinks like another 1/T. Without the factor T², the teacher would count less at a higher temperature, and α would mean
/// something else at each T. With it the gradient keeps its size. For $T \to \infty$ it becomes that of matching the logits
/// of K classes, $\frac{\alpha}{B K} \big((z - \bar z) - (v - \bar v)\big)$ with the means subtracted.
///
/// **Why the batch mean.** The divergence is a sum over classes, averaged over the batch. An average over classes too would
/// divide the teacher's part by the number of classes and leave the labels' part as it is. (In PyTorch this is
/// `reduction='batchmean'`; plain `mean` averages over classes.)
///
/// The value of some toolkits is the cross-entropy of the softened probabilities in place of their divergence. It has the same
/// gradient; [`LossValue::soft_cross_entropy`] returns it.
///
/// ```
/// use taper::Distiller;
/// use taper::distill::KnowledgeDistillation;
/// use taper::ndarray::array;
///
/// let student = array![[1.0, 0.0, -1.0], [0.5, 0.5, 0.0]];
/// let teacher = array![[4.0, 1.0, -2.0], [-1.0, 3.0, 2.0]];
/// let (value, gradient) = KnowledgeDistillation::new(4.0)
///     .alpha(0.7)
///     .loss(student.view(), teacher.view(), &[0, 1])?;
/// let hard = value.hard.expect("labels were given");
/// let total: f64 = 0.7 * 16.0 * value.soft + 0.3 * hard;
/// assert!((value.total - total).abs() < 1e-12);
/// // Adding a constant to all logits of a row changes nothing, so each row of the gradient sums to zero.
/// assert!(gradient.rows().into_iter().all(|row| row.sum().abs() < 1e-12));
/// # Ok::<(), taper::Error>(())
/// ```
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(deny_unknown_fields))]
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct KnowledgeDistillation {
    /// The temperature T, above 0.
    pub temperature: f64,
    /// The weight α of the loss against the teacher, in [0, 1]; 0.9 by default. The loss against the labels has weight 1 − α.
    #[cfg_attr(feature = "model", serde(default = "crate::defaults::alpha"))]
    pub alpha: f64,
    /// The distance of the student from the teacher; [`Comparison::Hinton`] by default.
    #[cfg_attr(feature = "model", serde(default))]
    pub comparison: Comparison,
}

impl KnowledgeDistillation {
    /// Creates Hinton's loss with the given temperature and α = 0.9.
    #[must_use]
    pub fn new(temperature: f64) -> Self {
        Self {
            temperature,
            alpha: crate::defaults::alpha(),
            comparison: Comparison::Hinton,
        }
    }

    fn total(&self, mean: &RowValue) -> f64 {
        // T twice rather than T², which may leave the range where the product does not.
        let soft = if self.alpha > 0.0 {
            self.alpha * self.temperature * (self.temperature * mean.divergence)
        } else {
            0.0
        };
        soft + (1.0 - self.alpha) * mean.hard
    }

    /// Sets [`alpha`](Self#structfield.alpha).
    #[must_use]
    pub fn alpha(mut self, alpha: f64) -> Self {
        self.alpha = alpha;
        self
    }

    /// Sets [`comparison`](Self#structfield.comparison).
    #[must_use]
    pub fn comparison(mut self, comparison: Comparison) -> Self {
        self.comparison = comparison;
        self
    }

    /// Checks the parameters. Every call that uses them does so too.
    ///
    /// # Errors
    ///
    /// [`ParamError`] for the first parameter that is out of its range.
    pub fn validate(&self) -> Result<(), ParamError> {
        check_temperature(self.temperature)?;
        check_alpha(self.alpha)?;
        self.comparison.validate()
    }

    /// Checks the inputs of the loss, except that their values are finite.
    fn check<F: Float>(
        &self,
        student: &ArrayView2<'_, F>,
        teacher: &ArrayView2<'_, F>,
        labels: &[usize],
        gradient: &ArrayViewMut2<'_, F>,
    ) -> Result<()> {
        self.validate()?;
        let (samples, classes) = student.dim();
        check::not_empty("student", student.shape())?;
        check::same_shape("teacher", student.shape(), teacher.shape())?;
        check::same_shape("gradient", student.shape(), gradient.shape())?;
        let one_class = match self.comparison {
            Comparison::Hinton => false,
            Comparison::Standardized | Comparison::Dkd { .. } => classes == 1,
            Comparison::Dist { inter, .. } => inter > 0.0 && classes == 1,
        };
        let one_sample = matches!(self.comparison, Comparison::Dist { intra, .. } if intra > 0.0 && samples == 1);
        for (too_few, expected) in [
            (one_class, "at least two classes to compare"),
            (one_sample, "at least two samples to compare"),
        ] {
            if too_few {
                return Err(Error::Dimensions {
                    what: "student",
                    expected,
                    shape: student.shape().to_vec(),
                });
            }
        }
        let by_label = matches!(self.comparison, Comparison::Dkd { .. });
        if by_label || self.alpha < 1.0 || !labels.is_empty() {
            check::same_shape("labels", &[samples], &[labels.len()])?;
        }
        check_labels(labels, classes)
    }

    /// Returns the mean of the rows of a loss that compares them one by one.
    fn by_row<F: Float>(
        &self,
        student: &ArrayView2<'_, F>,
        teacher: &ArrayView2<'_, F>,
        labels: &[usize],
        gradient: ArrayViewMut2<'_, F>,
    ) -> Result<RowValue> {
        let (samples, classes) = student.dim();
        let weights = RowWeights {
            temperature: self.temperature,
            soft: self.alpha * self.temperature / samples as f64,
            hard: (1.0 - self.alpha) / samples as f64,
        };
        let level = Level::current();
        let (student_rows, teacher_rows) = (Rows::new(student), Rows::new(teacher));
        let sums = batch::map_rows(gradient, |first, gradient| {
            let mut scratch = Scratch::new(classes);
            let mut buffers = [Vec::new(), Vec::new()];
            let mut sum = RowValue::default();
            for (i, gradient) in gradient.chunks_exact_mut(classes).enumerate() {
                let [student_buffer, teacher_buffer] = &mut buffers;
                let z = student_rows.get(first + i, student_buffer);
                let v = teacher_rows.get(first + i, teacher_buffer);
                let extents = [F::extent(level, z), F::extent(level, v)];
                if !extents.iter().all(|extent| extent.finite) {
                    return None;
                }
                let label = labels.get(first + i).copied();
                let row = match self.comparison {
                    Comparison::Hinton => row::loss(
                        level,
                        (z, extents[0]),
                        (v, extents[1]),
                        label,
                        &weights,
                        gradient,
                        &mut scratch,
                    ),
                    other => softened::loss(other, z, v, label, &weights, gradient),
                };
                sum.divergence += row.divergence;
                sum.entropy += row.entropy;
                sum.hard += row.hard;
            }
            Some(sum)
        });
        let mut mean = RowValue::default();
        for sum in sums {
            let Some(sum) = sum else {
                check::finite("student", student)?;
                check::finite("teacher", teacher)?;
                return Err(Error::Overflow { what: WHAT });
            };
            mean.divergence += sum.divergence / samples as f64;
            mean.entropy += sum.entropy / samples as f64;
            mean.hard += sum.hard / samples as f64;
        }
        Ok(mean)
    }

    /// Returns the value of a loss that compares the batch as a whole.
    fn by_correlation<F: Float>(
        &self,
        student: &ArrayView2<'_, F>,
        teacher: &ArrayView2<'_, F>,
        labels: &[usize],
        weights: [f64; 2],
        mut gradient: ArrayViewMut2<'_, F>,
    ) -> Result<RowValue> {
        check::finite("student", student)?;
        check::finite("teacher", teacher)?;
        let samples = student.nrows();
        let (distance, mut slopes) =
            relation::distance(student, teacher, self.temperature, weights);
        let weights = RowWeights {
            temperature: self.temperature,
            soft: self.alpha * self.temperature, // the distance is a mean already
            hard: (1.0 - self.alpha) / samples as f64,
        };
        let mut value = RowValue {
            divergence: distance,
            ..RowValue::default()
        };
        let rows = Rows::new(student);
        let (mut buffer, mut of_row) = (Vec::new(), vec![F::zero(); student.ncols()]);
        for (i, mut slopes) in slopes.outer_iter_mut().enumerate() {
            let z = rows.get(i, &mut buffer);
            let label = labels.get(i).copied();
            let slopes = slopes.as_slice_mut().expect("a new array is contiguous");
            let hard = softened::finish(z, label, &weights, slopes, &mut of_row);
            value.hard += hard / samples as f64;
            for (out, slope) in gradient.row_mut(i).iter_mut().zip(&of_row) {
                *out = *slope;
            }
        }
        check::no_overflow(WHAT, gradient.iter())?;
        Ok(value)
    }
}

impl<F: Float> Distiller<F, Ix2> for KnowledgeDistillation {
    fn loss_into(
        &self,
        student: ArrayView2<'_, F>,
        teacher: ArrayView2<'_, F>,
        labels: &[usize],
        gradient: ArrayViewMut2<'_, F>,
    ) -> Result<LossValue<F>> {
        self.check(&student, &teacher, labels, &gradient)?;
        let mean = match self.comparison {
            Comparison::Dist { inter, intra } => {
                self.by_correlation(&student, &teacher, labels, [inter, intra], gradient)?
            }
            _ => self.by_row(&student, &teacher, labels, gradient)?,
        };
        let by_divergence = matches!(
            self.comparison,
            Comparison::Hinton | Comparison::Standardized
        );
        let entropy = by_divergence.then(|| in_range(WHAT, mean.entropy));
        let hard = (!labels.is_empty()).then(|| in_range(WHAT, mean.hard));
        Ok(LossValue {
            total: in_range(WHAT, self.total(&mean))?,
            soft: in_range(WHAT, mean.divergence)?,
            teacher_entropy: entropy.transpose()?,
            hard: hard.transpose()?,
        })
    }
}
