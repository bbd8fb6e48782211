//! The rate–distortion function of a histogram, by Blahut and Arimoto.
//!
//! For a slope β the iteration improves a distribution q of reproductions on a grid. Every q proves a line below R(D) and a
//! point above it (Blahut 1972, theorem 6). With bin means mᵢ of masses pᵢ and
//!
//! Zᵢ = Σⱼ qⱼ exp(−β (mᵢ − yⱼ)²),  c(y) = Σᵢ pᵢ exp(−β (mᵢ − y)²) / Zᵢ,
//!
//! - Above: the code that draws yⱼ with probability qⱼ exp(…) / Zᵢ has the rate −β D′ − Σ pᵢ ln Zᵢ − Σ qⱼ cⱼ ln cⱼ at
//!   the distortion D′ + w, where w is the mean squared distance of weights to the means of their bins. The code knows only
//!   the bin, and its two errors are not correlated.
//! - Below, for the weights themselves rather than for their bins: the dual of the rate–distortion problem says
//!   R(D) ≥ E[ln λ(X)] − b D for any λ > 0 with E[λ(X) exp(−b (X − y)²)] ≤ 1 for all y. Take
//!   λ(x) = exp(b (x − mᵢ)²) / (Zᵢ C) in bin i. With x = mᵢ + t the exponents sum to −b (mᵢ − y)² − 2 b t (mᵢ − y), and by
//!   Hoeffding's lemma the mean over t (of mean zero, in an interval of width Δ) is at most
//!   exp(−b (1 − b Δ²/2) (mᵢ − y)²). So b with b (1 − b Δ²/2) = β will do, with C the largest c(y), and gives
//!   R(D) ≥ −Σ pᵢ ln Zᵢ − ln C − b (D − w).
//! - Between grid points: ln c(y) + β y² is convex, as the logarithm of a sum of exponentials of linear functions, so
//!   that ln c exceeds the larger of two neighbours at a distance δ by at most β δ²/4.

use super::Bounds;
use super::histogram::{Bin, Binned};

/// Grid points per √D, the width of the kernel. At this number sums of Gaussians equal their integrals.
const FINENESS: f64 = 3.0;
/// The factor by which the grid is finer on which the largest c(y) is searched at the end.
const REFINEMENT: usize = 24;
/// exp(−40) is below the rounding of sums of order one.
const REACH: f64 = 40.0;
/// The largest number of entries of the kernel: 32 MB, and a second or two.
const ENTRIES: f64 = 4e6;
/// The iteration ends when the bounds of one slope differ by less, in nats.
const TOLERANCE: f64 = 2e-4;
/// The largest number of steps, each with three evaluations.
const ITERATIONS: usize = 60;
/// Rounds of the iteration. Points are added to the grid between them.
const ROUNDS: usize = 3;
/// The total mass of the points that are added together.
const JOINING: f64 = 5e-3;
/// The largest number of slopes tried for one result.
const SLOPES: usize = 10;
/// The largest difference between the logarithms of a slope's distortion and the requested one.
const NEAR: f64 = 2e-3;

/// A source whose R(D) is bounded.
#[derive(Debug)]
pub(super) struct Problem {
    histogram: Binned,
    variance: f64,
    /// The smallest distortion that the histogram resolves.
    finest: f64,
}

/// The search for the slope of a distortion. Steeper slopes belong to smaller distortions.
#[derive(Debug)]
struct Search {
    slope: f64,
    /// A slope that is too flat, and one that is too steep.
    flat: Option<f64>,
    steep: Option<f64>,
}

impl Search {
    fn new(slope: f64) -> Self {
        Self {
            slope,
            flat: None,
            steep: None,
        }
    }

