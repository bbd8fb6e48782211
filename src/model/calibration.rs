//! What calibration data says of a model's layers, by the names of the weights.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use ndarray::{Array2, ArrayView, ArrayViewD, Axis, Dimension, aview1};

use super::tensors::within;
use super::{NamedTensors, TensorData};
use crate::{DType, Error, Float, InputMoments, Result, check};

/// Begins the metadata keys of a file of moments; the rest of a key is the name of a weight, the value `COUNT TENSOR`.
const KEY: &str = "taper.moments/";
/// The same for counts of rows; the value is `TENSOR`.
const ROWS_KEY: &str = "taper.rows/";

/// The moments of the inputs of layers, by the names of the weights that multiply these inputs, and how often the rows of
/// embeddings were used.
///
/// With them, compressors minimize the error of a layer's output ([`InputMoments`]). A calibration is accumulated batch by
/// batch in any framework, saved, loaded and merged; its size does not depend on the number of inputs.
///
/// ```
/// use taper::model::Calibration;
/// use taper::ndarray::Array3;
///
/// let mut calibration = Calibration::new();
/// for batch in 0..4 {
///     // Activations of shape (batch, tokens, features).
///     let inputs = Array3::from_shape_fn((2, 5, 8), |(n, t, i)| ((n + 3 * t + i * batch) as f32).cos());
///     calibration.add("attention.q.weight", inputs.view())?;
/// }
/// // Three layers read the same inputs.
/// calibration.share("attention.q.weight", ["attention.k.weight", "attention.v.weight"])?;
///
/// let path = std::env::temp_dir().join(format!("taper-calibration-{}", std::process::id()));
/// calibration.save(&path)?;
/// let again = Calibration::open(&path)?;
/// let moments = again.moments("attention.v.weight")?.expect("it was shared");
/// assert_eq!((moments.features(), moments.count()), (8, 4 * 2 * 5));
/// # std::fs::remove_file(&path).unwrap();
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Calibration {
    entries: BTreeMap<String, Entry>,
    /// How often each row was used.
    rows: BTreeMap<String, Vec<f64>>,
}

#[derive(Debug, Clone)]
enum Entry {
    Memory(Arc<InputMoments>),
    /// Inputs of this name in a file.
    Inputs(Arc<NamedTensors>),
    /// Moments of a file: the name of the triangle of sums, and the number of inputs.
    Stored(Arc<NamedTensors>, String, u64),
}

