//! Artifacts in terms of standard operators: nodes whose output is the dense tensor.

use std::any::Any;

use ndarray::{Array, ArrayViewD, Dimension};

use super::builder::Builder;
use super::schema::Attribute;
use super::tensor::{FLOAT, FLOAT16, INT4, INT8, INT32, UINT4, UINT8, UINT16, number_of};
use crate::factorize::svd::LowRankMatrix;
use crate::model::extend::Artifact;
use crate::model::{Dense, FactoredMatrix, Turned};
use crate::packing::PackedCodes;
use crate::quantize::binary::BinaryMatrix;
use crate::quantize::fixed_point::{FixedPointMatrix, Granularity, Symmetry};
use crate::quantize::product::{PqMatrix, ResidualPqMatrix, SplitAxis};
use crate::{Compressed, DType, Precision, Result};

/// The version of the standard operators from which on `DequantizeLinear` has a scale for each row.
const ROW_SCALES: i64 = 13;
/// That from which on there are integers of four bits.
const FOUR_BITS: i64 = 21;
/// The bytes that the nodes for one digit of packed numbers take, about.
const DIGIT: usize = 512;
/// That from which on `Mul` and `Sub` broadcast and `Cast` takes the number of a type.
pub(super) const BROADCASTING: i64 = 7;

/// The shape of a tensor in the model, and the order of its axes.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) shape: Vec<usize>,
    pub(super) turned: Option<Turned>,
    pub(super) dtype: DType,
}

impl Layout {
    /// A tensor in taper's order.
    pub(super) fn plain(shape: &[usize], dtype: DType) -> Self {
        Self {
            shape: shape.to_vec(),
            turned: None,
            dtype,
        }
    }

    /// The transpose of a matrix of this shape.
    pub(super) fn transposed([rows, columns]: [usize; 2], dtype: DType) -> Self {
        Self {
            shape: vec![columns, rows],
            turned: Some(Turned {
                stored: vec![columns, rows],
                order: vec![1, 0],
                shape: vec![rows, columns],
            }),
            dtype,
        }
    }

    /// Elements of `size` bytes in taper's order, as the model has them.
    fn elements(&self, bytes: Vec<u8>, size: usize) -> Vec<u8> {
        match &self.turned {
            None => bytes,
            Some(turned) => turned.back(&bytes, size),
        }
    }

    /// The axis in the model along which `rows` scales lie, where there is one.
    fn axis(&self, rows: usize) -> Option<usize> {
        let order = match &self.turned {
            None => (0..self.shape.len()).collect(),
            Some(turned) if turned.stored == self.shape => turned.order.clone(),
            Some(_) => return None,
        };
        let mut longer = order.into_iter().skip_while(|&axis| self.shape[axis] == 1);
        match longer.next() {
            Some(axis) => Some(axis).filter(|&axis| self.shape[axis] == rows),
            None => Some(0).filter(|_| rows == 1),
        }
    }
}

/// Values q − z times a scale for each row, or one for all.
struct Scaled {
    /// The numbers q in taper's order.
    codes: Vec<i32>,
    /// The bits of a number.
    bits: u32,
    signed: bool,
    scales: Vec<f32>,
    zeros: Vec<u16>,
    rows: usize,
}

