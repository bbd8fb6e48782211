//! LeNet-300-100 without a framework: its forward and backward pass, and training with Adam.
//!
//! Training changes the stored numbers of a layer: all weights, the kept weights, a codebook, or the parameters of any artifact of taper
//! ([`Trainable`]).

use anyhow::Context;
use ndarray::{Array1, Array2, ArrayView2, Axis, Ix2, Zip, concatenate, s};
use rayon::prelude::*;
use support::data::Dataset;
use support::network::inference::{largest, percent_equal};
use support::network::schedule::Schedule;
use support::random;
use taper::distill::{TeacherLogits, ensemble_logits};
use taper::{Distiller, Precision, Seed, Trainable};

use super::operator::{Operator, Sparse};

/// Images per piece of work of a thread; fixed, so that sums do not depend on the number of threads.
const SHARD: usize = 64;

/// The trained numbers of a layer.
pub trait Weight: Send + Sync {
    /// The operator, which multiplies.
    fn operator(&self) -> anyhow::Result<Operator>;

    /// The numbers that are trained.
    fn parameters(&self) -> Array1<f32>;

    /// Sets the numbers, and updates the weights of `operator`.
    fn set(&mut self, parameters: &Array1<f32>, operator: &mut Operator) -> anyhow::Result<()>;

    /// The gradient of the numbers, from that of the operator's weights.
    fn gradient(&self, weights: Array1<f32>) -> anyhow::Result<Array1<f32>>;
}

/// The weights themselves, all or the kept ones.
impl Weight for Operator {
    fn operator(&self) -> anyhow::Result<Operator> {
        Ok(self.clone())
    }

    fn parameters(&self) -> Array1<f32> {
        match self {
            Self::Dense(weights) | Self::Masked(weights, _) => weights.iter().copied().collect(),
            Self::Sparse(sparse) => sparse.values.clone(),
        }
    }

    fn set(&mut self, parameters: &Array1<f32>, operator: &mut Operator) -> anyhow::Result<()> {
        Operator::set(self, parameters);
        operator.set(parameters);
        Ok(())
    }

    fn gradient(&self, weights: Array1<f32>) -> anyhow::Result<Array1<f32>> {
        Ok(weights)
    }
}

/// An artifact whose numbers are trained: of a whole matrix, or of the kept weights as a matrix of one column.
///
/// A copy of the numbers in full precision keeps small steps from being lost to rounding.
#[derive(Debug)]
pub struct Tuned<A> {
    pub artifact: A,
    /// The places of the weights of the artifact; `None` for a whole matrix.
    pub places: Option<Sparse>,
    parameters: Array1<f32>,
}

impl<A: Trainable<f32>> Tuned<A> {
    pub fn new(artifact: A, places: Option<Sparse>) -> Self {
        Self {
            parameters: artifact.parameters(),
            artifact,
            places,
        }
    }

    fn values(&self) -> anyhow::Result<Array1<f32>> {
        Ok(self.artifact.decompress()?.iter().copied().collect())
    }
}

impl<A: Trainable<f32>> Weight for Tuned<A> {
    fn operator(&self) -> anyhow::Result<Operator> {
        Ok(match &self.places {
            Some(places) => {
                let mut weights = places.clone();
                weights.values = self.values()?;
                Operator::Sparse(weights)
            }
            None => Operator::Dense(self.artifact.decompress()?.into_dimensionality::<Ix2>()?),
        })
    }

    fn parameters(&self) -> Array1<f32> {
        self.parameters.clone()
    }

    fn set(&mut self, parameters: &Array1<f32>, operator: &mut Operator) -> anyhow::Result<()> {
        self.artifact.set_parameters(parameters.view())?;
        self.parameters.assign(parameters);
        operator.set(&self.values()?);
        Ok(())
    }

