//! How compressed layers are fine-tuned: recipes, with code that runs.
//!
//! A codebook that was fitted to weights is seldom the best one for the network. A few passes over training data
//! bring back most of what was lost, at no byte more: only the real numbers of an artifact move, its codes and
//! positions stay. [`Trainable`](crate::Trainable) is all that is needed:
//!
//! 1. [`decompress`](crate::Compressed::decompress) the weight, and give it to the framework as a plain parameter;
//! 2. forward, loss, backward: the framework leaves ∂L/∂Ŵ;
//! 3. [`gradient`](crate::Trainable::gradient) turns it into that of codebooks, factors, scales or kept weights;
//! 4. an optimizer moves [`parameters`](crate::Trainable::parameters), and
//!    [`set_parameters`](crate::Trainable::set_parameters) puts them back. [`step`](crate::Trainable::step) does 3 and 4 for
//!    plain gradient descent.
//!
//! Parameters that are stored in half precision are rounded when they are set. An optimizer with small steps keeps them in
//! full precision itself and sets them from there.
//!
//! # Layer by layer, then end to end
//!
//! The recipe of P. Stock et al., "And the bit goes down: revisiting the quantization of neural networks", 2019,
//! arXiv:1907.05686, sections 3.3 and 3.4:
//!
//! - the uncompressed network is the teacher: no labels are needed, and the loss is the divergence between the two
//!   networks' outputs ([`KnowledgeDistillation`](crate::distill::KnowledgeDistillation) with α = 1);
//! - layers are compressed one after the other from the input on, each followed by some steps on its own codebook, so
//!   that the next layer is compressed in a network that works;
//! - at last all codebooks are trained together. Statistics of batch normalization are estimated anew before that.
//!
//! A codebook value stands for many weights, and its gradient is the sum over them. Stock et al. take the mean, which gives
//! every centroid steps of the same size: divide by what the gradient of ones is. Optimizers that scale each parameter by
//! itself, as Adam does, need no such division.
//!
//! ```
//! use taper::distill::KnowledgeDistillation;
//! use taper::ndarray::{Array2, Zip};
//! use taper::quantize::product::{PqMatrix, ProductQuantizer};
//! use taper::{Distiller, LinearOp, Quantizer, Seed, Trainable};
//!
//! // A network of two layers, x → relu(x W₁ᵀ) → W₂ᵀ, its backward pass by hand in place of a framework.
//! fn forward(w: &[Array2<f64>], x: &Array2<f64>) -> (Array2<f64>, Array2<f64>) {
//!     let hidden = x.dot(&w[0].t()).mapv(|h| h.max(0.0));
//!     let logits = hidden.dot(&w[1].t());
//!     (hidden, logits)
//! }
//! fn backward(
//!     w: &[Array2<f64>],
//!     x: &Array2<f64>,
//!     hidden: &Array2<f64>,
//!     logits: &Array2<f64>,
//! ) -> [Array2<f64>; 2] {
//!     let mut into_hidden = logits.dot(&w[1]);
//!     Zip::from(&mut into_hidden).and(hidden).for_each(|g, &h| {
//!         if h == 0.0 {
//!             *g = 0.0;
//!         }
//!     });
//!     [into_hidden.t().dot(x), logits.t().dot(hidden)]
//! }
//!
//! let random = |rows: usize, columns: usize, seed: u64| {
//!     Array2::from_shape_fn((rows, columns), |(i, j)| {
//!         let bits = Seed::from(seed).derive((i * columns + j) as u64).value();
//!         (bits >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
//!     })
//! };
//! let x = random(64, 12, 1);
//! let dense = [random(16, 12, 2), random(4, 16, 3)];
//! let (_, teacher) = forward(&dense, &x);
//! let distiller = KnowledgeDistillation::new(2.0).alpha(1.0); // the teacher alone: no labels
//!
//! // Some steps on the codebooks of the given layers; the loss before each.
//! let tune = |w: &mut [Array2<f64>; 2],
//!             small: &mut [Option<PqMatrix<f64>>; 2],
//!             layers: &[usize],
//!             steps: usize|
//!  -> taper::Result<Vec<f64>> {
//!     let mut losses = Vec::new();
//!     for _ in 0..steps {
//!         let (hidden, logits) = forward(w, &x);
//!         let loss = distiller.loss(logits.view(), teacher.view(), &[])?;
//!         losses.push(loss.value.total);
//!         let gradients = backward(w, &x, &hidden, &loss.gradient);
//!         for &layer in layers {
//!             if let Some(artifact) = &mut small[layer] {
//!                 let gradient = artifact.gradient(gradients[layer].view().into_dyn())?;
//!                 let ones = Array2::ones(w[layer].raw_dim());
//!                 let shares = artifact.gradient(ones.view().into_dyn())?;
//!                 let mut parameters = artifact.parameters();
//!                 Zip::from(&mut parameters)
//!                     .and(&gradient)
//!                     .and(&shares)
//!                     .for_each(|p, &g, &n: &f64| *p -= 0.1 * g / n.max(1.0));
//!                 artifact.set_parameters(parameters.view())?;
//!                 w[layer] = artifact.decompress_matrix()?;
//!             }
//!         }
//!     }
//!     Ok(losses)
//! };
//!
//! let quantizer = ProductQuantizer::new(4).centroids(4).seed(7);
//! let mut weights = dense.clone();
//! let mut small = [None, None];
//! for layer in 0..2 {
//!     let artifact = quantizer.quantize(dense[layer].view())?;
//!     weights[layer] = artifact.decompress_matrix()?;
//!     small[layer] = Some(artifact);
//!     let losses = tune(&mut weights, &mut small, &[layer], 20)?;
//!     assert!(losses.last() < losses.first());
//! }
//! let losses = tune(&mut weights, &mut small, &[0, 1], 60)?;
//! assert!(losses.last() < losses.first());
//! # Ok::<(), taper::Error>(())
//! ```
//!
//! # Other artifacts
//!
//! The loop is the same for all of them; what the parameters are is different:
//!
//! | artifact | parameters |
//! |---|---|
//! | [`PqMatrix`](crate::quantize::product::PqMatrix), [`ResidualPqMatrix`](crate::quantize::product::ResidualPqMatrix) | centroids |
//! | [`FixedPointMatrix`](crate::quantize::fixed_point::FixedPointMatrix) | scales, offsets |
//! | [`BinaryMatrix`](crate::quantize::binary::BinaryMatrix) | scales |
//! | [`LowRankMatrix`](crate::factorize::svd::LowRankMatrix) | both factors, singular values |
//! | [`CpTensor`](crate::factorize::cp::CpTensor) | weights of terms, factors |
//! | [`SparseMatrix`](crate::prune::SparseMatrix) | the kept weights |
//!
//! An embedder with automatic differentiation may as well build Ŵ from the parameters inside the framework (two thin layers
//! in place of a low-rank matrix); the gradients are the same.
