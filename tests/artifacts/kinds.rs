//! Every kind of artifact, and the ways in which it is made: one line each.

use taper::factorize::Rank;
use taper::factorize::convolution::{CpConv2d, Tucker2};
use taper::factorize::cp::{Constraint, CpAdmm, CpAls, CpTensor};
use taper::factorize::svd::{SingularValues, SvdMethod, TruncatedSvd};
use taper::model::extend::Artifact;
use taper::model::{Dense, FactoredMatrix, FactoredTensor, SparseQuantized};
use taper::ndarray::{Array2, ArrayView, ArrayView2, ArrayViewD, Dimension, Ix2, Ix4, IxDyn};
use taper::prune::SparseMatrix;
use taper::quantize::binary::Binarizer;
use taper::quantize::fixed_point::{
    FixedPointMatrix, FixedPointQuantizer, Granularity, Range, Symmetry,
};
use taper::quantize::product::{
    Codebook, OptimizedProductQuantizer, ProductQuantizer, ResidualQuantizer, SplitAxis,
};
use taper::quantize::trellis::TrellisQuantizer;
use taper::{Compressed, Error, Factorizer, Float, Geometry, Precision, Quantizer, Result};

use crate::draw::Draw;

/// What becomes of a tensor that is compressed, rebuilt, and compressed again with the same parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(dead_code, reason = "the fuzz targets ask for no law of this kind")]
pub enum Again {
    /// The same tensor: what was rebuilt is exactly what these parameters can express. It is compared up to the
    /// rounding of the stored precision, in which a scale (a mean, a quotient) is found again.
    Same,
    /// The error of the second against the original is no larger than that of the first, up to rounding.
    NoWorse,
    /// Nothing follows: for the reason given.
    NoLaw(&'static str),
}

/// From weights and choices to an artifact.
type Make<F, A> = fn(ArrayViewD<'_, F>, &mut Draw<'_>) -> Result<Box<A>>;

/// One way to make an artifact, of weights in single precision and, where that exists, in double.
pub struct Kind {
    pub name: &'static str,
    /// How many axes the weights have.
    pub axes: usize,
    pub again: Again,
    pub single: Make<f32, dyn Artifact>,
    pub double: Option<Make<f64, dyn Compressed<f64>>>,
}

/// `name, axes, again, |weights, draw| artifact`, the weights having `D`'s axes.
macro_rules! kind {
    ($name:literal, $axes:ty, $again:expr, |$w:ident, $draw:ident| $make:expr) => {
        Kind {
            double: Some(|weights, $draw| {
                let $w = with_axes::<f64, $axes>(weights)?;
                Ok(Box::new($make?))
            }),
            ..kind!($name, $axes, single, $again, |$w, $draw| $make)
        }
    };
    ($name:literal, $axes:ty, single, $again:expr, |$w:ident, $draw:ident| $make:expr) => {
        Kind {
            name: $name,
            axes: <$axes>::NDIM.unwrap_or(3),
            again: $again,
            single: |weights, $draw| {
                let $w = with_axes::<f32, $axes>(weights)?;
                Ok(Box::new($make?))
            },
            double: None,
        }
    };
}

/// A least-squares fit of several factors ends at a local optimum, which may be another one the second time.
const LOCAL: Again = Again::NoLaw("ends at a local optimum that depends on the start");

/// Where singular values are close, vectors of rounded factors may turn by more than the rounding.
const ROUNDED: Again = Again::NoLaw("rounds factors, not their product");

/// Weights near the threshold may be rounded to below it.
const PRUNED: Again = Again::NoLaw("is pruned again");

pub fn kinds() -> Vec<Kind> {
    use Again::{NoLaw, NoWorse, Same};
    vec![
        kind!("dense", IxDyn, single, Same, |w, d| Dense::new(
            w,
            precision(d)
        )),
        kind!("product", Ix2, NoWorse, |w, d| product(w, d).quantize(w)),
        kind!(
            "residual product",
            Ix2,
            NoLaw("the first stage fits what all stages made"),
            |w, d| {
                let stage = product(w, d);
                ResidualQuantizer::new(stage, d.between(1, 3)).quantize(w)
            }
        ),
        kind!(
            "rotated product",
            Ix2,
            NoLaw("may end at another rotation"),
            |w, d| rotated(w, d)
        ),
        kind!(
            "fixed point",
            Ix2,
            NoLaw("the best range of what was rounded may be narrower"),
            |w, d| {
                let quantizer = fixed_point(d);
                let ranges = [Range::SquaredError, Range::Percentile(97.0)];
                widened(quantizer.range(d.choose(&ranges)), w)
            }
        ),
        kind!("fixed point of the whole range", Ix2, Same, |w, d| {
            widened(fixed_point(d).range(Range::MinMax), w)
        }),
        kind!(
            "trellis",
            Ix2,
            NoLaw("its step follows the weights, and its values are means"),
            |w, d| {
                let step = d.choose(&[1.5, 0.5, 0.1, 0.01]);
                TrellisQuantizer::relative(step)
                    .states(d.choose(&[8, 32, 256]))
                    .precision(precision(d))
                    .quantize(w)
            }
        ),
        kind!("binary", Ix2, Same, |w, d| binarizer(d).quantize(w)),
        kind!(
            "stochastic binary",
            Ix2,
            NoLaw("draws each sign"),
            |w, d| {
                let seed = d.seed();
                binarizer(d).stochastic(seed).quantize(w)
            }
        ),
        kind!("sparse", Ix2, PRUNED, |w, d| {
            let share = d.within(0, 8) as f64 / 8.0;
            SparseMatrix::from_dense(pruned(w, share).view(), precision(d))
        }),
        kind!("sparse and quantized", Ix2, single, PRUNED, |w, d| {
            let share = d.within(0, 6) as f64 / 8.0;
            SparseQuantized::new(pruned(w, share).view(), |values| {
                let pq = ProductQuantizer::new(1)
                    .axis(SplitAxis::Out)
                    .codebook(Codebook::PerGroup)
                    .centroids(d.between(1, 9));
                pq.axis(SplitAxis::In).quantize(values)
            })
        }),
        kind!("low rank", Ix2, ROUNDED, |w, d| low_rank(w.shape(), d)
            .factorize(w)),
        kind!("low rank at random", Ix2, ROUNDED, |w, d| {
            let method = SvdMethod::Randomized;
            low_rank(w.shape(), d)
                .method(method)
                .seed(d.seed())
                .factorize(w)
        }),
        kind!("spatial", Ix4, ROUNDED, |w, d| low_rank(w.shape(), d)
            .factorize(w)),
        kind!("cp by ALS", IxDyn, LOCAL, |w, d| als(w.shape(), d)
            .factorize(w)),
        kind!("cp by ADMM", IxDyn, LOCAL, |w, d| {
            const CONSTRAINTS: [Constraint; 3] = [
                Constraint::NonNegative,
                Constraint::Ridge(0.01),
                Constraint::L1(0.01),
            ];
            let admm = CpAdmm::new(rank(w.shape(), d))
                .all(d.choose(&CONSTRAINTS))
                .max_sweeps(20);
            admm.precision(precision(d)).seed(d.seed()).factorize(w)
        }),
        kind!("cp convolution", Ix4, LOCAL, |w, d| {
            als(w.shape(), d)
                .factorize(w)
                .and_then(|kernel| CpConv2d::new(&kernel, None, geometry(d)))
        }),
        kind!("tucker convolution", Ix4, ROUNDED, |w, d| {
            let tucker = Tucker2::ranks(d.between(1, 2), d.between(1, 2)).precision(precision(d));
            tucker
                .factorize(w)
                .and_then(|chain| chain.with_geometry(geometry(d), None))
        }),
        kind!(
            "factored matrix",
            Ix2,
            single,
            NoLaw("rounds factors, not their product"),
            |w, d| {
                let product = TruncatedSvd::new(rank(w.shape(), d)).factorize(w)?;
                let left = widened(fixed_point(d), product.left())?;
                FactoredMatrix::new(
                    left,
                    self::product(product.right(), d).quantize(product.right())?,
                )
            }
        ),
        kind!("factored tensor", IxDyn, single, LOCAL, |w, d| {
            let als = als(w.shape(), d).precision(Precision::F32);
            let tensor: CpTensor<f32> = als.factorize(w)?;
            let mut factors = tensor.factors().to_vec();
            factors[0] *= tensor.weights();
            let quantizer = fixed_point(d);
            let factors = factors
                .iter()
                .map(|factor| widened(quantizer.clone(), factor.view()));
            FactoredTensor::new(factors.collect::<Result<Vec<_>>>()?)
        }),
    ]
}

fn with_axes<F: Float, D: Dimension>(weights: ArrayViewD<'_, F>) -> Result<ArrayView<'_, F, D>> {
    let shape = weights.shape().to_vec();
    weights
        .into_dimensionality()
        .map_err(|_| Error::Dimensions {
            what: "weights",
            expected: "as many axes as the kind has",
            shape,
        })
}

fn precision(d: &mut Draw<'_>) -> Precision {
    d.choose(&[Precision::F16, Precision::F32, Precision::F64])
}

fn rank(shape: &[usize], d: &mut Draw<'_>) -> Rank {
    let shortest = shape.iter().min().copied().unwrap_or(1);
    Rank::Fixed(d.between(1, shortest.clamp(1, 4)))
}

fn product<F: Float>(w: ArrayView2<'_, F>, d: &mut Draw<'_>) -> ProductQuantizer {
    let axis = d.choose(&[SplitAxis::In, SplitAxis::Out]);
    let groups = d.divisor(match axis {
        SplitAxis::In => w.ncols(),
        _ => w.nrows(),
    });
    ProductQuantizer::new(groups)
        .axis(axis)
        .centroids(d.between(1, 24))
        .codebook(d.choose(&[Codebook::PerGroup, Codebook::Shared]))
        .precision(precision(d))
        .seed(d.seed())
}

fn rotated<F: Float>(
    w: ArrayView2<'_, F>,
    d: &mut Draw<'_>,
) -> Result<taper::quantize::product::OptimizedPqMatrix<F>> {
    let (length, axis) = match d.flag() {
        true => (w.ncols(), SplitAxis::In),
        false => (w.nrows(), SplitAxis::Out),
    };
    // The width of a sub-vector divides the side of a block, which divides the axis.
    let block = d.divisor(length);
    let plain = ProductQuantizer::with_width(d.divisor(block))
        .codebook(Codebook::PerGroup)
        .axis(axis)
        .centroids(d.between(1, 9))
        .seed(d.seed());
    OptimizedProductQuantizer::new(plain)
        .block(block)
        .eigenvalue_start(d.choose(&[false, true]))
        .iterations(3)
        .rotation_precision(precision(d))
        .quantize(w)
}

fn fixed_point(d: &mut Draw<'_>) -> FixedPointQuantizer {
    FixedPointQuantizer::new(d.between(1, 16) as u32)
        .symmetry(d.choose(&[Symmetry::Symmetric, Symmetry::Affine, Symmetry::SignedScale]))
        .granularity(d.choose(&[
            Granularity::PerTensor,
            Granularity::PerRow,
            Granularity::Block(16),
            Granularity::Block(32),
        ]))
        .precision(precision(d))
}

/// In single precision where half precision cannot hold a scale, as recipes do.
fn widened<F: Float>(
    quantizer: FixedPointQuantizer,
    w: ArrayView2<'_, F>,
) -> Result<FixedPointMatrix<F>> {
    match quantizer.quantize(w) {
        Err(Error::Underflow { .. } | Error::Overflow { .. }) => {
            quantizer.precision(Precision::F32).quantize(w)
        }
        result => result,
    }
}

fn binarizer(d: &mut Draw<'_>) -> Binarizer {
    Binarizer::new()
        .scaling(d.choose(&[
            None,
            Some(Granularity::PerTensor),
            Some(Granularity::PerRow),
        ]))
        .precision(precision(d))
}

/// Without the weights below this share of the largest.
fn pruned<F: Float>(w: ArrayView2<'_, F>, share: f64) -> Array2<F> {
    let largest = w.fold(0.0, |largest: f64, w| largest.max(w.as_f64().abs()));
    w.mapv(|w| {
        if w.as_f64().abs() < share * largest {
            F::zero()
        } else {
            w
        }
    })
}

fn low_rank(shape: &[usize], d: &mut Draw<'_>) -> TruncatedSvd {
    use SingularValues::{Apart, Left, Right, Split};
    TruncatedSvd::new(rank(shape, d))
        .singular_values(d.choose(&[Split, Left, Right, Apart]))
        .precision(precision(d))
}

fn als(shape: &[usize], d: &mut Draw<'_>) -> CpAls {
    CpAls::new(rank(shape, d))
        .max_sweeps(20)
        .precision(precision(d))
        .seed(d.seed())
}

fn geometry(d: &mut Draw<'_>) -> Geometry {
    Geometry {
        stride: [d.between(1, 3), d.between(1, 3)],
        padding: [d.between(0, 2), d.between(0, 2)],
        dilation: [d.between(1, 3), d.between(1, 3)],
    }
}
