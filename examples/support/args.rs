//! The flags of all experiments.

use std::path::PathBuf;

use taper::Seed;

/// Flags to flatten into the parser of an experiment with `#[command(flatten)]`.
#[derive(Debug, Clone, clap::Args)]
pub struct Common {
    /// Seed of the initialization, the order of the images and every compressor.
    #[arg(long, default_value_t = 7, value_name = "N")]
    pub seed: u64,

    /// Passes over the training images.
    #[arg(long, value_name = "N")]
    pub epochs: Option<usize>,

    /// A run of a few seconds on little data, to check that everything works.
    #[arg(long)]
    pub quick: bool,

    /// Writes all figures to this file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Writes the output of the program to this file, as a page of the documentation.
    #[arg(long, value_name = "FILE.md")]
    pub markdown: Option<PathBuf>,

    /// Draws the curves into this SVG file.
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,
}

impl Common {
    /// The seed for the part of the experiment called `part`.
    pub fn seed(&self, part: &str) -> Seed {
        Seed::from(self.seed).derive_name(part)
    }

    /// The epochs of the flag; without it `quick` in a quick run and `normal` in any other.
    pub fn epochs_or(&self, normal: usize, quick: usize) -> usize {
        self.epochs
            .unwrap_or(if self.quick { quick } else { normal })
    }
}