    fn gradient(&self, weights: Array1<f32>) -> anyhow::Result<Array1<f32>> {
        let dense = weights.into_shape_with_order(self.artifact.shape())?;
        Ok(self.artifact.gradient(dense.view())?)
    }
}

/// A layer W x + b.
#[derive(Debug, Clone)]
pub struct Layer<W> {
    pub weight: W,
    pub bias: Array1<f32>,
}

/// Layers with ReLU between them.
#[derive(Debug, Clone)]
pub struct Network<W> {
    pub layers: Vec<Layer<W>>,
}

/// A network for inference.
pub type Plain = Network<Operator>;

impl Plain {
    /// Creates an untrained network: weights uniform in ±√(6 / inputs), biases zero (He et al., 2015, arXiv:1502.01852).
    pub fn new(widths: &[usize], seed: Seed) -> Self {
        let layers = widths.windows(2).enumerate().map(|(layer, pair)| {
            let bound = (6.0 / pair[0] as f64).sqrt();
            let seed = seed.derive(layer as u64);
            let weights = Array2::from_shape_fn((pair[1], pair[0]), |(i, j)| {
                let number = random::uniform(seed, (i * pair[0] + j) as u64);
                (bound * (2.0 * number - 1.0)) as f32
            });
            Layer {
                weight: Operator::Dense(weights),
                bias: Array1::zeros(pair[1]),
            }
        });
        Self {
            layers: layers.collect(),
        }
    }

    /// The inputs of each layer, (features, images), and finally the logits; with dropout of hidden values if `dropout` is given.
    fn forward(
        &self,
        images: Array2<f32>,
        dropout: Option<(&Dropout, &[usize])>,
    ) -> Vec<Array2<f32>> {
        let mut values = vec![images];
        for (i, layer) in self.layers.iter().enumerate() {
            let mut y = layer.weight.times(&values[i]);
            y += &layer.bias.view().insert_axis(Axis(1));
            if i + 1 < self.layers.len() {
                y.mapv_inplace(|y| y.max(0.0));
                if let Some((dropout, rows)) = dropout {
                    dropout.apply(&mut y, i, rows);
                }
            }
            values.push(y);
        }
        values
    }

    /// The gradients of weights and biases, from that of the logits; `scale` is the factor of dropout for kept values.
    fn backward(&self, values: &[Array2<f32>], mut gradient: Array2<f32>, scale: f32) -> Gradients {
        let mut gradients = Vec::new();
        for (i, layer) in self.layers.iter().enumerate().rev() {
            let weights = layer.weight.gradient(&gradient, &values[i]);
            gradients.push((weights, gradient.sum_axis(Axis(1))));
            if i > 0 {
                gradient = layer.weight.transposed_times(&gradient);
                Zip::from(&mut gradient)
                    .and(&values[i])
                    .for_each(|g, &y| *g = if y == 0.0 { 0.0 } else { *g * scale });
            }
        }
        gradients.reverse();
        gradients
    }

    /// The logits, (images, classes).
    pub fn logits(&self, images: ArrayView2<'_, f32>) -> Array2<f32> {
        let blocks: Vec<Array2<f32>> = (0..images.nrows().div_ceil(500))
            .into_par_iter()
            .map(|block| {
                let rows = block * 500..images.nrows().min((block + 1) * 500);
                let images = images
                    .slice(s![rows, ..])
                    .t()
                    .as_standard_layout()
                    .into_owned();
                self.forward(images, None).pop().unwrap_or_default()
            })
            .collect();
        let views: Vec<_> = blocks.iter().map(|block| block.t()).collect();
        concatenate(Axis(0), &views).unwrap_or_default()
    }

    /// The error rate in percent.
    pub fn error(&self, data: &Dataset) -> f64 {
        let logits = self.logits(data.images.view());
        let answers: Vec<usize> = logits.rows().into_iter().map(largest).collect();
        100.0 - percent_equal(&answers, &data.labels)
    }
}

