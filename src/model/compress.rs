//! Compressing a whole model by a recipe, one tensor at a time.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use ndarray::{ArrayD, CowArray, Ix2};

use super::compressed::CompressedModel;
use super::container::{Assembler, ContainerWriter};
use super::entry::{CompressedTensor, Entry};
use super::layouts;
use super::recipe::Recipe;
use super::report::{Report, ReportRow};
use super::shard::{SHARD_KEY, Shard};
use super::step::{self, ChainResult, Step, chain_text};
use super::tensors::within;
use super::ties::{self, Ties};
use super::{Calibration, NamedTensors, TensorData};
use crate::limit::{EmpiricalSource, RateDistortionGap};
use crate::{
    DType, Error, FitContext, InputMoments, Observer, Progress, Result, Seed, Stage, check,
    defaults,
};

/// Options of one compression of a model, besides the recipe.
///
/// ```
/// use taper::model::{Calibration, CompressOptions, NamedTensors, Recipe};
/// use taper::ndarray::{Array2, ArrayD};
///
/// let weight = ArrayD::from_shape_fn(vec![16, 8], |i| ((i[0] * 3 + i[1]) as f32).sin());
/// let model = NamedTensors::from_bytes(NamedTensors::to_bytes([("fc.weight", weight.view())])?)?;
/// let inputs = Array2::from_shape_fn((100, 8), |(n, i)| ((n * 7 + i * i) as f32).cos());
/// let mut calibration = Calibration::new();
/// calibration.add("fc.weight", inputs.view())?;
///
/// let recipe = Recipe::from_toml("[[rule]]\ntensors = \"*\"\nchain = [{ fixed_point = { bits = 3 } }]")?;
/// let (_, report) = recipe.compress(&model, &CompressOptions::default().calibration(&calibration))?;
/// assert!(report.rows[0].output_error < Some(report.rows[0].weight_error));
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Clone, Copy, Default)]
#[non_exhaustive]
pub struct CompressOptions<'a> {
    /// The moments of the inputs of layers and counts of rows. Compressors that can then minimize the error of the layer's output.
    /// The report has the output error, and names steps that cannot use them.
    pub calibration: Option<&'a Calibration>,
    /// The part of the model that is compressed.
    pub shard: Shard,
    /// Whether the report has the rate-distortion limit of each tensor, which takes about a second for each.
    pub limits: bool,
    /// Whether a tensor that its chain cannot compress is an error. By default the tensor is kept, and the report says why.
    pub strict: bool,
    /// Receives the progress ([`Stage::Model`], and the stages of the fits) and may stop the compression.
    pub observer: Option<&'a dyn Observer>,
}

impl std::fmt::Debug for CompressOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CompressOptions")
            .field("calibration", &self.calibration)
            .field("shard", &self.shard)
            .field("limits", &self.limits)
            .field("strict", &self.strict)
            .field("observer", &self.observer.map(|_| "an observer"))
            .finish()
    }
}

impl<'a> CompressOptions<'a> {
    /// Sets the moments of the inputs of layers.
    #[must_use]
    pub fn calibration(self, calibration: &'a Calibration) -> Self {
        Self {
            calibration: Some(calibration),
            ..self
        }
    }

    /// Sets the part of the model that is compressed.
    #[must_use]
    pub fn shard(self, shard: Shard) -> Self {
        Self { shard, ..self }
    }

    /// Sets whether the report has the limit of each tensor.
    #[must_use]
    pub fn limits(self, limits: bool) -> Self {
        Self { limits, ..self }
    }

    /// Sets whether a tensor that its chain cannot compress is an error.
    #[must_use]
    pub fn strict(self, strict: bool) -> Self {
        Self { strict, ..self }
    }

    /// Sets the observer.
    #[must_use]
    pub fn observer(self, observer: &'a dyn Observer) -> Self {
        Self {
            observer: Some(observer),
            ..self
        }
    }

    /// Checks that the model is not compressed already, and that each input of the calibration belongs to one of its tensors and
    /// fits it.
    pub(super) fn check(&self, model: &NamedTensors) -> Result<()> {
        model.check_dense()?;
        let Some(calibration) = self.calibration else {
            return Ok(());
        };
        let names: BTreeSet<&str> = model.names().collect();
        let known = |what: &str, name: &str| match names.contains(name) {
            true => Ok(()),
            false => Err(Error::Unsupported {
                what: format!("{what} for {name}"),
                reason: "the model has no tensor of this name".to_owned(),
            }),
        };
        for name in calibration.names() {
            known("calibration", name)?;
            let expected: usize = model.data(name)?.shape.iter().skip(1).product();
            let features = calibration.features(name)?;
            let what = "the inputs of a layer";
            within(name, check::same_shape(what, &[expected], &[features]))?;
        }
        for (name, rows) in calibration.row_counts() {
            known("counts of rows", name)?;
            let expected = model.data(name)?.shape.first().copied().unwrap_or(0);
            let what = "the counts of rows";
            within(name, check::same_shape(what, &[expected], &[rows]))?;
        }
        Ok(())
    }

