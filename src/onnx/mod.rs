//! Models in the ONNX format: any framework's model in, a smaller standard model out.
//!
//! [`OnnxModel`] finds the weights wherever they stand (initializers, `Constant` nodes, the graphs of `If`, `Loop` and `Scan`, other
//! files) and turns them into taper's layout. A [`Recipe`](crate::model::Recipe) or a [`Budget`](crate::model::Budget) compresses them,
//! and the model is written again in one of three [forms](Form).
//!
//! ```
//! use taper::model::{CompressOptions, Recipe};
//! use taper::onnx::{Form, OnnxModel};
//!
//! let model = OnnxModel::open("tests/models/linear.onnx")?;
//! let recipe = Recipe::from_toml(
//!     "[[rule]]\ntensors = \"*.weight\"\nchain = [{ fixed_point = { bits = 8, granularity = \"per_row\" } }]",
//! )?;
//! let (small, report) = recipe.compress(model.tensors(), &CompressOptions::default())?;
//! let (file, notes) = model.to_bytes(&small, Form::Portable)?; // or save("small.onnx", …)
//! assert!(notes.is_empty());
//! println!("{report}\n{} bytes as an ONNX file", file.len());
//! # Ok::<(), taper::Error>(())
//! ```

mod bits;
mod builder;
mod chain;
mod express;
mod graph;
mod inputs;
mod model;
mod roles;
mod schema;
mod smallest;
mod tensor;
#[cfg(test)]
mod tests;
mod weights;
mod wire;
mod write;

pub use model::OnnxModel;
pub use smallest::restore;
pub use write::Form;