impl Calibration {
    /// Creates a calibration without layers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens a file that [`save`](Self::save) wrote, or a safetensors file with the inputs themselves, each of shape
    /// (…, features) under the name of its weight. Layers are read when they are needed.
    ///
    /// # Errors
    ///
    /// As [`from_tensors`](Self::from_tensors), and [`Error::File`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::from_tensors(NamedTensors::open(path)?)
    }

    /// The same for a file that is open already.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] for a file that cannot be read, [`Error::InTensor`] with [`Error::Dimensions`] for inputs without
    /// axes and [`Error::NoInputs`] for an empty axis.
    pub fn from_tensors(file: NamedTensors) -> Result<Self> {
        let file = Arc::new(file);
        let mut entries = BTreeMap::new();
        let mut rows = BTreeMap::new();
        for (key, value) in file.metadata() {
            if let Some(name) = key.strip_prefix(ROWS_KEY) {
                let data = file.data(value)?;
                if data.dtype != DType::F64 {
                    return Err(malformed(format!("counts of rows are {:?}", data.dtype)));
                }
                let counts: Vec<f64> = doubles(&data.bytes).collect();
                within(name, check_counts(&counts))?;
                rows.insert(name.to_owned(), counts);
            }
            let Some(name) = key.strip_prefix(KEY) else {
                continue;
            };
            let parsed = value.split_once(' ');
            let count = parsed.and_then(|(count, _)| count.parse().ok());
            let (Some((_, tensor)), Some(count)) = (parsed, count) else {
                return Err(malformed(format!("{key} is {value:?}")));
            };
            let entry = Entry::Stored(Arc::clone(&file), tensor.to_owned(), count);
            within(name, entry.features(name))?;
            entries.insert(name.to_owned(), entry);
        }
        if entries.is_empty() && rows.is_empty() {
            for name in file.names() {
                let entry = Entry::Inputs(Arc::clone(&file));
                within(name, entry.features(name))?;
                entries.insert(name.to_owned(), entry);
            }
        }
        Ok(Self { entries, rows })
    }

    /// Adds inputs of the layer with the weight `name`: an array whose last axis is in_features. For a convolution
    /// these are patches; [`InputMoments::add_patches`] takes images.
    ///
    /// # Errors
    ///
    /// [`Error::InTensor`] with the error of [`InputMoments::add`], and [`Error::Dimensions`] for an array without axes.
    pub fn add<F: Float, D: Dimension>(
        &mut self,
        name: &str,
        inputs: ArrayView<'_, F, D>,
    ) -> Result<()> {
        let inputs = inputs.into_dyn();
        let mut moments = match self.moments(name)? {
            Some(moments) => moments.into_owned(),
            None => within(
                name,
                features_of(inputs.shape()).and_then(InputMoments::new),
            )?,
        };
        within(name, add_all(&mut moments, inputs))?;
        self.insert(name, moments);
        Ok(())
    }

    /// Sets the moments of the layer with the weight `name`.
    pub fn insert(&mut self, name: &str, moments: InputMoments) {
        let entry = Entry::Memory(Arc::new(moments));
        self.entries.insert(name.to_owned(), entry);
    }

    /// Adds how often each row of the weight `name` was used, such as how often each token of an embedding occurred.
    ///
    /// A budget then spends more on rows that are used often. Rows that were never used count as much as those that were used
    /// once, all together, and at least as one use (the estimate of Good and Turing: I. J. Good, 1953, Biometrika 40, 237–264). A row counts as the
    /// square root of its uses, since a frequent token says less about its text.
    ///
    /// ```
    /// use taper::model::Calibration;
    ///
    /// let mut calibration = Calibration::new();
    /// // Five tokens; two batches.
    /// calibration.add_rows("embedding.weight", &[3.0, 0.0, 1.0, 0.0, 0.0])?;
    /// calibration.add_rows("embedding.weight", &[4.0, 1.0, 0.0, 0.0, 0.0])?;
    /// // Two tokens occurred once, and two never: the sums 7, 1, 1, 0 and 0 are taken for 8, 2, 2, 1 and 1.
    /// let rows = calibration.rows("embedding.weight");
    /// assert_eq!(rows, Some([8.0_f64, 2.0, 2.0, 1.0, 1.0].map(f64::sqrt).to_vec()));
    /// # Ok::<(), taper::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InTensor`] with [`Error::NonFinite`], [`Error::Parameter`] for a negative count, [`Error::EmptyAxis`] for no rows and
    /// [`Error::ShapeMismatch`] for another number of rows than before.
    pub fn add_rows(&mut self, name: &str, counts: &[f64]) -> Result<()> {
        within(name, check_counts(counts))?;
        let sums = match self.rows.get(name) {
            None => counts.to_vec(),
            Some(before) => {
                let what = "the counts of rows";
                within(
                    name,
                    check::same_shape(what, &[before.len()], &[counts.len()]),
                )?;
                before.iter().zip(counts).map(|(a, b)| a + b).collect()
            }
        };
        within(name, check_counts(&sums))?;
        self.rows.insert(name.to_owned(), sums);
        Ok(())
    }

    /// How much the squared error of each row of the weight `name` counts, if uses were [added](Self::add_rows).
    #[must_use]
    pub fn rows(&self, name: &str) -> Option<Vec<f64>> {
        let counts = self.rows.get(name)?;
        // Uses of no row say nothing about any.
        if counts.iter().all(|&count| count == 0.0) {
            return None;
        }
        let rows_used = |times: f64| counts.iter().filter(|&&count| count == times).count() as f64;
        let (never, once) = (rows_used(0.0), rows_used(1.0));
        let share = if never > 0.0 {
            (once.max(1.0) / never).min(1.0)
        } else {
            0.0
        };
        Some(counts.iter().map(|count| (count + share).sqrt()).collect())
    }

    /// The names of weights with counts of rows, and their number.
    pub(super) fn row_counts(&self) -> impl Iterator<Item = (&str, usize)> {
        self.rows
            .iter()
            .map(|(name, counts)| (name.as_str(), counts.len()))
    }

    /// Gives the layers with the weights `others` the moments of the layer `name`. They are saved once.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTensor`] where `name` has none.
    pub fn share<'a>(
        &mut self,
        name: &'a str,
        others: impl IntoIterator<Item = &'a str>,
    ) -> Result<()> {
        let moments = self.moments(name)?.ok_or_else(|| Error::UnknownTensor {
            name: name.to_owned(),
        })?;
        let shared = Arc::new(moments.into_owned());
        for name in others.into_iter().chain([name]) {
            let entry = Entry::Memory(Arc::clone(&shared));
            self.entries.insert(name.to_owned(), entry);
        }
        Ok(())
    }

    /// Adds the inputs of another calibration, such as that of another part of the data.
    ///
    /// # Errors
    ///
    /// [`Error::InTensor`] with the error of [`InputMoments::merge`].
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        for name in other.names() {
            let theirs = other.moments(name)?.expect("it is one of its names");
            let merged = match self.moments(name)? {
                None => theirs.into_owned(),
                Some(ours) => {
                    let mut ours = ours.into_owned();
                    within(name, ours.merge(&theirs))?;
                    ours
                }
            };
            self.insert(name, merged);
        }
        for (name, counts) in &other.rows {
            self.add_rows(name, counts)?;
        }
        Ok(())
    }

    /// The names of the weights with moments, in rising order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The moments of the inputs of the layer with the weight `name`, if there are any.
    ///
    /// # Errors
    ///
    /// [`Error::InTensor`] for inputs or moments that cannot be read or are not finite.
    pub fn moments(&self, name: &str) -> Result<Option<Cow<'_, InputMoments>>> {
        let entry = self.entries.get(name);
        entry
            .map(|entry| within(name, entry.read(name)))
            .transpose()
    }

    /// The number of inputs of the layer with the weight `name`, without reading its moments.
    pub(super) fn features(&self, name: &str) -> Result<usize> {
        let entry = self.entries.get(name);
        let entry = entry.ok_or_else(|| Error::UnknownTensor {
            name: name.to_owned(),
        })?;
        within(name, entry.features(name))
    }

    /// Writes the moments as a safetensors file, which replaces a file at `path` once it is complete. Shared moments are
    /// written once.
    ///
    /// # Errors
    ///
    /// [`Error::File`], and those of [`moments`](Self::moments).
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let mut tensors: Vec<(String, TensorData<'_>)> = Vec::new();
        let mut metadata = BTreeMap::new();
        let mut written: Vec<(&Arc<InputMoments>, usize)> = Vec::new();
        for (name, entry) in &self.entries {
            let shared = match entry {
                Entry::Memory(moments) => written
                    .iter()
                    .find(|(other, _)| Arc::ptr_eq(other, moments))
                    .map(|&(_, number)| number),
                _ => None,
            };
            let moments = within(name, entry.read(name))?;
            let number = shared.unwrap_or(tensors.len());
            if shared.is_none() {
                tensors.push((number.to_string(), triangle(&moments)));
                if let Entry::Memory(moments) = entry {
                    written.push((moments, number));
                }
            }
            metadata.insert(
                format!("{KEY}{name}"),
                format!("{} {number}", moments.count()),
            );
        }
        for (name, counts) in &self.rows {
            metadata.insert(format!("{ROWS_KEY}{name}"), tensors.len().to_string());
            let bytes: Vec<u8> = counts
                .iter()
                .flat_map(|count| count.to_le_bytes())
                .collect();
            let tensor = TensorData {
                dtype: DType::F64,
                shape: vec![counts.len()],
                bytes: bytes.into(),
            };
            tensors.push((tensors.len().to_string(), tensor));
        }
        let tensors = tensors
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor.clone()));
        NamedTensors::save_tagged(path, tensors, &metadata)
    }
}

