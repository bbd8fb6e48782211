//! Groups of inputs, fitted one after the other, each in its own metric.

use ndarray::{Array1, Array2, ArrayView2, Axis, s};

use super::descent::Descent;
use super::units::{Units, relative};
use crate::cluster::{self, Clusterer};
use crate::feedback::{GroupFeedback, inverse_upper};
use crate::linalg::{self, Cholesky};
use crate::observer::ObservedFit;
use crate::quantize::product::codebooks::{Fit, sub_vectors};
use crate::quantize::product::{Codebook, ProductQuantizer};
use crate::{Error, Float, InputMoments, Observer, Result, Stage, check, parallel};

/// Columns for which one matrix product computes the couplings with all others.
const BLOCK: usize = 128;

/// The state of the descent.
struct State<'a, F> {
    weights: ArrayView2<'a, F>,
    width: usize,
    /// The damped moments.
    moments: Array2<F>,
    /// For each group the metric S with M_gg = S Sᵀ, and M_gg⁻¹.
    metrics: Vec<(Array2<F>, Array2<F>)>,
    /// One for each group, or one for all.
    books: Vec<Array2<F>>,
    codes: Vec<Vec<u32>>,
    /// (W − Ŵ)ᵀ: the errors of a column lie side by side.
    errors: Array2<F>,
}

pub(super) fn fit<F: Float, C: Clusterer<F>>(
    quantizer: &ProductQuantizer<C>,
    weights: ArrayView2<'_, F>,
    moments: &InputMoments,
    units: Units,
    observer: Option<&dyn Observer>,
) -> Result<Fit<F>> {
    let (points, length) = weights.dim();
    let width = quantizer.width(length)?;
    let groups = length / width;
    quantizer.check_size::<F>(groups, width)?;
    let feedback = GroupFeedback::<F>::new(moments, quantizer.damping, width)?;
    let metrics = (0..groups)
        .map(|g| metric(feedback.matrix.view(), g, width))
        .collect::<Result<Vec<_>>>()?;
    let mut state = State {
        weights,
        width,
        moments: feedback.matrix.mapv(F::from_f64_lossy),
        metrics,
        books: Vec::new(),
        codes: Vec::with_capacity(groups),
        errors: Array2::zeros((length, points)),
    };
    if quantizer.codebook == Codebook::Shared {
        state
            .books
            .push(shared_book(quantizer, &state, groups, observer)?);
    }
    let mut error = 0.0;
    for g in 0..groups {
        error += state.quantize_group(quantizer, &feedback, g, observer)?;
    }
    let observed = ObservedFit::new(observer, Stage::OutputError, 0, quantizer.sweeps);
    let mut descent = Descent::new(points, error, units, observed);
    for _ in 0..quantizer.sweeps {
        if descent.stops() {
            break;
        }
        error += state.sweep(quantizer.codebook == Codebook::PerGroup)?;
        if descent.sweep(error) {
            break;
        }
    }
    if u64::from(F::BITS) > quantizer.precision.bits() {
        for book in &mut state.books {
            *book = units.rounded(quantizer.precision, book)?;
        }
        (0..groups).for_each(|g| state.replace(g));
        // Codes once more, for the centroids as they are stored.
        state.sweep(false)?;
    }
    Ok(Fit {
        codebooks: units.codebooks(quantizer, groups, &state.books)?,
        codes: state.codes.concat(),
        report: descent.report,
    })
}

/// One codebook for the sub-vectors of all groups, each weighted by the mean square of its inputs.
fn shared_book<F: Float, C: Clusterer<F>>(
    quantizer: &ProductQuantizer<C>,
    state: &State<'_, F>,
    groups: usize,
    observer: Option<&dyn Observer>,
) -> Result<Array2<F>> {
    let vectors = sub_vectors(state.weights, groups, state.width);
    let diagonal = state.moments.diag();
    let importance = |i: usize| {
        let first = (i % groups) * state.width;
        diagonal.slice(s![first..first + state.width]).sum()
    };
    let importance = relative(Array1::from_shape_fn(vectors.nrows(), importance));
    let clustering = quantizer.clusterer.cluster(
        vectors.view(),
        Some(importance.view()),
        quantizer.centroids,
        quantizer.seed.derive(0),
        observer,
    )?;
    Ok(clustering.centroids)
}

