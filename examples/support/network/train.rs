//! The training loop.

use std::fmt::Write as _;

use anyhow::ensure;
use burn::module::Module;
use burn::optim::decay::WeightDecayConfig;
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::{Device, Int, Tensor, TensorData};
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};
use taper::Seed;

use super::augment::Shift;
use super::checkpoint::Checkpoint;
use super::schedule::Schedule;
use crate::data::Dataset;
use crate::{progress, random};

/// The device on which gradients are recorded.
pub fn training_device() -> Device {
    Device::flex().autodiff()
}

/// Some images of an epoch, on the training device.
#[derive(Debug)]
pub struct Batch {
    /// Of shape (batch, values of an image).
    pub images: Tensor<2>,
    /// Of shape (batch).
    pub labels: Tensor<1, Int>,
    /// The rows of the training set.
    pub rows: Vec<usize>,
    /// The number of the [view](Shift::views) of each image; empty without shifts.
    pub views: Vec<usize>,
}

/// The objective of a training.
pub trait Objective<M> {
    /// The loss of a batch, as a tensor of one value.
    fn loss(&self, model: &M, batch: &Batch) -> Tensor<1>;

    /// The gradients for the optimizer. An implementation can add those of a penalty that is not part of the loss.
    fn gradients(&self, _model: &M, gradients: GradientsParams) -> GradientsParams {
        gradients
    }

    /// The model after a step. An implementation can clip latent weights.
    fn after_step(&self, model: M) -> M {
        model
    }
}

/// The figures of an epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochReport {
    /// The number of the epoch, from 1.
    pub epoch: usize,
    /// The mean loss of its batches, each measured before its step.
    pub loss: f64,
    /// Accuracy in percent on images outside of the training set, if it was measured.
    pub accuracy: Option<f64>,
}

/// Training with Adam (D. Kingma and J. Ba, 2014, arXiv:1412.6980).
#[derive(Debug, Clone, PartialEq)]
pub struct Training {
    /// Passes over the images.
    pub epochs: usize,
    /// Images per step. An incomplete batch at the end of an epoch is left out.
    pub batch: usize,
    /// The highest learning rate.
    pub rate: f64,
    /// The course of the learning rate.
    pub schedule: Schedule,
    /// The fraction of each parameter that is added to its gradient (weight decay); 0 for none.
    ///
    /// Weights without influence on the loss, for example those of pixels that are always background, then go to zero instead of
    /// keeping their random start.
    pub decay: f32,
    /// Determines the order of the images and their augmentation.
    pub seed: Seed,
    /// Shifts each image at random in each epoch.
    pub shift: Option<Shift>,
    /// Saves the training, and continues a saved one.
    pub checkpoint: Option<Checkpoint>,
    /// Shows a bar while it runs.
    pub progress: bool,
}

impl Default for Training {
    fn default() -> Self {
        Self {
            epochs: 10,
            batch: 100,
            rate: 2e-3,
            schedule: Schedule::Cosine { warmup: 0.1 },
            decay: 0.0,
            seed: Seed::from(7),
            shift: None,
            checkpoint: None,
            progress: true,
        }
    }
}

