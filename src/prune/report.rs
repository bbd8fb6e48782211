//! What pruning takes out of a network, layer by layer.

use std::fmt;

use super::CoupledPlan;
use super::graph::Origin;
use super::tensors::{TensorNames, Tensors};
use crate::{Float, Result};

/// A quantity before and after pruning.
///
/// ```
/// use taper::prune::Change;
///
/// let channels = Change { before: 64, after: 16 };
/// assert_eq!(channels.ratio(), 4.0);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Change {
    /// In the original network.
    pub before: u64,
    /// In the pruned network.
    pub after: u64,
}

impl Change {
    /// Returns how many times smaller the quantity is; infinity where nothing is left, 1 where there was nothing.
    #[must_use]
    pub fn ratio(self) -> f64 {
        if self.before == self.after {
            return 1.0;
        }
        self.before as f64 / self.after as f64
    }

    fn add(&mut self, other: Self) {
        self.before = self.before.saturating_add(other.before);
        self.after = self.after.saturating_add(other.after);
    }

    fn times(self, factor: u64) -> Self {
        Self {
            before: self.before.saturating_mul(factor),
            after: self.after.saturating_mul(factor),
        }
    }
}

/// What one layer loses; see [`CoupledPlan::report`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct LayerReport {
    /// The layer's name.
    pub name: String,
    /// Output channels; for a normalization, the channels that it normalizes.
    pub channels: Change,
    /// Learned numbers: weights and biases, scales and shifts.
    pub parameters: Change,
    /// Multiplications with additions for one input; 0 for normalizations.
    pub multiply_adds: Change,
    /// The bytes of all tensors of the layer, with running statistics, in the number type that they have.
    pub bytes: Change,
}

/// What each layer loses, and all layers together; see [`CoupledPlan::report`]. It prints as a table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct PruneReport {
    /// The layers in the order in which they were declared.
    pub layers: Vec<LayerReport>,
}

impl PruneReport {
    /// Returns the sums over all layers. The channels of normalizations do not count again.
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
    /// Writes a table with a line for each layer.
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
    /// Counts what each layer loses in channels, parameters, multiply-adds and bytes.
    ///
    /// `positions` returns for a layer's name at how many positions of one input its filters are applied: height × width
    /// of a convolution's output (of the input for a transposed convolution), 1 for a linear layer.
    ///
    /// A layer that keeps half of its inputs and half of its outputs keeps a quarter of its weights:
    ///
    /// ```
    /// use taper::ndarray::{ArrayD, IxDyn};
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
    /// let half = half.named(["conv1", "conv2"])?;
    /// let report = CoupledPlan::new(&net, &half)?.report(&tensors, |name| match name {
    ///     "fc" => 1,
    ///     _ => 32 * 32,
    /// })?;
    /// let conv2 = &report.layers[1];
    /// assert_eq!(conv2.channels.ratio(), 2.0);
    /// assert_eq!(conv2.parameters.ratio(), 4.0);
    /// assert_eq!(conv2.multiply_adds.after, 4 * 4 * 9 * 32 * 32);
    /// println!("{report}");
    /// # Ok::<(), taper::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTensor`](crate::Error::UnknownTensor) and [`Error::ChannelAxis`](crate::Error::ChannelAxis) for
    /// tensors that are missing or do not fit.
    pub fn report<F: Float>(
        &self,
        tensors: &Tensors<F>,
        positions: impl Fn(&str) -> usize,
    ) -> Result<PruneReport> {
        let graph = self.graph;
        graph.check_tensors(tensors)?;
        let mut layers: Vec<LayerReport> = Vec::new();
        for node in &graph.nodes {
            let (name, is_layer) = match &node.origin {
                Origin::Layer { name, .. } => (name, true),
                Origin::Norm { name, .. } => (name, false),
                _ => continue,
            };
            let tensor = |suffix: fn(&TensorNames) -> &String| {
                self.size(tensors, &graph.tensor(name, suffix))
            };
            let (learned, statistics) = if is_layer {
                (
                    [tensor(|names| &names.weight), tensor(|names| &names.bias)],
                    [Change::default(); 2],
                )
            } else {
                (
                    [tensor(|names| &names.scale), tensor(|names| &names.shift)],
                    [tensor(|names| &names.mean), tensor(|names| &names.variance)],
                )
            };
            let mut row = LayerReport {
                name: name.clone(),
                channels: Change {
                    before: graph.length(&node.segments)? as u64,
                    after: self.kept_entries(&node.segments).len() as u64,
                },
                ..LayerReport::default()
            };
            if is_layer {
                row.multiply_adds = learned[0].times(positions(name) as u64);
            }
            // Shared weights are stored once, but multiply each time.
            if !layers.iter().any(|layer| layer.name == *name) {
                for part in learned {
                    row.parameters.add(part);
                    row.bytes.add(part);
                }
                for part in statistics {
                    row.bytes.add(part);
                }
                row.bytes = row.bytes.times(u64::from(F::BITS / 8));
            }
            layers.push(row);
        }
        Ok(PruneReport { layers })
    }

    /// Returns the number of values of a tensor that fits the coupling; 0 for one that is missing.
    fn size<F: Float>(&self, tensors: &Tensors<F>, name: &str) -> Change {
        let Some(tensor) = tensors.get(name) else {
            return Change::default();
        };
        let mut after = tensor.shape().to_vec();
        for binding in &self.graph.bindings {
            if binding.tensor == name {
                after[binding.axis] = self.kept_entries(&binding.segments).len();
            }
        }
        Change {
            before: tensor.len() as u64,
            after: after.iter().product::<usize>() as u64,
        }
    }
}
