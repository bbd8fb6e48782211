//! The measured sizes and errors of a model's tensors, and the choice among them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use glob::Pattern;
use ndarray::Axis;

use super::allocate::{Limit, RatePoint, allocate};
use super::compress::{InMemory, Made, Output, Task};
use super::compressed::CompressedModel;
use super::container::{Assembler, ContainerWriter, Outline};
use super::curve::Curve;
use super::entry::Entry;
use super::layouts;
use super::plan::{Plan, Target};
use super::recipe::{Recipe, Rule};
use super::report::{Report, ReportRow};
use super::step::{self, Step, chain_text};
use super::tensors::within;
use super::ties::Ties;
use super::{NamedTensors, TensorData};
use crate::quantize::trellis::TrellisQuantizer;
use crate::{Error, Float, Precision, Result, Seed, check, parallel};

/// Times that the fits of a search are corrected by what they took.
const ROUNDS: usize = 6;
/// Weights of a tensor on which its curve is estimated.
const SAMPLE: usize = 1 << 15;
/// Rows of the sample.
const FEWEST_ROWS: usize = 64;
/// A budget of bytes is met where the file has at least this share of them.
const NEAR: f64 = 0.998;

/// The measured sizes and errors of all tensors of a model: what [`Budget::search`](super::Budget::search) finds, ready for any budget.
///
/// ```
/// use taper::model::{Budget, NamedTensors};
/// use taper::ndarray::ArrayD;
///
/// let weight = ArrayD::from_shape_fn(vec![128, 64], |i| ((i[0] * 31 + i[1] * 17) as f32).sin());
/// let model = NamedTensors::from_bytes(NamedTensors::to_bytes([("fc.weight", weight.view())])?)?;
/// let mut search = Budget::ratio(6.0).search(&model)?;
/// let (_, six) = search.compress()?;
/// let (_, nine) = search.ratio(9.0).compress()?;
/// assert!(nine.bytes_after < six.bytes_after);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug)]
pub struct BudgetSearch<'m> {
    plan: Plan<'m>,
    input: &'m NamedTensors,
    layers: Vec<Layer<'m>>,
    /// The last choice, and what it was made for. Later fits change no index.
    chosen: Option<(Target, Vec<usize>)>,
}

impl<'m> BudgetSearch<'m> {
    pub(super) fn new(plan: Plan<'m>, input: &'m NamedTensors) -> Result<Self> {
        plan.check()?;
        plan.options.check(input)?;
        let ties = Ties::of(input)?;
        let layouts = layouts::notes(input);
        let names: Vec<&str> = input.names().filter(|name| ties.is_first(name)).collect();
        let done = AtomicUsize::new(0);
        let layers = parallel::map(names.len(), |i| {
            let name = names[i];
            let before = done.fetch_add(1, Ordering::Relaxed);
            plan.options.progress(Some(name), before, names.len())?;
            within(name, Layer::new(&plan, input, ties.names(name), &layouts))
        });
        let layers = layers.into_iter().collect::<Result<_>>()?;
        plan.options.progress(None, names.len(), names.len())?;
        Ok(Self {
            plan,
            input,
            layers,
            chosen: None,
        })
    }

    /// Sets the budget to the least error in a file of at most this many bytes.
    pub fn bytes(&mut self, bytes: u64) -> &mut Self {
        self.plan.target = Target::Bytes(bytes);
        self
    }

    /// Sets the budget to the least error in a file that is at least this many times smaller than the model's.
    pub fn ratio(&mut self, ratio: f64) -> &mut Self {
        self.plan.target = Target::Ratio(ratio);
        self
    }

    /// Sets the budget to the smallest file in which the errors of the tensors add up to no more than this.
    pub fn error(&mut self, error: f64) -> &mut Self {
        self.plan.target = Target::Error(error);
        self
    }

    /// Finds the recipe that keeps the model within the budget. Its rules name one tensor each.
    ///
    /// # Errors
    ///
    /// As [`compress`](Self::compress).
    pub fn recipe(&mut self) -> Result<Recipe> {
        let chosen = self.choose()?;
        Ok(self.recipe_of(&chosen))
    }

