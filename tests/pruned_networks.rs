//! Whole networks: pruned, they compute what the masked networks of the original size compute.
//!
//! The forward passes are plain loops over `f64` arrays, the same code for both sizes: every shape comes from the
//! tensors.

use std::collections::BTreeMap;

use ndarray::{Array1, Array2, Array4, ArrayD, Axis, Ix1, Ix2, Ix4, IxDyn, concatenate, s};
use proptest::prelude::*;
use taper::prune::{
    ChannelScore, ChannelSlimming, CoupledPlan, Coupling, Keep, LayerPruner, PrunePlan, Scope,
    Tensors,
};
use taper::{Error, Seed};

/// Values that look random and are the same in every run.
struct Values(u64);

impl Values {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(1);
        Seed::from(self.0).uniform(0)
    }

    fn array(&mut self, shape: &[usize]) -> ArrayD<f64> {
        ArrayD::from_shape_simple_fn(IxDyn(shape), || self.next())
    }
}

/// A network's tensors and how to look them up.
struct Net<'a>(&'a Tensors<f64>);

impl Net<'_> {
    fn vector(&self, name: &str) -> Option<Array1<f64>> {
        let tensor = self.0.get(name)?.clone();
        Some(tensor.into_dimensionality::<Ix1>().unwrap())
    }

    /// A convolution of stride 1; how many groups it has follows from the shapes.
    fn conv(&self, name: &str, x: &Array4<f64>, padding: usize) -> Array4<f64> {
        let weight = self.0[&format!("{name}.weight")].clone();
        let weight = weight.into_dimensionality::<Ix4>().unwrap();
        let (outputs, inputs, kernel, _) = weight.dim();
        let (batch, channels, height, width) = x.dim();
        let groups = channels / inputs;
        let mut padded =
            Array4::zeros((batch, channels, height + 2 * padding, width + 2 * padding));
        padded
            .slice_mut(s![
                ..,
                ..,
                padding..padding + height,
                padding..padding + width
            ])
            .assign(x);
        let (rows, columns) = (
            height + 2 * padding + 1 - kernel,
            width + 2 * padding + 1 - kernel,
        );
        let bias = self.vector(&format!("{name}.bias"));
        Array4::from_shape_fn((batch, outputs, rows, columns), |(n, o, i, j)| {
            let first = o / (outputs / groups) * inputs;
            let window = padded.slice(s![n, first..first + inputs, i..i + kernel, j..j + kernel]);
            let sum = (&window * &weight.index_axis(Axis(0), o)).sum();
            sum + bias.as_ref().map_or(0.0, |bias| bias[o])
        })
    }

    fn norm(&self, name: &str, x: &Array4<f64>) -> Array4<f64> {
        let [mean, variance] = ["running_mean", "running_var"]
            .map(|part| self.vector(&format!("{name}.{part}")).unwrap());
        let mut y = x.clone();
        for (c, mut channel) in y.axis_iter_mut(Axis(1)).enumerate() {
            channel.mapv_inplace(|x| (x - mean[c]) / (variance[c] + 1e-5).sqrt());
        }
        self.affine(name, y)
    }

    /// A transposed convolution of stride 2, in `groups` groups.
    fn transposed(&self, name: &str, x: &Array4<f64>, groups: usize) -> Array4<f64> {
        let weight = self.0[&format!("{name}.weight")].clone();
        let weight = weight.into_dimensionality::<Ix4>().unwrap();
        let (inputs, outputs, kernel, _) = weight.dim();
        let (batch, channels, height, width) = x.dim();
        assert_eq!(inputs, channels);
        let mut y = Array4::zeros((
            batch,
            groups * outputs,
            2 * (height - 1) + kernel,
            2 * (width - 1) + kernel,
        ));
        for ((n, c, i, j), &x) in x.indexed_iter() {
            let first = c / (channels / groups).max(1) * outputs;
            for ((o, k, l), w) in weight.index_axis(Axis(0), c).indexed_iter() {
                y[[n, first + o, 2 * i + k, 2 * j + l]] += w * x;
            }
        }
        if let Some(bias) = self.vector(&format!("{name}.bias")) {
            for (mut channel, bias) in y.axis_iter_mut(Axis(1)).zip(bias) {
                channel += bias;
            }
        }
        y
    }

    /// Normalizes runs of `run` channels by their mean and variance over channels and positions.
    fn group_norm(&self, name: &str, x: &Array4<f64>, run: usize) -> Array4<f64> {
        let mut y = x.clone();
        for mut sample in y.outer_iter_mut() {
            for mut group in sample.axis_chunks_iter_mut(Axis(0), run.max(1)) {
                let mean = group.mean().unwrap();
                group -= mean;
                let variance = group.mapv(|x| x * x).mean().unwrap();
                group /= (variance + 1e-5).sqrt();
            }
        }
        self.affine(name, y)
    }

    /// Normalizes the channels of each position by their mean and variance.
    fn layer_norm(&self, name: &str, x: &Array4<f64>) -> Array4<f64> {
        let mut y = x.clone();
        for mut channels in y.lanes_mut(Axis(1)) {
            let mean = channels.mean().unwrap();
            channels -= mean;
            let variance = channels.dot(&channels) / channels.len() as f64;
            channels /= (variance + 1e-5).sqrt();
        }
        self.affine(name, y)
    }

    /// Divides the channels of each position by their root mean square.
    fn rms_norm(&self, name: &str, x: &Array4<f64>, epsilon: f64) -> Array4<f64> {
        let mut y = x.clone();
        for mut channels in y.lanes_mut(Axis(1)) {
            let square = channels.dot(&channels) / channels.len() as f64;
            channels /= (square + epsilon).sqrt();
        }
        self.affine(name, y)
    }

    /// Multiplies by the scale and adds the shift, where there are any.
    fn affine(&self, name: &str, mut x: Array4<f64>) -> Array4<f64> {
        let [scale, shift] = ["weight", "bias"].map(|part| self.vector(&format!("{name}.{part}")));
        for (c, mut channel) in x.axis_iter_mut(Axis(1)).enumerate() {
            channel *= scale.as_ref().map_or(1.0, |scale| scale[c]);
            channel += shift.as_ref().map_or(0.0, |shift| shift[c]);
        }
        x
    }

    fn linear(&self, name: &str, x: &Array2<f64>) -> Array2<f64> {
        let weight = self.0[&format!("{name}.weight")].clone();
        let y = x.dot(&weight.into_dimensionality::<Ix2>().unwrap().t());
        match self.vector(&format!("{name}.bias")) {
            Some(bias) => y + bias,
            None => y,
        }
    }
}

