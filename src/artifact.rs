//! Artifacts: what a compressor returns.

use std::borrow::Cow;
use std::fmt::{self, Debug};

use ndarray::{Array2, ArrayD, ArrayView2, ArrayViewMut2, ArrayViewMutD, IxDyn};

use crate::{DType, Error, Float, Result};

/// A compressed tensor: its size, its dense tensor, and the report of its fit.
///
/// The trait is object-safe: a model can hold tensors of different compressors as `Box<dyn Compressed<f32>>`.
///
/// ```
/// use taper::factorize::{Rank, svd::TruncatedSvd};
/// use taper::ndarray::Array2;
/// use taper::quantize::fixed_point::FixedPointQuantizer;
/// use taper::{Compressed, Factorizer, Quantizer};
///
/// let weights = Array2::from_shape_fn((32, 16), |(o, i)| ((o * 3 + i * 5) as f32).sin());
/// let artifacts: Vec<Box<dyn Compressed<f32>>> = vec![
///     Box::new(FixedPointQuantizer::new(4).quantize(weights.view())?),
///     Box::new(TruncatedSvd::new(Rank::Fixed(2)).factorize(weights.view())?),
/// ];
/// for artifact in &artifacts {
///     let written: usize = artifact.parts().iter().map(|part| part.bytes.len()).sum();
///     assert_eq!(artifact.storage().bytes(), written as u64);
///     assert_eq!(artifact.decompress()?.shape(), artifact.shape());
///     assert!(artifact.ratio() > 4.0);
/// }
/// # Ok::<(), taper::Error>(())
/// ```
pub trait Compressed<F: Float>: Debug + Send + Sync {
    /// The shape of the dense tensor.
    fn shape(&self) -> &[usize];

    /// The arrays of the artifact, as the bytes of a file.
    ///
    /// The artifact can be restored from them (`from_parts`). Bytes are little-endian; packed codes fill each byte from its
    /// lowest bit on.
    fn parts(&self) -> Vec<Part<'_>>;

    /// The exact size, counted without serializing.
    ///
    /// Equal to the lengths of [`parts`](Self::parts): `storage().bytes()` is the sum of their bytes.
    fn storage(&self) -> StorageBits;

    /// Writes the dense tensor into `out`.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`] where `out` has another shape than [`shape`](Self::shape).
    fn decompress_into(&self, out: ArrayViewMutD<'_, F>) -> Result<()>;

    /// The dense tensor.
    ///
    /// # Errors
    ///
    /// [`Error::Overflow`] for products of artifacts whose values may leave the range of the type; none for all other
    /// artifacts that this crate makes.
    fn decompress(&self) -> Result<ArrayD<F>> {
        let mut out = ArrayD::zeros(IxDyn(self.shape()));
        self.decompress_into(out.view_mut())?;
        Ok(out)
    }

    /// The report of the fit, for an artifact of an iterative fit.
    fn report(&self) -> Option<&FitReport> {
        None
    }

    /// Uncompressed size over compressed size, both in bytes, with the dense tensor stored in `F`.
    fn ratio(&self) -> f64 {
        let dense: usize = self.shape().iter().product();
        (dense as f64 * f64::from(F::BITS / 8)) / self.storage().bytes() as f64
    }
}

/// A compressed weight matrix W of shape (out_features, in_features) that multiplies in its compressed form.
///
/// ```
/// use taper::ndarray::Array2;
/// use taper::quantize::product::ProductQuantizer;
/// use taper::{LinearOp, Quantizer};
///
/// let weights = Array2::from_shape_fn((32, 16), |(o, i)| ((o * 3 + i * 5) as f64).sin());
/// let matrix = ProductQuantizer::new(8).centroids(8).quantize(weights.view())?;
/// let x = Array2::ones((4, 16));
/// let dense = x.dot(&matrix.decompress_matrix()?.t());
/// assert!((matrix.apply(x.view())? - dense).iter().all(|difference| difference.abs() < 1e-12));
/// # Ok::<(), taper::Error>(())
/// ```
pub trait LinearOp<F: Float>: Compressed<F> {
    /// Writes y = x Wᵀ into `y`, without building the dense W.
    ///
    /// `x` has shape (batch, in_features), `y` (batch, out_features). `y` is overwritten.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`] where `x` or `y` does not fit. Values of `x` that are not finite give
    /// results that are not finite, as in a dense product.
    fn apply_into(&self, x: ArrayView2<'_, F>, y: ArrayViewMut2<'_, F>) -> Result<()>;

