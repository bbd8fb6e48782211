//! One function per target. A target must not panic, and every artifact that it accepts must be sound.

use taper::model::extend::{Artifact, Registry, Stored};
use taper::model::{CompressedModel, Recipe};
use taper::ndarray::{Array2, ArrayD, ArrayViewD, Axis, Slice};
use taper::{Compressed, Error, Float};

use crate::draw::Draw;
use crate::kinds::kinds;
use crate::stored::stored;

/// Larger tensors are not decompressed: a few bytes can describe very many zeros.
const LARGEST: usize = 1 << 18;

fn size(shape: &[usize]) -> Option<usize> {
    let size = shape.iter().try_fold(1_usize, |n, &m| n.checked_mul(m));
    size.filter(|&size| size <= LARGEST)
}

/// Checks that the size of an artifact is the length of its bytes.
fn sizes_are_bytes<F: Float>(artifact: &(impl Compressed<F> + ?Sized)) {
    let bytes: usize = artifact.parts().iter().map(|part| part.bytes.len()).sum();
    assert_eq!(artifact.storage().bytes(), bytes as u64);
}

/// Checks that an accepted artifact decompresses, multiplies, and reads back as it was written.
fn sound(artifact: &dyn Artifact) {
    sizes_are_bytes(artifact);
    if size(artifact.shape()).is_none() {
        return;
    }
    let dense = match artifact.decompress() {
        // Only these artifacts may decompress to values that overflow.
        Err(Error::Overflow { .. }) if artifact.kind().starts_with("factored") => return,
        dense => dense.expect("an artifact decompresses"),
    };
    assert_eq!(dense.shape(), artifact.shape());
    assert!(
        dense.iter().all(|x| x.is_finite()),
        "{}: {dense}",
        artifact.kind()
    );
    if let Some(linear) = artifact.as_linear() {
        let x = Array2::ones((2, artifact.shape()[1]));
        let y = linear.apply(x.view()).expect("a matrix multiplies");
        assert_eq!(y.dim(), (2, artifact.shape()[0]));
    }
    let registry = Registry::default();
    let again = registry.restore(artifact.kind(), stored(artifact, &registry));
    let again = again.expect("what an artifact writes is read");
    assert_eq!(again.parts(), artifact.parts());
}

/// Bytes of a file: what can be read is sound, and can be written and read again.
pub fn container(data: &[u8]) {
    let Ok(model) = CompressedModel::from_bytes(data) else {
        return;
    };
    for (_, entry) in model.iter() {
        match entry {
            taper::model::Entry::Compressed(tensor) => sound(tensor.artifact()),
            _ => {
                let _ = size(entry.shape()).map(|_| entry.decompress());
            }
        }
    }
    let bytes = model.to_bytes().expect("what was read can be written");
    let again = CompressedModel::from_bytes(&bytes).expect("what was written can be read");
    assert_eq!(again.to_bytes().as_ref(), Ok(&bytes));
}

/// Stored parts of an artifact with changes: the registry returns an error or a sound artifact.
pub fn artifact(data: &[u8]) {
    let mut draw = Draw::Bytes(data);
    let kinds = kinds();
    let kind = &kinds[draw.within(0, kinds.len() - 1)];
    let mut choices = Draw::from(draw.within(0, 63) as u64);
    let shape: Vec<usize> = match kind.axes {
        2 => vec![4, 6],
        axes => [3, 2, 4, 2][..axes].to_vec(),
    };
    let weights = ArrayD::from_shape_simple_fn(shape, || choices.number());
    let artifact = (kind.single)(weights.view(), &mut choices).expect("sensible choices");
    let registry = Registry::default();
    let mut stored = stored(&*artifact, &registry);
    while !draw.is_empty() {
        change(&mut stored, &mut draw);
    }
    if let Ok(artifact) = registry.restore(artifact.kind(), stored) {
        sound(&*artifact);
    }
}

