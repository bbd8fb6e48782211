//! Trellis-coded quantization: the code of a weight selects the grid, one of two, of the next weight.
//!
//! Rounding to a grid of step 2Δ has an error of (2Δ)²/12 for each weight. Here, each weight is rounded to one of two such grids,
//! the even and the odd multiples of Δ. The grid follows from the earlier codes: a machine of eight states
//! (`states`) changes its state with the parity of each code. The Viterbi algorithm finds the nearest of all sequences of codes
//! ([`TrellisQuantizer`]). With the same number of codes for a weight, the error is about 1.1 dB smaller than on a single grid, or
//! the rate 0.18 bits lower at the same error. The limit of any such code is 1.53 dB.
//!
//! M. Marcellin and T. Fischer, "Trellis coded quantization of memoryless and Gauss–Markov sources", 1990, doi:10.1109/26.46532;
//! with the grids used in video coding, P. Haase et al., "Dependent Scalar Quantization for Neural Network
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
//! // 1.1 dB are a factor of 1.29; the first weight of a row has no choice of the grid.
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
