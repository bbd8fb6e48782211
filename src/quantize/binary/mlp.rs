//! A whole binary network at inference.

use ndarray::{Array1, Array2, ArrayView2};

use super::matrix::{padded_rows, row_totals};
use super::signs::{Signs, pack};
use super::{BatchNorm, BinaryActivations, BinaryMatrix};
use crate::kernels::Level;
use crate::{Error, Float, LinearOp, Result, check};

mod stored;

/// A multi-layer perceptron of binary weights and activations that runs on packed bits.
///
/// The first layer takes real or 8-bit inputs. Each hidden layer is a matrix of signs and a threshold for
/// each neuron (batch normalization and sign folded into one comparison of integers). The last layer has real
/// weights. The layers between the first and the last use integers only (M. Courbariaux et al., 2016,
/// arXiv:1602.02830).
///
/// The thresholds reproduce the sign of [`BatchNorm::apply`] exactly, for either sign of γ. A network whose
/// sums are exact in its float simulation (±1 or 8-bit inputs) therefore has the same activations here.
///
/// ```
/// use ndarray::{array, Array1};
/// use taper::quantize::binary::{BatchNorm, BinaryMlp, Binarizer};
/// use taper::Quantizer;
///
/// let norm = BatchNorm::new(array![1.0, -1.0], Array1::zeros(2), array![0.5, 0.5], Array1::ones(2), 1e-4)?;
/// let first = Binarizer::new().quantize(array![[0.2, -0.1], [0.3, 0.4]].view())?;
/// let hidden = Binarizer::new().quantize(array![[-0.5, 0.5], [0.5, 0.5]].view())?;
/// let layers = vec![(first, norm.clone()), (hidden, norm)];
/// let network = BinaryMlp::new(layers, array![[0.5, 1.0]], array![0.25])?;
/// // The sums 1 and 3 give the signs +1 and −1, these the sums −2 and 0, these the signs −1 and +1.
/// assert_eq!(network.forward(array![[2.0, 1.0]].view())?, array![[0.75]]);
/// assert_eq!(network.forward_bytes(array![[2, 1]].view(), 1.0)?, array![[0.75]]);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct BinaryMlp<F: Float> {
    layers: SignLayers<F>,
    output: Array2<F>,
    /// The rows of `output`, each filled up to whole words of activations.
    padded: Vec<F>,
    /// The sum of each row of `padded`, as the kernel sums it.
    totals: Vec<F>,
    bias: Array1<F>,
}

/// The layers up to the last one.
#[derive(Debug, Clone, PartialEq)]
struct SignLayers<F: Float> {
    first: (BinaryMatrix<F>, Thresholds<F>),
    hidden: Vec<(BinaryMatrix<F>, Thresholds<i32>)>,
}

/// A comparison for each neuron: its sign is +1 where z ≥ threshold if it rises, and where z < threshold otherwise.
#[derive(Debug, Clone, PartialEq)]
struct Thresholds<T> {
    values: Vec<T>,
    rises: Vec<bool>,
}

impl<T: PartialOrd + Copy + Send + Sync> Thresholds<T> {
    fn fold<F: Float>(
        matrix: &BinaryMatrix<F>,
        norm: &BatchNorm<F>,
        one: impl Fn(usize) -> Option<(T, bool)>,
    ) -> Result<Self> {
        let outputs = matrix.signs.rows();
        check::same_shape("the BatchNorm", &[outputs], &[norm.neurons()])?;
        let (values, rises) = (0..outputs).filter_map(one).unzip();
        Ok(Self { values, rises })
    }

    /// The signs of a batch of sums; each row holds the sums of one input.
    fn signs(&self, sums: ArrayView2<'_, T>) -> BinaryActivations {
        let signs = Signs::from_fn(sums.dim(), |i, words| {
            let neurons = self.values.iter().zip(&self.rises);
            let bits = sums.row(i).into_iter().zip(neurons);
            pack(bits.map(|(z, (t, &rises))| (z >= t) == rises), words);
        });
        BinaryActivations { signs }
    }
}

/// The place of a double in the rising order of all doubles. [`real`] is the inverse.
fn place(x: f64) -> i64 {
    let bits = x.to_bits() as i64;
    // The magnitude of a negative number falls as it rises.
    bits ^ (((bits >> 63) as u64) >> 1) as i64
}

fn real(place: i64) -> f64 {
    f64::from_bits((place ^ (((place >> 63) as u64) >> 1) as i64) as u64)
}

