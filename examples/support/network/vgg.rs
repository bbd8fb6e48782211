//! VGG-11 with batch normalization for small images, of any width, whole or pruned.
//!
//! K. Simonyan and A. Zisserman, "Very Deep Convolutional Networks", 2014, arXiv:1409.1556, in the form usual for
//! images of 32×32 pixels: eight convolutions, the average over the remaining positions, one linear layer.

use anyhow::{Context, ensure};
use burn::module::{Module, Param, RunningState};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::pool::MaxPool2dConfig;
use burn::nn::{BatchNorm, BatchNormConfig, Linear, PaddingConfig2d};
use burn::optim::GradientsParams;
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor, TensorData};
use ndarray::{Array1, ArrayD, IxDyn};
use taper::Seed;
use taper::prune::{ChannelSlimming, Coupling, Tensors};

use super::convolution::convolution;
use super::distill::Student;
use super::inference::{largest, percent_equal};
use super::mlp::vector;
use super::train::{Batch, Objective, training_device};
use crate::data::Dataset;
use crate::random;

/// The channels of each convolution at width 1.
pub const CHANNELS: [usize; 8] = [64, 128, 256, 256, 512, 512, 512, 512];
/// The convolutions after which the image is halved.
const HALVED_AFTER: [usize; 4] = [0, 1, 3, 5];
/// Images per batch outside of training.
const BLOCK: usize = 250;

/// A convolution of 3×3, batch normalization, ReLU. The convolution has no bias, as the normalization subtracts it.
#[derive(Module, Debug)]
pub struct Block {
    conv: Conv2d,
    norm: BatchNorm,
}

/// The network.
#[derive(Module, Debug)]
pub struct Vgg {
    blocks: Vec<Block>,
    classifier: Linear,
}

/// The channels of each convolution at `width`, at least one.
pub fn channels(width: f64) -> Vec<usize> {
    let scaled = CHANNELS.map(|channels| ((channels as f64 * width).round() as usize).max(1));
    scaled.to_vec()
}

/// The number of positions at which each convolution is applied, for an image of `side` × `side` pixels.
pub fn positions(side: usize) -> Vec<usize> {
    let mut side = side;
    let places = (0..CHANNELS.len()).map(|i| {
        let places = side * side;
        if HALVED_AFTER.contains(&i) {
            side /= 2;
        }
        places
    });
    places.collect()
}

/// Which tensors of [`Vgg::tensors`] share channels.
///
/// # Errors
///
/// If a layer has no channels.
pub fn coupling(colours: usize, channels: &[usize], classes: usize) -> taper::Result<Coupling> {
    let mut net = Coupling::new();
    let mut x = net.input(colours)?;
    for (i, &channels) in channels.iter().enumerate() {
        x = net.layer(&format!("conv{}", i + 1), x, channels)?;
        x = net.batch_norm(&format!("bn{}", i + 1), x)?;
        x = net.relu(x)?;
    }
    let classes = net.layer("classifier", x, classes)?;
    net.output(classes)?;
    Ok(net)
}

/// The tensors of an untrained network: weights uniform in ±√(6 / inputs) (K. He et al., 2015, arXiv:1502.01852), scales of
/// one half, as in network slimming.
pub fn untrained(colours: usize, channels: &[usize], classes: usize, seed: Seed) -> Tensors<f32> {
    let mut tensors = Tensors::new();
    let uniform = |name: &str, shape: &[usize], inputs: usize, gain: f64| {
        let seed = seed.derive_name(name);
        let bound = (gain / inputs as f64).sqrt();
        let mut index = 0;
        ArrayD::from_shape_simple_fn(IxDyn(shape), || {
            index += 1;
            (bound * (2.0 * random::uniform(seed, index) - 1.0)) as f32
        })
    };
    let mut inputs = colours;
    for (i, &outputs) in channels.iter().enumerate() {
        let name = format!("conv{}.weight", i + 1);
        let weight = uniform(&name, &[outputs, inputs, 3, 3], 9 * inputs, 6.0);
        tensors.insert(name, weight);
        for (part, value) in [
            ("weight", 0.5),
            ("bias", 0.0),
            ("running_mean", 0.0),
            ("running_var", 1.0),
        ] {
            let name = format!("bn{}.{part}", i + 1);
            tensors.insert(name, ArrayD::from_elem(IxDyn(&[outputs]), value));
        }
        inputs = outputs;
    }
    let name = "classifier.weight";
    tensors.insert(
        name.to_owned(),
        uniform(name, &[classes, inputs], inputs, 1.0),
    );
    tensors.insert(
        "classifier.bias".to_owned(),
        ArrayD::zeros(IxDyn(&[classes])),
    );
    tensors
}

