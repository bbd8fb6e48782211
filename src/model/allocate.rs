//! The allocation of a budget to layers.

use crate::{Error, ParamError, Result};

/// Size and error of one way to compress one layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct RatePoint {
    /// Its bytes in the file.
    pub(super) bytes: u64,
    /// Its error, multiplied by the sensitivity of the layer: errors of different layers add up.
    pub(super) error: f64,
}

/// The limit within which [`allocate`] chooses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Limit {
    /// The least error in at most this many bytes.
    Bytes(u64),
    /// The fewest bytes at no more than this error.
    Error(f64),
}

/// Chooses one point of each layer: the sum that the limit bounds stays within it, and the other sum is small.
///
/// The candidates are first the points on the lower convex hull of each layer, which minimize a Lagrangian λ·bytes + error.
/// Every layer starts at its cheapest point. Steps along the hulls are then taken in descending order of the error that they
/// save per byte, as long as they fit into the limit. A greedy search over all points uses what remains. Sums that steps
/// along the hulls reach exactly are optimal; others miss the optimum by less than one such step (Shoham and Gersho,
/// "Efficient bit allocation for an arbitrary set of quantizers", 1988, doi:10.1109/29.90373).
///
/// # Errors
///
/// [`Error::EmptyAxis`] for a layer without points, [`Error::Parameter`] for errors that are negative or not finite, and
/// [`Error::BudgetOutOfReach`] where even the cheapest (or the most accurate) points of all layers exceed the limit.
pub(super) fn allocate(layers: &[Vec<RatePoint>], limit: Limit) -> Result<Vec<usize>> {
    for points in layers {
        crate::check::not_empty("the points of a layer", &[points.len()])?;
        if let Some(point) = points
            .iter()
            .find(|p| !(p.error.is_finite() && p.error >= 0.0))
        {
            return Err(Error::Parameter(ParamError::OutOfRange {
                name: "the error of a point",
                range: "finite and not negative",
                value: point.error,
            }));
        }
    }
    match limit {
        Limit::Bytes(bytes) => within_bytes(layers, bytes),
        Limit::Error(error) => within_error(layers, error),
    }
}

/// The indices of the lower convex hull, from the fewest bytes to the least error.
fn hull(points: &[RatePoint]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..points.len()).collect();
    order.sort_by(|&i, &j| {
        let (a, b) = (points[i], points[j]);
        a.bytes
            .cmp(&b.bytes)
            .then(a.error.total_cmp(&b.error))
            .then(i.cmp(&j))
    });
    let mut hull: Vec<usize> = Vec::new();
    for i in order {
        if hull
            .last()
            .is_some_and(|&last| points[i].error >= points[last].error)
        {
            continue;
        }
        while let [.., a, b] = hull.as_slice() {
            if saving(points[*a], points[*b]) <= saving(points[*b], points[i]) {
                hull.pop();
            } else {
                break;
            }
        }
        hull.push(i);
    }
    hull
}

/// The error that one more byte saves.
fn saving(from: RatePoint, to: RatePoint) -> f64 {
    let bytes = to.bytes.saturating_sub(from.bytes);
    if bytes == 0 {
        return f64::INFINITY;
    }
    (from.error - to.error) / bytes as f64
}

/// A choice of one point for each layer.
struct Choice<'a> {
    layers: &'a [Vec<RatePoint>],
    chosen: Vec<usize>,
    /// The sum of the chosen points' bytes.
    bytes: u128,
}

