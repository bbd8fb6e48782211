//! Whole networks, pruned: what they compute is what the masked networks of the original size compute.
//!
//! The forward passes are plain loops over `f64` arrays, the same code for both sizes: every shape comes from the
//! tensors.

use std::collections::BTreeMap;

use ndarray::{Array1, Array2, Array4, ArrayD, Axis, Ix1, Ix2, Ix4, IxDyn, concatenate, s};
use proptest::prelude::*;
use taper::prune::{
    ChannelScore, ChannelSlimming, CoupledPlan, Coupling, Dropped, Keep, Norm, PrunePlan, Scope,
    Tensors,
};
use taper::{Error, Pruner, Seed};

/// Numbers in [−1, 1), the same in every run.
struct Values {
    seed: Seed,
    drawn: u64,
}

impl Values {
    fn new(seed: u64) -> Self {
        let seed = Seed::from(seed);
        Self { seed, drawn: 0 }
    }

    fn next(&mut self) -> f64 {
        self.drawn += 1;
        self.seed.uniform(self.drawn)
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
        let [scale, shift, mean, variance] = ["weight", "bias", "running_mean", "running_var"]
            .map(|part| self.vector(&format!("{name}.{part}")).unwrap());
        let mut y = x.clone();
        for (c, mut channel) in y.axis_iter_mut(Axis(1)).enumerate() {
            channel.mapv_inplace(|x| {
                (x - mean[c]) / (variance[c] + 1e-5).sqrt() * scale[c] + shift[c]
            });
        }
        y
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
            values: Values::new(seed),
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

    fn norm(&mut self, name: &str, channels: usize) {
        self.put(&format!("{name}.weight"), &[channels], |x| x);
        self.put(&format!("{name}.bias"), &[channels], |x| 0.5 * x);
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

/// The largest difference, and a bound on what rounding may make of it: a few hundred additions of values whose
/// magnitudes stay below 100 in these networks.
fn difference(a: &Array2<f64>, b: &Array2<f64>) -> (f64, f64) {
    let largest = (a - b)
        .iter()
        .fold(0.0, |largest: f64, x| largest.max(x.abs()));
    (largest, 1000.0 * 100.0 * f64::EPSILON)
}

fn images(seed: u64) -> Array4<f64> {
    let images = Values::new(seed).array(&[2, 2, 6, 6]);
    images.into_dimensionality::<Ix4>().unwrap()
}

fn random_plan(coupling: &Coupling, keep: &[bool]) -> PrunePlan {
    let mut keep = keep.iter().cycle();
    let groups = coupling.groups().unwrap();
    let layers = groups.iter().map(|group| {
        let channels = group.channels();
        let mut kept: Vec<usize> = (0..channels).filter(|_| *keep.next().unwrap()).collect();
        if kept.is_empty() {
            kept.push(channels / 2);
        }
        (channels, kept)
    });
    PrunePlan::new(layers.collect()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_pruned_network_computes_what_the_masked_one_does(
        seed in any::<u64>(),
        keep in prop::collection::vec(any::<bool>(), 37),
        which in 0_usize..3,
        constant in any::<bool>(),
    ) {
        let Case { coupling, tensors, forward } = [plain, residual, branches][which](seed);
        let plan = random_plan(&coupling, &keep);
        let dropped = if constant { Dropped::Constant } else { Dropped::Zero };
        let coupled = CoupledPlan::new(&coupling, &plan).unwrap().dropped(dropped);
        let masked = coupled.mask_all(&tensors).unwrap();
        let pruned = coupled.prune_all(&tensors).unwrap();
        let images = images(seed ^ 1);
        // Zeros around an image are not the constant, so that only zeros may be padded with.
        let padding = usize::from(!constant);
        let small = forward(&Net(&pruned), &images, padding);
        let (difference, bound) = difference(&small, &forward(&Net(&masked), &images, padding));
        prop_assert!(difference <= bound, "{} > {}", difference, bound);

        // What is claimed to be left is left.
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
    // Without it the constants would be lost: the laws above could not tell, did no constant ever count.
    for case in [plain, residual, branches] {
        let Case {
            coupling,
            tensors,
            forward,
        } = case(3);
        let plan = random_plan(&coupling, &[true, false]);
        let images = images(4);
        let outputs = [Dropped::Constant, Dropped::Zero].map(|dropped| {
            let coupled = CoupledPlan::new(&coupling, &plan).unwrap().dropped(dropped);
            forward(&Net(&coupled.prune_all(&tensors).unwrap()), &images, 0)
        });
        assert!(difference(&outputs[0], &outputs[1]).0 > 1e-3);
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
    let names: Vec<&str> = groups.iter().map(|group| group.name()).collect();
    assert_eq!(names, ["stem", "a.conv1", "b.conv1"]);
    assert_eq!(groups[0].members(), ["stem", "a.conv2", "b.conv2"]);
    // b.conv1 has no batch normalization: its filters speak for it.
    assert!(matches!(
        coupling.scores(&tensors, ChannelScore::NormScale),
        Err(Error::Coupling { .. })
    ));
    let scores = coupling
        .scores(&tensors, ChannelScore::Filter(Norm::L2))
        .unwrap();
    let views: Vec<_> = scores.iter().map(|array| array.view()).collect();
    let plan = ChannelSlimming::new(Keep::Fraction(0.5))
        .scope(Scope::Layer)
        .plan(&views)
        .unwrap();
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
    let plan = PrunePlan::new(vec![(6, (0..6).collect()), (8, vec![]), (7, vec![])]).unwrap();
    let coupled = CoupledPlan::new(&coupling, &plan).unwrap();
    let images = images(5);
    let masked = coupled.mask_all(&tensors).unwrap();
    let pruned = coupled.prune_all(&tensors).unwrap();
    assert_eq!(pruned["a.conv2.weight"].shape(), [6, 0, 1, 1]);
    // What is left of the blocks: a constant for each channel of the trunk.
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
fn what_does_not_fit_is_named() {
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
    let scores = coupling.scores(&tensors, ChannelScore::Filter(Norm::L1));
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

    let plan = PrunePlan::new(vec![(6, vec![0]), (5, vec![0])]).unwrap();
    assert!(matches!(
        CoupledPlan::new(&coupling, &plan),
        Err(Error::ShapeMismatch { .. })
    ));
}

#[test]
fn a_constant_with_nowhere_to_go_is_an_error() {
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
            .dropped(Dropped::Zero)
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
fn tensors_that_are_not_coupled_stay_as_they_are() {
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
    // As frameworks hold it that store (inputs, outputs).
    let turned = weight.t().as_standard_layout().into_owned();
    let expected = coupled.prune("fc2.weight", weight.view()).unwrap();
    assert_eq!(coupled.prune("fc2.weight", turned.t()).unwrap(), expected);
}