/// Adds the nodes that compute the dense tensor of an artifact; the name of their output is returned, and `None` where standard
/// operators cannot express the artifact.
pub(super) fn express(
    out: &mut Builder<'_>,
    hint: &str,
    artifact: &dyn Artifact,
    layout: &Layout,
) -> Result<Option<String>> {
    let any: &dyn Any = artifact;
    if out.opset < BROADCASTING {
        return Ok(None);
    }
    if let Some(dense) = any.downcast_ref::<Dense>() {
        let precision = dense.parts()[0].dtype == DType::F16;
        let value = floats(out, hint, dense.values(), precision, layout);
        return Ok(Some(value));
    }
    let scaled = any
        .downcast_ref()
        .and_then(fixed_point)
        .or_else(|| binary(any.downcast_ref()?));
    if let Some(scaled) = scaled {
        return Ok(Some(scaled_values(out, hint, &scaled, layout)));
    }
    let seen = artifact.shape();
    let value = if let Some((left, right)) = factors(artifact) {
        let left = factor(out, &format!("{hint}.left"), &left, false)?;
        let right = factor(out, &format!("{hint}.right"), &right, false)?;
        let (Some(left), Some(right)) = (left, right) else {
            return Ok(None);
        };
        out.node("MatMul", &format!("{hint}.product"), &[&left, &right], &[])
    } else if let Some(matrix) = any.downcast_ref::<PqMatrix<f32>>() {
        product(out, hint, matrix)
    } else if let Some(residual) = any.downcast_ref::<ResidualPqMatrix<f32>>() {
        let stages = residual.stages().iter();
        let mut stages = stages
            .map(|stage| product(out, hint, stage))
            .collect::<Vec<_>>()
            .into_iter();
        let first = stages.next().expect("there is at least one stage");
        stages.fold(first, |sum, stage| {
            out.node("Add", &format!("{hint}.sum"), &[&sum, &stage], &[])
        })
    } else {
        return Ok(None);
    };
    Ok(Some(arranged(out, hint, value, seen, layout)))
}

/// Puts a value of shape `seen` and single precision, in taper's order, into the layout of the model.
fn arranged(
    out: &mut Builder<'_>,
    hint: &str,
    mut value: String,
    seen: &[usize],
    layout: &Layout,
) -> String {
    let mut now = seen.to_vec();
    if let Some(turned) = &layout.turned {
        let axes: Vec<usize> = turned
            .order
            .iter()
            .map(|&axis| turned.stored[axis])
            .collect();
        if axes != now {
            value = out.reshape(hint, &value, &axes);
        }
        let order = turned.inverse();
        if !order.is_sorted() {
            value = out.transpose(hint, &value, &order);
        }
        now.clone_from(&turned.stored);
    }
    if now != layout.shape {
        value = out.reshape(hint, &value, &layout.shape);
    }
    typed(out, hint, value, layout)
}

/// Casts a value of single precision to the type of the model's tensor.
fn typed(out: &mut Builder<'_>, hint: &str, value: String, layout: &Layout) -> String {
    match layout.dtype {
        DType::F32 => value,
        other => out.cast(hint, &value, number_of(other)),
    }
}

/// Real numbers, stored in half precision where the artifact stores them so.
pub(super) fn floats(
    out: &mut Builder<'_>,
    hint: &str,
    values: ArrayViewD<'_, f32>,
    half: bool,
    layout: &Layout,
) -> String {
    let (precision, number, size) = match half {
        true => (Precision::F16, FLOAT16, 2),
        false => (Precision::F32, FLOAT, 4),
    };
    let bytes = precision.encode(values.iter().copied());
    let bytes = layout.elements(bytes, size);
    let stored = format!("{hint}.values");
    let value = out.tensor(&stored, number, &layout.shape, bytes);
    match (number, number_of(layout.dtype)) {
        (stored, wanted) if stored == wanted => value,
        (_, wanted) => out.cast(hint, &value, wanted),
    }
}

/// A factor of a product.
pub(super) enum Factor<'a> {
    Array(ndarray::Array2<f32>, bool),
    Artifact(&'a dyn Artifact),
}

/// The factors (out, r) and (r, in) of an artifact that is a product of two matrices.
pub(super) fn factors(artifact: &dyn Artifact) -> Option<(Factor<'_>, Factor<'_>)> {
    let any: &dyn Any = artifact;
    if let Some(matrix) = any.downcast_ref::<LowRankMatrix<f32>>() {
        let half = matrix.precision() == Precision::F16;
        let mut left = matrix.left().to_owned();
        // The product with singular values is not a number of half precision.
        let scaled = matrix.singular_values().map(|values| left *= &values);
        let left = Factor::Array(left, half && scaled.is_none());
        return Some((left, Factor::Array(matrix.right().to_owned(), half)));
    }
    any.downcast_ref::<FactoredMatrix>()?;
    let mut children = artifact.children().into_iter().map(|child| child.1);
    let left = children.next().expect("a product has two factors");
    let right = children.next().expect("a product has two factors");
    Some((Factor::Artifact(left), Factor::Artifact(right)))
}

