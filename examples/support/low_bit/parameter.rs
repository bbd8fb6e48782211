//! Adam on real latent weights, and the weights that the network computes with.

use anyhow::{Context, anyhow, ensure};
use burn::tensor::{DType, Device, Gradients, Tensor, TensorData};
use ndarray::{ArrayView1, ArrayView2, ArrayViewMut1};
use rayon::prelude::*;
use taper::Seed;
use taper::quantize::binary::StraightThrough;
use taper::quantize::fixed_point::{FixedPointQuantizer, Range};

use crate::random;

/// How the weights of a product follow from the latent ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weights {
    /// The latent weights themselves.
    Real,
    /// Their signs.
    Binary,
    /// Their nearest values on the symmetric grid over [−1, 1] with this number of bits.
    FixedPoint(u32),
}

impl Weights {
    /// The quantizer for a number of bits.
    pub fn fixed_point(bits: u32) -> FixedPointQuantizer {
        FixedPointQuantizer::new(bits).range(Range::Fixed(1.0))
    }

    fn write(self, latent: &[f32], values: &mut [f32]) -> taper::Result<()> {
        match self {
            Self::Real => values.copy_from_slice(latent),
            Self::Binary => StraightThrough
                .forward_into(ArrayView1::from(latent), ArrayViewMut1::from(values))?,
            Self::FixedPoint(bits) => {
                let quantizer = Self::fixed_point(bits);
                let row = ArrayView1::from(latent);
                let row: ArrayView2<'_, f32> = row.insert_axis(ndarray::Axis(0));
                let quantized = quantizer.fake_quantize(row)?;
                for (value, &quantized) in values.iter_mut().zip(&quantized) {
                    *value = quantized;
                }
            }
        }
        Ok(())
    }
}

/// A parameter: the tensor that the network computes with, and the real numbers that collect the updates.
#[derive(Debug)]
pub struct Parameter {
    rule: Weights,
    /// Latent weights stay in [−1, 1].
    clipped: bool,
    /// The factor of the learning rate.
    rate: f32,
    latent: Vec<f32>,
    first_moment: Vec<f32>,
    second_moment: Vec<f32>,
    tensor: Tensor<2>,
}

const BETA_1: f32 = 0.9;
const BETA_2: f32 = 0.999;
const EPSILON: f32 = 1e-8;
/// Values per block: their arrays fit the first-level cache.
const CHUNK: usize = 1024;
/// Values per piece of work of a thread.
const TASK: usize = 16 * CHUNK;

impl Parameter {
    /// A real parameter with one value per neuron.
    pub fn row(value: f32, neurons: usize, device: &Device) -> Self {
        Self::new(vec![value; neurons], [1, neurons], device)
    }

    /// The real weights of an output layer, of shape (inputs, outputs), uniform within Glorot's bound.
    pub fn output(inputs: usize, outputs: usize, seed: Seed, device: &Device) -> Self {
        let bound = 2.0 * glorot(inputs, outputs);
        Self::new(
            uniform(bound, inputs * outputs, seed),
            [inputs, outputs],
            device,
        )
    }

    /// The weights of a hidden layer, of shape (inputs, outputs).
    ///
    /// The latent weights start uniform in [−1, 1] and stay there. The learning rate is divided by Glorot's coefficient, as if the
    /// weights had been drawn within it: with BatchNorm the scale of a row has no effect (Courbariaux et al., 2015,
    /// arXiv:1511.00363, section 2.5).
    pub fn hidden(
        inputs: usize,
        outputs: usize,
        rule: Weights,
        seed: Seed,
        device: &Device,
    ) -> anyhow::Result<Self> {
        let latent = uniform(1.0, inputs * outputs, seed);
        let mut parameter = Self::new(latent, [inputs, outputs], device);
        parameter.rule = rule;
        parameter.clipped = true;
        parameter.rate = (1.0 / glorot(inputs, outputs)) as f32;
        parameter.refresh()?;
        Ok(parameter)
    }

    fn new(latent: Vec<f32>, shape: [usize; 2], device: &Device) -> Self {
        let tensor = Tensor::from_data(TensorData::new(latent.clone(), shape), device);
        Self {
            rule: Weights::Real,
            clipped: false,
            rate: 1.0,
            first_moment: vec![0.0; latent.len()],
            second_moment: vec![0.0; latent.len()],
            latent,
            tensor: tensor.require_grad(),
        }
    }

