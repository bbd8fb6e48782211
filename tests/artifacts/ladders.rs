//! More centroids, ranks, bits or stages are never worse.

use taper::factorize::Rank;
use taper::factorize::convolution::Tucker2;
use taper::factorize::cp::{Constraint, CpAdmm, CpAls};
use taper::factorize::svd::{SvdMethod, TruncatedSvd};
use taper::ndarray::{Array2, Array3, Array4};
use taper::prune::SparseMatrix;
use taper::quantize::fixed_point::{FixedPointQuantizer, Granularity, Range, Symmetry};
use taper::quantize::product::{
    Codebook, OptimizedProductQuantizer, ProductQuantizer, ResidualQuantizer, SplitAxis,
};
use taper::{Compressed, Factorizer, Precision, Quantizer, Result};

use crate::draw::Draw;
use crate::laws::{numbers, squared_error};

struct Weights {
    matrix: Array2<f32>,
    tensor: Array3<f32>,
    kernel: Array4<f32>,
}

/// What is made with more and more of something.
type Ladder = (
    &'static str,
    &'static [usize],
    fn(&Weights, usize) -> Result<Box<dyn Compressed<f32>>>,
);

macro_rules! ladder {
    ($name:literal, $steps:expr, |$w:ident, $n:ident| $make:expr) => {
        ($name, &$steps, |weights, $n| {
            let $w = weights;
            Ok(Box::new($make?))
        })
    };
}

fn ladders() -> Vec<Ladder> {
    vec![
        ladder!("centroids", [1, 2, 4, 8, 16, 24], |w, n| pairs(n)
            .quantize(w.matrix.view())),
        ladder!(
            "centroids of scalars, exactly",
            [1, 2, 3, 4, 5, 6, 7, 8],
            |w, n| {
                let scalars = ProductQuantizer::with_width(1)
                    .codebook(Codebook::PerGroup)
                    .axis(SplitAxis::In)
                    .centroids(n);
                scalars
                    .clusterer(taper::cluster::OptimalScalar)
                    .quantize(w.matrix.view())
            }
        ),
        ladder!("centroids after a rotation", [1, 2, 4, 8, 16], |w, n| {
            OptimizedProductQuantizer::new(pairs(n)).quantize(w.matrix.view())
        }),
        ladder!("stages", [1, 2, 3, 4, 5], |w, n| ResidualQuantizer::new(
            pairs(4),
            n
        )
        .quantize(w.matrix.view())),
        ladder!("bits", [2, 3, 4, 5, 6, 8, 10, 12, 16], |w, n| {
            FixedPointQuantizer::new(n as u32).quantize(w.matrix.view())
        }),
        ladder!(
            "bits of affine rows",
            [1, 2, 3, 4, 5, 6, 8, 10, 12, 16],
            |w, n| {
                let rows = FixedPointQuantizer::new(n as u32).granularity(Granularity::PerRow);
                rows.symmetry(Symmetry::Affine)
                    .range(Range::SquaredError)
                    .quantize(w.matrix.view())
            }
        ),
        ladder!(
            "bits of blocks with signed scales",
            [1, 2, 3, 4, 5, 6, 8, 10, 12, 16],
            |w, n| {
                FixedPointQuantizer::new(n as u32)
                    .granularity(Granularity::Block(16))
                    .symmetry(Symmetry::SignedScale)
                    .range(Range::SquaredError)
                    .quantize(w.matrix.view())
            }
        ),
        ladder!("weights kept", [0, 1, 2, 3, 4, 5, 6, 7, 8], |w, n| {
            let threshold = 1.0 - n as f32 / 8.0;
            let kept = w.matrix.mapv(|w| if w.abs() < threshold { 0.0 } else { w });
            SparseMatrix::from_dense(kept.view(), Precision::F32)
        }),
        ladder!("rank", [1, 2, 3, 5, 9, 18], |w, n| TruncatedSvd::new(
            Rank::Fixed(n)
        )
        .factorize(w.matrix.view())),
        ladder!("rank at random", [1, 2, 4, 8, 16], |w, n| {
            TruncatedSvd::new(Rank::Fixed(n))
                .method(SvdMethod::BlockKrylov)
                .factorize(w.matrix.view())
        }),
        ladder!("rank of a spatial convolution", [1, 2, 4, 8], |w, n| {
            TruncatedSvd::new(Rank::Fixed(n)).factorize(w.kernel.view())
        }),
        ladder!("terms by ALS", [1, 2, 4, 8, 16], |w, n| CpAls::new(
            Rank::Fixed(n)
        )
        .factorize(w.tensor.view())),
        ladder!("terms by ADMM", [1, 2, 4, 8, 16], |w, n| {
            CpAdmm::new(Rank::Fixed(n))
                .all(Constraint::NonNegative)
                .factorize(w.tensor.view())
        }),
        ladder!("ranks of a Tucker convolution", [1, 2, 3, 4], |w, n| {
            Tucker2::ranks(n, n).factorize(w.kernel.view())
        }),
    ]
}

fn pairs(centroids: usize) -> ProductQuantizer {
    let pairs = ProductQuantizer::with_width(2)
        .codebook(Codebook::PerGroup)
        .axis(SplitAxis::In);
    pairs.centroids(centroids).seed(1)
}

#[test]
fn errors_do_not_rise() {
    let mut draw = Draw::from(11);
    let weights = Weights {
        matrix: numbers(&[24, 18], &mut draw).into_dimensionality().unwrap(),
        tensor: numbers(&[7, 6, 5], &mut draw)
            .into_dimensionality()
            .unwrap(),
        kernel: numbers(&[6, 4, 3, 3], &mut draw)
            .into_dimensionality()
            .unwrap(),
    };
    for (name, steps, make) in ladders() {
        let mut errors = Vec::new();
        for &step in steps {
            let artifact = make(&weights, step).unwrap();
            let dense = match artifact.shape().len() {
                2 => weights.matrix.view().into_dyn(),
                3 => weights.tensor.view().into_dyn(),
                _ => weights.kernel.view().into_dyn(),
            };
            let size: f64 = dense.iter().map(|w| f64::from(*w).powi(2)).sum();
            let error = squared_error(&artifact.decompress().unwrap(), dense) / size;
            errors.push(error.sqrt());
        }
        // Only what is exact but for rounding may round differently.
        let rounding = f64::from(f32::EPSILON) * 8.0;
        assert!(
            errors.windows(2).all(|pair| pair[1] <= pair[0] + rounding),
            "{name}: {errors:?}"
        );
        assert!(errors[errors.len() - 1] < errors[0], "{name}: {errors:?}");
    }
}
