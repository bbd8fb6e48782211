//! What holds for every file: nothing is lost, and nothing wrong is read.

use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::graph;
use super::schema::{self, MODEL, graph as fields, node, tensor as tensor_fields, value_info};
use super::tensor::{self, FLOAT, FLOAT16};
use super::wire::{Field, Message};
use super::{Form, OnnxModel, restore};
use crate::model::{CompressOptions, CompressedModel, Recipe};
use crate::ndarray::ArrayD;
use crate::{DType, Error};

/// A value with a name, as an input or output.
fn value(number: u32, name: &str) -> Field {
    let text = Field::of_bytes(value_info::NAME, name.as_bytes());
    Field::of_message(number, Message { fields: vec![text] })
}

fn floats(name: &str, shape: &[usize]) -> Field {
    let count: usize = shape.iter().product();
    let values = (0..count).map(|i| (i as f32 * 0.7 + name.len() as f32).sin());
    let bytes = values.flat_map(f32::to_le_bytes).collect();
    let tensor = tensor::new(name, FLOAT, shape, bytes);
    Field::of_message(fields::INITIALIZER, tensor)
}

fn operation(operator: &str, inputs: &[&str], output: &str) -> Field {
    let node = schema::new_node(("", operator), inputs, &[output], []);
    Field::of_message(fields::NODE, node)
}

/// The bytes of a model of opset 17 with this graph.
fn model(graph: Vec<Field>) -> Vec<u8> {
    let opset = Message {
        fields: vec![Field::of_integer(schema::opset::VERSION, 17)],
    };
    let root = Message {
        fields: vec![
            Field::of_integer(schema::model::IR_VERSION, 8),
            Field::of_message(schema::model::GRAPH, Message { fields: graph }),
            Field::of_message(schema::model::OPSET_IMPORT, opset),
        ],
    };
    root.to_bytes().unwrap()
}

/// y = x W, with a weight (6, 4).
fn product() -> Vec<Field> {
    vec![
        operation("MatMul", &["x", "w"], "y"),
        floats("w", &[6, 4]),
        value(fields::INPUT, "x"),
        value(fields::OUTPUT, "y"),
    ]
}

fn linear() -> Vec<u8> {
    std::fs::read("tests/models/linear.onnx").unwrap()
}

fn compress(model: &OnnxModel, chain: &str) -> CompressedModel {
    let recipe = format!("[[rule]]\ntensors = \"*\"\nchain = [{chain}]");
    let recipe = Recipe::from_toml(&recipe).unwrap();
    let options = CompressOptions::default();
    recipe.compress(model.tensors(), &options).unwrap().0
}

fn problem(bytes: Vec<u8>) -> String {
    OnnxModel::from_bytes(bytes).unwrap_err().to_string()
}

#[test]
fn what_is_read_is_written_bit_for_bit() {
    let bytes = linear();
    let root = Message::read(&bytes.clone().into(), &MODEL).unwrap();
    assert_eq!(root.to_bytes().unwrap(), bytes);
    let model = OnnxModel::from_bytes(bytes.clone()).unwrap();
    let nothing = CompressedModel::new();
    for form in [Form::Portable, Form::NBits] {
        let (same, notes) = model.to_bytes(&nothing, form).unwrap();
        assert_eq!((same, notes), (bytes.clone(), Vec::new()));
    }
    let (small, _) = model.to_bytes(&nothing, Form::Smallest).unwrap();
    assert_eq!(restore(&small).unwrap(), bytes);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Unknown fields stay in their places: those of other numbers, fixed ones, and groups.
    #[test]
    fn unknown_fields_survive(numbers in proptest::collection::vec((100_u32..1000, 0_u8..4, any::<u64>()), 1..20)) {
        let mut bytes = Vec::new();
        let varint = |mut value: u64, out: &mut Vec<u8>| {
            while value > 127 {
                out.push(value as u8 | 128);
                value >>= 7;
            }
            out.push(value as u8);
        };
        for (number, kind, value) in numbers {
            let wire = [0, 1, 3, 5][kind as usize];
            varint(u64::from(number) << 3 | wire, &mut bytes);
            match wire {
                0 => varint(value, &mut bytes),
                1 => bytes.extend(value.to_le_bytes()),
                5 => bytes.extend((value as u32).to_le_bytes()),
                _ => {
                    varint(8, &mut bytes);
                    varint(value, &mut bytes);
                    varint(u64::from(number) << 3 | 4, &mut bytes);
                }
            }
        }
        let mut file = model(product());
        file.extend(bytes);
        let model = OnnxModel::from_bytes(file.clone()).unwrap();
        let (same, _) = model.to_bytes(&CompressedModel::new(), Form::Portable).unwrap();
        prop_assert_eq!(&same, &file);
        let (small, _) = model.to_bytes(&compress(&model, "{ dense = \"f16\" }"), Form::Smallest).unwrap();
        let restored = restore(&small).unwrap();
        let tail = restored.len() - (file.len() - self::model(product()).len());
        prop_assert_eq!(&restored[tail..], &file[file.len() - (restored.len() - tail)..]);
    }

    /// A file that was cut or changed gives an error or another model, and never a panic.
    #[test]
    fn changed_files_do_not_panic(cut in 0_usize..8628, at in 0_usize..8628, byte in any::<u8>()) {
        let mut bytes = linear();
        bytes.truncate(cut);
        if let Some(place) = bytes.get_mut(at) {
            *place = byte;
        }
        let _ = restore(&bytes);
        if let Ok(model) = OnnxModel::from_bytes(bytes) {
            let small = compress(&model, "{ fixed_point = { bits = 4, granularity = \"per_row\" } }");
            for form in [Form::Portable, Form::NBits, Form::Smallest] {
                let _ = model.to_bytes(&small, form);
            }
        }
    }
}

