//! A plan applied to the tensors of a network.

use ndarray::{ArrayD, ArrayViewD, Axis};

use super::graph::{Binding, Graph, MaskRole, NormKind, Origin, Segment, refused};
use super::tensors::Tensors;
use super::{Coupling, PrunePlan, fold};
use crate::{Error, Float, Result, check};

/// A [`PrunePlan`] together with the [`Coupling`] that defines which tensors it applies to.
///
/// [`prune_all`](Self::prune_all) returns the tensors of the small network, [`mask_all`](Self::mask_all) those of a network
/// of the original size that computes the same function, with zeros in place of what was dropped.
///
/// ```
/// use taper::ndarray::{arr1, arr2};
/// use taper::prune::{CoupledPlan, Coupling, PrunePlan, Tensors};
///
/// // Two linear layers with a ReLU between them; the hidden channel 1 is dropped.
/// let mut net = Coupling::new();
/// let x = net.input(2)?;
/// let x = net.layer("fc1", x, 3)?;
/// let x = net.relu(x)?;
/// let x = net.layer("fc2", x, 1)?;
/// net.output(x)?;
/// let plan = PrunePlan::new(vec![(3, vec![0, 2])])?.named(["fc1"])?;
///
/// let mut tensors: Tensors<f32> = Tensors::new();
/// tensors.insert("fc1.weight".into(), arr2(&[[1., 2.], [0.01, 0.], [5., 6.]]).into_dyn());
/// tensors.insert("fc1.bias".into(), arr1(&[0., 0.5, 0.]).into_dyn());
/// tensors.insert("fc2.weight".into(), arr2(&[[7., 8., 9.]]).into_dyn());
/// tensors.insert("fc2.bias".into(), arr1(&[1.]).into_dyn());
///
/// let pruned = CoupledPlan::new(&net, &plan)?.prune_all(&tensors)?;
/// assert_eq!(pruned["fc1.weight"], arr2(&[[1., 2.], [5., 6.]]).into_dyn());
/// assert_eq!(pruned["fc2.weight"], arr2(&[[7., 9.]]).into_dyn());
/// // The bias of the dropped channel, times the weight 8 that read it, is folded into the next bias.
/// assert_eq!(pruned["fc2.bias"], arr1(&[1. + 8. * 0.5]).into_dyn());
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct CoupledPlan<'a> {
    pub(super) graph: &'a Graph,
    /// For each declared group, which of its channels are kept.
    masks: Vec<Vec<bool>>,
    /// Whether the constants of dropped channels are folded into the layers that read them.
    folds: bool,
}

impl<'a> CoupledPlan<'a> {
    /// Joins a plan and a coupling. The plan must name the coupling's [groups](Coupling::groups), each once, in any order.
    ///
    /// # Errors
    ///
    /// [`Error::Coupling`] for a plan without names, for a plan of other groups, and for one that keeps different numbers
    /// of channels in the groups of a [group normalization](Coupling::group_norm); [`Error::ShapeMismatch`] for other
    /// numbers of channels; and the errors of [`Coupling::groups`].
    pub fn new(coupling: &'a Coupling, plan: &PrunePlan) -> Result<Self> {
        let graph = &coupling.graph;
        let groups = coupling.groups()?;
        let names: Vec<&String> = groups.iter().map(|group| &group.name).collect();
        if plan.names().len() != plan.layers() {
            return Err(refused(format!(
                "the plan does not name its layers: make it with Coupling::plan, or name the groups {names:?} with \
                 PrunePlan::named"
            )));
        }
        let places: Option<Vec<usize>> = names
            .iter()
            .map(|name| plan.names().iter().position(|other| other == *name))
            .collect();
        let places = places
            .filter(|places| places.len() == plan.layers())
            .ok_or_else(|| {
                refused(format!(
                    "the plan is for {:?}, but the network has the groups {names:?}",
                    plan.names()
                ))
            })?;
        let expected: Vec<usize> = groups.iter().map(|group| group.channels).collect();
        let found = places.iter().map(|&place| {
            let channels = plan.channels(place);
            channels.expect("names are found at places of the plan")
        });
        let found: Vec<usize> = found.collect();
        check::same_shape("the plan's list of channels", &expected, &found)?;
        let mask = |(group, slot): (usize, Option<usize>)| match slot {
            Some(slot) => plan
                .mask(places[slot])
                .expect("each group has a layer in the plan"),
            None => vec![true; graph.units(group)],
        };
        let masks = graph.slots()?.into_iter().enumerate().map(mask).collect();
        let coupled = Self {
            graph,
            masks,
            folds: true,
        };
        coupled.check_group_norms()?;
        Ok(coupled)
    }

