//! `CpTensor`: weights and factors.

use ndarray::{Array1, Array2, ArrayViewMutD};

use super::model::{Model, normalize_columns};
use super::mttkrp::Walk;
use super::problem::Problem;
use crate::{
    Compressed, Error, FitReport, Float, Part, Precision, Result, Role, StorageBits, check, power,
};

/// The course and the result of a CP fit. The [module](crate::factorize::cp) has an example.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct CpReport {
    /// The sweeps over all factors, and the loss before the first and after each: the squared error divided by the squared norm
    /// of the tensor, plus the penalties of a [`CpAdmm`](super::CpAdmm).
    pub fit: FitReport,
    /// ‖W − Ŵ‖ / ‖W‖ of the result before the factors were rounded to their precision.
    pub relative_error: f64,
    /// Σ ‖term‖ / ‖Ŵ‖, between 1 and √R for orthogonal terms. A large value means that terms cancel each other (a degenerate
    /// fit). Such a tensor loses much in half precision and is hard to fine-tune.
    pub term_norm_ratio: f64,
    /// The number of the chosen start, from 0.
    pub start: usize,
    /// The number of sweeps of the error-preserving correction.
    pub corrections: usize,
    /// The distance of the constrained factor from the least-squares solution in the last inner iteration, ‖A − Ã‖ / ‖A‖: the
    /// largest over all factors. Zero without ADMM.
    pub primal_residual: f64,
    /// The step of the constrained factor in the last inner iteration, divided by the norm of its dual variable. Zero without
    /// ADMM.
    pub dual_residual: f64,
}

/// A tensor as a weighted sum of R rank-one terms.
///
/// The form is unique: the columns of the factors have length one (after a [`CpAdmm`](super::CpAdmm) fit only if the constraints
/// allow it), weights are at least 0 and in falling order, and the entry of largest magnitude in every column of every factor but
/// the last is positive.
///
/// ```
/// use ndarray::{array, Array1};
/// use taper::{factorize::cp::CpTensor, Compressed, Precision};
///
/// let weights: Array1<f32> = array![2.0];
/// let factors = vec![array![[1.0], [0.0]], array![[0.6], [0.8]], array![[1.0]]];
/// let tensor = CpTensor::from_parts(weights, factors, Precision::F32)?;
/// assert_eq!(tensor.shape(), [2, 2, 1]);
/// assert_eq!(tensor.decompress()?[[0, 1, 0]], 1.6);
/// // One weight, and five numbers in the factors.
/// assert_eq!(tensor.storage().bytes(), 4 * 6);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct CpTensor<F: Float> {
    shape: Vec<usize>,
    weights: Array1<F>,
    factors: Vec<Array2<F>>,
    precision: Precision,
    report: CpReport,
}

/// Names of the parts. All further factors have the last name.
const NAMES: [&str; 9] = [
    "factor_0", "factor_1", "factor_2", "factor_3", "factor_4", "factor_5", "factor_6", "factor_7",
    "factor",
];

impl<F: Float> CpTensor<F> {
    /// Creates a tensor of R terms from their weights and one factor (length, R) per axis, rounded to `precision`.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] for fewer than two factors, factors or weights that do not have the same R ≥ 1
    /// terms, empty factors, and values that are not finite; [`Error::Overflow`] for values beyond the range
    /// of `precision`.
    pub fn from_parts(
        weights: Array1<F>,
        factors: Vec<Array2<F>>,
        precision: Precision,
    ) -> Result<Self> {
        let malformed = |problem| Error::Malformed {
            artifact: "CpTensor",
            problem,
        };
        let terms = weights.len();
        if factors.len() < 2 || terms == 0 {
            return Err(malformed(format!(
                "{} factors of {terms} terms",
                factors.len()
            )));
        }
        if let Some(odd) = factors
            .iter()
            .find(|f| f.ncols() != terms || f.nrows() == 0)
        {
            return Err(malformed(format!(
                "a factor of shape {:?} where {terms} columns are needed",
                odd.shape()
            )));
        }
        let shape: Vec<usize> = factors.iter().map(Array2::nrows).collect();
        if shape
            .iter()
            .try_fold(1_usize, |size, &n| size.checked_mul(n))
            .is_none()
        {
            return Err(malformed(format!("a tensor of shape {shape:?}")));
        }
        let values = factors.iter().flatten().chain(&weights);
        if let Some(value) = values.into_iter().find(|x| !x.is_finite()) {
            return Err(malformed(format!("a value of {value}")));
        }
        Self::rounded(weights, factors, precision, CpReport::default())
    }

