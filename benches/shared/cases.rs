//! Which cases a bench goes through.

/// `all` of them, of which the least comes first; that one alone where it is only to be seen whether the bench runs
/// (`cargo test --bench '*'`).
pub fn cases<T>(all: &[T]) -> &[T] {
    let is_test = std::env::args().any(|word| word == "--test");
    all.get(..1).filter(|_| is_test).unwrap_or(all)
}
