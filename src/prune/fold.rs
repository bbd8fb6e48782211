//! The constants of dropped channels, folded into the layers that read them.

use ndarray::{ArrayView1, Axis};

use super::graph::{Graph, Layout, Node, NormKind, Origin, Segment, refused};
use super::tensors::Tensors;
use crate::{Float, Result, check};

/// Returns the biases and running means that take up the constants of dropped channels, in their original size.
///
/// `mask` returns for each entry of some segments whether it is kept.
pub(super) fn folded<F: Float>(
    graph: &Graph,
    tensors: &Tensors<F>,
    mask: impl Fn(&[Segment]) -> Vec<bool>,
) -> Result<Tensors<F>> {
    let masks: Vec<Vec<bool>> = graph.nodes.iter().map(|n| mask(&n.segments)).collect();
    let constants = constants(graph, tensors, &masks)?;
    let mut folded = Tensors::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        let Origin::Layer {
            name,
            input,
            layout,
        } = &node.origin
        else {
            continue;
        };
        if layout.groups.is_some() {
            // A group's inputs and outputs are dropped together, so no kept output reads a dropped input.
            continue;
        }
        let dropped: Vec<(usize, f64)> = masks[*input]
            .iter()
            .zip(&constants[*input])
            .enumerate()
            .filter(|(_, (kept, constant))| !**kept && **constant != 0.0)
            .map(|(entry, (_, &constant))| (entry, constant))
            .collect();
        if dropped.is_empty() {
            continue;
        }
        let weight = &tensors[&graph.tensor(name, |names| &names.weight)];
        if layout.transposed && weight.ndim() > 2 {
            return Err(refused(format!(
                "{name} is a transposed convolution, which spreads the constants of dropped channels unevenly over \
                 positions: use CoupledPlan::fold_constants(false)"
            )));
        }
        let Some((target, sign)) = target(graph, tensors, index, name)? else {
            continue;
        };
        if folded.contains_key(&target) {
            // The constants of two uses are equal only by chance.
            return Err(refused(format!(
                "{name} is used twice and reads constants of dropped channels, which {target} cannot hold for both: use \
                 CoupledPlan::fold_constants(false)"
            )));
        }
        let outputs = weight.axis_iter(Axis(out_axis(*layout))).map(|filter| {
            let entries = dropped.iter().map(|&(entry, constant)| {
                let taps = filter.index_axis(Axis(0), entry);
                constant * taps.iter().map(|tap| tap.as_f64()).sum::<f64>()
            });
            sign * entries.sum::<f64>()
        });
        let shifts: Vec<f64> = outputs.collect();
        check::finite("what is folded", &ArrayView1::from(shifts.as_slice()))?;
        let mut new = tensors[&target].clone();
        for (value, shift) in new.iter_mut().zip(shifts) {
            *value = F::from_f64_lossy(value.as_f64() + shift);
        }
        check::finite("what constants are folded into", &new.view())?;
        folded.insert(target, new);
    }
    Ok(folded)
}

/// The weight's axis of outputs; the first of the other axes is that of the inputs.
fn out_axis(layout: Layout) -> usize {
    usize::from(layout.transposed)
}

/// Returns the tensor that a constant in the outputs of layer `name` (node `index`) goes into, and with which sign; none
/// where the constant has no effect.
fn target<F: Float>(
    graph: &Graph,
    tensors: &Tensors<F>,
    index: usize,
    name: &str,
) -> Result<Option<(String, f64)>> {
    let bias = graph.tensor(name, |names| &names.bias);
    if tensors.contains_key(&bias) {
        return Ok(Some((bias, 1.0)));
    }
    // The mean may be shifted only if nothing but the normalization reads the outputs.
    let mut readers = graph.readers(index);
    if let (Some(reader), None) = (readers.next(), readers.next())
        && let Origin::Norm { name, kind, .. } = &reader.origin
    {
        match kind {
            NormKind::Batch => {
                return Ok(Some((graph.tensor(name, |names| &names.mean), -1.0)));
            }
            // It subtracts the mean of each channel.
            NormKind::Instance => return Ok(None),
            NormKind::Layer | NormKind::Rms | NormKind::Group(_) => {}
        }
    }
    Err(refused(format!(
        "{name} reads the constants of dropped channels, but has no bias {bias} and no batch normalization of its own to \
         fold them into: add a bias of zeros, or use CoupledPlan::fold_constants(false)"
    )))
}