impl Choice<'_> {
    fn point(&self, layer: usize, index: usize) -> RatePoint {
        self.layers[layer][index]
    }

    fn current(&self, layer: usize) -> RatePoint {
        self.point(layer, self.chosen[layer])
    }

    fn set(&mut self, layer: usize, index: usize) {
        self.bytes = self.bytes_with(layer, index);
        self.chosen[layer] = index;
    }

    fn error(&self) -> f64 {
        (0..self.layers.len())
            .map(|layer| self.current(layer).error)
            .sum()
    }

    /// The bytes with another point of one layer.
    fn bytes_with(&self, layer: usize, index: usize) -> u128 {
        self.bytes - u128::from(self.current(layer).bytes)
            + u128::from(self.point(layer, index).bytes)
    }

    fn error_with(&self, layer: usize, index: usize) -> f64 {
        // A new sum: a difference would lose errors that are small beside the largest one.
        let errors = (0..self.layers.len()).map(|other| {
            let point = if other == layer {
                self.point(layer, index)
            } else {
                self.current(other)
            };
            point.error
        });
        errors.sum()
    }

    /// Makes the move to which `worth` gives the highest value, again and again until no move has one.
    fn improve(&mut self, worth: impl Fn(&Self, usize, usize) -> Option<f64>) {
        loop {
            let mut best: Option<(f64, usize, usize)> = None;
            for (layer, points) in self.layers.iter().enumerate() {
                for index in 0..points.len() {
                    if let Some(value) = worth(self, layer, index)
                        && best.is_none_or(|best| value > best.0)
                    {
                        best = Some((value, layer, index));
                    }
                }
            }
            match best {
                Some((_, layer, index)) => self.set(layer, index),
                None => return,
            }
        }
    }
}

/// The cheapest points, and the steps along all hulls in descending order of the error that they save per byte.
fn start(layers: &[Vec<RatePoint>]) -> (Choice<'_>, Vec<(usize, usize)>) {
    let hulls: Vec<Vec<usize>> = layers.iter().map(|points| hull(points)).collect();
    // `allocate` has checked that every layer has a point, so that no hull is empty.
    let chosen: Vec<usize> = hulls.iter().map(|hull| hull[0]).collect();
    let bytes = layers
        .iter()
        .zip(&chosen)
        .map(|(points, &i)| u128::from(points[i].bytes))
        .sum();
    let choice = Choice {
        layers,
        chosen,
        bytes,
    };
    let mut steps: Vec<(f64, usize, usize)> = Vec::new();
    for (layer, hull) in hulls.iter().enumerate() {
        for pair in hull.windows(2) {
            if let &[from, to] = pair {
                let saving = saving(choice.point(layer, from), choice.point(layer, to));
                steps.push((saving, layer, to));
            }
        }
    }
    // A stable sort keeps the steps of one layer in their order, since their savings fall along a hull.
    steps.sort_by(|a, b| b.0.total_cmp(&a.0));
    (
        choice,
        steps
            .into_iter()
            .map(|(_, layer, to)| (layer, to))
            .collect(),
    )
}

fn within_bytes(layers: &[Vec<RatePoint>], limit: u64) -> Result<Vec<usize>> {
    let (mut choice, steps) = start(layers);
    let limit_bytes = u128::from(limit);
    if choice.bytes > limit_bytes {
        return Err(Error::BudgetOutOfReach {
            what: "bytes",
            budget: limit as f64,
            least: choice.bytes as f64,
        });
    }
    let mut closed = vec![false; layers.len()];
    for (layer, to) in steps {
        if !closed[layer] && choice.bytes_with(layer, to) <= limit_bytes {
            choice.set(layer, to);
        } else {
            closed[layer] = true;
        }
    }
    choice.improve(|choice, layer, index| {
        let (now, then) = (choice.current(layer), choice.point(layer, index));
        let fits = choice.bytes_with(layer, index) <= limit_bytes;
        (fits && then.error < now.error).then(|| saving(now, then))
    });
    Ok(choice.chosen)
}