    /// Compresses the model in memory.
    ///
    /// # Errors
    ///
    /// [`Error::BudgetOutOfReach`] with the smallest file (or error) that there is, [`Error::Parameter`] for a ratio or an error
    /// that is no number of its range, and [`Error::Stopped`] from the observer.
    pub fn compress(&mut self) -> Result<(CompressedModel, Report)> {
        let chosen = self.choose()?;
        let mut model = InMemory::new(self.input);
        let mut report = self.assemble(&chosen, |name, output| model.add(name, output))?;
        report.bytes_after = model.file.file_bytes()?;
        Ok((model.model, report))
    }

    /// Compresses the model into the container `output`. The file appears complete or not at all.
    ///
    /// # Errors
    ///
    /// As [`compress`](Self::compress), and [`Error::File`].
    pub fn compress_file(&mut self, output: impl AsRef<Path>) -> Result<Report> {
        let chosen = self.choose()?;
        let mut writer = ContainerWriter::create(output)?;
        for (key, value) in self.input.metadata() {
            writer.metadata(key, value);
        }
        let add = |name: &str, output: Output<'_>| match output {
            Output::Compressed(tensor) => writer.add(name, &Entry::Compressed(tensor)),
            Output::Plain(data) => writer.add_plain(name, data),
            Output::Tied(first) => writer.tie(name, first).map(|()| 0),
        };
        let mut report = self.assemble(&chosen, add)?;
        report.bytes_after = writer.finish()?;
        Ok(report)
    }

    fn recipe_of(&self, chosen: &[usize]) -> Recipe {
        let layers = self.layers.iter().zip(chosen);
        let rules = layers.flat_map(|(layer, &index)| {
            layer.names().map(move |name| Rule {
                tensors: Pattern::escape(name),
                except: Vec::new(),
                min_values: 0,
                chain: layer.options[index].chain.clone(),
            })
        });
        Recipe {
            seed: self.plan.seed,
            rules: rules.collect(),
        }
    }

    /// The index of the chosen candidate of each tensor.
    ///
    /// Tensors with a curve are fitted at the points that the budget chooses, and their curves corrected by what the fits took,
    /// until the best choice among the fits uses the budget.
    fn choose(&mut self) -> Result<Vec<usize>> {
        let target = self.plan.target;
        match &self.chosen {
            Some((last, chosen)) if *last == target => Ok(chosen.clone()),
            _ => {
                let chosen = self.search()?;
                self.chosen = Some((target, chosen.clone()));
                Ok(chosen)
            }
        }
    }

    fn search(&mut self) -> Result<Vec<usize>> {
        self.plan.target.check()?;
        let limit = match self.plan.target {
            Target::Error(error) => Limit::Error(error),
            Target::Bytes(bytes) => Limit::Bytes(bytes),
            Target::Ratio(ratio) => Limit::Bytes((self.input.file_bytes() as f64 / ratio) as u64),
        };
        let empty = self.file_bytes(|_| None)?;
        let mut aim = limit;
        let mut best = Err(());
        for _ in 0..ROUNDS {
            let any = self.fit(aim, empty)?;
            best = match self.among_fits(limit, empty) {
                Ok(chosen) => Ok(chosen),
                Err(Error::BudgetOutOfReach { .. }) => Err(()),
                Err(error) => return Err(error),
            };
            match (&best, limit) {
                (Ok(chosen), Limit::Bytes(bytes)) => {
                    let size = self.file_bytes(|layer| Some(chosen[layer]))?;
                    if size as f64 >= NEAR * bytes as f64 {
                        break;
                    }
                }
                (Ok(_), _) => {}
                // The fits are a little larger than the corrected curves said.
                (Err(()), _) => aim = tighter(aim),
            }
            if !any {
                break;
            }
        }
        match best {
            Ok(chosen) => Ok(chosen),
            Err(()) => {
                // The end of all curves is the last that could be within the limit.
                let end = match limit {
                    Limit::Bytes(_) => Limit::Bytes(0),
                    Limit::Error(_) => Limit::Error(0.0),
                };
                self.fit(end, empty)?;
                self.among_fits(limit, empty)
            }
        }
    }

    /// Fits the tensors with a curve at the points chosen for a limit. The result is whether any fit is new.
    fn fit(&mut self, limit: Limit, empty: u64) -> Result<bool> {
        let points: Vec<Vec<RatePoint>> = self.layers.iter().map(Layer::all_points).collect();
        let limit = match limit {
            Limit::Bytes(bytes) => Limit::Bytes(bytes.saturating_sub(empty)),
            other => other,
        };
        let chosen = match allocate(&points, limit) {
            Ok(chosen) => chosen,
            // The smallest (or most accurate) of all, for the error to tell.
            Err(Error::BudgetOutOfReach { .. }) => {
                points.iter().map(|points| extreme(points, limit)).collect()
            }
            Err(error) => return Err(error),
        };
        let layers = self.layers.iter().zip(&chosen).enumerate();
        let places = layers.filter_map(|(i, (layer, &index))| {
            let (place, step) = layer.place_of(index)?;
            Some((i, place, step))
        });
        let places: Vec<(usize, usize, f64)> = places.collect();
        if places.is_empty() {
            return Ok(false);
        }
        let (plan, layers, done) = (&self.plan, &self.layers, AtomicUsize::new(0));
        let fits = parallel::map(places.len(), |i| {
            let (layer, _, step) = places[i];
            let layer = &layers[layer];
            let before = done.fetch_add(1, Ordering::Relaxed);
            plan.options
                .progress(Some(&layer.row.name), before, places.len())?;
            within(&layer.row.name, layer.fitted(plan, step))
        });
        for (&(layer, place, _), fit) in places.iter().zip(fits) {
            let fit = match fit {
                Ok(fit) => fit,
                Err(error) if self.plan.options.strict || stopped(&error) => return Err(error),
                // Other steps may fit the tensor, and it can be kept.
                Err(_) => None,
            };
            self.layers[layer].add(place, fit);
        }
        self.plan
            .options
            .progress(None, places.len(), places.len())?;
        Ok(true)
    }

    /// The best choice among what has been fitted.
    fn among_fits(&self, limit: Limit, empty: u64) -> Result<Vec<usize>> {
        let points: Vec<Vec<RatePoint>> = self.layers.iter().map(Layer::points).collect();
        let Limit::Bytes(bytes) = limit else {
            return allocate(&points, limit);
        };
        // Shares do not add up exactly, so that near the ends only the exact size of a file decides.
        if self.file_bytes(|_| Some(0))? <= bytes {
            let best = |points: &Vec<RatePoint>| extreme(points, Limit::Error(0.0));
            return Ok(points.iter().map(best).collect());
        }
        let mut left = bytes.checked_sub(empty);
        while let Some(share) = left {
            let chosen = match allocate(&points, Limit::Bytes(share)) {
                Err(Error::BudgetOutOfReach { .. }) => break,
                chosen => chosen?,
            };
            let size = self.file_bytes(|layer| Some(chosen[layer]))?;
            if size <= bytes {
                return Ok(chosen);
            }
            // Tables of contents are coded together, and different tensors may have become equal.
            left = share.checked_sub(size - bytes);
        }
        let cheapest: Vec<usize> = points.iter().map(|points| extreme(points, limit)).collect();
        let least = self.file_bytes(|layer| Some(cheapest[layer]))?;
        if least <= bytes {
            return Ok(cheapest);
        }
        Err(Error::BudgetOutOfReach {
            what: "bytes",
            budget: bytes as f64,
            least: least as f64,
        })
    }

    /// A note for each sensitivity that no tensor has.
    fn unmatched(&self) -> Result<Vec<String>> {
        let mut notes = Vec::new();
        for (text, _) in &self.plan.sensitivities {
            let pattern = super::recipe::pattern(text)?;
            if !self.input.names().any(|name| pattern.matches(name)) {
                notes.push(format!("the sensitivity of {text:?} matches no tensor"));
            }
        }
        Ok(notes)
    }

    /// Hands the chosen form of each tensor to `add`, which returns its bytes.
    fn assemble(
        &self,
        chosen: &[usize],
        mut add: impl FnMut(&str, Output<'_>) -> Result<u64>,
    ) -> Result<Report> {
        let mut report = Report {
            bytes_before: self.input.file_bytes(),
            recipe: self.recipe_of(chosen),
            notes: self.unmatched()?,
            ..Report::default()
        };
        for (layer, &index) in self.layers.iter().zip(chosen) {
            let mut row = layer.row.clone();
            let option = &layer.options[index];
            row.bytes_after = match &option.made {
                Some(made) => {
                    row.method = chain_text(&option.chain);
                    row.weight_error = made.weight_error;
                    row.output_error = made.output_error;
                    row.notes.extend(made.notes.iter().cloned());
                    if self.plan.options.limits {
                        row.limit_bits = layer.task(&self.plan)?.limit(made);
                    }
                    add(&row.name, Output::Compressed(made.tensor.clone()))?
                }
                None => add(&row.name, Output::Plain(&layer.data))?,
            };
            for other in &layer.others {
                add(other, Output::Tied(&row.name))?;
                report.rows.push(row.tied(other, &self.plan.options));
            }
            report.rows.push(row);
        }
        report.rows.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(report)
    }

    /// The size of the file with the candidate of this number for each tensor, or without the tensor.
    fn file_bytes(&self, candidate: impl Fn(usize) -> Option<usize>) -> Result<u64> {
        let mut file = Assembler::new(std::io::sink());
        for (key, value) in self.input.metadata() {
            file.metadata(key, value);
        }
        for (number, layer) in self.layers.iter().enumerate() {
            let name = &layer.row.name;
            match candidate(number).map(|index| &layer.options[index].made) {
                None => continue,
                Some(None) => file.outline(name, &layer.kept)?,
                Some(Some(made)) => {
                    file.entry(name, &Entry::Compressed(made.tensor.clone()))?;
                }
            }
            for other in &layer.others {
                file.tie(other, name)?;
            }
        }
        file.file_bytes()
    }
}