    pub(super) fn moments(&self, name: &str) -> Result<Option<Cow<'a, InputMoments>>> {
        match self.calibration {
            Some(calibration) => calibration.moments(name),
            None => Ok(None),
        }
    }

    /// The moments of the first of these names that has any.
    pub(super) fn first_moments(&self, names: &[&str]) -> Result<Option<Cow<'a, InputMoments>>> {
        for name in names {
            let moments = self.moments(name)?;
            if moments.is_some() {
                return Ok(moments);
            }
        }
        Ok(None)
    }

    /// The weights of rows of the first of these names that has any.
    pub(super) fn first_rows(&self, names: &[&str]) -> Option<Vec<f64>> {
        let calibration = self.calibration?;
        names.iter().find_map(|name| calibration.rows(name))
    }

    /// Reports that `done` of `count` tensors are done and that `name` is next.
    ///
    /// # Errors
    ///
    /// [`Error::Stopped`] when the observer asks for it.
    pub(super) fn progress(&self, name: Option<&str>, done: usize, count: usize) -> Result<()> {
        let progress = Progress {
            tensor: name,
            stage: Stage::Model,
            part: 0,
            iteration: done,
            max_iterations: count,
            loss: 0.0,
        };
        match self.observer.map(|observer| observer.observe(&progress)) {
            Some(answer) if answer.is_break() => Err(Error::Stopped {
                what: "the compression of the model",
            }),
            _ => Ok(()),
        }
    }
}

/// Adds the name of the tensor to the progress of its fits.
struct InTensor<'a> {
    name: &'a str,
    observer: &'a dyn Observer,
}

impl Observer for InTensor<'_> {
    fn observe(&self, progress: &Progress<'_>) -> std::ops::ControlFlow<()> {
        self.observer.observe(&Progress {
            tensor: Some(self.name),
            ..*progress
        })
    }
}

/// ‖W − Ŵ‖² / ‖W‖²; for an all-zero tensor 0 or infinite.
fn relative_error<'a>(
    weights: impl IntoIterator<Item = &'a f32>,
    rebuilt: impl IntoIterator<Item = &'a f32>,
) -> f64 {
    let (mut error, mut norm) = (0.0, 0.0);
    for (&w, &r) in weights.into_iter().zip(rebuilt) {
        let (w, r) = (f64::from(w), f64::from(r));
        error += (w - r) * (w - r);
        norm += w * w;
    }
    if error == 0.0 { 0.0 } else { error / norm }
}

/// A compressed tensor, its errors, and the notes for its row of the report.
#[derive(Debug, Clone)]
pub(super) struct Made {
    pub(super) tensor: CompressedTensor,
    pub(super) weight_error: f64,
    pub(super) output_error: Option<f64>,
    pub(super) notes: Vec<String>,
}

/// One tensor with all that its compression needs.
pub(super) struct Task<'a> {
    pub(super) name: &'a str,
    pub(super) weights: ArrayD<f32>,
    pub(super) dtype: DType,
    pub(super) moments: Option<Cow<'a, InputMoments>>,
    /// How much each row counts.
    pub(super) rows: Option<Vec<f64>>,
    pub(super) seed: Seed,
    pub(super) observer: Option<&'a dyn Observer>,
}

