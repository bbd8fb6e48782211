//! Products with a sparse matrix, against the dense product of faer.
//!
//! The throughput counts a multiplication for each stored weight and input; the dense matrix stores every weight.

use std::cell::LazyCell;
use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, get_global_parallelism};
use taper::ndarray::Array2;
use taper::prune::{Keep, MagnitudePruner, Sparsity};
use taper::{LinearOp, Seed};

/// Uniform in ±1.
fn numbers(rows: usize, columns: usize, seed: u64) -> Array2<f32> {
    let seed = Seed::from(seed);
    Array2::from_shape_fn((rows, columns), |(i, j)| {
        let bits = seed.derive((i * columns + j) as u64).value();
        (bits >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    })
}

/// y = x Wᵀ for dense W.
fn dense(x: &Array2<f32>, w: &Array2<f32>, y: &mut Array2<f32>) {
    let ((batch, inner), (outputs, _)) = (x.dim(), w.dim());
    matmul(
        MatMut::from_row_major_slice_mut(y.as_slice_mut().unwrap(), batch, outputs),
        Accum::Replace,
        MatRef::from_row_major_slice(x.as_slice().unwrap(), batch, inner),
        MatRef::from_row_major_slice(w.as_slice().unwrap(), outputs, inner).transpose(),
        1.0,
        get_global_parallelism(),
    );
}

fn apply(c: &mut Criterion) {
    let mut group = c.benchmark_group("sparse apply");
    group.sample_size(20);
    group.warm_up_time(std::time::Duration::from_millis(100));
    group.measurement_time(std::time::Duration::from_millis(300));
    let zeros = |percent: f64| Sparsity::Unstructured(Keep::Fraction(1.0 - percent / 100.0));
    let patterns = [
        ("50 %", 0.5, zeros(50.0)),
        ("80 %", 0.2, zeros(80.0)),
        ("90 %", 0.1, zeros(90.0)),
        ("95 %", 0.05, zeros(95.0)),
        ("2:4", 0.5, Sparsity::NOfM { n: 2, m: 4 }),
    ];
    for n in [512, 4096] {
        // Made when they are first needed, for runs of one bench.
        let w = LazyCell::new(|| numbers(n, n, 1));
        let pruned = patterns.map(|(pattern, kept, sparsity)| {
            let w = &w;
            let sparse = LazyCell::new(move || {
                let pruner = MagnitudePruner::new(sparsity);
                pruner.prune_matrix(w.view()).unwrap()
            });
            (pattern, kept, sparse)
        });
        for batch in [1, 64] {
            let x = numbers(batch, n, 2);
            let mut y = Array2::zeros((batch, n));
            let name = |name: &str| BenchmarkId::new(format!("{n}x{n} {name}"), batch);
            group.throughput(Throughput::Elements((n * n * batch) as u64));
            group.bench_function(name("dense"), |b| {
                LazyCell::force(&w);
                b.iter(|| dense(black_box(&x), &w, &mut y));
            });
            for (pattern, kept, sparse) in &pruned {
                let stored = (kept * (n * n * batch) as f64).round() as u64;
                group.throughput(Throughput::Elements(stored));
                group.bench_function(name(pattern), |b| {
                    LazyCell::force(sparse);
                    b.iter(|| {
                        sparse
                            .apply_into(black_box(x.view()), y.view_mut())
                            .unwrap();
                    });
                });
            }
        }
    }
}

criterion_group!(benches, apply);
criterion_main!(benches);
