//! `LowRankMatrix`: a matrix as the product of two thin ones.

use std::borrow::Cow;

use ndarray::{
    Array, Array1, Array2, ArrayView1, ArrayView2, ArrayViewMut2, ArrayViewMutD, Axis, Dimension,
    Ix2, s,
};

use super::triplets::{Triplets, sum_of_squares};
use super::{SingularValues, SvdReport};
use crate::artifact::check_apply;
use crate::{
    Compressed, Error, Float, LinearOp, Part, Precision, Result, Role, StorageBits, check, linalg,
    parallel, power,
};

const ARTIFACT: &str = "a low-rank matrix";

/// A matrix (m, n) of rank r as W = L diag(s) R, with L (m, r) and R (r, n). The singular values s are multiplied into the
/// factors or stored apart.
///
/// y = x Wᵀ takes two thin products: r (m + n) multiply-adds per row instead of m n. In a framework it becomes two linear
/// layers: the first has the weight [`right`](Self::right) (r, in_features) and no bias, the second has the weight
/// [`left`](Self::left) (out_features, r) and the original bias.
///
/// ```
/// use taper::factorize::Rank;
/// use taper::factorize::svd::{SingularValues, SvdMethod, TruncatedSvd};
/// use taper::ndarray::Array2;
/// use taper::Factorizer;
///
/// let weights = Array2::from_shape_fn((20, 12), |(o, i)| ((o * o * i + i) as f64).sin());
/// let factors = TruncatedSvd::new(Rank::Fixed(3))
///     .method(SvdMethod::Exact)
///     .singular_values(SingularValues::Apart)
///     .factorize(weights.view())?;
/// assert_eq!((factors.left().dim(), factors.right().dim()), ((20, 3), (3, 12)));
/// assert_eq!(factors.singular_values().map(|values| values.len()), Some(3));
/// let report = factors.svd_report().expect("fresh from the fit");
/// // Only the rounding to single precision adds to the optimal error.
/// assert!(report.excess_error().is_some_and(|excess| excess < 1e-6));
/// // Rank 8 would take 8 · (20 + 12) values, more than 20 · 12.
/// assert_eq!(report.largest_useful_rank, 7);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct LowRankMatrix<F> {
    shape: [usize; 2],
    left: Array2<F>,
    singular_values: Option<Array1<F>>,
    right: Array2<F>,
    precision: Precision,
    report: Option<SvdReport>,
}

impl<F: Float> LowRankMatrix<F> {
    /// Multiplies `triplets` by 2^`exponent`, multiplies the singular values into the factors, and rounds.
    pub(super) fn new(
        triplets: Triplets<F>,
        exponent: i32,
        folding: SingularValues,
        precision: Precision,
    ) -> Result<Self> {
        let Triplets { u, s, vt } = triplets;
        let s = s.mapv(Float::as_f64);
        let one = Array1::ones(s.len());
        let (left, apart, right) = match folding {
            SingularValues::Split => {
                let roots = s.mapv(f64::sqrt);
                // √2 is no power of two: each factor takes half of the exponent, and the right one the rest.
                let halves = power::divided(exponent, 2);
                ((roots.clone(), halves[0]), None, (roots, halves[1]))
            }
            SingularValues::Left => ((s, exponent), None, (one, 0)),
            SingularValues::Right => ((one, 0), None, (s, exponent)),
            SingularValues::Apart => ((one.clone(), 0), Some(s), (one, 0)),
        };
        let fold = |what, mut factor: Array2<F>, axis, (scales, exponent): (Array1<f64>, i32)| {
            for (mut lane, &scale) in factor.axis_iter_mut(axis).zip(&scales) {
                lane.mapv_inplace(|x| {
                    F::from_f64_lossy(power::times(x.as_f64() * scale, exponent))
                });
            }
            store(what, &mut factor, precision)?;
            Ok::<_, Error>(factor.as_standard_layout().into_owned())
        };
        let left = fold("the left factor", u, Axis(1), left)?;
        let right = fold("the right factor", vt, Axis(0), right)?;
        let singular_values = apart
            .map(|s| {
                let mut values = s.mapv(|s| F::from_f64_lossy(power::times(s, exponent)));
                store("a singular value", &mut values, precision)?;
                Ok::<_, Error>(values)
            })
            .transpose()?;
        check_product(&left, singular_values.as_ref(), &right)?;
        Ok(Self {
            shape: [left.nrows(), right.ncols()],
            left,
            singular_values,
            right,
            precision,
            report: None,
        })
    }