impl Training {
    /// Trains `model`. After each epoch `evaluate` can measure the accuracy of the model of [`Module::valid`].
    ///
    /// # Errors
    ///
    /// If there are fewer images than a batch needs, if the loss is no longer finite, or if a checkpoint cannot be written or
    /// read.
    pub fn run<M: Module>(
        &self,
        mut model: M,
        objective: &(impl Objective<M> + ?Sized),
        data: &Dataset,
        mut evaluate: impl FnMut(&M) -> anyhow::Result<Option<f64>>,
    ) -> anyhow::Result<(M, Vec<EpochReport>)> {
        let steps = data.len() / self.batch.max(1);
        ensure!(
            steps > 0 && self.batch > 0,
            "{} images are too few for batches of {}",
            data.len(),
            self.batch
        );
        // Adam's own ε is 1e-8; burn's default of 1e-5 slows down features with small gradients.
        let mut optimizer = AdamConfig::new()
            .with_epsilon(1e-8)
            .with_weight_decay((self.decay > 0.0).then_some(WeightDecayConfig {
                penalty: self.decay,
            }))
            .init();
        let mut reports = Vec::new();
        let fingerprint = self.fingerprint(data);
        if let Some(checkpoint) = &self.checkpoint {
            (model, optimizer, reports) = checkpoint.load(model, optimizer, &fingerprint)?;
        }

        let device = training_device();
        let bar = self.bar(steps, reports.len());
        let mut status = String::new();
        while reports.len() < self.epochs {
            let epoch = reports.len();
            let order = random::permutation(self.seed.derive(epoch as u64), data.len());
            let mut total = 0.0;
            for (step, rows) in order.chunks_exact(self.batch).enumerate() {
                let batch = self.gather(data, rows, epoch, &device);
                let loss = objective.loss(&model, &batch);
                let gradients = GradientsParams::from_grads(loss.backward(), &model);
                let gradients = objective.gradients(&model, gradients);
                let done = (epoch * steps + step) as f64 / (self.epochs * steps) as f64;
                let rate = self.rate * self.schedule.factor(done);
                model = objective.after_step(optimizer.step(rate, model, gradients));
                let value: f64 = loss.into_scalar();
                ensure!(
                    value.is_finite(),
                    "the loss became {value} in epoch {}, step {step}: is a learning rate of {} too high?",
                    epoch + 1,
                    self.rate
                );
                total += value;
                bar.inc(1);
                if step % 20 == 0 {
                    bar.set_message(format!("loss {:.4}{status}", total / (step + 1) as f64));
                }
            }
            let accuracy = evaluate(&model.valid())?;
            status.clear();
            if let Some(accuracy) = accuracy {
                let _ = write!(status, ", held-out accuracy {accuracy:.2} %");
            }
            reports.push(EpochReport {
                epoch: epoch + 1,
                loss: total / steps as f64,
                accuracy,
            });
            if let Some(checkpoint) = &self.checkpoint
                && checkpoint.due(reports.len(), self.epochs)
            {
                checkpoint.save(&model, &optimizer, &fingerprint, &reports)?;
            }
        }
        bar.finish();
        Ok((model, reports))
    }

    /// The parameters that must be equal for a saved training to be this one.
    fn fingerprint(&self, data: &Dataset) -> String {
        format!(
            "epochs {}, batch {}, rate {}, {:?}, decay {}, seed {}, {:?}, {} images",
            self.epochs,
            self.batch,
            self.rate,
            self.schedule,
            self.decay,
            self.seed.value(),
            self.shift,
            data.len()
        )
    }

    fn bar(&self, steps: usize, epochs_done: usize) -> ProgressBar {
        if !self.progress {
            return ProgressBar::hidden();
        }
        progress::bar("training", self.epochs * steps).with_position((epochs_done * steps) as u64)
    }

    fn gather(&self, data: &Dataset, rows: &[usize], epoch: usize, device: &Device) -> Batch {
        let width = data.images.ncols();
        let mut values = Vec::with_capacity(rows.len() * width);
        let mut views = Vec::new();
        let seed = self.seed.derive_name("shift").derive(epoch as u64);
        for &row in rows {
            let image = data.images.row(row);
            match (&self.shift, image.as_slice()) {
                (Some(shift), Some(image)) => {
                    let view = shift.draw(seed.derive(row as u64));
                    shift.append_view(image, view, &mut values);
                    views.push(view);
                }
                _ => values.extend(image),
            }
        }
        Batch {
            images: Tensor::from_data(TensorData::new(values, [rows.len(), width]), device),
            labels: labels(rows.iter().map(|&row| data.labels[row]), device),
            rows: rows.to_vec(),
            views,
        }
    }
}

/// Class numbers as a tensor.
pub fn labels(classes: impl IntoIterator<Item = usize>, device: &Device) -> Tensor<1, Int> {
    let classes: Vec<i64> = classes.into_iter().map(|class| class as i64).collect();
    let count = classes.len();
    Tensor::from_data(TensorData::new(classes, [count]), device)
}
