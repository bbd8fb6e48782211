//! The logits of ensembles and of smoothed labels, for every loss over logits.

use ndarray::{Array2, ArrayView2, Zip};

use super::check_temperature;
use super::softmax::log_softened_softmax;
use crate::{Error, Float, Result, check};

/// Returns the logits of an ensemble: their softened probabilities at `temperature` are the mean of the members'
/// probabilities.
///
/// For members with logits $v\_m$ of shape (batch, classes) they are $T \ln \frac1M \sum_m \mathrm{softmax}(v\_m/T)$,
/// accurate even where probabilities round to zero. They are valid at this temperature only.
///
/// # Errors
///
/// [`Error::EmptyAxis`] for an empty ensemble, [`Error::ShapeMismatch`] for members of different shapes,
/// [`Error::Overflow`] for a logit out of range, and those of [`softened_softmax`](super::softened_softmax).
///
/// ```
/// use taper::distill::{ensemble_logits, softened_softmax};
/// use taper::ndarray::array;
///
/// let (a, b) = (array![[2.0, 0.0]], array![[0.0, 1.0]]);
/// let both = ensemble_logits(&[a.view(), b.view()], 3.0)?;
/// let p = softened_softmax(both.view(), 3.0)?;
/// let mean = (softened_softmax(a.view(), 3.0)? + softened_softmax(b.view(), 3.0)?) / 2.0;
/// assert!((&p - &mean).iter().all(|x: &f64| x.abs() < 1e-12));
/// # Ok::<(), taper::Error>(())
/// ```
pub fn ensemble_logits<F: Float>(
    teachers: &[ArrayView2<'_, F>],
    temperature: f64,
) -> Result<Array2<F>> {
    check_temperature(temperature)?;
    let Some((first, others)) = teachers.split_first() else {
        return Err(Error::EmptyAxis {
            what: "the ensemble",
            shape: vec![0],
        });
    };
    for other in others {
        check::same_shape("a teacher", first.shape(), other.shape())?;
    }
    let members = teachers
        .iter()
        .map(|teacher| log_softened_softmax(*teacher, temperature))
        .collect::<Result<Vec<_>>>()?;
    let ln_count = (members.len() as f64).ln();
    let mut logits = Array2::zeros(first.dim());
    for (index, logit) in logits.indexed_iter_mut() {
        let values = || members.iter().map(|member| member[index].as_f64());
        let top = values().fold(f64::MIN, f64::max);
        let sum: f64 = values().map(|x| (x - top).exp()).sum();
        *logit = F::from_f64_lossy(temperature * (top + sum.ln() - ln_count));
    }
    check::no_overflow("a logit of the ensemble", &logits)?;
    Ok(logits)
}

/// Returns the logits of smoothed labels: probability $1 - \varepsilon + \varepsilon/K$ for the label and $\varepsilon/K$ for
/// each of the K − 1 other classes, at temperature 1.
///
/// Label smoothing (Szegedy et al., 2015, [arXiv:1512.00567](https://arxiv.org/abs/1512.00567)) is distillation from this
/// teacher at T = 1 and α = 1. Distillation at T = 1 and α = ε from a teacher whose logits are all zero has the same
/// gradient.
///
/// # Errors
///
/// [`Error::Parameter`] for a `smoothing` ε outside (0, 1] (for 0 the other logits would be infinite), [`Error::EmptyAxis`] for
/// no labels or no classes, [`Error::ExceedsInput`] for a label that is no class.
///
/// ```
/// use taper::distill::{smoothed_labels, softened_softmax};
/// use taper::ndarray::array;
///
/// let teacher = smoothed_labels::<f64>(&[1], 4, 0.2)?;
/// let p = softened_softmax(teacher.view(), 1.0)?;
/// let expected = array![[0.05, 0.85, 0.05, 0.05]];
/// assert!((&p - &expected).iter().all(|x| x.abs() < 1e-12));
/// # Ok::<(), taper::Error>(())
/// ```
pub fn smoothed_labels<F: Float>(
    labels: &[usize],
    classes: usize,
    smoothing: f64,
) -> Result<Array2<F>> {
    let inside = smoothing > 0.0 && smoothing <= 1.0;
    check::in_range("smoothing", smoothing, "in (0, 1]", inside)?;
    check::not_empty("labels", &[labels.len(), classes])?;
    super::check_labels(labels, classes)?;
    let other = smoothing / classes as f64;
    let (other, label) = [other, 1.0 - smoothing + other].map(f64::ln).into();
    let mut logits = Array2::from_elem((labels.len(), classes), F::from_f64_lossy(other));
    Zip::from(logits.rows_mut())
        .and(labels)
        .for_each(|mut row, &class| row[class] = F::from_f64_lossy(label));
    Ok(logits)
}
