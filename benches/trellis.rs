//! Trellis codes: rounding by the number of states, decompressing, and a container written and read.
//!
//! The throughput counts weights.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use taper::model::{CompressedModel, CompressedTensor};
use taper::ndarray::Array2;
use taper::quantize::trellis::TrellisQuantizer;
use taper::{Compressed, Quantizer, Seed};

#[path = "shared/cases.rs"]
mod cases;
use cases::cases;

const SIZE: usize = 1024;

/// Sums of four uniform numbers.
fn weights() -> Array2<f32> {
    let seed = Seed::from(7);
    Array2::from_shape_fn((SIZE, SIZE), |(i, j)| {
        let at = 4 * (i * SIZE + j) as u64;
        (at..at + 4).map(|at| seed.uniform(at)).sum::<f64>() as f32
    })
}

fn trellis(c: &mut Criterion) {
    let weights = weights();
    let mut group = c.benchmark_group("trellis");
    group.sample_size(10);
    group.throughput(Throughput::Elements(weights.len() as u64));
    for &states in cases(&[8, 64, 256]) {
        let quantizer = TrellisQuantizer::relative(0.25).states(states);
        group.bench_function(BenchmarkId::new("round", states), |b| {
            b.iter(|| quantizer.quantize(black_box(weights.view())).unwrap());
        });
    }
    let matrix = TrellisQuantizer::relative(0.25)
        .quantize(weights.view())
        .unwrap();
    group.bench_function("decompress", |b| {
        b.iter(|| black_box(&matrix).decompress().unwrap())
    });
    let mut model = CompressedModel::new();
    model.insert("w", CompressedTensor::new(matrix)).unwrap();
    let bytes = model.to_bytes().unwrap();
    group.bench_function("read", |b| {
        b.iter(|| CompressedModel::from_bytes(black_box(&bytes)).unwrap());
    });
    group.finish();
}

criterion_group!(benches, trellis);
criterion_main!(benches);
