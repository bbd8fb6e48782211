//! A model in the ONNX format: its graph, and its weights by name.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::graph::Graphs;
use super::schema::{self, MODEL};
use super::smallest;
use super::tensor::{self, Files};
use super::weights::{Weight, check, find, main, main_mut};
use super::wire::{Chunk, Message};
use crate::model::{NamedTensors, Source, StoredTensor};
use crate::{Error, Result};

/// A model in the ONNX format.
///
/// [`tensors`](Self::tensors) has its weights, which a [`Recipe`](crate::model::Recipe) or a [`Budget`](crate::model::Budget)
/// compresses as those of a safetensors file; [`save`](Self::save) writes the model with the result.
/// The [module](super) has an example.
#[derive(Debug)]
pub struct OnnxModel {
    pub(super) root: Message,
    tensors: NamedTensors,
    pub(super) weights: BTreeMap<String, Weight>,
    notes: Vec<String>,
}

impl OnnxModel {
    /// Opens the model at `path`, mapped into memory.
    ///
    /// Tensors may lie in other files in the folder of the model or below it. While the files are mapped, no process may shorten
    /// them or write to them, as [`NamedTensors::open`] explains.
    ///
    /// # Errors
    ///
    /// [`Error::File`](crate::Error::File); [`Error::Malformed`](crate::Error::Malformed) for a file that is not one of this format, that was cut, or whose tensors do
    /// not have the bytes of their shapes, and for tensors in files outside of the folder.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let folder = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        Self::new(Source::map(path)?, Some(folder))
    }

    /// The model whose file has these bytes. Its tensors may not lie in other files.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`](crate::Error::Malformed) as for [`open`](Self::open), [`Error::Unsupported`](crate::Error::Unsupported)
    /// for tensors in other files.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        Self::new(Source::from(bytes), None)
    }

    fn new(source: Source, folder: Option<&Path>) -> Result<Self> {
        let file = Chunk::new(Arc::new(source));
        let mut root = Message::read(&file, &MODEL)?;
        if smallest::has_form(&root) {
            return Err(Error::Unsupported {
                what: "a file of the form Smallest".to_owned(),
                reason: "taper::onnx::restore gives the model".to_owned(),
            });
        }
        check(&root)?;
        let mut files = Files::new(folder);
        tensor::each_tensor(main_mut(&mut root), &mut |tensor| files.gather(tensor))?;
        let length = file.len() as u64 + files.length();
        Self::of(root, length)
    }

    /// The model of a message; `length` is the length of its files.
    fn of(root: Message, length: u64) -> Result<Self> {
        let (weights, notes) = find(&root)?;
        let mut sources: Vec<Arc<Source>> = Vec::new();
        let mut stored = Vec::new();
        let graphs = Graphs::of(main(&root));
        for (name, weight) in &weights {
            let message = weight.message(&graphs);
            let bytes = tensor::elements(message, weight.dtype, &weight.shape)?;
            let known = sources
                .iter()
                .rposition(|source| Arc::ptr_eq(source, &bytes.source));
            let source = known.unwrap_or(sources.len());
            if known.is_none() {
                sources.push(Arc::clone(&bytes.source));
            }
            let place = StoredTensor {
                source,
                bytes: bytes.range.clone(),
                dtype: weight.dtype,
                shape: weight.shape.clone(),
                turned: weight.turned.clone(),
            };
            stored.push((name.clone(), place));
        }
        Ok(Self {
            tensors: NamedTensors::of_places(length, sources, stored),
            root,
            weights,
            notes,
        })
    }

    /// The weights, in the layout of taper: the first axis is the output.
    ///
    /// A weight has the name of its value in the graph; in the graph of an `If`, `Loop` or `Scan`, the name of that node and of the
    /// graph come first, such as `If_0.then_branch.fc.weight`. `MatMul` and `Gemm` weights are (out, in), kernels of `Conv` and
    /// `ConvTranspose` (out, in / groups, …), weights of `LSTM`, `GRU` and `RNN` (directions · gates · hidden, in), tables of `Gather`
    /// as they are. Tensors of one value, and those that [`notes`](Self::notes) names, are not among them.
    #[must_use]
    pub fn tensors(&self) -> &NamedTensors {
        &self.tensors
    }

    /// Why tensors of real numbers are not among the weights; they stay as they are, bit for bit.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    pub(super) fn graph(&self) -> &Message {
        main(&self.root)
    }

    /// The version of the standard operators.
    pub(super) fn opset(&self) -> i64 {
        schema::version(&self.root, "").unwrap_or(1)
    }
}
