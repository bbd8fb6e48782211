//! A budget for a whole model, and how it is spent.

use std::path::Path;

use glob::Pattern;
use ndarray::ArrayD;

use super::compress::CompressOptions;
use super::compressed::CompressedModel;
use super::plan::{Plan, Target};
use super::recipe::Recipe;
use super::report::Report;
use super::search::BudgetSearch;
use super::step::Step;
use super::tensors::within;
use super::ties::Ties;
use super::{Calibration, NamedTensors};
use crate::prune::{Keep, MagnitudePruner, Scope, Sparsity};
use crate::quantize::fixed_point::{FixedPointQuantizer, Granularity, Range};
use crate::quantize::product::ProductQuantizer;
use crate::{Observer, Precision, Result, Seed, check};

/// The relative squared error at which sensitivities are measured.
const NOISE: f64 = 0.01;

/// A budget for the file of a whole model, and how it is spent.
///
/// Tensors of two axes and more are rounded by a [trellis](crate::quantize::trellis), each with a step of its own. The curve of
/// size and error over the step is estimated on some rows of each tensor, a Lagrangian chooses a point of each, and the
/// whole tensors are fitted there. Vectors are kept or stored in half precision. With
/// [`candidates`](Self::candidates), these chains are tried on each tensor instead, such as [`few_bit_candidates`], whose results
/// multiply without being decompressed. A tensor can always be kept. Candidates that do not fit a tensor are left out for it.
///
/// The error of a tensor is $‖W − Ŵ‖² / ‖W‖²$, times the [sensitivity](Self::sensitivity). Where [calibration](Self::calibration)
/// has the moments M of its inputs, it is $\\mathrm{tr}(E M Eᵀ) / (m ‖W‖²)$ for E = W − Ŵ and the mean m of the diagonal of M: for errors that do not depend on
/// the inputs that is the same number, so that the errors of all tensors add up. Tensors that are equal are stored once; their error counts once
/// for each of their names.
///
/// ```
/// use taper::model::{Budget, NamedTensors};
/// use taper::ndarray::ArrayD;
///
/// let weight = ArrayD::from_shape_fn(vec![128, 64], |i| ((i[0] * 31 + i[1] * 17) as f32).sin());
/// let model = NamedTensors::from_bytes(NamedTensors::to_bytes([("fc.weight", weight.view())])?)?;
/// let (small, report) = Budget::ratio(6.0).compress(&model)?;
/// assert!(report.ratio() >= 6.0);
/// assert_eq!(small.file_bytes()?, report.bytes_after);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Budget<'a> {
    plan: Plan<'a>,
}

impl<'a> Budget<'a> {
    fn new(target: Target) -> Self {
        Self {
            plan: Plan {
                target,
                candidates: None,
                sensitivities: Vec::new(),
                seed: 0,
                options: CompressOptions::default(),
            },
        }
    }

    /// The least error in a file of at most this many bytes.
    #[must_use]
    pub fn bytes(bytes: u64) -> Self {
        Self::new(Target::Bytes(bytes))
    }

    /// The least error in a file that is at least this many times smaller than the model's.
    #[must_use]
    pub fn ratio(ratio: f64) -> Self {
        Self::new(Target::Ratio(ratio))
    }

    /// The smallest file in which the errors of the tensors add up to no more than this.
    #[must_use]
    pub fn error(error: f64) -> Self {
        Self::new(Target::Error(error))
    }

    /// Sets the chains that are tried on each tensor, instead of a trellis with a step that is searched.
    #[must_use]
    pub fn candidates(mut self, candidates: impl IntoIterator<Item = Vec<Step>>) -> Self {
        self.plan.candidates = Some(candidates.into_iter().collect());
        self
    }

    /// Multiplies the errors of the tensors whose names match `pattern` by `factor`, at least 0; 1 unless set. Patterns are
    /// those of [`Rule::tensors`](super::Rule::tensors); the first that matches counts.
    #[must_use]
    pub fn sensitivity(mut self, pattern: impl Into<String>, factor: f64) -> Self {
        self.plan.sensitivities.push((pattern.into(), factor));
        self
    }

