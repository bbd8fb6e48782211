//! The small convolutional network of the experiments. Each of its large layers can be a chain of smaller ones.
//!
//! 3×3 convolution to the first width and pooling, 3×3 to the second width and pooling, 3×3 at that width, the mean
//! over the image, and a linear layer; BatchNorm and ReLU after each convolution.

use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::{BatchNorm, BatchNormConfig, Linear, PaddingConfig2d};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor, TensorData};
use ndarray::{Array4, ArrayView4};
use taper::Seed;

use super::mlp::{CrossEntropy, uniform};
use super::train::{Batch, Objective, training_device};
use crate::data::Dataset;
use crate::network::inference::percent_equal;

/// Images per batch when classifying.
const BLOCK: usize = 500;

/// A convolution or the chain that replaces it, then BatchNorm and ReLU.
#[derive(Module, Debug)]
pub struct Stage {
    links: Vec<Conv2d>,
    norm: BatchNorm,
}

/// The network.
#[derive(Module, Debug)]
pub struct ConvNet {
    stages: Vec<Stage>,
    output: Linear,
    pool: MaxPool2d,
}

impl ConvNet {
    /// Creates a network for square images of one channel and ten classes, with three convolutions of these widths.
    pub fn new(widths: [usize; 3], seed: Seed) -> Self {
        let device = training_device();
        let [first, second, third] = widths;
        let channels = [[1, first], [first, second], [second, third]];
        let stages = channels.iter().zip(0..).map(|(&[inputs, outputs], i)| {
            let shape = [outputs, inputs, 3, 3];
            // Uniform, with the variance of He et al. for ReLU.
            let weight = uniform(shape, inputs * 9, seed.derive(i), &device) * 6.0_f32.sqrt();
            Stage {
                links: vec![link(weight, [1, 1], 1)],
                norm: BatchNormConfig::new(outputs).init(&device),
            }
        });
        let seed = seed.derive_name("output");
        Self {
            stages: stages.collect(),
            output: Linear {
                weight: Param::from_tensor(uniform([third, 10], third, seed, &device)),
                bias: Some(Param::from_tensor(Tensor::zeros([10], &device))),
            },
            pool: MaxPool2dConfig::new([2, 2]).init(),
        }
    }

    /// The results of the last layer, of shape (batch, 10), for images of shape (batch, pixels).
    pub fn forward(&self, images: Tensor<2>) -> Tensor<2> {
        let [batch, pixels] = images.dims();
        let side = pixels.isqrt();
        let mut x = images.reshape([batch, 1, side, side]);
        for (i, stage) in self.stages.iter().enumerate() {
            x = stage.links.iter().fold(x, |x, link| link.forward(x));
            x = relu(stage.norm.forward(x));
            if i < 2 {
                x = self.pool.forward(x);
            }
        }
        let [batch, channels, height, width] = x.dims();
        let mean = x.reshape([batch, channels, height * width]).mean_dim(2);
        self.output.forward(mean.reshape([batch, channels]))
    }

    /// The kernel of stage `stage`, which must be a single convolution.
    ///
    /// # Errors
    ///
    /// If there is no such stage, or its tensor cannot be read.
    pub fn kernel(&self, stage: usize) -> anyhow::Result<Array4<f32>> {
        let link = self.stages.get(stage).and_then(|stage| stage.links.first());
        let link = link.ok_or_else(|| anyhow::anyhow!("there is no stage {stage}"))?;
        array(&link.weight)
    }

    /// The links of stage `stage`, in order.
    ///
    /// # Errors
    ///
    /// If there is no such stage, or a tensor cannot be read.
    pub fn links(&self, stage: usize) -> anyhow::Result<Vec<Array4<f32>>> {
        let found = self.stages.get(stage);
        let found = found.ok_or_else(|| anyhow::anyhow!("there is no stage {stage}"))?;
        found.links.iter().map(|link| array(&link.weight)).collect()
    }

    /// The network with `links` in place of stage `stage`, whose normalization stays. Links are kernels in the layout of the
    /// frameworks; depthwise ones have one input channel.
    pub fn with_links(mut self, stage: usize, links: &[Array4<f32>]) -> Self {
        let device = training_device();
        let mut inputs = links.first().map_or(0, |link| link.shape()[1]);
        let links = links.iter().map(|weight| {
            let (outputs, given, ..) = weight.dim();
            let groups = inputs / given.max(1);
            inputs = outputs;
            convolution(weight, groups, &device)
        });
        let links = links.collect();
        if let Some(stage) = self.stages.get_mut(stage) {
            stage.links = links;
        }
        self
    }

    /// The accuracy in percent. Call it on the model of [`Module::valid`].
    ///
    /// # Errors
    ///
    /// If a tensor cannot be read.
    pub fn accuracy(&self, data: &Dataset, device: &Device) -> anyhow::Result<f64> {
        let mut predictions = Vec::with_capacity(data.len());
        for block in data.images.axis_chunks_iter(ndarray::Axis(0), BLOCK) {
            let values: Vec<f32> = block.iter().copied().collect();
            let shape = [block.nrows(), block.ncols()];
            let images = Tensor::<2>::from_data(TensorData::new(values, shape), device);
            let classes = self.forward(images).argmax(1).into_data();
            predictions.extend(classes.iter::<i64>().map(|class| class as usize));
        }
        Ok(percent_equal(&predictions, &data.labels))
    }
}

/// A convolution of stride one with this kernel, padded so that images keep their size.
pub fn convolution(kernel: &Array4<f32>, groups: usize, device: &Device) -> Conv2d {
    let (_, _, height, width) = kernel.dim();
    link(
        tensor(kernel.view(), device),
        [height / 2, width / 2],
        groups,
    )
}

/// An array as a tensor.
pub fn tensor(values: ArrayView4<'_, f32>, device: &Device) -> Tensor<4> {
    let (a, b, c, d) = values.dim();
    let values: Vec<f32> = values.iter().copied().collect();
    Tensor::from_data(TensorData::new(values, [a, b, c, d]), device)
}

fn link(weight: Tensor<4>, padding: [usize; 2], groups: usize) -> Conv2d {
    let [outputs, inputs, height, width] = weight.dims();
    let device = weight.device();
    let config = Conv2dConfig::new([inputs * groups, outputs], [height, width])
        .with_groups(groups)
        .with_padding(PaddingConfig2d::Explicit(
            padding[0], padding[1], padding[0], padding[1],
        ))
        .with_bias(false);
    let mut link = config.init(&device);
    link.weight = Param::from_tensor(weight);
    link
}

fn array(weight: &Param<Tensor<4>>) -> anyhow::Result<Array4<f32>> {
    let shape = weight.val().dims();
    let values = weight.val().into_data().try_into_vec::<f32>()?;
    Ok(Array4::from_shape_vec(shape, values)?)
}

impl Objective<ConvNet> for CrossEntropy {
    fn loss(&self, model: &ConvNet, batch: &Batch) -> Tensor<1> {
        let logits = model.forward(batch.images.clone());
        CrossEntropyLossConfig::new()
            .with_smoothing((self.smoothing > 0.0).then_some(self.smoothing))
            .init(&logits.device())
            .forward(logits, batch.labels.clone())
    }
}