impl<W: Weight> Network<W> {
    /// The network for inference.
    pub fn plain(&self) -> anyhow::Result<Plain> {
        let layers = self.layers.iter().map(|layer| {
            Ok(Layer {
                weight: layer.weight.operator()?,
                bias: layer.bias.clone(),
            })
        });
        Ok(Network {
            layers: layers.collect::<anyhow::Result<_>>()?,
        })
    }
}

/// The gradients of weights and bias of each layer.
type Gradients = Vec<(Array1<f32>, Array1<f32>)>;

/// Dropout (N. Srivastava et al., "Dropout", 2014): random hidden values become zero, and the others are scaled up.
#[derive(Debug)]
struct Dropout {
    chance: f64,
    seed: Seed,
}

impl Dropout {
    fn scale(&self) -> f32 {
        (1.0 / (1.0 - self.chance)) as f32
    }

    /// `values` are (features, images), the images those of `rows`.
    fn apply(&self, values: &mut Array2<f32>, layer: usize, rows: &[usize]) {
        let (scale, limit) = (self.scale(), (self.chance * 256.0) as u8);
        let seed = self.seed.derive(rows.first().map_or(0, |&row| row as u64));
        let seed = seed.derive(layer as u64);
        for (feature, mut values) in values.rows_mut().into_iter().enumerate() {
            // Eight values per random number: probabilities in steps of 1/256.
            for (chunk, mut values) in values.axis_chunks_iter_mut(Axis(0), 8).enumerate() {
                let number = seed.derive((feature * SHARD + chunk) as u64).value();
                for (value, byte) in values.iter_mut().zip(number.to_le_bytes()) {
                    *value = if byte < limit { 0.0 } else { *value * scale };
                }
            }
        }
    }
}

/// A teacher's logits for every training image, and the loss that combines them with the labels.
pub struct Lesson<'a> {
    pub distiller: &'a (dyn Distiller<f32> + Sync),
    /// `None` for a loss without a teacher.
    pub teacher: Option<&'a TeacherLogits>,
}

/// The logits of the ensemble of `networks` for all `images`, in half precision.
pub fn teach(
    networks: &[Plain],
    images: ArrayView2<'_, f32>,
    temperature: f64,
) -> anyhow::Result<TeacherLogits> {
    let members: Vec<Array2<f32>> = networks.iter().map(|n| n.logits(images)).collect();
    let views: Vec<_> = members.iter().map(|array| array.view()).collect();
    let logits = ensemble_logits(&views, temperature)?;
    Ok(TeacherLogits::dense(logits.view(), Precision::F16)?)
}

/// How a network is trained.
#[derive(Debug, Clone)]
pub struct Training {
    pub epochs: usize,
    pub batch: usize,
    pub rate: f64,
    pub schedule: Schedule,
    /// The dropout of hidden values; 0 for none.
    pub dropout: f64,
    pub seed: Seed,
}

/// Adam's state for one array (D. Kingma and J. Ba, 2014, arXiv:1412.6980).
struct Adam {
    first: Array1<f32>,
    second: Array1<f32>,
}

impl Adam {
    fn of(length: usize) -> Self {
        Self {
            first: Array1::zeros(length),
            second: Array1::zeros(length),
        }
    }

    fn step(&mut self, at: i32, rate: f64, gradient: &Array1<f32>, values: &mut Array1<f32>) {
        let corrected = rate * (1.0 - 0.999_f64.powi(at)).sqrt() / (1.0 - 0.9_f64.powi(at));
        let corrected = corrected as f32;
        Zip::from(values)
            .and(&mut self.first)
            .and(&mut self.second)
            .and(gradient)
            .for_each(|x, m, v, &g| {
                *m = 0.9 * *m + 0.1 * g;
                *v = 0.999 * *v + 0.001 * g * g;
                *x -= corrected * *m / (v.sqrt() + 1e-8);
            });
    }
}

