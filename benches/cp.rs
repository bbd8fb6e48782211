//! One sweep of CP fits, and the relative error that a fit reaches, on random tensors: R random terms, and noise of
//! a third of their norm.
//!
//! `cargo bench --bench cp` prints the errors first; a word as argument chooses among the tensors.

#[path = "shared/cases.rs"]
mod cases;

use std::time::Duration;

use cases::cases;
use criterion::{BatchSize, Criterion};
use ndarray::{Array1, ArrayD, IxDyn};
use ndarray_rand::RandomExt;
use ndarray_rand::rand::SeedableRng;
use ndarray_rand::rand::rngs::SmallRng;
use ndarray_rand::rand_distr::StandardNormal;
use taper::factorize::Rank;
use taper::factorize::cp::{Constraint, CpAdmm, CpAls, CpTensor, NormBound, Start};
use taper::{Compressed, Factorizer, Precision};

const TENSORS: [(&str, &[usize], usize); 4] = [
    ("64x64x3x3 R16", &[64, 64, 3, 3], 16),
    ("256x256x3x3 R64", &[256, 256, 3, 3], 64),
    ("512x512x9 R128", &[512, 512, 9], 128),
    ("100x100x100 R20", &[100, 100, 100], 20),
];

fn tensor(shape: &[usize], rank: usize) -> ArrayD<f32> {
    let mut rng = SmallRng::seed_from_u64(1);
    let factors = shape
        .iter()
        .map(|&n| ndarray::Array2::random_using((n, rank), StandardNormal, &mut rng))
        .collect();
    let model = CpTensor::from_parts(Array1::ones(rank), factors, Precision::F32).unwrap();
    let noise = ArrayD::<f32>::random_using(IxDyn(shape), StandardNormal, &mut rng);
    let scale = model.norm() / (3.0 * f64::from(noise.len() as u32).sqrt());
    model.decompress().unwrap() + noise * scale as f32
}

/// Milliseconds of one sweep: twenty sweeps and none differ by them, and by nothing that a fit does besides.
fn sweep(fit: &dyn Fn(usize) -> CpTensor<f32>) -> f64 {
    let mut seconds = [f64::INFINITY; 2];
    for (seconds, sweeps) in seconds.iter_mut().zip([0, 20]) {
        for _ in 0..5 {
            let start = std::time::Instant::now();
            std::hint::black_box(fit(sweeps));
            *seconds = start.elapsed().as_secs_f64().min(*seconds);
        }
    }
    (seconds[1] - seconds[0]) / 20.0 * 1e3
}

fn main() {
    let mut criterion = Criterion::default()
        .configure_from_args()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(10)
        .without_plots();
    let chosen: Option<String> = std::env::args().skip(1).find(|word| !word.starts_with('-'));
    for &(name, shape, rank) in cases(&TENSORS) {
        if chosen.as_ref().is_some_and(|word| !name.contains(word)) {
            continue;
        }
        let tensor = tensor(shape, rank);
        let fit = CpAls::new(Rank::Fixed(rank))
            .max_sweeps(100)
            .factorize(tensor.view())
            .unwrap();
        let report = fit.cp_report();
        println!(
            "{name}: ALS error {:.4} after {} sweeps, start {}",
            report.relative_error, report.fit.iterations, report.start
        );
        let als = |sweeps| {
            let als = CpAls::new(Rank::Fixed(rank))
                .start(Start::Random)
                .starts(1, 0);
            let als = als
                .norm_bound(NormBound::OFF)
                .tolerance(0.0)
                .max_sweeps(sweeps);
            als.factorize(tensor.view()).unwrap()
        };
        println!("{name}: one ALS sweep {:.3} ms", sweep(&als));
        for (what, constraint) in [
            ("none", Constraint::None),
            ("ridge", Constraint::Ridge(1e-3)),
            ("non-negative", Constraint::NonNegative),
        ] {
            let admm = |sweeps| {
                let admm = CpAdmm::new(Rank::Fixed(rank))
                    .all(constraint)
                    .start(Start::Random, 1);
                admm.tolerance(0.0)
                    .max_sweeps(sweeps)
                    .factorize(tensor.view())
                    .unwrap()
            };
            let error = admm(100).cp_report().relative_error;
            println!(
                "{name}: one ADMM sweep, {what}, {:.3} ms; error {error:.4}",
                sweep(&admm)
            );
        }
        criterion.bench_function(&format!("als, 20 sweeps/{name}"), |bencher| {
            bencher.iter_batched(|| (), |()| als(20), BatchSize::LargeInput);
        });
    }
}
