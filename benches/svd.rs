//! Truncated SVD of random matrices, exact and randomized, at five percent of the singular values.
//!
//! Errors are printed beside the times: a faster decomposition that is further from the optimum is no better.

#[path = "shared/cases.rs"]
mod cases;

use cases::cases;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ndarray_rand::RandomExt;
use ndarray_rand::rand::SeedableRng;
use ndarray_rand::rand::rngs::SmallRng;
use ndarray_rand::rand_distr::StandardNormal;
use taper::Factorizer;
use taper::factorize::Rank;
use taper::factorize::svd::{SvdMethod, TruncatedSvd};
use taper::ndarray::Array2;

fn truncated_svd(c: &mut Criterion) {
    for &(m, n, rank) in cases(&[(512, 512, 26), (784, 4096, 39)]) {
        let mut rng = SmallRng::seed_from_u64(1);
        let weights = Array2::<f32>::random_using((m, n), StandardNormal, &mut rng);
        let mut group = c.benchmark_group(format!("svd_{m}x{n}_rank{rank}"));
        group.sample_size(20);
        let params = TruncatedSvd::new(Rank::Fixed(rank)).seed(2);
        for (name, params) in [
            ("exact", params.method(SvdMethod::Exact)),
            ("randomized_2", params.method(SvdMethod::Randomized)),
            (
                "randomized_4",
                params.method(SvdMethod::Randomized).power_iterations(4),
            ),
            (
                "block_krylov_3",
                params.method(SvdMethod::BlockKrylov).power_iterations(3),
            ),
        ] {
            let measured = params.measure_optimum(true).factorize(weights.view());
            if let Ok(Some(report)) = measured.as_ref().map(|matrix| matrix.svd_report()) {
                println!(
                    "{m}x{n} rank {rank} {name}: relative error {:.6}, {:.3} % above the optimum",
                    report.relative_error,
                    100.0 * report.excess_error().unwrap_or(0.0)
                );
            }
            group.bench_function(BenchmarkId::from_parameter(name), |b| {
                b.iter(|| params.factorize(weights.view()));
            });
        }
    }
}

criterion_group!(benches, truncated_svd);
criterion_main!(benches);