fn tensor<const D: usize>(
    tensors: &Tensors<f32>,
    name: &str,
    device: &Device,
) -> anyhow::Result<Tensor<D>> {
    let array = tensors
        .get(name)
        .with_context(|| format!("there is no tensor called {name}"))?;
    let shape: [usize; D] = array
        .shape()
        .try_into()
        .with_context(|| format!("{name} has shape {:?}", array.shape()))?;
    let values: Vec<f32> = array.iter().copied().collect();
    Ok(Tensor::from_data(TensorData::new(values, shape), device))
}

fn array<const D: usize>(tensor: Tensor<D>) -> anyhow::Result<ArrayD<f32>> {
    let shape = tensor.dims();
    let values = tensor.into_data().try_into_vec::<f32>()?;
    Ok(ArrayD::from_shape_vec(IxDyn(&shape), values)?)
}

impl Vgg {
    /// Builds the network from its tensors, of any widths, on the training device.
    ///
    /// # Errors
    ///
    /// If a tensor is missing, has another number of axes, or has an empty axis.
    pub fn from_tensors(tensors: &Tensors<f32>) -> anyhow::Result<Self> {
        let device = &training_device();
        let blocks = (1..=CHANNELS.len()).map(|i| {
            let weight: Tensor<4> = tensor(tensors, &format!("conv{i}.weight"), device)?;
            let [outputs, inputs, ..] = weight.dims();
            ensure!(outputs > 0 && inputs > 0, "conv{i} has no channels");
            let mut conv = Conv2dConfig::new([inputs, outputs], [3, 3])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .with_bias(false)
                .init(device);
            conv.weight = Param::from_tensor(weight);
            let mut norm = BatchNormConfig::new(outputs).init(device);
            let part = |part: &str| tensor::<1>(tensors, &format!("bn{i}.{part}"), device);
            norm.gamma = Param::from_tensor(part("weight")?);
            norm.beta = Param::from_tensor(part("bias")?);
            norm.running_mean = RunningState::new(part("running_mean")?);
            norm.running_var = RunningState::new(part("running_var")?);
            Ok(Block { conv, norm })
        });
        let weight: Tensor<2> = tensor(tensors, "classifier.weight", device)?;
        Ok(Self {
            blocks: blocks.collect::<anyhow::Result<_>>()?,
            classifier: Linear {
                // burn multiplies by a matrix of shape (in, out).
                weight: Param::from_tensor(weight.transpose()),
                bias: Some(Param::from_tensor(tensor(
                    tensors,
                    "classifier.bias",
                    device,
                )?)),
            },
        })
    }

    /// The network as plain arrays, named as in PyTorch.
    ///
    /// # Errors
    ///
    /// If a tensor cannot be read.
    pub fn tensors(&self) -> anyhow::Result<Tensors<f32>> {
        let mut tensors = Tensors::new();
        for (i, block) in self.blocks.iter().enumerate() {
            let mut put = |name: &str, array: ArrayD<f32>| {
                tensors.insert(name.to_owned(), array);
            };
            let i = i + 1;
            put(&format!("conv{i}.weight"), array(block.conv.weight.val())?);
            put(&format!("bn{i}.weight"), array(block.norm.gamma.val())?);
            put(&format!("bn{i}.bias"), array(block.norm.beta.val())?);
            put(
                &format!("bn{i}.running_mean"),
                array(block.norm.running_mean.value_sync())?,
            );
            put(
                &format!("bn{i}.running_var"),
                array(block.norm.running_var.value_sync())?,
            );
        }
        let weight = array(self.classifier.weight.val().transpose())?;
        tensors.insert("classifier.weight".to_owned(), weight);
        if let Some(bias) = &self.classifier.bias {
            tensors.insert("classifier.bias".to_owned(), array(bias.val())?);
        }
        Ok(tensors)
    }

    /// The results of the last layer, of shape (batch, classes), for flattened square images.
    pub fn forward(&self, images: Tensor<2>) -> Tensor<2> {
        let [batch, values] = images.dims();
        let colours = self
            .blocks
            .first()
            .map_or(1, |block| block.conv.weight.dims()[1]);
        let side = (values / colours).isqrt();
        let halve = MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init();
        let mut x = images.reshape([batch, colours, side, side]);
        for (i, block) in self.blocks.iter().enumerate() {
            x = relu(block.norm.forward(convolution(x, block.conv.weight.val())));
            if HALVED_AFTER.contains(&i) {
                x = halve.forward(x);
            }
        }
        let [batch, channels, height, width] = x.dims();
        let x = x.reshape([batch, channels, height * width]).mean_dim(2);
        self.classifier.forward(x.reshape([batch, channels]))
    }

