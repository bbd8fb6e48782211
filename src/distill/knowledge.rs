//! Distillation of softened probabilities.

use ndarray::{ArrayView2, ArrayViewMut2, Ix2};

use super::batch::{self, Rows};
use super::loss::in_range;
use super::row::{self, RowValue, RowWeights, Scratch};
use super::{LossValue, check_alpha, check_labels, check_temperature};
use crate::kernels::Level;
use crate::{Distiller, Error, Float, ParamError, Result, check};

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
/// **Why T².** The derivative of the softened part has a factor 1/T, and the difference of the two softened distributions
/// shrinks like another 1/T. Without the factor T², the teacher would count less at a higher temperature, and α would mean
/// something else at each T. With it the gradient keeps its size. For $T \to \infty$ it becomes that of matching the logits
/// of K classes, $\frac{\alpha}{B K} \big((z - \bar z) - (v - \bar v)\big)$ with the means subtracted.
///
/// **Why the batch mean.** The divergence is a sum over classes, averaged over the batch. An average over classes too would
/// divide the teacher's part by the number of classes and leave the labels' part as it is. (In PyTorch this is
/// `reduction='batchmean'`; plain `mean` averages over classes.)
///
/// α = 0 is plain cross-entropy; α = 1 is the teacher alone, which needs no labels.
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
/// let loss = KnowledgeDistillation::new(4.0)
///     .alpha(0.7)
///     .loss(student.view(), teacher.view(), &[0, 1])?;
/// let hard = loss.value.hard.expect("labels were given");
/// let total: f64 = 0.7 * 16.0 * loss.value.soft + 0.3 * hard;
/// assert!((loss.value.total - total).abs() < 1e-12);
/// // Adding a constant to all logits of a row changes nothing, so each row of the gradient sums to zero.
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
    /// The weight α of the loss against the teacher, in [0, 1]; 0.9 by default. The loss against the labels has weight 1 − α.
    #[cfg_attr(feature = "model", serde(default = "crate::defaults::alpha"))]
    pub alpha: f64,
}

impl KnowledgeDistillation {
    /// Creates a loss with the given temperature and α = 0.9.
    #[must_use]
    pub fn new(temperature: f64) -> Self {
        Self {
            temperature,
            alpha: crate::defaults::alpha(),
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

    /// Checks the parameters. Every call that uses them does so too.
    ///
    /// # Errors
    ///
    /// [`ParamError`] for the first parameter that is out of its range.
    pub fn validate(&self) -> Result<(), ParamError> {
        check_temperature(self.temperature)?;
        check_alpha(self.alpha)
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
