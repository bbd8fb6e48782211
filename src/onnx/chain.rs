//! Layers whose weight is a product, as chains of smaller layers.

use std::any::Any;

use ndarray::Array2;

use super::builder::{Builder, Names};
use super::express::{self, Factor, Layout};
use super::schema::attribute::TEXT;
use super::schema::{
    Attribute, attribute, integer, integers, label, new_attribute, new_node, node, operator,
    remove_attribute,
};
use super::weights::Weight;
use super::wire::{Field, Message};
use crate::factorize::convolution::{CpConv2d, TuckerConv2d};
use crate::factorize::cp::CpTensor;
use crate::factorize::svd::SpatialConv2d;
use crate::model::extend::Artifact;
use crate::model::{FactoredTensor, Turned};
use crate::{DType, Precision, Result};

/// One convolution of a chain.
pub(super) struct Link {
    kernel: String,
    /// The lengths of the kernel along the axes of the image.
    size: Vec<usize>,
    /// Whether stride, padding and dilation of each axis belong to this link.
    own: Vec<bool>,
    groups: usize,
}

/// The layers in place of the ones that read a weight.
pub(super) enum Chain {
    /// The weights (in, r) and (r, out).
    Products([String; 2]),
    /// The weights of two `Gemm` nodes, the second one with its `transB`.
    Gemms([String; 2]),
    /// Convolutions.
    Kernels(Vec<Link>),
}

/// The chain for an artifact that all of these nodes read; `None` where the artifact is not a product, or not all nodes can be taken
/// apart in the same way.
pub(super) fn chain(
    out: &mut Builder<'_>,
    hint: &str,
    artifact: &dyn Artifact,
    weight: &Weight,
    readers: &[(&Message, usize)],
) -> Result<Option<Chain>> {
    let (shape, dtype) = (&weight.shape, weight.dtype);
    let Some((first, _)) = readers.first() else {
        return Ok(None);
    };
    let transposed = |node: &Message| integer(node, "transB").unwrap_or(0) != 0;
    let same = readers.iter().all(|&(node, input)| {
        let grouped = integer(node, "group").unwrap_or(1) != 1;
        input == 1
            && operator(node) == operator(first)
            && transposed(node) == transposed(first)
            && !grouped
    });
    // An artifact may have been given another shape.
    let seen = weight.seen();
    let matrix = [seen[0], seen[1..].iter().product()];
    let fits = artifact.shape() == seen || artifact.shape() == matrix;
    if !same || !fits || out.opset < express::BROADCASTING {
        return Ok(None);
    }
    let marks = (out.initializers.len(), out.nodes.len());
    let made = match (operator(first), shape.len()) {
        (("", "MatMul"), 2) => {
            matrices(out, hint, artifact, dtype, [true, true])?.map(Chain::Products)
        }
        (("", "Gemm"), 2) => {
            let orders = [true, !transposed(first)];
            matrices(out, hint, artifact, dtype, orders)?.map(Chain::Gemms)
        }
        (("", "Conv"), 3..) => kernels(out, hint, artifact, shape, dtype)?.map(Chain::Kernels),
        _ => None,
    };
    if made.is_none() {
        // A factor that cannot be expressed leaves nothing behind.
        out.initializers.truncate(marks.0);
        out.nodes.truncate(marks.1);
    }
    Ok(made)
}

/// The right and the left factor, each transposed or not.
fn matrices(
    out: &mut Builder<'_>,
    hint: &str,
    artifact: &dyn Artifact,
    dtype: DType,
    transposed: [bool; 2],
) -> Result<Option<[String; 2]>> {
    let Some((left, right)) = express::factors(artifact) else {
        return Ok(None);
    };
    let mut values = Vec::new();
    for (name, factor, transposed) in [
        ("right", right, transposed[0]),
        ("left", left, transposed[1]),
    ] {
        let shape = factor.shape();
        let layout = match transposed {
            true => Layout::transposed(shape, dtype),
            false => Layout::plain(&shape, dtype),
        };
        values.extend(factor.express(out, &format!("{hint}.{name}"), &layout)?);
    }
    Ok(<[String; 2]>::try_from(values).ok())
}

/// The layout of a factor (length, R) whose axes become the axes `first` and `second` of a kernel.
fn placed(
    [length, terms]: [usize; 2],
    [first, second]: [usize; 2],
    axes: usize,
    dtype: DType,
) -> Layout {
    let mut stored = vec![1; axes];
    stored[first] = length;
    stored[second] = terms;
    let rest = (0..axes).filter(|axis| ![first, second].contains(axis));
    Layout {
        shape: stored.clone(),
        turned: Some(Turned {
            stored,
            order: [first, second].into_iter().chain(rest).collect(),
            shape: vec![length, terms],
        }),
        dtype,
    }
}