/// Returns for each node what each of its entries gives if its channel is dropped: the value that is left when filters
/// and scales are zero.
fn constants<F: Float>(
    graph: &Graph,
    tensors: &Tensors<F>,
    masks: &[Vec<bool>],
) -> Result<Vec<Vec<f64>>> {
    let mut all: Vec<Vec<f64>> = Vec::with_capacity(graph.nodes.len());
    for (node, mask) in graph.nodes.iter().zip(masks) {
        // A node reads nodes before it.
        let combine = |inputs: &[usize], f: fn(f64, f64) -> f64| -> Vec<f64> {
            let (first, others) = inputs.split_first().expect("a sum has a term");
            let start = all[*first].clone();
            others.iter().fold(start, |a, &b| {
                a.iter().zip(&all[b]).map(|(&a, &b)| f(a, b)).collect()
            })
        };
        let constants = match &node.origin {
            Origin::Input => vec![0.0; mask.len()],
            Origin::Layer { name, .. } => {
                let bias = graph.tensor(name, |names| &names.bias);
                per_channel(tensors, &bias, mask)?
            }
            Origin::Norm { name, input, kind } => {
                check_scale(graph, tensors, node, (name, *kind), &all[*input], mask)?;
                let shift = graph.tensor(name, |names| &names.shift);
                per_channel(tensors, &shift, mask)?
            }
            Origin::Activation { input, function } => {
                all[*input].iter().map(|&x| function(x)).collect()
            }
            Origin::Add(inputs) => combine(inputs, |a, b| a + b),
            Origin::Multiply(inputs) => combine(inputs, |a, b| a * b),
            Origin::Concat(inputs) => inputs.iter().flat_map(|&i| all[i].clone()).collect(),
            Origin::Flatten { input, positions } => all[*input]
                .iter()
                .flat_map(|&value| std::iter::repeat_n(value, *positions))
                .collect(),
        };
        all.push(constants);
    }
    Ok(all)
}

/// Returns the value of a bias or a shift for each entry; zeros without such a tensor.
fn per_channel<F: Float>(tensors: &Tensors<F>, name: &str, mask: &[bool]) -> Result<Vec<f64>> {
    let Some(tensor) = tensors.get(name) else {
        return Ok(vec![0.0; mask.len()]);
    };
    let entries = tensor.outer_iter().zip(mask);
    let constants = entries.enumerate().map(|(entry, (values, kept))| {
        let mut values = values.into_iter();
        let first = values.next().map_or(0.0, |value| value.as_f64());
        if *kept || values.all(|value| value.as_f64() == first) {
            return Ok(first);
        }
        Err(refused(format!(
            "{name}, of shape {:?}, gives the dropped channel {entry} more than one constant: use CoupledPlan::fold_constants(false)",
            tensor.shape()
        )))
    });
    constants.collect()
}

/// Errs where a normalization without a scale gives a dropped channel a value that depends on more than its shift.
fn check_scale<F: Float>(
    graph: &Graph,
    tensors: &Tensors<F>,
    node: &Node,
    (name, kind): (&str, NormKind),
    input: &[f64],
    mask: &[bool],
) -> Result<()> {
    if tensors.contains_key(&graph.tensor(name, |names| &names.scale)) {
        return Ok(());
    }
    let mut dropped = input.iter().zip(mask).filter(|(_, kept)| !**kept);
    let unknown = match kind {
        NormKind::Batch => dropped.next().is_some(),
        NormKind::Group(_) => dropped.any(|(constant, _)| *constant != 0.0),
        NormKind::Instance | NormKind::Layer | NormKind::Rms => false,
    };
    if !unknown {
        return Ok(());
    }
    Err(refused(format!(
        "{name} has no scale that could be zero for the dropped ones of {}, so that what it gives for them depends on \
         its statistics: use CoupledPlan::fold_constants(false)",
        graph.describe(&node.segments)
    )))
}
