//! Alternating optimization with ADMM: CP under constraints.

use ndarray::{ArrayView, ArrayViewD, Dimension};

use super::als::CpAls;
use super::constraint::Constraint;
use super::correction::NormBound;
use super::end::End;
use super::model::{Model, factor_with_ridge, gram, gram_without, inner_product, relative_loss};
use super::mttkrp::{Walk, view};
use super::problem::Problem;
use super::start::{Beginning, Start};
use super::tensor::{CpReport, CpTensor, Freedom};
use crate::factorize::Rank;
use crate::observer::ObservedFit;
use crate::{
    Error, Factorizer, FitContext, Float, Observer, ParamError, Precision, Result, Seed, Stage,
    check, linalg,
};

/// CP decomposition with a [`Constraint`] per factor, by AO-ADMM.
///
/// As in [`CpAls`], each sweep solves for one factor after the other. A few iterations of ADMM solve the least-squares problem
/// with its constraint or penalty. They start from the dual variable of the previous sweep (Huang, Sidiropoulos and Liavas, "A
/// flexible and efficient algorithmic framework for constrained matrix and tensor factorization", IEEE TSP 2016,
/// arXiv:1506.04209): with ρ = trace(G)/R,
///
/// $$\tilde A = (M + \rho (A + U)) (G + \rho I)^{-1}, \quad A = \mathrm{prox}\_{r/\rho}(\tilde A - U), \quad U
/// \mathrel{+}= A - \tilde A.$$
///
/// Factors without a constraint and those with [`Constraint::Ridge`] have a closed form. If the inner iterations raise the
/// objective, a proximal gradient step replaces them, so that the objective never rises. Penalties apply to the factors of the
/// scaled tensor: a power of two brings its largest value into [1, 2).
///
/// ```
/// use ndarray::Array3;
/// use taper::factorize::{Rank, cp::{Constraint, CpAdmm}};
/// use taper::Factorizer;
///
/// let tensor = Array3::from_shape_fn((5, 4, 3), |(i, j, k)| ((i * j + k) % 4) as f64);
/// let fit = CpAdmm::new(Rank::Fixed(3)).all(Constraint::NonNegative).factorize(tensor.view())?;
/// assert!(fit.factors().iter().flatten().all(|&x| x >= 0.0));
/// # Ok::<(), taper::Error>(())
/// ```
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(deny_unknown_fields))]
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct CpAdmm {
    /// The number of terms.
    pub rank: Rank,
    /// The constraint of each factor that is not in `modes`.
    #[cfg_attr(feature = "model", serde(default))]
    pub all: Constraint,
    /// Constraints of single factors, by the number of the axis. The last entry for an axis counts.
    #[cfg_attr(feature = "model", serde(default))]
    pub modes: Vec<(usize, Constraint)>,
    /// The largest number of sweeps over all factors.
    #[cfg_attr(feature = "model", serde(default = "crate::defaults::cp_sweeps"))]
    pub max_sweeps: usize,
    /// The largest number of ADMM iterations for a factor in a sweep, at least 1.
    #[cfg_attr(
        feature = "model",
        serde(default = "crate::defaults::inner_iterations")
    )]
    pub inner_iterations: usize,
    /// The fit ends when a sweep lowers the objective by less than this fraction of it.
    #[cfg_attr(feature = "model", serde(default = "crate::defaults::fit_tolerance"))]
    pub tolerance: f64,
    /// The first start of the unconstrained decomposition that the fit begins with.
    #[cfg_attr(feature = "model", serde(default))]
    pub start: Start,
    /// The number of starts tried on the compressed tensor, at least 1.
    #[cfg_attr(feature = "model", serde(default = "crate::defaults::starts"))]
    pub starts: usize,
    /// The precision in which weights and factors are stored.
    #[cfg_attr(feature = "model", serde(default))]
    pub precision: Precision,
    /// The seed of random starts.
    #[cfg_attr(feature = "model", serde(default))]
    pub seed: Seed,
}

