//! Which axes of which tensors carry the same channels.

use super::TensorNames;
use super::graph::{Binding, Group, MaskRole, Node, Origin, Segment};
use crate::{Error, Result};

/// The channels of an array that flows through a network, as a [`Coupling`] knows them.
///
/// Only good for the coupling that made it.
///
/// ```
/// use taper::prune::{Channels, Coupling};
///
/// let mut net = Coupling::new();
/// let image: Channels = net.input(3)?;
/// let x = net.layer("conv1", image, 8)?;
/// // It is a handle, to be used as often as the network reads the array.
/// let left = net.layer("left", x, 4)?;
/// let right = net.layer("right", x, 4)?;
/// assert_ne!(left, right);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Channels(pub(super) usize);

/// Which axes of which tensors carry the same channels, declared by walking through the network once.
///
/// Each call stands for an operation of the network: it takes the channels that go in and gives those that come
/// out. [`layer`](Self::layer) makes new channels; everything else hands on those it got. What shares channels
/// (through an addition, say) keeps the same ones.
///
/// | in the network | here |
/// | --- | --- |
/// | the image | [`input`](Self::input) |
/// | convolution, linear layer | [`layer`](Self::layer) |
/// | batch normalization | [`batch_norm`](Self::batch_norm) |
/// | ReLU and its like | [`relu`](Self::relu), [`activation`](Self::activation) |
/// | pooling, dropout | nothing: it leaves channels alone |
/// | residual addition | [`add`](Self::add) |
/// | gates, squeeze and excitation | [`multiply`](Self::multiply) |
/// | concatenation | [`concat`](Self::concat) |
/// | flatten before a linear layer | [`flatten`](Self::flatten) |
/// | depthwise and grouped convolution | [`depthwise`](Self::depthwise), [`grouped`](Self::grouped) |
/// | attention heads | [`layer_of_blocks`](Self::layer_of_blocks) and [`tie`](Self::tie) |
/// | the classes | [`output`](Self::output): these are never pruned |
///
/// Layer and instance normalization mix the channels they are given; channels before them cannot be taken out
/// without changing what the others become, and there is no call for them.
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
/// // "stem" and "block.conv2" are added to each other, so that they keep the same channels.
/// assert_eq!((groups[0].name(), groups[0].channels()), ("stem", 16));
/// assert_eq!(groups[0].members(), ["stem", "block.conv2"]);
/// assert_eq!((groups[1].name(), groups[1].channels()), ("block.conv1", 32));
/// # Ok::<(), taper::Error>(())
/// ```
///
/// A [`PrunePlan`](super::PrunePlan) for this network has one layer for each group, in their order;
/// [`CoupledPlan`](super::CoupledPlan) applies it to the tensors.
#[derive(Debug, Clone, Default)]
pub struct Coupling {
    pub(super) names: TensorNames,
    pub(super) groups: Vec<Group>,
    pub(super) nodes: Vec<Node>,
    pub(super) bindings: Vec<Binding>,
}

/// Channels that are kept or dropped together, in all tensors that carry them.
///
/// ```
/// use taper::prune::Coupling;
///
/// let mut net = Coupling::new();
/// let x = net.input(3)?;
/// let x = net.layer("conv1", x, 8)?;
/// let y = net.layer("conv2", x, 8)?;
/// let x = net.add(&[x, y])?;
/// let classes = net.layer("classifier", x, 10)?;
/// net.output(classes)?;
/// let groups = net.groups()?;
/// assert_eq!(groups.len(), 1);
/// assert_eq!(groups[0].name(), "conv1");
/// assert_eq!(groups[0].channels(), 8);
/// assert_eq!(groups[0].members(), ["conv1", "conv2"]);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelGroup {
    name: String,
    channels: usize,
    members: Vec<String>,
}

impl ChannelGroup {
    /// The name of the first layer that makes these channels.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many channels (or blocks of them) there are.
    #[must_use]
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// The names of all layers that make these channels.
    #[must_use]
    pub fn members(&self) -> &[String] {
        &self.members
    }
}

impl Coupling {
    /// Nothing declared yet; tensors are called as in PyTorch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Nothing declared yet; tensors are called as `names` says.
    #[must_use]
    pub fn with_names(names: TensorNames) -> Self {
        Self {
            names,
            ..Self::default()
        }
    }

    /// What goes into the network: `channels` channels that are never pruned.
    ///
    /// # Errors
    ///
    /// [`Error::Coupling`] where there are none.
    pub fn input(&mut self, channels: usize) -> Result<Channels> {
        let segment = self.group("the input", channels, 1)?;
        self.fix(segment.group);
        Ok(self.node(vec![segment], Origin::Input))
    }

