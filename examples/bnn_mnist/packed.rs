//! The trained network on packed bits: sizes, predictions and times.

use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use ndarray::{Array2, ArrayView2, s};
use support::low_bit::{LowBitMlp, file};
use taper::Compressed;

use crate::Images;
use crate::figures::Packed;

/// The packed network beside the simulated and the dense one; written to `path` and read from there.
pub fn pack(network: &LowBitMlp, measured: &Images, path: Option<&Path>) -> anyhow::Result<Packed> {
    let made = network.pack()?;
    let inputs = measured.levels.ncols();
    // What is measured is the network that was read from its bytes.
    let packed = match path {
        Some(path) => {
            file::write(path, &made, inputs)?;
            file::read(path)?
        }
        None => file::from_bytes(&file::to_bytes(&made, inputs)?)?,
    };
    let logits = packed.forward_bytes(measured.levels.view(), LowBitMlp::UNIT)?;
    let predictions: Vec<usize> = logits
        .rows()
        .into_iter()
        .map(|row| largest(row.to_slice()))
        .collect();
    let simulated = network.predict(measured.levels.view())?;

    // The matrices between hidden layers: both sides are binary there.
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
    let packed_seconds = seconds(|| {
        let y = packed.forward_bytes(black_box(batch), LowBitMlp::UNIT);
        black_box(y).map(|_| ()).map_err(Into::into)
    })?;
    let faer_seconds = seconds(|| {
        black_box(dense_forward(&dense, real.view(), faer_product));
        Ok(())
    })?;
    let ndarray_seconds = seconds(|| {
        black_box(dense_forward(&dense, real.view(), |x, w| x.dot(&w.t())));
        Ok(())
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

fn largest(values: Option<&[f32]>) -> usize {
    let values = values.unwrap_or_default().iter().enumerate();
    values
        .fold((0, f32::NEG_INFINITY), |best, (i, &x)| {
            if x > best.1 { (i, x) } else { best }
        })
        .0
}

/// The median time of a call, over nine.
fn seconds(mut call: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    call()?;
    let mut times = Vec::new();
    for _ in 0..9 {
        let start = Instant::now();
        call()?;
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// The products and hard tanhs of a float network of the same shape: BatchNorm is folded into its weights.
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
