//! From a model and a recipe to a container, one tensor at a time.

use std::path::Path;

use ndarray::ArrayD;

use super::allocate::{Budget, RatePoint, allocate};
use super::compressed::CompressedModel;
use super::container::{Assembler, ContainerWriter};
use super::entry::{CompressedTensor, Entry};
use super::recipe::{Recipe, Rule};
use super::report::{Report, ReportRow};
use super::shard::{SHARD_KEY, Shard};
use super::step::{self, Step, chain_text};
use super::tensors::within;
use super::{Dtype, NamedTensors, TensorData};
use crate::limit::{EmpiricalSource, RateDistortionGap};
use crate::{Error, InputMoments, Result, Seed};

/// What a compression is told beside the recipe.
///
/// ```
/// use taper::model::{CompressOptions, NamedTensors, Recipe, Rule, Source, Step};
/// use taper::ndarray::ArrayD;
/// use taper::Precision;
///
/// let weight = ArrayD::from_shape_fn(vec![16, 8], |index| (index[0] * 3 + index[1]) as f32);
/// let bytes = NamedTensors::to_bytes([("fc.weight", weight.view())])?;
/// let model = NamedTensors::new(Source::from(bytes))?;
/// let half = Rule { tensors: "*.weight".to_owned(), min_values: 0, chain: vec![Step::Dense { precision: Precision::F16 }] };
/// let recipe = Recipe { seed: 7, rules: vec![half] };
/// let (small, report) = recipe.compress(&model, &CompressOptions::default().limits(true))?;
/// assert!(report.rows[0].limit_bits.is_none()); // nothing is beyond a tensor without error
/// # let _ = small;
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct CompressOptions<'a> {
    /// Inputs of layers, under the names of the weights that multiply them, each of shape (batch, in_features); for a
    /// convolution the patches, of in_channels · height · width values. Compressors that can then minimize
    /// the error of the layer's output, and the report tells it.
    pub calibration: Option<&'a NamedTensors>,
    /// Which part of the model is compressed.
    pub shard: Shard,
    /// Whether the report tells the limit of each tensor, which takes a second or so for each.
    pub limits: bool,
}

impl<'a> CompressOptions<'a> {
    /// The same with inputs of layers.
    #[must_use]
    pub fn calibration(self, calibration: &'a NamedTensors) -> Self {
        Self {
            calibration: Some(calibration),
            ..self
        }
    }

    /// The same for a part of the model.
    #[must_use]
    pub fn shard(self, shard: Shard) -> Self {
        Self { shard, ..self }
    }

    /// The same with limits in the report, or without.
    #[must_use]
    pub fn limits(self, limits: bool) -> Self {
        Self { limits, ..self }
    }

    fn moments(&self, name: &str) -> Result<Option<InputMoments>> {
        let Some(calibration) = self.calibration else {
            return Ok(None);
        };
        if !calibration.names().any(|other| other == name) {
            return Ok(None);
        }
        let inputs = calibration.get(name)?;
        let shape = inputs.shape().to_vec();
        let inputs =
            inputs
                .into_dimensionality::<ndarray::Ix2>()
                .map_err(|_| Error::Dimensions {
                    what: "the inputs of a layer",
                    expected: "two axes",
                    shape,
                })?;
        let mut moments = InputMoments::new(inputs.ncols())?;
        moments.add(inputs.view())?;
        Ok(Some(moments))
    }
}

/// ‖W − Ŵ‖² / ‖W‖²; of an all-zero tensor 0 or infinite.
fn relative_error(weights: &ArrayD<f32>, rebuilt: &ArrayD<f32>) -> f64 {
    let (mut error, mut norm) = (0.0, 0.0);
    for (&w, &r) in weights.iter().zip(rebuilt) {
        let (w, r) = (f64::from(w), f64::from(r));
        error += (w - r) * (w - r);
        norm += w * w;
    }
    if error == 0.0 { 0.0 } else { error / norm }
}

/// A compressed tensor and its errors.
struct Made {
    tensor: CompressedTensor,
    weight_error: f64,
    output_error: Option<f64>,
}