/// The point of the fewest bytes, or of the least error where the limit is one of errors.
fn extreme(points: &[RatePoint], limit: Limit) -> usize {
    let order = |a: &RatePoint, b: &RatePoint| match limit {
        Limit::Bytes(_) => a.bytes.cmp(&b.bytes),
        _ => a.error.total_cmp(&b.error),
    };
    let points = points.iter().enumerate();
    let least = points.min_by(|a, b| order(a.1, b.1));
    least.map_or(0, |(index, _)| index)
}

/// Whether an observer ended the search.
fn stopped(error: &Error) -> bool {
    match error {
        Error::Stopped { .. } => true,
        Error::InTensor { source, .. } => stopped(source),
        _ => false,
    }
}

/// A limit a little below another one.
fn tighter(limit: Limit) -> Limit {
    match limit {
        Limit::Bytes(bytes) => Limit::Bytes((bytes as f64 * 0.999) as u64),
        Limit::Error(error) => Limit::Error(error * 0.99),
    }
}

/// One tensor with its candidates, the first of which keeps it.
#[derive(Debug)]
struct Layer<'m> {
    row: ReportRow,
    data: TensorData<'m>,
    kept: Outline,
    /// The other names of the tensor.
    others: Vec<String>,
    /// What is multiplied with its relative error.
    sensitivity: f64,
    options: Vec<Candidate>,
    /// Sizes and errors of trellis codes over the step.
    curve: Option<Curve>,
}

