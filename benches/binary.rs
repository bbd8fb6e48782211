//! A 4096 × 4096 layer of signs against faer's product in single precision, in one run.
//!
//! `cargo bench --bench binary`; both use the threads of the global rayon pool.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};
use ndarray::Array2;
use taper::quantize::binary::{BatchNorm, Binarizer, BinaryActivations, BinaryMlp};
use taper::{LinearOp, Quantizer, Seed};

const SIZE: usize = 4096;

fn random(seed: u64, shape: (usize, usize)) -> Array2<f32> {
    let mut stream = 0;
    Array2::from_shape_simple_fn(shape, || {
        stream += 1;
        (Seed::from(seed).derive(stream).value() >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    })
}

fn layer(c: &mut Criterion) {
    let weights = random(1, (SIZE, SIZE));
    let binary = Binarizer::params()
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
        let w =
            MatRef::from_row_major_slice(weights.as_slice().expect("a fresh array"), SIZE, SIZE);
        let x = MatRef::from_row_major_slice(x.as_slice().expect("a fresh array"), batch, SIZE);
        // Its fastest form here: the result by columns, one a vector of the batch.
        let mut y = Mat::<f32>::zeros(SIZE, batch);
        group.bench_function("faer f32", |b| {
            b.iter(|| {
                let (w, x) = (black_box(w), black_box(x));
                matmul(
                    y.as_mut(),
                    Accum::Replace,
                    w,
                    x.transpose(),
                    1.0,
                    Par::rayon(0),
                );
            });
        });
        group.finish();
    }
}

fn network(c: &mut Criterion) {
    let signs = |seed, shape| {
        Binarizer::params()
            .quantize(random(seed, shape).view())
            .expect("finite weights")
    };
    let row = |seed, shift| random(seed, (1, SIZE)).row(0).mapv(|x| x + shift);
    let norm = BatchNorm::new(row(1, 0.0), row(2, 0.0), row(3, 0.0), row(4, 2.0), 1e-4)
        .expect("positive variances");
    let network = BinaryMlp::new(signs(5, (SIZE, 784)), &norm)
        .and_then(|network| network.hidden(signs(6, (SIZE, SIZE)), &norm))
        .and_then(|network| network.hidden(signs(7, (SIZE, SIZE)), &norm))
        .and_then(|network| network.output(random(8, (10, SIZE)), ndarray::Array1::zeros(10)))
        .expect("shapes fit");
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
    config = Criterion::default().sample_size(20).measurement_time(std::time::Duration::from_secs(2)).warm_up_time(std::time::Duration::from_millis(500));
    targets = layer, network
}
criterion_main!(benches);
