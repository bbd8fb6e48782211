//! New nodes and tensors of a graph, with names that nothing has yet.

use std::collections::{BTreeMap, BTreeSet};

use super::graph::Graphs;
use super::schema::{Attribute, graph, new_attribute, new_node, node, tensor, value_info};
use super::tensor::{self as tensors, INT64};
use super::wire::{Field, Message};

/// All names of values in a model.
#[derive(Debug)]
pub(super) struct Names {
    taken: BTreeSet<String>,
    /// The number to go on with for each name.
    numbers: BTreeMap<String, usize>,
}

impl Names {
    pub(super) fn of(graphs: &Graphs<'_>) -> Self {
        let mut names = BTreeSet::new();
        for part in &graphs.graphs {
            for field in &part.message.fields {
                let Some(message) = field.message() else {
                    continue;
                };
                match field.number {
                    graph::NODE => {
                        let values = message
                            .texts(node::INPUT)
                            .chain(message.texts(node::OUTPUT));
                        // Some runtimes do not tell names of nodes from names of values.
                        let values = values.chain([message.text(node::NAME)]);
                        names.extend(values.map(str::to_owned));
                    }
                    graph::INITIALIZER => names.extend([message.text(tensor::NAME).to_owned()]),
                    _ => names.extend([message.text(value_info::NAME).to_owned()]),
                }
            }
        }
        Self {
            taken: names,
            numbers: BTreeMap::new(),
        }
    }

    /// A name that begins with `hint`.
    pub(super) fn free(&mut self, hint: &str) -> String {
        if self.taken.insert(hint.to_owned()) {
            return hint.to_owned();
        }
        let number = self.numbers.entry(hint.to_owned()).or_insert(1);
        loop {
            *number += 1;
            let name = format!("{hint}_{number}");
            if self.taken.insert(name.clone()) {
                return name;
            }
        }
    }
}

/// Nodes and initializers that are to be added to a graph.
#[derive(Debug)]
pub(super) struct Builder<'n> {
    pub(super) names: &'n mut Names,
    /// The version of the standard operators.
    pub(super) opset: i64,
    pub(super) initializers: Vec<Message>,
    pub(super) nodes: Vec<Message>,
}

impl<'n> Builder<'n> {
    pub(super) fn new(names: &'n mut Names, opset: i64) -> Self {
        Self {
            names,
            opset,
            initializers: Vec::new(),
            nodes: Vec::new(),
        }
    }

    /// Adds a tensor; its name is returned.
    pub(super) fn tensor(
        &mut self,
        hint: &str,
        data_type: i64,
        shape: &[usize],
        bytes: Vec<u8>,
    ) -> String {
        let name = self.names.free(hint);
        let tensor = tensors::new(&name, data_type, shape, bytes);
        self.initializers.push(tensor);
        name
    }

    /// Adds a node with one output, whose name is returned.
    pub(super) fn node(
        &mut self,
        operator: &str,
        hint: &str,
        inputs: &[&str],
        attributes: &[(&str, Attribute<'_>)],
    ) -> String {
        let name = self.names.free(hint);
        let attributes = attributes.iter();
        let attributes = attributes.map(|&(name, value)| new_attribute(name, value));
        let node = new_node(("", operator), inputs, &[&name], attributes);
        self.nodes.push(node);
        name
    }

    /// The value in another shape.
    pub(super) fn reshape(&mut self, hint: &str, value: &str, shape: &[usize]) -> String {
        let bytes = shape.iter().flat_map(|&n| (n as i64).to_le_bytes());
        let list = self.tensor(
            &format!("{hint}.shape"),
            INT64,
            &[shape.len()],
            bytes.collect(),
        );
        self.node("Reshape", &format!("{hint}.reshaped"), &[value, &list], &[])
    }

    /// The value with its axes in another order.
    pub(super) fn transpose(&mut self, hint: &str, value: &str, order: &[usize]) -> String {
        let order: Vec<i64> = order.iter().map(|&axis| axis as i64).collect();
        let perm = [("perm", Attribute::Integers(&order))];
        self.node("Transpose", &format!("{hint}.turned"), &[value], &perm)
    }

    /// The value with elements of another type.
    pub(super) fn cast(&mut self, hint: &str, value: &str, to: i64) -> String {
        let to = [("to", Attribute::Integer(to))];
        self.node("Cast", &format!("{hint}.cast"), &[value], &to)
    }

    /// Gives the value another name.
    pub(super) fn rename(&mut self, value: &str, name: &str) {
        let last = self.nodes.iter_mut().rev();
        let mut named = last.filter(|node| node.texts(node::OUTPUT).eq([value]));
        match named.next() {
            Some(node) => node.set(Field::of_bytes(node::OUTPUT, name.as_bytes())),
            None => {
                let node = new_node(("", "Identity"), &[value], &[name], []);
                self.nodes.push(node);
            }
        }
    }
}
