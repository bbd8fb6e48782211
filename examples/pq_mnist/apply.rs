//! y = x Wᵀ from the codes, compared with the decompressed matrices.

use serde::Serialize;
use support::data::Dataset;
use support::network::inference::Network;
use support::table::{Table, bytes};
use support::timing::median_seconds;
use taper::ndarray::{ArrayView2, Axis, s};

use crate::scheme::Trial;

/// The network in compressed form, compared with the decompressed network.
#[derive(Debug, Serialize)]
pub(crate) struct Apply {
    pub(crate) predictions_equal: bool,
    /// Bytes of the whole network, with biases and BatchNorm.
    pub(crate) bytes: u64,
    pub(crate) dense_bytes: u64,
    /// Time of the compressed network divided by that of the dense one, for all test images.
    pub(crate) time_ratio: f64,
    pub(crate) time_ms: f64,
    pub(crate) dense_time_ms: f64,
    /// The same for one image at a time.
    pub(crate) single_time_ratio: f64,
    pub(crate) single_time_us: f64,
    pub(crate) single_dense_time_us: f64,
}

/// Runs the network in compressed form and decompressed, all images and one at a time.
pub(crate) fn measure(trial: &Trial, test: &Dataset) -> anyhow::Result<Apply> {
    let (compressed, dense) = (trial.compressed(), &trial.adjusted);
    let images = test.images.view();
    let predictions_equal = compressed.predict(images)? == dense.predict(images)?;
    let seconds = |network: &Network, images: ArrayView2<'_, f32>| {
        median_seconds(7, || network.logits(images).map(|_| ()))
    };
    let (time, dense_time) = (seconds(&compressed, images)?, seconds(dense, images)?);
    // Many images one after the other: a single image is too short to measure.
    let singles = |network: &Network| -> taper::Result<f64> {
        let some = images.slice(s![..images.nrows().min(200), ..]);
        let all = median_seconds(7, || {
            some.axis_chunks_iter(Axis(0), 1)
                .try_for_each(|image| network.logits(image).map(|_| ()))
        })?;
        Ok(all / some.nrows() as f64)
    };
    let (single, single_dense) = (singles(&compressed)?, singles(dense)?);
    Ok(Apply {
        predictions_equal,
        bytes: compressed.bytes(),
        dense_bytes: dense.bytes(),
        time_ratio: time / dense_time,
        time_ms: 1e3 * time,
        dense_time_ms: 1e3 * dense_time,
        single_time_ratio: single / single_dense,
        single_time_us: 1e6 * single,
        single_dense_time_us: 1e6 * single_dense,
    })
}

pub(crate) fn table(runs: &[(&str, &Apply)]) -> Table {
    let mut table = Table::new(
        "The whole network: y = x Wᵀ from the codes, compared with the decompressed matrices",
        [
            "",
            "predictions",
            "bytes",
            "dense",
            "all images",
            "dense",
            "one image",
            "dense",
        ],
    );
    for (name, run) in runs {
        table.row([
            (*name).into(),
            if run.predictions_equal {
                "equal"
            } else {
                "DIFFER"
            }
            .into(),
            bytes(run.bytes),
            bytes(run.dense_bytes),
            format!("{:.1} ms", run.time_ms),
            format!("{:.1} ms", run.dense_time_ms),
            format!("{:.0} µs", run.single_time_us),
            format!("{:.0} µs", run.single_dense_time_us),
        ]);
    }
    table
}
