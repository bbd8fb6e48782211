//! Products with fixed-point codes, against faer's product in single precision, in one run.
//!
//! `cargo bench --bench fixed_point`

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};
use ndarray::Array2;
use taper::quantize::fixed_point::{FixedPointQuantizer, Range};
use taper::{LinearOp, Quantizer, Seed};

const SIZE: usize = 2048;

fn random(seed: u64, shape: (usize, usize)) -> Array2<f32> {
    let mut stream = 0;
    Array2::from_shape_simple_fn(shape, || {
        stream += 1;
        (Seed::from(seed).derive(stream).value() >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    })
}

fn apply(c: &mut Criterion) {
    let weights = random(1, (SIZE, SIZE));
    for batch in [1, 100] {
        let x = random(2, (batch, SIZE));
        let mut group = c.benchmark_group(format!("apply 2048x2048, batch {batch}"));
        for bits in [4, 8, 16] {
            let q = FixedPointQuantizer::params(bits)
                .quantize(weights.view())
                .expect("finite weights");
            group.bench_function(format!("{bits} bits"), |b| {
                b.iter(|| q.apply(black_box(x.view())).expect("shapes fit"));
            });
        }
        let w =
            MatRef::from_row_major_slice(weights.as_slice().expect("a fresh array"), SIZE, SIZE);
        let x = MatRef::from_row_major_slice(x.as_slice().expect("a fresh array"), batch, SIZE);
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

fn quantize(c: &mut Criterion) {
    let weights = random(3, (512, 512));
    let mut group = c.benchmark_group("quantize 512x512 to 4 bits");
    for (name, range) in [
        ("min-max", Range::MinMax),
        ("percentile", Range::Percentile(99.9)),
        ("squared error", Range::SquaredError),
    ] {
        let params = FixedPointQuantizer::params(4).range(range);
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
    config = Criterion::default().sample_size(20).measurement_time(std::time::Duration::from_secs(2)).warm_up_time(std::time::Duration::from_millis(500));
    targets = apply, quantize
}
criterion_main!(benches);
