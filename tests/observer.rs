//! Fits that are watched, and stopped.

use std::ops::ControlFlow;
use std::sync::Mutex;

use taper::cluster::{Clusterer, Clustering, KMeans};
use taper::factorize::Rank;
use taper::factorize::convolution::{Tucker2, TuckerConv2d};
use taper::factorize::cp::{Constraint, CpAdmm, CpAls, CpTensor};
use taper::ndarray::{Array2, Array3, Array4, ArrayD};
use taper::quantize::product::{
    Codebook, OptimizedProductQuantizer, ProductQuantizer, ResidualQuantizer, SplitAxis,
};
use taper::{
    Compressed, Factorizer, FitContext, FitReport, InputMoments, Observer, Progress, Quantizer,
    Seed, Stage,
};

fn numbers(shape: &[usize]) -> ArrayD<f32> {
    let mut next = 0;
    ArrayD::from_shape_simple_fn(shape, || {
        next += 1;
        (Seed::from(5).derive(next).value() >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    })
}

fn matrix(rows: usize, columns: usize) -> Array2<f32> {
    numbers(&[rows, columns]).into_dimensionality().unwrap()
}

fn tensor() -> Array3<f32> {
    numbers(&[7, 6, 5]).into_dimensionality().unwrap()
}

/// Records what it receives and lets every fit go on.
#[derive(Default)]
struct Witness(Mutex<Vec<Seen>>);

/// The progress of a fit of a single array.
#[derive(Clone, Copy)]
struct Seen {
    stage: Stage,
    part: usize,
    iteration: usize,
    max_iterations: usize,
    loss: f64,
}

impl Observer for Witness {
    fn observe(&self, progress: &Progress) -> ControlFlow<()> {
        assert_eq!(progress.tensor, None, "a fit of a single array has no name");
        self.0.lock().unwrap().push(Seen {
            stage: progress.stage,
            part: progress.part,
            iteration: progress.iteration,
            max_iterations: progress.max_iterations,
            loss: progress.loss,
        });
        ControlFlow::Continue(())
    }
}

impl Witness {
    /// The progress of one fit.
    fn of(&self, stage: Stage, part: usize) -> Vec<Seen> {
        let seen = self.0.lock().unwrap();
        let of = |progress: &&Seen| progress.stage == stage && progress.part == part;
        seen.iter().filter(of).copied().collect()
    }
}

fn stop_at(stage: Stage, iterations: usize) -> impl Observer {
    move |progress: &Progress| {
        let stop = progress.stage == stage && progress.iteration >= iterations;
        if stop {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}

/// The context of a fit that is observed.
fn observed(observer: &dyn Observer) -> FitContext<'_> {
    FitContext::new().observer(observer)
}

/// Without what the report says of how the fit ended.
fn ended_somehow(report: &FitReport) -> FitReport {
    FitReport {
        converged: false,
        stopped: false,
        ..report.clone()
    }
}

#[test]
fn a_stopped_clustering_is_one_of_so_many_iterations() {
    let points = matrix(400, 3);
    let run = |kmeans: KMeans, observer: Option<&dyn Observer>| -> Clustering<f32> {
        kmeans
            .cluster(points.view(), None, 20, Seed::from(1), observer)
            .unwrap()
    };
    let free = run(KMeans::new(), None);
    assert!(free.report.iterations > 5 && !free.report.stopped);
    for iterations in 1..6 {
        let limited = run(KMeans::new().max_iterations(iterations), None);
        let mut stopped = run(KMeans::new(), Some(&stop_at(Stage::KMeans, iterations)));
        assert!(stopped.report.stopped && !stopped.report.converged);
        stopped.report.stopped = false;
        assert_eq!(stopped, limited);
    }
    // The start is a result too, and further restarts are left out.
    let start = run(KMeans::new().restarts(9), Some(&stop_at(Stage::KMeans, 0)));
    assert_eq!(start.report.losses.len(), 1);
    assert_eq!(start.report.losses[0], free.report.losses[0]);
    assert!(start.report.stopped);
}

#[test]
fn groups_are_told_apart_and_stopped_alike() {
    let w = matrix(12, 200);
    let quantizer = ProductQuantizer::new(4)
        .axis(SplitAxis::Out)
        .codebook(Codebook::PerGroup)
        .centroids(16);
    let witness = Witness::default();
    let free = quantizer.quantize(w.view()).unwrap();
    let watched = quantizer.quantize_with(w.view(), observed(&witness));
    assert_eq!(watched.unwrap(), free);
    for group in 0..4 {
        let seen = witness.of(Stage::KMeans, group);
        let iterations: Vec<usize> = seen.iter().map(|progress| progress.iteration).collect();
        assert!(
            iterations.iter().copied().eq(0..seen.len()),
            "{iterations:?}"
        );
        assert!(seen.windows(2).all(|pair| pair[1].loss <= pair[0].loss));
        assert!(seen.iter().all(|progress| progress.max_iterations == 25));
    }
    for iterations in 1..4 {
        let limited = quantizer
            .clone()
            .max_iterations(iterations)
            .quantize(w.view())
            .unwrap();
        let observer = stop_at(Stage::KMeans, iterations);
        let stopped = quantizer.quantize_with(w.view(), observed(&observer));
        let stopped = stopped.unwrap();
        assert_eq!(stopped.parts(), limited.parts());
        let (stopped, limited) = (stopped.report().unwrap(), limited.report().unwrap());
        assert!(stopped.stopped && !limited.stopped);
        assert_eq!(ended_somehow(stopped), ended_somehow(limited));
    }
}

#[test]
fn sweeps_for_the_outputs_are_watched() {
    let w = matrix(12, 40);
    let mut moments = InputMoments::new(40).unwrap();
    moments.add(matrix(200, 40).view()).unwrap();
    for axis in [SplitAxis::In, SplitAxis::Out] {
        let quantizer = ProductQuantizer::new(2)
            .codebook(Codebook::PerGroup)
            .axis(axis)
            .centroids(4);
        let fit = |quantizer: &ProductQuantizer, context: FitContext<'_>| {
            let context = context.inputs(&moments);
            quantizer.quantize_with(w.view(), context).unwrap()
        };
        let free = fit(&quantizer, FitContext::new());
        assert_eq!(fit(&quantizer, observed(&Witness::default())), free);
        for sweeps in 0..free.report().unwrap().iterations {
            let limited = fit(&quantizer.clone().sweeps(sweeps), FitContext::new());
            let stopped = fit(&quantizer, observed(&stop_at(Stage::OutputError, sweeps)));
            assert_eq!(stopped.parts(), limited.parts());
            assert!(stopped.report().unwrap().stopped);
        }
    }
}

#[test]
fn rotations_and_stages_end_early() {
    let w = matrix(12, 100);
    let plain = ProductQuantizer::new(4)
        .axis(SplitAxis::Out)
        .codebook(Codebook::PerGroup)
        .centroids(8);
    let rotations = |n, context: FitContext<'_>| {
        let rotated = OptimizedProductQuantizer::new(plain.clone())
            .tolerance(0.0)
            .iterations(n);
        rotated.quantize_with(w.view(), context).unwrap()
    };
    for iterations in 1..4 {
        let observer = stop_at(Stage::Rotation, iterations);
        let stopped = rotations(20, observed(&observer));
        assert!(stopped.report().unwrap().stopped);
        assert_eq!(
            stopped.parts(),
            rotations(iterations, FitContext::new()).parts()
        );
    }
    let observer = stop_at(Stage::KMeans, 1);
    let residual = ResidualQuantizer::new(plain.clone(), 3)
        .quantize_with(w.view(), observed(&observer))
        .unwrap();
    let report = residual.report().unwrap();
    assert!(residual.stages().len() == 1 && report.stopped && report.iterations == 1);
    let rotated = rotations(20, observed(&observer));
    assert_eq!(rotated.report().unwrap().iterations, 0);
}

