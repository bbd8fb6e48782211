//! Binary networks: one bit a weight, in memory, on disk and in the product.

mod straight_through;

pub use straight_through::StraightThrough;
