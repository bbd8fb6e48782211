//! A multi-layer perceptron with weights and activations of few bits.

use std::fs;
use std::path::Path;

use anyhow::{Context, anyhow, ensure};
use burn::tensor::{Device, Int, Tensor, TensorData};
use ndarray::{Array1, Array2, ArrayView2};
use taper::quantize::binary::{BatchNorm, Binarizer, BinaryMlp};
use taper::{Quantizer, Seed};

use super::parameter::{Parameter, Weights};
use super::sign::sign;

/// The activation after BatchNorm in a hidden layer. Both have the same gradient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// max(−1, min(1, x)).
    HardTanh,
    /// +1 where x ≥ 0, else −1.
    Sign,
}

/// A linear layer without bias, and its BatchNorm.
#[derive(Debug)]
pub struct Layer {
    /// The weights, of shape (inputs, outputs).
    pub weight: Parameter,
    gamma: Parameter,
    beta: Parameter,
    mean: Vec<f32>,
    variance: Vec<f32>,
}

/// The ε that BatchNorm adds to the variance.
pub const EPSILON: f32 = 1e-4;
const MOMENTUM: f32 = 0.1;
/// Images per batch of a prediction.
const BATCH: usize = 1000;

/// Hidden layers of few bits, each followed by BatchNorm and an activation, and a real output layer.
///
/// Images are grey levels in 256ths. Sums of such numbers times ±1 are exact in single precision, in any order.
#[derive(Debug)]
pub struct LowBitMlp {
    layers: Vec<Layer>,
    activation: Activation,
    step: i32,
    device: Device,
}

impl LowBitMlp {
    /// The value of a grey level of 1.
    pub const UNIT: f32 = 1.0 / 256.0;

    /// Creates a network with layers of these widths, inputs first and classes last.
    pub fn new(
        widths: &[usize],
        weights: Weights,
        activation: Activation,
        seed: Seed,
    ) -> anyhow::Result<Self> {
        let device = Device::flex().autodiff();
        let count = widths.len().saturating_sub(1);
        let layer = |(i, pair): (usize, &[usize])| -> anyhow::Result<Layer> {
            let [inputs, outputs] = *pair else {
                return Err(anyhow!("a layer has two widths"));
            };
            let seed = seed.derive(i as u64);
            let weight = if i + 1 == count {
                Parameter::output(inputs, outputs, seed, &device)
            } else {
                Parameter::hidden(inputs, outputs, weights, seed, &device)?
            };
            Ok(Layer {
                weight,
                gamma: Parameter::row(1.0, outputs, &device),
                beta: Parameter::row(0.0, outputs, &device),
                mean: vec![0.0; outputs],
                variance: vec![1.0; outputs],
            })
        };
        Ok(Self {
            layers: widths
                .windows(2)
                .enumerate()
                .map(layer)
                .collect::<Result<_, _>>()?,
            activation,
            step: 0,
            device: device.clone(),
        })
    }

    /// The layers in order.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Makes one step on a batch of grey levels with the squared hinge loss, and returns the loss.
    pub(super) fn train(
        &mut self,
        images: &[u8],
        labels: &[usize],
        rate: f32,
    ) -> anyhow::Result<f32> {
        let batch = labels.len();
        let mut x = pixels(images, batch, &self.device);
        let mut statistics = Vec::new();
        for (i, layer) in self.layers.iter().enumerate() {
            let z = x.matmul(layer.weight.tensor().clone());
            let mean = z.clone().mean_dim(0);
            let centered = z - mean.clone();
            let variance = centered.clone().powi_scalar(2).mean_dim(0);
            let scale = layer.gamma.tensor().clone() / (variance.clone() + EPSILON).sqrt();
            let h = centered * scale + layer.beta.tensor().clone();
            statistics.push((mean.detach(), variance.detach()));
            x = self.activate(i, h);
        }
        let classes = x.dims()[1];
        let mut targets = vec![-1.0_f32; batch * classes];
        for (row, &label) in targets.chunks_mut(classes).zip(labels) {
            *row.get_mut(label).context("a label is not a class")? = 1.0;
        }
        let targets =
            Tensor::<2>::from_data(TensorData::new(targets, [batch, classes]), &self.device);
        let margins = (-(x * targets) + 1.0).clamp_min(0.0);
        let loss = margins.powi_scalar(2).sum() / batch as f32;
        let mut gradients = loss.backward();
        let value = floats(loss.into_data())?
            .first()
            .copied()
            .unwrap_or(f32::NAN);
        ensure!(
            value.is_finite(),
            "the loss became {value}: is the learning rate of {rate} too high?"
        );
        self.step += 1;
        let unbiased = batch as f32 / (batch as f32 - 1.0).max(1.0);
        for (layer, (mean, variance)) in self.layers.iter_mut().zip(statistics) {
            layer.weight.step(&mut gradients, rate, self.step)?;
            layer.gamma.step(&mut gradients, rate, self.step)?;
            layer.beta.step(&mut gradients, rate, self.step)?;
            average(&mut layer.mean, mean, 1.0)?;
            average(&mut layer.variance, variance, unbiased)?;
        }
        Ok(value)
    }