    /// Returns y = x Wᵀ, of shape (batch, out_features).
    ///
    /// # Errors
    ///
    /// As [`apply_into`](Self::apply_into).
    fn apply(&self, x: ArrayView2<'_, F>) -> Result<Array2<F>> {
        let out_features = *self.shape().first().ok_or_else(|| Error::Dimensions {
            what: "the compressed weight",
            expected: "two axes",
            shape: self.shape().to_vec(),
        })?;
        let mut y = Array2::zeros((x.nrows(), out_features));
        self.apply_into(x, y.view_mut())?;
        Ok(y)
    }

    /// The dense matrix W: [`decompress`](Compressed::decompress) with the axes of a matrix.
    ///
    /// ```
    /// use taper::ndarray::array;
    /// use taper::quantize::binary::{Binarizer, Granularity};
    /// use taper::{LinearOp, Quantizer};
    ///
    /// let w = array![[0.5, -1.5], [2.0, 2.0]];
    /// let binary = Binarizer::new().scaling(Granularity::PerRow).quantize(w.view())?;
    /// assert_eq!(binary.decompress_matrix()?, array![[1.0, -1.0], [2.0, 2.0]]);
    /// # Ok::<(), taper::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`decompress`](Compressed::decompress).
    fn decompress_matrix(&self) -> Result<Array2<F>> {
        let dense = self.decompress()?;
        let shape = dense.shape().to_vec();
        dense.into_dimensionality().map_err(|_| Error::Dimensions {
            what: "a decompressed matrix",
            expected: "two axes",
            shape,
        })
    }
}

/// Checks the shapes of an [`apply_into`](LinearOp::apply_into) call against those of the weight.
pub(crate) fn check_apply<F: Float>(
    shape: [usize; 2],
    x: &ArrayView2<'_, F>,
    y: &ArrayViewMut2<'_, F>,
) -> Result<()> {
    let [out_features, in_features] = shape;
    crate::check::same_shape("x", &[x.nrows(), in_features], x.shape())?;
    crate::check::same_shape("y", &[x.nrows(), out_features], y.shape())
}

/// One array of an artifact, as a file holds it.
///
/// ```
/// use taper::ndarray::array;
/// use taper::quantize::binary::{Binarizer, Granularity};
/// use taper::{Compressed, DType, Quantizer, Role};
///
/// let w = array![[0.5_f32, -1.5], [2.0, 2.0]];
/// let binary = Binarizer::new().scaling(Granularity::PerRow).quantize(w.view())?;
/// let parts = binary.parts();
/// assert_eq!((parts[0].name, parts[0].role), ("signs", Role::Payload));
/// assert_eq!((parts[1].name, parts[1].dtype, parts[1].shape.as_slice()), ("scales", DType::F32, &[2][..]));
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Part<'a> {
    /// The name of the array, such as `codes`, `codebooks` or `scales`.
    pub name: &'static str,
    /// The type of its elements.
    pub dtype: DType,
    /// Its shape, in elements.
    pub shape: Vec<usize>,
    /// Whether it is the payload or side information.
    pub role: Role,
    /// Its elements in row-major order, little-endian.
    pub bytes: Cow<'a, [u8]>,
}

/// Whether a stored part holds a code or number for each weight, or is shared by many weights. [`StorageBits`] has an example.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Codes, signs, factors: they grow with the number of weights.
    Payload,
    /// Codebooks, scales, offsets: many weights share each number.
    SideInformation,
}

