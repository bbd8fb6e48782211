//! The products of a layer, with all weights or with few.
//!
//! Batches are stored as (features, images), so that each weight multiplies contiguous values. With few kept weights, a training step
//! takes a twentieth of the time.

use ndarray::{Array1, Array2, ArrayView2};

/// The share of kept weights up to which the sparse product is faster than the dense one.
pub const SPARSE: f64 = 0.1;

/// W, of shape (out, in).
#[derive(Debug, Clone)]
pub enum Operator {
    /// All weights.
    Dense(Array2<f32>),
    /// All weights; those with a mask of zero stay zero.
    Masked(Array2<f32>, Array2<f32>),
    /// The nonzero weights.
    Sparse(Sparse),
}

/// The places and values of the nonzero weights, row by row.
#[derive(Debug, Clone)]
pub struct Sparse {
    shape: [usize; 2],
    /// The start of each row, and the end of the last.
    rows: Vec<usize>,
    columns: Vec<usize>,
    pub values: Array1<f32>,
}

impl Sparse {
    /// The nonzero weights of `dense`.
    pub fn of(dense: ArrayView2<'_, f32>) -> Self {
        let (mut rows, mut columns, mut values) = (vec![0], Vec::new(), Vec::new());
        for row in dense.rows() {
            for (column, &value) in row.iter().enumerate() {
                if value != 0.0 {
                    columns.push(column);
                    values.push(value);
                }
            }
            rows.push(columns.len());
        }
        Self {
            shape: [dense.nrows(), dense.ncols()],
            rows,
            columns,
            values: values.into(),
        }
    }

    /// The matrix with zeros.
    pub fn dense(&self) -> Array2<f32> {
        let mut dense = Array2::zeros(self.shape);
        self.for_each(|row, column, i| dense[[row, column]] = self.values[i]);
        dense
    }

    fn for_each(&self, mut f: impl FnMut(usize, usize, usize)) {
        for (row, ends) in self.rows.windows(2).enumerate() {
            for i in ends[0]..ends[1] {
                f(row, self.columns[i], i);
            }
        }
    }
}

impl Operator {
    /// The nonzero weights of `pruned`, in the faster form.
    pub fn of(pruned: Array2<f32>, share: f64) -> Self {
        if share > SPARSE {
            let mask = pruned.mapv(|w| if w == 0.0 { 0.0 } else { 1.0 });
            return Self::Masked(pruned, mask);
        }
        Self::Sparse(Sparse::of(pruned.view()))
    }

    /// All weights, with the zeros.
    pub fn matrix(&self) -> Array2<f32> {
        match self {
            Self::Dense(weights) | Self::Masked(weights, _) => weights.clone(),
            Self::Sparse(sparse) => sparse.dense(),
        }
    }

    /// Other weights in the same places, row by row.
    pub fn set(&mut self, values: &Array1<f32>) {
        match self {
            Self::Dense(weights) | Self::Masked(weights, _) => {
                weights.iter_mut().zip(values).for_each(|(w, &v)| *w = v)
            }
            Self::Sparse(sparse) => sparse.values.assign(values),
        }
    }

    /// W x.
    pub fn times(&self, x: &Array2<f32>) -> Array2<f32> {
        match self {
            Self::Dense(weights) | Self::Masked(weights, _) => weights.dot(x),
            Self::Sparse(sparse) => {
                let mut y = Array2::zeros((sparse.shape[0], x.ncols()));
                sparse.for_each(|row, column, i| {
                    axpy(sparse.values[i], lane(x, column), lane_mut(&mut y, row));
                });
                y
            }
        }
    }

    /// Wᵀ g.
    pub fn transposed_times(&self, g: &Array2<f32>) -> Array2<f32> {
        match self {
            Self::Dense(weights) | Self::Masked(weights, _) => {
                weights.t().dot(g).as_standard_layout().into_owned()
            }
            Self::Sparse(sparse) => {
                let mut y = Array2::zeros((sparse.shape[1], g.ncols()));
                sparse.for_each(|row, column, i| {
                    axpy(sparse.values[i], lane(g, row), lane_mut(&mut y, column));
                });
                y
            }
        }
    }

    /// The gradient of the weights: g xᵀ at their places.
    pub fn gradient(&self, g: &Array2<f32>, x: &Array2<f32>) -> Array1<f32> {
        match self {
            Self::Dense(_) => {
                let gradient = g.dot(&x.t());
                gradient.iter().copied().collect()
            }
            Self::Masked(_, mask) => {
                let gradient = g.dot(&x.t()) * mask;
                gradient.iter().copied().collect()
            }
            Self::Sparse(sparse) => {
                let mut gradient = Array1::zeros(sparse.values.len());
                sparse.for_each(|row, column, i| gradient[i] = dot(lane(g, row), lane(x, column)));
                gradient
            }
        }
    }
}

fn lane(values: &Array2<f32>, row: usize) -> &[f32] {
    let width = values.ncols();
    values
        .as_slice()
        .and_then(|values| values.get(row * width..(row + 1) * width))
        .unwrap_or_default()
}

fn lane_mut(values: &mut Array2<f32>, row: usize) -> &mut [f32] {
    let width = values.ncols();
    values
        .as_slice_mut()
        .and_then(|values| values.get_mut(row * width..(row + 1) * width))
        .unwrap_or_default()
}

fn axpy(a: f32, x: &[f32], y: &mut [f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += a * x;
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    // Sixteen independent sums, which the processor adds with vector instructions.
    let mut sums = [0.0_f32; 16];
    let (a, b) = (a.chunks(16), b.chunks(16));
    for (a, b) in a.zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().sum()
}
