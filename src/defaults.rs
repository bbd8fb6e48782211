//! Default values of parameters whose default is not that of their type. `new` and deserialization both call these.

/// Damping of moments, as a fraction of their mean diagonal.
pub(crate) fn damping() -> f64 {
    0.01
}

/// States of a trellis.
pub(crate) fn states() -> usize {
    128
}

pub(crate) fn svd_damping() -> f64 {
    1e-4
}

pub(crate) fn centroids() -> usize {
    256
}

pub(crate) fn sweeps() -> usize {
    8
}

pub(crate) fn rotations() -> usize {
    20
}

pub(crate) fn rotation_tolerance() -> f64 {
    1e-4
}

pub(crate) fn oversampling() -> usize {
    10
}

pub(crate) fn power_iterations() -> usize {
    2
}

pub(crate) fn cp_sweeps() -> usize {
    200
}

/// Relative gain of a sweep at which a fit ends.
pub(crate) fn fit_tolerance() -> f64 {
    1e-6
}

pub(crate) fn starts() -> usize {
    3
}

pub(crate) fn start_sweeps() -> usize {
    50
}

pub(crate) fn inner_iterations() -> usize {
    10
}

pub(crate) fn tucker_iterations() -> usize {
    30
}

pub(crate) fn refinements() -> usize {
    10
}

pub(crate) fn rounds() -> usize {
    3
}

pub(crate) fn alpha() -> f64 {
    0.9
}

pub(crate) fn one() -> usize {
    1
}

pub(crate) fn yes() -> bool {
    true
}
