//! The published grid, quantized for the least error of the layers' outputs.

use anyhow::Context;
use serde::Serialize;
use support::data::Dataset;
use support::network::inference::Network;
use support::progress;
use support::table::Table;
use taper::Seed;

use crate::grid::{CENTROIDS, Cell, GROUPS};
use crate::scheme::{Scheme, Split, Trial};
use crate::search::{self, Best, Choice};

pub(crate) const EXPLANATION: &str = "Aware: every matrix is quantized for the least error of its outputs, with the \
    second moments of its inputs on the same training images (without labels), from the first matrix to \
    the last. The sizes are equal to the byte.";

/// The ratio of the search.
const SMALLER: f64 = 30.0;

/// The quantized networks, which are measured on the test images later.
pub(crate) struct Fitted {
    /// In the order of the grid's cells.
    grid: Vec<Trial>,
    best: Choice,
}

/// A cell of the grid.
#[derive(Debug, Serialize)]
pub(crate) struct AwareCell {
    k: usize,
    m: usize,
    published: f64,
    /// In percent, with the statistics of the dense network.
    accuracy: f64,
    /// With re-estimated statistics.
    accuracy_bn: f64,
    /// The same for the least error of the weights.
    plain: f64,
    plain_bn: f64,
    ratio_bytes: f64,
}

/// The measured figures.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    cells: Vec<AwareCell>,
    best_at_30x: Best,
}

/// Quantizes for every cell, and for the best parameters at [`SMALLER`] by the accuracy on `held_out`.
pub(crate) fn fit(
    network: &Network,
    seed: Seed,
    statistics: &Dataset,
    held_out: &Dataset,
    quick: bool,
) -> anyhow::Result<Fitted> {
    let images = statistics.images.view();
    let families = families(quick);
    let bar = progress::bar("aware", CENTROIDS.len() * GROUPS.len() + families.len());
    let mut grid = Vec::new();
    for k in CENTROIDS {
        for m in GROUPS {
            let scheme = Scheme::published(k, m);
            grid.push(Trial::new(network, seed, images, true, |_| Ok(scheme))?);
            bar.inc(1);
        }
    }
    let mut best: Option<Choice> = None;
    for family in families {
        let trial = Trial::new(network, seed, images, true, |shape: (usize, usize)| {
            let limit = (4.0 * (shape.0 * shape.1) as f64 / SMALLER) as u64;
            let scheme = family.filling(limit, shape);
            scheme.context("not even one centroid fits")
        })?;
        bar.inc(1);
        let held_out_accuracy = trial.adjusted.accuracy(held_out)?;
        if best
            .as_ref()
            .is_none_or(|best| held_out_accuracy > best.held_out_accuracy)
        {
            best = Some(Choice {
                target: SMALLER,
                family,
                trial,
                held_out_accuracy,
            });
        }
    }
    bar.finish();
    Ok(Fitted {
        grid,
        best: best.context("there are no families to choose from")?,
    })
}

/// The families of the search with sub-vectors of 4 or 8 values; the number of centroids follows from the size.
fn families(quick: bool) -> Vec<Scheme> {
    let all = search::families().into_iter();
    let wide = |scheme: &Scheme| match scheme.split {
        Split::Width(width) => (4..=8).contains(&width),
        Split::Groups(_) => false,
    };
    all.filter(wide)
        .take(if quick { 1 } else { usize::MAX })
        .collect()
}

impl Fitted {
    pub(crate) fn measure(
        &self,
        network: &Network,
        plain: &[Cell],
        test: &Dataset,
    ) -> anyhow::Result<Measured> {
        let cells = self.grid.iter().zip(plain).map(|(trial, plain)| {
            anyhow::Ok(AwareCell {
                k: plain.k,
                m: plain.m,
                published: plain.published,
                accuracy: trial.plain.accuracy(test)?,
                accuracy_bn: trial.adjusted.accuracy(test)?,
                plain: plain.accuracy,
                plain_bn: plain.accuracy_bn,
                ratio_bytes: trial.ratio_bytes(),
            })
        });
        Ok(Measured {
            cells: cells.collect::<anyhow::Result<_>>()?,
            best_at_30x: self.best.measure(network, test)?,
        })
    }
}

impl Measured {
    pub(crate) fn tables(&self, baseline: f64) -> [Table; 2] {
        let mut grid = Table::new(
            format!(
                "Accuracy for the least error of the outputs, %; the dense network has {baseline:.2}"
            ),
            [
                "k",
                "m",
                "ratio",
                "published",
                "plain",
                "aware",
                "plain, BN",
                "aware, BN",
                "lost",
            ],
        );
        for cell in &self.cells {
            grid.row([
                cell.k.to_string(),
                cell.m.to_string(),
                format!("{:.1}×", cell.ratio_bytes),
                format!("{:.1}", cell.published),
                format!("{:.2}", cell.plain),
                format!("{:.2}", cell.accuracy),
                format!("{:.2}", cell.plain_bn),
                format!("{:.2}", cell.accuracy_bn),
                format!("{:.2}", baseline - cell.accuracy_bn),
            ]);
        }
        let best = std::slice::from_ref(&self.best_at_30x);
        [grid, search::table(best, baseline)]
    }
}
