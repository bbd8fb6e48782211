//! What a plan takes out of a network, layer by layer.

use std::fmt;

use super::CoupledPlan;
use super::coupled::Tensors;
use super::graph::Origin;
use crate::{Float, Result};

/// A quantity before and after pruning.
///
/// ```
/// use taper::prune::Change;
///
/// let channels = Change { before: 64, after: 16 };
/// assert_eq!((channels.ratio(), channels.left()), (4.0, 0.25));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Change {
    /// In the original network.
    pub before: u64,
    /// In the pruned network.
    pub after: u64,
}

impl Change {
    /// How many times smaller it became; infinite where nothing is left, 1 where there was nothing.
    #[must_use]
    pub fn ratio(self) -> f64 {
        if self.before == self.after {
            return 1.0;
        }
        self.before as f64 / self.after as f64
    }

    /// The part that is left; 1 where there was nothing.
    #[must_use]
    pub fn left(self) -> f64 {
        if self.before == self.after {
            return 1.0;
        }
        self.after as f64 / self.before as f64
    }

    fn add(&mut self, other: Self) {
        self.before = self.before.saturating_add(other.before);
        self.after = self.after.saturating_add(other.after);
    }
}

/// What one layer loses.
///
/// ```
/// use ndarray::{Array1, Array2};
/// use taper::prune::{CoupledPlan, Coupling, PrunePlan, Tensors};
///
/// let mut net = Coupling::new();
/// let x = net.input(8)?;
/// let x = net.layer("fc1", x, 4)?;
/// let x = net.layer("fc2", x, 2)?;
/// net.output(x)?;
/// let mut tensors: Tensors<f32> = Tensors::new();
/// tensors.insert("fc1.weight".into(), Array2::ones((4, 8)).into_dyn());
/// tensors.insert("fc2.weight".into(), Array2::ones((2, 4)).into_dyn());
/// let plan = PrunePlan::new(vec![(4, vec![1])])?;
/// // Each layer is applied once for an input.
/// let report = CoupledPlan::new(&net, &plan)?.report(&tensors, |_| 1)?;
/// let layer = &report.layers()[0];
/// assert_eq!((layer.name.as_str(), layer.channels.after), ("fc1", 1));
/// assert_eq!((layer.parameters.before, layer.parameters.after), (32, 8));
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct LayerReport {
    /// The layer's name.
    pub name: String,
    /// Output channels; for a batch normalization, the channels it runs along.
    pub channels: Change,
    /// Learned numbers: weights and biases, scales and shifts.
    pub parameters: Change,
    /// Multiplications with additions for one input; none for batch normalization, which an inference engine
    /// merges with the layer before it.
    pub multiply_adds: Change,
    /// All tensors of the layer, running statistics among them, in the number type they are in.
    pub bytes: Change,
}

/// What each layer loses, and all of them together.
///
/// A tenth of the channels is not a tenth of the parameters: a layer that keeps half of its inputs and half of
/// its outputs keeps a quarter of its weights.
///
/// ```
/// use ndarray::{Array1, Array2};
/// use taper::prune::{CoupledPlan, Coupling, PrunePlan, Tensors};
///
/// let mut net = Coupling::new();
/// let x = net.input(8)?;
/// let x = net.layer("fc1", x, 4)?;
/// let x = net.layer("fc2", x, 2)?;
/// net.output(x)?;
/// let mut tensors: Tensors<f32> = Tensors::new();
/// tensors.insert("fc1.weight".into(), Array2::ones((4, 8)).into_dyn());
/// tensors.insert("fc2.weight".into(), Array2::ones((2, 4)).into_dyn());
/// let plan = PrunePlan::new(vec![(4, vec![1])])?;
/// // Each layer is applied once for an input.
/// let report = CoupledPlan::new(&net, &plan)?.report(&tensors, |_| 1)?;
/// assert_eq!(report.layers().len(), 2);
/// assert_eq!(report.total().parameters.ratio(), 4.0);
/// println!("{report}");
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PruneReport {
    layers: Vec<LayerReport>,
}

impl PruneReport {
    /// The layers in the order in which they were declared.
    #[must_use]
    pub fn layers(&self) -> &[LayerReport] {
        &self.layers
    }

    /// The sums over all layers; of the channels, those that layers make (not again those that batch
    /// normalizations run along).
    #[must_use]
    pub fn total(&self) -> LayerReport {
        let mut total = LayerReport {
            name: "total".to_owned(),
            ..LayerReport::default()
        };
        for layer in &self.layers {
            if layer.multiply_adds.before > 0 {
                total.channels.add(layer.channels);
            }
            total.parameters.add(layer.parameters);
            total.multiply_adds.add(layer.multiply_adds);
            total.bytes.add(layer.bytes);
        }
        total
    }
}

