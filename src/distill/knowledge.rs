//! Distillation through softened probabilities.

use ndarray::{ArrayView2, ArrayViewMut2, Ix2};

use super::batch::{self, Rows};
use super::loss::in_range;
use super::row::{self, RowValue, RowWeights, Scratch};
use super::{LossValue, check_alpha, check_labels, check_temperature};
use crate::kernels::Level;
use crate::{Distiller, Error, Float, ParamError, Result, check};

/// Which value the teacher's part of the loss takes; the gradient is the same.
///
/// ```
/// use taper::Distiller;
/// use taper::distill::{KnowledgeDistillation, SoftLoss};
/// use taper::ndarray::array;
///
/// let (student, teacher) = (array![[1.0, 0.0]], array![[0.0, 2.0]]);
/// let of = |soft| KnowledgeDistillation::new(2.0).alpha(1.0).soft_loss(soft).loss(student.view(), teacher.view(), &[]);
/// let (divergence, entropy) = (of(SoftLoss::Divergence)?, of(SoftLoss::CrossEntropy)?);
/// assert!(divergence.value.total < entropy.value.total);
/// assert_eq!(divergence.gradient, entropy.gradient);
/// # Ok::<(), taper::Error>(())
/// ```
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(rename_all = "snake_case"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum SoftLoss {
    /// $\mathrm{KL}(p \Vert q) = \sum p \ln(p/q)$: zero where the student matches the teacher.
    #[default]
    Divergence,
    /// $-\sum p \ln q$: the divergence and the teacher's entropy.
    CrossEntropy,
}

/// The loss of Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network"
/// ([arXiv:1503.02531](https://arxiv.org/abs/1503.02531)).
///
/// With the student's logits $z$, the teacher's $v$, the temperature $T$ and the labels $y$,
///
/// $$ L = \frac{1}{B} \sum_{b=1}^{B} \Big( \alpha \\, T^2 \\, \mathrm{KL}\big(\mathrm{softmax}(v/T) \\,\Vert\\,
/// \mathrm{softmax}(z/T)\big) - (1 - \alpha) \ln \mathrm{softmax}(z)\_{y} \Big), $$
///
/// $$ \frac{\partial L}{\partial z} = \frac{1}{B} \Big( \alpha \\, T \big(\mathrm{softmax}(z/T) -
/// \mathrm{softmax}(v/T)\big) + (1 - \alpha) \big(\mathrm{softmax}(z) - \mathrm{onehot}(y)\big) \Big). $$
///
/// **Why T².** The derivative of the softened part carries 1/T, and the difference of the two softened
/// distributions shrinks like another 1/T as they flatten: without the factor, a higher temperature would
/// silently turn the teacher down and α would mean something else at each T. With it the gradient keeps its
/// size, and for $T \to \infty$ it becomes that of matching the logits,
/// $\frac{\alpha}{B K} \big((z - \bar z) - (v - \bar v)\big)$ with the means taken off.
///
/// **Why the batch mean.** The sum over classes is part of the divergence; only the sum over the batch is
/// averaged. An average over classes too (what some toolkits' plain `mean` does) divides the teacher's part
/// by the number of classes, but not the label's part: α is then not what it says. (PyTorch users: this is
/// `reduction='batchmean'`.)
///
/// `α = 0` is plain cross-entropy, `α = 1` the teacher alone, which needs no labels.
///
/// ```
/// use ndarray::array;
/// use taper::Distiller;
/// use taper::distill::KnowledgeDistillation;
///
/// let student = array![[1.0, 0.0, -1.0], [0.5, 0.5, 0.0]];
/// let teacher = array![[4.0, 1.0, -2.0], [-1.0, 3.0, 2.0]];
/// let loss = KnowledgeDistillation::new(4.0)
///     .alpha(0.7)
///     .loss(student.view(), teacher.view(), &[0, 1])?;
/// let hard = loss.value.hard.unwrap_or_default();
/// let total: f64 = 0.7 * 16.0 * loss.value.soft + 0.3 * hard;
/// assert!((loss.value.total - total).abs() < 1e-12);
/// // Each row of the gradient sums to zero: a shift of all logits changes nothing.
/// assert!(loss.gradient.rows().into_iter().all(|row| row.sum().abs() < 1e-12));
/// # Ok::<(), taper::Error>(())
/// ```
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(deny_unknown_fields))]
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct KnowledgeDistillation {
    /// The temperature T, above 0.
    pub temperature: f64,
    /// The weight α of the loss against the teacher, in [0, 1]; the loss against the labels has the rest.
    #[cfg_attr(feature = "model", serde(default = "crate::defaults::alpha"))]
    pub alpha: f64,
    /// The value that the loss against the teacher reports.
    #[cfg_attr(feature = "model", serde(default))]
    pub soft_loss: SoftLoss,
}