    /// Measures the sensitivity of each tensor of two axes and more, with the loss that a relative error of 0.01 in it causes.
    ///
    /// `loss` receives the name of a tensor and its weights with uniform noise of ‖E‖² = 0.01 ‖W‖². It returns how much worse the model
    /// is with these weights and all others unchanged: the increase of its loss, or the mean squared change of its output. Errors of
    /// one tensor then count by what they do to the loss, to second order. Tied tensors are asked for once, under the first of their names. A
    /// [`sensitivity`](Self::sensitivity) that was set before and matches a name counts instead.
    ///
    /// ```
    /// use taper::model::{Budget, NamedTensors};
    /// use taper::ndarray::{ArrayD, Axis};
    ///
    /// // A model of two layers whose output is the sum of the first, a hundred times, and of the second.
    /// let weight = |k: usize| ArrayD::from_shape_fn(vec![64, 32], |i| ((i[0] * 31 + i[1] * 17 + k) as f32).sin());
    /// let (first, second) = (weight(0), weight(1));
    /// let file = NamedTensors::to_bytes([("first", first.view()), ("second", second.view())])?;
    /// let model = NamedTensors::from_bytes(file)?;
    /// let budget = Budget::ratio(8.0).measure(&model, |name, weights| {
    ///     let (gain, plain) = if name == "first" { (100.0, &first) } else { (1.0, &second) };
    ///     Ok(gain * (&weights - plain).mapv(|x| f64::from(x).powi(2)).sum())
    /// })?;
    /// let (_, report) = budget.compress(&model)?;
    /// assert!(report.rows[0].weight_error < report.rows[1].weight_error);
    /// # Ok::<(), taper::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`](crate::Error::Parameter) for a loss that is negative or not finite; errors of reading a tensor, and those
    /// of `loss`.
    pub fn measure(
        mut self,
        input: &NamedTensors,
        mut loss: impl FnMut(&str, ArrayD<f32>) -> Result<f64>,
    ) -> Result<Self> {
        let ties = Ties::of(input)?;
        let seed = Seed::from(self.plan.seed).derive_name("sensitivity");
        for name in input.names().filter(|name| ties.is_first(name)) {
            let data = input.data(name)?;
            if !data.is_float() || data.shape.len() < 2 || data.bytes.is_empty() {
                continue;
            }
            let weights = within(name, data.to_f32())?;
            if check::finite("the tensor", &weights.view()).is_err() {
                // It will be kept.
                continue;
            }
            let squares: f64 = weights.iter().map(|&w| f64::from(w).powi(2)).sum();
            // Uniform numbers from −s to s have the variance s² / 3.
            let scale = (3.0 * NOISE * squares / weights.len() as f64).sqrt();
            let (seed, mut number) = (seed.derive_name(name), 0..);
            let noisy = weights.mapv(|w| {
                let random = seed.uniform(number.next().expect("numbers do not end"));
                (f64::from(w) + scale * random) as f32
            });
            let factor = within(name, loss(name, noisy))? / NOISE;
            let inside = factor >= 0.0 && factor.is_finite();
            check::in_range("the loss", factor * NOISE, "at least 0 and finite", inside)?;
            let names = ties.names(name);
            for name in names {
                // The errors of all names of a tensor add up.
                let share = factor / names.len() as f64;
                self.plan.sensitivities.push((Pattern::escape(name), share));
            }
        }
        Ok(self)
    }

