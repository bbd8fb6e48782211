//! A model in the ONNX format: its graph, and its weights by name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use super::graph::{self, Graphs};
use super::roles::{self, Role};
use super::schema::{self, MODEL, graph as fields, tensor as tensor_fields};
use super::smallest;
use super::tensor::{self, Files};
use super::wire::{Chunk, Message, malformed};
use crate::model::Entry;
use crate::model::{NamedTensors, Source, StoredTensor, Turned};
use crate::{DType, Error, Result};

/// A model in the ONNX format.
///
/// [`tensors`](Self::tensors) has its weights, which a [`Recipe`](crate::model::Recipe) or a [`Budget`](crate::model::Budget)
/// compresses as those of a safetensors file; [`with_weights`](Self::with_weights) writes the model with the result.
/// The [module](super) has an example.
#[derive(Debug)]
pub struct OnnxModel {
    pub(super) root: Message,
    tensors: NamedTensors,
    pub(super) weights: BTreeMap<String, Weight>,
    notes: Vec<String>,
}

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

impl OnnxModel {
    /// Opens the model at `path`, mapped into memory.
    ///
    /// Tensors may lie in other files in the folder of the model or below it. While the files are mapped, no process may shorten
    /// them or write to them, as [`NamedTensors::open`] explains.
    ///
    /// # Errors
    ///
    /// [`Error::File`](crate::Error::File); [`Error::Malformed`](crate::Error::Malformed) for a file that is not one of this format, that was cut, or whose tensors do
    /// not have the bytes of their shapes, and for tensors in files outside of the folder.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let folder = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        Self::new(Source::map(path)?, Some(folder))
    }

    /// The model whose file has these bytes. Its tensors may not lie in other files.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`](crate::Error::Malformed) as for [`open`](Self::open), [`Error::Unsupported`](crate::Error::Unsupported)
    /// for tensors in other files.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        Self::new(Source::from(bytes), None)
    }

    fn new(source: Source, folder: Option<&Path>) -> Result<Self> {
        let file = Chunk::new(Arc::new(source));
        let mut root = Message::read(&file, &MODEL)?;
        if smallest::has_form(&root) {
            return Err(Error::Unsupported {
                what: "a file of the form Smallest".to_owned(),
                reason: "taper::onnx::restore gives the model".to_owned(),
            });
        }
        check(&root)?;
        let mut files = Files::new(folder);
        tensor::each_tensor(main_mut(&mut root), &mut |tensor| files.gather(tensor))?;
        let length = file.len() as u64 + files.length();
        Self::of(root, length)
    }

    /// The model of a message; `length` is the length of its files.
    fn of(root: Message, length: u64) -> Result<Self> {
        let (weights, notes) = find(&root)?;
        let mut sources: Vec<Arc<Source>> = Vec::new();
        let mut stored = Vec::new();
        let graphs = Graphs::of(main(&root));
        for (name, weight) in &weights {
            let message = weight.message(&graphs);
            let bytes = tensor::elements(message, weight.dtype, &weight.shape)?;
            let known = sources
                .iter()
                .rposition(|source| Arc::ptr_eq(source, &bytes.source));
            let source = known.unwrap_or(sources.len());
            if known.is_none() {
                sources.push(Arc::clone(&bytes.source));
            }
            let place = StoredTensor {
                source,
                bytes: bytes.range.clone(),
                dtype: weight.dtype,
                shape: weight.shape.clone(),
                turned: weight.turned.clone(),
            };
            stored.push((name.clone(), place));
        }
        Ok(Self {
            tensors: NamedTensors::of_places(length, sources, stored),
            root,
            weights,
            notes,
        })
    }

    /// The weights, in the layout of taper: the first axis is the output.
    ///
    /// A weight has the name of its value in the graph; in the graph of an `If`, `Loop` or `Scan`, the name of that node and of the
    /// graph come first, such as `If_0.then_branch.fc.weight`. `MatMul` and `Gemm` weights are (out, in), kernels of `Conv` and
    /// `ConvTranspose` (out, in / groups, …), weights of `LSTM`, `GRU` and `RNN` (directions · gates · hidden, in), tables of `Gather`
    /// as they are. Tensors of one value, and those that [`notes`](Self::notes) names, are not among them.
    #[must_use]
    pub fn tensors(&self) -> &NamedTensors {
        &self.tensors
    }

    /// Why tensors of real numbers are not among the weights; they stay as they are, bit for bit.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    pub(super) fn graph(&self) -> &Message {
        main(&self.root)
    }

    /// The version of the standard operators.
    pub(super) fn opset(&self) -> i64 {
        schema::version(&self.root, "").unwrap_or(1)
    }
}

/// The weights of a model by name, and why others are kept.
pub(super) fn find(root: &Message) -> Result<(BTreeMap<String, Weight>, Vec<String>)> {
    let mut weights = BTreeMap::new();
    let mut notes = Vec::new();
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
            let name = free(format!("{}{value}", part.prefix), &weights);
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
    let graph = graph.and_then(super::wire::Field::message_mut);
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

/// The name, or one derived from it that nothing has yet.
fn free(name: String, taken: &BTreeMap<String, Weight>) -> String {
    if !taken.contains_key(&name) {
        return name;
    }
    let mut numbers = 2_usize..;
    let mut names = numbers.by_ref().map(|number| format!("{name}~{number}"));
    names
        .find(|name| !taken.contains_key(name))
        .expect("numbers do not end")
}
