//! Attention transfer: the student learns to be active in the same places as the teacher.

use ndarray::{ArrayView3, ArrayView4, ArrayViewMut3, ArrayViewMut4, Axis, Ix4};

use super::LossValue;
use super::loss::in_range;
use crate::{Distiller, Float, ParamError, Result, check};

/// Activation-based attention transfer of Zagoruyko and Komodakis, "Paying More Attention to Attention"
/// ([arXiv:1612.03928](https://arxiv.org/abs/1612.03928)).
///
/// A feature map $A$ of shape (channels, height, width) has the attention map
/// $Q = \sum_c \lvert A_c \rvert^p$ over positions. With both maps scaled to length one, the loss of a batch of B is
///
/// $$ L = \frac{\beta}{2B} \sum_{b=1}^{B} \Big\lVert \frac{Q_S}{\lVert Q_S \rVert_2} -
/// \frac{Q_T}{\lVert Q_T \rVert_2} \Big\rVert_2^2 . $$
///
/// The paper has the distance itself; its square has a gradient where the maps agree too. Student and teacher may differ
/// in their number of channels, but not in height and width. Labels are not used. A map of zeros stays zero and gets no
/// gradient.
///
/// ```
/// use taper::Distiller;
/// use taper::distill::AttentionTransfer;
/// use taper::ndarray::{Array4, Axis, concatenate};
///
/// let student = Array4::from_shape_fn((2, 3, 4, 4), |(n, c, y, x)| (n + c + y * x) as f64);
/// // Twice as strong over twice as many channels, but in the same places: nothing to learn.
/// let teacher = concatenate![Axis(1), student, student] * 2.0;
/// let (value, _) = AttentionTransfer::new().loss(student.view(), teacher.view(), &[])?;
/// assert!(value.total < 1e-15);
/// # Ok::<(), taper::Error>(())
/// ```
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(deny_unknown_fields, default))]
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct AttentionTransfer {
    /// The exponent p of the activations, at least 1; 2 by default. The larger it is, the more the strongest channel counts.
    pub exponent: f64,
    /// The weight β of the loss, at least 0; 1 by default.
    pub weight: f64,
}

impl Default for AttentionTransfer {
    fn default() -> Self {
        Self::new()
    }
}

impl AttentionTransfer {
    /// Creates a loss with p = 2 and β = 1.
    #[must_use]
    pub fn new() -> Self {
        Self {
            exponent: 2.0,
            weight: 1.0,
        }
    }

    /// Sets [`exponent`](Self#structfield.exponent).
    #[must_use]
    pub fn exponent(mut self, exponent: f64) -> Self {
        self.exponent = exponent;
        self
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
        super::check_weight("weight", self.weight)?;
        let exponent = self.exponent;
        let inside = exponent >= 1.0 && exponent.is_finite();
        check::in_range("exponent", exponent, "at least 1 and finite", inside)
    }
}

/// The attention map of one sample, scaled to length one.
struct Attention {
    /// The largest activation, by which all were divided, so that no power of them leaves the range.
    largest: f64,
    /// The length of the map of the divided activations; 0 for a map of zeros.
    length: f64,
    /// The map divided by its length, in row-major order of positions.
    map: Vec<f64>,
}

impl AttentionTransfer {
    fn attention<F: Float>(&self, features: &ArrayView3<'_, F>) -> Attention {
        let largest = features.fold(0.0_f64, |largest, x| largest.max(x.as_f64().abs()));
        let positions = features.len() / features.len_of(Axis(0));
        let mut map = vec![0.0; positions];
        if largest > 0.0 {
            for channel in features.outer_iter() {
                for (q, x) in map.iter_mut().zip(&channel) {
                    *q += self.power(x.as_f64().abs() / largest, self.exponent);
                }
            }
        }
        let length = map.iter().map(|q| q * q).sum::<f64>().sqrt();
        if length > 0.0 {
            for q in &mut map {
                *q /= length;
            }
        }
        Attention {
            largest,
            length,
            map,
        }
    }

    /// A power whose usual exponents need no logarithm.
    fn power(&self, base: f64, exponent: f64) -> f64 {
        if exponent == 2.0 {
            base * base
        } else if exponent == 1.0 {
            base
        } else {
            base.powf(exponent)
        }
    }

    /// Returns half the squared distance of a sample's two maps, and writes its gradient times `scale` to `gradient`.
    fn sample<F: Float>(
        &self,
        student: &ArrayView3<'_, F>,
        teacher: &ArrayView3<'_, F>,
        scale: f64,
        gradient: &mut ArrayViewMut3<'_, F>,
    ) -> Result<f64> {
        let (s, t) = (self.attention(student), self.attention(teacher));
        let value = s
            .map
            .iter()
            .zip(&t.map)
            .map(|(s, t)| (s - t) * (s - t))
            .sum::<f64>()
            / 2.0;
        if s.length == 0.0 {
            gradient.fill(F::zero());
            return Ok(value);
        }
        // The division by the length keeps the part of s − t that is orthogonal to s.
        let along: f64 = s.map.iter().zip(&t.map).map(|(s, t)| s * (s - t)).sum();
        for (mut slopes, channel) in gradient.outer_iter_mut().zip(student.outer_iter()) {
            let maps = s.map.iter().zip(&t.map);
            for ((slope, x), (s_map, t_map)) in slopes.iter_mut().zip(&channel).zip(maps) {
                let through_length = ((s_map - t_map) - s_map * along) / s.length;
                let x = x.as_f64();
                let through_power = if x == 0.0 {
                    0.0
                } else {
                    let base = x.abs() / s.largest;
                    self.exponent * self.power(base, self.exponent - 1.0) * x.signum() / s.largest
                };
                *slope = in_range(
                    "the gradient of the attention transfer",
                    scale * through_length * through_power,
                )?;
            }
        }
        Ok(value)
    }
}

impl<F: Float> Distiller<F, Ix4> for AttentionTransfer {
    fn loss_into(
        &self,
        student: ArrayView4<'_, F>,
        teacher: ArrayView4<'_, F>,
        _labels: &[usize],
        mut gradient: ArrayViewMut4<'_, F>,
    ) -> Result<LossValue<F>> {
        self.validate()?;
        let (samples, _, height, width) = student.dim();
        let expected = [samples, teacher.len_of(Axis(1)), height, width];
        check::same_shape("teacher", &expected, teacher.shape())?;
        check::same_shape("gradient", student.shape(), gradient.shape())?;
        check::finite("student", &student)?;
        check::finite("teacher", &teacher)?;
        let scale = self.weight / samples as f64;
        let mut soft = 0.0;
        for i in 0..samples {
            let gradient = &mut gradient.index_axis_mut(Axis(0), i);
            let student = student.index_axis(Axis(0), i);
            let teacher = teacher.index_axis(Axis(0), i);
            soft += self.sample(&student, &teacher, scale, gradient)? / samples as f64;
        }
        let what = "the attention transfer";
        Ok(LossValue::new(
            in_range(what, self.weight * soft)?,
            in_range(what, soft)?,
        ))
    }
}
