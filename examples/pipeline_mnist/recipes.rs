//! The methods that compress the network. Each writes a container and reads it back.

use std::collections::BTreeMap;

use anyhow::Context;
use ndarray::{Array1, ArrayView2, Ix2};
use support::data::Dataset;
use support::network::schedule::Schedule;
use support::random;
use taper::factorize::Rank;
use taper::factorize::svd::TruncatedSvd;
use taper::limit::EmpiricalSource;
use taper::model::extend::Artifact;
use taper::model::{
    CompressedModel, CompressedTensor, Dense, FactoredMatrix, NamedTensors, SparseQuantized,
};
use taper::prune::SparseMatrix;
use taper::quantize::binary::Binarizer;
use taper::quantize::fixed_point::{FixedPointQuantizer, Granularity, Range};
use taper::quantize::product::{Codebook, PqMatrix, ProductQuantizer};
use taper::{Factorizer, Precision, Quantizer, Seed, Trainable};

use super::network::{Layer, Lesson, Network, Plain, Training, Tuned, Weight};
use super::operator::{Operator, Sparse};

/// The settings of fine-tuning.
pub struct Teaching<'a> {
    pub data: &'a Dataset,
    pub lesson: Lesson<'a>,
    pub seed: Seed,
}

/// A compressed network.
pub struct Candidate {
    pub recipe: String,
    /// The length of the container.
    pub bytes: u64,
    /// The network that was read back.
    pub network: Plain,
}

impl Teaching<'_> {
    /// Trains the stored numbers of the weights of `network`.
    fn tune<W: Weight>(
        &self,
        network: &mut Network<W>,
        epochs: usize,
        rate: f64,
        name: &str,
    ) -> anyhow::Result<()> {
        let training = Training {
            epochs,
            batch: 128,
            rate,
            schedule: Schedule::Cosine { warmup: 0.1 },
            dropout: 0.0,
            seed: self.seed.derive_name(name),
        };
        training.run(network, self.data, &self.lesson, || {})
    }
}

fn weight_name(layer: usize) -> String {
    format!("fc{}.weight", layer + 1)
}

fn bias_name(layer: usize) -> String {
    format!("fc{}.bias", layer + 1)
}

/// Writes a container of `artifacts` and biases in half precision, and reads it back.
fn candidate<A: Artifact>(
    recipe: impl Into<String>,
    artifacts: Vec<A>,
    biases: impl IntoIterator<Item = Array1<f32>>,
) -> anyhow::Result<Candidate> {
    let mut model = CompressedModel::new();
    let layers = artifacts.len();
    for (layer, (artifact, bias)) in artifacts.into_iter().zip(biases).enumerate() {
        model.insert(&weight_name(layer), CompressedTensor::new(artifact))?;
        let bias = Dense::new(bias.view().into_dyn(), Precision::F16)?;
        model.insert(&bias_name(layer), CompressedTensor::new(bias))?;
    }
    let file = model.to_bytes()?;
    let read = CompressedModel::from_bytes(&file)?;
    let layers = (0..layers).map(|layer| {
        let weight = read
            .decompress(&weight_name(layer))?
            .into_dimensionality::<Ix2>()?;
        Ok(Layer {
            weight: Operator::Dense(weight),
            bias: read
                .decompress(&bias_name(layer))?
                .iter()
                .copied()
                .collect(),
        })
    });
    Ok(Candidate {
        recipe: recipe.into(),
        bytes: file.len() as u64,
        network: Network {
            layers: layers.collect::<anyhow::Result<_>>()?,
        },
    })
}

/// The length of a safetensors file of the dense network.
pub fn dense_bytes(network: &Plain) -> anyhow::Result<u64> {
    let mut tensors = BTreeMap::new();
    for (i, layer) in network.layers.iter().enumerate() {
        tensors.insert(weight_name(i), layer.weight.matrix().into_dyn());
        tensors.insert(bias_name(i), layer.bias.clone().into_dyn());
    }
    let views = tensors
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor.view()));
    Ok(NamedTensors::to_bytes(views)?.len() as u64)
}

