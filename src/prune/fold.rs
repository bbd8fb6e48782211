//! The constants of dropped channels, carried into what reads them.

use ndarray::{ArrayD, ArrayView1, Axis};

use super::CoupledPlan;
use super::Coupling;
use super::coupled::Tensors;
use super::graph::Origin;
use crate::{Error, Float, Result, check};

/// The biases and running means that take up the constants of dropped channels, of the original size.
pub(super) fn folded<F: Float>(plan: &CoupledPlan<'_>, tensors: &Tensors<F>) -> Result<Tensors<F>> {
    let coupling = plan.coupling;
    let constants = constants(coupling, tensors);
    let mut folded = Tensors::new();
    for (index, node) in coupling.nodes.iter().enumerate() {
        // What a grouped convolution reads and what it makes are dropped together: nothing crosses over.
        let Origin::Layer {
            name,
            input,
            grouped: false,
        } = &node.origin
        else {
            continue;
        };
        let (Some(read), Some(read_constants)) =
            (coupling.nodes.get(*input), constants.get(*input))
        else {
            continue;
        };
        let kept = plan.entry_mask(&read.segments);
        let dropped: Vec<(usize, f64)> = kept
            .iter()
            .zip(read_constants)
            .enumerate()
            .filter(|(_, (kept, constant))| !**kept && **constant != 0.0)
            .map(|(entry, (_, &constant))| (entry, constant))
            .collect();
        let weight = tensors.get(&coupling.tensor(name, |names| &names.weight));
        let Some(weight) = weight.filter(|_| !dropped.is_empty()) else {
            continue;
        };
        let (target, sign) = target(coupling, tensors, index, name)?;
        if folded.contains_key(&target) {
            // Shared weights: the constants of all uses are the same only by chance.
            return Err(Error::Coupling {
                problem: format!("{name} is used twice and reads constants that cannot be folded"),
            });
        }
        let outputs = weight.axis_iter(Axis(0)).map(|row| {
            let entries = dropped.iter().map(|&(entry, constant)| {
                let taps = row.index_axis(Axis(0), entry);
                constant * taps.iter().map(|tap| tap.as_f64()).sum::<f64>()
            });
            sign * entries.sum::<f64>()
        });
        let shifts: Vec<f64> = outputs.collect();
        check::finite("what is folded", &ArrayView1::from(shifts.as_slice()))?;
        if let Some(old) = tensors.get(&target) {
            let mut new = old.clone();
            for (value, shift) in new.iter_mut().zip(shifts) {
                *value = F::from_f64_lossy(value.as_f64() + shift);
            }
            check::finite("what constants are folded into", &new.view())?;
            folded.insert(target, new);
        }
    }
    Ok(folded)
}

/// The tensor that a constant added to the outputs of layer `name` (node `index`) goes into, and with which sign.
fn target<F: Float>(
    coupling: &Coupling,
    tensors: &Tensors<F>,
    index: usize,
    name: &str,
) -> Result<(String, f64)> {
    let bias = coupling.tensor(name, |names| &names.bias);
    if tensors.contains_key(&bias) {
        return Ok((bias, 1.0));
    }
    // The mean may be shifted only if the normalization is all that sees the outputs.
    let mut readers = coupling
        .nodes
        .iter()
        .filter(|node| node.origin.inputs().contains(&index));
    if let (Some(node), None) = (readers.next(), readers.next())
        && let Origin::BatchNorm { name, .. } = &node.origin
    {
        return Ok((coupling.tensor(name, |names| &names.mean), -1.0));
    }
    Err(Error::Coupling {
        problem: format!(
            "{name} reads the constants of dropped channels, but has no bias {bias} and no batch normalization of \
             its own to fold them into"
        ),
    })
}

/// For each node what each entry gives out once its source is zero.
fn constants<F: Float>(coupling: &Coupling, tensors: &Tensors<F>) -> Vec<Vec<f64>> {
    let vector = |name: &str, length: usize| -> Vec<f64> {
        tensors.get(name).map_or_else(
            || vec![0.0; length],
            |tensor: &ArrayD<F>| tensor.iter().map(|value| value.as_f64()).collect(),
        )
    };
    let mut all: Vec<Vec<f64>> = Vec::with_capacity(coupling.nodes.len());
    for node in &coupling.nodes {
        let length = coupling.length(&node.segments);
        let of = |input: &usize| all.get(*input).cloned().unwrap_or_default();
        let combine = |inputs: &[usize], f: fn(f64, f64) -> f64| -> Vec<f64> {
            inputs
                .iter()
                .map(of)
                .reduce(|a, b| a.iter().zip(&b).map(|(&a, &b)| f(a, b)).collect())
                .unwrap_or_default()
        };
        let constants = match &node.origin {
            Origin::Input => vec![0.0; length],
            Origin::Layer { name, .. } => {
                vector(&coupling.tensor(name, |names| &names.bias), length)
            }
            Origin::BatchNorm { name, .. } => {
                vector(&coupling.tensor(name, |names| &names.shift), length)
            }
            Origin::Activation { input, function } => of(input).into_iter().map(function).collect(),
            Origin::Add(inputs) => combine(inputs, |a, b| a + b),
            Origin::Multiply(inputs) => combine(inputs, |a, b| a * b),
            Origin::Concat(inputs) => inputs.iter().flat_map(of).collect(),
            Origin::Flatten { input, positions } => of(input)
                .into_iter()
                .flat_map(|value| std::iter::repeat_n(value, *positions))
                .collect(),
        };
        all.push(constants);
    }
    all
}