fn kernels(
    out: &mut Builder<'_>,
    hint: &str,
    artifact: &dyn Artifact,
    shape: &[usize],
    dtype: DType,
) -> Result<Option<Vec<Link>>> {
    let any: &dyn Any = artifact;
    let axes = shape.len();
    let none = vec![false; axes - 2];
    let ones = vec![1; axes - 2];
    let link = |kernel, size: &[usize], own: &[bool], groups| Link {
        kernel,
        size: size.to_vec(),
        own: own.to_vec(),
        groups,
    };
    let half =
        |artifact: &dyn Artifact| artifact.parts().iter().all(|part| part.dtype == DType::F16);
    if let Some((left, right)) = express::factors(artifact) {
        let [rows, rank] = left.shape();
        let mut inner = vec![rank];
        inner.extend(&shape[1..]);
        let mut outer = vec![rows, rank];
        outer.extend(&ones);
        let inner = right.express(out, &format!("{hint}.right"), &Layout::plain(&inner, dtype))?;
        let outer = left.express(out, &format!("{hint}.left"), &Layout::plain(&outer, dtype))?;
        let (Some(inner), Some(outer)) = (inner, outer) else {
            return Ok(None);
        };
        let all = vec![true; axes - 2];
        return Ok(Some(vec![
            link(inner, &shape[2..], &all, 1),
            link(outer, &ones, &none, 1),
        ]));
    }
    if let Some(spatial) = any.downcast_ref::<SpatialConv2d<f32>>() {
        let half = spatial.matrix().precision() == Precision::F16;
        let apart = spatial.matrix().singular_values().is_some();
        let vertical = spatial.vertical();
        let vertical = express::link(
            out,
            &format!("{hint}.vertical"),
            &vertical,
            half && !apart,
            dtype,
        );
        let horizontal = spatial.horizontal();
        let horizontal =
            express::link(out, &format!("{hint}.horizontal"), &horizontal, half, dtype);
        return Ok(Some(vec![
            link(vertical, &[shape[2], 1], &[true, false], 1),
            link(horizontal, &[1, shape[3]], &[false, true], 1),
        ]));
    }
    if let Some(tucker) = any.downcast_ref::<TuckerConv2d<f32>>() {
        let half = half(artifact);
        let owns = [&none, &vec![true; 2], &none];
        let mut made = Vec::new();
        for ((name, values), own) in ["reduce", "core", "expand"]
            .iter()
            .zip(tucker.links())
            .zip(owns)
        {
            let size = values.shape()[2..].to_vec();
            let kernel = express::link(out, &format!("{hint}.{name}"), &values, half, dtype);
            made.push(link(kernel, &size, own, 1));
        }
        return Ok(Some(made));
    }
    if let Some(cp) = any.downcast_ref::<CpConv2d<f32>>() {
        let half = half(artifact);
        let links = cp.links();
        let last = links.len() - 1;
        let mut made = Vec::new();
        for (place, values) in links.iter().enumerate() {
            let own = match (place, last) {
                (0, _) => vec![false; 2],
                (place, last) if place == last => vec![false; 2],
                (_, 2) => vec![true; 2],
                (place, _) => vec![place == 1, place == 2],
            };
            let inside = place != 0 && place != last;
            let groups = if inside { cp.rank() } else { 1 };
            let kernel = express::link(out, &format!("{hint}.link{place}"), values, half, dtype);
            made.push(link(kernel, &values.shape()[2..], &own, groups));
        }
        return Ok(Some(made));
    }
    let Some(factors) = terms(artifact).filter(|factors| factors.len() == axes) else {
        return Ok(None);
    };
    let rank = factors[0].shape()[1];
    // (out, R, 1, …), (R, in, 1, …), and (R, 1, …, length, …) for each axis of the image.
    let places = |axis: usize| match axis {
        0 => [0, 1],
        1 => [1, 0],
        axis => [axis, 0],
    };
    let mut kernels = Vec::new();
    for (axis, factor) in factors.iter().enumerate() {
        let layout = placed(factor.shape(), places(axis), axes, dtype);
        kernels.extend(factor.express(out, &format!("{hint}.factor{axis}"), &layout)?);
    }
    if kernels.len() != axes {
        return Ok(None);
    }
    let mut kernels = kernels.into_iter();
    let mut next = || kernels.next().expect("there is one for each axis");
    let (expand, reduce) = (next(), next());
    let mut made = vec![link(reduce, &ones, &none, 1)];
    for axis in 0..axes - 2 {
        let (mut size, mut own) = (ones.clone(), none.clone());
        size[axis] = shape[axis + 2];
        own[axis] = true;
        made.push(link(next(), &size, &own, rank));
    }
    made.push(link(expand, &ones, &none, 1));
    Ok(Some(made))
}