    /// `off` is the excess of the logarithm of the distortion, `by` the step that would correct it for a Gaussian.
    fn step(&mut self, by: f64, off: f64) {
        if off > 0.0 {
            self.flat = Some(self.slope);
        } else {
            self.steep = Some(self.slope);
        }
        let next = self.slope * by.exp();
        self.slope = match (self.flat, self.steep) {
            (Some(flat), Some(steep)) if next <= flat || next >= steep => (flat * steep).sqrt(),
            _ => next,
        };
    }
}

/// The bounds that one slope proves.
#[derive(Debug, Clone, Copy)]
struct Proof {
    /// R(D) ≥ `intercept` − `slope` D, in nats.
    slope: f64,
    intercept: f64,
    /// A code of this distortion and rate exists.
    point: (f64, f64),
}

impl Problem {
    /// `None` if the bins are too wide for `distortion`, or the kernel too large.
    pub(super) fn new(histogram: Binned, variance: f64, distortion: f64) -> Option<Self> {
        let root = distortion.sqrt();
        let (low, high) = (
            histogram.bins[0].mean,
            histogram.bins[histogram.bins.len() - 1].mean,
        );
        let grid = (high - low) / root * FINENESS;
        let reach = 2.0 * (2.0 * REACH).sqrt() * root;
        let inside = if histogram.width > 0.0 {
            reach / histogram.width
        } else {
            histogram.bins.len() as f64
        };
        let entries = grid * inside.min(histogram.bins.len() as f64);
        let resolved = histogram.width <= root / 2.0 && entries <= ENTRIES;
        resolved.then_some(Self {
            histogram,
            variance,
            finest: distortion,
        })
    }

    /// Bounds of R(D), in nats.
    pub(super) fn rate(&self, distortion: f64) -> Bounds {
        let wanted = distortion.ln();
        let (mut bounds, mut proofs) = (Bounds::exactly(0.0), Vec::new());
        let mut search = Search::new(self.slope_for(distortion));
        for _ in 0..SLOPES {
            let proof = self.prove(search.slope);
            proofs.push(proof);
            bounds = self.rate_between(&proofs, distortion);
            let off = proof.point.0.ln() - wanted;
            if bounds.width() <= 2.0 * TOLERANCE || (-NEAR..=0.0).contains(&off) {
                break;
            }
            search.step(off + NEAR / 2.0, off);
            search.slope = self.limited(search.slope);
        }
        bounds
    }

    /// Bounds of D(R), R in nats.
    pub(super) fn distortion(&self, rate: f64) -> Bounds {
        let (mut bounds, mut proofs) = (Bounds::exactly(self.variance), Vec::new());
        let mut search = Search::new(self.slope_for(self.variance * (-2.0 * rate).exp()));
        for _ in 0..SLOPES {
            let proof = self.prove(search.slope);
            proofs.push(proof);
            bounds = self.distortion_between(&proofs, rate);
            let off = rate - proof.point.1;
            if bounds.width() <= 4.0 * TOLERANCE * bounds.upper || (0.0..=NEAR / 2.0).contains(&off)
            {
                break;
            }
            search.step(2.0 * off - NEAR / 2.0, 2.0 * off);
            search.slope = self.limited(search.slope);
        }
        bounds
    }

    /// The slope of R(D) of a Gaussian at this distortion.
    fn slope_for(&self, distortion: f64) -> f64 {
        self.limited(0.5 / distortion)
    }

    /// `slope`, limited to what the bins resolve; a slope of 1/(2σ²) belongs to a rate of zero.
    fn limited(&self, slope: f64) -> f64 {
        let (least, largest) = (0.125 / self.variance, 2.0 / self.finest);
        if slope.is_finite() {
            slope.clamp(least, largest.max(least))
        } else {
            largest.max(least)
        }
    }

    /// The highest line below R(D), and the lowest chord between points above it: alternating between two codes is a code.
    fn rate_between(&self, proofs: &[Proof], distortion: f64) -> Bounds {
        let lines = proofs
            .iter()
            .map(|proof| proof.intercept - proof.slope * distortion);
        let lower = lines.fold(0.0, f64::max);
        let upper = self.chord(proofs, distortion, |(d, r)| (d, r));
        // Rounding may exchange the two.
        Bounds {
            lower: lower.min(upper),
            upper,
        }
    }

