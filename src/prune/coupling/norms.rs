//! Declarations of normalizations.

use super::{Channels, Coupling};
use crate::Result;
use crate::prune::TensorNames;
use crate::prune::graph::{Binding, MaskRole, NormKind, Origin, refused};

impl Coupling {
    /// Declares batch normalization with running statistics: scale γ and shift β, if it has them, and the running mean and
    /// variance, all of shape (entries of `x`).
    ///
    /// Pruning is exact. Without a scale, only [`fold_constants(false)`](super::super::CoupledPlan::fold_constants) can be used.
    ///
    /// # Errors
    ///
    /// [`Error::Coupling`](crate::Error::Coupling) for channels of another coupling, and for a name that was declared
    /// before with other channels or as another kind of layer.
    pub fn batch_norm(&mut self, name: &str, x: Channels) -> Result<Channels> {
        self.norm(name, x, NormKind::Batch)
    }

    /// Declares instance normalization, or batch normalization without running statistics: each channel is normalized by
    /// its own mean and variance in the current input. Scale γ and shift β, if it has them, have shape (entries of `x`).
    ///
    /// Pruning is exact.
    ///
    /// # Errors
    ///
    /// As [`batch_norm`](Self::batch_norm).
    pub fn instance_norm(&mut self, name: &str, x: Channels) -> Result<Channels> {
        self.norm(name, x, NormKind::Instance)
    }

    /// Declares layer normalization over all channels of `x` (J. L. Ba et al., 2016,
    /// [arXiv:1607.06450](https://arxiv.org/abs/1607.06450)). Scale γ and shift β, if it has them, have shape (entries
    /// of `x`, …).
    ///
    /// γ and β lose the dropped channels. Mean and variance are over the kept channels afterwards, so the pruned network
    /// differs from the masked one, whose mean and variance count the zeros. It equals the network from which the dropped
    /// channels are cut out before the normalization.
    ///
    /// # Errors
    ///
    /// As [`batch_norm`](Self::batch_norm).
    pub fn layer_norm(&mut self, name: &str, x: Channels) -> Result<Channels> {
        self.norm(name, x, NormKind::Layer)
    }

    /// Declares RMS normalization over all channels of `x` (B. Zhang and R. Sennrich, 2019,
    /// [arXiv:1910.07467](https://arxiv.org/abs/1910.07467)): $y_i = \gamma_i x_i / \sqrt{\sum_j x_j^2 / n + \varepsilon}$.
    /// The scale γ has shape (entries of `x`, …).
    ///
    /// Where k of n entries are kept, the sum is divided by k afterwards. Pruning multiplies γ by $\sqrt{n/k}$ to
    /// compensate. The pruned network then equals the masked one if the dropped channels are zero before the normalization
    /// ([`fold_constants(false)`](super::super::CoupledPlan::fold_constants), or layers without biases) and ε is multiplied by n/k; with the
    /// old ε it differs as far as ε counts beside the mean square.
    ///
    /// ```
    /// use taper::ndarray::{Array1, Array2};
    /// use taper::prune::{CoupledPlan, Coupling, PrunePlan, Tensors};
    ///
    /// let mut net = Coupling::new();
    /// let x = net.input(2)?;
    /// let x = net.layer("embed", x, 4)?;
    /// let x = net.rms_norm("norm", x)?;
    /// let x = net.layer("head", x, 2)?;
    /// net.output(x)?;
    /// let mut tensors: Tensors<f32> = Tensors::new();
    /// tensors.insert("embed.weight".into(), Array2::ones((4, 2)).into_dyn());
    /// tensors.insert("norm.weight".into(), Array1::ones(4).into_dyn());
    /// tensors.insert("head.weight".into(), Array2::ones((2, 4)).into_dyn());
    /// let plan = PrunePlan::new(vec![(4, vec![2])])?.named(["embed"])?;
    /// let pruned = CoupledPlan::new(&net, &plan)?.prune_all(&tensors)?;
    /// assert_eq!(pruned["norm.weight"], Array1::from_elem(1, 2.0).into_dyn()); // √(4/1)
    /// # Ok::<(), taper::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`batch_norm`](Self::batch_norm).
    pub fn rms_norm(&mut self, name: &str, x: Channels) -> Result<Channels> {
        self.norm(name, x, NormKind::Rms)
    }

