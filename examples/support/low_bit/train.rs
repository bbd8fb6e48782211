//! The epochs of a training with few bits.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;
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
    /// The kind of the hidden weights.
    pub weights: Weights,
    /// The kind of the hidden activations.
    pub activation: Activation,
    /// Passes over the images.
    pub epochs: usize,
    /// Images per step.
    pub batch: usize,
    /// Learning rate of the first and of the last step; it falls exponentially between them.
    pub rates: [f32; 2],
    /// Seed of the weights and of the order of the images.
    pub seed: Seed,
    /// The file that keeps the state after each epoch; a training continues from it.
    pub checkpoint: Option<PathBuf>,
}

/// The result of a training.
#[derive(Debug)]
pub struct Trained {
    /// The network after the last epoch.
    pub network: LowBitMlp,
    /// The figure after each epoch; NaN if a checkpoint does not have it.
    pub curve: Vec<f64>,
    /// The number of epochs that came from a checkpoint.
    pub resumed: usize,
}

impl LowBitTraining {
    /// Trains on grey levels. `evaluate` measures the network after each epoch; the result holds its figures.
    pub fn run(
        &self,
        images: &Array2<u8>,
        labels: &[usize],
        mut evaluate: impl FnMut(&LowBitMlp) -> anyhow::Result<f64>,
    ) -> anyhow::Result<Trained> {
        let mut network = LowBitMlp::new(&self.widths, self.weights, self.activation, self.seed)?;
        let mut curve = match &self.checkpoint {
            Some(path) => network.load(path)?,
            None => Vec::new(),
        };
        let resumed = curve.len();
        if let Some(folder) = self.checkpoint.as_deref().and_then(std::path::Path::parent) {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot create the folder {}", folder.display()))?;
        }
        let steps = labels.len() / self.batch.max(1);
        let style = "{prefix:<14} {bar:30} {pos:>6}/{len} {elapsed:>4} {msg}";
        let bar = ProgressBar::new((steps * self.epochs) as u64)
            .with_style(ProgressStyle::with_template(style)?)
            .with_prefix(self.name.clone());
        bar.set_position((steps * resumed) as u64);
        let [first, last] = self.rates;
        for epoch in resumed..self.epochs {
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
            bar.set_message(format!("{figure:.2}"));
            curve.push(figure);
            if let Some(path) = &self.checkpoint {
                network.save(path, &curve)?;
            }
        }
        bar.finish();
        if let Some(last) = curve.last_mut().filter(|last| last.is_nan()) {
            *last = evaluate(&network)?;
        }
        Ok(Trained {
            network,
            curve,
            resumed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn training(epochs: usize, checkpoint: Option<PathBuf>) -> LowBitTraining {
        LowBitTraining {
            name: "test".to_owned(),
            widths: vec![6, 9, 8, 3],
            weights: Weights::Binary,
            activation: Activation::Sign,
            epochs,
            batch: 10,
            rates: [0.01, 0.001],
            seed: Seed::from(3),
            checkpoint,
        }
    }

    fn logits(network: &LowBitMlp, images: &Array2<u8>) -> Array2<f32> {
        let packed = network.pack().unwrap();
        packed
            .forward_bytes(images.view(), LowBitMlp::UNIT)
            .unwrap()
    }

    #[test]
    fn a_training_that_was_cut_short_ends_as_one_that_was_not() {
        let images = Array2::from_shape_fn((60, 6), |(i, j)| ((i * 37 + j * 91) % 256) as u8);
        let labels: Vec<usize> = (0..60).map(|i| i * 7 % 3).collect();
        let path = std::env::temp_dir()
            .join(format!("taper-low-bit-{}", std::process::id()))
            .join("network.checkpoint");
        let mut epoch = 0.0;
        let mut count = |_: &LowBitMlp| {
            epoch += 1.0;
            Ok(epoch)
        };
        let whole = training(3, None).run(&images, &labels, &mut count).unwrap();
        // Stopped in its second epoch: the file holds the first.
        let cut = training(3, Some(path.clone())).run(&images, &labels, |network| {
            let first = logits(network, &images);
            anyhow::ensure!(!path.exists(), "{first}");
            Ok(10.0)
        });
        assert!(cut.is_err());
        let rest = training(3, Some(path.clone()))
            .run(&images, &labels, |_| Ok(20.0))
            .unwrap();
        assert_eq!((rest.resumed, rest.curve), (1, vec![10.0, 20.0, 20.0]));
        assert_eq!(
            logits(&rest.network, &images),
            logits(&whole.network, &images)
        );
        // A file without the figures after its arrays is valid too; then only the last figure is known.
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 24]).unwrap();
        let again = training(3, Some(path.clone()))
            .run(&images, &labels, |_| Ok(30.0))
            .unwrap();
        assert!(again.curve[..2].iter().all(|x| x.is_nan()) && again.curve[2] == 30.0);
        for end in [0, 8, 100, bytes.len() - 25, bytes.len() - 8] {
            fs::write(&path, &bytes[..end]).unwrap();
            let cut = training(3, Some(path.clone())).run(&images, &labels, |_| Ok(0.0));
            assert!(cut.is_err(), "{end} bytes");
        }
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }
}
