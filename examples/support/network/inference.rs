//! A trained network as plain arrays.
//!
//! Threads compute blocks of images that fit the cache. Results do not depend on the number of threads.

use std::sync::Arc;

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, ArrayViewMut2, Axis, Zip, s};
use rayon::prelude::*;
use taper::LinearOp;

use super::product::times_transposed;
use crate::data::Dataset;

/// Images per block.
const BLOCK: usize = 500;

/// A weight matrix of shape (out, in).
#[derive(Debug, Clone)]
pub enum Weight {
    /// A dense matrix.
    Dense(Array2<f32>),
    /// A compressed matrix.
    Compressed(Arc<dyn LinearOp<f32>>),
}

impl Weight {
    /// Wraps a compressed weight.
    pub fn compressed(weight: impl LinearOp<f32> + 'static) -> Self {
        Self::Compressed(Arc::new(weight))
    }

    /// The shape, (out, in).
    pub fn shape(&self) -> (usize, usize) {
        match self {
            Self::Dense(weight) => weight.dim(),
            Self::Compressed(weight) => match *weight.shape() {
                [outputs, inputs] => (outputs, inputs),
                _ => (0, 0),
            },
        }
    }

    /// The bytes of the weight in a file.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Dense(weight) => 4 * weight.len() as u64,
            Self::Compressed(weight) => weight.storage().bytes(),
        }
    }

    /// x Wᵀ.
    fn times(&self, x: ArrayView2<'_, f32>) -> taper::Result<Array2<f32>> {
        match self {
            Self::Dense(weight) => Ok(times_transposed(x, weight.view())),
            Self::Compressed(weight) => weight.apply(x),
        }
    }
}

/// Batch normalization with fixed statistics: γ (x − mean) / √(variance + ε) + β.
///
/// S. Ioffe and C. Szegedy, "Batch Normalization", 2015, arXiv:1502.03167.
#[derive(Debug, Clone, PartialEq)]
pub struct Norm {
    /// γ.
    pub gamma: Array1<f32>,
    /// β.
    pub beta: Array1<f32>,
    /// The mean of each feature.
    pub mean: Array1<f32>,
    /// The variance of each feature.
    pub variance: Array1<f32>,
    /// ε.
    pub epsilon: f32,
}

impl Norm {
    /// The two vectors of scale · x + shift.
    pub fn scale_and_shift(&self) -> (Array1<f32>, Array1<f32>) {
        let scale = &self.gamma / &self.variance.mapv(|v| (v + self.epsilon).sqrt());
        let shift = &self.beta - &(&self.mean * &scale);
        (scale, shift)
    }
}

/// A linear layer, with optional batch normalization and ReLU.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The name in reports.
    pub name: String,
    /// W, of shape (out, in).
    pub weight: Weight,
    /// The bias b of x Wᵀ + b.
    pub bias: Option<Array1<f32>>,
    /// Batch normalization.
    pub norm: Option<Norm>,
    /// Whether negative results become zero.
    pub relu: bool,
}

impl Layer {
    /// x Wᵀ + b.
    pub(super) fn linear(&self, x: ArrayView2<'_, f32>) -> taper::Result<Array2<f32>> {
        let mut y = self.weight.times(x)?;
        if let Some(bias) = &self.bias {
            y += bias;
        }
        Ok(y)
    }

    /// Batch normalization and ReLU, in place.
    pub(super) fn activate(&self, mut y: ArrayViewMut2<'_, f32>) {
        let scale_and_shift = self.norm.as_ref().map(Norm::scale_and_shift);
        for row in y.rows_mut() {
            match &scale_and_shift {
                Some((scale, shift)) => {
                    Zip::from(row).and(scale).and(shift).for_each(|y, &a, &b| {
                        let value = a * *y + b;
                        *y = if self.relu { value.max(0.0) } else { value };
                    });
                }
                None if self.relu => {
                    for y in row {
                        *y = y.max(0.0);
                    }
                }
                None => {}
            }
        }
    }
}

/// A sequence of layers.
#[derive(Debug, Clone)]
pub struct Network {
    /// The layers, from the images to the classes.
    pub layers: Vec<Layer>,
}

impl Network {
    /// The network with other weights. `replace` returns the weight of each layer, or `None` to keep it.
    ///
    /// # Errors
    ///
    /// Those of `replace`.
    pub fn with_weights<E>(
        &self,
        mut replace: impl FnMut(usize, &Layer) -> Result<Option<Weight>, E>,
    ) -> Result<Self, E> {
        let mut network = self.clone();
        for (i, layer) in network.layers.iter_mut().enumerate() {
            if let Some(weight) = replace(i, layer)? {
                layer.weight = weight;
            }
        }
        Ok(network)
    }

    /// The bytes of the network in a file: weights, biases and four vectors per batch normalization.
    pub fn bytes(&self) -> u64 {
        self.layers
            .iter()
            .map(|layer| {
                let bias = layer.bias.as_ref().map_or(0, Array1::len);
                let norm = layer.norm.as_ref().map_or(0, |norm| 4 * norm.gamma.len());
                layer.weight.bytes() + 4 * (bias + norm) as u64
            })
            .sum()
    }

