//! Matrices of few bits as `MatMulNBits` of the domain `com.microsoft`.
//!
//! The [operator](https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MatMulNBits) has
//! a weight (N, K) in blocks along K, each with a scale and a zero point.

use super::builder::{Builder, Names};
use super::express::nibbles;
use super::schema::{
    Attribute, float, integer, label, new_attribute, new_node, node, operator, output,
};
use super::tensor::{FLOAT, FLOAT16, UINT8};
use super::weights::Weight;
use super::wire::{Field, Message};
use crate::quantize::fixed_point::{FixedPointMatrix, Granularity, Symmetry};
use crate::{Compressed, DType, Precision};

pub(super) const DOMAIN: &str = "com.microsoft";

const BITS: i64 = 4;
/// The zero point of the operator where it is given none.
const CENTER: i32 = 8;
/// The values of a block that runtimes have. Longer blocks repeat the scale of a row less often. Rows are whole blocks, since
/// some runtimes take no others.
const BLOCKS: [usize; 5] = [256, 128, 64, 32, 16];

/// The inputs of the operator besides x.
pub(super) struct Packed {
    inputs: Vec<String>,
    shape: [usize; 2],
    block: usize,
}

/// Packs a matrix that all of these nodes multiply with; `None` where the operator does not have it.
pub(super) fn pack(
    out: &mut Builder<'_>,
    hint: &str,
    matrix: &FixedPointMatrix<f32>,
    weight: &Weight,
    nodes: &[(&Message, usize)],
) -> Option<Packed> {
    let multiplies = |&(node, input): &(&Message, usize)| {
        let plain = |name, value| float(node, name).unwrap_or(value) == value;
        input == 1
            && match operator(node) {
                ("", "MatMul") => true,
                ("", "Gemm") => {
                    integer(node, "transA").unwrap_or(0) == 0
                        && plain("alpha", 1.0)
                        && plain("beta", 1.0)
                }
                _ => false,
            }
    };
    let number = match weight.dtype {
        DType::F32 => FLOAT,
        DType::F16 => FLOAT16,
        _ => return None,
    };
    // An artifact may have been given another shape.
    let fits = weight.shape.len() == 2 && matrix.shape() == weight.seen();
    let transposed = |node: &Message| {
        operator(node) == ("", "Gemm") && integer(node, "transB").unwrap_or(0) != 0
    };
    let agree = nodes
        .iter()
        .all(|&(node, _)| transposed(node) == transposed(nodes[0].0));
    if matrix.bits() > BITS as u32 || !fits || !agree || !nodes.iter().all(multiplies) {
        return None;
    }
    let [rows, columns] = [matrix.shape()[0], matrix.shape()[1]];
    let scales = matrix.scales();
    let granularity = matrix.granularity();
    let mut whole = BLOCKS.into_iter();
    let block = match granularity {
        Granularity::Block(width) => Some(width).filter(|&width| columns.is_multiple_of(width))?,
        Granularity::PerTensor | Granularity::PerRow => {
            whole.find(|&block| columns.is_multiple_of(block))?
        }
    };
    let blocks = columns / block;
    // The place of the scale of a block of a row.
    let place = |row: usize, number: usize| match granularity {
        Granularity::PerTensor => 0,
        Granularity::PerRow => row,
        Granularity::Block(_) => row * blocks + number,
    };
    let mut repeated = Vec::new();
    for row in 0..rows {
        repeated.extend((0..blocks).map(|number| scales[place(row, number)]));
    }
    let precision = if number == FLOAT {
        Precision::F32
    } else {
        Precision::F16
    };
    for &scale in &scales {
        if precision.round("a scale", scale) != Ok(scale) {
            return None;
        }
    }
    let zeros = matrix.zero_points();
    let offset = match matrix.symmetry() {
        Symmetry::Symmetric | Symmetry::SignedScale => CENTER,
        Symmetry::Affine => 0,
    };
    let integers = matrix.integers();
    let codes: Vec<u8> = integers.iter().map(|&q| (q + offset) as u8).collect();
    let mut inputs = vec![
        out.tensor(
            &format!("{hint}.codes"),
            UINT8,
            &[rows, blocks, block / 2],
            nibbles(&codes),
        ),
        out.tensor(
            &format!("{hint}.scales"),
            number,
            &[rows * blocks],
            precision.encode(repeated),
        ),
    ];
    if !zeros.is_empty() {
        let length = blocks.div_ceil(2);
        let zero = |row, number: usize| zeros[place(row, number.min(blocks - 1))] as u8;
        let byte = |row, pair| zero(row, 2 * pair) | zero(row, 2 * pair + 1) << 4;
        let zeros: Vec<u8> = (0..rows)
            .flat_map(|row| (0..length).map(move |pair| (row, pair)))
            .map(|(row, pair)| byte(row, pair))
            .collect();
        inputs.push(out.tensor(&format!("{hint}.zeros"), UINT8, &[rows * length], zeros));
    }
    Some(Packed {
        inputs,
        shape: [rows, columns],
        block,
    })
}

/// The nodes in place of `node`.
pub(super) fn nodes(names: &mut Names, node: &Message, packed: &Packed) -> Vec<Message> {
    let texts: Vec<&str> = node.texts(node::INPUT).collect();
    let mut inputs = vec![texts[0]];
    inputs.extend(packed.inputs.iter().map(String::as_str));
    let [rows, columns] = packed.shape;
    let sizes = [
        ("K", columns as i64),
        ("N", rows as i64),
        ("bits", BITS),
        ("block_size", packed.block as i64),
    ];
    let attributes = sizes.map(|(name, value)| new_attribute(name, Attribute::Integer(value)));
    let operator = (DOMAIN, "MatMulNBits");
    let bias = texts.get(2).filter(|bias| !bias.is_empty());
    let named = |mut last: Message| {
        let name = node.text(node::NAME);
        if !name.is_empty() {
            last.set(Field::of_bytes(node::NAME, name.as_bytes()));
        }
        last
    };
    let Some(bias) = bias else {
        let all = new_node(operator, &inputs, &[output(node)], attributes);
        return vec![named(all)];
    };
    let product = names.free(&format!("{}.product", label(node)));
    let sum = new_node(("", "Add"), &[&product, bias], &[output(node)], []);
    let first = new_node(operator, &inputs, &[&product], attributes);
    vec![first, named(sum)]
}
