//! Compressing a whole model within a budget.

use std::collections::BTreeMap;
use std::path::Path;

use glob::Pattern;

use super::allocate::{Limit, RatePoint, allocate};
use super::compress::{CompressOptions, InMemory, Made, Output, Task};
use super::compressed::CompressedModel;
use super::container::{Assembler, ContainerWriter};
use super::entry::Entry;
use super::layouts;
use super::recipe::{Recipe, Rule};
use super::report::{Report, ReportRow};
use super::step::{self, Step, chain_text};
use super::tensors::within;
use super::ties::Ties;
use super::{Calibration, NamedTensors};
use crate::prune::{Keep, MagnitudePruner, Scope, Sparsity};
use crate::quantize::fixed_point::{FixedPointQuantizer, Granularity, Range};
use crate::quantize::product::ProductQuantizer;
use crate::{Error, Observer, Precision, Result, Seed, check};

/// A budget for the file of a whole model, and how it is spent.
///
/// Each candidate chain is tried on each tensor of two axes and more, and [`allocate`] chooses one for each tensor from the
/// measured sizes and errors. A tensor can always be kept. Candidates that do not fit a tensor are left out for it.
///
/// The error of a tensor is that of the layer's output where [calibration](Self::calibration) has its inputs, and else that
/// of the weights, each relative to its norm, times the [sensitivity](Self::sensitivity). Tensors that are equal are stored
/// once; their error counts once for each of their names.
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
    target: Target,
    candidates: Vec<Vec<Step>>,
    sensitivities: Vec<(String, f64)>,
    seed: u64,
    options: CompressOptions<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Target {
    Bytes(u64),
    Ratio(f64),
    Error(f64),
}

