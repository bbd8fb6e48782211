//! The distance of each quantized network from the limit of rate–distortion theory.

use std::collections::BTreeMap;

use anyhow::Context;
use serde::Serialize;
use support::network::inference::Network;
use support::table::Table;
use taper::limit::{EmpiricalSource, RateDistortionGap};

use crate::scheme::{Trial, quantized};

pub(crate) const EXPLANATION: &str = "How much smaller could it be? Error: squared distance from the weights divided by \
    their variance. Limit: the least error of any code with as many bits and blocks of any length, if the weights \
    of a matrix are independent draws from its histogram (Blahut and Arimoto). Bits to save: the bits per weight that a \
    code at the limit would save at the same error. The limit bounds the error of the weights, and not the accuracies \
    above.";

/// A scheme and the limit, over all quantized matrices.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Limit {
    pub(crate) scheme: String,
    /// With the codebooks.
    pub(crate) bits_per_weight: f64,
    /// Squared error divided by the variance of the weights.
    pub(crate) error: f64,
    pub(crate) limit_error: f64,
    pub(crate) limit_bits_per_weight: f64,
    pub(crate) decibels: f64,
}

/// The distribution of the weights of each quantized matrix.
pub(crate) struct Sources(BTreeMap<usize, EmpiricalSource>);

impl Sources {
    pub(crate) fn of(network: &Network) -> anyhow::Result<Self> {
        let mut sources = BTreeMap::new();
        for (i, layer) in network.layers.iter().enumerate() {
            if let Some(weight) = quantized(layer) {
                sources.insert(i, EmpiricalSource::of(weight)?);
            }
        }
        Ok(Self(sources))
    }

    pub(crate) fn limit(
        &self,
        scheme: String,
        network: &Network,
        trial: &Trial,
    ) -> anyhow::Result<Limit> {
        let (mut weights, mut bits, mut limit_bits) = (0.0, 0.0, 0.0);
        let (mut error, mut limit, mut variance) = (0.0, 0.0, 0.0);
        for (i, matrix) in &trial.matrices {
            let source = self.0.get(i).context("a matrix has no source")?;
            let dense = quantized(&network.layers[*i]).context("a matrix is not dense")?;
            let gap = RateDistortionGap::with_source(matrix, dense.into_dyn(), source)?;
            let count = source.count() as f64;
            weights += count;
            bits += count * gap.bits_per_weight;
            // Without an error no bits can be saved.
            let least = gap.limit_bits.map_or(gap.bits_per_weight, |l| l.lower);
            limit_bits += count * least;
            error += count * gap.mean_squared_error;
            limit += count * gap.limit_error.lower;
            variance += count * gap.variance;
        }
        Ok(Limit {
            scheme,
            bits_per_weight: bits / weights,
            error: error / variance,
            limit_error: limit / variance,
            limit_bits_per_weight: limit_bits / weights,
            decibels: 10.0 * (error / limit).log10(),
        })
    }
}

pub(crate) fn table(limits: &[Limit]) -> Table {
    let mut table = Table::new(
        "Comparison with the limit",
        [
            "scheme",
            "bits per weight",
            "error",
            "limit",
            "above it",
            "bits to save",
        ],
    );
    for limit in limits {
        table.row([
            limit.scheme.clone(),
            format!("{:.2}", limit.bits_per_weight),
            format!("{:.3}", limit.error),
            format!("{:.3}", limit.limit_error),
            format!("{:.1} dB", limit.decibels),
            format!("{:.2}", limit.bits_per_weight - limit.limit_bits_per_weight),
        ]);
    }
    table
}
