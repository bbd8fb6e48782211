//! The seam to linear algebra: faer by default, LAPACK behind features.
