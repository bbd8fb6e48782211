//! The epochs of a training with few bits.

use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressStyle};
use ndarray::{Array2, Axis};
use taper::Seed;

use super::mlp::{Activation, LowBitMlp};
use super::parameter::Weights;
use crate::random;

/// How a network is trained.
#[derive(Debug, Clone)]
pub struct LowBitTraining {
    /// Its name on the progress bar.
    pub name: String,
    /// Inputs, hidden widths, classes.
    pub widths: Vec<usize>,
    /// What the hidden weights are.
    pub weights: Weights,
    /// What the hidden activations are.
    pub activation: Activation,
    /// Passes over the images.
    pub epochs: usize,
    /// Images a step.
    pub batch: usize,
    /// Learning rate of the first and of the last step; it falls exponentially between them.
    pub rates: [f32; 2],
    /// Seed of the weights and of the order of the images.
    pub seed: Seed,
    /// Where all numbers are kept after each epoch, and taken from.
    pub checkpoint: Option<PathBuf>,
}

impl LowBitTraining {
    /// Trains on grey levels; `evaluate` sees the network after each epoch, and its figures are returned.
    pub fn run<T>(
        &self,
        images: &Array2<u8>,
        labels: &[usize],
        mut evaluate: impl FnMut(&LowBitMlp) -> anyhow::Result<T>,
    ) -> anyhow::Result<(LowBitMlp, Vec<T>)>
    where
        T: std::fmt::Display,
    {
        let mut network = LowBitMlp::new(&self.widths, self.weights, self.activation, self.seed)?;
        let done = match &self.checkpoint {
            Some(path) => network.load(path)?,
            None => 0,
        };
        let steps = labels.len() / self.batch.max(1);
        let style = "{prefix:<14} {bar:30} {pos:>6}/{len} {elapsed:>4} {msg}";
        let bar = ProgressBar::new((steps * self.epochs) as u64)
            .with_style(ProgressStyle::with_template(style)?)
            .with_prefix(self.name.clone());
        bar.set_position((steps * done) as u64);
        let [first, last] = self.rates;
        let mut figures = Vec::new();
        for epoch in done..self.epochs {
            let order = random::permutation(self.seed.derive(1000 + epoch as u64), labels.len());
            for (step, rows) in order.chunks_exact(self.batch).enumerate() {
                let progress = (epoch * steps + step) as f32 / (self.epochs * steps) as f32;
                let rate = first * (last / first).powf(progress);
                let batch = images.select(Axis(0), rows);
                let labels: Vec<usize> = rows.iter().map(|&i| labels[i]).collect();
                let (batch, _) = batch.into_raw_vec_and_offset();
                network.train(&batch, &labels, rate)?;
                bar.inc(1);
            }
            let figure = evaluate(&network)?;
            bar.set_message(figure.to_string());
            figures.push(figure);
            if let Some(path) = &self.checkpoint {
                network.save(path, epoch + 1)?;
            }
        }
        bar.finish();
        Ok((network, figures))
    }
}
