//! A plan applied to the tensors of a network.

use std::collections::BTreeMap;

use ndarray::{ArrayD, ArrayViewD, Axis};

use super::graph::{Binding, MaskRole, Segment};
use super::{Coupling, PrunePlan, fold};
use crate::{Error, Float, Result, check};

/// The tensors of a network by name.
///
/// ```
/// use ndarray::{Array1, Array4};
/// use taper::prune::Tensors;
///
/// let mut tensors: Tensors<f32> = Tensors::new();
/// tensors.insert("conv1.weight".into(), Array4::zeros((16, 3, 3, 3)).into_dyn());
/// tensors.insert("conv1.bias".into(), Array1::zeros(16).into_dyn());
/// assert_eq!(tensors["conv1.weight"].shape(), [16, 3, 3, 3]);
/// ```
pub type Tensors<F> = BTreeMap<String, ArrayD<F>>;

/// What dropped channels are taken for: what the pruned network computes is what the original would, did its
/// dropped channels give out this.
///
/// ```
/// use ndarray::{arr1, arr2};
/// use taper::prune::{CoupledPlan, Coupling, Dropped, PrunePlan, Tensors};
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
/// // Channel 1 of "fc1" goes; it gives out 2, nearly whatever comes in.
/// let plan = PrunePlan::new(vec![(2, vec![0])])?;
/// let bias = |dropped| {
///     let pruned = CoupledPlan::new(&net, &plan)?.dropped(dropped).prune_all(&tensors)?;
///     Ok::<_, taper::Error>(pruned["fc2.bias"][0])
/// };
/// assert_eq!(bias(Dropped::Zero)?, 1.0);
/// assert_eq!(bias(Dropped::Constant)?, 1.0 + 3.0 * 2.0);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Dropped {
    /// Zero, everywhere: scale, shift, filter and bias are zero in the masked network.
    ///
    /// The pruned network equals the masked one where activations map zero to zero.
    Zero,
    /// The constant that is left when their filter (and the scale of their batch normalization) is zero: the
    /// bias or the shift β, through the declared activations.
    ///
    /// What these constants add to the outputs of the next layers is folded into the bias of those, or, where
    /// they have none, subtracted from the running mean of the batch normalization that follows. Penalized scales
    /// go to zero and shifts do not, so that this removes most of what pruning costs. It is exact except at the
    /// border of a convolution that pads with zeros, where the original adds less than the whole constant.
    #[default]
    Constant,
}

/// A [`PrunePlan`] together with the [`Coupling`] that says which tensors it is for.
///
/// [`prune_all`](Self::prune_all) gives the small network, [`mask_all`](Self::mask_all) the network of the
/// original size that computes the same function; [`prune`](Self::prune) and [`mask`](Self::mask) do the same to
/// one tensor, by its name.
///
/// ```
/// use ndarray::{ArrayD, arr1, arr2};
/// use taper::prune::{CoupledPlan, Coupling, Dropped, PrunePlan, Tensors};
///
/// // Two linear layers with a ReLU between them; the hidden channel 1 is dropped.
/// let mut net = Coupling::new();
/// let x = net.input(2)?;
/// let x = net.layer("fc1", x, 3)?;
/// let x = net.relu(x)?;
/// let x = net.layer("fc2", x, 1)?;
/// net.output(x)?;
/// let plan = PrunePlan::new(vec![(3, vec![0, 2])])?;
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
/// // The dropped channel's bias of 0.5 lives on in the bias of what read it, with its weight of 8.
/// assert_eq!(pruned["fc2.bias"], arr1(&[1. + 8. * 0.5]).into_dyn());
///
/// let pruned = CoupledPlan::new(&net, &plan)?.dropped(Dropped::Zero).prune_all(&tensors)?;
/// assert_eq!(pruned["fc2.bias"], arr1(&[1.]).into_dyn());
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct CoupledPlan<'a> {
    pub(super) coupling: &'a Coupling,
    plan: &'a PrunePlan,
    slots: Vec<Option<usize>>,
    dropped: Dropped,
}

