//! What the experiments share: data, training, inference over plain arrays, tables and plots.
//!
//! - [`data`]: the image sets, read from the files in which they were published;
//! - [`network`]: training with burn, and the trained network as plain arrays whose weights may be
//!   replaced by compressed ones;
//! - [`low_bit`]: training with weights and activations of one bit and more;
//! - [`args`], [`table`], [`plot`], [`bars`], [`json`], [`report`], [`progress`]: the flags that all experiments know,
//!   and the forms in which they report;
//! - [`timing`]: how long a call takes;
//! - [`tuned`]: what the programs say that train a framework's network in compressed form.
//!
//! Nothing here is part of the library: it shows how a program around the library may look.

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
/// Training allocates and frees large arrays all the time; with the system's allocator most of them are
/// mapped and unmapped each time, which costs up to half of the speed.
#[macro_export]
macro_rules! fast_allocator {
    () => {
        #[global_allocator]
        static ALLOCATOR: $crate::mimalloc::MiMalloc = $crate::mimalloc::MiMalloc;
    };
}

#[doc(hidden)]
pub use mimalloc;
