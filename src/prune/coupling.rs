//! The declaration of a network: which axes of which tensors carry the same channels.

mod layers;
mod norms;
#[cfg(test)]
mod tests;

use ndarray::Array1;

use super::graph::{Binding, Graph, MaskRole, Origin, refused};
use super::{PrunePlan, TensorNames};
use crate::{Float, Pruner, Result, check};

/// The channels of an array that flows through a network: a handle that a [`Coupling`] returns.
///
/// A handle belongs to the coupling that returned it and may be used any number of times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Channels(usize);

/// A network's layers, declared once, from which follows which axes of which tensors carry the same channels.
///
/// Each method stands for an operation of the network: it takes the channels that go in and returns those that come
/// out. Layers make new channels; all other operations pass on the channels that they got. Arrays that are added to each
/// other share their channels.
///
/// | in the network | declare |
/// | --- | --- |
/// | the input | [`input`](Self::input) |
/// | convolution, linear layer: weight (out, in, …) | [`layer`](Self::layer) |
/// | transposed convolution, linear layer with weight (in, out, …) | [`transposed`](Self::transposed) |
/// | depthwise and grouped convolution | [`depthwise`](Self::depthwise), [`grouped`](Self::grouped), [`transposed_grouped`](Self::transposed_grouped) |
/// | attention heads | [`layer_of_blocks`](Self::layer_of_blocks) and [`tie`](Self::tie) |
/// | batch normalization | [`batch_norm`](Self::batch_norm) |
/// | instance normalization; batch normalization without running statistics | [`instance_norm`](Self::instance_norm) |
/// | layer, RMS and group normalization | [`layer_norm`](Self::layer_norm), [`rms_norm`](Self::rms_norm), [`group_norm`](Self::group_norm) |
/// | ReLU and other activations | [`relu`](Self::relu), [`activation`](Self::activation) |
/// | pooling, dropout | nothing: they keep their channels |
/// | residual addition | [`add`](Self::add) |
/// | gates, squeeze and excitation | [`multiply`](Self::multiply) |
/// | concatenation | [`concat`](Self::concat) |
/// | flatten before a linear layer | [`flatten`](Self::flatten) |
/// | the output | [`output`](Self::output): its channels are never pruned |
///
/// The pruned network computes what the masked network computes (see [`CoupledPlan`](super::CoupledPlan)), except where
/// [layer](Self::layer_norm), [RMS](Self::rms_norm) and [group](Self::group_norm) normalization say otherwise: their
/// statistics are taken over several channels.
///
/// ```
/// use taper::prune::Coupling;
///
/// // A residual block, then 8 × 8 positions flattened into a classifier.
/// let mut net = Coupling::new();
/// let image = net.input(3)?;
/// let x = net.layer("stem", image, 16)?;
/// let x = net.batch_norm("bn", x)?;
/// let x = net.relu(x)?;
/// let y = net.layer("block.conv1", x, 32)?;
/// let y = net.relu(y)?;
/// let y = net.layer("block.conv2", y, 16)?;
/// let x = net.add(&[x, y])?;
/// let x = net.flatten(x, 8 * 8)?;
/// let x = net.layer("classifier", x, 10)?;
/// net.output(x)?;
///
/// let groups = net.groups()?;
/// assert_eq!(groups.len(), 2);
/// // "stem" and "block.conv2" are added to each other, so they keep the same channels.
/// assert_eq!((groups[0].name.as_str(), groups[0].channels), ("stem", 16));
/// assert_eq!(groups[0].members, ["stem", "block.conv2"]);
/// assert_eq!((groups[1].name.as_str(), groups[1].channels), ("block.conv1", 32));
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Coupling {
    pub(super) graph: Graph,
}

/// Channels that are kept or dropped together in all tensors that carry them; see [`Coupling::groups`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChannelGroup {
    /// The name of the first layer that makes these channels. A [`PrunePlan`] names the group by it.
    pub name: String,
    /// The number of channels, or of blocks of channels.
    pub channels: usize,
    /// The names of all layers that make these channels.
    pub members: Vec<String>,
}

impl Coupling {
    /// Creates an empty declaration, with PyTorch's tensor names.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates an empty declaration with other tensor names.
    #[must_use]
    pub fn with_names(names: TensorNames) -> Self {
        Self {
            graph: Graph {
                names,
                ..Graph::default()
            },
        }
    }

    /// Declares the input of the network, whose channels are never pruned.
    ///
    /// # Errors
    ///
    /// [`Error::Coupling`](crate::Error::Coupling) for 0 channels.
    pub fn input(&mut self, channels: usize) -> Result<Channels> {
        let segment = self.graph.add_group("the input", channels, 1)?;
        self.graph.fix(&[segment]);
        Ok(Channels(self.graph.add_node(vec![segment], Origin::Input)))
    }

    /// Declares an output of the network, whose channels are never pruned.
    ///
    /// # Errors
    ///
    /// [`Error::Coupling`](crate::Error::Coupling) for channels of another coupling.
    pub fn output(&mut self, x: Channels) -> Result<()> {
        let segments = self.graph.segments(x.0)?.to_vec();
        self.graph.fix(&segments);
        Ok(())
    }