/// Compresses each layer with `compress`, trains for `epochs` passes, and writes the container.
fn tuned<A: Trainable<f32> + Artifact>(
    recipe: &str,
    dense: &Plain,
    teaching: &Teaching<'_>,
    (epochs, rate): (usize, f64),
    compress: impl Fn(usize, ArrayView2<'_, f32>) -> taper::Result<A>,
) -> anyhow::Result<Candidate> {
    let mut network = Network { layers: Vec::new() };
    for (i, layer) in dense.layers.iter().enumerate() {
        let artifact = compress(i, layer.weight.matrix().view())?;
        network.layers.push(Layer {
            weight: Tuned::new(artifact, None),
            bias: layer.bias.clone(),
        });
    }
    teaching.tune(&mut network, epochs, rate, recipe)?;
    let biases: Vec<_> = network
        .layers
        .iter()
        .map(|layer| layer.bias.clone())
        .collect();
    let artifacts = network
        .layers
        .into_iter()
        .map(|layer| layer.weight.artifact);
    candidate(recipe, artifacts.collect(), biases)
}

/// The dense network, fine-tuned in the same way as the compressed ones, to separate the effect of the teacher.
pub fn taught(dense: &Plain, teaching: &Teaching<'_>, epochs: usize) -> anyhow::Result<Plain> {
    let mut network = dense.clone();
    teaching.tune(&mut network, epochs, 1e-3, "dense")?;
    Ok(network)
}

/// The other methods, alone and combined.
pub fn others(
    dense: &Plain,
    teaching: &Teaching<'_>,
    quick: bool,
) -> anyhow::Result<Vec<Candidate>> {
    let epochs = 1;
    let bar = support::progress::bar("families", if quick { 5 } else { 11 });
    let mut all = Vec::new();
    let bits: &[u32] = if quick { &[4] } else { &[8, 4, 3, 2] };
    for &bits in bits {
        let quantizer = FixedPointQuantizer::new(bits)
            .granularity(Granularity::PerRow)
            .range(Range::SquaredError)
            .precision(Precision::F16);
        let name = format!("fixed point, {bits} bits");
        all.push(tuned(&name, dense, teaching, (epochs, 1e-4), |_, w| {
            quantizer.quantize(w)
        })?);
        bar.inc(1);
    }
    let binarizer = Binarizer::new()
        .scaling(Granularity::PerRow)
        .precision(Precision::F16);
    all.push(tuned(
        "binary, one scale per row",
        dense,
        teaching,
        (epochs, 1e-3),
        |_, w| binarizer.quantize(w),
    )?);
    bar.inc(1);
    let pairs: &[(usize, usize)] = if quick {
        &[(16, 2)]
    } else {
        &[(64, 2), (16, 2), (64, 4)]
    };
    for &(k, width) in pairs {
        let name = format!("PQ, {k} centroids of {width}");
        all.push(tuned(
            &name,
            dense,
            teaching,
            (epochs, 1e-3),
            |layer, w| {
                // One codebook per layer: a codebook per group would be larger than the codes of so small a network.
                ProductQuantizer::with_width(width)
                    .centroids(k)
                    .precision(Precision::F16)
                    .seed(teaching.seed.derive(layer as u64).value())
                    .quantize(w)
            },
        )?);
        bar.inc(1);
    }
    let ranks: &[usize] = if quick { &[8] } else { &[32, 16] };
    for &rank in ranks {
        let svd = |w: ArrayView2<'_, f32>| {
            let most = w.nrows().min(w.ncols());
            TruncatedSvd::new(Rank::Fixed(rank.min(most)))
                .precision(Precision::F16)
                .factorize(w)
        };
        let name = format!("SVD, rank {rank}");
        let mut network = Network { layers: Vec::new() };
        for layer in &dense.layers {
            network.layers.push(Layer {
                weight: Tuned::new(svd(layer.weight.matrix().view())?, None),
                bias: layer.bias.clone(),
            });
        }
        teaching.tune(&mut network, epochs, 1e-3, &name)?;
        let biases: Vec<_> = network
            .layers
            .iter()
            .map(|layer| layer.bias.clone())
            .collect();
        // The same factors in fixed point.
        let quantizer = FixedPointQuantizer::new(5)
            .granularity(Granularity::PerRow)
            .range(Range::SquaredError)
            .precision(Precision::F16);
        let factors = network.layers.iter().map(|layer| {
            let factors = &layer.weight.artifact;
            FactoredMatrix::new(
                quantizer.quantize(factors.left())?,
                quantizer.quantize(factors.right())?,
            )
        });
        let factors = factors.collect::<taper::Result<Vec<_>>>()?;
        all.push(candidate(
            format!("{name}, factors of 5 bits"),
            factors,
            biases.clone(),
        )?);
        let artifacts = network
            .layers
            .into_iter()
            .map(|layer| layer.weight.artifact);
        all.push(candidate(name, artifacts.collect(), biases)?);
        bar.inc(1);
    }
    bar.finish();
    Ok(all)
}

