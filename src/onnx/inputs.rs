//! A model that also outputs the inputs of its layers, for calibration in any runtime.

use ndarray::{Array4, ArrayViewD, s};

use super::graph::{Graphs, Reader};
use super::model::OnnxModel;
use super::roles::MAX_STEPS;
use super::schema::{
    Attribute, attribute, attribute::TEXT, graph as fields, integer, integers, new_attribute,
    new_node, node, operator, types, value_info,
};
use super::tensor::number_of;
use super::weights::{self, Weight};
use super::wire::{Field, Message};
use crate::model::{Calibration, within};
use crate::{Error, Geometry, InputMoments, Result};

impl OnnxModel {
    /// The file of this model with further outputs: the inputs of the layers that multiply with the weights `names`.
    ///
    /// Returns the name of the output for each weight. Run the file in any runtime, and give the arrays to
    /// [`add_inputs`](Self::add_inputs) under the name of the weight.
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
    /// a table, and for one inside of an `If`, `Loop` or `Scan`, whose values cannot be outputs of the model.
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
        weights::main_mut(&mut root).fields.extend(added);
        Ok((root.to_bytes()?, outputs))
    }

    /// Adds inputs of the layer that multiplies with the weight `name`, which an output of
    /// [`with_inputs_of`](Self::with_inputs_of) gave out, to a calibration.
    ///
    /// The values have any axes and in_features last; for a convolution they are images (batch, channels, …), of which the patches
    /// are added that the kernel meets.
    ///
    /// ```
    /// use taper::model::Calibration;
    /// use taper::ndarray::Array2;
    /// use taper::onnx::OnnxModel;
    ///
    /// let model = OnnxModel::open("tests/models/linear.onnx")?;
    /// let mut calibration = Calibration::new();
    /// let inputs = Array2::from_shape_fn((100, 32), |(n, i)| ((n * 7 + i * i) as f32).cos());
    /// model.add_inputs(&mut calibration, "fc.weight", inputs.view().into_dyn())?;
    /// assert_eq!(calibration.names().collect::<Vec<_>>(), ["fc.weight"]);
    /// # Ok::<(), taper::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTensor`]; [`Error::Unsupported`] for a weight without such a layer, a convolution of groups or of three axes
    /// of the image, a transposed one, and a padding longer than the image; the errors of
    /// [`Calibration::add`] and [`InputMoments::add_patches`].
    pub fn add_inputs(
        &self,
        calibration: &mut Calibration,
        name: &str,
        values: ArrayViewD<'_, f32>,
    ) -> Result<()> {
        let graphs = Graphs::of(self.graph());
        let weight = self.weight(name)?;
        let unsupported = |reason: &str| Error::Unsupported {
            what: format!("inputs for weight {name}"),
            reason: reason.to_owned(),
        };
        let (layer, _) = layer(&graphs, weight)
            .ok_or_else(|| unsupported("no layer of the outermost graph multiplies with it"))?;
        let seen = weight.seen();
        match (operator(layer).1, seen.len()) {
            ("MatMul" | "Gemm" | "LSTM" | "GRU" | "RNN", 2) => calibration.add(name, values),
            ("Conv", 3 | 4) if integer(layer, "group").unwrap_or(1) == 1 => {
                if values.ndim() != seen.len() {
                    return Err(Error::Dimensions {
                        what: "the images of a convolution",
                        expected: "as many axes as its kernel",
                        shape: values.shape().to_vec(),
                    });
                }
                let (images, kernel, geometry) = patches(layer, seen, values).ok_or_else(|| {
                    unsupported(
                        "the padding, stride or dilation is not one of an image of this size",
                    )
                })?;
                let mut moments = match calibration.moments(name)? {
                    Some(moments) => moments.into_owned(),
                    None => InputMoments::new(seen[1..].iter().product())?,
                };
                within(name, moments.add_patches(images.view(), kernel, geometry))?;
                calibration.insert(name, moments);
                Ok(())
            }
            _ => Err(unsupported(
                "moments are those of the rows of a matrix or of a convolution of one group with one or two axes",
            )),
        }
    }
}

/// The padded images of a convolution with two axes of the image, the size of its kernel, and its steps.
fn patches(
    layer: &Message,
    kernel: &[usize],
    values: ArrayViewD<'_, f32>,
) -> Option<(Array4<f32>, [usize; 2], Geometry)> {
    let axes = kernel.len() - 2;
    let list = |name: &str, otherwise: usize, count: usize| -> Option<Vec<usize>> {
        match integers(layer, name) {
            None => Some(vec![otherwise; count]),
            Some(values) if values.len() == count => values
                .into_iter()
                .map(|n| usize::try_from(n).ok())
                .collect(),
            Some(_) => None,
        }
    };
    let (strides, dilations) = (list("strides", 1, axes)?, list("dilations", 1, axes)?);
    let mut pads = list("pads", 0, 2 * axes)?;
    let automatic = attribute(layer, "auto_pad").map_or(&b""[..], |mode| mode.bytes(TEXT));
    for axis in 0..axes {
        let length = values.shape()[axis + 2];
        if automatic.starts_with(b"SAME") {
            // As many results as steps fit into the image.
            let steps = length.div_ceil(strides[axis].max(1)).saturating_sub(1);
            let reach = (kernel[axis + 2] - 1).checked_mul(dilations[axis])?;
            let reach = steps.checked_mul(strides[axis])?.checked_add(reach)?;
            let all = reach.saturating_add(1).saturating_sub(length);
            let less = all / 2;
            let upper = automatic == b"SAME_UPPER";
            pads[axis] = if upper { less } else { all - less };
            pads[axis + axes] = all - pads[axis];
        }
        if pads[axis] > length || pads[axis + axes] > length {
            return None;
        }
    }
    // One axis becomes the second one of two.
    let pair = |values: &[usize], otherwise: usize| match *values {
        [one] => [otherwise, one],
        _ => [values[0], values[1]],
    };
    let (begin, end) = (pair(&pads[..axes], 0), pair(&pads[axes..], 0));
    let [height, width] = pair(&values.shape()[2..], 1);
    let (batch, channels) = (values.shape()[0], values.shape()[1]);
    let mut images = Array4::zeros((
        batch,
        channels,
        begin[0] + height + end[0],
        begin[1] + width + end[1],
    ));
    let plain = values.as_standard_layout();
    let plain = plain.to_shape((batch, channels, height, width)).ok()?;
    let inside = s![
        ..,
        ..,
        begin[0]..begin[0] + height,
        begin[1]..begin[1] + width
    ];
    images.slice_mut(inside).assign(&plain);
    let geometry = Geometry {
        stride: pair(&strides, 1),
        padding: [0, 0],
        dilation: pair(&dilations, 1),
    };
    Some((images, pair(&kernel[2..], 1), geometry))
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
