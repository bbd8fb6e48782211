//! The peak rates of the machine, measured together with the tasks, which are compared with them.

use std::hint::black_box;
use std::time::Instant;

use crate::Numbers;

/// The duration of a measurement, and the number of measurements, of which the best counts.
const SECONDS: f64 = 0.02;
const REPEATS: usize = 5;

/// `fma`: single-precision multiply-adds a second; `bandwidth`: bytes a second that reading `bytes` again and again
/// gives, from whichever cache they fit into. Both on all threads of rayon.
pub fn measure(bytes: usize) -> Numbers {
    let threads = std::env::var("RAYON_NUM_THREADS").ok();
    let threads = threads
        .and_then(|text| text.parse().ok())
        .unwrap_or(1_usize);
    let length = (bytes / 4 / threads).max(1024);
    let parts: Vec<Vec<f32>> = (0..threads).map(|_| vec![1.0; length]).collect();
    let fma = best(&parts, |_| fused());
    let bandwidth = best(&parts, |part| {
        black_box(sum(black_box(part)));
        4.0 * part.len() as f64
    });
    vec![("fma", fma), ("bandwidth", bandwidth)]
}

/// The best rate of all threads together; `work` returns its number of operations.
fn best(parts: &[Vec<f32>], work: impl Fn(&[f32]) -> f64 + Sync) -> f64 {
    let rate = |_| {
        std::thread::scope(|scope| {
            let run = |part| {
                let work = &work;
                scope.spawn(move || {
                    let start = Instant::now();
                    let mut done = 0.0;
                    while start.elapsed().as_secs_f64() < SECONDS {
                        done += work(part);
                    }
                    done / start.elapsed().as_secs_f64()
                })
            };
            let threads: Vec<_> = parts.iter().map(|part| run(part)).collect();
            threads
                .into_iter()
                .filter_map(|thread| thread.join().ok())
                .sum::<f64>()
        })
    };
    (0..REPEATS).map(rate).fold(0.0, f64::max)
}

/// Runs multiply-adds and returns their number: enough independent chains that none waits for the previous operation.
fn fused() -> f64 {
    const STEPS: usize = 2000;
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor supports the features of the function.
            unsafe { fused_avx512(STEPS) };
            return (STEPS * 16 * CHAINS) as f64;
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: as above.
            unsafe { fused_avx2(STEPS) };
            return (STEPS * 8 * CHAINS) as f64;
        }
    }
    chains(STEPS);
    (STEPS * 4 * CHAINS) as f64
}

const CHAINS: usize = 12;

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn fused_avx512(steps: usize) {
    use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_set1_ps};
    let factor = _mm512_set1_ps(black_box(0.999));
    let term = _mm512_set1_ps(black_box(0.001));
    let mut sums = [_mm512_set1_ps(1.0); CHAINS];
    for _ in 0..steps {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(*sum, factor, term);
        }
    }
    black_box(sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn fused_avx2(steps: usize) {
    use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_set1_ps};
    let factor = _mm256_set1_ps(black_box(0.999));
    let term = _mm256_set1_ps(black_box(0.001));
    let mut sums = [_mm256_set1_ps(1.0); CHAINS];
    for _ in 0..steps {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(*sum, factor, term);
        }
    }
    black_box(sums);
}

/// With vectors of four, which the compiler makes on other processors.
fn chains(steps: usize) {
    let (factor, term) = (black_box(0.999_f32), black_box(0.001_f32));
    let mut sums = [[1.0_f32; 4]; CHAINS];
    for _ in 0..steps {
        for sum in &mut sums {
            for sum in sum {
                *sum = *sum * factor + term;
            }
        }
    }
    black_box(sums);
}

/// The sum of all values, read with the widest registers of the processor.
fn sum(values: &[f32]) -> f32 {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor supports the features of the function.
            return unsafe { sum_avx512(values) };
        }
    }
    sums::<32>(values)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn sum_avx512(values: &[f32]) -> f32 {
    sums::<128>(values)
}

#[inline(always)]
fn sums<const WIDTH: usize>(values: &[f32]) -> f32 {
    let mut sums = [0.0; WIDTH];
    let (chunks, rest) = values.as_chunks::<WIDTH>();
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum += value;
        }
    }
    sums.iter().sum::<f32>() + rest.iter().sum::<f32>()
}
