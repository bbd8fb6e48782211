//! The code of `docs/guide/first-steps.md` as the program of a first user.
//!
//! The argument is the path of the page. The program checks that it contains every line of the page's code, so that the page shows
//! code that runs.

use std::collections::HashSet;

use taper::ndarray::Array2;
use taper::quantize::product::{PqMatrix, ProductQuantizer};
use taper::{Compressed, Quantizer};
use taper::factorize::Rank;
use taper::factorize::svd::{LowRankMatrix, TruncatedSvd};
use taper::Factorizer;
use taper::prune::{Keep, MagnitudePruner, SparseMatrix, Sparsity};
use taper::LinearOp;
use taper::model::{CompressedModel, CompressedTensor};
use taper::distill::KnowledgeDistillation;
use taper::{Distiller, Trainable};

fn weights() -> Array2<f32> {
    Array2::from_shape_fn((256, 128), |(o, i)| ((o * 37 + i * 11) as f32).sin())
}

fn quantize() -> taper::Result<PqMatrix<f32>> {
    let matrix = ProductQuantizer::with_width(4).centroids(256).seed(7).quantize(weights().view())?;
    println!("quantized: {}, {:.1} times smaller", matrix.storage(), matrix.ratio());
    Ok(matrix)
}

fn factorize() -> taper::Result<LowRankMatrix<f32>> {
    let factors = TruncatedSvd::new(Rank::Ratio(8.0)).factorize(weights().view())?;
    println!("factorized: rank {}, {:.1} times smaller", factors.rank(), factors.ratio());
    Ok(factors)
}

fn prune() -> taper::Result<SparseMatrix<f32>> {
    let pruner = MagnitudePruner::new(Sparsity::Unstructured(Keep::Fraction(0.1)));
    let sparse = pruner.prune_matrix(weights().view())?;
    println!("pruned: {} weights left, {:.1} times smaller", sparse.nonzeros(), sparse.ratio());
    Ok(sparse)
}

fn save_and_load(path: &std::path::Path) -> taper::Result<()> {
    let (quantized, factors, sparse) = (quantize()?, factorize()?, prune()?);
    let x = Array2::from_shape_fn((4, 128), |(b, i)| ((b + i) as f32).cos());
    let expected = [
        quantized.apply(x.view())?,
        factors.apply(x.view())?,
        sparse.apply(x.view())?,
    ];

    let mut model = CompressedModel::new();
    model.insert("fc1.weight", CompressedTensor::new(quantized))?;
    model.insert("fc2.weight", CompressedTensor::new(factors))?;
    model.insert("fc3.weight", CompressedTensor::new(sparse))?;
    let bytes = model.save(path)?;
    println!("saved: {bytes} bytes");

    let loaded = CompressedModel::load(path)?;
    for (name, y) in ["fc1.weight", "fc2.weight", "fc3.weight"].into_iter().zip(expected) {
        assert_eq!(loaded.apply(name, x.view())?, y);
    }
    Ok(())
}

fn distill() -> taper::Result<()> {
    let mut student = quantize()?;
    let x = Array2::from_shape_fn((64, 128), |(b, i)| 0.1 * ((b * 5 + i * 3) as f32).cos());
    let teacher = x.dot(&weights().t());
    let distiller = KnowledgeDistillation::new(2.0).alpha(1.0); // the teacher alone: no labels

    let mut losses = Vec::new();
    for _ in 0..20 {
        let logits = student.apply(x.view())?;
        let (loss, gradient) = distiller.loss(logits.view(), teacher.view(), &[])?;
        losses.push(loss.total);
        let gradient = gradient.t().dot(&x); // ∂L/∂W of y = x Wᵀ
        student.step(gradient.view().into_dyn(), 1.0)?;
    }
    println!("distilled: loss {:.2e} before, {:.2e} after", losses[0], losses[19]);
    assert!(losses[19] < losses[0]);
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let page = std::env::args().nth(1).ok_or("usage: first-user PAGE.md")?;
    follows(&std::fs::read_to_string(page)?)?;
    let path = std::env::temp_dir().join(format!("first-user-{}.safetensors", std::process::id()));
    save_and_load(&path)?;
    std::fs::remove_file(&path)?;
    distill()?;
    println!("saved, loaded, applied and distilled");
    Ok(())
}

/// Returns an error for a line of the page's code that this program does not contain.
fn follows(page: &str) -> Result<(), String> {
    let program: HashSet<&str> = include_str!("main.rs").lines().collect();
    let (mut code, mut fenced) = (false, false);
    let mut lines = 0;
    for line in page.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
            code = fenced && line == "```"; // Rust, not a shell's commands
        } else if code && line != "#" && !line.starts_with("# ") {
            if !program.contains(line) {
                return Err(format!("the program lacks this line of the page: {line}"));
            }
            lines += 1;
        }
    }
    if lines < 50 {
        return Err(format!("the page has only {lines} lines of code"));
    }
    Ok(())
}