fn make(
    chain: &[Step],
    weights: &ArrayD<f32>,
    dtype: Dtype,
    moments: Option<&InputMoments>,
    seed: Seed,
) -> Result<Made> {
    let tensor = step::compress(chain, weights.view(), moments, seed)?.with_dtype(dtype);
    let rebuilt = tensor.decompress()?;
    let weight_error = relative_error(weights, &rebuilt);
    let output_error = match moments {
        Some(moments) if weights.ndim() >= 2 => {
            let w = step::as_matrix(weights.view())?;
            let r = step::as_matrix(rebuilt.view())?;
            Some(moments.relative_output_error(w.view(), r.view())?)
        }
        _ => None,
    };
    Ok(Made {
        tensor,
        weight_error,
        output_error,
    })
}

/// The least bits a weight at the error of a tensor, where there is an error and a limit.
fn limit(weights: &ArrayD<f32>, made: &Made) -> Option<f64> {
    let source = EmpiricalSource::of(weights.view()).ok()?;
    let squares: f64 = weights.iter().map(|&w| f64::from(w).powi(2)).sum();
    let values = weights.len() as f64;
    let bits = made.tensor.artifact().storage().total() as f64 / values;
    let gap = RateDistortionGap::at(bits, made.weight_error * squares / values, &source);
    Some(gap.ok()?.limit_bits?.lower)
}

impl Recipe {
    fn seed_of(&self, name: &str) -> Seed {
        Seed::from(self.seed).derive_name(name)
    }

    /// A tensor by its chain; none where it is kept.
    fn tensor(
        &self,
        name: &str,
        data: &TensorData<'_>,
        options: &CompressOptions<'_>,
    ) -> Result<(Option<Made>, ReportRow)> {
        let chain = self.chain(name, data)?;
        let mut row = ReportRow {
            name: name.to_owned(),
            method: chain_text(chain),
            shape: data.shape.clone(),
            bytes_before: data.bytes.len() as u64,
            bytes_after: data.bytes.len() as u64,
            weight_error: 0.0,
            output_error: None,
            limit_bits: None,
        };
        if step::keeps(chain) {
            return Ok((None, row));
        }
        let weights = data.to_f32()?;
        let moments = options.moments(name)?;
        let made = make(
            chain,
            &weights,
            data.dtype,
            moments.as_ref(),
            self.seed_of(name),
        )?;
        row.weight_error = made.weight_error;
        row.output_error = made.output_error;
        if options.limits {
            row.limit_bits = limit(&weights, &made);
        }
        Ok((Some(made), row))
    }

    /// Compresses the tensors of a part one after the other, and hands each to `add`, which tells its bytes.
    fn each(
        &self,
        input: &NamedTensors,
        options: &CompressOptions<'_>,
        mut add: impl FnMut(&str, &TensorData<'_>, Option<CompressedTensor>) -> Result<u64>,
        mut progress: impl FnMut(&ReportRow),
    ) -> Result<Report> {
        let mut report = Report {
            bytes_before: input.file_bytes(),
            ..Report::default()
        };
        for name in options.shard.names(input)? {
            let data = input.data(&name)?;
            let (made, mut row) = within(&name, self.tensor(&name, &data, options))?;
            row.bytes_after = add(&name, &data, made.map(|made| made.tensor))?;
            progress(&row);
            report.rows.push(row);
        }
        if options.shard.count() > 1 {
            report.bytes_before = report.rows.iter().map(|row| row.bytes_before).sum();
        }
        Ok(report)
    }

    /// Compresses a model into the container `output`, one tensor at a time; `progress` is called after each.
    ///
    /// In memory are at most one tensor of the model, what it rebuilds to, and what its compressor needs. The file is
    /// there whole or not at all.
    ///
    /// # Errors
    ///
    /// [`Error::InTensor`] with what a compressor or a reader says, [`Error::File`], and those of
    /// [`Recipe::check`].
    pub fn compress_file(
        &self,
        input: &NamedTensors,
        output: impl AsRef<Path>,
        options: &CompressOptions<'_>,
        mut progress: impl FnMut(&ReportRow),
    ) -> Result<Report> {
        self.check()?;
        let mut writer = ContainerWriter::create(output)?;
        for (key, value) in input.metadata() {
            writer.metadata(key, value);
        }
        if options.shard.count() > 1 {
            let shard = options.shard.to_string();
            writer.raw_metadata(SHARD_KEY, &shard);
        }
        let add = |name: &str, data: &TensorData<'_>, made: Option<CompressedTensor>| match made {
            Some(tensor) => writer.add(name, &Entry::Compressed(tensor)),
            None => writer.add_plain(name, data),
        };
        let mut report = self.each(input, options, add, &mut progress)?;
        report.bytes_after = writer.finish()?;
        Ok(report)
    }

