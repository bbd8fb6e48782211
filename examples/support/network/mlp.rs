//! The fully connected network of the experiments: Linear, BatchNorm and ReLU for each hidden layer, then
//! Linear.

use anyhow::Context;
use burn::module::{Module, Param};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{BatchNorm, BatchNormConfig, Linear};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor, TensorData};
use ndarray::{Array1, Array2};
use taper::Seed;

use super::inference::{Layer, Network, Norm, Weight};
use super::train::{Batch, Objective, training_device};
use crate::random;

/// A hidden layer. Its linear part has no bias, since BatchNorm would subtract it.
#[derive(Module, Debug)]
pub struct Hidden {
    linear: Linear,
    norm: BatchNorm,
}

/// The network.
#[derive(Module, Debug)]
pub struct Mlp {
    hidden: Vec<Hidden>,
    output: Linear,
}

impl Mlp {
    /// Creates a network of these widths, from input to output, on the training device.
    ///
    /// Weights are uniform in ±1/√inputs. They depend only on `seed`, and not on burn's generator, which all threads share.
    ///
    /// # Errors
    ///
    /// If there are fewer than two widths, or one is zero.
    pub fn new(widths: &[usize], seed: Seed) -> anyhow::Result<Self> {
        anyhow::ensure!(
            widths.len() >= 2 && !widths.contains(&0),
            "a network needs at least two widths, all above zero, but has {widths:?}"
        );
        let device = training_device();
        let pairs: Vec<(usize, usize)> = widths.windows(2).map(|pair| (pair[0], pair[1])).collect();
        let layer = |i: usize, bias: bool| {
            let (inputs, outputs) = pairs[i];
            let seed = seed.derive(i as u64);
            Linear {
                weight: Param::from_tensor(uniform([inputs, outputs], inputs, seed, &device)),
                bias: bias.then(|| {
                    Param::from_tensor(uniform(
                        [outputs],
                        inputs,
                        seed.derive_name("bias"),
                        &device,
                    ))
                }),
            }
        };
        let last = pairs.len() - 1;
        Ok(Self {
            hidden: (0..last)
                .map(|i| Hidden {
                    linear: layer(i, false),
                    norm: BatchNormConfig::new(pairs[i].1).init(&device),
                })
                .collect(),
            output: layer(last, true),
        })
    }

    /// The results of the last layer, of shape (batch, outputs).
    pub fn forward(&self, images: Tensor<2>) -> Tensor<2> {
        let x = self.hidden.iter().fold(images, |x, layer| {
            relu(layer.norm.forward(layer.linear.forward(x)))
        });
        self.output.forward(x)
    }

    /// The network as plain arrays.
    ///
    /// # Errors
    ///
    /// If a tensor cannot be read.
    pub fn export(&self) -> anyhow::Result<Network> {
        let mut layers = Vec::with_capacity(self.hidden.len() + 1);
        for (i, layer) in self.hidden.iter().enumerate() {
            layers.push(export_linear(
                format!("fc{}", i + 1),
                &layer.linear,
                Some(export_norm(&layer.norm)?),
            )?);
        }
        let last = format!("fc{}", self.hidden.len() + 1);
        layers.push(export_linear(last, &self.output, None)?);
        Ok(Network { layers })
    }
}

/// Values uniform in ±1/√inputs.
pub fn uniform<const D: usize>(
    shape: [usize; D],
    inputs: usize,
    seed: Seed,
    device: &Device,
) -> Tensor<D> {
    let bound = 1.0 / (inputs as f64).sqrt();
    let values: Vec<f32> = (0..shape.iter().product::<usize>() as u64)
        .map(|i| (bound * (2.0 * random::uniform(seed, i) - 1.0)) as f32)
        .collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// A linear layer as plain arrays, with ReLU if it has a normalization.
fn export_linear(name: String, linear: &Linear, norm: Option<Norm>) -> anyhow::Result<Layer> {
    let bias = linear.bias.as_ref().map(|bias| vector(bias.val()));
    Ok(Layer {
        name,
        // burn multiplies by a matrix of shape (in, out).
        weight: Weight::Dense(
            matrix(linear.weight.val())?
                .reversed_axes()
                .as_standard_layout()
                .into_owned(),
        ),
        bias: bias.transpose()?,
        relu: norm.is_some(),
        norm,
    })
}

/// Batch normalization as plain arrays.
///
/// # Errors
///
/// If a tensor cannot be read.
pub fn export_norm(norm: &BatchNorm) -> anyhow::Result<Norm> {
    Ok(Norm {
        gamma: vector(norm.gamma.val())?,
        beta: vector(norm.beta.val())?,
        mean: vector(norm.running_mean.value_sync())?,
        variance: vector(norm.running_var.value_sync())?,
        epsilon: norm.epsilon as f32,
    })
}

/// A tensor of two axes as an array.
///
/// # Errors
///
/// If it cannot be read.
pub fn matrix(tensor: Tensor<2>) -> anyhow::Result<Array2<f32>> {
    let [rows, columns] = tensor.dims();
    let values = tensor.into_data().try_into_vec::<f32>()?;
    Array2::from_shape_vec((rows, columns), values).context("the tensor has another length")
}

/// A tensor of one axis as an array.
///
/// # Errors
///
/// If it cannot be read.
pub fn vector(tensor: Tensor<1>) -> anyhow::Result<Array1<f32>> {
    Ok(tensor.into_data().try_into_vec::<f32>()?.into())
}

/// Cross-entropy with the labels.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct CrossEntropy {
    /// Label smoothing: the part of the target that is spread evenly over all classes; 0 for none.
    pub smoothing: f32,
}

