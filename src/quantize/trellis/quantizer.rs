//! Rounding to the path of least cost.

use ndarray::{Array2, ArrayView2};

use super::laws::{Counts, Law, ZERO, laws};
use super::layout::{LEVELS, Layout, Line, MAX_BITS, POINTS, quarter_power};
use super::machine::Machine;
use super::matrix::TrellisMatrix;
use super::scales;
use super::search::{Search, Target, nearest};
use crate::feedback::Feedback;
use crate::kernels::Level;
use crate::{
    Error, FitContext, Float, ParamError, Precision, Quantizer, Result, check, defaults, parallel,
    power,
};

/// Weights of which frequencies are estimated before all are rounded, where there are more.
const SAMPLE: usize = 1 << 17;
/// Searches of the sample.
const ROUNDS: usize = 4;
/// Weights that a task takes.
const TASK: usize = 1 << 15;
/// Weights that are exactly zero stay so where they are more than one in this many.
const SPARSE: usize = 8;

/// Rounds weights to values about one step Δ apart, with a code for each weight that also selects the grid of the next weight.
///
/// The codes of a row are a path through a machine of 8 to 256 [states](crate::quantize::trellis). Of all paths, the Viterbi
/// algorithm finds the one of least error and rate $\sum (w / Δ − v)^2 + 0.35\\, b$, where b is the number of bits
/// that an entropy coder needs for the code. The frequencies that b follows from are estimated from the weights, for each class
/// of rows and columns of similar scale. Values are the means of the weights that they stand for (with moments, in a fit without
/// feedback).
///
/// Codes are meant for a container, which entropy-codes them. Up to Δ = 1.5 σ the mean squared error is about Δ² / 4. Of N(0, σ²)
/// with 128 states a code takes about 1.07 + log₂(σ / Δ) bits, 0.05 bits more than the rate-distortion function, as long as Δ < σ. The same step for all tensors of
/// a model makes the sum of their squared errors the least for the length of the file.
///
/// With moments of the inputs, paths run down the columns, and the columns after them compensate for their errors (GPTQ, E.
/// Frantar et al., 2022, arXiv:2210.17323). A column that is hard to compensate gets a finer step, such that all columns add
/// the same to the output error (as in reverse water-filling); the step Δ is then the geometric mean.
///
/// With weights of rows ([`FitContext::rows`]) a row that counts more gets a finer step in the same way, down to a thirteenth of the coarsest.
///
/// Rows and columns of zeros stay zero. So do all weights of zero where these are more than an eighth of the weights. The step is stored with the relative
/// rounding error of its precision, or is [`Error::Underflow`].
///
/// ```
/// use taper::ndarray::array;
/// use taper::quantize::trellis::TrellisQuantizer;
/// use taper::{Compressed, Quantizer};
///
/// let weights = array![[0.31_f32, -0.2, 0.05, 0.4], [0.0, 0.1, -0.3, 0.2]];
/// let rounded = TrellisQuantizer::new(0.01).quantize(weights.view())?;
/// for (w, rebuilt) in weights.iter().zip(&rounded.decompress()?) {
///     // Values on a grid are two steps apart, and those that lead to the same state four.
///     assert!((w - rebuilt).abs() < 4.0 * 0.01);
/// }
/// # Ok::<(), taper::Error>(())
/// ```
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(deny_unknown_fields))]
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TrellisQuantizer {
    /// The step Δ, above 0.
    pub step: f64,
    /// Whether the step is in multiples of the root mean square of the weights.
    #[cfg_attr(feature = "model", serde(default))]
    pub relative: bool,
    /// The number of states: 8, 16, 32, 64, 128 or 256.
    #[cfg_attr(feature = "model", serde(default = "defaults::states"))]
    pub states: usize,
    /// The damping of moments, as a fraction of their mean diagonal.
    #[cfg_attr(feature = "model", serde(default = "defaults::damping"))]
    pub damping: f64,
    /// The precision in which the step is stored.
    #[cfg_attr(feature = "model", serde(default))]
    pub precision: Precision,
}

impl TrellisQuantizer {
    /// Creates a quantizer with the step Δ = `step`.
    #[must_use]
    pub fn new(step: f64) -> Self {
        Self {
            step,
            relative: false,
            states: defaults::states(),
            damping: defaults::damping(),
            precision: Precision::F32,
        }
    }