    fn distortion_between(&self, proofs: &[Proof], rate: f64) -> Bounds {
        let lines = proofs
            .iter()
            .map(|proof| (proof.intercept - rate) / proof.slope);
        let lower = lines.fold(0.0, f64::max);
        let upper = self.chord(proofs, rate, |(d, r)| (r, d));
        Bounds {
            lower: lower.min(upper),
            upper,
        }
    }

    /// The lowest point at `at` that codes and alternations between two of them reach.
    fn chord(&self, proofs: &[Proof], at: f64, axes: impl Fn((f64, f64)) -> (f64, f64)) -> f64 {
        let silence = axes((self.variance, 0.0));
        let points: Vec<(f64, f64)> = proofs
            .iter()
            .map(|proof| axes(proof.point))
            .chain([silence])
            .collect();
        let mut best = f64::INFINITY;
        for &(x, y) in &points {
            if x <= at {
                best = best.min(y);
            }
            for &(other_x, other_y) in &points {
                if x < at && at < other_x {
                    best = best.min(y + (other_y - y) * (at - x) / (other_x - x));
                }
            }
        }
        best
    }

    fn prove(&self, slope: f64) -> Proof {
        let bins = &self.histogram.bins;
        let (low, high) = (bins[0].mean, bins[bins.len() - 1].mean);
        let spacing = 1.0 / ((2.0 * slope).sqrt() * FINENESS);
        let steps = ((high - low) / spacing).ceil().max(16.0);
        let spacing = (high - low) / steps;
        let steps = steps as usize;
        let point = |j: usize| low + spacing * j as f64;
        let mut kernel: Vec<Row> = (0..=steps)
            .map(|j| Row::of(bins, point(j), slope))
            .collect();
        let mut state = State::start(bins, &kernel);
        let fine = spacing / REFINEMENT as f64;
        let mut largest = f64::INFINITY;
        for round in 0..ROUNDS {
            state.evaluate(bins, &kernel);
            // A single step may widen the gap between the bounds, so keep the best state.
            let mut best = (state.gap(), state.distribution.clone());
            for _ in 0..ITERATIONS {
                if best.0 <= TOLERANCE {
                    break;
                }
                state.accelerate(bins, &kernel);
                let gap = state.gap();
                if gap < best.0 {
                    best = (gap, state.distribution.clone());
                }
            }
            state.distribution = best.1;
            state.evaluate(bins, &kernel);
            // The largest c(y), also between the points. It can be larger only next to points close to the maximum.
            let near = state.largest.ln() - slope * spacing * spacing / 4.0;
            let c = |k: usize| Row::of(bins, low + fine * k as f64, slope).dot(&state.ratios);
            let mut peaks = Vec::new();
            largest = state.largest;
            for j in 0..steps {
                let (left, right) = (state.gains[j], state.gains[j + 1]);
                if left.max(right).ln() < near {
                    continue;
                }
                let inside = (j * REFINEMENT + 1..(j + 1) * REFINEMENT).map(|k| (c(k), k));
                let peak = inside.fold(
                    (0.0, 0),
                    |best, next| if next.0 > best.0 { next } else { best },
                );
                largest = largest.max(peak.0);
                if peak.0 > left.max(right).max(1.0 + TOLERANCE) {
                    peaks.push(peak);
                }
            }
            let gap = largest.ln() - state.divergence();
            if round + 1 == ROUNDS || gap <= 3.0 * TOLERANCE || peaks.is_empty() {
                break;
            }
            // Atoms of the best distribution lie at the maxima of c: add these points to the grid.
            state.join(peaks.iter().map(|(c, _)| c - 1.0));
            let points = peaks.iter().map(|&(_, k)| low + fine * k as f64);
            kernel.extend(points.map(|y| Row::of(bins, y, slope)));
        }
        let slack = slope * fine * fine / 4.0;
        let width = self.histogram.width;
        let within = self.histogram.within;
        let steeper = if width > 0.0 {
            2.0 * slope / (1.0 + (1.0 - 2.0 * slope * width * width).max(0.0).sqrt())
        } else {
            slope
        };
        let log_sums: f64 = bins
            .iter()
            .zip(&state.sums)
            .map(|(bin, z)| bin.mass * z.ln())
            .sum();
        let (distortion, divergence) = state.code(bins, &kernel);
        Proof {
            slope: steeper,
            intercept: -log_sums - largest.ln() - slack + steeper * within,
            point: (
                distortion + within,
                (-slope * distortion - log_sums - divergence).max(0.0),
            ),
        }
    }
}