/// A triangle S with M_gg = S Sᵀ, and M_gg⁻¹.
fn metric<F: Float>(
    moments: ArrayView2<'_, f64>,
    group: usize,
    width: usize,
) -> Result<(Array2<F>, Array2<F>)> {
    let range = group * width..(group + 1) * width;
    let block = moments.slice(s![range.clone(), range]);
    let cholesky = Cholesky::new(block).ok_or(Error::NoConvergence {
        what: "the Cholesky factor of a group's moments",
    })?;
    let lower = cholesky.lower().mapv(F::from_f64_lossy);
    let inverse = cholesky.inverse().mapv(F::from_f64_lossy);
    check::no_overflow(
        "the inverse of the damped moments of a group (a larger damping makes it smaller)",
        &inverse,
    )?;
    Ok((lower.as_standard_layout().into_owned(), inverse))
}

impl<F: Float> State<'_, F> {
    fn book(&self, group: usize) -> &Array2<F> {
        &self.books[group.min(self.books.len() - 1)]
    }

    fn columns(&self, group: usize) -> std::ops::Range<usize> {
        group * self.width..(group + 1) * self.width
    }

    /// Chooses codes (and a codebook) for a group, given those of the groups before it. Returns the output error that it adds.
    fn quantize_group<C: Clusterer<F>>(
        &mut self,
        quantizer: &ProductQuantizer<C>,
        feedback: &GroupFeedback<F>,
        group: usize,
        observer: Option<&dyn Observer>,
    ) -> Result<f64> {
        let columns = self.columns(group);
        let before = self.errors.slice(s![..columns.start, ..]);
        let mut targets = linalg::product(feedback.before[group].view(), before).reversed_axes();
        targets += &self.weights.slice(s![.., columns]);
        // Scaled so that the metric of uncorrelated inputs is the identity.
        let exact = &feedback.metrics[group];
        let unit = exact[[0, 0]];
        let metric = exact.mapv(|x| F::from_f64_lossy(x / unit));
        let whitened = linalg::product(targets.view(), metric.view());
        let codes = match quantizer.codebook {
            Codebook::Shared => nearest(&whitened, self.book(group), &metric)?,
            Codebook::PerGroup => {
                check::no_overflow(TARGET, &whitened)?;
                let seed = quantizer.seed.derive(group as u64);
                let clusterer = &quantizer.clusterer;
                let clustering = clusterer.cluster(
                    whitened.view(),
                    None,
                    quantizer.centroids,
                    seed,
                    observer,
                )?;
                let scaled = exact.mapv(|x| x / unit);
                let inverse = inverse_upper(scaled.view()).mapv(F::from_f64_lossy);
                let book = linalg::product(clustering.centroids.view(), inverse.view());
                self.books.push(book);
                clustering.assignments
            }
        };
        self.codes.push(codes);
        self.replace(group);
        // The errors of the targets.
        let columns = self.columns(group);
        let mut own = targets;
        own -= &self.weights.slice(s![.., columns.clone()]);
        own += &self.errors.slice(s![columns, ..]).t();
        let own = linalg::product(own.view(), metric.view());
        let sum: f64 = own.iter().map(|x| x.as_f64() * x.as_f64()).sum();
        Ok(sum * unit * unit)
    }

    /// Computes the errors of a group from its codes.
    fn replace(&mut self, group: usize) {
        let errors = self.errors_of(group, self.book(group), &self.codes[group]);
        let columns = self.columns(group);
        self.errors.slice_mut(s![columns, ..]).assign(&errors);
    }

    /// (W − Ŵ)ᵀ of a group, (width, points).
    fn errors_of(&self, group: usize, book: &Array2<F>, codes: &[u32]) -> Array2<F> {
        let columns = self.columns(group);
        let mut errors = self.weights.slice(s![.., columns]).t().to_owned();
        for (i, mut errors) in errors.rows_mut().into_iter().enumerate() {
            for (error, &code) in errors.iter_mut().zip(codes) {
                *error -= book[[code as usize, i]];
            }
        }
        errors
    }

    /// Chooses the codes of each group again, given all others, and its centroids too if `centroids` is set. Returns the
    /// change of the output error, which is not positive.
    fn sweep(&mut self, centroids: bool) -> Result<f64> {
        let groups = self.codes.len();
        let together = (BLOCK / self.width).max(1);
        let mut change = 0.0;
        for first in (0..groups).step_by(together) {
            let last = groups.min(first + together);
            let block = first * self.width..last * self.width;
            let moments = self.moments.slice(s![block, ..]).to_owned();
            let mut images = linalg::product(moments.view(), self.errors.view());
            for group in first..last {
                let columns = self.columns(group);
                let from = columns.start - first * self.width;
                let inside = images.slice(s![from..from + self.width, ..]);
                if let Some((gain, step)) = self.improve(group, inside, centroids)? {
                    change += gain;
                    let couplings = moments.slice(s![.., columns]).to_owned();
                    linalg::product_add(F::one(), couplings.view(), step.view(), images.view_mut());
                }
            }
        }
        Ok(change)
    }

    /// Improves one group. Returns the change of the output error and of the group's errors; none if nothing improves.
    fn improve(
        &mut self,
        group: usize,
        images: ArrayView2<'_, F>,
        centroids: bool,
    ) -> Result<Option<(f64, Array2<F>)>> {
        let columns = self.columns(group);
        let own = self
            .moments
            .slice(s![columns.clone(), columns.clone()])
            .to_owned();
        let before = self.errors.slice(s![columns.clone(), ..]).to_owned();
        // The effect of the errors of the other groups on these inputs.
        let mut coupling = images.to_owned();
        linalg::product_add(-F::one(), own.view(), before.view(), coupling.view_mut());
        let (metric, inverse) = &self.metrics[group];
        let mut targets = linalg::product(inverse.view(), coupling.view()).reversed_axes();
        targets += &self.weights.slice(s![.., columns.clone()]);
        let whitened = linalg::product(targets.view(), metric.view());
        let mut book = self.book(group).clone();
        let codes = nearest(&whitened, &book, metric)?;
        if centroids {
            means(targets.view(), &codes, &mut book);
        }
        let after = self.errors_of(group, &book, &codes);
        let quadratic = |errors: &Array2<F>| {
            let products = linalg::product(own.view(), errors.view());
            let rows = parallel::map(errors.nrows(), |i| {
                let values = errors.row(i).into_iter().zip(products.row(i));
                let values = values.zip(coupling.row(i));
                values
                    .map(|((&e, &p), &c)| e.as_f64() * (p.as_f64() + 2.0 * c.as_f64()))
                    .sum::<f64>()
            });
            rows.into_iter().sum::<f64>()
        };
        let change = quadratic(&after) - quadratic(&before);
        if change >= 0.0 {
            return Ok(None);
        }
        if centroids {
            self.books[group] = book;
        }
        self.codes[group] = codes;
        self.errors.slice_mut(s![columns, ..]).assign(&after);
        Ok(Some((change, after - before)))
    }
}

