//! A guide to taper, page by page. All code in it runs as tests, but for the layers of other frameworks.
//!
//! | page | what it answers |
//! |---|---|
//! | [`first_steps`] | how is a matrix compressed, stored, read and multiplied? |
//! | [`choosing`] | which method, and what does each save and cost? |
//! | [`conventions`] | which shapes, symbols, types and parameters? |
//! | [`calibration`] | what do a layer's inputs change? |
//! | [`combining`] | which methods go together, and how within a budget? |
//! | [`running`] | how do compressed layers multiply? |
//! | [`fine_tuning`] | how are compressed layers trained further? |
//! | [`limits`] | how far is a result from what is possible? |
//! | [`file_format`] | what is in a file? |
//! | [`features`] | which features are there? |
//! | [`determinism`] | when are two results the same? |
//!
//! ```
//! // An array goes in, an artifact comes out.
//! use taper::ndarray::Array2;
//! use taper::quantize::fixed_point::FixedPointQuantizer;
//! use taper::{Compressed, Quantizer};
//!
//! let artifact = FixedPointQuantizer::new(4).quantize(Array2::<f32>::eye(8).view())?;
//! assert_eq!(artifact.storage().bytes(), 8 * 8 / 2 + 4);
//! # Ok::<(), taper::Error>(())
//! ```

#[doc = include_str!("../docs/guide/first-steps.md")]
pub mod first_steps {}

#[doc = include_str!("../docs/guide/choosing.md")]
pub mod choosing {}

#[doc = include_str!("../docs/guide/conventions.md")]
pub mod conventions {}

#[doc = include_str!("../docs/guide/calibration.md")]
pub mod calibration {}

#[doc = include_str!("../docs/guide/combining.md")]
pub mod combining {}

#[doc = include_str!("../docs/guide/running.md")]
pub mod running {}

#[cfg(feature = "onnx")]
#[doc = include_str!("../docs/guide/onnx.md")]
pub mod onnx {}

#[doc = include_str!("../docs/guide/fine-tuning.md")]
pub mod fine_tuning {}

#[doc = include_str!("../docs/guide/limits.md")]
pub mod limits {}

#[doc = include_str!("../docs/format.md")]
pub mod file_format {}

#[doc = include_str!("../docs/guide/features.md")]
pub mod features {}

#[doc = include_str!("../docs/guide/determinism.md")]
pub mod determinism {}