    /// Sets whether the constants of dropped channels are folded into the layers that read them; true unless set.
    ///
    /// A dropped channel still gives a constant: with its filter (and the scale of its normalization) at zero, the bias or the
    /// shift β is left, after the declared activations. Folding adds what these constants add to the outputs of the next
    /// layers to the biases of those layers, or, without a bias, subtracts it from the running mean of the batch normalization
    /// that follows. A penalty on scales makes them small and leaves the shifts, so folding removes most of the error of
    /// pruning. It is exact except at the border of a convolution that pads with zeros, where the original network adds less
    /// than the whole constant, and where a [layer](Coupling::layer_norm) or [RMS](Coupling::rms_norm) normalization takes its
    /// statistics over constants.
    ///
    /// With `false`, dropped channels are taken to be zero: filter, bias, scale and shift are zero in the masked network. The
    /// pruned network equals the masked one where activations map zero to zero.
    ///
    /// ```
    /// use taper::ndarray::{arr1, arr2};
    /// use taper::prune::{CoupledPlan, Coupling, PrunePlan, Tensors};
    ///
    /// let mut net = Coupling::new();
    /// let x = net.input(1)?;
    /// let x = net.layer("fc1", x, 2)?;
    /// let x = net.layer("fc2", x, 1)?;
    /// net.output(x)?;
    /// let tensors: Tensors<f64> = [
    ///     ("fc1.weight", arr2(&[[1.0], [1e-3]]).into_dyn()),
    ///     ("fc1.bias", arr1(&[0.0, 2.0]).into_dyn()),
    ///     ("fc2.weight", arr2(&[[5.0, 3.0]]).into_dyn()),
    ///     ("fc2.bias", arr1(&[1.0]).into_dyn()),
    /// ]
    /// .map(|(name, tensor)| (name.to_owned(), tensor))
    /// .into();
    /// // Channel 1 of "fc1" is dropped. Its output is close to its bias of 2, whatever the input.
    /// let plan = PrunePlan::new(vec![(2, vec![0])])?.named(["fc1"])?;
    /// let plan = CoupledPlan::new(&net, &plan)?;
    /// assert_eq!(plan.prune_all(&tensors)?["fc2.bias"][0], 1.0 + 3.0 * 2.0);
    /// assert_eq!(plan.fold_constants(false).prune_all(&tensors)?["fc2.bias"][0], 1.0);
    /// # Ok::<(), taper::Error>(())
    /// ```
    #[must_use]
    pub fn fold_constants(mut self, fold: bool) -> Self {
        self.folds = fold;
        self
    }

    /// Returns the tensor called `name` without the entries of dropped channels.
    ///
    /// Constants are not folded, as that takes several tensors.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTensor`] for a name that the coupling does not have, [`Error::ChannelAxis`] for an axis of another
    /// length than declared, and [`Error::Overflow`] for a scale of an [RMS normalization](Coupling::rms_norm) that leaves
    /// the range of the type.
    pub fn prune<F: Float>(&self, name: &str, tensor: ArrayViewD<'_, F>) -> Result<ArrayD<F>> {
        self.check_known(name)?;
        self.prune_bound(name, tensor)
    }

    /// Returns the tensor called `name` in its original shape, with zeros where it makes dropped channels. Entries that
    /// read them stay.
    ///
    /// # Errors
    ///
    /// As [`prune`](Self::prune).
    pub fn mask<F: Float>(&self, name: &str, tensor: ArrayViewD<'_, F>) -> Result<ArrayD<F>> {
        self.check_known(name)?;
        self.mask_bound(name, tensor)
    }

    /// Returns all tensors of the small network. Tensors that the coupling does not have stay as they are.
    ///
    /// # Errors
    ///
    /// As [`prune`](Self::prune), and [`Error::UnknownTensor`] for a missing tensor. Where constants are
    /// [folded](Self::fold_constants) also
    /// [`Error::Coupling`] for constants that cannot be folded (a layer without a bias or a batch normalization of its
    /// own, a [transposed convolution](Coupling::transposed), a normalization without a scale), and [`Error::NonFinite`]
    /// for constants that are not finite.
    pub fn prune_all<F: Float>(&self, tensors: &Tensors<F>) -> Result<Tensors<F>> {
        self.graph.check_tensors(tensors)?;
        let folded = if self.folds {
            fold::folded(self.graph, tensors, |segments| self.entry_mask(segments))?
        } else {
            Tensors::new()
        };
        let pruned = tensors.iter().map(|(name, tensor)| {
            let tensor = folded.get(name).unwrap_or(tensor);
            Ok((name.clone(), self.prune_bound(name, tensor.view())?))
        });
        pruned.collect()
    }