    fn rounded(
        mut weights: Array1<F>,
        mut factors: Vec<Array2<F>>,
        precision: Precision,
        report: CpReport,
    ) -> Result<Self> {
        precision.round_tensor("a weight of a CP tensor", &mut weights)?;
        for factor in &mut factors {
            *factor = factor.as_standard_layout().into_owned();
            precision.round_tensor("a factor of a CP tensor", factor)?;
        }
        let largest = factors.iter().map(|factor| check::largest(factor));
        let largest = largest.chain([check::largest(&weights)]);
        check::product_in_range("a sum of terms of a CP tensor", weights.len(), largest)?;
        Ok(Self {
            shape: factors.iter().map(Array2::nrows).collect(),
            weights,
            factors,
            precision,
            report,
        })
    }

    /// Makes the artifact from `model`, which was fitted to `problem`. `free[n]` says whether the columns of factor n may change
    /// their scale and sign.
    pub(super) fn finish(
        problem: &Problem<F>,
        mut model: Model<F>,
        free: &[Freedom],
        precision: Precision,
        mut report: CpReport,
    ) -> Result<Self> {
        let terms = model.terms;
        let norm = model.squared_norm().sqrt();
        let norms = model.term_norms();
        report.term_norm_ratio = if norm > 0.0 {
            norms.iter().sum::<f64>() / norm
        } else {
            0.0
        };
        let mut order: Vec<usize> = (0..terms).collect();
        order.sort_by(|&a, &b| norms[b].total_cmp(&norms[a]));

        for (factor, freedom) in model.factors.iter_mut().zip(free) {
            if *freedom != Freedom::None {
                let lengths = normalize_columns(factor, terms);
                for (weight, length) in model.weights.iter_mut().zip(lengths) {
                    *weight *= length;
                }
            }
        }
        // Each factor whose sign may change passes its signs on to the last such factor.
        let turnable = |mode: usize| free.get(mode) == Some(&Freedom::ScaleAndSign);
        if let Some(last) = (0..model.factors.len()).rev().find(|&mode| turnable(mode)) {
            for r in 0..terms {
                let mut turned = model.weights[r] < 0.0;
                model.weights[r] = model.weights[r].abs();
                for mode in (0..last).filter(|&mode| turnable(mode)) {
                    if largest_is_negative(&model.factors[mode], terms, r) {
                        turn(&mut model.factors[mode], terms, r);
                        turned = !turned;
                    }
                }
                if turned {
                    turn(&mut model.factors[last], terms, r);
                }
            }
        }
        let weights = order
            .iter()
            .map(|&r| F::from_f64_lossy(power::times(model.weights[r], problem.exponent)))
            .collect::<Array1<F>>();
        check::no_overflow("the weight of a CP term", &weights)?;
        let factors = model.factors.iter().map(|factor| {
            let rows = factor.len() / terms;
            Array2::from_shape_fn((rows, terms), |(i, r)| factor[i * terms + order[r]])
        });
        Self::rounded(weights, factors.collect(), precision, report)
    }

    /// The weight of each term.
    #[must_use]
    pub fn weights(&self) -> &Array1<F> {
        &self.weights
    }

    /// The factors, one (length, R) per axis.
    #[must_use]
    pub fn factors(&self) -> &[Array2<F>] {
        &self.factors
    }

