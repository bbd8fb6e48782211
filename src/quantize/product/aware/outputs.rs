//! Groups of outputs. They are independent of each other; the moments couple the points of a group.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, s};

use super::descent::Descent;
use super::units::{Units, relative};
use crate::cluster::Clusterer;
use crate::feedback::Feedback;
use crate::linalg::{self, Cholesky};
use crate::observer::ObservedFit;
use crate::quantize::product::codebooks::{Fit, by_group, sub_vectors};
use crate::quantize::product::{Codebook, ProductQuantizer};
use crate::{Float, InputMoments, Observer, Result, Stage, parallel};

/// The weight of the old centroids in the normal equations of the new ones. It keeps centroids without points in place.
const RIDGE: f64 = 1e-6;

/// The data that all groups share.
struct Problem<'a, F> {
    /// (out_features, in_features): a point of a group is a column of its rows.
    weights: ArrayView2<'a, F>,
    width: usize,
    /// The damped moments.
    moments: Array2<F>,
    feedback: Feedback<F>,
}

/// The codes of one group, and the errors that follow from them.
#[derive(Debug, Clone)]
struct Group<F> {
    codes: Vec<u32>,
    /// (W − Ŵ) of the group, (width, in_features).
    errors: Array2<F>,
    /// These times M.
    images: Array2<F>,
    /// tr(E M Eᵀ).
    error: f64,
}

pub(super) fn fit<F: Float, C: Clusterer<F>>(
    quantizer: &ProductQuantizer<C>,
    weights: ArrayView2<'_, F>,
    moments: &InputMoments,
    units: Units,
    observer: Option<&dyn Observer>,
) -> Result<Fit<F>> {
    let width = quantizer.width(weights.nrows())?;
    let groups = weights.nrows() / width;
    quantizer.check_size::<F>(groups, width)?;
    let problem = Problem {
        weights,
        width,
        moments: moments.damped(quantizer.damping)?.mapv(F::from_f64_lossy),
        feedback: Feedback::new(moments, quantizer.damping)?,
    };
    let shared = quantizer.codebook == Codebook::Shared;
    let (mut books, codes) = start(quantizer, &problem, groups, observer)?;
    let mut state = parallel::map(groups, |g| {
        let book = of_group(&books, g);
        let nearest = problem.group(g, book, codes[g].clone());
        let fed_back = problem.group(g, book, problem.feed_back(g, book));
        // With centroids far apart, the errors are larger than the columns that follow can compensate for.
        if fed_back.error < nearest.error {
            fed_back
        } else {
            nearest
        }
    });
    let total = |state: &[Group<F>]| state.iter().map(|group| group.error).sum::<f64>();
    let observed = ObservedFit::new(observer, Stage::OutputError, 0, quantizer.sweeps);
    let mut descent = Descent::new(weights.nrows(), total(&state), units, observed);
    for _ in 0..quantizer.sweeps {
        if descent.stops() {
            break;
        }
        let equations = parallel::map(groups, |g| {
            problem.equations(g, &state[g], quantizer.centroids)
        });
        let next = if shared {
            let sum = equations
                .into_iter()
                .reduce(|sum, next| (sum.0 + next.0, sum.1 + next.1));
            let sum = sum.expect("there is at least one group");
            vec![solve(sum, &books[0])]
        } else {
            let equations: Vec<_> = equations.into_iter().zip(&books).collect();
            parallel::map(groups, |g| solve(equations[g].0.clone(), equations[g].1))
        };
        let moved = parallel::map(groups, |g| {
            problem.group(g, of_group(&next, g), state[g].codes.clone())
        });
        // Rounding alone can make the least-squares solution worse than the centroids before.
        if shared {
            if total(&moved) < total(&state) {
                (books, state) = (next, moved);
            }
        } else {
            for (g, (moved, next)) in moved.into_iter().zip(next).enumerate() {
                if moved.error < state[g].error {
                    (books[g], state[g]) = (next, moved);
                }
            }
        }
        problem.descend(&mut state, &books);
        if descent.sweep(total(&state)) {
            break;
        }
    }
    if u64::from(F::BITS) > quantizer.precision.bits() {
        for book in &mut books {
            *book = units.rounded(quantizer.precision, book)?;
        }
        state = parallel::map(groups, |g| {
            problem.group(g, of_group(&books, g), state[g].codes.clone())
        });
        // Codes once more, for the centroids as they are stored.
        problem.descend(&mut state, &books);
    }
    let codebooks = units.codebooks(quantizer, groups, &books)?;
    let codes = state.into_iter().flat_map(|group| group.codes).collect();
    Ok(Fit {
        codebooks,
        codes,
        report: descent.report,
    })
}

