//! A 4096 × 4096 layer of signs against faer's product in single precision, in one run.
//!
//! `cargo bench --bench binary`; both use the threads of the global rayon pool.

mod shared;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use shared::{config, faer_product, random};
use taper::quantize::binary::{BatchNorm, Binarizer, BinaryActivations, BinaryMlp};
use taper::{LinearOp, Quantizer};

const SIZE: usize = 4096;

fn layer(c: &mut Criterion) {
    let weights = random(1, (SIZE, SIZE));
    let binary = Binarizer::new()
        .quantize(weights.view())
        .expect("finite weights");
    for batch in [1, 100] {
        let x = random(2, (batch, SIZE));
        let packed = BinaryActivations::from_signs(x.view()).expect("finite inputs");
        let mut group = c.benchmark_group(format!("layer 4096x4096, batch {batch}"));
        group.throughput(Throughput::Elements((batch * SIZE * SIZE) as u64));
        group.bench_function("packed (XNOR)", |b| {
            b.iter(|| binary.multiply(black_box(&packed)).expect("shapes fit"));
        });
        group.bench_function("packed, signs of real inputs taken first", |b| {
            b.iter(|| {
                let x = BinaryActivations::from_signs(black_box(x.view())).expect("finite inputs");
                binary.multiply(&x).expect("shapes fit")
            });
        });
        group.bench_function("real inputs", |b| {
            b.iter(|| binary.apply(black_box(x.view())).expect("shapes fit"));
        });
        faer_product(&mut group, &weights, &x);
        group.finish();
    }
}

fn network(c: &mut Criterion) {
    let signs = |seed, shape| {
        Binarizer::new()
            .quantize(random(seed, shape).view())
            .expect("finite weights")
    };
    let row = |seed, shift| random(seed, (1, SIZE)).row(0).mapv(|x| x + shift);
    let norm = BatchNorm::new(row(1, 0.0), row(2, 0.0), row(3, 0.0), row(4, 2.0), 1e-4)
        .expect("positive variances");
    let layers = vec![
        (signs(5, (SIZE, 784)), norm.clone()),
        (signs(6, (SIZE, SIZE)), norm.clone()),
        (signs(7, (SIZE, SIZE)), norm),
    ];
    let bias = ndarray::Array1::zeros(10);
    let network = BinaryMlp::new(layers, random(8, (10, SIZE)), bias).expect("shapes fit");
    let images = random(9, (100, 784)).mapv(|x| (x.abs() * 255.0) as u8);
    let mut group = c.benchmark_group("network 784-4096-4096-4096-10");
    for batch in [1, 100] {
        let images = images.slice(ndarray::s![..batch, ..]);
        group.bench_function(format!("packed, batch {batch}"), |b| {
            b.iter(|| {
                network
                    .forward_bytes(black_box(images), 1.0 / 256.0)
                    .expect("shapes fit")
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = config();
    targets = layer, network
}
criterion_main!(benches);
