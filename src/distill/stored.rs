//! Stored teacher logits: all of them, or the largest of each sample and a remainder.

use std::borrow::Cow;

use ndarray::{Array2, ArrayView2, ArrayViewMut1, ArrayViewMut2, ArrayViewMutD, Ix2};

use super::check_temperature;
use crate::packing::PackedCodes;
use crate::{Compressed, DType, Error, Float, Part, Precision, Result, Role, StorageBits, check};

/// The name of the artifact in errors.
const ARTIFACT: &str = "TeacherLogits";

/// The logits of a teacher for every sample of a data set, computed once and stored in few bytes.
///
/// [`dense`](Self::dense) stores all of them, [`top_k`](Self::top_k) the k largest of each sample and one value for the
/// others. Training reads them in batches of any samples ([`batch`](Self::batch)).
///
/// ```
/// use taper::distill::{TeacherLogits, softened_softmax};
/// use taper::ndarray::array;
/// use taper::{Compressed, Precision};
///
/// let logits = array![[6.0_f32, 2.0, -1.0, -2.0], [0.0, -1.0, 5.0, 4.0]];
/// let stored = TeacherLogits::top_k(logits.view(), 2, 4.0, Precision::F16)?;
/// // 4 classes of 2 bits, 4 logits and 2 remainders of 2 bytes each, and the temperature.
/// assert_eq!(Compressed::<f32>::storage(&stored).bytes(), 1 + 8 + 4 + 8);
/// let batch = stored.batch::<f32>(&[1, 0])?;
/// let p = softened_softmax(batch.view(), 4.0)?;
/// let exact = softened_softmax(logits.view(), 4.0)?;
/// assert!((p[[1, 0]] - exact[[0, 0]]).abs() < 1e-3);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct TeacherLogits {
    shape: [usize; 2],
    precision: Precision,
    /// Little-endian, as in a file, of shape (samples, classes) or (samples, k).
    logits: Vec<u8>,
    largest: Option<Largest>,
}

/// What [`TeacherLogits::top_k`] stores beside the logits.
#[derive(Debug, Clone, PartialEq)]
struct Largest {
    k: usize,
    temperature: f64,
    /// The classes of the stored logits, rising within a sample.
    classes: PackedCodes,
    /// The logit of the other classes of each sample; empty if there are no others.
    remainder: Vec<u8>,
}

impl TeacherLogits {
    /// Stores all logits, of shape (samples, classes), rounded to `precision`: each with an absolute error of at most the
    /// relative rounding error of the precision times the largest magnitude.
    ///
    /// # Errors
    ///
    /// [`Error::EmptyAxis`], [`Error::NonFinite`], [`Error::Overflow`] for logits beyond the range of
    /// `precision`, and [`Error::Underflow`] where the largest magnitude is too small for it.
    pub fn dense<F: Float>(logits: ArrayView2<'_, F>, precision: Precision) -> Result<Self> {
        check::finite("logits", &logits)?;
        let mut values: Vec<F> = logits.iter().copied().collect();
        precision.round_tensor("a teacher's logit", &mut values)?;
        Ok(Self {
            shape: logits.dim().into(),
            precision,
            logits: precision.encode(values),
            largest: None,
        })
    }