    /// Declares group normalization (Y. Wu and K. He, 2018, [arXiv:1803.08494](https://arxiv.org/abs/1803.08494)): `groups`
    /// runs of neighbouring channels, each normalized by its own mean and variance. Scale γ and shift β, if it has them,
    /// have shape (entries of `x`).
    ///
    /// A plan must keep the same number of channels in each group that it does not drop as a whole;
    /// [`CoupledPlan::new`](super::super::CoupledPlan::new) refuses other plans. The pruned network has as many groups as
    /// keep a channel. Pruning is exact where whole groups are dropped: declare the layers that make `x` with
    /// [`layer_of_blocks`](Self::layer_of_blocks), one block for each group. Where a group keeps some of its channels, its
    /// mean and variance are over these, as with [`layer_norm`](Self::layer_norm).
    ///
    /// ```
    /// use taper::prune::{CoupledPlan, Coupling, PrunePlan};
    ///
    /// let mut net = Coupling::new();
    /// let x = net.input(3)?;
    /// let x = net.layer("conv", x, 6)?;
    /// let x = net.group_norm("norm", x, 2)?; // channels 0 to 2 and 3 to 5
    /// let x = net.layer("head", x, 10)?;
    /// net.output(x)?;
    /// let fits = |kept: &[usize]| -> taper::Result<bool> {
    ///     let plan = PrunePlan::new(vec![(6, kept.to_vec())])?.named(["conv"])?;
    ///     Ok(CoupledPlan::new(&net, &plan).is_ok())
    /// };
    /// assert!(fits(&[0, 1, 2])?); // one group of two
    /// assert!(fits(&[0, 2, 4, 5])?); // two of three channels in each group
    /// assert!(!fits(&[0, 1, 2, 3])?); // three channels and one
    /// # Ok::<(), taper::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Coupling`](crate::Error::Coupling) where `groups` does not divide the entries of `x`, and as
    /// [`batch_norm`](Self::batch_norm).
    pub fn group_norm(&mut self, name: &str, x: Channels, groups: usize) -> Result<Channels> {
        let entries = self.graph.length(self.graph.segments(x.0)?)?;
        if groups == 0 || !entries.is_multiple_of(groups) {
            return Err(refused(format!(
                "{name} has {groups} groups, which do not divide {entries} channels"
            )));
        }
        self.norm(name, x, NormKind::Group(groups))
    }

    fn norm(&mut self, name: &str, x: Channels, kind: NormKind) -> Result<Channels> {
        let segments = self.graph.segments(x.0)?.to_vec();
        let tensor = |suffix: fn(&TensorNames) -> &String| self.graph.tensor(name, suffix);
        let scale = tensor(|names| &names.scale);
        let shift = tensor(|names| &names.shift);
        let mean = tensor(|names| &names.mean);
        let variance = tensor(|names| &names.variance);
        self.graph.check_kind(&scale, true)?;
        let scale = match kind {
            NormKind::Rms => Binding::new(scale, 0, &segments, MaskRole::RmsScale),
            _ => Binding::new(scale, 0, &segments, MaskRole::Source).optional(),
        };
        let shift = Binding::new(shift, 0, &segments, MaskRole::Shift).optional();
        let mut bindings = vec![scale, shift];
        if kind == NormKind::Batch {
            // Without a scale, a mean of zero keeps a masked channel at zero.
            bindings.push(Binding::new(mean, 0, &segments, MaskRole::Source));
            bindings.push(Binding::new(variance, 0, &segments, MaskRole::Follower));
        }
        self.graph.bind(bindings)?;
        let origin = Origin::Norm {
            name: name.to_owned(),
            input: x.0,
            kind,
        };
        Ok(self.node(segments, origin))
    }
}
