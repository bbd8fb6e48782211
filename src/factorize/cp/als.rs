//! Alternating least squares.

use ndarray::{ArrayView, ArrayViewD, Dimension};

use super::correction::{self, NormBound, norm_ratio};
use super::end::End;
use super::model::{
    Model, factor_with_ridge, gram, gram_without, inner_product, normalize_columns, random_factors,
    relative_loss,
};
use super::mttkrp::{Walk, view_mut};
use super::problem::Problem;
use super::start::{Beginning, Compression, Start, unfolding_spectrum};
use super::tensor::{CpReport, CpTensor, Freedom};
use crate::factorize::Rank;
use crate::observer::ObservedFit;
use crate::{
    Factorizer, FitContext, Float, Observer, ParamError, Precision, Result, Seed, Stage, check,
};

/// CP decomposition by alternating least squares, for tensors of two or more axes.
///
/// Each sweep solves for one factor after the other, $A^{(n)} = M^{(n)} (G^{(n)})^{-1}$, where $M^{(n)}$ is the
/// MTTKRP and $G^{(n)}$ the element-wise product of the other factors' Gram matrices (Cholesky in double
/// precision). A ridge of the size of the rounding errors pulls towards the last iterate, so that fixed points do not move. It
/// grows if the matrix is singular. The loss follows from these products without rebuilding the tensor. A loss near the rounding
/// errors is computed from the residual instead.
///
/// Factors are extrapolated along their last step, further after each success (Ang, Cohen, Gillis and Hien,
/// "Accelerating block coordinate descent for nonnegative tensor factorization", 2021, arXiv:2001.04321). A sweep
/// that raises the loss is repeated without extrapolation, so that losses never rise.
///
/// Several starts are tried on the tensor compressed to its leading singular vectors, where a sweep costs little. The fit
/// continues from the best one.
///
/// ```
/// use ndarray::Array3;
/// use taper::factorize::{Rank, cp::CpAls};
/// use taper::{Compressed, Factorizer};
///
/// // One rank-one term.
/// let tensor = Array3::from_shape_fn((4, 3, 2), |(i, j, k)| ((i + 1) * (j + 2) * (k + 1)) as f32);
/// let fit = CpAls::new(Rank::Fixed(1)).factorize(tensor.view())?;
/// assert!(fit.cp_report().relative_error < 1e-6);
/// assert_eq!(fit.storage().bytes(), 4 * (4 + 3 + 2 + 1));
/// # Ok::<(), taper::Error>(())
/// ```
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(deny_unknown_fields))]
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct CpAls {
    /// The number of terms.
    pub rank: Rank,
    /// The largest number of sweeps over all factors.
    #[cfg_attr(feature = "model", serde(default = "crate::defaults::cp_sweeps"))]
    pub max_sweeps: usize,
    /// The fit ends when a sweep lowers the squared error by less than this fraction of it.
    #[cfg_attr(feature = "model", serde(default = "crate::defaults::fit_tolerance"))]
    pub tolerance: f64,
    /// The first start; all others are random.
    #[cfg_attr(feature = "model", serde(default))]
    pub start: Start,
    /// The number of starts tried on the compressed tensor, at least 1.
    #[cfg_attr(feature = "model", serde(default = "crate::defaults::starts"))]
    pub starts: usize,
    /// The number of sweeps from each start.
    #[cfg_attr(feature = "model", serde(default = "crate::defaults::start_sweeps"))]
    pub start_sweeps: usize,
    /// Whether factors are extrapolated along their last step.
    #[cfg_attr(feature = "model", serde(default = "crate::defaults::yes"))]
    pub extrapolate: bool,
    /// When terms that cancel each other are corrected.
    #[cfg_attr(feature = "model", serde(default))]
    pub norm_bound: NormBound,
    /// The precision in which weights and factors are stored.
    #[cfg_attr(feature = "model", serde(default))]
    pub precision: Precision,
    /// The seed of random starts.
    #[cfg_attr(feature = "model", serde(default))]
    pub seed: Seed,
}