/// The laws of a `fit` that takes a limit of sweeps and a context.
fn sweeps_are_watched(stage: Stage, fit: impl Fn(usize, FitContext<'_>) -> CpTensor<f32>) {
    let free = fit(200, FitContext::new());
    assert!(free.report().unwrap().iterations > 4);
    let witness = Witness::default();
    assert_eq!(fit(200, observed(&witness)), free);
    let seen = witness.of(stage, 0);
    assert!(seen.windows(2).all(|pair| pair[1].loss <= pair[0].loss));
    for part in 0..3 {
        assert!(!witness.of(Stage::CpStart, part).is_empty(), "start {part}");
    }
    for sweeps in 0..4 {
        let limited = fit(sweeps, FitContext::new());
        let stopped = fit(200, observed(&stop_at(stage, sweeps)));
        assert_eq!(stopped.parts(), limited.parts());
        let (stopped, limited) = (stopped.report().unwrap(), limited.report().unwrap());
        assert!(stopped.stopped && !limited.stopped);
        assert_eq!(ended_somehow(stopped), ended_somehow(limited));
    }
    // Stopped before the sweeps proper: the best start so far is the result.
    let start = fit(200, observed(&stop_at(Stage::CpStart, 2)));
    let report = start.report().unwrap();
    assert!(report.stopped && report.iterations == 0);
    assert_eq!(start.cp_report().start, 0);
}

#[test]
fn alternating_least_squares_is_watched() {
    sweeps_are_watched(Stage::CpAls, |sweeps, context| {
        let als = CpAls::new(Rank::Fixed(4)).max_sweeps(sweeps).seed(1);
        als.factorize_with(tensor().view(), context).unwrap()
    });
}

#[test]
fn constrained_factorization_is_watched() {
    sweeps_are_watched(Stage::CpAdmm, |sweeps, context| {
        let admm = CpAdmm::new(Rank::Fixed(4)).all(Constraint::NonNegative);
        let admm = admm.max_sweeps(sweeps).seed(1);
        admm.factorize_with(tensor().view(), context).unwrap()
    });
}

#[test]
fn rounds_of_a_tucker_decomposition_are_watched() {
    let kernel: Array4<f32> = numbers(&[9, 8, 3, 3]).into_dimensionality().unwrap();
    let fit = |rounds, context: FitContext<'_>| -> TuckerConv2d<f32> {
        let tucker = Tucker2::ranks(4, 3).max_iterations(rounds).tolerance(0.0);
        tucker.factorize_with(kernel.view(), context).unwrap()
    };
    let free = fit(30, FitContext::new());
    let witness = Witness::default();
    let watched = fit(30, observed(&witness));
    assert_eq!(watched, free);
    let report = free.report().unwrap();
    assert!(report.iterations > 5 && !report.stopped);
    assert_eq!(report.losses.len(), report.iterations + 1);
    let seen = witness.of(Stage::Tucker, 0);
    let losses: Vec<f64> = seen.iter().map(|progress| progress.loss).collect();
    assert_eq!(
        losses[..report.iterations],
        report.losses[..report.iterations]
    );
    for (iteration, progress) in seen.iter().enumerate() {
        assert_eq!(
            (progress.iteration, progress.max_iterations),
            (iteration, 30)
        );
    }
    for rounds in 0..6 {
        let limited = fit(rounds, FitContext::new());
        let stopped = fit(30, observed(&stop_at(Stage::Tucker, rounds)));
        assert_eq!(stopped.parts(), limited.parts());
        let (stopped, limited) = (stopped.report().unwrap(), limited.report().unwrap());
        assert!(stopped.stopped && !limited.stopped && limited.iterations == rounds);
        assert_eq!(ended_somehow(stopped), ended_somehow(limited));
    }
}