/// The precision in which an artifact stores its real numbers: codebooks, scales, factors.
///
/// A number that multiplies others (a scale, a step) is stored with the relative rounding error u of the precision: 2⁻¹¹, 2⁻²⁴
/// or 2⁻⁵³. The values of a tensor (weights, factors, logits) are stored with an absolute error of at most u times the
/// largest magnitude. Numbers too small for this are [`Error::Underflow`], and numbers too large [`Error::Overflow`].
///
/// ```
/// use taper::ndarray::Array2;
/// use taper::quantize::product::ProductQuantizer;
/// use taper::{Compressed, Precision, Quantizer};
///
/// let weights = Array2::from_shape_fn((16, 32), |(o, i)| ((o * 3 + i * 5) as f32).sin());
/// let quantizer = ProductQuantizer::new(4).centroids(4);
/// let single = quantizer.clone().quantize(weights.view())?;
/// let half = quantizer.precision(Precision::F16).quantize(weights.view())?;
/// assert_eq!(2 * half.storage().side_information(), single.storage().side_information());
/// # Ok::<(), taper::Error>(())
/// ```
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(rename_all = "lowercase"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Precision {
    /// Half precision, 16 bits (11 bits of significand, largest finite value 65,504).
    F16,
    /// Single precision, 32 bits.
    #[default]
    F32,
    /// Double precision, 64 bits; beyond what `f32` weights hold.
    F64,
}

impl Precision {
    /// The bits of a value.
    #[must_use]
    pub fn bits(self) -> u64 {
        8 * self.dtype().bytes() as u64
    }

    /// The element type of the stored part.
    #[must_use]
    pub fn dtype(self) -> DType {
        match self {
            Self::F16 => DType::F16,
            Self::F32 => DType::F32,
            Self::F64 => DType::F64,
        }
    }

    /// Rounds one of many values to the nearest of this precision. The error is small relative to the largest of the values.
    ///
    /// Below the normal numbers, the relative error of the result is not bounded. Use [`round_factor`](Self::round_factor) for
    /// a value that multiplies others, and [`round_tensor`](Self::round_tensor) for all values of a tensor.
    ///
    /// # Errors
    ///
    /// [`Error::Overflow`] where a finite value becomes infinite.
    pub(crate) fn round<F: Float>(self, what: &'static str, value: F) -> Result<F> {
        let rounded: F = self.nearest(value.as_f64());
        if rounded.is_finite() || !value.is_finite() {
            Ok(rounded)
        } else {
            Err(Error::Overflow { what })
        }
    }

    /// Rounds a factor of other values, such as a scale, to the nearest value of this precision, within the relative rounding
    /// error.
    ///
    /// A value that loses binary digits at the lower end of the range is an error.
    ///
    /// # Errors
    ///
    /// [`Error::Overflow`] where a finite value becomes infinite, [`Error::Underflow`] for a value below the normal numbers that
    /// this precision, or `F`, holds less accurately than a normal one.
    pub(crate) fn round_factor<F: Float>(self, what: &'static str, value: f64) -> Result<F> {
        let rounded: F = self.nearest(value);
        if value.is_finite() && !rounded.is_finite() {
            return Err(Error::Overflow { what });
        }
        if self.holds(value, rounded) {
            Ok(rounded)
        } else {
            Err(Error::Underflow {
                what,
                value,
                precision: self,
            })
        }
    }

    /// Rounds the values of a tensor to the nearest of this precision.
    ///
    /// The largest magnitude is stored within the relative rounding error u of the precision (2⁻¹¹ for half precision). The absolute
    /// error of every other value is then at most u times the largest magnitude. Small values may become zero.
    ///
    /// # Errors
    ///
    /// [`Error::Overflow`] where a finite value becomes infinite, [`Error::Underflow`] where a value is rounded and the largest
    /// magnitude is below the normal numbers.
    pub(crate) fn round_tensor<'a, F: Float>(
        self,
        what: &'static str,
        values: impl IntoIterator<Item = &'a mut F>,
    ) -> Result<()> {
        let (mut largest, mut exact) = (F::zero(), true);
        for value in values {
            let rounded = self.round(what, *value)?;
            exact &= rounded == *value;
            largest = largest.max(value.abs());
            *value = rounded;
        }
        if exact {
            return Ok(());
        }
        self.fits_tensor(what, largest)
    }

    /// Checks that values of a tensor with this largest magnitude keep the accuracy that [`round_tensor`](Self::round_tensor)
    /// states.
    ///
    /// # Errors
    ///
    /// [`Error::Underflow`] where the largest magnitude is below the normal numbers.
    pub(crate) fn fits_tensor<F: Float>(self, what: &'static str, largest: F) -> Result<()> {
        let value = largest.as_f64();
        let smallest = match self {
            Self::F16 => 2_f64.powi(-14),
            Self::F32 => f64::from(f32::MIN_POSITIVE),
            Self::F64 => F::min_positive_value().as_f64(),
        };
        if value == 0.0 || value >= smallest {
            return Ok(());
        }
        Err(Error::Underflow {
            what,
            value,
            precision: self,
        })
    }

    /// The nearest value of this precision and of `F`, which may be infinite.
    fn nearest<F: Float>(self, value: f64) -> F {
        match self {
            Self::F16 => {
                F::from_f64_lossy(half::f16::from_f64(F::from_f64_lossy(value).as_f64()).to_f64())
            }
            Self::F32 => F::from_f64_lossy(f64::from(value as f32)),
            Self::F64 => F::from_f64_lossy(value),
        }
    }

    /// Whether `rounded` is the value that rounding would give with an unlimited range of exponents.
    fn holds<F: Float>(self, value: f64, rounded: F) -> bool {
        const FRACTION: u32 = 52;
        const ONE: u64 = 1023 << FRACTION;
        if value == 0.0 || !value.is_finite() {
            return true;
        }
        if value.is_subnormal() {
            // The double itself has lost digits already.
            return false;
        }
        let exponent = value.to_bits() >> FRACTION << FRACTION & !(1 << 63);
        let significand = f64::from_bits(value.to_bits() - exponent + ONE);
        let exact = self.nearest::<F>(significand).as_f64() * f64::from_bits(exponent);
        rounded.as_f64() == exact
    }

    /// The bytes of `values`, which have been [rounded](Self::round) to this precision before.
    pub(crate) fn encode<F: Float>(self, values: impl IntoIterator<Item = F>) -> Vec<u8> {
        let values = values.into_iter().map(Float::as_f64);
        match self {
            Self::F16 => values
                .flat_map(|x| half::f16::from_f64(x).to_le_bytes())
                .collect(),
            Self::F32 => values.flat_map(|x| (x as f32).to_le_bytes()).collect(),
            Self::F64 => values.flat_map(f64::to_le_bytes).collect(),
        }
    }

    /// The values whose bytes [`encode`](Self::encode) wrote. Bytes after the last whole value are ignored.
    pub(crate) fn decode(self, bytes: &[u8]) -> impl Iterator<Item = f64> + '_ {
        bytes
            .chunks_exact(self.dtype().bytes())
            .map(|value| match *value {
                [a, b] => half::f16::from_le_bytes([a, b]).to_f64(),
                [a, b, c, d] => f32::from_le_bytes([a, b, c, d]).into(),
                [a, b, c, d, e, f, g, h] => f64::from_le_bytes([a, b, c, d, e, f, g, h]),
                _ => unreachable!("a value has 2, 4 or 8 bytes"),
            })
    }

    /// The precision with this element type.
    pub(crate) fn of(dtype: DType) -> Option<Self> {
        [Self::F16, Self::F32, Self::F64]
            .into_iter()
            .find(|precision| precision.dtype() == dtype)
    }

    /// The precision that stores every value of `F` exactly.
    pub(crate) fn exact<F: Float>() -> Self {
        if F::BITS == 32 { Self::F32 } else { Self::F64 }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F16 => "f16",
            Self::F32 => "f32",
            Self::F64 => "f64",
        })
    }
}

