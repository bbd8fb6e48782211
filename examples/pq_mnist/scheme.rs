//! The schemes for weight matrices, and quantized networks.

use anyhow::ensure;
use support::network::inference::{Layer, Network, Weight};
use support::network::statistics::reestimate_with;
use taper::ndarray::ArrayView2;
use taper::quantize::product::{Codebook, PqMatrix, ProductQuantizer, SplitAxis};
use taper::{Compressed, FitContext, InputMoments, LinearOp, Precision, Quantizer, Seed};

/// Weight matrices with this number of outputs are quantized.
pub(crate) const QUANTIZED_OUTPUTS: usize = 512;

/// How the weight matrices are quantized.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Scheme {
    pub(crate) centroids: usize,
    pub(crate) split: Split,
    pub(crate) axis: SplitAxis,
    pub(crate) codebook: Codebook,
    pub(crate) precision: Precision,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Split {
    Groups(usize),
    Width(usize),
}

impl Scheme {
    /// The published scheme.
    pub(crate) fn published(centroids: usize, groups: usize) -> Self {
        Self {
            centroids,
            split: Split::Groups(groups),
            axis: SplitAxis::Out,
            codebook: Codebook::PerGroup,
            precision: Precision::F32,
        }
    }

    /// The number of points of a group, the number of groups and their width, for a weight of shape (out, in).
    pub(crate) fn layout(&self, (outputs, inputs): (usize, usize)) -> (usize, usize, usize) {
        let (points, length) = match self.axis {
            SplitAxis::Out => (inputs, outputs),
            SplitAxis::In => (outputs, inputs),
        };
        match self.split {
            Split::Groups(groups) => (points, groups, length / groups),
            Split::Width(width) => (points, length / width, width),
        }
    }

    /// The bytes of a weight of shape (out, in).
    pub(crate) fn bytes(&self, shape: (usize, usize)) -> u64 {
        let (points, groups, width) = self.layout(shape);
        let books = match self.codebook {
            Codebook::PerGroup => groups,
            Codebook::Shared => 1,
        };
        let values = (books * self.centroids * width) as u64;
        let code_bits = u64::from(self.centroids.next_power_of_two().trailing_zeros());
        let codes = (points * groups) as u64 * code_bits;
        (values * self.precision.bits()).div_ceil(8) + codes.div_ceil(8)
    }

    /// The scheme with as many centroids as fit `limit` bytes for a weight of this shape.
    pub(crate) fn filling(self, limit: u64, shape: (usize, usize)) -> Option<Self> {
        let (points, groups, _) = self.layout(shape);
        let most = match self.codebook {
            Codebook::PerGroup => points,
            Codebook::Shared => points * groups,
        };
        let fits = |centroids| Self { centroids, ..self }.bytes(shape) <= limit;
        // More centroids never take fewer bytes, so that bisection finds the largest number that fits.
        let (mut fitting, mut beyond) = (0, most + 1);
        while beyond - fitting > 1 {
            let middle = fitting.midpoint(beyond);
            if fits(middle) {
                fitting = middle;
            } else {
                beyond = middle;
            }
        }
        (fitting > 0).then_some(Self {
            centroids: fitting,
            ..self
        })
    }

    pub(crate) fn quantize(
        &self,
        weight: ArrayView2<'_, f32>,
        context: FitContext<'_>,
        seed: Seed,
    ) -> taper::Result<PqMatrix<f32>> {
        match self.split {
            Split::Groups(groups) => ProductQuantizer::new(groups),
            Split::Width(width) => ProductQuantizer::with_width(width),
        }
        .centroids(self.centroids)
        .axis(self.axis)
        .codebook(self.codebook)
        .precision(self.precision)
        .seed(seed)
        .quantize_with(weight, context)
    }
}