    /// Sets the seed of the compressors; 0 unless set.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.plan.seed = seed;
        self
    }

    /// Sets the moments of the inputs of layers.
    #[must_use]
    pub fn calibration(mut self, calibration: &'a Calibration) -> Self {
        self.plan.options = self.plan.options.calibration(calibration);
        self
    }

    /// Sets the observer, which receives the progress and may stop the search.
    #[must_use]
    pub fn observer(mut self, observer: &'a dyn Observer) -> Self {
        self.plan.options = self.plan.options.observer(observer);
        self
    }

    /// Sets whether the report has the rate-distortion limit of each tensor.
    #[must_use]
    pub fn limits(mut self, limits: bool) -> Self {
        self.plan.options = self.plan.options.limits(limits);
        self
    }

    /// Sets whether a tensor that no candidate can compress because of its values is an error. By default it is kept, and the
    /// report says why.
    #[must_use]
    pub fn strict(mut self, strict: bool) -> Self {
        self.plan.options = self.plan.options.strict(strict);
        self
    }

    /// Checks candidates, sensitivities and the target.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`](crate::Error::Parameter), [`Error::Unsupported`](crate::Error::Unsupported) for a chain that [`Step`] does not
    /// list, and [`Error::Recipe`](crate::Error::Recipe) for a pattern
    /// that cannot be read.
    pub fn check(&self) -> Result<()> {
        self.plan.check()
    }

    /// Measures the tensors of a model. The search can be [compressed](BudgetSearch::compress) at this budget and at others.
    ///
    /// # Errors
    ///
    /// Those of [`check`](Self::check); [`Error::Unsupported`](crate::Error::Unsupported) for a container, which has to be
    /// decompressed first; [`Error::InTensor`](crate::Error::InTensor) for a tensor that cannot be read or whose calibration does not
    /// fit, and with [`strict`](Self::strict) for one that cannot be compressed; [`Error::Stopped`](crate::Error::Stopped) from the observer.
    pub fn search<'m>(&self, input: &'m NamedTensors) -> Result<BudgetSearch<'m>>
    where
        'a: 'm,
    {
        BudgetSearch::new(self.plan.clone(), input)
    }

    /// Finds the recipe that keeps a model within the budget. Its rules name one tensor each.
    ///
    /// # Errors
    ///
    /// As [`compress`](Self::compress).
    pub fn recipe(&self, input: &NamedTensors) -> Result<Recipe> {
        self.search(input)?.recipe()
    }

    /// Compresses a model in memory. The compressed forms of all useful candidates are in memory until one is chosen for each
    /// tensor.
    ///
    /// # Errors
    ///
    /// Those of [`search`](Self::search), and [`Error::BudgetOutOfReach`](crate::Error::BudgetOutOfReach) with the smallest file (or
    /// error) that there is.
    pub fn compress(&self, input: &NamedTensors) -> Result<(CompressedModel, Report)> {
        self.search(input)?.compress()
    }

    /// Compresses a model into the container `output`. The file appears complete or not at all.
    ///
    /// # Errors
    ///
    /// As [`compress`](Self::compress), and [`Error::File`](crate::Error::File).
    pub fn compress_file(&self, input: &NamedTensors, output: impl AsRef<Path>) -> Result<Report> {
        self.search(input)?.compress_file(output)
    }
}

/// Candidates of a [`Budget`] whose layers multiply from their codes: fixed point of 2 to 8 bits, product quantization of 1 to 4
/// bits for a weight, and pruned weights in clusters.
///
/// ```
/// use taper::model::{Budget, few_bit_candidates};
///
/// // All of them but the pruned ones.
/// let dense = few_bit_candidates().into_iter().filter(|chain| chain.len() == 1);
/// let budget = Budget::ratio(8.0).candidates(dense);
/// assert!(budget.check().is_ok());
/// ```
#[must_use]
pub fn few_bit_candidates() -> Vec<Vec<Step>> {
    let fixed_point = |bits| {
        FixedPointQuantizer::new(bits)
            .granularity(Granularity::PerRow)
            .range(Range::SquaredError)
            .precision(Precision::F16)
    };
    let product = |width, centroids| {
        ProductQuantizer::with_width(width)
            .centroids(centroids)
            .precision(Precision::F16)
    };
    let prune = |keep| {
        MagnitudePruner::new(Sparsity::Unstructured(Keep::Fraction(keep)))
            .scope(Scope::Layer)
            .precision(Precision::F16)
    };
    let mut candidates: Vec<Vec<Step>> = [2, 3, 4, 5, 6, 8]
        .into_iter()
        .map(|bits| vec![fixed_point(bits).into()])
        .collect();
    for (width, centroids) in [(8, 256), (4, 64), (4, 256), (2, 32), (2, 64), (2, 256)] {
        candidates.push(vec![product(width, centroids).into()]);
    }
    for keep in [0.1, 0.2, 0.4] {
        candidates.push(vec![prune(keep).into(), product(1, 16).into()]);
    }
    candidates
}
