//! Fixed point: integers of 1 to 16 bits with a scale.