    /// A convolution or a linear layer that reads `x` and makes `channels` new channels.
    ///
    /// Its weight has the shape (channels, entries of `x`, …); its bias, where there is one, (channels).
    /// Declaring the same name again is sharing its weights: inputs and outputs are tied to those before.
    ///
    /// # Errors
    ///
    /// [`Error::Coupling`] where `channels` is 0, where `x` is not of this coupling, and where shared weights do
    /// not fit.
    pub fn layer(&mut self, name: &str, x: Channels, channels: usize) -> Result<Channels> {
        self.layer_of_blocks(name, x, channels, 1)
    }

    /// A layer whose outputs come in `blocks` blocks of `length` neighbours that are kept or dropped together.
    ///
    /// Heads of attention are such blocks, and so are the inputs of a [grouped](Self::grouped) convolution.
    ///
    /// ```
    /// use taper::prune::Coupling;
    ///
    /// let mut net = Coupling::new();
    /// let x = net.input(3)?;
    /// // Four heads of sixteen values each: a head is kept or dropped as one.
    /// let x = net.layer_of_blocks("attention.value", x, 4, 16)?;
    /// let x = net.layer("attention.out", x, 10)?;
    /// net.output(x)?;
    /// assert_eq!(net.groups()?[0].channels(), 4);
    /// # Ok::<(), taper::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`layer`](Self::layer).
    pub fn layer_of_blocks(
        &mut self,
        name: &str,
        x: Channels,
        blocks: usize,
        length: usize,
    ) -> Result<Channels> {
        let inputs = self.segments(x)?.to_vec();
        let weight = self.tensor(name, |names| &names.weight);
        let bias = self.tensor(name, |names| &names.bias);
        let made = self.group(name, blocks, length)?;
        let fits = self
            .check_axis(&weight, 0, &[made])
            .and_then(|()| self.check_axis(&weight, 1, &inputs));
        if fits.is_err() {
            self.groups.pop();
            fits?;
        }
        for segment in &inputs {
            self.read(segment.group);
        }
        self.bind_axis(&weight, 0, &[made], MaskRole::Source, true)?;
        self.bind_axis(&weight, 1, &inputs, MaskRole::Follower, true)?;
        self.bind_axis(&bias, 0, &[made], MaskRole::Shift, false)?;
        let origin = Origin::Layer {
            name: name.to_owned(),
            input: x.0,
            grouped: false,
        };
        Ok(self.node(vec![made], origin))
    }

    /// A depthwise convolution: each channel of `x` is convolved by itself.
    ///
    /// Its weight has the shape (entries of `x`, 1, …).
    ///
    /// ```
    /// use taper::prune::Coupling;
    ///
    /// let mut net = Coupling::new();
    /// let x = net.input(3)?;
    /// let x = net.layer("expand", x, 24)?;
    /// let x = net.depthwise("depthwise", x)?;
    /// let x = net.layer("project", x, 10)?;
    /// net.output(x)?;
    /// // The filters of "depthwise" go with the channels that they read.
    /// assert_eq!(net.groups()?[0].members(), ["expand"]);
    /// # Ok::<(), taper::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`grouped`](Self::grouped).
    pub fn depthwise(&mut self, name: &str, x: Channels) -> Result<Channels> {
        let entries = self.entries(x)?;
        if self.segments(x)?.iter().any(|segment| segment.block != 1) {
            return Err(Error::Coupling {
                problem: format!(
                    "{name} is depthwise, but {} come in blocks",
                    self.describe_node(x)
                ),
            });
        }
        self.grouped(name, x, entries, entries)
    }

