//! What a [`Coupling`] is made of: groups of channels, the operations that hand them on, and the axes that carry
//! them.

use super::{Channels, Coupling, TensorNames};
use crate::{Error, Result};

/// The channels that one layer makes, before ties.
#[derive(Debug, Clone)]
pub(super) struct Group {
    pub(super) name: String,
    pub(super) channels: usize,
    /// A group this one is tied to, or itself; following these ends at the first of all that are tied.
    pub(super) parent: usize,
    /// The image, the classes: never pruned.
    pub(super) fixed: bool,
    /// Whether any tensor takes these channels in.
    pub(super) read: bool,
}

/// A run of an axis: all channels of a group, `block` entries each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) group: usize,
    pub(super) block: usize,
}

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) segments: Vec<Segment>,
    pub(super) origin: Origin,
}

/// The operation that a node is the result of; nodes are named by their index.
#[derive(Debug, Clone)]
pub(super) enum Origin {
    Input,
    Layer {
        name: String,
        input: usize,
        grouped: bool,
    },
    BatchNorm {
        name: String,
        input: usize,
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

impl Origin {
    /// The nodes that the operation reads.
    pub(super) fn inputs(&self) -> &[usize] {
        match self {
            Self::Input => &[],
            Self::Layer { input, .. }
            | Self::BatchNorm { input, .. }
            | Self::Activation { input, .. }
            | Self::Flatten { input, .. } => std::slice::from_ref(input),
            Self::Add(inputs) | Self::Multiply(inputs) | Self::Concat(inputs) => inputs,
        }
    }
}

/// What happens to an axis's entries when their channels are masked rather than taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MaskRole {
    /// They make the channel: zero.
    Source,
    /// They are what a channel without a source still gives out: zero unless the constant is to stay.
    Shift,
    /// They read the channel, or are of no account once its source is zero.
    Follower,
}

#[derive(Debug, Clone)]
pub(super) struct Binding {
    pub(super) tensor: String,
    pub(super) axis: usize,
    pub(super) segments: Vec<Segment>,
    pub(super) role: MaskRole,
    pub(super) required: bool,
}

impl Coupling {
    /// For each declared group the place of its channels in a plan; none for those that are never pruned.
    pub(super) fn slots(&self) -> Result<Vec<Option<usize>>> {
        let roots: Vec<usize> = (0..self.groups.len())
            .map(|group| self.root(group))
            .collect();
        let of_class = |root: usize| {
            let groups = self.groups.iter().zip(&roots);
            groups.filter(move |(_, other)| **other == root)
        };
        // Ties always lead to the earlier group, so that a class's root is its first member.
        let mut slots: Vec<Option<usize>> = Vec::new();
        let mut next = 0;
        for (group, &root) in roots.iter().enumerate() {
            if root < group {
                let slot = slots.get(root).copied().flatten();
                slots.push(slot);
                continue;
            }
            if of_class(root).any(|(member, _)| member.fixed) {
                slots.push(None);
                continue;
            }
            if !of_class(root).any(|(member, _)| member.read) {
                let name = self.groups.get(root).map_or("", |group| &group.name);
                return Err(Error::Coupling {
                    problem: format!("no layer reads the channels of {name}: is it an output?"),
                });
            }
            slots.push(Some(next));
            next += 1;
        }
        Ok(slots)
    }

    /// How many channels, or blocks of them, a group has.
    pub(super) fn units(&self, group: usize) -> usize {
        self.groups.get(group).map_or(0, |group| group.channels)
    }

    /// How many entries an axis of these segments has.
    pub(super) fn length(&self, segments: &[Segment]) -> usize {
        let lengths = segments
            .iter()
            .map(|segment| self.units(segment.group).saturating_mul(segment.block));
        lengths.fold(0, usize::saturating_add)
    }

    /// The name of a layer's tensor.
    pub(super) fn tensor(&self, layer: &str, suffix: impl Fn(&TensorNames) -> &String) -> String {
        format!("{layer}.{}", suffix(&self.names))
    }