    /// Compresses a model in memory.
    ///
    /// ```
    /// use taper::model::{CompressOptions, NamedTensors, Recipe, Source};
    /// use taper::ndarray::{ArrayD, IxDyn};
    ///
    /// let weight = ArrayD::from_shape_fn(IxDyn(&[32, 64]), |i| ((i[0] * 3 + i[1]) as f32).sin());
    /// let bytes = NamedTensors::to_bytes([("fc.weight", weight.view())])?;
    /// let tensors = NamedTensors::new(Source::from(bytes))?;
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
    /// As [`compress_file`](Self::compress_file).
    pub fn compress(
        &self,
        input: &NamedTensors,
        options: &CompressOptions<'_>,
    ) -> Result<(CompressedModel, Report)> {
        self.check()?;
        let mut model = CompressedModel::new();
        for (key, value) in input.metadata() {
            model.set_metadata(key, value);
        }
        let add = |name: &str, data: &TensorData<'_>, made: Option<CompressedTensor>| {
            let entry = match made {
                Some(tensor) => Entry::Compressed(tensor),
                None => Entry::Plain(data.clone().into_owned()),
            };
            let bytes = Assembler::new(std::io::sink()).entry(name, &entry)?;
            model.insert_entry(name, entry)?;
            Ok(bytes)
        };
        let mut report = self.each(input, options, add, |_| {})?;
        report.bytes_after = model.file_bytes()?;
        Ok((model, report))
    }

    /// The recipe that keeps a model within a budget: every candidate is tried on every tensor of two axes and
    /// more, and [`allocate`] chooses among what was measured.
    ///
    /// Errors are those of the layer's output where its inputs are given, else of the weights, relative to what they are of,
    /// times `sensitivity` of the tensor's name: with 1 for all, every tensor counts alike. A budget in bytes is
    /// that of the whole file. Candidates that do not fit a tensor's shape are left out for it; it may
    /// always be kept. The rules of the recipe name one tensor each.
    ///
    /// # Errors
    ///
    /// [`Error::BudgetOutOfReach`], [`Error::InTensor`] for a tensor that is not finite, and what [`allocate`] says of a
    /// sensitivity that is negative or not finite.
    pub fn for_budget(
        input: &NamedTensors,
        candidates: &[Vec<Step>],
        budget: Budget,
        seed: u64,
        options: &CompressOptions<'_>,
        sensitivity: impl Fn(&str) -> f64,
        mut progress: impl FnMut(&str),
    ) -> Result<Self> {
        let recipe = Self {
            seed,
            rules: Vec::new(),
        };
        for chain in candidates {
            step::check_chain(chain)?;
        }
        let mut fixed = Assembler::new(std::io::sink());
        for (key, value) in input.metadata() {
            fixed.metadata(key, value);
        }
        let empty = Assembler::new(std::io::sink()).file_bytes()?;
        let mut layers: Vec<(String, Vec<Vec<Step>>)> = Vec::new();
        let mut points: Vec<Vec<RatePoint>> = Vec::new();
        for name in input.names() {
            let data = input.data(name)?;
            if !data.is_float() || data.shape.len() < 2 || data.bytes.is_empty() {
                fixed.plain(name, &data)?;
                progress(name);
                continue;
            }
            let weights = data.to_f32()?;
            within(name, crate::check::finite("the weights", &weights.view()))?;
            let moments = within(name, options.moments(name))?;
            // Offsets in the header grow with the file; the measure is that of a file of this tensor alone.
            let cost = |assembler: Assembler<std::io::Sink>| {
                let arrays = assembler.arrays() as u64;
                Ok::<_, Error>((assembler.file_bytes()? - empty) + OFFSETS * arrays)
            };
            let mut alone = Assembler::new(std::io::sink());
            alone.plain(name, &data)?;
            let mut chains = vec![vec![Step::Keep]];
            let mut measured = vec![RatePoint {
                bytes: cost(alone)?,
                error: 0.0,
            }];
            for chain in candidates {
                let seed = recipe.seed_of(name);
                let made = make(chain, &weights, data.dtype, moments.as_ref(), seed);
                let Ok(made) = made else { continue };
                let mut alone = Assembler::new(std::io::sink());
                alone.entry(name, &Entry::Compressed(made.tensor))?;
                let error = made.output_error.unwrap_or(made.weight_error);
                measured.push(RatePoint {
                    bytes: cost(alone)?,
                    error: error * sensitivity(name),
                });
                chains.push(chain.clone());
            }
            layers.push((name.to_owned(), chains));
            points.push(measured);
            progress(name);
        }
        let budget = match budget {
            Budget::Bytes(bytes) => {
                let arrays = fixed.arrays() as u64;
                let fixed = fixed.file_bytes()? + OFFSETS * arrays;
                let left = bytes.checked_sub(fixed);
                Budget::Bytes(left.ok_or(Error::BudgetOutOfReach {
                    what: "bytes",
                    budget: bytes as f64,
                    least: fixed as f64,
                })?)
            }
            error @ Budget::Error(_) => error,
        };
        let chosen = allocate(&points, budget)?;
        let mut rules = Vec::new();
        for ((name, chains), index) in layers.into_iter().zip(chosen) {
            rules.push(Rule {
                tensors: glob::Pattern::escape(&name),
                min_values: 0,
                chain: chains.into_iter().nth(index).unwrap_or_default(),
            });
        }
        Ok(Self { seed, rules })
    }
}