#[derive(Debug)]
struct Candidate {
    chain: Vec<Step>,
    made: Option<Made>,
    point: RatePoint,
}

impl<'m> Layer<'m> {
    /// Tries candidates on the tensor of these names.
    fn new(
        plan: &Plan<'_>,
        input: &'m NamedTensors,
        names: &[String],
        layouts: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let name = names[0].as_str();
        let data = input.data(name)?;
        let mut layer = Self {
            row: ReportRow::kept(name, &data),
            others: names[1..].to_vec(),
            sensitivity: 0.0,
            options: Vec::new(),
            curve: None,
            kept: Outline::new(name, &data)?,
            data,
        };
        layer.options.push(Candidate {
            chain: Vec::new(),
            made: None,
            point: RatePoint {
                bytes: layer.share(|file| file.outline(name, &layer.kept))?,
                error: 0.0,
            },
        });
        let notes = names.iter().filter_map(|name| layouts.get(name));
        layer.row.notes.extend(notes.take(1).cloned());
        let (data, axes) = (&layer.data, layer.data.shape.len());
        if !layer.row.notes.is_empty() || !data.is_float() || data.bytes.is_empty() {
            return Ok(layer);
        }
        let searched = plan.candidates.is_none();
        if axes == 0 || axes == 1 && !searched {
            return Ok(layer);
        }
        for name in names {
            layer.sensitivity += plan.sensitivity_of(name)?;
        }
        let half;
        let chains = match &plan.candidates {
            Some(candidates) => candidates.as_slice(),
            None if axes == 1 && layer.data.dtype.bytes() > 2 => {
                half = [vec![Step::Dense(Precision::F16)]];
                &half
            }
            None => &[],
        };
        match layer.tried(plan, chains, searched && axes > 1) {
            Ok((options, curve)) => {
                layer.options.extend(options);
                layer.curve = curve;
            }
            Err(error @ Error::Stopped { .. }) => return Err(error),
            Err(error) if plan.options.strict => return Err(error),
            Err(error) => layer.row.notes.push(format!("kept: {error}")),
        }
        layer.drop_dominated();
        Ok(layer)
    }

