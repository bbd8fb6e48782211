//! The benchmarked tasks, one file per family. Each task is loaded once, runs as often as asked, and writes its result, so that
//! one program measures the errors of both sides.

mod binary;
mod cp;
mod distill;
mod fixed_point;
mod layer;
mod model;
mod product;
mod svd;

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, anyhow};
use taper::ndarray::{Array, ArrayD, Dimension};

use crate::Numbers;
use crate::arrays;

/// A task that is timed.
pub trait Work {
    /// Runs the task once.
    fn run(&mut self) -> anyhow::Result<()>;

    /// Writes the result of the last run as `.npy` files, and returns further figures by name.
    fn save(&self, folder: &Path) -> anyhow::Result<Numbers>;
}

/// Arguments by name.
pub struct Arguments(BTreeMap<String, String>);

impl Arguments {
    /// Parses words of the form `name=value`.
    pub fn parse<'a>(words: impl Iterator<Item = &'a str>) -> anyhow::Result<Self> {
        let pair = |word: &str| {
            let (name, value) = word.split_once('=').context("not name=value")?;
            Ok((name.into(), value.into()))
        };
        words.map(pair).collect::<anyhow::Result<_>>().map(Self)
    }

    /// The value of the argument `name`, or `default` if it is missing.
    fn or<T: FromStr>(&self, name: &str, default: T) -> anyhow::Result<T> {
        match self.0.get(name) {
            Some(text) => text.parse().map_err(|_| anyhow!("{name}={text}")),
            None => Ok(default),
        }
    }

    fn word(&self, name: &str) -> anyhow::Result<&str> {
        Ok(self
            .0
            .get(name)
            .with_context(|| format!("{name} is missing"))?)
    }

    fn number(&self, name: &str) -> anyhow::Result<usize> {
        Ok(self.word(name)?.parse()?)
    }

    fn tensor(&self, name: &str) -> anyhow::Result<ArrayD<f32>> {
        arrays::read_f32(self.word(name)?)
    }

    /// The array in the file that the argument `name` names, with the axes of `D`.
    fn array<D: Dimension>(&self, name: &str) -> anyhow::Result<Array<f32, D>> {
        Ok(self.tensor(name)?.into_dimensionality()?)
    }

    fn indices(&self, name: &str) -> anyhow::Result<Vec<usize>> {
        arrays::read_indices(self.word(name)?)
    }
}

/// Loads a task and its inputs.
pub fn load(name: &str, arguments: &Arguments) -> anyhow::Result<Box<dyn Work>> {
    Ok(match name {
        "pq_train" => Box::new(product::Train::load(arguments)?),
        "pq_encode" => Box::new(product::Encode::load(arguments)?),
        "pq_decode" => Box::new(product::Decode::load(arguments)?),
        "pq_apply" => Box::new(product::apply(arguments)?),
        "binary" => Box::new(binary::Product::load(arguments)?),
        "fixed_point" => Box::new(fixed_point::Rounded::load(arguments)?),
        "low_rank" => Box::new(layer::low_rank(arguments)?),
        "cp_conv" => Box::new(layer::CpConvolution::load(arguments)?),
        "svd" => Box::new(svd::Svd::load(arguments)?),
        "cp" => Box::new(cp::Fit::load(arguments)?),
        "distill" => Box::new(distill::Loss::load(arguments)?),
        "model" => Box::new(model::Code::load(arguments)?),
        name => anyhow::bail!("unknown task {name}"),
    })
}
