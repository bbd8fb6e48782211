//! Models with other weights, in the forms in which they can be written.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;

use super::builder::{Builder, Names};
use super::chain;
use super::express::{self, Layout};
use super::graph::{self, Graphs, Reader};
use super::model::OnnxModel;
use super::schema::{self, graph as fields, opset, value_info};
use super::tensor;
use super::weights::{self, Weight};
use super::wire::{Field, Message};
use super::{bits, smallest};
use crate::model::extend::Artifact;
use crate::model::{CompressedModel, Entry, NewFile, within};
use crate::{Error, Result};

/// The version of the format that has integers of four bits, and the one whose initializers need not be inputs.
const IR_FOUR_BITS: i64 = 10;
const IR_CONSTANTS: i64 = 4;

/// How a model with compressed weights is written.
///
/// ```
/// use taper::onnx::Form;
///
/// assert_eq!("portable".parse::<Form>()?, Form::Portable);
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Form {
    /// Standard operators only, so that every runtime that has the operators of the model runs it.
    ///
    /// - Fixed point and signs: `DequantizeLinear` of int8; of int4 from opset 21 on. Before that, codes of up to four bits are
    ///   packed into bytes, which standard arithmetic takes apart when the model is loaded.
    /// - Truncated SVD: two layers in place of one. CP, Tucker-2 and spatial SVD of a kernel: a chain of convolutions, in which
    ///   stride, padding and dilation belong to the link with the kernel.
    /// - Product quantization: `Gather` from the codebooks. Half precision: `Cast`.
    ///
    /// Everything else is written as dense values, which the notes name.
    Portable,
    /// As [`Portable`](Self::Portable), and matrices of fixed point with up to four bits as `MatMulNBits` of `com.microsoft`, where in_features is a multiple of 16,
    /// which multiplies from the codes. Few runtimes have it, among them ONNX Runtime.
    NBits,
    /// One file of the graph without weights and of taper's container, entropy-coded. [`restore`](super::restore) gives
    /// the bytes of a plain model.
    Smallest,
}

impl std::str::FromStr for Form {
    type Err = Error;

    /// From `portable`, `nbits` or `smallest`.
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "portable" => Ok(Self::Portable),
            "nbits" => Ok(Self::NBits),
            "smallest" => Ok(Self::Smallest),
            _ => Err(Error::Unsupported {
                what: format!("the form {text:?}"),
                reason: "it must be portable, nbits or smallest".to_owned(),
            }),
        }
    }
}

impl OnnxModel {
    /// The file of this model with the weights of `small`, and notes on weights that the form cannot express.
    ///
    /// A weight that `small` does not have, or has as it was, stays as it is, bit for bit, as does all else that the file holds. The
    /// outputs of the model are those of the dense values of `small`, up to rounding.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTensor`] for a weight that the model does not have, [`Error::InTensor`] for one of another shape or
    /// type and with the errors of decompression, [`Error::Unsupported`] for a file of 2 GiB and more.
    pub fn to_bytes(&self, small: &CompressedModel, form: Form) -> Result<(Vec<u8>, Vec<String>)> {
        for (name, entry) in small.iter() {
            let weight = self.weight(name)?;
            within(name, weight.check(entry))?;
        }
        match form {
            Form::Smallest => {
                let file = smallest::bytes(&self.root, &self.weights, small)?;
                Ok((file, Vec::new()))
            }
            Form::Portable | Form::NBits => {
                let (root, notes) = Writer::new(self, form).write(small)?;
                Ok((root.to_bytes()?, notes))
            }
        }
    }

    /// Writes the file of [`to_bytes`](Self::to_bytes), which replaces a file at `path` once it is complete; returns the notes.
    ///
    /// # Errors
    ///
    /// Those of [`to_bytes`](Self::to_bytes), and [`Error::File`].
    pub fn save(
        &self,
        path: impl AsRef<Path>,
        small: &CompressedModel,
        form: Form,
    ) -> Result<Vec<String>> {
        let (bytes, notes) = self.to_bytes(small, form)?;
        let mut file = NewFile::create(path.as_ref())?;
        file.write_all(&bytes).map_err(|error| file.error(error))?;
        file.commit()?;
        Ok(notes)
    }

    pub(super) fn weight(&self, name: &str) -> Result<&Weight> {
        self.weights.get(name).ok_or_else(|| Error::UnknownTensor {
            name: name.to_owned(),
        })
    }