    /// Creates a low-rank matrix from `left` (m, r), `right` (r, n), and the r singular values if they are stored apart.
    ///
    /// The factors may come from anywhere, for example from fine-tuning.
    ///
    /// ```
    /// use taper::factorize::svd::LowRankMatrix;
    /// use taper::ndarray::array;
    /// use taper::{Compressed, Precision};
    ///
    /// let left = array![[1.0_f32], [2.0]];
    /// let right = array![[3.0_f32, 4.0, 5.0]];
    /// let matrix = LowRankMatrix::from_parts(left, None, right, Precision::F32)?;
    /// assert_eq!(matrix.decompress()?, array![[3.0, 4.0, 5.0], [6.0, 8.0, 10.0]].into_dyn());
    /// # Ok::<(), taper::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] for shapes that do not fit, an empty axis, a rank above the smaller side, a value that is not
    /// finite or not representable in `precision`, a negative singular value, or a product out of the range of `F`.
    pub fn from_parts(
        left: Array2<F>,
        singular_values: Option<Array1<F>>,
        right: Array2<F>,
        precision: Precision,
    ) -> Result<Self> {
        let malformed = |problem: String| Error::Malformed {
            artifact: ARTIFACT,
            problem,
        };
        let (m, rank) = left.dim();
        let n = right.ncols();
        let fits =
            right.nrows() == rank && singular_values.as_ref().is_none_or(|s| s.len() == rank);
        if !fits || rank == 0 || rank > m.min(n) {
            return Err(malformed(format!(
                "factors of shapes {:?} and {:?} with {:?} singular values",
                left.shape(),
                right.shape(),
                singular_values.as_ref().map(Array1::len)
            )));
        }
        let check_values = |what, values: &mut dyn Iterator<Item = F>| {
            for value in values {
                if !value.is_finite() || precision.round(what, value) != Ok(value) {
                    return Err(malformed(format!(
                        "{what} holds {value}, stored as {precision:?}"
                    )));
                }
            }
            Ok(())
        };
        check_values("the left factor", &mut left.iter().copied())?;
        check_values("the right factor", &mut right.iter().copied())?;
        if let Some(s) = &singular_values {
            check_values("the singular values", &mut s.iter().copied())?;
            if let Some(negative) = s.iter().find(|&&s| s < F::zero()) {
                return Err(malformed(format!("a singular value of {negative}")));
            }
        }
        let product = check_product(&left, singular_values.as_ref(), &right);
        product.map_err(|error| malformed(error.to_string()))?;
        Ok(Self {
            shape: [m, n],
            left: left.as_standard_layout().into_owned(),
            singular_values,
            right: right.as_standard_layout().into_owned(),
            precision,
            report: None,
        })
    }

    /// The rank r.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.left.ncols()
    }

    /// L, of shape (m, r).
    #[must_use]
    pub fn left(&self) -> ArrayView2<'_, F> {
        self.left.view()
    }

    /// The r singular values, if they are stored apart.
    #[must_use]
    pub fn singular_values(&self) -> Option<ArrayView1<'_, F>> {
        self.singular_values.as_ref().map(|array| array.view())
    }

    /// R, of shape (r, n).
    #[must_use]
    pub fn right(&self) -> ArrayView2<'_, F> {
        self.right.view()
    }

    /// The precision in which the factors are stored.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The report of the decomposition; `None` for a matrix from [`from_parts`](Self::from_parts).
    #[must_use]
    pub fn svd_report(&self) -> Option<&SvdReport> {
        self.report.as_ref()
    }

    pub(super) fn set_report(&mut self, report: SvdReport) {
        self.report = Some(report);
    }

    /// The distance from `weights`, divided by 2^`exponent`.
    pub(super) fn distance(&self, weights: ArrayView2<'_, F>, exponent: i32) -> f64 {
        let scaled = self.scaled_left();
        // The least numbers have no inverse in the range of the type.
        let inner = (-exponent).clamp(-1020, 1020);
        let inverse = power::times(1.0, inner);
        // In blocks of rows that stay in the cache.
        const ROWS: usize = 32;
        let squares = parallel::map(weights.nrows().div_ceil(ROWS), |block| {
            let rows = block * ROWS..weights.nrows().min((block + 1) * ROWS);
            let left = scaled.slice(s![rows.clone(), ..]);
            let mut difference = weights
                .slice(s![rows, ..])
                .as_standard_layout()
                .into_owned();
            linalg::product_add(-F::one(), left, self.right.view(), difference.view_mut());
            let rows = difference.rows().into_iter();
            rows.map(|row| sum_of_squares(row, inverse)).sum::<f64>()
        });
        power::times(squares.into_iter().sum::<f64>().sqrt(), -exponent - inner)
    }

    /// L diag(s).
    fn scaled_left(&self) -> Cow<'_, Array2<F>> {
        match &self.singular_values {
            Some(s) => Cow::Owned(&self.left * s),
            None => Cow::Borrowed(&self.left),
        }
    }
}

