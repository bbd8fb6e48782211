//! Distillation: a small network (the student) learns from the outputs of a large one (the teacher).
//!
//! A [`Distiller`](crate::Distiller) computes a loss and its gradient with respect to the student's output, as arrays. The
//! framework that trains the student propagates the gradient from there.
//!
//! - [`KnowledgeDistillation`] compares softened probabilities ([`softened_softmax`]), in one of four published ways
//!   ([`Comparison`]). [`Anneal`] changes its temperature or weight over a training.
//! - [`HintLoss`] and [`AttentionTransfer`] compare features; a [`HintRegressor`] lets their widths differ.
//! - [`TeacherLogits`] stores a teacher's logits, computed once. [`ensemble_logits`] joins several teachers into one, and
//!   [`smoothed_labels`] makes a teacher from labels.
//!
//! ```
//! use taper::Distiller;
//! use taper::distill::KnowledgeDistillation;
//! use taper::ndarray::array;
//!
//! let (student, teacher) = (array![[1.0, 0.0, -1.0]], array![[4.0, 1.0, -2.0]]);
//! let distiller = KnowledgeDistillation::new(4.0).alpha(0.9);
//! let (value, gradient) = distiller.loss(student.view(), teacher.view(), &[0])?;
//! assert!(value.total > 0.0);
//! assert_eq!(gradient.dim(), student.dim()); // hand it to the framework
//! # Ok::<(), taper::Error>(())
//! ```

mod attention;
mod batch;
mod comparison;
pub(crate) mod distiller;
mod hint;
mod knowledge;
mod loss;
mod relation;
mod row;
mod schedule;
mod softened;
mod softmax;
mod stored;
mod teacher;

pub use attention::AttentionTransfer;
pub use comparison::Comparison;
pub use hint::{HintLoss, HintRegressor};
pub use knowledge::KnowledgeDistillation;
pub use loss::LossValue;
pub use schedule::Anneal;
pub use softmax::softened_softmax;
pub use stored::TeacherLogits;
pub use teacher::{ensemble_logits, smoothed_labels};

use crate::{Error, ParamError, Result, check};

fn check_temperature(temperature: f64) -> Result<(), ParamError> {
    let inside = temperature > 0.0 && temperature.is_finite();
    check::in_range("temperature", temperature, "positive and finite", inside)
}

fn check_alpha(alpha: f64) -> Result<(), ParamError> {
    check::in_range("alpha", alpha, "in [0, 1]", (0.0..=1.0).contains(&alpha))
}

fn check_weight(name: &'static str, weight: f64) -> Result<(), ParamError> {
    let inside = weight >= 0.0 && weight.is_finite();
    check::in_range(name, weight, "at least 0 and finite", inside)
}

fn check_labels(labels: &[usize], classes: usize) -> Result<()> {
    if let Some(&label) = labels.iter().find(|&&label| label >= classes) {
        return Err(Error::ExceedsInput {
            what: "a label",
            value: label,
            limit: classes - 1,
        });
    }
    Ok(())
}
