//! One code per weight: signs and few bits, for the least error of the weights and of the outputs.

use serde::Serialize;
use support::data::Dataset;
use support::network::inference::{Network, Weight};
use support::network::statistics::reestimate_with;
use support::table::Table;
use taper::ndarray::Ix2;
use taper::quantize::binary::Binarizer;
use taper::quantize::fixed_point::{FixedPointQuantizer, Granularity, Range};
use taper::{Compressed, InputMoments, Quantizer};

use crate::scheme::{context, quantized};

pub(crate) const EXPLANATION: &str = "One code per weight and one scale per output: signs (binarized after training, \
    not during it) and fixed point, each with BN.";

/// The same matrices in few bits.
#[derive(Debug, Serialize)]
pub(crate) struct Bits {
    method: String,
    ratio_bytes: f64,
    /// In percent, with re-estimated statistics.
    plain_bn: f64,
    aware_bn: f64,
}

/// The networks of a method, measured on the test images later.
pub(crate) struct Fitted {
    method: String,
    ratio_bytes: f64,
    plain: Network,
    aware: Network,
}

pub(crate) fn fit(network: &Network, statistics: &Dataset) -> anyhow::Result<Vec<Fitted>> {
    let binary = Binarizer::new().scaling(Granularity::PerRow);
    let mut all = vec![fit_one("signs".into(), &binary, network, statistics)?];
    for bits in [2, 3, 4] {
        let fixed = FixedPointQuantizer::new(bits)
            .granularity(Granularity::PerRow)
            .range(Range::SquaredError);
        all.push(fit_one(
            format!("{bits} bits"),
            &fixed,
            network,
            statistics,
        )?);
    }
    Ok(all)
}

fn fit_one<Q: Quantizer<f32>>(
    method: String,
    quantizer: &Q,
    network: &Network,
    statistics: &Dataset,
) -> anyhow::Result<Fitted> {
    let (mut bytes, mut dense_bytes) = (0, 0);
    let mut compress = |aware: bool| {
        let mut network = network.clone();
        (bytes, dense_bytes) = (0, 0);
        reestimate_with(
            &mut network,
            statistics.images.view(),
            |_, layer, inputs| {
                let Some(weight) = quantized(layer) else {
                    return anyhow::Ok(());
                };
                let mut moments = InputMoments::new(weight.ncols())?;
                if aware {
                    moments.add(inputs)?;
                }
                let matrix = quantizer.quantize_with(weight, context(&moments, aware))?;
                bytes += matrix.storage().bytes();
                dense_bytes += 4 * weight.len() as u64;
                layer.weight = Weight::Dense(matrix.decompress()?.into_dimensionality::<Ix2>()?);
                Ok(())
            },
        )?;
        anyhow::Ok(network)
    };
    let (plain, aware) = (compress(false)?, compress(true)?);
    Ok(Fitted {
        method,
        ratio_bytes: dense_bytes as f64 / bytes as f64,
        plain,
        aware,
    })
}

pub(crate) fn measure(fitted: &[Fitted], test: &Dataset) -> anyhow::Result<Vec<Bits>> {
    let measured = fitted.iter().map(|fitted| {
        Ok(Bits {
            method: fitted.method.clone(),
            ratio_bytes: fitted.ratio_bytes,
            plain_bn: fitted.plain.accuracy(test)?,
            aware_bn: fitted.aware.accuracy(test)?,
        })
    });
    measured.collect()
}

pub(crate) fn table(bits: &[Bits], baseline: f64) -> Table {
    let mut table = Table::new(
        format!("Accuracy of few bits per weight, %; the dense network has {baseline:.2}"),
        ["weights", "ratio", "plain, BN", "aware, BN", "lost"],
    );
    for bits in bits {
        table.row([
            bits.method.clone(),
            format!("{:.1}×", bits.ratio_bytes),
            format!("{:.2}", bits.plain_bn),
            format!("{:.2}", bits.aware_bn),
            format!("{:.2}", baseline - bits.aware_bn),
        ]);
    }
    table
}