/// What error feedback adds to weights, under the metric of their inputs.
const TARGET: &str = "the target of a sub-vector (a larger damping makes it smaller)";

/// The codes of the nearest centroids of `book` for `whitened` targets, under the `metric` that these include already.
fn nearest<F: Float>(
    whitened: &Array2<F>,
    book: &Array2<F>,
    metric: &Array2<F>,
) -> Result<Vec<u32>> {
    let book = linalg::product(book.view(), metric.view());
    check::no_overflow(TARGET, whitened.iter().chain(&book))?;
    cluster::assign_finite(whitened.view(), book.view())
}

/// Moves each centroid to the mean of its targets. A centroid without targets stays.
fn means<F: Float>(targets: ArrayView2<'_, F>, codes: &[u32], book: &mut Array2<F>) {
    let mut sums = Array2::<f64>::zeros(book.dim());
    let mut counts = vec![0_usize; book.nrows()];
    for (target, &code) in targets.axis_iter(Axis(0)).zip(codes) {
        let code = code as usize;
        counts[code] += 1;
        let places = sums.row_mut(code).into_iter().zip(target);
        places.for_each(|(sum, &x)| *sum += x.as_f64());
    }
    for ((mut centroid, sum), count) in book.rows_mut().into_iter().zip(sums.rows()).zip(counts) {
        if count > 0 {
            let mean = |sum: f64| F::from_f64_lossy(sum / count as f64);
            centroid
                .iter_mut()
                .zip(sum)
                .for_each(|(x, &sum)| *x = mean(sum));
        }
    }
}
