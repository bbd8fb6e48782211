//! What the benches of products share: matrices without structure, and the product to compare with.

use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion};
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};
use ndarray::Array2;
use taper::Seed;

/// Few and short samples: a bench ends within a minute.
pub fn config() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .measurement_time(Duration::from_secs(2))
        .warm_up_time(Duration::from_millis(500))
}

/// Numbers in [−1, 1).
pub fn random(seed: u64, shape: (usize, usize)) -> Array2<f32> {
    let mut stream = 0;
    Array2::from_shape_simple_fn(shape, || {
        stream += 1;
        Seed::from(seed).uniform(stream) as f32
    })
}

/// x Wᵀ in single precision by faer, on the threads of the global rayon pool.
pub fn faer_product(
    group: &mut BenchmarkGroup<'_, WallTime>,
    weights: &Array2<f32>,
    x: &Array2<f32>,
) {
    let (outputs, inputs) = weights.dim();
    let batch = x.nrows();
    let fresh = "a fresh array";
    let w = MatRef::from_row_major_slice(weights.as_slice().expect(fresh), outputs, inputs);
    let x = MatRef::from_row_major_slice(x.as_slice().expect(fresh), batch, inputs);
    // Its fastest form here: the result by columns, one a vector of the batch.
    let mut y = Mat::<f32>::zeros(outputs, batch);
    group.bench_function("faer f32", |b| {
        b.iter(|| {
            let (w, x) = (black_box(w), black_box(x));
            let threads = Par::rayon(0);
            matmul(y.as_mut(), Accum::Replace, w, x.transpose(), 1.0, threads);
        });
    });
}
