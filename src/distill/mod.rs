//! Distillation: a small network learns from the outputs of a large one.
//!
//! A [`Distiller`](crate::Distiller) gives the value of a loss and its gradient with respect to what the
//! student puts out, as arrays; the framework that trains the student carries the gradient on.
//!
//! - [`KnowledgeDistillation`] compares softened probabilities, which [`softened_softmax`] makes; its temperature
//!   and weight may follow a [`DistillationSchedule`].
//! - [`HintLoss`], with a [`HintRegressor`] where widths differ, and [`AttentionTransfer`] compare features.
//! - [`TeacherLogits`] keeps what a teacher said, computed once; [`ensemble_logits`] joins several teachers
//!   into one, and [`smoothed_labels`] is the teacher that knows nothing.
//!
//! `row` holds the arithmetic of one row of logits, `batch` goes through the rows in parallel.
//!
//! ```
//! use taper::Distiller;
//! use taper::distill::KnowledgeDistillation;
//! use taper::ndarray::array;
//!
//! let (student, teacher) = (array![[1.0, 0.0, -1.0]], array![[4.0, 1.0, -2.0]]);
//! let loss = KnowledgeDistillation::new(4.0).alpha(0.9).loss(student.view(), teacher.view(), &[0])?;
//! assert_eq!(loss.gradient.dim(), student.dim()); // the framework carries it on
//! # Ok::<(), taper::Error>(())
//! ```

mod attention;
mod batch;
mod hint;
mod knowledge;
mod loss;
mod row;
mod schedule;
mod softmax;
mod stored;
mod teacher;

pub use attention::AttentionTransfer;
pub use hint::{HintLoss, HintRegressor, RegressedHint};
pub use knowledge::{KnowledgeDistillation, SoftLoss};
pub use loss::{DistillationLoss, LossValue};
pub use schedule::{Anneal, DistillationSchedule};
pub use softmax::{log_softened_softmax, softened_softmax};
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

fn check_weight(weight: f64) -> Result<(), ParamError> {
    let inside = weight >= 0.0 && weight.is_finite();
    check::in_range("weight", weight, "at least 0 and finite", inside)
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