    /// What chains make of the tensor, and its curve if it is asked for.
    fn tried(
        &self,
        plan: &Plan<'_>,
        chains: &[Vec<Step>],
        curve: bool,
    ) -> Result<(Vec<Candidate>, Option<Curve>)> {
        let task = self.task(plan)?;
        check::finite("the tensor", &task.weights.view())?;
        let mut options = Vec::new();
        for chain in chains {
            match self.candidate(&task, chain) {
                Ok(option) => options.extend(option),
                Err(error @ Error::Stopped { .. }) => return Err(error),
                // Other candidates may fit the tensor, and it can be kept.
                Err(_) => {}
            }
        }
        let curve = match curve {
            true => self.measured(task)?,
            false => None,
        };
        Ok((options, curve))
    }

    fn task<'a>(&'a self, plan: &Plan<'a>) -> Result<Task<'a>> {
        let name = self.row.name.as_str();
        let names: Vec<&str> = self.names().map(String::as_str).collect();
        Ok(Task {
            name,
            weights: self.data.to_f32()?,
            dtype: self.data.dtype,
            moments: plan.options.first_moments(&names)?,
            rows: plan.options.first_rows(&names),
            seed: Seed::from(plan.seed).derive_name(name),
            observer: plan.options.observer,
        })
    }

    /// The result of a chain; none where its error is infinite.
    fn candidate(&self, task: &Task<'_>, chain: &[Step]) -> Result<Option<Candidate>> {
        let (made, wide) = task.make_or_widen(chain)?;
        let error = self.sensitivity * task.error(&made)?;
        if !error.is_finite() {
            return Ok(None);
        }
        let entry = Entry::Compressed(made.tensor.clone());
        Ok(Some(Candidate {
            chain: wide.unwrap_or_else(|| chain.to_vec()),
            point: RatePoint {
                bytes: self.share(|file| file.entry(&self.row.name, &entry))?,
                error,
            },
            made: Some(made),
        }))
    }