impl Factor<'_> {
    pub(super) fn shape(&self) -> [usize; 2] {
        match self {
            Self::Array(array, _) => [array.nrows(), array.ncols()],
            Self::Artifact(artifact) => {
                let shape = artifact.shape();
                [shape[0], shape[1]]
            }
        }
    }

    /// The value of the factor in a layout of the model.
    pub(super) fn express(
        &self,
        out: &mut Builder<'_>,
        hint: &str,
        layout: &Layout,
    ) -> Result<Option<String>> {
        match self {
            Self::Array(array, half) => {
                let view = array.view().into_dyn();
                Ok(Some(floats(out, hint, view, *half, layout)))
            }
            Self::Artifact(artifact) => express(out, hint, *artifact, layout),
        }
    }
}

/// A factor in single precision, as it is or transposed.
pub(super) fn factor(
    out: &mut Builder<'_>,
    hint: &str,
    factor: &Factor<'_>,
    transposed: bool,
) -> Result<Option<String>> {
    let shape = factor.shape();
    let layout = match transposed {
        true => Layout::transposed(shape, DType::F32),
        false => Layout::plain(&shape, DType::F32),
    };
    factor.express(out, hint, &layout)
}

fn fixed_point(matrix: &FixedPointMatrix<f32>) -> Option<Scaled> {
    let [rows, columns] = [matrix.shape()[0], matrix.shape()[1]];
    let rows = match matrix.granularity() {
        Granularity::PerTensor | Granularity::PerRow => rows,
        // Blocks of one length are the rows of a matrix that is reshaped.
        Granularity::Block(width) if columns.is_multiple_of(width) => rows * (columns / width),
        Granularity::Block(_) => return None,
    };
    (matrix.bits() <= 8).then(|| Scaled {
        codes: matrix.integers().iter().copied().collect(),
        bits: matrix.bits(),
        signed: matrix.symmetry() != Symmetry::Affine,
        scales: matrix.scales(),
        zeros: matrix.zero_points(),
        rows,
    })
}

fn binary(matrix: &BinaryMatrix<f32>) -> Option<Scaled> {
    let dense = matrix.decompress().ok()?;
    let codes = dense
        .iter()
        .map(|x| if x.is_sign_negative() { -1 } else { 1 });
    let scales = match matrix.scaling() {
        None => vec![1.0],
        Some(_) => matrix.scales().to_vec(),
    };
    Some(Scaled {
        codes: codes.collect(),
        bits: 1,
        signed: true,
        scales,
        zeros: Vec::new(),
        rows: matrix.shape()[0],
    })
}