/// Relative residuals at which the inner iterations end.
const INNER_TOLERANCE: f64 = 1e-3;

impl CpAdmm {
    /// Creates the decomposition without constraints; `rank` means the same as for [`CpAls::new`].
    #[must_use]
    pub fn new(rank: Rank) -> Self {
        Self {
            rank,
            all: Constraint::None,
            modes: Vec::new(),
            max_sweeps: crate::defaults::cp_sweeps(),
            inner_iterations: crate::defaults::inner_iterations(),
            tolerance: crate::defaults::fit_tolerance(),
            start: Start::Hosvd,
            starts: crate::defaults::starts(),
            precision: Precision::F32,
            seed: Seed::default(),
        }
    }

    fn fit<F: Float>(
        &self,
        tensor: ArrayViewD<'_, F>,
        observer: Option<&dyn Observer>,
    ) -> Result<CpTensor<F>> {
        let problem = Problem::new(&tensor)?;
        let order = problem.shape.len();
        if let Some(&(value, _)) = self.modes.iter().find(|(mode, _)| *mode >= order) {
            return Err(Error::ExceedsInput {
                what: "the mode of a constraint",
                value,
                limit: order - 1,
            });
        }
        let mut constraints = vec![self.all; order];
        for &(mode, constraint) in &self.modes {
            constraints[mode] = constraint;
        }
        let als = CpAls::new(self.rank)
            .start(self.start)
            .starts(self.starts, 50)
            .norm_bound(NormBound::OFF)
            .seed(self.seed);
        let terms = als.resolve_rank(&problem)?;
        let Beginning {
            model,
            start,
            stopped,
        } = if problem.is_zero() {
            Beginning {
                model: super::als::unit_columns(&problem, terms),
                start: 0,
                stopped: false,
            }
        } else {
            als.begin(&problem, terms, observer)?
        };
        let mut fit = Fit::new(&problem, &constraints, self.inner_iterations, model);
        let mut report = CpReport {
            start,
            ..CpReport::default()
        };
        let end = if problem.is_zero() && fit.loss == 0.0 {
            End::Converged
        } else if stopped {
            End::Stopped
        } else {
            let observed = ObservedFit::new(observer, Stage::CpAdmm, 0, self.max_sweeps);
            fit.run(self.max_sweeps, self.tolerance, observed)?
        };
        report.fit = end.report(fit.losses.len() - 1, fit.losses);
        report.relative_error = fit.error.max(0.0).sqrt();
        (report.primal_residual, report.dual_residual) = (fit.primal, fit.dual);
        let free: Vec<Freedom> = constraints
            .iter()
            .map(|constraint| match constraint {
                Constraint::NonNegative => Freedom::Scale,
                Constraint::Box { .. } => Freedom::None,
                _ => Freedom::ScaleAndSign,
            })
            .collect();
        CpTensor::finish(&problem, fit.model, &free, self.precision, report)
    }
}

/// The state of a fit. The weights of the model are one.
struct Fit<'a, F: Float> {
    problem: &'a Problem<F>,
    constraints: &'a [Constraint],
    inner: usize,
    walk: Walk,
    model: Model<F>,
    /// U of each factor.
    duals: Vec<Vec<f64>>,
    /// Objective and squared error, divided by the squared norm of the tensor.
    loss: f64,
    error: f64,
    losses: Vec<f64>,
    primal: f64,
    dual: f64,
}

