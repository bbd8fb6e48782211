//! Progress reporting and cancellation, for fits and for whole models.

use std::ops::ControlFlow;

/// Receives the progress of a fit or of a whole model, and may stop it.
///
/// A fit calls [`observe`](Self::observe) before each iteration. [`ControlFlow::Break`] ends it with the best result so far, the
/// same as with this limit of iterations, and its [`FitReport`](crate::FitReport) says that it was
/// [stopped](crate::FitReport::stopped). Otherwise an observer does not change a single bit of the result.
///
/// Parallel fits (the groups of product quantization) call the observer from several threads, in any order. Each answer stops
/// only the fit that asked, so an observer that stops all of them keeps returning `Break`. It runs on the threads of the fit and
/// should not block.
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
/// // A signal handler or a button of a user interface sets this flag.
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
    /// Receives the state of a fit before an iteration; [`ControlFlow::Break`] ends the fit.
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
    /// The tensor of a model that is being compressed; `None` for a fit of a single array.
    pub tensor: Option<&'a str>,
    /// The kind of iteration.
    pub stage: Stage,
    /// The number of this fit among the parts of the whole: a group of a matrix, or one of several starts.
    pub part: usize,
    /// The number of finished iterations.
    pub iteration: usize,
    /// The largest number of iterations.
    pub max_iterations: usize,
    /// The loss of the best result so far, as in the [`FitReport`](crate::FitReport).
    pub loss: f64,
}

/// The kind of iterations of a [`Progress`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// Iterations of k-means. The part is the group.
    KMeans,
    /// Sweeps over codes and centroids that lower the error of the outputs.
    OutputError,
    /// Updates of the rotation before product quantization.
    Rotation,
    /// Sweeps of alternating least squares on a compressed tensor, which compare starts. The part is the start.
    CpStart,
    /// Sweeps of alternating least squares.
    CpAls,
    /// Sweeps of alternating optimization under constraints.
    CpAdmm,
    /// Rounds over the two sides of a kernel in a Tucker decomposition.
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
