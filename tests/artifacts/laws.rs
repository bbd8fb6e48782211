//! The laws that every artifact keeps, whatever made it.

use proptest::prelude::*;
use taper::model::extend::{Artifact, Registry};
use taper::model::{CompressedModel, CompressedTensor};
use taper::ndarray::{Array2, ArrayD, ArrayViewD, Axis, Ix2, Slice};
use taper::{Compressed, Float};

use crate::draw::Draw;
use crate::kinds::{Again, Kind, kinds};
use crate::stored::stored;

/// Numbers in [−1, 1) of a shape with so many axes.
pub fn weights(axes: usize, draw: &mut Draw<'_>) -> ArrayD<f32> {
    let shape: Vec<usize> = match axes {
        2 => vec![2 * draw.within(1, 12), 3 * draw.within(1, 10)],
        _ => (0..axes).map(|_| draw.within(2, 6)).collect(),
    };
    numbers(&shape, draw)
}

pub fn numbers(shape: &[usize], draw: &mut Draw<'_>) -> ArrayD<f32> {
    ArrayD::from_shape_simple_fn(shape, || draw.number())
}

fn squared_norm<F: Float>(a: &ArrayD<F>) -> f64 {
    a.iter().map(|x| x.as_f64() * x.as_f64()).sum()
}

pub fn squared_error<F: Float>(a: &ArrayD<F>, b: ArrayViewD<'_, F>) -> f64 {
    let differences = a.iter().zip(b).map(|(a, b)| a.as_f64() - b.as_f64());
    differences.map(|x| x * x).sum()
}

/// The relative rounding of the coarsest numbers that the artifact stores.
pub fn rounding<F: Float>(artifact: &(impl Compressed<F> + ?Sized)) -> f64 {
    let parts = artifact.parts();
    let halves = parts.iter().any(|part| part.dtype == taper::DType::F16);
    if halves {
        2_f64.powi(-11)
    } else {
        f64::from(f32::EPSILON)
    }
}

/// Checks all laws of one artifact.
fn hold(kind: &Kind, seed: u64) {
    let mut draw = Draw::from(seed);
    let weights = weights(kind.axes, &mut draw);
    let compress = |weights: ArrayViewD<'_, f32>| (kind.single)(weights, &mut draw.clone());
    let artifact = compress(weights.view()).unwrap();
    assert_eq!(artifact.shape(), weights.shape());
    sizes_are_bytes(&*artifact);
    parts_restore(&*artifact);
    containers_hold(&*artifact);
    apply_is_the_product(&*artifact);
    losses_never_rise(&*artifact);
    for view in other_strides(&weights, &mut Vec::new()) {
        assert!(
            compress(view.clone()).unwrap().parts() == artifact.parts(),
            "strides {:?}",
            view.strides()
        );
    }
    again(kind.again, &*artifact, &weights, |once| {
        compress(once).unwrap()
    });
}

pub fn sizes_are_bytes<F: Float>(artifact: &(impl Compressed<F> + ?Sized)) {
    let parts = artifact.parts();
    let bytes: usize = parts.iter().map(|part| part.bytes.len()).sum();
    let storage = artifact.storage();
    assert_eq!(storage.bytes(), bytes as u64);
    assert_eq!(
        storage.payload() + storage.side_information(),
        storage.total()
    );
    assert_eq!(parts.len(), storage.parts().count());
    for (part, (name, role, bits)) in parts.iter().zip(storage.parts()) {
        assert_eq!((part.name, part.role), (name, role));
        assert_eq!(part.bytes.len() as u64, bits.div_ceil(8), "{name}");
        let elements: usize = part.shape.iter().product();
        assert_eq!(8 * part.bytes.len(), elements * part.dtype.bits(), "{name}");
    }
}

pub fn same(a: &dyn Artifact, b: &dyn Artifact) {
    assert_eq!((a.kind(), a.shape()), (b.kind(), b.shape()));
    assert_eq!(a.attributes(), b.attributes());
    assert_eq!(a.parts(), b.parts());
    assert_eq!(a.decompress(), b.decompress());
}

fn parts_restore(artifact: &dyn Artifact) {
    let registry = Registry::default();
    let again = registry.restore(artifact.kind(), stored(artifact, &registry));
    same(artifact, &*again.unwrap());
}

/// A container gives back what it was given; its length is known before it is written.
fn containers_hold(artifact: &dyn Artifact) {
    let registry = Registry::default();
    let copy = registry.restore(artifact.kind(), stored(artifact, &registry));
    let mut model = CompressedModel::new();
    let tensor = CompressedTensor::from(copy.unwrap());
    model.insert("w", tensor).unwrap();
    let bytes = model.to_bytes().unwrap();
    assert_eq!(model.file_bytes().unwrap(), bytes.len() as u64);
    let again = CompressedModel::from_bytes(&bytes).unwrap();
    let Some((_, taper::model::Entry::Compressed(tensor))) = again.iter().next() else {
        panic!("the tensor is not there");
    };
    same(artifact, tensor.artifact());
    assert_eq!(again.to_bytes().unwrap(), bytes);
}

