//! Product quantization: training, decompressing, and products against a dense one.
//!
//! `cargo bench --bench product` prints the error of what it trains beside the times.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use taper::ndarray::{Array2, Ix2};
use taper::quantize::product::{PqMatrix, ProductQuantizer, SplitAxis};
use taper::{Compressed, LinearOp, Quantizer, Seed};

/// Sums of four uniform numbers: close to a normal distribution, as trained weights are.
fn weights(rows: usize, columns: usize, seed: u64) -> Array2<f32> {
    let seed = Seed::from(seed);
    Array2::from_shape_fn((rows, columns), |(i, j)| {
        let bits = seed.derive((i * columns + j) as u64).value();
        (0..4)
            .map(|q| ((bits >> (16 * q)) & 0xffff) as f32 / 65536.0 - 0.5)
            .sum()
    })
}

/// The relative error in the Frobenius norm.
fn relative_error(matrix: &PqMatrix<f32>, w: &Array2<f32>) -> f64 {
    let rebuilt = matrix
        .decompress()
        .unwrap()
        .into_dimensionality::<Ix2>()
        .unwrap();
    let square = |a: &Array2<f32>| a.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
    (square(&(&rebuilt - w)) / square(w)).sqrt()
}

fn train(c: &mut Criterion) {
    let mut group = c.benchmark_group("train");
    group.sample_size(10);
    for (n, groups, centroids) in [(512, 64, 50), (512, 128, 256)] {
        let w = weights(n, n, 1);
        let quantizer = ProductQuantizer::params(groups).centroids(centroids);
        let matrix = quantizer.quantize(w.view()).unwrap();
        eprintln!(
            "{n}x{n} m={groups} k={centroids}: relative error {:.4}, {:.2} times smaller",
            relative_error(&matrix, &w),
            matrix.ratio()
        );
        group.throughput(Throughput::Elements((n * n) as u64));
        group.bench_function(
            BenchmarkId::new(format!("m={groups} k={centroids}"), n),
            |b| {
                b.iter(|| quantizer.quantize(black_box(w.view())).unwrap());
            },
        );
        group.bench_function(
            BenchmarkId::new(format!("decompress m={groups} k={centroids}"), n),
            |b| {
                b.iter(|| matrix.decompress().unwrap());
            },
        );
    }
}

fn apply(c: &mut Criterion) {
    let mut group = c.benchmark_group("apply");
    group.sample_size(20);
    for (n, width, centroids) in [(512, 8, 50), (4096, 8, 256)] {
        for axis in [SplitAxis::In, SplitAxis::Out] {
            let w = weights(n, n, 1);
            let quantizer = ProductQuantizer::params_with_width(width).centroids(centroids);
            let matrix = quantizer
                .axis(axis)
                .max_iterations(1)
                .quantize(w.view())
                .unwrap();
            for batch in [1, 8, 64, 256] {
                let x = weights(batch, n, 2);
                let mut y = Array2::zeros((batch, n));
                group.throughput(Throughput::Elements((batch * n * n) as u64));
                let name = format!("{n} d={width} k={centroids} {axis:?}");
                group.bench_function(BenchmarkId::new(name, batch), |b| {
                    b.iter(|| {
                        matrix
                            .apply_into(black_box(x.view()), y.view_mut())
                            .unwrap()
                    });
                });
            }
        }
    }
}

criterion_group!(benches, train, apply);
criterion_main!(benches);