impl Entry {
    fn features(&self, name: &str) -> Result<usize> {
        match self {
            Self::Memory(moments) => Ok(moments.features()),
            Self::Inputs(file) => features_of(&file.data(name)?.shape),
            Self::Stored(file, tensor, _) => {
                let data = file.data(tensor)?;
                let values = match (data.dtype, data.shape.as_slice()) {
                    (DType::F64, &[values]) => values,
                    (dtype, shape) => {
                        return Err(malformed(format!("moments are {dtype:?} of {shape:?}")));
                    }
                };
                // n (n + 1) / 2 sums for n features.
                let n = ((8.0 * values as f64 + 1.0).sqrt() as usize).saturating_sub(1) / 2;
                (n > 0 && n.checked_mul(n + 1) == Some(2 * values))
                    .then_some(n)
                    .ok_or_else(|| malformed(format!("{values} sums are no triangle")))
            }
        }
    }

    fn read(&self, name: &str) -> Result<Cow<'_, InputMoments>> {
        match self {
            Self::Memory(moments) => Ok(Cow::Borrowed(moments)),
            Self::Inputs(file) => {
                let data = file.data(name)?;
                let mut moments = InputMoments::new(features_of(&data.shape)?)?;
                if data.dtype == DType::F64 {
                    let values: Vec<f64> = doubles(&data.bytes).collect();
                    let inputs = ArrayViewD::from_shape(data.shape.as_slice(), &values);
                    add_all(
                        &mut moments,
                        inputs.expect("a file has the bytes of its shapes"),
                    )?;
                } else {
                    add_all(&mut moments, data.to_f32()?.view())?;
                }
                Ok(Cow::Owned(moments))
            }
            Self::Stored(file, tensor, count) => {
                let n = self.features(name)?;
                let data = file.data(tensor)?;
                let mut sums = doubles(&data.bytes);
                let mut sum = Array2::zeros((n, n));
                for i in 0..n {
                    for j in 0..=i {
                        let value = sums.next().expect("the triangle has been measured");
                        sum[[i, j]] = value;
                        sum[[j, i]] = value;
                    }
                }
                Ok(Cow::Owned(InputMoments::from_sum(sum, *count)?))
            }
        }
    }
}

