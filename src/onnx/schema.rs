//! The messages of ONNX: the numbers of their fields, and the parts of a model as messages.
//!
//! The numbers are those of [onnx.proto](https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).

use super::wire::{Field, Kind, Message};

pub(super) mod model {
    pub(in crate::onnx) const IR_VERSION: u32 = 1;
    pub(in crate::onnx) const GRAPH: u32 = 7;
    pub(in crate::onnx) const OPSET_IMPORT: u32 = 8;
}

pub(super) mod opset {
    pub(in crate::onnx) const DOMAIN: u32 = 1;
    pub(in crate::onnx) const VERSION: u32 = 2;
}

pub(super) mod graph {
    pub(in crate::onnx) const NODE: u32 = 1;
    pub(in crate::onnx) const INITIALIZER: u32 = 5;
    pub(in crate::onnx) const INPUT: u32 = 11;
    pub(in crate::onnx) const OUTPUT: u32 = 12;
    pub(in crate::onnx) const VALUE_INFO: u32 = 13;
}

pub(super) mod node {
    pub(in crate::onnx) const INPUT: u32 = 1;
    pub(in crate::onnx) const OUTPUT: u32 = 2;
    pub(in crate::onnx) const NAME: u32 = 3;
    pub(in crate::onnx) const OP_TYPE: u32 = 4;
    pub(in crate::onnx) const ATTRIBUTE: u32 = 5;
    pub(in crate::onnx) const DOMAIN: u32 = 7;
}

pub(super) mod attribute {
    pub(in crate::onnx) const NAME: u32 = 1;
    pub(in crate::onnx) const FLOAT: u32 = 2;
    pub(in crate::onnx) const INTEGER: u32 = 3;
    pub(in crate::onnx) const TEXT: u32 = 4;
    pub(in crate::onnx) const TENSOR: u32 = 5;
    pub(in crate::onnx) const GRAPH: u32 = 6;
    pub(in crate::onnx) const INTEGERS: u32 = 8;
    pub(in crate::onnx) const TENSORS: u32 = 10;
    pub(in crate::onnx) const GRAPHS: u32 = 11;
    pub(in crate::onnx) const TYPE: u32 = 20;
    /// The values of `TYPE`.
    pub(in crate::onnx) const IS_INTEGER: i64 = 2;
    pub(in crate::onnx) const IS_INTEGERS: i64 = 7;
}

pub(super) mod tensor {
    pub(in crate::onnx) const DIMS: u32 = 1;
    pub(in crate::onnx) const DATA_TYPE: u32 = 2;
    pub(in crate::onnx) const SEGMENT: u32 = 3;
    pub(in crate::onnx) const FLOAT_DATA: u32 = 4;
    pub(in crate::onnx) const INT32_DATA: u32 = 5;
    pub(in crate::onnx) const INT64_DATA: u32 = 7;
    pub(in crate::onnx) const NAME: u32 = 8;
    pub(in crate::onnx) const RAW_DATA: u32 = 9;
    pub(in crate::onnx) const DOUBLE_DATA: u32 = 10;
    pub(in crate::onnx) const EXTERNAL_DATA: u32 = 13;
    pub(in crate::onnx) const DATA_LOCATION: u32 = 14;
    /// The value of `DATA_LOCATION` for data in another file.
    pub(in crate::onnx) const IS_EXTERNAL: i64 = 1;
}

/// An entry of external data, and of metadata.
pub(super) mod entry {
    pub(in crate::onnx) const KEY: u32 = 1;
    pub(in crate::onnx) const VALUE: u32 = 2;
}

pub(super) mod value_info {
    pub(in crate::onnx) const NAME: u32 = 1;
    pub(in crate::onnx) const TYPE: u32 = 2;
}

/// The number of the tensor inside of a type, and of the parts of a tensor type.
pub(super) mod types {
    pub(in crate::onnx) const TENSOR: u32 = 1;
    pub(in crate::onnx) const ELEMENT: u32 = 1;
}

const PLAIN: Kind = Kind {
    messages: &[],
    texts: &[],
    integers: &[],
    floats: &[],
};

static ENTRY: Kind = Kind {
    texts: &[entry::KEY, entry::VALUE],
    ..PLAIN
};

static OPSET: Kind = Kind {
    texts: &[opset::DOMAIN],
    integers: &[opset::VERSION],
    ..PLAIN
};

static TENSOR: Kind = Kind {
    messages: &[(tensor::EXTERNAL_DATA, &ENTRY)],
    texts: &[tensor::NAME],
    integers: &[
        tensor::DIMS,
        tensor::DATA_TYPE,
        tensor::INT32_DATA,
        tensor::INT64_DATA,
        tensor::DATA_LOCATION,
    ],
    floats: &[tensor::FLOAT_DATA],
};

static VALUE_INFO: Kind = Kind {
    texts: &[value_info::NAME],
    ..PLAIN
};

