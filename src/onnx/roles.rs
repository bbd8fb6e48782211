//! What the operators that read a weight say of it: which of its axes is the output.

use std::collections::BTreeSet;

use super::graph::{Graphs, Reader};
use super::schema::{integer, integers, label, node, operator};
use super::wire::Message;
use crate::model::Turned;

/// How many `Identity`, `Cast` and `Transpose` nodes are followed to the operator that reads a weight.
pub(super) const MAX_STEPS: usize = 4;

/// What is known of a weight.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Role {
    /// Its axes are turned so that the first one is the output.
    Turned(Turned),
    /// The first axis is the output, or no axis is.
    Plain,
    /// It is kept, for this reason.
    Kept(String),
}

/// What one reader says.
enum Reading {
    /// The layout in which the first axis is the output.
    Layer(Turned),
    /// It is added, multiplied, normalized with, or moved: any layout will do.
    Values,
    /// The same values in another order of axes.
    Moved(Vec<usize>),
    /// Nothing is known.
    Unknown,
}

/// The role of the value `name` of a graph, a tensor of shape `shape`.
pub(super) fn role(graphs: &Graphs<'_>, graph: usize, name: &str, shape: &[usize]) -> Role {
    let order: Vec<usize> = (0..shape.len()).collect();
    let mut found = Found::default();
    match follow(graphs, (graph, name), shape, &order, MAX_STEPS, &mut found) {
        Err(reason) => Role::Kept(reason),
        Ok(()) => match found.layer {
            Some(turned) if turned.order != order || turned.stored != turned.shape => {
                Role::Turned(turned)
            }
            _ => Role::Plain,
        },
    }
}

/// What the readers have said so far.
#[derive(Default)]
struct Found {
    layer: Option<Turned>,
    /// The values whose readers have been asked.
    asked: BTreeSet<(usize, String)>,
}

/// Asks the readers of a value, whose axis i is axis `order[i]` of the weight of shape `shape`.
fn follow(
    graphs: &Graphs<'_>,
    (graph, name): (usize, &str),
    shape: &[usize],
    order: &[usize],
    steps: usize,
    found: &mut Found,
) -> Result<(), String> {
    if !found.asked.insert((graph, name.to_owned())) {
        return Ok(());
    }
    for &reader in graphs.readers(graph, name) {
        let Reader::Node {
            graph,
            field,
            input,
        } = reader
        else {
            return Err("it is an output of the model or of a subgraph".to_owned());
        };
        let node = graphs.node(graph, field);
        let seen: Vec<usize> = order.iter().map(|&axis| shape[axis]).collect();
        match reading(node, input, &seen) {
            Reading::Values => {}
            Reading::Layer(turned) if turned.stored == seen => {
                let inner = turned.order.iter().map(|&axis| order[axis]).collect();
                found.layer.get_or_insert(Turned {
                    stored: shape.to_vec(),
                    order: inner,
                    shape: turned.shape,
                });
            }
            Reading::Layer(turned) => {
                // Its axes are split, which is followed for a weight that is read as it stands.
                if order.is_sorted() {
                    found.layer.get_or_insert(turned);
                }
            }
            Reading::Moved(permutation) if steps > 0 => {
                let moved: Vec<usize> = permutation.iter().map(|&axis| order[axis]).collect();
                for output in node.texts(node::OUTPUT) {
                    follow(graphs, (graph, output), shape, &moved, steps - 1, found)?;
                }
            }
            Reading::Moved(_) | Reading::Unknown => {
                let (domain, operator) = operator(node);
                let dot = if domain.is_empty() { "" } else { "." };
                return Err(format!(
                    "it is input {input} of {}, a {domain}{dot}{operator}, where its role is not known",
                    label(node)
                ));
            }
        }
    }
    Ok(())
}

/// The layout in which axis `output` is the first one, as a matrix or a kernel.
fn output_axis(shape: &[usize], output: usize) -> Turned {
    let mut order: Vec<usize> = (0..shape.len()).collect();
    order.remove(output);
    order.insert(0, output);
    Turned {
        stored: shape.to_vec(),
        shape: order.iter().map(|&axis| shape[axis]).collect(),
        order,
    }
}