/// An exact size by part, in bits.
///
/// Each part is an array of its own in a file and begins at a whole byte: [`bytes`](Self::bytes) rounds each part up,
/// [`total`](Self::total) counts the bits before rounding.
///
/// ```
/// use taper::{Role, StorageBits};
///
/// // 100 codes of 6 bits and 50 values of 32 bits.
/// let size = StorageBits::new()
///     .with("codes", Role::Payload, 600)
///     .with("codebook", Role::SideInformation, 1600);
/// assert_eq!((size.payload(), size.side_information(), size.total()), (600, 1600, 2200));
/// assert_eq!(size.bytes(), 75 + 200);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StorageBits {
    parts: Vec<(&'static str, Role, u64)>,
}

impl StorageBits {
    /// Creates a size without parts.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a part of `bits` bits.
    #[must_use]
    pub fn with(mut self, name: &'static str, role: Role, bits: u64) -> Self {
        self.parts.push((name, role, bits));
        self
    }

    /// Name, role and bits of each part.
    pub fn parts(&self) -> impl Iterator<Item = (&'static str, Role, u64)> + '_ {
        self.parts.iter().copied()
    }

    /// The bits of all parts with [`Role::Payload`].
    #[must_use]
    pub fn payload(&self) -> u64 {
        self.sum(Role::Payload)
    }

    /// The bits of all parts with [`Role::SideInformation`].
    #[must_use]
    pub fn side_information(&self) -> u64 {
        self.sum(Role::SideInformation)
    }

    /// All bits.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.parts.iter().map(|&(_, _, bits)| bits).sum()
    }

    /// The bytes that a file holds: each part is rounded up to whole bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.parts
            .iter()
            .map(|&(_, _, bits)| bits.div_ceil(8))
            .sum()
    }

    fn sum(&self, role: Role) -> u64 {
        self.parts
            .iter()
            .filter(|part| part.1 == role)
            .map(|part| part.2)
            .sum()
    }
}

impl fmt::Display for StorageBits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes())?;
        for (i, (name, _, bits)) in self.parts.iter().enumerate() {
            let opening = if i == 0 { " (" } else { ", " };
            write!(f, "{opening}{name} {}", bits.div_ceil(8))?;
        }
        if self.parts.is_empty() {
            return Ok(());
        }
        write!(f, ")")
    }
}