/// exp(−β (mᵢ − y)²) for one y, over the bins in reach.
struct Row {
    y: f64,
    first: usize,
    values: Vec<f64>,
}

impl Row {
    fn of(bins: &[Bin], y: f64, slope: f64) -> Self {
        let reach = (REACH / slope).sqrt();
        let first = bins.partition_point(|bin| bin.mean < y - reach);
        let last = bins.partition_point(|bin| bin.mean <= y + reach);
        let inside = bins[first..last].iter();
        let values = inside.map(|bin| (-slope * (bin.mean - y).powi(2)).exp());
        Self {
            y,
            first,
            values: values.collect(),
        }
    }

    fn part<'a>(&self, values: &'a [f64]) -> &'a [f64] {
        &values[self.first..self.first + self.values.len()]
    }

    fn dot(&self, values: &[f64]) -> f64 {
        // Eight sums side by side, so that the loop vectorizes.
        let mut sums = [0.0; 8];
        let (a, b) = (self.values.chunks(8), self.part(values).chunks(8));
        for (a, b) in a.zip(b) {
            for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
                *sum += a * b;
            }
        }
        sums.iter().sum()
    }
}

struct State {
    /// q
    distribution: Vec<f64>,
    /// Z
    sums: Vec<f64>,
    /// p / Z
    ratios: Vec<f64>,
    /// c
    gains: Vec<f64>,
    largest: f64,
    promise: f64,
}

impl State {
    /// Starts from the source's own distribution, smoothed by the kernel: positive on all of the grid.
    fn start(bins: &[Bin], kernel: &[Row]) -> Self {
        let masses: Vec<f64> = bins.iter().map(|bin| bin.mass).collect();
        let mut distribution: Vec<f64> = kernel.iter().map(|row| row.dot(&masses)).collect();
        let total: f64 = distribution.iter().sum();
        let even = 1e-3 / distribution.len() as f64;
        for q in &mut distribution {
            *q = (*q / total) * (1.0 - 1e-3) + even;
        }
        Self {
            gains: vec![1.0; distribution.len()],
            distribution,
            sums: vec![0.0; bins.len()],
            ratios: vec![0.0; bins.len()],
            largest: f64::INFINITY,
            promise: f64::NEG_INFINITY,
        }
    }

    /// Adds points with a small mass, distributed among them in proportion to `urgency`.
    fn join(&mut self, urgency: impl Iterator<Item = f64> + Clone) {
        let total: f64 = urgency.clone().sum();
        self.distribution
            .extend(urgency.map(|urgency| JOINING * urgency / total));
        self.gains.resize(self.distribution.len(), 1.0);
        self.normalize();
        self.promise = f64::NEG_INFINITY;
    }

