//! Binary networks: one bit a weight, in memory, on disk and in the product.