impl Task<'_> {
    /// The result of a chain.
    pub(super) fn make(&self, chain: &[Step]) -> Result<Made> {
        let named = self.observer.map(|observer| InTensor {
            name: self.name,
            observer,
        });
        let mut context = FitContext::new();
        context.inputs = self.moments.as_deref();
        context.rows = self.rows.as_deref();
        context.observer = named.as_ref().map(|observer| observer as &dyn Observer);
        let ChainResult { tensor, unused } =
            step::compress(chain, self.weights.view(), context, self.seed)?;
        let made = self.measure(tensor.with_dtype(self.dtype), unused)?;
        if made.weight_error.is_finite() {
            return Ok(made);
        }
        Err(Error::Unsupported {
            what: format!("{} of a tensor of zeros", chain_text(chain)),
            reason: "it does not keep them".to_owned(),
        })
    }

    /// The result of a chain; where half precision cannot hold a value, the chain with single precision, and a note of it.
    pub(super) fn make_or_widen(&self, chain: &[Step]) -> Result<(Made, Option<Vec<Step>>)> {
        let error = match self.make(chain) {
            Ok(made) => return Ok((made, None)),
            Err(error) => error,
        };
        let reason = match &error {
            Error::Underflow { what, value, .. } => format!("{what} of {value:e}"),
            Error::Overflow { what } => (*what).to_owned(),
            _ => return Err(error),
        };
        let Some(wide) = step::widened(chain) else {
            return Err(error);
        };
        let mut made = self.make(&wide)?;
        made.notes
            .push(format!("f16 cannot store {reason}: f32 was used"));
        Ok((made, Some(wide)))
    }

    /// Measures the errors of a compressed form of the tensor.
    pub(super) fn measure(&self, tensor: CompressedTensor, unused: Vec<String>) -> Result<Made> {
        let rebuilt = tensor.decompress()?;
        let calibrated = self.moments.is_some() || self.rows.is_some();
        let output_error = match calibrated && self.weights.ndim() >= 2 {
            true => {
                let w = self.weighted(step::as_matrix(self.weights.view())?);
                let r = self.weighted(step::as_matrix(rebuilt.view())?);
                let error = match &self.moments {
                    Some(moments) => moments.relative_output_error(w.view(), r.view())?,
                    None => relative_error(&w, &r),
                };
                // A layer whose output is zero over all inputs has no relative error of the output.
                error.is_finite().then_some(error)
            }
            false => None,
        };
        Ok(Made {
            weight_error: relative_error(&self.weights, &rebuilt),
            tensor,
            output_error,
            notes: unused,
        })
    }

    /// The rows of a matrix times the root of what they count.
    fn weighted<'w>(&self, mut matrix: CowArray<'w, f32, Ix2>) -> CowArray<'w, f32, Ix2> {
        if let Some(rows) = &self.rows {
            let most = rows.iter().copied().fold(0.0, f64::max);
            for (mut row, weight) in matrix.rows_mut().into_iter().zip(rows) {
                let root = (weight / most).sqrt() as f32;
                row.mapv_inplace(|w| w * root);
            }
        }
        matrix
    }

    /// The error of the tensor in the unit in which a budget adds errors up: relative to the weights, or to what an output error
    /// would be for inputs of the same power in all directions.
    ///
    /// Moments are damped, since inputs that were never seen may come.
    pub(super) fn error(&self, made: &Made) -> Result<f64> {
        let Some(error) = made.output_error else {
            return Ok(made.weight_error);
        };
        if let Some(moments) = &self.moments {
            let weights = self.weighted(step::as_matrix(self.weights.view())?);
            if let Some(alignment) = moments.alignment(weights.view())? {
                return Ok(error * alignment + defaults::damping() * made.weight_error);
            }
            return Ok(made.weight_error);
        }
        Ok(error + defaults::damping() * made.weight_error)
    }

    /// The least bits for a weight at the error of the tensor; `None` where there is no error or no limit.
    pub(super) fn limit(&self, made: &Made) -> Option<f64> {
        let source = EmpiricalSource::of(self.weights.view()).ok()?;
        let squares: f64 = self.weights.iter().map(|&w| f64::from(w).powi(2)).sum();
        let values = self.weights.len() as f64;
        let bits = made.tensor.artifact().storage().total() as f64 / values;
        let gap = RateDistortionGap::at(bits, made.weight_error * squares / values, &source);
        Some(gap.ok()?.limit_bits?.lower)
    }

    /// Completes a row of the report.
    pub(super) fn describe(&self, made: &Made, row: &mut ReportRow, limits: bool) {
        row.weight_error = made.weight_error;
        row.output_error = made.output_error;
        if limits {
            row.limit_bits = self.limit(made);
        }
        row.notes.extend(made.notes.iter().cloned());
    }
}

impl ReportRow {
    /// The row of a tensor that nothing has been done to.
    pub(super) fn kept(name: &str, data: &TensorData<'_>) -> Self {
        Self::new(name, data.shape.clone(), data.bytes.len() as u64)
    }

    /// The row of a tensor of this shape and size.
    pub(super) fn new(name: &str, shape: Vec<usize>, bytes: u64) -> Self {
        Self {
            name: name.to_owned(),
            method: chain_text(&[]),
            shape,
            bytes_before: bytes,
            bytes_after: bytes,
            weight_error: 0.0,
            output_error: None,
            limit_bits: None,
            notes: Vec::new(),
        }
    }

