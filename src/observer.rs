//! Progress reporting and cancellation, for fits and for whole models.

use std::ops::ControlFlow;

/// Watches a fit, and may stop it.
///
/// A fit calls [`observe`](Self::observe) before each iteration. [`ControlFlow::Break`] ends the fit there: it returns the
/// best result so far, which is that of a limit of so many iterations, and its [`FitReport`](crate::FitReport) says that
/// it was [stopped](crate::FitReport::stopped). What is observed has no influence otherwise: a fit that is never stopped
/// gives the same bits with an observer as without.
///
/// Fits that go on at the same time (the groups of product quantization) call one observer from several threads, in an
/// order that nothing can be concluded from, and each is stopped by the answer that it gets itself. An observer
/// that wants all to end goes on saying so. It is called from rayon's threads and should not block.
///
/// Closures are observers:
///
/// ```
/// use std::ops::ControlFlow;
/// use std::sync::atomic::{AtomicBool, Ordering};
/// use taper::ndarray::Array2;
/// use taper::quantize::product::ProductQuantizer;
/// use taper::{Compressed, FitContext, Progress, Quantizer};
///
/// let weights = Array2::from_shape_fn((64, 300), |(i, j)| ((i * 37 + j * 11) as f32).sin());
/// // A button or a signal handler would set it.
/// let cancelled = AtomicBool::new(false);
/// let observer = |progress: &Progress| {
///     if progress.iteration == 3 {
///         cancelled.store(true, Ordering::Relaxed);
///     }
///     match cancelled.load(Ordering::Relaxed) {
///         true => ControlFlow::Break(()),
///         false => ControlFlow::Continue(()),
///     }
/// };
/// let quantizer = ProductQuantizer::new(50).centroids(32);
/// let matrix = quantizer.quantize_with(weights.view(), FitContext::new().observer(&observer))?;
/// assert!(matrix.report().is_some_and(|report| report.stopped && report.iterations <= 3));
/// # Ok::<(), taper::Error>(())
/// ```
pub trait Observer: Send + Sync {
    /// Takes note of how far a fit is; [`ControlFlow::Break`] ends it.
    fn observe(&self, progress: &Progress<'_>) -> ControlFlow<()>;
}

impl<T: Fn(&Progress<'_>) -> ControlFlow<()> + Send + Sync> Observer for T {
    fn observe(&self, progress: &Progress<'_>) -> ControlFlow<()> {
        self(progress)
    }
}

/// The progress of a fit or of a whole model, as an [`Observer`] receives it.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Progress<'a> {
    /// The tensor of the model that is compressed; `None` for a fit of a single array.
    pub tensor: Option<&'a str>,
    /// What is iterated.
    pub stage: Stage,
    /// Which of the fits that make up the whole: the group of a matrix, or the start of several.
    pub part: usize,
    /// Iterations made; zero before the first.
    pub iteration: usize,
    /// The limit of iterations.
    pub max_iterations: usize,
    /// The loss of the best result so far, as the fit's [`FitReport`](crate::FitReport) has it.
    pub loss: f64,
}

/// What the iterations of a [`Progress`] are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// Iterations of k-means; the part is the group.
    KMeans,
    /// Sweeps over codes and centroids for the inputs that a layer sees.
    OutputError,
    /// Rotations before product quantization.
    Rotation,
    /// Sweeps of alternating least squares on a compressed tensor, in search of a good start; the part is the start.
    CpStart,
    /// Sweeps of alternating least squares.
    CpAls,
    /// Sweeps of alternating optimization under constraints.
    CpAdmm,
    /// Rounds over the two sides of a kernel, in its Tucker decomposition.
    Tucker,
    /// The tensors of a model. An iteration is one tensor; the loss is not used.
    Model,
}

/// One fit, and the observer that receives its progress.
#[derive(Clone, Copy)]
pub(crate) struct ObservedFit<'a> {
    observer: Option<&'a dyn Observer>,
    stage: Stage,
    part: usize,
    max_iterations: usize,
}

impl<'a> ObservedFit<'a> {
    pub(crate) fn new(
        observer: Option<&'a dyn Observer>,
        stage: Stage,
        part: usize,
        max_iterations: usize,
    ) -> Self {
        Self {
            observer,
            stage,
            part,
            max_iterations,
        }
    }

    /// Reports the state of the fit to the observer; returns whether the fit has to stop.
    pub(crate) fn stops(&self, iteration: usize, loss: f64) -> bool {
        let Some(observer) = self.observer else {
            return false;
        };
        let progress = Progress {
            tensor: None,
            stage: self.stage,
            part: self.part,
            iteration,
            max_iterations: self.max_iterations,
            loss,
        };
        observer.observe(&progress).is_break()
    }
}