/// The report of an iterative fit.
///
/// A fit that does not converge is not an error: it returns the best result so far, and `converged` is false.
///
/// ```
/// use taper::ndarray::Array2;
/// use taper::quantize::product::ProductQuantizer;
/// use taper::{Compressed, Quantizer};
///
/// let weights = Array2::from_shape_fn((16, 32), |(o, i)| ((o * 3 + i * 5) as f64).sin());
/// let matrix = ProductQuantizer::new(4).centroids(4).quantize(weights.view())?;
/// let report = matrix.report().expect("k-means is iterative");
/// assert!(report.losses.windows(2).all(|pair| pair[1] <= pair[0] * (1.0 + 1e-12)));
/// assert_eq!(report.loss(), report.losses.last().copied());
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FitReport {
    /// The number of iterations.
    pub iterations: usize,
    /// Whether the fit ended before the limit of iterations because it had converged.
    pub converged: bool,
    /// Whether an [`Observer`](crate::Observer) ended the fit.
    pub stopped: bool,
    /// The loss before each iteration and after the last. It never rises, except by rounding. Each compressor documents its loss.
    pub losses: Vec<f64>,
}

impl FitReport {
    /// The loss of the result.
    #[must_use]
    pub fn loss(&self) -> Option<f64> {
        self.losses.last().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At every exponent, a factor is rounded by at most half a unit in its last place, or is an error.
    #[test]
    fn factors_are_held_to_the_relative_rounding_error() {
        for (precision, digits, least) in [
            (Precision::F16, 11, -14),
            (Precision::F32, 24, -126),
            (Precision::F64, 53, -1022),
        ] {
            for exponent in least - 30..=15 {
                // 2^least has the fewest digits, the other two need more than a subnormal number has.
                for significand in [1.0, 4.0 / 3.0, 5.0 / 3.0] {
                    let value = crate::power::times(significand, exponent);
                    match precision.round_factor::<f64>("a scale", value) {
                        Ok(rounded) => {
                            let bound = 2_f64.powi(-digits) * value;
                            assert!((rounded - value).abs() <= bound, "{value:e} as {rounded:e}");
                            assert!(exponent >= least || significand == 1.0, "{value:e}");
                        }
                        Err(error) => {
                            assert!(exponent < least, "{error}");
                            assert!(matches!(error, Error::Underflow { .. }));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn values_of_a_tensor_are_held_relative_to_the_largest() {
        let small = [1e-4_f64, -3e-8, 1e-9, 0.0];
        let mut values = small;
        Precision::F16
            .round_tensor("a weight", &mut values)
            .unwrap();
        for (value, rounded) in small.iter().zip(values) {
            assert!((value - rounded).abs() <= 2_f64.powi(-11) * 1e-4);
        }
        let mut tiny = [1e-8_f64, 5e-9];
        let error = Precision::F16
            .round_tensor("a weight", &mut tiny)
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "precision f16 cannot store a weight of 1e-8: use f32"
        );
        // Subnormal numbers that are exact, and zeros, need no rounding.
        let mut exact = [2_f64.powi(-24), 0.0];
        assert_eq!(Precision::F16.round_tensor("a weight", &mut exact), Ok(()));
    }

    #[test]
    fn precision_round_trips_what_it_encodes() {
        for precision in [Precision::F16, Precision::F32, Precision::F64] {
            let value = precision.round("value", std::f64::consts::PI).unwrap();
            let bytes = precision.encode([value]);
            assert_eq!(bytes.len() as u64 * 8, precision.bits());
            assert!(precision.decode(&bytes).eq([value]));
            assert_eq!(Precision::of(precision.dtype()), Some(precision));
            assert_eq!(precision.round("value", value), Ok(value));
        }
    }

    #[test]
    fn rounding_out_of_range_is_an_error() {
        let error = Precision::F16.round("scale", 1e6_f32);
        assert_eq!(error, Err(Error::Overflow { what: "scale" }));
        assert_eq!(Precision::F16.round("scale", 65_504.0_f32), Ok(65_504.0));
    }

    #[test]
    fn storage_prints_its_parts() {
        let size = StorageBits::new().with("codes", Role::Payload, 12).with(
            "scale",
            Role::SideInformation,
            32,
        );
        assert_eq!(size.to_string(), "6 bytes (codes 2, scale 4)");
        assert_eq!(StorageBits::new().to_string(), "0 bytes");
    }
}
