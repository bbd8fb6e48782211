//! What tensors are called.

/// What the tensors of a layer called `conv1` are called: its name, a dot, and one of these.
///
/// The default is PyTorch's: `weight`, `bias`, and `weight`, `bias`, `running_mean`, `running_var` in batch
/// normalization.
///
/// ```
/// use taper::prune::{Coupling, TensorNames};
///
/// let net = Coupling::with_names(TensorNames {
///     scale: "gamma".to_owned(),
///     shift: "beta".to_owned(),
///     ..TensorNames::default()
/// });
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorNames {
    /// The weight of a convolution or a linear layer.
    pub weight: String,
    /// Its bias.
    pub bias: String,
    /// The scale γ of a batch normalization.
    pub scale: String,
    /// Its shift β.
    pub shift: String,
    /// Its running mean.
    pub mean: String,
    /// Its running variance.
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
