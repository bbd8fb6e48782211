//! taper in a candle program: compresses the weights of a network, puts them back, trains them further in compressed form through a custom
//! operation of candle, and runs them without candle.
//!
//! Forward, the operation decompresses; backward, it passes the gradient of the dense weight to [`taper::Trainable::gradient`]. Only what
//! the artifacts store is trained; biases and the last layer stay.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Shape, Tensor, Var};
use clap::Parser;
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, ArrayViewD, Axis, IxDyn};
use taper::factorize::Rank;
use taper::factorize::svd::TruncatedSvd;
use taper::quantize::product::{Codebook, ProductQuantizer, SplitAxis};
use taper::{Factorizer, LinearOp, Quantizer, Seed, Trainable};
use taper_neighbours::args::Common;
use taper_neighbours::data::{Dataset, mnist};
use taper_neighbours::tuned::{Figures, Row};
use taper_neighbours::{mnist, report};

const WIDTHS: [usize; 4] = [mnist::PIXELS, 300, 100, mnist::CLASSES];
const BATCH: usize = 100;
const MOMENTUM: f64 = 0.9;

#[derive(Debug, Parser)]
#[command(about = "A candle network compressed, put back, and trained further in compressed form")]
struct Args {
    #[command(flatten)]
    common: Common,

    /// Passes over the training images in compressed form.
    #[arg(long, value_name = "N")]
    tuning_epochs: Option<usize>,
}

/// A compressed matrix that multiplies and can be trained.
trait Matrix: LinearOp<f32> + Trainable<f32> {}

impl<M: LinearOp<f32> + Trainable<f32>> Matrix for M {}

/// An artifact that the network and its operations share.
#[derive(Debug, Clone)]
struct Stored(Arc<Mutex<dyn Matrix>>);

impl Stored {
    fn new(matrix: impl Matrix + 'static) -> Self {
        Self(Arc::new(Mutex::new(matrix)))
    }

    fn lock(&self) -> MutexGuard<'_, dyn Matrix + 'static> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The operation from the parameters of an artifact to its dense weight (out, in).
struct Decompress(Stored);

impl CustomOp1 for Decompress {
    fn name(&self) -> &'static str {
        "decompress"
    }

    fn cpu_fwd(
        &self,
        storage: &CpuStorage,
        layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (from, to) = layout
            .contiguous_offsets()
            .ok_or(candle_core::Error::RequiresContiguous { op: "decompress" })?;
        let parameters = ArrayView1::from(&storage.as_slice::<f32>()?[from..to]);
        let mut matrix = self.0.lock();
        matrix
            .set_parameters(parameters)
            .map_err(candle_core::Error::wrap)?;
        let weight = matrix.decompress().map_err(candle_core::Error::wrap)?;
        let shape = Shape::from(weight.shape());
        Ok((CpuStorage::F32(weight.into_iter().collect()), shape))
    }

    fn bwd(
        &self,
        parameters: &Tensor,
        _weight: &Tensor,
        gradient: &Tensor,
    ) -> candle_core::Result<Option<Tensor>> {
        let values = gradient.flatten_all()?.to_vec1::<f32>()?;
        let dense = ArrayViewD::from_shape(IxDyn(gradient.dims()), &values);
        let dense = dense.map_err(candle_core::Error::wrap)?;
        let gradient = self
            .0
            .lock()
            .gradient(dense)
            .map_err(candle_core::Error::wrap)?;
        Tensor::from_vec(gradient.to_vec(), gradient.len(), parameters.device()).map(Some)
    }
}

/// The weight of a layer.
enum Weight {
    /// (out, in).
    Dense(Var),
    /// The parameters of an artifact.
    Compressed(Var, Stored),
}

/// Linear layers with ReLU between them.
struct Network(Vec<(Weight, Var)>);

