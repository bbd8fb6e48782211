//! The sentence transformer all-MiniLM-L6-v2 in candle, with matrices in any form.

use std::path::Path;

use anyhow::{Result, anyhow, ensure};
use candle_core::{D, Device, Module, Tensor};
use ndarray::{Array2, ArrayD, ArrayView2, Ix2};
use rayon::prelude::*;
use tokenizers::Tokenizer;

const LAYERS: usize = 6;
const HEADS: usize = 12;
const EPSILON: f32 = 1e-12;

/// The name of the table of words.
pub const WORDS: &str = "embeddings.word_embeddings.weight";

/// The weights of an encoder, and the form that its matrices are held in.
pub trait Weights {
    /// The tensor of this name.
    ///
    /// # Errors
    ///
    /// If there is none.
    fn tensor(&self, name: &str) -> Result<ArrayD<f32>>;

    /// A layer that multiplies by a matrix.
    ///
    /// # Errors
    ///
    /// If the matrix cannot be put into its form.
    fn layer(&mut self, matrix: Array2<f32>) -> Result<Box<dyn Module>> {
        Ok(Box::new(Dense::new(&matrix)?))
    }

    /// The function from tokens to the rows of the table of words.
    ///
    /// # Errors
    ///
    /// If the table cannot be put into its form.
    fn words(&mut self, table: Array2<f32>) -> Result<Box<Lookup>> {
        Ok(dense_words(&table)?)
    }
}

/// Rows of a table, as (tokens, width).
pub type Lookup = dyn Fn(&[u32]) -> Result<Tensor>;

/// A matrix as a tensor of candle.
///
/// # Errors
///
/// Those of candle.
pub fn tensor(matrix: &Array2<f32>) -> candle_core::Result<Tensor> {
    let values: Vec<f32> = matrix.iter().copied().collect();
    Tensor::from_vec(values, matrix.dim(), &Device::Cpu)
}

/// A table of words in single precision.
///
/// # Errors
///
/// Those of candle.
pub fn dense_words(table: &Array2<f32>) -> candle_core::Result<Box<Lookup>> {
    let table = tensor(table)?;
    Ok(Box::new(move |tokens| {
        let tokens = Tensor::new(tokens, &Device::Cpu)?;
        Ok(table.index_select(&tokens, 0)?)
    }))
}

/// A dense matrix (out, in) as a layer.
#[derive(Debug)]
pub struct Dense(Tensor);

impl Dense {
    /// Creates a layer.
    ///
    /// # Errors
    ///
    /// Those of candle.
    pub fn new(matrix: &Array2<f32>) -> candle_core::Result<Self> {
        Ok(Self(tensor(matrix)?))
    }
}

impl Module for Dense {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        x.broadcast_matmul(&self.0.t()?)
    }
}

struct Linear {
    name: String,
    weight: Box<dyn Module>,
    bias: Tensor,
}

impl Linear {
    fn forward(&self, x: &Tensor, watch: &mut Watch<'_>) -> candle_core::Result<Tensor> {
        watch(&self.name, x)?;
        self.weight.forward(x)?.broadcast_add(&self.bias)
    }
}

/// Receives the inputs of each layer under the name of its matrix.
pub type Watch<'a> = dyn FnMut(&str, &Tensor) -> candle_core::Result<()> + 'a;

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

/// The encoder.
pub struct Encoder {
    words: Box<Lookup>,
    places: Tensor,
    norm: Norm,
    layers: Vec<Layer>,
}

fn matrix(weights: &dyn Weights, name: &str) -> Result<Array2<f32>> {
    Ok(weights.tensor(name)?.into_dimensionality::<Ix2>()?)
}

fn vector(weights: &dyn Weights, name: &str) -> Result<Vec<f32>> {
    Ok(weights.tensor(name)?.into_raw_vec_and_offset().0)
}

fn linear(weights: &mut dyn Weights, name: &str) -> Result<Linear> {
    let bias = vector(weights, &format!("{name}.bias"))?;
    let name = format!("{name}.weight");
    let matrix = matrix(weights, &name)?;
    Ok(Linear {
        weight: weights.layer(matrix)?,
        bias: Tensor::new(bias, &Device::Cpu)?,
        name,
    })
}

