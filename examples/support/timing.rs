//! The time of a call.

use std::hint::black_box;
use std::time::Instant;

/// The median time of `repeats` calls in seconds, after one call that is not measured; NaN for no repeats.
///
/// # Errors
///
/// The first error of a call.
pub fn median_seconds<T, E>(
    repeats: usize,
    mut call: impl FnMut() -> Result<T, E>,
) -> Result<f64, E> {
    black_box(call()?);
    let mut times = seconds(repeats, call)?;
    times.sort_by(f64::total_cmp);
    Ok(times.get(times.len() / 2).copied().unwrap_or(f64::NAN))
}

/// The least time of `repeats` calls in seconds; infinite for no repeats.
///
/// # Errors
///
/// The first error of a call.
pub fn least_seconds<T, E>(repeats: usize, call: impl FnMut() -> Result<T, E>) -> Result<f64, E> {
    let times = seconds(repeats, call)?;
    Ok(times.into_iter().fold(f64::INFINITY, f64::min))
}

fn seconds<T, E>(repeats: usize, mut call: impl FnMut() -> Result<T, E>) -> Result<Vec<f64>, E> {
    let timed = |_| {
        let start = Instant::now();
        black_box(call()?);
        Ok(start.elapsed().as_secs_f64())
    };
    (0..repeats).map(timed).collect()
}
