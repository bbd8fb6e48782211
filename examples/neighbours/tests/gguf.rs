//! A GGUF file that taper writes is one that candle reads: the same weights, and the same products within the rounding of inputs.

use std::fs::File;

use candle_core::quantized::{GgmlDType, QMatMul, gguf_file};
use candle_core::{Device, Module, Tensor};
use ndarray::{Array2, Axis};
use taper::model::{CompressedModel, CompressedTensor};
use taper::quantize::fixed_point::{FixedPointQuantizer, Granularity, Range, Symmetry};
use taper::{FitContext, InputMoments, LinearOp, Precision, Quantizer, Seed};

const ROWS: usize = 48;
const COLUMNS: usize = 256;

fn numbers(rows: usize, columns: usize, seed: u64) -> Array2<f32> {
    let number = |i: usize| Seed::from(seed).derive(i as u64).value() as f64 / u64::MAX as f64;
    // The sum of three uniform numbers, about zero.
    let sum = |i: usize| (0..3).map(|k| number(3 * i + k)).sum::<f64>() - 1.5;
    Array2::from_shape_fn((rows, columns), |(i, j)| sum(i * columns + j) as f32)
}

#[test]
fn candle_multiplies_as_taper_does() -> anyhow::Result<()> {
    let weights = numbers(ROWS, COLUMNS, 1);
    // Inputs with a common part, as those of a layer have.
    let mut inputs = numbers(64, COLUMNS, 2);
    inputs += &numbers(1, COLUMNS, 3);
    let mut moments = InputMoments::new(COLUMNS)?;
    moments.add(inputs.view())?;
    let path = std::env::temp_dir().join(format!("taper-candle-{}.gguf", std::process::id()));
    for (bits, symmetry, layout) in [
        (4, Symmetry::SignedScale, GgmlDType::Q4_0),
        (4, Symmetry::Affine, GgmlDType::Q4_1),
        (8, Symmetry::Symmetric, GgmlDType::Q8_0),
    ] {
        let quantizer = FixedPointQuantizer::new(bits)
            .granularity(Granularity::Block(32))
            .symmetry(symmetry)
            .range(Range::SquaredError)
            .precision(Precision::F16);
        let context = FitContext::new().inputs(&moments);
        let matrix = quantizer.quantize_with(weights.view(), context)?;
        let mut model = CompressedModel::new();
        model.insert("fc.weight", CompressedTensor::new(matrix.clone()))?;
        model.insert_plain("fc.bias", numbers(1, ROWS, 4).into_dyn().view().into())?;
        model.set_metadata("general.architecture", "test");
        model.save_gguf(&path)?;
        let mut file = File::open(&path)?;
        let content = gguf_file::Content::read(&mut file)?;
        let tensor = content.tensor(&mut file, "fc.weight", &Device::Cpu)?;
        assert_eq!(tensor.dtype(), layout);
        assert_eq!(tensor.shape().dims(), [ROWS, COLUMNS]);
        let bias = content.tensor(&mut file, "fc.bias", &Device::Cpu)?;
        let bias: Vec<f32> = bias.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1()?;
        assert_eq!(bias, numbers(1, ROWS, 4).into_raw_vec_and_offset().0);
        let dense = matrix.decompress_matrix()?;
        let read: Vec<f32> = tensor.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1()?;
        // The least value of an affine block, at most fifteen steps, is rounded to half precision.
        let step = matrix.scales().into_iter().fold(0.0, f32::max);
        let moved = if layout == GgmlDType::Q4_1 {
            15.0 * step / 2048.0
        } else {
            0.0
        };
        for (read, expected) in read.iter().zip(&dense) {
            assert!(
                (read - expected).abs() <= moved,
                "{layout:?}: {read} for {expected}"
            );
        }
        let x = Tensor::from_iter(inputs.iter().copied(), &Device::Cpu)?;
        let y = QMatMul::from_qtensor(tensor)?.forward(&x.reshape(inputs.dim())?)?;
        let y = Array2::from_shape_vec((inputs.nrows(), ROWS), y.flatten_all()?.to_vec1::<f32>()?)?;
        let expected = matrix.apply(inputs.view())?;
        for ((i, o), expected) in expected.indexed_iter() {
            // candle rounds inputs to 8 bits, each to within half of the largest over 127, whose scale it rounds to half precision.
            let largest = inputs.row(i).fold(0.0_f32, |a, x| a.max(x.abs()));
            let row = dense.row(o).mapv(f32::abs).sum();
            let sum = inputs.row(i).mapv(f32::abs).sum();
            let bound = largest * (1.0 / 254.0 + 1.0 / 2048.0) * row + moved * sum;
            let bound = bound * (1.0 + COLUMNS as f32 * f32::EPSILON);
            assert!(
                (y[[i, o]] - expected).abs() <= bound,
                "{layout:?}: {} for {expected}",
                y[[i, o]]
            );
        }
        // Calibrated codes beat those of candle at the same bytes.
        if layout == GgmlDType::Q4_0 {
            let w = Tensor::from_iter(weights.iter().copied(), &Device::Cpu)?;
            let own =
                candle_core::quantized::QTensor::quantize(&w.reshape(weights.dim())?, layout)?;
            let own: Vec<f32> = own.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1()?;
            let own = Array2::from_shape_vec(weights.dim(), own)?;
            let error = |w: &Array2<f32>| {
                let y = inputs.dot(&(w - &weights).t());
                y.mapv(|y| f64::from(y).powi(2)).sum_axis(Axis(0)).sum()
            };
            assert!(error(&dense) < error(&own));
        }
    }
    std::fs::remove_file(&path)?;
    Ok(())
}