impl<F: Float> BinaryMlp<F> {
    /// Creates a network from its layers of signs, first layer first, each with the BatchNorm that follows it, and from the real
    /// `weights`, of shape (classes, features), and the `bias` of its last layer.
    ///
    /// # Errors
    ///
    /// [`Error::EmptyAxis`] without a layer of signs, [`Error::ShapeMismatch`] where a layer does not fit the one before it, or a
    /// BatchNorm or the bias its layer, and [`Error::NonFinite`] for weights and biases.
    pub fn new(
        signs: Vec<(BinaryMatrix<F>, BatchNorm<F>)>,
        weights: Array2<F>,
        bias: Array1<F>,
    ) -> Result<Self> {
        let mut signs = signs.into_iter();
        let (matrix, norm) = signs.next().ok_or_else(|| Error::EmptyAxis {
            what: "the list of layers of signs",
            shape: vec![0],
        })?;
        let mut layers = SignLayers::new(matrix, &norm)?;
        for (matrix, norm) in signs {
            layers.push(matrix, &norm)?;
        }
        layers.output(weights, bias)
    }

    /// Computes the output of the last layer, of shape (batch, classes), for real inputs of shape (batch, features).
    ///
    /// # Errors
    ///
    /// [`Error::ShapeMismatch`], and [`Error::NonFinite`] for inputs that are not finite.
    pub fn forward(&self, x: ArrayView2<'_, F>) -> Result<Array2<F>> {
        let (matrix, thresholds) = &self.layers.first;
        check::same_shape("x", &[x.nrows(), matrix.signs.columns()], x.shape())?;
        if x.nrows() > 0 {
            check::finite("x", &x)?;
        }
        let sums = matrix.apply(x)?;
        self.after_first(thresholds.signs(sums.view()))
    }

    /// Computes [`forward`](Self::forward) for inputs of 8 bits, whose real values are `unit` times the byte. The first layer
    /// adds integers.
    ///
    /// # Errors
    ///
    /// As [`BinaryMatrix::multiply_bytes`].
    pub fn forward_bytes(&self, x: ArrayView2<'_, u8>, unit: F) -> Result<Array2<F>> {
        let (matrix, thresholds) = &self.layers.first;
        let mut sums = matrix
            .multiply_bytes(x)?
            .mapv(|z| F::from_f64_lossy(f64::from(z)) * unit);
        for mut row in sums.rows_mut() {
            for (o, z) in row.iter_mut().enumerate() {
                *z *= matrix.scale(o);
            }
        }
        self.after_first(thresholds.signs(sums.view()))
    }

    fn after_first(&self, mut x: BinaryActivations) -> Result<Array2<F>> {
        for (matrix, thresholds) in &self.layers.hidden {
            x = thresholds.signs(matrix.multiply(&x)?.view());
        }
        let (classes, batch) = (self.output.nrows(), x.batch());
        let mut sums = vec![F::zero(); classes * batch];
        if batch > 0 {
            // The weights are the summands here, and the bits of the activations select them.
            let width = x.signs.width();
            F::masked_sums(
                Level::current(),
                &self.padded,
                x.signs.words(),
                width,
                &mut sums,
            );
        }
        let mut y = Array2::zeros((batch, classes));
        for (((mut y, sums), &total), &bias) in y
            .columns_mut()
            .into_iter()
            .zip(sums.chunks(batch.max(1)))
            .zip(&self.totals)
            .zip(&self.bias)
        {
            for (y, &sum) in y.iter_mut().zip(sums) {
                *y = sum + sum - total + bias;
            }
        }
        Ok(y)
    }

    /// Iterates over the matrices of signs, first layer first.
    pub fn matrices(&self) -> impl Iterator<Item = &BinaryMatrix<F>> {
        let hidden = self.layers.hidden.iter().map(|(matrix, _)| matrix);
        std::iter::once(&self.layers.first.0).chain(hidden)
    }

    /// Returns the bytes that all layers take in memory.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let first = &self.layers.first.1;
        let hidden = self
            .layers
            .hidden
            .iter()
            .map(|(_, t)| size_of_val(&*t.values) + t.rises.len());
        let matrices: usize = self.matrices().map(BinaryMatrix::memory_bytes).sum();
        let reals = self.padded.len() + self.output.len() + self.totals.len() + self.bias.len();
        matrices
            + size_of_val(&*first.values)
            + first.rises.len()
            + hidden.sum::<usize>()
            + reals * size_of::<F>()
    }
}