fn relu(x: &Array4<f64>) -> Array4<f64> {
    x.mapv(|x| x.max(0.0))
}

fn average(x: &Array4<f64>) -> Array2<f64> {
    x.mean_axis(Axis(3)).unwrap().mean_axis(Axis(2)).unwrap()
}

fn flatten(x: &Array4<f64>) -> Array2<f64> {
    let (batch, channels, height, width) = x.dim();
    let flat = x.to_shape((batch, channels * height * width)).unwrap();
    flat.to_owned()
}

/// One network: its coupling, its tensors, how it is computed. Convolutions pad by `padding`.
struct Case {
    coupling: Coupling,
    tensors: Tensors<f64>,
    forward: fn(&Net<'_>, &Array4<f64>, usize) -> Array2<f64>,
}

struct Maker {
    values: Values,
    tensors: Tensors<f64>,
}

impl Maker {
    fn new(seed: u64) -> Self {
        Self {
            values: Values(seed),
            tensors: BTreeMap::new(),
        }
    }

    fn put(&mut self, name: &str, shape: &[usize], f: impl Fn(f64) -> f64) {
        let tensor = self.values.array(shape).mapv(f);
        self.tensors.insert(name.to_owned(), tensor);
    }

    fn layer(&mut self, name: &str, shape: &[usize], bias: bool) {
        let inputs: usize = shape[1..].iter().product();
        let scale = (3.0 / inputs as f64).sqrt();
        self.put(&format!("{name}.weight"), shape, |x| scale * x);
        if bias {
            self.put(&format!("{name}.bias"), &shape[..1], |x| 0.5 * x);
        }
    }

    fn affine(&mut self, name: &str, channels: usize) {
        self.put(&format!("{name}.weight"), &[channels], |x| x);
        self.put(&format!("{name}.bias"), &[channels], |x| 0.5 * x);
    }