/// Rounds values to the precision in which they are stored.
fn store<F: Float, D: Dimension>(
    what: &'static str,
    values: &mut Array<F, D>,
    precision: Precision,
) -> Result<()> {
    check::no_overflow(what, &*values)?;
    precision.round_tensor(what, values.iter_mut())?;
    // Values below the normal numbers of `F` were rounded before.
    precision.fits_tensor(what, check::largest(&*values))
}

/// Fails if a sum of products of the factors may be out of the range of the type.
fn check_product<F: Float>(
    left: &Array2<F>,
    singular_values: Option<&Array1<F>>,
    right: &Array2<F>,
) -> Result<()> {
    let apart = singular_values.map_or(F::one(), |s| check::largest(s));
    let factors = [check::largest(left), check::largest(right), apart];
    check::product_in_range("the product of the factors", left.ncols(), factors)
}

impl<F: Float> Compressed<F> for LowRankMatrix<F> {
    fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// `left` (m, r), `singular_values` (r) if they are stored apart, `right` (r, n).
    fn parts(&self) -> Vec<Part<'_>> {
        let part = |name, role, shape: &[usize], values: &mut dyn Iterator<Item = F>| Part {
            name,
            dtype: self.precision.dtype(),
            shape: shape.to_vec(),
            role,
            bytes: Cow::Owned(self.precision.encode(values)),
        };
        let factor =
            |name, a: &Array2<F>| part(name, Role::Payload, a.shape(), &mut a.iter().copied());
        let mut parts = vec![factor("left", &self.left)];
        if let Some(s) = &self.singular_values {
            let role = Role::SideInformation;
            parts.push(part(
                "singular_values",
                role,
                s.shape(),
                &mut s.iter().copied(),
            ));
        }
        parts.push(factor("right", &self.right));
        parts
    }

    fn storage(&self) -> StorageBits {
        let bits = |count: usize| count as u64 * self.precision.bits();
        let mut storage = StorageBits::new().with("left", Role::Payload, bits(self.left.len()));
        if let Some(s) = &self.singular_values {
            storage = storage.with("singular_values", Role::SideInformation, bits(s.len()));
        }
        storage.with("right", Role::Payload, bits(self.right.len()))
    }

    fn decompress_into(&self, out: ArrayViewMutD<'_, F>) -> Result<()> {
        check::same_shape("out", &self.shape, out.shape())?;
        let out = out
            .into_dimensionality::<Ix2>()
            .expect("the shape was checked");
        linalg::product_into(self.scaled_left().view(), self.right.view(), out);
        Ok(())
    }
}

impl<F: Float> LinearOp<F> for LowRankMatrix<F> {
    fn apply_into(&self, x: ArrayView2<'_, F>, y: ArrayViewMut2<'_, F>) -> Result<()> {
        check_apply(self.shape, &x, &y)?;
        let mut inner = linalg::product(x, self.right.t());
        if let Some(s) = &self.singular_values {
            inner *= s;
        }
        linalg::product_into(inner.view(), self.left.t(), y);
        Ok(())
    }
}
