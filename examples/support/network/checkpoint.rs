//! Saving and continuing a long training.
//!
//! A checkpoint is a folder with the parameters, the state of the optimizer and the reports of the epochs. It is written to a temporary
//! folder and then moved, so that a run that ends while writing leaves the previous checkpoint.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use burn::module::Module;
use burn::optim::ModuleOptimizer;
use serde::{Deserialize, Serialize};

use super::train::EpochReport;

const MODEL: &str = "model.bpk";
const OPTIMIZER: &str = "optimizer.bpk";
const PROGRESS: &str = "progress.json";

/// Where and how often checkpoints are written.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// The folder of the last checkpoint.
    pub folder: PathBuf,
    /// Epochs between checkpoints. The last epoch always writes one.
    pub every: usize,
}

/// The state of a training besides the parameters.
#[derive(Debug, Serialize, Deserialize)]
struct Progress {
    /// The settings that identify the training.
    fingerprint: String,
    reports: Vec<EpochReport>,
}

impl Checkpoint {
    /// Whether a checkpoint is due after `done` of `epochs` epochs.
    pub fn due(&self, done: usize, epochs: usize) -> bool {
        done == epochs || done.is_multiple_of(self.every.max(1))
    }

    /// Writes a checkpoint of the training that `fingerprint` identifies.
    ///
    /// # Errors
    ///
    /// If a file cannot be written.
    pub fn save<M: Module>(
        &self,
        model: &M,
        optimizer: &ModuleOptimizer,
        fingerprint: &str,
        reports: &[EpochReport],
    ) -> anyhow::Result<()> {
        let next = self.beside("next");
        let last = self.beside("last");
        let _ = fs::remove_dir_all(&next);
        fs::create_dir_all(&next).with_context(|| format!("cannot create {}", next.display()))?;
        model.clone().save_file(next.join(MODEL))?;
        optimizer.save(next.join(OPTIMIZER))?;
        let progress = Progress {
            fingerprint: fingerprint.to_owned(),
            reports: reports.to_vec(),
        };
        fs::write(next.join(PROGRESS), serde_json::to_vec(&progress)?)?;
        let _ = fs::remove_dir_all(&last);
        if self.folder.exists() {
            fs::rename(&self.folder, &last)?;
        }
        fs::rename(&next, &self.folder)?;
        let _ = fs::remove_dir_all(&last);
        Ok(())
    }

    /// The model, the optimizer and the reports of the finished epochs; `None` without a checkpoint.
    ///
    /// # Errors
    ///
    /// If the checkpoint belongs to another training or cannot be read.
    pub fn load<M: Module>(
        &self,
        model: M,
        optimizer: ModuleOptimizer,
        fingerprint: &str,
    ) -> anyhow::Result<(M, ModuleOptimizer, Vec<EpochReport>)> {
        // If a run ended between the two moves of `save`, only the previous checkpoint is there.
        let last = self.beside("last");
        let folder = if self.folder.exists() {
            &self.folder
        } else {
            &last
        };
        if !folder.exists() {
            return Ok((model, optimizer, Vec::new()));
        }
        let progress = read_progress(folder)?;
        ensure!(
            progress.fingerprint == fingerprint,
            "{} belongs to another training ({}), not to this one ({fingerprint})",
            folder.display(),
            progress.fingerprint,
        );
        let model = model.try_load_file(folder.join(MODEL))?;
        let optimizer = optimizer.load(folder.join(OPTIMIZER))?;
        Ok((model, optimizer, progress.reports))
    }

    fn beside(&self, ending: &str) -> PathBuf {
        let mut name = self.folder.clone().into_os_string();
        name.push(".");
        name.push(ending);
        name.into()
    }
}

fn read_progress(folder: &Path) -> anyhow::Result<Progress> {
    let path = folder.join(PROGRESS);
    let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))
}
