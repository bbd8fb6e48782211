//! A declared network: groups of channels, the operations between them, and the tensor axes that carry them.

use super::tensors::{TensorNames, Tensors};
use crate::{Error, Float, Result};

/// The network that a [`Coupling`](super::Coupling) declares.
#[derive(Debug, Clone, Default)]
pub(super) struct Graph {
    pub(super) names: TensorNames,
    pub(super) groups: Vec<Group>,
    pub(super) nodes: Vec<Node>,
    pub(super) bindings: Vec<Binding>,
}

/// The channels that one layer makes, before ties.
#[derive(Debug, Clone)]
pub(super) struct Group {
    pub(super) name: String,
    pub(super) channels: usize,
    /// An earlier group that this one is tied to, or itself. Following these ends at the first of all tied groups.
    parent: usize,
    /// Whether this is an input or an output of the network, which is never pruned.
    fixed: bool,
    /// Whether any tensor reads these channels.
    read: bool,
}

/// A run of an axis: all channels of a group, `block` entries each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) group: usize,
    pub(super) block: usize,
}

/// An array that flows through the network.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) segments: Vec<Segment>,
    pub(super) origin: Origin,
}

/// The operation that computes a node from other nodes, which are given by their index.
#[derive(Debug, Clone)]
pub(super) enum Origin {
    Input,
    Layer {
        name: String,
        input: usize,
        layout: Layout,
    },
    Norm {
        name: String,
        input: usize,
        kind: NormKind,
    },
    Activation {
        input: usize,
        function: fn(f64) -> f64,
    },
    Add(Vec<usize>),
    Multiply(Vec<usize>),
    Concat(Vec<usize>),
    Flatten {
        input: usize,
        positions: usize,
    },
}

/// The axes of a layer's weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    /// Whether the weight has shape (in, out / groups, …) rather than (out, in / groups, …).
    pub(super) transposed: bool,
    /// The number of groups of a grouped convolution.
    pub(super) groups: Option<usize>,
}

/// The values over which a normalization takes its statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NormKind {
    /// None: they are stored.
    Batch,
    /// Each channel by itself.
    Instance,
    /// All channels.
    Layer,
    /// All channels, without a mean.
    Rms,
    /// This many runs of channels, each by itself.
    Group(usize),
}

impl Origin {
    /// The nodes that the operation reads.
    fn inputs(&self) -> &[usize] {
        match self {
            Self::Input => &[],
            Self::Layer { input, .. }
            | Self::Norm { input, .. }
            | Self::Activation { input, .. }
            | Self::Flatten { input, .. } => std::slice::from_ref(input),
            Self::Add(inputs) | Self::Multiply(inputs) | Self::Concat(inputs) => inputs,
        }
    }
}

/// What masking does to the entries of dropped channels along an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MaskRole {
    /// They make the channel: they become zero.
    Source,
    /// As `Source`, and pruning multiplies the kept entries by √(all / kept): the mean square of an RMS
    /// normalization is over fewer entries then.
    RmsScale,
    /// They are what a channel without a source still gives: zero unless constants are [folded](super::CoupledPlan::fold_constants).
    Shift,
    /// They read the channel, or do not matter once its source is zero: they stay.
    Follower,
}

/// An axis of a tensor and the channels that it carries.
#[derive(Debug, Clone)]
pub(super) struct Binding {
    pub(super) tensor: String,
    pub(super) axis: usize,
    pub(super) segments: Vec<Segment>,
    pub(super) role: MaskRole,
    /// Whether the network must have the tensor.
    pub(super) required: bool,
}

impl Binding {
    pub(super) fn new(tensor: String, axis: usize, segments: &[Segment], role: MaskRole) -> Self {
        Self {
            tensor,
            axis,
            segments: segments.to_vec(),
            role,
            required: true,
        }
    }

    pub(super) fn optional(mut self) -> Self {
        self.required = false;
        self
    }
}

pub(super) fn refused(problem: String) -> Error {
    Error::Coupling { problem }
}