/// The kept weights in half precision.
pub fn pruned(network: &Plain, keep: f64) -> anyhow::Result<Candidate> {
    let artifacts = network
        .layers
        .iter()
        .map(|layer| SparseMatrix::from_dense(layer.weight.matrix().view(), Precision::F16));
    let artifacts = artifacts.collect::<taper::Result<Vec<_>>>()?;
    let biases = network.layers.iter().map(|layer| layer.bias.clone());
    candidate(
        format!("pruned to {:.1} %", 100.0 * keep),
        artifacts,
        biases,
    )
}

/// The kept weights as codes of one codebook per layer, which is then trained.
pub fn pruned_and_shared(
    network: &Plain,
    keep: f64,
    centroids: usize,
    teaching: &Teaching<'_>,
    quick: bool,
) -> anyhow::Result<Candidate> {
    let mut shared = Network { layers: Vec::new() };
    for (i, layer) in network.layers.iter().enumerate() {
        let places = Sparse::of(layer.weight.matrix().view());
        let values: Vec<f32> = places.values.to_vec();
        let column = ArrayView2::from_shape((values.len(), 1), &values)?;
        let codes = ProductQuantizer::new(1)
            .codebook(Codebook::PerGroup)
            .centroids(centroids.min(values.len()))
            .precision(Precision::F16)
            .seed(teaching.seed.derive(i as u64).value())
            .quantize(column)?;
        shared.layers.push(Layer {
            weight: Tuned::new(codes, Some(places)),
            bias: layer.bias.clone(),
        });
    }
    let name = format!("pruned to {:.1} %, codebook of {centroids}", 100.0 * keep);
    teaching.tune(&mut shared, if quick { 1 } else { 8 }, 1e-3, &name)?;
    let biases: Vec<_> = shared
        .layers
        .iter()
        .map(|layer| layer.bias.clone())
        .collect();
    let artifacts = shared.layers.into_iter().map(|layer| {
        let codes: PqMatrix<f32> = layer.weight.artifact;
        let places = layer.weight.places.context("the weights have no places")?;
        Ok(SparseQuantized::new(places.dense().view(), |_| Ok(codes))?)
    });
    let artifacts = artifacts.collect::<anyhow::Result<Vec<_>>>()?;
    candidate(name, artifacts, biases)
}

/// The trained weights with the least error of any code with this number of bits.
pub fn limit(dense: &Plain, seed: Seed) -> anyhow::Result<Vec<Candidate>> {
    let rates = [0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0];
    let mut all = Vec::new();
    for rate in rates {
        let mut network = dense.clone();
        let mut bits = 0.0;
        for (i, layer) in network.layers.iter_mut().enumerate() {
            let weights = layer.weight.matrix();
            let source = EmpiricalSource::of(weights.view())?;
            let (mean, variance) = (source.mean(), source.variance());
            // The forward channel of a Gaussian at this error: shrink towards the mean and add noise.
            let error = source.distortion(rate)?.lower;
            let kept = 1.0 - error / variance;
            let spread = (error * kept).max(0.0).sqrt();
            let seed = seed.derive(i as u64);
            let mut next = 0;
            let noisy = weights.mapv(|w| {
                next += 2;
                (mean + kept * (f64::from(w) - mean) + spread * normal(seed, next)) as f32
            });
            bits += rate * weights.len() as f64 + 16.0 * layer.bias.len() as f64;
            layer.weight = Operator::Dense(noisy);
        }
        all.push(Candidate {
            recipe: rate.to_string(),
            bytes: (bits / 8.0) as u64,
            network,
        });
    }
    Ok(all)
}

/// A normal random number by the method of Box and Muller.
fn normal(seed: Seed, index: u64) -> f64 {
    let radius = (-2.0 * (1.0 - random::uniform(seed, index)).ln()).sqrt();
    radius * (2.0 * std::f64::consts::PI * random::uniform(seed, index + 1)).cos()
}