    /// A grouped convolution: `groups` runs of channels of `x` are each convolved by themselves, into as many
    /// runs of `channels` channels in all.
    ///
    /// A run is kept or dropped as one, so that what it reads must come in blocks of its length (see
    /// [`layer_of_blocks`](Self::layer_of_blocks)). The weight has the shape (channels, entries of `x` / groups, …).
    ///
    /// ```
    /// use taper::prune::Coupling;
    ///
    /// let mut net = Coupling::new();
    /// let x = net.input(3)?;
    /// // Two groups that read eight channels each.
    /// let x = net.layer_of_blocks("conv1", x, 2, 8)?;
    /// let x = net.grouped("conv2", x, 2, 12)?;
    /// let x = net.layer("classifier", x, 10)?;
    /// net.output(x)?;
    /// assert_eq!(net.groups()?[0].channels(), 2);
    /// # Ok::<(), taper::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Coupling`] where `x` does not come in `groups` blocks, and where `groups` does not divide
    /// `channels`.
    pub fn grouped(
        &mut self,
        name: &str,
        x: Channels,
        groups: usize,
        channels: usize,
    ) -> Result<Channels> {
        let inputs = self.segments(x)?.to_vec();
        let blocks: usize = inputs.iter().map(|segment| self.units(segment.group)).sum();
        let same_length = inputs.windows(2).all(|pair| pair[0].block == pair[1].block);
        if blocks != groups || !same_length {
            return Err(Error::Coupling {
                problem: format!(
                    "{name} has {groups} groups, but {} do not come in {groups} blocks of one length",
                    self.describe_node(x)
                ),
            });
        }
        if channels == 0 || !channels.is_multiple_of(groups) {
            return Err(Error::Coupling {
                problem: format!("{name} has {channels} channels in {groups} groups"),
            });
        }
        let made: Vec<Segment> = inputs
            .iter()
            .map(|segment| Segment {
                group: segment.group,
                block: channels / groups,
            })
            .collect();
        let weight = self.tensor(name, |names| &names.weight);
        let bias = self.tensor(name, |names| &names.bias);
        self.bind_axis(&weight, 0, &made, MaskRole::Source, true)?;
        self.bind_axis(&bias, 0, &made, MaskRole::Shift, false)?;
        let origin = Origin::Layer {
            name: name.to_owned(),
            input: x.0,
            grouped: true,
        };
        Ok(self.node(made, origin))
    }

    /// Batch normalization: four vectors along the channels of `x`.
    ///
    /// # Errors
    ///
    /// [`Error::Coupling`] where `x` is not of this coupling.
    pub fn batch_norm(&mut self, name: &str, x: Channels) -> Result<Channels> {
        let segments = self.segments(x)?.to_vec();
        let scale = self.tensor(name, |names| &names.scale);
        let shift = self.tensor(name, |names| &names.shift);
        let mean = self.tensor(name, |names| &names.mean);
        let variance = self.tensor(name, |names| &names.variance);
        self.bind_axis(&scale, 0, &segments, MaskRole::Source, false)?;
        self.bind_axis(&shift, 0, &segments, MaskRole::Shift, false)?;
        self.bind_axis(&mean, 0, &segments, MaskRole::Follower, true)?;
        self.bind_axis(&variance, 0, &segments, MaskRole::Follower, true)?;
        let origin = Origin::BatchNorm {
            name: name.to_owned(),
            input: x.0,
        };
        Ok(self.node(segments, origin))
    }

    /// max(0, x), value by value.
    ///
    /// # Errors
    ///
    /// As [`activation`](Self::activation).
    pub fn relu(&mut self, x: Channels) -> Result<Channels> {
        self.activation(x, |value| value.max(0.0))
    }

    /// A function that is applied value by value.
    ///
    /// It has a say only where the constants of dropped channels are kept
    /// ([`Dropped::Constant`](super::Dropped::Constant)).
    ///
    /// # Errors
    ///
    /// [`Error::Coupling`] where `x` is not of this coupling.
    pub fn activation(&mut self, x: Channels, function: fn(f64) -> f64) -> Result<Channels> {
        let segments = self.segments(x)?.to_vec();
        let origin = Origin::Activation {
            input: x.0,
            function,
        };
        Ok(self.node(segments, origin))
    }

    /// A sum of arrays, as at the end of a residual block: all of them keep the same channels.
    ///
    /// # Errors
    ///
    /// As [`tie`](Self::tie), and where there is nothing to add.
    pub fn add(&mut self, terms: &[Channels]) -> Result<Channels> {
        self.elementwise(terms, "add", Origin::Add)
    }

    /// A product of arrays, value by value, as with gates: all of them keep the same channels.
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
    /// assert_eq!(net.groups()?[0].members(), ["conv1", "excite"]);
    /// # Ok::<(), taper::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`tie`](Self::tie), and where there is nothing to multiply.
    pub fn multiply(&mut self, factors: &[Channels]) -> Result<Channels> {
        self.elementwise(factors, "multiply", Origin::Multiply)
    }

    /// Arrays one after the other along the channel axis.
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
    /// // Both are groups of their own; the classifier loses the columns of each at the right offset.
    /// let channels: Vec<usize> = net.groups()?.iter().map(|group| group.channels()).collect();
    /// assert_eq!(channels, [8, 16]);
    /// # Ok::<(), taper::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Coupling`] where there are none, and where one is not of this coupling.
    pub fn concat(&mut self, pieces: &[Channels]) -> Result<Channels> {
        if pieces.is_empty() {
            return Err(Error::Coupling {
                problem: "there is nothing to concatenate".to_owned(),
            });
        }
        let mut segments = Vec::new();
        for &piece in pieces {
            segments.extend_from_slice(self.segments(piece)?);
        }
        let inputs = pieces.iter().map(|piece| piece.0).collect();
        Ok(self.node(segments, Origin::Concat(inputs)))
    }

