//! Optimized product quantization: a rotation learned together with the codes.

use ndarray::{
    Array, ArrayView, ArrayView1, ArrayView2, ArrayView3, ArrayViewMut2, ArrayViewMutD, Dimension,
    Ix2,
};

use super::rotation::Rotation;
use super::scaled::ScaledClusterer;
use super::{PqMatrix, ProductCodebooks, ProductQuantizer, SplitAxis};
use crate::artifact::check_apply;
use crate::cluster::{self, Clusterer, Clustering, KMeans, Seeding};
use crate::observer::ObservedFit;
use crate::{
    Compressed, FitContext, FitReport, Float, LinearOp, Observer, ParamError, Part, Precision,
    Quantizer, Result, Role, Seed, Stage, StorageBits, check, power,
};

/// Optimized product quantization: rotates the vectors by a learned matrix before product quantization.
///
/// Product quantization cuts vectors v (the rows or columns of W) into sub-vectors. An orthogonal matrix R, applied before, can
/// make the variances of the sub-vectors more equal and their dependence smaller, and changes no distance (Ge, He, Ke and Sun,
/// "Optimized product quantization", 2013, doi:10.1109/CVPR.2013.379). The fit alternates two steps, neither of which raises
/// the error $\\sum \\lVert v R - q(v R) \\rVert^2$: codes and codebooks for the given R, by iterations of k-means that start from
/// the codebooks before; and R for the given codes, by the singular value decomposition of $V^T Q$.
///
/// The fit starts without a rotation, so that its first step is product quantization itself and the error is never larger than
/// that. [`eigenvalue_start`](OptimizedProductQuantizer::eigenvalue_start) starts from the principal directions instead. R is stored beside the codes. For a split axis of length n it has n² values, which only
/// pays off if there are many vectors. With a [`block`](OptimizedProductQuantizer::block) of b, R consists of b × b blocks along
/// its diagonal, b·n values in all, and mixes neighbouring values only.
///
/// ```
/// use taper::ndarray::Array2;
/// use taper::quantize::product::{Codebook, OptimizedProductQuantizer, ProductQuantizer};
/// use taper::{Compressed, Quantizer};
///
/// // The second half of each row repeats the first. Groups of two neighbours do not see it, the rotation does.
/// let w = Array2::from_shape_fn((300, 8), |(o, i)| ((o * (2 * (i % 4) + 1)) as f32).sin());
/// let plain = ProductQuantizer::new(4).centroids(16).codebook(Codebook::PerGroup);
/// let optimized = OptimizedProductQuantizer::new(plain.clone()).quantize(w.view())?;
/// let error = |matrix: &dyn Compressed<f32>| matrix.report().and_then(|report| report.loss());
/// assert!(error(&optimized) < error(&plain.quantize(w.view())?));
/// // Codes, codebooks, and the rotation of 8 × 8 values.
/// assert_eq!(optimized.storage().bytes(), 4 * 300 / 2 + 4 * 16 * 2 * 4 + 8 * 8 * 4);
/// # Ok::<(), taper::Error>(())
/// ```
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(deny_unknown_fields))]
#[cfg_attr(
    feature = "model",
    serde(bound(deserialize = "C: serde::Deserialize<'de> + Default"))
)]
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct OptimizedProductQuantizer<C = KMeans> {
    /// The quantizer of the rotated vectors.
    pub quantizer: ProductQuantizer<C>,
    /// The largest number of rotations after the first. Each takes singular value decompositions of b × b matrices.
    #[cfg_attr(feature = "model", serde(default = "crate::defaults::rotations"))]
    pub iterations: usize,
    /// The fit ends when a rotation lowers the error by no more than this fraction of it, in [0, 1).
    #[cfg_attr(
        feature = "model",
        serde(default = "crate::defaults::rotation_tolerance")
    )]
    pub tolerance: f64,
    /// Whether the first rotation turns to the principal directions, assigned to the groups so that the product of variances is
    /// about the same in each: optimal for normally distributed vectors. Otherwise the fit starts without a rotation.
    #[cfg_attr(feature = "model", serde(default))]
    pub eigenvalue_start: bool,
    /// The size b of the blocks of the rotation; `None` for one block over the whole axis. It must divide the length of the
    /// split axis and be a multiple of the width of a group. Blocks of a single group gain nothing.
    #[cfg_attr(feature = "model", serde(default))]
    pub block: Option<usize>,
    /// The precision in which the rotation is stored. Codes are chosen for the rounded rotation.
    #[cfg_attr(feature = "model", serde(default))]
    pub rotation_precision: Precision,
}