impl Network {
    /// Weights and biases uniform in ±1/√inputs.
    fn new(seed: Seed) -> candle_core::Result<Self> {
        let layers = WIDTHS.windows(2).enumerate().map(|(i, width)| {
            let uniform = |count: usize, seed: Seed| -> Vec<f32> {
                let bound = 1.0 / (width[0] as f64).sqrt();
                let value = |j| seed.derive(j as u64).value() as f64 / u64::MAX as f64;
                (0..count)
                    .map(|j| (bound * (2.0 * value(j) - 1.0)) as f32)
                    .collect()
            };
            let seed = seed.derive(i as u64);
            let weight = uniform(width[0] * width[1], seed);
            let bias = uniform(width[1], seed.derive_name("bias"));
            Ok((
                Weight::Dense(Var::from_vec(weight, (width[1], width[0]), &Device::Cpu)?),
                Var::from_vec(bias, width[1], &Device::Cpu)?,
            ))
        });
        Ok(Self(layers.collect::<candle_core::Result<_>>()?))
    }

    /// The network with other weights in its first layers.
    fn with(&self, weights: Vec<Weight>) -> candle_core::Result<Self> {
        let mut weights = weights.into_iter();
        let layers = self.0.iter().map(|(weight, bias)| {
            let weight = match (weights.next(), weight) {
                (Some(weight), _) => weight,
                (None, Weight::Dense(weight)) => Weight::Dense(weight.clone()),
                (None, Weight::Compressed(parameters, stored)) => {
                    Weight::Compressed(parameters.clone(), stored.clone())
                }
            };
            Ok((weight, bias.clone()))
        });
        Ok(Self(layers.collect::<candle_core::Result<_>>()?))
    }

    fn forward(&self, images: &Tensor) -> candle_core::Result<Tensor> {
        let mut x = images.clone();
        for (i, (weight, bias)) in self.0.iter().enumerate() {
            let weight = match weight {
                Weight::Dense(weight) => weight.as_tensor().clone(),
                Weight::Compressed(parameters, stored) => {
                    parameters.apply_op1(Decompress(stored.clone()))?
                }
            };
            x = x.matmul(&weight.t()?)?.broadcast_add(bias)?;
            if i + 1 < self.0.len() {
                x = x.relu()?;
            }
        }
        Ok(x)
    }

    /// The trained variables: all of a dense network, the parameters of the artifacts of a compressed one.
    fn trained(&self) -> Vec<Var> {
        let compressed: Vec<Var> = self
            .0
            .iter()
            .filter_map(|(weight, _)| match weight {
                Weight::Compressed(parameters, _) => Some(parameters.clone()),
                Weight::Dense(_) => None,
            })
            .collect();
        if !compressed.is_empty() {
            return compressed;
        }
        let all = self.0.iter().flat_map(|(weight, bias)| match weight {
            Weight::Dense(weight) => vec![weight.clone(), bias.clone()],
            Weight::Compressed(parameters, _) => vec![parameters.clone()],
        });
        all.collect()
    }

    /// Trains by stochastic gradient descent with momentum, with a rate that falls to zero. `shares` holds the number of weights that share
    /// each parameter. The gradient is divided by it, so that centroids take steps of the size of a weight's.
    fn train(
        &self,
        data: &Dataset,
        epochs: usize,
        rate: f64,
        seed: Seed,
        shares: &[Tensor],
    ) -> anyhow::Result<()> {
        let trained = self.trained();
        let mut velocities: Vec<Tensor> = trained
            .iter()
            .map(|var| var.zeros_like())
            .collect::<candle_core::Result<_>>()?;
        let steps = data.len() / BATCH;
        for epoch in 0..epochs {
            let mut order: Vec<usize> = (0..data.len()).collect();
            let seed = seed.derive(epoch as u64);
            order.sort_by_key(|&row| seed.derive(row as u64).value());
            for (step, rows) in order.chunks_exact(BATCH).enumerate() {
                let images = tensor(data.images.select(Axis(0), rows).view())?;
                let loss = cross_entropy(
                    &self.forward(&images)?,
                    rows.iter().map(|&row| data.labels[row]),
                )?;
                let mut gradients = loss.backward()?;
                let left = 1.0 - (epoch * steps + step) as f64 / (epochs * steps) as f64;
                for (i, (var, velocity)) in trained.iter().zip(&mut velocities).enumerate() {
                    let Some(mut gradient) = gradients.remove(var) else {
                        continue;
                    };
                    if let Some(shares) = shares.get(i) {
                        gradient = (gradient / shares)?;
                    }
                    *velocity = ((&*velocity * MOMENTUM)? + gradient)?.detach();
                    var.set(&(var.as_tensor() - (&*velocity * (rate * left))?)?)?;
                }
            }
        }
        Ok(())
    }

