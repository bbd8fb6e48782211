//! Products with fixed-point codes, against faer's product in single precision, in one run.
//!
//! `cargo bench --bench fixed_point`

mod shared;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use ndarray::Axis;
use shared::{config, faer_product, random};
use taper::quantize::fixed_point::{FixedPointQuantizer, Range};
use taper::{LinearOp, Quantizer};

const SIZE: usize = 2048;

fn apply(c: &mut Criterion) {
    let weights = random(1, (SIZE, SIZE));
    for batch in [1, 100] {
        let x = random(2, (batch, SIZE));
        let mut group = c.benchmark_group(format!("apply 2048x2048, batch {batch}"));
        for bits in [1, 4, 8, 16] {
            let q = FixedPointQuantizer::new(bits)
                .quantize(weights.view())
                .expect("finite weights");
            group.bench_function(format!("{bits} bits"), |b| {
                b.iter(|| q.apply(black_box(x.view())).expect("shapes fit"));
            });
            if bits <= 8 {
                group.bench_function(format!("{bits} bits, inputs rounded"), |b| {
                    b.iter(|| q.apply_rounded(black_box(x.view())).expect("few bits"));
                });
            }
        }
        faer_product(&mut group, &weights, &x);
        group.finish();
    }
}

/// One product of tens of microseconds: with the queue of `src/parallel.rs`, with rayon's parallel iterator over pieces of
/// the matrix, each of which is too small to use several threads itself, and on one thread.
#[cfg(feature = "rayon")]
fn pool(c: &mut Criterion) {
    use rayon::prelude::*;

    const PIECE: usize = 64;
    let weights = random(1, (SIZE, SIZE));
    let x = random(2, (1, SIZE));
    let quantizer = FixedPointQuantizer::new(8);
    let quantize = |weights| quantizer.quantize(weights).expect("finite weights");
    let whole = quantize(weights.view());
    let pieces = weights.axis_chunks_iter(Axis(0), PIECE);
    let pieces: Vec<_> = pieces.map(quantize).collect();
    let one = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .expect("a pool of one thread");
    let mut group = c.benchmark_group("pool: product of 8 bits 2048x2048, batch 1");
    let product = || whole.apply_rounded(black_box(x.view())).expect("few bits");
    group.bench_function("queue", |b| b.iter(product));
    group.bench_function("parallel iterator", |b| {
        b.iter(|| {
            let products = pieces
                .par_iter()
                .map(|piece| piece.apply_rounded(black_box(x.view())).expect("few bits"));
            products.collect::<Vec<_>>()
        });
    });
    group.bench_function("one thread", |b| b.iter(|| one.install(product)));
    group.finish();
}

#[cfg(not(feature = "rayon"))]
fn pool(_: &mut Criterion) {}

fn quantize(c: &mut Criterion) {
    let weights = random(3, (512, 512));
    let mut group = c.benchmark_group("quantize 512x512 to 4 bits");
    for (name, range) in [
        ("min-max", Range::MinMax),
        ("percentile", Range::Percentile(99.9)),
        ("squared error", Range::SquaredError),
    ] {
        let params = FixedPointQuantizer::new(4).range(range);
        group.bench_function(name, |b| {
            b.iter(|| {
                params
                    .quantize(black_box(weights.view()))
                    .expect("finite weights")
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = config();
    targets = apply, pool, quantize
}
criterion_main!(benches);