    fn activate(&self, layer: usize, h: Tensor<2>) -> Tensor<2> {
        match self.activation {
            _ if layer + 1 == self.layers.len() => h,
            Activation::HardTanh => h.clamp(-1.0, 1.0),
            Activation::Sign => sign(h),
        }
    }

    /// Predicts the class of each image of grey levels, simulated in floating point.
    pub fn predict(&self, images: ArrayView2<'_, u8>) -> anyhow::Result<Vec<usize>> {
        let device = self.device.clone().inner();
        let images = images.as_standard_layout();
        let inputs = images.ncols();
        let images = images
            .as_slice()
            .context("the images are not in standard layout")?;
        let mut classes = Vec::new();
        for images in images.chunks(BATCH * inputs) {
            let mut x = pixels(images, images.len() / inputs, &device);
            for (i, layer) in self.layers.iter().enumerate() {
                let row = |values: &[f32]| {
                    let data = TensorData::new(values.to_vec(), [1, values.len()]);
                    Tensor::<2>::from_data(data, &device)
                };
                let z = x.matmul(layer.weight.tensor().clone().inner());
                let deviation = (row(&layer.variance) + EPSILON).sqrt();
                // In the order of taper's BatchNorm, so that every rounding is the same.
                let h = (z - row(&layer.mean)) / deviation * row(layer.gamma.latent())
                    + row(layer.beta.latent());
                x = self.activate(i, h);
            }
            let largest: Tensor<2, Int> = x.argmax(1);
            classes.extend(
                largest
                    .into_data()
                    .iter::<i64>()
                    .map(|class| class as usize),
            );
        }
        Ok(classes)
    }

    /// The network on packed bits.
    pub fn pack(&self) -> anyhow::Result<BinaryMlp<f32>> {
        ensure!(
            self.activation == Activation::Sign,
            "only binary activations can be packed"
        );
        let (output, hidden) = self
            .layers
            .split_last()
            .context("the network has no layers")?;
        let mut signs = Vec::new();
        for layer in hidden {
            let matrix = Binarizer::new().quantize(layer.matrix()?.view())?;
            signs.push((matrix, layer.norm()?));
        }
        let (weights, bias) = output.norm()?.fold(output.matrix()?.view())?;
        Ok(BinaryMlp::new(signs, weights, bias)?)
    }

    /// Writes the state of the training, which has a figure for each epoch: epochs and steps, each array after its length, and
    /// the figures.
    pub(super) fn save(&mut self, path: &Path, figures: &[f64]) -> anyhow::Result<()> {
        let mut bytes = Vec::new();
        for number in [figures.len() as u64, self.step as u64] {
            bytes.extend(number.to_le_bytes());
        }
        for values in self.arrays() {
            bytes.extend((values.len() as u64).to_le_bytes());
            bytes.extend(values.iter().flat_map(|x| x.to_le_bytes()));
        }
        bytes.extend(figures.iter().flat_map(|x| x.to_le_bytes()));
        // Renamed into place, so that an interrupted run leaves the previous file.
        let fresh = path.with_extension("fresh");
        fs::write(&fresh, bytes).with_context(|| format!("cannot write {}", fresh.display()))?;
        fs::rename(&fresh, path)?;
        Ok(())
    }