fn within_error(layers: &[Vec<RatePoint>], limit: f64) -> Result<Vec<usize>> {
    let (mut choice, steps) = start(layers);
    for (layer, to) in steps {
        if choice.error() <= limit {
            break;
        }
        choice.set(layer, to);
    }
    if limit.is_nan() || choice.error() > limit {
        return Err(Error::BudgetOutOfReach {
            what: "error",
            budget: limit,
            least: choice.error(),
        });
    }
    choice.improve(|choice, layer, index| {
        let (now, then) = (choice.current(layer), choice.point(layer, index));
        let fits = choice.error_with(layer, index) <= limit;
        (fits && then.bytes < now.bytes).then(|| (now.bytes - then.bytes) as f64)
    });
    Ok(choice.chosen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn layers() -> impl Strategy<Value = Vec<Vec<RatePoint>>> {
        let point = (1_u64..60, 0_u32..1000).prop_map(|(bytes, error)| RatePoint {
            bytes,
            error: f64::from(error),
        });
        prop::collection::vec(prop::collection::vec(point, 1..5), 1..5)
    }

    fn sums(layers: &[Vec<RatePoint>], chosen: &[usize]) -> (u64, f64) {
        let points = layers.iter().zip(chosen).map(|(points, &i)| points[i]);
        points.fold((0, 0.0), |sum, point| {
            (sum.0 + point.bytes, sum.1 + point.error)
        })
    }

    fn all(layers: &[Vec<RatePoint>]) -> Vec<Vec<usize>> {
        layers.iter().fold(vec![Vec::new()], |choices, points| {
            let extended = choices
                .iter()
                .flat_map(|choice| (0..points.len()).map(|i| [choice.as_slice(), &[i]].concat()));
            extended.collect()
        })
    }

    /// The largest error that one step along a hull saves: by so much may the choice miss the optimum.
    fn largest_step(layers: &[Vec<RatePoint>]) -> f64 {
        let steps = layers.iter().flat_map(|points| {
            let hull = hull(points);
            let saved: Vec<f64> = hull
                .windows(2)
                .map(|pair| points[pair[0]].error - points[pair[1]].error)
                .collect();
            saved
        });
        steps.fold(0.0, f64::max)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn no_choice_is_better_by_a_whole_step(layers in layers(), limit in 0_u64..250) {
            let choices = all(&layers);
            let within = choices.iter().map(|choice| sums(&layers, choice)).filter(|sum| sum.0 <= limit);
            let best = within.map(|sum| sum.1).min_by(f64::total_cmp);
            match (allocate(&layers, Limit::Bytes(limit)), best) {
                (Ok(chosen), Some(best)) => {
                    let (bytes, error) = sums(&layers, &chosen);
                    prop_assert!(bytes <= limit);
                    prop_assert!(error >= best && error <= best + largest_step(&layers), "{error} for {best}");
                }
                (Err(Error::BudgetOutOfReach { .. }), None) => {}
                (chosen, best) => panic!("{chosen:?} for {best:?}"),
            }
        }

        #[test]
        fn what_the_hulls_reach_is_optimal(layers in layers(), steps_taken in 0_usize..16) {
            // Walk along the hulls: each sum on the way is the least error for its bytes.
            let (mut choice, steps) = start(&layers);
            for &(layer, to) in steps.iter().take(steps_taken) {
                choice.set(layer, to);
            }
            let (limit, error) = sums(&layers, &choice.chosen);
            let choices = all(&layers);
            let within = choices.iter().map(|choice| sums(&layers, choice)).filter(|sum| sum.0 <= limit);
            let best = within.map(|sum| sum.1).min_by(f64::total_cmp).unwrap();
            prop_assert_eq!(error, best);
            let chosen = allocate(&layers, Limit::Bytes(limit)).unwrap();
            prop_assert_eq!(sums(&layers, &chosen).1, best);
            // And the fewest bytes for its error.
            let chosen = allocate(&layers, Limit::Error(error)).unwrap();
            prop_assert!(sums(&layers, &chosen).0 <= limit);
        }

        #[test]
        fn a_target_error_is_kept(layers in layers(), limit in 0.0..3000.0) {
            let choices = all(&layers);
            let within = choices.iter().map(|choice| sums(&layers, choice)).filter(|sum| sum.1 <= limit);
            let best = within.map(|sum| sum.0).min();
            match (allocate(&layers, Limit::Error(limit)), best) {
                (Ok(chosen), Some(best)) => {
                    let (bytes, error) = sums(&layers, &chosen);
                    prop_assert!(error <= limit && bytes >= best);
                    let largest = layers.iter().flatten().map(|p| p.bytes).max().unwrap();
                    prop_assert!(bytes <= best + largest, "{bytes} for {best}");
                }
                (Err(Error::BudgetOutOfReach { .. }), None) => {}
                (chosen, best) => panic!("{chosen:?} for {best:?}"),
            }
        }
    }

    #[test]
    fn nonsense_is_an_error() {
        assert!(allocate(&[vec![]], Limit::Bytes(9)).is_err());
        let point = RatePoint {
            bytes: 1,
            error: f64::NAN,
        };
        assert!(allocate(&[vec![point]], Limit::Bytes(9)).is_err());
        let point = RatePoint {
            bytes: 1,
            error: 1.0,
        };
        assert!(allocate(&[vec![point]], Limit::Error(f64::NAN)).is_err());
    }
}
