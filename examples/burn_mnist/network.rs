//! The network, dense and compressed.

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor, TensorData};
use ndarray::{Array1, Array2, ArrayView2};
use support::data::Dataset;
use support::network::inference::{largest, percent_equal};
use support::network::mlp::{matrix, uniform, vector};
use support::network::train::{self, Batch, Objective};
use taper::Seed;

use crate::operation::{Stored, decompress};

/// Images per batch when a network is measured.
const BLOCK: usize = 1000;

/// Linear layers with ReLU between them.
#[derive(Module, Debug)]
pub struct Dense {
    layers: Vec<Linear>,
}

/// The network with compressed weights. Only what the artifacts store is trained.
#[derive(Module, Debug)]
pub struct Compressed {
    layers: Vec<CompressedLinear>,
    last: Linear,
}

#[derive(Module, Debug)]
struct CompressedLinear {
    parameters: Param<Tensor<1>>,
    bias: Param<Tensor<1>>,
    #[module(skip)]
    weight: Stored,
}

/// Common methods of both networks.
pub trait Forward {
    fn forward(&self, images: Tensor<2>) -> Tensor<2>;
}

impl Dense {
    /// Creates a network with weights uniform in ±1/√inputs.
    pub fn new(widths: &[usize], seed: Seed, device: &Device) -> Self {
        let layers = widths.windows(2).enumerate().map(|(i, width)| {
            let seed = seed.derive(i as u64);
            let weight = uniform([width[0], width[1]], width[0], seed, device);
            let bias = uniform([width[1]], width[0], seed.derive_name("bias"), device);
            Linear {
                weight: Param::from_tensor(weight),
                bias: Some(Param::from_tensor(bias)),
            }
        });
        Self {
            layers: layers.collect(),
        }
    }

    /// The weights (out, in) of all layers but the last. burn stores them as (in, out).
    pub fn weights(&self) -> anyhow::Result<Vec<Array2<f32>>> {
        let compressed = self.layers.iter().take(self.layers.len() - 1);
        compressed
            .map(|layer| Ok(matrix(layer.weight.val())?.reversed_axes()))
            .collect()
    }

    /// The same network with other weights (out, in).
    pub fn with_weights(mut self, weights: &[Array2<f32>], device: &Device) -> Self {
        for (layer, weight) in self.layers.iter_mut().zip(weights) {
            let values: Vec<f32> = weight.t().iter().copied().collect();
            let data = TensorData::new(values, [weight.ncols(), weight.nrows()]);
            layer.weight = Param::from_tensor(Tensor::from_data(data, device));
        }
        self
    }

    /// The same network with artifacts in place of all weights but the last.
    pub fn with_artifacts(&self, artifacts: &[Stored], device: &Device) -> Option<Compressed> {
        let (last, layers) = self.layers.split_last()?;
        let layers = layers.iter().zip(artifacts).map(|(layer, artifact)| {
            let parameters = artifact.lock().parameters().to_vec();
            let count = parameters.len();
            let parameters = Tensor::from_data(TensorData::new(parameters, [count]), device);
            Some(CompressedLinear {
                parameters: Param::from_tensor(parameters),
                bias: layer.bias.clone()?.no_grad(),
                weight: artifact.clone(),
            })
        });
        Some(Compressed {
            layers: layers.collect::<Option<_>>()?,
            last: last.clone().no_grad(),
        })
    }
}

impl Forward for Dense {
    fn forward(&self, images: Tensor<2>) -> Tensor<2> {
        let last = self.layers.len() - 1;
        self.layers
            .iter()
            .enumerate()
            .fold(images, |x, (i, layer)| {
                let y = layer.forward(x);
                if i < last { relu(y) } else { y }
            })
    }
}

impl Forward for Compressed {
    fn forward(&self, images: Tensor<2>) -> Tensor<2> {
        let x = self.layers.iter().fold(images, |x, layer| {
            let weight = decompress(layer.parameters.val(), &layer.weight);
            relu(x.matmul(weight.transpose()) + layer.bias.val().unsqueeze())
        });
        self.last.forward(x)
    }
}

impl Compressed {
    /// Predicts the classes of images without burn: every product is `apply` of an artifact.
    pub fn predict_compressed(&self, images: ArrayView2<'_, f32>) -> anyhow::Result<Vec<usize>> {
        let mut x = images.to_owned();
        for layer in &self.layers {
            let mut artifact = layer.weight.lock();
            let parameters: Array1<f32> = vector(layer.parameters.val())?;
            artifact.set_parameters(parameters.view())?;
            x = artifact.apply(x.view())? + &vector(layer.bias.val())?;
            x.mapv_inplace(|value| value.max(0.0));
        }
        let mut logits = x.dot(&matrix(self.last.weight.val())?);
        if let Some(bias) = &self.last.bias {
            logits += &vector(bias.val())?;
        }
        Ok(logits.rows().into_iter().map(largest).collect())
    }
}

/// Cross-entropy with the labels.
#[derive(Debug, Clone, Copy)]
pub struct CrossEntropy;

impl<M: Forward> Objective<M> for CrossEntropy {
    fn loss(&self, model: &M, batch: &Batch) -> Tensor<1> {
        let logits = model.forward(batch.images.clone());
        CrossEntropyLossConfig::new()
            .init(&logits.device())
            .forward(logits, batch.labels.clone())
    }
}

/// Loss and accuracy of a network on a set of images.
#[derive(Debug, Clone)]
pub struct Measured {
    /// The mean cross-entropy.
    pub loss: f64,
    /// The accuracy in percent.
    pub accuracy: f64,
    pub classes: Vec<usize>,
}

/// Measures loss and accuracy on `data`.
pub fn measure(model: &impl Forward, data: &Dataset) -> anyhow::Result<Measured> {
    let device = Device::flex();
    let (mut sum, mut classes) = (0.0, Vec::new());
    for (images, labels) in data
        .images
        .axis_chunks_iter(ndarray::Axis(0), BLOCK)
        .zip(data.labels.chunks(BLOCK))
    {
        let values: Vec<f32> = images.iter().copied().collect();
        let images = Tensor::from_data(TensorData::new(values, images.shape().to_vec()), &device);
        let logits = model.forward(images);
        let targets = train::labels(labels.iter().copied(), &device);
        let loss = CrossEntropyLossConfig::new().init(&device);
        let mean: f64 = loss.forward(logits.clone(), targets).into_scalar();
        sum += mean * labels.len() as f64;
        classes.extend(matrix(logits)?.rows().into_iter().map(largest));
    }
    Ok(Measured {
        loss: sum / data.len() as f64,
        accuracy: percent_equal(&classes, &data.labels),
        classes,
    })
}