impl<C> OptimizedProductQuantizer<C> {
    /// Rotates the vectors before `quantizer`.
    #[must_use]
    pub fn new(quantizer: ProductQuantizer<C>) -> Self {
        Self {
            quantizer,
            iterations: crate::defaults::rotations(),
            tolerance: crate::defaults::rotation_tolerance(),
            eigenvalue_start: false,
            block: None,
            rotation_precision: Precision::F32,
        }
    }

    /// Sets the largest number of rotations after the first; 20 unless set.
    #[must_use]
    pub fn iterations(mut self, iterations: usize) -> Self {
        self.iterations = iterations;
        self
    }

    /// Sets the gain of a rotation, as a fraction of the error, at which the fit ends; 10⁻⁴ unless set.
    #[must_use]
    pub fn tolerance(mut self, tolerance: f64) -> Self {
        self.tolerance = tolerance;
        self
    }

    /// Sets whether the first rotation turns to the principal directions; false unless set.
    ///
    /// ```
    /// use taper::Quantizer;
    /// use taper::ndarray::Array2;
    /// use taper::quantize::product::{OptimizedProductQuantizer, ProductQuantizer};
    ///
    /// let weights = Array2::from_shape_fn((100, 8), |(o, i)| ((o * (2 * (i % 4) + 1)) as f32).sin());
    /// let rotated = OptimizedProductQuantizer::new(ProductQuantizer::new(4).centroids(16)).iterations(0);
    /// assert_eq!(rotated.quantize(weights.view())?.rotation()[[0, 1, 1]], 1.0);
    /// let turned = rotated.eigenvalue_start(true).quantize(weights.view())?;
    /// assert!(turned.rotation()[[0, 1, 1]] < 1.0);
    /// # Ok::<(), taper::Error>(())
    /// ```
    #[must_use]
    pub fn eigenvalue_start(mut self, eigenvalues: bool) -> Self {
        self.eigenvalue_start = eigenvalues;
        self
    }

    /// Sets the size of the blocks of the rotation; one block unless set.
    #[must_use]
    pub fn block(mut self, size: usize) -> Self {
        self.block = Some(size);
        self
    }

    /// Sets the precision of the stored rotation; [`Precision::F32`] unless set.
    #[must_use]
    pub fn rotation_precision(mut self, precision: Precision) -> Self {
        self.rotation_precision = precision;
        self
    }

    /// Checks the parameters except those of the clusterer, which its own calls check.
    fn check(&self) -> Result<(), ParamError> {
        self.quantizer.check()?;
        check::tolerance(self.tolerance)?;
        check::at_least_one("block", self.block.unwrap_or(1))?;
        Ok(())
    }
}

/// A rotation with its codes and codebooks.
struct Step<F> {
    rotation: Rotation<F>,
    codebooks: ProductCodebooks<F>,
    codes: Vec<u32>,
    loss: f64,
    /// Whether an observer stopped the clustering.
    stopped: bool,
}

impl OptimizedProductQuantizer {
    /// Checks the parameters, as every call that uses them does.
    ///
    /// # Errors
    ///
    /// The first parameter that no input could make right.
    pub fn validate(&self) -> Result<(), ParamError> {
        self.check()?;
        self.quantizer.clusterer.validate()
    }
}

impl<F: Float, C: Clusterer<F>> Quantizer<F> for OptimizedProductQuantizer<C> {
    type Output = OptimizedPqMatrix<F>;