impl KnowledgeDistillation {
    /// Parameters with the temperature given, α = 0.9 and the divergence as the teacher's part.
    #[must_use]
    pub fn new(temperature: f64) -> Self {
        Self {
            temperature,
            alpha: crate::defaults::alpha(),
            soft_loss: SoftLoss::default(),
        }
    }

    fn total(&self, mean: &RowValue) -> f64 {
        let soft = match self.soft_loss {
            SoftLoss::Divergence => mean.divergence,
            SoftLoss::CrossEntropy => mean.divergence + mean.entropy,
        };
        // T twice rather than T², which may leave the range where the product does not.
        let soft = if self.alpha > 0.0 {
            self.alpha * self.temperature * (self.temperature * soft)
        } else {
            0.0
        };
        soft + (1.0 - self.alpha) * mean.hard
    }

    /// Sets the weight of the teacher's part, in [0, 1]; the labels' part has the rest.
    #[must_use]
    pub fn alpha(mut self, alpha: f64) -> Self {
        self.alpha = alpha;
        self
    }

    /// Sets which value the teacher's part takes.
    #[must_use]
    pub fn soft_loss(mut self, soft_loss: SoftLoss) -> Self {
        self.soft_loss = soft_loss;
        self
    }

    /// Checks the parameters, as every call that uses them does.
    ///
    /// # Errors
    ///
    /// The first parameter that no input could make right.
    pub fn validate(&self) -> Result<(), ParamError> {
        check_temperature(self.temperature)?;
        check_alpha(self.alpha)?;
        Ok(())
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
        self.validate()?;
        let (samples, classes) = student.dim();
        check::not_empty("student", student.shape())?;
        check::same_shape("teacher", student.shape(), teacher.shape())?;
        check::same_shape("gradient", student.shape(), gradient.shape())?;
        if !(labels.is_empty() && self.alpha == 1.0) {
            check::same_shape("labels", &[samples], &[labels.len()])?;
        }
        check_labels(labels, classes)?;
        let weights = RowWeights {
            temperature: self.temperature,
            soft: self.alpha * self.temperature / samples as f64,
            hard: (1.0 - self.alpha) / samples as f64,
        };
        let level = Level::current();
        let (student_rows, teacher_rows) = (Rows::new(&student), Rows::new(&teacher));
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
                let row = row::loss(
                    level,
                    (z, extents[0]),
                    (v, extents[1]),
                    label,
                    &weights,
                    gradient,
                    &mut scratch,
                );
                sum.divergence += row.divergence;
                sum.entropy += row.entropy;
                sum.hard += row.hard;
            }
            Some(sum)
        });
        let mut mean = RowValue::default();
        for sum in sums {
            let Some(sum) = sum else {
                check::finite("student", &student)?;
                check::finite("teacher", &teacher)?;
                return Err(Error::Overflow {
                    what: "the distillation loss",
                });
            };
            mean.divergence += sum.divergence / samples as f64;
            mean.entropy += sum.entropy / samples as f64;
            mean.hard += sum.hard / samples as f64;
        }
        let what = "the distillation loss";
        let hard = (!labels.is_empty()).then(|| in_range(what, mean.hard));
        Ok(LossValue {
            total: in_range(what, self.total(&mean))?,
            soft: in_range(what, mean.divergence)?,
            teacher_entropy: Some(in_range(what, mean.entropy)?),
            hard: hard.transpose()?,
        })
    }
}