    /// Declares a ReLU: max(0, x), value by value.
    ///
    /// # Errors
    ///
    /// As [`activation`](Self::activation).
    pub fn relu(&mut self, x: Channels) -> Result<Channels> {
        self.activation(x, |value| value.max(0.0))
    }

    /// Declares a function that is applied value by value.
    ///
    /// The function is called only to fold constants ([`CoupledPlan::fold_constants`](super::CoupledPlan::fold_constants)).
    ///
    /// # Errors
    ///
    /// [`Error::Coupling`](crate::Error::Coupling) for channels of another coupling.
    pub fn activation(&mut self, x: Channels, function: fn(f64) -> f64) -> Result<Channels> {
        let segments = self.graph.segments(x.0)?.to_vec();
        let input = x.0;
        Ok(self.node(segments, Origin::Activation { input, function }))
    }

    /// Declares a sum of arrays, as at the end of a residual block: all terms keep the same channels.
    ///
    /// # Errors
    ///
    /// As [`tie`](Self::tie), and [`Error::Coupling`](crate::Error::Coupling) for no terms.
    pub fn add(&mut self, terms: &[Channels]) -> Result<Channels> {
        self.elementwise(terms, "add", Origin::Add)
    }

    /// Declares a product of arrays, value by value, as with gates: all factors keep the same channels.
    ///
    /// ```
    /// use taper::prune::Coupling;
    ///
    /// let mut net = Coupling::new();
    /// let x = net.input(3)?;
    /// let x = net.layer("conv1", x, 8)?;
    /// // Squeeze and excitation: a gate for each channel.
    /// let gate = net.layer("squeeze", x, 2)?;
    /// let gate = net.layer("excite", gate, 8)?;
    /// let x = net.multiply(&[x, gate])?;
    /// let x = net.layer("classifier", x, 10)?;
    /// net.output(x)?;
    /// assert_eq!(net.groups()?[0].members, ["conv1", "excite"]);
    /// # Ok::<(), taper::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`tie`](Self::tie), and [`Error::Coupling`](crate::Error::Coupling) for no factors.
    pub fn multiply(&mut self, factors: &[Channels]) -> Result<Channels> {
        self.elementwise(factors, "multiply", Origin::Multiply)
    }

    /// Declares arrays that are concatenated along the channel axis.
    ///
    /// ```
    /// use taper::prune::Coupling;
    ///
    /// let mut net = Coupling::new();
    /// let x = net.input(3)?;
    /// let left = net.layer("left", x, 8)?;
    /// let right = net.layer("right", x, 16)?;
    /// let x = net.concat(&[left, right])?;
    /// let x = net.layer("classifier", x, 10)?;
    /// net.output(x)?;
    /// // Each is a group; the classifier loses columns of both, at the right offsets.
    /// let channels: Vec<usize> = net.groups()?.iter().map(|group| group.channels).collect();
    /// assert_eq!(channels, [8, 16]);
    /// # Ok::<(), taper::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Coupling`](crate::Error::Coupling) for no arrays and for channels of another coupling.
    pub fn concat(&mut self, pieces: &[Channels]) -> Result<Channels> {
        if pieces.is_empty() {
            return Err(refused("there is nothing to concatenate".to_owned()));
        }
        let mut segments = Vec::new();
        for piece in pieces {
            segments.extend_from_slice(self.graph.segments(piece.0)?);
        }
        let inputs = pieces.iter().map(|piece| piece.0).collect();
        Ok(self.node(segments, Origin::Concat(inputs)))
    }

    /// Declares that channels and positions become one axis, channels first: each channel becomes a block of `positions`
    /// (height × width) entries.
    ///
    /// # Errors
    ///
    /// [`Error::Coupling`](crate::Error::Coupling) for 0 positions, and
    /// [`Error::Overflow`](crate::Error::Overflow) for more entries than can be counted.
    pub fn flatten(&mut self, x: Channels, positions: usize) -> Result<Channels> {
        let mut segments = self.graph.segments(x.0)?.to_vec();
        if positions == 0 {
            let channels = self.graph.describe(&segments);
            return Err(refused(format!(
                "{channels} are flattened over 0 positions"
            )));
        }
        for segment in &mut segments {
            segment.block = segment.block.saturating_mul(positions);
        }
        self.graph.length(&segments)?;
        let input = x.0;
        Ok(self.node(segments, Origin::Flatten { input, positions }))
    }