    fn norm(&mut self, name: &str, channels: usize) {
        self.affine(name, channels);
        self.put(&format!("{name}.running_mean"), &[channels], |x| 0.2 * x);
        self.put(&format!("{name}.running_var"), &[channels], |x| {
            1.0 + 0.5 * x
        });
    }
}

/// Convolutions with batch normalization, flattened into two linear layers.
fn plain(seed: u64) -> Case {
    let mut make = Maker::new(seed);
    make.layer("conv1", &[6, 2, 3, 3], false);
    make.norm("bn1", 6);
    make.layer("conv2", &[5, 6, 3, 3], true);
    make.layer("fc1", &[7, 5 * 4], true);
    make.layer("fc2", &[3, 7], true);
    let declare = || -> Result<Coupling, Error> {
        let mut net = Coupling::new();
        let x = net.input(2)?;
        let x = net.layer("conv1", x, 6)?;
        let x = net.batch_norm("bn1", x)?;
        let x = net.relu(x)?;
        let x = net.layer("conv2", x, 5)?;
        let x = net.relu(x)?;
        let x = net.flatten(x, 4)?;
        let x = net.layer("fc1", x, 7)?;
        let x = net.activation(x, f64::tanh)?;
        let x = net.layer("fc2", x, 3)?;
        net.output(x)?;
        Ok(net)
    };
    Case {
        coupling: declare().unwrap(),
        tensors: make.tensors,
        forward: |net, x, padding| {
            let x = relu(&net.norm("bn1", &net.conv("conv1", x, padding)));
            let x = relu(&net.conv("conv2", &x, padding));
            let x = net.linear("fc1", &flatten(&x.slice(s![.., .., ..2, ..2]).to_owned()));
            net.linear("fc2", &x.mapv(f64::tanh))
        },
    }
}

/// Two residual blocks: the trunk is added to twice, the second block is of the pre-activation kind.
fn residual(seed: u64) -> Case {
    let mut make = Maker::new(seed);
    make.layer("stem", &[6, 2, 3, 3], false);
    make.norm("bn0", 6);
    make.layer("a.conv1", &[8, 6, 1, 1], false);
    make.norm("a.bn1", 8);
    make.layer("a.conv2", &[6, 8, 1, 1], false);
    make.norm("a.bn2", 6);
    make.norm("b.bn1", 6);
    make.layer("b.conv1", &[7, 6, 1, 1], true);
    make.layer("b.conv2", &[6, 7, 1, 1], true);
    make.layer("fc", &[4, 6], true);
    let declare = || -> Result<Coupling, Error> {
        let mut net = Coupling::new();
        let x = net.input(2)?;
        let x = net.layer("stem", x, 6)?;
        let x = net.batch_norm("bn0", x)?;
        let x = net.relu(x)?;
        let y = net.layer("a.conv1", x, 8)?;
        let y = net.batch_norm("a.bn1", y)?;
        let y = net.relu(y)?;
        let y = net.layer("a.conv2", y, 6)?;
        let y = net.batch_norm("a.bn2", y)?;
        let x = net.add(&[x, y])?;
        let x = net.relu(x)?;
        let y = net.batch_norm("b.bn1", x)?;
        let y = net.relu(y)?;
        let y = net.layer("b.conv1", y, 7)?;
        let y = net.relu(y)?;
        let y = net.layer("b.conv2", y, 6)?;
        let x = net.add(&[x, y])?;
        let x = net.layer("fc", x, 4)?;
        net.output(x)?;
        Ok(net)
    };
    Case {
        coupling: declare().unwrap(),
        tensors: make.tensors,
        forward: |net, x, padding| {
            let x = relu(&net.norm("bn0", &net.conv("stem", x, padding)));
            let y = relu(&net.norm("a.bn1", &net.conv("a.conv1", &x, 0)));
            let y = net.norm("a.bn2", &net.conv("a.conv2", &y, 0));
            let x = relu(&(x + y));
            let y = relu(&net.conv("b.conv1", &relu(&net.norm("b.bn1", &x)), 0));
            let x = &x + &net.conv("b.conv2", &y, 0);
            net.linear("fc", &average(&x))
        },
    }
}

/// A concatenation with a batch normalization along it, depthwise and grouped convolutions, and a gate.
fn branches(seed: u64) -> Case {
    let mut make = Maker::new(seed);
    make.layer("left", &[4, 2, 1, 1], true);
    make.layer("right", &[3, 2, 1, 1], true);
    make.norm("bn", 7);
    make.layer("depthwise", &[7, 1, 3, 3], true);
    make.layer("expand", &[6, 7, 1, 1], true);
    make.layer("grouped", &[9, 2, 1, 1], true);
    make.layer("value", &[5, 9, 1, 1], true);
    make.layer("gate", &[5, 9, 1, 1], true);
    make.layer("fc", &[3, 5], true);
    let declare = || -> Result<Coupling, Error> {
        let mut net = Coupling::new();
        let image = net.input(2)?;
        let left = net.layer("left", image, 4)?;
        let right = net.layer("right", image, 3)?;
        let x = net.concat(&[left, right])?;
        let x = net.batch_norm("bn", x)?;
        let x = net.relu(x)?;
        let x = net.depthwise("depthwise", x)?;
        let x = net.relu(x)?;
        let x = net.layer_of_blocks("expand", x, 3, 2)?;
        let x = net.relu(x)?;
        let x = net.grouped("grouped", x, 3, 9)?;
        let x = net.relu(x)?;
        let value = net.layer("value", x, 5)?;
        let gate = net.layer("gate", x, 5)?;
        let gate = net.activation(gate, f64::tanh)?;
        let x = net.multiply(&[value, gate])?;
        let x = net.layer("fc", x, 3)?;
        net.output(x)?;
        Ok(net)
    };
    Case {
        coupling: declare().unwrap(),
        tensors: make.tensors,
        forward: |net, x, padding| {
            let (left, right) = (net.conv("left", x, 0), net.conv("right", x, 0));
            let x = concatenate![Axis(1), left, right];
            let x = relu(&net.conv("depthwise", &relu(&net.norm("bn", &x)), padding));
            let x = relu(&net.conv("expand", &x, 0));
            let x = relu(&net.conv("grouped", &x, 0));
            let x = net.conv("value", &x, 0) * net.conv("gate", &x, 0).mapv(f64::tanh);
            net.linear("fc", &average(&x))
        },
    }
}

/// Transposed convolutions with equal numbers of inputs and outputs, one of them grouped, and a matrix (in, out).
fn upsampling(seed: u64) -> Case {
    let mut make = Maker::new(seed);
    make.layer("down", &[6, 2, 3, 3], false);
    make.layer("up", &[6, 6, 2, 2], false);
    make.put("up.bias", &[6], |x| 0.5 * x);
    make.layer("blocks", &[6, 6, 1, 1], true);
    make.layer("grouped", &[6, 2, 2, 2], false);
    make.put("grouped.bias", &[6], |x| 0.5 * x);
    make.layer("conv", &[5, 6, 1, 1], true);
    make.layer("fc1", &[5, 5], false);
    make.put("fc1.bias", &[5], |x| 0.5 * x);
    make.layer("fc2", &[3, 5], true);
    let declare = || -> Result<Coupling, Error> {
        let mut net = Coupling::new();
        let x = net.input(2)?;
        let x = net.layer("down", x, 6)?;
        let x = net.relu(x)?;
        let x = net.transposed("up", x, 6)?;
        let x = net.relu(x)?;
        let x = net.layer_of_blocks("blocks", x, 3, 2)?;
        let x = net.transposed_grouped("grouped", x, 3, 6)?;
        let x = net.relu(x)?;
        let x = net.layer("conv", x, 5)?;
        let x = net.relu(x)?;
        let x = net.transposed("fc1", x, 5)?;
        let x = net.layer("fc2", x, 3)?;
        net.output(x)?;
        Ok(net)
    };
    Case {
        coupling: declare().unwrap(),
        tensors: make.tensors,
        forward: |net, x, padding| {
            let x = relu(&net.conv("down", x, padding));
            let x = relu(&net.transposed("up", &x, 1));
            let x = net.conv("blocks", &x, 0);
            let groups = x.dim().1 / 2;
            let x = relu(&net.transposed("grouped", &x, groups));
            let x = average(&relu(&net.conv("conv", &x, 0)));
            let weight = net.0["fc1.weight"].clone();
            let x = x.dot(&weight.into_dimensionality::<Ix2>().unwrap());
            let x = x + net.vector("fc1.bias").unwrap();
            net.linear("fc2", &x)
        },
    }
}

/// Instance normalization with and without a scale, and group normalization of whole groups.
fn own_statistics(seed: u64) -> Case {
    let mut make = Maker::new(seed);
    make.layer("conv1", &[6, 2, 3, 3], true);
    make.affine("in1", 6);
    make.layer("conv2", &[8, 6, 1, 1], false);
    make.layer("conv3", &[6, 8, 1, 1], true);
    make.affine("gn", 6);
    make.layer("fc", &[3, 6], true);
    let declare = || -> Result<Coupling, Error> {
        let mut net = Coupling::new();
        let x = net.input(2)?;
        let x = net.layer("conv1", x, 6)?;
        let x = net.instance_norm("in1", x)?;
        let x = net.relu(x)?;
        // No bias: the normalization that follows removes the constants that it would hold.
        let x = net.layer("conv2", x, 8)?;
        let x = net.instance_norm("in2", x)?;
        let x = net.relu(x)?;
        let x = net.layer_of_blocks("conv3", x, 3, 2)?;
        let x = net.group_norm("gn", x, 3)?;
        let x = net.relu(x)?;
        let x = net.layer("fc", x, 3)?;
        net.output(x)?;
        Ok(net)
    };
    Case {
        coupling: declare().unwrap(),
        tensors: make.tensors,
        forward: |net, x, padding| {
            let x = relu(&net.group_norm("in1", &net.conv("conv1", x, padding), 1));
            let x = relu(&net.group_norm("in2", &net.conv("conv2", &x, 0), 1));
            let x = relu(&net.group_norm("gn", &net.conv("conv3", &x, 0), 2));
            net.linear("fc", &average(&x))
        },
    }
}

/// RMS normalizations along a residual stream without biases.
fn root_mean_square(seed: u64) -> Case {
    let mut make = Maker::new(seed);
    make.layer("embed", &[8, 2, 1, 1], false);
    make.put("norm1.weight", &[8], |x| x);
    make.layer("hidden", &[6, 8, 1, 1], false);
    make.layer("back", &[8, 6, 1, 1], false);
    make.put("norm2.weight", &[8], |x| x);
    make.layer("fc", &[3, 8], true);
    let declare = || -> Result<Coupling, Error> {
        let mut net = Coupling::new();
        let x = net.input(2)?;
        let x = net.layer("embed", x, 8)?;
        let y = net.rms_norm("norm1", x)?;
        let y = net.layer("hidden", y, 6)?;
        let y = net.activation(y, |x| x.abs() * x)?;
        let y = net.layer("back", y, 8)?;
        let x = net.add(&[x, y])?;
        let x = net.rms_norm("norm2", x)?;
        let x = net.layer("fc", x, 3)?;
        net.output(x)?;
        Ok(net)
    };
    Case {
        coupling: declare().unwrap(),
        tensors: make.tensors,
        forward: |net, x, _| {
            let x = net.conv("embed", x, 0);
            // The ε of the pruned network is larger by the factor by which it has fewer channels.
            let epsilon = 0.01 * 8.0 / x.dim().1 as f64;
            let y = net.conv("hidden", &net.rms_norm("norm1", &x, epsilon), 0);
            let x = &x + &net.conv("back", &y.mapv(|y| y.abs() * y), 0);
            net.linear("fc", &average(&net.rms_norm("norm2", &x, epsilon)))
        },
    }
}

/// The largest difference, and a bound on what rounding may make of it: a few hundred additions of values whose
/// magnitudes stay below 100 in these networks.
fn difference(a: &Array2<f64>, b: &Array2<f64>) -> (f64, f64) {
    let largest = (a - b)
        .iter()
        .fold(0.0, |largest: f64, x| largest.max(x.abs()));
    (largest, 1000.0 * 100.0 * f64::EPSILON)
}

fn images(seed: u64) -> Array4<f64> {
    let images = Values(seed).array(&[2, 2, 6, 6]);
    images.into_dimensionality::<Ix4>().unwrap()
}

fn random_plan(coupling: &Coupling, keep: &[bool]) -> PrunePlan {
    let mut keep = keep.iter().cycle();
    let groups = coupling.groups().unwrap();
    let layers = groups.iter().map(|group| {
        let channels = group.channels;
        let mut kept: Vec<usize> = (0..channels).filter(|_| *keep.next().unwrap()).collect();
        if kept.is_empty() {
            kept.push(channels / 2);
        }
        (channels, kept)
    });
    let plan = PrunePlan::new(layers.collect()).unwrap();
    let names = groups.iter().map(|group| group.name.as_str());
    plan.named(names).unwrap()
}

const CASES: [fn(u64) -> Case; 6] = [
    plain,
    residual,
    branches,
    upsampling,
    own_statistics,
    root_mean_square,
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn the_pruned_network_computes_what_the_masked_one_does(
        seed in any::<u64>(),
        keep in prop::collection::vec(any::<bool>(), 37),
        which in 0_usize..6,
        constant in any::<bool>(),
    ) {
        let Case { coupling, tensors, forward } = CASES[which](seed);
        let plan = random_plan(&coupling, &keep);
        let coupled = CoupledPlan::new(&coupling, &plan).unwrap().fold_constants(constant);
        let masked = coupled.mask_all(&tensors).unwrap();
        let pruned = coupled.prune_all(&tensors).unwrap();
        let images = images(seed ^ 1);
        // Zeros around an image are not the constant, so that only zeros may be padded with.
        let padding = usize::from(!constant);
        let small = forward(&Net(&pruned), &images, padding);
        let (difference, bound) = difference(&small, &forward(&Net(&masked), &images, padding));
        prop_assert!(difference <= bound, "{} > {}", difference, bound);

        // The report counts the values that are left.
        let report = coupled.report(&tensors, |_| 1).unwrap();
        let total = report.total();
        let values: usize = pruned.values().map(ArrayD::len).sum();
        prop_assert_eq!(total.bytes.after, 8 * values as u64);
        let values: usize = tensors.values().map(ArrayD::len).sum();
        prop_assert_eq!(total.bytes.before, 8 * values as u64);
    }
}

#[test]
fn folding_matters() {
    // If no constant counted, the law above would hold without folding too.
    for case in [plain, residual, branches] {
        let Case {
            coupling,
            tensors,
            forward,
        } = case(3);
        let plan = random_plan(&coupling, &[true, false]);
        let images = images(4);
        let outputs = [true, false].map(|fold| {
            let coupled = CoupledPlan::new(&coupling, &plan)
                .unwrap()
                .fold_constants(fold);
            forward(&Net(&coupled.prune_all(&tensors).unwrap()), &images, 0)
        });
        let (difference, bound) = difference(&outputs[0], &outputs[1]);
        assert!(difference > bound);
    }
}

#[test]
fn a_residual_network_is_pruned_through_its_additions_by_its_scales() {
    let Case {
        coupling,
        tensors,
        forward,
    } = residual(11);
    let groups = coupling.groups().unwrap();
    let names: Vec<&str> = groups.iter().map(|group| group.name.as_str()).collect();
    assert_eq!(names, ["stem", "a.conv1", "b.conv1"]);
    assert_eq!(groups[0].members, ["stem", "a.conv2", "b.conv2"]);
    // b.conv1 has no normalization, so its filters score it.
    assert!(matches!(
        coupling.scores(&tensors, ChannelScore::NormScale),
        Err(Error::Coupling { .. })
    ));
    let scores = coupling.scores(&tensors, ChannelScore::FilterL2).unwrap();
    let pruner = ChannelSlimming::new(Keep::Fraction(0.5)).scope(Scope::Layer);
    let plan = coupling.plan(&pruner, &scores).unwrap();
    let coupled = CoupledPlan::new(&coupling, &plan).unwrap();
    let pruned = coupled.prune_all(&tensors).unwrap();
    for (name, shape) in [
        ("stem.weight", &[3, 2, 3, 3][..]),
        ("bn0.running_var", &[3]),
        ("a.conv1.weight", &[4, 3, 1, 1]),
        ("a.conv2.weight", &[3, 4, 1, 1]),
        ("b.bn1.weight", &[3]),
        ("b.conv2.bias", &[3]),
        ("fc.weight", &[4, 3]),
        ("fc.bias", &[4]),
    ] {
        assert_eq!(pruned[name].shape(), shape, "{name}");
    }
    let images = images(5);
    let masked = coupled.mask_all(&tensors).unwrap();
    let (difference, bound) = difference(
        &forward(&Net(&pruned), &images, 1),
        &forward(&Net(&masked), &images, 1),
    );
    // The only padded convolution reads the image, which is never pruned.
    assert!(difference <= bound);
}

#[test]
fn a_block_without_hidden_channels_is_a_constant() {
    let Case {
        coupling,
        tensors,
        forward,
    } = residual(7);
    // The trunk matters most.
    let scores = [(6, 1.0), (8, 0.5), (7, 0.1)].map(|(n, score)| Array1::from_elem(n, score));
    let plan = coupling
        .plan(&LayerPruner::new(Keep::Count(1)), &scores)
        .unwrap();
    assert_eq!([0, 1, 2].map(|i| plan.kept(i).unwrap().len()), [6, 0, 0]);
    let coupled = CoupledPlan::new(&coupling, &plan).unwrap();
    let images = images(5);
    let masked = coupled.mask_all(&tensors).unwrap();
    let pruned = coupled.prune_all(&tensors).unwrap();
    assert_eq!(pruned["a.conv2.weight"].shape(), [6, 0, 1, 1]);
    // Each block is now a constant for each channel of the trunk.
    let short = |net: &Net<'_>, x: &Array4<f64>| {
        let x = relu(&net.norm("bn0", &net.conv("stem", x, 0)));
        let nothing = Array4::zeros(x.dim());
        let x = relu(&(&x + &net.norm("a.bn2", &nothing)));
        let bias = net.vector("b.conv2.bias").unwrap();
        net.linear("fc", &(average(&x) + bias))
    };
    let (difference, bound) = difference(
        &short(&Net(&pruned), &images),
        &forward(&Net(&masked), &images, 0),
    );
    assert!(difference <= bound);
}