impl<'a, F: Float> Fit<'a, F> {
    fn new(
        problem: &'a Problem<F>,
        constraints: &'a [Constraint],
        inner: usize,
        mut model: Model<F>,
    ) -> Self {
        let terms = model.terms;
        let order = constraints.len() as f64;
        let shares: Vec<f64> = model
            .weights
            .iter()
            .map(|weight| weight.powf(1.0 / order))
            .collect();
        for (factor, constraint) in model.factors.iter_mut().zip(constraints) {
            let mut values: Vec<f64> = factor.iter().map(|x| x.as_f64()).collect();
            for row in values.chunks_exact_mut(terms) {
                for (value, share) in row.iter_mut().zip(&shares) {
                    *value *= share;
                    if *constraint == Constraint::NonNegative {
                        *value = value.abs();
                    }
                }
            }
            if let Constraint::Box { .. } = constraint {
                constraint.proximal(&mut values, terms, 1.0);
            }
            *factor = store(&values, *constraint);
        }
        let model = Model::new(terms, model.factors, vec![1.0; terms]);
        let walk = Walk::new(&problem.shape, terms);
        let duals = model
            .factors
            .iter()
            .map(|factor| vec![0.0; factor.len()])
            .collect();
        let mut fit = Self {
            problem,
            constraints,
            inner,
            walk,
            model,
            duals,
            loss: 0.0,
            error: 0.0,
            losses: Vec::new(),
            primal: 0.0,
            dual: 0.0,
        };
        if !problem.is_zero() {
            let error =
                fit.walk
                    .squared_error(&problem.values, &fit.model.factors, &fit.model.weights);
            fit.error = relative_loss(problem, error);
            fit.loss = fit.error + fit.penalties(&fit.model);
        }
        fit.losses.push(fit.loss);
        fit
    }

    /// Twice the penalties divided by the squared norm of the tensor: the loss has the whole squared error, the penalties
    /// belong to half of it.
    fn penalties(&self, model: &Model<F>) -> f64 {
        let factors = model.factors.iter().zip(self.constraints);
        let penalties = factors.map(|(factor, constraint)| {
            let values: Vec<f64> = factor.iter().map(|x| x.as_f64()).collect();
            constraint.penalty(&values, model.terms)
        });
        2.0 * penalties.sum::<f64>() / self.problem.squared_norm
    }

    fn run(&mut self, max_sweeps: usize, tolerance: f64, observed: ObservedFit<'_>) -> Result<End> {
        let rounding = (8.0 * F::epsilon().as_f64()).powi(2);
        for sweep in 0..max_sweeps {
            if self.loss <= rounding {
                return Ok(End::Converged);
            }
            if observed.stops(sweep, self.loss) {
                return Ok(End::Stopped);
            }
            let before = self.loss;
            if !self.sweep()? || before - self.loss <= tolerance * before {
                return Ok(End::Converged);
            }
        }
        Ok(End::Limit)
    }

    /// Makes one sweep. If the objective rises (by rounding), restores the state and returns `false`.
    fn sweep(&mut self) -> Result<bool> {
        let mut next = self.model.clone();
        let mut duals = self.duals.clone();
        let terms = next.terms;
        let last = self.constraints.len() - 1;
        let (mut primal, mut dual) = (0.0_f64, 0.0_f64);
        let mut explained = 0.0;
        let grams = &mut next.grams;
        self.walk.sweep(
            &self.problem.values,
            &mut next.factors,
            &mut |mode, product, factors| {
                let others = gram_without(grams, mode, terms);
                let constraint = self.constraints[mode];
                let product: Vec<f64> = product.iter().map(|x| x.as_f64()).collect();
                let before: Vec<f64> = factors[mode].iter().map(|x| x.as_f64()).collect();
                let step = Step {
                    product: &product,
                    others: &others,
                    terms,
                    constraint,
                };
                let values = match constraint {
                    Constraint::None => step.closed_form(0.0, F::epsilon().as_f64(), &before)?,
                    Constraint::Ridge(weight) => step.closed_form(weight, 0.0, &before)?,
                    _ => {
                        let (values, residuals) =
                            step.admm(before, &mut duals[mode], self.inner)?;
                        primal = primal.max(residuals[0]);
                        dual = dual.max(residuals[1]);
                        values
                    }
                };
                factors[mode] = store(&values, constraint);
                grams[mode] = gram(&factors[mode], terms);
                if mode == last {
                    explained = inner_product(&factors[mode], &product);
                }
                Ok(())
            },
        )?;
        let norm = self.problem.squared_norm;
        let mut error = relative_loss(self.problem, norm - 2.0 * explained + next.squared_norm());
        if error < super::als::EXACT_BELOW * F::epsilon().as_f64() {
            let exact = self
                .walk
                .squared_error(&self.problem.values, &next.factors, &next.weights);
            error = relative_loss(self.problem, exact);
        }
        let loss = error + self.penalties(&next);
        if loss.is_nan() || loss > self.loss {
            return Ok(false);
        }
        self.model = next;
        self.duals = duals;
        (self.loss, self.error) = (loss, error);
        (self.primal, self.dual) = (primal, dual);
        self.losses.push(loss);
        Ok(true)
    }
}