    /// The dense elements of an entry as the model has them; `None` where they are those that it has already.
    pub(super) fn dense(&self, name: &str, entry: &Entry) -> Result<Option<Vec<u8>>> {
        let weight = self.weight(name)?;
        let bytes = within(name, entry.to_data())?;
        if *self.tensors().data(name)?.bytes == *bytes {
            return Ok(None);
        }
        Ok(Some(weight.in_model(&bytes)))
    }
}

/// What is to be changed in a graph.
#[derive(Debug, Default)]
struct Edits {
    /// What stands in place of a field.
    fields: BTreeMap<usize, Vec<Field>>,
    /// Constants in front of the nodes.
    initializers: Vec<Message>,
    nodes: Vec<Message>,
    /// Inputs and descriptions of values that are no longer what they were.
    inputs: BTreeSet<String>,
    values: BTreeSet<String>,
}

/// Writes a model in standard operators.
struct Writer<'m> {
    model: &'m OnnxModel,
    form: Form,
    graphs: Graphs<'m>,
    names: Names,
    edits: BTreeMap<usize, Edits>,
    notes: Vec<String>,
    /// Whether `com.microsoft` is needed.
    microsoft: bool,
}

impl<'m> Writer<'m> {
    fn new(model: &'m OnnxModel, form: Form) -> Self {
        let graphs = Graphs::of(model.graph());
        Self {
            names: Names::of(&graphs),
            model,
            form,
            graphs,
            edits: BTreeMap::new(),
            notes: Vec::new(),
            microsoft: false,
        }
    }

    fn write(mut self, small: &CompressedModel) -> Result<(Message, Vec<String>)> {
        for (name, entry) in small.iter() {
            let weight = self.model.weight(name)?;
            match entry {
                Entry::Plain(_) => self.dense(name, weight, entry)?,
                Entry::Compressed(tensor) => {
                    let artifact = tensor.artifact();
                    let made = self.layers(name, weight, artifact);
                    let made =
                        made.and_then(|made| Ok(made || self.value(name, weight, artifact)?));
                    if !within(name, made)? {
                        self.notes.push(format!(
                            "{name}: written as dense values, since {} has no form in the operators of opset {}",
                            artifact.kind(),
                            self.model.opset()
                        ));
                        self.dense(name, weight, entry)?;
                    }
                }
            }
        }
        let mut root = self.model.root.clone();
        let four_bits = self.uses_four_bits();
        let edits = &mut self.edits;
        graph::each_graph(weights::main_mut(&mut root), &mut |number, graph| {
            if let Some(edits) = edits.remove(&number) {
                edits.apply(graph);
            }
            Ok(())
        })?;
        let version = root.integer(schema::model::IR_VERSION).unwrap_or(0);
        let needed = if four_bits {
            IR_FOUR_BITS
        } else {
            IR_CONSTANTS
        };
        let compressed = |entry: &Entry| matches!(entry, Entry::Compressed(_));
        if version < needed && small.iter().any(|(_, entry)| compressed(entry)) {
            root.set(Field::of_integer(schema::model::IR_VERSION, needed));
        }
        if self.microsoft && schema::version(&root, bits::DOMAIN).is_none() {
            let fields = vec![
                Field::of_bytes(opset::DOMAIN, bits::DOMAIN.as_bytes()),
                Field::of_integer(opset::VERSION, 1),
            ];
            let import = Field::of_message(schema::model::OPSET_IMPORT, Message { fields });
            root.fields.push(import);
        }
        Ok((root, self.notes))
    }

    fn uses_four_bits(&self) -> bool {
        let mut tensors = self.edits.values().flat_map(|edits| &edits.initializers);
        tensors.any(|tensor| {
            let kind = tensor.integer(schema::tensor::DATA_TYPE);
            matches!(kind, Some(tensor::INT4 | tensor::UINT4))
        })
    }

    /// Writes dense values in place of a weight.
    fn dense(&mut self, name: &str, weight: &Weight, entry: &Entry) -> Result<()> {
        let Some(bytes) = self.model.dense(name, entry)? else {
            return Ok(());
        };
        let field = weights::replaced(&self.graphs, weight, |message| {
            tensor::set_elements(message, &weight.shape, bytes);
        });
        let edits = self.edits.entry(weight.graph).or_default();
        edits.fields.insert(weight.field, vec![field]);
        Ok(())
    }

