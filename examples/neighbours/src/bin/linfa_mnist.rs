//! taper in a linfa program: `ProductQuantizer` fits codebooks to a data set, predicts the codes of records, and transforms records into
//! their quantized form.
//!
//! The records are images of MNIST. A nearest-neighbour classifier measures the loss: each test image takes the label of the nearest
//! training image, first with the original training images and then with the quantized ones.

use clap::Parser;
use linfa::DatasetBase;
use linfa::traits::{Fit, Predict, Transformer};
use ndarray::{Array1, Array2, ArrayView2, Axis, s};
use ndarray_016::{Array2 as LinfaArray2, ArrayView2 as LinfaArrayView2};
use rayon::prelude::*;
use serde::Serialize;
use taper::quantize::product::{Codebook, ProductCodebooks, ProductQuantizer};
use taper_neighbours::args::Common;
use taper_neighbours::data::Dataset;
use taper_neighbours::table::Table;
use taper_neighbours::{json, mnist, report};

/// Groups of the 784 values of an image.
const GROUPS: [usize; 3] = [14, 28, 56];

#[derive(Debug, Parser)]
#[command(about = "linfa's Fit, Predict and Transformer on taper's product quantization")]
struct Args {
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Serialize)]
struct Figures {
    seed: u64,
    quick: bool,
    records: usize,
    queries: usize,
    /// Accuracy of the nearest neighbour among the original records, %.
    accuracy: f64,
    rows: Vec<Row>,
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct Row {
    /// Groups of 256 centroids: the bytes per record.
    groups: usize,
    /// ‖X − X̂‖² / ‖X‖² on the test images, which the fit does not use.
    error: f64,
    accuracy: f64,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let common = &args.common;
    let mut report = report("linfa_mnist");
    let data = mnist(common.quick)?;
    let (records, queries) = if common.quick {
        (1000, 200)
    } else {
        (10_000, 1000)
    };
    let (train, test) = (data.train.first(records), data.test.first(queries));
    report.say(&format!(
        "Codebooks of 256 centroids per group, fitted through linfa's traits to {} training images of MNIST (784 values, 3136 \
         bytes), seed {}. Each of {} test images takes the label of its nearest neighbour.",
        train.len(),
        common.seed,
        test.len()
    ));
    let accuracy = nearest(train.images.view(), &train.labels, &test);
    let mut rows = Vec::new();
    for groups in GROUPS {
        let dataset = DatasetBase::from(for_linfa(&train.images));
        let quantizer = ProductQuantizer::new(groups)
            .codebook(Codebook::PerGroup)
            .seed(common.seed("codes"));
        let codebooks: ProductCodebooks<f32> = quantizer.fit(&dataset)?;
        let codes: LinfaArray2<usize> = codebooks.predict(&for_linfa(&train.images));
        anyhow::ensure!(codes.dim() == (train.len(), groups), "one code per group");
        let seen = codebooks.transform(&for_linfa(&train.images))?;
        let unseen = codebooks.transform(&for_linfa(&test.images))?;
        rows.push(Row {
            groups,
            error: squares(&(&test.images - &from_linfa(&unseen))) / squares(&test.images),
            accuracy: nearest(from_linfa(&seen), &train.labels, &test),
        });
    }
    let mut table = Table::new(
        format!(
            "The nearest neighbour among quantized images (among the original images: {accuracy:.1} %)"
        ),
        [
            "groups",
            "bytes per record",
            "smaller",
            "error",
            "accuracy, %",
        ],
    );
    for row in &rows {
        table.row([
            row.groups.to_string(),
            row.groups.to_string(),
            format!("{:.0}×", 3136.0 / row.groups as f64),
            format!("{:.3}", row.error),
            format!("{:.1}", row.accuracy),
        ]);
    }
    report.table(&table);
    report.say(
        "Bytes: the codes of a record; all records share the codebooks of 784 × 256 values. Error: ‖X − X̂‖² / ‖X‖² on the test \
         images, which the fit does not use.",
    );
    let figures = Figures {
        seed: common.seed,
        quick: common.quick,
        records: train.len(),
        queries: test.len(),
        accuracy,
        rows,
        seconds: report.finish(common.markdown.as_deref())?,
    };
    if let Some(path) = &common.json {
        json::write(path, &figures)?;
    }
    Ok(())
}

/// Images as an array of ndarray 0.16, which linfa 0.8 uses, without a copy.
fn for_linfa(images: &Array2<f32>) -> LinfaArrayView2<'_, f32> {
    let values = images.as_slice().expect("images are stored row by row");
    LinfaArrayView2::from_shape(images.dim(), values).expect("one value for each element")
}

/// The reverse.
fn from_linfa(images: &LinfaArray2<f32>) -> ArrayView2<'_, f32> {
    let values = images.as_slice().expect("images are stored row by row");
    ArrayView2::from_shape(images.dim(), values).expect("one value for each element")
}

fn squares(values: &Array2<f32>) -> f64 {
    values.iter().map(|&x| f64::from(x) * f64::from(x)).sum()
}

/// The percentage of queries whose nearest record has their label.
fn nearest(records: ArrayView2<'_, f32>, labels: &[usize], queries: &Dataset) -> f64 {
    // |q − r|² without |q|², which is equal for all records.
    let norms: Array1<f32> = records.map_axis(Axis(1), |row| row.dot(&row));
    let right: usize = (0..queries.len())
        .into_par_iter()
        .map(|i| {
            let products = records.dot(&queries.images.slice(s![i, ..]));
            let distance = |j: usize| norms[j] - 2.0 * products[j];
            let nearest = (0..labels.len()).min_by(|&a, &b| distance(a).total_cmp(&distance(b)));
            usize::from(nearest.is_some_and(|j| labels[j] == queries.labels[i]))
        })
        .sum();
    100.0 * right as f64 / queries.len() as f64
}