/// The codebook of group `group`: its own, or the one that all share.
fn of_group<F>(books: &[Array2<F>], group: usize) -> &Array2<F> {
    &books[group.min(books.len() - 1)]
}

/// Codebooks, and the codes of each group.
type Start<F> = (Vec<Array2<F>>, Vec<Vec<u32>>);

/// Codebooks and the codes of each group by k-means, each point weighted by the mean square of its input.
fn start<F: Float, C: Clusterer<F>>(
    quantizer: &ProductQuantizer<C>,
    problem: &Problem<'_, F>,
    groups: usize,
    observer: Option<&dyn Observer>,
) -> Result<Start<F>> {
    let importance = relative(problem.moments.diag().to_owned());
    if quantizer.codebook == Codebook::PerGroup {
        let parts: Vec<ArrayView2<'_, F>> = (0..groups).map(|g| problem.points(g)).collect();
        let importance: Vec<ArrayView1<'_, F>> = vec![importance.view(); groups];
        let clusterings = quantizer.clusterer.cluster_groups(
            &parts,
            Some(&importance),
            quantizer.centroids,
            quantizer.seed,
            observer,
        )?;
        let pairs = clusterings
            .into_iter()
            .map(|c| (c.centroids, c.assignments));
        return Ok(pairs.unzip());
    }
    let all = sub_vectors(problem.weights.reversed_axes(), groups, problem.width);
    let importance = Array1::from_shape_fn(all.nrows(), |i| importance[i / groups]);
    let clustering = quantizer.clusterer.cluster(
        all.view(),
        Some(importance.view()),
        quantizer.centroids,
        quantizer.seed.derive(0),
        observer,
    )?;
    let codes = by_group(&clustering.assignments, groups);
    Ok((vec![clustering.centroids], codes))
}

/// The centroids that solve the normal equations. Where these leave them free, they stay close to `before`.
fn solve<F: Float>(
    (mut matrix, mut right): (Array2<f64>, Array2<f64>),
    before: &Array2<F>,
) -> Array2<F> {
    let ridge = RIDGE * matrix.diag().sum() / matrix.nrows() as f64;
    if ridge <= 0.0 {
        return before.clone();
    }
    matrix.diag_mut().mapv_inplace(|x| x + ridge);
    right.zip_mut_with(before, |x, c| *x += ridge * c.as_f64());
    let Some(cholesky) = Cholesky::new(matrix.view()) else {
        return before.clone();
    };
    cholesky.solve(right.view_mut());
    right.mapv(F::from_f64_lossy)
}

