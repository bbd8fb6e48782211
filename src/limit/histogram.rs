//! Histograms of weights.

use crate::Float;

/// Bins of the finest histogram.
pub(super) const BINS: usize = 1 << 16;

/// A bin that is not empty.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Bin {
    index: usize,
    /// The fraction of all weights.
    pub(super) mass: f64,
    pub(super) mean: f64,
    /// The variance of the weights inside.
    pub(super) variance: f64,
}

impl Bin {
    /// The only bin of weights that all are `value`.
    pub(super) fn of_equal(value: f64) -> Self {
        Self {
            index: 0,
            mass: 1.0,
            mean: value,
            variance: 0.0,
        }
    }
}

/// The bins that are not empty, rising, of a histogram with bins of one width.
#[derive(Debug, Clone)]
pub(super) struct Binned {
    /// At least one.
    pub(super) bins: Vec<Bin>,
    /// No two weights of a bin are further apart; zero where all weights of each bin are equal.
    pub(super) width: f64,
    /// The mean squared distance of a weight to its bin's mean.
    pub(super) within: f64,
}

impl Binned {
    /// The histogram that joins `step` neighbouring bins of `width` into one.
    pub(super) fn merged(fine: &[Bin], width: f64, step: usize) -> Self {
        let mut bins: Vec<Bin> = Vec::new();
        for bin in fine {
            let index = bin.index / step;
            match bins.last_mut() {
                Some(last) if last.index == index => {
                    let mass = last.mass + bin.mass;
                    let part = bin.mass / mass;
                    let apart = bin.mean - last.mean;
                    last.variance +=
                        part * (bin.variance - last.variance) + part * (1.0 - part) * apart * apart;
                    last.mean += part * apart;
                    last.mass = mass;
                }
                _ => bins.push(Bin { index, ..*bin }),
            }
        }
        let within: f64 = bins.iter().map(|bin| bin.mass * bin.variance).sum();
        let width = if within > 0.0 {
            width * step as f64
        } else {
            0.0
        };
        Self {
            bins,
            width,
            within,
        }
    }
}

/// For each bin the number of weights in it, the sum of their places and the sum of the squares of these.
///
/// A place is the distance from the middle of the bin in widths of a bin, so that all sums are of small numbers.
pub(super) struct Histogram {
    bins: Vec<[f64; 3]>,
}

impl Histogram {
    pub(super) fn empty() -> Self {
        Self {
            bins: vec![[0.0; 3]; BINS],
        }
    }

    /// The histogram of `values` in bins of `width` from `low` on.
    pub(super) fn of<F: Float>(values: &[F], low: f64, width: f64) -> Self {
        let mut histogram = Self::empty();
        for &x in values {
            let place = (x.as_f64() - low) / width;
            let index = (place as usize).min(BINS - 1);
            let inside = place - index as f64 - 0.5;
            let bin = &mut histogram.bins[index];
            bin[0] += 1.0;
            bin[1] += inside;
            bin[2] += inside * inside;
        }
        histogram
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (sum, bin) in self.bins.iter_mut().zip(&other.bins) {
            for (sum, x) in sum.iter_mut().zip(bin) {
                *sum += x;
            }
        }
    }

    /// The bins that are not empty, of `total` weights in bins of `width` from `low` on.
    pub(super) fn bins(&self, total: usize, low: f64, width: f64) -> Vec<Bin> {
        let filled = self.bins.iter().enumerate();
        let filled = filled.filter(|(_, [count, ..])| *count > 0.0);
        filled
            .map(|(index, &[count, sum, squares])| {
                let place = sum / count;
                // Equal weights have no variance, whatever the rounding of their squares.
                let variance = squares / count - place * place;
                let rounding = 8.0 * f64::EPSILON * count.sqrt();
                let variance = if variance <= rounding { 0.0 } else { variance };
                Bin {
                    index,
                    mass: count / total as f64,
                    mean: low + (index as f64 + 0.5 + place) * width,
                    variance: variance * width * width,
                }
            })
            .collect()
    }
}
