//! The best parameters for a size.

use anyhow::Context;
use serde::Serialize;
use support::data::Dataset;
use support::network::inference::Network;
use support::progress;
use support::table::{Table, bytes};
use taper::quantize::product::{Codebook, SplitAxis};
use taper::{Precision, Seed};

use crate::scheme::{QUANTIZED_OUTPUTS, Scheme, Split, Trial, quantized};

/// The ratios by which the bytes of the quantized matrices must shrink.
pub(crate) const TARGETS: [f64; 4] = [15.0, SMALLER, 40.0, 60.0];
/// The ratio at which the network must lose less than one point.
pub(crate) const SMALLER: f64 = 25.0;

/// The choice of the search.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Best {
    /// The least ratio.
    pub(crate) target: f64,
    pub(crate) k: Vec<usize>,
    pub(crate) width: usize,
    pub(crate) axis: &'static str,
    pub(crate) codebook: &'static str,
    pub(crate) precision: &'static str,
    pub(crate) ratio_bytes: f64,
    pub(crate) bytes: u64,
    pub(crate) network_bytes: u64,
    pub(crate) ratio_network: f64,
    pub(crate) held_out_accuracy: f64,
    pub(crate) accuracy: f64,
}

/// The best parameters for each size, chosen by accuracy on held-out images.
pub(crate) struct Choice {
    pub(crate) target: f64,
    pub(crate) family: Scheme,
    pub(crate) trial: Trial,
    pub(crate) held_out_accuracy: f64,
}

/// For each ratio in `targets`, the parameters with the highest accuracy on `held_out`, among either axis, one codebook for all groups or
/// per group, and sub-vectors of 2 to 16 values. Centroids are in half precision, and each matrix has as many as fit.
pub(crate) fn search(
    network: &Network,
    targets: &[f64],
    seed: Seed,
    statistics: &Dataset,
    held_out: &Dataset,
) -> anyhow::Result<Vec<Choice>> {
    let families = families();
    let bar = progress::bar("search", targets.len() * families.len());
    let mut choices = Vec::new();
    for &target in targets {
        let mut best: Option<Choice> = None;
        for &family in &families {
            bar.inc(1);
            let scheme = |shape: (usize, usize)| {
                let limit = (4.0 * (shape.0 * shape.1) as f64 / target) as u64;
                family.filling(limit, shape)
            };
            let mut shapes = network.layers.iter().filter_map(quantized).map(|w| w.dim());
            if shapes.any(|shape| scheme(shape).is_none()) {
                continue;
            }
            let images = statistics.images.view();
            let trial = Trial::new(network, seed, images, false, |shape| {
                scheme(shape).context("not even one centroid fits")
            })?;
            let held_out_accuracy = trial.adjusted.accuracy(held_out)?;
            if best
                .as_ref()
                .is_none_or(|best| held_out_accuracy > best.held_out_accuracy)
            {
                best = Some(Choice {
                    target,
                    family,
                    trial,
                    held_out_accuracy,
                });
            }
        }
        choices.push(best.context("no parameters reach the target")?);
    }
    bar.finish();
    Ok(choices)
}

/// The candidates of the search; the number of centroids follows from the size.
pub(crate) fn families() -> Vec<Scheme> {
    let mut families = Vec::new();
    for axis in [SplitAxis::Out, SplitAxis::In] {
        for codebook in [Codebook::Shared, Codebook::PerGroup] {
            for width in [2, 4, 8, 16] {
                families.push(Scheme {
                    centroids: 1,
                    split: Split::Width(width),
                    axis,
                    codebook,
                    precision: Precision::F16,
                });
            }
        }
    }
    families
}

impl Choice {
    pub(crate) fn measure(&self, network: &Network, test: &Dataset) -> anyhow::Result<Best> {
        let trial = &self.trial;
        let network_bytes = trial.compressed().bytes();
        Ok(Best {
            target: self.target,
            k: trial.centroids(),
            width: self.family.layout((QUANTIZED_OUTPUTS, QUANTIZED_OUTPUTS)).2,
            axis: match self.family.axis {
                SplitAxis::Out => "out",
                SplitAxis::In => "in",
            },
            codebook: match self.family.codebook {
                Codebook::Shared => "shared",
                Codebook::PerGroup => "per group",
            },
            precision: "f16",
            ratio_bytes: trial.ratio_bytes(),
            bytes: trial.bytes,
            network_bytes,
            ratio_network: network.bytes() as f64 / network_bytes as f64,
            held_out_accuracy: self.held_out_accuracy,
            accuracy: trial.adjusted.accuracy(test)?,
        })
    }
}

pub(crate) fn table(curve: &[Best], baseline: f64) -> Table {
    let mut table = Table::new(
        "The best for a size",
        [
            "at least", "ratio", "bytes", "network", "k", "width", "axis", "codebook", "held out",
            "test", "lost",
        ],
    );
    for best in curve {
        let k: Vec<String> = best.k.iter().map(usize::to_string).collect();
        table.row([
            format!("{}×", best.target),
            format!("{:.1}×", best.ratio_bytes),
            bytes(best.bytes),
            format!("{:.1}×", best.ratio_network),
            k.join(", "),
            best.width.to_string(),
            best.axis.into(),
            format!("{}, {}", best.codebook, best.precision),
            format!("{:.2}", best.held_out_accuracy),
            format!("{:.2}", best.accuracy),
            format!("{:.2}", baseline - best.accuracy),
        ]);
    }
    table
}