impl Objective<Mlp> for CrossEntropy {
    fn loss(&self, model: &Mlp, batch: &Batch) -> Tensor<1> {
        let logits = model.forward(batch.images.clone());
        CrossEntropyLossConfig::new()
            .with_smoothing((self.smoothing > 0.0).then_some(self.smoothing))
            .init(&logits.device())
            .forward(logits, batch.labels.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::super::checkpoint::Checkpoint;
    use super::super::inference::percent_equal;
    use super::super::schedule::Schedule;
    use super::super::train::{EpochReport, Training};
    use super::*;
    use crate::data::Dataset;

    /// Two classes that no line separates: inside and outside of a ring.
    fn rings(count: usize) -> Dataset {
        let images = Array2::from_shape_fn((count, 2), |(i, j)| {
            (4.0 * random::uniform(Seed::from(1), (2 * i + j) as u64) - 2.0) as f32
        });
        let labels = images
            .rows()
            .into_iter()
            .map(|p| usize::from((0.7..1.4).contains(&p[0].hypot(p[1]))))
            .collect();
        Dataset { images, labels }
    }

    fn training(epochs: usize) -> Training {
        Training {
            epochs,
            batch: 50,
            rate: 1e-2,
            schedule: Schedule::Cosine { warmup: 0.1 },
            progress: false,
            ..Training::default()
        }
    }

    fn train(training: &Training, data: &Dataset) -> (Mlp, Vec<EpochReport>) {
        let model = Mlp::new(&[2, 32, 32, 2], Seed::from(5)).unwrap();
        training
            .run(model, &CrossEntropy::default(), data, |_| Ok(None))
            .unwrap()
    }

    #[test]
    fn training_learns_what_no_line_separates_and_the_plain_network_agrees() {
        let data = rings(2000);
        let (model, reports) = train(&training(12), &data);
        assert!(reports[11].loss < 0.6 * reports[0].loss, "{reports:?}");
        let network = model.export().unwrap();
        let accuracy = network.accuracy(&data).unwrap();
        assert!(accuracy > 95.0, "{accuracy}");

        // The same in burn's own inference, which uses the running statistics only without gradients.
        let device = Device::flex();
        let values: Vec<f32> = data.images.iter().copied().collect();
        let images = Tensor::from_data(TensorData::new(values, [data.len(), 2]), &device);
        let expected = matrix(model.valid().forward(images)).unwrap();
        let logits = network.logits(data.images.view()).unwrap();
        // Three layers of sums of at most 32 products; BatchNorm keeps the values near one.
        let largest = expected.iter().fold(1.0_f32, |m, x| m.max(x.abs()));
        let tolerance = 3.0 * 32.0 * f32::EPSILON * largest * 4.0;
        for (a, b) in logits.iter().zip(&expected) {
            assert!((a - b).abs() <= tolerance, "{a} {b}");
        }
    }

    #[test]
    fn the_same_seed_trains_the_same_network_and_another_seed_another_one() {
        let data = rings(300);
        let (first, again) = (train(&training(2), &data), train(&training(2), &data));
        assert_eq!(first.1, again.1);
        let other = Training {
            seed: Seed::from(8),
            ..training(2)
        };
        assert_ne!(first.1, train(&other, &data).1);
        let weights = |model: &Mlp| matrix(model.output.weight.val()).unwrap();
        assert_eq!(weights(&first.0), weights(&again.0));
        let (a, b) = (
            Mlp::new(&[4, 3], Seed::from(1)),
            Mlp::new(&[4, 3], Seed::from(2)),
        );
        assert_ne!(weights(&a.unwrap()), weights(&b.unwrap()));
    }

    #[test]
    fn a_training_taken_up_again_ends_as_if_it_had_not_stopped() {
        let data = rings(300);
        let folder = std::env::temp_dir().join(format!("taper-checkpoint-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        let saved = Training {
            checkpoint: Some(Checkpoint {
                folder: folder.clone(),
                every: 1,
            }),
            ..training(4)
        };
        let model = Mlp::new(&[2, 32, 32, 2], Seed::from(5)).unwrap();
        let mut epochs = 0;
        let stopped = saved.run(model, &CrossEntropy::default(), &data, |_| {
            epochs += 1;
            anyhow::ensure!(epochs < 3, "the power went out");
            Ok(None)
        });
        assert!(stopped.is_err());
        let (resumed, reports) = train(&saved, &data);
        let (whole, expected) = train(&training(4), &data);
        for (report, expected) in reports.iter().zip(&expected) {
            // The text of a checkpoint may round the last bit of a loss; parameters are exact.
            assert!((report.loss - expected.loss).abs() <= 2.0 * f64::EPSILON);
        }
        let network = |model: &Mlp| model.export().unwrap().logits(data.images.view()).unwrap();
        assert_eq!(network(&resumed), network(&whole));

        // A checkpoint of another training is refused.
        let other = Training {
            rate: 1e-3,
            ..saved
        };
        let model = Mlp::new(&[2, 32, 32, 2], Seed::from(5)).unwrap();
        let error = other
            .run(model, &CrossEntropy::default(), &data, |_| Ok(None))
            .unwrap_err();
        assert!(error.to_string().contains("another training"), "{error}");
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn networks_and_trainings_that_cannot_be_are_errors() {
        assert!(Mlp::new(&[4], Seed::from(1)).is_err());
        assert!(Mlp::new(&[4, 0, 2], Seed::from(1)).is_err());
        let model = Mlp::new(&[2, 4, 2], Seed::from(5)).unwrap();
        let few = rings(10);
        let result = training(1).run(model, &CrossEntropy::default(), &few, |_| Ok(None));
        assert!(result.is_err());
        assert_eq!(percent_equal(&[], &[]), 0.0);
    }
}
