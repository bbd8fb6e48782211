//! `Rank`: the size of a factorization.

use crate::check::in_range;
use crate::{Error, ParamError, Result, check};

/// The rank of a factorization, given directly or by a criterion.
///
/// ```
/// use taper::factorize::Rank;
/// use taper::factorize::svd::TruncatedSvd;
/// use taper::{Compressed, Factorizer};
/// use taper::ndarray::Array2;
///
/// let weights = Array2::from_shape_fn((64, 48), |(i, j)| ((i * j) as f32).sin());
/// let small = TruncatedSvd::new(Rank::Ratio(4.0)).factorize(weights.view())?;
/// assert_eq!(small.rank(), 6); // 64 · 48 / (6 · (64 + 48)) = 4.6, and rank 7 gives 3.9
/// assert!(small.ratio() >= 4.0);
/// # Ok::<(), taper::Error>(())
/// ```
#[cfg_attr(feature = "model", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "model", serde(rename_all = "snake_case"))]
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Rank {
    /// This number of terms, at least one.
    Fixed(usize),
    /// This fraction of the largest rank, in (0, 1], rounded; at least one.
    Fraction(f64),
    /// The smallest rank whose terms hold this fraction of the energy (the sum of the squared singular
    /// values), in (0, 1].
    Energy(f64),
    /// The largest rank that makes the number of stored values smaller by at least this factor.
    Ratio(f64),
}

impl Rank {
    /// Fails if the rank is wrong for every input.
    pub(crate) fn check(self) -> Result<(), ParamError> {
        let fraction = "in (0, 1]";
        match self {
            Self::Fixed(rank) => check::at_least_one("rank", rank),
            Self::Fraction(f) => {
                in_range("the fraction of the rank", f, fraction, f > 0.0 && f <= 1.0)
            }
            Self::Energy(e) => in_range(
                "the fraction of the energy",
                e,
                fraction,
                e > 0.0 && e <= 1.0,
            ),
            Self::Ratio(ratio) => in_range(
                "the compression ratio",
                ratio,
                "positive and finite",
                ratio > 0.0 && ratio.is_finite(),
            ),
        }
    }

    /// Returns the rank if the shape alone decides it, `None` for an energy. `largest` is the largest rank, `dense` the number
    /// of values of the input, and `per_term` the number of values that each term stores.
    ///
    /// # Errors
    ///
    /// [`Error::ExceedsInput`] for a rank above `largest`, [`Error::RatioOutOfReach`].
    pub(crate) fn by_shape(
        self,
        largest: usize,
        dense: usize,
        per_term: usize,
    ) -> Result<Option<usize>> {
        match self {
            Self::Fixed(value) if value > largest => Err(Error::ExceedsInput {
                what: "the rank",
                value,
                limit: largest,
            }),
            Self::Fixed(rank) => Ok(Some(rank)),
            Self::Fraction(fraction) => {
                let rank = (fraction * largest as f64).round() as usize;
                Ok(Some(rank.clamp(1, largest.max(1))))
            }
            Self::Energy(_) => Ok(None),
            Self::Ratio(ratio) => {
                let terms = dense as f64 / (ratio * per_term as f64);
                if terms < 1.0 {
                    return Err(Error::RatioOutOfReach {
                        ratio,
                        limit: dense as f64 / per_term as f64,
                    });
                }
                Ok(Some((terms as usize).min(largest)))
            }
        }
    }

    /// Returns the smallest number of leading `energies` (in falling order) that sum to `fraction` of `total`; at least one.
    pub(crate) fn by_energy(
        fraction: f64,
        total: f64,
        energies: impl IntoIterator<Item = f64>,
    ) -> usize {
        let mut count = 0;
        let mut held = 0.0;
        for energy in energies {
            if count > 0 && (held >= fraction * total || energy == 0.0) {
                break;
            }
            held += energy;
            count += 1;
        }
        count.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_follow_from_the_shape() {
        // The shapes of a 784 by 4096 layer: the largest rank is 784.
        let resolve = |rank: Rank| rank.by_shape(784, 784 * 4096, 784 + 4096);
        assert_eq!(resolve(Rank::Fixed(39)), Ok(Some(39)));
        assert_eq!(resolve(Rank::Fraction(0.05)), Ok(Some(39)));
        assert_eq!(resolve(Rank::Fraction(1e-9)), Ok(Some(1)));
        assert_eq!(resolve(Rank::Fraction(1.0)), Ok(Some(784)));
        assert_eq!(resolve(Rank::Energy(0.5)), Ok(None));
        assert_eq!(resolve(Rank::Ratio(1e-9)), Ok(Some(784)));
        let Ok(Some(rank)) = resolve(Rank::Ratio(20.0)) else {
            panic!("a ratio of 20 needs a rank");
        };
        let ratio = |rank: usize| (784.0 * 4096.0) / (rank as f64 * (784.0 + 4096.0));
        assert!(ratio(rank) >= 20.0 && ratio(rank + 1) < 20.0);
        let exceeds = Error::ExceedsInput {
            what: "the rank",
            value: 785,
            limit: 784,
        };
        assert_eq!(resolve(Rank::Fixed(785)), Err(exceeds));
        assert!(matches!(
            resolve(Rank::Ratio(700.0)),
            Err(Error::RatioOutOfReach { .. })
        ));
    }

    #[test]
    fn ranks_follow_from_the_energy() {
        let energies = [9.0, 4.0, 1.0, 0.0];
        let rank = |fraction| Rank::by_energy(fraction, 14.0, energies);
        assert_eq!(
            [rank(0.1), rank(0.65), rank(0.9), rank(0.93), rank(1.0)],
            [1, 2, 2, 3, 3]
        );
        assert_eq!(Rank::by_energy(1.0, 0.0, [0.0, 0.0]), 1);
    }

    #[test]
    fn ranks_out_of_range_are_errors() {
        for rank in [
            Rank::Fixed(0),
            Rank::Fraction(0.0),
            Rank::Fraction(1.1),
            Rank::Energy(f64::NAN),
            Rank::Energy(-0.1),
            Rank::Ratio(0.0),
            Rank::Ratio(f64::INFINITY),
        ] {
            assert!(rank.check().is_err(), "{rank:?}");
        }
        for rank in [
            Rank::Fixed(1),
            Rank::Fraction(1.0),
            Rank::Energy(1.0),
            Rank::Ratio(0.5),
        ] {
            assert_eq!(rank.check(), Ok(()));
        }
    }
}