impl<F: Float> SignLayers<F> {
    /// The first layer: `matrix`, followed by BatchNorm and sign.
    fn new(matrix: BinaryMatrix<F>, norm: &BatchNorm<F>) -> Result<Self> {
        let largest = F::max_value().as_f64();
        let range = (place(-largest), place(largest));
        let thresholds = Thresholds::fold(&matrix, norm, |neuron| {
            let (place, rises) = norm.threshold(neuron, range, |k| F::from_f64_lossy(real(k)))?;
            // Larger than every number, so that no sum reaches it.
            let beyond = place > range.1;
            let value = if beyond {
                F::infinity()
            } else {
                F::from_f64_lossy(real(place))
            };
            Some((value, rises))
        })?;
        Ok(Self {
            first: (matrix, thresholds),
            hidden: Vec::new(),
        })
    }

    /// Adds a hidden layer: `matrix`, followed by BatchNorm and sign, on the signs of the layer before.
    fn push(&mut self, matrix: BinaryMatrix<F>, norm: &BatchNorm<F>) -> Result<()> {
        let inputs = matrix.signs.columns();
        self.fits("the hidden weights", &[matrix.signs.rows(), inputs])?;
        let thresholds = Thresholds::fold(&matrix, norm, |neuron| {
            let (limit, scale) = (inputs as i64, matrix.scale(neuron));
            let (place, rises) = norm.threshold(neuron, (-limit, limit), |k| {
                F::from_f64_lossy(k as f64) * scale
            })?;
            Some((i32::try_from(place).ok()?, rises))
        })?;
        self.hidden.push((matrix, thresholds));
        Ok(())
    }

    /// The network that ends with a layer of real `weights`, of shape (classes, features), and a `bias`.
    fn output(self, weights: Array2<F>, bias: Array1<F>) -> Result<BinaryMlp<F>> {
        check::finite("weights", &weights.view())?;
        check::finite("bias", &bias.view())?;
        self.fits("the output weights", weights.shape())?;
        check::same_shape("bias", &[weights.nrows()], bias.shape())?;
        let width = weights.ncols().div_ceil(64);
        let padded = padded_rows(weights.view(), 64 * width);
        let totals = row_totals(&padded, width, weights.nrows());
        Ok(BinaryMlp {
            layers: self,
            output: weights,
            padded,
            totals,
            bias,
        })
    }