    /// Puts other layers in place of those that read a weight, where the artifact has a form of its own.
    fn layers(&mut self, name: &str, weight: &Weight, artifact: &dyn Artifact) -> Result<bool> {
        let readers = self.graphs.readers(weight.graph, &weight.value).iter();
        let node = |reader: &Reader| match *reader {
            Reader::Node {
                graph,
                field,
                input,
            } => Some((graph, field, input)),
            Reader::Output => None,
        };
        let readers: Option<Vec<(usize, usize, usize)>> = readers.map(node).collect();
        let Some(readers) = readers.filter(|readers| !readers.is_empty()) else {
            return Ok(false);
        };
        let nodes: Vec<(&Message, usize)> = readers
            .iter()
            .map(|&(graph, field, input)| (self.graphs.node(graph, field), input))
            .collect();
        let mut builder = Builder::new(&mut self.names, self.model.opset());
        let mut made = Vec::new();
        let any: &dyn Any = artifact;
        let matrix = any.downcast_ref().filter(|_| self.form == Form::NBits);
        let packed =
            matrix.and_then(|matrix| bits::pack(&mut builder, name, matrix, weight, &nodes));
        if let Some(packed) = packed {
            for (node, _) in &nodes {
                made.push(bits::nodes(builder.names, node, &packed));
            }
            self.microsoft = true;
        } else {
            let chain = chain::chain(&mut builder, name, artifact, weight, &nodes)?;
            let Some(chain) = chain else {
                return Ok(false);
            };
            for (node, _) in &nodes {
                made.push(chain::nodes(builder.names, node, &chain));
            }
        }
        let Builder {
            initializers,
            nodes,
            ..
        } = builder;
        for (&(graph, field, _), made) in readers.iter().zip(made) {
            let made = made
                .into_iter()
                .map(|node| Field::of_message(fields::NODE, node));
            let edits = self.edits.entry(graph).or_default();
            edits.fields.insert(field, made.collect());
        }
        let edits = self.edits.entry(weight.graph).or_default();
        edits.add(weight, initializers, nodes);
        edits.values.insert(weight.value.clone());
        Ok(true)
    }

    /// Puts nodes that compute the dense tensor in place of a weight.
    fn value(&mut self, name: &str, weight: &Weight, artifact: &dyn Artifact) -> Result<bool> {
        let mut builder = Builder::new(&mut self.names, self.model.opset());
        let layout = Layout {
            shape: weight.shape.clone(),
            turned: weight.turned.clone(),
            dtype: weight.dtype,
        };
        let Some(value) = express::express(&mut builder, name, artifact, &layout)? else {
            return Ok(false);
        };
        builder.rename(&value, &weight.value);
        let Builder {
            initializers,
            nodes,
            ..
        } = builder;
        let edits = self.edits.entry(weight.graph).or_default();
        edits.add(weight, initializers, nodes);
        Ok(true)
    }
}

impl Edits {
    /// Replaces a weight by constants.
    fn add(&mut self, weight: &Weight, initializers: Vec<Message>, nodes: Vec<Message>) {
        self.fields.insert(weight.field, Vec::new());
        self.initializers.extend(initializers);
        self.nodes.extend(nodes);
        self.inputs.insert(weight.value.clone());
    }

    fn apply(mut self, graph: &mut Message) {
        let before = std::mem::take(&mut graph.fields);
        let mut nodes = Some(std::mem::take(&mut self.nodes));
        let mut front = |out: &mut Vec<Field>| {
            let nodes = nodes.take().into_iter().flatten();
            out.extend(nodes.map(|node| Field::of_message(fields::NODE, node)));
        };
        for (place, field) in before.into_iter().enumerate() {
            let value = |names: &BTreeSet<String>| {
                let value = field
                    .message()
                    .expect("descriptions of values are messages");
                names.contains(value.text(value_info::NAME))
            };
            let gone = match field.number {
                fields::INPUT => value(&self.inputs),
                fields::VALUE_INFO => value(&self.values),
                _ => false,
            };
            if gone {
                continue;
            }
            if field.number == fields::NODE {
                front(&mut graph.fields);
            }
            match self.fields.remove(&place) {
                Some(fields) => graph.fields.extend(fields),
                None => graph.fields.push(field),
            }
        }
        front(&mut graph.fields);
        let initializers = self.initializers.into_iter();
        graph
            .fields
            .extend(initializers.map(|tensor| Field::of_message(fields::INITIALIZER, tensor)));
    }
}