impl CpAls {
    /// Creates the decomposition with the number of terms that `rank` gives.
    ///
    /// The largest rank is the product of all axes but the longest. At this rank the decomposition is exact, with one term per
    /// fibre. [`Rank::Fraction`] is a fraction of it. [`Rank::Ratio`] counts n₁ + … + n_d values per term. [`Rank::Energy`]
    /// computes, for each unfolding, the rank at which its leading singular values hold the energy, and takes the largest: a
    /// lower bound of the number of terms that hold this energy.
    #[must_use]
    pub fn new(rank: Rank) -> Self {
        Self {
            rank,
            max_sweeps: crate::defaults::cp_sweeps(),
            tolerance: crate::defaults::fit_tolerance(),
            start: Start::Hosvd,
            starts: crate::defaults::starts(),
            start_sweeps: crate::defaults::start_sweeps(),
            extrapolate: crate::defaults::yes(),
            norm_bound: NormBound::default(),
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
        let terms = self.resolve_rank(&problem)?;
        let free = vec![Freedom::ScaleAndSign; problem.shape.len()];
        let mut report = CpReport::default();
        if problem.is_zero() {
            let model = unit_columns(&problem, terms);
            report.fit.converged = true;
            report.fit.losses.push(0.0);
            return CpTensor::finish(&problem, model, &free, self.precision, report);
        }
        if terms == problem.largest_rank() {
            let model = one_term_a_fibre(&problem);
            report.fit.converged = true;
            report.fit.losses.push(0.0);
            return CpTensor::finish(&problem, model, &free, self.precision, report);
        }
        let beginning = self.begin(&problem, terms, observer)?;
        report.start = beginning.start;
        let mut state = Alternation::new(&problem, beginning.model, self.extrapolate);
        let observed = ObservedFit::new(observer, Stage::CpAls, 0, self.max_sweeps);
        let end = if beginning.stopped {
            End::Stopped
        } else {
            state.run(self.max_sweeps, self.tolerance, self.norm_bound, observed)?
        };
        report.corrections = state.corrections;
        report.fit = end.report(state.sweeps, state.losses);
        report.relative_error = state.loss.max(0.0).sqrt();
        CpTensor::finish(&problem, state.model, &free, self.precision, report)
    }

    /// The number of terms.
    pub(super) fn resolve_rank<F: Float>(&self, problem: &Problem<F>) -> Result<usize> {
        let shape = &problem.shape;
        let largest = problem.largest_rank();
        let per_term = shape.iter().sum();
        let terms = self
            .rank
            .by_shape(largest, problem.values.len(), per_term)?;
        let fraction = match (terms, self.rank) {
            (Some(terms), _) => return Ok(terms),
            (None, Rank::Energy(fraction)) => fraction,
            (None, rank) => unreachable!("the shape alone decides {rank:?}"),
        };
        let mut terms = 1;
        for mode in 0..shape.len() {
            let (energies, _) = unfolding_spectrum(&problem.values, shape, mode)?;
            // In rising order; rounding may make them slightly negative.
            let energies = energies.iter().rev().map(|energy| energy.max(0.0));
            terms = terms.max(Rank::by_energy(fraction, problem.squared_norm, energies));
        }
        Ok(terms.min(largest))
    }

    /// Chooses the model to start with.
    pub(super) fn begin<F: Float>(
        &self,
        problem: &Problem<F>,
        terms: usize,
        observer: Option<&dyn Observer>,
    ) -> Result<Beginning<F>> {
        let of = |model, start| Beginning {
            model,
            start,
            stopped: false,
        };
        if self.start == Start::Random && self.starts == 1 {
            let mut factors = random_factors(&problem.shape, terms, self.seed);
            for factor in &mut factors {
                normalize_columns(factor, terms);
            }
            return Ok(of(Model::new(terms, factors, vec![1.0; terms]), 0));
        }
        let compression = Compression::new(problem, terms)?;
        if compression.core.is_zero() {
            return Ok(of(unit_columns(problem, terms), 0));
        }
        if self.starts == 1 {
            let model = compression.start(self.start, 0, terms, self.seed);
            return Ok(of(compression.expand(&model), 0));
        }
        let mut best: Option<(f64, Model<F>, usize)> = None;
        let mut stopped = false;
        for start in 0..self.starts {
            let model = compression.start(self.start, start, terms, self.seed);
            let mut state = Alternation::new(&compression.core, model, self.extrapolate);
            let observed = ObservedFit::new(observer, Stage::CpStart, start, self.start_sweeps);
            let end = state.run(self.start_sweeps, self.tolerance, NormBound::OFF, observed)?;
            // Terms that cancel each other count against a start, whatever its loss.
            let bound = self.norm_bound;
            let degenerate =
                bound.sweeps > 0 && norm_ratio(&compression.core, &state.model) > bound.ratio;
            let score = state.loss + if degenerate { 1.0 } else { 0.0 };
            if best.as_ref().is_none_or(|(least, ..)| score < *least) {
                best = Some((score, state.model, start));
            }
            stopped = end == End::Stopped;
            if stopped {
                break;
            }
        }
        let (model, start) = match best {
            Some((_, model, start)) => (compression.expand(&model), start),
            None => (unit_columns(problem, terms), 0),
        };
        Ok(Beginning {
            model,
            start,
            stopped,
        })
    }
}

/// The model of a tensor of zeros: unit vectors with zero weights.
pub(super) fn unit_columns<F: Float>(problem: &Problem<F>, terms: usize) -> Model<F> {
    let factors = problem.shape.iter().map(|&length| {
        let mut factor = vec![F::zero(); length * terms];
        for r in 0..terms {
            factor[(r % length) * terms + r] = F::one();
        }
        factor
    });
    Model::new(terms, factors.collect(), vec![0.0; terms])
}

/// The exact model whose terms are the fibres along the longest axis.
fn one_term_a_fibre<F: Float>(problem: &Problem<F>) -> Model<F> {
    let shape = &problem.shape;
    let terms = problem.largest_rank();
    let (longest, &length) = shape
        .iter()
        .enumerate()
        .rev()
        .max_by_key(|&(_, &length)| length)
        .expect("a tensor has at least two axes");
    let after: usize = shape[longest + 1..].iter().product();
    let mut factors: Vec<Vec<F>> = shape.iter().map(|&n| vec![F::zero(); n * terms]).collect();
    for r in 0..terms {
        let (outer, inner) = (r / after, r % after);
        for i in 0..length {
            factors[longest][i * terms + r] = problem.values[(outer * length + i) * after + inner];
        }
        let start = outer * length * after + inner;
        for (mode, &i) in check::unravel(start, shape).iter().enumerate() {
            if mode != longest {
                factors[mode][i * terms + r] = F::one();
            }
        }
    }
    Model::new(terms, factors, vec![1.0; terms])
}

/// The state of an ALS fit.
struct Alternation<'a, F: Float> {
    problem: &'a Problem<F>,
    walk: Walk,
    model: Model<F>,
    /// The extrapolated factors for the next sweep. The model holds the factors as solved.
    ahead: Option<(Vec<F>, Vec<f64>)>,
    step: f64,
    limit: f64,
    loss: f64,
    losses: Vec<f64>,
    sweeps: usize,
    corrections: usize,
}