    /// The last layer's results, of shape (images, classes).
    ///
    /// # Errors
    ///
    /// If the images do not have the length of the first layer's inputs, or two layers do not fit.
    pub fn logits(&self, images: ArrayView2<'_, f32>) -> taper::Result<Array2<f32>> {
        let classes = self.layers.last().map_or(0, |layer| layer.weight.shape().0);
        let mut logits = Array2::zeros((images.nrows(), classes));
        for_each_block(images, &mut logits, |block, mut out| {
            let mut x = block.to_owned();
            for layer in &self.layers {
                x = layer.linear(x.view())?;
                layer.activate(x.view_mut());
            }
            out.assign(&x);
            Ok(())
        })?;
        Ok(logits)
    }

    /// Predicts the class of each image.
    ///
    /// # Errors
    ///
    /// As [`logits`](Self::logits).
    pub fn predict(&self, images: ArrayView2<'_, f32>) -> taper::Result<Vec<usize>> {
        Ok(self
            .logits(images)?
            .rows()
            .into_iter()
            .map(largest)
            .collect())
    }

    /// The accuracy in percent.
    ///
    /// # Errors
    ///
    /// As [`logits`](Self::logits).
    pub fn accuracy(&self, data: &Dataset) -> taper::Result<f64> {
        Ok(percent_equal(
            &self.predict(data.images.view())?,
            &data.labels,
        ))
    }
}

/// The index of the largest value; of equal values, the first.
pub fn largest(values: ArrayView1<'_, f32>) -> usize {
    let mut best = (0, f32::NEG_INFINITY);
    for (i, &value) in values.iter().enumerate() {
        if value > best.1 {
            best = (i, value);
        }
    }
    best.0
}

/// The percentage of positions with equal classes.
pub fn percent_equal(predictions: &[usize], labels: &[usize]) -> f64 {
    let equal = predictions
        .iter()
        .zip(labels)
        .filter(|(a, b)| a == b)
        .count();
    100.0 * equal as f64 / labels.len().max(1) as f64
}

/// Calls `f` on each block of rows of `input` with the same rows of `output`.
pub(super) fn for_each_block(
    input: ArrayView2<'_, f32>,
    output: &mut Array2<f32>,
    f: impl Fn(ArrayView2<'_, f32>, ArrayViewMut2<'_, f32>) -> taper::Result<()> + Sync,
) -> taper::Result<()> {
    let outputs: Vec<_> = output.axis_chunks_iter_mut(Axis(0), BLOCK).collect();
    outputs
        .into_par_iter()
        .enumerate()
        .try_for_each(|(i, out)| {
            let start = i * BLOCK;
            f(input.slice(s![start..start + out.nrows(), ..]), out)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    fn layer(weight: Array2<f32>) -> Layer {
        Layer {
            name: "layer".into(),
            weight: Weight::Dense(weight),
            bias: None,
            norm: None,
            relu: false,
        }
    }

    #[test]
    fn a_network_small_enough_to_compute_by_hand() {
        let network = Network {
            layers: vec![
                Layer {
                    bias: Some(array![1.0, 0.0]),
                    norm: Some(Norm {
                        gamma: array![2.0, 1.0],
                        beta: array![0.5, -1.0],
                        mean: array![1.0, 2.0],
                        variance: array![3.0, 0.0],
                        epsilon: 1.0,
                    }),
                    relu: true,
                    ..layer(array![[1.0, 2.0], [0.0, 1.0]])
                },
                layer(array![[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]),
            ],
        };
        // x Wᵀ + b = (1 + 4 + 1, 2); normalized (2·5/2 + 0.5, −1), after ReLU (5.5, 0).
        let logits = network.logits(array![[1.0, 2.0]].view()).unwrap();
        assert_eq!(logits, array![[5.5, 0.0, 5.5]]);
        // The first of two equal classes.
        assert_eq!(network.predict(array![[1.0, 2.0]].view()).unwrap(), [0]);
        assert_eq!(network.bytes(), 4 * (4 + 2 + 8 + 6));
    }

    #[test]
    fn blocks_do_not_change_the_results() {
        let weight = Array2::from_shape_fn((3, 4), |(i, j)| (i * 4 + j) as f32 - 5.0);
        let network = Network {
            layers: vec![layer(weight.clone())],
        };
        let images = Array2::from_shape_fn((2 * BLOCK + 3, 4), |(i, j)| ((i + j) % 9) as f32);
        assert_eq!(
            network.logits(images.view()).unwrap(),
            images.dot(&weight.t())
        );
    }

    #[test]
    fn accuracy_counts_in_percent() {
        assert_eq!(percent_equal(&[1, 2, 3, 4], &[1, 2, 0, 4]), 75.0);
        assert_eq!(percent_equal(&[], &[]), 0.0);
    }
}
