//! The trained network on packed bits: sizes, predictions and times.

use std::hint::black_box;
use std::path::Path;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use ndarray::{Array2, ArrayView2, s};
use support::low_bit::{LowBitMlp, file};
use support::network::inference::largest;
use support::timing::median_seconds;
use taper::Compressed;

use crate::Images;
use crate::figures::Packed;

/// Compares the packed network, written to `path` and read back, with the simulated and the dense one.
pub fn pack(network: &LowBitMlp, measured: &Images, path: Option<&Path>) -> anyhow::Result<Packed> {
    let made = network.pack()?;
    let inputs = measured.levels.ncols();
    // The measured network is the one that was read from its bytes.
    let packed = match path {
        Some(path) => {
            file::write(path, &made, inputs)?;
            file::read(path)?
        }
        None => file::from_bytes(&file::to_bytes(&made, inputs)?)?,
    };
    let logits = packed.forward_bytes(measured.levels.view(), LowBitMlp::UNIT)?;
    let predictions: Vec<usize> = logits.rows().into_iter().map(largest).collect();
    let simulated = network.predict(measured.levels.view())?;

    // The matrices between hidden layers, where inputs and weights are binary.
    let hidden: Vec<_> = packed.matrices().skip(1).collect();
    let hidden_bytes = hidden.iter().map(|w| w.storage().bytes()).sum();
    let hidden_dense_bytes = hidden
        .iter()
        .map(|w| w.shape().iter().product::<usize>() as u64 * 4)
        .sum();
    let parts = packed.parts();
    let file_bytes = parts.iter().flatten().map(|part| part.bytes.len() as u64);
    let dense: Vec<Array2<f32>> = network
        .layers()
        .iter()
        .map(|layer| layer.matrix())
        .collect::<Result<_, _>>()?;

    let batch = measured
        .levels
        .slice(s![..100.min(measured.labels.len()), ..]);
    let real = batch.mapv(|level| f32::from(level) * LowBitMlp::UNIT);
    let packed_seconds = median_seconds(9, || {
        packed.forward_bytes(black_box(batch), LowBitMlp::UNIT)
    })?;
    let faer_seconds = median_seconds(9, || {
        anyhow::Ok(dense_forward(&dense, real.view(), faer_product))
    })?;
    let ndarray_seconds = median_seconds(9, || {
        anyhow::Ok(dense_forward(&dense, real.view(), |x, w| x.dot(&w.t())))
    })?;
    Ok(Packed {
        predictions_equal: predictions == simulated,
        images: predictions.len(),
        hidden_bytes,
        hidden_dense_bytes,
        memory_bytes: packed.memory_bytes(),
        file_bytes: file_bytes.sum(),
        dense_bytes: dense.iter().map(|w| 4 * w.len() as u64).sum(),
        packed_seconds,
        faer_seconds,
        ndarray_seconds,
        time_ratio: faer_seconds / packed_seconds,
    })
}

/// The products and hard tanhs of a float network of the same shape, with BatchNorm folded into its weights.
fn dense_forward(
    weights: &[Array2<f32>],
    x: ArrayView2<'_, f32>,
    product: impl Fn(ArrayView2<'_, f32>, ArrayView2<'_, f32>) -> Array2<f32>,
) -> Array2<f32> {
    weights.iter().fold(x.to_owned(), |x, w| {
        let mut y = product(x.view(), w.view());
        y.mapv_inplace(|y| y.clamp(-1.0, 1.0));
        y
    })
}

/// x Wᵀ by faer, on all threads.
fn faer_product(x: ArrayView2<'_, f32>, w: ArrayView2<'_, f32>) -> Array2<f32> {
    let mut y = Array2::zeros((x.nrows(), w.nrows()));
    let shape = (x.nrows(), w.nrows(), x.ncols());
    if let (Some(x), Some(w), Some(y)) = (x.as_slice(), w.as_slice(), y.as_slice_mut()) {
        matmul(
            MatMut::from_row_major_slice_mut(y, shape.0, shape.1),
            Accum::Replace,
            MatRef::from_row_major_slice(x, shape.0, shape.2),
            MatRef::from_row_major_slice(w, shape.1, shape.2).transpose(),
            1.0_f32,
            Par::rayon(0),
        );
    }
    y
}