    /// Returns all tensors of the masked network, which has the original size and computes what the pruned one computes.
    ///
    /// # Errors
    ///
    /// As [`mask`](Self::mask), and [`Error::UnknownTensor`] for a missing tensor.
    pub fn mask_all<F: Float>(&self, tensors: &Tensors<F>) -> Result<Tensors<F>> {
        self.graph.check_tensors(tensors)?;
        let masked = tensors.iter().map(|(name, tensor)| {
            let masked = self.mask_bound(name, tensor.view())?;
            Ok((name.clone(), masked))
        });
        masked.collect()
    }

    fn prune_bound<F: Float>(&self, name: &str, tensor: ArrayViewD<'_, F>) -> Result<ArrayD<F>> {
        let mut pruned = None;
        for binding in self.bindings(name) {
            self.graph.check_axis(binding, tensor.shape())?;
            let kept = self.kept_entries(&binding.segments);
            let from = pruned
                .as_ref()
                .map_or_else(|| tensor.view(), |array: &ArrayD<F>| array.view());
            let mut selected = from.select(Axis(binding.axis), &kept);
            if binding.role == MaskRole::RmsScale {
                let all = tensor.len_of(Axis(binding.axis));
                rescale(&mut selected, (all as f64 / kept.len() as f64).sqrt())?;
            }
            pruned = Some(selected);
        }
        Ok(pruned.unwrap_or_else(|| tensor.to_owned()))
    }

    fn mask_bound<F: Float>(&self, name: &str, tensor: ArrayViewD<'_, F>) -> Result<ArrayD<F>> {
        let mut masked = tensor.to_owned();
        for binding in self.bindings(name) {
            self.graph.check_axis(binding, tensor.shape())?;
            let zero = match binding.role {
                MaskRole::Source | MaskRole::RmsScale => true,
                MaskRole::Shift => !self.folds,
                MaskRole::Follower => false,
            };
            if zero {
                let kept = self.entry_mask(&binding.segments);
                for (mut entry, kept) in masked.axis_iter_mut(Axis(binding.axis)).zip(kept) {
                    if !kept {
                        entry.fill(F::zero());
                    }
                }
            }
        }
        Ok(masked)
    }

    fn bindings(&self, name: &str) -> impl Iterator<Item = &Binding> {
        let bindings = self.graph.bindings.iter();
        bindings.filter(move |binding| binding.tensor == name)
    }

    fn check_known(&self, name: &str) -> Result<()> {
        match self.bindings(name).next() {
            Some(_) => Ok(()),
            None => Err(Error::UnknownTensor {
                name: name.to_owned(),
            }),
        }
    }

    /// Returns for each entry of an axis whether its channel is kept.
    fn entry_mask(&self, segments: &[Segment]) -> Vec<bool> {
        let mut mask = Vec::new();
        for segment in segments {
            for &kept in &self.masks[segment.group] {
                mask.extend(std::iter::repeat_n(kept, segment.block));
            }
        }
        mask
    }

    pub(super) fn kept_entries(&self, segments: &[Segment]) -> Vec<usize> {
        let mask = self.entry_mask(segments);
        let kept = mask.iter().enumerate().filter(|(_, kept)| **kept);
        kept.map(|(index, _)| index).collect()
    }

    /// Errs where a group normalization is left with groups of different sizes.
    fn check_group_norms(&self) -> Result<()> {
        for node in &self.graph.nodes {
            let Origin::Norm {
                name,
                kind: NormKind::Group(groups),
                ..
            } = &node.origin
            else {
                continue;
            };
            let mask = self.entry_mask(&node.segments);
            let counts: Vec<usize> = mask
                .chunks(mask.len() / groups)
                .map(|run| run.iter().filter(|kept| **kept).count())
                .collect();
            let mut left = counts.iter().filter(|count| **count > 0);
            if let Some(first) = left.next()
                && left.any(|count| count != first)
            {
                return Err(refused(format!(
                    "the plan keeps {counts:?} channels in the groups of {name}: each group must keep the same number or \
                     none (declare their channels in {groups} blocks to drop whole groups)"
                )));
            }
        }
        Ok(())
    }
}

/// Multiplies the scale of an RMS normalization by `factor`.
fn rescale<F: Float>(scale: &mut ArrayD<F>, factor: f64) -> Result<()> {
    for value in scale {
        let scaled = F::from_f64_lossy(value.as_f64() * factor);
        if value.is_finite() && !scaled.is_finite() {
            return Err(Error::Overflow {
                what: "the scale of an RMS normalization",
            });
        }
        *value = scaled;
    }
    Ok(())
}