    /// The report's losses are mean squared errors of a weight for the first and each further rotation, before codebooks and
    /// rotation are rounded to their stored precisions.
    ///
    /// # Errors
    ///
    /// Those of the product quantizer, [`Error::Indivisible`](crate::Error::Indivisible) for a block that does not divide the split axis or
    /// does not hold whole groups, [`Error::NoConvergence`](crate::Error::NoConvergence) of a decomposition.
    fn quantize_with(
        &self,
        weights: ArrayView2<'_, F>,
        context: FitContext<'_>,
    ) -> Result<OptimizedPqMatrix<F>> {
        self.check()?;
        context.unused("OptimizedProductQuantizer")?;
        check::finite("weights", &weights)?;
        let quantizer = &self.quantizer;
        quantizer.check_precision(weights)?;
        let axis = quantizer.axis;
        // Scaled by a power of two, so that the result does not depend on the scale of the weights.
        let exponent = power::largest_exponent(&weights);
        let vectors = power::scaled(&axis.vectors(weights), -exponent);
        // Products of matrices round differently for another order in memory.
        let vectors = vectors.as_standard_layout();
        let vectors = vectors.view();
        let length = vectors.ncols();
        let width = quantizer.width(length)?;
        let size = self.block.unwrap_or(length);
        check::divide("values of a block", length, size)?;
        check::divide("values of a group", size, width)?;

        // Centroids are rounded once, at the end.
        let step = |rotation: Rotation<F>, before: Option<&Step<F>>| -> Result<Step<F>> {
            let rotated = rotation.rotate(vectors);
            let rotated = axis.vectors(rotated.view());
            let fit = match before {
                None => {
                    let first = quantizer.with_clusterer(ScaledClusterer {
                        clusterer: &quantizer.clusterer,
                        exponent,
                    });
                    let first = first.precision(Precision::F64);
                    first.fit_codes(rotated, context.observer)?
                }
                Some(before) => {
                    let warm = quantizer.with_clusterer(Warm(&before.codebooks));
                    warm.precision(Precision::F64).fit_codes(rotated, None)?
                }
            };
            Ok(Step {
                rotation,
                codebooks: fit.codebooks,
                codes: fit.codes,
                loss: fit.report.loss().expect("a clustering has a loss"),
                stopped: fit.report.stopped,
            })
        };
        let start = if self.eigenvalue_start {
            Rotation::of_eigenvalues(vectors, size, width)?
        } else {
            Rotation::identity(length, size)
        };
        let mut best = step(start, None)?;
        let loss_of_weights = |loss: f64| power::times(loss, 2 * exponent);
        let mut report = FitReport {
            losses: vec![loss_of_weights(best.loss)],
            stopped: best.stopped,
            ..FitReport::default()
        };
        let observed = ObservedFit::new(context.observer, Stage::Rotation, 0, self.iterations);
        while report.iterations < self.iterations && !report.stopped {
            if observed.stops(report.iterations, loss_of_weights(best.loss)) {
                report.stopped = true;
                break;
            }
            let codes = ArrayView2::from_shape((length / width, vectors.nrows()), &best.codes);
            let codes = codes.expect("there is one code for each group and vector");
            let targets = best.codebooks.decode(codes)?;
            let rotation = Rotation::procrustes(vectors, axis.vectors(targets.view()), size)?;
            let next = step(rotation, Some(&best))?;
            // Only rounding can raise the loss. Then nothing is left to gain.
            let gain = best.loss - next.loss;
            if gain >= 0.0 {
                report.iterations += 1;
                report.losses.push(loss_of_weights(next.loss));
                let enough = gain <= self.tolerance * best.loss;
                best = next;
                report.converged = enough;
            } else {
                report.converged = true;
            }
            if report.converged {
                break;
            }
        }

        let rotation = best.rotation.stored(self.rotation_precision)?;
        let codebooks = ProductCodebooks::from_parts(
            length / width,
            axis,
            quantizer.precision,
            in_units_of_weights(&best.codebooks.values(), exponent)?.view(),
        )?;
        let rotated = in_units_of_weights(&rotation.rotate(vectors).view(), exponent)?;
        let matrix = codebooks.encode_finite(axis.vectors(rotated.view()))?;
        Ok(OptimizedPqMatrix {
            matrix,
            rotation,
            report: Some(report),
        })
    }
}

/// `values` · 2^`exponent`.
fn in_units_of_weights<F: Float, D: Dimension>(
    values: &ArrayView<'_, F, D>,
    exponent: i32,
) -> Result<Array<F, D>> {
    let values = power::scaled(values, exponent);
    check::no_overflow("a rotated weight or its centroid", &values)?;
    Ok(values)
}

/// k-means that starts from these codebooks.
#[derive(Debug)]
struct Warm<'a, F>(&'a ProductCodebooks<F>);

/// Iterations of k-means for each rotation. More are not worth their time, since the next rotation changes the vectors.
const ITERATIONS: usize = 3;

impl<F: Float> Warm<'_, F> {
    fn starting_at(&self, group: usize) -> KMeans {
        let centroids = self.0.codebook(group).mapv(Float::as_f64);
        KMeans::new()
            .seeding(Seeding::Given(centroids))
            .max_iterations(ITERATIONS)
    }
}