    /// The number of terms R.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.weights.len()
    }

    /// The precision in which weights and factors are stored.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The report of the fit; all zeros for a tensor [from parts](Self::from_parts).
    #[must_use]
    pub fn cp_report(&self) -> &CpReport {
        &self.report
    }

    /// ‖Ŵ‖, computed from the factors.
    #[must_use]
    pub fn norm(&self) -> f64 {
        self.model().squared_norm().sqrt()
    }

    /// For each of `count` factors that the terms are divided among, the share that it takes of every weight: nearly the
    /// `count`-th root. Powers of two are divided between the factors, so that no root of one is rounded. The first factor takes
    /// the signs.
    pub(crate) fn shares(&self, count: usize) -> Vec<Array1<F>> {
        let exponent = power::largest_exponent(&self.weights.view());
        let roots = self.weights.mapv(|weight| {
            let weight = power::times(weight.as_f64(), -exponent);
            weight.abs().powf(1.0 / count as f64)
        });
        let exponents = power::divided(exponent, count).into_iter().enumerate();
        let share = |(factor, exponent)| {
            let mut share = roots.mapv(|root| F::from_f64_lossy(power::times(root, exponent)));
            if factor == 0 {
                share.zip_mut_with(&self.weights, |share, weight| {
                    *share = share.copysign(*weight)
                });
            }
            share
        };
        exponents.map(share).collect()
    }

    pub(super) fn model(&self) -> Model<F> {
        let factors = self.factors.iter().map(|f| f.iter().copied().collect());
        let weights = self.weights.iter().map(|w| w.as_f64());
        Model::new(self.rank(), factors.collect(), weights.collect())
    }
}

/// The changes of the columns of a factor that its constraint allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freedom {
    ScaleAndSign,
    Scale,
    None,
}

fn largest_is_negative<F: Float>(factor: &[F], terms: usize, r: usize) -> bool {
    let mut largest = F::zero();
    for row in factor.chunks_exact(terms) {
        if row[r].abs() > largest.abs() {
            largest = row[r];
        }
    }
    largest < F::zero()
}

fn turn<F: Float>(factor: &mut [F], terms: usize, r: usize) {
    for row in factor.chunks_exact_mut(terms) {
        row[r] = -row[r];
    }
}