    fn fits(&self, what: &'static str, shape: &[usize]) -> Result<()> {
        let before = self
            .hidden
            .last()
            .map_or(&self.first.0, |(matrix, _)| matrix);
        let features = before.signs.rows();
        let outputs = shape[0];
        check::same_shape(what, &[outputs, features], shape)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::quantize::binary::{Binarizer, StraightThrough};
    use crate::{Compressed, Quantizer, Seed};
    use ndarray::{Axis, concatenate};
    use proptest::prelude::*;

    pub(in crate::quantize::binary) fn random(seed: Seed, shape: (usize, usize)) -> Array2<f64> {
        let mut stream = 0;
        Array2::from_shape_simple_fn(shape, || {
            stream += 1;
            seed.uniform(stream)
        })
    }

    /// Statistics as training produces them, with γ of both signs.
    pub(in crate::quantize::binary) fn norm(seed: Seed, neurons: usize) -> BatchNorm<f64> {
        let row = |k, factor: f64, shift: f64| {
            random(seed.derive(k), (1, neurons))
                .row(0)
                .mapv(|x| x * factor + shift)
        };
        BatchNorm::new(
            row(0, 2.0, 0.0),
            row(1, 1.0, 0.0),
            row(2, 4.0, 0.0),
            row(3, 5.0, 6.0),
            1e-4,
        )
        .unwrap()
    }

    fn simulate(x: &Array2<f64>, layers: &[(Array2<f64>, BatchNorm<f64>)]) -> Array2<f64> {
        layers.iter().fold(x.clone(), |x, (w, norm)| {
            let mut h = x.dot(&w.t());
            for mut row in h.rows_mut() {
                for (i, z) in row.iter_mut().enumerate() {
                    *z = norm.apply(i, *z).unwrap();
                }
            }
            StraightThrough.forward(h.view()).unwrap()
        })
    }

    proptest! {
        #[test]
        fn the_packed_network_is_the_simulated_one(batch in 1_usize..12, inputs in 1_usize..90, first in 1_usize..90, second in 1_usize..90, seed in any::<u64>()) {
            let seed = Seed::from(seed);
            let bytes = random(seed.derive(0), (batch, inputs)).mapv(|x| ((x + 1.0) * 127.5) as u8);
            // Multiples of 1/256: every sum is exact, in any order.
            let x = bytes.mapv(|x| f64::from(x) / 256.0);
            let matrix = |k, shape| Binarizer::new().quantize(random(seed.derive(k), shape).view()).unwrap();
            let matrices = [matrix(1, (first, inputs)), matrix(2, (second, first)), matrix(3, (first, second))];
            let norms = [norm(seed.derive(4), first), norm(seed.derive(5), second), norm(seed.derive(6), first)];
            let layers: Vec<_> = matrices.iter().zip(&norms)
                .map(|(matrix, norm)| (matrix.decompress().unwrap().into_dimensionality().unwrap(), norm.clone()))
                .collect();
            // An output of the identity shows the last activations themselves.
            let [a, b, c] = matrices;
            let [norm_a, norm_b, norm_c] = norms;
            let signs = vec![(a, norm_a), (b, norm_b), (c, norm_c)];
            let network = BinaryMlp::new(signs, Array2::eye(first), Array1::zeros(first)).unwrap();
            let expected = simulate(&x, &layers);
            prop_assert_eq!(&network.forward(x.view()).unwrap(), &expected);
            prop_assert_eq!(&network.forward_bytes(bytes.view(), 1.0 / 256.0).unwrap(), &expected);
            let twice = concatenate(Axis(0), &[x.view(), x.view()]).unwrap();
            let expected = concatenate(Axis(0), &[expected.view(), expected.view()]).unwrap();
            prop_assert_eq!(network.forward(twice.view()).unwrap(), expected);
        }

        #[test]
        fn doubles_rise_with_their_place(a in any::<f64>(), b in any::<f64>()) {
            prop_assume!(a.is_finite() && b.is_finite());
            prop_assert_eq!(real(place(a)).to_bits(), a.to_bits());
            prop_assert_eq!(place(a).cmp(&place(b)), a.total_cmp(&b));
        }
    }

    #[test]
    fn the_output_is_a_linear_layer() {
        let seed = Seed::from(1);
        let w = Binarizer::new()
            .quantize(random(seed, (70, 9)).view())
            .unwrap();
        let build =
            |output, bias| BinaryMlp::new(vec![(w.clone(), norm(seed, 70))], output, bias).unwrap();
        let (weights, bias) = (
            random(seed.derive(1), (10, 70)),
            Array1::linspace(-1.0, 1.0, 10),
        );
        let x = random(seed.derive(2), (5, 9));
        let signs = build(Array2::eye(70), Array1::zeros(70))
            .forward(x.view())
            .unwrap();
        let expected = signs.dot(&weights.t()) + &bias;
        let y = build(weights, bias).forward(x.view()).unwrap();
        for (y, expected) in y.iter().zip(&expected) {
            // Three sums of 70 values of at most 1.
            assert!((y - expected).abs() <= 3.0 * 70.0 * 70.0 * f64::EPSILON);
        }
    }

    #[test]
    fn layers_that_do_not_fit_are_refused() {
        let seed = Seed::from(3);
        let matrix = |shape| {
            Binarizer::new()
                .quantize(random(seed, shape).view())
                .unwrap()
        };
        let build = |signs: &[((usize, usize), usize)], output: (usize, usize), bias: usize| {
            let signs = signs
                .iter()
                .map(|&(shape, neurons)| (matrix(shape), norm(seed, neurons)));
            BinaryMlp::new(signs.collect(), Array2::zeros(output), Array1::zeros(bias))
        };
        let first = ((3, 4), 3);
        assert!(matches!(
            build(&[], (2, 3), 2),
            Err(Error::EmptyAxis { .. })
        ));
        for (signs, output, bias) in [
            (&[((3, 4), 2)][..], (2, 3), 2),
            (&[first, ((5, 4), 5)], (2, 5), 2),
            (&[first, ((5, 3), 4)], (2, 5), 2),
            (&[first], (2, 4), 2),
            (&[first], (2, 3), 3),
        ] {
            let refused = build(signs, output, bias);
            assert!(matches!(refused, Err(Error::ShapeMismatch { .. })));
        }
        let network = build(&[first], (2, 3), 2).unwrap();
        assert!(network.forward(Array2::zeros((1, 3)).view()).is_err());
        assert!(
            network
                .forward(Array2::from_elem((1, 4), f64::NAN).view())
                .is_err()
        );
        assert_eq!(
            network.forward(Array2::zeros((0, 4)).view()).unwrap().dim(),
            (0, 2)
        );
    }
}