impl<F: Float> Clusterer<F> for Warm<'_, F> {
    fn cluster(
        &self,
        points: ArrayView2<'_, F>,
        weights: Option<ArrayView1<'_, F>>,
        clusters: usize,
        seed: Seed,
        observer: Option<&dyn Observer>,
    ) -> Result<Clustering<F>> {
        self.starting_at(0)
            .cluster(points, weights, clusters, seed, observer)
    }

    fn cluster_groups(
        &self,
        groups: &[ArrayView2<'_, F>],
        weights: Option<&[ArrayView1<'_, F>]>,
        clusters: usize,
        seed: Seed,
        observer: Option<&dyn Observer>,
    ) -> Result<Vec<Clustering<F>>> {
        cluster::by_group(groups, weights, seed, |group, points, weights, seed| {
            self.starting_at(group)
                .cluster(points, weights, clusters, seed, observer)
        })
    }
}

/// A product-quantized matrix of rotated vectors.
///
/// Made by an [`OptimizedProductQuantizer`]. With Q the matrix of the codes and R the rotation,
///
/// $$W = Q R^T \\ \\text{(inputs split)}, \\qquad W = R Q \\ \\text{(outputs split)}$$
///
/// A product with W takes the look-ups of Q, and b multiply-adds for each input or output, where b is the size of R's blocks.
///
/// ```
/// use taper::ndarray::Array2;
/// use taper::quantize::product::{OptimizedProductQuantizer, ProductQuantizer};
/// use taper::{LinearOp, Quantizer};
///
/// let weights = Array2::from_shape_fn((100, 8), |(o, i)| ((o * (2 * (i % 4) + 1)) as f32).sin());
/// let plain = ProductQuantizer::new(4).centroids(16);
/// let rotated = OptimizedProductQuantizer::new(plain).block(4).quantize(weights.view())?;
/// // Two blocks of 4 × 4.
/// assert_eq!(rotated.rotation().dim(), (2, 4, 4));
/// assert_eq!(rotated.apply(Array2::ones((1, 8)).view())?.dim(), (1, 100));
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct OptimizedPqMatrix<F> {
    matrix: PqMatrix<F>,
    rotation: Rotation<F>,
    report: Option<FitReport>,
}

impl<F: Float> OptimizedPqMatrix<F> {
    /// The matrix of `matrix` (the codes) and a `rotation` of shape (blocks, b, b), whose values are rounded to `precision`.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) for blocks that are not square or do not make up the split axis, [`Error::NonFinite`](crate::Error::NonFinite),
    /// [`Error::EmptyAxis`](crate::Error::EmptyAxis), [`Error::Malformed`](crate::Error::Malformed) for a block that is not orthogonal up to the rounding of its values.
    pub fn from_parts(
        matrix: PqMatrix<F>,
        precision: Precision,
        rotation: ArrayView3<'_, F>,
    ) -> Result<Self> {
        let rotation = Rotation::from_parts(precision, rotation)?;
        let length = matrix.codebooks().split_length();
        check::same_shape("the rotation's vectors", &[length], &[rotation.length()])?;
        Ok(Self {
            matrix,
            rotation,
            report: None,
        })
    }

    /// The codes and codebooks of the rotated vectors.
    #[must_use]
    pub fn matrix(&self) -> &PqMatrix<F> {
        &self.matrix
    }

    /// The blocks along the rotation's diagonal, (blocks, b, b): a vector v of the split axis becomes v R.
    #[must_use]
    pub fn rotation(&self) -> ArrayView3<'_, F> {
        self.rotation.blocks()
    }
}

impl<F: Float> Compressed<F> for OptimizedPqMatrix<F> {
    fn shape(&self) -> &[usize] {
        self.matrix.shape()
    }

    /// The parts of the matrix of codes, and the rotation.
    fn parts(&self) -> Vec<Part<'_>> {
        let mut parts = self.matrix.parts();
        parts.push(self.rotation.part());
        parts
    }

    fn storage(&self) -> StorageBits {
        let codes = self.matrix.storage();
        codes.with("rotation", Role::SideInformation, self.rotation.bits())
    }

    fn decompress_into(&self, out: ArrayViewMutD<'_, F>) -> Result<()> {
        check::same_shape("the output", self.shape(), out.shape())?;
        let dense = self.matrix.decompress_matrix()?;
        let out = out.into_dimensionality::<Ix2>();
        let out = out.expect("the output has the two axes of the matrix");
        match self.matrix.codebooks().axis() {
            SplitAxis::In => self.rotation.rotate_back_into(dense.view(), out),
            SplitAxis::Out => {
                let (vectors, out) = (dense.t(), out.reversed_axes());
                self.rotation.rotate_back_into(vectors, out);
            }
        }
        Ok(())
    }

    fn report(&self) -> Option<&FitReport> {
        self.report.as_ref()
    }
}

impl<F: Float> LinearOp<F> for OptimizedPqMatrix<F> {
    fn apply_into(&self, x: ArrayView2<'_, F>, y: ArrayViewMut2<'_, F>) -> Result<()> {
        check_apply(self.matrix.shape, &x, &y)?;
        match self.matrix.codebooks().axis() {
            SplitAxis::In => self.matrix.apply_into(self.rotation.rotate(x).view(), y)?,
            SplitAxis::Out => {
                let rotated = self.matrix.apply(x)?;
                self.rotation.rotate_back_into(rotated.view(), y);
            }
        }
        Ok(())
    }
}