    /// Stores the `k` largest logits of each sample (of equal logits, those of the lower classes) and a remainder.
    ///
    /// The remainder is the logit of each other class, $T \ln \frac{1}{K-k} \sum_{rest} e^{v/T}$. At `temperature`, stored
    /// classes keep their softened probabilities, and the others share what remains equally. At another temperature, the
    /// logits of stored classes are still exact, the sum of the other probabilities is not.
    ///
    /// # Errors
    ///
    /// As [`dense`](Self::dense), [`Error::ExceedsInput`] for a `k` above the number of classes, and
    /// [`Error::Parameter`] for a `k` of zero or a temperature that is not positive and finite.
    pub fn top_k<F: Float>(
        logits: ArrayView2<'_, F>,
        k: usize,
        temperature: f64,
        precision: Precision,
    ) -> Result<Self> {
        check::at_least_one("k", k)?;
        check_temperature(temperature)?;
        check::finite("logits", &logits)?;
        let (samples, classes) = logits.dim();
        if k > classes {
            return Err(Error::ExceedsInput {
                what: "k",
                value: k,
                limit: classes,
            });
        }
        let (mut kept, mut codes) = (Vec::new(), Vec::new());
        let mut remainder = Vec::new();
        let mut order = Vec::new();
        for row in logits.rows() {
            order.clear();
            order.extend(row.iter().map(|x| x.as_f64()).enumerate());
            order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            let (largest, rest) = order.split_at_mut(k);
            largest.sort_by_key(|&(class, _)| class);
            for &mut (class, x) in largest {
                kept.push(x);
                codes.push(class as u32);
            }
            if let Some(&(_, top)) = rest.first() {
                // Halves, so that the difference of the largest and the smallest number is finite.
                let sum: f64 = rest
                    .iter()
                    .map(|(_, x)| ((x / 2.0 - top / 2.0) / temperature * 2.0).exp())
                    .sum();
                let mean = top + temperature * (sum / rest.len() as f64).ln();
                remainder.push(mean);
            }
        }
        precision.round_tensor("a teacher's logit", kept.iter_mut().chain(&mut remainder))?;
        Ok(Self {
            shape: [samples, classes],
            precision,
            logits: precision.encode(kept),
            largest: Some(Largest {
                k,
                temperature,
                classes: PackedCodes::pack(&codes, PackedCodes::bits_for(classes)),
                remainder: precision.encode(remainder),
            }),
        })
    }

    /// Returns the numbers of samples and of classes.
    #[must_use]
    pub fn dim(&self) -> (usize, usize) {
        self.shape.into()
    }

