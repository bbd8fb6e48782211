//! Constraints and penalties of a factor, with their proximal operators.

use crate::{ParamError, check};

/// The constraint of a factor: a set that contains it, or a penalty r(A) that is added to half the squared error.
///
/// A penalty on one factor alone has little effect, because the scale moves to the other factors. Give those a
/// [`Ridge`](Self::Ridge).
///
/// ```
/// use taper::Factorizer;
/// use taper::factorize::{Rank, cp::{Constraint, CpAdmm}};
/// use taper::ndarray::Array3;
///
/// let tensor = Array3::from_shape_fn((4, 3, 2), |(i, j, k)| ((i + j + k) % 3) as f64);
/// let bounded = CpAdmm::new(Rank::Fixed(2)).all(Constraint::Box { low: 0.0, high: 1.0 }).factorize(tensor.view())?;
/// assert!(bounded.factors().iter().flatten().all(|x| (0.0..=1.0).contains(x)));
/// # Ok::<(), taper::Error>(())
/// ```
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(rename_all = "snake_case"))]
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub enum Constraint {
    /// No constraint.
    #[default]
    None,
    /// Every entry is at least 0, exactly.
    NonNegative,
    /// The penalty μ Σ |a|, which makes entries zero.
    L1(f64),
    /// The penalty (μ/2) Σ a², which keeps entries small.
    Ridge(f64),
    /// Every entry lies between two bounds, exactly.
    Box {
        /// The lower bound.
        low: f64,
        /// The upper bound.
        high: f64,
    },
    /// The penalty (μ/2) Σ (aᵢ₊₁ − aᵢ)² along each column, which makes neighbours similar.
    Smooth(f64),
}

impl Constraint {
    pub(super) fn check(self) -> Result<(), ParamError> {
        match self {
            Self::None | Self::NonNegative => Ok(()),
            Self::L1(weight) | Self::Ridge(weight) | Self::Smooth(weight) => check::in_range(
                "the weight of a constraint",
                weight,
                "finite and not negative",
                weight >= 0.0 && weight.is_finite(),
            ),
            Self::Box { low, high } => check::in_range(
                "the bounds of a box",
                low,
                "finite and below the upper bound",
                low.is_finite() && high.is_finite() && low < high,
            ),
        }
    }

    /// r(A); zero if A lies in the set.
    pub(super) fn penalty(self, factor: &[f64], terms: usize) -> f64 {
        match self {
            Self::None | Self::NonNegative | Self::Box { .. } => 0.0,
            Self::L1(weight) => weight * factor.iter().map(|x| x.abs()).sum::<f64>(),
            Self::Ridge(weight) => 0.5 * weight * factor.iter().map(|x| x * x).sum::<f64>(),
            Self::Smooth(weight) => {
                let next = factor.iter().skip(terms);
                let steps = factor.iter().zip(next).map(|(a, b)| (a - b) * (a - b));
                0.5 * weight * steps.sum::<f64>()
            }
        }
    }

    /// A ← argmin r(A) + (ρ/2) ‖A − A₀‖².
    pub(super) fn proximal(self, factor: &mut [f64], terms: usize, rho: f64) {
        match self {
            Self::None => {}
            Self::NonNegative => factor.iter_mut().for_each(|x| *x = x.max(0.0)),
            Self::L1(weight) => {
                let threshold = weight / rho;
                for x in factor {
                    *x = x.signum() * (x.abs() - threshold).max(0.0);
                }
            }
            Self::Ridge(weight) => {
                let shrink = rho / (rho + weight);
                factor.iter_mut().for_each(|x| *x *= shrink);
            }
            Self::Box { low, high } => factor.iter_mut().for_each(|x| *x = x.clamp(low, high)),
            Self::Smooth(weight) => smooth(factor, terms, weight / rho),
        }
    }
}

/// Solves the tridiagonal system (I + s DᵀD) a = a₀ for each column, where D takes the differences of neighbours.
fn smooth(factor: &mut [f64], terms: usize, strength: f64) {
    let rows = factor.len() / terms;
    if rows < 2 {
        return;
    }
    // The eliminated upper diagonal, the same for all columns.
    let mut upper = vec![0.0; rows];
    for i in 0..rows {
        let neighbours = if i == 0 || i + 1 == rows { 1.0 } else { 2.0 };
        let before = if i == 0 { 0.0 } else { upper[i - 1] };
        let pivot = 1.0 + strength * neighbours + strength * before;
        upper[i] = -strength / pivot;
        let (done, rest) = factor.split_at_mut(i * terms);
        let above = done.chunks_exact(terms).next_back();
        for (r, x) in rest[..terms].iter_mut().enumerate() {
            let above = above.map_or(0.0, |above| above[r]);
            *x = (*x + strength * above) / pivot;
        }
    }
    for i in (0..rows - 1).rev() {
        let (row, below) = factor[i * terms..].split_at_mut(terms);
        for (x, below) in row.iter_mut().zip(below) {
            *x -= upper[i] * *below;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proximal_operators_are_minimizers() {
        let start = [0.7, -0.4, 1.2, 0.1, -2.0, 0.3, 0.0, 0.9];
        let rho = 1.7;
        for constraint in [
            Constraint::NonNegative,
            Constraint::L1(0.5),
            Constraint::Ridge(0.8),
            Constraint::Box {
                low: -0.2,
                high: 0.6,
            },
            Constraint::Smooth(1.3),
        ] {
            let value = |a: &[f64]| {
                let distance: f64 = a.iter().zip(start).map(|(a, b)| (a - b).powi(2)).sum();
                constraint.penalty(a, 2) + 0.5 * rho * distance
            };
            let mut least = start;
            constraint.proximal(&mut least, 2, rho);
            // No step along an axis inside of the set lowers the objective.
            for i in 0..start.len() {
                for step in [-1e-3, 1e-3] {
                    let mut other = least;
                    other[i] += step;
                    let mut projected = other;
                    if !matches!(
                        constraint,
                        Constraint::L1(_) | Constraint::Ridge(_) | Constraint::Smooth(_)
                    ) {
                        constraint.proximal(&mut projected, 2, rho);
                    }
                    assert!(
                        value(&projected) >= value(&least) - 1e-15,
                        "{constraint:?} at {i}"
                    );
                }
            }
        }
    }

    #[test]
    fn wrong_weights_and_bounds_are_errors() {
        assert!(Constraint::L1(-1.0).check().is_err());
        assert!(Constraint::Ridge(f64::NAN).check().is_err());
        assert!(
            Constraint::Box {
                low: 1.0,
                high: 0.0
            }
            .check()
            .is_err()
        );
        assert!(
            Constraint::Box {
                low: 0.0,
                high: f64::INFINITY
            }
            .check()
            .is_err()
        );
        assert!(Constraint::Smooth(0.0).check().is_ok());
    }
}