fn reading(node: &Message, input: usize, shape: &[usize]) -> Reading {
    let (domain, operator) = operator(node);
    if !domain.is_empty() {
        return Reading::Unknown;
    }
    let axes = shape.len();
    let flag = |name| integer(node, name).unwrap_or(0) != 0;
    match (operator, input) {
        ("MatMul", 0) if axes == 2 => Reading::Layer(output_axis(shape, 0)),
        ("MatMul", 1) if axes == 2 => Reading::Layer(output_axis(shape, 1)),
        ("Gemm", 0) if axes == 2 => Reading::Layer(output_axis(shape, usize::from(flag("transA")))),
        ("Gemm", 1) if axes == 2 => {
            Reading::Layer(output_axis(shape, usize::from(!flag("transB"))))
        }
        ("Conv", 1) if axes >= 3 => Reading::Layer(output_axis(shape, 0)),
        ("ConvTranspose", 1) if axes >= 3 => transposed_kernel(node, shape),
        ("Gather", 0) if axes >= 2 => Reading::Layer(output_axis(shape, 0)),
        // The directions and the gates are outputs.
        ("LSTM" | "GRU" | "RNN", 1 | 2) if axes == 3 => Reading::Layer(Turned {
            stored: shape.to_vec(),
            order: vec![0, 1, 2],
            shape: vec![shape[0] * shape[1], shape[2]],
        }),
        ("LSTM", 3 | 7) | ("GRU" | "RNN", 3) => Reading::Values,
        ("MatMul" | "Einsum" | "Concat" | "Add" | "Sub" | "Mul" | "Div", _)
        | ("Gemm" | "Conv" | "ConvTranspose", 2)
        | ("BatchNormalization", 1..=4)
        | (
            "LayerNormalization"
            | "InstanceNormalization"
            | "GroupNormalization"
            | "RMSNormalization",
            1 | 2,
        )
        | ("PRelu", 1)
        | ("Where", 1 | 2)
        | ("Gather" | "Reshape" | "Squeeze" | "Unsqueeze" | "Slice" | "Expand" | "Tile", 0)
        | ("Split" | "Flatten", 0) => Reading::Values,
        ("Identity" | "Cast", 0) => Reading::Moved((0..axes).collect()),
        ("Transpose", 0) => match permutation(node, axes) {
            Some(order) => Reading::Moved(order),
            None => Reading::Unknown,
        },
        _ => Reading::Unknown,
    }
}

/// The axes of a `Transpose` of a tensor of so many axes.
pub(super) fn permutation(node: &Message, axes: usize) -> Option<Vec<usize>> {
    let Some(order) = integers(node, "perm") else {
        return Some((0..axes).rev().collect());
    };
    let order: Option<Vec<usize>> = order.iter().map(|&n| usize::try_from(n).ok()).collect();
    let mut sorted = order.clone()?;
    sorted.sort_unstable();
    order.filter(|_| sorted.iter().copied().eq(0..axes))
}

/// A kernel (in, out / groups, …) as (out, in / groups, …).
fn transposed_kernel(node: &Message, shape: &[usize]) -> Reading {
    let groups = usize::try_from(integer(node, "group").unwrap_or(1));
    let Some(groups) = groups.ok().filter(|&groups| groups > 0) else {
        return Reading::Unknown;
    };
    if !shape[0].is_multiple_of(groups) {
        return Reading::Unknown;
    }
    if groups == 1 {
        return Reading::Layer(output_axis(shape, 1));
    }
    let (inputs, outputs) = (shape[0] / groups, shape[1]);
    let Some(all) = groups.checked_mul(outputs) else {
        return Reading::Unknown;
    };
    let mut stored = vec![groups, inputs];
    stored.extend(&shape[1..]);
    let order = [0, 2, 1].into_iter().chain(3..stored.len()).collect();
    let mut turned = vec![all, inputs];
    turned.extend(&shape[2..]);
    Reading::Layer(Turned {
        stored,
        order,
        shape: turned,
    })
}