    /// `16 channels of conv1, then 2 channels of conv2 in blocks of 64`.
    pub(super) fn describe(&self, segments: &[Segment]) -> String {
        let names: Vec<String> = segments
            .iter()
            .filter_map(|segment| {
                let group = self.groups.get(segment.group)?;
                let (channels, name) = (group.channels, &group.name);
                Some(match segment.block {
                    1 => format!("{channels} channels of {name}"),
                    block => format!("{channels} channels of {name} in blocks of {block}"),
                })
            })
            .collect();
        names.join(", then ")
    }

    pub(super) fn describe_node(&self, x: Channels) -> String {
        self.nodes
            .get(x.0)
            .map_or_else(String::new, |node| self.describe(&node.segments))
    }

    pub(super) fn node(&mut self, segments: Vec<Segment>, origin: Origin) -> Channels {
        self.nodes.push(Node { segments, origin });
        Channels(self.nodes.len() - 1)
    }

    pub(super) fn group(&mut self, name: &str, channels: usize, block: usize) -> Result<Segment> {
        if channels
            .checked_mul(block)
            .is_none_or(|entries| entries == 0)
        {
            return Err(Error::Coupling {
                problem: format!("{name} has {channels} channels of {block} entries each"),
            });
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

    pub(super) fn segments(&self, x: Channels) -> Result<&[Segment]> {
        self.nodes
            .get(x.0)
            .map(|node| node.segments.as_slice())
            .ok_or_else(|| Error::Coupling {
                problem: "the channels given are of another network".to_owned(),
            })
    }

    pub(super) fn entries(&self, x: Channels) -> Result<usize> {
        let entries = self.length(self.segments(x)?);
        if entries == usize::MAX {
            return Err(Error::Overflow {
                what: "the number of entries",
            });
        }
        Ok(entries)
    }

    pub(super) fn bind_axis(
        &mut self,
        tensor: &str,
        axis: usize,
        segments: &[Segment],
        role: MaskRole,
        required: bool,
    ) -> Result<()> {
        if let Some(before) = self.bound(tensor, axis) {
            let before = before.to_vec();
            return self.tie_segments(&before, segments);
        }
        self.bindings.push(Binding {
            tensor: tensor.to_owned(),
            axis,
            segments: segments.to_vec(),
            role,
            required,
        });
        Ok(())
    }

    /// What an axis was declared to carry before.
    pub(super) fn bound(&self, tensor: &str, axis: usize) -> Option<&[Segment]> {
        self.bindings
            .iter()
            .find(|binding| binding.tensor == tensor && binding.axis == axis)
            .map(|binding| binding.segments.as_slice())
    }

    /// Errs where an axis was declared to carry something that `segments` cannot be tied to.
    pub(super) fn check_axis(&self, tensor: &str, axis: usize, segments: &[Segment]) -> Result<()> {
        self.bound(tensor, axis)
            .map_or(Ok(()), |before| self.check_tie(before, segments))
    }

    pub(super) fn check_tie(&self, first: &[Segment], second: &[Segment]) -> Result<()> {
        let fit = first.len() == second.len()
            && first
                .iter()
                .zip(second)
                .all(|(a, b)| a.block == b.block && self.units(a.group) == self.units(b.group));
        if !fit {
            return Err(Error::Coupling {
                problem: format!(
                    "{} cannot be the same as {}",
                    self.describe(second),
                    self.describe(first)
                ),
            });
        }
        Ok(())
    }

    pub(super) fn tie_segments(&mut self, first: &[Segment], second: &[Segment]) -> Result<()> {
        self.check_tie(first, second)?;
        for (a, b) in first.iter().zip(second) {
            let (a, b) = (self.root(a.group), self.root(b.group));
            if let Some(later) = self.groups.get_mut(a.max(b)) {
                later.parent = a.min(b);
            }
        }
        Ok(())
    }

    pub(super) fn root(&self, mut group: usize) -> usize {
        while let Some(parent) = self.groups.get(group).map(|group| group.parent) {
            if parent == group {
                break;
            }
            group = parent;
        }
        group
    }

    pub(super) fn fix(&mut self, group: usize) {
        if let Some(group) = self.groups.get_mut(group) {
            group.fixed = true;
        }
    }

    pub(super) fn read(&mut self, group: usize) {
        if let Some(group) = self.groups.get_mut(group) {
            group.read = true;
        }
    }
}