    /// The curve of trellis codes; none for a tensor that they cannot code.
    fn measured(&self, mut task: Task<'_>) -> Result<Option<Curve>> {
        let all = task.weights.len();
        let unit = {
            let matrix = step::as_matrix(task.weights.view())?;
            TrellisQuantizer::relative(1.0).absolute(&matrix.view())
        };
        let rows = task.weights.shape()[0];
        let few = SAMPLE.div_ceil(all / rows).max(FEWEST_ROWS).min(rows);
        let largest = check::largest(&task.weights).as_f64();
        // A random row of each of so many parts: every n-th row would miss what repeats.
        let random = |part: usize| 0.5 * (1.0 + task.seed.uniform(part as u64));
        let chosen = (0..few).map(|part| {
            let (from, to) = (part * rows / few, (part + 1) * rows / few);
            from + (random(part) * (to - from) as f64) as usize
        });
        let chosen: Vec<usize> = chosen.collect();
        task.weights = task.weights.select(Axis(0), &chosen);
        let of_chosen = |rows: Vec<f64>| chosen.iter().map(|&row| rows[row]).collect::<Vec<_>>();
        let used = |rows: &Vec<f64>| rows.iter().any(|&weight| weight > 0.0);
        task.rows = task.rows.map(of_chosen).filter(used);
        let scale = rows as f64 / few as f64;
        let mut curve = Curve::new(unit);
        let mut failed = None;
        // With moments each fit factors their matrix, and moves weights further.
        let (levels, finest) = match task.moments {
            None => (Curve::LEVELS, largest / 60_000.0),
            Some(_) => (Curve::FEW_LEVELS, largest / 15_000.0),
        };
        for &level in levels {
            if curve.step_at(level) <= finest {
                break;
            }
            let step = curve.step_at(level);
            let chain = [TrellisQuantizer::new(step).states(Curve::STATES).into()];
            match self.candidate(&task, &chain) {
                Ok(Some(Candidate { point, .. })) => {
                    curve.add(level, point.bytes as f64 * scale, point.error);
                }
                Ok(None) => {}
                Err(error @ Error::Stopped { .. }) => return Err(error),
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) if curve.is_empty() => Err(error),
            _ => Ok((!curve.is_empty()).then_some(curve)),
        }
    }

    /// The whole tensor in trellis codes of that step.
    fn fitted(&self, plan: &Plan<'_>, step: f64) -> Result<Option<Candidate>> {
        let chain = [TrellisQuantizer::new(step).into()];
        self.candidate(&self.task(plan)?, &chain)
    }

    /// Adds a fit of the step at a place of the curve, and corrects the curve.
    fn add(&mut self, place: usize, fit: Option<Candidate>) {
        let curve = self
            .curve
            .as_mut()
            .expect("only tensors with a curve are fitted");
        curve.correct(place, fit.as_ref().map(|fit| fit.point));
        self.options.extend(fit);
    }

    /// The points of all candidates.
    fn points(&self) -> Vec<RatePoint> {
        self.options.iter().map(|option| option.point).collect()
    }

    /// The points of all candidates, and then those of the curve.
    fn all_points(&self) -> Vec<RatePoint> {
        let mut points = self.points();
        points.extend(self.curve.iter().flat_map(Curve::points));
        points
    }

    /// The place on the curve, and the step, of a point of [`all_points`](Self::all_points) that has not been fitted.
    fn place_of(&self, index: usize) -> Option<(usize, f64)> {
        let place = index.checked_sub(self.options.len())?;
        let curve = self.curve.as_ref()?;
        curve.to_fit(place).map(|step| (place, step))
    }

    /// All names of the tensor.
    fn names(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.row.name).chain(&self.others)
    }

    /// Drops candidates that another one beats in bytes and in error: no budget chooses them.
    fn drop_dominated(&mut self) {
        let points = self.points();
        let mut number = 0..;
        self.options.retain(|option| {
            let (i, own) = (number.next().expect("numbers do not end"), option.point);
            i == 0
                || !points.iter().enumerate().any(|(j, other)| {
                    other.bytes <= own.bytes
                        && other.error <= own.error
                        && (other.bytes < own.bytes || other.error < own.error || j < i)
                })
        });
    }

    /// The bytes by which the tensor makes a file longer, where `add` adds it.
    fn share<T>(
        &self,
        add: impl FnOnce(&mut Assembler<std::io::Sink>) -> Result<T>,
    ) -> Result<u64> {
        let empty = Assembler::new(std::io::sink()).file_bytes()?;
        let mut file = Assembler::new(std::io::sink());
        add(&mut file)?;
        for other in &self.others {
            file.tie(other, &self.row.name)?;
        }
        Ok(file.file_bytes()? - empty)
    }
}