    /// Creates a quantizer whose step is `step` times the root mean square of the weights: about 1.07 − log₂ `step` bits a
    /// weight for steps below 1.
    ///
    /// ```
    /// use taper::ndarray::array;
    /// use taper::Quantizer;
    /// use taper::quantize::trellis::TrellisQuantizer;
    ///
    /// let weights = array![[3.0_f32, -4.0], [4.0, 3.0]];
    /// let matrix = TrellisQuantizer::relative(0.5).quantize(weights.view())?;
    /// assert_eq!(matrix.step(), 0.5 * 12.5_f32.sqrt());
    /// # Ok::<(), taper::Error>(())
    /// ```
    #[must_use]
    pub fn relative(step: f64) -> Self {
        Self {
            relative: true,
            ..Self::new(step)
        }
    }

    /// Sets the number of states, a power of two from 8 to 256; 128 by default.
    ///
    /// Files of normal numbers are 0.08 bits a number above the rate-distortion function with 8 states, 0.053 with 64 and 0.04 with 256
    /// (`cargo run --example rate_distortion`). The time to round a weight grows with the number of states; the time to decode it does not.
    #[must_use]
    pub fn states(mut self, states: usize) -> Self {
        self.states = states;
        self
    }

    /// Sets the damping of the moments, as a fraction of their mean diagonal; 0.01 by default.
    #[must_use]
    pub fn damping(mut self, damping: f64) -> Self {
        self.damping = damping;
        self
    }

    /// Sets the precision in which the step is stored; single by default.
    #[must_use]
    pub fn precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// Checks the parameters, as every call that uses them does.
    ///
    /// # Errors
    ///
    /// The first parameter that no input could make right.
    pub fn validate(&self) -> Result<(), ParamError> {
        let step = self.step;
        let inside = step > 0.0 && step.is_finite();
        check::in_range("step", step, "above 0 and finite", inside)?;
        self.machine()?;
        check::damping(self.damping)
    }

    fn machine(&self) -> Result<Machine, ParamError> {
        Machine::new(self.states).ok_or(ParamError::OutOfRange {
            name: "states",
            range: "8, 16, 32, 64, 128 or 256",
            value: self.states as f64,
        })
    }
}

impl<F: Float> Quantizer<F> for TrellisQuantizer {
    type Output = TrellisMatrix<F>;

    fn quantize_with(
        &self,
        weights: ArrayView2<'_, F>,
        context: FitContext<'_>,
    ) -> Result<TrellisMatrix<F>> {
        self.validate()?;
        check::finite("weights", &weights)?;
        check::not_empty("weights", weights.shape())?;
        let machine = self.machine()?;
        let feedback = match context.inputs {
            None => None,
            Some(inputs) => {
                inputs.fits(weights.ncols())?;
                Some(Feedback::<F>::new(inputs, self.damping)?)
            }
        };
        let columns = match &feedback {
            None => vec![Line::default(); weights.ncols()],
            Some(feedback) => steps(feedback.conditional()),
        };
        let rows = match context.row_weights(weights.nrows())? {
            None => vec![Line::default(); weights.nrows()],
            Some(rows) => steps(rows),
        };
        let step = self.absolute(&weights) / quarter_power(mean(&rows) + mean(&columns));
        let step: F = self.precision.round_factor("a step", step)?;
        let fit = Fit::new(
            machine,
            &weights,
            step.as_f64(),
            (rows, columns),
            feedback.is_some(),
        );
        fit.check(&weights, self.step)?;
        match &feedback {
            None => fit.rows(&weights, self.precision, step),
            Some(feedback) => fit.columns(&weights, feedback, self.precision, step),
        }
    }
}

impl TrellisQuantizer {
    /// The step for these weights.
    pub(crate) fn absolute<F: Float>(&self, weights: &ArrayView2<'_, F>) -> f64 {
        if !self.relative {
            return self.step;
        }
        let exponent = power::largest_exponent(weights);
        let squares = weights.iter().map(|w| {
            let w = power::times(w.as_f64(), -exponent);
            w * w
        });
        let mean = squares.sum::<f64>() / weights.len() as f64;
        // Of zeros any step will do.
        let root = if mean > 0.0 { mean.sqrt() } else { 1.0 };
        power::times(self.step * root, exponent)
    }
}

