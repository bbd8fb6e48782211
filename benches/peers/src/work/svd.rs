//! Singular value decompositions.

use std::path::Path;

use anyhow::{Context, bail};
use taper::Factorizer;
use taper::factorize::Rank;
use taper::factorize::svd::{LowRankMatrix, SingularValues, SvdMethod, TruncatedSvd};
use taper::ndarray::Array2;

use super::{Arguments, Work};
use crate::Numbers;
use crate::arrays::write_f32;

/// The leading singular values and vectors, or all of them.
pub struct Svd {
    matrix: Array2<f32>,
    params: TruncatedSvd,
    result: Option<LowRankMatrix<f32>>,
}

impl Svd {
    pub fn load(arguments: &Arguments) -> anyhow::Result<Self> {
        let method = match arguments.word("method")? {
            "exact" => SvdMethod::Exact,
            "randomized" => SvdMethod::Randomized,
            word => bail!("unknown method {word}"),
        };
        let params = TruncatedSvd::new(Rank::Fixed(arguments.number("rank")?))
            .method(method)
            .singular_values(SingularValues::Apart)
            .power_iterations(arguments.or("power", 2)?)
            .seed(1);
        Ok(Self {
            matrix: arguments.array("input")?,
            params,
            result: None,
        })
    }
}

impl Work for Svd {
    fn run(&mut self) -> anyhow::Result<()> {
        self.result = Some(self.params.factorize(self.matrix.view())?);
        Ok(())
    }

    fn save(&self, folder: &Path) -> anyhow::Result<Numbers> {
        let result = self.result.as_ref().context("run was not called")?;
        let s = result
            .singular_values()
            .context("the factors have no singular values")?;
        write_f32(folder.join("u.npy"), &result.left())?;
        write_f32(folder.join("s.npy"), &s)?;
        write_f32(folder.join("vt.npy"), &result.right())?;
        Ok(Vec::new())
    }
}