impl<'a> CoupledPlan<'a> {
    /// A plan with one layer for each of the coupling's [groups](Coupling::groups).
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`] where the plan is for other groups or other numbers of channels, and what
    /// [`Coupling::groups`] finds wrong.
    pub fn new(coupling: &'a Coupling, plan: &'a PrunePlan) -> Result<Self> {
        let expected: Vec<usize> = coupling
            .groups()?
            .iter()
            .map(|group| group.channels())
            .collect();
        let found: Vec<usize> = (0..plan.layers())
            .filter_map(|layer| plan.channels(layer))
            .collect();
        check::same_shape("the plan's list of channels", &expected, &found)?;
        Ok(Self {
            coupling,
            plan,
            slots: coupling.slots()?,
            dropped: Dropped::default(),
        })
    }

    /// What dropped channels are taken for.
    #[must_use]
    pub fn dropped(mut self, dropped: Dropped) -> Self {
        self.dropped = dropped;
        self
    }

    /// The tensor called `name` without the entries of dropped channels.
    ///
    /// Constants are not folded here: that takes more than one tensor.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTensor`] for a name that the coupling does not know, [`Error::ChannelAxis`] for a tensor
    /// with an axis of another length than declared.
    pub fn prune<F: Float>(&self, name: &str, tensor: ArrayViewD<'_, F>) -> Result<ArrayD<F>> {
        let mut pruned = None;
        for binding in self.bindings(name)? {
            self.check_axis(binding, &tensor)?;
            let kept = self.kept_entries(&binding.segments);
            let from = pruned
                .as_ref()
                .map_or_else(|| tensor.view(), |array: &ArrayD<F>| array.view());
            pruned = Some(from.select(Axis(binding.axis), &kept));
        }
        Ok(pruned.unwrap_or_else(|| tensor.to_owned()))
    }

    /// The tensor called `name` in its original shape, with zeros where dropped channels are made.
    ///
    /// What only reads the channels stays as it is.
    ///
    /// # Errors
    ///
    /// As [`prune`](Self::prune).
    pub fn mask<F: Float>(&self, name: &str, tensor: ArrayViewD<'_, F>) -> Result<ArrayD<F>> {
        let mut masked = tensor.to_owned();
        for binding in self.bindings(name)? {
            self.check_axis(binding, &tensor)?;
            let zero = match binding.role {
                MaskRole::Source => true,
                MaskRole::Shift => self.dropped == Dropped::Zero,
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

    /// All tensors of the small network. Those that the coupling does not know stay as they are.
    ///
    /// # Errors
    ///
    /// As [`prune`](Self::prune); [`Error::UnknownTensor`] where a tensor that the network must have is not
    /// there. With [`Dropped::Constant`] also [`Error::Coupling`] where a layer that reads a constant has neither
    /// a bias nor a batch normalization of its own to fold it into, and [`Error::NonFinite`] where what is to be
    /// folded is not finite.
    pub fn prune_all<F: Float>(&self, tensors: &Tensors<F>) -> Result<Tensors<F>> {
        self.check_all(tensors)?;
        let folded = match self.dropped {
            Dropped::Zero => Tensors::new(),
            Dropped::Constant => fold::folded(self, tensors)?,
        };
        self.each(tensors, |name, tensor| {
            let tensor = folded.get(name).unwrap_or(tensor);
            self.prune(name, tensor.view())
        })
    }

    /// All tensors of the masked network: of the original size, computing what the pruned one computes.
    ///
    /// # Errors
    ///
    /// As [`prune`](Self::prune); [`Error::UnknownTensor`] where a tensor that the network must have is not there.
    pub fn mask_all<F: Float>(&self, tensors: &Tensors<F>) -> Result<Tensors<F>> {
        self.check_all(tensors)?;
        self.each(tensors, |name, tensor| self.mask(name, tensor.view()))
    }

    fn each<F: Float>(
        &self,
        tensors: &Tensors<F>,
        f: impl Fn(&str, &ArrayD<F>) -> Result<ArrayD<F>>,
    ) -> Result<Tensors<F>> {
        tensors
            .iter()
            .map(|(name, tensor)| {
                let result = match f(name, tensor) {
                    Err(Error::UnknownTensor { .. }) => tensor.clone(),
                    other => other?,
                };
                Ok((name.clone(), result))
            })
            .collect()
    }

    pub(super) fn check_all<F: Float>(&self, tensors: &Tensors<F>) -> Result<()> {
        check_all(self.coupling, tensors)
    }

    fn bindings(&self, name: &str) -> Result<impl Iterator<Item = &Binding>> {
        let mut bindings = self
            .coupling
            .bindings
            .iter()
            .filter(move |binding| binding.tensor == name)
            .peekable();
        if bindings.peek().is_none() {
            return Err(Error::UnknownTensor {
                name: name.to_owned(),
            });
        }
        Ok(bindings)
    }

    fn check_axis<F: Float>(&self, binding: &Binding, tensor: &ArrayViewD<'_, F>) -> Result<()> {
        check_axis(self.coupling, binding, tensor.shape())
    }

    /// For each entry of an axis whether its channel is kept.
    pub(super) fn entry_mask(&self, segments: &[Segment]) -> Vec<bool> {
        let mut mask = Vec::new();
        for segment in segments {
            let slot = self.slots.get(segment.group).copied().flatten();
            let kept = slot
                .and_then(|slot| self.plan.mask(slot))
                .unwrap_or_else(|| vec![true; self.coupling.units(segment.group)]);
            for kept in kept {
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
}

/// Errs where a tensor is missing or has an axis that does not fit.
pub(super) fn check_all<F: Float>(coupling: &Coupling, tensors: &Tensors<F>) -> Result<()> {
    for binding in &coupling.bindings {
        match tensors.get(&binding.tensor) {
            Some(tensor) => check_axis(coupling, binding, tensor.shape())?,
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

fn check_axis(coupling: &Coupling, binding: &Binding, shape: &[usize]) -> Result<()> {
    let expected = coupling.length(&binding.segments);
    if shape.get(binding.axis) != Some(&expected) {
        return Err(Error::ChannelAxis {
            tensor: binding.tensor.clone(),
            axis: binding.axis,
            expected,
            channels: coupling.describe(&binding.segments),
            shape: shape.to_vec(),
        });
    }
    Ok(())
}
