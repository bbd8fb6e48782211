//! The laws of distillation.

mod comparisons;
mod features;
mod logits;
mod teachers;

use ndarray::{Array, Dimension, ShapeBuilder};
use taper::Seed;
use taper::distill::Comparison;

/// Every way to compare student and teacher, with weights that differ.
const COMPARISONS: [Comparison; 4] = [
    Comparison::Hinton,
    Comparison::Standardized,
    Comparison::Dkd {
        target: 1.0,
        others: 8.0,
    },
    Comparison::Dist {
        inter: 2.0,
        intra: 0.5,
    },
];

/// Values in [−spread/2, spread/2) that have no structure.
fn values<D: Dimension>(
    shape: impl ShapeBuilder<Dim = D>,
    spread: f64,
    seed: u64,
) -> Array<f64, D> {
    let mut stream = 0;
    Array::from_shape_simple_fn(shape, || {
        stream += 1;
        Seed::from(seed).uniform(stream) * spread / 2.0
    })
}

/// Compares a gradient with central differences of `value`, whose error is O(h²) and O(ε/h); `scale` is the size of
/// the value and of its third derivative.
fn assert_gradient<D: Dimension>(
    gradient: &Array<f64, D>,
    at: &Array<f64, D>,
    scale: f64,
    value: impl Fn(&Array<f64, D>) -> f64,
) {
    let h = f64::EPSILON.cbrt();
    assert_eq!(gradient.shape(), at.shape());
    for (i, &slope) in gradient.iter().enumerate() {
        let moved = |by: f64| {
            let mut moved = at.clone();
            *moved.iter_mut().nth(i).unwrap() += by;
            value(&moved)
        };
        let difference = (moved(h) - moved(-h)) / (2.0 * h);
        assert!(
            (difference - slope).abs() <= 20.0 * scale * h * h,
            "{i}: {slope} against {difference}"
        );
    }
}
