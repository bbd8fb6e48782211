//! A model that also gives out the inputs of its layers, for calibration in any runtime.

use super::graph::{Graphs, Reader};
use super::model::{self, OnnxModel, Weight};
use super::roles::MAX_STEPS;
use super::schema::{
    Attribute, graph as fields, integer, new_attribute, new_node, node, operator, types, value_info,
};
use super::tensor::number_of;
use super::wire::{Field, Message};
use crate::{Error, Result};

impl OnnxModel {
    /// The file of this model with further outputs: the inputs of the layers that multiply with the weights `names`.
    ///
    /// Returns the name of the output for each weight. Run the file in any runtime and give the arrays to
    /// [`Calibration::add`](crate::model::Calibration::add) under the name of the weight; the images of a convolution to
    /// [`InputMoments::add_patches`](crate::InputMoments::add_patches).
    ///
    /// ```
    /// use taper::onnx::OnnxModel;
    ///
    /// let model = OnnxModel::open("tests/models/linear.onnx")?;
    /// let (file, outputs) = model.with_inputs_of(["fc.weight"])?;
    /// assert_eq!(outputs, ["fc.weight.input"]);
    /// assert!(OnnxModel::from_bytes(file).is_ok());
    /// # Ok::<(), taper::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTensor`]; [`Error::Unsupported`] for a weight that no layer multiplies its input with, such as a bias or
    /// a table, and for one inside of an `If`, `Loop` or `Scan`, whose values a model cannot give out.
    pub fn with_inputs_of<'n>(
        &self,
        names: impl IntoIterator<Item = &'n str>,
    ) -> Result<(Vec<u8>, Vec<String>)> {
        let graphs = Graphs::of(self.graph());
        let mut taken = super::builder::Names::of(&graphs);
        let mut outputs = Vec::new();
        let mut added = Vec::new();
        for name in names {
            let weight = self.weight(name)?;
            let (layer, element) = layer(&graphs, weight).ok_or_else(|| Error::Unsupported {
                what: format!("the input of weight {name}"),
                reason: "no layer of the outermost graph multiplies its input with this weight"
                    .to_owned(),
            })?;
            let output = taken.free(&format!("{name}.input"));
            let value = layer.texts(node::INPUT).next().unwrap_or("");
            let turned = integer(layer, "transA").unwrap_or(0) != 0;
            let (kind, attributes) = match turned {
                true => {
                    let order = new_attribute("perm", Attribute::Integers(&[1, 0]));
                    ("Transpose", vec![order])
                }
                false => ("Identity", Vec::new()),
            };
            let copy = new_node(("", kind), &[value], &[&output], attributes);
            added.push(Field::of_message(fields::NODE, copy));
            added.push(Field::of_message(
                fields::OUTPUT,
                described(&output, element),
            ));
            outputs.push(output);
        }
        let mut root = self.root.clone();
        model::main_mut(&mut root).fields.extend(added);
        Ok((root.to_bytes()?, outputs))
    }
}

/// The node of the outermost graph that multiplies its first input with a weight, and the type of its elements.
fn layer<'m>(graphs: &Graphs<'m>, weight: &Weight) -> Option<(&'m Message, i64)> {
    let mut name = weight.value.as_str();
    let mut element = number_of(weight.dtype);
    for _ in 0..=MAX_STEPS {
        let mut moved = None;
        for reader in graphs.readers(weight.graph, name) {
            let Reader::Node {
                graph: 0,
                field,
                input,
            } = *reader
            else {
                continue;
            };
            let node = graphs.node(0, field);
            match (operator(node), input) {
                (
                    ("", "MatMul" | "Gemm" | "Conv" | "ConvTranspose" | "LSTM" | "GRU" | "RNN"),
                    1,
                ) => {
                    return Some((node, element));
                }
                (("", "Identity" | "Transpose" | "Cast"), 0) => {
                    element = integer(node, "to").unwrap_or(element);
                    moved = node.texts(node::OUTPUT).next();
                }
                _ => {}
            }
        }
        name = moved?;
    }
    None
}

/// The description of an output: its name and the type of its elements.
fn described(name: &str, element: i64) -> Message {
    let element = Field::of_integer(types::ELEMENT, element);
    let tensor = Message {
        fields: vec![element],
    };
    let kind = Message {
        fields: vec![Field::of_message(types::TENSOR, tensor)],
    };
    Message {
        fields: vec![
            Field::of_bytes(value_info::NAME, name.as_bytes()),
            Field::of_message(value_info::TYPE, kind),
        ],
    }
}