impl<F: Float> Problem<'_, F> {
    fn rows(&self, group: usize) -> ArrayView2<'_, F> {
        self.weights
            .slice(s![group * self.width..(group + 1) * self.width, ..])
    }

    fn points(&self, group: usize) -> ArrayView2<'_, F> {
        self.rows(group).reversed_axes()
    }

    /// A group with these codes.
    fn group(&self, group: usize, book: &Array2<F>, codes: Vec<u32>) -> Group<F> {
        let mut errors = self.rows(group).as_standard_layout().into_owned();
        for (i, mut errors) in errors.rows_mut().into_iter().enumerate() {
            for (error, &code) in errors.iter_mut().zip(&codes) {
                *error -= book[[code as usize, i]];
            }
        }
        let images = linalg::product(errors.view(), self.moments.view());
        let products = errors.iter().zip(&images);
        let error = products.map(|(a, b)| a.as_f64() * b.as_f64()).sum();
        Group {
            codes,
            errors,
            images,
            error,
        }
    }

    /// Codes of a group, chosen input by input. The target of each compensates for the errors of the inputs before.
    fn feed_back(&self, group: usize, book: &Array2<F>) -> Vec<u32> {
        let mut codes = vec![0; self.weights.ncols()];
        self.feedback
            .run_together(self.rows(group), |column, targets, rounded| {
                let code = nearest(targets, book);
                codes[column] = code as u32;
                let centroid = book.row(code);
                rounded
                    .iter_mut()
                    .zip(centroid)
                    .for_each(|(to, &x)| *to = x);
            });
        codes
    }

    /// Zᵀ M Z and Zᵀ M Wᵀ of a group, where Z (points, k) is one where a point has a centroid, and zero elsewhere.
    fn equations(&self, group: usize, state: &Group<F>, k: usize) -> (Array2<f64>, Array2<f64>) {
        let points = self.weights.ncols();
        let mut sums = Array2::<f64>::zeros((k, points));
        for (row, &code) in self.moments.rows().into_iter().zip(&state.codes) {
            let mut sum = sums.row_mut(code as usize);
            sum.zip_mut_with(&row, |sum, x| *sum += x.as_f64());
        }
        let mut matrix = Array2::zeros((k, k));
        for (mut row, sums) in matrix.rows_mut().into_iter().zip(sums.rows()) {
            for (sum, &code) in sums.iter().zip(&state.codes) {
                row[code as usize] += sum;
            }
        }
        let weights = self.points(group).mapv(Float::as_f64);
        (matrix, linalg::product(sums.view(), weights.view()))
    }

    /// Chooses the code of each point again, given all others of its group.
    fn descend(&self, state: &mut [Group<F>], books: &[Array2<F>]) {
        let groups: Vec<_> = state.iter_mut().enumerate().collect();
        parallel::for_each(groups, |(g, state)| {
            self.descend_group(g, state, of_group(books, g));
        });
    }

    fn descend_group(&self, group: usize, state: &mut Group<F>, book: &Array2<F>) {
        let weights = self.rows(group);
        let mut target = vec![F::zero(); self.width];
        for point in 0..weights.ncols() {
            let own = self.moments[[point, point]];
            if own <= F::zero() {
                continue;
            }
            for (i, target) in target.iter_mut().enumerate() {
                let coupling = state.images[[i, point]] - own * state.errors[[i, point]];
                *target = weights[[i, point]] + coupling / own;
            }
            let before = state.codes[point] as usize;
            let code = nearest(&target, book);
            let gain = distance(&target, book.row(before)) - distance(&target, book.row(code));
            if code == before || gain <= F::zero() {
                continue;
            }
            state.codes[point] = code as u32;
            state.error -= (own * gain).as_f64();
            let row = self.moments.row(point);
            for i in 0..self.width {
                let step = book[[before, i]] - book[[code, i]];
                state.errors[[i, point]] += step;
                state.images.row_mut(i).scaled_add(step, &row);
            }
        }
    }
}

fn distance<F: Float>(point: &[F], centroid: ArrayView1<'_, F>) -> F {
    let differences = point.iter().zip(centroid).map(|(&x, &c)| x - c);
    differences.fold(F::zero(), |sum, x| sum + x * x)
}

/// The first of the nearest centroids.
fn nearest<F: Float>(point: &[F], book: &Array2<F>) -> usize {
    let mut best = (F::infinity(), 0);
    for (code, centroid) in book.rows().into_iter().enumerate() {
        let distance = distance(point, centroid);
        if distance < best.0 {
            best = (distance, code);
        }
    }
    best.1
}
