//! The 3×3 convolution as an operation of burn.
//!
//! burn's own operation copies images to channels-last order and multiplies in tiles of a few rows. This one writes out the values under
//! the kernel for several images at a time, channels first, so that all three products (forward and both gradients) are large.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, binary};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Tensor, TensorData};
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

/// Positions under one kernel.
const TAPS: usize = 9;
/// About how many output positions one product computes.
const PLACES: usize = 1024;
/// The number of runs into which a batch is divided; weight gradients are summed over the runs in order.
const RUNS: usize = 4;

/// The operation, as an extension of burn's backends.
#[backend_extension(Autodiff, Flex)]
pub trait ConvolutionBackend: Backend {
    /// Convolves images of shape (batch, in, side, side) with kernels of shape (out, in, 3, 3), with zero padding of one.
    fn convolution(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// Convolves `x`, of shape (batch, in, side, side), with `weight`, of shape (out, in, 3, 3), at every position.
pub fn convolution(x: Tensor<4>, weight: Tensor<4>) -> Tensor<4> {
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(<Dispatch as ConvolutionBackend>::convolution(x, weight))
}

impl ConvolutionBackend for Flex {
    fn convolution(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        let (x, weight) = (Images::new(x), Images::new(weight));
        convolve(&x, weight.values(), weight.shape[0])
    }
}

impl<C: CheckpointStrategy> ConvolutionBackend for Autodiff<Flex, C> {
    fn convolution(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        let prepared = ConvolutionBackward
            .prepare::<C>([x.node(), weight.node()])
            .compute_bound()
            .stateful();
        let (x, weight) = (x.into_primitive(), weight.into_primitive());
        let y = Flex::convolution(x.clone(), weight.clone());
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish((x, weight), y),
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        }
    }
}

#[derive(Debug)]
struct ConvolutionBackward;

impl Backward<Flex, 2> for ConvolutionBackward {
    type State = (FlexTensor, FlexTensor);

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let (x, weight) = ops.state;
        binary::<Flex, _, _>(
            ops.parents,
            ops.node,
            gradients,
            |gradient| {
                let weight = Images::new(weight);
                let [_, inputs, ..] = weight.shape;
                convolve(&Images::new(gradient), &turned(&weight), inputs)
            },
            |gradient| weight_gradient(&Images::new(x), &Images::new(gradient)),
        );
    }
}

/// A contiguous tensor of four axes.
struct Images {
    tensor: FlexTensor,
    shape: [usize; 4],
}

impl Images {
    fn new(tensor: FlexTensor) -> Self {
        let tensor = tensor.to_contiguous();
        let shape = tensor.layout().shape().dims::<4>();
        Self { tensor, shape }
    }

    fn values(&self) -> &[f32] {
        let start = self.tensor.layout().start_offset();
        &self.tensor.storage::<f32>()[start..start + self.shape.iter().product::<usize>()]
    }

    /// The number of images per product, and the number per run.
    fn together(&self) -> (usize, usize) {
        let [batch, _, height, width] = self.shape;
        let together = PLACES.div_ceil(height * width);
        (together, batch.div_ceil(RUNS).next_multiple_of(together))
    }

    /// The values of one image.
    fn each(&self) -> usize {
        self.shape[1..].iter().product()
    }
}