impl<F: Float> Compressed<F> for CpTensor<F> {
    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn parts(&self) -> Vec<Part<'_>> {
        let mut parts = vec![Part {
            name: "weights",
            dtype: self.precision.dtype(),
            shape: vec![self.rank()],
            role: Role::SideInformation,
            bytes: self.precision.encode(self.weights.iter().copied()).into(),
        }];
        parts.extend(self.factors.iter().enumerate().map(|(i, factor)| Part {
            name: NAMES[i.min(NAMES.len() - 1)],
            dtype: self.precision.dtype(),
            shape: factor.shape().to_vec(),
            role: Role::Payload,
            bytes: self.precision.encode(factor.iter().copied()).into(),
        }));
        parts
    }

    fn storage(&self) -> StorageBits {
        let bits = |count: usize| count as u64 * self.precision.bits();
        let size = StorageBits::new().with("weights", Role::SideInformation, bits(self.rank()));
        let factors = self.factors.iter().enumerate();
        factors.fold(size, |size, (i, factor)| {
            size.with(
                NAMES[i.min(NAMES.len() - 1)],
                Role::Payload,
                bits(factor.len()),
            )
        })
    }

    fn decompress_into(&self, mut out: ArrayViewMutD<'_, F>) -> Result<()> {
        check::same_shape("the output", &self.shape, out.shape())?;
        let model = self.model();
        let values = Walk::new(&self.shape, self.rank()).rebuild(&model.factors, &model.weights);
        for (to, from) in out.iter_mut().zip(values) {
            *to = from;
        }
        Ok(())
    }

    fn report(&self) -> Option<&FitReport> {
        (!self.report.fit.losses.is_empty()).then_some(&self.report.fit)
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::column_norms;
    use super::*;
    use ndarray::array;

    #[test]
    fn the_size_is_that_of_the_parts() {
        for precision in [Precision::F16, Precision::F32, Precision::F64] {
            let factors = vec![
                Array2::<f64>::ones((3, 2)),
                Array2::ones((4, 2)),
                Array2::ones((1, 2)),
            ];
            let tensor = CpTensor::from_parts(array![1.0, 0.5], factors, precision).unwrap();
            assert_eq!(tensor.storage().total(), 18 * precision.bits());
            let again = CpTensor::from_parts(
                tensor.weights().clone(),
                tensor.factors().to_vec(),
                precision,
            );
            assert_eq!(again.unwrap(), tensor);
        }
    }

    #[test]
    fn forged_parts_are_refused() {
        let build =
            |weights: Array1<f32>, factors| CpTensor::from_parts(weights, factors, Precision::F16);
        let (a, b) = (Array2::ones((2, 2)), Array2::ones((3, 2)));
        assert!(build(array![1.0, 1.0], vec![a.clone(), b.clone()]).is_ok());
        for (weights, factors) in [
            (array![1.0], vec![a.clone(), b.clone()]),
            (array![1.0, 1.0], vec![a.clone()]),
            (array![], vec![Array2::ones((2, 0)), Array2::ones((2, 0))]),
            (array![1.0, f32::NAN], vec![a.clone(), b.clone()]),
            (array![1.0, 1.0], vec![a.clone(), Array2::ones((0, 2))]),
            (array![1.0, 1.0], vec![a.clone(), b.clone() * f32::INFINITY]),
        ] {
            assert!(matches!(
                build(weights, factors),
                Err(Error::Malformed { .. })
            ));
        }
        assert!(matches!(
            build(array![1e6, 1.0], vec![a, b]),
            Err(Error::Overflow { .. })
        ));
        // The product of the first two factors is out of range, that of all three is not.
        let factors = [1e30, 1e30, 1e-30].map(|x| Array2::from_elem((2, 1), x));
        let tensor = CpTensor::<f32>::from_parts(array![1.0], factors.to_vec(), Precision::F32);
        assert!(matches!(tensor, Err(Error::Overflow { .. })));
    }

    #[test]
    fn norms_come_from_the_factors() {
        let factors = vec![
            array![[1.0, 2.0], [0.0, 1.0]],
            array![[3.0, 0.0], [4.0, 1.0]],
        ];
        let tensor =
            CpTensor::<f64>::from_parts(array![2.0, 1.0], factors, Precision::F64).unwrap();
        let dense = tensor.decompress().unwrap();
        let norm = dense.iter().map(|x| x * x).sum::<f64>().sqrt();
        // Sums of four squares, and a root.
        assert!((tensor.norm() - norm).abs() <= 2.0 * 4.0 * f64::EPSILON * norm);
        let norms = tensor.model().term_norms();
        assert_eq!((norms[0], norms[1]), (10.0, 5.0_f64.sqrt()));
        assert!(column_norms(&[3.0_f32, 4.0], 1)[0] == 5.0);
    }

    #[test]
    fn the_output_may_have_any_strides() {
        let factors = vec![
            array![[1.0, 2.0], [0.5, 1.0]],
            array![[3.0, 0.0], [4.0, 1.0], [1.0, 1.0]],
        ];
        let tensor =
            CpTensor::<f32>::from_parts(array![2.0, 1.0], factors, Precision::F32).unwrap();
        let mut transposed = Array2::<f32>::zeros((3, 2));
        tensor
            .decompress_into(transposed.view_mut().reversed_axes().into_dyn())
            .unwrap();
        assert_eq!(transposed.t().into_dyn(), tensor.decompress().unwrap());
        let mut wrong = Array2::<f32>::zeros((3, 2)).into_dyn();
        assert!(tensor.decompress_into(wrong.view_mut()).is_err());
    }
}