/// Converts values to the type of the tensor so that they still satisfy their constraint.
fn store<F: Float>(values: &[f64], constraint: Constraint) -> Vec<F> {
    let stored = values.iter().map(|&x| F::from_f64_lossy(x));
    match constraint {
        Constraint::Box { low, high } => stored
            .map(|x| {
                // Rounding may cross a bound that the type cannot represent.
                if x.as_f64() < low || x.as_f64() > high {
                    toward_zero(x)
                } else {
                    x
                }
            })
            .collect(),
        _ => stored.collect(),
    }
}

fn toward_zero<F: Float>(x: F) -> F {
    x * (F::one() - F::epsilon())
}

/// The problem of one factor: ½⟨A, A G⟩ − ⟨M, A⟩ + r(A).
struct Step<'a> {
    product: &'a [f64],
    others: &'a [f64],
    terms: usize,
    constraint: Constraint,
}

impl Step<'_> {
    /// M (G + (ridge + pull) I)⁻¹, where the pull is towards `before`.
    fn closed_form(&self, ridge: f64, pull: f64, before: &[f64]) -> Result<Vec<f64>> {
        let trace: f64 = self.others.iter().step_by(self.terms + 1).sum();
        let pull = pull * trace / self.terms as f64;
        let (factored, taken) = factor_with_ridge(self.others, self.terms, ridge + pull)?;
        let pull = taken - ridge;
        let right = self.product.iter().zip(before).map(|(m, a)| m + pull * a);
        let mut right: Vec<f64> = right.collect();
        let rows = right.len() / self.terms;
        factored.solve_rows(super::mttkrp::view_mut(&mut right, rows, self.terms));
        Ok(right)
    }

    fn admm(
        &self,
        before: Vec<f64>,
        dual: &mut [f64],
        inner: usize,
    ) -> Result<(Vec<f64>, [f64; 2])> {
        let terms = self.terms;
        let rows = before.len() / terms;
        let trace: f64 = self.others.iter().step_by(terms + 1).sum();
        let rho = (trace / terms as f64).max(f64::MIN_POSITIVE.sqrt());
        let (factored, rho) = factor_with_ridge(self.others, terms, rho)?;
        let inverse = factored.inverse();
        let mut values = before.clone();
        let mut right = vec![0.0; values.len()];
        let mut residuals = [0.0; 2];
        for _ in 0..inner.max(1) {
            for (((right, m), a), u) in right.iter_mut().zip(self.product).zip(&values).zip(&*dual)
            {
                *right = m + rho * (a + u);
            }
            let free = linalg::product(view(&right, rows, terms), inverse.view());
            let free = free.into_raw_vec_and_offset().0;
            let mut next: Vec<f64> = free.iter().zip(&*dual).map(|(a, u)| a - u).collect();
            self.constraint.proximal(&mut next, terms, rho);
            let mut sums = [0.0; 4];
            for (((next, free), old), u) in next.iter().zip(&free).zip(&values).zip(dual.iter_mut())
            {
                let gap = next - free;
                *u += gap;
                sums[0] += gap * gap;
                sums[1] += next * next;
                sums[2] += (next - old) * (next - old);
                sums[3] += *u * *u;
            }
            values = next;
            let share = |part: f64, whole: f64| {
                if part > 0.0 {
                    (part / whole.max(f64::MIN_POSITIVE)).sqrt()
                } else {
                    0.0
                }
            };
            residuals = [
                share(sums[0], sums[1]),
                share(sums[2], sums[3].max(sums[1])),
            ];
            if residuals.iter().all(|&residual| residual < INNER_TOLERANCE) {
                break;
            }
        }
        if self.objective(&values) > self.objective(&before) {
            // This step size cannot overshoot: the trace is at least the largest eigenvalue.
            let slope =
                linalg::product(view(&before, rows, terms), view(self.others, terms, terms));
            values = before;
            for ((a, slope), m) in values.iter_mut().zip(&slope).zip(self.product) {
                *a -= (slope - m) / trace.max(f64::MIN_POSITIVE);
            }
            self.constraint
                .proximal(&mut values, terms, trace.max(f64::MIN_POSITIVE));
            dual.fill(0.0);
        }
        Ok((values, residuals))
    }

    fn objective(&self, values: &[f64]) -> f64 {
        let rows = values.len() / self.terms;
        let image = linalg::product(
            view(values, rows, self.terms),
            view(self.others, self.terms, self.terms),
        );
        let quadratic = values
            .iter()
            .zip(&image)
            .zip(self.product)
            .map(|((a, g), m)| a * (0.5 * g - m));
        quadratic.sum::<f64>() + self.constraint.penalty(values, self.terms)
    }
}

