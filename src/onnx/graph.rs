//! The graphs of a model, and which nodes read which values.

use std::collections::{BTreeMap, BTreeSet};

use super::schema::{attribute, graph, label, node, operator, tensor, value_info};
use super::wire::Message;
use crate::Result;

/// The letters of a prefix at most: a forged file may repeat a long one for many graphs.
const PREFIX: usize = 256;

/// A graph of a model: the outermost one, or one inside of an `If`, `Loop` or `Scan`.
#[derive(Debug)]
pub(super) struct Graph<'m> {
    /// The number of the graph around it.
    parent: Option<usize>,
    /// What the names of its weights begin with.
    pub(super) prefix: String,
    pub(super) message: &'m Message,
    /// The names of the values that it defines.
    values: BTreeSet<&'m str>,
}

/// A value: the number of the graph that defines it, and its name.
pub(super) type Value<'m> = (usize, &'m str);

/// What reads a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    /// An input of a node: the number of its graph, its field, and the place among its inputs.
    Node {
        graph: usize,
        field: usize,
        input: usize,
    },
    /// It is an output of a graph.
    Output,
}

/// All graphs of a model, the outermost one first.
#[derive(Debug)]
pub(super) struct Graphs<'m> {
    pub(super) graphs: Vec<Graph<'m>>,
    readers: BTreeMap<Value<'m>, Vec<Reader>>,
}

impl<'m> Graphs<'m> {
    pub(super) fn of(main: &'m Message) -> Self {
        let mut all = Self {
            graphs: Vec::new(),
            readers: BTreeMap::new(),
        };
        all.add(main, None, String::new());
        for number in 0..all.graphs.len() {
            let message = all.graphs[number].message;
            for (field, node) in nodes(message) {
                for (input, name) in node.texts(node::INPUT).enumerate() {
                    let reader = Reader::Node {
                        graph: number,
                        field,
                        input,
                    };
                    all.read(number, name, reader);
                }
            }
            for output in message.messages(graph::OUTPUT) {
                all.read(number, output.text(value_info::NAME), Reader::Output);
            }
        }
        all
    }

    fn add(&mut self, message: &'m Message, parent: Option<usize>, prefix: String) {
        let number = self.graphs.len();
        let mut values = BTreeSet::new();
        for field in &message.fields {
            let Some(inside) = field.message() else {
                continue;
            };
            match field.number {
                graph::INPUT => values.extend([inside.text(value_info::NAME)]),
                graph::INITIALIZER => values.extend([inside.text(tensor::NAME)]),
                graph::NODE => values.extend(inside.texts(node::OUTPUT)),
                _ => {}
            }
        }
        self.graphs.push(Graph {
            parent,
            prefix: prefix.clone(),
            message,
            values,
        });
        for (_, node) in nodes(message) {
            for inner in node.messages(node::ATTRIBUTE) {
                let name = inner.text(attribute::NAME);
                let parts = [prefix.as_str(), label(node), ".", name];
                let prefix: String = parts
                    .iter()
                    .flat_map(|part| part.chars())
                    .take(PREFIX)
                    .collect();
                for field in &inner.fields {
                    if matches!(field.number, attribute::GRAPH | attribute::GRAPHS) {
                        let graph = field.message().expect("graphs are messages");
                        self.add(graph, Some(number), format!("{prefix}."));
                    }
                }
            }
        }
    }

    fn read(&mut self, graph: usize, name: &'m str, reader: Reader) {
        if let Some(value) = self.resolve(graph, name) {
            self.readers.entry(value).or_default().push(reader);
        }
    }

    /// The value that a name stands for in a graph.
    pub(super) fn resolve(&self, graph: usize, name: &'m str) -> Option<Value<'m>> {
        let mut number = Some(graph).filter(|_| !name.is_empty());
        while let Some(at) = number {
            if self.graphs[at].values.contains(name) {
                return Some((at, name));
            }
            number = self.graphs[at].parent;
        }
        None
    }

    pub(super) fn readers<'s>(&'s self, graph: usize, name: &'s str) -> &'s [Reader] {
        self.readers.get(&(graph, name)).map_or(&[], Vec::as_slice)
    }

    pub(super) fn node(&self, graph: usize, field: usize) -> &'m Message {
        let field = &self.graphs[graph].message.fields[field];
        field.message().expect("the field of a node")
    }
}

/// The nodes of a graph with their fields.
pub(super) fn nodes(graph: &Message) -> impl Iterator<Item = (usize, &Message)> {
    let fields = graph.fields.iter().enumerate();
    fields.filter_map(|(place, field)| {
        let node = field.message().filter(|_| field.number == graph::NODE);
        Some((place, node?))
    })
}

/// The tensor of a node `Constant`.
pub(super) fn constant(node: &Message) -> Option<&Message> {
    if operator(node) != ("", "Constant") {
        return None;
    }
    attribute(node, "value")?.message(attribute::TENSOR)
}

pub(super) fn constant_mut(node: &mut Message) -> Option<&mut Message> {
    constant(node)?;
    let mut attributes = node.fields.iter_mut().filter_map(|field| {
        let number = field.number;
        field.message_mut().filter(|attribute| {
            number == node::ATTRIBUTE && attribute.text(attribute::NAME) == "value"
        })
    });
    let mut fields = attributes.next()?.fields.iter_mut().rev();
    let tensor = fields.find(|field| field.number == attribute::TENSOR)?;
    tensor.message_mut()
}

/// Calls `f` with every graph and its number in [`Graphs`], those inside of a graph before it.
pub(super) fn each_graph(
    main: &mut Message,
    f: &mut impl FnMut(usize, &mut Message) -> Result<()>,
) -> Result<()> {
    fn visit(
        graph: &mut Message,
        next: &mut usize,
        f: &mut impl FnMut(usize, &mut Message) -> Result<()>,
    ) -> Result<()> {
        let number = *next;
        *next += 1;
        for field in &mut graph.fields {
            if field.number != graph::NODE {
                continue;
            }
            let node = field.message_mut().expect("nodes are messages");
            for field in &mut node.fields {
                if field.number != node::ATTRIBUTE {
                    continue;
                }
                let attribute = field.message_mut().expect("attributes are messages");
                for field in &mut attribute.fields {
                    if matches!(field.number, attribute::GRAPH | attribute::GRAPHS) {
                        let graph = field.message_mut().expect("graphs are messages");
                        visit(graph, next, f)?;
                    }
                }
            }
        }
        f(number, graph)
    }
    visit(main, &mut 0, f)
}
