//! Product quantization: training, decompressing, and products against a dense one.
//!
//! `cargo bench --bench product` prints the error of what it trains beside the times.

use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};
use taper::cluster::{KMeans, Seeding};
use taper::ndarray::{Array2, Ix2};
use taper::quantize::product::{Codebook, PqMatrix, ProductMethod, ProductQuantizer, SplitAxis};
use taper::{Compressed, Quantizer, Seed};

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
        let quantizer = ProductQuantizer::new(groups)
            .axis(SplitAxis::Out)
            .codebook(Codebook::PerGroup)
            .centroids(centroids);
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

/// Look-ups and decompressing, of which `PqMatrix::method` chooses, beside the dense product that they replace.
fn apply(c: &mut Criterion) {
    for n in [512, 4096] {
        let w = weights(n, n, 1);
        for batch in [1, 4, 16, 64, 256] {
            let x = weights(batch, n, 2);
            let mut group = c.benchmark_group(format!("apply {n}x{n}, batch {batch}"));
            short(&mut group);
            group.throughput(Throughput::Elements((batch * n * n) as u64));
            let (w, x) = (
                MatRef::from_row_major_slice(w.as_slice().unwrap(), n, n),
                MatRef::from_row_major_slice(x.as_slice().unwrap(), batch, n),
            );
            // Its fastest form here: the result by columns, one a vector of the batch.
            let mut y = Mat::<f32>::zeros(n, batch);
            group.bench_function("faer f32", |b| {
                b.iter(|| {
                    let (w, x) = (black_box(w), black_box(x).transpose());
                    matmul(y.as_mut(), Accum::Replace, w, x, 1.0, Par::rayon(0));
                });
            });
        }
        for (centroids, width) in [(16, 8), (256, 8), (256, 2)] {
            // Such short sub-vectors at one size are enough.
            if (n, width) == (4096, 2) {
                continue;
            }
            for axis in [SplitAxis::In, SplitAxis::Out] {
                let kmeans = KMeans::new().max_iterations(1).seeding(Seeding::Random);
                let quantizer = ProductQuantizer::with_width(width)
                    .codebook(Codebook::PerGroup)
                    .centroids(centroids)
                    .axis(axis)
                    .clusterer(kmeans);
                let matrix = quantizer.quantize(w.view()).unwrap();
                for batch in [1, 4, 16, 64, 256] {
                    let x = weights(batch, n, 2);
                    let mut y = Array2::zeros((batch, n));
                    let mut group = c.benchmark_group(format!("apply {n}x{n}, batch {batch}"));
                    short(&mut group);
                    group.throughput(Throughput::Elements((batch * n * n) as u64));
                    for method in [ProductMethod::LookUp, ProductMethod::Decompress] {
                        let name = format!("k={centroids} d={width} {axis:?} {method:?}");
                        group.bench_function(name, |b| {
                            b.iter(|| {
                                let x = black_box(x.view());
                                matrix.apply_by(method, x, y.view_mut()).unwrap();
                            });
                        });
                    }
                }
            }
        }
    }
}

/// There are many of these; none of them needs long.
fn short(group: &mut BenchmarkGroup<'_, WallTime>) {
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(50))
        .measurement_time(Duration::from_millis(200));
}

criterion_group!(benches, train, apply);
criterion_main!(benches);