impl<'a> Budget<'a> {
    fn new(target: Target) -> Self {
        Self {
            target,
            candidates: default_candidates(),
            sensitivities: Vec::new(),
            seed: 0,
            options: CompressOptions::default(),
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

    /// Sets the chains that are tried on each tensor; [`default_candidates`] unless set.
    #[must_use]
    pub fn candidates(mut self, candidates: impl IntoIterator<Item = Vec<Step>>) -> Self {
        self.candidates = candidates.into_iter().collect();
        self
    }

    /// Multiplies the errors of the tensors whose names match `pattern` by `factor`, at least 0; 1 unless set. Patterns are
    /// those of [`Rule::tensors`]; the first that matches counts.
    #[must_use]
    pub fn sensitivity(mut self, pattern: impl Into<String>, factor: f64) -> Self {
        self.sensitivities.push((pattern.into(), factor));
        self
    }

    /// Sets the seed of the compressors; 0 unless set.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Sets the moments of the inputs of layers.
    #[must_use]
    pub fn calibration(mut self, calibration: &'a Calibration) -> Self {
        self.options = self.options.calibration(calibration);
        self
    }

    /// Sets the observer, which receives the progress and may stop the search.
    #[must_use]
    pub fn observer(mut self, observer: &'a dyn Observer) -> Self {
        self.options = self.options.observer(observer);
        self
    }

    /// Sets whether the report has the rate-distortion limit of each tensor.
    #[must_use]
    pub fn limits(mut self, limits: bool) -> Self {
        self.options = self.options.limits(limits);
        self
    }

    /// Sets whether a tensor that no candidate can compress because of its values is an error. By default it is kept, and the
    /// report says why.
    #[must_use]
    pub fn strict(mut self, strict: bool) -> Self {
        self.options = self.options.strict(strict);
        self
    }

    /// Checks candidates, sensitivities and the target.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`], [`Error::Unsupported`] for a chain that [`Step`] does not list, and [`Error::Recipe`] for a pattern
    /// that cannot be read.
    pub fn check(&self) -> Result<()> {
        for chain in &self.candidates {
            step::check_chain(chain)?;
        }
        for &(ref pattern, factor) in &self.sensitivities {
            super::recipe::pattern(pattern)?;
            let inside = factor >= 0.0 && factor.is_finite();
            check::in_range("sensitivity", factor, "at least 0 and finite", inside)?;
        }
        match self.target {
            Target::Bytes(_) => Ok(()),
            Target::Ratio(ratio) => {
                let inside = ratio > 0.0 && ratio.is_finite();
                Ok(check::in_range(
                    "ratio",
                    ratio,
                    "above 0 and finite",
                    inside,
                )?)
            }
            Target::Error(error) => {
                Ok(check::in_range("error", error, "at least 0", error >= 0.0)?)
            }
        }
    }

    /// Finds the recipe that keeps a model within the budget. Its rules name one tensor each.
    ///
    /// # Errors
    ///
    /// As [`compress`](Self::compress).
    pub fn recipe(&self, input: &NamedTensors) -> Result<Recipe> {
        let search = self.search(input)?;
        let chosen = self.choose(&search)?;
        Ok(self.recipe_of(&search, &chosen))
    }

    fn recipe_of(&self, search: &Search<'_>, chosen: &[usize]) -> Recipe {
        let layers = search.layers.iter().zip(chosen);
        let rules = layers.flat_map(|(layer, &index)| {
            layer.names().map(move |name| Rule {
                tensors: Pattern::escape(name),
                except: Vec::new(),
                min_values: 0,
                chain: layer.options[index].chain.clone(),
            })
        });
        Recipe {
            seed: self.seed,
            rules: rules.collect(),
        }
    }

    /// Compresses a model in memory. The compressed forms of all useful candidates are in memory until one is chosen for each
    /// tensor.
    ///
    /// # Errors
    ///
    /// Those of [`check`](Self::check); [`Error::Unsupported`] for a container, which has to be decompressed first;
    /// [`Error::BudgetOutOfReach`] with the smallest file (or error) that there is;
    /// [`Error::InTensor`] for a tensor that cannot be read or whose calibration does not fit, and with
    /// [`strict`](Self::strict) for one that cannot be compressed; [`Error::Stopped`] from the observer.
    pub fn compress(&self, input: &NamedTensors) -> Result<(CompressedModel, Report)> {
        let search = self.search(input)?;
        let chosen = self.choose(&search)?;
        let mut model = InMemory::new(input);
        let mut report = self.assemble(search, chosen, |name, output| model.add(name, output))?;
        report.bytes_after = model.file.file_bytes()?;
        Ok((model.model, report))
    }

    /// Compresses a model into the container `output`. The file appears complete or not at all.
    ///
    /// # Errors
    ///
    /// As [`compress`](Self::compress), and [`Error::File`].
    pub fn compress_file(&self, input: &NamedTensors, output: impl AsRef<Path>) -> Result<Report> {
        let search = self.search(input)?;
        let chosen = self.choose(&search)?;
        let mut writer = ContainerWriter::create(output)?;
        for (key, value) in input.metadata() {
            writer.metadata(key, value);
        }
        let add = |name: &str, output: Output<'_>| match output {
            Output::Compressed(tensor) => writer.add(name, &Entry::Compressed(tensor)),
            Output::Plain(data) => writer.add_plain(name, data),
            Output::Tied(first) => writer.tie(name, first).map(|()| 0),
        };
        let mut report = self.assemble(search, chosen, add)?;
        report.bytes_after = writer.finish()?;
        Ok(report)
    }

    fn sensitivity_of(&self, name: &str) -> Result<f64> {
        for (pattern, factor) in &self.sensitivities {
            if super::recipe::pattern(pattern)?.matches(name) {
                return Ok(*factor);
            }
        }
        Ok(1.0)
    }

    /// Tries all candidates on all tensors.
    fn search<'m>(&self, input: &'m NamedTensors) -> Result<Search<'m>> {
        self.check()?;
        self.options.check(input)?;
        let mut search = Search {
            input,
            layers: Vec::new(),
        };
        let ties = Ties::of(input)?;
        let layouts = layouts::notes(input);
        let names: Vec<&str> = input.names().filter(|name| ties.is_first(name)).collect();
        let count = names.len();
        for (done, name) in names.into_iter().enumerate() {
            self.options.progress(Some(name), done, count)?;
            let layer = within(name, self.layer(input, ties.names(name), &layouts))?;
            search.layers.push(layer);
        }
        self.options.progress(None, count, count)?;
        Ok(search)
    }

    /// Tries all candidates on the tensor of these names.
    fn layer(
        &self,
        input: &NamedTensors,
        names: &[String],
        layouts: &BTreeMap<String, String>,
    ) -> Result<Layer> {
        let name = names[0].as_str();
        let data = input.data(name)?;
        let tie = |file: &mut Assembler<std::io::Sink>| {
            let mut others = names[1..].iter();
            others.try_for_each(|other| file.tie(other, name))
        };
        let mut layer = Layer {
            row: ReportRow::kept(name, &data),
            others: names[1..].to_vec(),
            options: vec![Candidate {
                chain: Vec::new(),
                made: None,
                limit_bits: None,
                point: RatePoint {
                    bytes: file_share(|file| file.plain(name, &data).and_then(|_| tie(file)))?,
                    error: 0.0,
                },
            }],
        };
        let notes = names.iter().filter_map(|name| layouts.get(name));
        layer.row.notes.extend(notes.take(1).cloned());
        if !layer.row.notes.is_empty() {
            return Ok(layer);
        }
        if !data.is_float() || data.shape.len() < 2 || data.bytes.is_empty() {
            return Ok(layer);
        }
        let finite = data.to_f32().and_then(|weights| {
            check::finite("the tensor", &weights.view())?;
            Ok(weights)
        });
        let weights = match finite {
            Ok(weights) => weights,
            Err(error) if self.options.strict => return Err(error),
            Err(error) => {
                layer.row.notes.push(format!("kept: {error}"));
                return Ok(layer);
            }
        };
        let mut sensitivity = 0.0;
        for name in names {
            sensitivity += self.sensitivity_of(name)?;
        }
        let task = Task {
            name,
            weights,
            dtype: data.dtype,
            moments: {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                self.options.first_moments(&names)?
            },
            seed: Seed::from(self.seed).derive_name(name),
            observer: self.options.observer,
        };
        for chain in &self.candidates {
            let (made, wide) = match task.make_or_widen(chain) {
                Ok(made) => made,
                Err(error @ Error::Stopped { .. }) => return Err(error),
                Err(_) => continue,
            };
            let error = made.output_error.unwrap_or(made.weight_error) * sensitivity;
            if !error.is_finite() {
                continue;
            }
            let entry = Entry::Compressed(made.tensor.clone());
            let point = RatePoint {
                bytes: file_share(|file| file.entry(name, &entry).and_then(|_| tie(file)))?,
                error,
            };
            let mut row = layer.row.clone();
            task.describe(&made, &mut row, self.options.limits);
            layer.options.push(Candidate {
                chain: wide.unwrap_or_else(|| chain.clone()),
                limit_bits: row.limit_bits,
                made: Some(made),
                point,
            });
        }
        layer.drop_dominated();
        Ok(layer)
    }

    /// The index of the chosen candidate of each tensor.
    fn choose(&self, search: &Search<'_>) -> Result<Vec<usize>> {
        let points: Vec<Vec<RatePoint>> = search
            .layers
            .iter()
            .map(|layer| layer.options.iter().map(|option| option.point).collect())
            .collect();
        let bytes = match self.target {
            Target::Error(error) => return allocate(&points, Limit::Error(error)),
            Target::Bytes(bytes) => bytes,
            Target::Ratio(ratio) => (search.input.file_bytes() as f64 / ratio) as u64,
        };
        let empty = search.file_bytes(|_| None)?;
        // The measured shares are upper bounds, so that near the ends only the exact size of a file decides.
        if search.file_bytes(|_| Some(0))? <= bytes {
            let best = |layer: &Layer| {
                let best = layer.options.iter().enumerate();
                best.min_by(|a, b| a.1.point.error.total_cmp(&b.1.point.error))
                    .map_or(0, |(index, _)| index)
            };
            return Ok(search.layers.iter().map(best).collect());
        }
        let mut left = bytes.checked_sub(empty);
        while let Some(share) = left {
            let chosen = match allocate(&points, Limit::Bytes(share)) {
                Err(Error::BudgetOutOfReach { .. }) => break,
                chosen => chosen?,
            };
            let size = search.file_bytes(|layer| Some(chosen[layer]))?;
            if size <= bytes {
                return Ok(chosen);
            }
            // Different tensors became equal, and a long name is longer than the arrays that it replaces.
            left = share.checked_sub(size - bytes);
        }
        let cheapest: Vec<usize> = search.layers.iter().map(Layer::cheapest).collect();
        let least = search.file_bytes(|layer| Some(cheapest[layer]))?;
        if least <= bytes {
            return Ok(cheapest);
        }
        Err(Error::BudgetOutOfReach {
            what: "bytes",
            budget: bytes as f64,
            least: least as f64,
        })
    }

    /// Hands the chosen form of each tensor to `add`, which returns its bytes.
    fn assemble(
        &self,
        search: Search<'_>,
        chosen: Vec<usize>,
        mut add: impl FnMut(&str, Output<'_>) -> Result<u64>,
    ) -> Result<Report> {
        let mut report = Report {
            bytes_before: search.input.file_bytes(),
            recipe: self.recipe_of(&search, &chosen),
            ..Report::default()
        };
        for (layer, index) in search.layers.into_iter().zip(chosen) {
            let Layer {
                mut row,
                mut options,
                others,
            } = layer;
            let Candidate {
                chain,
                made,
                limit_bits,
                ..
            } = options.swap_remove(index);
            row.bytes_after = match made {
                Some(made) => {
                    row.method = chain_text(&chain);
                    row.weight_error = made.weight_error;
                    row.output_error = made.output_error;
                    row.limit_bits = limit_bits;
                    row.notes.extend(made.notes);
                    add(&row.name, Output::Compressed(made.tensor))?
                }
                None => add(&row.name, Output::Plain(&search.input.data(&row.name)?))?,
            };
            for other in &others {
                add(other, Output::Tied(&row.name))?;
                report.rows.push(row.tied(other, &self.options));
            }
            report.rows.push(row);
        }
        report.rows.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(report)
    }
}

