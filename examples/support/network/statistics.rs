//! Statistics from images without labels: re-estimated statistics of BatchNorm, and the second moments of the inputs of layers.
//!
//! A replaced weight changes the mean and the variance of each feature, so that the old statistics are wrong. A forward pass over a few
//! thousand training images (no labels, no gradients) gives the new ones.

use ndarray::{Array1, Array2, ArrayView2, Axis};
use rayon::prelude::*;
use taper::InputMoments;

use super::inference::{Layer, Network, for_each_block};

/// Rows per block. The sums of blocks are added in order, for any number of threads.
const CHUNK: usize = 1000;

/// Sets mean and variance of every batch normalization to those over `images`, from the first layer to the last.
///
/// # Errors
///
/// As [`Network::logits`].
pub fn reestimate(network: &mut Network, images: ArrayView2<'_, f32>) -> taper::Result<()> {
    reestimate_with(network, images, |_, _, _| Ok(()))
}

/// Like [`reestimate`], but first calls `change` for each layer with its number and its current inputs.
///
/// # Errors
///
/// As [`reestimate`], and those of `change`.
pub fn reestimate_with<E: From<taper::Error>>(
    network: &mut Network,
    images: ArrayView2<'_, f32>,
    mut change: impl FnMut(usize, &mut Layer, ArrayView2<'_, f32>) -> Result<(), E>,
) -> Result<(), E> {
    let last = network
        .layers
        .iter()
        .rposition(|layer| layer.norm.is_some());
    let Some(last) = last else {
        return Ok(());
    };
    let mut x = images.to_owned();
    for (i, layer) in network.layers.iter_mut().enumerate().take(last + 1) {
        change(i, layer, x.view())?;
        let mut y = linear(layer, x.view())?;
        if let Some(norm) = &mut layer.norm {
            (norm.mean, norm.variance) = mean_and_variance(y.view());
        }
        activate(layer, &mut y);
        x = y;
    }
    Ok(())
}

/// The second moments of the inputs of each layer over `images`.
///
/// # Errors
///
/// As [`Network::logits`].
pub fn input_moments(
    network: &Network,
    images: ArrayView2<'_, f32>,
) -> taper::Result<Vec<InputMoments>> {
    let mut x = images.to_owned();
    let mut all = Vec::with_capacity(network.layers.len());
    for layer in &network.layers {
        let mut moments = InputMoments::new(x.ncols())?;
        moments.add(x.view())?;
        all.push(moments);
        let mut y = linear(layer, x.view())?;
        activate(layer, &mut y);
        x = y;
    }
    Ok(all)
}

fn linear(layer: &Layer, x: ArrayView2<'_, f32>) -> taper::Result<Array2<f32>> {
    let mut y = Array2::zeros((x.nrows(), layer.weight.shape().0));
    for_each_block(x, &mut y, |block, mut out| {
        out.assign(&layer.linear(block)?);
        Ok(())
    })?;
    Ok(y)
}

fn activate(layer: &Layer, y: &mut Array2<f32>) {
    let blocks: Vec<_> = y.axis_chunks_iter_mut(Axis(0), CHUNK).collect();
    blocks
        .into_par_iter()
        .for_each(|block| layer.activate(block));
}

/// Mean and (biased) variance of each column.
pub fn mean_and_variance(values: ArrayView2<'_, f32>) -> (Array1<f32>, Array1<f32>) {
    let rows = values.nrows().max(1) as f64;
    let chunks: Vec<_> = values.axis_chunks_iter(Axis(0), CHUNK).collect();
    let column_sums = |f: &(dyn Fn(usize, f64) -> f64 + Sync)| {
        let partial: Vec<Array1<f64>> = chunks
            .par_iter()
            .map(|chunk| {
                let mut sums = Array1::zeros(chunk.ncols());
                for row in chunk.rows() {
                    for (j, (sum, &value)) in sums.iter_mut().zip(row).enumerate() {
                        *sum += f(j, f64::from(value));
                    }
                }
                sums
            })
            .collect();
        let zero = Array1::<f64>::zeros(values.ncols());
        partial.iter().fold(zero, |total, sums| total + sums) / rows
    };
    // Two passes: a difference of squares would lose the digits of a small variance.
    let mean = column_sums(&|_, x| x);
    let variance = column_sums(&|j, x| (x - mean[j]).powi(2));
    (mean.mapv(|x| x as f32), variance.mapv(|x| x as f32))
}

#[cfg(test)]
mod tests {
    use super::super::inference::{Norm, Weight};
    use super::*;
    use ndarray::array;

    #[test]
    fn mean_and_variance_by_hand() {
        let values = array![[1.0, 1e4], [3.0, 1e4 + 2.0]];
        let (mean, variance) = mean_and_variance(values.view());
        assert_eq!(mean, array![2.0, 1e4 + 1.0]);
        assert_eq!(variance, array![1.0, 1.0]);
    }

    #[test]
    fn estimated_features_have_mean_zero_and_variance_one() {
        let norm = |features| Norm {
            gamma: Array1::ones(features),
            beta: Array1::zeros(features),
            mean: Array1::from_elem(features, 9.0),
            variance: Array1::from_elem(features, 0.1),
            epsilon: 0.0,
        };
        let layer = |outputs: usize, inputs: usize, relu| Layer {
            name: String::new(),
            weight: Weight::Dense(Array2::from_shape_fn((outputs, inputs), |(i, j)| {
                ((i * 13 + j * 5) % 17) as f32 - 8.0
            })),
            bias: Some(Array1::from_elem(outputs, 3.0)),
            norm: Some(norm(outputs)),
            relu,
        };
        let mut network = Network {
            layers: vec![layer(5, 7, true), layer(4, 5, false)],
        };
        let images = Array2::from_shape_fn((2345, 7), |(i, j)| ((i * (j + 3)) % 23) as f32 - 11.0);
        let moments = input_moments(&network, images.view()).unwrap();
        let seen: Vec<_> = moments.iter().map(|m| (m.features(), m.count())).collect();
        assert_eq!(seen, [(7, 2345), (5, 2345)]);
        reestimate(&mut network, images.view()).unwrap();
        let (mean, variance) = mean_and_variance(network.logits(images.view()).unwrap().view());
        // A few rounding errors of values near one and of statistics in single precision.
        let tolerance = 64.0 * f32::EPSILON;
        assert!(mean.iter().all(|m| m.abs() < tolerance), "{mean}");
        assert!(
            variance.iter().all(|v| (v - 1.0).abs() < tolerance),
            "{variance}"
        );
    }
}
