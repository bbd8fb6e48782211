//! One file of a graph without weights and of the container that holds them.

use std::collections::BTreeMap;

use super::graph::{self, Graphs};
use super::model::{self, OnnxModel};
use super::schema;
use super::tensor;
use super::wire::{Field, Kind, Message, malformed};
use super::write;
use crate::model::{CompressedModel, Container, decode_bytes, encode_bytes};
use crate::{Error, Result};

/// The fields of the file, which has no others. The format does not use these numbers, so that its readers pass over them.
const CONTAINER: u32 = 74_617;
const GRAPH: u32 = 74_618;

/// The file of the form [`Smallest`](super::Form::Smallest).
pub(super) fn bytes(model: &OnnxModel, small: &CompressedModel) -> Result<Vec<u8>> {
    let skeleton = skeleton(model, &|name| small.get(name).is_ok())?;
    let graph = encode_bytes(&skeleton.to_bytes()?);
    let file = Message {
        fields: vec![
            Field::of_bytes(GRAPH, &graph),
            Field::of_chunk(CONTAINER, small.to_bytes()?.into()),
        ],
    };
    file.to_bytes()
}

/// Whether a file has this form.
pub(super) fn has_form(file: &Message) -> bool {
    file.last(CONTAINER).is_some() && file.last(GRAPH).is_some()
}

/// The bytes of a plain model from a file of the form [`Smallest`](super::Form::Smallest): its weights are dense values, to be
/// given to a runtime in memory.
///
/// ```
/// # use taper::onnx::{Form, OnnxModel};
/// use taper::model::Budget;
///
/// let model = OnnxModel::open("tests/models/linear.onnx")?;
/// let (small, _) = Budget::ratio(6.0).compress(model.tensors())?;
/// let (file, _) = model.to_bytes(&small, Form::Smallest)?;
/// let plain = OnnxModel::from_bytes(taper::onnx::restore(&file)?)?;
/// assert_eq!(plain.tensors().get("fc.weight")?, small.decompress("fc.weight")?);
/// # Ok::<(), taper::Error>(())
/// ```
///
/// # Errors
///
/// [`Error::Malformed`] for a file of another form or one that was changed, and the errors of decompression.
pub fn restore(bytes: &[u8]) -> Result<Vec<u8>> {
    static PLAIN: Kind = Kind {
        messages: &[],
        texts: &[],
        integers: &[],
        floats: &[],
    };
    let file = Message::read(&bytes.to_vec().into(), &PLAIN)?;
    let part = |number: u32| {
        let field = file.last(number).and_then(Field::chunk);
        field.ok_or_else(|| {
            malformed(format!(
                "field {number} is missing: it is not of the form Smallest"
            ))
        })
    };
    let graph = decode_bytes(&part(GRAPH)?)?;
    let container = Container::from_bytes(part(CONTAINER)?.to_vec())?;
    let mut root = Message::read(&graph.into(), &schema::MODEL)?;
    model::check(&root)?;
    let (weights, _) = model::find(&root)?;
    let mut changed = BTreeMap::new();
    {
        let graphs = Graphs::of(model::main(&root));
        for name in container.names() {
            let weight = weights.get(name).ok_or_else(|| Error::UnknownTensor {
                name: name.to_owned(),
            })?;
            let entry = container.get(name)?;
            weight
                .check(&entry)
                .map_err(|error| write::in_tensor(name, error))?;
            let data = entry
                .to_data()
                .map_err(|error| write::in_tensor(name, error))?;
            let bytes = weight.in_model(&data);
            let field = write::replaced(&graphs, weight, |message| {
                tensor::set_elements(message, &weight.shape, bytes);
            });
            changed.insert((weight.graph, weight.field), field);
        }
    }
    put(&mut root, &changed)?;
    root.to_bytes()
}

/// Puts fields in the place of those of graphs.
fn put(root: &mut Message, fields: &BTreeMap<(usize, usize), Field>) -> Result<()> {
    graph::each_graph(model::main_mut(root), &mut |number, graph| {
        for (&(_, place), field) in fields.range((number, 0)..(number + 1, 0)) {
            graph.fields[place] = field.clone();
        }
        Ok(())
    })
}

/// The model without the elements of the weights that `removed` names.
fn skeleton(model: &OnnxModel, removed: &dyn Fn(&str) -> bool) -> Result<Message> {
    let graphs = Graphs::of(model.graph());
    let weights = model.weights.iter().filter(|(name, _)| removed(name));
    let empty = weights.map(|(_, weight)| {
        let field = write::replaced(&graphs, weight, tensor::remove_elements);
        ((weight.graph, weight.field), field)
    });
    let mut root = model.root.clone();
    put(&mut root, &empty.collect())?;
    Ok(root)
}