fn tensor(values: Vec<f32>, shape: [usize; 4]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

/// The kernels of the backward pass: rotated by 180°, inputs and outputs exchanged.
fn turned(weight: &Images) -> Vec<f32> {
    let [outputs, inputs, ..] = weight.shape;
    let values = weight.values();
    let mut turned = vec![0.0; values.len()];
    for output in 0..outputs {
        for input in 0..inputs {
            for tap in 0..TAPS {
                turned[(input * outputs + output) * TAPS + TAPS - 1 - tap] =
                    values[(output * inputs + input) * TAPS + tap];
            }
        }
    }
    turned
}

/// Convolves images with `outputs` kernels.
fn convolve(x: &Images, weight: &[f32], outputs: usize) -> FlexTensor {
    let [batch, inputs, height, width] = x.shape;
    let places = height * width;
    let (together, run) = x.together();
    let mut y = vec![0.0; batch * outputs * places];
    let weight = MatRef::from_row_major_slice(weight, outputs, inputs * TAPS);
    y.par_chunks_mut(run * outputs * places)
        .zip(x.values().par_chunks(run * x.each()))
        .for_each(|(y, x)| {
            let mut columns = vec![0.0; inputs * TAPS * together * places];
            let mut sums = vec![0.0; outputs * together * places];
            let blocks = y.chunks_mut(together * outputs * places);
            for (y, x) in blocks.zip(x.chunks(together * inputs * places)) {
                let count = x.len() / (inputs * places);
                let n = count * places;
                let columns = &mut columns[..inputs * TAPS * n];
                write_columns(x, [inputs, height, width], columns);
                let columns = MatRef::from_row_major_slice(columns, inputs * TAPS, n);
                let into: &mut [f32] = if count == 1 {
                    y
                } else {
                    &mut sums[..outputs * n]
                };
                let product = MatMut::from_row_major_slice_mut(into, outputs, n);
                matmul(product, Accum::Replace, weight, columns, 1.0, Par::Seq);
                if count > 1 {
                    exchange(&sums[..outputs * n], y, [outputs, count, places]);
                }
            }
        });
    tensor(y, [batch, outputs, height, width])
}

/// The gradient of the kernels, from the images `x` and the gradient of the output.
fn weight_gradient(x: &Images, gradient: &Images) -> FlexTensor {
    let [_, inputs, height, width] = x.shape;
    let outputs = gradient.shape[1];
    let places = height * width;
    let (together, run) = x.together();
    let runs: Vec<Vec<f32>> = x
        .values()
        .par_chunks(run * x.each())
        .zip(gradient.values().par_chunks(run * gradient.each()))
        .map(|(x, gradient)| {
            let mut sum = vec![0.0; outputs * inputs * TAPS];
            let mut columns = vec![0.0; inputs * TAPS * together * places];
            let mut rows = vec![0.0; outputs * together * places];
            let blocks = x.chunks(together * inputs * places);
            for (x, gradient) in blocks.zip(gradient.chunks(together * outputs * places)) {
                let count = x.len() / (inputs * places);
                let n = count * places;
                let columns = &mut columns[..inputs * TAPS * n];
                write_columns(x, [inputs, height, width], columns);
                let rows = &mut rows[..outputs * n];
                exchange(gradient, rows, [count, outputs, places]);
                matmul(
                    MatMut::from_row_major_slice_mut(&mut sum, outputs, inputs * TAPS),
                    Accum::Add,
                    MatRef::from_row_major_slice(rows, outputs, n),
                    MatRef::from_row_major_slice(columns, inputs * TAPS, n).transpose(),
                    1.0,
                    Par::Seq,
                );
            }
            sum
        })
        .collect();
    let total = runs.into_iter().reduce(|mut total, run| {
        for (total, value) in total.iter_mut().zip(run) {
            *total += value;
        }
        total
    });
    tensor(total.unwrap_or_default(), [outputs, inputs, 3, 3])
}

/// `from`, of shape (a, b, length), with its first two axes exchanged.
fn exchange(from: &[f32], to: &mut [f32], [a, b, length]: [usize; 3]) {
    for (i, from) in from.chunks_exact(b * length).enumerate().take(a) {
        for (j, from) in from.chunks_exact(length).enumerate() {
            to[(j * a + i) * length..][..length].copy_from_slice(from);
        }
    }
}

/// The values under the kernel at each position of each image, of shape (channels × 9, images × positions).
fn write_columns(x: &[f32], [channels, height, width]: [usize; 3], columns: &mut [f32]) {
    let places = height * width;
    let n = x.len() / channels;
    for (row, columns) in columns.chunks_exact_mut(n).enumerate() {
        let (channel, tap) = (row / TAPS, row % TAPS);
        let (down, right) = (tap / 3, tap % 3);
        for (image, columns) in columns.chunks_exact_mut(places).enumerate() {
            let plane = &x[(image * channels + channel) * places..][..places];
            for (y, out) in columns.chunks_exact_mut(width).enumerate() {
                // The kernel's middle is at (1, 1).
                let Some(from) = (y + down).checked_sub(1).filter(|&y| y < height) else {
                    out.fill(0.0);
                    continue;
                };
                let from = &plane[from * width..][..width];
                match right {
                    0 => {
                        out[0] = 0.0;
                        out[1..].copy_from_slice(&from[..width - 1]);
                    }
                    1 => out.copy_from_slice(from),
                    _ => {
                        out[..width - 1].copy_from_slice(&from[1..]);
                        out[width - 1] = 0.0;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn::PaddingConfig2d;
    use burn::nn::conv::Conv2dConfig;
    use burn::tensor::Device;

    /// Small integers, so that every sum is exact in any order.
    fn numbers(shape: [usize; 4], step: usize) -> Tensor<4> {
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|i| ((i * step) % 11) as f32 - 5.0).collect();
        let device = Device::flex().autodiff();
        Tensor::from_data(TensorData::new(values, shape), &device).require_grad()
    }

    fn values(tensor: Tensor<4>) -> Vec<f32> {
        tensor.into_data().try_into_vec().unwrap()
    }

    #[test]
    fn result_and_both_gradients_are_those_of_burns_own_operation() {
        for (batch, inputs, outputs, height, width) in [
            (1, 1, 1, 1, 1),
            (3, 2, 5, 7, 7),
            (2, 3, 4, 32, 32),
            (40, 3, 2, 6, 6),
            (300, 2, 3, 2, 2),
            (5, 2, 3, 4, 9),
        ] {
            let x = numbers([batch, inputs, height, width], 7);
            let weight = numbers([outputs, inputs, 3, 3], 3);
            let mut own = Conv2dConfig::new([inputs, outputs], [3, 3])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .with_bias(false)
                .init(&weight.device());
            own.weight = burn::module::Param::from_tensor(weight.clone().detach());
            let weight_of_own = own.weight.val();
            let factors = numbers([batch, outputs, height, width], 5).detach();
            let expected = own.forward(x.clone());
            let y = convolution(x.clone(), weight.clone());
            assert_eq!(values(y.clone()), values(expected.clone()));
            let theirs = (expected * factors.clone()).sum().backward();
            let ours = (y * factors).sum().backward();
            let gradient = |of: &Tensor<4>, gradients| values(of.grad(gradients).unwrap());
            assert_eq!(gradient(&x, &ours), gradient(&x, &theirs));
            assert_eq!(gradient(&weight, &ours), gradient(&weight_of_own, &theirs));
        }
    }
}