    /// Channels and positions as one axis, channels first: each channel becomes a block of `positions` entries
    /// (height × width).
    ///
    /// ```
    /// use taper::prune::Coupling;
    ///
    /// let mut net = Coupling::new();
    /// let x = net.input(3)?;
    /// let x = net.layer("conv1", x, 8)?;
    /// // Of each channel the next layer reads a block of 4 × 4 columns.
    /// let x = net.flatten(x, 4 * 4)?;
    /// let x = net.layer("classifier", x, 10)?;
    /// net.output(x)?;
    /// assert_eq!(net.groups()?[0].channels(), 8);
    /// # Ok::<(), taper::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Coupling`] where `positions` is 0 or the entries exceed what can be counted.
    pub fn flatten(&mut self, x: Channels, positions: usize) -> Result<Channels> {
        let mut segments = self.segments(x)?.to_vec();
        for segment in &mut segments {
            segment.block = segment
                .block
                .checked_mul(positions)
                .filter(|&block| block > 0)
                .ok_or_else(|| Error::Coupling {
                    problem: format!("{} at {positions} positions", self.describe_node(x)),
                })?;
        }
        let origin = Origin::Flatten {
            input: x.0,
            positions,
        };
        let flat = self.node(segments, origin);
        self.entries(flat)?;
        Ok(flat)
    }

    /// Makes two arrays keep the same channels, for a reason that no other call states.
    ///
    /// ```
    /// use taper::prune::Coupling;
    ///
    /// let mut net = Coupling::new();
    /// let x = net.input(3)?;
    /// let query = net.layer("query", x, 8)?;
    /// let key = net.layer("key", x, 8)?;
    /// // Their products are summed, channel by channel.
    /// net.tie(query, key)?;
    /// let x = net.layer("classifier", key, 10)?;
    /// net.output(x)?;
    /// assert_eq!(net.groups()?[0].members(), ["query", "key"]);
    /// # Ok::<(), taper::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Coupling`] where they have not the same channels in the same blocks.
    pub fn tie(&mut self, first: Channels, second: Channels) -> Result<()> {
        let segments = self.segments(first)?.to_vec();
        let others = self.segments(second)?.to_vec();
        self.tie_segments(&segments, &others)
    }

    /// Declares that axis `axis` of the tensor `tensor` runs along the channels of `x`: a learned slope for each
    /// channel, say.
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
    /// [`Error::Coupling`] where `x` is not of this coupling or the axis was declared otherwise before.
    pub fn bind(&mut self, tensor: &str, axis: usize, x: Channels) -> Result<()> {
        let segments = self.segments(x)?.to_vec();
        for segment in &segments {
            self.read(segment.group);
        }
        self.bind_axis(tensor, axis, &segments, MaskRole::Follower, true)
    }

    /// What comes out of the network: the channels of `x` are never pruned.
    ///
    /// # Errors
    ///
    /// [`Error::Coupling`] where `x` is not of this coupling.
    pub fn output(&mut self, x: Channels) -> Result<()> {
        for segment in self.segments(x)?.to_vec() {
            self.fix(segment.group);
        }
        Ok(())
    }

    /// The groups of channels that can be pruned, in the order in which they were first declared.
    ///
    /// # Errors
    ///
    /// [`Error::Coupling`] where a group's channels go nowhere: an [`output`](Self::output) was not declared.
    pub fn groups(&self) -> Result<Vec<ChannelGroup>> {
        let mut groups: Vec<ChannelGroup> = Vec::new();
        for (slot, group) in self.slots()?.into_iter().zip(&self.groups) {
            let Some(slot) = slot else { continue };
            if slot == groups.len() {
                groups.push(ChannelGroup {
                    name: group.name.clone(),
                    channels: group.channels,
                    members: Vec::new(),
                });
            }
            if let Some(found) = groups.get_mut(slot) {
                found.members.push(group.name.clone());
            }
        }
        Ok(groups)
    }

    fn elementwise(
        &mut self,
        operands: &[Channels],
        verb: &'static str,
        origin: fn(Vec<usize>) -> Origin,
    ) -> Result<Channels> {
        let Some((&first, others)) = operands.split_first() else {
            return Err(Error::Coupling {
                problem: format!("there is nothing to {verb}"),
            });
        };
        let segments = self.segments(first)?.to_vec();
        for &other in others {
            self.check_tie(&segments, self.segments(other)?)?;
        }
        for &other in others {
            self.tie(first, other)?;
        }
        let inputs = operands.iter().map(|operand| operand.0).collect();
        Ok(self.node(segments, origin(inputs)))
    }
}

#[cfg(test)]
mod tests;