#[test]
fn errors_name_the_tensor_that_does_not_fit() {
    let Case {
        coupling,
        mut tensors,
        ..
    } = plain(1);
    let plan = random_plan(&coupling, &[true, false]);
    let coupled = CoupledPlan::new(&coupling, &plan).unwrap();
    tensors.insert("fc1.weight".to_owned(), ArrayD::zeros(IxDyn(&[7, 21])));
    let error = coupled.prune_all(&tensors).unwrap_err();
    assert_eq!(
        error.to_string(),
        "axis 1 of fc1.weight, of shape [7, 21], must have 20 entries: those of 5 channels of conv2 in blocks of 4"
    );
    assert_eq!(coupled.mask_all(&tensors).unwrap_err(), error);
    assert_eq!(coupled.report(&tensors, |_| 1).unwrap_err(), error);
    let scores = coupling.scores(&tensors, ChannelScore::FilterL1);
    assert_eq!(scores.unwrap_err(), error);
    tensors.insert("fc1.weight".to_owned(), ArrayD::zeros(IxDyn(&[7])));
    assert!(matches!(
        coupled.prune_all(&tensors),
        Err(Error::ChannelAxis { axis: 1, .. })
    ));
    tensors.remove("fc1.weight");
    let missing = Error::UnknownTensor {
        name: "fc1.weight".to_owned(),
    };
    assert_eq!(coupled.prune_all(&tensors), Err(missing));
    let unknown = Error::UnknownTensor {
        name: "other".to_owned(),
    };
    assert_eq!(
        coupled.prune("other", tensors["fc2.bias"].view()),
        Err(unknown)
    );
}