    fn measure(&self, data: &Dataset) -> anyhow::Result<Measured> {
        let logits = self.forward(&tensor(data.images.view())?)?;
        let loss = cross_entropy(&logits, data.labels.iter().copied())?;
        let classes: Vec<u32> = logits.argmax(1)?.to_vec1()?;
        let right = classes.iter().zip(&data.labels);
        let right = right.filter(|(class, label)| **class as usize == **label);
        Ok(Measured {
            loss: f64::from(loss.to_scalar::<f32>()?),
            accuracy: 100.0 * right.count() as f64 / data.len() as f64,
            classes,
        })
    }

    /// Predicts the classes of images without candle: every product is `apply` of an artifact.
    fn predict_compressed(&self, images: ArrayView2<'_, f32>) -> anyhow::Result<Vec<u32>> {
        let mut x = images.to_owned();
        for (i, (weight, bias)) in self.0.iter().enumerate() {
            x = match weight {
                Weight::Dense(weight) => x.dot(&array(weight)?.t()),
                Weight::Compressed(parameters, stored) => {
                    let mut matrix = stored.lock();
                    let parameters = Array1::from(parameters.to_vec1::<f32>()?);
                    matrix.set_parameters(parameters.view())?;
                    matrix.apply(x.view())?
                }
            } + &Array1::from(bias.to_vec1::<f32>()?);
            if i + 1 < self.0.len() {
                x.mapv_inplace(|value| value.max(0.0));
            }
        }
        let largest =
            |row: ArrayView1<'_, f32>| {
                let start = (0, f32::NEG_INFINITY);
                let place = row.iter().enumerate().fold(start, |best, (i, &value)| {
                    if value > best.1 { (i, value) } else { best }
                });
                place.0 as u32
            };
        Ok(x.rows().into_iter().map(largest).collect())
    }
}

struct Measured {
    /// The mean cross-entropy.
    loss: f64,
    /// The accuracy in percent.
    accuracy: f64,
    classes: Vec<u32>,
}

fn tensor(values: ArrayView2<'_, f32>) -> candle_core::Result<Tensor> {
    let shape = values.dim();
    Tensor::from_vec(
        values.iter().copied().collect::<Vec<f32>>(),
        shape,
        &Device::Cpu,
    )
}

fn array(tensor: &Tensor) -> anyhow::Result<Array2<f32>> {
    let values = tensor.flatten_all()?.to_vec1()?;
    Ok(Array2::from_shape_vec(tensor.dims2()?, values)?)
}

