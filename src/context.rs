//! Inputs of one fit that are not parameters of the compressor.

use ndarray::aview1;

use crate::{Error, InputMoments, Observer, Result, check};

const INPUTS: &str = "moments of the inputs";
pub(crate) const ROWS: &str = "weights of rows";

/// What one fit can use besides the weights: the moments of the layer's inputs, the weights of rows, and an observer.
///
/// Quantizers, factorizers and pruners take it in their `_with` methods. A compressor that cannot use the moments or the
/// weights of rows returns [`Error::ContextUnused`]. A compressor without iterations never calls the observer.
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
    /// How much the squared error of each row counts, such as how often each token of an embedding occurs. Only ratios matter.
    /// [`TrellisQuantizer`](crate::quantize::trellis::TrellisQuantizer) uses them.
    pub rows: Option<&'a [f64]>,
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

    /// Sets how much the squared error of each row counts.
    #[must_use]
    pub fn rows(mut self, rows: &'a [f64]) -> Self {
        self.rows = Some(rows);
        self
    }

    /// Sets the observer.
    #[must_use]
    pub fn observer(mut self, observer: &'a dyn Observer) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Fails if there are moments or weights of rows: for compressors that can use neither.
    pub(crate) fn unused(&self, compressor: &'static str) -> Result<()> {
        match self.inputs {
            None => self.rows_unused(compressor),
            Some(_) => Err(Error::ContextUnused {
                compressor,
                what: INPUTS,
            }),
        }
    }

    /// Fails if there are weights of rows: for compressors that cannot use them.
    pub(crate) fn rows_unused(&self, compressor: &'static str) -> Result<()> {
        match self.rows {
            None => Ok(()),
            Some(_) => Err(Error::ContextUnused {
                compressor,
                what: ROWS,
            }),
        }
    }

    /// The same context without that which a compressor has called unused.
    #[cfg(feature = "model")]
    pub(crate) fn without(self, what: &str) -> Self {
        if what == ROWS {
            Self { rows: None, ..self }
        } else {
            Self {
                inputs: None,
                ..self
            }
        }
    }

    /// The weights of `rows` rows, if there are any.
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`] for another number of them, [`Error::NonFinite`] and [`Error::Parameter`] for a negative weight or
    /// none above 0.
    pub(crate) fn row_weights(&self, rows: usize) -> Result<Option<&'a [f64]>> {
        let Some(weights) = self.rows else {
            return Ok(None);
        };
        check::same_shape(ROWS, &[rows], &[weights.len()])?;
        check::not_negative(ROWS, &aview1(weights))?;
        let most = weights.iter().copied().fold(0.0, f64::max);
        check::in_range(ROWS, most, "above 0 for one row", most > 0.0)?;
        Ok(Some(weights))
    }
}

impl std::fmt::Debug for FitContext<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FitContext")
            .field("inputs", &self.inputs)
            .field("rows", &self.rows)
            .field("observer", &self.observer.map(|_| "an observer"))
            .finish()
    }
}