/// The moments as the context of a fit, or an empty context.
pub(crate) fn context(moments: &InputMoments, aware: bool) -> FitContext<'_> {
    if aware {
        FitContext::new().inputs(moments)
    } else {
        FitContext::new()
    }
}

/// A network with quantized wide matrices, and its size.
pub(crate) struct Trial {
    pub(crate) matrices: Vec<(usize, PqMatrix<f32>)>,
    /// The network with decompressed matrices and the statistics of the dense network.
    pub(crate) plain: Network,
    /// The same network with re-estimated statistics.
    pub(crate) adjusted: Network,
    /// The bytes of the quantized matrices' stored parts, and of the same matrices dense.
    pub(crate) bytes: u64,
    pub(crate) dense_bytes: u64,
    pub(crate) ratio_formula: f64,
}

impl Trial {
    /// Quantizes with the result of `scheme` for a weight of shape (out, in): for the least error of the weights, or, if `aware`
    /// is set, of the layers' outputs on `images`.
    pub(crate) fn new(
        network: &Network,
        seed: Seed,
        images: ArrayView2<'_, f32>,
        aware: bool,
        scheme: impl Fn((usize, usize)) -> anyhow::Result<Scheme>,
    ) -> anyhow::Result<Self> {
        let mut matrices = Vec::new();
        let (mut bytes, mut dense_bytes, mut formula_bytes) = (0, 0, 0.0);
        let mut adjusted = network.clone();
        // From the first layer to the last: the inputs of each are the outputs of the quantized layers before it.
        reestimate_with(&mut adjusted, images, |i, layer, inputs| {
            let Some(weight) = quantized(layer) else {
                return anyhow::Ok(());
            };
            let scheme = scheme(weight.dim())?;
            let mut moments = InputMoments::new(weight.ncols())?;
            if aware {
                moments.add(inputs)?;
            }
            let seed = seed.derive_name(&layer.name);
            let matrix = scheme.quantize(weight, context(&moments, aware), seed)?;
            let stored: usize = matrix.parts().iter().map(|part| part.bytes.len()).sum();
            ensure!(
                stored as u64 == scheme.bytes(weight.dim()),
                "{scheme:?} takes {stored} bytes instead of the planned {}",
                scheme.bytes(weight.dim())
            );
            bytes += stored as u64;
            dense_bytes += 4 * weight.len() as u64;
            formula_bytes += 4.0 * weight.len() as f64 / matrix.formula_ratio();
            let dense = matrix.decompress_matrix()?;
            matrices.push((i, matrix));
            layer.weight = Weight::Dense(dense);
            Ok(())
        })?;
        let weights = |i: usize, _: &Layer| {
            let layer = adjusted.layers.get(i);
            anyhow::Ok(layer.map(|layer| layer.weight.clone()))
        };
        let plain = network.with_weights(weights)?;
        Ok(Self {
            matrices,
            plain,
            adjusted,
            bytes,
            dense_bytes,
            ratio_formula: dense_bytes as f64 / formula_bytes,
        })
    }

    pub(crate) fn ratio_bytes(&self) -> f64 {
        self.dense_bytes as f64 / self.bytes as f64
    }

    /// The centroids of each matrix.
    pub(crate) fn centroids(&self) -> Vec<usize> {
        let matrices = self.matrices.iter();
        matrices.map(|(_, m)| m.codebooks().centroids()).collect()
    }

    /// The adjusted network with matrices in compressed form.
    pub(crate) fn compressed(&self) -> Network {
        let mut network = self.adjusted.clone();
        for (i, matrix) in &self.matrices {
            network.layers[*i].weight = Weight::compressed(matrix.clone());
        }
        network
    }
}

/// The weights of a layer if they are to be quantized.
pub(crate) fn quantized(layer: &Layer) -> Option<ArrayView2<'_, f32>> {
    match &layer.weight {
        Weight::Dense(weight) if weight.nrows() == QUANTIZED_OUTPUTS => Some(weight.view()),
        _ => None,
    }
}
