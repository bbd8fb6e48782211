//! One file of a graph without weights and of the container that holds them.

use std::collections::BTreeMap;

use super::graph::{self, Graphs};
use super::schema;
use super::tensor;
use super::weights::{self, Weight};
use super::wire::{Field, Kind, Message, malformed};
use crate::model::{CompressedModel, Container, decode_bytes, encode_bytes, within};
use crate::{Error, Result};

/// The fields of the file, which has no others. The format does not use these numbers, so that its readers pass over them.
const CONTAINER: u32 = 74_617;
const GRAPH: u32 = 74_618;

/// The file of the form [`Smallest`](super::Form::Smallest).
pub(super) fn bytes(
    root: &Message,
    weights: &BTreeMap<String, Weight>,
    small: &CompressedModel,
) -> Result<Vec<u8>> {
    let removed = weights.iter().filter(|(name, _)| small.get(name).is_ok());
    let skeleton = skeleton(root, removed.map(|(_, weight)| weight))?;
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
    weights::check(&root)?;
    let (places, _) = weights::find(&root)?;
    let mut changed = BTreeMap::new();
    {
        let graphs = Graphs::of(weights::main(&root));
        for name in container.names() {
            let weight = places.get(name).ok_or_else(|| Error::UnknownTensor {
                name: name.to_owned(),
            })?;
            let entry = container.get(name)?;
            within(name, weight.check(&entry))?;
            let data = within(name, entry.to_data())?;
            let bytes = weight.in_model(&data);
            let field = weights::replaced(&graphs, weight, |message| {
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
    graph::each_graph(weights::main_mut(root), &mut |number, graph| {
        for (&(_, place), field) in fields.range((number, 0)..(number + 1, 0)) {
            graph.fields[place] = field.clone();
        }
        Ok(())
    })
}

/// The model without the elements of some weights.
fn skeleton<'w>(root: &Message, removed: impl Iterator<Item = &'w Weight>) -> Result<Message> {
    let graphs = Graphs::of(weights::main(root));
    let empty = removed.map(|weight| {
        let field = weights::replaced(&graphs, weight, tensor::remove_elements);
        ((weight.graph, weight.field), field)
    });
    let mut skeleton = root.clone();
    put(&mut skeleton, &empty.collect())?;
    Ok(skeleton)
}