impl fmt::Display for PruneReport {
    /// A table with a line a layer.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.total();
        let rows = || self.layers.iter().chain([&total]);
        let width = rows()
            .map(|row| row.name.chars().count())
            .max()
            .unwrap_or(0);
        writeln!(
            f,
            "{:width$}  {:>13}  {:>21}  {:>25}  {:>23}",
            "layer", "channels", "parameters", "multiply-adds", "bytes"
        )?;
        for row in rows() {
            let show = |change: Change| format!("{} → {}", change.before, change.after);
            writeln!(
                f,
                "{:width$}  {:>13}  {:>21}  {:>25}  {:>23}",
                row.name,
                show(row.channels),
                show(row.parameters),
                show(row.multiply_adds),
                show(row.bytes)
            )?;
        }
        Ok(())
    }
}

impl CoupledPlan<'_> {
    /// What each layer loses in channels, parameters, multiply-adds and bytes.
    ///
    /// `positions` tells for a layer's name at how many places of one input its filters are applied: height ×
    /// width of a convolution's output, 1 for a linear layer.
    ///
    /// ```
    /// use ndarray::{ArrayD, IxDyn};
    /// use taper::prune::{CoupledPlan, Coupling, PrunePlan, Tensors};
    ///
    /// let mut net = Coupling::new();
    /// let image = net.input(3)?;
    /// let x = net.layer("conv1", image, 8)?;
    /// let x = net.layer("conv2", x, 8)?;
    /// let x = net.layer("fc", x, 10)?;
    /// net.output(x)?;
    /// let mut tensors: Tensors<f32> = Tensors::new();
    /// tensors.insert("conv1.weight".into(), ArrayD::zeros(IxDyn(&[8, 3, 3, 3])));
    /// tensors.insert("conv2.weight".into(), ArrayD::zeros(IxDyn(&[8, 8, 3, 3])));
    /// tensors.insert("fc.weight".into(), ArrayD::zeros(IxDyn(&[10, 8])));
    ///
    /// let half = PrunePlan::new(vec![(8, vec![0, 1, 2, 3]), (8, vec![4, 5, 6, 7])])?;
    /// let report = CoupledPlan::new(&net, &half)?.report(&tensors, |name| match name {
    ///     "fc" => 1,
    ///     _ => 32 * 32,
    /// })?;
    /// let conv2 = &report.layers()[1];
    /// assert_eq!(conv2.channels.ratio(), 2.0);
    /// assert_eq!(conv2.parameters.ratio(), 4.0);
    /// assert_eq!(conv2.multiply_adds.after, 4 * 4 * 9 * 32 * 32);
    /// # Ok::<(), taper::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTensor`](crate::Error::UnknownTensor) and
    /// [`Error::ChannelAxis`](crate::Error::ChannelAxis) for tensors that are not there or do not fit.
    pub fn report<F: Float>(
        &self,
        tensors: &Tensors<F>,
        positions: impl Fn(&str) -> usize,
    ) -> Result<PruneReport> {
        self.check_all(tensors)?;
        let size = |name: &str| self.size(tensors, name);
        let mut layers: Vec<LayerReport> = Vec::new();
        for node in &self.coupling.nodes {
            let (name, is_layer) = match &node.origin {
                Origin::Layer { name, .. } => (name, true),
                Origin::BatchNorm { name, .. } => (name, false),
                _ => continue,
            };
            // Shared weights are stored once, but computed with each time.
            let again = layers.iter().any(|layer| layer.name == *name);
            let mut row = LayerReport {
                name: name.clone(),
                channels: Change {
                    before: self.coupling.length(&node.segments) as u64,
                    after: self.kept_entries(&node.segments).len() as u64,
                },
                ..LayerReport::default()
            };
            let tensor = |suffix: fn(&super::TensorNames) -> &String| {
                size(&self.coupling.tensor(name, suffix))
            };
            let (learned, statistics) = if is_layer {
                let weight = tensor(|names| &names.weight);
                let positions = positions(name) as u64;
                row.multiply_adds = Change {
                    before: weight.before.saturating_mul(positions),
                    after: weight.after.saturating_mul(positions),
                };
                (
                    [weight, tensor(|names| &names.bias)],
                    [Change::default(); 2],
                )
            } else {
                (
                    [tensor(|names| &names.scale), tensor(|names| &names.shift)],
                    [tensor(|names| &names.mean), tensor(|names| &names.variance)],
                )
            };
            if !again {
                for part in learned {
                    row.parameters.add(part);
                }
                let mut values = row.parameters;
                for part in statistics {
                    values.add(part);
                }
                let bytes = u64::from(F::BITS / 8);
                row.bytes = Change {
                    before: values.before.saturating_mul(bytes),
                    after: values.after.saturating_mul(bytes),
                };
            }
            layers.push(row);
        }
        Ok(PruneReport { layers })
    }

    /// The number of values of a tensor, none where it is not there.
    fn size<F: Float>(&self, tensors: &Tensors<F>, name: &str) -> Change {
        let Some(tensor) = tensors.get(name) else {
            return Change::default();
        };
        let mut after = tensor.shape().to_vec();
        for binding in &self.coupling.bindings {
            if binding.tensor == name
                && let Some(length) = after.get_mut(binding.axis)
            {
                *length = self.kept_entries(&binding.segments).len();
            }
        }
        Change {
            before: tensor.len() as u64,
            after: after.iter().product::<usize>() as u64,
        }
    }
}