fn change(stored: &mut Stored, draw: &mut Draw<'_>) {
    let part = draw.within(0, stored.parts.len().max(1) - 1);
    let name = stored.parts.keys().nth(part).cloned();
    let part = stored.parts.values_mut().nth(part);
    let kind = draw.within(0, 7);
    match (kind, part) {
        (0, Some(part)) if !part.bytes.is_empty() => {
            let at = draw.within(0, part.bytes.len() - 1);
            part.bytes[at] = draw.within(0, 255) as u8;
        }
        (1, Some(part)) => {
            let length = draw.between(0, part.bytes.len()).min(1 << 16);
            part.bytes.resize(length, 0);
        }
        (2, Some(part)) if !part.shape.is_empty() => {
            let at = draw.within(0, part.shape.len() - 1);
            part.shape[at] = draw.between(0, 8);
        }
        (3, Some(part)) => {
            use taper::DType::{F16, F32, F64, I32, U8, U16, U32};
            part.dtype = draw.choose(&[F16, F32, F64, I32, U8, U16, U32]);
        }
        (4, _) if !stored.shape.is_empty() => {
            let at = draw.within(0, stored.shape.len() - 1);
            stored.shape[at] = draw.between(0, 8);
        }
        (5, _) => {
            const NAMES: [&str; 9] = [
                "axis",
                "bits",
                "scaling",
                "symmetry",
                "stride",
                "padding",
                "dilation",
                "bias",
                "precision",
            ];
            const VALUES: [&str; 10] = [
                "in",
                "out",
                "row",
                "tensor",
                "0",
                "1",
                "17",
                "affine",
                "1x2",
                "18446744073709551615",
            ];
            let attributes = std::mem::take(&mut stored.attributes);
            stored.attributes = attributes.with(draw.choose(&NAMES), draw.choose(&VALUES));
        }
        (6, Some(_)) => {
            stored.parts.remove(&name.unwrap_or_default());
        }
        (7, _) if !stored.children.is_empty() => {
            let at = draw.within(0, stored.children.len() - 1);
            let to = draw.within(0, stored.children.len() - 1);
            stored.children.swap(at, to);
            if draw.flag() {
                stored.children.pop();
            }
        }
        _ => {}
    }
}

/// A recipe in TOML or JSON: a recipe that can be read is equal after writing and reading.
pub fn recipe(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    for recipe in [Recipe::from_toml(text), Recipe::from_json(text)]
        .into_iter()
        .flatten()
    {
        let json = recipe.to_json().expect("what was read can be written");
        assert_eq!(Recipe::from_json(&json).as_ref(), Ok(&recipe));
        // TOML has no integers above 2⁶³ − 1.
        if let Ok(toml) = recipe.to_toml() {
            assert_eq!(Recipe::from_toml(&toml).as_ref(), Ok(&recipe));
        }
    }
}

/// A small array with any values and strides, compressed with any parameters: an error or a sound artifact.
pub fn compress(data: &[u8]) {
    let mut draw = Draw::Bytes(data);
    let kinds = kinds();
    let kind = &kinds[draw.within(0, kinds.len() - 1)];
    let most = if kind.axes == 2 { 9 } else { 4 };
    let shape: Vec<usize> = (0..kind.axes).map(|_| draw.within(0, most)).collect();
    let layout = draw.within(0, 15);
    let mut parameters = draw.clone();
    if let Draw::Bytes(bytes) = &mut parameters {
        let (first, rest) = bytes.split_at(bytes.len().min(40));
        *bytes = first;
        draw = Draw::Bytes(rest);
    }
    match kind.double.filter(|_| layout >= 8) {
        None => {
            let mut numbers = || draw.wild_number();
            with_layout(layout % 8, &shape, &mut numbers, |weights| {
                if let Ok(artifact) = (kind.single)(weights.view(), &mut parameters) {
                    assert_eq!(artifact.shape(), weights.shape());
                    sound(&*artifact);
                }
            });
        }
        Some(make) => {
            let mut numbers = || draw.wild_double();
            with_layout(layout % 8, &shape, &mut numbers, |weights| {
                if let Ok(artifact) = make(weights.view(), &mut parameters) {
                    assert_eq!(artifact.shape(), weights.shape());
                    sizes_are_bytes(&*artifact);
                    let dense = artifact.decompress().expect("an artifact decompresses");
                    assert!(
                        dense.iter().all(|x| x.is_finite()),
                        "{}: {dense}",
                        kind.name
                    );
                }
            });
        }
    }
}

/// Calls `work` with an array of one of several memory layouts.
fn with_layout<F: Float>(
    layout: usize,
    shape: &[usize],
    number: &mut dyn FnMut() -> F,
    work: impl FnOnce(ArrayViewD<'_, F>),
) {
    let mut numbers = |shape: &[usize]| ArrayD::from_shape_simple_fn(shape, &mut *number);
    let first = Axis(0);
    match layout {
        0 => {
            let reversed: Vec<usize> = shape.iter().rev().copied().collect();
            work(numbers(&reversed).t());
        }
        1 => {
            let mut array = numbers(shape);
            array.invert_axis(first);
            work(array.view());
        }
        2 => {
            let mut larger = shape.to_vec();
            larger[0] = larger[0] * 3 + 1;
            let mut array = numbers(&larger);
            array.slice_axis_inplace(first, Slice::new(1, None, 3));
            work(array.view());
        }
        3 => {
            // All rows are views of one row.
            let row = numbers(&shape[1..]);
            if let Some(view) = row.broadcast(shape) {
                work(view);
            }
        }
        4 => {
            let value = numbers(&[]);
            if let Some(view) = value.broadcast(shape) {
                work(view);
            }
        }
        5 => {
            // Two rows alternate.
            let mut array = numbers(shape);
            for i in 2..shape[0] {
                let row = array.index_axis(first, i % 2).to_owned();
                array.index_axis_mut(first, i).assign(&row);
            }
            work(array.view());
        }
        _ => work(numbers(shape).view()),
    }
}
