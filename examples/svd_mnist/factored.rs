//! The factorized network, for further training.

use anyhow::Context;
use burn::module::{Module, Param, RunningState};
use burn::nn::{BatchNorm, BatchNormConfig, Linear};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor, TensorData};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2};
use support::network::distill::Student;
use support::network::inference::{Layer, Network, Weight};
use support::network::mlp::{export_norm, matrix, vector};
use support::network::train::training_device;
use taper::Precision;
use taper::factorize::svd::LowRankMatrix;

/// A hidden layer with one matrix or a product of two.
#[derive(Module, Debug)]
struct FactoredHidden {
    linears: Vec<Linear>,
    norm: BatchNorm,
}

/// The network with factorized layers.
#[derive(Module, Debug)]
pub(crate) struct Factored {
    hidden: Vec<FactoredHidden>,
    output: Linear,
}

impl Factored {
    pub(crate) fn new(
        network: &Network,
        factors: &[Option<LowRankMatrix<f32>>],
    ) -> anyhow::Result<Self> {
        let device = training_device();
        let mut hidden = Vec::new();
        let mut output = None;
        for (layer, factors) in network.layers.iter().zip(factors) {
            let linears = match (factors, &layer.weight) {
                (Some(factors), _) => vec![
                    linear(factors.right(), None, &device),
                    linear(factors.left(), layer.bias.as_ref(), &device),
                ],
                (None, Weight::Dense(weight)) => {
                    vec![linear(weight.view(), layer.bias.as_ref(), &device)]
                }
                (None, Weight::Compressed(_)) => {
                    anyhow::bail!("a compressed layer has no factors")
                }
            };
            match &layer.norm {
                Some(values) => {
                    let features = values.gamma.len();
                    let mut norm = BatchNormConfig::new(features)
                        .with_epsilon(f64::from(values.epsilon))
                        .init(&device);
                    norm.gamma = Param::from_tensor(tensor(values.gamma.view(), &device));
                    norm.beta = Param::from_tensor(tensor(values.beta.view(), &device));
                    norm.running_mean = RunningState::new(tensor(values.mean.view(), &device));
                    norm.running_var = RunningState::new(tensor(values.variance.view(), &device));
                    hidden.push(FactoredHidden { linears, norm });
                }
                None => output = linears.into_iter().next(),
            }
        }
        let output = output.context("the network has no last layer")?;
        Ok(Self { hidden, output })
    }

    fn forward(&self, images: Tensor<2>) -> Tensor<2> {
        let x = self.hidden.iter().fold(images, |x, layer| {
            let x = layer.linears.iter().fold(x, |x, linear| linear.forward(x));
            relu(layer.norm.forward(x))
        });
        self.output.forward(x)
    }

    /// `network` with the trained values.
    pub(crate) fn export(&self, network: &Network) -> anyhow::Result<Network> {
        let mut layers = Vec::new();
        for (i, layer) in network.layers.iter().enumerate() {
            let (linears, norm) = match self.hidden.get(i) {
                Some(hidden) => (hidden.linears.as_slice(), Some(export_norm(&hidden.norm)?)),
                None => (std::slice::from_ref(&self.output), None),
            };
            let weight = match linears {
                [right, left] => {
                    let (left, right) = (weight(left)?, weight(right)?);
                    Weight::compressed(LowRankMatrix::from_parts(
                        left,
                        None,
                        right,
                        Precision::F32,
                    )?)
                }
                [one] => Weight::Dense(weight(one)?),
                _ => anyhow::bail!(
                    "a layer has {} matrices instead of one or two",
                    linears.len()
                ),
            };
            let bias = linears.last().and_then(|last| last.bias.as_ref());
            layers.push(Layer {
                weight,
                bias: bias.map(|bias| vector(bias.val())).transpose()?,
                norm,
                ..layer.clone()
            });
        }
        Ok(Network { layers })
    }
}

impl Student for Factored {
    fn logits(&self, images: Tensor<2>) -> Tensor<2> {
        self.forward(images)
    }
}

/// burn multiplies by a matrix of shape (in, out).
fn linear(weight: ArrayView2<'_, f32>, bias: Option<&Array1<f32>>, device: &Device) -> Linear {
    let (outputs, inputs) = weight.dim();
    let values: Vec<f32> = weight.t().iter().copied().collect();
    let weight = Tensor::from_data(TensorData::new(values, [inputs, outputs]), device);
    Linear {
        weight: Param::from_tensor(weight),
        bias: bias.map(|bias| Param::from_tensor(tensor(bias.view(), device))),
    }
}

fn tensor(values: ArrayView1<'_, f32>, device: &Device) -> Tensor<1> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), device)
}

fn weight(linear: &Linear) -> anyhow::Result<Array2<f32>> {
    let weight = matrix(linear.weight.val())?;
    Ok(weight.reversed_axes().as_standard_layout().into_owned())
}
