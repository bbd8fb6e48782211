//! Which cases a bench goes through.

/// `all` of them, of which the least comes first; that one alone where it is only to be seen whether the bench runs
/// (`cargo test --bench '*'`).
pub fn cases<T>(all: &[T]) -> &[T] {
    // `cargo bench` alone says that it is one.
    let is_bench = std::env::args().any(|word| word == "--bench");
    all.get(..1).filter(|_| !is_bench).unwrap_or(all)
}
