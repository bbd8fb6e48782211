//! CP decompositions.

use std::path::Path;

use anyhow::{Context, bail};
use taper::Factorizer;
use taper::factorize::Rank;
use taper::factorize::cp::{Constraint, CpAdmm, CpAls, CpTensor, NormBound, Start};
use taper::ndarray::ArrayD;

use super::{Arguments, Work};
use crate::Numbers;
use crate::arrays::write_f32;

enum Method {
    Als(CpAls),
    Admm(CpAdmm),
}

/// A given number of sweeps from a random start.
pub struct Fit {
    tensor: ArrayD<f32>,
    method: Method,
    result: Option<CpTensor<f32>>,
}

impl Fit {
    pub fn load(arguments: &Arguments) -> anyhow::Result<Self> {
        let rank = Rank::Fixed(arguments.number("rank")?);
        let sweeps = arguments.number("sweeps")?;
        let method = match arguments.word("method")? {
            "als" => Method::Als(
                CpAls::new(rank)
                    .start(Start::Random)
                    .starts(1, 0)
                    .norm_bound(NormBound::OFF)
                    .tolerance(0.0)
                    .max_sweeps(sweeps)
                    .seed(1),
            ),
            "admm" => Method::Admm(
                CpAdmm::new(rank)
                    .all(Constraint::NonNegative)
                    .inner_iterations(10)
                    .start(Start::Random, 1)
                    .tolerance(0.0)
                    .max_sweeps(sweeps)
                    .seed(1),
            ),
            word => bail!("unknown method {word}"),
        };
        Ok(Self {
            tensor: arguments.tensor("input")?,
            method,
            result: None,
        })
    }
}

impl Work for Fit {
    fn run(&mut self) -> anyhow::Result<()> {
        let tensor = self.tensor.view();
        self.result = Some(match &self.method {
            Method::Als(params) => params.factorize(tensor)?,
            Method::Admm(params) => params.factorize(tensor)?,
        });
        Ok(())
    }

    fn save(&self, folder: &Path) -> anyhow::Result<Numbers> {
        let result = self.result.as_ref().context("run was not called")?;
        write_f32(folder.join("weights.npy"), result.weights())?;
        for (mode, factor) in result.factors().iter().enumerate() {
            write_f32(folder.join(format!("factor_{mode}.npy")), factor)?;
        }
        let iterations = result.cp_report().fit.iterations;
        Ok(vec![("iterations", iterations as f64)])
    }
}