#[test]
fn forged_messages_are_errors_with_their_values() {
    assert!(problem(vec![0x3a, 0xff, 0x01]).contains("255 bytes, but only 0 are left"));
    assert!(problem(vec![0x08; 1]).contains("cut off"));
    assert!(problem(vec![0xff; 11]).contains("more than 64 bits"));
    assert!(problem(vec![0x00, 0x00]).contains("the number 0"));
    assert!(problem(Vec::new()).contains("0 graphs"));
    assert!(problem([&linear()[..], &[0x3a, 0x00]].concat()).contains("2 graphs"));
    // A text that is not UTF-8, as the name of a node.
    let mut node = Message::default();
    node.fields.push(Field::of_bytes(node::NAME, &[0xff]));
    assert!(problem(model(vec![Field::of_message(fields::NODE, node)])).contains("UTF-8"));
}

#[test]
fn messages_inside_each_other_are_limited() {
    let mut graph = Vec::new();
    for _ in 0..60 {
        let inner = Message { fields: graph };
        let attribute = Message {
            fields: vec![Field::of_message(schema::attribute::GRAPH, inner)],
        };
        let node = Message {
            fields: vec![Field::of_message(node::ATTRIBUTE, attribute)],
        };
        graph = vec![Field::of_message(fields::NODE, node)];
    }
    assert!(problem(model(graph)).contains("more than 100 messages"));
    // Groups too.
    let groups = [0xa3, 0x06].repeat(200);
    assert!(problem(groups).contains("more than 100 messages"));
}

/// The length of an axis above 127 is no text, and stands where a description has its name.
#[test]
fn long_axes_are_no_names() {
    let mut graph = product();
    graph[1] = floats("w", &[200, 3]);
    graph.push(floats("unused", &[255, 2]));
    let model = OnnxModel::from_bytes(model(graph)).unwrap();
    for chain in [
        "{ fixed_point = { bits = 8 } }",
        "{ svd = { rank = { fixed = 1 } } }",
    ] {
        for form in [Form::Portable, Form::NBits, Form::Smallest] {
            model.to_bytes(&compress(&model, chain), form).unwrap();
        }
    }
}

#[test]
fn nodes_in_a_circle_end() {
    let circle = vec![
        operation("Identity", &["w"], "a"),
        operation("Identity", &["a"], "b"),
        operation("Identity", &["b"], "a"),
        floats("w", &[6, 4]),
    ];
    let circle = OnnxModel::from_bytes(model(circle)).unwrap();
    let small = compress(&circle, "{ dense = \"f16\" }");
    assert!(circle.to_bytes(&small, Form::Portable).is_ok());
}

