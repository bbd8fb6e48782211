//! The distance of each factorization from the limit of its rank.

use anyhow::Context;
use serde::Serialize;
use support::network::inference::{Network, Weight};
use support::table::Table;
use taper::factorize::svd::LowRankMatrix;
use taper::limit::LowRankLimit;
use taper::{InputMoments, LinearOp};

use crate::WIDTH;

pub(crate) const EXPLANATION: &str = "How accurate could it be at the same rank? Weights: distance of the plain factors from \
    the weights divided by the norm of the weights; no matrix of this rank is closer (Eckart and Young, 1936). Outputs: \
    the same for the outputs, with the factors for the outputs, on the images of their moments; the least error is \
    that of Eckart and Young for W times the square root of the moments. Both are root mean squares over the layers. They \
    do not bound the accuracy of the network.";

/// Errors and their lower bounds for the rank, root mean square over the layers.
#[derive(Debug, Serialize)]
pub(crate) struct Limit {
    pub(crate) weight_error: f64,
    least_weight_error: f64,
    output_error: f64,
    least_output_error: f64,
}

/// A layer that is factorized.
struct Layer {
    index: usize,
    weights: LowRankLimit,
    outputs: LowRankLimit,
}

/// The lower bounds of the error for a rank, of each layer.
pub(crate) struct Limits<'a> {
    pub(crate) moments: &'a [InputMoments],
    layers: Vec<Layer>,
}

impl<'a> Limits<'a> {
    pub(crate) fn of(network: &Network, moments: &'a [InputMoments]) -> anyhow::Result<Self> {
        let mut layers = Vec::new();
        for (index, (layer, moments)) in network.layers.iter().zip(moments).enumerate() {
            if let Weight::Dense(weight) = &layer.weight
                && weight.nrows() == WIDTH
            {
                layers.push(Layer {
                    index,
                    weights: LowRankLimit::of(weight.view())?,
                    outputs: LowRankLimit::whitened(weight.view(), moments.matrix()?.view())?,
                });
            }
        }
        Ok(Self { moments, layers })
    }

    /// Errors and bounds of the plain factors and of those for the outputs.
    pub(crate) fn limit<'b>(
        &self,
        network: &Network,
        plain: &'b [Option<LowRankMatrix<f32>>],
        aware: &'b [Option<LowRankMatrix<f32>>],
    ) -> anyhow::Result<Limit> {
        let mut squares = [0.0; 4];
        for layer in &self.layers {
            let Weight::Dense(weight) = &network.layers[layer.index].weight else {
                continue;
            };
            let moments = &self.moments[layer.index];
            let of_layer = |factors: &'b [Option<LowRankMatrix<f32>>]| {
                let factors = factors[layer.index].as_ref();
                factors.context("a layer is not factorized")
            };
            let (plain, aware) = (of_layer(plain)?, of_layer(aware)?);
            let report = plain.svd_report().context("factors have no report")?;
            squares[0] += report.relative_error.powi(2);
            squares[1] += layer.weights.relative_error(plain.rank()).powi(2);
            let rebuilt = aware.decompress_matrix()?;
            squares[2] += moments.relative_output_error(weight.view(), rebuilt.view())?;
            squares[3] += layer.outputs.relative_error(aware.rank()).powi(2);
        }
        let count = self.layers.len().max(1) as f64;
        let [
            weight_error,
            least_weight_error,
            output_error,
            least_output_error,
        ] = squares.map(|sum| (sum / count).sqrt());
        Ok(Limit {
            weight_error,
            least_weight_error,
            output_error,
            least_output_error,
        })
    }
}

pub(crate) fn table<'a>(limits: impl IntoIterator<Item = (f64, &'a Limit)>) -> Table {
    let mut table = Table::new(
        "Comparison with the limit of the rank",
        ["kept", "weights", "least", "outputs", "least"],
    );
    for (kept, limit) in limits {
        table.row([
            format!("{:.0} %", 100.0 * kept),
            format!("{:.4}", limit.weight_error),
            format!("{:.4}", limit.least_weight_error),
            format!("{:.4}", limit.output_error),
            format!("{:.4}", limit.least_output_error),
        ]);
    }
    table
}
