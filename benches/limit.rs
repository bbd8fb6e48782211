//! The limits of a large matrix: the histogram, and the rate–distortion function on it.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use taper::Seed;
use taper::limit::EmpiricalSource;
use taper::ndarray::Array2;

/// Sums of four uniform numbers: bell-shaped, as weights are.
fn weights(side: usize) -> Array2<f32> {
    Array2::from_shape_fn((side, side), |(i, j)| {
        let bits = Seed::from(7).derive((i * side + j) as u64).value();
        let part = |shift: u32| (bits >> shift & 0xffff) as f32 / 65_536.0;
        part(0) + part(16) + part(32) + part(48) - 2.0
    })
}

fn limits(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("limit");
    group.sample_size(10);
    let w = weights(4096);
    group.throughput(Throughput::Elements(w.len() as u64));
    group.bench_function("histogram/4096x4096", |b| {
        b.iter(|| EmpiricalSource::of(w.view()).expect("finite weights"));
    });
    group.finish();

    // On the histogram: the number of weights has no say any more.
    let mut group = criterion.benchmark_group("limit");
    group.sample_size(10);
    let source = EmpiricalSource::of(w.view()).expect("finite weights");
    for bits in [1.0, 2.0, 4.0] {
        group.bench_function(format!("distortion/{bits} bits"), |b| {
            b.iter(|| source.distortion(bits).expect("a rate"));
        });
    }
    group.finish();
}

criterion_group!(benches, limits);
criterion_main!(benches);