/// Lines whose steps make weight · Δ² the same for all lines, as far as steps of levels allow.
fn steps(weights: &[f64]) -> Vec<Line> {
    let positive = weights.iter().copied().filter(|&d| d > 0.0);
    let least = positive.fold(f64::INFINITY, f64::min);
    let levels: Vec<i32> = weights
        .iter()
        .map(|&d| match d > 0.0 {
            true => half_octaves(d / least),
            false => 0,
        })
        .collect();
    // Where the levels do not suffice, those of the largest weights are right.
    let most = levels.iter().copied().max().unwrap_or(0);
    let above = (most - i32::from(LEVELS) + 1).max(0);
    let line = |level: &i32| Line {
        scale: 0,
        step: (level - above).max(0) as u8,
    };
    levels.iter().map(line).collect()
}

/// 2 log₂ `ratio`, rounded; `ratio` is 1 or more.
fn half_octaves(ratio: f64) -> i32 {
    // The fourth root of 2, and that times the square root.
    const BOUNDS: [f64; 2] = [1.189_207_115_002_721, 1.681_792_830_507_429];
    let exponent = power::exponent(ratio);
    let mantissa = power::times(ratio, -exponent);
    2 * exponent + BOUNDS.iter().filter(|&&bound| mantissa >= bound).count() as i32
}

/// The mean level of the steps of lines.
fn mean(lines: &[Line]) -> u32 {
    let sum: usize = lines.iter().map(|line| usize::from(line.step)).sum();
    ((2 * sum + lines.len()) / (2 * lines.len())) as u32
}

/// One matrix to be rounded.
struct Fit {
    machine: Machine,
    level: Level,
    step: f64,
    /// Codes have no width yet.
    layout: Layout,
    /// Whether weights of zero stay so.
    sparse: bool,
}

impl Fit {
    fn new<F: Float>(
        machine: Machine,
        weights: &ArrayView2<'_, F>,
        step: f64,
        (mut rows, mut columns): (Vec<Line>, Vec<Line>),
        down: bool,
    ) -> Self {
        let (base, classes) = scales::set(weights, step, &mut rows, &mut columns);
        let zeros = weights.iter().filter(|w| w.is_zero()).count();
        Self {
            machine,
            level: Level::current(),
            step,
            layout: Layout {
                states: machine.states(),
                down,
                bits: MAX_BITS,
                base,
                rows,
                columns,
                points: vec![[0; POINTS]; classes],
            },
            sparse: zeros * SPARSE > weights.len(),
        }
    }

    /// Numbers that codes of the greatest width hold.
    fn check<F: Float>(&self, weights: &ArrayView2<'_, F>, given: f64) -> Result<()> {
        let largest = check::largest(weights).as_f64();
        let finest = |lines: &[Line]| lines.iter().map(|line| u32::from(line.step)).max();
        let levels =
            finest(&self.layout.rows).unwrap_or(0) + finest(&self.layout.columns).unwrap_or(0);
        let finest = self.step * quarter_power(levels);
        // A number may be one beyond the nearest, and with feedback the target is beyond the largest weight.
        let most = f64::from((1 << MAX_BITS) - 4) / if self.layout.down { 4.0 } else { 1.0 };
        if finest > 0.0 && largest / finest < most {
            return Ok(());
        }
        Err(Error::Parameter(ParamError::OutOfRange {
            name: "step",
            range: "above a 65532nd of the largest weight in the precision of the step, and above a 16383rd with moments",
            value: given,
        }))
    }

