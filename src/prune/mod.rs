//! Pruning: choosing the channels and weights that may go, and taking them out of every tensor that
//! carries them.
//!
//! `plan` holds the choice.

mod plan;

pub use plan::PrunePlan;