fn scaled_values(out: &mut Builder<'_>, hint: &str, scaled: &Scaled, layout: &Layout) -> String {
    let columns = scaled.codes.len() / scaled.rows;
    let axis = match scaled.scales.len() {
        1 => Some(0),
        _ => layout.axis(scaled.rows),
    };
    let Some(axis) = axis else {
        // The rows are no axis of the model: the matrix first, and then its layout.
        let shape = [scaled.rows, columns];
        let matrix = Layout::plain(&shape, DType::F32);
        let value = scaled_values(out, hint, scaled, &matrix);
        return arranged(out, hint, value, &shape, layout);
    };
    let per_row = scaled.scales.len() > 1;
    let four = scaled.bits <= 4 && out.opset >= FOUR_BITS;
    let few = matches!(scaled.bits, 1..=4) && !four;
    let version = if per_row { ROW_SCALES } else { 10 };
    let hint_codes = format!("{hint}.codes");
    let bytes: Vec<u8> = scaled.codes.iter().map(|&q| q as u8).collect();
    if out.opset >= version && !few {
        let bytes = layout.elements(bytes, 1);
        let (kind, bytes) = match (four, scaled.signed) {
            (true, true) => (INT4, nibbles(&bytes)),
            (true, false) => (UINT4, nibbles(&bytes)),
            (false, true) => (INT8, bytes),
            (false, false) => (UINT8, bytes),
        };
        let codes = out.tensor(&hint_codes, kind, &layout.shape, bytes);
        let shape: &[usize] = if per_row { &[scaled.rows] } else { &[] };
        let scales = float_list(out, &format!("{hint}.scales"), shape, &scaled.scales);
        let mut inputs = vec![codes.as_str(), &scales];
        let mut zeros: Vec<u8> = scaled.zeros.iter().map(|&zero| zero as u8).collect();
        if !per_row && zeros.is_empty() {
            // The default, which some runtimes do not have where there is one scale.
            zeros.push(0);
        }
        let zeros = match (zeros.is_empty(), four) {
            (true, _) => None,
            (false, true) => Some(nibbles(&zeros)),
            (false, false) => Some(zeros),
        };
        let zeros = zeros.map(|bytes| out.tensor(&format!("{hint}.zeros"), kind, shape, bytes));
        inputs.extend(zeros.as_deref());
        let axis = [("axis", Attribute::Integer(axis as i64))];
        let attributes = if per_row { &axis[..] } else { &[] };
        let value = out.node(
            "DequantizeLinear",
            &format!("{hint}.weight"),
            &inputs,
            attributes,
        );
        return typed(out, hint, value, layout);
    }
    // The same with operators of every version: unpack, subtract, multiply.
    let (offset, step) = match (scaled.signed, scaled.bits) {
        (false, _) => (0, 1),
        (true, 1) => (1, 2),
        (true, bits) => ((1 << (bits - 1)) - 1, 1),
    };
    let numbers = scaled.codes.iter().map(|&q| ((q + offset) / step) as u8);
    let numbers = layout.elements(numbers.collect(), 1);
    let numbers: Vec<u32> = numbers.into_iter().map(u32::from).collect();
    let value = unpacked(out, hint, &numbers, scaled.bits, &layout.shape, FLOAT);
    let mut shape = vec![1; layout.shape.len()];
    if per_row {
        shape[axis] = scaled.rows;
    }
    let shape = if per_row { &shape[..] } else { &[] };
    let (offset, step) = (offset as f32, step as f32);
    let zeros: Vec<f32> = match scaled.zeros.is_empty() {
        true => vec![offset / step; scaled.scales.len()],
        false => scaled.zeros.iter().map(|&zero| f32::from(zero)).collect(),
    };
    let scales: Vec<f32> = scaled.scales.iter().map(|scale| scale * step).collect();
    let zeros = float_list(out, &format!("{hint}.zeros"), shape, &zeros);
    let scales = float_list(out, &format!("{hint}.scales"), shape, &scales);
    let value = out.node("Sub", &format!("{hint}.centered"), &[&value, &zeros], &[]);
    let value = out.node("Mul", &format!("{hint}.weight"), &[&value, &scales], &[]);
    typed(out, hint, value, layout)
}

fn float_list(out: &mut Builder<'_>, hint: &str, shape: &[usize], values: &[f32]) -> String {
    let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    out.tensor(hint, FLOAT, shape, bytes)
}

/// The low four bits of each byte, two in one byte, the first one in the low half.
pub(super) fn nibbles(bytes: &[u8]) -> Vec<u8> {
    let codes: Vec<u32> = bytes.iter().map(|byte| u32::from(byte & 15)).collect();
    PackedCodes::pack(&codes, 4).bytes().to_vec()
}

