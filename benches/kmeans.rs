//! k-means as product quantization uses it: throughput by distance and the loss that comes out.

#[path = "shared/cases.rs"]
mod cases;

use std::hint::black_box;

use cases::cases;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ndarray::{Array2, Axis, s};
use taper::Seed;
use taper::cluster::{Clusterer, Clustering, KMeans, Seeding, assign, cluster_scalars};

/// Sums of four uniform numbers, of variance one third: near enough to normal weights.
fn weights(rows: usize, columns: usize) -> Array2<f32> {
    let mut state = 7_u64;
    Array2::from_shape_simple_fn((rows, columns), || {
        state = Seed::from(state).derive(0).value();
        let halves = (0..4).map(|i| (state >> (16 * i)) as u16 as f32 / 65536.0 - 0.5);
        halves.sum()
    })
}

fn mean_loss(results: &[Clustering<f32>]) -> f64 {
    let losses = results.iter().filter_map(|result| result.report.loss());
    losses.sum::<f64>() / results.len() as f64
}

fn kmeans(c: &mut Criterion) {
    for &(size, clusters) in cases(&[(512, 50), (4096, 256)]) {
        let matrix = weights(size, size);
        let groups: Vec<_> = matrix.axis_chunks_iter(Axis(1), 8).collect();
        let mut bench =
            c.benchmark_group(format!("{size}x{size}, {clusters} centroids a group of 8"));
        bench
            .sample_size(10)
            .throughput(Throughput::Elements((size * size) as u64));
        for (name, seeding) in [
            ("k-means++", Seeding::PlusPlus),
            ("greedy k-means++", Seeding::Greedy),
            ("random", Seeding::Random),
        ] {
            let kmeans = KMeans::new().seeding(seeding);
            let mut loss = f64::NAN;
            bench.bench_function(name, |b| {
                b.iter(|| {
                    let results =
                        kmeans.cluster_groups(&groups, None, clusters, Seed::from(1), None);
                    loss = mean_loss(&results.unwrap_or_default());
                });
            });
            eprintln!("{size}x{size}, {name}: mean squared error a vector {loss:.6}");
        }
    }
}

fn shared(c: &mut Criterion) {
    for &count in cases(&[1 << 14, 1 << 21]) {
        let matrix = weights(count, 8);
        let mut bench = c.benchmark_group(format!("{count} vectors of 8, 256 centroids"));
        bench
            .sample_size(10)
            .throughput(Throughput::Elements(matrix.len() as u64));
        let mut loss = f64::NAN;
        bench.bench_function("k-means++", |b| {
            b.iter(|| {
                let result = KMeans::new().cluster(matrix.view(), None, 256, Seed::from(1), None);
                loss = result.map_or(f64::NAN, |result| mean_loss(&[result]));
            });
        });
        eprintln!("shared: mean squared error a vector {loss:.6}");
        let centroids = matrix.slice(s![..256, ..]);
        // Distances a second rather than elements.
        bench.throughput(Throughput::Elements(matrix.nrows() as u64 * 256));
        bench.bench_function("assign", |b| {
            b.iter(|| black_box(assign(matrix.view(), centroids)))
        });
    }
}

fn scalars(c: &mut Criterion) {
    let values = weights(100_000, 1);
    let mut bench = c.benchmark_group("100,000 values, optimal");
    bench
        .sample_size(10)
        .throughput(Throughput::Elements(values.len() as u64));
    bench.bench_function("16 centroids", |b| {
        b.iter(|| black_box(cluster_scalars(values.column(0), None, 16)));
    });
}

criterion_group!(benches, kmeans, shared, scalars);
criterion_main!(benches);