    /// The row of a tensor that equals this one.
    pub(super) fn tied(&self, name: &str, options: &CompressOptions<'_>) -> Self {
        let mut row = Self {
            name: name.to_owned(),
            method: ties::method(&self.name),
            bytes_after: 0,
            limit_bits: None,
            notes: Vec::new(),
            ..self.clone()
        };
        let mut layers = options.calibration.into_iter().flat_map(Calibration::names);
        if self.output_error.is_some() && layers.any(|layer| layer == name) {
            let note = "a tensor that is stored once is fitted to the inputs of the first layer that has them";
            row.notes.push(note.to_owned());
        }
        row
    }
}

impl Recipe {
    pub(super) fn seed_of(&self, name: &str) -> Seed {
        Seed::from(self.seed).derive_name(name)
    }

    /// A tensor compressed by its chain; `None` where it is kept.
    fn tensor(
        &self,
        name: &str,
        data: &TensorData<'_>,
        chain: &[Step],
        (moments, rows): (Option<Cow<'_, InputMoments>>, Option<Vec<f64>>),
        options: &CompressOptions<'_>,
    ) -> Result<(Option<CompressedTensor>, ReportRow)> {
        let mut row = ReportRow::kept(name, data);
        if step::keeps(chain) {
            return Ok((None, row));
        }
        let compress = || {
            let task = Task {
                name,
                weights: data.to_f32()?,
                dtype: data.dtype,
                moments,
                rows,
                seed: self.seed_of(name),
                observer: options.observer,
            };
            let (made, wide) = if options.strict {
                (task.make(chain)?, None)
            } else {
                task.make_or_widen(chain)?
            };
            row.method = chain_text(wide.as_deref().unwrap_or(chain));
            task.describe(&made, &mut row, options.limits);
            Ok(made.tensor)
        };
        match compress() {
            Ok(tensor) => Ok((Some(tensor), row)),
            Err(error @ Error::Stopped { .. }) => Err(error),
            Err(error) if options.strict => Err(error),
            Err(error) => {
                row.notes
                    .push(format!("kept, since {} failed: {error}", chain_text(chain)));
                Ok((None, row))
            }
        }
    }

    /// Compresses the tensors of a part one after the other, and hands each to `add`, which returns its bytes.
    ///
    /// Of tensors that are equal and have the same chain, the first one is compressed, and the others are tied to it.
    fn each(
        &self,
        input: &NamedTensors,
        options: &CompressOptions<'_>,
        mut add: impl FnMut(&str, Output<'_>) -> Result<u64>,
    ) -> Result<Report> {
        let mut report = Report {
            bytes_before: input.file_bytes(),
            recipe: self.clone(),
            notes: self.without_effect(input)?,
            ..Report::default()
        };
        let ties = Ties::of(input)?;
        let layouts = layouts::notes(input);
        let names = options.shard.names(input, &ties)?;
        // What became of the tensors that have several names, by the first of these.
        let mut before: BTreeMap<&str, Vec<(&[Step], ReportRow)>> = BTreeMap::new();
        for (done, name) in names.iter().enumerate() {
            options.progress(Some(name), done, names.len())?;
            let data = input.data(name)?;
            let chain_of = |name: &str| {
                if layouts.contains_key(name) {
                    return Ok(&[][..]);
                }
                within(name, self.chain(name, &data))
            };
            let chain = chain_of(name)?;
            let before = before.entry(ties.first(name)).or_default();
            if let Some((_, row)) = before.iter().find(|(other, _)| *other == chain) {
                add(name, Output::Tied(&row.name))?;
                report.rows.push(row.tied(name, options));
                continue;
            }
            let mut same = Vec::new();
            for other in ties.names(name) {
                if chain_of(other)? == chain {
                    same.push(other.as_str());
                }
            }
            let moments = options.first_moments(&same)?;
            let calibration = (moments, options.first_rows(&same));
            let made = self.tensor(name, &data, chain, calibration, options);
            let (tensor, mut row) = within(name, made)?;
            if let Some(note) = layouts.get(name)
                && self.would_change(name)?
            {
                row.notes.push(note.clone());
            }
            row.bytes_after = match tensor {
                Some(tensor) => add(name, Output::Compressed(tensor))?,
                None => add(name, Output::Plain(&data))?,
            };
            if let Some((_, other)) = before.first() {
                let note = "for which the recipe has another chain";
                row.notes.push(format!("equals {}, {note}", other.name));
            }
            report.rows.push(row.clone());
            before.push((chain, row));
        }
        options.progress(None, names.len(), names.len())?;
        if options.shard.count() > 1 {
            report.bytes_before = report.rows.iter().map(|row| row.bytes_before).sum();
        }
        Ok(report)
    }

    /// Compresses a model into the container `output`, one tensor at a time.
    ///
    /// In memory are at most one tensor of the model, its decompressed form, and what its compressor needs. The file appears
    /// complete or not at all.
    ///
    /// # Errors
    ///
    /// As [`compress`](Self::compress), and [`Error::File`].
    pub fn compress_file(
        &self,
        input: &NamedTensors,
        output: impl AsRef<Path>,
        options: &CompressOptions<'_>,
    ) -> Result<Report> {
        self.check()?;
        options.check(input)?;
        let mut writer = ContainerWriter::create(output)?;
        for (key, value) in input.metadata() {
            writer.metadata(key, value);
        }
        if options.shard.count() > 1 {
            let shard = options.shard.to_string();
            writer.raw_metadata(SHARD_KEY, &shard);
        }
        let add = |name: &str, output: Output<'_>| match output {
            Output::Compressed(tensor) => writer.add(name, &Entry::Compressed(tensor)),
            Output::Plain(data) => writer.add_plain(name, data),
            Output::Tied(first) => writer.tie(name, first).map(|()| 0),
        };
        let mut report = self.each(input, options, add)?;
        report.bytes_after = writer.finish()?;
        Ok(report)
    }

    /// Compresses a model in memory.
    ///
    /// Tensors of the same type, shape and bytes are tied: where the recipe has one chain for them, they are compressed once, with
    /// the seed of the first name in rising order and the moments of the first name that has any, and stored once.
    ///
    /// ```
    /// use taper::model::{CompressOptions, NamedTensors, Recipe};
    /// use taper::ndarray::ArrayD;
    ///
    /// let weight = ArrayD::from_shape_fn(vec![32, 64], |i| ((i[0] * 3 + i[1]) as f32).sin());
    /// let tensors = NamedTensors::from_bytes(NamedTensors::to_bytes([("fc.weight", weight.view())])?)?;
    /// let recipe = Recipe::from_toml(
    ///     "[[rule]]\ntensors = \"*.weight\"\nchain = [{ fixed_point = { bits = 4 } }]",
    /// )?;
    /// let (model, report) = recipe.compress(&tensors, &CompressOptions::default())?;
    /// assert_eq!(report.bytes_after, model.file_bytes()?);
    /// assert!(report.rows[0].weight_error < 0.01);
    /// println!("{report}");
    /// # Ok::<(), taper::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`Recipe::check`]; [`Error::Unsupported`] for a container, which has to be decompressed first; [`Error::InTensor`] with the error of a reader or of calibration that does not fit its
    /// tensor, and with [`strict`](CompressOptions::strict) of a compressor; [`Error::Unsupported`] for calibration of a tensor
    /// that the model does not have; [`Error::Stopped`] from the observer.
    pub fn compress(
        &self,
        input: &NamedTensors,
        options: &CompressOptions<'_>,
    ) -> Result<(CompressedModel, Report)> {
        self.check()?;
        options.check(input)?;
        let mut model = InMemory::new(input);
        let mut report = self.each(input, options, |name, output| model.add(name, output))?;
        report.bytes_after = model.file.file_bytes()?;
        Ok((model.model, report))
    }
}

/// A tensor as the compression of a model hands it over.
pub(super) enum Output<'a> {
    Compressed(CompressedTensor),
    Plain(&'a TensorData<'a>),
    /// It equals a tensor that was handed over under this name.
    Tied(&'a str),
}

/// A compressed model and the size of its container.
pub(super) struct InMemory {
    pub(super) model: CompressedModel,
    pub(super) file: Assembler<std::io::Sink>,
}

impl InMemory {
    /// A model with the metadata of `input`, without tensors.
    pub(super) fn new(input: &NamedTensors) -> Self {
        let mut new = Self {
            model: CompressedModel::new(),
            file: Assembler::new(std::io::sink()),
        };
        for (key, value) in input.metadata() {
            new.model.set_metadata(key, value);
            new.file.metadata(key, value);
        }
        new
    }

    /// Adds a tensor; its bytes in the container are returned.
    pub(super) fn add(&mut self, name: &str, output: Output<'_>) -> Result<u64> {
        let entry = match output {
            Output::Compressed(tensor) => Entry::Compressed(tensor),
            Output::Plain(data) => Entry::Plain(data.clone().into_owned()),
            Output::Tied(first) => {
                let entry = self.model.get(first)?.clone();
                self.model.insert_entry(name, entry)?;
                self.file.tie(name, first)?;
                return Ok(0);
            }
        };
        let bytes = self.file.entry(name, &entry)?;
        self.model.insert_entry(name, entry)?;
        Ok(bytes)
    }
}