#[test]
fn weights_come_in_the_layout_of_taper() {
    let graph = |operator, attributes: Vec<Message>, shape: &[usize]| {
        let node = schema::new_node(("", operator), &["x", "w"], &["y"], attributes);
        let graph = vec![Field::of_message(fields::NODE, node), floats("w", shape)];
        let model = OnnxModel::from_bytes(model(graph)).unwrap();
        model.tensors().get("w").unwrap()
    };
    let number = |name, value| schema::new_attribute(name, schema::Attribute::Integer(value));
    let plain = |shape: &[usize]| {
        let count: usize = shape.iter().product();
        let values = (0..count).map(|i| (i as f32 * 0.7 + 1.0).sin()).collect();
        ArrayD::from_shape_vec(shape.to_vec(), values).unwrap()
    };
    let turned = plain(&[6, 4]).reversed_axes();
    assert_eq!(graph("MatMul", vec![], &[6, 4]), turned);
    assert_eq!(graph("Gemm", vec![], &[6, 4]), turned);
    assert_eq!(
        graph("Gemm", vec![number("transB", 1)], &[6, 4]),
        plain(&[6, 4])
    );
    let kernel = [6, 4, 3, 2];
    assert_eq!(graph("Conv", vec![], &kernel), plain(&kernel));
    let turned = plain(&kernel).permuted_axes(vec![1, 0, 2, 3]);
    assert_eq!(graph("ConvTranspose", vec![], &kernel), turned);
    let grouped = graph("ConvTranspose", vec![number("group", 2)], &kernel);
    assert_eq!(grouped.shape(), [8, 3, 3, 2]);
    // Output 5 is output 1 of the second group, input 2 is the last one of the group.
    assert_eq!(grouped[[5, 2, 1, 1]], plain(&kernel)[[5, 1, 1, 1]]);
    assert_eq!(graph("LSTM", vec![], &[2, 8, 3]).shape(), [16, 3]);
}

#[test]
fn what_is_not_understood_is_named_and_kept_bit_for_bit() {
    let foreign = schema::new_node(("org.example", "Magic"), &["y", "m"], &["z"], []);
    let mut graph = product();
    graph.push(Field::of_message(fields::NODE, foreign));
    graph.extend([floats("m", &[3, 3]), floats("given", &[2, 2])]);
    graph.push(value(fields::OUTPUT, "given"));
    graph.push(value(fields::INPUT, "default"));
    graph.push(floats("default", &[5]));
    let bytes = model(graph);
    let model = OnnxModel::from_bytes(bytes).unwrap();
    assert_eq!(model.tensors().names().collect::<Vec<_>>(), ["w"]);
    let notes = model.notes().join("\n");
    for text in [
        "m: kept",
        "org.example.Magic",
        "given: kept",
        "default: kept",
    ] {
        assert!(notes.contains(text), "{notes}");
    }
    let small = compress(&model, "{ fixed_point = { bits = 8 } }");
    let (bytes, _) = model.to_bytes(&small, Form::Portable).unwrap();
    let again = Message::read(&bytes.into(), &MODEL).unwrap();
    let graph = super::weights::main(&again);
    for name in ["m", "given", "default"] {
        let mut tensors = graph.messages(fields::INITIALIZER);
        let kept = tensors.find(|tensor| tensor.text(tensor_fields::NAME) == name);
        assert!(kept.is_some_and(|tensor| tensor.last(tensor_fields::RAW_DATA).is_some()));
    }
    assert!(
        graph::nodes(graph).any(|(_, node)| schema::operator(node) == ("org.example", "Magic"))
    );
}

/// The values of typed fields, of `Constant` nodes and of other files are those of raw data.
#[test]
fn elements_are_found_wherever_they_stand() {
    let halves: Vec<half::f16> = (0..6_u8)
        .map(|i| half::f16::from_f32(f32::from(i) / 8.0))
        .collect();
    let dims = [2, 3].map(|n| Field::of_integer(tensor_fields::DIMS, n));
    let mut typed = Message {
        fields: dims.to_vec(),
    };
    typed
        .fields
        .push(Field::of_integer(tensor_fields::DATA_TYPE, FLOAT16));
    typed
        .fields
        .push(Field::of_bytes(tensor_fields::NAME, b"w"));
    for half in &halves {
        let bits = i64::from(half.to_bits());
        typed
            .fields
            .push(Field::of_integer(tensor_fields::INT32_DATA, bits));
    }
    let graph = vec![
        operation("MatMul", &["w", "x"], "y"),
        Field::of_message(fields::INITIALIZER, typed),
    ];
    let model = OnnxModel::from_bytes(model(graph)).unwrap();
    let tensor = model.tensors().data("w").unwrap();
    assert_eq!(tensor.dtype, DType::F16);
    assert_eq!(tensor.to_f32().unwrap()[[1, 2]], 5.0 / 8.0);
}

