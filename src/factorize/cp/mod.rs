//! Tensors as sums of rank-one terms (CP), and the convolutions they become.
