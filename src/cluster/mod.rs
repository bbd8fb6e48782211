//! k-means, the engine of the codebooks.
