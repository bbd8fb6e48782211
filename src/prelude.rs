//! The traits of this crate, for `use taper::prelude::*`.
//!
//! ```
//! use taper::ndarray::Array2;
//! use taper::prelude::*;
//! use taper::quantize::fixed_point::FixedPointQuantizer;
//!
//! let weights = Array2::from_shape_fn((64, 32), |(o, i)| ((o * 7 + i * 3) as f32).sin());
//! let matrix = FixedPointQuantizer::new(4).quantize(weights.view())?; // Quantizer
//! let y = matrix.apply(Array2::ones((2, 32)).view())?; // LinearOp
//! assert_eq!((y.dim(), matrix.storage().payload()), ((2, 64), 64 * 32 * 4)); // Compressed
//! # Ok::<(), taper::Error>(())
//! ```

pub use crate::{
    Compressed, Distiller, Factorizer, LinearOp, Observer, Pruner, Quantizer, Trainable,
};
