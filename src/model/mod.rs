//! Whole models: from a safetensors file to a compressed container and back.
//!
//! A [`Recipe`] says how each tensor is compressed; [`Budget`] finds one for a size or an error. The result is a
//! [`CompressedModel`], which holds the tensors by name. It is saved as a safetensors file of the parts of the compressed
//! tensors and of the tensors that are kept, entropy-coded where that is smaller. [`Recipe::compress_file`] compresses a model that is
//! larger than memory from file to file, tensor by tensor; several processes can share the work ([`Shard`]).
//! [`extend`] is for artifacts of your own.
//!
//! ```
//! use ndarray::Array2;
//! use taper::Quantizer;
//! use taper::model::{CompressedModel, CompressedTensor};
//! use taper::ndarray;
//! use taper::quantize::product::ProductQuantizer;
//!
//! let weights = Array2::from_shape_fn((64, 32), |(i, j)| ((i * 7 + j * 3) as f32).sin());
//! let matrix = ProductQuantizer::new(16).centroids(16).quantize(weights.view())?;
//!
//! let mut model = CompressedModel::new();
//! model.insert("fc.weight", CompressedTensor::new(matrix))?;
//! let bytes = model.to_bytes()?;
//! assert_eq!(bytes.len() as u64, model.file_bytes()?);
//!
//! let again = CompressedModel::from_bytes(&bytes)?;
//! assert_eq!(again.decompress("fc.weight")?, model.decompress("fc.weight")?);
//! # Ok::<(), taper::Error>(())
//! ```

mod allocate;
mod budget;
mod calibration;
mod compress;
mod compressed;
mod container;
mod curve;
mod elements;
mod entropy;
mod entry;
pub mod extend;
mod foreign;
mod gguf;
mod header;
mod index;
mod inspect;
mod kinds;
mod layouts;
mod plan;
mod recipe;
mod report;
mod save;
mod scales;
mod search;
mod shard;
mod source;
mod step;
mod tensors;
#[cfg(test)]
mod tests;
mod ties;
#[cfg(feature = "onnx")]
mod turned;

pub use budget::{Budget, few_bit_candidates};
pub use calibration::Calibration;
pub use compress::CompressOptions;
pub use compressed::CompressedModel;
pub use container::Container;
#[doc(hidden)]
pub use container::ContainerWriter;
pub use entry::{CompressedTensor, Entry};
pub use kinds::{Dense, FactoredMatrix, FactoredTensor, SparseQuantized};
pub use recipe::{Recipe, Rule};
pub use report::{Report, ReportRow};
pub use search::BudgetSearch;
pub use shard::Shard;
pub use step::Step;
pub use tensors::{NamedTensors, TensorData};

#[cfg(feature = "onnx")]
pub(crate) use {
    entropy::text::{decode_bytes, encode_bytes},
    save::NewFile,
    source::Source,
    tensors::StoredTensor,
    tensors::within,
    turned::Turned,
};
