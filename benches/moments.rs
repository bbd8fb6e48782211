//! What it costs to minimize the error of the outputs: the moments themselves, and compressors that use them.
//!
//! The figures printed beside are relative output errors with the moments and without: a compressor that is not better
//! with them would be a waste of their time.

#[path = "shared/cases.rs"]
mod cases;

use cases::cases;
use criterion::{Criterion, criterion_group, criterion_main};
use ndarray_rand::RandomExt;
use ndarray_rand::rand::SeedableRng;
use ndarray_rand::rand::rngs::SmallRng;
use ndarray_rand::rand_distr::StandardNormal;
use taper::ndarray::{Array2, Ix2};
use taper::quantize::fixed_point::{FixedPointQuantizer, Granularity, Range};
use taper::quantize::product::{Codebook, ProductQuantizer, SplitAxis};
use taper::{Compressed, FitContext, InputMoments, Quantizer};

fn normal(rows: usize, columns: usize, seed: u64) -> Array2<f32> {
    let mut rng = SmallRng::seed_from_u64(seed);
    Array2::random_using((rows, columns), StandardNormal, &mut rng)
}

/// Inputs of which neighbours are alike, and some larger than others.
fn inputs(rows: usize, features: usize) -> Array2<f32> {
    let mut inputs = normal(rows, features, 1);
    for mut row in inputs.rows_mut() {
        for i in 1..features {
            row[i] += 0.9 * row[i - 1];
        }
    }
    inputs
}

fn compare<Q: Quantizer<f32>>(
    name: &str,
    quantizer: &Q,
    weights: &Array2<f32>,
    moments: &InputMoments,
) -> taper::Result<()> {
    let error = |artifact: Q::Output| {
        let dense = artifact.decompress()?.into_dimensionality::<Ix2>();
        dense.map_or(Ok(f64::NAN), |dense| {
            moments.relative_output_error(weights.view(), dense.view())
        })
    };
    println!(
        "{name}: relative output error {:.3e} with moments, {:.3e} without",
        error(quantizer.quantize_with(weights.view(), FitContext::new().inputs(moments))?)?,
        error(quantizer.quantize(weights.view())?)?,
    );
    Ok(())
}

fn with_moments(c: &mut Criterion) {
    for &features in cases(&[512, 4096]) {
        let x = inputs(4096, features);
        let weights = normal(features, features, 2);
        let mut group = c.benchmark_group(format!("moments_{features}"));
        group.sample_size(10);
        let Ok(mut moments) = InputMoments::new(features) else {
            return;
        };
        group.bench_function("add_4096_rows", |b| b.iter(|| moments.add(x.view())));
        let fixed = FixedPointQuantizer::new(4)
            .granularity(Granularity::PerRow)
            .range(Range::SquaredError);
        let product = ProductQuantizer::with_width(8)
            .codebook(Codebook::PerGroup)
            .axis(SplitAxis::In)
            .centroids(256)
            .sweeps(2);
        let compared = compare("fixed point, 4 bits", &fixed, &weights, &moments)
            .and_then(|()| compare("product, k=256, d=8", &product, &weights, &moments));
        if let Err(error) = compared {
            println!("{error}");
        }
        group.bench_function("fixed_point_4_bits", |b| {
            b.iter(|| fixed.quantize_with(weights.view(), FitContext::new().inputs(&moments)));
        });
        group.bench_function("product_in_k256_d8", |b| {
            b.iter(|| product.quantize_with(weights.view(), FitContext::new().inputs(&moments)));
        });
    }
}

criterion_group!(benches, with_moments);
criterion_main!(benches);
