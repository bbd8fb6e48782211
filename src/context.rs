//! Inputs of one fit that are not parameters of the compressor.

use crate::{InputMoments, Observer};

/// What one fit can use besides the weights: the moments of the layer's inputs, and an observer.
///
/// Quantizers, factorizers and pruners take it in their `_with` methods. A compressor that minimizes the error of the
/// weights only returns [`Error::MomentsUnused`](crate::Error::MomentsUnused) when the context holds moments. A compressor
/// without iterations never calls the observer.
///
/// ```
/// use std::ops::ControlFlow;
/// use taper::ndarray::Array2;
/// use taper::quantize::product::ProductQuantizer;
/// use taper::{FitContext, InputMoments, Progress, Quantizer};
///
/// let weights = Array2::from_shape_fn((64, 32), |(o, i)| ((o * 37 + i * 11) as f32).sin());
/// let batch = Array2::from_shape_fn((100, 32), |(n, i)| ((n * 7 + i * 3) as f32).cos());
/// let mut moments = InputMoments::new(32)?;
/// moments.add(batch.view())?;
/// let log = |progress: &Progress| {
///     println!("{:?} {}/{}", progress.stage, progress.iteration, progress.max_iterations);
///     ControlFlow::Continue(())
/// };
///
/// let quantizer = ProductQuantizer::with_width(4).centroids(16);
/// let guided = quantizer.quantize_with(weights.view(), FitContext::new().inputs(&moments).observer(&log))?;
/// let plain = quantizer.quantize(weights.view())?;
/// let error = |matrix: &dyn taper::LinearOp<f32>| -> taper::Result<f64> {
///     moments.output_error(weights.view(), matrix.decompress_matrix()?.view())
/// };
/// assert!(error(&guided)? < error(&plain)?);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Clone, Copy, Default)]
#[non_exhaustive]
pub struct FitContext<'a> {
    /// The moments of the layer's inputs. With them a compressor minimizes the error of the layer's output.
    pub inputs: Option<&'a InputMoments>,
    /// Receives the progress of the fit and may end it.
    pub observer: Option<&'a dyn Observer>,
}

impl<'a> FitContext<'a> {
    /// Creates an empty context: the error of the weights counts, and nothing observes the fit.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the moments of the layer's inputs.
    #[must_use]
    pub fn inputs(mut self, inputs: &'a InputMoments) -> Self {
        self.inputs = Some(inputs);
        self
    }

    /// Sets the observer.
    #[must_use]
    pub fn observer(mut self, observer: &'a dyn Observer) -> Self {
        self.observer = Some(observer);
        self
    }

    /// The same context without moments.
    #[cfg(feature = "model")]
    pub(crate) fn without_inputs(self) -> Self {
        Self {
            inputs: None,
            ..self
        }
    }
}

impl std::fmt::Debug for FitContext<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FitContext")
            .field("inputs", &self.inputs)
            .field("observer", &self.observer.map(|_| "an observer"))
            .finish()
    }
}