fn norm(weights: &dyn Weights, name: &str) -> Result<Norm> {
    Ok(Norm {
        weight: vector(weights, &format!("{name}.weight"))?,
        bias: vector(weights, &format!("{name}.bias"))?,
    })
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

impl Encoder {
    /// Reads the weights and puts them into their form.
    ///
    /// # Errors
    ///
    /// If a tensor is missing or cannot be put into its form.
    pub fn new(weights: &mut dyn Weights) -> Result<Self> {
        let table = matrix(weights, WORDS)?;
        let words = weights.words(table)?;
        let positions = matrix(weights, "embeddings.position_embeddings.weight")?;
        let kinds = matrix(weights, "embeddings.token_type_embeddings.weight")?;
        let mut layers = Vec::new();
        for i in 0..LAYERS {
            let name = |part: &str| format!("encoder.layer.{i}.{part}");
            layers.push(Layer {
                query: linear(weights, &name("attention.self.query"))?,
                key: linear(weights, &name("attention.self.key"))?,
                value: linear(weights, &name("attention.self.value"))?,
                attention: linear(weights, &name("attention.output.dense"))?,
                attention_norm: norm(weights, &name("attention.output.LayerNorm"))?,
                up: linear(weights, &name("intermediate.dense"))?,
                down: linear(weights, &name("output.dense"))?,
                norm: norm(weights, &name("output.LayerNorm"))?,
            });
        }
        Ok(Self {
            words,
            places: tensor(&(&positions + &kinds.row(0)))?,
            norm: norm(weights, "embeddings.LayerNorm")?,
            layers,
        })
    }

    /// The embeddings, of length 1, of sentences that have one number of tokens: (sentences, width).
    ///
    /// # Errors
    ///
    /// Those of candle, and for sentences of several lengths.
    pub fn embed(&self, tokens: &[Vec<u32>], watch: &mut Watch<'_>) -> Result<Array2<f32>> {
        let (batch, length) = (tokens.len(), tokens[0].len());
        let equal = tokens.iter().all(|tokens| tokens.len() == length);
        ensure!(equal, "sentences of several lengths");
        let words = (self.words)(&tokens.concat())?;
        let width = words.dim(1)?;
        let words = words.reshape((batch, length, width))?;
        let places = self.places.narrow(0, 0, length)?;
        let mut x = self.norm.forward(&words.broadcast_add(&places)?)?;
        for layer in &self.layers {
            let mut heads = |linear: &Linear| {
                let all = linear.forward(&x, watch)?;
                let all = all.reshape((batch, length, HEADS, width / HEADS))?;
                all.transpose(1, 2)?.contiguous()
            };
            let (query, key) = (heads(&layer.query)?, heads(&layer.key)?);
            let value = heads(&layer.value)?;
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
            let mixed = layer.attention.forward(&mixed, watch)?;
            let attended = layer.attention_norm.forward(&(mixed + x)?)?;
            let up = layer.up.forward(&attended, watch)?.gelu_erf()?;
            let down = layer.down.forward(&up, watch)?;
            x = layer.norm.forward(&(down + attended)?)?;
        }
        let mean: Vec<f32> = x.mean(1)?.flatten_all()?.to_vec1()?;
        let mut mean = Array2::from_shape_vec((batch, width), mean)?;
        for mut row in mean.rows_mut() {
            let norm = row.dot(&row).sqrt();
            row /= norm;
        }
        Ok(mean)
    }

    /// The embeddings of sentences of any lengths, those of one length together.
    ///
    /// # Errors
    ///
    /// As [`embed`](Self::embed).
    pub fn embed_all(&self, tokens: &[Vec<u32>], watch: &mut Watch<'_>) -> Result<Array2<f32>> {
        let mut order: Vec<usize> = (0..tokens.len()).collect();
        order.sort_by_key(|&sentence| tokens[sentence].len());
        let mut all = Vec::new();
        for equal in order.chunk_by(|&a, &b| tokens[a].len() == tokens[b].len()) {
            let batch: Vec<Vec<u32>> = equal.iter().map(|&i| tokens[i].clone()).collect();
            let rows = self.embed(&batch, watch)?;
            all.extend(
                equal
                    .iter()
                    .copied()
                    .zip(rows.outer_iter().map(|row| row.to_owned())),
            );
        }
        let width = all.first().map_or(0, |(_, row)| row.len());
        let mut out = Array2::zeros((tokens.len(), width));
        for (sentence, row) in all {
            out.row_mut(sentence).assign(&row);
        }
        Ok(out)
    }
}

/// The inputs of a layer as a matrix (rows, width).
///
/// # Errors
///
/// Those of candle.
pub fn rows(x: &Tensor) -> candle_core::Result<Array2<f32>> {
    let width = x.dim(D::Minus1)?;
    let values: Vec<f32> = x.flatten_all()?.to_vec1()?;
    Ok(
        ArrayView2::from_shape((values.len() / width, width), &values)
            .map_err(candle_core::Error::wrap)?
            .to_owned(),
    )
}

/// The tokens of sentences, by the file tokenizer.json in `folder`.
///
/// # Errors
///
/// If there is none, and for a sentence that it cannot divide.
pub fn tokens(folder: &Path, sentences: &[String]) -> Result<Vec<Vec<u32>>> {
    let tokenizer = Tokenizer::from_file(folder.join("tokenizer.json"));
    let mut tokenizer = tokenizer.map_err(|error| anyhow!("the tokenizer: {error}"))?;
    tokenizer.with_padding(None);
    let tokens = sentences.iter().map(|sentence| {
        let tokens = tokenizer.encode(sentence.as_str(), true);
        let tokens = tokens.map_err(|error| anyhow!("{sentence}: {error}"))?;
        Ok(tokens.get_ids().to_vec())
    });
    tokens.collect()
}