/// A loss below this many units of rounding is computed from the residual. Larger ones follow from a difference of squares, whose
/// error is a few units.
pub(super) const EXACT_BELOW: f64 = 1000.0;

impl<'a, F: Float> Alternation<'a, F> {
    fn new(problem: &'a Problem<F>, model: Model<F>, extrapolate: bool) -> Self {
        let walk = Walk::new(&problem.shape, model.terms);
        let error = walk.squared_error(&problem.values, &model.factors, &model.weights);
        let loss = relative_loss(problem, error);
        Self {
            problem,
            walk,
            model,
            ahead: None,
            step: if extrapolate { 0.5 } else { 0.0 },
            limit: if extrapolate { 1.0 } else { 0.0 },
            loss,
            losses: vec![loss],
            sweeps: 0,
            corrections: 0,
        }
    }

    /// Sweeps until the loss falls by less than the fraction `tolerance` of itself.
    fn run(
        &mut self,
        max_sweeps: usize,
        tolerance: f64,
        bound: NormBound,
        observed: ObservedFit<'_>,
    ) -> Result<End> {
        let mut lowest = self.loss;
        let rounding = (8.0 * F::epsilon().as_f64()).powi(2);
        for sweep in 0..max_sweeps {
            if self.loss <= rounding {
                return Ok(End::Converged);
            }
            if observed.stops(sweep, self.loss) {
                return Ok(End::Stopped);
            }
            let before = self.loss;
            let step = if self.sweeps < 2 { 0.0 } else { self.step };
            let mut improved = self.sweep(step)?;
            if step > 0.0 {
                if improved {
                    self.step = (self.step * 1.1).min(self.limit);
                    self.limit *= 1.02;
                } else {
                    self.limit = (0.5 * (self.limit + self.step)).max(0.5);
                    self.step = (self.step / 2.0).max(0.1);
                    improved = self.sweep(0.0)?;
                }
            }
            lowest = lowest.min(self.loss);
            if self.corrections < bound.sweeps
                && norm_ratio(self.problem, &self.model) > bound.ratio
            {
                let allowed = before.max(lowest * (1.0 + bound.slack).powi(2));
                if self.correct(allowed)? {
                    continue;
                }
            }
            // Without extrapolation only rounding can raise the loss.
            if !improved || before - self.loss <= tolerance * before {
                return Ok(End::Converged);
            }
        }
        Ok(End::Limit)
    }

