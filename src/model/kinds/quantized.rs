//! Quantized matrices.

use ndarray::Ix3;

use crate::model::extend::{
    Artifact, Attributes, CodeLayout, CodeMeaning, Stored, downcast, malformed,
};
use crate::quantize::binary::BinaryMatrix;
use crate::quantize::fixed_point::{FixedPointMatrix, Granularity, Symmetry};
use crate::quantize::product::{OptimizedPqMatrix, PqMatrix, ResidualPqMatrix, SplitAxis};
use crate::quantize::trellis::TrellisMatrix;
use crate::{Compressed, LinearOp, Precision, Result};

pub(super) const BINARY: &str = "binary";
pub(super) const FIXED_POINT: &str = "fixed_point";
pub(super) const OPTIMIZED_PQ: &str = "optimized_pq";
pub(super) const PQ: &str = "pq";
pub(super) const RESIDUAL_PQ: &str = "residual_pq";
pub(super) const TRELLIS: &str = "trellis";

/// The text of `value` in a list of choices.
fn name<T: PartialEq>(choices: &[(&'static str, T)], value: &T) -> &'static str {
    choices
        .iter()
        .find(|choice| choice.1 == *value)
        .map_or("", |choice| choice.0)
}

/// The layout of `part` if it is the one called `codes`: a code of `bits` bits for every `width` weights.
fn layout(
    part: &str,
    codes: &str,
    bits: u32,
    artifact: &dyn Artifact,
    [width, runs]: [usize; 2],
) -> Option<CodeLayout> {
    (part == codes).then(|| CodeLayout {
        bits,
        count: artifact.shape().iter().product::<usize>() / width.max(1),
        runs,
        meaning: CodeMeaning::Labels,
    })
}

const SCALINGS: [(&str, Option<Granularity>); 3] = [
    ("none", None),
    ("tensor", Some(Granularity::PerTensor)),
    ("row", Some(Granularity::PerRow)),
];

impl Artifact for BinaryMatrix<f32> {
    fn kind(&self) -> &'static str {
        BINARY
    }

    fn attributes(&self) -> Result<Attributes> {
        Ok(Attributes::default().with("scaling", name(&SCALINGS, &self.scaling())))
    }

    fn code_layout(&self, part: &str) -> Option<CodeLayout> {
        layout(part, "signs", 1, self, [1, 1])
    }

    fn as_linear(&self) -> Option<&dyn LinearOp<f32>> {
        Some(self)
    }

    fn restore(mut stored: Stored) -> Result<Self> {
        let shape = stored.axes()?;
        let scaling = stored.attributes.choice("scaling", &SCALINGS)?;
        let signs = stored.bytes("signs")?;
        let (scales, precision) = match scaling {
            None => (Vec::new(), Precision::default()),
            Some(_) => {
                let (scales, precision) = stored.vector("scales")?;
                (scales.to_vec(), precision)
            }
        };
        stored.finish()?;
        Self::from_parts(shape, &signs, scaling, precision, scales)
    }
}

const SYMMETRIES: [(&str, Symmetry); 3] = [
    ("symmetric", Symmetry::Symmetric),
    ("affine", Symmetry::Affine),
    ("signed", Symmetry::SignedScale),
];
const GRANULARITIES: [(&str, Granularity); 6] = [
    ("tensor", Granularity::PerTensor),
    ("row", Granularity::PerRow),
    ("16", Granularity::Block(16)),
    ("32", Granularity::Block(32)),
    ("64", Granularity::Block(64)),
    ("128", Granularity::Block(128)),
];

impl Artifact for FixedPointMatrix<f32> {
    fn kind(&self) -> &'static str {
        FIXED_POINT
    }

    fn attributes(&self) -> Result<Attributes> {
        Ok(Attributes::default()
            .with("bits", self.bits())
            .with("symmetry", name(&SYMMETRIES, &self.symmetry()))
            .with("scaling", name(&GRANULARITIES, &self.granularity())))
    }

    fn code_layout(&self, part: &str) -> Option<CodeLayout> {
        let columns = self.shape()[1];
        let layout = layout(part, "codes", self.bits(), self, [1, 1])?;
        Some(CodeLayout {
            meaning: CodeMeaning::Numbers { columns },
            ..layout
        })
    }

    fn as_linear(&self) -> Option<&dyn LinearOp<f32>> {
        Some(self)
    }

    fn restore(mut stored: Stored) -> Result<Self> {
        let shape = stored.axes()?;
        let bits = stored.attributes.get("bits")?;
        let symmetry = stored.attributes.choice("symmetry", &SYMMETRIES)?;
        let granularity = stored.attributes.choice("scaling", &GRANULARITIES)?;
        let codes = stored.bytes("codes")?;
        let (scales, precision) = stored.vector("scales")?;
        let zero_points = match symmetry {
            Symmetry::Symmetric | Symmetry::SignedScale => Vec::new(),
            Symmetry::Affine => stored.bytes("zero_points")?.to_vec(),
        };
        stored.finish()?;
        let scales = scales.to_vec();
        Self::from_parts(
            shape,
            bits,
            symmetry,
            granularity,
            precision,
            &codes,
            &scales,
            &zero_points,
        )
    }
}

const AXES: [(&str, SplitAxis); 2] = [("in", SplitAxis::In), ("out", SplitAxis::Out)];

impl Artifact for PqMatrix<f32> {
    fn kind(&self) -> &'static str {
        PQ
    }

    fn attributes(&self) -> Result<Attributes> {
        Ok(Attributes::default().with("axis", name(&AXES, &self.codebooks().axis())))
    }

    fn code_layout(&self, part: &str) -> Option<CodeLayout> {
        let books = self.codebooks();
        let (width, groups) = (books.group_width(), books.groups());
        layout(part, "codes", books.code_bits(), self, [width, groups])
    }

    fn as_linear(&self) -> Option<&dyn LinearOp<f32>> {
        Some(self)
    }

    fn restore(mut stored: Stored) -> Result<Self> {
        let matrix = codes_and_codebooks(&mut stored)?;
        stored.finish()?;
        Ok(matrix)
    }
}

