//! Declarations of layers.

use super::{Channels, Coupling};
use crate::Result;
use crate::prune::graph::{Binding, Layout, MaskRole, Origin, Segment, refused};

/// The weight's axes of a layer that reads all channels of its input.
const DENSE: Layout = Layout {
    transposed: false,
    groups: None,
};

impl Coupling {
    /// Declares a convolution or a linear layer that reads `x` and makes `channels` new channels.
    ///
    /// Its weight has shape (channels, entries of `x`, …), its bias, if there is one, (channels). A weight of shape
    /// (entries of `x`, channels, …) is declared with [`transposed`](Self::transposed): where both numbers are equal,
    /// the shape does not tell one from the other.
    ///
    /// Declare a name twice for shared weights: the inputs are tied to each other, and so are the outputs.
    ///
    /// # Errors
    ///
    /// [`Error::Coupling`](crate::Error::Coupling) for 0 channels, for channels of another coupling, and for a name that
    /// was declared before with other channels or as another kind of layer.
    pub fn layer(&mut self, name: &str, x: Channels, channels: usize) -> Result<Channels> {
        self.layer_of_blocks(name, x, channels, 1)
    }

    /// Declares a layer whose outputs come in `blocks` blocks of `length` neighbours that are kept or dropped together.
    ///
    /// Use it for attention heads, and for channels that a [grouped convolution](Self::grouped) or a
    /// [group normalization](Self::group_norm) reads.
    ///
    /// ```
    /// use taper::prune::Coupling;
    ///
    /// let mut net = Coupling::new();
    /// let x = net.input(3)?;
    /// // Four heads of sixteen values: each head is kept or dropped as a whole.
    /// let x = net.layer_of_blocks("attention.value", x, 4, 16)?;
    /// let x = net.layer("attention.out", x, 10)?;
    /// net.output(x)?;
    /// assert_eq!(net.groups()?[0].channels, 4);
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
        self.dense(name, x, (blocks, length), DENSE)
    }

    /// Declares a layer whose weight has shape (entries of `x`, channels, …): a transposed convolution (PyTorch's
    /// `ConvTranspose2d`), or a linear layer that stores its matrix as (in, out).
    ///
    /// A transposed convolution spreads the constants of dropped channels over positions by its stride, so they do not
    /// fit into a bias: prune with [`fold_constants(false)`](super::super::CoupledPlan::fold_constants) where it reads such constants.
    ///
    /// ```
    /// use taper::ndarray::{Array2, Array4};
    /// use taper::prune::{CoupledPlan, Coupling, PrunePlan, Tensors};
    ///
    /// let mut net = Coupling::new();
    /// let x = net.input(3)?;
    /// let x = net.layer("down", x, 8)?;
    /// let x = net.transposed("up", x, 8)?;
    /// let x = net.layer("last", x, 1)?;
    /// net.output(x)?;
    /// let mut tensors: Tensors<f32> = Tensors::new();
    /// tensors.insert("down.weight".into(), Array4::ones((8, 3, 2, 2)).into_dyn());
    /// tensors.insert("up.weight".into(), Array4::ones((8, 8, 2, 2)).into_dyn());
    /// tensors.insert("last.weight".into(), Array4::ones((1, 8, 1, 1)).into_dyn());
    /// let plan = PrunePlan::new(vec![(8, vec![0, 1, 2]), (8, vec![4])])?.named(["down", "up"])?;
    /// let pruned = CoupledPlan::new(&net, &plan)?.prune_all(&tensors)?;
    /// // Three channels go into "up", one comes out.
    /// assert_eq!(pruned["up.weight"].shape(), [3, 1, 2, 2]);
    /// # Ok::<(), taper::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`layer`](Self::layer).
    pub fn transposed(&mut self, name: &str, x: Channels, channels: usize) -> Result<Channels> {
        self.transposed_of_blocks(name, x, channels, 1)
    }

    /// Declares a [`transposed`](Self::transposed) layer whose outputs come in blocks, as those of
    /// [`layer_of_blocks`](Self::layer_of_blocks) do.
    ///
    /// # Errors
    ///
    /// As [`layer`](Self::layer).
    pub fn transposed_of_blocks(
        &mut self,
        name: &str,
        x: Channels,
        blocks: usize,
        length: usize,
    ) -> Result<Channels> {
        let layout = Layout {
            transposed: true,
            groups: None,
        };
        self.dense(name, x, (blocks, length), layout)
    }

    /// Declares a depthwise convolution, which convolves each channel of `x` by itself.
    ///
    /// Its weight has shape (entries of `x`, 1, …). It makes no channels of its own: its filters are dropped with the
    /// channels that they read.
    ///
    /// # Errors
    ///
    /// As [`grouped`](Self::grouped).
    pub fn depthwise(&mut self, name: &str, x: Channels) -> Result<Channels> {
        let segments = self.graph.segments(x.0)?;
        let entries = self.graph.length(segments)?;
        if segments.iter().any(|segment| segment.block != 1) {
            return Err(refused(format!(
                "{name} is depthwise, but {} come in blocks: use `grouped`",
                self.graph.describe(segments)
            )));
        }
        self.grouped(name, x, entries, entries)
    }

    /// Declares a grouped convolution: each of `groups` runs of channels of `x` is convolved by itself, into `channels`
    /// channels in all.
    ///
    /// Its weight has shape (channels, entries of `x` / groups, …). A run is kept or dropped as a whole, so `x` must come
    /// in blocks of that length ([`layer_of_blocks`](Self::layer_of_blocks)).
    ///
    /// ```
    /// use taper::prune::Coupling;
    ///
    /// let mut net = Coupling::new();
    /// let x = net.input(3)?;
    /// // Two groups that read eight channels each and make six each.
    /// let x = net.layer_of_blocks("conv1", x, 2, 8)?;
    /// let x = net.grouped("conv2", x, 2, 12)?;
    /// let x = net.layer("classifier", x, 10)?;
    /// net.output(x)?;
    /// assert_eq!(net.groups()?[0].channels, 2);
    /// # Ok::<(), taper::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Coupling`](crate::Error::Coupling) where `x` does not come in `groups` blocks, where `groups` does not
    /// divide `channels`, and as [`layer`](Self::layer).
    pub fn grouped(
        &mut self,
        name: &str,
        x: Channels,
        groups: usize,
        channels: usize,
    ) -> Result<Channels> {
        self.by_groups(name, x, (groups, channels), false)
    }

    /// Declares a grouped transposed convolution, with a weight of shape (entries of `x`, channels / groups, …).
    ///
    /// It is otherwise as [`grouped`](Self::grouped). A depthwise one has as many groups and channels as `x` has entries.
    ///
    /// # Errors
    ///
    /// As [`grouped`](Self::grouped).
    pub fn transposed_grouped(
        &mut self,
        name: &str,
        x: Channels,
        groups: usize,
        channels: usize,
    ) -> Result<Channels> {
        self.by_groups(name, x, (groups, channels), true)
    }

    fn dense(
        &mut self,
        name: &str,
        x: Channels,
        (blocks, length): (usize, usize),
        layout: Layout,
    ) -> Result<Channels> {
        let inputs = self.graph.segments(x.0)?.to_vec();
        let weight = self.graph.tensor(name, |names| &names.weight);
        self.graph.check_kind(&weight, false)?;
        let made = self.graph.add_group(name, blocks, length)?;
        let (out, read) = if layout.transposed { (1, 0) } else { (0, 1) };
        let axes = [
            (out, &[made][..], MaskRole::Source),
            (read, &inputs, MaskRole::Follower),
        ];
        let bound = self.bind_layer(name, &axes, &[made]);
        if bound.is_err() {
            self.graph.groups.pop();
            bound?;
        }
        self.graph.mark_read(&inputs);
        Ok(self.layer_node(name, x, vec![made], layout))
    }

    fn by_groups(
        &mut self,
        name: &str,
        x: Channels,
        (groups, channels): (usize, usize),
        transposed: bool,
    ) -> Result<Channels> {
        let inputs = self.graph.segments(x.0)?.to_vec();
        let units = inputs
            .iter()
            .map(|segment| self.graph.units(segment.group))
            .fold(0, usize::saturating_add);
        let same_length = inputs.windows(2).all(|pair| pair[0].block == pair[1].block);
        if units != groups || !same_length {
            return Err(refused(format!(
                "{name} has {groups} groups, but {} do not come in {groups} blocks of one length",
                self.graph.describe(&inputs)
            )));
        }
        if channels == 0 || !channels.is_multiple_of(groups) {
            return Err(refused(format!(
                "{name} has {channels} channels, which {groups} groups do not divide"
            )));
        }
        let block = channels / groups;
        let made: Vec<Segment> = inputs
            .iter()
            .map(|&segment| Segment { block, ..segment })
            .collect();
        let weight = self.graph.tensor(name, |names| &names.weight);
        self.graph.check_kind(&weight, false)?;
        // Groups are dropped whole, so that an axis of inputs makes a group as well as one of outputs.
        let first = if transposed { &inputs } else { &made };
        self.bind_layer(name, &[(0, first, MaskRole::Source)], &made)?;
        let layout = Layout {
            transposed,
            groups: Some(groups),
        };
        Ok(self.layer_node(name, x, made, layout))
    }

    /// Binds axes of a layer's weight to channels, and its bias to the channels that the layer makes.
    fn bind_layer(
        &mut self,
        name: &str,
        axes: &[(usize, &[Segment], MaskRole)],
        made: &[Segment],
    ) -> Result<()> {
        let weight = self.graph.tensor(name, |names| &names.weight);
        let bias = self.graph.tensor(name, |names| &names.bias);
        let axes = axes
            .iter()
            .map(|&(axis, channels, role)| Binding::new(weight.clone(), axis, channels, role));
        let bias = Binding::new(bias, 0, made, MaskRole::Shift).optional();
        self.graph.bind(axes.chain([bias]).collect())
    }

    fn layer_node(
        &mut self,
        name: &str,
        x: Channels,
        made: Vec<Segment>,
        layout: Layout,
    ) -> Channels {
        let origin = Origin::Layer {
            name: name.to_owned(),
            input: x.0,
            layout,
        };
        self.node(made, origin)
    }
}
