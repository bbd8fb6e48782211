//! Pruning: choosing the channels and weights that may go, and taking them out of every tensor that
//! carries them.
//!
//! A mask of zeros leaves a network as large and as slow as it was. Here pruning goes all the way:
//!
//! 1. declare once which axes of which tensors carry the same channels ([`Coupling`]);
//! 2. score the channels ([`Coupling::scores`], or numbers of your own);
//! 3. choose: [`ChannelSlimming`] for channels, [`LayerPruner`] for whole layers, both a
//!    [`Pruner`](crate::Pruner) that gives a [`PrunePlan`];
//! 4. apply the plan to the tensors ([`CoupledPlan`]): each shrinks along every axis that carries a dropped
//!    channel, and what dropped channels still gave out is folded into what read it;
//! 5. see what it came to ([`CoupledPlan::report`]), fine-tune, and go on ([`IterativeSchedule`]).
//!
//! Single weights go another way: [`MagnitudePruner`] leaves the largest in a [`SparseMatrix`], which is smaller and
//! multiplies as it is; the layers around it stay as they are.
//!
//! `tests/pruned_networks.rs` prunes a plain network, a residual one through its additions, and one with branches,
//! and holds what each then computes against the masked network of the original size.
//!
//! Rooms: `plan` holds the choice, `keep` makes it by rank; `slimming`, `layer` and `magnitude`
//! are the pruners, `sparse` is what the last leaves; `score` has what channels are ranked by; `coupling` is the declaration, kept in `graph`, with the `names` of tensors; `coupled` applies a plan by
//! it, `fold` carries constants over, `report` counts; `schedule` spreads pruning over rounds; `trainable`
//! is the gradient of the weights that were kept.
//!
//! ```
//! use taper::Pruner;
//! use taper::ndarray::{arr1, arr2};
//! use taper::prune::{ChannelScore, ChannelSlimming, CoupledPlan, Coupling, Keep, Norm, Tensors};
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
//! let scores = net.scores(&tensors, ChannelScore::Filter(Norm::L1))?;
//! let plan = ChannelSlimming::new(Keep::Count(2)).plan(&[scores[0].view()])?;
//! let small = CoupledPlan::new(&net, &plan)?.prune_all(&tensors)?;
//! assert_eq!((small["fc1.weight"].shape(), small["fc2.weight"].shape()), (&[2, 2][..], &[1, 2][..]));
//! # Ok::<(), taper::Error>(())
//! ```

mod compensate;
mod coupled;
mod coupling;
mod fold;
mod graph;
mod keep;
mod layer;
mod magnitude;
mod names;
mod plan;
mod report;
mod schedule;
mod score;
mod slimming;
mod sparse;
mod trainable;

pub use coupled::{CoupledPlan, Dropped, Tensors};
pub use coupling::{ChannelGroup, Channels, Coupling};
pub use keep::{Keep, Scope};
pub use layer::LayerPruner;
pub use magnitude::{MagnitudePruner, Sparsity};
pub use names::TensorNames;
pub use plan::PrunePlan;
pub use report::{Change, LayerReport, PruneReport};
pub use schedule::{Decay, IterativeSchedule};
pub use score::{ChannelScore, Norm, filter_norms};
pub use slimming::{ChannelSlimming, SlimmingPenalty};
pub use sparse::{SparseMatrix, SparsePositions};