    /// The tensor that the network computes with.
    pub fn tensor(&self) -> &Tensor<2> {
        &self.tensor
    }

    /// The latent numbers, of shape (inputs, outputs) in row-major order.
    pub fn latent(&self) -> &[f32] {
        &self.latent
    }

    /// All arrays that training changes.
    pub(super) fn arrays(&mut self) -> [&mut Vec<f32>; 3] {
        [
            &mut self.latent,
            &mut self.first_moment,
            &mut self.second_moment,
        ]
    }

    /// Updates the tensor after latent weights were read.
    pub(super) fn refresh(&mut self) -> anyhow::Result<()> {
        let mut values = vec![0.0; self.latent.len()];
        self.rule.write(&self.latent, &mut values)?;
        let data = TensorData::new(values, self.tensor.dims());
        self.tensor = Tensor::from_data(data, &self.tensor.device()).require_grad();
        Ok(())
    }

    /// Step number `step` of Adam, from 1: updates, clips and quantizes in one pass.
    ///
    /// The gradient of the latent weights is that of the quantized ones: the straight-through estimator passes it on where
    /// |w| ≤ 1, and clipping keeps every weight in that range.
    pub(super) fn step(
        &mut self,
        gradients: &mut Gradients,
        rate: f32,
        step: i32,
    ) -> anyhow::Result<()> {
        let gradient = self
            .tensor
            .grad_remove(gradients)
            .context("a parameter has no gradient")?;
        let gradient = gradient.into_data();
        let gradient = gradient.as_slice::<f32>().map_err(|e| anyhow!("{e:?}"))?;
        ensure!(
            gradient.len() == self.latent.len(),
            "a gradient does not have the length of its parameter"
        );
        let rate = rate * self.rate / (1.0 - BETA_1.powi(step));
        let correction = (1.0 - BETA_2.powi(step)).sqrt().recip();
        let (device, shape) = (self.tensor.device(), self.tensor.dims());
        // The new tensor reuses the memory of the old one if nothing else holds it.
        let placeholder = Tensor::zeros([1, 1], &device);
        let mut data = std::mem::replace(&mut self.tensor, placeholder)
            .inner()
            .into_data();
        let values = data.as_mut_slice::<f32>().map_err(|e| anyhow!("{e:?}"))?;
        let (rule, clipped) = (self.rule, self.clipped);
        values
            .par_chunks_mut(TASK)
            .zip(self.latent.par_chunks_mut(TASK))
            .zip(self.first_moment.par_chunks_mut(TASK))
            .zip(self.second_moment.par_chunks_mut(TASK))
            .zip(gradient.par_chunks(TASK))
            .try_for_each(|((((values, latent), first), second), gradient)| {
                let moments = first.iter_mut().zip(second);
                for ((w, (m, v)), g) in latent.iter_mut().zip(moments).zip(gradient) {
                    *m = BETA_1 * *m + (1.0 - BETA_1) * g;
                    *v = BETA_2 * *v + (1.0 - BETA_2) * g * g;
                    *w -= rate * *m / (v.sqrt() * correction + EPSILON);
                }
                for (values, latent) in values.chunks_mut(CHUNK).zip(latent.chunks_mut(CHUNK)) {
                    if clipped {
                        StraightThrough.clip(ArrayViewMut1::from(&mut *latent))?;
                    }
                    rule.write(latent, values)?;
                }
                taper::Result::<()>::Ok(())
            })?;
        let data = TensorData::from_bytes(data.into_bytes(), shape, DType::F32);
        self.tensor = Tensor::from_data(data, &device).require_grad();
        Ok(())
    }
}

/// Half of the bound of Glorot and Bengio's uniform distribution.
fn glorot(inputs: usize, outputs: usize) -> f64 {
    (1.5 / (inputs + outputs) as f64).sqrt()
}

fn uniform(bound: f64, count: usize, seed: Seed) -> Vec<f32> {
    (0..count as u64)
        .map(|i| ((random::uniform(seed, i) * 2.0 - 1.0) * bound) as f32)
        .collect()
}
