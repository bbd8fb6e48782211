//! The tensors of a network and their names.

use std::collections::BTreeMap;

use ndarray::ArrayD;

/// The tensors of a network by name.
pub type Tensors<F> = BTreeMap<String, ArrayD<F>>;

/// The names of a layer's tensors: the layer's name, a dot, and one of these suffixes.
///
/// The default is PyTorch's: `weight` and `bias` for all layers, and `running_mean` and `running_var` for batch
/// normalization. Pass other suffixes to [`Coupling::with_names`](super::Coupling::with_names).
///
/// ```
/// use taper::prune::{Coupling, TensorNames};
///
/// let mut net = Coupling::with_names(TensorNames {
///     scale: "gamma".to_owned(),
///     ..TensorNames::default()
/// });
/// let x = net.input(3)?;
/// let x = net.layer("conv", x, 8)?; // conv.weight, conv.bias
/// net.layer_norm("norm", x)?; // norm.gamma, norm.bias
/// # Ok::<(), taper::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorNames {
    /// The weight of a convolution or a linear layer.
    pub weight: String,
    /// The bias of a convolution or a linear layer.
    pub bias: String,
    /// The scale γ of a normalization.
    pub scale: String,
    /// The shift β of a normalization.
    pub shift: String,
    /// The running mean of a batch normalization.
    pub mean: String,
    /// The running variance of a batch normalization.
    pub variance: String,
}

impl Default for TensorNames {
    fn default() -> Self {
        Self {
            weight: "weight".to_owned(),
            bias: "bias".to_owned(),
            scale: "weight".to_owned(),
            shift: "bias".to_owned(),
            mean: "running_mean".to_owned(),
            variance: "running_var".to_owned(),
        }
    }
}
