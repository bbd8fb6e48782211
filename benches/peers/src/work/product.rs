//! Product quantization.

use std::path::Path;

use anyhow::{Context, bail};
use taper::cluster::{KMeans, Seeding};
use taper::ndarray::{Array2, Ix2, Ix3};
use taper::quantize::product::{Codebook, PqMatrix, ProductCodebooks, ProductQuantizer, SplitAxis};
use taper::{Compressed, LinearOp, Precision, Quantizer};

use super::layer::Apply;
use super::{Arguments, Work};
use crate::Numbers;
use crate::arrays::write_f32;

/// A quantizer with its clusterer.
type Quantize = Box<dyn Fn(&Array2<f32>) -> taper::Result<PqMatrix<f32>>>;

/// Codebooks and codes of the rows of a matrix.
pub struct Train {
    weights: Array2<f32>,
    quantizer: Quantize,
    result: Option<PqMatrix<f32>>,
}

impl Train {
    pub fn load(arguments: &Arguments) -> anyhow::Result<Self> {
        let iterations = arguments.number("iterations")?;
        let shared = arguments.or("shared", false)?;
        let params = ProductQuantizer::with_width(arguments.number("width")?)
            .centroids(arguments.number("centroids")?)
            .axis(SplitAxis::In)
            .codebook(if shared {
                Codebook::Shared
            } else {
                Codebook::PerGroup
            })
            .seed(arguments.or("seed", 1_u64)?);
        let seeding = match arguments.word("start")? {
            "random" => Seeding::Random,
            "plusplus" => Seeding::PlusPlus,
            "given" => {
                let start = arguments.array::<Ix2>("centroids_file")?;
                Seeding::Given(start.mapv(f64::from))
            }
            word => bail!("unknown start {word}"),
        };
        let kmeans = KMeans::new().max_iterations(iterations).seeding(seeding);
        Ok(Self {
            weights: arguments.array("input")?,
            quantizer: match arguments.or("engine", String::from("taper"))?.as_str() {
                "taper" => of(params.clusterer(kmeans)),
                "linfa" => linfa(params, iterations)?,
                word => bail!("unknown engine {word}"),
            },
            result: None,
        })
    }
}

fn of<C>(params: ProductQuantizer<C>) -> Quantize
where
    ProductQuantizer<C>: Quantizer<f32, Output = PqMatrix<f32>> + 'static,
{
    Box::new(move |weights| params.quantize(weights.view()))
}

/// The same with linfa's k-means.
#[cfg(feature = "linfa")]
fn linfa(params: ProductQuantizer, iterations: usize) -> anyhow::Result<Quantize> {
    // A tolerance that is never reached, so that it runs all iterations, like the others.
    let engine = taper::cluster::LinfaKMeans::new()
        .max_iterations(iterations)
        .tolerance(1e-30);
    Ok(of(params.clusterer(engine)))
}

#[cfg(not(feature = "linfa"))]
fn linfa(_: ProductQuantizer, _: usize) -> anyhow::Result<Quantize> {
    bail!("built without the feature linfa")
}

impl Work for Train {
    fn run(&mut self) -> anyhow::Result<()> {
        self.result = Some((self.quantizer)(&self.weights)?);
        Ok(())
    }

    fn save(&self, folder: &Path) -> anyhow::Result<Numbers> {
        let result = self.result.as_ref().context("run was not called")?;
        write_f32(folder.join("dense.npy"), &result.decompress()?)?;
        let iterations = result.report().map_or(0, |report| report.iterations);
        Ok(vec![("iterations", iterations as f64)])
    }
}

fn codebooks(arguments: &Arguments) -> anyhow::Result<ProductCodebooks<f32>> {
    let values = arguments.array::<Ix3>("codebooks")?;
    let groups = arguments.number("groups")?;
    Ok(ProductCodebooks::from_parts(
        groups,
        SplitAxis::In,
        Precision::F32,
        values.view(),
    )?)
}

/// Encoding with given codebooks.
pub struct Encode {
    weights: Array2<f32>,
    codebooks: ProductCodebooks<f32>,
    result: Option<PqMatrix<f32>>,
}

impl Encode {
    pub fn load(arguments: &Arguments) -> anyhow::Result<Self> {
        Ok(Self {
            weights: arguments.array("input")?,
            codebooks: codebooks(arguments)?,
            result: None,
        })
    }
}

impl Work for Encode {
    fn run(&mut self) -> anyhow::Result<()> {
        self.result = Some(self.codebooks.encode(self.weights.view())?);
        Ok(())
    }

    fn save(&self, folder: &Path) -> anyhow::Result<Numbers> {
        let result = self.result.as_ref().context("run was not called")?;
        write_f32(folder.join("dense.npy"), &result.decompress()?)?;
        Ok(Vec::new())
    }
}

/// Decompression of codes.
pub struct Decode {
    matrix: PqMatrix<f32>,
    dense: Array2<f32>,
}

impl Decode {
    pub fn load(arguments: &Arguments) -> anyhow::Result<Self> {
        let weights = arguments.array::<Ix2>("input")?;
        Ok(Self {
            matrix: codebooks(arguments)?.encode(weights.view())?,
            dense: Array2::zeros(weights.dim()),
        })
    }
}

impl Work for Decode {
    fn run(&mut self) -> anyhow::Result<()> {
        Ok(self
            .matrix
            .decompress_into(self.dense.view_mut().into_dyn())?)
    }

    fn save(&self, folder: &Path) -> anyhow::Result<Numbers> {
        write_f32(folder.join("dense.npy"), &self.dense)?;
        Ok(Vec::new())
    }
}

/// y = x Wᵀ from the codes.
pub fn apply(arguments: &Arguments) -> anyhow::Result<Apply<impl LinearOp<f32> + use<>>> {
    let weights = arguments.array::<Ix2>("input")?;
    Apply::new(codebooks(arguments)?.encode(weights.view())?, arguments)
}