    fn evaluate(&mut self, bins: &[Bin], kernel: &[Row]) {
        self.sums.fill(0.0);
        for (row, &q) in kernel.iter().zip(&self.distribution) {
            for (sum, a) in self.sums[row.first..].iter_mut().zip(&row.values) {
                *sum += q * a;
            }
        }
        for ((ratio, sum), bin) in self.ratios.iter_mut().zip(&self.sums).zip(bins) {
            *ratio = bin.mass / sum;
        }
        self.largest = 0.0;
        for (gain, row) in self.gains.iter_mut().zip(kernel) {
            *gain = row.dot(&self.ratios);
            self.largest = self.largest.max(*gain);
        }
    }

    /// Nats between the bounds on the grid.
    fn gap(&self) -> f64 {
        self.largest.ln() - self.divergence()
    }

    /// Σ q c ln c, the divergence of the distribution of the code's outputs from q.
    fn divergence(&self) -> f64 {
        let terms = self.distribution.iter().zip(&self.gains);
        terms
            .filter(|(_, c)| **c > 0.0)
            .map(|(q, c)| q * c * c.ln())
            .sum()
    }

    /// Two steps of Blahut and Arimoto, q ← q c, and their extrapolation where that is better.
    ///
    /// The iteration is the EM algorithm for a mixture of Gaussians, which is slow where they overlap. The extrapolation is that
    /// of Varadhan and Roland (2008, doi:10.1111/j.1467-9469.2007.00585.x), on the logarithms of q.
    fn accelerate(&mut self, bins: &[Bin], kernel: &[Row]) {
        let logarithms = |c: &[f64]| -> Vec<f64> { c.iter().map(|c| c.ln()).collect() };
        let before = self.distribution.clone();
        let first = logarithms(&self.gains);
        self.improve();
        self.evaluate(bins, kernel);
        let second = logarithms(&self.gains);
        self.improve();
        let after = self.distribution.clone();
        // Lengths weighted by mass, so that points whose mass vanishes do not count.
        let (mut step, mut bend) = (0.0, 0.0);
        for ((q, a), b) in self.distribution.iter().zip(&first).zip(&second) {
            if *q > 0.0 {
                step += q * a * a;
                bend += q * (b - a) * (b - a);
            }
        }
        let reach = (step / bend).sqrt();
        if reach.is_finite() && reach > 1.0 {
            for ((q, start), (a, b)) in self
                .distribution
                .iter_mut()
                .zip(&before)
                .zip(first.iter().zip(&second))
            {
                let power = (2.0 * reach * a + reach * reach * (b - a)).clamp(-30.0, 30.0);
                *q = start * power.exp();
            }
            self.normalize();
            self.evaluate(bins, kernel);
            let extrapolated = self.likelihood(bins);
            if extrapolated >= self.promise {
                self.promise = extrapolated;
                return;
            }
            self.distribution = after;
        }
        self.evaluate(bins, kernel);
        self.promise = self.likelihood(bins);
    }

    /// Σ p ln Z, which the best q makes largest.
    fn likelihood(&self, bins: &[Bin]) -> f64 {
        let terms = bins.iter().zip(&self.sums);
        terms.map(|(bin, z)| bin.mass * z.ln()).sum()
    }

    fn improve(&mut self) {
        for (q, c) in self.distribution.iter_mut().zip(&self.gains) {
            *q *= c;
        }
        self.normalize();
    }

    fn normalize(&mut self) {
        let total: f64 = self.distribution.iter().sum();
        for q in &mut self.distribution {
            *q /= total;
        }
    }

    /// The distortion of the code, and the divergence.
    fn code(&self, bins: &[Bin], kernel: &[Row]) -> (f64, f64) {
        let distortion = kernel.iter().zip(&self.distribution).map(|(row, q)| {
            let bins = bins.iter().skip(row.first);
            let terms = bins.zip(&row.values).zip(row.part(&self.ratios));
            let terms = terms.map(|((bin, a), ratio)| ratio * a * (bin.mean - row.y).powi(2));
            q * terms.sum::<f64>()
        });
        (distortion.sum(), self.divergence())
    }
}