/// Whole numbers of `bits` bits as a value of shape `shape` and type `to`.
///
/// Up to four bits several numbers lie in one byte, which operators of every version take apart: the last digit of a number p in the
/// base b is p − b ⌊p / b⌋. All of these are exact in single precision. Runtimes compute constants once, when they load a model.
fn unpacked(
    out: &mut Builder<'_>,
    hint: &str,
    numbers: &[u32],
    bits: u32,
    shape: &[usize],
    to: i64,
) -> String {
    let width = bits.next_power_of_two();
    let digits = 8 / width.min(8) as usize;
    let stored = format!("{hint}.codes");
    if width > 8 {
        let bytes = numbers.iter().flat_map(|&q| (q as u16).to_le_bytes());
        let value = out.tensor(&stored, UINT16, shape, bytes.collect());
        return out.cast(hint, &value, to);
    }
    let saved = numbers.len() - numbers.len() / digits;
    if digits == 1 || !numbers.len().is_multiple_of(digits) || saved < digits * DIGIT {
        let bytes = numbers.iter().map(|&q| q as u8).collect();
        let value = out.tensor(&stored, UINT8, shape, bytes);
        return out.cast(hint, &value, to);
    }
    let packed = PackedCodes::pack(numbers, width);
    let bytes = packed.bytes().to_vec();
    let count = numbers.len() / digits;
    let value = out.tensor(&stored, UINT8, &[count, 1], bytes);
    let mut rest = out.cast(hint, &value, FLOAT);
    let base = (1_u32 << width) as f32;
    let up = float_list(out, &format!("{hint}.base"), &[], &[base]);
    let down = float_list(out, &format!("{hint}.inverse"), &[], &[1.0 / base]);
    let mut columns = Vec::new();
    for _ in 1..digits {
        let shifted = out.node("Mul", &format!("{hint}.shifted"), &[&rest, &down], &[]);
        let next = out.node("Floor", &format!("{hint}.rest"), &[&shifted], &[]);
        let high = out.node("Mul", &format!("{hint}.high"), &[&next, &up], &[]);
        columns.push(out.node("Sub", &format!("{hint}.digit"), &[&rest, &high], &[]));
        rest = next;
    }
    columns.push(rest);
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    let axis = [("axis", Attribute::Integer(1))];
    let value = out.node("Concat", &format!("{hint}.digits"), &columns, &axis);
    let value = out.reshape(hint, &value, shape);
    match to {
        FLOAT => value,
        _ => out.cast(hint, &value, to),
    }
}

/// The dense matrix of product quantization: the codebooks, gathered by the codes.
fn product(out: &mut Builder<'_>, hint: &str, matrix: &PqMatrix<f32>) -> String {
    let books = matrix.codebooks();
    let values = books.values();
    let (count, centroids, width) = values.dim();
    let codes = matrix.codes();
    let (groups, points) = codes.dim();
    let numbers: Vec<u32> = codes.iter().copied().collect();
    let half = books.precision() == Precision::F16;
    let shape = [count * centroids, width];
    let layout = Layout::plain(&shape, DType::F32);
    let table = floats(
        out,
        &format!("{hint}.codebooks"),
        values.into_dyn(),
        half,
        &layout,
    );
    let bits = PackedCodes::bits_for(centroids);
    let mut indices = unpacked(out, hint, &numbers, bits, &[groups, points], INT32);
    if count > 1 {
        let starts = (0..groups).flat_map(|group| ((group * centroids) as i32).to_le_bytes());
        let starts = out.tensor(
            &format!("{hint}.starts"),
            INT32,
            &[groups, 1],
            starts.collect(),
        );
        indices = out.node("Add", &format!("{hint}.indices"), &[&indices, &starts], &[]);
    }
    let gathered = format!("{hint}.gathered");
    // (groups, points, width)
    let value = out.node("Gather", &gathered, &[&table, &indices], &[]);
    let (order, shape) = match books.axis() {
        SplitAxis::In => ([1, 0, 2], [points, groups * width]),
        SplitAxis::Out => ([0, 2, 1], [groups * width, points]),
    };
    let value = out.transpose(hint, &value, &order);
    out.reshape(hint, &value, &shape)
}

/// An array of any axes as a value of the model.
pub(super) fn link<D: Dimension>(
    out: &mut Builder<'_>,
    hint: &str,
    values: &Array<f32, D>,
    half: bool,
    dtype: DType,
) -> String {
    let layout = Layout::plain(values.shape(), dtype);
    floats(out, hint, values.view().into_dyn(), half, &layout)
}
