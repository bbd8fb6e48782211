//! The ways to compare a student's softened probabilities with a teacher's.

use super::check_weight;
use crate::ParamError;

/// How a [`KnowledgeDistillation`](super::KnowledgeDistillation) compares the student with the teacher: its distance $D$.
///
/// Below, $z$ are the student's logits and $q = \mathrm{softmax}(z/T)$, and $v$ and $p$ are the teacher's, all of shape
/// (batch, classes).
///
/// ```
/// use taper::Distiller;
/// use taper::distill::{Comparison, KnowledgeDistillation};
/// use taper::ndarray::array;
///
/// let teacher = array![[4.0, 1.0, -2.0], [0.0, 3.0, 2.0]];
/// // This student has the teacher's preferences, but it is only half as sure of them.
/// let student = &teacher * 0.5;
/// let distance = |comparison| {
///     let loss = KnowledgeDistillation::new(2.0).alpha(1.0).comparison(comparison);
///     loss.loss(student.view(), teacher.view(), &[0, 1]).map(|(value, _)| value.soft)
/// };
/// assert!(distance(Comparison::Hinton)? > 0.05);
/// // Standardized logits say which classes are alike, and not how sure a network is.
/// assert!(distance(Comparison::Standardized)? < 1e-15);
/// # Ok::<(), taper::Error>(())
/// ```
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(
    feature = "model",
    serde(rename_all = "snake_case", deny_unknown_fields)
)]
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub enum Comparison {
    /// The divergence of the probabilities: $D = \frac1B \sum_b \mathrm{KL}(p_b \\,\Vert\\, q_b)$. The default.
    ///
    /// Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network"
    /// ([arXiv:1503.02531](https://arxiv.org/abs/1503.02531)).
    #[default]
    Hinton,
    /// The same divergence, of logits that are standardized first: each row has its mean subtracted and is divided by its
    /// standard deviation over the K classes (of the population: the sum of squares divided by K).
    ///
    /// The student then need not reach the size of the teacher's logits, which a small network often cannot. Sun, Ren, Li, Wang
    /// and Cao, "Logit Standardization in Knowledge Distillation" ([arXiv:2403.01427](https://arxiv.org/abs/2403.01427)).
    ///
    /// Needs two classes. A row whose logits are all equal is standardized to zeros; a student gets no gradient from the teacher there.
    Standardized,
    /// Decoupled distillation (DKD): $D = \frac1B \sum_b \big(\alpha \\, \mathrm{KL}(b^p \Vert b^q) + \beta \\,
    /// \mathrm{KL}(\hat p \Vert \hat q)\big)$.
    ///
    /// $b^p = (p_y, 1 - p_y)$ are the teacher's probabilities of the label and of all other classes, and $\hat p$ those of the
    /// other classes among themselves; $b^q$ and $\hat q$ are the student's. The divergence of [`Hinton`](Self::Hinton) is
    /// the case α = 1, $\beta = 1 - p_y$: where the teacher is sure of the label, it hardly teaches how the other classes
    /// compare. Zhao, Cui, Song, Qiu and Liang, "Decoupled Knowledge Distillation"
    /// ([arXiv:2203.08679](https://arxiv.org/abs/2203.08679)), whose usual choice is α = 1, β = 8, T = 4.
    ///
    /// Needs two classes, and always the labels.
    Dkd {
        /// The weight α of the label against the other classes, at least 0.
        target: f64,
        /// The weight β of the other classes among themselves, at least 0.
        others: f64,
    },
    /// Correlations in place of divergences (DIST): $D = \beta \big(1 - \frac1B \sum_b \rho(q_{b \cdot}, p_{b \cdot})\big) + \gamma
    /// \big(1 - \frac1K \sum_k \rho(q_{\cdot k}, p_{\cdot k})\big)$ with Pearson's correlation $\rho$.
    ///
    /// The first part compares the K classes of one sample (the paper's inter-class relation), the second one class over
    /// the B samples of the batch (the intra-class relation). Neither changes if the student's probabilities are stretched or
    /// shifted. Huang, You, Wang, Qian and Xu, "Knowledge Distillation from A Stronger Teacher"
    /// ([arXiv:2205.10536](https://arxiv.org/abs/2205.10536)), with β = γ = 1 and T = 1 for ImageNet, β = γ = 2 and T = 4 for
    /// CIFAR-100.
    ///
    /// Needs two classes for `inter` and two samples for `intra`, unless the weight is 0. Where the teacher's
    /// probabilities are all equal there is nothing to compare, which adds 0; where only the student's are, the correlation
    /// counts as 0, without a gradient. The distance does not shrink like 1/T² at high temperatures, as divergences do.
    Dist {
        /// The weight β of the relation between classes, at least 0.
        inter: f64,
        /// The weight γ of the relation within each class, at least 0.
        intra: f64,
    },
}

impl Comparison {
    pub(super) fn validate(self) -> Result<(), ParamError> {
        match self {
            Self::Hinton | Self::Standardized => Ok(()),
            Self::Dkd { target, others } => {
                check_weight("target", target)?;
                check_weight("others", others)
            }
            Self::Dist { inter, intra } => {
                check_weight("inter", inter)?;
                check_weight("intra", intra)
            }
        }
    }
}
