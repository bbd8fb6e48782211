//! The weights of a graph: which tensors they are, and where.

use std::collections::{BTreeMap, BTreeSet};

use super::graph::{self, Graphs};
use super::roles::{self, Role};
use super::schema::{self, graph as fields, tensor as tensor_fields};
use super::tensor;
use super::wire::{Field, Message, malformed};
use crate::model::{Entry, Turned};
use crate::{DType, Error, Result};

/// Where a weight is in the model.
#[derive(Debug, Clone)]
pub(super) struct Weight {
    /// The number of its graph, and the field of the initializer or of the `Constant` node.
    pub(super) graph: usize,
    pub(super) field: usize,
    /// The name of the value in its graph.
    pub(super) value: String,
    pub(super) dtype: DType,
    /// Its shape in the model.
    pub(super) shape: Vec<usize>,
    /// The order of its axes in taper, where it is another one.
    pub(super) turned: Option<Turned>,
}

impl Weight {
    /// Its shape in taper.
    pub(super) fn seen(&self) -> &[usize] {
        let turned = self.turned.as_ref();
        turned.map_or(&self.shape, |turned| &turned.shape)
    }

    /// Checks that an entry has its shape and type.
    pub(super) fn check(&self, entry: &Entry) -> Result<()> {
        crate::check::same_shape("a weight", self.seen(), entry.shape())?;
        if entry.dtype() == self.dtype {
            return Ok(());
        }
        Err(Error::Unsupported {
            what: format!("a weight of type {:?}", entry.dtype()),
            reason: format!("the model has it as {:?}", self.dtype),
        })
    }

    /// Elements in taper's order as the model has them.
    pub(super) fn in_model(&self, bytes: &[u8]) -> Vec<u8> {
        match &self.turned {
            None => bytes.to_vec(),
            Some(turned) => turned.back(bytes, self.dtype.bits() / 8),
        }
    }

    /// Its tensor.
    pub(super) fn message<'m>(&self, graphs: &Graphs<'m>) -> &'m Message {
        let message = graphs.node(self.graph, self.field);
        graph::constant(message).unwrap_or(message)
    }
}

/// The weights of a model by name, and why others are kept.
pub(super) fn find(root: &Message) -> Result<(BTreeMap<String, Weight>, Vec<String>)> {
    let mut weights = BTreeMap::new();
    let mut notes = Vec::new();
    let mut numbers = BTreeMap::new();
    let graphs = Graphs::of(main(root));
    let constants_are_inputs = root.integer(schema::model::IR_VERSION).unwrap_or(0) < 4;
    for (number, part) in graphs.graphs.iter().enumerate() {
        let inputs = part.message.messages(fields::INPUT);
        let inputs: BTreeSet<&str> = inputs
            .map(|input| input.text(schema::value_info::NAME))
            .collect();
        for (field, value, message) in tensors_of(part.message) {
            let Some((dtype, shape)) = tensor::header(message)? else {
                continue;
            };
            if shape.iter().product::<usize>() < 2 {
                // Not a weight: a factor, a bound or an empty list.
                continue;
            }
            let name = free(format!("{}{value}", part.prefix), &weights, &mut numbers);
            let role = if inputs.contains(value) && !constants_are_inputs {
                let reason = "it is an input of the model, so that a caller may replace it";
                Role::Kept(reason.to_owned())
            } else {
                roles::role(&graphs, number, value, &shape)
            };
            let turned = match role {
                Role::Kept(reason) => {
                    notes.push(format!("{name}: kept, since {reason}"));
                    continue;
                }
                Role::Turned(turned) => Some(turned),
                Role::Plain => None,
            };
            let weight = Weight {
                graph: number,
                field,
                value: value.to_owned(),
                dtype,
                shape,
                turned,
            };
            weights.insert(name, weight);
        }
    }
    Ok((weights, notes))
}

/// Checks that there is one graph.
pub(super) fn check(root: &Message) -> Result<()> {
    match root.all(schema::model::GRAPH).count() {
        1 => Ok(()),
        count => Err(malformed(format!(
            "it has {count} graphs, where a model has one"
        ))),
    }
}

/// The main graph of a model.
pub(super) fn main(root: &Message) -> &Message {
    let graph = root.message(schema::model::GRAPH);
    graph.expect("a model is checked to have a graph when it is read")
}

pub(super) fn main_mut(root: &mut Message) -> &mut Message {
    let mut fields = root.fields.iter_mut();
    let graph = fields.find(|field| field.number == schema::model::GRAPH);
    let graph = graph.and_then(Field::message_mut);
    graph.expect("a model is checked to have a graph when it is read")
}

/// The initializers and `Constant` nodes of a graph: the field of each, the name of its value, and the tensor.
fn tensors_of(graph: &Message) -> impl Iterator<Item = (usize, &str, &Message)> {
    let fields = graph.fields.iter().enumerate();
    fields.filter_map(|(place, field)| {
        let message = field.message()?;
        match field.number {
            fields::INITIALIZER => Some((place, message.text(tensor_fields::NAME), message)),
            fields::NODE => {
                let tensor = graph::constant(message)?;
                let output = message.texts(schema::node::OUTPUT).next()?;
                Some((place, output, tensor))
            }
            _ => None,
        }
    })
}

/// The name, or one derived from it that no weight has yet. `numbers` holds where to go on for each name.
fn free(
    name: String,
    taken: &BTreeMap<String, Weight>,
    numbers: &mut BTreeMap<String, usize>,
) -> String {
    if !taken.contains_key(&name) {
        return name;
    }
    let number = numbers.entry(name.clone()).or_insert(1);
    loop {
        *number += 1;
        let other = format!("{name}~{number}");
        if !taken.contains_key(&other) {
            return other;
        }
    }
}

/// The field of a weight, with its tensor changed.
pub(super) fn replaced(
    graphs: &Graphs<'_>,
    weight: &Weight,
    change: impl FnOnce(&mut Message),
) -> Field {
    let mut field = graphs.graphs[weight.graph].message.fields[weight.field].clone();
    let number = field.number;
    let message = field.message_mut().expect("the field of a weight");
    if number == fields::INITIALIZER {
        change(message);
    } else {
        change(graph::constant_mut(message).expect("the tensor of a constant"));
    }
    field
}