fn codes_and_codebooks(stored: &mut Stored) -> Result<PqMatrix<f32>> {
    let shape = stored.axes()?;
    let axis = stored.attributes.choice("axis", &AXES)?;
    let codes = stored.bytes("codes")?;
    let (books, precision) = stored.with_axes::<Ix3>("codebooks")?;
    PqMatrix::from_parts(shape, axis, precision, books.view(), codes)
}

impl Artifact for OptimizedPqMatrix<f32> {
    fn kind(&self) -> &'static str {
        OPTIMIZED_PQ
    }

    fn attributes(&self) -> Result<Attributes> {
        self.matrix().attributes()
    }

    fn code_layout(&self, part: &str) -> Option<CodeLayout> {
        self.matrix().code_layout(part)
    }

    fn as_linear(&self) -> Option<&dyn LinearOp<f32>> {
        Some(self)
    }

    fn restore(mut stored: Stored) -> Result<Self> {
        let matrix = codes_and_codebooks(&mut stored)?;
        let (rotation, precision) = stored.with_axes::<Ix3>("rotation")?;
        stored.finish()?;
        Self::from_parts(matrix, precision, rotation.view())
    }
}

impl Artifact for ResidualPqMatrix<f32> {
    fn kind(&self) -> &'static str {
        RESIDUAL_PQ
    }

    fn children(&self) -> Vec<(String, &dyn Artifact)> {
        let stages = self.stages().iter().enumerate();
        stages
            .map(|(i, stage)| (i.to_string(), stage as &dyn Artifact))
            .collect()
    }

    fn as_linear(&self) -> Option<&dyn LinearOp<f32>> {
        Some(self)
    }

    fn restore(mut stored: Stored) -> Result<Self> {
        let stages = std::mem::take(&mut stored.children).into_iter();
        let stages = stages.map(|(_, stage)| downcast(stage));
        let stages = stages.collect::<Result<Vec<PqMatrix<f32>>>>()?;
        stored.finish()?;
        Self::from_parts(stages)
    }
}

impl Artifact for TrellisMatrix<f32> {
    fn kind(&self) -> &'static str {
        TRELLIS
    }

    fn code_layout(&self, part: &str) -> Option<CodeLayout> {
        let (rows, columns) = (self.shape()[0], self.shape()[1]);
        let layout = layout(part, "codes", self.bits(), self, [1, 1])?;
        Some(CodeLayout {
            meaning: CodeMeaning::Trellis { rows, columns },
            ..layout
        })
    }

    fn as_linear(&self) -> Option<&dyn LinearOp<f32>> {
        Some(self)
    }

    fn restore(mut stored: Stored) -> Result<Self> {
        let shape = stored.axes()?;
        let codes = stored.bytes("codes")?;
        let (scale, precision) = stored.vector("scale")?;
        let &[step] = scale.to_vec().as_slice() else {
            return Err(malformed(format!("{} steps", scale.len())));
        };
        stored.finish()?;
        Self::from_parts(shape, precision, &codes, step)
    }
}