fn with_file(location: &str, offset: &str, length: &str) -> Vec<u8> {
    let mut tensor = tensor::new("w", FLOAT, &[6, 4], Vec::new());
    tensor.remove(tensor_fields::RAW_DATA);
    tensor.fields.push(Field::of_integer(
        tensor_fields::DATA_LOCATION,
        tensor_fields::IS_EXTERNAL,
    ));
    for (key, value) in [
        ("location", location),
        ("offset", offset),
        ("length", length),
    ] {
        let fields = vec![
            Field::of_bytes(schema::entry::KEY, key.as_bytes()),
            Field::of_bytes(schema::entry::VALUE, value.as_bytes()),
        ];
        let entry = Field::of_message(tensor_fields::EXTERNAL_DATA, Message { fields });
        tensor.fields.push(entry);
    }
    let mut graph = product();
    graph[1] = Field::of_message(fields::INITIALIZER, tensor);
    model(graph)
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("taper-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn open(&self, bytes: &[u8]) -> crate::Result<OnnxModel> {
        let path = self.0.join("model.onnx");
        std::fs::write(&path, bytes).unwrap();
        OnnxModel::open(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

#[test]
fn tensors_lie_in_files_of_the_folder_and_in_no_others() {
    let folder = Folder::new("onnx-external");
    let values: Vec<u8> = (0..30_u8)
        .flat_map(|i| f32::from(i).to_le_bytes())
        .collect();
    std::fs::create_dir_all(folder.0.join("data")).unwrap();
    std::fs::write(folder.0.join("data/weights.bin"), &values).unwrap();
    let model = folder
        .open(&with_file("data/weights.bin", "8", "96"))
        .unwrap();
    // Axis 0 of the file is the input.
    assert_eq!(model.tensors().get("w").unwrap()[[3, 1]], 9.0);
    // What is written holds its tensors itself.
    let (bytes, _) = model
        .to_bytes(&CompressedModel::new(), Form::Portable)
        .unwrap();
    let again = OnnxModel::from_bytes(bytes).unwrap();
    assert_eq!(again.tensors().get("w"), model.tensors().get("w"));

    for (location, offset, length) in [
        ("../weights.bin", "0", "96"),
        ("/etc/passwd", "0", "96"),
        ("", "0", "96"),
        ("data/weights.bin", "100", "96"),
        ("data/weights.bin", "-1", "96"),
        ("data/weights.bin", "0", "95"),
        ("data/weights.bin", "18446744073709551615", "96"),
    ] {
        let error = folder
            .open(&with_file(location, offset, length))
            .unwrap_err();
        assert!(
            matches!(error, Error::Malformed { .. }),
            "{location}: {error}"
        );
    }
    let missing = folder.open(&with_file("none", "0", "96")).unwrap_err();
    assert!(matches!(missing, Error::File { .. }));
    let alone = OnnxModel::from_bytes(with_file("data/weights.bin", "0", "96"));
    assert!(matches!(alone, Err(Error::Unsupported { .. })));
}

#[cfg(unix)]
#[test]
fn a_link_out_of_the_folder_is_refused() {
    let (folder, other) = (Folder::new("onnx-link"), Folder::new("onnx-linked"));
    let secret = other.0.join("secret");
    std::fs::write(&secret, [0; 96]).unwrap();
    std::os::unix::fs::symlink(&secret, folder.0.join("link")).unwrap();
    let error = folder.open(&with_file("link", "0", "96")).unwrap_err();
    assert!(
        error.to_string().contains("not a file in the folder"),
        "{error}"
    );
}

#[test]
fn weights_of_other_shapes_and_names_are_errors() {
    let model = OnnxModel::open(Path::new("tests/models/linear.onnx")).unwrap();
    let mut small = CompressedModel::new();
    let zeros = ArrayD::<f32>::zeros(vec![32, 64]);
    let data = crate::model::TensorData::from(zeros.view()).into_owned();
    small.insert_plain("fc.weight", data.clone()).unwrap();
    let wrong = model.to_bytes(&small, Form::Portable);
    assert!(matches!(wrong, Err(Error::InTensor { name, .. }) if name == "fc.weight"));
    let mut other = CompressedModel::new();
    other.insert_plain("nothing", data).unwrap();
    let unknown = model.to_bytes(&other, Form::Smallest);
    assert!(matches!(unknown, Err(Error::UnknownTensor { name }) if name == "nothing"));
}

#[test]
fn a_smallest_file_is_restored_and_not_opened() {
    let model = OnnxModel::from_bytes(linear()).unwrap();
    let small = compress(&model, "{ trellis = { step = 0.01 } }");
    let (bytes, _) = model.to_bytes(&small, Form::Smallest).unwrap();
    assert!(problem(bytes.clone()).contains("restore"));
    let plain = OnnxModel::from_bytes(restore(&bytes).unwrap()).unwrap();
    for (name, entry) in small.iter() {
        assert_eq!(plain.tensors().get(name), entry.decompress(), "{name}");
    }
    assert!(restore(&linear()).is_err());
    assert!(restore(&bytes[..bytes.len() - 1]).is_err());
}