/// The factors (length, R) of a sum of outer products, one for each axis.
fn terms(artifact: &dyn Artifact) -> Option<Vec<Factor<'_>>> {
    let any: &dyn Any = artifact;
    if let Some(tensor) = any.downcast_ref::<CpTensor<f32>>() {
        let half = tensor.precision() == Precision::F16;
        let factors = tensor.factors().iter().enumerate();
        let factor = |(axis, factor): (usize, &Array2<f32>)| match axis {
            // The first one takes the weights of the terms: the product is not a number of half precision.
            0 => Factor::Array(factor * tensor.weights(), false),
            _ => Factor::Array(factor.clone(), half),
        };
        return Some(factors.map(factor).collect());
    }
    any.downcast_ref::<FactoredTensor>()?;
    let children = artifact.children().into_iter();
    Some(children.map(|child| Factor::Artifact(child.1)).collect())
}

/// The nodes in place of `node`, which read a chain.
pub(super) fn nodes(names: &mut Names, node: &Message, chain: &Chain) -> Vec<Message> {
    let name = label(node).to_owned();
    let between = |names: &mut Names| names.free(&format!("{name}.between"));
    let inputs: Vec<&str> = node.texts(node::INPUT).collect();
    let with_inputs = |inputs: &[&str]| {
        let mut node = node.clone();
        node.remove(node::INPUT);
        let inputs = inputs.iter();
        let fields = inputs.map(|name| Field::of_bytes(node::INPUT, name.as_bytes()));
        node.fields.splice(0..0, fields);
        node
    };
    match chain {
        Chain::Products([right, left]) => {
            let inner = between(names);
            let first = new_node(("", "MatMul"), &[inputs[0], right], &[&inner], []);
            vec![first, with_inputs(&[&inner, left])]
        }
        Chain::Gemms([right, left]) => {
            let (mut made, mut x) = (Vec::new(), inputs[0].to_owned());
            if integer(node, "transA").unwrap_or(0) != 0 {
                let turned = between(names);
                let order = new_attribute("perm", Attribute::Integers(&[1, 0]));
                made.push(new_node(("", "Transpose"), &[&x], &[&turned], [order]));
                x = turned;
            }
            let inner = between(names);
            made.push(new_node(("", "MatMul"), &[&x, right], &[&inner], []));
            let mut inputs = inputs.clone();
            inputs[0] = &inner;
            inputs[1] = left;
            let mut last = with_inputs(&inputs);
            remove_attribute(&mut last, "transA");
            made.push(last);
            made
        }
        Chain::Kernels(links) => {
            let mut made = Vec::new();
            let mut x = inputs[0].to_owned();
            for (place, link) in links.iter().enumerate() {
                let mut attributes = link.attributes(node);
                if place + 1 < links.len() {
                    let next = between(names);
                    let inputs = [x.as_str(), &link.kernel];
                    made.push(new_node(("", "Conv"), &inputs, &[&next], attributes));
                    x = next;
                } else {
                    // The last one keeps the name, the outputs, the bias and what else the node has.
                    let mut inputs = inputs.clone();
                    inputs[0] = &x;
                    inputs[1] = &link.kernel;
                    let mut last = with_inputs(&inputs);
                    for name in GEOMETRY {
                        remove_attribute(&mut last, name);
                    }
                    let attributes = attributes.drain(..);
                    last.fields.extend(
                        attributes.map(|attribute| Field::of_message(node::ATTRIBUTE, attribute)),
                    );
                    made.push(last);
                }
            }
            made
        }
    }
}

/// The attributes of a convolution that each link has its own of.
const GEOMETRY: [&str; 6] = [
    "strides",
    "pads",
    "dilations",
    "kernel_shape",
    "group",
    "auto_pad",
];

impl Link {
    /// The attributes of this link of the convolution `node`.
    fn attributes(&self, node: &Message) -> Vec<Message> {
        let axes = self.size.len();
        let size: Vec<i64> = self.size.iter().map(|&n| n as i64).collect();
        let mut attributes = vec![
            new_attribute("kernel_shape", Attribute::Integers(&size)),
            new_attribute("group", Attribute::Integer(self.groups as i64)),
        ];
        // One value for each axis, written out since some runtimes take the defaults for two axes only; pads have the ends after the
        // beginnings.
        let automatic = attribute(node, "auto_pad").filter(|mode| mode.bytes(TEXT) != b"NOTSET");
        for (name, otherwise, count) in [
            ("strides", 1, axes),
            ("dilations", 1, axes),
            ("pads", 0, 2 * axes),
        ] {
            if name == "pads" && automatic.is_some() && self.own.contains(&true) {
                continue;
            }
            let mut values = integers(node, name).unwrap_or_else(|| vec![otherwise; count]);
            for (place, value) in values.iter_mut().enumerate() {
                if !self.own[place % axes] {
                    *value = otherwise;
                }
            }
            attributes.push(new_attribute(name, Attribute::Integers(&values)));
        }
        attributes.extend(automatic.filter(|_| self.own.contains(&true)).cloned());
        attributes
    }
}
