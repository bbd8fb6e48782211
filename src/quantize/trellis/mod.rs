//! Trellis-coded quantization: the code of a weight selects the grid, one of two, of the next weight.
//!
//! Rounding to a grid of step 2Δ has an error of (2Δ)²/12 for each weight. Here, each weight is rounded to one of two such grids,
//! whose values are 2k + 1/2 and −2k − 1/2 steps for the number k. The grid follows from the earlier numbers: a machine of 8 to
//! 256 states changes its state with the parity of each number, and the last bit of the state is the grid. The Viterbi algorithm
//! finds the best of all sequences of numbers ([`TrellisQuantizer`]). Because the two grids mirror each other, one
//! law serves for both, and the number 0 can become as frequent as the source allows: the code is close to the rate-distortion function at low rates as well.
//!
//! M. Marcellin and T. Fischer, "Trellis coded quantization of memoryless and Gauss–Markov sources", 1990, doi:10.1109/26.46532;
//! T. Fischer and M. Wang, "Entropy-constrained trellis-coded quantization", 1992, doi:10.1109/18.119696; M. Marcellin, "On
//! entropy-constrained trellis coded quantization", 1994, doi:10.1109/26.275298.
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
//! // The trellis gains about 1.2 dB of the 1.53 dB that any code can gain on a grid: a factor of 1.3.
//! assert!(1.2 * error(trellis.decompress_matrix()?) < error(even.decompress_matrix()?));
//! # Ok::<(), taper::Error>(())
//! ```

mod laws;
pub(crate) mod layout;
mod machine;
mod matrix;
mod quantizer;
mod scales;
mod search;
#[cfg(test)]
mod tests;

pub use matrix::TrellisMatrix;
pub use quantizer::TrellisQuantizer;