/// Groups and nodes.
impl Graph {
    pub(super) fn add_group(
        &mut self,
        name: &str,
        channels: usize,
        block: usize,
    ) -> Result<Segment> {
        let entries = channels.checked_mul(block);
        if entries.is_none_or(|entries| entries == 0) {
            return Err(refused(format!(
                "{name} has {channels} channels of {block} entries each: there must be at least one entry, and no \
                 more than can be counted"
            )));
        }
        let group = self.groups.len();
        self.groups.push(Group {
            name: name.to_owned(),
            channels,
            parent: group,
            fixed: false,
            read: false,
        });
        Ok(Segment { group, block })
    }

    /// Adds a node and returns its index.
    pub(super) fn add_node(&mut self, segments: Vec<Segment>, origin: Origin) -> usize {
        self.nodes.push(Node { segments, origin });
        self.nodes.len() - 1
    }

    pub(super) fn segments(&self, node: usize) -> Result<&[Segment]> {
        match self.nodes.get(node) {
            Some(node) => Ok(&node.segments),
            None => Err(refused(
                "the channels given are of another network".to_owned(),
            )),
        }
    }

    /// The nodes that are computed from node `node`.
    pub(super) fn readers(&self, node: usize) -> impl Iterator<Item = &Node> {
        let nodes = self.nodes.iter();
        nodes.filter(move |reader| reader.origin.inputs().contains(&node))
    }

    /// Declares that the channels of `segments` are never pruned.
    pub(super) fn fix(&mut self, segments: &[Segment]) {
        for segment in segments {
            self.groups[segment.group].fixed = true;
        }
    }

    /// Declares that a tensor reads the channels of `segments`.
    pub(super) fn mark_read(&mut self, segments: &[Segment]) {
        for segment in segments {
            self.groups[segment.group].read = true;
        }
    }

    /// How many channels, or blocks of them, a group has.
    pub(super) fn units(&self, group: usize) -> usize {
        self.groups[group].channels
    }

    /// How many entries an axis of these segments has.
    pub(super) fn length(&self, segments: &[Segment]) -> Result<usize> {
        let mut total: Option<usize> = Some(0);
        for segment in segments {
            let entries = self.units(segment.group).checked_mul(segment.block);
            total = total.zip(entries).and_then(|(a, b)| a.checked_add(b));
        }
        total.ok_or(Error::Overflow {
            what: "the number of entries",
        })
    }

    /// For each group its place in a plan, and none for groups that are never pruned.
    pub(super) fn slots(&self) -> Result<Vec<Option<usize>>> {
        let roots: Vec<usize> = (0..self.groups.len())
            .map(|group| self.root(group))
            .collect();
        let tied = |root: usize| {
            let groups = self.groups.iter().zip(&roots);
            groups
                .filter(move |(_, other)| **other == root)
                .map(|(group, _)| group)
        };
        let mut slots: Vec<Option<usize>> = Vec::new();
        let mut next = 0;
        for (group, &root) in roots.iter().enumerate() {
            let slot = if root < group {
                slots[root]
            } else if tied(root).any(|member| member.fixed) {
                None
            } else if tied(root).any(|member| member.read) {
                next += 1;
                Some(next - 1)
            } else {
                let name = &self.groups[root].name;
                return Err(refused(format!(
                    "no layer reads the channels of {name}: declare them with `output` if they leave the network"
                )));
            };
            slots.push(slot);
        }
        Ok(slots)
    }
}

/// Ties between groups.
impl Graph {
    pub(super) fn check_tie(&self, first: &[Segment], second: &[Segment]) -> Result<()> {
        let same = |(a, b): (&Segment, &Segment)| {
            a.block == b.block && self.units(a.group) == self.units(b.group)
        };
        if first.len() == second.len() && first.iter().zip(second).all(same) {
            return Ok(());
        }
        Err(refused(format!(
            "{} cannot be the same as {}",
            self.describe(second),
            self.describe(first)
        )))
    }

    pub(super) fn tie(&mut self, first: &[Segment], second: &[Segment]) -> Result<()> {
        self.check_tie(first, second)?;
        for (a, b) in first.iter().zip(second) {
            let (a, b) = (self.root(a.group), self.root(b.group));
            self.groups[a.max(b)].parent = a.min(b);
        }
        Ok(())
    }