fn malformed(problem: String) -> Error {
    Error::Malformed {
        artifact: "a calibration file",
        problem,
    }
}

fn doubles(bytes: &[u8]) -> impl Iterator<Item = f64> + '_ {
    bytes.as_chunks().0.iter().map(|&x| f64::from_le_bytes(x))
}

fn check_counts(counts: &[f64]) -> Result<()> {
    check::not_negative("the counts of rows", &aview1(counts))
}

/// The lower triangle of the sums, row by row.
fn triangle(moments: &InputMoments) -> TensorData<'static> {
    let sum = moments.sum();
    let n = sum.nrows();
    let values = (0..n).flat_map(|i| (0..=i).map(move |j| sum[[i, j]]));
    TensorData {
        dtype: DType::F64,
        shape: vec![n * (n + 1) / 2],
        bytes: values
            .flat_map(f64::to_le_bytes)
            .collect::<Vec<u8>>()
            .into(),
    }
}

/// The last axis of inputs; an error where there are none.
fn features_of(shape: &[usize]) -> Result<usize> {
    let Some(&features) = shape.last() else {
        return Err(Error::Dimensions {
            what: "the inputs of a layer",
            expected: "at least one axis, the last of which is in_features",
            shape: shape.to_vec(),
        });
    };
    if shape.contains(&0) {
        return Err(Error::NoInputs);
    }
    Ok(features)
}