#[test]
fn a_plan_names_the_groups_that_it_is_for() {
    let mut net = Coupling::new();
    let x = net.input(2).unwrap();
    let x = net.layer("a", x, 4).unwrap();
    let x = net.layer("b", x, 4).unwrap();
    let x = net.layer("out", x, 1).unwrap();
    net.output(x).unwrap();
    let mut make = Maker::new(1);
    make.layer("a", &[4, 2], true);
    make.layer("b", &[4, 4], true);
    make.layer("out", &[1, 4], true);
    let plan =
        |kept: [&[usize]; 2]| PrunePlan::new(kept.map(|kept| (4, kept.to_vec())).to_vec()).unwrap();
    let problem = |plan: &PrunePlan| match CoupledPlan::new(&net, plan) {
        Err(Error::Coupling { problem }) => problem,
        other => panic!("expected a plan that is refused, got {other:?}"),
    };
    let unnamed = plan([&[0, 1], &[3]]);
    assert!(problem(&unnamed).contains(r#"name the groups ["a", "b"]"#));
    let other = unnamed.clone().named(["a", "c"]).unwrap();
    assert_eq!(
        problem(&other),
        r#"the plan is for ["a", "c"], but the network has the groups ["a", "b"]"#
    );
    let one = PrunePlan::new(vec![(4, vec![0])]).unwrap();
    assert!(problem(&one.named(["a"]).unwrap()).contains(r#"["a"]"#));

    // Groups of equal width are told apart by their names, in any order.
    let named = unnamed.named(["a", "b"]).unwrap();
    let turned = plan([&[3], &[0, 1]]).named(["b", "a"]).unwrap();
    let pruned = |plan: &PrunePlan| {
        let coupled = CoupledPlan::new(&net, plan).unwrap();
        coupled.prune_all(&make.tensors).unwrap()
    };
    assert_eq!(pruned(&named)["b.weight"].shape(), [1, 2]);
    assert_eq!(pruned(&named), pruned(&turned));

    let narrow = PrunePlan::new(vec![(4, vec![0]), (3, vec![0])]).unwrap();
    assert!(matches!(
        CoupledPlan::new(&net, &narrow.named(["a", "b"]).unwrap()),
        Err(Error::ShapeMismatch { .. })
    ));
}

/// A convolution, a normalization, and a linear layer that reads the mean over positions.
fn one_norm(
    norm: impl Fn(&mut Coupling, taper::prune::Channels) -> taper::Result<taper::prune::Channels>,
) -> Coupling {
    let mut net = Coupling::new();
    let x = net.input(2).unwrap();
    let x = net.layer("conv", x, 6).unwrap();
    let x = norm(&mut net, x).unwrap();
    let x = net.layer("fc", x, 3).unwrap();
    net.output(x).unwrap();
    net
}

#[test]
fn statistics_over_channels_are_those_of_the_kept_ones() {
    let mut make = Maker::new(2);
    make.layer("conv", &[6, 2, 3, 3], true);
    make.affine("norm", 6);
    make.layer("fc", &[3, 6], true);
    let tensors = make.tensors;
    let images = images(3);
    type Forward = fn(&Net<'_>, &Array4<f64>) -> Array4<f64>;
    let layer: Forward = |net, x| net.layer_norm("norm", x);
    let group: Forward = |net, x| net.group_norm("norm", x, x.dim().1 / 2);
    for (coupling, forward) in [
        (one_norm(|net, x| net.layer_norm("norm", x)), layer),
        (one_norm(|net, x| net.group_norm("norm", x, 2)), group),
    ] {
        let kept = [0, 2, 3, 4];
        let plan = PrunePlan::new(vec![(6, kept.to_vec())]).unwrap();
        let plan = plan.named(["conv"]).unwrap();
        let coupled = CoupledPlan::new(&coupling, &plan).unwrap();
        let pruned = coupled.fold_constants(false).prune_all(&tensors).unwrap();
        let net = Net(&pruned);
        let small = net.linear(
            "fc",
            &average(&forward(&net, &net.conv("conv", &images, 0))),
        );
        // The dropped channels are cut out of the convolution's output before the normalization.
        let cut = Net(&tensors)
            .conv("conv", &images, 0)
            .select(Axis(1), &kept);
        let of_cut = net.linear("fc", &average(&forward(&net, &cut)));
        let (difference, bound) = difference(&small, &of_cut);
        assert!(difference <= bound);
    }
}

#[test]
fn groups_of_different_sizes_are_refused() {
    let coupling = one_norm(|net, x| net.group_norm("norm", x, 3));
    let refused = |kept: &[usize]| {
        let plan = PrunePlan::new(vec![(6, kept.to_vec())]).unwrap();
        let plan = plan.named(["conv"]).unwrap();
        CoupledPlan::new(&coupling, &plan).map(|_| ())
    };
    for even in [&[0, 1][..], &[0, 3], &[1, 2, 5], &[0, 1, 4, 5]] {
        assert_eq!(refused(even), Ok(()));
    }
    assert!(matches!(
        refused(&[0, 1, 2]),
        Err(Error::Coupling { problem }) if problem.contains("[2, 1, 0] channels in the groups of norm")
    ));
}

#[test]
fn constants_that_no_bias_can_hold_are_refused() {
    let plan = PrunePlan::new(vec![(6, vec![1, 4])]).unwrap();
    let plan = plan.named(["conv"]).unwrap();
    let problem = |coupling: &Coupling, tensors: &Tensors<f64>| {
        let coupled = CoupledPlan::new(coupling, &plan).unwrap();
        let zero = coupled.clone().fold_constants(false);
        assert!(zero.prune_all(tensors).is_ok());
        match coupled.prune_all(tensors) {
            Err(Error::Coupling { problem }) => problem,
            other => panic!("expected constants that cannot be folded, got {other:?}"),
        }
    };
    let mut make = Maker::new(4);
    make.layer("conv", &[6, 2, 3, 3], true);
    make.layer("fc", &[3, 6, 1, 1], true);
    // A stride spreads constants over positions.
    let mut net = Coupling::new();
    let x = net.input(2).unwrap();
    let x = net.layer("conv", x, 6).unwrap();
    let x = net.transposed("up", x, 3).unwrap();
    net.output(x).unwrap();
    let mut tensors = make.tensors.clone();
    tensors.insert("up.weight".to_owned(), ArrayD::ones(IxDyn(&[6, 3, 2, 2])));
    tensors.insert("up.bias".to_owned(), ArrayD::ones(IxDyn(&[3])));
    assert!(problem(&net, &tensors).contains("up is a transposed convolution"));

    // Running statistics without a scale make another constant of a bias.
    let net = one_norm(|net, x| net.batch_norm("norm", x));
    let mut tensors = make.tensors.clone();
    tensors.insert("norm.running_mean".to_owned(), ArrayD::ones(IxDyn(&[6])));
    tensors.insert("norm.running_var".to_owned(), ArrayD::ones(IxDyn(&[6])));
    assert!(problem(&net, &tensors).contains("norm has no scale"));
    // With zeros, the masked network still computes the same.
    let coupled = CoupledPlan::new(&net, &plan).unwrap().fold_constants(false);
    let forward = |tensors: &Tensors<f64>, x: &Array4<f64>| {
        let net = Net(tensors);
        let y = net.conv("fc", &net.norm("norm", &net.conv("conv", x, 0)), 0);
        average(&y)
    };
    let images = images(5);
    let (difference, bound) = difference(
        &forward(&coupled.prune_all(&tensors).unwrap(), &images),
        &forward(&coupled.mask_all(&tensors).unwrap(), &images),
    );
    assert!(difference <= bound);

    // A shift that differs from position to position.
    let net = one_norm(|net, x| net.layer_norm("norm", x));
    let mut tensors = make.tensors;
    tensors.insert("norm.weight".to_owned(), ArrayD::ones(IxDyn(&[6, 4, 4])));
    let shift = Values(6).array(&[6, 4, 4]);
    tensors.insert("norm.bias".to_owned(), shift);
    assert!(problem(&net, &tensors).contains("norm.bias, of shape [6, 4, 4]"));
    tensors.insert("norm.bias".to_owned(), ArrayD::ones(IxDyn(&[6, 4, 4])));
    let coupled = CoupledPlan::new(&net, &plan).unwrap();
    let pruned = coupled.prune_all(&tensors).unwrap();
    assert_eq!(pruned["norm.bias"].shape(), [2, 4, 4]);
}

#[test]
fn constants_without_a_bias_to_hold_them_are_refused() {
    let Case {
        coupling,
        mut tensors,
        ..
    } = plain(1);
    tensors.remove("fc1.bias");
    let plan = random_plan(&coupling, &[true, false]);
    let coupled = CoupledPlan::new(&coupling, &plan).unwrap();
    assert!(matches!(
        coupled.prune_all(&tensors),
        Err(Error::Coupling { problem }) if problem.contains("fc1")
    ));
    assert!(
        coupled
            .clone()
            .fold_constants(false)
            .prune_all(&tensors)
            .is_ok()
    );
    tensors.insert("fc1.bias".to_owned(), ArrayD::zeros(IxDyn(&[7])));
    tensors.insert(
        "conv2.bias".to_owned(),
        ArrayD::from_elem(IxDyn(&[5]), f64::INFINITY),
    );
    assert!(matches!(
        coupled.prune_all(&tensors),
        Err(Error::NonFinite { .. })
    ));
}

#[test]
fn undeclared_tensors_do_not_change() {
    let Case {
        coupling,
        mut tensors,
        ..
    } = plain(1);
    let step = ArrayD::from_elem(IxDyn(&[]), 3.0);
    tensors.insert("bn1.num_batches_tracked".to_owned(), step.clone());
    let plan = random_plan(&coupling, &[true, false]);
    let coupled = CoupledPlan::new(&coupling, &plan).unwrap();
    assert_eq!(
        coupled.prune_all(&tensors).unwrap()["bn1.num_batches_tracked"],
        step
    );
    assert_eq!(
        coupled.mask_all(&tensors).unwrap()["bn1.num_batches_tracked"],
        step
    );
}

#[test]
fn views_may_have_any_strides() {
    let Case {
        coupling, tensors, ..
    } = plain(1);
    let plan = random_plan(&coupling, &[true, false, true]);
    let coupled = CoupledPlan::new(&coupling, &plan).unwrap();
    let weight = &tensors["fc2.weight"];
    // The same matrix, stored by columns.
    let turned = weight.t().as_standard_layout().into_owned();
    let expected = coupled.prune("fc2.weight", weight.view()).unwrap();
    assert_eq!(coupled.prune("fc2.weight", turned.t()).unwrap(), expected);
}
