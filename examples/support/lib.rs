//! Shared code of the experiments: data, training, inference on plain arrays, tables and plots.
//!
//! - [`data`]: readers of the published image sets;
//! - [`network`]: training with burn, and the trained network as plain arrays, whose weights can be replaced by compressed ones;
//! - [`low_bit`]: training with weights and activations of few bits;
//! - [`args`]: the flags of all experiments; [`table`], [`plot`], [`bars`], [`json`], [`report`], [`progress`]: their output;
//! - [`random`]: random numbers; [`timing`]: the time of a call;
//! - [`tuned`]: the output of the programs that train a framework's network in compressed form.
//!
//! This code is not part of the library; it shows a program that uses it.

pub mod args;
pub mod bars;
pub mod data;
pub mod json;
pub mod low_bit;
pub mod network;
pub mod plot;
pub mod progress;
pub mod random;
pub mod report;
pub mod table;
pub mod timing;
pub mod tuned;

/// Makes mimalloc the allocator of the program.
///
/// Training allocates and frees many large arrays. The system's allocator maps and unmaps most of them each time, which can halve the
/// speed.
#[macro_export]
macro_rules! fast_allocator {
    () => {
        #[global_allocator]
        static ALLOCATOR: $crate::mimalloc::MiMalloc = $crate::mimalloc::MiMalloc;
    };
}

#[doc(hidden)]
pub use mimalloc;
