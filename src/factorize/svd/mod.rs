//! Low rank by the singular value decomposition.
