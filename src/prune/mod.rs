//! Pruning: choosing channels and weights that a network can do without, and removing them from its tensors.
//!
//! A mask of zeros leaves a network as large and as slow as it was. Here the tensors shrink:
//!
//! 1. declare once which layers carry the same channels ([`Coupling`]);
//! 2. score the channels ([`Coupling::scores`], or numbers of your own);
//! 3. choose ([`Coupling::plan`]) with [`ChannelSlimming`] for channels or [`LayerPruner`] for whole layers;
//! 4. apply the [`PrunePlan`] to the tensors ([`CoupledPlan`]): each shrinks along every axis that carries a dropped
//!    channel, and the constants that dropped channels still give are folded into the layers that read them;
//! 5. count what is left ([`CoupledPlan::report`]), fine-tune, and repeat ([`IterativeSchedule`]).
//!
//! [`MagnitudePruner`] removes single weights instead. It leaves a [`SparseMatrix`], which is smaller and multiplies as it
//! is; the layers around it do not change.
//!
//! ```
//! use taper::ndarray::{arr1, arr2};
//! use taper::prune::{ChannelScore, ChannelSlimming, CoupledPlan, Coupling, Keep, Tensors};
//!
//! let mut net = Coupling::new();
//! let x = net.input(2)?;
//! let x = net.layer("fc1", x, 3)?;
//! let x = net.relu(x)?;
//! let x = net.layer("fc2", x, 1)?;
//! net.output(x)?;
//! let tensors: Tensors<f32> = [
//!     ("fc1.weight", arr2(&[[1.0, 2.0], [0.1, 0.0], [3.0, 1.0]]).into_dyn()),
//!     ("fc1.bias", arr1(&[0.0, 0.0, 0.0]).into_dyn()),
//!     ("fc2.weight", arr2(&[[1.0, 1.0, 1.0]]).into_dyn()),
//!     ("fc2.bias", arr1(&[0.0]).into_dyn()),
//! ]
//! .map(|(name, tensor)| (name.to_owned(), tensor))
//! .into();
//! let scores = net.scores(&tensors, ChannelScore::FilterL1)?;
//! let plan = net.plan(&ChannelSlimming::new(Keep::Count(2)), &scores)?;
//! let small = CoupledPlan::new(&net, &plan)?.prune_all(&tensors)?;
//! assert_eq!((small["fc1.weight"].shape(), small["fc2.weight"].shape()), (&[2, 2][..], &[1, 2][..]));
//! # Ok::<(), taper::Error>(())
//! ```

// Arrows: tensors <- graph <- { coupling <- score, fold } <- coupled <- report, and
// plan <- keep <- { slimming, layer, magnitude -> compensate, sparse }.

mod compensate;
mod coupled;
mod coupling;
mod fold;
mod graph;
mod keep;
mod layer;
mod magnitude;
mod plan;
pub(crate) mod pruner;
mod report;
mod schedule;
mod score;
mod slimming;
mod sparse;
mod tensors;
mod trainable;

pub use coupled::CoupledPlan;
pub use coupling::{ChannelGroup, Channels, Coupling};
pub use keep::{Keep, Scope};
pub use layer::LayerPruner;
pub use magnitude::{MagnitudePruner, Sparsity};
pub use plan::PrunePlan;
pub use report::{Change, LayerReport, PruneReport};
pub use schedule::{Decay, IterativeSchedule};
pub use score::ChannelScore;
pub use slimming::ChannelSlimming;
pub use sparse::SparseMatrix;
#[cfg(feature = "model")]
pub(crate) use sparse::SparsePositions;
pub use tensors::{TensorNames, Tensors};