    /// Declares that two arrays keep the same channels, for a reason that no other method states.
    ///
    /// ```
    /// use taper::prune::Coupling;
    ///
    /// let mut net = Coupling::new();
    /// let x = net.input(3)?;
    /// let query = net.layer("query", x, 8)?;
    /// let key = net.layer("key", x, 8)?;
    /// // Attention sums their products over the channels.
    /// net.tie(query, key)?;
    /// let x = net.layer("classifier", key, 10)?;
    /// net.output(x)?;
    /// assert_eq!(net.groups()?[0].members, ["query", "key"]);
    /// # Ok::<(), taper::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Coupling`](crate::Error::Coupling) for different numbers of channels or sizes of blocks, and for channels
    /// of another coupling.
    pub fn tie(&mut self, first: Channels, second: Channels) -> Result<()> {
        let first = self.graph.segments(first.0)?.to_vec();
        let second = self.graph.segments(second.0)?.to_vec();
        self.graph.tie(&first, &second)
    }

    /// Declares that axis `axis` of the tensor `tensor` carries the channels of `x`.
    ///
    /// ```
    /// use taper::prune::Coupling;
    ///
    /// let mut net = Coupling::new();
    /// let x = net.input(3)?;
    /// let x = net.layer("conv1", x, 8)?;
    /// // The slope of a PReLU, one for each channel.
    /// net.bind("prelu.weight", 0, x)?;
    /// let x = net.layer("classifier", x, 10)?;
    /// net.output(x)?;
    /// assert_eq!(net.groups()?.len(), 1);
    /// # Ok::<(), taper::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Coupling`](crate::Error::Coupling) for channels of another coupling and for an axis that was declared
    /// with other channels before.
    pub fn bind(&mut self, tensor: &str, axis: usize, x: Channels) -> Result<()> {
        let segments = self.graph.segments(x.0)?.to_vec();
        let binding = Binding::new(tensor.to_owned(), axis, &segments, MaskRole::Follower);
        self.graph.bind(vec![binding])?;
        self.graph.mark_read(&segments);
        Ok(())
    }

    /// Returns the groups of channels that can be pruned, in the order in which they were declared.
    ///
    /// # Errors
    ///
    /// [`Error::Coupling`](crate::Error::Coupling) for a group that no layer reads: an [`output`](Self::output) was not
    /// declared.
    pub fn groups(&self) -> Result<Vec<ChannelGroup>> {
        let mut groups: Vec<ChannelGroup> = Vec::new();
        for (slot, group) in self.graph.slots()?.into_iter().zip(&self.graph.groups) {
            let Some(slot) = slot else { continue };
            // Slots count up from 0 in the order of the groups.
            if slot == groups.len() {
                groups.push(ChannelGroup {
                    name: group.name.clone(),
                    channels: group.channels,
                    members: Vec::new(),
                });
            }
            groups[slot].members.push(group.name.clone());
        }
        Ok(groups)
    }

    /// Chooses the channels that are kept: `pruner` applied to `scores`, one array for each of the
    /// [`groups`](Self::groups) in their order, in a plan that names these groups.
    ///
    /// ```
    /// use taper::ndarray::arr1;
    /// use taper::prune::{ChannelSlimming, Coupling, Keep};
    ///
    /// let mut net = Coupling::new();
    /// let x = net.input(2)?;
    /// let x = net.layer("fc1", x, 3)?;
    /// let x = net.layer("fc2", x, 1)?;
    /// net.output(x)?;
    /// // `scores` computes them from the tensors; any other numbers will do.
    /// let plan = net.plan(&ChannelSlimming::new(Keep::Count(2)), &[arr1(&[0.3, 0.1, 0.9])])?;
    /// assert_eq!((plan.name(0), plan.kept(0)), (Some("fc1"), Some(&[0, 2][..])));
    /// # Ok::<(), taper::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) for scores that do not fit the groups, and the errors of
    /// [`groups`](Self::groups) and of the pruner.
    pub fn plan<F: Float>(
        &self,
        pruner: &dyn Pruner<F>,
        scores: &[Array1<F>],
    ) -> Result<PrunePlan> {
        let groups = self.groups()?;
        let expected: Vec<usize> = groups.iter().map(|group| group.channels).collect();
        let found: Vec<usize> = scores.iter().map(Array1::len).collect();
        check::same_shape("the list of the scores' lengths", &expected, &found)?;
        let views: Vec<_> = scores.iter().map(|scores| scores.view()).collect();
        let plan = pruner.plan(&views)?;
        plan.named(groups.into_iter().map(|group| group.name))
    }

    fn elementwise(
        &mut self,
        operands: &[Channels],
        verb: &'static str,
        origin: fn(Vec<usize>) -> Origin,
    ) -> Result<Channels> {
        let Some((first, others)) = operands.split_first() else {
            return Err(refused(format!("there is nothing to {verb}")));
        };
        let segments = self.graph.segments(first.0)?.to_vec();
        for other in others {
            let other = self.graph.segments(other.0)?;
            self.graph.check_tie(&segments, other)?;
        }
        for &other in others {
            self.tie(*first, other)?;
        }
        let inputs = operands.iter().map(|operand| operand.0).collect();
        Ok(self.node(segments, origin(inputs)))
    }

    fn node(&mut self, segments: Vec<super::graph::Segment>, origin: Origin) -> Channels {
        Channels(self.graph.add_node(segments, origin))
    }
}