fn cross_entropy(
    logits: &Tensor,
    labels: impl Iterator<Item = usize>,
) -> candle_core::Result<Tensor> {
    let labels: Vec<u32> = labels.map(|label| label as u32).collect();
    let labels = Tensor::from_vec(labels, (logits.dim(0)?, 1), &Device::Cpu)?;
    let right = logits.gather(&labels, 1)?.flatten_all()?;
    (logits.log_sum_exp(1)? - right)?.mean_all()
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let common = &args.common;
    let mut report = report("candle_mnist");
    let data = mnist(common.quick)?;
    let epochs = common.epochs_or(6, 1);
    let tuning_epochs = args
        .tuning_epochs
        .unwrap_or(if common.quick { 1 } else { 3 });
    report.say(&format!(
        "784-300-100-10 (ReLU) on {} images of MNIST, {epochs} epochs of gradient descent with momentum in candle, seed {}. The \
         two large matrices are compressed; {tuning_epochs} epochs then train only what the artifacts store. {} \
         training images are held out, {} images are for the test.",
        data.train.len(),
        common.seed,
        data.held_out.len(),
        data.test.len(),
    ));
    let dense = Network::new(common.seed("network"))?;
    dense.train(&data.train, epochs, 0.05, common.seed("order"), &[])?;
    let dense_held_out = dense.measure(&data.held_out)?;
    let mut weights = Vec::new();
    for (weight, _) in dense.0.iter().take(dense.0.len() - 1) {
        if let Weight::Dense(weight) = weight {
            weights.push(array(weight)?);
        }
    }

    let product = ProductQuantizer::with_width(4)
        .axis(SplitAxis::Out)
        .codebook(Codebook::PerGroup)
        .centroids(16)
        .seed(common.seed("codes"));
    let low_rank = TruncatedSvd::new(Rank::Ratio(16.0)).seed(common.seed("projection"));
    let values: usize = weights.iter().map(|weight| weight.len()).sum();
    let mut rows = Vec::new();
    for (method, factors) in [
        ("product quantization, 16 centroids of 4 weights", false),
        ("truncated SVD, 16 times fewer values", true),
    ] {
        let stored = weights.iter().map(|weight| {
            Ok(if factors {
                Stored::new(low_rank.factorize(weight.view())?)
            } else {
                Stored::new(product.quantize(weight.view())?)
            })
        });
        let stored = stored.collect::<taper::Result<Vec<_>>>()?;
        let size: u64 = stored.iter().map(|s| s.lock().storage().bytes()).sum();
        let (mut put_back, mut compressed, mut shares) = (Vec::new(), Vec::new(), Vec::new());
        for stored in &stored {
            let matrix = stored.lock();
            let weight = matrix.decompress_matrix()?;
            put_back.push(Weight::Dense(Var::from_tensor(&tensor(weight.view())?)?));
            let parameters = matrix.parameters().to_vec();
            if !factors {
                // The gradient of the sum of all weights is the number of weights that share each value of a centroid.
                let ones = Array2::<f32>::ones(weight.dim());
                let counts = matrix
                    .gradient(ones.view().into_dyn())?
                    .mapv(|n| n.max(1.0));
                shares.push(Tensor::from_vec(
                    counts.to_vec(),
                    counts.len(),
                    &Device::Cpu,
                )?);
            }
            let count = parameters.len();
            let parameters = Var::from_vec(parameters, count, &Device::Cpu)?;
            compressed.push(Weight::Compressed(parameters, stored.clone()));
        }
        // candle's own products, with decompressed weights.
        let put_back = dense.with(put_back)?;
        let held_out_before = put_back.measure(&data.held_out)?;
        let compressed = dense.with(compressed)?;
        let rate = if factors { 0.01 } else { 0.5 };
        compressed.train(
            &data.train,
            tuning_epochs,
            rate,
            common.seed("tuning"),
            &shares,
        )?;
        let held_out_after = compressed.measure(&data.held_out)?;

        let before = put_back.measure(&data.test)?;
        let after = compressed.measure(&data.test)?;
        let alone = compressed.predict_compressed(data.test.images.view())?;
        let differ = alone.iter().zip(&after.classes).filter(|(a, b)| a != b);
        rows.push(Row {
            method: method.to_owned(),
            bytes: size,
            ratio: 4.0 * values as f64 / size as f64,
            held_out_loss_before: held_out_before.loss,
            held_out_loss_after: held_out_after.loss,
            accuracy_before: before.accuracy,
            accuracy_after: after.accuracy,
            predictions_that_differ: differ.count(),
        });
    }
    let dense_accuracy = dense.measure(&data.test)?.accuracy;
    let figures = Figures {
        seed: common.seed,
        epochs,
        tuning_epochs,
        quick: common.quick,
        dense_accuracy,
        dense_loss: dense_held_out.loss,
        rows,
        seconds: 0.0,
    };
    figures.finish(report, "candle", common)
}