/// Adds inputs of shape (…, features).
fn add_all<F: Float>(moments: &mut InputMoments, inputs: ArrayViewD<'_, F>) -> Result<()> {
    let features = features_of(inputs.shape())?;
    check::same_shape("the inputs of a layer", &[moments.features()], &[features])?;
    if inputs.ndim() == 1 {
        return moments.add(
            inputs
                .insert_axis(Axis(0))
                .into_dimensionality()
                .expect("two axes"),
        );
    }
    let rows = inputs.len() / features;
    let matrix = crate::linalg::as_matrix(inputs.view(), (rows, features))
        .expect("all axes but the last are rows");
    moments.add(matrix.view())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array3, s};

    fn inputs() -> Array3<f64> {
        Array3::from_shape_fn((4, 5, 3), |(n, t, i)| ((n * 7 + t * 3 + i) as f64).sin())
    }

    fn path(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("taper-{name}-{}", std::process::id()))
    }

    #[test]
    fn inputs_moments_and_files_of_both_agree() {
        let inputs = inputs();
        let rows = inputs.view().into_shape_with_order((20, 3)).unwrap();
        let mut expected = InputMoments::new(3).unwrap();
        expected.add(rows).unwrap();
        let mut whole = Calibration::new();
        whole.add("a", inputs.view()).unwrap();
        // Strides make no difference, nor does the file.
        whole
            .add("b", inputs.slice(s![.., ..;-1, ..]).view())
            .unwrap();
        let of = |c: &Calibration, name| c.moments(name).unwrap().unwrap().into_owned();
        assert_eq!(of(&whole, "a"), expected);
        assert_eq!(of(&whole, "b").count(), 20);

        let saved = path("calibration-moments");
        whole.save(&saved).unwrap();
        let loaded = Calibration::open(&saved).unwrap();
        assert_eq!(loaded.names().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(of(&loaded, "a"), expected);

        let bytes = inputs
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect::<Vec<u8>>();
        let doubles = TensorData {
            dtype: DType::F64,
            shape: vec![4, 5, 3],
            bytes: bytes.into(),
        };
        let file = NamedTensors::from_bytes(NamedTensors::to_bytes([("a", doubles)]).unwrap());
        let raw = Calibration::from_tensors(file.unwrap()).unwrap();
        assert_eq!(of(&raw, "a"), expected);
        std::fs::remove_file(saved).unwrap();
    }

    #[test]
    fn parts_merge_to_the_whole_and_shared_moments_are_written_once() {
        let inputs = inputs();
        let mut parts = [Calibration::new(), Calibration::new()];
        for (part, half) in parts.iter_mut().zip([s![..2, .., ..], s![2.., .., ..]]) {
            part.add("q", inputs.slice(half)).unwrap();
        }
        let [mut merged, other] = parts;
        merged.merge(&other).unwrap();
        let mut whole = Calibration::new();
        whole.add("q", inputs.view()).unwrap();
        let of = |c: &Calibration, name| c.moments(name).unwrap().unwrap().matrix().unwrap();
        let difference = (of(&merged, "q") - of(&whole, "q")).mapv(f64::abs).sum();
        // Nine sums of twenty products of at most 1.
        assert!(difference <= 9.0 * 20.0 * f64::EPSILON);

        let (alone, shared) = (path("calibration-alone"), path("calibration-shared"));
        whole.save(&alone).unwrap();
        whole.share("q", ["k", "v"]).unwrap();
        whole.save(&shared).unwrap();
        for path in [&alone, &shared] {
            assert_eq!(NamedTensors::open(path).unwrap().len(), 1);
        }
        let again = Calibration::open(&shared).unwrap();
        assert_eq!(of(&again, "v"), of(&whole, "q"));
        assert_eq!(again.rows("q"), None);
        assert!(matches!(
            whole.share("x", ["y"]),
            Err(Error::UnknownTensor { .. })
        ));
        for path in [alone, shared] {
            std::fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn counts_of_rows_add_up_through_files_and_merges() {
        let counts = [[3.0, 0.0, 1.0], [0.0, 0.0, 2.0]];
        let mut parts = [Calibration::new(), Calibration::new()];
        for (part, counts) in parts.iter_mut().zip(&counts) {
            part.add_rows("e", counts).unwrap();
        }
        parts[1].add("q", inputs().view()).unwrap();
        let path = path("calibration-rows");
        parts[1].save(&path).unwrap();
        let [mut merged, _] = parts;
        merged.merge(&Calibration::open(&path).unwrap()).unwrap();
        assert_eq!(merged.names().collect::<Vec<_>>(), ["q"]);
        // No row was used exactly once: those that were never used count as one use.
        assert_eq!(
            merged.rows("e"),
            Some([4.0_f64, 1.0, 4.0].map(f64::sqrt).to_vec())
        );

        // A file of counts alone is one of counts, not of inputs.
        let mut alone = Calibration::new();
        alone.add_rows("e", &counts[0]).unwrap();
        alone.save(&path).unwrap();
        let again = Calibration::open(&path).unwrap();
        assert_eq!(
            (again.names().count(), again.rows("e")),
            (0, alone.rows("e"))
        );
        std::fs::remove_file(path).unwrap();

        for wrong in [&[1.0, -1.0, 0.0][..], &[f64::NAN, 0.0, 0.0], &[1.0], &[]] {
            let result = merged.add_rows("e", wrong);
            assert!(
                matches!(&result, Err(Error::InTensor { name, .. }) if name == "e"),
                "{result:?}"
            );
        }
    }

    #[test]
    fn wrong_inputs_are_errors_that_name_the_layer() {
        let mut calibration = Calibration::new();
        calibration.add("a", inputs().view()).unwrap();
        let narrow = calibration.add("a", inputs().slice(s![.., .., ..2]));
        assert!(matches!(&narrow, Err(Error::InTensor { name, .. }) if name == "a"));
        let none = calibration.add("b", inputs().slice(s![..0, .., ..]));
        assert!(matches!(none, Err(Error::InTensor { source, .. }) if *source == Error::NoInputs));
        let mut infinite = inputs();
        infinite[[1, 2, 0]] = f64::INFINITY;
        assert!(calibration.add("c", infinite.view()).is_err());
        assert_eq!(calibration.names().collect::<Vec<_>>(), ["a"]);
        assert!(
            calibration
                .moments("a")
                .unwrap()
                .is_some_and(|m| m.count() == 20)
        );
    }
}
