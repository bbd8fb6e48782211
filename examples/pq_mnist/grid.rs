//! The published grid: accuracy for each number of centroids and of groups.

use anyhow::Context;
use serde::Serialize;
use support::data::Dataset;
use support::network::inference::Network;
use support::progress;
use support::table::{Table, bytes};
use taper::Seed;
use taper::quantize::product::Codebook;

use crate::scheme::{Scheme, Trial};

/// Centroids and groups of the published grid.
pub(crate) const CENTROIDS: [usize; 3] = [10, 20, 50];
pub(crate) const GROUPS: [usize; 4] = [1, 4, 16, 64];
/// Published accuracies, in percent, for [`CENTROIDS`] × [`GROUPS`]; that of their network was 98.3.
const PUBLISHED: [[f64; 4]; 3] = [
    [17.9, 23.1, 34.2, 64.5],
    [28.7, 39.5, 63.8, 90.3],
    [41.9, 59.3, 90.0, 96.6],
];
const PUBLISHED_BASELINE: f64 = 98.3;

/// A cell of the published grid.
#[derive(Debug, Serialize)]
pub(crate) struct Cell {
    pub(crate) k: usize,
    pub(crate) m: usize,
    pub(crate) published: f64,
    /// In percent, with the statistics of the dense network.
    pub(crate) accuracy: f64,
    /// With re-estimated statistics.
    pub(crate) accuracy_bn: f64,
    pub(crate) ratio_formula: f64,
    pub(crate) ratio_bytes: f64,
    pub(crate) bytes: u64,
    pub(crate) shared: SharedCell,
}

/// The same number of groups and of bytes, with one codebook for all groups of a matrix.
#[derive(Debug, Serialize)]
pub(crate) struct SharedCell {
    /// The centroids of each matrix.
    pub(crate) k: Vec<usize>,
    pub(crate) accuracy: f64,
    pub(crate) accuracy_bn: f64,
    pub(crate) ratio_bytes: f64,
    pub(crate) bytes: u64,
}

/// A cell before it is measured.
pub(crate) struct FittedCell {
    pub(crate) k: usize,
    pub(crate) m: usize,
    pub(crate) published: f64,
    pub(crate) trial: Trial,
    pub(crate) shared: Trial,
}

/// Quantizes for every cell.
pub(crate) fn fit(
    network: &Network,
    seed: Seed,
    statistics: &Dataset,
) -> anyhow::Result<Vec<FittedCell>> {
    let images = statistics.images.view();
    let bar = progress::bar("grid", CENTROIDS.len() * GROUPS.len());
    let mut cells = Vec::new();
    for (k, row) in CENTROIDS.into_iter().zip(PUBLISHED) {
        for (m, published) in GROUPS.into_iter().zip(row) {
            let scheme = Scheme::published(k, m);
            let shared = |shape| {
                let shared = Scheme {
                    codebook: Codebook::Shared,
                    ..scheme
                };
                shared
                    .filling(scheme.bytes(shape), shape)
                    .context("not even one centroid of a shared codebook fits")
            };
            cells.push(FittedCell {
                k,
                m,
                published,
                trial: Trial::new(network, seed, images, false, |_| Ok(scheme))?,
                shared: Trial::new(network, seed, images, false, shared)?,
            });
            bar.inc(1);
        }
    }
    bar.finish();
    Ok(cells)
}

impl FittedCell {
    pub(crate) fn measure(&self, test: &Dataset) -> anyhow::Result<Cell> {
        let (trial, shared) = (&self.trial, &self.shared);
        Ok(Cell {
            k: self.k,
            m: self.m,
            published: self.published,
            accuracy: trial.plain.accuracy(test)?,
            accuracy_bn: trial.adjusted.accuracy(test)?,
            ratio_formula: trial.ratio_formula,
            ratio_bytes: trial.ratio_bytes(),
            bytes: trial.bytes,
            shared: SharedCell {
                k: shared.centroids(),
                accuracy: shared.plain.accuracy(test)?,
                accuracy_bn: shared.adjusted.accuracy(test)?,
                ratio_bytes: shared.ratio_bytes(),
                bytes: shared.bytes,
            },
        })
    }
}

pub(crate) fn table(cells: &[Cell], baseline: f64) -> Table {
    let mut table = Table::new(
        format!(
            "Accuracy on the test images, %; the dense network has {baseline:.2} (published: {PUBLISHED_BASELINE})"
        ),
        [
            "k",
            "m",
            "published",
            "measured",
            "with BN",
            "formula",
            "bytes",
            "ratio",
            "shared k",
            "measured",
            "with BN",
            "ratio",
        ],
    );
    for cell in cells {
        let (low, high) = (cell.shared.k.iter().min(), cell.shared.k.iter().max());
        let k = match (low, high) {
            (Some(low), Some(high)) if low != high => format!("{low}–{high}"),
            _ => low.map(usize::to_string).unwrap_or_default(),
        };
        table.row([
            cell.k.to_string(),
            cell.m.to_string(),
            format!("{:.1}", cell.published),
            format!("{:.2}", cell.accuracy),
            format!("{:.2}", cell.accuracy_bn),
            format!("{:.1}×", cell.ratio_formula),
            bytes(cell.bytes),
            format!("{:.1}×", cell.ratio_bytes),
            k,
            format!("{:.2}", cell.shared.accuracy),
            format!("{:.2}", cell.shared.accuracy_bn),
            format!("{:.1}×", cell.shared.ratio_bytes),
        ]);
    }
    table
}