/// What two offsets of an array may take more in a header than in one of that array alone.
const OFFSETS: u64 = 24;

/// Candidates for [`Recipe::for_budget`]: fixed point of 2 to 8 bits, product quantization of 1 to 4 bits a weight, and
/// pruned weights in clusters.
///
/// ```
/// let candidates = taper::model::default_candidates();
/// assert!(candidates.iter().all(|chain| !chain.is_empty()));
/// ```
#[must_use]
pub fn default_candidates() -> Vec<Vec<Step>> {
    let fixed_point = |bits| Step::FixedPoint {
        bits,
        symmetry: Default::default(),
        granularity: crate::quantize::fixed_point::Granularity::PerRow,
        range: crate::quantize::fixed_point::Range::SquaredError,
        precision: crate::Precision::F16,
    };
    let product = |width, centroids| Step::Product {
        width,
        centroids,
        axis: crate::quantize::product::SplitAxis::In,
        codebook: crate::quantize::product::Codebook::Shared,
        precision: crate::Precision::F16,
        stages: 1,
        rotate: false,
    };
    let prune = |keep| Step::Prune {
        keep: crate::prune::Keep::Fraction(keep),
        precision: crate::Precision::F16,
    };
    let mut candidates: Vec<Vec<Step>> = [2, 3, 4, 5, 6, 8]
        .into_iter()
        .map(|bits| vec![fixed_point(bits)])
        .collect();
    for (width, centroids) in [(8, 256), (4, 64), (4, 256), (2, 32), (2, 64), (2, 256)] {
        candidates.push(vec![product(width, centroids)]);
    }
    for keep in [0.1, 0.2, 0.4] {
        candidates.push(vec![prune(keep), product(1, 16)]);
    }
    candidates
}