    /// Makes one sweep with extrapolation by `step`. If the loss rises, restores the state and returns `false`.
    fn sweep(&mut self, step: f64) -> Result<bool> {
        let terms = self.model.terms;
        let last = self.problem.shape.len() - 1;
        let mut next = self.model.clone();
        if let (Some((factor, gram)), true) = (&self.ahead, step > 0.0) {
            next.factors[last].clone_from(factor);
            next.grams[last].clone_from(gram);
        }
        let mut factors = std::mem::take(&mut next.factors);
        let (previous, grams, weights) = (&self.model, &mut next.grams, &mut next.weights);
        let mut explained = 0.0;
        self.walk.sweep(
            &self.problem.values,
            &mut factors,
            &mut |mode, product, factors| {
                let others = gram_without(grams, mode, terms);
                let mut factor = least_squares(product, &others, &factors[mode], weights, terms)?;
                if mode == last {
                    explained = inner_product(product, &factor);
                }
                *weights = normalize_columns_or_keep(&mut factor, &factors[mode], terms);
                let values = &mut factors[mode];
                for (to, from) in values.iter_mut().zip(&factor) {
                    *to = F::from_f64_lossy(*from);
                }
                if mode != last && step > 0.0 {
                    *values = extrapolate(values, &previous.factors[mode], step, terms);
                }
                grams[mode] = gram(values, terms);
                Ok(())
            },
        )?;
        next.factors = factors;
        let norm = self.problem.squared_norm;
        let mut loss = relative_loss(self.problem, norm - 2.0 * explained + next.squared_norm());
        if loss < EXACT_BELOW * F::epsilon().as_f64() {
            let error = self
                .walk
                .squared_error(&self.problem.values, &next.factors, &next.weights);
            loss = relative_loss(self.problem, error);
        }
        if loss.is_nan() || loss > self.loss {
            self.ahead = None;
            return Ok(false);
        }
        self.ahead = (self.limit > 0.0).then(|| {
            let ahead = extrapolate(
                &next.factors[last],
                &previous.factors[last],
                self.step,
                terms,
            );
            let gram = gram(&ahead, terms);
            (ahead, gram)
        });
        self.model = next;
        self.loss = loss;
        self.losses.push(loss);
        self.sweeps += 1;
        Ok(true)
    }

    /// Makes one sweep of the error-preserving correction, which may raise the loss to that before the last sweep. Returns
    /// whether it lowered the norm of the terms.
    fn correct(&mut self, allowed: f64) -> Result<bool> {
        let mut next = self.model.clone();
        let bound = allowed * self.problem.squared_norm;
        correction::sweep(self.problem, &self.walk, &mut next, bound)?;
        let error = self
            .walk
            .squared_error(&self.problem.values, &next.factors, &next.weights);
        let loss = relative_loss(self.problem, error);
        let falls = norm_ratio(self.problem, &next) < norm_ratio(self.problem, &self.model);
        if !falls || loss.is_nan() || loss > allowed {
            return Ok(false);
        }
        self.model = next;
        self.loss = loss;
        self.ahead = None;
        self.corrections += 1;
        if let Some(last) = self.losses.last_mut() {
            *last = loss;
        }
        Ok(true)
    }
}