    /// Returns how many logits of each sample are stored.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.largest
            .as_ref()
            .map_or(self.shape[1], |largest| largest.k)
    }

    /// Returns the temperature that [`top_k`](Self::top_k) was given.
    #[must_use]
    pub fn temperature(&self) -> Option<f64> {
        self.largest.as_ref().map(|largest| largest.temperature)
    }

    /// Returns the logits of the samples `indices`, of shape (indices, classes).
    ///
    /// # Errors
    ///
    /// [`Error::ExceedsInput`] for an index that is no sample, [`Error::Overflow`] for stored logits out of the
    /// range of `F`.
    pub fn batch<F: Float>(&self, indices: &[usize]) -> Result<Array2<F>> {
        let mut out = Array2::zeros((indices.len(), self.shape[1]));
        self.batch_into(indices, out.view_mut())?;
        Ok(out)
    }

    /// Writes the logits of the samples `indices` into `out`, of shape (indices, classes).
    ///
    /// # Errors
    ///
    /// As [`batch`](Self::batch), and [`Error::ShapeMismatch`].
    pub fn batch_into<F: Float>(
        &self,
        indices: &[usize],
        mut out: ArrayViewMut2<'_, F>,
    ) -> Result<()> {
        check::same_shape("out", &[indices.len(), self.shape[1]], out.shape())?;
        let mut codes = vec![0; self.kept()];
        for (&sample, row) in indices.iter().zip(out.rows_mut()) {
            if sample >= self.shape[0] {
                return Err(Error::ExceedsInput {
                    what: "a sample's index",
                    value: sample,
                    limit: self.shape[0] - 1,
                });
            }
            self.row_into(sample, row, &mut codes)?;
        }
        Ok(())
    }

    fn row_into<F: Float>(
        &self,
        sample: usize,
        mut row: ArrayViewMut1<'_, F>,
        codes: &mut [u32],
    ) -> Result<()> {
        let kept = self.kept();
        let logits = decode(self.precision, &self.logits, sample * kept, kept);
        match &self.largest {
            None => {
                for (out, logit) in row.iter_mut().zip(logits) {
                    *out = F::from_f64_lossy(logit);
                }
            }
            Some(largest) => {
                if !largest.remainder.is_empty() {
                    let mut remainder = decode(self.precision, &largest.remainder, sample, 1);
                    let remainder = remainder.next().expect("each sample has a remainder");
                    row.fill(F::from_f64_lossy(remainder));
                }
                largest.classes.unpack_into(sample * kept, codes);
                for (&class, logit) in codes.iter().zip(logits) {
                    row[class as usize] = F::from_f64_lossy(logit);
                }
            }
        }
        check::no_overflow("a stored logit", row.iter())
    }

    /// Creates stored logits from their [parts](Compressed::parts), in any order.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] for missing or unknown parts, lengths that do not fit, classes that are out of range or do not
    /// rise, and values that are not finite.
    pub fn from_parts(shape: [usize; 2], parts: &[Part<'_>]) -> Result<Self> {
        let [samples, classes] = shape;
        let logits = find(parts, "logits")?.ok_or_else(|| malformed("the logits are missing"))?;
        let precision = match logits.dtype {
            DType::F16 => Precision::F16,
            DType::F32 => Precision::F32,
            DType::F64 => Precision::F64,
            other => return Err(malformed(format!("logits of type {other:?}"))),
        };
        let &[rows, k] = logits.shape.as_slice() else {
            return Err(malformed(format!("logits of shape {:?}", logits.shape)));
        };
        if shape.contains(&0) || rows != samples || k == 0 || k > classes {
            return Err(malformed(format!(
                "{k} logits of {rows} samples for a shape of {shape:?}"
            )));
        }
        check_values(logits, precision, &[samples, k])?;
        let codes = find(parts, "classes")?;
        let temperature = find(parts, "temperature")?;
        let remainder = find(parts, "remainder")?;
        let known = 1 + [codes, temperature, remainder]
            .into_iter()
            .flatten()
            .count();
        if known != parts.len() {
            return Err(malformed(format!(
                "{} parts, of which {known} are known",
                parts.len()
            )));
        }
        let largest = match (codes, temperature) {
            (None, None) if k == classes && remainder.is_none() => None,
            (Some(codes), Some(temperature)) => {
                let remainder = match remainder {
                    Some(remainder) if k < classes => {
                        check_values(remainder, precision, &[samples])?;
                        remainder.bytes.to_vec()
                    }
                    None if k == classes => Vec::new(),
                    _ => {
                        return Err(malformed(
                            "a remainder is needed exactly if some classes are not stored",
                        ));
                    }
                };
                check_values(temperature, Precision::F64, &[1])?;
                let temperature = decode(Precision::F64, &temperature.bytes, 0, 1)
                    .next()
                    .expect("the part holds one value");
                check_temperature(temperature).map_err(|error| malformed(error.to_string()))?;
                Some(Largest {
                    k,
                    temperature,
                    classes: classes_from(codes, [samples, k], classes)?,
                    remainder,
                })
            }
            _ => {
                return Err(malformed(format!(
                    "{k} of {classes} logits need the parts classes and temperature"
                )));
            }
        };
        Ok(Self {
            shape,
            precision,
            logits: logits.bytes.to_vec(),
            largest,
        })
    }
}

