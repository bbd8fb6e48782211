//! Trellis-coded quantization: the code of one weight says on which of two grids the next one lies.
//!
//! Rounding to a grid of step 2Δ leaves an error of (2Δ)²/12 a weight. Here weights are rounded to either of two such grids,
//! the even and the odd multiples of Δ, and which of them it is follows from the codes before: a machine of eight states
//! (`states`) goes on with the parity of each code. Of all sequences of codes the nearest one is found by
//! the algorithm of Viterbi ([`TrellisQuantizer`]): more choice at the same number of codes, for an error that is about 1.1 dB smaller,
//! or 0.18 bits a weight at the same error. The limit of any such code is 1.53 dB.
//!
//! M. Marcellin and T. Fischer, "Trellis coded quantization of memoryless and Gauss–Markov sources", 1990, doi:10.1109/26.46532;
//! with the grids that video coding made of it, P. Haase et al., "Dependent Scalar Quantization for Neural Network
//! Compression", 2020, doi:10.1109/ICIP40778.2020.9190955.
//!
//! ```
//! use taper::ndarray::Array2;
//! use taper::quantize::{fixed_point::{FixedPointQuantizer, Range}, trellis::TrellisQuantizer};
//! use taper::{LinearOp, Quantizer};
//!
//! let weights = Array2::from_shape_fn((64, 128), |(o, i)| ((o * 31 + i * 17) as f64 * 0.7).sin());
//! // 127 values 2Δ apart, from −1.26 to 1.26.
//! let even = FixedPointQuantizer::new(7).range(Range::Fixed(1.26)).quantize(weights.view())?;
//! let trellis = TrellisQuantizer::new(0.01).quantize(weights.view())?;
//! let error = |rebuilt: Array2<f64>| (&weights - &rebuilt).iter().map(|x| x * x).sum::<f64>();
//! // 1.1 dB are a factor of 1.29; each row begins without a choice.
//! assert!(1.2 * error(trellis.decompress_matrix()?) < error(even.decompress_matrix()?));
//! # Ok::<(), taper::Error>(())
//! ```

mod matrix;
mod quantizer;
mod states;

pub use matrix::TrellisMatrix;
pub use quantizer::TrellisQuantizer;
#[cfg(feature = "model")]
pub(crate) use states::State;