    /// Targets of a path of `line` across the lines `across`, without error feedback.
    fn targets<'a, F: Float>(
        &'a self,
        values: impl Iterator<Item = F> + 'a,
        line: Line,
        across: &'a [Line],
    ) -> impl Iterator<Item = Target> + 'a {
        values.zip(across).map(move |(w, &other)| {
            let class = self.layout.class(line, other);
            let step = self.step * quarter_power((line.step + other.step).into());
            Target {
                x: w.as_f64() / step,
                class,
                zero: class == 0 || self.sparse && w.is_zero(),
            }
        })
    }

    /// Frequencies and values from some of the rows: first those of each weight alone, then those of paths along them.
    fn train<F: Float>(&self, weights: &ArrayView2<'_, F>) -> (Counts, Vec<[i8; POINTS]>) {
        let (rows, columns) = weights.dim();
        let every = (weights.len() / SAMPLE).clamp(1, rows);
        let sample: Vec<usize> = (0..rows).step_by(every).collect();
        let across = &self.layout.columns;
        let targets = |row: usize| {
            let values = weights.row(row).to_vec().into_iter();
            self.targets(values, self.layout.rows[row], across)
        };
        let each = TASK.div_ceil(columns);
        let counted = |count: &(dyn Fn(usize, &mut Counts) + Sync)| {
            let parts = parallel::map(sample.len().div_ceil(each), |i| {
                let mut counts = Counts::new(self.layout.points.len());
                for &row in sample.iter().skip(i * each).take(each) {
                    count(row, &mut counts);
                }
                counts
            });
            sum(parts).expect("there is a row")
        };
        let mut counts = counted(&|row, counts| {
            for target in targets(row) {
                let number = if target.zero { 0 } else { nearest(target.x) };
                counts.record(target.class, target.x, number);
            }
        });
        let mut points = self.points(&counts);
        for _ in 0..ROUNDS {
            let laws = laws(&counts, &points);
            counts = counted(&|row, counts| {
                let mut search = Search::new(self.level, self.machine, &laws);
                let mut numbers = vec![0; columns];
                search.run(targets(row), &mut numbers);
                search.record(&numbers, counts);
            });
            points = self.points(&counts);
        }
        (counts, points)
    }

    fn points(&self, counts: &Counts) -> Vec<[i8; POINTS]> {
        let mut points = counts.points(self.sparse);
        // The class of zeros.
        points[0][POINTS / 2] = ZERO;
        points
    }

    /// Paths along the rows.
    fn rows<F: Float>(
        mut self,
        weights: &ArrayView2<'_, F>,
        precision: Precision,
        step: F,
    ) -> Result<TrellisMatrix<F>> {
        let (counts, points) = self.train(weights);
        let laws = laws(&counts, &points);
        let columns = weights.ncols();
        let mut numbers = vec![0_i32; weights.len()];
        let each = TASK.div_ceil(columns);
        let counts = parallel::map_chunks_mut(&mut numbers, each * columns, |i, numbers| {
            let mut search = Search::new(self.level, self.machine, &laws);
            let mut counts = Counts::new(laws.len());
            for (j, numbers) in numbers.chunks_mut(columns).enumerate() {
                let row = i * each + j;
                let (values, line) = (weights.row(row), self.layout.rows[row]);
                let values = values.iter().copied();
                search.run(self.targets(values, line, &self.layout.columns), numbers);
                search.record(numbers, &mut counts);
            }
            counts
        });
        // The means of the paths found; no path can be worse for them.
        self.layout.points = self.points(&sum(counts).expect("there is a row"));
        TrellisMatrix::new(self.layout, precision, step, &numbers)
    }

    /// Paths down the columns, each with the target that compensates for the errors of those before it.
    fn columns<F: Float>(
        mut self,
        weights: &ArrayView2<'_, F>,
        feedback: &Feedback<F>,
        precision: Precision,
        step: F,
    ) -> Result<TrellisMatrix<F>> {
        let (counts, points) = self.train(weights);
        let laws: Vec<Law> = laws(&counts, &points);
        self.layout.points = points;
        let rows = weights.nrows();
        let mut numbers = Array2::<i32>::zeros((weights.ncols(), rows));
        let mut search = Search::new(self.level, self.machine, &laws);
        let most = f64::from(1 << (MAX_BITS - 1)) - 2.0;
        let mut beyond = false;
        feedback.run_together(weights.view(), |column, targets, rounded| {
            let line = self.layout.columns[column];
            let mut numbers = numbers.row_mut(column);
            let numbers = numbers.as_slice_mut().expect("rows have no gaps");
            let weights = weights.column(column);
            let places = self.targets(targets.iter().copied(), line, &self.layout.rows);
            let places = places.zip(&weights).map(|(mut target, weight)| {
                // Zero where the weight is, and not where its target is.
                target.zero = target.class == 0 || self.sparse && weight.is_zero();
                beyond |= target.x.abs() >= 2.0 * most;
                target.x = target.x.clamp(-2.0 * most, 2.0 * most);
                target
            });
            search.run(places, numbers);
            self.layout.dequantize(column, self.step, numbers, rounded);
        });
        if beyond {
            return Err(Error::Parameter(ParamError::OutOfRange {
                name: "step",
                range: "larger, since feedback from these moments moves weights too far",
                value: self.step,
            }));
        }
        let numbers = numbers.into_raw_vec_and_offset().0;
        TrellisMatrix::new(self.layout, precision, step, &numbers)
    }
}

fn sum(parts: Vec<Counts>) -> Option<Counts> {
    parts.into_iter().reduce(|mut sum, part| {
        sum.merge(&part);
        sum
    })
}