/// A sum of n products in any order is off by at most ε·n times the sum of their magnitudes, which norms bound where
/// factors cancel; four times that for artifacts that multiply by matrices of their own first.
fn apply_is_the_product(artifact: &dyn Artifact) {
    let Some(linear) = artifact.as_linear() else {
        return;
    };
    let w = artifact.decompress().unwrap();
    let w = w.into_dimensionality::<Ix2>().unwrap();
    let w = w.mapv(f64::from);
    let inside = inner_norm(artifact).max(w.iter().map(|w| w * w).sum::<f64>().sqrt());
    for batch in [0, 1, 3, 17] {
        let x = numbers(&[batch, w.ncols()], &mut Draw::from(5));
        let x: Array2<f32> = x.into_dimensionality().unwrap();
        let y = linear.apply(x.view()).unwrap();
        let x = x.mapv(f64::from);
        let exact = x.dot(&w.t());
        let terms = (w.nrows() + w.ncols() + 3) as f64;
        for ((i, j), y) in y.indexed_iter() {
            let x_norm = x.row(i).dot(&x.row(i)).sqrt();
            let bound = 4.0 * f64::from(f32::EPSILON) * terms * inside * x_norm;
            let (y, exact) = (f64::from(*y), exact[[i, j]]);
            assert!((y - exact).abs() <= bound, "{y} for {exact}, bound {bound}");
        }
    }
}

/// An upper bound of the norm of what the parts of a sum or a product make.
fn inner_norm(artifact: &dyn Artifact) -> f64 {
    let norms: Vec<f64> = artifact
        .children()
        .iter()
        .map(|(_, child)| squared_norm(&child.decompress().unwrap()).sqrt())
        .collect();
    match artifact.kind() {
        "factored_matrix" => norms.iter().product(),
        _ => norms.iter().sum(),
    }
}

fn losses_never_rise(artifact: &dyn Artifact) {
    if let Some(report) = artifact.report() {
        let losses = &report.losses;
        assert_eq!(losses.len(), report.iterations + 1, "{report:?}");
        assert!(losses.iter().all(|loss| loss.is_finite()), "{losses:?}");
        // Codes among equals are chosen up to rounding.
        let rounding = 1.0 + f64::from(f32::EPSILON);
        assert!(
            losses.windows(2).all(|pair| pair[1] <= rounding * pair[0]),
            "{losses:?}"
        );
    }
}

/// The same weights, in other orders in memory: transposed, backwards, and among other numbers.
fn other_strides<'a>(
    weights: &ArrayD<f32>,
    memory: &'a mut Vec<ArrayD<f32>>,
) -> Vec<ArrayViewD<'a, f32>> {
    let mut backwards = weights.clone();
    backwards.invert_axis(Axis(0));
    let backwards = backwards.as_standard_layout().into_owned();
    let last = Axis(weights.ndim() - 1);
    let mut wide_shape = weights.shape().to_vec();
    wide_shape[last.index()] *= 2;
    let mut wide = ArrayD::from_elem(wide_shape, f32::NAN);
    let every_other = Slice::new(0, None, 2);
    wide.slice_axis_mut(last, every_other).assign(weights);
    let transposed = weights.t().as_standard_layout().into_owned();
    memory.extend([transposed, backwards, wide]);
    let mut views: Vec<_> = memory.iter().map(|array| array.view()).collect();
    views[0] = views[0].clone().reversed_axes();
    views[1].invert_axis(Axis(0));
    views[2].slice_axis_inplace(last, every_other);
    views
}

fn again(
    law: Again,
    artifact: &dyn Artifact,
    weights: &ArrayD<f32>,
    compress: impl Fn(ArrayViewD<'_, f32>) -> Box<dyn Artifact>,
) {
    let once = artifact.decompress().unwrap();
    let twice = match law {
        Again::NoLaw(_) => return,
        Again::Same | Again::NoWorse => compress(once.view()).decompress().unwrap(),
    };
    // As many roundings as a mean of all weights has, in both factors of up to four terms.
    let bound = 8.0 * rounding(artifact) * (weights.len() as f64).sqrt();
    let bound = bound * squared_norm(&once).max(squared_norm(weights)).sqrt();
    if law == Again::Same {
        let change = squared_error(&twice, once.view()).sqrt();
        assert!(change <= bound, "changed by {change}, bound {bound}");
    }
    let (first, second) = (
        squared_error(&once, weights.view()).sqrt(),
        squared_error(&twice, weights.view()).sqrt(),
    );
    assert!(second <= first + bound, "{second} after {first}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hold_for_every_kind(seed in any::<u64>().no_shrink()) {
        let broken: Vec<_> = kinds().into_iter().filter(|kind| {
            std::panic::catch_unwind(|| hold(kind, seed)).is_err()
        }).map(|kind| kind.name).collect();
        prop_assert!(broken.is_empty(), "{broken:?} with seed {seed}");
    }
}

/// Kinds that the registry knows and no line of the table makes would go untested.
#[test]
fn every_kind_is_made() {
    let mut made: Vec<&str> = Vec::new();
    for kind in kinds() {
        let mut draw = Draw::from(1);
        let weights = weights(kind.axes, &mut draw);
        made.push((kind.single)(weights.view(), &mut draw).unwrap().kind());
    }
    for kind in Registry::default().kinds() {
        assert!(made.contains(&kind), "no line makes {kind}");
    }
}