    /// Predicts the class of each image. Call it on the model of [`Module::valid`], which normalizes by running statistics.
    ///
    /// # Errors
    ///
    /// If results cannot be read.
    pub fn predict(&self, data: &Dataset) -> anyhow::Result<Vec<usize>> {
        let device = Device::flex();
        let mut classes = Vec::with_capacity(data.len());
        for block in data.images.axis_chunks_iter(ndarray::Axis(0), BLOCK) {
            let values: Vec<f32> = block.iter().copied().collect();
            let images = TensorData::new(values, [block.nrows(), block.ncols()]);
            let logits = array(self.forward(Tensor::from_data(images, &device)))?;
            let rows = logits.outer_iter();
            for row in rows {
                classes.push(largest(row.into_dimensionality()?));
            }
        }
        Ok(classes)
    }

    /// The accuracy in percent; call it as [`predict`](Self::predict).
    ///
    /// # Errors
    ///
    /// As [`predict`](Self::predict).
    pub fn accuracy(&self, data: &Dataset) -> anyhow::Result<f64> {
        Ok(percent_equal(&self.predict(data)?, &data.labels))
    }
}

impl Student for Vgg {
    fn logits(&self, images: Tensor<2>) -> Tensor<2> {
        self.forward(images)
    }
}

/// Cross-entropy, with an optional penalty on the scales of the batch normalizations.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Slimming {
    /// The weight λ of the penalty.
    pub penalty: Option<f64>,
}

impl Slimming {
    /// Adds the gradient of the penalty to a gradient.
    fn add(penalty: f64, scales: Tensor<1>, gradient: Tensor<1>) -> anyhow::Result<Tensor<1>> {
        let device = gradient.device();
        let mut sum: Array1<f32> = vector(gradient)?;
        ChannelSlimming::penalty(penalty, vector(scales)?.view(), sum.view_mut())?;
        let length = sum.len();
        Ok(Tensor::from_data(
            TensorData::new(sum.to_vec(), [length]),
            &device,
        ))
    }
}

impl Objective<Vgg> for Slimming {
    fn loss(&self, model: &Vgg, batch: &Batch) -> Tensor<1> {
        let logits = model.forward(batch.images.clone());
        CrossEntropyLossConfig::new()
            .init(&logits.device())
            .forward(logits, batch.labels.clone())
    }

    fn gradients(&self, model: &Vgg, mut gradients: GradientsParams) -> GradientsParams {
        let Some(penalty) = self.penalty else {
            return gradients;
        };
        for block in &model.blocks {
            let scales = &block.norm.gamma;
            if let Some(gradient) = gradients.remove::<1>(scales.id) {
                // If a scale is not finite, the next step reports a loss that is not finite.
                let sum = Self::add(penalty, scales.val(), gradient.clone());
                gradients.register(scales.id, sum.unwrap_or(gradient));
            }
        }
        gradients
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_make_the_network_and_the_network_gives_them_back() {
        let widths = channels(1.0 / 32.0);
        assert_eq!(widths, [2, 4, 8, 8, 16, 16, 16, 16]);
        let tensors = untrained(3, &widths, 10, Seed::from(1));
        let network = Vgg::from_tensors(&tensors).unwrap();
        assert_eq!(network.tensors().unwrap(), tensors);
        let images = Dataset {
            images: ndarray::Array2::from_shape_fn((3, 3 * 32 * 32), |(i, j)| {
                ((i + j) % 7) as f32 - 3.0
            }),
            labels: vec![0; 3],
        };
        let classes = network.valid().predict(&images).unwrap();
        assert!(classes.len() == 3 && classes.iter().all(|&class| class < 10));
    }

    #[test]
    fn the_image_is_halved_four_times() {
        let sides = |side| {
            positions(side)
                .iter()
                .map(|places| places.isqrt())
                .collect::<Vec<_>>()
        };
        assert_eq!(sides(32), [32, 16, 8, 8, 4, 4, 2, 2]);
        assert_eq!(sides(28), [28, 14, 7, 7, 3, 3, 1, 1]);
    }

    #[test]
    fn every_tensor_of_the_network_is_coupled() {
        let widths = channels(0.1);
        let net = coupling(1, &widths, 10).unwrap();
        let groups = net.groups().unwrap();
        let counts: Vec<usize> = groups.iter().map(|group| group.channels).collect();
        assert_eq!(counts, widths);
    }
}