static ATTRIBUTE: Kind = Kind {
    messages: &[
        (attribute::TENSOR, &TENSOR),
        (attribute::GRAPH, &GRAPH),
        (attribute::TENSORS, &TENSOR),
        (attribute::GRAPHS, &GRAPH),
    ],
    texts: &[attribute::NAME],
    integers: &[attribute::INTEGER, attribute::INTEGERS, attribute::TYPE],
    floats: &[attribute::FLOAT],
};

static NODE: Kind = Kind {
    messages: &[(node::ATTRIBUTE, &ATTRIBUTE)],
    texts: &[
        node::INPUT,
        node::OUTPUT,
        node::NAME,
        node::OP_TYPE,
        node::DOMAIN,
    ],
    ..PLAIN
};

static GRAPH: Kind = Kind {
    messages: &[
        (graph::NODE, &NODE),
        (graph::INITIALIZER, &TENSOR),
        (graph::INPUT, &VALUE_INFO),
        (graph::OUTPUT, &VALUE_INFO),
        (graph::VALUE_INFO, &VALUE_INFO),
    ],
    ..PLAIN
};

/// A whole file.
pub(super) static MODEL: Kind = Kind {
    messages: &[(model::GRAPH, &GRAPH), (model::OPSET_IMPORT, &OPSET)],
    integers: &[model::IR_VERSION],
    ..PLAIN
};

/// The operator of a node of the standard domain; the domain and the operator of any other.
pub(super) fn operator(node: &Message) -> (&str, &str) {
    let domain = match node.text(node::DOMAIN) {
        "ai.onnx" => "",
        domain => domain,
    };
    (domain, node.text(node::OP_TYPE))
}

/// What a node is called: its name, or else its first output.
pub(super) fn label(node: &Message) -> &str {
    match node.text(node::NAME) {
        "" => node.texts(node::OUTPUT).next().unwrap_or(""),
        name => name,
    }
}

/// The first output of a node.
pub(super) fn output(node: &Message) -> &str {
    node.texts(node::OUTPUT).next().unwrap_or("")
}

/// An attribute of a node by its name.
pub(super) fn attribute<'m>(node: &'m Message, name: &str) -> Option<&'m Message> {
    node.messages(node::ATTRIBUTE)
        .find(|attribute| attribute.text(attribute::NAME) == name)
}

/// A whole number that is an attribute.
pub(super) fn integer(node: &Message, name: &str) -> Option<i64> {
    attribute(node, name)?.integer(attribute::INTEGER)
}

/// Whole numbers that are an attribute.
pub(super) fn integers(node: &Message, name: &str) -> Option<Vec<i64>> {
    Some(attribute(node, name)?.integers(attribute::INTEGERS))
}

/// A real number that is an attribute.
pub(super) fn float(node: &Message, name: &str) -> Option<f32> {
    let bytes = attribute(node, name)?.floats(attribute::FLOAT);
    Some(f32::from_le_bytes(*bytes.last_chunk()?))
}

/// A new attribute.
pub(super) fn new_attribute(name: &str, value: Attribute<'_>) -> Message {
    let mut fields = vec![Field::of_bytes(attribute::NAME, name.as_bytes())];
    let kind = match value {
        Attribute::Integer(value) => {
            fields.push(Field::of_integer(attribute::INTEGER, value));
            attribute::IS_INTEGER
        }
        Attribute::Integers(values) => {
            let values = values.iter();
            fields.extend(values.map(|&value| Field::of_integer(attribute::INTEGERS, value)));
            attribute::IS_INTEGERS
        }
    };
    fields.push(Field::of_integer(attribute::TYPE, kind));
    Message { fields }
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Attribute<'a> {
    Integer(i64),
    Integers(&'a [i64]),
}

/// A new node. It has no name: some runtimes do not tell names of nodes from names of values.
pub(super) fn new_node(
    (domain, operator): (&str, &str),
    inputs: &[&str],
    outputs: &[&str],
    attributes: impl IntoIterator<Item = Message>,
) -> Message {
    let text = |number, text: &str| Field::of_bytes(number, text.as_bytes());
    let mut fields: Vec<Field> = inputs.iter().map(|name| text(node::INPUT, name)).collect();
    fields.extend(outputs.iter().map(|name| text(node::OUTPUT, name)));
    fields.push(text(node::OP_TYPE, operator));
    let attributes = attributes.into_iter();
    fields.extend(attributes.map(|attribute| Field::of_message(node::ATTRIBUTE, attribute)));
    if !domain.is_empty() {
        fields.push(text(node::DOMAIN, domain));
    }
    Message { fields }
}

/// Removes an attribute of a node.
pub(super) fn remove_attribute(node: &mut Message, name: &str) {
    node.fields.retain(|field| {
        let attribute = field.message();
        field.number != node::ATTRIBUTE
            || attribute.is_none_or(|attribute| attribute.text(attribute::NAME) != name)
    });
}

/// The version of a domain that a model asks for.
pub(super) fn version(root: &Message, domain: &str) -> Option<i64> {
    let mut imports = root.messages(model::OPSET_IMPORT);
    let plain = |name: &str| if name == "ai.onnx" { "" } else { name }.to_owned();
    let import = imports.find(|import| plain(import.text(opset::DOMAIN)) == domain)?;
    import.integer(opset::VERSION)
}