impl Training {
    /// Trains `network`, and calls `tick` after each epoch.
    pub fn run<W: Weight>(
        &self,
        network: &mut Network<W>,
        data: &Dataset,
        lesson: &Lesson<'_>,
        tick: impl Fn(),
    ) -> anyhow::Result<()> {
        let mut plain = network.plain()?;
        let mut state: Vec<(Array1<f32>, Adam, Adam)> = Vec::new();
        for layer in &network.layers {
            let parameters = layer.weight.parameters();
            let (weight, bias) = (Adam::of(parameters.len()), Adam::of(layer.bias.len()));
            state.push((parameters, weight, bias));
        }
        let steps = self.epochs * (data.len() / self.batch);
        let mut done = 0;
        for epoch in 0..self.epochs {
            let seed = self.seed.derive(epoch as u64);
            let order = random::permutation(seed, data.len());
            let dropout = (self.dropout > 0.0).then(|| Dropout {
                chance: self.dropout,
                seed: seed.derive_name("dropout"),
            });
            for rows in order.chunks_exact(self.batch) {
                let gradients = gradients(&plain, data, rows, lesson, dropout.as_ref())?;
                let rate = self.rate * self.schedule.factor(done as f64 / steps as f64);
                done += 1;
                let layers = network.layers.iter_mut().zip(&mut plain.layers);
                for (((layer, plain), (values, weight, bias)), (of_weights, of_bias)) in
                    layers.zip(&mut state).zip(gradients)
                {
                    let gradient = layer.weight.gradient(of_weights)?;
                    weight.step(done, rate, &gradient, values);
                    bias.step(done, rate, &of_bias, &mut layer.bias);
                    layer.weight.set(values, &mut plain.weight)?;
                    plain.bias.assign(&layer.bias);
                }
            }
            tick();
        }
        Ok(())
    }
}

/// The gradients of one batch.
fn gradients(
    network: &Plain,
    data: &Dataset,
    rows: &[usize],
    lesson: &Lesson<'_>,
    dropout: Option<&Dropout>,
) -> anyhow::Result<Gradients> {
    let width = data.images.ncols();
    let values: Vec<Vec<Array2<f32>>> = rows
        .par_chunks(SHARD)
        .map(|rows| {
            let mut images = Array2::zeros((width, rows.len()));
            for (mut column, &row) in images.columns_mut().into_iter().zip(rows) {
                column.assign(&data.images.row(row));
            }
            network.forward(images, dropout.map(|dropout| (dropout, rows)))
        })
        .collect();
    let views: Vec<_> = values
        .iter()
        .filter_map(|values| Some(values.last()?.t()))
        .collect();
    let logits = concatenate(Axis(0), &views)?;
    let labels: Vec<usize> = rows.iter().map(|&row| data.labels[row]).collect();
    let (_, gradient) = match lesson.teacher {
        Some(teacher) => {
            let teacher: Array2<f32> = teacher.batch(rows)?;
            lesson
                .distiller
                .loss(logits.view(), teacher.view(), &labels)?
        }
        None => lesson
            .distiller
            .loss(logits.view(), logits.view(), &labels)?,
    };
    let scale = dropout.map_or(1.0, Dropout::scale);
    let parts: Vec<Gradients> = values
        .par_iter()
        .enumerate()
        .map(|(i, values)| {
            let rows = i * SHARD..rows.len().min((i + 1) * SHARD);
            let gradient = gradient.slice(s![rows, ..]);
            let gradient = gradient.t().as_standard_layout().into_owned();
            network.backward(values, gradient, scale)
        })
        .collect();
    let mut parts = parts.into_iter();
    let mut total = parts.next().context("a batch has no images")?;
    for part in parts {
        for ((weight, bias), (more_weight, more_bias)) in total.iter_mut().zip(part) {
            *weight += &more_weight;
            *bias += &more_bias;
        }
    }
    Ok(total)
}