impl<F: Float, D: Dimension> Factorizer<F, D> for CpAdmm {
    type Output = CpTensor<F>;

    fn factorize_with(
        &self,
        weights: ArrayView<'_, F, D>,
        context: FitContext<'_>,
    ) -> Result<CpTensor<F>> {
        self.validate()?;
        context.unused("CpAdmm")?;
        self.fit(weights.into_dyn(), context.observer)
    }
}

impl CpAdmm {
    /// Sets the constraint of every factor without one of its own; [`Constraint::None`] unless set.
    #[must_use]
    pub fn all(mut self, constraint: Constraint) -> Self {
        self.all = constraint;
        self
    }

    /// Sets the constraint of the factor of axis `mode`, counted from 0.
    #[must_use]
    pub fn mode(mut self, mode: usize, constraint: Constraint) -> Self {
        self.modes.push((mode, constraint));
        self
    }

    /// Sets the largest number of sweeps over all factors; 200 unless set.
    #[must_use]
    pub fn max_sweeps(mut self, sweeps: usize) -> Self {
        self.max_sweeps = sweeps;
        self
    }

    /// Sets the largest number of ADMM iterations for a factor in a sweep, at least 1; 10 unless set.
    #[must_use]
    pub fn inner_iterations(mut self, iterations: usize) -> Self {
        self.inner_iterations = iterations;
        self
    }

    /// Sets the fraction of the objective below which the gain of a sweep ends the fit, in [0, 1); 10⁻⁶ unless set.
    #[must_use]
    pub fn tolerance(mut self, tolerance: f64) -> Self {
        self.tolerance = tolerance;
        self
    }

    /// Sets the first start of the unconstrained decomposition that the fit begins with, and the number of starts tried on the
    /// compressed tensor; [`Start::Hosvd`] and 3 unless set.
    #[must_use]
    pub fn start(mut self, start: Start, starts: usize) -> Self {
        self.start = start;
        self.starts = starts;
        self
    }

    /// Sets the precision in which weights and factors are stored; single unless set.
    #[must_use]
    pub fn precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// Sets the seed of random starts; 0 unless set.
    #[must_use]
    pub fn seed(mut self, seed: impl Into<Seed>) -> Self {
        self.seed = seed.into();
        self
    }

    /// Checks the parameters. Every call that uses them checks them too.
    ///
    /// # Errors
    ///
    /// The first parameter that is wrong for every input.
    pub fn validate(&self) -> Result<(), ParamError> {
        let admm = self;
        admm.rank.check()?;
        check::at_least_one("starts", admm.starts)?;
        check::at_least_one("inner_iterations", admm.inner_iterations)?;
        check::tolerance(admm.tolerance)?;
        admm.all.check()?;
        admm.modes
            .iter()
            .try_for_each(|(_, constraint)| constraint.check())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