impl<F: Float> Compressed<F> for TeacherLogits {
    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn parts(&self) -> Vec<Part<'_>> {
        let dtype = self.precision.dtype();
        let part = |name, dtype, shape, role, bytes| Part {
            name,
            dtype,
            shape,
            role,
            bytes,
        };
        let samples = self.shape[0];
        let mut parts = vec![part(
            "logits",
            dtype,
            vec![samples, self.kept()],
            Role::Payload,
            Cow::Borrowed(self.logits.as_slice()),
        )];
        if let Some(largest) = &self.largest {
            let codes = largest.classes.bytes();
            parts.push(part(
                "classes",
                DType::U8,
                vec![codes.len()],
                Role::Payload,
                Cow::Borrowed(codes),
            ));
            if !largest.remainder.is_empty() {
                parts.push(part(
                    "remainder",
                    dtype,
                    vec![samples],
                    Role::SideInformation,
                    Cow::Borrowed(largest.remainder.as_slice()),
                ));
            }
            parts.push(part(
                "temperature",
                DType::F64,
                vec![1],
                Role::SideInformation,
                Cow::Owned(largest.temperature.to_le_bytes().to_vec()),
            ));
        }
        parts
    }

    fn storage(&self) -> StorageBits {
        let bits = |bytes: &[u8]| 8 * bytes.len() as u64;
        let size = StorageBits::new().with("logits", Role::Payload, bits(&self.logits));
        let Some(largest) = &self.largest else {
            return size;
        };
        let mut size = size.with("classes", Role::Payload, largest.classes.total_bits());
        if !largest.remainder.is_empty() {
            size = size.with("remainder", Role::SideInformation, bits(&largest.remainder));
        }
        size.with("temperature", Role::SideInformation, 64)
    }

    fn decompress_into(&self, out: ArrayViewMutD<'_, F>) -> Result<()> {
        check::same_shape("out", &self.shape, out.shape())?;
        let mut out = out
            .into_dimensionality::<Ix2>()
            .map_err(|_| malformed("two axes were expected"))?;
        let mut codes = vec![0; self.kept()];
        for (sample, row) in out.outer_iter_mut().enumerate() {
            self.row_into(sample, row, &mut codes)?;
        }
        Ok(())
    }
}

/// Reads `count` stored values from value `start` on.
fn decode(
    precision: Precision,
    bytes: &[u8],
    start: usize,
    count: usize,
) -> impl Iterator<Item = f64> + '_ {
    let width = precision.dtype().bytes();
    let range = start * width..(start + count) * width;
    precision.decode(&bytes[range])
}

fn malformed(problem: impl Into<String>) -> Error {
    Error::Malformed {
        artifact: ARTIFACT,
        problem: problem.into(),
    }
}

/// Returns the part called `name`, of which there may be one.
fn find<'p, 'b>(parts: &'p [Part<'b>], name: &str) -> Result<Option<&'p Part<'b>>> {
    let mut found = parts.iter().filter(|part| part.name == name);
    match (found.next(), found.next()) {
        (_, Some(_)) => Err(malformed(format!("two parts are called {name}"))),
        (part, None) => Ok(part),
    }
}

/// Fails if `part` does not hold finite values of this precision and shape.
fn check_values(part: &Part<'_>, precision: Precision, shape: &[usize]) -> Result<()> {
    let count = shape
        .iter()
        .try_fold(1_usize, |n, &axis| n.checked_mul(axis));
    let length = count.and_then(|n| n.checked_mul(part.dtype.bytes()));
    if part.dtype != precision.dtype() || part.shape != shape || length != Some(part.bytes.len()) {
        return Err(malformed(format!(
            "{}: {} bytes of {:?} and shape {:?} where {:?} of shape {shape:?} are needed",
            part.name,
            part.bytes.len(),
            part.dtype,
            part.shape,
            precision.dtype(),
        )));
    }
    let count = count.expect("the length was computed from it");
    let mut values = decode(precision, &part.bytes, 0, count);
    match values.find(|x| !x.is_finite()) {
        Some(value) => Err(malformed(format!("{} holds {value}", part.name))),
        None => Ok(()),
    }
}

/// Reads the stored classes, `[samples, k]` of them, and checks that they are below `classes` and rise within a sample.
fn classes_from(part: &Part<'_>, [samples, k]: [usize; 2], classes: usize) -> Result<PackedCodes> {
    if part.dtype != DType::U8 || part.shape != [part.bytes.len()] {
        return Err(malformed(format!(
            "classes of {:?} and shape {:?}",
            part.dtype, part.shape
        )));
    }
    let bytes = part.bytes.to_vec();
    let packed =
        PackedCodes::from_bytes(ARTIFACT, bytes, samples * k, PackedCodes::bits_for(classes))?;
    let mut codes = vec![0; k];
    for sample in 0..samples {
        packed.unpack_into(sample * k, &mut codes);
        let rising = codes.windows(2).all(|pair| pair[0] < pair[1]);
        if !rising || codes.last().is_some_and(|&class| class as usize >= classes) {
            return Err(malformed(format!(
                "the classes {codes:?} of sample {sample}"
            )));
        }
    }
    Ok(packed)
}