/// The factor that solves the normal equations, in double precision.
fn least_squares<F: Float>(
    product: &[F],
    others: &[f64],
    last: &[F],
    weights: &[f64],
    terms: usize,
) -> Result<Vec<f64>> {
    let ridge = 4.0 * F::epsilon().as_f64();
    let (factored, ridge) = factor_with_ridge(others, terms, ridge)?;
    let mut solution = Vec::with_capacity(product.len());
    for (product, last) in product.chunks_exact(terms).zip(last.chunks_exact(terms)) {
        let row = product.iter().zip(last).zip(weights);
        solution.extend(row.map(|((m, a), w)| m.as_f64() + ridge * w * a.as_f64()));
    }
    let rows = solution.len() / terms;
    factored.solve_rows(view_mut(&mut solution, rows, terms));
    Ok(solution)
}

/// Scales columns to length one and returns the lengths. A column of zeros is replaced by the previous one.
fn normalize_columns_or_keep<F: Float>(factor: &mut [f64], before: &[F], terms: usize) -> Vec<f64> {
    let lengths = normalize_columns(factor, terms);
    for (r, _) in lengths
        .iter()
        .enumerate()
        .filter(|&(_, &length)| length == 0.0)
    {
        for (row, before) in factor
            .chunks_exact_mut(terms)
            .zip(before.chunks_exact(terms))
        {
            row[r] = before[r].as_f64();
        }
    }
    lengths
}

/// `to + step (to − from)`, with columns scaled to length one.
fn extrapolate<F: Float>(to: &[F], from: &[F], step: f64, terms: usize) -> Vec<F> {
    let step = F::from_f64_lossy(step);
    let mut ahead: Vec<F> = to
        .iter()
        .zip(from)
        .map(|(&to, &from)| to + step * (to - from))
        .collect();
    normalize_columns(&mut ahead, terms);
    ahead
}

impl<F: Float, D: Dimension> Factorizer<F, D> for CpAls {
    type Output = CpTensor<F>;

    fn factorize_with(
        &self,
        weights: ArrayView<'_, F, D>,
        context: FitContext<'_>,
    ) -> Result<CpTensor<F>> {
        self.validate()?;
        context.unused("CpAls")?;
        self.fit(weights.into_dyn(), context.observer)
    }
}

impl CpAls {
    /// Sets the largest number of sweeps over all factors; 200 unless set.
    #[must_use]
    pub fn max_sweeps(mut self, sweeps: usize) -> Self {
        self.max_sweeps = sweeps;
        self
    }

    /// Sets the fraction of the squared error below which the gain of a sweep ends the fit, in [0, 1); 10⁻⁶ unless set.
    #[must_use]
    pub fn tolerance(mut self, tolerance: f64) -> Self {
        self.tolerance = tolerance;
        self
    }

    /// Sets the first start; [`Start::Hosvd`] unless set. All others are random.
    #[must_use]
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// Sets the number of starts tried on the compressed tensor, and the number of sweeps from each; 3 starts and 50 sweeps
    /// unless set.
    ///
    /// A single start is used without a trial.
    #[must_use]
    pub fn starts(mut self, starts: usize, sweeps: usize) -> Self {
        self.starts = starts;
        self.start_sweeps = sweeps;
        self
    }

    /// Sets whether factors are extrapolated along their last step; `true` unless set.
    #[must_use]
    pub fn extrapolate(mut self, extrapolate: bool) -> Self {
        self.extrapolate = extrapolate;
        self
    }

    /// Sets when terms that cancel each other are corrected; [`NormBound::default`] unless set.
    #[must_use]
    pub fn norm_bound(mut self, bound: NormBound) -> Self {
        self.norm_bound = bound;
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
        let als = self;
        als.rank.check()?;
        check::at_least_one("starts", als.starts)?;
        check::tolerance(als.tolerance)?;
        let NormBound { ratio, slack, .. } = als.norm_bound;
        check::in_range(
            "norm_bound.ratio",
            ratio,
            "at least 1",
            ratio >= 1.0 && ratio.is_finite(),
        )?;
        check::in_range(
            "norm_bound.slack",
            slack,
            "in [0, 1]",
            (0.0..=1.0).contains(&slack),
        )?;
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests;