    fn root(&self, mut group: usize) -> usize {
        while self.groups[group].parent != group {
            group = self.groups[group].parent;
        }
        group
    }
}

/// Tensors.
impl Graph {
    /// The name of a layer's tensor.
    pub(super) fn tensor(&self, layer: &str, suffix: impl Fn(&TensorNames) -> &String) -> String {
        format!("{layer}.{}", suffix(&self.names))
    }

    /// Errs where the tensor was declared before as a weight and is now the scale of a normalization, or the other way round.
    pub(super) fn check_kind(&self, tensor: &str, of_norm: bool) -> Result<()> {
        let declared = self.nodes.iter().any(|node| match &node.origin {
            Origin::Layer { name, .. } => of_norm && self.tensor(name, |n| &n.weight) == tensor,
            Origin::Norm { name, .. } => !of_norm && self.tensor(name, |n| &n.scale) == tensor,
            _ => false,
        });
        if declared {
            return Err(refused(format!(
                "{tensor} was declared by another kind of layer before: give layers and normalizations names of their own"
            )));
        }
        Ok(())
    }

    fn bound(&self, binding: &Binding) -> Option<&Binding> {
        self.bindings
            .iter()
            .find(|before| before.tensor == binding.tensor && before.axis == binding.axis)
    }

    /// Errs where the axis was declared before with channels or a role that `binding` contradicts.
    pub(super) fn check_binding(&self, binding: &Binding) -> Result<()> {
        let Some(before) = self.bound(binding) else {
            return Ok(());
        };
        if binding.role != MaskRole::Follower && binding.role != before.role {
            return Err(refused(format!(
                "axis {} of {} was declared by another kind of layer before: declare the second use of shared weights with \
                 `bind`",
                binding.axis, binding.tensor
            )));
        }
        self.check_tie(&before.segments, &binding.segments)
    }

    /// Adds all bindings, or none where one contradicts what was declared before. A second declaration of an axis ties
    /// its channels to those of the first.
    pub(super) fn bind(&mut self, bindings: Vec<Binding>) -> Result<()> {
        for binding in &bindings {
            self.check_binding(binding)?;
        }
        for binding in bindings {
            match self.bound(&binding) {
                Some(before) => {
                    let before = before.segments.clone();
                    self.tie(&before, &binding.segments)?;
                }
                None => self.bindings.push(binding),
            }
        }
        Ok(())
    }

    /// Errs where a tensor is missing or has an axis that does not fit.
    pub(super) fn check_tensors<F: Float>(&self, tensors: &Tensors<F>) -> Result<()> {
        for binding in &self.bindings {
            match tensors.get(&binding.tensor) {
                Some(tensor) => self.check_axis(binding, tensor.shape())?,
                None if binding.required => {
                    return Err(Error::UnknownTensor {
                        name: binding.tensor.clone(),
                    });
                }
                None => {}
            }
        }
        Ok(())
    }

    pub(super) fn check_axis(&self, binding: &Binding, shape: &[usize]) -> Result<()> {
        let expected = self.length(&binding.segments)?;
        if shape.get(binding.axis) == Some(&expected) {
            return Ok(());
        }
        Err(Error::ChannelAxis {
            tensor: binding.tensor.clone(),
            axis: binding.axis,
            expected,
            channels: self.describe(&binding.segments),
            shape: shape.to_vec(),
        })
    }

    /// Describes channels in words: `16 channels of conv1, then 2 channels of conv2 in blocks of 64`.
    pub(super) fn describe(&self, segments: &[Segment]) -> String {
        let describe = |segment: &Segment| {
            let Group { channels, name, .. } = &self.groups[segment.group];
            match segment.block {
                1 => format!("{channels} channels of {name}"),
                block => format!("{channels} channels of {name} in blocks of {block}"),
            }
        };
        let parts: Vec<String> = segments.iter().map(describe).collect();
        parts.join(", then ")
    }
}