    /// Reads the state that [`save`](Self::save) wrote, and returns the figure of each finished epoch: none without a file, and NaN
    /// for each if the file ends after the arrays.
    pub(super) fn load(&mut self, path: &Path) -> anyhow::Result<Vec<f64>> {
        if !path.exists() {
            return Ok(Vec::new());
        }
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut numbers = bytes.as_slice();
        let epochs = usize::try_from(next(&mut numbers)?)?;
        self.step = i32::try_from(next(&mut numbers)?)?;
        for values in self.arrays() {
            let length = next(&mut numbers)? as usize;
            ensure!(
                length == values.len(),
                "{} belongs to a network of another shape",
                path.display()
            );
            let (now, rest) = numbers
                .split_at_checked(4 * length)
                .with_context(|| format!("{} is truncated", path.display()))?;
            for (value, bytes) in values.iter_mut().zip(now.as_chunks::<4>().0) {
                *value = f32::from_le_bytes(*bytes);
            }
            numbers = rest;
        }
        let (figures, rest) = numbers.as_chunks::<8>();
        ensure!(
            rest.is_empty() && (figures.is_empty() || figures.len() == epochs),
            "{} has {} bytes after its arrays, but {epochs} epochs need 8 bytes each or none",
            path.display(),
            numbers.len()
        );
        for layer in &mut self.layers {
            layer.weight.refresh()?;
            layer.gamma.refresh()?;
            layer.beta.refresh()?;
        }
        if figures.is_empty() {
            // The count comes from the file; a forged one must not fill the memory.
            ensure!(
                epochs < 1 << 20,
                "{} claims {epochs} epochs",
                path.display()
            );
            return Ok(vec![f64::NAN; epochs]);
        }
        Ok(figures.iter().map(|x| f64::from_le_bytes(*x)).collect())
    }

    fn arrays(&mut self) -> impl Iterator<Item = &mut Vec<f32>> {
        self.layers.iter_mut().flat_map(|layer| {
            let parameters = [&mut layer.weight, &mut layer.gamma, &mut layer.beta];
            let arrays = parameters.into_iter().flat_map(Parameter::arrays);
            arrays.chain([&mut layer.mean, &mut layer.variance])
        })
    }
}

impl Layer {
    /// The latent weights, of shape (outputs, inputs).
    pub fn matrix(&self) -> taper::Result<Array2<f32>> {
        let [inputs, outputs] = self.weight.tensor().dims();
        let latent = self.weight.latent();
        Ok(Array2::from_shape_fn((outputs, inputs), |(o, i)| {
            latent[i * outputs + o]
        }))
    }

    /// The BatchNorm with its running statistics.
    pub fn norm(&self) -> taper::Result<BatchNorm<f32>> {
        let row = |values: &[f32]| Array1::from(values.to_vec());
        BatchNorm::new(
            row(self.gamma.latent()),
            row(self.beta.latent()),
            row(&self.mean),
            row(&self.variance),
            EPSILON,
        )
    }
}

fn next(bytes: &mut &[u8]) -> anyhow::Result<u64> {
    let (now, rest) = bytes
        .split_first_chunk::<8>()
        .context("a checkpoint is truncated")?;
    *bytes = rest;
    Ok(u64::from_le_bytes(*now))
}

fn pixels(images: &[u8], batch: usize, device: &Device) -> Tensor<2> {
    let values: Vec<f32> = images
        .iter()
        .map(|&p| f32::from(p) * LowBitMlp::UNIT)
        .collect();
    let inputs = values.len() / batch.max(1);
    Tensor::from_data(TensorData::new(values, [batch, inputs]), device)
}

fn floats(data: TensorData) -> anyhow::Result<Vec<f32>> {
    Ok(data
        .as_slice::<f32>()
        .map_err(|e| anyhow!("{e:?}"))?
        .to_vec())
}

/// Updates a running average with the value of a batch.
fn average(running: &mut [f32], value: Tensor<2>, factor: f32) -> anyhow::Result<()> {
    for (running, value) in running.iter_mut().zip(floats(value.into_data())?) {
        *running = (1.0 - MOMENTUM) * *running + MOMENTUM * factor * value;
    }
    Ok(())
}