/// All tensors of a model with their candidates.
struct Search<'m> {
    input: &'m NamedTensors,
    layers: Vec<Layer>,
}

impl Search<'_> {
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
                Some(None) => {
                    file.plain(name, &self.input.data(name)?)?;
                }
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

/// One tensor with its candidates, the first of which keeps it.
struct Layer {
    row: ReportRow,
    /// The other names of the tensor.
    others: Vec<String>,
    options: Vec<Candidate>,
}

impl Layer {
    /// All names of the tensor.
    fn names(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.row.name).chain(&self.others)
    }

    /// Drops candidates that another one beats in bytes and in error: no budget chooses them.
    fn drop_dominated(&mut self) {
        let points: Vec<RatePoint> = self.options.iter().map(|option| option.point).collect();
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

    fn cheapest(&self) -> usize {
        let options = self.options.iter().enumerate();
        options
            .min_by_key(|(_, option)| option.point.bytes)
            .map_or(0, |(index, _)| index)
    }
}

struct Candidate {
    chain: Vec<Step>,
    made: Option<Made>,
    limit_bits: Option<f64>,
    point: RatePoint,
}

/// The most bytes by which one tensor makes a file longer.
fn file_share<T>(add: impl FnOnce(&mut Assembler<std::io::Sink>) -> Result<T>) -> Result<u64> {
    /// Two offsets of an array may take this much more in the header of a long file.
    const OFFSETS: u64 = 24;
    let empty = Assembler::new(std::io::sink()).file_bytes()?;
    let mut file = Assembler::new(std::io::sink());
    add(&mut file)?;
    let arrays = file.arrays() as u64;
    Ok(file.file_bytes()? - empty + OFFSETS * arrays)
}

/// The candidates of a [`Budget`]: fixed point of 2 to 8 bits, product quantization of 1 to 4 bits for a weight, and
/// pruned weights in clusters.
///
/// ```
/// use taper::model::{Budget, default_candidates};
///
/// // All of them but the pruned ones.
/// let dense = default_candidates().into_iter().filter(|chain| chain.len() == 1);
/// let budget = Budget::ratio(8.0).candidates(dense);
/// assert!(budget.check().is_ok());
/// ```
#[must_use]
pub fn default_candidates() -> Vec<Vec<Step>> {
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
