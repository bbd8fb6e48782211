//! How much a channel matters.

use ndarray::{Array1, ArrayViewD, Axis, s};

use super::Coupling;
use super::graph::{Layout, Origin, Segment, refused};
use super::tensors::Tensors;
use crate::{Error, Float, Result, check};

/// The score of a channel; see [`Coupling::scores`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ChannelScore {
    /// The scale |γ| of the normalizations along the channel (Liu et al., 2017,
    /// [arXiv:1708.06519](https://arxiv.org/abs/1708.06519), with batch normalization).
    NormScale,
    /// The sum of the magnitudes in the filter that makes the channel (Li et al., 2017,
    /// [arXiv:1608.08710](https://arxiv.org/abs/1608.08710)). Comparable within a layer only.
    FilterL1,
    /// The square root of the sum of squares in the filter that makes the channel. Comparable within a layer only.
    FilterL2,
}

impl Coupling {
    /// Computes a score for every channel that can be pruned: one array for each of the [`groups`](Self::groups), in
    /// their order, for [`plan`](Self::plan).
    ///
    /// The score is a mean where several layers make a channel, where several normalizations scale it, and where a channel
    /// is a block of entries.
    ///
    /// ```
    /// use taper::ndarray::{arr1, arr2};
    /// use taper::prune::{ChannelScore, ChannelSlimming, Coupling, Keep, Tensors};
    ///
    /// let mut net = Coupling::new();
    /// let x = net.input(2)?;
    /// let x = net.layer("fc1", x, 3)?;
    /// let x = net.layer("fc2", x, 1)?;
    /// net.output(x)?;
    /// let mut tensors: Tensors<f32> = Tensors::new();
    /// tensors.insert("fc1.weight".into(), arr2(&[[1., 2.], [0., 0.5], [-5., 6.]]).into_dyn());
    /// tensors.insert("fc2.weight".into(), arr2(&[[7., 8., 9.]]).into_dyn());
    ///
    /// let scores = net.scores(&tensors, ChannelScore::FilterL1)?;
    /// assert_eq!(scores, [arr1(&[3.0, 0.5, 11.0])]);
    /// let plan = net.plan(&ChannelSlimming::new(Keep::Count(2)), &scores)?;
    /// assert_eq!(plan.kept(0), Some(&[0, 2][..]));
    /// # Ok::<(), taper::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTensor`] and [`Error::ChannelAxis`] for tensors that are missing or do not fit, [`Error::Coupling`]
    /// for a group without a scale ([`ChannelScore::NormScale`]), [`Error::NonFinite`], [`Error::EmptyAxis`], and
    /// [`Error::Overflow`] for a norm that leaves the range of the type.
    pub fn scores<F: Float>(
        &self,
        tensors: &Tensors<F>,
        score: ChannelScore,
    ) -> Result<Vec<Array1<F>>> {
        self.graph.check_tensors(tensors)?;
        let groups = self.groups()?;
        let slots = self.graph.slots()?;
        // The sum of the scores and their number, for each channel of each group.
        let mut sums: Vec<Vec<(f64, usize)>> = groups
            .iter()
            .map(|group| vec![(0.0, 0); group.channels])
            .collect();
        for node in &self.graph.nodes {
            let entries = match (&node.origin, score) {
                (Origin::Norm { name, .. }, ChannelScore::NormScale) => {
                    let scale = tensors.get(&self.graph.tensor(name, |names| &names.scale));
                    scale.map(|scale| norms(scale.view(), DENSE, l1))
                }
                (Origin::Layer { name, layout, .. }, ChannelScore::FilterL1) => {
                    let weight = &tensors[&self.graph.tensor(name, |names| &names.weight)];
                    Some(norms(weight.view(), *layout, l1))
                }
                (Origin::Layer { name, layout, .. }, ChannelScore::FilterL2) => {
                    let weight = &tensors[&self.graph.tensor(name, |names| &names.weight)];
                    Some(norms(weight.view(), *layout, l2))
                }
                _ => None,
            };
            if let Some(entries) = entries {
                self.add_scores(&mut sums, &slots, &node.segments, &entries?)?;
            }
        }
        let means = sums.iter().zip(&groups).map(|(sums, group)| {
            let means = sums.iter().map(|&(sum, count)| match count {
                0 => None,
                count => Some(F::from_f64_lossy(sum / count as f64)),
            });
            means.collect::<Option<_>>().ok_or_else(|| {
                refused(format!(
                    "no normalization gives a scale to the channels of {}: score them by their filters",
                    group.name
                ))
            })
        });
        means.collect()
    }

    fn add_scores<F: Float>(
        &self,
        sums: &mut [Vec<(f64, usize)>],
        slots: &[Option<usize>],
        segments: &[Segment],
        entries: &Array1<F>,
    ) -> Result<()> {
        check::same_shape(
            "the scores of a layer",
            &[self.graph.length(segments)?],
            entries.shape(),
        )?;
        let mut start = 0;
        for segment in segments {
            let end = start + self.graph.units(segment.group) * segment.block;
            let entries = entries.slice(s![start..end]);
            start = end;
            let Some(slot) = slots[segment.group] else {
                continue;
            };
            let blocks = entries.exact_chunks(segment.block);
            for ((total, count), block) in sums[slot].iter_mut().zip(blocks) {
                *total += block.iter().map(|score| score.as_f64()).sum::<f64>();
                *count += segment.block;
            }
        }
        Ok(())
    }
}

/// The axes of a vector of scales: each value is a filter.
const DENSE: Layout = Layout {
    transposed: false,
    groups: None,
};

/// Returns the norm of the filter of each output channel.
fn norms<F: Float>(
    weight: ArrayViewD<'_, F>,
    layout: Layout,
    norm: fn(&ArrayViewD<'_, F>) -> f64,
) -> Result<Array1<F>> {
    check::finite("weight", &weight)?;
    let of = |filter: ArrayViewD<'_, F>| F::from_f64_lossy(norm(&filter));
    let norms: Array1<F> = if layout.transposed {
        if weight.ndim() < 2 {
            return Err(Error::Dimensions {
                what: "the weight of a transposed layer",
                expected: "at least two axes",
                shape: weight.shape().to_vec(),
            });
        }
        // Group after group reads its own rows, and has its own outputs along the second axis.
        let groups = layout.groups.unwrap_or(1);
        let inputs = weight.len_of(Axis(0)) / groups;
        let runs = weight.axis_chunks_iter(Axis(0), inputs);
        runs.flat_map(|run| {
            let norms: Vec<F> = run.axis_iter(Axis(1)).map(of).collect();
            norms
        })
        .collect()
    } else {
        weight.axis_iter(Axis(0)).map(of).collect()
    };
    if norms.iter().all(|norm| norm.is_finite()) {
        Ok(norms)
    } else {
        Err(Error::Overflow {
            what: "the norm of a filter",
        })
    }
}

fn l1<F: Float>(filter: &ArrayViewD<'_, F>) -> f64 {
    filter.iter().map(|weight| weight.as_f64().abs()).sum()
}

fn l2<F: Float>(filter: &ArrayViewD<'_, F>) -> f64 {
    let magnitudes = filter.iter().map(|weight| weight.as_f64().abs());
    // Scaled, so that no square leaves the range.
    let largest = magnitudes.clone().fold(0.0, f64::max);
    if largest == 0.0 {
        return 0.0;
    }
    let sum: f64 = magnitudes.map(|x| (x / largest) * (x / largest)).sum();
    largest * sum.sqrt()
}
